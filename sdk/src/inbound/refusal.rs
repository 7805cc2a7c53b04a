//! Refusal → status and public code: the only home of that rule.

use bytes::Bytes;
use countersign_identity::{DecisionId, Mode};
use countersign_keys::{SystemRandom, random_bytes};
use countersign_ledger::Stage;
use countersign_policy::{Refusal, RefusalKind};
use countersign_request::{HeaderError, PathError, QueryError, RequestError};
use countersign_wire::{
    codes::{self, Code},
    problem::{PROBLEM_JSON, Problem},
};
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::Full;

use super::token_codes::{
    code_of_access_token, code_of_bearer, code_of_foreign_token, code_of_hop_token, code_of_jwt_svid,
    code_of_macaroon, code_of_peer, code_of_replay, code_of_service_token, code_of_signature,
    code_of_txn_token, code_of_wit, code_of_wpt,
};
use crate::{accept::Connection, authenticate::EvidenceError, outbound::CallError, tls::HandshakeRefusal};

/// A refused request: a code for the caller, the facts for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What happened; the caller learns its public side.
    pub code: Code,
    /// The facts. Never told to the caller.
    pub reason: String,
    /// What would help, told to the caller.
    pub challenge: Challenge,
    /// The rule that decided, if one did.
    pub policy: Option<String>,
    /// What the operator should change, if we know better than the code's own text.
    pub fix: Option<String>,
}

/// What presenting could help (RFC 9110 section 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Nothing would.
    None,
    /// `Countersign need="certificate"`
    Certificate,
    /// `Countersign need="txn-token"`
    TxnToken,
    /// `Countersign need="signing-chain"`: the certificate of the key that signed.
    SigningChain,
    /// `Countersign need="proof"`: a new one, made for this request.
    Proof,
    /// `Countersign need="MODE"`, the first mode that is accepted.
    Mode(Mode),
    /// `Bearer`, for an access token.
    Bearer,
    /// `Bearer error="invalid_token"`, for a better one.
    BetterBearer,
    /// `DPoP error="…"` (RFC 9449 section 7.1): `invalid_dpop_proof`, `use_dpop_nonce` or `invalid_token`.
    Dpop(&'static str),
}

impl Denial {
    /// A refusal with the facts behind it.
    #[must_use]
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), challenge: Challenge::None, policy: None, fix: None }
    }

    /// Tells the caller what would help.
    #[must_use]
    pub const fn with_challenge(mut self, challenge: Challenge) -> Self {
        self.challenge = challenge;
        self
    }

    /// The same, as far as it can help on this connection: a certificate cannot where none is asked for.
    #[must_use]
    pub(crate) fn heard_by(mut self, connection: Option<&Connection>) -> Self {
        let deaf =
            |connection: &Connection| connection.exporter.is_some() && !connection.asks_for_certificate;
        if self.challenge == Challenge::Certificate && connection.is_some_and(deaf) {
            self.challenge = Challenge::None;
        }
        self
    }

    /// The status: that of the code, but a 401 without anything that could help is a 403.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match (status, self.challenge) {
            (StatusCode::UNAUTHORIZED, Challenge::None) => StatusCode::FORBIDDEN,
            _ => status,
        }
    }

    /// Where it ended, in the ledger's words.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.code.entry().stage {
            codes::Stage::Transport => Stage::Transport,
            codes::Stage::Request => Stage::Request,
            codes::Stage::Quota => Stage::Quota,
            codes::Stage::Identity => Stage::Identity,
            codes::Stage::Token => Stage::Token,
            codes::Stage::Policy => Stage::Policy,
            codes::Stage::Upstream | codes::Stage::System => Stage::Upstream,
        }
    }

    /// The answer: a problem (RFC 9457) with the decision id and nothing that helps an attacker.
    #[must_use]
    pub fn response(&self, decision: DecisionId) -> Response<Full<Bytes>> {
        let status = self.status();
        // A 401 that became a 403 must not say otherwise in its body.
        let code = if status.as_u16() == self.code.status() { self.code } else { Code::NotPermitted };
        let problem = Problem::new(code, Some(decision.to_string()));
        let mut response = Response::new(Full::from(problem.to_json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge.header().filter(|_| status == StatusCode::UNAUTHORIZED) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// What the policy says about `asked_for_certificate`: a stranger whom a certificate could help.
    #[must_use]
    pub fn of_policy(refusal: &Refusal, fix: String, stranger: bool, certificate_could_help: bool) -> Self {
        let code = match refusal.kind() {
            // A stranger is told to prove a name; whether that name will do is not said.
            RefusalKind::NotPermitted if stranger && certificate_could_help => Code::CertificateMissing,
            RefusalKind::NotPermitted | RefusalKind::UnknownAction => Code::NotPermitted,
            RefusalKind::Forbidden => Code::Forbidden,
            RefusalKind::RuleFailed => Code::PolicyError,
            RefusalKind::NoPolicies => Code::NoPolicies,
        };
        let reason = refusal.detail().map_or_else(|| refusal.to_string(), |d| format!("{refusal}: {d}"));
        let challenge =
            if code == Code::CertificateMissing { Challenge::Certificate } else { Challenge::None };
        Self { code, reason, challenge, policy: refusal.policies().first().cloned(), fix: Some(fix) }
    }
}

impl Challenge {
    /// The first mode that proves something. A client certificate has a word of its own, and is what helps where nothing
    /// has to be proven.
    #[must_use]
    pub fn of_floor(accepts: &[Mode]) -> Self {
        match accepts.iter().find(|accepted| **accepted != Mode::None) {
            Some(Mode::Mtls) | None => Self::Certificate,
            Some(accepted) => Self::Mode(*accepted),
        }
    }

    fn header(self) -> Option<HeaderValue> {
        Some(HeaderValue::from_static(match self {
            Self::None => return None,
            Self::Certificate => r#"Countersign need="certificate""#,
            Self::TxnToken => r#"Countersign need="txn-token""#,
            Self::SigningChain => r#"Countersign need="signing-chain""#,
            Self::Proof => r#"Countersign need="proof""#,
            Self::Mode(mode) => return HeaderValue::from_str(&format!("Countersign need=\"{mode}\"")).ok(),
            Self::Bearer => "Bearer",
            Self::BetterBearer => r#"Bearer error="invalid_token""#,
            Self::Dpop(error) => {
                let challenge = format!("DPoP error=\"{error}\", algs=\"{DPOP_ALGORITHMS}\"");
                return HeaderValue::from_str(&challenge).ok();
            }
        }))
    }
}

impl From<&RequestError> for Denial {
    fn from(error: &RequestError) -> Self {
        let code = match error {
            RequestError::Method => Code::MethodNotAllowed,
            RequestError::Version | RequestError::Scheme => Code::PathAmbiguous,
            RequestError::Authority(_) => Code::AuthorityAmbiguous,
            RequestError::Path(PathError::TooLong { .. } | PathError::TooManySegments { .. })
            | RequestError::Query(QueryError::TooLong { .. }) => Code::UriTooLong,
            RequestError::Path(_) | RequestError::Query(_) => Code::PathAmbiguous,
            RequestError::Header(
                HeaderError::TooMany { .. }
                | HeaderError::NameTooLong { .. }
                | HeaderError::ValueTooLong { .. }
                | HeaderError::TooLong { .. },
            ) => Code::HeadersTooLarge,
            RequestError::Header(_) => Code::HeaderAmbiguous,
        };
        Self::new(code, error.to_string())
    }
}

impl From<EvidenceError> for Denial {
    fn from(error: EvidenceError) -> Self {
        Self::from(&error)
    }
}

impl From<&EvidenceError> for Denial {
    fn from(error: &EvidenceError) -> Self {
        let (code, challenge) = match error {
            EvidenceError::Peer(peer) => (code_of_peer(peer), Challenge::Certificate),
            EvidenceError::TxnToken(token) => (code_of_txn_token(token), Challenge::TxnToken),
            EvidenceError::TokenFromStranger => (Code::CertificateMissing, Challenge::Certificate),
            EvidenceError::AccessToken(token) => (code_of_access_token(token), Challenge::BetterBearer),
            EvidenceError::ForeignToken(token) => (code_of_foreign_token(token), Challenge::BetterBearer),
            EvidenceError::NotBearer | EvidenceError::Unreadable(_) => {
                (Code::TokenMalformed, Challenge::BetterBearer)
            }
            EvidenceError::UnknownKind { .. } => (Code::TokenKind, Challenge::BetterBearer),
            EvidenceError::Combination(_) => (Code::EvidenceCombination, Challenge::Proof),
            EvidenceError::InTheClear => (Code::TokenInTheClear, Challenge::Proof),
            EvidenceError::Bearer(bearer) => (code_of_bearer(bearer), Challenge::BetterBearer),
            EvidenceError::Wit(wit) => (code_of_wit(wit), Challenge::Mode(Mode::Wimse)),
            EvidenceError::Wpt(wpt) => (code_of_wpt(wpt), Challenge::Mode(Mode::Wimse)),
            EvidenceError::Replay(replay) => (code_of_replay(replay), Challenge::Proof),
            EvidenceError::HopToken(token) => (code_of_hop_token(token), Challenge::TxnToken),
            EvidenceError::JwtSvid(token) => (code_of_jwt_svid(token), Challenge::BetterBearer),
            EvidenceError::Revoked(_) => (Code::TokenRevoked, Challenge::BetterBearer),
            EvidenceError::Macaroon(macaroon) => {
                (code_of_macaroon(macaroon), Challenge::Mode(Mode::Macaroon))
            }
            EvidenceError::Signature(signature) => {
                (code_of_signature(signature), Challenge::Mode(Mode::Wimse))
            }
            EvidenceError::ServiceToken(token) => (code_of_service_token(token), Challenge::Mode(Mode::Jwt)),
            EvidenceError::Signer(peer) => (code_of_peer(peer), Challenge::SigningChain),
            EvidenceError::ChainHeader(_) => (Code::TokenMalformed, Challenge::SigningChain),
            EvidenceError::SignerUnknown => (Code::SigningChainMissing, Challenge::SigningChain),
            EvidenceError::SignerMismatch { .. } | EvidenceError::OtherPeer { .. } => {
                (Code::SignerMismatch, Challenge::Proof)
            }
            EvidenceError::Body(_) | EvidenceError::BodyChanged => (Code::BodyChanged, Challenge::Proof),
            EvidenceError::NoClaims { .. } => (Code::TokenClaims, Challenge::Mode(Mode::Jwt)),
            EvidenceError::BelowFloor { mode, accepts } => below_floor(*mode, accepts),
        };
        Self::new(code, error.to_string()).with_challenge(challenge)
    }
}

impl From<&HandshakeRefusal> for Denial {
    fn from(refusal: &HandshakeRefusal) -> Self {
        let code = match refusal {
            HandshakeRefusal::NoCertificate => Code::CertificateMissing,
            HandshakeRefusal::Peer(peer) => code_of_peer(peer),
            HandshakeRefusal::NoPossession | HandshakeRefusal::Protocol { .. } | HandshakeRefusal::Plain => {
                Code::HandshakeFailed
            }
            HandshakeRefusal::TimedOut => Code::HandshakeTimeout,
        };
        Self::new(code, refusal.to_string())
    }
}

impl From<&CallError> for Denial {
    fn from(error: &CallError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Less than the service accepts, or nothing at all.
fn below_floor(mode: Mode, accepts: &[Mode]) -> (Code, Challenge) {
    let challenge = Challenge::of_floor(accepts);
    match (mode, challenge) {
        (Mode::None, Challenge::Certificate) => (Code::CertificateMissing, challenge),
        _ => (Code::ProofTooWeak, challenge),
    }
}

/// 80 random bits. Should the generator ever fail, ids repeat; no decision depends on them.
#[must_use]
pub fn new_decision_id() -> DecisionId {
    DecisionId::from_random(random_bytes(&SystemRandom::new()).unwrap_or_default())
}

/// What a client may sign its DPoP proofs with.
const DPOP_ALGORITHMS: &str = "ES256 Ed25519 RS256";
