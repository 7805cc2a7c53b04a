//! What a token says, beside what its kind reads of it. None of it counts before the signature was verified.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::SpiffeId;
use countersign_token::{Shown, jws::TOKEN_BYTES_MAX};
use serde_json::{Map, Value};

/// The claims of a token.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) claims: Map<String, Value>,
    keys: Vec<String>,
    certificates: Vec<String>,
}

impl Said {
    /// Reads the claims of a compact JWS; what is wrong with them, the kind of the token says.
    pub(crate) fn by(token: &str) -> Result<Self, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("it is longer than a token may be".to_owned());
        }
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims = payload.and_then(|json| serde_json::from_slice(&json).ok());
        let claims: Map<String, Value> = claims.ok_or("its claims are no JSON object")?;
        let bound = |name: &str| claims.get("cnf")?.get(name)?.as_str().map(str::to_owned);
        let (keys, certificates) =
            (bound("jkt").into_iter().collect(), bound("x5t#S256").into_iter().collect());
        Ok(Self { claims, keys, certificates })
    }

    /// Whoever a bound token is for saw that its holder has the key: it cannot be shown a second time here.
    pub(crate) fn shown(&self) -> Shown<'_> {
        Shown { keys: &self.keys, certificates: &self.certificates }
    }

    /// RFC 8693 section 4.4. What cannot be read permits nobody.
    pub(crate) fn may_act(&self) -> Result<Option<Vec<SpiffeId>>, String> {
        let Some(claim) = self.claims.get("may_act") else { return Ok(None) };
        let actor = claim.get("sub").and_then(Value::as_str).and_then(|sub| sub.parse().ok());
        actor.map(|actor| Some(vec![actor])).ok_or_else(|| "its may_act names no workload".to_owned())
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
