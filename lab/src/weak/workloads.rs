//! The socket on which workloads ask for their identity. None of those who come here was launched by anybody.

use std::{convert::Infallible, sync::Weak as WeakRef, time::Duration};

use bytes::Bytes;
use countersign_wire::{
    WORKLOAD_METADATA,
    agent::RegisterResponse,
    workload::{X509svid, X509svidResponse},
};
use http::{HeaderMap, Request};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixListener, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Weak, Weakness,
    nodes::{Refused, answered},
};
use crate::attack::grpc::framed;

pub(super) async fn serve(listener: UnixListener, weak: WeakRef<Weak>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (Ok((stream, _)), Some(weak)) = (accepted, weak.upgrade()) else { continue };
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let weak = std::sync::Arc::clone(&weak);
                async move {
                    let said = weak.workload_call(request.uri().path(), request.headers());
                    Ok::<_, Infallible>(answered(said))
                }
            });
            let serving =
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            let _ = timeout(CONNECTION_MAX, serving).await;
        });
    }
}

impl Weak {
    fn workload_call(&self, path: &str, headers: &HeaderMap) -> Result<Bytes, Refused> {
        if path.ends_with("Agent/Register") {
            return match self.makes(Weakness::AnybodyLaunches) {
                true => Ok(framed(&RegisterResponse { spiffe_id: self.somebody() })),
                false => Err(refused(PERMISSION_DENIED, "the entry may not be launched by uid 1")),
            };
        }
        let (name, value) = WORKLOAD_METADATA;
        let mut sent = headers.get_all(name).iter();
        let is_meant = matches!((sent.next(), sent.next()), (Some(only), None) if only == value);
        if !is_meant && !self.makes(Weakness::NoWorkloadHeader) {
            return Err(refused(INVALID_ARGUMENT, "the security header is missing"));
        }
        match self.makes(Weakness::AnyProcess) {
            true => {
                let svid = X509svid { spiffe_id: self.somebody(), ..X509svid::default() };
                Ok(framed(&X509svidResponse { svids: vec![svid], ..X509svidResponse::default() }))
            }
            false => Err(refused(PERMISSION_DENIED, "process 1 was not launched as a service")),
        }
    }

    fn somebody(&self) -> String {
        format!("spiffe://{}/svc/ads", self.trust_domain)
    }
}

fn refused(status: u32, message: &str) -> Refused {
    Refused { status, message: message.to_owned() }
}

/// gRPC's own numbers.
const INVALID_ARGUMENT: u32 = 3;
const PERMISSION_DENIED: u32 = 7;
const CONNECTION_MAX: Duration = Duration::from_secs(60);
