//! Certificates of the edge from an authority of the outside (ACME, RFC 8555): ordered, kept, renewed and shown.
//!
//! One host, one certificate, one order at a time. The authority validates by tls-alpn-01 (RFC 8737), which is answered
//! inside the handshake of `listen_tls`, only for a host whose order waits for it (decision 018). Nothing that goes wrong
//! here ends anything: the certificate that is there stays, and the next try comes after a pause.

mod line;
mod order;
mod schedule;
pub(crate) mod settings;
mod store;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use countersign_identity::UnixTime;
use countersign_keys::{SystemRandom, random_bytes};
use countersign_sdk::clock;
use countersign_sdk::tls::Identity;
use tokio_util::sync::CancellationToken;

use self::line::Line;
use self::order::{Desk, OrderError};
use self::schedule::{Pauses, renewal};
use self::settings::AcmeSettings;
use self::store::Store;
use crate::edge_tls::EdgeTls;
use crate::https::{self, Https};

/// Why a gateway that shall order certificates does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcmeError {
    /// There is no listener that could answer.
    #[error("certificates are ordered for listen_tls, which is not set")]
    NoListener,
    /// Nothing says where to keep what survives a restart.
    #[error("state_dir is not set, and there is no state_dir of the whole configuration either")]
    NoStateDir,
    /// The directory cannot be made or written.
    #[error("state_dir: {why}")]
    State {
        /// What is wrong.
        why: String,
    },
    /// There is nothing to check the directory's certificate with.
    #[error("ca: {why}")]
    Roots {
        /// What is wrong.
        why: String,
    },
}

/// The certificates that are ordered for one edge.
pub(crate) struct Acme {
    settings: AcmeSettings,
    store: Store,
    line: Line,
    edge: Arc<EdgeTls>,
    hosts: Mutex<Vec<Hosted>>,
}

/// One host, and what is known of its certificate.
struct Hosted {
    name: String,
    /// When the one that is shown ends.
    not_after: Option<UnixTime>,
    /// When the next one is ordered.
    due: UnixTime,
    /// In a row.
    failures: u32,
    trouble: Option<OrderError>,
}

impl Acme {
    /// Opens what was kept, and shows each certificate that is still good. Nobody is asked yet.
    pub(crate) fn load(settings: AcmeSettings, edge: Arc<EdgeTls>) -> Result<Self, AcmeError> {
        let dir: &PathBuf = settings.state_dir.as_ref().ok_or(AcmeError::NoStateDir)?;
        let store = Store::open(dir, &settings.directory);
        let store = store.map_err(|error| AcmeError::State { why: error.to_string() })?;
        let roots = https::roots(settings.ca.as_deref()).map_err(|why| AcmeError::Roots { why })?;
        let https = Https::trusting(&roots).map_err(|why| AcmeError::Roots { why })?;
        let now = clock::now();
        let found: Vec<_> = settings.hosts.iter().map(|host| (host, kept(&store, host, now))).collect();
        let hosts = found.iter().map(|(host, kept)| Hosted {
            name: (*host).clone(),
            not_after: kept.as_ref().map(Identity::not_after),
            due: kept.as_ref().map_or(now, |kept| renewal(kept.not_before(), kept.not_after(), chance())),
            failures: 0,
            trouble: None,
        });
        let hosts = Mutex::new(hosts.collect());
        for (host, kept) in found {
            meter(host, kept.as_ref().map(Identity::not_after), false);
            if let Some(kept) = kept {
                edge.show_ordered(host, kept);
            }
        }
        Ok(Acme { line: Line::new(https), store, edge, hosts, settings })
    }

    /// Orders what is due, one at a time, until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(self.next_order()).await.is_some() {}
    }

    /// What an operator should know of, one line for each host that has it. Nothing of it keeps requests away.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let hosts = self.hosts();
        let troubled = hosts.iter().filter_map(|host| {
            let trouble = host.trouble.as_ref()?;
            let until = match host.not_after {
                Some(end) => format!("its certificate ends {}", date(end)),
                None => "it has no certificate".to_owned(),
            };
            Some(format!("{}: {trouble}; {until}; the next try is {}", host.name, date(host.due)))
        });
        troubled.collect()
    }

    async fn next_order(&self) {
        let next = self.hosts().iter().min_by_key(|host| host.due).map(|host| (host.name.clone(), host.due));
        let Some((host, due)) = next else { return std::future::pending().await };
        // In short steps of the wall clock: a machine that slept through a renewal notices on waking.
        let left = clock::until(due);
        if !left.is_zero() {
            return tokio::time::sleep(left.min(STEP)).await;
        }
        let Acme { settings, store, line, edge, .. } = self;
        let ordered = Desk { settings, store, line, edge }.obtain(&host).await;
        self.learn(&host, ordered, clock::now(), chance());
    }

    fn learn(&self, name: &str, ordered: Result<Identity, OrderError>, now: UnixTime, chance: u16) {
        let pauses = Pauses { min: self.settings.retry_min, max: self.settings.retry_max };
        let asked = self.line.take_asked();
        let mut hosts = self.hosts();
        let Some(host) = hosts.iter_mut().find(|host| host.name == name) else { return };
        match ordered {
            Ok(identity) => {
                let (begin, end) = (identity.not_before(), identity.not_after());
                // One that is old when it comes is not ordered again without a pause.
                host.due =
                    renewal(begin, end, chance).max(now.saturating_add(pauses.after(1, asked, chance)));
                (host.not_after, host.failures, host.trouble) = (Some(end), 0, None);
                tracing::info!(
                    host = name,
                    serial = identity.serial_hex(),
                    ends = date(end),
                    "a certificate came"
                );
                metrics::counter!("countersign_acme_orders_total", "host" => name.to_owned(), "result" => "issued")
                    .increment(1);
                self.edge.show_ordered(name, identity);
            }
            Err(error) => {
                host.failures = host.failures.saturating_add(1);
                host.due = now.saturating_add(pauses.after(host.failures, asked, chance));
                metrics::counter!("countersign_acme_orders_total", "host" => name.to_owned(), "result" => "failed")
                    .increment(1);
                if host.trouble.as_ref() != Some(&error) {
                    let (why, has_one) = (error.to_string(), host.not_after.is_some());
                    tracing::error!(
                        host = name,
                        why,
                        has_one,
                        next_try = date(host.due),
                        "no certificate came"
                    );
                }
                host.trouble = Some(error);
            }
        }
        meter(name, host.not_after, host.trouble.is_some());
    }

    /// No code that could panic runs under this lock, so a poisoned one is whole.
    fn hosts(&self) -> MutexGuard<'_, Vec<Hosted>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was kept for a host, if it is still good.
fn kept(store: &Store, host: &str, now: UnixTime) -> Option<Identity> {
    let kept = store.certificate(host).unwrap_or_else(|error| {
        tracing::warn!(host, %error, "a kept certificate cannot be used; another one is ordered");
        None
    });
    kept.filter(|kept| kept.not_after() > now && kept.dns_names().iter().any(|name| name == host))
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn meter(host: &str, not_after: Option<UnixTime>, in_trouble: bool) {
    let end = not_after.map_or(0, UnixTime::secs) as f64;
    metrics::gauge!("countersign_acme_certificate_expiry_timestamp_seconds", "host" => host.to_owned())
        .set(end);
    let trouble = if in_trouble { 1.0 } else { 0.0 };
    metrics::gauge!("countersign_acme_trouble", "host" => host.to_owned()).set(trouble);
}

/// Without randomness hosts are renewed in step, which is worse than nothing but not wrong.
fn chance() -> u16 {
    random_bytes(&SystemRandom::new()).map_or(0, u16::from_be_bytes)
}

fn date(at: UnixTime) -> String {
    let since = Duration::from_secs(u64::try_from(at.secs()).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).map(httpdate::fmt_http_date).unwrap_or_default()
}

/// Between two looks at the clock at most.
const STEP: Duration = Duration::from_secs(30);
