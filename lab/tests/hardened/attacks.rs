use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::any};
use countersign_identity::Mode;
use countersign_ledger::{CheckResult, Decision, Verdict};
use countersign_sdk::clock;
use http::{Method, header::WWW_AUTHENTICATE};

use crate::{
    caller::{Connection, Reply, Sent, Signing},
    deployment::{Deployment, Served},
};

/// `users`, which may be called by `ads` and by `chat`, in modes `jwt` and `mtls+jwt`.
struct Target {
    deployment: Arc<Deployment>,
    users: Served,
    reached: Arc<AtomicUsize>,
}

impl Target {
    async fn start() -> Self {
        let deployment = Deployment::new();
        deployment.permit("users", &["ads", "chat"]);
        deployment.speak(&["users"], &[Mode::Jwt, Mode::MtlsJwt], Mode::Jwt);
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        let handler = move || {
            count.fetch_add(1, Ordering::SeqCst);
            async { "hello" }
        };
        let router = Router::new()
            .route("/users/{id}", any(handler.clone()))
            .route("/users/{id}/password", any(handler));
        let users = deployment.serve("users", router).await;
        let target = Self { deployment, users, reached };
        target.settle().await;
        target
    }

    /// Waits until `users` has the newest snapshot.
    async fn settle(&self) {
        let sequence = self.deployment.world.lock().unwrap().sequence;
        for _ in 0..200 {
            if self.users.workload.live().snapshot().sequence == sequence {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("users has no snapshot {sequence}");
    }

    async fn connect(&self) -> Connection {
        Connection::open(&self.deployment, None, self.users.address).await.unwrap()
    }

    /// `GET /users/7` of a service with this key, over a connection of its own.
    fn get(&self, signing: &Signing, on: &Connection) -> Sent {
        signing.request(&self.deployment.id("users"), on, Method::GET, "/users/7")
    }

    fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }

    /// The ledger has a refusal whose failed check says this.
    async fn assert_recorded(&self, why: &str) {
        let failed = |decision: &Decision| {
            let mut failed = decision.checks.iter().filter(|check| check.result == CheckResult::Fail);
            decision.verdict == Verdict::Deny && failed.any(|check| check.detail.contains(why))
        };
        let recorded = self.deployment.reported(failed).await;
        assert!(recorded.is_some(), "{why}: {:#?}", self.deployment.decisions());
    }
}

/// What an attacker does to a request that it captured.
type Change = fn(&mut Sent);

fn assert_refused(reply: &Reply) {
    assert!(reply.status == 401 || reply.status == 403, "{reply:?}");
}

#[tokio::test]
async fn d1_a_caller_without_a_certificate_needs_no_second_request_and_a_worthless_one_opens_nothing() {
    let target = Target::start().await;
    let ads = Signing::of(&target.deployment, "ads");
    let mut connection = target.connect().await;
    let request = target.get(&ads, &connection);
    assert_eq!(
        connection.send(&request).await.unwrap().status,
        200,
        "the first request, and no 401 before it"
    );

    // A certificate that nobody vouches for ends the connection; it is not as good as none.
    let strangers = Deployment::new();
    let worthless = strangers.leaf("ads");
    if let Ok(mut attack) = Connection::open(&target.deployment, Some(&worthless), target.users.address).await
    {
        let sent = target.get(&ads, &attack);
        assert!(attack.send(&sent).await.is_err(), "refused within the handshake");
    }
    // Nor does a worthless certificate of the signing key.
    let forged = Signing::of(&strangers, "ads");
    let mut attack = target.connect().await;
    let sent = target.get(&forged, &attack);
    assert_refused(&attack.send(&sent).await.unwrap());
    assert_eq!(target.reached(), 1);
}

#[tokio::test]
async fn d2_anothers_token_over_ones_own_mutual_tls_is_refused_and_the_ledger_says_issuer() {
    let target = Target::start().await;
    let (ads, chat) = (Signing::of(&target.deployment, "ads"), target.deployment.leaf("chat"));
    let mut connection = target.connect().await;
    let captured = target.get(&ads, &connection);
    assert_eq!(connection.send(&captured).await.unwrap().status, 200);

    let mut attack = Connection::open(&target.deployment, Some(&chat), target.users.address).await.unwrap();
    assert_refused(&attack.send(&captured).await.unwrap());
    // Even one that names the attacker's own connection, as a token that ads made for it would.
    let lured = target.get(&ads, &attack);
    assert_refused(&attack.send(&lured).await.unwrap());
    target.assert_recorded("issuer is not the name in the certificate of the connection").await;
    assert_eq!(target.reached(), 1);
}

#[tokio::test]
async fn d2_signing_in_anothers_name_with_ones_own_certified_key_is_refused() {
    let target = Target::start().await;
    let chat = Signing::of(&target.deployment, "chat");
    let mut attack = target.connect().await;
    let (ads, users) = (target.deployment.id("ads"), target.deployment.id("users"));
    let sent = chat.request_of(&ads, &users, &attack, Method::GET, "/users/7", "");
    assert_refused(&attack.send(&sent).await.unwrap());
    target.assert_recorded("issuer is not the name in its signing certificate").await;
    assert_eq!(target.reached(), 0);
}

#[tokio::test]
async fn d3_a_signing_certificate_that_was_revoked_vouches_for_nothing_from_then_on() {
    let target = Target::start().await;
    let ads = Signing::of(&target.deployment, "ads");
    let mut connection = target.connect().await;
    let first = target.get(&ads, &connection);
    assert_eq!(connection.send(&first).await.unwrap().status, 200);
    // It is remembered, so the chain need not come again.
    let second = Sent { chain: None, ..target.get(&ads, &connection) };
    assert_eq!(connection.send(&second).await.unwrap().status, 200);

    target.deployment.revoke(&ads.serial_hex);
    target.settle().await;
    for chain in [first.chain, None] {
        let mut connection = target.connect().await;
        let late = Sent { chain, ..target.get(&ads, &connection) };
        assert_refused(&connection.send(&late).await.unwrap());
    }
    assert_eq!(target.reached(), 2);
}

#[tokio::test]
async fn d3_a_signing_certificate_that_expired_vouches_for_nothing() {
    let target = Target::start().await;
    let then = clock::now().saturating_sub(Duration::from_secs(120));
    let ads = Signing::issued(&target.deployment, "ads", Duration::from_secs(60), then);
    let mut connection = target.connect().await;
    let sent = target.get(&ads, &connection);
    assert_refused(&connection.send(&sent).await.unwrap());
    // And one that ends while it is remembered: two seconds from now.
    let soon = clock::now().saturating_sub(Duration::from_secs(58));
    let ads = Signing::issued(&target.deployment, "ads", Duration::from_secs(60), soon);
    let first = target.get(&ads, &connection);
    assert_eq!(connection.send(&first).await.unwrap().status, 200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let late = Sent { chain: None, ..target.get(&ads, &connection) };
    assert_refused(&connection.send(&late).await.unwrap());
    assert_eq!(target.reached(), 1);
}

#[tokio::test]
async fn d3_two_replicas_of_one_service_sign_with_keys_of_their_own_and_neither_locks_out_the_other() {
    let target = Target::start().await;
    let replicas = [Signing::of(&target.deployment, "ads"), Signing::of(&target.deployment, "ads")];
    let mut connection = target.connect().await;
    for signing in [&replicas[0], &replicas[1], &replicas[0], &replicas[1]] {
        let sent = target.get(signing, &connection);
        assert_eq!(connection.send(&sent).await.unwrap().status, 200);
    }
    assert_eq!(target.reached(), 4);
}

#[tokio::test]
async fn d4_a_caller_without_a_token_is_401_and_told_what_would_help() {
    let target = Target::start().await;
    let mut connection = target.connect().await;
    let nothing =
        Sent { method: Method::GET, path: "/users/7".to_owned(), token: None, chain: None, body: "" };
    let reply = connection.send(&nothing).await.unwrap();
    assert_eq!(reply.status, 401);
    assert_eq!(reply.headers[WWW_AUTHENTICATE], r#"Countersign need="jwt""#);
    // The same with a token of which nobody knows whose key signed it: the certificate would help.
    let ads = Signing::of(&target.deployment, "ads");
    let unknown = Sent { chain: None, ..target.get(&ads, &connection) };
    let reply = connection.send(&unknown).await.unwrap();
    assert_eq!(reply.status, 401);
    assert_eq!(reply.headers[WWW_AUTHENTICATE], r#"Countersign need="signing-chain""#);
    assert_eq!(target.reached(), 0);
}

#[tokio::test]
async fn d5_a_captured_token_sends_no_request_at_all() {
    let target = Target::start().await;
    let (ads, users) = (Signing::of(&target.deployment, "ads"), target.deployment.id("users"));
    let mut connection = target.connect().await;
    let captured =
        ads.request_of(&target.deployment.id("ads"), &users, &connection, Method::POST, "/users/7", "1");
    assert_eq!(connection.send(&captured).await.unwrap().status, 200);
    let changes: [(&str, Change); 6] = [
        ("nothing", |_| {}),
        ("the method", |sent| sent.method = Method::DELETE),
        ("the path", |sent| sent.path = "/users/7/password".into()),
        ("the user", |sent| sent.path = "/users/8".into()),
        ("the query", |sent| sent.path = "/users/7?all=true".into()),
        ("the body", |sent| sent.body = "1000"),
    ];
    for (what, change) in changes {
        let mut replayed = captured.clone();
        change(&mut replayed);
        let same = connection.send(&replayed).await.unwrap();
        assert!(same.status == 401 || same.status == 403, "changed {what}, on its own connection: {same:?}");
        let mut elsewhere = target.connect().await;
        let other = elsewhere.send(&replayed).await.unwrap();
        assert!(
            other.status == 401 || other.status == 403,
            "changed {what}, on another connection: {other:?}"
        );
    }
    assert_eq!(target.reached(), 1);
}

#[tokio::test]
async fn d5_a_token_that_was_never_used_fits_no_other_request() {
    let target = Target::start().await;
    let (ads, users) = (Signing::of(&target.deployment, "ads"), target.deployment.id("users"));
    let changes: [Change; 4] = [
        |sent| sent.method = Method::DELETE,
        |sent| sent.path = "/users/8".into(),
        |sent| sent.path = "/users/7?all=true".into(),
        |sent| sent.body = "1000",
    ];
    for change in changes {
        let mut connection = target.connect().await;
        let fresh = |on: &Connection| {
            ads.request_of(&target.deployment.id("ads"), &users, on, Method::POST, "/users/7", "1")
        };
        let mut intercepted = fresh(&connection);
        change(&mut intercepted);
        assert_refused(&connection.send(&intercepted).await.unwrap());
        let elsewhere = fresh(&target.connect().await);
        assert_refused(&connection.send(&elsewhere).await.unwrap());
    }
    assert_eq!(target.reached(), 0);
}
