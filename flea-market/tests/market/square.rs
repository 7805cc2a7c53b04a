//! A market square for tests: services that run, and people who come through the gateway.

use std::{sync::Arc, time::Duration};

use countersign_flea_market::{Settings, TRUST_DOMAIN, open, policies_for};
use countersign_sdk::{
    ServiceClient, Workload, clock,
    outbound::{InternalToken, OutboundRequest},
};
use countersign_token::{TxnToken, txn_token};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::deployment::Deployment;

/// Some of the six services, and a gateway that passes people on without any rule of its own.
pub(crate) struct Square {
    pub(crate) deployment: Arc<Deployment>,
    pub(crate) gateway: Workload,
    services: Vec<(String, CancellationToken, JoinHandle<()>)>,
}

/// What somebody was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// An RFC 9457 problem with this status; returns its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], status);
        assert!(body["type"].as_str().unwrap().contains(body["code"].as_str().unwrap()));
        body["detail"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        self.json()
    }
}

impl Square {
    pub(crate) async fn with(services: &[&str]) -> Self {
        let deployment = Deployment::new();
        for (name, text) in policies_for(TRUST_DOMAIN) {
            deployment.world.lock().unwrap().policies.insert(name.to_owned(), text);
        }
        deployment.publish();
        let gateway = deployment.workload("gateway").await;
        let mut square = Self { deployment, gateway, services: Vec::new() };
        for service in services {
            square.open(service).await;
        }
        square
    }

    pub(crate) async fn open(&mut self, service: &str) {
        let listen = format!("127.0.0.1:{}", countersign_testkit::free_port()).parse().unwrap();
        let workload = self.workload(service).await;
        let file = self.deployment.directory.path().join(format!("{service}.db"));
        let settings = Settings { listen, database: format!("sqlite:{}", file.display()) };
        let stop = CancellationToken::new();
        let opened = open(service, settings, workload).await.unwrap();
        let running = tokio::spawn(opened.serve(stop.clone()));
        self.deployment.world.lock().unwrap().services.insert(service.to_owned(), listen);
        self.deployment.publish();
        self.services.push((service.to_owned(), stop, running));
        self.everybody_knows().await;
    }

    /// The identity of a service, also of one that runs here no longer.
    pub(crate) async fn workload(&self, service: &str) -> Workload {
        let socket = self.deployment.directory.path().join(format!("{service}-agent.sock"));
        match socket.exists() {
            true => Workload::connect_to(&socket).await.unwrap(),
            false => self.deployment.workload(service).await,
        }
    }

    pub(crate) async fn close(&mut self, service: &str) {
        let position = self.services.iter().position(|(name, ..)| name == service).unwrap();
        let (_, stop, running) = self.services.remove(position);
        stop.cancel();
        running.await.unwrap();
    }

    /// Waits until the gateway has the newest snapshot; the others get it at the same time.
    pub(crate) async fn everybody_knows(&self) {
        let sequence = self.deployment.world.lock().unwrap().sequence;
        for _ in 0..100 {
            if self.gateway.live().snapshot().sequence >= sequence {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// What a gateway calls for this person.
    pub(crate) fn on_behalf_of(&self, person: &str, service: &str) -> ServiceClient {
        let token = self.token(person);
        self.gateway.client(service).with_token(InternalToken::minted(token))
    }

    pub(crate) fn token(&self, person: &str) -> String {
        let roles = match person {
            "alice" | "carol" => "buyer",
            "bob" => "seller",
            "mod" => "moderator",
            _ => "guest",
        };
        let now = clock::now();
        let token = TxnToken {
            txn: format!("txn-{person}"),
            user_id: format!("u_{person}"),
            name: person.to_owned(),
            roles: vec![roles.to_owned()],
            scope: "fleamarket".into(),
            requested_by: self.gateway.id().clone(),
            actors: Vec::new(),
            possession: countersign_identity::Possession::None,
            expires: txn_token::expiry(now, Some(now.saturating_add(Duration::from_mins(1)))),
        };
        token.mint(&self.deployment.gateway_key, now).unwrap()
    }

    pub(crate) async fn get(&self, person: &str, path: &str) -> Answer {
        answer(self.on_behalf_of(person, service_of(path)).get(path)).await
    }

    pub(crate) async fn delete(&self, person: &str, path: &str) -> Answer {
        answer(self.on_behalf_of(person, service_of(path)).delete(path)).await
    }

    pub(crate) async fn post(&self, person: &str, path: &str, body: Value) -> Answer {
        answer(self.on_behalf_of(person, service_of(path)).post(path).json(&body)).await
    }

    pub(crate) async fn put(&self, person: &str, path: &str, body: Value) -> Answer {
        answer(self.on_behalf_of(person, service_of(path)).ask(Method::PUT, path).json(&body)).await
    }

    pub(crate) async fn send(
        &self,
        person: &str,
        path: &str,
        content_type: &'static str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let request = self.on_behalf_of(person, service_of(path)).post(path);
        answer(request.body(content_type, body.into())).await
    }
}

pub(crate) async fn answer(request: OutboundRequest) -> Answer {
    let response = request.send().await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: head.status, headers: head.headers, bytes }
}

fn service_of(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    match path.split(['/', '?']).next().unwrap() {
        "chats" => "chat",
        service => service,
    }
}

/// A picture of one pixel, as bytes of a PNG file.
pub(crate) fn pixel() -> Vec<u8> {
    let mut file =
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89".to_vec();
    file.extend(b"\0\0\0\rIDATx\x9cc\xfa\xcf\0\0\0\x02\0\x01\xe5'\xde\xfc\0\0\0\0IEND\xaeB`\x82");
    file
}
