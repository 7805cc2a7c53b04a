//! What attackers make themselves: certificates that nobody ordered, and tokens with one thing wrong.

use std::ops::Range;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::SpiffeId;
use countersign_keys::{KeyPair, SystemRandom, hmac_sha256, sha256};
use countersign_pki::CertificateDer;
use countersign_sdk::{clock, signing_chains::write_chain};
use countersign_token::{BearerToken, bearer::BEARER_PREFIX, service_token::new_id};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use serde_json::{Value, json};

use super::{AttackError, Held, wire::Request};

/// A new key.
pub(super) fn key() -> Result<KeyPair, AttackError> {
    KeyPair::generate(&SystemRandom::new()).map_err(|error| AttackError::equipment("a key", error))
}

/// Who issues what no honest authority would.
pub(crate) struct Ca {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

impl Ca {
    /// The attacker's own.
    pub(super) fn of_ones_own(name: &str) -> Result<Self, AttackError> {
        let failed = |error: &dyn std::fmt::Display| AttackError::equipment("a ca of its own", error);
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| failed(&e))?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name = named(name);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = ca.self_signed(&key).map_err(|error| failed(&error))?.der().clone();
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| failed(&error))?;
        Ok(Self { certificate, issuer })
    }

    /// That of somebody else, whose key is at hand.
    pub(crate) fn with_key(
        certificate: &CertificateDer<'static>,
        key: &KeyPair,
    ) -> Result<Self, AttackError> {
        let issuer = Issuer::from_ca_cert_der(certificate, for_rcgen(key)?);
        let issuer = issuer.map_err(|error| AttackError::equipment("a ca", error))?;
        Ok(Self { certificate: certificate.clone(), issuer })
    }

    /// A certificate for these names; that of a CA where `is_ca`.
    pub(crate) fn certify(&self, id: &SpiffeId, names: &[String], is_ca: bool) -> Result<Held, AttackError> {
        let failed = |error: &dyn std::fmt::Display| AttackError::equipment("a certificate", error);
        let key = key()?;
        let public = SubjectPublicKeyInfo::from_der(&key.public_key().spki_der()).map_err(|e| failed(&e))?;
        let mut params = leaf(names)?;
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }
        let leaf = params.signed_by(&public, &self.issuer).map_err(|error| failed(&error))?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        Ok(Held { id: id.clone(), chain, key, serial: String::new() })
    }
}

/// A certificate that its own key signed.
pub(super) fn self_signed(id: &SpiffeId) -> Result<Held, AttackError> {
    let failed = |error: &dyn std::fmt::Display| AttackError::equipment("a self-signed certificate", error);
    let key = key()?;
    let certificate = leaf(&[id.to_string()])?.self_signed(&for_rcgen(&key)?);
    let chain = vec![certificate.map_err(|error| failed(&error))?.der().clone()];
    Ok(Held { id: id.clone(), chain, key, serial: String::new() })
}

fn for_rcgen(key: &KeyPair) -> Result<rcgen::KeyPair, AttackError> {
    let failed = |error: &dyn std::fmt::Display| AttackError::equipment("a key for certificates", error);
    let pkcs8 = key.to_pkcs8().map_err(|error| failed(&error))?;
    rcgen::KeyPair::try_from(pkcs8.expose().as_slice()).map_err(|error| failed(&error))
}

fn leaf(names: &[String]) -> Result<CertificateParams, AttackError> {
    let failed = |error: rcgen::Error| AttackError::equipment("a name for a certificate", error);
    let mut params = CertificateParams::default();
    params.distinguished_name = named("a service");
    let uris = names.iter().map(|name| Ok(SanType::URI(name.clone().try_into()?)));
    params.subject_alt_names = uris.collect::<Result<_, _>>().map_err(failed)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A token with its request, before both are sent: everything may be changed.
#[derive(Clone)]
pub(super) struct Draft {
    /// The JOSE header.
    pub(super) header: Value,
    /// The claims.
    pub(super) claims: Value,
    /// What signs.
    pub(super) signing: Signing,
    /// What is sent in the header for the chain of the signing key.
    pub(super) chain: Option<String>,
    /// What is asked for: the token's claims are about this, unless they are changed.
    pub(super) request: Request,
}

/// How a token is signed.
#[derive(Clone)]
pub(super) enum Signing {
    /// As it should be.
    By(KeyPair),
    /// With a MAC under this secret.
    Mac(Vec<u8>),
    /// These bytes are the signature.
    Bytes(Vec<u8>),
}

impl Draft {
    /// The honest token of `signer` for this request at `audience`.
    pub(super) fn honest(
        signer: &Held,
        audience: &SpiffeId,
        request: Request,
        channel: Option<[u8; 32]>,
    ) -> Result<Self, AttackError> {
        let now = clock::now().secs();
        let jti = new_id(&SystemRandom::new()).map_err(|error| AttackError::equipment("an id", error))?;
        let mut claims = json!({
            "iss": signer.id.as_str(), "aud": audience.as_str(), "jti": jti,
            "iat": now, "nbf": now, "exp": now + LIFE_SECONDS,
            "htm": request.method, "htp": request.target, "bdy": encoded(&sha256(&request.body)),
        });
        if let Some(channel) = channel {
            set(&mut claims, "cbx", encoded(&channel));
        }
        let header = json!({
            "alg": signer.key.algorithm().jose_name(), "kid": signer.key.public_key().thumbprint(),
            "typ": "countersign-service+jwt", "x5t#S256": encoded(&signer.thumbprint()),
        });
        let (signing, chain) = (Signing::By(signer.key.clone()), Some(write_chain(&signer.chain)));
        Ok(Self { header, claims, signing, chain, request })
    }

    /// The request with the token in it.
    pub(super) fn sealed(&self) -> Result<Request, AttackError> {
        self.carrying(self.token()?)
    }

    /// The request with this text as its token.
    pub(super) fn carrying(&self, token: String) -> Result<Request, AttackError> {
        let request = self.request.clone().with("Authorization", format!("Bearer {token}"));
        Ok(match &self.chain {
            Some(chain) => request.with("Countersign-Signing-Chain", chain.clone()),
            None => request,
        })
    }

    pub(super) fn token(&self) -> Result<String, AttackError> {
        jws(&self.header.to_string(), &self.claims.to_string(), &self.signing)
    }
}

/// A token of these very texts.
pub(super) fn jws(header: &str, claims: &str, signing: &Signing) -> Result<String, AttackError> {
    let input = format!("{}.{}", encoded(header.as_bytes()), encoded(claims.as_bytes()));
    let signature = match signing {
        Signing::By(key) => {
            key.sign_raw(input.as_bytes()).map_err(|error| AttackError::equipment("a signature", error))?
        }
        Signing::Mac(secret) => hmac_sha256(secret, input.as_bytes()).to_vec(),
        Signing::Bytes(bytes) => bytes.clone(),
    };
    Ok(format!("{input}.{}", encoded(&signature)))
}

/// Sets a member.
pub(super) fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value.into());
    }
}

/// A part of a token, read.
pub(super) fn part(token: &str, number: usize) -> Result<Value, AttackError> {
    let part = token.split('.').nth(number).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    part.and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(|| AttackError::equipment("a token", "it is not of three parts"))
}

/// The signature of a token.
pub(super) fn signature(token: &str) -> Vec<u8> {
    token.rsplit('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).unwrap_or_default()
}

/// A bearer token of the right form that nobody issued.
pub(super) fn unissued_bearer() -> Result<String, AttackError> {
    let token = BearerToken::mint(&SystemRandom::new());
    token
        .map(|token| token.expose().to_owned())
        .map_err(|error| AttackError::equipment("a bearer token", error))
}

/// The id of a bearer token, which listings and logs show, with a secret that was guessed; and the checksum that
/// belongs to both, so that nothing but the hash can tell.
pub(super) fn bearer_of_same_id(token: &str) -> Result<String, AttackError> {
    let guessed = unissued_bearer()?;
    let (Some(known), Some(secret)) = (token.get(..BEARER_SECRET.start), guessed.get(BEARER_SECRET)) else {
        return Err(AttackError::equipment("a bearer token", "it is of another length"));
    };
    let whole = format!("{known}{secret}");
    let covered = whole.strip_prefix(BEARER_PREFIX).unwrap_or_default();
    // The 32 bits of the sum in seven digits of five, with three zero bits at the end.
    let sum = u64::from(crc32(covered.as_bytes())) << 3;
    let digits = (0..7).rev().filter_map(|place| CROCKFORD.chars().nth((sum >> (5 * place) & 31) as usize));
    Ok(whole.chars().chain(digits).collect())
}

/// IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1)))
    })
}

pub(super) fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

const LIFE_SECONDS: i64 = 30;
/// Where the secret of a bearer token stands: behind the prefix and 16 characters of id.
const BEARER_SECRET: Range<usize> = 20..52;
const CROCKFORD: &str = "0123456789abcdefghjkmnpqrstvwxyz";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_guessed_bearer_token_has_the_form_and_the_id_of_the_real_one_and_another_secret() {
        let real = unissued_bearer().unwrap();
        let guessed = bearer_of_same_id(&real).unwrap();
        assert_ne!(guessed, real);
        let id = |token: &str| BearerToken::parse(token).unwrap().id();
        assert_eq!(id(&guessed), id(&real));
    }
}
