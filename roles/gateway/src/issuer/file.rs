//! Keys of an issuer in a file. A file that cannot be read keeps those that it had before.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_keys::JwkSet;
use countersign_keys::jwk_set::JWK_SET_BYTES_MAX;
use tokio_util::sync::CancellationToken;

use super::IssuerError;

/// A file with a JWK set.
#[derive(Debug, Clone)]
pub(super) struct KeyFile(PathBuf);

impl KeyFile {
    pub(super) fn new(path: &Path) -> Self {
        KeyFile(path.to_path_buf())
    }

    pub(super) fn read(&self) -> Result<JwkSet, IssuerError> {
        let place = || self.0.display().to_string();
        let unreadable =
            |error: std::io::Error| IssuerError::Unreadable { path: place(), why: error.to_string() };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&self.0).map_err(unreadable)?;
        // One byte past the limit is enough to know that there are too many.
        file.take(JWK_SET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        JwkSet::read(&bytes).map_err(|source| IssuerError::Keys { place: place(), source })
    }

    /// Reads it again and again until `shutdown`, and says each new state once.
    pub(super) async fn watch(&self, put: impl Fn(JwkSet), shutdown: CancellationToken) {
        let mut last_error = None;
        while shutdown.run_until_cancelled(tokio::time::sleep(RELOAD_INTERVAL)).await.is_some() {
            let file = self.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || file.read()).await else { continue };
            let error = read.map(&put).err();
            if error.is_some() && error != last_error {
                let why = error.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::error!(why, "keys of an issuer not reloaded, the old ones stay in use");
            }
            last_error = error;
        }
    }
}

/// How often the file is looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
