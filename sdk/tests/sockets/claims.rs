//! Claims that a route demands of its callers' own tokens, and callers that state them.

use std::sync::Arc;

use axum::{Router, routing::get};
use countersign_identity::Mode;
use countersign_ledger::Stage;
use countersign_sdk::{
    Workload,
    inbound::InboundError,
    outbound::{CallError, ServiceClient},
};
use countersign_token::ServiceTokenError;

use crate::{
    callers::settled,
    deployment::{Deployment, Served, text},
    modes::refusal,
};

/// `users`, whose orders are those of one tenant and whose exports have a purpose; and `ads`, which calls it in `mode`.
async fn demanding(deployment: &Arc<Deployment>, mode: Mode) -> (Served, Workload) {
    deployment.permit("users", &["ads"]);
    deployment.register("ads");
    deployment.speak(&["users"], Mode::ALL, Mode::Mtls);
    deployment.speak(&["ads"], &[Mode::Mtls], mode);
    let workload = deployment.workload("users").await;
    let door = workload.require().require_claim("/orders/*", "tenant", Some("blue")).unwrap();
    let door = door.require_claim("/orders/{id}/export", "purpose", None).unwrap();
    let router = Router::new()
        .route("/orders/{id}", get(async || "an order"))
        .route("/orders/{id}/export", get(async || "an export"))
        .route("/who", get(async || "anybody"))
        .layer(door);
    let users = deployment.serve_as(workload, "users", router).await;
    let ads = deployment.workload("ads").await;
    settled(deployment, &[&ads, &users.workload]).await;
    (users, ads)
}

async fn said(client: &ServiceClient, path: &str) -> (u16, String) {
    let answer = client.get(path).send().await.unwrap();
    let challenge = answer.headers().get("www-authenticate");
    let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    (status, challenge.unwrap_or(text(answer).await))
}

const NEEDS_JWT: &str = r#"Countersign need="jwt""#;

#[tokio::test]
async fn a_route_that_demands_a_claim_lets_in_only_whoever_signed_it() {
    let deployment = Deployment::new();
    let (_users, ads) = demanding(&deployment, Mode::Jwt).await;
    let silent = ads.client("users");
    let blue = silent.clone().with_claim("tenant", "blue");
    for mode in [Mode::Jwt, Mode::MtlsJwt] {
        deployment.speak(&["ads"], &[Mode::Mtls], mode);
        settled(&deployment, &[&ads]).await;
        assert_eq!(said(&blue, "/orders/7").await, (200, "an order".into()), "{mode}");
        assert_eq!(said(&silent, "/who").await.0, 200, "{mode}: other routes demand nothing");
    }
    assert_eq!(said(&silent, "/orders/7").await, (401, NEEDS_JWT.into()));
    let (stage, check, detail) = refusal(&deployment, "CS3011").await;
    assert_eq!((stage, check.as_str()), (Stage::Token, "claims"));
    assert!(detail.contains("\"tenant\" is demanded here"), "{detail}");
}

#[tokio::test]
async fn rejects_another_value_than_the_route_demands() {
    let deployment = Deployment::new();
    let (_users, ads) = demanding(&deployment, Mode::Jwt).await;
    for other in ["green", "Blue", ""] {
        let client = ads.client("users").with_claim("tenant", other);
        assert_eq!(said(&client, "/orders/7").await, (401, NEEDS_JWT.into()), "{other:?}");
    }
    let (_, check, detail) = refusal(&deployment, "CS3011").await;
    assert_eq!(check, "claims");
    assert!(detail.contains("does not have the value that is demanded"), "{detail}");
}

#[tokio::test]
async fn of_several_demands_that_match_a_request_each_must_be_fulfilled() {
    let deployment = Deployment::new();
    let (_users, ads) = demanding(&deployment, Mode::Jwt).await;
    let client = |claims: &[(&str, &str)]| {
        claims.iter().fold(ads.client("users"), |client, (name, value)| client.with_claim(name, value))
    };
    for (claims, status) in [
        ([("tenant", "blue"), ("purpose", "audit")].as_slice(), 200),
        (&[("tenant", "blue"), ("purpose", "anything at all")], 200),
        (&[("tenant", "blue")], 401),
        (&[("purpose", "audit")], 401),
        (&[("tenant", "green"), ("purpose", "audit")], 401),
    ] {
        assert_eq!(said(&client(claims), "/orders/7/export").await.0, status, "{claims:?}");
    }
}

#[tokio::test]
async fn rejects_every_proof_that_can_carry_no_claims_where_one_is_demanded() {
    let deployment = Deployment::new();
    let (_users, ads) = demanding(&deployment, Mode::Mtls).await;
    let blue = ads.client("users").with_claim("tenant", "blue");
    for mode in [Mode::None, Mode::Bearer, Mode::Macaroon, Mode::Wimse, Mode::Mtls] {
        deployment.speak(&["ads"], &[Mode::Mtls], mode);
        settled(&deployment, &[&ads]).await;
        assert_eq!(said(&blue, "/orders/7").await, (401, NEEDS_JWT.into()), "{mode}");
        let open = said(&blue, "/who").await.0;
        // Nobody is named by a rule.
        assert_eq!(open == 200, mode != Mode::None, "{mode}: {open}");
    }
    let (stage, check, detail) = refusal(&deployment, "CS3011").await;
    assert_eq!((stage, check.as_str()), (Stage::Token, "claims"));
    assert!(detail.contains("mode none carries no claims: send jwt or mtls+jwt"), "{detail}");
}

#[tokio::test]
async fn rejects_claims_and_demands_with_registered_names() {
    let deployment = Deployment::new();
    let (users, ads) = demanding(&deployment, Mode::Jwt).await;
    let refused = ads.client("users").with_claim("sub", "alice").get("/who").send().await.unwrap_err();
    assert!(matches!(&refused, CallError::Proof { why } if why.contains("registered claim")), "{refused}");
    let door = || users.workload.require();
    let registered = ServiceTokenError::RegisteredName { name: "iss".into() };
    let error = door().require_claim("/who", "iss", None).unwrap_err();
    assert_eq!(error, InboundError::Claim(registered));
    let error = door().require_claim("who", "tenant", None).unwrap_err();
    assert!(matches!(error, InboundError::Route { .. }), "{error}");
}
