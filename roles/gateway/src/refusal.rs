//! Every way in which the gateway says no. What the SDK's door can say too is said by its [`Denial`]; here is what only
//! an edge has: routes, quotas, bodies, logins.
//!
//! Two messages each: the reason is for the log, the ledger and `explain`; the client gets the public side of the code,
//! and a detail only where it is about what the client itself sent.

use std::time::Duration;

use bytes::Bytes;
use countersign_http1::{HeadBytesError, RequestHeadError};
use countersign_policy::{PolicyError, QuotaError};
use countersign_request::RequestError;
use countersign_sdk::authenticate::EvidenceError;
use countersign_sdk::inbound::{Challenge, Denial};
use countersign_sdk::outbound::CallError;
use countersign_token::{AccessTokenError, ReplayError};
use countersign_wire::codes::Code;
use countersign_wire::json::JsonError;
use countersign_wire::problem::Problem;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt as _, Full};

use crate::ask::QuestionError;
use crate::body::BodyError;
use crate::filter::FilterError;
use crate::forward::EdgeBody;
use crate::guard::access::AccessError;
use crate::guard::cors::PreflightError;
use crate::guard::limits::LimitError;
use crate::guard::puzzle::PuzzleError;
use crate::login::LoginError;
use crate::proof::ProofError;
use crate::record::Trace;
use crate::route::{NoRoute, RewriteError};
use crate::token::MintError;
use crate::upstream::UpstreamError;

/// Why a request does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Unreadable(#[from] RequestError),
    /// What HTTP/1.1 itself does not allow.
    #[error(transparent)]
    NoRequest(RequestHeadError),
    #[error("the handshake named {server_name}, the request {host}")]
    Misdirected { server_name: String, host: String },
    #[error("the request asks to leave HTTP")]
    Upgrade,
    /// A 101 that nobody asked for, or that leads elsewhere.
    #[error("{target} left HTTP otherwise than it was asked to")]
    UnaskedUpgrade { target: String },
    #[error("the request expects something other than 100-continue")]
    Expectation,
    #[error(transparent)]
    Address(#[from] AccessError),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Puzzle(#[from] PuzzleError),
    #[error(transparent)]
    Limited(#[from] LimitError),
    #[error(transparent)]
    Throttled(#[from] QuotaError),
    #[error(transparent)]
    NoRoute(#[from] NoRoute),
    #[error(transparent)]
    Rewritten(#[from] RewriteError),
    #[error("the route needs a user, and no access token came")]
    NoToken,
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The access token beside a proof of its key.
    #[error(transparent)]
    HeldEvidence(EvidenceError),
    #[error("no keys of {issuer} are at hand that are young enough")]
    IssuerUnreachable { issuer: String },
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("{refusal}")]
    Policy {
        refusal: countersign_policy::Refusal,
        /// What the operator could change.
        fix: String,
        /// Nobody is logged in, and somebody could be.
        could_log_in: bool,
    },
    #[error("the rules cannot be loaded: {0}")]
    PolicyBroken(PolicyError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("no internal token: {0}")]
    Mint(#[from] MintError),
    #[error("the snapshot is past its grace period")]
    Stale,
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Upstream(#[from] CallError),
    /// Of an upstream of the configuration.
    #[error(transparent)]
    Cluster(#[from] UpstreamError),
    #[error("{target} demands evidence that the gateway did not send")]
    UpstreamChallenge { target: String },
    #[error("no answer within {after_ms} ms")]
    TimedOut { after_ms: u64 },
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// Its certificate expired or was revoked after the handshake.
    #[error("the asking proxy is not believed any more")]
    NoAsker,
    #[error("login: {0}")]
    Login(#[from] LoginError),
    #[error("login: wrong name or password")]
    LoginRefused,
    #[error("login: the authority throttles, try again in {retry_after_s} s")]
    LoginThrottled { retry_after_s: u64 },
    #[error("the login route takes POST")]
    LoginMethod,
}

impl Refusal {
    /// Code, challenge and reason.
    pub(crate) fn denial(&self) -> Denial {
        match self {
            Refusal::Unreadable(error) => Denial::from(error),
            Refusal::Rewritten(RewriteError::Unreadable { source }) => {
                Denial { reason: self.to_string(), ..Denial::from(source) }
            }
            // A token that is bound to a key, in the hands of somebody who proves none.
            Refusal::Evidence(error @ EvidenceError::AccessToken(AccessTokenError::Confirmation(_)))
            | Refusal::HeldEvidence(error) => {
                Denial::from(error).with_challenge(Challenge::Dpop("invalid_token"))
            }
            Refusal::Evidence(error) => Denial::from(error),
            Refusal::Proof(error) => of_proof(error),
            Refusal::Body(error @ (BodyError::TokenEnded | BodyError::TokenRevoked)) => {
                error.denial().with_challenge(Challenge::BetterBearer)
            }
            Refusal::Upstream(error) => Denial::from(error),
            Refusal::Policy { refusal, fix, could_log_in } => {
                let denial = Denial::of_policy(refusal, fix.clone(), false, false);
                if *could_log_in {
                    // A stranger is told to log in; whether that will do is not said.
                    return Denial { code: Code::TokenMissing, challenge: Challenge::Bearer, ..denial };
                }
                denial
            }
            Refusal::NoToken => {
                Denial::new(Code::TokenMissing, self.to_string()).with_challenge(Challenge::Bearer)
            }
            Refusal::LoginRefused => {
                Denial::new(Code::LoginFailed, self.to_string()).with_challenge(Challenge::Bearer)
            }
            _ => Denial::new(self.code(), self.to_string()),
        }
    }

    /// Codes of what only an edge says.
    fn code(&self) -> Code {
        match self {
            Refusal::Misdirected { .. } => Code::Misdirected,
            Refusal::NoRequest(error) => of_head(error),
            Refusal::Upgrade => Code::UpgradeRefused,
            Refusal::Expectation => Code::HeaderAmbiguous,
            Refusal::Address(_) => Code::AddressRefused,
            Refusal::Preflight(_) => Code::OriginRefused,
            Refusal::Puzzle(_) => Code::PuzzleNeeded,
            Refusal::Question(_) => Code::HeaderAmbiguous,
            Refusal::NoAsker => Code::PeerUnexpected,
            Refusal::Limited(LimitError::Exceeded { .. }) => Code::TooManyRequests,
            Refusal::Limited(LimitError::Unshared { .. }) => Code::Overloaded,
            Refusal::Throttled(_) | Refusal::LoginThrottled { .. } => Code::TooManyRequests,
            Refusal::NoRoute(NoRoute::Unknown) => Code::RouteUnknown,
            Refusal::NoRoute(NoRoute::Method { .. }) | Refusal::LoginMethod => Code::MethodNotAllowed,
            Refusal::PolicyBroken(_) => Code::PolicyError,
            Refusal::Stale => Code::SnapshotStale,
            Refusal::IssuerUnreachable { .. } => Code::IssuerUnreachable,
            Refusal::Cluster(error) => error.code(),
            Refusal::Body(error) => error.code(),
            Refusal::Filter(error) => error.code(),
            Refusal::UpstreamChallenge { .. } | Refusal::UnaskedUpgrade { .. } => Code::UpstreamProtocol,
            Refusal::TimedOut { .. } => Code::UpstreamTimeout,
            Refusal::Login(LoginError::Body(JsonError::TooLong { .. })) => Code::BodyTooLarge,
            Refusal::Login(LoginError::Body(_)) => Code::BodyMalformed,
            Refusal::Login(LoginError::Call(CallError::Overloaded { .. })) => Code::LoginBusy,
            Refusal::Login(_) => Code::AuthorityUnreachable,
            Refusal::NoToken => Code::TokenMissing,
            Refusal::LoginRefused => Code::LoginFailed,
            Refusal::Mint(_)
            | Refusal::Unreadable(_)
            | Refusal::Rewritten(_)
            | Refusal::Evidence(_)
            | Refusal::HeldEvidence(_)
            | Refusal::Proof(_)
            | Refusal::Upstream(_)
            | Refusal::Policy { .. } => Code::Internal,
        }
    }

    /// Does nobody proven stand behind it? Such refusals are counted per address and minute.
    pub(crate) fn is_before_authentication(&self) -> bool {
        match self {
            Refusal::Policy { could_log_in, .. } => *could_log_in,
            Refusal::PolicyBroken(_)
            | Refusal::Filter(_)
            | Refusal::Mint(_)
            | Refusal::Rewritten(_)
            | Refusal::Stale
            | Refusal::Body(_)
            | Refusal::Upstream(_)
            | Refusal::Cluster(_)
            | Refusal::UpstreamChallenge { .. }
            | Refusal::UnaskedUpgrade { .. }
            | Refusal::TimedOut { .. } => false,
            _ => true,
        }
    }

    /// What the client gets: the denial's problem (RFC 9457) or its gRPC status, and what only an edge adds.
    pub(crate) fn response(&self, denial: &Denial, trace: &Trace, is_http_1: bool) -> Response<EdgeBody> {
        let decision = trace.draft.id();
        let ours = denial.answer(decision, trace.is_grpc);
        if let Refusal::Filter(FilterError::Refused { stopped, .. }) = self
            && !trace.is_grpc
        {
            return stopped.response(ours, decision);
        }
        let (mut head, body) = ours.into_parts();
        let body = match self.public_detail().filter(|_| !trace.is_grpc) {
            Some(detail) => {
                let problem = Problem::new(denial.code, Some(decision.to_string())).with_detail(detail);
                Full::from(Bytes::from(problem.to_json()))
            }
            None => body,
        };
        self.add_headers(&mut head.headers, is_http_1);
        Response::from_parts(head, body.map_err(|never| match never {}).boxed_unsync())
    }

    fn add_headers(&self, headers: &mut HeaderMap, is_http_1: bool) {
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow().and_then(|allow| HeaderValue::from_str(&allow).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        if is_http_1 && self.closes_connection() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// What the client may know besides the code: only about what it sent itself.
    fn public_detail(&self) -> Option<String> {
        match self {
            Refusal::Unreadable(error) => Some(error.to_string()),
            Refusal::NoRequest(error) => Some(error.to_string()),
            Refusal::Upgrade | Refusal::Expectation | Refusal::Preflight(_) | Refusal::Puzzle(_) => {
                Some(self.to_string())
            }
            Refusal::NoRoute(error @ NoRoute::Method { .. }) => Some(error.to_string()),
            Refusal::Body(error) | Refusal::Filter(FilterError::Body(error)) => Some(error.to_string()),
            Refusal::Login(LoginError::Body(error)) => Some(error.to_string()),
            _ => None,
        }
    }

    /// `Retry-After`, whole seconds, at least one.
    fn retry_after_s(&self) -> Option<u64> {
        let whole = |wait: Duration| wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        match self {
            Refusal::Throttled(error) => Some(whole(error.retry_after()).max(1)),
            Refusal::Limited(error) => Some(whole(error.retry_after()).max(1)),
            Refusal::LoginThrottled { retry_after_s } => Some((*retry_after_s).max(1)),
            Refusal::Cluster(error) => error.retry_after_s(),
            Refusal::Stale
            | Refusal::IssuerUnreachable { .. }
            | Refusal::Filter(FilterError::Unanswered { .. })
            | Refusal::Upstream(CallError::Overloaded { .. } | CallError::Stale)
            | Refusal::Login(LoginError::Call(_)) => Some(1),
            _ => None,
        }
    }

    /// `Allow`, with 405.
    fn allow(&self) -> Option<String> {
        match self {
            Refusal::NoRoute(NoRoute::Method { allow }) => Some(allow.join(", ")),
            Refusal::LoginMethod => Some("POST".to_owned()),
            Refusal::Unreadable(RequestError::Method) => {
                Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned())
            }
            _ => None,
        }
    }

    /// May more of the request still be on the way, or its end be unknown? Then the connection ends with the answer.
    fn closes_connection(&self) -> bool {
        matches!(
            self,
            Refusal::Unreadable(_)
                | Refusal::NoRequest(_)
                | Refusal::Misdirected { .. }
                | Refusal::Upgrade
                | Refusal::Expectation
                | Refusal::Body(_)
                | Refusal::Filter(_)
        )
    }
}

impl From<&RequestHeadError> for Refusal {
    fn from(error: &RequestHeadError) -> Self {
        match error {
            RequestHeadError::Request(error) => Refusal::Unreadable(error.clone()),
            error => Refusal::NoRequest(error.clone()),
        }
    }
}

const fn of_head(error: &RequestHeadError) -> Code {
    match error {
        RequestHeadError::Bytes(HeadBytesError::TooLong { .. }) | RequestHeadError::TooManyHeaders { .. } => {
            Code::HeadersTooLarge
        }
        _ => Code::HeaderAmbiguous,
    }
}

fn of_proof(error: &ProofError) -> Denial {
    let (code, says) = match error {
        ProofError::Proof(_) => (Code::KeyProofRefused, "invalid_dpop_proof"),
        ProofError::Nonce(_) => (Code::KeyProofNonce, "use_dpop_nonce"),
        ProofError::Replay(ReplayError::Replayed) => (Code::ProofReplayed, "invalid_dpop_proof"),
        ProofError::Replay(ReplayError::Full { .. } | ReplayError::IssuerQuota { .. }) => {
            return Denial::new(Code::ProofMemoryFull, error.to_string());
        }
        ProofError::Replay(_) => (Code::KeyProofRefused, "invalid_dpop_proof"),
    };
    Denial::new(code, error.to_string()).with_challenge(Challenge::Dpop(says))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use countersign_keys::RandomError;
    use countersign_request::PathError;
    use countersign_token::{ConfirmationError, DpopError, NonceError, TxnTokenError};

    use super::*;

    fn status(refusal: &Refusal) -> u16 {
        refusal.denial().status().as_u16()
    }

    #[test]
    fn every_refusal_has_the_status_that_it_deserves() {
        let call = || CallError::TimedOut { place: "ads at 127.0.0.1:1".into() };
        let wait = QuotaError::Exceeded { retry_after: Duration::from_millis(1500) };
        let json = JsonError::TooLong { max: 1, got: 2 };
        for (refusal, expected) in [
            (Refusal::Unreadable(RequestError::Path(PathError::DotSegment)), 400),
            (Refusal::from(&RequestHeadError::Request(RequestError::Method)), 405),
            (Refusal::from(&RequestHeadError::NoHost), 400),
            (Refusal::from(&RequestHeadError::TooManyHeaders { limit: 1 }), 431),
            (Refusal::from(&RequestHeadError::Bytes(HeadBytesError::TooLong { limit: 1 })), 431),
            (Refusal::from(&RequestHeadError::Bytes(HeadBytesError::BareLineFeed)), 400),
            (Refusal::Misdirected { server_name: "a".into(), host: "b".into() }, 421),
            (Refusal::Upgrade, 400),
            (Refusal::Expectation, 400),
            (Refusal::Throttled(wait), 429),
            (Refusal::Address(AccessError::Denied { address: [192, 0, 2, 1].into() }), 403),
            (Refusal::Preflight(PreflightError::Method { method: "PUT".into() }), 403),
            (Refusal::Puzzle(PuzzleError::Used), 429),
            (Refusal::Limited(LimitError::Unshared { name: "user".into() }), 503),
            (Refusal::NoRoute(NoRoute::Unknown), 404),
            (Refusal::NoRoute(NoRoute::Method { allow: vec!["GET".into()] }), 405),
            (
                Refusal::Rewritten(RewriteError::Unreadable {
                    source: RequestError::Path(PathError::DotSegment),
                }),
                400,
            ),
            (Refusal::Rewritten(RewriteError::NotCanonical), 500),
            (Refusal::NoToken, 401),
            (Refusal::Evidence(EvidenceError::NotBearer), 401),
            (Refusal::Evidence(AccessTokenError::Expired { by_seconds: 1 }.into()), 401),
            (Refusal::HeldEvidence(AccessTokenError::Expired { by_seconds: 1 }.into()), 401),
            (Refusal::Proof(DpopError::NoToken.into()), 401),
            (Refusal::Proof(NonceError::Missing.into()), 401),
            (Refusal::Proof(ReplayError::Replayed.into()), 401),
            (Refusal::Proof(ReplayError::Expired { by_seconds: 1 }.into()), 401),
            (Refusal::Proof(ReplayError::IssuerQuota { live: 1 }.into()), 503),
            (Refusal::Mint(MintError::Random(RandomError::Unavailable)), 500),
            (Refusal::Mint(MintError::Token(TxnTokenError::Lifetime { seconds: 0 })), 500),
            (Refusal::Stale, 503),
            (Refusal::IssuerUnreachable { issuer: "https://a.test".into() }, 503),
            (Refusal::Body(BodyError::TooLong { bytes_max: 1 }), 413),
            (Refusal::Body(BodyError::Stalled { after_ms: 1 }), 408),
            (Refusal::Body(BodyError::TooSlow { bytes_s: 1 }), 408),
            (Refusal::Body(BodyError::OutOfTime), 408),
            (Refusal::Body(BodyError::TokenEnded), 401),
            (Refusal::Body(BodyError::TokenRevoked), 401),
            (Refusal::Body(BodyError::BrokenOff), 400),
            (Refusal::Upstream(call()), 504),
            (Refusal::UpstreamChallenge { target: "ads".into() }, 502),
            (Refusal::UnaskedUpgrade { target: "ads".into() }, 502),
            (Refusal::TimedOut { after_ms: 1 }, 504),
            (Refusal::Login(LoginError::Body(json)), 413),
            (Refusal::Login(LoginError::Call(call())), 503),
            (Refusal::Login(LoginError::Answer { status: 500 }), 503),
            (Refusal::LoginRefused, 401),
            (Refusal::LoginThrottled { retry_after_s: 0 }, 429),
            (Refusal::LoginMethod, 405),
        ] {
            assert_eq!(status(&refusal), expected, "{refusal}");
        }
    }

    #[test]
    fn who_proves_a_key_or_should_have_is_told_so_in_the_words_of_rfc_9449() {
        let bound = AccessTokenError::Confirmation(ConfirmationError::NotHeld { method: "jkt" });
        for (refusal, says) in [
            (Refusal::Evidence(bound.clone().into()), "invalid_token"),
            (Refusal::HeldEvidence(bound.into()), "invalid_token"),
            (Refusal::Proof(DpopError::OtherToken.into()), "invalid_dpop_proof"),
            (Refusal::Proof(ReplayError::Replayed.into()), "invalid_dpop_proof"),
            (Refusal::Proof(NonceError::Old.into()), "use_dpop_nonce"),
        ] {
            assert_eq!(refusal.denial().challenge, Challenge::Dpop(says), "{refusal}");
            assert!(refusal.is_before_authentication());
        }
    }

    #[test]
    fn what_only_operators_may_know_is_no_detail() {
        let inside =
            Refusal::Upstream(CallError::Unreachable { place: "ads at 10.0.0.7:1".into(), why: "x".into() });
        assert_eq!(inside.public_detail(), None);
        assert_eq!(Refusal::UpstreamChallenge { target: "ads".into() }.public_detail(), None);
        assert_eq!(Refusal::Stale.public_detail(), None);
        assert!(Refusal::Unreadable(RequestError::Method).public_detail().is_some());
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_as_zero() {
        let wait =
            |millis| Refusal::Throttled(QuotaError::Full { retry_after: Duration::from_millis(millis) });
        assert_eq!(wait(0).retry_after_s(), Some(1));
        assert_eq!(wait(1000).retry_after_s(), Some(1));
        assert_eq!(wait(1001).retry_after_s(), Some(2));
        assert_eq!(Refusal::LoginThrottled { retry_after_s: 0 }.retry_after_s(), Some(1));
    }

    #[test]
    fn only_refusals_of_strangers_are_counted_instead_of_kept() {
        let policy = |could_log_in| {
            let set = countersign_policy::PolicySet::load(std::iter::empty::<(&str, &str)>()).unwrap();
            let caller =
                countersign_identity::Caller::new(None, None, Vec::new(), countersign_identity::Proof::NONE);
            let method = http::Method::GET;
            let ask = countersign_policy::Ask {
                caller: &caller,
                target: "x",
                method: &method,
                route: "/",
                path: "/",
            };
            let refusal = countersign_policy::decide(&set, &ask).unwrap_err();
            Refusal::Policy { refusal, fix: String::new(), could_log_in }
        };
        assert!(policy(true).is_before_authentication() && status(&policy(true)) == 401);
        assert!(!policy(false).is_before_authentication() && status(&policy(false)) == 403);
        assert!(Refusal::NoToken.is_before_authentication());
        assert!(!Refusal::TimedOut { after_ms: 1 }.is_before_authentication());
    }

    #[test]
    fn a_connection_ends_where_more_of_the_request_may_follow() {
        assert!(Refusal::Body(BodyError::TooLong { bytes_max: 1 }).closes_connection());
        assert!(Refusal::Upgrade.closes_connection());
        assert!(!Refusal::NoToken.closes_connection());
    }
}
