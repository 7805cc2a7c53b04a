//! Another configuration in place of the one in force, without a connection noticing.
//!
//! A reload makes a whole new pipeline and puts it in the place of the old one. Requests in progress end with the one
//! that they began with. What must outlast it goes over: the key of the internal tokens and the tokens that were
//! verified, the memory of proofs of possession, and every part whose settings did not change, down to each limit of a
//! route, with the quotas, the keys and the health that it knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_keys::{KeyError, KeyPair, SystemRandom};
use countersign_policy::Explainer;
use countersign_sdk::clock;
use countersign_sdk::workload::Workload;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::GatewayError;
use crate::filter::Filters;
use crate::guard::Guard;
use crate::guard::limits::Counted;
use crate::headers::Rules;
use crate::issuer::Issuers;
use crate::listener::accept_limits;
use crate::login::LoginDesk;
use crate::pipeline::Pipeline;
use crate::proof::Proofs;
use crate::record::Recorder;
use crate::route::RouteTable;
use crate::settings::Settings;
use crate::throttle::Throttle;
use crate::token::Tokens;
use crate::upstream::Upstreams;

/// The pipeline in force.
pub(crate) struct Current(ArcSwap<Pipeline>);

impl Current {
    pub(crate) fn new(pipeline: Arc<Pipeline>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(pipeline)))
    }

    /// For a request that takes longer than a look.
    pub(crate) fn pipeline(&self) -> Arc<Pipeline> {
        self.0.load_full()
    }

    /// For a look: nothing is counted that other cores count too.
    pub(crate) fn peek(&self) -> arc_swap::Guard<Arc<Pipeline>> {
        self.0.load()
    }
}

/// Reloads a gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloader(mpsc::Sender<Order>);

/// New settings, and who waits for what becomes of them.
type Order = (Box<Settings>, oneshot::Sender<Result<(), GatewayError>>);

/// Takes orders to reload, and runs what belongs to the pipeline in force.
pub(crate) struct Reloads {
    orders: mpsc::Receiver<Order>,
    current: Arc<Current>,
}

impl Reloader {
    /// Puts `settings` into force. Requests in progress end with the old ones.
    ///
    /// # Errors
    /// They make no pipeline, or change what only a restart changes: the old ones stay in force.
    pub async fn apply(&self, settings: Settings) -> Result<(), GatewayError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.0.send((Box::new(settings), answer)).await;
        sent.map_err(|_| GatewayError::Stopped)?;
        answered.await.map_err(|_| GatewayError::Stopped)?
    }
}

impl Reloads {
    pub(crate) fn of(current: Arc<Current>) -> (Reloader, Self) {
        let (sender, orders) = mpsc::channel(ORDERS_WAITING_MAX);
        (Reloader(sender), Self { orders, current })
    }

    /// Until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut generation = Generation::begin(&self.current.pipeline(), &shutdown);
        loop {
            let (settings, answer) = tokio::select! {
                () = shutdown.cancelled() => return generation.end().await,
                order = self.orders.recv() => match order {
                    Some(order) => order,
                    // Nobody can order anything any more.
                    None => {
                        shutdown.cancelled().await;
                        return generation.end().await;
                    }
                },
            };
            let old = self.current.pipeline();
            let made = another(*settings, &old).map(Arc::new);
            let result = match made {
                Ok(new) => {
                    let next = Generation::begin(&new, &shutdown);
                    // Else the first requests to a name that is new would find nobody. Whoever answers late, or never,
                    // does not hold up the rest.
                    let answered = tokio::time::timeout(DISCOVERY_WAIT, new.upstreams.answered());
                    let _ = shutdown.run_until_cancelled(answered).await;
                    self.current.0.store(new);
                    std::mem::replace(&mut generation, next).end().await;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            // Who ordered it may be gone.
            let _ = answer.send(result);
        }
    }
}

/// What runs in the background for one pipeline.
struct Generation {
    tasks: JoinSet<()>,
    over: CancellationToken,
}

impl Generation {
    fn begin(pipeline: &Arc<Pipeline>, shutdown: &CancellationToken) -> Self {
        let (mut tasks, over) = (JoinSet::new(), shutdown.child_token());
        let (publishing, end) = (Arc::clone(pipeline), over.clone());
        tasks.spawn(async move { publishing.publish_key(end).await });
        tasks.spawn(Arc::clone(&pipeline.issuers).watch(over.clone()));
        let (guarding, end) = (Arc::clone(&pipeline.guard), over.clone());
        tasks.spawn(async move { guarding.watch(end).await });
        let (upstreams, end) = (Arc::clone(&pipeline.upstreams), over.clone());
        tasks.spawn(async move { upstreams.run(end).await });
        Self { tasks, over }
    }

    async fn end(mut self) {
        self.over.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The first pipeline of a process.
///
/// # Errors
/// See [`GatewayError`].
pub(crate) fn first(settings: Settings, workload: Workload) -> Result<Pipeline, GatewayError> {
    // The key lives and dies with this process; it signs internal tokens and nothing else.
    let rng = SystemRandom::new();
    let key = KeyPair::generate(&rng)?;
    let lasting = Lasting {
        tokens: Arc::new(Tokens::new(key, workload.id().clone(), settings.limits.sessions_max)),
        proofs: Arc::new(Proofs::new(&rng, clock::now()).map_err(KeyError::Random)?),
        recorder: Arc::new(Recorder::new(Arc::clone(workload.spool()))),
        upstreams: Arc::new(Upstreams::load(&settings.upstreams, workload.trust(), &Upstreams::default())?),
        issuers: Arc::new(Issuers::load(&settings.issuers, &Issuers::default())?),
        throttle: Arc::new(Throttle::new(&settings.throttle)),
        guard: Arc::new(Guard::new(&settings, &rng, &mut Counted::default())?),
        filters: Filters::load(&settings.filters, workload.trust(), &Filters::default())?,
        workload,
    };
    pipeline(settings, lasting, &mut Counted::default())
}

/// The pipeline that takes the place of `old`.
fn another(settings: Settings, old: &Pipeline) -> Result<Pipeline, GatewayError> {
    stays_the_same(&settings, &old.settings)?;
    let (was, workload) = (&old.settings, old.workload.clone());
    let limits = old.routes.routes().flat_map(|route| route.guard.limits()).chain(old.guard.limits());
    let mut counted = Counted::by(limits);
    let lasting = Lasting {
        tokens: Arc::clone(&old.tokens),
        proofs: Arc::clone(&old.proofs),
        recorder: Arc::clone(&old.recorder),
        upstreams: if settings.upstreams == was.upstreams {
            Arc::clone(&old.upstreams)
        } else {
            Arc::new(Upstreams::load(&settings.upstreams, workload.trust(), &old.upstreams)?)
        },
        issuers: if settings.issuers == was.issuers {
            Arc::clone(&old.issuers)
        } else {
            Arc::new(Issuers::load(&settings.issuers, &old.issuers)?)
        },
        throttle: if settings.throttle == was.throttle {
            Arc::clone(&old.throttle)
        } else {
            Arc::new(Throttle::new(&settings.throttle))
        },
        guard: if guarded(&settings) == guarded(was) {
            Arc::clone(&old.guard)
        } else {
            Arc::new(Guard::new(&settings, &SystemRandom::new(), &mut counted)?)
        },
        filters: Filters::load(&settings.filters, workload.trust(), &old.filters)?,
        workload,
    };
    pipeline(settings, lasting, &mut counted)
}

/// All that the guard is made of.
fn guarded(settings: &Settings) -> impl PartialEq + '_ {
    let Settings { access, countries_file, behind, cors, puzzle, routes, .. } = settings;
    let Settings { request_limits, shared_limits, proxy_protocol_from, .. } = settings;
    let routes: Vec<_> = routes.iter().map(|route| &route.access).collect();
    let counted = (request_limits, shared_limits, proxy_protocol_from);
    (access, countries_file, behind, cors, puzzle, routes, counted)
}

/// What goes from one pipeline to the next.
struct Lasting {
    tokens: Arc<Tokens>,
    proofs: Arc<Proofs>,
    recorder: Arc<Recorder>,
    upstreams: Arc<Upstreams>,
    issuers: Arc<Issuers>,
    throttle: Arc<Throttle>,
    guard: Arc<Guard>,
    filters: Filters,
    workload: Workload,
}

fn pipeline(settings: Settings, lasting: Lasting, counted: &mut Counted) -> Result<Pipeline, GatewayError> {
    let Lasting { tokens, proofs, recorder, upstreams, issuers, throttle, guard, filters, workload } =
        lasting;
    filters.know(settings.routes.iter().flat_map(|route| route.filters.iter().flatten()))?;
    let login = match &settings.authority_url {
        Some(url) => Some(LoginDesk::new(url, settings.authority_ca.as_deref(), workload.trust())?),
        None => None,
    };
    if let Some(clash) = upstreams.clash(|name| workload.live().service(name).is_some()) {
        return Err(clash.into());
    }
    Ok(Pipeline {
        routes: RouteTable::compile(&settings.routes, &upstreams, counted)?,
        rules: Rules::compile(&settings.headers)?,
        upstreams,
        throttle,
        guard,
        filters,
        tokens,
        issuers,
        proofs,
        login,
        recorder,
        workload,
        limits: settings.limits.clone(),
        explainer: Explainer::default(),
        settings,
        number: NUMBER.fetch_add(1, Ordering::Relaxed),
    })
}

/// Listeners, threads and what each connection may cost stand as long as the process.
fn stays_the_same(new: &Settings, old: &Settings) -> Result<(), GatewayError> {
    let connections = |settings: &Settings| {
        (
            accept_limits(&settings.limits),
            settings.limits.connections_per_address_max,
            settings.limits.sessions_max,
        )
    };
    let changed = [
        ("listen", new.listen != old.listen),
        ("listen_tls", new.listen_tls != old.listen_tls),
        ("tls_cert and tls_key", (&new.tls_cert, &new.tls_key) != (&old.tls_cert, &old.tls_key)),
        ("tls", new.tls != old.tls),
        ("workers", new.workers != old.workers),
        ("admin", new.admin != old.admin),
        ("revocation", new.revocation != old.revocation),
        ("ask", new.asks != old.asks),
        ("front", new.fronts != old.fronts),
        ("limits of connections", connections(new) != connections(old)),
    ];
    match changed.into_iter().find(|(_, changed)| *changed) {
        Some((setting, _)) => Err(GatewayError::NeedsRestart { setting }),
        None => Ok(()),
    }
}

static NUMBER: AtomicU64 = AtomicU64::new(1);

const ORDERS_WAITING_MAX: usize = 4;
/// How long new settings wait for the first answers of discovery.
const DISCOVERY_WAIT: Duration = Duration::from_secs(5);
