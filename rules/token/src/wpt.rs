//! Workload proof tokens (draft-ietf-wimse-wpt-02): possession of the key in a WIT, proven for one request.
//!
//! A WPT is bound to the target URI and to every token that travels beside it, not to method, query or body; the
//! other profile, [`crate::http_signature`], is. Ours say two things more than the draft, in claims that others
//! ignore: `iat`, and `cbx`, the exporter of the TLS connection (RFC 9266), with which the proof dies.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Binding, Bound, CLOCK_SKEW, UnixTime, Verified};
use countersign_keys::{KeyPair, constant_time_eq, sha256};
use serde_json::{Map, Value, json};

use crate::{
    claims::{ClaimError, Claims, optional},
    jws::{self, JwsError, printable},
    times::{self, TimeError},
    typ::TokenKind,
    wit::{PROOF_ID_BYTES_MAX, ProofFacts, ProvenWorkload, Subject, Unproven},
};

/// What a proof is made for: the caller states what it sends, the callee what it is and what came. It holds tokens,
/// and so it cannot be printed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ProofTarget<'a> {
    /// `aud`: the target URI without query and fragment, see [`target_uri`]. The callee takes its authority from
    /// what it was configured with and never from a `Host` header that nobody checked.
    pub audience: &'a str,
    /// The OAuth access token in `Authorization`, if one is there.
    pub access_token: Option<&'a str>,
    /// The token in `Txn-Token`, if one is there.
    pub txn_token: Option<&'a str>,
    /// Other tokens that tell of a user: lower-case name of the header field, and its value.
    pub others: &'a [(&'a str, &'a str)],
    /// The exporter `EXPORTER-Channel-Binding` of the connection (RFC 9266); `None` where there is none to share.
    pub exporter: Option<&'a [u8; 32]>,
}

/// The target URI of a request (RFC 9110 section 7.1) without query and fragment.
pub fn target_uri(authority: &str, path: &str) -> String {
    format!("https://{authority}{path}")
}

/// Makes a proof with the workload's `key`, which must be the one that `wit` names. `id` is random, of 96 bits or
/// more, and never used twice.
pub fn mint(
    key: &KeyPair,
    wit: &str,
    target: &ProofTarget<'_>,
    id: &str,
    now: UnixTime,
    expires: UnixTime,
) -> Result<String, WptError> {
    judge_id(id)?;
    judge_times(Some(now), expires, WPT_LIFETIME_MAX, now)?;
    let others: Map<String, Value> =
        target.others.iter().map(|(name, value)| ((*name).to_owned(), hash(value).into())).collect();
    let mut claims = json!({
        "aud": target.audience,
        "iat": now.secs(),
        "exp": expires.secs(),
        "jti": id,
        "wth": hash(wit),
    });
    let optional: [(&str, Option<Value>); 4] = [
        ("ath", target.access_token.map(|token| hash(token).into())),
        ("tth", target.txn_token.map(|token| hash(token).into())),
        ("oth", (!others.is_empty()).then(|| others.into())),
        ("cbx", target.exporter.map(|exporter| URL_SAFE_NO_PAD.encode(exporter).into())),
    ];
    for (name, value) in optional {
        if let (Some(claims), Some(value)) = (claims.as_object_mut(), value) {
            claims.insert(name.to_owned(), value);
        }
    }
    Ok(jws::sign_as(TokenKind::Wpt, key, claims.to_string().as_bytes())?)
}

/// Verifies a proof against the WIT that came with it and against what the callee knows of the request.
///
/// The replay cache is the caller's: [`ProvenWorkload::proof_id`] counts once.
pub fn verify<S: Subject>(
    token: &str,
    wit: &Unproven<S>,
    target: &ProofTarget<'_>,
    now: UnixTime,
) -> Result<Verified<ProvenWorkload<S>>, WptError> {
    let unverified = jws::parse_as(TokenKind::Wpt, token)?;
    let (got, want) = (unverified.alg_name(), wit.confirmation().alg());
    if got != want {
        return Err(WptError::WrongAlgorithm { got: printable(got), want: printable(want) });
    }
    let claims = Claims::parse(unverified.verify(wit.confirmation().key())?)?;
    // The WIT may come from a cache, where it was in date.
    if now >= wit.expires() {
        return Err(WptError::WitExpired { by_seconds: now.since(wit.expires()).as_secs() });
    }
    let audience = claims.string("aud")?;
    if audience != target.audience {
        return Err(WptError::WrongAudience { got: printable(audience) });
    }
    let issued = optional(claims.time("iat"))?;
    let expires = claims.time("exp")?;
    judge_times(issued, expires, S::PROOF_LIFETIME_MAX, now)?;
    judge_hash("wth", claims.string("wth")?, wit.hash())?;
    let covers = judge_tokens(&claims, target)?;
    let binding = judge_channel(&claims, target.exporter)?;
    let id = claims.string("jti")?;
    judge_id(id)?;
    Ok(wit.proven(ProofFacts {
        id: id.to_owned(),
        issued: issued.unwrap_or_else(|| expires.saturating_sub(S::PROOF_LIFETIME_MAX)),
        expires,
        binding,
        covers,
    }))
}

/// Every token that came must be the one that the proof was made beside, and the other way round. Gives the header
/// fields whose tokens the proof covers.
fn judge_tokens(claims: &Claims, target: &ProofTarget<'_>) -> Result<Vec<String>, WptError> {
    let mut covers = Vec::new();
    let own = [("ath", "authorization", target.access_token), ("tth", "txn-token", target.txn_token)];
    for (claim, header, token) in own {
        match (optional(claims.string(claim))?, token) {
            (Some(hash), Some(token)) => {
                judge_hash(claim, hash, &sha256(token.as_bytes()))?;
                covers.push(header.to_owned());
            }
            (Some(_), None) => return Err(WptError::TokenGone { claim }),
            (None, Some(_)) => return Err(WptError::Uncovered { claim }),
            (None, None) => {}
        }
    }
    let Some(others) = optional(claims.object("oth"))? else { return Ok(covers) };
    for (name, hash) in others.entries() {
        let (_, token) = target
            .others
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| WptError::UnknownOther { name: printable(name) })?;
        let token = token.trim_matches(' ');
        judge_hash("oth", hash.as_text().unwrap_or_default(), &sha256(token.as_bytes()))?;
        covers.push(name.to_owned());
    }
    Ok(covers)
}

/// What the proof is bound to besides its tokens.
fn judge_channel(claims: &Claims, exporter: Option<&[u8; 32]>) -> Result<Binding, WptError> {
    let target = Binding::of(&[Bound::Target]);
    let Some(bound_to) = optional(claims.string("cbx"))? else { return Ok(target) };
    let ours = exporter.map(|exporter| URL_SAFE_NO_PAD.encode(exporter));
    match ours {
        Some(ours) if constant_time_eq(ours.as_bytes(), bound_to.as_bytes()) => {
            Ok(target.and(Bound::Channel))
        }
        _ => Err(WptError::WrongChannel),
    }
}

fn judge_times(
    issued: Option<UnixTime>,
    expires: UnixTime,
    lifetime_max: Duration,
    now: UnixTime,
) -> Result<(), TimeError> {
    if let Some(issued) = issued {
        return times::judge(issued, expires, lifetime_max, now);
    }
    times::judge_end(expires, now)?;
    // The lifetime is unknown; what can be judged is for how long the proof would have to be remembered.
    let (left, max) = (expires.since(now).as_secs(), (lifetime_max + CLOCK_SKEW).as_secs());
    if left > max { Err(TimeError::Lifetime { seconds: left, max }) } else { Ok(()) }
}

fn judge_hash(claim: &'static str, got: &str, want: &[u8; 32]) -> Result<(), WptError> {
    let want = URL_SAFE_NO_PAD.encode(want);
    if constant_time_eq(got.as_bytes(), want.as_bytes()) {
        Ok(())
    } else {
        Err(WptError::WrongHash { claim })
    }
}

fn judge_id(id: &str) -> Result<(), WptError> {
    if id.is_empty() || id.len() > PROOF_ID_BYTES_MAX {
        return Err(WptError::Id { bytes: id.len() });
    }
    Ok(())
}

fn hash(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(token.as_bytes()))
}

/// Why a workload proof token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WptError {
    /// Not a token at all, or not signed with the key that the WIT names.
    #[error(transparent)]
    Jws(JwsError),
    /// A token of another kind.
    #[error("a token of type {typ:?} is not a workload proof token; send one of type {WPT_TYP}")]
    WrongKind {
        /// What it says it is.
        typ: String,
    },
    /// Made with another algorithm than `cnf.jwk.alg` of the WIT.
    #[error("the proof is made with {got:?}, but the workload identity token allows {want:?} alone")]
    WrongAlgorithm {
        /// What its header says.
        got: String,
        /// What the WIT says.
        want: String,
    },
    /// The WIT has expired since it was verified.
    #[error("the workload identity token expired {by_seconds} s ago; fetch a new one from the agent")]
    WitExpired {
        /// How long ago.
        by_seconds: u64,
    },
    /// A claim is absent or malformed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Made for another target.
    #[error("the proof is for {got:?}; make one for the target URI of each request")]
    WrongAudience {
        /// Whom it is for.
        got: String,
    },
    /// Not now: expired, from the future, or alive for longer than the profile allows.
    #[error("the proof does not count now: {0}")]
    Times(#[from] TimeError),
    /// The hash in this claim is not that of the token that came.
    #[error(
        "{claim} is not the hash of the token beside the proof; make the proof after the tokens are chosen"
    )]
    WrongHash {
        /// `wth`, `ath`, `tth` or `oth`.
        claim: &'static str,
    },
    /// A token came that the proof must name in this claim, and does not.
    #[error("the proof has no {claim}, but such a token came with it; make the proof for all of them")]
    Uncovered {
        /// `ath` or `tth`.
        claim: &'static str,
    },
    /// The proof names a token in this claim that did not come.
    #[error("the proof has {claim}, but no such token came with it; did something on the way remove it?")]
    TokenGone {
        /// `ath` or `tth`.
        claim: &'static str,
    },
    /// `oth` names a token that is not understood, or did not come.
    #[error("oth names {name:?}, which is no token that came and is understood here")]
    UnknownOther {
        /// Its name.
        name: String,
    },
    /// Made on another connection.
    #[error("the proof is bound to another connection; make one on the connection that carries the request")]
    WrongChannel,
    /// `jti` is empty or longer than [`PROOF_ID_BYTES_MAX`].
    #[error("the id of the proof has {bytes} bytes, not 1 to {PROOF_ID_BYTES_MAX}")]
    Id {
        /// Its length.
        bytes: usize,
    },
}

jws::tells_other_kinds!(WptError);

/// The draft that this file follows.
pub const WPT_DRAFT: &str = "draft-ietf-wimse-wpt-02";
/// `typ` of a WPT.
pub const WPT_TYP: &str = TokenKind::Wpt.typ();
/// Longest life of a WPT that we make.
pub const WPT_LIFETIME_MAX: Duration = Duration::from_secs(60);
/// How long a WPT lives unless somebody says otherwise.
pub const WPT_LIFETIME: Duration = Duration::from_secs(30);
