//! JWT-SVIDs (SPIFFE JWT-SVID standard): a trust domain's word on which workload sends it. Whoever has a copy can
//! use it, so its holder is a bearer; it is for those who cannot show a certificate.

use std::time::Duration;

use countersign_identity::{CLOCK_SKEW, IdKind, SpiffeId, TrustDomain, UnixTime, Verified};
use countersign_keys::{KeyPair, PublicKey};
use serde_json::{Value, json};

use crate::{
    claims::{ClaimError, Claims, optional},
    jws::{self, JwsError, printable},
    revoked::TokenFacts,
    times::{self, TimeError},
    typ::TokenKind,
};

/// What a JWT-SVID says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvid {
    /// Which workload.
    pub subject: SpiffeId,
    /// For whom: SPIFFE IDs or other names, never none.
    pub audiences: Vec<String>,
    /// Unique id. We always write one; foreign issuers may not.
    pub jti: Option<String>,
    /// When it was issued. We always write it; foreign issuers may not.
    pub issued_at: Option<UnixTime>,
    /// When it expires; at most [`JWT_SVID_LIFETIME_MAX`] later.
    pub expires: UnixTime,
}

impl JwtSvid {
    /// Signs it with a key of the subject's trust domain for JWT-SVIDs, which signs nothing else. An Ed25519 key
    /// cannot (JWT-SVID section 2.1).
    pub fn mint(&self, key: &KeyPair) -> Result<String, JwtSvidError> {
        let mut claims = json!({
            "sub": self.subject.as_str(),
            "aud": self.audiences,
            "exp": self.expires.secs(),
        });
        if let Some(members) = claims.as_object_mut() {
            let jti = self.jti.as_deref().map(|jti| ("jti", Value::from(jti)));
            let iat = self.issued_at.map(|at| ("iat", Value::from(at.secs())));
            members.extend(jti.into_iter().chain(iat).map(|(name, value)| (name.to_owned(), value)));
        }
        let claims = claims.to_string();
        // What we would not accept ourselves never leaves; and ours can be taken back and their life is known.
        let read = Self::read(&Claims::parse(claims.as_bytes())?)?;
        let issued_at = read.issued_at.ok_or(ClaimError::Missing { name: "iat" })?;
        if read.jti.is_none() {
            return Err(JwtSvidError::Claim(ClaimError::Missing { name: "jti" }));
        }
        times::judge(issued_at, read.expires, JWT_SVID_LIFETIME_MAX, issued_at)?;
        Ok(jws::sign_as(TokenKind::JwtSvid, key, claims.as_bytes())?)
    }

    /// Verifies a JWT-SVID for `audience`: our own name.
    ///
    /// `key_of` finds the key of a `kid` in the bundle of exactly this trust domain, which is that of `sub`, among
    /// its keys for JWT-SVIDs, and no others.
    pub fn verify(
        token: &str,
        audience: &str,
        now: UnixTime,
        key_of: impl FnOnce(&TrustDomain, &str) -> Option<PublicKey>,
    ) -> Result<Verified<Self>, JwtSvidError> {
        let unverified = jws::parse_as(TokenKind::JwtSvid, token)?;
        // Whose domain it is said to be is needed to find the key.
        let claims = Claims::parse(unverified.unverified_payload())?;
        let read = Self::read(&claims)?;
        let key = key_of(read.subject.trust_domain(), &unverified.kid).ok_or_else(|| {
            let trust_domain = read.subject.trust_domain().clone();
            JwtSvidError::UnknownKey { kid: printable(&unverified.kid), trust_domain }
        })?;
        unverified.verify(&key)?;
        if !read.audiences.iter().any(|candidate| candidate == audience) {
            return Err(JwtSvidError::WrongAudience {
                got: read.audiences.first().map(|got| printable(got)),
            });
        }
        if let Some(from) = optional(claims.time("nbf"))? {
            times::judge_start(from, now)?;
        }
        match read.issued_at {
            Some(issued_at) => times::judge(issued_at, read.expires, JWT_SVID_LIFETIME_MAX, now)?,
            None => judge_without_issue(read.expires, now)?,
        }
        Ok(Verified::vouch(read))
    }

    /// By what it can be taken back; `kid` is the key that it was verified with. Where the time of issue is not
    /// told, it may have been as early as a longest life before its end.
    #[must_use]
    pub fn facts(&self, kid: &str) -> TokenFacts {
        TokenFacts {
            ids: self.jti.iter().cloned().collect(),
            subject: self.subject.as_str().to_owned(),
            kid: kid.to_owned(),
            issued_at: self.issued_at.unwrap_or_else(|| self.expires.saturating_sub(JWT_SVID_LIFETIME_MAX)),
            expires: self.expires,
        }
    }

    fn read(claims: &Claims) -> Result<Self, JwtSvidError> {
        let subject = claims.string("sub")?;
        let audiences: Vec<String> = claims.one_or_many("aud")?.into_iter().map(str::to_owned).collect();
        if audiences.is_empty() {
            return Err(JwtSvidError::Claim(ClaimError::Empty { name: "aud" }));
        }
        // A trust domain as a whole is no workload, here as in every SVID.
        let id = subject.parse::<SpiffeId>().ok().filter(|id| id.kind() != IdKind::TrustDomain);
        Ok(Self {
            subject: id.ok_or_else(|| JwtSvidError::NotAnId { sub: printable(subject) })?,
            audiences,
            jti: optional(claims.string("jti"))?.map(str::to_owned),
            issued_at: optional(claims.time("iat"))?,
            expires: claims.time("exp")?,
        })
    }
}

/// The standard does not demand `iat`: what is left of a life must not be longer than a whole one.
fn judge_without_issue(expires: UnixTime, now: UnixTime) -> Result<(), TimeError> {
    times::judge_end(expires, now)?;
    let left = expires.since(now.saturating_add(CLOCK_SKEW));
    match left > JWT_SVID_LIFETIME_MAX {
        true => Err(TimeError::Lifetime { seconds: left.as_secs(), max: JWT_SVID_LIFETIME_MAX.as_secs() }),
        false => Ok(()),
    }
}

/// Why a JWT-SVID is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtSvidError {
    /// Not a token of this kind at all, or its signature does not fit.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// A claim is absent or malformed.
    #[error("the JWT-SVID's claims are not acceptable: {0}")]
    Claim(#[from] ClaimError),
    /// `sub` is not the SPIFFE ID of a workload.
    #[error("the subject {sub:?} of the JWT-SVID is not the SPIFFE ID of a workload")]
    NotAnId {
        /// What it says.
        sub: String,
    },
    /// The bundle of the subject's own trust domain has no such key.
    #[error(
        "the bundle of {trust_domain} has no key for JWT-SVIDs with the id {kid:?}; is it federated, and fresh?"
    )]
    UnknownKey {
        /// Which key.
        kid: String,
        /// In which bundle it was looked for.
        trust_domain: TrustDomain,
    },
    /// For somebody else.
    #[error("the JWT-SVID is for {got:?}, not for this service")]
    WrongAudience {
        /// The first one for whom it is.
        got: Option<String>,
    },
    /// Not now.
    #[error("the JWT-SVID does not count now: {0}")]
    Times(#[from] TimeError),
}

/// How long a JWT-SVID lives at most.
pub const JWT_SVID_LIFETIME_MAX: Duration = Duration::from_secs(3600);
