//! The edge of a deployment, and the authority's own API: users with access tokens, and peers with certificates.
//! Where clients write headers, no other evidence counts; who is let in is each edge's own rule.
//!
//! An access token that is bound to a key counts beside a DPoP proof of that key, and one bound to a certificate over
//! a connection that shows it (RFC 9449, RFC 8705). In other hands it is a stolen one. Nonce and single use of the
//! proof are the edge's part, because each edge has its own: the proof comes here verified.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{
    Binding, Bound, Caller, Freshness, Possession, Proof, UnixTime, User, UserProof, Verified, WorkloadProof,
};
use countersign_keys::JwkSet;
use countersign_ledger::{CheckRecord, CheckResult};
use countersign_request::{DPOP, Head};
use countersign_token::{AccessGrant, AccessToken, DpopProof, ForeignIssuer, Revoked, Shown, TokenFacts};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};

use super::EvidenceError;
use crate::{accept::Connection, live::TokenKeys};

/// What a request brings along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The connection, whose peer was judged in the handshake.
    pub connection: Option<&'a Connection>,
    /// An access token, from `Authorization`.
    pub access_token: Option<&'a str>,
    /// The proof beside it, verified for this request.
    pub proof: Option<&'a DpopProof>,
}

/// An access token, and how its client says that it holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessCredential<'a> {
    /// `Authorization: Bearer TOKEN` (RFC 6750 section 2.1).
    Bearer(&'a str),
    /// `Authorization: DPoP TOKEN`, with the header `DPoP` (RFC 9449 section 7.1).
    Dpop {
        /// The token.
        token: &'a str,
        /// The proof, as it came.
        proof: &'a str,
    },
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Who is calling.
    pub caller: Result<Caller, EvidenceError>,
    /// What can end the access token, if there is one.
    pub token: Option<TokenFacts>,
    /// What was checked, for the decision record.
    pub checks: Vec<CheckRecord>,
}

/// Judges everything that was presented.
#[must_use]
pub fn authenticate(evidence: &Evidence<'_>, keys: &TokenKeys, now: UnixTime) -> Authenticated {
    let mut checks = evidence.connection.and_then(|c| c.peer.as_ref()).map_or_else(Vec::new, |p| p.checks());
    let judged = judge(evidence, keys, now, &mut checks);
    if let Err(EvidenceError::Peer(_)) = &judged
        && let Some(peer) = evidence.connection.and_then(|connection| connection.peer.as_ref())
    {
        checks = peer.checks();
    }
    let (caller, token) = match judged {
        Ok((caller, token)) => (Ok(caller), token),
        Err(error) => (Err(error), None),
    };
    Authenticated { caller, token, checks }
}

/// Judges an access token of another issuer than ours, and what came beside it. Whose rules a token is judged by is
/// the edge's part; there is nothing to fall back to. With the caller comes what can end the token.
///
/// # Errors
/// Something that was presented does not hold, or no access token was.
pub fn authenticate_guest(
    evidence: &Evidence<'_>,
    trust: ForeignTrust<'_>,
    revoked: &Revoked,
    now: UnixTime,
) -> Result<(Caller, TokenFacts), EvidenceError> {
    let token = evidence.access_token.ok_or(EvidenceError::NotBearer)?;
    let peer = evidence.connection.and_then(|connection| connection.peer.as_ref());
    let workload = peer.map(|peer| peer.workload(now)).transpose()?;
    let (user, facts) =
        access(evidence, revoked, |shown| Ok(trust.issuer.verify(token, shown, trust.keys, now)?))?;
    let shown = UserShown { user: &user, proof: UserProof::ForeignToken };
    let proof = proof(workload.is_some(), Some(shown), evidence.proof.is_some());
    Ok((Caller::new(workload, Some(user), Vec::new(), proof), facts))
}

/// Another issuer, and the keys that it publishes now.
#[derive(Clone, Copy, Debug)]
pub struct ForeignTrust<'a> {
    /// By which rules.
    pub issuer: &'a ForeignIssuer,
    /// By which keys.
    pub keys: &'a JwkSet,
}

fn judge(
    evidence: &Evidence<'_>,
    keys: &TokenKeys,
    now: UnixTime,
    checks: &mut Vec<CheckRecord>,
) -> Result<(Caller, Option<TokenFacts>), EvidenceError> {
    let peer = evidence.connection.and_then(|connection| connection.peer.as_ref());
    let workload = peer.map(|peer| peer.workload(now)).transpose()?;
    let (mut user, mut facts) = (None, None);
    if let Some(token) = evidence.access_token {
        let (issuer, audience) = (&keys.access_issuer, &keys.access_audience);
        let key_of = |kid: &str| keys.access.get(kid).cloned();
        let verified = access(evidence, &keys.revoked, |shown| {
            Ok(AccessToken::verify_shown(token, shown, issuer, audience, now, key_of)?)
        });
        checks.push(token_check(&verified));
        let (holder, of_token) = verified?;
        (user, facts) = (Some(holder), Some(of_token));
    }
    let shown = user.as_deref().map(|user| UserShown { user, proof: UserProof::AccessToken });
    let proof = proof(workload.is_some(), shown, evidence.proof.is_some());
    Ok((Caller::new(workload, user, Vec::new(), proof), facts))
}

/// The user of an access token that `verify` holds good in the hands of who shows this much, and that nobody took back.
fn access(
    evidence: &Evidence<'_>,
    revoked: &Revoked,
    verify: impl FnOnce(Shown<'_>) -> Result<AccessGrant, EvidenceError>,
) -> Result<(Verified<User>, TokenFacts), EvidenceError> {
    let peer = evidence.connection.and_then(|connection| connection.peer.as_ref());
    let certificate = peer.and_then(|peer| peer.thumbprint()).map(|sha256| URL_SAFE_NO_PAD.encode(sha256));
    let certificates: Vec<String> = certificate.into_iter().collect();
    let proven: Vec<String> = evidence.proof.map(|proof| proof.jkt().to_owned()).into_iter().collect();
    let AccessGrant { user, facts, .. } = verify(Shown::Held { keys: &proven, certificates: &certificates })?;
    // Who sends a proof believes that the token is bound: a token that is not is another one than they think.
    if evidence.proof.is_some() && user.possession == Possession::None {
        return Err(EvidenceError::Combination(
            "a dpop proof came beside an access token that is bound to no key",
        ));
    }
    revoked.judge(&facts)?;
    Ok((user, facts))
}

/// A user, and by whose access token.
#[derive(Clone, Copy)]
struct UserShown<'a> {
    user: &'a User,
    proof: UserProof,
}

/// Per axis the weakest of what was presented: a token that is good until it expires makes the whole
/// request reusable, whatever the channel, unless it comes with a proof for this request alone.
fn proof(has_workload: bool, user: Option<UserShown<'_>>, is_fresh: bool) -> Proof {
    let mut binding = if has_workload { Binding::CHANNEL } else { Binding::NONE };
    if is_fresh {
        binding = binding.and(Bound::Target);
    }
    Proof {
        workload: if has_workload { WorkloadProof::Certificate } else { WorkloadProof::None },
        binding,
        user: user.map_or(UserProof::None, |shown| shown.proof),
        user_possession: user.map_or(Possession::None, |shown| shown.user.possession),
        freshness: match (has_workload, user.is_some(), is_fresh) {
            (_, true, true) => Freshness::SingleUse,
            (_, true, false) => Freshness::Reusable,
            (true, false, _) => Freshness::Connection,
            (false, false, _) => Freshness::None,
        },
    }
}

fn token_check<T>(verified: &Result<T, EvidenceError>) -> CheckRecord {
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
    match authorization(headers.get(AUTHORIZATION).map(HeaderValue::as_bytes))? {
        Some((Scheme::Bearer, token)) => Ok(Some(token)),
        Some((Scheme::Dpop, _)) => Err(EvidenceError::NotBearer),
        None => Ok(None),
    }
}

/// The access token of a request, with the proof where there is one.
///
/// # Errors
/// `Authorization` is of another form, or it and the header `DPoP` do not go together.
pub fn access_credential(request: &impl Head) -> Result<Option<AccessCredential<'_>>, EvidenceError> {
    let mut proofs = request.header_values(&PROOF);
    // A proof that is no text is one that does not hold: it reads as an empty one.
    let proof = proofs.next().map(|value| text(value).unwrap_or_default());
    if proofs.next().is_some() {
        return Err(EvidenceError::Combination("more than one dpop proof came: send one"));
    }
    match (authorization(request.header(&CREDENTIAL))?, proof) {
        (None, None) => Ok(None),
        (Some((Scheme::Bearer, token)), None) => Ok(Some(AccessCredential::Bearer(token))),
        (Some((Scheme::Dpop, token)), Some(proof)) => Ok(Some(AccessCredential::Dpop { token, proof })),
        (Some((Scheme::Dpop, _)), None) => {
            Err(EvidenceError::Combination("an access token came under the scheme DPoP without a proof"))
        }
        (_, Some(_)) => {
            Err(EvidenceError::Combination("a dpop proof came without an access token under the scheme DPoP"))
        }
    }
}

/// How a client says that it holds its token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Dpop,
}

fn authorization(value: Option<&[u8]>) -> Result<Option<(Scheme, &str)>, EvidenceError> {
    let Some(value) = value else { return Ok(None) };
    let text = text(value).ok_or(EvidenceError::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(EvidenceError::NotBearer)?;
    let token = token.trim_start_matches(' ');
    let scheme = [("bearer", Scheme::Bearer), ("dpop", Scheme::Dpop)]
        .into_iter()
        .find_map(|(name, known)| scheme.eq_ignore_ascii_case(name).then_some(known))
        .ok_or(EvidenceError::NotBearer)?;
    if token.is_empty() || token.contains(' ') {
        return Err(EvidenceError::NotBearer);
    }
    Ok(Some((scheme, token)))
}

static PROOF: HeaderName = DPOP;
static CREDENTIAL: HeaderName = AUTHORIZATION;

/// Credentials are written in visible ASCII.
fn text(value: &[u8]) -> Option<&str> {
    let visible = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| visible)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use countersign_request::AuthorityRef;
    use http::Method;

    /// What a request says in its headers, also where no request could.
    struct Said(HeaderMap);

    impl Head for Said {
        fn method(&self) -> &Method {
            &Method::GET
        }

        fn authority(&self) -> AuthorityRef<'_> {
            AuthorityRef::parse("flea.test").unwrap()
        }

        fn path(&self) -> &str {
            "/"
        }

        fn query(&self) -> Option<&str> {
            None
        }

        fn header_values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
            self.0.get_all(name).iter().map(HeaderValue::as_bytes)
        }
    }

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
        for bad in ["Basic abc", "Bearer", "Bearer ", "Bearer a b", "abc", "DPoP", "DPoP a b"] {
            assert_eq!(bearer_token(&headers(bad)), Err(EvidenceError::NotBearer), "{bad}");
            assert_eq!(access_credential(&Said(headers(bad))), Err(EvidenceError::NotBearer), "{bad}");
        }
        assert_eq!(
            bearer_token(&headers("DPoP abc")),
            Err(EvidenceError::NotBearer),
            "where no proof is looked at"
        );
    }

    #[test]
    fn a_token_under_the_scheme_dpop_and_exactly_one_proof_belong_together() {
        let with = |authorization: &'static str, proofs: &[&'static str]| {
            let mut headers = HeaderMap::new();
            if !authorization.is_empty() {
                headers.insert(AUTHORIZATION, HeaderValue::from_static(authorization));
            }
            for proof in proofs {
                headers.append(DPOP, HeaderValue::from_static(proof));
            }
            access_credential(&Said(headers)).map(|credential| format!("{credential:?}"))
        };
        assert_eq!(with("", &[]).unwrap(), "None");
        assert_eq!(with("Bearer abc", &[]).unwrap(), "Some(Bearer(\"abc\"))");
        assert_eq!(with("dpop abc", &["x"]).unwrap(), "Some(Dpop { token: \"abc\", proof: \"x\" })");
        for (authorization, proofs) in
            [("DPoP abc", &[][..]), ("DPoP abc", &["x", "y"]), ("Bearer abc", &["x"]), ("", &["x"])]
        {
            let refused = with(authorization, proofs);
            assert!(matches!(refused, Err(EvidenceError::Combination(_))), "{authorization}: {refused:?}");
        }
    }

    #[test]
    fn proof_is_per_axis_the_weakest_of_what_was_presented() {
        let user = |possession| User {
            id: "u_1".into(),
            name: "alice".into(),
            roles: Vec::new(),
            txn: "1".into(),
            requested_by: None,
            actors: Vec::new(),
            possession,
            not_after: UnixTime::from_secs(0),
        };
        let (bearer, holder) = (user(Possession::None), user(Possession::Key));
        let shown = |user| Some(UserShown { user, proof: UserProof::AccessToken });
        assert_eq!(proof(false, None, false), Proof::NONE);
        assert_eq!(proof(true, None, false).freshness, Freshness::Connection);
        let both = proof(true, shown(&bearer), false);
        assert_eq!((both.binding, both.freshness), (Binding::CHANNEL, Freshness::Reusable));
        assert_eq!(proof(false, shown(&bearer), false).binding, Binding::NONE);
        let held = proof(false, shown(&holder), true);
        assert_eq!((held.user_possession, held.freshness), (Possession::Key, Freshness::SingleUse));
        assert_eq!(held.binding, Binding::of(&[Bound::Target]));
        let guest = UserShown { user: &bearer, proof: UserProof::ForeignToken };
        assert!(proof(false, Some(guest), false).user < proof(false, shown(&bearer), false).user);
    }
}
