//! Workload identity tokens (draft-ietf-wimse-workload-creds-03): a statement of an issuer which workload holds
//! which key. By itself such a token proves nothing about who sent it, so what [`Wit::verify`] gives is
//! [`Unproven`]: only a proof made with that key ([`crate::wpt`], [`crate::http_signature`]) turns it into a
//! [`ProvenWorkload`]. A WIT as a bearer token does not compile:
//!
//! ```compile_fail
//! # use countersign_token::{ProvenWorkload, Unproven};
//! fn as_a_bearer_token(wit: Unproven) -> ProvenWorkload {
//!     wit.proven()
//! }
//! ```
//!
//! Two profiles, chosen by the type of the subject: [`SpiffeId`] is the WIT-SVID of SPIFFE and what runs here,
//! [`WorkloadUri`] takes whatever the drafts allow and runs their examples.

mod subject;

use std::time::Duration;

use countersign_identity::{Binding, CLOCK_SKEW, SpiffeId, TrustDomain, UnixTime, Verified};
use countersign_keys::{JwkError, KeyPair, PublicKey, sha256};
use serde_json::json;

pub use subject::{Subject, WorkloadUri};

use crate::{
    claims::{ClaimError, Claims, optional},
    jws::{self, JwsError, printable},
    times::{self, TimeError},
    typ::TokenKind,
};

/// What a workload identity token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wit<S = SpiffeId> {
    /// Whose identity it is: the one workload identifier.
    pub subject: S,
    /// The key whose possession the workload has to prove.
    pub confirmation: ConfirmationKey,
    /// `jti`: for audit and revocation. Never for replay: two instances of a workload may hold the same WIT.
    pub token_id: Option<String>,
    /// `iss`: who issued it, for people and for the allow-list of [`WitIssuer::issuer`].
    pub issuer: Option<String>,
    /// When it expires.
    pub expires: UnixTime,
}

/// The key in `cnf.jwk`, with the one algorithm that a proof may be made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmationKey {
    key: PublicKey,
    alg: String,
}

/// Who may sign WITs: found by the `kid` of the token among the keys for WITs, and no others.
#[derive(Clone, Debug)]
pub struct WitIssuer {
    /// The `kid` under which the trust domain publishes the key: with us its thumbprint, elsewhere anything.
    pub kid: String,
    /// That key.
    pub key: PublicKey,
    /// The trust domain that the key speaks for, and the only one.
    pub trust_domain: TrustDomain,
    /// What `iss` must be if the token has one; `None` where nothing is known.
    pub issuer: Option<String>,
}

/// A WIT that its issuer signed and that is in date, sent by somebody who has yet to prove to hold its key.
///
/// It may be cached: proofs judge its expiry again at every use. Revocation is for the caller to look up, by
/// what [`Unproven::token_id`] and [`Unproven::key_ids`] tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproven<S = SpiffeId> {
    wit: Wit<S>,
    issuer_kid: String,
    hash: [u8; 32],
}

/// A workload whose WIT is good and that proved to hold the key which the WIT names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenWorkload<S = SpiffeId> {
    /// Who it is.
    pub subject: S,
    /// The `jti` of its WIT.
    pub wit_id: Option<String>,
    /// When its WIT expires.
    pub wit_expires: UnixTime,
    /// Unique id of the proof, within the caller: what the replay cache remembers until [`Self::proof_expires`].
    pub proof_id: String,
    /// The proof is not older than this.
    pub proof_issued: UnixTime,
    /// When the proof expires.
    pub proof_expires: UnixTime,
    /// What of the request it is bound to.
    pub binding: Binding,
    /// Lower-case names of the header fields whose tokens the proof covers: any other token gives no rights.
    pub covers: Vec<String>,
}

impl<S: Subject> Wit<S> {
    /// Signs it with a key of the subject's trust domain for WITs, which signs nothing else. Whom it is for is not
    /// in it: that is the proof's part.
    pub fn mint(&self, key: &KeyPair, now: UnixTime) -> Result<String, WitError> {
        let mut claims = json!({
            "sub": self.subject.as_str(),
            "iat": now.secs(),
            "exp": self.expires.secs(),
            "cnf": { "jwk": self.confirmation.to_json()? },
        });
        for (name, value) in [("jti", &self.token_id), ("iss", &self.issuer)] {
            if let (Some(claims), Some(value)) = (claims.as_object_mut(), value) {
                claims.insert(name.to_owned(), value.as_str().into());
            }
        }
        let claims = claims.to_string();
        let token = jws::sign_as(TokenKind::Wit, key, claims.as_bytes())?;
        // What we would not accept ourselves never leaves.
        if !S::permits(key.algorithm()) {
            return Err(WitError::ForbiddenAlgorithm { alg: key.algorithm().jose_name().to_owned() });
        }
        judge_times(&read::<S>(claims.as_bytes())?, now)?;
        Ok(token)
    }

    /// Verifies the issuer's part of a WIT at `now`.
    ///
    /// `issuer_of` finds the key of a `kid` among the keys for WITs, and no others. The trust domain of `sub` must
    /// be the one that the key speaks for.
    pub fn verify(
        token: &str,
        now: UnixTime,
        issuer_of: impl FnOnce(&str) -> Option<WitIssuer>,
    ) -> Result<Unproven<S>, WitError> {
        let unverified = jws::parse_as(TokenKind::Wit, token)?;
        let issuer = issuer_of(&unverified.kid)
            .ok_or_else(|| WitError::UnknownKey { kid: printable(&unverified.kid) })?;
        if !S::permits(issuer.key.algorithm()) {
            return Err(WitError::ForbiddenAlgorithm { alg: issuer.key.algorithm().jose_name().to_owned() });
        }
        // A look-up that ignores the kid would let any key of the set speak for any other.
        if unverified.kid != issuer.kid {
            return Err(JwsError::WrongKey.into());
        }
        let read = read::<S>(unverified.verify(&issuer.key)?)?;
        if read.wit.subject.trust_domain() != &issuer.trust_domain {
            return Err(WitError::WrongTrustDomain {
                issuer: issuer.trust_domain,
                sub: printable(read.wit.subject.as_str()),
            });
        }
        if let (Some(got), Some(want)) = (&read.wit.issuer, &issuer.issuer)
            && got != want
        {
            return Err(WitError::WrongIssuer { got: printable(got) });
        }
        judge_times(&read, now)?;
        Ok(Unproven { wit: read.wit, issuer_kid: unverified.kid, hash: sha256(token.as_bytes()) })
    }
}

impl ConfirmationKey {
    /// `key`, whose proofs are made with the one algorithm that it has.
    pub fn new(key: PublicKey) -> Self {
        let alg = key.algorithm().jose_name().to_owned();
        Self { key, alg }
    }

    /// The public half of the workload's key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// `alg` as the WIT spells it: a proof must say exactly the same.
    pub fn alg(&self) -> &str {
        &self.alg
    }

    /// Reads `cnf.jwk` (RFC 7800 section 3.2).
    fn read(cnf: &Claims) -> Result<Self, WitError> {
        // A second confirmation beside the key might restrict it, or name another.
        if let Some(member) = cnf.names().find(|name| *name != "jwk") {
            return Err(WitError::Confirmation { member: printable(member) });
        }
        let jwk = cnf.object("jwk")?;
        let alg = jwk.string("alg")?.to_owned();
        // Whatever its holder calls the key, we know keys by their thumbprints.
        Ok(Self { key: PublicKey::from_jwk(&jwk.without("kid").to_json())?, alg })
    }

    fn to_json(&self) -> Result<serde_json::Value, WitError> {
        let mut jwk: serde_json::Map<_, _> =
            serde_json::from_str(&self.key.to_jwk()).map_err(|_| WitError::Claim(ClaimError::NotJson))?;
        jwk.insert("alg".to_owned(), self.alg.as_str().into());
        Ok(jwk.into())
    }
}

impl<S: Subject> Unproven<S> {
    /// Whom the WIT names: to charge a quota to, or to explain a refusal. Proven is nothing yet.
    pub fn claimed_subject(&self) -> &S {
        &self.wit.subject
    }

    /// The `jti` of the WIT, which somebody may have revoked.
    pub fn token_id(&self) -> Option<&str> {
        self.wit.token_id.as_deref()
    }

    /// The ids of the keys behind it, which somebody may have revoked: the issuer's `kid` and the thumbprint of
    /// the workload's key.
    pub fn key_ids(&self) -> [String; 2] {
        [self.issuer_kid.clone(), self.confirmation().key.thumbprint()]
    }

    /// When the WIT expires.
    pub fn expires(&self) -> UnixTime {
        self.wit.expires
    }

    /// The key to prove possession of.
    pub(crate) fn confirmation(&self) -> &ConfirmationKey {
        &self.wit.confirmation
    }

    /// SHA-256 over the token: what a proof names it by.
    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The workload, after `proof` was verified with its key.
    pub(crate) fn proven(&self, proof: ProofFacts) -> Verified<ProvenWorkload<S>> {
        Verified::vouch(ProvenWorkload {
            subject: self.wit.subject.clone(),
            wit_id: self.wit.token_id.clone(),
            wit_expires: self.wit.expires,
            proof_id: proof.id,
            proof_issued: proof.issued,
            proof_expires: proof.expires,
            binding: proof.binding,
            covers: proof.covers,
        })
    }
}

/// What the checkers of proofs found out about one.
pub(crate) struct ProofFacts {
    pub(crate) id: String,
    pub(crate) issued: UnixTime,
    pub(crate) expires: UnixTime,
    pub(crate) binding: Binding,
    pub(crate) covers: Vec<String>,
}

struct Read<S> {
    wit: Wit<S>,
    not_before: Option<UnixTime>,
}

fn read<S: Subject>(json: &[u8]) -> Result<Read<S>, WitError> {
    let claims = Claims::parse(json)?;
    if claims.has("aud") {
        return Err(WitError::Audience);
    }
    let sub = claims.string("sub")?;
    let subject = S::read(sub).ok_or_else(|| WitError::NotAWorkload { sub: printable(sub) })?;
    let confirmation = ConfirmationKey::read(claims.object("cnf")?)?;
    if !S::permits(confirmation.key.algorithm()) {
        return Err(WitError::ForbiddenAlgorithm { alg: printable(&confirmation.alg) });
    }
    let text = |name| optional(claims.string(name).map(str::to_owned));
    Ok(Read {
        wit: Wit {
            subject,
            confirmation,
            token_id: text("jti")?,
            issuer: text("iss")?,
            expires: claims.time("exp")?,
        },
        not_before: optional(claims.time("nbf"))?,
    })
}

/// `iat` is not looked at: it is for audit, and never the beginning of validity (WIT-SVID section 3.6).
fn judge_times<S>(read: &Read<S>, now: UnixTime) -> Result<(), TimeError> {
    let expires = read.wit.expires;
    times::judge_end(expires, now)?;
    read.not_before.map_or(Ok(()), |from| times::judge_start(from, now))?;
    let (left, max) = (expires.since(now), WIT_LIFETIME_MAX + CLOCK_SKEW);
    if left > max {
        return Err(TimeError::Lifetime { seconds: left.as_secs(), max: max.as_secs() });
    }
    Ok(())
}

/// Why a workload identity token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitError {
    /// Not a token at all, or its issuer's signature does not fit.
    #[error(transparent)]
    Jws(JwsError),
    /// A token of another kind.
    #[error("a token of type {typ:?} is not a workload identity token; send one of type {WIT_TYP}")]
    WrongKind {
        /// What it says it is.
        typ: String,
    },
    /// Signed by a key that is not published for WITs.
    #[error(
        "no published key for workload identity tokens has the id {kid:?}; is its trust domain federated?"
    )]
    UnknownKey {
        /// Which one it names.
        kid: String,
    },
    /// A claim is absent or malformed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// `aud` is there: a WIT is for nobody in particular, its proof is.
    #[error("a workload identity token has no aud; put the audience into the proof")]
    Audience,
    /// `sub` is not a workload identifier of the profile.
    #[error("sub {sub:?} does not name a workload")]
    NotAWorkload {
        /// What it says.
        sub: String,
    },
    /// `cnf` holds something beside `jwk`.
    #[error("cnf has the member {member:?}; only jwk is understood here")]
    Confirmation {
        /// Its name.
        member: String,
    },
    /// The key in `cnf.jwk` is not acceptable, be it private, weak, symmetric or of another algorithm.
    #[error("the key in cnf is not acceptable: {0}")]
    ConfirmationKey(#[from] JwkError),
    /// The issuer's or the workload's key is of an algorithm that the profile does not know.
    #[error("a workload identity token of this profile is not used with {alg}; use ES256")]
    ForbiddenAlgorithm {
        /// The algorithm.
        alg: String,
    },
    /// The key speaks for another trust domain than that of `sub`.
    #[error("a key of {issuer} signed for {sub:?}, which is not of that trust domain")]
    WrongTrustDomain {
        /// Whom the key speaks for.
        issuer: TrustDomain,
        /// Whom it signed for.
        sub: String,
    },
    /// `iss` is not the issuer of the trust domain.
    #[error("iss {got:?} is not the issuer of the subject's trust domain")]
    WrongIssuer {
        /// What it says.
        got: String,
    },
    /// Not now: expired, before its `nbf`, or valid for longer than [`WIT_LIFETIME_MAX`] from now.
    #[error("the workload identity token does not count now: {0}")]
    Times(#[from] TimeError),
}

jws::tells_other_kinds!(WitError);

/// The draft that this file follows.
pub const WIT_DRAFT: &str = "draft-ietf-wimse-workload-creds-03";
/// `typ` of a WIT.
pub const WIT_TYP: &str = TokenKind::Wit.typ();
/// Longest validity of a WIT. Ours live an hour; the draft says "on the order of hours".
pub const WIT_LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest id of a proof: `jti` of a WPT, `nonce` of a signature.
pub const PROOF_ID_BYTES_MAX: usize = 128;

#[cfg(test)]
impl<S: Subject> Unproven<S> {
    /// Of a token whose issuer did not publish its key, such as some examples of the drafts.
    pub(crate) fn of_unknown_issuer(token: &str) -> Self {
        #![allow(clippy::unwrap_used)]
        let unverified = jws::parse_as(TokenKind::Wit, token).unwrap();
        let wit = read::<S>(unverified.unverified_payload()).unwrap().wit;
        Self { wit, issuer_kid: unverified.kid, hash: sha256(token.as_bytes()) }
    }
}
