//! The door: evidence in, [`Caller`] out. Nothing else in a deployment turns evidence into a caller.
//!
//! Absent evidence is nobody: no identity is invented or defaulted. Evidence that is present and does not
//! hold is final: it never falls through to a weaker kind, so a bad token is not the same as none.

use countersign_identity::{
    Binding, Caller, Freshness, Possession, Proof, SpiffeId, UnixTime, User, UserProof, Verified, Workload,
    WorkloadProof,
};
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_pki::verify::PeerError;
use countersign_token::{AccessToken, AccessTokenError, TxnToken, TxnTokenError};
use http::{HeaderMap, header::AUTHORIZATION};
use thiserror::Error;

use crate::{accept::Connection, live::TokenKeys};

/// What a request brings along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The connection, whose peer was judged in the handshake.
    pub connection: Option<&'a Connection>,
    /// An internal token, from the header `Txn-Token`. Never given at the edge, where clients write headers.
    pub txn_token: Option<&'a str>,
    /// An access token, from `Authorization`. Given at the edge alone.
    pub access_token: Option<&'a str>,
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Who is calling.
    pub caller: Result<Caller, EvidenceError>,
    /// What was checked, for the decision record.
    pub checks: Vec<CheckRecord>,
}

/// Why evidence does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EvidenceError {
    /// The peer passed the handshake and is no longer believed.
    #[error("peer of this connection is no longer believed: {0}")]
    Peer(#[from] PeerError),
    /// The internal token.
    #[error(transparent)]
    TxnToken(#[from] TxnTokenError),
    /// An internal token from somebody who proved no name: only workloads pass tokens on.
    #[error("internal token came without a client certificate: connect over mTLS")]
    TokenFromStranger,
    /// The access token.
    #[error(transparent)]
    AccessToken(#[from] AccessTokenError),
    /// `Authorization` is there and is not `Bearer TOKEN`.
    #[error("authorization header is not of the form `Bearer TOKEN`")]
    NotBearer,
}

/// Judges everything that was presented.
#[must_use]
pub fn authenticate(evidence: &Evidence<'_>, keys: &TokenKeys, now: UnixTime) -> Authenticated {
    let mut checks = evidence.connection.and_then(|c| c.peer.as_ref()).map_or_else(Vec::new, |p| p.checks());
    let caller = judge(evidence, keys, now, &mut checks);
    if let Err(EvidenceError::Peer(_)) = &caller
        && let Some(peer) = evidence.connection.and_then(|connection| connection.peer.as_ref())
    {
        checks = peer.checks();
    }
    Authenticated { caller, checks }
}

fn judge(
    evidence: &Evidence<'_>,
    keys: &TokenKeys,
    now: UnixTime,
    checks: &mut Vec<CheckRecord>,
) -> Result<Caller, EvidenceError> {
    let workload = workload(evidence, now)?;
    let (user, proven_by) = match (evidence.txn_token, evidence.access_token) {
        (Some(token), _) => {
            let verified = internal(token, workload.as_ref(), keys, now);
            checks.push(token_check(&verified));
            (Some(verified?), UserProof::InternalToken)
        }
        (None, Some(token)) => {
            let verified = access(token, keys, now);
            checks.push(token_check(&verified));
            (Some(verified?), UserProof::AccessToken)
        }
        (None, None) => (None, UserProof::None),
    };
    let proof = proof(workload.is_some(), proven_by);
    let chain = came_through(workload.as_ref(), user.as_ref());
    Ok(Caller::new(workload, user, chain, proof))
}

fn workload(evidence: &Evidence<'_>, now: UnixTime) -> Result<Option<Verified<Workload>>, EvidenceError> {
    let peer = evidence.connection.and_then(|connection| connection.peer.as_ref());
    Ok(peer.map(|peer| peer.workload(now)).transpose()?)
}

fn internal(
    token: &str,
    workload: Option<&Verified<Workload>>,
    keys: &TokenKeys,
    now: UnixTime,
) -> Result<Verified<User>, EvidenceError> {
    if workload.is_none() {
        return Err(EvidenceError::TokenFromStranger);
    }
    let key_of = |kid: &str| keys.internal.get(kid).cloned();
    Ok(TxnToken::verify(token, &keys.trust_domain, now, key_of)?)
}

fn access(token: &str, keys: &TokenKeys, now: UnixTime) -> Result<Verified<User>, EvidenceError> {
    let key_of = |kid: &str| keys.access.get(kid).cloned();
    Ok(AccessToken::verify(token, &keys.access_issuer, &keys.access_audience, now, key_of)?)
}

/// Per axis the weakest of what was presented: a token that is good until it expires makes the whole
/// request reusable, whatever the channel.
fn proof(has_workload: bool, user: UserProof) -> Proof {
    let token = user != UserProof::None;
    Proof {
        workload: if has_workload { WorkloadProof::Certificate } else { WorkloadProof::None },
        binding: if has_workload { Binding::CHANNEL } else { Binding::NONE },
        user,
        user_possession: Possession::None,
        freshness: match (has_workload, token) {
            (_, true) => Freshness::Reusable,
            (true, false) => Freshness::Connection,
            (false, false) => Freshness::None,
        },
    }
}

/// The workload that asked for the internal token, unless it is the caller itself.
fn came_through(workload: Option<&Verified<Workload>>, user: Option<&Verified<User>>) -> Vec<SpiffeId> {
    let requester = user.and_then(|user| user.requested_by.clone());
    requester.filter(|id| workload.is_none_or(|workload| workload.id != *id)).into_iter().collect()
}

fn token_check(verified: &Result<Verified<User>, EvidenceError>) -> CheckRecord {
    let (result, detail) = match verified {
        Ok(_) => (CheckResult::Pass, String::new()),
        Err(error) => (CheckResult::Fail, error.to_string()),
    };
    CheckRecord { name: "token".to_owned(), result, detail }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 section 2.1); the scheme's case does not count.
///
/// # Errors
/// The header is there and says something else: that is evidence, and it does not hold.
pub fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, EvidenceError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| EvidenceError::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(EvidenceError::NotBearer)?;
    let token = token.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains(' ') {
        return Err(EvidenceError::NotBearer);
    }
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::HeaderValue;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn accepts_a_bearer_token_in_any_case_of_the_scheme() {
        assert_eq!(bearer_token(&headers("Bearer abc")), Ok(Some("abc")));
        assert_eq!(bearer_token(&headers("bearer abc")), Ok(Some("abc")));
        assert_eq!(bearer_token(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn rejects_an_authorization_header_of_another_form() {
        for bad in ["Basic abc", "Bearer", "Bearer ", "Bearer a b", "abc"] {
            assert_eq!(bearer_token(&headers(bad)), Err(EvidenceError::NotBearer), "{bad}");
        }
    }

    #[test]
    fn proof_is_per_axis_the_weakest_of_what_was_presented() {
        assert_eq!(proof(false, UserProof::None), Proof::NONE);
        assert_eq!(proof(true, UserProof::None).freshness, Freshness::Connection);
        let both = proof(true, UserProof::InternalToken);
        assert_eq!((both.binding, both.freshness), (Binding::CHANNEL, Freshness::Reusable));
        assert_eq!(proof(false, UserProof::AccessToken).binding, Binding::NONE);
    }
}
