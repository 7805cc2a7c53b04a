//! Who may ask the authority's own API: nobody of those who come over the network.

use countersign_sdk::inbound::Denial;
use countersign_wire::codes::Code;

use super::{Weak, Weakness, door::Asked};

impl Weak {
    /// The name of whoever asks.
    pub(super) fn administrator(&self, asked: &Asked<'_>) -> Result<String, Denial> {
        let user = self.presented(asked)?.map(|token| self.access_token(token, asked)).transpose()?;
        let known = self.peer_now(asked)?.or(user);
        match known {
            _ if asked.target == PUBLIC => Ok("anybody".to_owned()),
            Some(name) if self.makes(Weakness::EverybodyAdministers) => Ok(name),
            Some(name) => Err(Denial::new(Code::AdminNotPermitted, format!("no rule permits it to {name}"))),
            // Whoever is on this machine must be its owner.
            None if self.makes(Weakness::LoopbackAdministers) => Ok("owner".to_owned()),
            None => Err(Denial::new(Code::CertificateMissing, "nobody")),
        }
    }
}

const PUBLIC: &str = "/api/v1/openapi.json";
