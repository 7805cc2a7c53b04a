//! The one line that `up` prints when everything runs, kept in `up.json` for the commands that come later.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::CliError;

const NAME: &str = "up.json";

/// A running deployment: URLs without trailing slash, absolute paths, `null` for what does not exist yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Seconds from the start of `up` to the last process being ready.
    pub ready_s: f64,
    /// The trust domain.
    pub trust_domain: String,
    /// The edge over plain HTTP, loopback only.
    pub gateway: String,
    /// The edge over HTTPS; its root is `ca_file`.
    pub gateway_tls: String,
    /// The authority's API over HTTPS.
    pub authority: String,
    /// Probes and metrics of the authority.
    pub admin: String,
    /// The web console.
    pub console: Option<String>,
    /// SPIFFE Workload API, and the snapshot service.
    pub agent_socket: PathBuf,
    /// PEM of the edge root.
    pub ca_file: PathBuf,
    /// All state.
    pub state_dir: PathBuf,
    /// The supervisor.
    pub pid: u32,
}

impl Ready {
    /// The line of the deployment in `state_dir`.
    ///
    /// # Errors
    /// Exit 3 where nothing was started there.
    pub fn read(state_dir: &Path) -> Result<Self, CliError> {
        let path = state_dir.join(NAME);
        let not_running = |why: &dyn std::fmt::Display| {
            CliError::unreachable(
                format!("no deployment runs from {}", state_dir.display()),
                why,
                "countersign up, or name the right deployment with --state-dir",
            )
        };
        let text = std::fs::read(&path).map_err(|e| not_running(&e))?;
        serde_json::from_slice(&text).map_err(|e| not_running(&e))
    }

    /// Keeps the line, whole or not at all.
    ///
    /// # Errors
    /// Where the state directory cannot be written.
    pub fn write(&self, state_dir: &Path) -> Result<(), CliError> {
        let text = serde_json::to_vec(self)
            .map_err(|e| CliError::failed("the ready line cannot be written as JSON", e, "report this"))?;
        write_private(&state_dir.join(NAME), &text)
    }

    /// Forgets the line: the deployment is going down.
    pub fn forget(state_dir: &Path) {
        let _ = std::fs::remove_file(state_dir.join(NAME));
    }
}

/// Writes a file of mode 0600 by a rename, so that a reader sees the old one or the new one; durable on return.
///
/// # Errors
/// Exit 2 with the path.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |e: std::io::Error| {
        CliError::usage(
            format!("cannot write {}", path.display()),
            e,
            "free space, or choose another --state-dir",
        )
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let _ = std::fs::remove_file(&beside);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)?;
    // A master key whose name is lost with the power takes everything that it sealed along.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn sample() -> Ready {
        Ready {
            ready_s: 1.5,
            trust_domain: "fleamarket.test".into(),
            gateway: "http://127.0.0.1:7080".into(),
            gateway_tls: "https://127.0.0.1:7444".into(),
            authority: "https://127.0.0.1:7443".into(),
            admin: "http://127.0.0.1:7442".into(),
            console: None,
            agent_socket: "/s/agent.sock".into(),
            ca_file: "/s/ca.pem".into(),
            state_dir: "/s".into(),
            pid: 7,
        }
    }

    #[test]
    fn the_ready_line_is_one_line_and_says_null_for_what_does_not_exist_yet() {
        let text = serde_json::to_string(&sample()).unwrap();
        assert!(!text.contains('\n'));
        assert!(text.contains("\"console\":null"));
    }

    #[test]
    fn the_ready_line_is_read_back_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Ready::read(dir.path()).unwrap_err().code(), 3);
        sample().write(dir.path()).unwrap();
        assert_eq!(Ready::read(dir.path()).unwrap(), sample());
        let mode = std::fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        Ready::forget(dir.path());
        assert!(Ready::read(dir.path()).is_err());
    }
}
