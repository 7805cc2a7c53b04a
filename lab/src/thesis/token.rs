//! Figure 5.2: the token, member by member.
//!
//! ```json
//! {"alg":"RS256","kid":"F01DE50B55935ACED9CC77BF4E2696EC9181B969","typ":"JWT"}
//! {"nbf":1645525923,"exp":1645526223,"iss":"service1.swapindo.com","aud":"service2.swapindo.com"}
//! ```
//!
//! Missing, compared with the form that runs here: `iat`, `jti`, a type of its own, the request, its body, the
//! connection.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_keys::{KeyPair, PublicKey, SignError};
use countersign_pki::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{Clock, certificate::sha1_thumbprint};

/// Listing 5.3, `ITokenCreatorService`.
pub trait TokenCreatorService: Send + Sync {
    /// `CreateToken`: a token for this audience.
    ///
    /// # Errors
    /// The crypto library could not sign.
    fn create_token(&self, audience: &str) -> Result<String, SignError>;
}

/// The `JWTCreatorService` of the thesis: signs with the key of the service's own certificate.
pub struct JwtCreatorService {
    issuer: String,
    kid: String,
    key: KeyPair,
    clock: Clock,
}

impl JwtCreatorService {
    /// Creates tokens of `issuer`, the subject of `certificate`, whose RSA key is `key`.
    #[must_use]
    pub fn new(issuer: String, certificate: &CertificateDer<'_>, key: KeyPair, clock: Clock) -> Self {
        Self { issuer, kid: sha1_thumbprint(certificate), key, clock }
    }
}

impl TokenCreatorService for JwtCreatorService {
    fn create_token(&self, audience: &str) -> Result<String, SignError> {
        let now = (self.clock)();
        let header = Header { alg: RS256.to_owned(), kid: self.kid.clone(), typ: JWT.to_owned() };
        let claims = Claims {
            nbf: now.secs(),
            exp: now.saturating_add(LIFE).secs(),
            iss: self.issuer.clone(),
            aud: audience.to_owned(),
        };
        let mut token = format!("{}.{}", part(&header)?, part(&claims)?);
        let signature = self.key.sign_raw(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

/// The header, its members in the figure's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// `RS256`.
    pub alg: String,
    /// SHA-1 thumbprint of the signer's certificate.
    pub kid: String,
    /// `JWT`.
    pub typ: String,
}

/// The payload, its members in the figure's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// From when it counts, in seconds since 1970.
    pub nbf: i64,
    /// Until when it counts: 300 seconds later.
    pub exp: i64,
    /// The caller: subject of its certificate.
    pub iss: String,
    /// The callee.
    pub aud: String,
}

/// A token that was read but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified<'a> {
    /// Its header.
    pub header: Header,
    /// Its claims.
    pub claims: Claims,
    signing_input: &'a str,
    signature: Vec<u8>,
}

/// Reads a token of exactly the figure's form, at most [`TOKEN_BYTES_MAX`] long.
#[must_use]
pub fn parse(token: &str) -> Option<Unverified<'_>> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (signing_input, signature) = token.rsplit_once('.')?;
    let (header, claims) = signing_input.split_once('.')?;
    let header: Header = read(header)?;
    let claims = read(claims)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let exact = header.alg == RS256 && header.typ == JWT;
    exact.then_some(Unverified { header, claims, signing_input, signature })
}

impl Unverified<'_> {
    /// Whether this RSA key signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify_raw(self.signing_input.as_bytes(), &self.signature).is_ok()
    }
}

fn part(value: &impl Serialize) -> Result<String, SignError> {
    serde_json::to_vec(value).map(|json| URL_SAFE_NO_PAD.encode(json)).map_err(|_| SignError::Failed)
}

fn read<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// From `nbf` to `exp`.
pub const LIFE: Duration = Duration::from_secs(300);
/// Longest token that is read.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
const RS256: &str = "RS256";
const JWT: &str = "JWT";
