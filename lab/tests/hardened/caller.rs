//! A service that calls by hand, so that it can do what the SDK would not.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use countersign_identity::{SpiffeId, UnixTime};
use countersign_keys::{KeyPair, SystemRandom, sha256};
use countersign_pki::{
    CrlPolicy,
    csr::{self, Csr},
    issue::issue_signing,
    profile::LeafTtl,
};
use countersign_sdk::{
    clock,
    tls::{Connector, Expected, TrustState},
};
use countersign_token::{
    ServiceToken,
    service_token::{BodyBinding, UserBinding, new_id},
};
use http::{HeaderMap, Method, Request, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::deployment::{Deployment, HOUR, Leaf, key, serial};

/// A key that signs requests, with its certificate.
pub(crate) struct Signing {
    id: SpiffeId,
    key: KeyPair,
    chain: Vec<Vec<u8>>,
    pub(crate) serial_hex: String,
}

/// What a request looks like on the wire.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) token: Option<String>,
    pub(crate) chain: Option<String>,
    pub(crate) body: &'static str,
}

/// One TLS connection to `users`.
pub(crate) struct Connection {
    requests: SendRequest<Full<Bytes>>,
    pub(crate) exporter: [u8; 32],
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

impl Signing {
    pub(crate) fn of(deployment: &Deployment, service: &str) -> Self {
        Self::issued(deployment, service, HOUR, clock::now())
    }

    pub(crate) fn issued(deployment: &Deployment, service: &str, life: Duration, at: UnixTime) -> Self {
        let (id, key) = (deployment.id(service), key());
        let csr = Csr::parse(&csr::make(&key, None).unwrap()).unwrap();
        let life = LeafTtl::new(life).unwrap();
        let issued = issue_signing(&deployment.issuing, &csr, &id, life, at, serial()).unwrap();
        let chain = vec![issued.der.to_vec(), deployment.issuing.certificate().to_vec()];
        Self { id, key, chain, serial_hex: issued.serial_hex }
    }

    /// The request `method path`, signed for `users` and this connection.
    pub(crate) fn request(&self, users: &SpiffeId, on: &Connection, method: Method, path: &str) -> Sent {
        self.request_of(&self.id, users, on, method, path, "")
    }

    /// The same in the name of `issuer`, who need not be the owner of the key.
    pub(crate) fn request_of(
        &self,
        issuer: &SpiffeId,
        users: &SpiffeId,
        on: &Connection,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> Sent {
        let now = clock::now();
        let token = ServiceToken {
            issuer: issuer.clone(),
            audience: users.clone(),
            jti: new_id(&SystemRandom::new()).unwrap(),
            method: method.to_string(),
            path_and_query: path.to_owned(),
            body: BodyBinding::Sha256(sha256(body.as_bytes())),
            channel: Some(on.exporter),
            user: UserBinding::None,
            private: Default::default(),
            issued_at: now,
            expires: now.saturating_add(Duration::from_secs(30)),
        };
        let token = token.mint(&self.key, Some(&sha256(&self.chain[0]))).unwrap();
        Sent { method, path: path.to_owned(), token: Some(token), chain: Some(self.header()), body }
    }

    fn header(&self) -> String {
        let items: Vec<_> = self.chain.iter().map(|der| format!(":{}:", STANDARD.encode(der))).collect();
        items.join(", ")
    }
}

impl Connection {
    /// Connects to `users`, showing `leaf` if there is one.
    pub(crate) async fn open(
        deployment: &Arc<Deployment>,
        leaf: Option<&Leaf>,
        address: SocketAddr,
    ) -> Result<Self, String> {
        let trust = TrustState::new(deployment.bundles(), CrlPolicy::Require);
        if let Some(leaf) = leaf {
            trust.set_identity(leaf.identity());
        }
        let connector = Connector::new(trust, Expected::exactly(deployment.id("users")));
        let tcp = TcpStream::connect(address).await.unwrap();
        let (tls, _) = connector.connect(tcp).await.map_err(|error| error.to_string())?;
        let exporter = tls.get_ref().1.export_keying_material([0; 32], EXPORTER, Some(&[])).unwrap();
        let (requests, driver) =
            handshake(TokioExecutor::new(), TokioIo::new(tls)).await.map_err(|error| error.to_string())?;
        tokio::spawn(driver);
        Ok(Self { requests, exporter })
    }

    pub(crate) async fn send(&mut self, sent: &Sent) -> Result<Reply, String> {
        let uri = format!("https://users{}", sent.path);
        let mut request = Request::builder().method(sent.method.clone()).uri(uri);
        if let Some(token) = &sent.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(chain) = &sent.chain {
            request = request.header("countersign-signing-chain", chain);
        }
        let request = request.body(Full::from(sent.body)).unwrap();
        let response = self.requests.send_request(request).await.map_err(|error| error.to_string())?;
        let reply = Reply { status: response.status(), headers: response.headers().clone() };
        response.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok(reply)
    }
}

/// RFC 9266 section 2.
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";
