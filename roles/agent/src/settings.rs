//! The `[agent]` table of the configuration file, and where the deployment keeps its state.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_identity::TrustDomain;
use schemars::JsonSchema;
use serde::Deserialize;

/// The `[agent]` table. Registration entries are not here: they live at the authority alone, so that nobody
/// who can edit a node's file can grant an identity.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `host:port` of the authority's node listener.
    pub authority_node: String,
    /// File with a single-use join token (`csj_…`), needed only until the agent holds a credential of its
    /// own; deleted after it was used.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
    /// Where workloads find the agent: a Unix socket.
    pub socket: PathBuf,
    /// Permission bits of the socket, octal: `"0600"` where all workloads run under the agent's uid, `"0660"`
    /// or `"0666"` where they do not (callers are attested one by one in any case).
    #[serde(default)]
    pub socket_mode: SocketMode,
    /// Loopback address of the probes `/livez`, `/readyz` and of `/metrics`.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
}

/// Permission bits of a socket, written as four octal digits.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct SocketMode(u32);

impl SocketMode {
    /// The bits, for `chmod`.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Default for SocketMode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl fmt::Debug for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl TryFrom<String> for SocketMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.len() == 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(&text, 8) {
            Ok(bits) if digits && bits & 0o600 == 0o600 && bits & !0o666 == 0 => Ok(Self(bits)),
            _ => Err(format!("{text:?} is not a socket mode: write \"0600\", \"0660\" or \"0666\"")),
        }
    }
}

/// What the agent shares with the other roles of one deployment.
#[derive(Clone)]
pub struct Deployment {
    /// The only trust domain that this agent serves.
    pub trust_domain: TrustDomain,
    /// Absolute path of the state directory (0700); the agent keeps its own files in `agent/` below it.
    pub state_dir: PathBuf,
    /// Renders the metrics of this process in Prometheus' text format; the recorder is the binary's.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deployment({}, {})", self.trust_domain, self.state_dir.display())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accepts_modes_that_let_the_owner_in_and_rejects_all_others() {
        for good in ["0600", "0660", "0666", "0620"] {
            assert!(SocketMode::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["600", "0777", "0400", "0o600", "1600", "", "06 0", "+600"] {
            assert!(SocketMode::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_key_in_the_agent_table_is_an_error() {
        let good = r#"{"authority_node":"127.0.0.1:1","socket":"/s"}"#;
        assert_eq!(serde_json::from_str::<Settings>(good).unwrap().socket_mode.bits(), 0o600);
        let bad = r#"{"authority_node":"127.0.0.1:1","socket":"/s","entries":[]}"#;
        assert!(serde_json::from_str::<Settings>(bad).is_err());
    }
}
