//! What a token says, beside what its kind reads of it. None of it counts before the signature was verified.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::SpiffeId;
use countersign_token::jws::TOKEN_BYTES_MAX;
use serde_json::{Map, Value};

/// The claims of a token.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) claims: Map<String, Value>,
}

impl Said {
    /// Reads the claims of a compact JWS; what is wrong with them, the kind of the token says.
    pub(crate) fn by(token: &str) -> Result<Self, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("it is longer than a token may be".to_owned());
        }
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims = payload.and_then(|json| serde_json::from_slice(&json).ok());
        claims.map(|claims| Self { claims }).ok_or_else(|| "its claims are no JSON object".to_owned())
    }

    /// A claim that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str)
    }

    /// A claim that is the name of a workload.
    pub(crate) fn workload(&self, name: &str) -> Option<SpiffeId> {
        self.text(name)?.parse().ok()
    }
}
