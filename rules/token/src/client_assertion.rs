//! How a workload proves itself to the token service without a certificate (RFC 7523 section 2.2): it signs that
//! it is itself, for the issuer and for nobody else, once.

use std::time::Duration;

use countersign_identity::{SpiffeId, UnixTime, Verified};
use countersign_keys::KeyPair;
use serde_json::json;

use crate::{
    claims::{ClaimError, Claims, optional},
    jws::{self, JwsError, printable},
    revoked::TokenFacts,
    service_token::{JTI_CHARS_MAX, JTI_CHARS_MIN},
    signer::{Signer, SignerHint},
    times::{self, TimeError},
    typ::TokenKind,
};

/// What a client assertion says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAssertion {
    /// Who it is: the client id is the SPIFFE ID.
    pub client: SpiffeId,
    /// Unique among the assertions of the client; counts once.
    pub jti: String,
    /// When it was made.
    pub issued_at: UnixTime,
    /// When it expires; at most [`CLIENT_ASSERTION_LIFETIME_MAX`] later.
    pub expires: UnixTime,
}

impl ClientAssertion {
    /// Signs it with the client's key for tokens, for the token service with this issuer identifier.
    pub fn mint(&self, key: &KeyPair, issuer: &str) -> Result<String, ClientAssertionError> {
        let claims = json!({
            "iss": self.client.as_str(),
            "sub": self.client.as_str(),
            "aud": issuer,
            "jti": self.jti,
            "iat": self.issued_at.secs(),
            "exp": self.expires.secs(),
        })
        .to_string();
        // What we would not accept ourselves never leaves.
        let Read { assertion: read, .. } = Self::read(claims.as_bytes())?;
        times::judge(read.issued_at, read.expires, CLIENT_ASSERTION_LIFETIME_MAX, read.issued_at)?;
        Ok(jws::sign_as(TokenKind::ClientAssertion, key, claims.as_bytes())?)
    }

    /// Verifies an assertion for the token service with exactly this `issuer` identifier. Replay is the caller's
    /// part: `jti` counts once.
    ///
    /// `signer_of` finds a registered or certified key and says whose it is; its algorithm was fixed with the key.
    pub fn verify(
        token: &str,
        issuer: &str,
        now: UnixTime,
        signer_of: impl FnOnce(SignerHint<'_>) -> Option<Signer>,
    ) -> Result<Verified<Self>, ClientAssertionError> {
        let unverified = jws::parse_as(TokenKind::ClientAssertion, token)?;
        // Who it is said to be from is needed to find the key.
        let Read { assertion: read, audience, not_before } = Self::read(unverified.unverified_payload())?;
        let hint = SignerHint { issuer: &read.client, kid: &unverified.kid, certificate_sha256: None };
        let signer = signer_of(hint)
            .ok_or_else(|| ClientAssertionError::UnknownKey { kid: printable(&unverified.kid) })?;
        unverified.verify(&signer.key)?;
        if read.client != signer.owner {
            return Err(ClientAssertionError::NotOwner { client: read.client, owner: signer.owner });
        }
        if audience != issuer {
            return Err(ClientAssertionError::WrongAudience { got: printable(&audience) });
        }
        times::judge(read.issued_at, read.expires, CLIENT_ASSERTION_LIFETIME_MAX, now)?;
        not_before.map_or(Ok(()), |from| times::judge_start(from, now))?;
        Ok(Verified::vouch(read))
    }

    /// By what it can be taken back; `kid` is the key that it was verified with.
    #[must_use]
    pub fn facts(&self, kid: &str) -> TokenFacts {
        TokenFacts {
            ids: vec![self.jti.clone()],
            subject: self.client.to_string(),
            kid: kid.to_owned(),
            issued_at: self.issued_at,
            expires: self.expires,
        }
    }

    fn read(json: &[u8]) -> Result<Read, ClientAssertionError> {
        let claims = Claims::parse(json)?;
        let (issuer, subject) = (claims.string("iss")?, claims.string("sub")?);
        if issuer != subject {
            return Err(ClientAssertionError::AboutAnother { sub: printable(subject) });
        }
        let jti = claims.string("jti")?;
        if jti.len() < JTI_CHARS_MIN || jti.len() > JTI_CHARS_MAX {
            return Err(ClientAssertionError::IdLength { chars: jti.len() });
        }
        let assertion = Self {
            client: issuer.parse().map_err(|_| ClientAssertionError::NotAnId { iss: printable(issuer) })?,
            jti: jti.to_owned(),
            issued_at: claims.time("iat")?,
            expires: claims.time("exp")?,
        };
        Ok(Read {
            assertion,
            // A single string: in a list with a foreign token service, that one could use it here.
            audience: claims.string("aud")?.to_owned(),
            not_before: optional(claims.time("nbf"))?,
        })
    }
}

struct Read {
    assertion: ClientAssertion,
    audience: String,
    /// We write none; a client of others may (RFC 7523 section 3).
    not_before: Option<UnixTime>,
}

/// Why a client assertion is refused. To the client all of them are `invalid_client`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientAssertionError {
    /// Not a token of this kind at all, or its signature does not fit.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// A claim is absent or malformed.
    #[error("the client assertion's claims are not acceptable: {0}")]
    Claim(#[from] ClaimError),
    /// `iss` and `sub` differ.
    #[error(
        "the client assertion speaks about {sub:?}, not about its maker; iss and sub must be the client id"
    )]
    AboutAnother {
        /// About whom.
        sub: String,
    },
    /// The client id is not a SPIFFE ID.
    #[error("the client {iss:?} is not a SPIFFE ID")]
    NotAnId {
        /// What it says.
        iss: String,
    },
    /// Its `jti` has fewer than 96 bits, or is too long to be remembered.
    #[error("the jti of the client assertion has {chars} characters, not 16 to 64; use 128 random bits")]
    IdLength {
        /// How many.
        chars: usize,
    },
    /// The client has no such key.
    #[error("no verified certificate and no registered key has the id {kid:?}; register the client's key")]
    UnknownKey {
        /// Its thumbprint.
        kid: String,
    },
    /// Made in the name of a client that does not own the key.
    #[error("the client assertion names {client}, but the key that signed it belongs to {owner}")]
    NotOwner {
        /// Who it says it is.
        client: SpiffeId,
        /// Whose the key is.
        owner: SpiffeId,
    },
    /// For somebody else.
    #[error("the client assertion is for {got:?}; its one audience must be the issuer identifier")]
    WrongAudience {
        /// For whom it is.
        got: String,
    },
    /// Not now.
    #[error("the client assertion does not count now: {0}")]
    Times(#[from] TimeError),
}

/// How long a client assertion lives at most.
pub const CLIENT_ASSERTION_LIFETIME_MAX: Duration = Duration::from_secs(300);
