//! The door: evidence in, [`Caller`] out. Nothing else in a deployment turns evidence into a caller.
//!
//! Absent evidence is nobody: no identity is invented or defaulted. Evidence that is present and does not
//! hold is final: it never falls through to a weaker kind, so a bad token is not the same as none.
//!
//! A service's door is [`Authenticator`]. It reads everything that a request brings along, in every [`Mode`], in one
//! order: which kinds of evidence are there and whether they go together, who the workload is, whether that is enough
//! for the floor, whether a proof of single use is new, and who the user is. What the evidence says of the body
//! is left for [`Claimed::confirm`], which alone gives the caller. The edge and the authority's own API know only
//! certificates and access tokens: [`authenticate`].

mod bearer;
mod body;
mod checks;
mod clocks;
mod edge;
mod error;
mod forwarded;
mod jwt_svid;
mod known;
mod macaroon;
mod presented;
mod service_token;
mod term;
mod user;
mod wimse;
mod workload;

use std::{fmt, sync::Arc};

use countersign_identity::{
    Caller, Freshness, IdKind, Mode, Possession, Proof, SpiffeId, UnixTime, User, UserProof, Verified,
};
use countersign_ledger::CheckRecord;
use countersign_request::CanonicalRequest;
use countersign_token::{TokenFacts, Unproven, service_token::RequiredClaim};

pub use edge::{
    AccessCredential, Authenticated, Evidence, ForeignTrust, access_credential, authenticate,
    authenticate_guest, bearer_token,
};
pub use error::EvidenceError;
pub use forwarded::{authenticate_forwarded, behind_proxy};
#[cfg(test)]
pub(crate) use term::tests as term_tests;
pub use term::{UserTerm, UserTermError};

use self::{
    body::BodyClaim,
    checks::Trail,
    clocks::PeerClocks,
    known::Known,
    presented::{Presented, UserToken},
    user::ProvenUser,
    workload::Proven,
};
use crate::{
    accept::Connection, clock, live::TokenKeys, outbound::InternalToken, replay::ReplayGuard,
    secrets::SecretsCell, signing_chains::SigningChains, tls::TrustState,
};

/// The door of one service: who it is, what it can verify, and what it remembers. One for each process, whatever the
/// number of its layers, because a proof that one of them accepted must be known to all.
pub struct Authenticator {
    me: SpiffeId,
    secrets: Arc<SecretsCell>,
    chains: SigningChains,
    replay: ReplayGuard,
    clocks: PeerClocks,
    users: Known<Verified<User>>,
    svids: Known<SpiffeId>,
    wits: Known<Unproven>,
}

/// By what a request is judged, at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Keys, and what was taken back.
    pub keys: &'a TokenKeys,
    /// The floor of the service.
    pub accepts: &'a [Mode],
    /// Claims that the route demands of the caller's own token.
    pub required: &'a [&'a RequiredClaim],
    /// The time.
    pub now: UnixTime,
}

/// How it went.
#[derive(Debug)]
pub struct Judged {
    /// Who is calling, if the body is what the evidence says.
    pub claimed: Result<Claimed, EvidenceError>,
    /// What was checked, for the decision record.
    pub checks: Vec<CheckRecord>,
    /// The workload that was proven, even if the request is refused for another reason.
    pub source: Option<SpiffeId>,
    /// How it was.
    pub mode: Mode,
}

/// A caller whose evidence may still speak of the body.
#[derive(Debug)]
pub struct Claimed {
    caller: Caller,
    body: BodyClaim,
    token: Option<InternalToken>,
    user: Option<Arc<TokenFacts>>,
    answer: Option<String>,
}

impl Authenticator {
    /// The door of `me`, in a process that begins now.
    #[must_use]
    pub fn new(me: SpiffeId, trust: Arc<TrustState>, secrets: Arc<SecretsCell>) -> Arc<Self> {
        let (chains, replay) = (SigningChains::new(trust), ReplayGuard::new(clock::now()));
        let (users, svids, wits) = (Known::new(), Known::new(), Known::new());
        Arc::new(Self { me, secrets, chains, replay, clocks: PeerClocks::default(), users, svids, wits })
    }

    /// Whose door it is: the audience of tokens.
    #[must_use]
    pub const fn me(&self) -> &SpiffeId {
        &self.me
    }

    /// Judges everything that was presented with a request, except the body.
    #[must_use]
    pub fn judge(
        &self,
        request: &CanonicalRequest,
        connection: Option<&Connection>,
        rules: &Rules<'_>,
    ) -> Judged {
        let mut trail = Trail::of_connection(connection);
        let presented = Presented::read(request, connection);
        let proven = presented.and_then(|presented| {
            trail
                .note("token", presented.workload.is_token(), self.workload(&presented, rules))
                .map(|proven| (presented, proven))
        });
        let (source, mode) = match &proven {
            Ok((_, proven)) => (proven.id().cloned(), proven.mode),
            Err(_) => (None, Mode::None),
        };
        let claimed =
            proven.and_then(|(presented, proven)| self.caller(&presented, proven, rules, &mut trail));
        let checks = trail.into_records(connection, claimed.as_ref().err());
        Judged { claimed, checks, source, mode }
    }

    /// The floor, single use, and the user.
    fn caller(
        &self,
        presented: &Presented<'_>,
        proven: Proven,
        rules: &Rules<'_>,
        trail: &mut Trail,
    ) -> Result<Claimed, EvidenceError> {
        let user_token = presented.user_token(&proven)?;
        if !proven.mode.satisfies(rules.accepts) {
            // Who proved nothing may pass nobody on either; that says more than the floor does.
            return Err(match user_token {
                Some(_) if proven.workload.is_none() => EvidenceError::TokenFromStranger,
                _ => EvidenceError::BelowFloor { mode: proven.mode, accepts: rules.accepts.to_vec() },
            });
        }
        if let (Some(claim), false) = (rules.required.first(), proven.mode.carries_claims()) {
            return Err(EvidenceError::NoClaims { name: claim.name().to_owned(), mode: proven.mode });
        }
        let user = match &user_token {
            Some(token) => Some(trail.note("token", true, self.user(token, &proven, rules))?),
            None => None,
        };
        let proof = proof(&proven, user.as_ref());
        let chain = user.as_ref().map_or_else(Vec::new, |user| user.came_through(proven.id()));
        let (mode, body, answer) = (proven.mode, proven.body, proven.answer);
        let facts = user.as_ref().map(|user| Arc::clone(&user.facts));
        let caller = Caller::new(proven.workload, user.map(|user| user.user), chain, proof).proven_in(mode);
        let token = user_token.map(UserToken::into_internal);
        Ok(Claimed { caller, body, token, user: facts, answer })
    }

    /// The host that callers name in requests to us: our short name.
    fn authority(&self) -> &str {
        match self.me.kind() {
            IdKind::Service(name) => name,
            _ => self.me.path(),
        }
    }
}

impl Claimed {
    /// Who says to be calling: for the record, whatever the body turns out to be.
    pub(crate) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The nonce of the signature, if the caller wants its answer signed as well.
    pub(crate) fn take_answer(&mut self) -> Option<String> {
        self.answer.take()
    }

    /// Must the body be read before there is a caller? Its SHA-256 is in the evidence.
    #[must_use]
    pub const fn is_bound_to_the_body(&self) -> bool {
        self.body.is_there()
    }

    /// The token of the user, to go on to the next hop.
    pub(crate) fn take_token(&mut self) -> Option<InternalToken> {
        self.token.take()
    }

    /// What can end the token of the user.
    pub(crate) fn take_user_facts(&mut self) -> Option<Arc<TokenFacts>> {
        self.user.take()
    }

    /// The caller, if the evidence does not speak of the body or says exactly this one.
    ///
    /// # Errors
    /// The body is another one.
    pub fn confirm(self, body: &[u8]) -> Result<Caller, EvidenceError> {
        self.body.judge(body)?;
        Ok(self.caller)
    }
}

/// Per axis the weakest of what was presented. A user's token that is good until it expires makes the whole request
/// reusable, unless the proof of the workload names it: then it is as fresh as that proof.
fn proof(proven: &Proven, user: Option<&ProvenUser>) -> Proof {
    let freshness = match user {
        None => proven.freshness,
        Some(user) if user.is_covered => proven.freshness,
        // Nobody proved to be a workload: the user's token is all that there is.
        Some(_) if proven.workload.is_none() => Freshness::Reusable,
        Some(_) => proven.freshness.min(Freshness::Reusable),
    };
    Proof {
        workload: proven.proof,
        binding: proven.binding,
        user: user.map_or(UserProof::None, |user| user.proof),
        user_possession: user.map_or(Possession::None, |user| user.user.possession),
        freshness,
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authenticator({})", self.me)
    }
}
