//! The edge of a deployment, and the authority's own API: users with access tokens, and peers with certificates.
//! Where clients write headers, no other evidence counts; who is let in is each edge's own rule.

use countersign_identity::{
    Binding, Caller, Freshness, Possession, Proof, UnixTime, User, UserProof, Verified, WorkloadProof,
};
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_token::AccessToken;
use http::{HeaderMap, header::AUTHORIZATION};

use super::EvidenceError;
use crate::{accept::Connection, live::TokenKeys};

/// What a request brings along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The connection, whose peer was judged in the handshake.
    pub connection: Option<&'a Connection>,
    /// An access token, from `Authorization`.
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
    let peer = evidence.connection.and_then(|connection| connection.peer.as_ref());
    let workload = peer.map(|peer| peer.workload(now)).transpose()?;
    let mut user = None;
    if let Some(token) = evidence.access_token {
        let verified = access(token, keys, now);
        checks.push(token_check(&verified));
        user = Some(verified?);
    }
    let proof = proof(workload.is_some(), user.is_some());
    Ok(Caller::new(workload, user, Vec::new(), proof))
}

fn access(token: &str, keys: &TokenKeys, now: UnixTime) -> Result<Verified<User>, EvidenceError> {
    let key_of = |kid: &str| keys.access.get(kid).cloned();
    Ok(AccessToken::verify(token, &keys.access_issuer, &keys.access_audience, now, key_of)?)
}

/// Per axis the weakest of what was presented: a token that is good until it expires makes the whole
/// request reusable, whatever the channel.
fn proof(has_workload: bool, has_user: bool) -> Proof {
    Proof {
        workload: if has_workload { WorkloadProof::Certificate } else { WorkloadProof::None },
        binding: if has_workload { Binding::CHANNEL } else { Binding::NONE },
        user: if has_user { UserProof::AccessToken } else { UserProof::None },
        user_possession: Possession::None,
        freshness: match (has_workload, has_user) {
            (_, true) => Freshness::Reusable,
            (true, false) => Freshness::Connection,
            (false, false) => Freshness::None,
        },
    }
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
        assert_eq!(proof(false, false), Proof::NONE);
        assert_eq!(proof(true, false).freshness, Freshness::Connection);
        let both = proof(true, true);
        assert_eq!((both.binding, both.freshness), (Binding::CHANNEL, Freshness::Reusable));
        assert_eq!(proof(false, true).binding, Binding::NONE);
    }
}
