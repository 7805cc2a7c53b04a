//! A service without the SDK: it serves on a Unix socket that only its sidecar opens, and calls others through another one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Router, middleware::from_fn};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::HOST};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::{
    asking::{CONTEXT, told_by_the_sidecar},
    neighbour::NeighbourError,
    run::RunError,
};

/// Our own sidecar, as the way to others. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sidecar(Arc<PathBuf>);

impl Sidecar {
    /// The one that takes our calls on `socket`.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self(Arc::new(socket))
    }

    /// Sends a request to the service `name`, on behalf of whom `context` belongs to.
    ///
    /// # Errors
    /// The sidecar does not answer. What it answers is for the caller to judge.
    pub(crate) async fn send(
        &self,
        name: &str,
        context: Option<&HeaderValue>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, NeighbourError> {
        let failed = |why: &dyn std::fmt::Display| NeighbourError::Sidecar(why.to_string());
        let host = HeaderValue::from_str(name).map_err(|error| failed(&error))?;
        request.headers_mut().insert(HOST, host);
        if let Some(context) = context {
            request.headers_mut().insert(CONTEXT, context.clone());
        }
        // The sidecar keeps the costly connection; this one, within the machine, lives for one request.
        let stream = UnixStream::connect(&**self.0).await.map_err(|error| failed(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| failed(&error))
    }
}

/// Serves `router` for the sidecar alone, until `stop`. Whoever opens the socket is believed: its mode is 0600 from the
/// moment it exists.
pub(crate) async fn serve(router: Router, socket: &Path, stop: CancellationToken) -> Result<(), RunError> {
    let failed = |error: std::io::Error| RunError::Socket {
        path: socket.display().to_string(),
        why: error.to_string(),
    };
    let listener = bind(socket).map_err(failed)?;
    let router = router.layer(from_fn(told_by_the_sidecar));
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await.map_err(failed)
}

/// In a directory that only we can enter, so that the socket is nobody else's between its birth and its mode.
fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
