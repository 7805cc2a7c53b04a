//! A small token service that speaks RFC 8693 over HTTPS, and remembers what it was asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{Form, State},
    response::{IntoResponse, Response},
    routing::post,
};
use countersign_identity::SpiffeId;
use countersign_keys::{KeyPair, SystemRandom};
use countersign_pki::{
    BundleSet, CrlPolicy,
    issue::{Root, issue_edge_server, make_root},
    profile::EdgeNames,
};
use countersign_sdk::{
    accept::{self, Connection, Limits, Transport},
    clock,
    tls::{Acceptor, ClientAuth, Identity, TrustState},
};
use countersign_token::dpop::{self, DpopTarget, DpopUri};
use countersign_wire::snapshot::Sts;
use http::{HeaderMap, Method, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::deployment::{Deployment, HOUR, key, serial};

/// The service, as a test sees it.
pub(crate) struct TokenService {
    pub(crate) asked: Mutex<Vec<Asked>>,
    pub(crate) behaviour: Mutex<Behaviour>,
    endpoint: Mutex<String>,
    stop: CancellationToken,
}

/// One exchange.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) client: Option<SpiffeId>,
    /// Serial number of the certificate that it showed.
    pub(crate) serial: Option<String>,
    pub(crate) form: HashMap<String, String>,
    /// Thumbprint of the key of the DPoP proof, and its nonce.
    pub(crate) dpop: Option<(String, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Issues,
    Denies,
    WantsNonce,
    WantsHugeNonce,
    SaysNonsense,
    IsDown,
    SaysNoWithoutAReason,
    IsSilent,
}

impl Drop for TokenService {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl TokenService {
    /// Serves it, and names it in the snapshots of `deployment`.
    pub(crate) async fn serve(deployment: &Arc<Deployment>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}/oauth2/token", listener.local_addr().unwrap());
        let (identity, root) = edge_identity(deployment);
        let shown = TrustState::new(BundleSet::new(), CrlPolicy::Require);
        shown.set_identity(identity);
        let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
        let acceptor = Acceptor::new(trust, ClientAuth::Optional).showing(shown);
        let service = Arc::new(Self {
            asked: Mutex::default(),
            behaviour: Mutex::new(Behaviour::Issues),
            endpoint: Mutex::new(endpoint.clone()),
            stop: CancellationToken::new(),
        });
        let router = Router::new().route("/oauth2/token", post(exchange)).with_state(Arc::clone(&service));
        let stop = service.stop.clone();
        tokio::spawn(accept::serve(listener, Transport::Tls(acceptor), router, Limits::default(), stop));
        let sts = Sts {
            issuer: "https://sts.test".into(),
            token_endpoint: endpoint,
            roots: vec![root.as_slice().into()],
        };
        deployment.world.lock().unwrap().sts = Some(sts);
        deployment.publish();
        service
    }

    pub(crate) fn behaves(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub(crate) fn exchanges(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

async fn exchange(
    State(service): State<Arc<TokenService>>,
    connection: Option<Extension<Connection>>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let peer = connection.and_then(|Extension(connection)| connection.peer.clone());
    let client = peer.and_then(|peer| peer.workload(clock::now()).ok());
    let serial = client.as_ref().and_then(|client| Some(client.certificate.as_ref()?.serial_hex.clone()));
    let client = client.map(|client| client.id.clone());
    let proof = headers.get("dpop").map(|proof| {
        let uri = DpopUri::parse(&service.endpoint.lock().unwrap()).unwrap();
        let target = DpopTarget { method: &Method::POST, uri, access_token: None };
        let proof = dpop::verify(proof.to_str().unwrap(), &target, clock::now()).unwrap();
        (proof.jkt().to_owned(), proof.nonce().map(str::to_owned))
    });
    let nonce = proof.as_ref().and_then(|(_, nonce)| nonce.clone());
    let asked = Asked { client, serial, form, dpop: proof };
    let token = format!("hop-{}-{}", service.exchanges() + 1, asked.form["audience"]);
    service.asked.lock().unwrap().push(asked);
    let behaviour = *service.behaviour.lock().unwrap();
    match behaviour {
        Behaviour::WantsNonce if nonce.is_none() => {
            let body = r#"{"error":"use_dpop_nonce"}"#;
            (StatusCode::BAD_REQUEST, [("dpop-nonce", "n-1")], body).into_response()
        }
        Behaviour::WantsHugeNonce => {
            let body = r#"{"error":"use_dpop_nonce"}"#;
            (StatusCode::BAD_REQUEST, [("dpop-nonce", "n".repeat(9000))], body).into_response()
        }
        Behaviour::Issues | Behaviour::WantsNonce => {
            let body = format!(
                r#"{{"access_token":"{token}","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"N_A","expires_in":60}}"#
            );
            ([("content-type", "application/json")], body).into_response()
        }
        Behaviour::Denies => {
            let body = r#"{"error":"invalid_target","error_description":"no rule in sts.cedar"}"#;
            (StatusCode::BAD_REQUEST, body).into_response()
        }
        Behaviour::IsDown => {
            (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"temporarily_unavailable"}"#).into_response()
        }
        Behaviour::SaysNoWithoutAReason => (StatusCode::FORBIDDEN, "<html>").into_response(),
        Behaviour::SaysNonsense => "not json".into_response(),
        Behaviour::IsSilent => {
            tokio::time::sleep(Duration::from_secs(30)).await;
            StatusCode::OK.into_response()
        }
    }
}

/// A certificate for 127.0.0.1 below a root of its own, and that root.
fn edge_identity(deployment: &Deployment) -> (Identity, Vec<u8>) {
    let names = EdgeNames { dns: vec!["localhost".into()], ips: vec![[127, 0, 0, 1].into()] };
    let now = clock::now().saturating_sub(HOUR);
    let root = make_root(Root::Edge(&names), &deployment.td, key(), now, serial()).unwrap();
    let server = KeyPair::generate(&SystemRandom::new()).unwrap();
    let leaf = issue_edge_server(&root, server.public_key(), &names, HOUR * 24, now, serial()).unwrap();
    let identity = Identity::edge(vec![leaf.der], &server).unwrap();
    (identity, root.certificate().to_vec())
}
