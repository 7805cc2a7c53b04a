//! What is attacked: a live deployment, or the listener with one mistake. To an attack they look the same.

mod callee;
mod elsewhere;
mod live;
mod witness;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use countersign_identity::{SpiffeId, TrustDomain};
use countersign_keys::{KeyPair, SystemRandom};
use countersign_sdk::clock;
pub use live::{ForeignTarget, Live, Settings};
pub(crate) use witness::News;
pub use witness::{Asked, Given, witness};

use super::{
    AttackError, Held, Kind, Observation, Received, Why,
    forge::Ca,
    wire::{Broken, Connection, Dial, Exchanged, Request},
};
use crate::weak::{Weak, Weakness};

/// A deployment under attack.
pub struct Target(Field);

enum Field {
    Live(Box<Live>),
    Weak(Arc<Weak>),
}

/// The service that the attacks want something of.
pub(super) const VICTIM: &str = "ads";
/// The service whose certificate and keys the attacker holds: one of the lab's own, registered like any, and permitted
/// nothing. What is taken back while attacking is nobody else's.
pub(super) const OWN: &str = "attack-caller";
/// Another one of the lab's own, whose certificates are taken back: with them it loses its tokens and its registered
/// keys.
pub(super) const FORMER: &str = "attack-former";
/// A third service, whose name it would like to have.
pub(super) const OTHER: &str = "users";
/// The service that a process of the attacker's becomes for a moment, to be given what a service is given.
const LAUNCHED: &str = "chat";
/// The callee of the lab's own, which takes what can be carried in a header.
pub(crate) const CALLEE: &str = "attack-callee";
/// What is asked for at the victim, and at the edge.
pub(super) const PATH: &str = "/ads";

impl Target {
    /// A deployment that runs on this machine.
    #[must_use]
    pub fn live(live: Live) -> Self {
        Self(Field::Live(Box::new(live)))
    }

    /// The listener that makes these mistakes and no others.
    ///
    /// # Errors
    /// It does not start.
    pub async fn weak(weaknesses: &[Weakness]) -> Result<Self, AttackError> {
        let weak = Weak::start(weaknesses).await;
        let weak = weak.map_err(|error| AttackError::equipment("a listener to compare with", error))?;
        Ok(Self(Field::Weak(weak)))
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        match &self.0 {
            Field::Live(live) => live.trust_domain(),
            Field::Weak(weak) => weak.trust_domain(),
        }
    }

    /// The name of a service in it.
    ///
    /// # Errors
    /// `name` is none.
    pub fn id(&self, name: &str) -> Result<SpiffeId, AttackError> {
        SpiffeId::service(self.trust_domain(), name).map_err(|error| AttackError::equipment("a name", error))
    }

    /// Where [`VICTIM`] listens.
    #[must_use]
    pub fn victim(&self) -> SocketAddr {
        match &self.0 {
            Field::Live(live) => live.victim(),
            Field::Weak(weak) => weak.service(),
        }
    }

    /// Where the edge speaks TLS.
    #[must_use]
    pub fn edge(&self) -> SocketAddr {
        match &self.0 {
            Field::Live(live) => live.settings().gateway_tls,
            Field::Weak(weak) => weak.edge(),
        }
    }

    /// The live deployment, for attacks on what only a deployment has.
    ///
    /// # Errors
    /// It is none.
    pub fn as_live(&self) -> Result<&Live, AttackError> {
        match &self.0 {
            Field::Live(live) => Ok(live),
            Field::Weak(_) => Err(AttackError::Absent { what: "deployment" }),
        }
    }

    /// The listener with mistakes, for attacks that need to know.
    #[must_use]
    pub fn as_weak(&self) -> Option<&Weak> {
        match &self.0 {
            Field::Live(_) => None,
            Field::Weak(weak) => Some(weak),
        }
    }

    /// A certificate of the deployment in the name of `service`, with a new key.
    ///
    /// # Errors
    /// Nobody issues it.
    pub async fn certified(&self, service: &str, kind: Kind, life: Duration) -> Result<Held, AttackError> {
        match &self.0 {
            Field::Live(live) => live.certified(service, kind, life).await,
            Field::Weak(weak) => weak.certified(service, kind, life),
        }
    }

    /// The certificate of [`OWN`]: what whoever runs one of the services has.
    ///
    /// # Errors
    /// Nobody issues it.
    pub async fn own(&self, kind: Kind) -> Result<Held, AttackError> {
        self.certified(OWN, kind, LIFE).await
    }

    /// The certificate of [`FORMER`], which may be taken back.
    ///
    /// # Errors
    /// Nobody issues it.
    pub async fn former(&self, kind: Kind) -> Result<Held, AttackError> {
        self.certified(FORMER, kind, LIFE).await
    }

    /// A certificate for these names as no honest authority issues it. Of a live deployment only the attacker's own CA
    /// does, whose chain would not be believed either; of the listener its own CA does, and one check alone is in the
    /// way.
    ///
    /// # Errors
    /// It could not be made.
    pub fn misissued(&self, id: &SpiffeId, names: &[String], is_ca: bool) -> Result<Held, AttackError> {
        let ca = match &self.0 {
            Field::Live(_) => Ca::of_ones_own(id.trust_domain().as_str())?,
            Field::Weak(weak) => weak.ca()?,
        };
        ca.certify(id, names, is_ca)
    }

    /// A certificate of [`OWN`] that has ended. A live deployment issues none: there it is waited for.
    ///
    /// # Errors
    /// Nobody issues it.
    pub async fn expired(&self) -> Result<Held, AttackError> {
        match &self.0 {
            Field::Live(live) => {
                let held = live.certified(OWN, Kind::Workload, SHORTEST_LIFE).await?;
                tokio::time::sleep(SHORTEST_LIFE + Duration::from_secs(2)).await;
                Ok(held)
            }
            Field::Weak(weak) => weak.expired(OWN),
        }
    }

    /// Takes a certificate back, and waits until the victim knows.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn revoke(&self, held: &Held) -> Result<(), AttackError> {
        match &self.0 {
            Field::Live(live) => live.revoke(held).await,
            Field::Weak(weak) => weak.revoke(held),
        }
    }

    /// The access token of a user of the deployment, for ten minutes.
    ///
    /// # Errors
    /// The login fails.
    pub async fn user_token(&self, user: &str) -> Result<String, AttackError> {
        match &self.0 {
            Field::Live(live) => live.user_token(user).await,
            Field::Weak(weak) => weak.user_token(user),
        }
    }

    /// The public key that verifies access tokens, as it is published.
    ///
    /// # Errors
    /// Nobody publishes it.
    pub async fn published_key(&self) -> Result<serde_json::Value, AttackError> {
        match &self.0 {
            Field::Live(live) => live.published_key().await,
            Field::Weak(weak) => weak.published_key(),
        }
    }

    /// Where [`CALLEE`] listens, in modes `bearer`, `macaroon` and `wimse`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn callee(&self) -> Result<SocketAddr, AttackError> {
        match &self.0 {
            Field::Live(live) => live.callee().await,
            Field::Weak(weak) => Ok(weak.callee()),
        }
    }

    /// A bearer token of [`OWN`] for the callee `scope`: its public id, and itself.
    ///
    /// # Errors
    /// Nobody issues it.
    pub async fn bearer(&self, scope: &str) -> Result<(String, String), AttackError> {
        match &self.0 {
            Field::Live(live) => {
                live.callee().await?;
                let issued = live.bearer(scope).await?;
                Ok((issued.id, issued.token.expose().to_owned()))
            }
            Field::Weak(weak) => weak.bearer(OWN, scope),
        }
    }

    /// Takes a bearer token back.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn revoke_bearer(&self, id: &str) -> Result<(), AttackError> {
        match &self.0 {
            Field::Live(live) => live.revoke_bearer(id).await,
            Field::Weak(weak) => {
                weak.revoke_bearer(id);
                Ok(())
            }
        }
    }

    /// A macaroon by which [`OWN`] may call `callee`, so far as these caveats allow.
    ///
    /// # Errors
    /// Nobody issues it.
    pub async fn macaroon(&self, callee: &str, caveats: &[&str]) -> Result<String, AttackError> {
        match &self.0 {
            Field::Live(live) => {
                live.callee().await?;
                Ok(live.macaroon(callee, caveats).await?.expose().to_owned())
            }
            Field::Weak(weak) => weak.macaroon(OWN, callee, caveats),
        }
    }

    /// A workload identity token of [`LAUNCHED`], which names this key.
    ///
    /// # Errors
    /// Nobody issues it.
    pub async fn workload_identity(&self, key: &KeyPair) -> Result<String, AttackError> {
        match &self.0 {
            Field::Live(live) => Ok(live.given(LAUNCHED, &self.id(LAUNCHED)?, key).await?.wit()),
            Field::Weak(weak) => weak.workload_identity(LAUNCHED, key.public_key()),
        }
    }

    /// The newest snapshot, as the agent passes it on to services.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn news(&self) -> Result<News, AttackError> {
        let failed = |error: &dyn std::fmt::Display| AttackError::equipment("a snapshot", error);
        match &self.0 {
            Field::Live(live) => {
                let key = KeyPair::generate(&SystemRandom::new()).map_err(|error| failed(&error))?;
                let given = live.given(LAUNCHED, &self.id(LAUNCHED)?, &key).await?;
                given.news().map_err(|error| failed(&error))
            }
            Field::Weak(weak) => weak.news(),
        }
    }

    /// Connects to the victim over TLS, showing this.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn connect(&self, shown: Option<&Held>) -> Result<Connection, AttackError> {
        let dial = self.dial(self.victim());
        let dial = match shown {
            Some(held) => dial.showing(held.shown()?),
            None => dial,
        };
        connected(dial.connect().await, VICTIM)
    }

    /// How to connect to `address` over TLS: each time from an address of this machine that nobody else uses. What is
    /// counted there is counted per address, and of what one address does again within a minute not all is recorded.
    #[must_use]
    pub fn dial(&self, address: SocketAddr) -> Dial {
        Dial { from: address.is_ipv4().then(|| IpAddr::V4(fresh_address())), ..Dial::to(address) }
    }

    /// How to connect to the edge over TLS.
    #[must_use]
    pub fn dial_edge(&self) -> Dial {
        self.dial(self.edge())
    }

    /// Connects to the edge over TLS, from an address of its own.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn connect_to_edge(&self) -> Result<Connection, AttackError> {
        connected(self.dial_edge().connect().await, "the edge")
    }

    /// Sends a request at the victim over a connection that shows `shown`, and looks at what came of it.
    ///
    /// # Errors
    /// The attacker could not be equipped; how the target ends it is an observation.
    pub async fn tried(
        &self,
        sent: impl Into<String>,
        shown: Option<&Held>,
        request: &Request,
    ) -> Result<Observation, AttackError> {
        let mut dial = self.dial(self.victim());
        dial.shows = shown.map(Held::shown).transpose()?;
        Ok(self.tried_by(sent, &dial, request).await)
    }

    /// The same, connecting in this way.
    pub async fn tried_by(&self, sent: impl Into<String>, dial: &Dial, request: &Request) -> Observation {
        let exchanged = match dial.connect().await {
            Ok(mut connection) => connection.send(request).await.map_err(|broken| (broken, connection.local)),
            Err(broken) => Err((broken, None)),
        };
        let exchanged =
            exchanged.map_err(|(broken, local)| Broken { local: broken.local.or(local), ..broken });
        self.observed(sent, exchanged).await
    }

    /// What came back, with what the operator's side knows of it.
    pub async fn observed(&self, sent: impl Into<String>, exchanged: Exchanged) -> Observation {
        let received = match exchanged {
            Ok(reply) => {
                let decision = reply.problem().and_then(|problem| problem.decision);
                let why = match decision {
                    Some(decision) => self.why(&decision).await,
                    None => None,
                };
                Received::Answer { reply, why }
            }
            Err(Broken { alert, how, local }) => {
                let why = match local {
                    Some(local) => self.why_not_connected(local).await,
                    None => None,
                };
                Received::Ended { alert, how, why }
            }
        };
        Observation { sent: sent.into(), received }
    }

    /// Why a request was refused: `explain`.
    pub async fn why(&self, decision: &str) -> Option<Why> {
        match &self.0 {
            Field::Live(live) => live.why(decision).await,
            Field::Weak(weak) => weak.why(decision),
        }
    }

    /// Why there is no connection from this address of ours.
    pub async fn why_not_connected(&self, local: SocketAddr) -> Option<Why> {
        match &self.0 {
            Field::Live(live) => live.why_not_connected(local).await,
            // The alert is here before the listener has come to write down why it sent it.
            Field::Weak(weak) => {
                for _ in 0..20 {
                    if let Some(why) = weak.why_not_connected(local) {
                        return Some(why);
                    }
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
                None
            }
        }
    }
}

/// An address out of 127.64.0.0/10 that this run has not used yet, nor one that began up to three days ago.
fn fresh_address() -> Ipv4Addr {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let begin = || AtomicU32::new((clock::now().secs().unsigned_abs() as u32).wrapping_mul(16));
    let number = NEXT.get_or_init(begin).fetch_add(1, Ordering::Relaxed) & 0x3f_ffff;
    Ipv4Addr::from_bits(0x7f40_0000 | number)
}

fn connected(connection: Result<Connection, Broken>, what: &str) -> Result<Connection, AttackError> {
    connection.map_err(|broken| AttackError::NoConnection { what: what.to_owned(), why: broken.how })
}

/// Life of what attackers are given.
pub(super) const LIFE: Duration = Duration::from_secs(600);
/// The shortest that the authority issues.
const SHORTEST_LIFE: Duration = countersign_pki::profile::LEAF_TTL_MIN;
