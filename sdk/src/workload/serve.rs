//! Serving under our identity.

use std::{convert::Infallible, error::Error as StdError, future::IntoFuture, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::Workload;
use crate::{
    accept::{self, Limits, Listen, RequestBody, Transport},
    inbound::HandshakeRecorder,
    live::Floor,
    tls::{Acceptor, ClientAuth},
};

/// A listener about to serve; `.await` it.
#[must_use = "nothing is served until this is awaited"]
#[derive(Debug)]
pub struct Serve<L, S> {
    workload: Workload,
    listener: L,
    service: S,
    limits: Limits,
    auth: Option<ClientAuth>,
    shutdown: CancellationToken,
}

impl Workload {
    /// Serves `service` on `listener` in every mode that the newest snapshot accepts for us: a client certificate is
    /// demanded where no mode goes without, and plain HTTP is served on the same port only where `none` is accepted.
    /// What is presented in the handshake is judged there.
    ///
    /// The service needs [`Workload::require`] as its outermost layer: the handshake proves who somebody is,
    /// only the layer asks whether they may.
    pub fn serve<L, S>(&self, listener: L, service: S) -> Serve<L, S> {
        Serve {
            workload: self.clone(),
            listener,
            service,
            limits: Limits::default(),
            auth: None,
            shutdown: CancellationToken::new(),
        }
    }
}

impl Workload {
    /// How connections come in for us in every mode that the newest snapshot accepts, for accept loops of others.
    #[must_use]
    pub fn transport(&self) -> Transport {
        let floor = Floor::of(&self.0.target, Arc::clone(&self.0.live));
        Transport::ByFloor(self.acceptor(ClientAuth::Required), floor)
    }

    fn acceptor(&self, auth: ClientAuth) -> Acceptor {
        let recorder = HandshakeRecorder::new(self.0.target.clone(), Arc::clone(&self.0.spool));
        Acceptor::new(Arc::clone(&self.0.trust), auth).observed_by(Arc::new(recorder))
    }
}

impl<L, S> Serve<L, S> {
    /// Drains when `signal` comes, then returns.
    pub fn with_graceful_shutdown(self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            signal.await;
            shutdown.cancel();
        });
        self
    }

    /// Other limits than the usual ones.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What a missing client certificate means, whatever the snapshot says; and TLS alone is spoken.
    pub const fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.auth = Some(auth);
        self
    }
}

impl<L, S, B> IntoFuture for Serve<L, S>
where
    L: Listen,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    /// How many connections had to be cut because they did not finish in time.
    type Output = usize;
    type IntoFuture = Pin<Box<dyn Future<Output = usize> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let transport = match self.auth {
                Some(auth) => Transport::Tls(self.workload.acceptor(auth)),
                None => self.workload.transport(),
            };
            accept::serve(self.listener, transport, self.service, self.limits, self.shutdown).await
        })
    }
}
