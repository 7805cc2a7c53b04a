//! How tokens are read by those who wrote it themselves on an afternoon: `alg`, `kid` and `jwk` are believed.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use countersign_keys::{PublicKey, hmac_sha256};
use countersign_sdk::inbound::Denial;
use countersign_wire::codes::Code;
use serde_json::Value;

use super::{Weak, Weakness};

impl Weak {
    /// The claims of a token that is signed by `key`, or by whatever the token itself says.
    pub(super) fn read_naively(&self, token: &str, key: &PublicKey) -> Result<Value, Denial> {
        let malformed = || Denial::new(Code::TokenMalformed, "not a token");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or_else(malformed)?;
        // Of two members with one name, this reader takes the last.
        let header: Value = serde_json::from_slice(&decoded(header)).map_err(|_| malformed())?;
        let claims: Value = serde_json::from_slice(&decoded(claims)).map_err(|_| malformed())?;
        let signature = decoded(signature);
        let is_good = match header.get("alg").and_then(Value::as_str).unwrap_or_default() {
            "none" if self.makes(Weakness::AlgNone) => true,
            "HS256" if self.makes(Weakness::PublicKeyAsSecret) => {
                hmac_sha256(public_key_pem(key).as_bytes(), signed.as_bytes()) == *signature
            }
            _ if self.makes(Weakness::UnverifiedSignature) => true,
            alg if alg != key.algorithm().jose_name() && !self.makes(Weakness::AnyAlgorithm) => false,
            _ => self
                .key_named(&header, key)
                .is_some_and(|key| key.verify_raw(signed.as_bytes(), &signature).is_ok()),
        };
        if is_good {
            Ok(claims)
        } else {
            Err(Denial::new(Code::TokenSignature, "the signature does not verify"))
        }
    }
}

impl Weak {
    /// Which key verifies, by what the header says and by what is at hand.
    fn key_named(&self, header: &Value, at_hand: &PublicKey) -> Option<PublicKey> {
        if let Some(jwk) = header.get("jwk").filter(|_| self.makes(Weakness::KeyFromHeader)) {
            return PublicKey::from_jwk(&jwk.to_string()).ok();
        }
        let kid = header.get("kid").and_then(Value::as_str).unwrap_or_default();
        if at_hand.is_named(kid) {
            return Some(at_hand.clone());
        }
        if !self.makes(Weakness::KidNamesAFile) {
            return None;
        }
        let file = std::fs::read_to_string(kid).ok()?;
        Some(PublicKey::from_jwk(&file).unwrap_or_else(|_| at_hand.clone()))
    }
}

/// A public key as everybody can have it: this is the "secret" of an HS256 token.
pub(crate) fn public_key_pem(key: &PublicKey) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(key.spki_der()))
}

fn decoded(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).unwrap_or_default()
}
