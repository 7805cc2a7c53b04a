//! The access token of an issuer of another house: an OpenID provider that knows nothing of us (RFC 9068, or a plain
//! JWT as most providers write it). We verify, and never mint one.
//!
//! Its people are guests: each gets a name that says whose word it is (`https://login.example.com#42`), so that no
//! subject of any issuer is ever somebody of ours, and has only the roles that the settings give to what the token
//! says. Everything that a token of ours must have it must have as well, but for what strangers do not write.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_identity::{Possession, UnixTime, User, Verified};
use countersign_keys::JwkSet;
use serde::Deserialize;

use crate::{
    access_token::AccessGrant,
    claims::{ClaimError, Claims, Json, optional},
    confirmation::{Confirmation, ConfirmationError, Shown},
    jws::{self, JwsError, printable},
    revoked::TokenFacts,
    times::{self, TimeError},
};

/// An issuer that is believed, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignIssuer {
    /// Exact `iss`, a URL without query and fragment.
    pub issuer: String,
    /// What one of `aud` has to be.
    pub audience: String,
    /// Which `typ` its access tokens have.
    pub typs: Vec<ForeignTyp>,
    /// How long a token may live, from `iat` (else from `nbf`) to `exp`.
    pub lifetime_max: Duration,
    /// Where the name for people stands; without one, or without the claim, it is `sub`.
    pub name_claim: Option<ClaimPath>,
    /// Where the roles stand: an array of texts, or words with spaces between as in `scope`.
    pub roles_claim: Option<ClaimPath>,
    /// From what stands there to roles of ours. Anything else that stands there is nothing.
    pub roles: BTreeMap<String, String>,
}

/// Members to follow from the claims on: `["realm_access", "roles"]`.
pub type ClaimPath = Vec<String>;

/// The `typ` of a token's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum ForeignTyp {
    /// `at+jwt` (RFC 9068 section 2.1).
    #[serde(rename = "at+jwt")]
    AtJwt,
    /// `JWT`: any kind of token, told apart by its audience alone.
    #[serde(rename = "JWT")]
    Jwt,
    /// None at all: the same.
    #[serde(rename = "absent")]
    Absent,
}

/// Who a token says issued it: good for choosing by whose rules it is judged, and for nothing else.
pub fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claim<'a> {
        #[serde(borrow)]
        iss: std::borrow::Cow<'a, str>,
    }
    let payload = jws::unverified_payload(token)?;
    serde_json::from_slice::<Claim<'_>>(&payload).ok().map(|claim| claim.iss.into_owned())
}

impl ForeignIssuer {
    /// The name that its subject `sub` has here.
    #[must_use]
    pub fn guest_id(&self, sub: &str) -> String {
        format!("{}#{sub}", self.issuer)
    }

    /// Verifies a token of this issuer, signed by one of its `keys`, at `now`, in the hands of a client that proved to
    /// hold what is `shown`.
    pub fn verify(
        &self,
        token: &str,
        shown: Shown<'_>,
        keys: &JwkSet,
        now: UnixTime,
    ) -> Result<AccessGrant, ForeignTokenError> {
        let unverified = jws::parse_foreign(token, |typ| self.typs.iter().any(|known| known.is(typ)))?;
        let key = keys.key(&unverified.kid).ok_or_else(|| ForeignTokenError::UnknownKey {
            kid: printable(&unverified.kid),
            issuer: self.issuer.clone(),
        })?;
        let claims = Claims::parse(unverified.verify(key)?)?;
        let issuer = claims.string("iss")?;
        if issuer != self.issuer {
            return Err(ForeignTokenError::WrongIssuer { got: printable(issuer) });
        }
        let audiences = claims.one_or_many("aud")?;
        if !audiences.contains(&self.audience.as_str()) {
            let got = audiences.first().copied().map(printable).unwrap_or_default();
            return Err(ForeignTokenError::WrongAudience { got, want: self.audience.clone() });
        }
        let (issued_at, expires) = self.judge_times(&claims, now)?;
        let possession = match Confirmation::read(&claims)? {
            Some(confirmation) => confirmation.judge(shown).map(|()| Possession::Key)?,
            None => Possession::None,
        };
        let sub = text(claims.string("sub")?, SUBJECT_BYTES_MAX)?;
        let id = self.guest_id(sub);
        let jti = optional(claims.string("jti"))?.map(str::to_owned);
        let facts = TokenFacts {
            ids: jti.iter().cloned().collect(),
            subject: id.clone(),
            // Under the name that a key has with us: others give theirs the names of anybody's.
            kid: key.thumbprint(),
            issued_at,
            expires,
        };
        let user = Verified::vouch(User {
            name: self.name(&claims, sub)?,
            roles: self.roles(&claims)?,
            id,
            txn: jti.unwrap_or_default(),
            requested_by: None,
            actors: Vec::new(),
            possession,
            not_after: expires,
        });
        // It ends at the edge, and nobody gives it away at our token service.
        Ok(AccessGrant { user, facts, may_act: None })
    }

    fn judge_times(
        &self,
        claims: &Claims<'_>,
        now: UnixTime,
    ) -> Result<(UnixTime, UnixTime), ForeignTokenError> {
        let (issued_at, not_before) = (optional(claims.time("iat"))?, optional(claims.time("nbf"))?);
        // Without a beginning nobody knows how long the token lives.
        let begins = issued_at.or(not_before).ok_or(ClaimError::Missing { name: "iat" })?;
        if let Some(not_before) = not_before {
            times::judge_start(not_before, now)?;
        }
        let expires = claims.time("exp")?;
        times::judge(begins, expires, self.lifetime_max, now)?;
        Ok((begins, expires))
    }

    /// For people to read: whose word it is stands beside it, after a space, which no name of an account of ours holds.
    fn name(&self, claims: &Claims<'_>, sub: &str) -> Result<String, ForeignTokenError> {
        let found = self.name_claim.as_ref().and_then(|path| follow(claims, path));
        let name = match found {
            Some(Json::Text(name)) => text(name, NAME_BYTES_MAX)?,
            Some(_) => {
                return Err(
                    ClaimError::WrongType { name: "the claim with the name", want: "a string" }.into()
                );
            }
            None => sub,
        };
        Ok(format!("{name} {}", self.issuer))
    }

    /// In the order of the settings, each once.
    fn roles(&self, claims: &Claims<'_>) -> Result<Vec<String>, ForeignTokenError> {
        let wrong = || ClaimError::WrongType {
            name: "the claim with the roles",
            want: "an array of strings, or words with spaces between",
        };
        let said: Vec<&str> = match self.roles_claim.as_ref().and_then(|path| follow(claims, path)) {
            None => return Ok(Vec::new()),
            Some(Json::Text(words)) => words.split(' ').collect(),
            Some(Json::List(values)) => {
                values.iter().map(|value| value.as_text().ok_or_else(wrong)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(wrong().into()),
        };
        let mut roles: Vec<String> = Vec::new();
        for (theirs, ours) in &self.roles {
            if said.contains(&theirs.as_str()) && !roles.contains(ours) {
                roles.push(ours.clone());
            }
        }
        Ok(roles)
    }
}

impl ForeignTyp {
    fn is(self, typ: &str) -> bool {
        match self {
            Self::AtJwt => typ == "at+jwt",
            Self::Jwt => typ == "jwt",
            Self::Absent => typ.is_empty(),
        }
    }
}

fn follow<'a>(claims: &'a Claims<'_>, path: &[String]) -> Option<&'a Json<'a>> {
    let (last, way) = path.split_last()?;
    let inner = way.iter().try_fold(claims, |claims, member| match claims.get(member)? {
        Json::Object(inner) => Some(inner),
        _ => None,
    })?;
    inner.get(last)
}

/// What becomes part of names and of the ledger: short, and nothing that moves a cursor.
fn text(text: &str, bytes_max: usize) -> Result<&str, ForeignTokenError> {
    match text.len() <= bytes_max && !text.is_empty() && !text.chars().any(char::is_control) {
        true => Ok(text),
        false => Err(ForeignTokenError::Unnameable { bytes: text.len() }),
    }
}

/// Why an access token of another issuer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignTokenError {
    /// Not a token at all, or its signature does not fit.
    #[error(transparent)]
    Jws(JwsError),
    /// A token of another kind.
    #[error(
        "a token of type {typ:?} is no access token of this issuer; `typ` in [[gateway.issuer]] says which are"
    )]
    WrongKind {
        /// What it says it is.
        typ: String,
    },
    /// Signed by a key that the issuer does not publish.
    #[error("{issuer} publishes no key of the name {kid:?}; log in there again")]
    UnknownKey {
        /// The name, as far as it is fit for a log.
        kid: String,
        /// The issuer.
        issuer: String,
    },
    /// A claim is absent or malformed.
    #[error("the access token's claims are not acceptable: {0}")]
    Claim(#[from] ClaimError),
    /// From another issuer than the one whose key signed it.
    #[error("the access token says it was issued by {got:?}, and another issuer's key signed it")]
    WrongIssuer {
        /// Who it says issued it.
        got: String,
    },
    /// For somebody else.
    #[error("the access token is for {got:?}, not for {want:?}")]
    WrongAudience {
        /// For whom it is.
        got: String,
        /// For whom it had to be.
        want: String,
    },
    /// `sub` or the name is empty, too long, or holds a control character.
    #[error(
        "a subject or name of {bytes} bytes is empty, longer than {SUBJECT_BYTES_MAX}, or holds a control character"
    )]
    Unnameable {
        /// Its length.
        bytes: usize,
    },
    /// Not valid now, or for too long.
    #[error(transparent)]
    Times(#[from] TimeError),
    /// Bound, and in the wrong hands.
    #[error(transparent)]
    Confirmation(#[from] ConfirmationError),
}

jws::tells_other_kinds!(ForeignTokenError);

/// Bytes of a `sub` (OpenID Connect Core section 2).
pub const SUBJECT_BYTES_MAX: usize = 255;
const NAME_BYTES_MAX: usize = SUBJECT_BYTES_MAX;
