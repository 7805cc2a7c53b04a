//! Which evidence a request carries, and whether it goes together. Nothing is verified here.

use countersign_request::{
    CanonicalRequest, SIGNING_CHAIN, TXN_TOKEN, USER_TOKEN, WORKLOAD_IDENTITY_TOKEN, WORKLOAD_PROOF_TOKEN,
};
use countersign_token::{jws, typ::TokenKind};
use http::{HeaderName, header::AUTHORIZATION};

use super::{EvidenceError, service_token::Signed, workload::Proven};
use crate::{
    accept::{Connection, Exporter, Origin},
    outbound::InternalToken,
    tls::Peer,
};

/// What came with a request.
pub(super) struct Presented<'a> {
    pub(super) request: &'a CanonicalRequest,
    pub(super) workload: WorkloadEvidence<'a>,
    pub(super) exporter: Option<&'a Exporter>,
    pub(super) txn_token: Option<&'a str>,
    pub(super) user_token: Option<&'a str>,
}

/// By what a workload wants to be known: one of these, and never two that no mode combines.
pub(super) enum WorkloadEvidence<'a> {
    /// By nothing.
    Nothing,
    /// By the certificate of its connection.
    Certificate(&'a Peer),
    /// By an opaque bearer token.
    Bearer(&'a str),
    /// By a macaroon, with its discharges.
    Macaroon(&'a str),
    /// By a JWT-SVID.
    JwtSvid(&'a str),
    /// By a token that it signed itself; perhaps beside a certificate, perhaps with the chain of the signing key.
    ServiceToken(Signed<'a>),
    /// By a workload identity token, with a proof of its key.
    Wimse { wit: &'a str, proof: WimseProof<'a> },
}

/// How possession of the key in a workload identity token is proven.
pub(super) enum WimseProof<'a> {
    /// By a workload proof token.
    Token(&'a str),
    /// By an HTTP message signature.
    Signature,
}

/// The token of a user, and how it came.
pub(super) enum UserToken {
    /// `Txn-Token`.
    Internal(String),
    /// `User-Token`.
    Hop(String),
    /// Inside the caller's own token.
    Nested(String),
}

impl<'a> Presented<'a> {
    pub(super) fn read(
        request: &'a CanonicalRequest,
        connection: Option<&'a Connection>,
    ) -> Result<Self, EvidenceError> {
        let header = |name: HeaderName| text(request, &name);
        let workload = workload(request, connection)?;
        let presented = Self {
            request,
            exporter: connection.and_then(|connection| connection.exporter.as_ref()),
            txn_token: header(TXN_TOKEN),
            user_token: header(USER_TOKEN),
            workload,
        };
        if presented.workload.is_token() && connection.is_some_and(is_in_the_clear) {
            return Err(EvidenceError::InTheClear);
        }
        Ok(presented)
    }

    /// The one token of a user. Two that speak of different users, or of the same one differently, are none.
    pub(super) fn user_token(&self, proven: &Proven) -> Result<Option<UserToken>, EvidenceError> {
        match (self.txn_token, self.user_token, proven.nested_user()) {
            (None, None, None) => Ok(None),
            (Some(token), None, None) => Ok(Some(UserToken::Internal(token.to_owned()))),
            (None, Some(token), None) => Ok(Some(UserToken::Hop(token.to_owned()))),
            (None, None, Some(token)) => Ok(Some(UserToken::Nested(token.to_owned()))),
            _ => Err(EvidenceError::Combination("the user's token came twice: send it in one way")),
        }
    }
}

impl UserToken {
    /// As it may go on: what was made for this hop alone ends here, and is exchanged for another.
    pub(super) fn into_internal(self) -> InternalToken {
        match self {
            Self::Internal(token) => InternalToken::verified(&token),
            Self::Hop(token) => InternalToken::verified_for_this_hop(&token),
            Self::Nested(token) => match kind(&token) {
                Some(TokenKind::TxnToken) => InternalToken::verified(&token),
                _ => InternalToken::verified_for_this_hop(&token),
            },
        }
    }
}

/// Which kind of token this says it is.
pub(super) fn kind(token: &str) -> Option<TokenKind> {
    TokenKind::of(&jws::claimed_typ(token).ok()?)
}

impl WorkloadEvidence<'_> {
    /// Is it in the request, as opposed to the connection?
    pub(super) const fn is_token(&self) -> bool {
        !matches!(self, Self::Nothing | Self::Certificate(_))
    }
}

/// Everybody between its ends reads what goes over TCP without TLS; a Unix socket has nobody between.
fn is_in_the_clear(connection: &Connection) -> bool {
    connection.exporter.is_none() && matches!(connection.origin, Origin::Tcp(_))
}

fn workload<'a>(
    request: &'a CanonicalRequest,
    connection: Option<&'a Connection>,
) -> Result<WorkloadEvidence<'a>, EvidenceError> {
    let peer = connection.and_then(|connection| connection.peer.as_deref());
    let chain = text(request, &SIGNING_CHAIN);
    let by_header = authorization(request)?;
    let by_wimse = wimse(request)?;
    if chain.is_some() && !matches!(by_header, Some(WorkloadEvidence::ServiceToken(_))) {
        return Err(EvidenceError::Combination("a signing chain came without a token that it certifies"));
    }
    match (peer, by_header, by_wimse) {
        (None, None, None) => Ok(WorkloadEvidence::Nothing),
        (Some(peer), None, None) => Ok(WorkloadEvidence::Certificate(peer)),
        (peer, Some(WorkloadEvidence::ServiceToken(signed)), None) => {
            Ok(WorkloadEvidence::ServiceToken(Signed { chain, peer, ..signed }))
        }
        (None, Some(evidence), None) | (None, None, Some(evidence)) => Ok(evidence),
        (Some(_), ..) => Err(EvidenceError::Combination(
            "beside a client certificate only a self-signed service token counts: send one of the two",
        )),
        (None, Some(_), Some(_)) => Err(EvidenceError::Combination(
            "the authorization header and a workload identity token name a caller each: send one of them",
        )),
    }
}

/// What `Authorization` proves. Other schemes than ours are the application's own business.
fn authorization(request: &CanonicalRequest) -> Result<Option<WorkloadEvidence<'_>>, EvidenceError> {
    let Some(value) = text(request, &AUTHORIZATION) else { return Ok(None) };
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    let token = token.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("macaroon") {
        return Ok(Some(WorkloadEvidence::Macaroon(token)));
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    if token.is_empty() || token.contains(' ') {
        return Err(EvidenceError::NotBearer);
    }
    if countersign_token::bearer::claims_to_be(token) {
        return Ok(Some(WorkloadEvidence::Bearer(token)));
    }
    let typ = jws::claimed_typ(token).map_err(EvidenceError::Unreadable)?;
    match TokenKind::of(&typ) {
        Some(TokenKind::Service) => {
            Ok(Some(WorkloadEvidence::ServiceToken(Signed { token, chain: None, peer: None })))
        }
        Some(TokenKind::JwtSvid) => Ok(Some(WorkloadEvidence::JwtSvid(token))),
        _ => Err(EvidenceError::UnknownKind { typ: typ.chars().take(64).collect() }),
    }
}

fn wimse(request: &CanonicalRequest) -> Result<Option<WorkloadEvidence<'_>>, EvidenceError> {
    let wit = text(request, &WORKLOAD_IDENTITY_TOKEN);
    let token = text(request, &WORKLOAD_PROOF_TOKEN);
    let signed = text(request, &SIGNATURE_INPUT).is_some_and(|input| input.contains(SIGNATURE_TAG));
    let proof = match (token, signed) {
        (Some(_), true) => {
            return Err(EvidenceError::Combination("a proof token and a signature came: send one of them"));
        }
        (Some(token), false) => Some(WimseProof::Token(token)),
        (None, true) => Some(WimseProof::Signature),
        (None, false) => None,
    };
    match (wit, proof) {
        (None, None) => Ok(None),
        (Some(wit), Some(proof)) => Ok(Some(WorkloadEvidence::Wimse { wit, proof })),
        (Some(_), None) => Err(EvidenceError::Combination(
            "a workload identity token came without a proof that its key is held",
        )),
        (None, Some(_)) => {
            Err(EvidenceError::Combination("a proof came without the workload identity token that it proves"))
        }
    }
}

/// A header that is there and no text is evidence that does not hold: it reads as an empty one.
fn text<'a>(request: &'a CanonicalRequest, name: &HeaderName) -> Option<&'a str> {
    request.headers().get(name).map(|value| std::str::from_utf8(value.as_bytes()).unwrap_or_default())
}

const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
/// Other signatures may be there for other readers (RFC 9421 section 2.3).
const SIGNATURE_TAG: &str = "\"wimse-workload-to-workload\"";
