//! How the user goes along: unchanged, exchanged for one hop, or inside the caller's own token.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Mode, UserContext};
use countersign_keys::sha256;
use countersign_sdk::{
    Workload,
    outbound::{CallError, ExchangeError, InternalToken},
};
use countersign_wire::codes::Code;
use http::HeaderMap;

use crate::{
    callers::{Seen, claims, header, last, open_callee, settled},
    deployment::{Deployment, HOUR, Served},
    sts::{Behaviour, TokenService},
};

struct Chain {
    deployment: Arc<Deployment>,
    sts: Arc<TokenService>,
    ads: Workload,
    seen: Seen,
    _users: Served,
}

impl Chain {
    async fn new(mode: Mode, context: UserContext) -> Self {
        let deployment = Deployment::new();
        let sts = TokenService::serve(&deployment).await;
        deployment.modes("ads", |modes| modes.user_context = context);
        let (users, ads, seen) = open_callee(&deployment, mode).await;
        Self { deployment, sts, ads, seen, _users: users }
    }

    /// An internal token as the gateway makes it.
    fn user(&self, name: &str) -> String {
        self.deployment.txn_token(name, &self.deployment.gateway_key, HOUR)
    }

    async fn call(&self, token: &str) -> Result<HeaderMap, CallError> {
        let client = self.ads.client("users").with_token(InternalToken::minted(token.to_owned()));
        client.get("/users/7").send().await?;
        Ok(last(&self.seen).1)
    }

    async fn switch(&self, mode: Mode, context: UserContext) {
        self.deployment.modes("ads", |modes| (modes.sends, modes.user_context) = (mode, context));
        settled(&self.deployment, &[&self.ads]).await;
    }
}

fn hash(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(token.as_bytes()))
}

fn bearer(headers: &HeaderMap) -> serde_json::Value {
    claims(header(headers, "authorization").strip_prefix("Bearer ").unwrap())
}

#[tokio::test]
async fn the_same_token_goes_along_unchanged_and_the_proof_covers_it() {
    let chain = Chain::new(Mode::Jwt, UserContext::Same).await;
    let token = chain.user("alice");
    let headers = chain.call(&token).await.unwrap();
    assert_eq!(header(&headers, "txn-token"), token);
    assert_eq!(bearer(&headers)["tth"], hash(&token));
    chain.switch(Mode::Wimse, UserContext::Same).await;
    let headers = chain.call(&token).await.unwrap();
    assert_eq!(claims(header(&headers, "workload-proof-token"))["tth"], hash(&token));
    assert_eq!(chain.sts.exchanges(), 0);
}

#[tokio::test]
async fn a_nested_token_travels_inside_the_signed_one_and_nowhere_else() {
    let chain = Chain::new(Mode::Jwt, UserContext::Nested).await;
    for mode in [Mode::Jwt, Mode::MtlsJwt] {
        chain.switch(mode, UserContext::Nested).await;
        let token = chain.user("alice");
        let headers = chain.call(&token).await.unwrap();
        assert_eq!(bearer(&headers)["user_token"], token);
        assert!(!headers.contains_key("txn-token") && !headers.contains_key("user-token"));
    }
}

#[tokio::test]
async fn a_token_cannot_be_nested_where_nothing_is_signed() {
    let chain = Chain::new(Mode::Mtls, UserContext::Nested).await;
    let refused = chain.call(&chain.user("alice")).await.unwrap_err();
    let source = ExchangeError::NothingToNestIn { mode: Mode::Mtls };
    assert_eq!(refused, CallError::UserContext { source });
    assert!(chain.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn each_hop_gets_a_token_of_its_own_from_the_token_service() {
    let chain = Chain::new(Mode::Mtls, UserContext::PerHop).await;
    let token = chain.user("alice");
    let headers = chain.call(&token).await.unwrap();
    let asked = chain.sts.asked.lock().unwrap().clone();
    let users = chain.deployment.id("users");
    assert_eq!(header(&headers, "user-token"), format!("hop-1-{users}"));
    assert!(!headers.contains_key("txn-token"), "the token of another hop must not leave");
    let [exchange] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(exchange.client, Some(chain.deployment.id("ads")));
    assert_eq!(exchange.form["subject_token"], token);
    assert_eq!(exchange.form["subject_token_type"], "urn:ietf:params:oauth:token-type:txn_token");
    assert_eq!(exchange.form["audience"], users.as_str());
    assert_eq!(exchange.dpop, None, "the certificate is what it is bound to");
}

#[tokio::test]
async fn the_token_service_is_asked_for_every_request_and_so_knows_of_every_one() {
    let chain = Chain::new(Mode::Mtls, UserContext::PerHop).await;
    let (alice, bob) = (chain.user("alice"), chain.user("bob"));
    for token in [&alice, &alice, &bob, &alice, &bob] {
        chain.call(token).await.unwrap();
    }
    assert_eq!(chain.sts.exchanges(), 5);
}

#[tokio::test]
async fn after_a_renewal_the_token_is_bound_to_the_new_certificate() {
    let chain = Chain::new(Mode::Mtls, UserContext::PerHop).await;
    let alice = chain.user("alice");
    chain.call(&alice).await.unwrap();
    let renewed = chain.deployment.leaf("ads");
    chain.ads.trust().set_identity(renewed.identity());
    chain.call(&alice).await.unwrap();
    let serials: Vec<_> =
        chain.sts.asked.lock().unwrap().iter().map(|asked| asked.serial.clone().unwrap()).collect();
    assert_eq!(serials.len(), 2, "the old token would be refused beside the new certificate");
    assert_eq!(serials[1], renewed.serial_hex);
    assert_ne!(serials[0], serials[1]);
}

#[tokio::test]
async fn where_no_certificate_is_shown_the_token_is_bound_to_the_key_that_signs() {
    let chain = Chain::new(Mode::Jwt, UserContext::PerHop).await;
    let headers = chain.call(&chain.user("alice")).await.unwrap();
    assert_eq!(bearer(&headers)["uth"], hash(header(&headers, "user-token")));
    let signing = chain.ads.credentials().signing().await.unwrap();
    let asked = |n: usize| chain.sts.asked.lock().unwrap()[n].dpop.clone();
    assert_eq!(asked(0).unwrap().0, signing.key().public_key().thumbprint());

    chain.switch(Mode::Wimse, UserContext::PerHop).await;
    let headers = chain.call(&chain.user("alice")).await.unwrap();
    let proof = claims(header(&headers, "workload-proof-token"));
    assert_eq!(proof["oth"]["user-token"], hash(header(&headers, "user-token")));
    let wit = chain.ads.credentials().wit().await.unwrap();
    assert_eq!(asked(1).unwrap().0, wit.key().public_key().thumbprint());
}

#[tokio::test]
async fn a_nonce_that_the_token_service_wants_is_put_into_the_proof() {
    let chain = Chain::new(Mode::Jwt, UserContext::PerHop).await;
    chain.sts.behaves(Behaviour::WantsNonce);
    chain.call(&chain.user("alice")).await.unwrap();
    let asked = chain.sts.asked.lock().unwrap().clone();
    let nonces: Vec<_> = asked.iter().map(|asked| asked.dpop.clone().unwrap().1).collect();
    assert_eq!(nonces, [None, Some("n-1".to_owned())]);
}

#[tokio::test]
async fn a_nonce_that_is_longer_than_any_proof_ends_the_exchange() {
    let chain = Chain::new(Mode::Jwt, UserContext::PerHop).await;
    chain.sts.behaves(Behaviour::WantsHugeNonce);
    let refused = chain.call(&chain.user("alice")).await.unwrap_err();
    assert!(matches!(refused, CallError::UserContext { source: ExchangeError::Proof { .. } }), "{refused}");
}

#[tokio::test]
async fn without_an_answer_of_the_token_service_the_call_is_refused() {
    let chain = Chain::new(Mode::Mtls, UserContext::PerHop).await;
    let refused = async |behaviour| {
        chain.sts.behaves(behaviour);
        chain.call(&chain.user(&format!("{behaviour:?}"))).await.unwrap_err()
    };
    let denied = refused(Behaviour::Denies).await;
    let source = ExchangeError::Refused { error: "invalid_target".into() };
    assert_eq!((&denied, denied.code()), (&CallError::UserContext { source }, Code::UserRefused));

    for no_verdict in [Behaviour::SaysNonsense, Behaviour::IsDown, Behaviour::SaysNoWithoutAReason] {
        let refused = refused(no_verdict).await;
        let is_no_verdict =
            matches!(refused, CallError::UserContext { source: ExchangeError::Answer { .. } });
        assert!(is_no_verdict && refused.code() == Code::UserNotExchanged, "{no_verdict:?}: {refused}");
    }

    let began = std::time::Instant::now();
    let silent = refused(Behaviour::IsSilent).await;
    assert!(matches!(silent, CallError::UserContext { source: ExchangeError::Call(_) }), "{silent}");
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!(silent.code(), Code::UserNotExchanged);

    chain.sts.stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let gone = refused(Behaviour::Issues).await;
    assert!(matches!(gone, CallError::UserContext { source: ExchangeError::Call(_) }), "{gone}");
    assert!(chain.seen.lock().unwrap().is_empty(), "a call went out without its user");
}

#[tokio::test]
async fn without_the_token_service_no_call_goes_out_with_a_token_of_an_earlier_one() {
    let chain = Chain::new(Mode::Mtls, UserContext::PerHop).await;
    let alice = chain.user("alice");
    chain.call(&alice).await.unwrap();
    chain.sts.stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = chain.call(&alice).await.unwrap_err();
    assert!(matches!(refused, CallError::UserContext { source: ExchangeError::Call(_) }), "{refused}");
}

#[tokio::test]
async fn users_cannot_be_carried_per_hop_without_a_usable_token_service() {
    let chain = Chain::new(Mode::Mtls, UserContext::PerHop).await;
    chain.deployment.world.lock().unwrap().sts.as_mut().unwrap().token_endpoint = "http://sts.test".into();
    chain.deployment.publish();
    settled(&chain.deployment, &[&chain.ads]).await;
    let refused = chain.call(&chain.user("alice")).await.unwrap_err();
    assert!(
        matches!(refused, CallError::UserContext { source: ExchangeError::Endpoint { .. } }),
        "{refused}"
    );

    chain.deployment.world.lock().unwrap().sts = None;
    chain.deployment.publish();
    settled(&chain.deployment, &[&chain.ads]).await;
    let refused = chain.call(&chain.user("alice")).await.unwrap_err();
    assert_eq!(refused, CallError::UserContext { source: ExchangeError::NoTokenService });
}
