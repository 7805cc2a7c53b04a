//! What we prove ourselves with, in each mode: got through the agent when first needed, and renewed in the
//! background long before it ends.
//!
//! A request only loads what is at hand: one atomic load, no lock. The first request that needs something that is not
//! there waits for it, and a crowd of first requests asks the agent once. What the snapshot says that we send is got
//! as soon as the snapshot says so, so that a switch of modes costs no request anything.
//!
//! | mode | what | how it comes |
//! |---|---|---|
//! | `bearer` | an opaque token for one callee | `IssueToken` |
//! | `macaroon` | a macaroon for one callee | `IssueToken` |
//! | `jwt`, `mtls+jwt` | a key of our own, certified for signing alone, or registered | `Issue`, or not at all |
//! | `wimse` | a key of our own, and a workload identity token that names it | `IssueToken` |
//!
//! The certificate of the TLS handshake is not among them: [`crate::workload`] has it from the start.

mod issued;
mod keep;
mod kept;
mod signing;
mod wit;

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use countersign_identity::{Mode, SpiffeId, UnixTime};
use countersign_keys::KeyPair;
use countersign_wire::agent::TokenKind;
use thiserror::Error;
use tokio::sync::Notify;

pub use issued::IssuedToken;
pub use signing::SigningIdentity;
pub use wit::WitIdentity;

use crate::{
    agent::{AgentApi, AgentError},
    clock,
    tls::IdentityError,
};
use kept::Kept;

/// The credentials of one workload. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    id: SpiffeId,
    agent: AgentApi,
    /// Signs instead of one that is certified.
    registered: Option<Arc<SigningIdentity>>,
    signing: Kept<SigningIdentity>,
    wit: Kept<WitIdentity>,
    bearer: PerCallee,
    macaroon: PerCallee,
    /// Something was got for the first time: the keeper looks again when the next renewal is due.
    came: Notify,
}

/// Why there is nothing to prove ourselves with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// The agent, or the authority behind it.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// It took too long.
    #[error("the agent did not answer in time")]
    TimedOut,
    /// The machine gave no randomness, or the crypto library failed.
    #[error("no key could be made")]
    NoKey,
    /// A certificate that does not belong to the key that it was asked for, or cannot be read.
    #[error(transparent)]
    Certificate(#[from] IdentityError),
    /// What the agent gave is not ours.
    #[error("agent gave a credential of {got:?}, ours are those of {want}")]
    OtherId {
        /// Who we are.
        want: SpiffeId,
        /// Whom it names.
        got: String,
    },
    /// What the agent gave cannot be used.
    #[error("agent gave a credential that cannot be used: {why}")]
    Unusable {
        /// What is wrong with it.
        why: &'static str,
    },
    /// What the agent gave is over already.
    #[error("agent gave a credential that has expired: compare the clocks of this machine and the authority")]
    Expired,
}

impl Credentials {
    /// Those of `id`, through `agent`. Nothing is asked for yet.
    #[must_use]
    pub fn new(id: SpiffeId, agent: AgentApi) -> Self {
        Self::signing_with(None, id, agent)
    }

    /// The same, where requests are signed with a key that is registered for `id`, if there is one.
    pub(crate) fn signing_with(key: Option<KeyPair>, id: SpiffeId, agent: AgentApi) -> Self {
        let registered = key.map(|key| Arc::new(SigningIdentity::registered(id.clone(), key)));
        Self(Arc::new(Inner {
            id,
            agent,
            registered,
            signing: Kept::default(),
            wit: Kept::default(),
            bearer: PerCallee::new(TokenKind::Bearer),
            macaroon: PerCallee::new(TokenKind::Macaroon),
            came: Notify::new(),
        }))
    }

    /// Who we are.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// The key that signs our requests, with its certificate if it has one.
    ///
    /// # Errors
    /// See [`CredentialError`]; a failure counts for a moment, so that requests do not queue up behind it.
    pub async fn signing(&self) -> Result<Arc<SigningIdentity>, CredentialError> {
        if let Some(registered) = &self.0.registered {
            return Ok(Arc::clone(registered));
        }
        self.first(&self.0.signing, || signing::get(&self.0.agent, &self.0.id)).await
    }

    /// The workload identity token with its key.
    ///
    /// # Errors
    /// As [`Credentials::signing`].
    pub async fn wit(&self) -> Result<Arc<WitIdentity>, CredentialError> {
        self.first(&self.0.wit, || wit::get(&self.0.agent, &self.0.id)).await
    }

    /// The opaque token for `callee`.
    ///
    /// # Errors
    /// As [`Credentials::signing`].
    pub async fn bearer(&self, callee: &SpiffeId) -> Result<Arc<IssuedToken>, CredentialError> {
        self.issued(&self.0.bearer, callee).await
    }

    /// The macaroon for `callee`, as it was minted: it is narrowed before it leaves.
    ///
    /// # Errors
    /// As [`Credentials::signing`].
    pub async fn macaroon(&self, callee: &SpiffeId) -> Result<Arc<IssuedToken>, CredentialError> {
        self.issued(&self.0.macaroon, callee).await
    }

    /// Says that `callee` will be called: if that takes a token, it is got before the first request needs it.
    pub(crate) fn will_call(&self, callee: &SpiffeId) {
        self.0.bearer.of(callee);
        self.0.macaroon.of(callee);
        self.0.came.notify_one();
    }

    async fn issued(
        &self,
        tokens: &PerCallee,
        callee: &SpiffeId,
    ) -> Result<Arc<IssuedToken>, CredentialError> {
        let kept = tokens.of(callee);
        self.first(&kept, || issued::get(&self.0.agent, tokens.kind, callee)).await
    }

    async fn first<T, F>(&self, kept: &Kept<T>, get: impl FnOnce() -> F) -> Result<Arc<T>, CredentialError>
    where
        T: Credential,
        F: Future<Output = Result<T, CredentialError>>,
    {
        if let Some(held) = kept.held(clock::now()) {
            return Ok(held);
        }
        let got = kept.get(get).await?;
        self.0.came.notify_one();
        Ok(got)
    }
}

/// Something that we prove ourselves with for a while.
trait Credential: Send + Sync {
    /// When it is over.
    fn expires(&self) -> UnixTime;
    /// When a new one is due.
    fn renew_at(&self) -> UnixTime;
}

/// One token for each callee. Bounded by the number of services that were ever called: see [`PerCallee::retain`].
struct PerCallee {
    kind: TokenKind,
    tokens: ArcSwap<HashMap<SpiffeId, Arc<Kept<IssuedToken>>>>,
}

impl PerCallee {
    fn new(kind: TokenKind) -> Self {
        Self { kind, tokens: ArcSwap::default() }
    }

    fn of(&self, callee: &SpiffeId) -> Arc<Kept<IssuedToken>> {
        if let Some(kept) = self.tokens.load().get(callee) {
            return Arc::clone(kept);
        }
        self.tokens.rcu(|tokens| {
            let mut next = HashMap::clone(tokens);
            next.entry(callee.clone()).or_default();
            next
        });
        self.tokens.load().get(callee).cloned().unwrap_or_default()
    }

    /// Forgets the tokens for callees that are no longer registered.
    fn retain(&self, registered: impl Fn(&SpiffeId) -> bool) {
        if self.tokens.load().keys().all(&registered) {
            return;
        }
        self.tokens.rcu(|tokens| {
            let mut next = HashMap::clone(tokens);
            next.retain(|callee, _| registered(callee));
            next
        });
    }
}

/// Does what is sent in this mode need to be got from the agent?
const fn needs(mode: Mode) -> Need {
    match mode {
        Mode::None | Mode::Mtls => Need::Nothing,
        Mode::Bearer => Need::Bearer,
        Mode::Macaroon => Need::Macaroon,
        Mode::Jwt | Mode::MtlsJwt => Need::Signing,
        Mode::Wimse => Need::Wit,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Bearer,
    Macaroon,
    Signing,
    Wit,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.0.id)
    }
}
