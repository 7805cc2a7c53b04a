//! Three services in a row, by one of the ways.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    routing::get,
};
use bytes::Bytes;
use countersign_sdk::{
    Caller, Workload,
    outbound::{Answer, CallLimits, InternalToken, Pool, ServiceClient},
};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};

use crate::deployment::{self, Deployment};

/// What the last service answers and the others pass on: as large as the preview of a seller.
pub const PREVIEW: &str =
    r#"{"previews":[{"handle":"bob","display_name":"Bob","town":"Linz","rating":4.7,"deals":12}]}"#;

/// From the edge inwards.
const SERVICES: [&str; 3] = ["front", "ads", "users"];
const CALLERS: [&str; 3] = ["gateway", "front", "ads"];
const PATH: &str = "/users/7";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Bare,
    Mtls,
    Door,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    Kept,
    New,
}

/// Running services, and a caller of the first.
pub struct Chain {
    next: Next,
    token: Option<InternalToken>,
    /// Ends when dropped.
    _running: Option<(Arc<Deployment>, Vec<Served>)>,
}

struct Served {
    name: &'static str,
    workload: Workload,
    #[expect(dead_code, reason = "held as long as the chain")]
    running: deployment::Served,
}

/// How a hop calls the one behind it.
#[derive(Clone)]
enum Next {
    Nobody,
    Bare(SocketAddr, Option<http2::SendRequest<Empty<Bytes>>>),
    Service(Workload, &'static str, Connections),
}

impl Chain {
    pub async fn start(way: Way, connections: Connections) -> Self {
        if way == Way::Bare {
            return Self::bare(connections).await;
        }
        let deployment = Deployment::new();
        let mut served: Vec<Served> = Vec::new();
        for (name, caller) in SERVICES.into_iter().zip(CALLERS).rev() {
            deployment.permit(name, &[caller]);
            let workload = deployment.workload(name).await;
            let behind = served.last().map(|behind| behind.name);
            let next = behind.map_or(Next::Nobody, |name| Next::Service(workload.clone(), name, connections));
            let router = match way {
                Way::Door => router(next).layer(workload.require()),
                Way::Mtls | Way::Bare => router(next),
            };
            let running = deployment.serve_as(workload.clone(), name, router).await;
            served.push(Served { name, workload, running });
        }
        let gateway = deployment.workload("gateway").await;
        settle(served.iter().map(|served| &served.workload).chain([&gateway])).await;
        let token = deployment.txn_token("alice", &deployment.gateway_key, Duration::from_mins(5));
        let next = Next::Service(gateway, SERVICES[0], connections);
        Self { next, token: Some(InternalToken::minted(token)), _running: Some((deployment, served)) }
    }

    async fn bare(connections: Connections) -> Self {
        let mut next = Next::Nobody;
        for _ in SERVICES {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve_bare(listener, router(next)));
            let kept = match connections {
                Connections::Kept => Some(connect_bare(address).await),
                Connections::New => None,
            };
            next = Next::Bare(address, kept);
        }
        Self { next, token: None, _running: None }
    }

    /// One call through all services.
    pub async fn call(&self) -> Bytes {
        match &self.next {
            Next::Service(workload, name, connections) => {
                let client = client(workload, name, *connections);
                let token = self.token.clone().unwrap();
                let answer = client.with_token(token).get(PATH).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.unwrap().to_bytes()
            }
            next => next.pass_on(None).await,
        }
    }
}

impl Next {
    async fn pass_on(&self, caller: Option<&Caller>) -> Bytes {
        let answer = match self {
            Self::Nobody => return Bytes::from_static(PREVIEW.as_bytes()),
            Self::Bare(address, kept) => bare(*address, kept.clone()).await.map(Answer::from),
            Self::Service(workload, name, connections) => {
                let mut client = client(workload, name, *connections);
                if let Some(caller) = caller {
                    client = client.on_behalf_of(caller);
                }
                client.get(PATH).send().await.unwrap()
            }
        };
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap().to_bytes()
    }
}

fn router(next: Next) -> Router {
    async fn hop(State(next): State<Next>, request: Request) -> Bytes {
        next.pass_on(request.extensions().get::<Caller>()).await
    }
    Router::new().route("/users/{id}", get(hop)).with_state(next)
}

/// A pool of its own opens a connection of its own.
fn client(workload: &Workload, name: &str, connections: Connections) -> ServiceClient {
    match connections {
        Connections::Kept => workload.client(name),
        Connections::New => {
            let (trust, live) = (Arc::clone(workload.trust()), Arc::clone(workload.live_cell()));
            let credentials = workload.credentials().clone();
            Pool::new(trust, live, credentials, CallLimits::default()).client(name)
        }
    }
}

/// Waits until the snapshot that names all services has arrived everywhere.
async fn settle(workloads: impl Iterator<Item = &Workload>) {
    for workload in workloads {
        while !SERVICES.iter().all(|name| workload.live().service(name).is_some()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn serve_bare(listener: TcpListener, router: Router) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
            let _ = builder.serve_connection(TokioIo::new(tcp), service).await;
        });
    }
}

async fn connect_bare(address: SocketAddr) -> http2::SendRequest<Empty<Bytes>> {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (send, connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    send
}

async fn bare(
    address: SocketAddr,
    kept: Option<http2::SendRequest<Empty<Bytes>>>,
) -> http::Response<Incoming> {
    let mut send = match kept {
        Some(send) => send,
        None => connect_bare(address).await,
    };
    let request = http::Request::get(format!("http://{address}{PATH}")).body(Empty::new()).unwrap();
    send.send_request(request).await.unwrap()
}
