//! What the literal form lets others do: each test is an attack that succeeds. The same attacks against the form that
//! runs here, where they fail, are in `hardened.rs` under the same numbers.

use std::time::Duration;

use countersign_lab::thesis::{DanglingElse, TokenValidationService, token::parse};
use http::{Method, header::WWW_AUTHENTICATE};

use crate::rig::{SERVICE1, SERVICE2, Service2, cast, token};

#[tokio::test]
async fn d1_read_as_typeset_a_worthless_certificate_opens_what_no_certificate_does() {
    let (cast, service2) = (cast(), Service2::start(DanglingElse::Typeset).await);
    let captured = token(&cast.service1, SERVICE2, service2.clock.clock());
    assert_eq!(service2.ask(Some(&cast.service1), Some(&captured)).await.status, 200);
    assert!(service2.tokens.contains_issuer_in_truststore(SERVICE1));

    // Section 5.2.2 step 5: the next call needs no certificate. Not in this reading.
    assert_eq!(service2.ask(None, Some(&captured)).await.status, 403);
    let attack = service2.ask(Some(&cast.impostor), Some(&captured)).await;
    assert_eq!(
        (attack.status.as_u16(), &attack.body[..]),
        (200, format!("GET {SERVICE1} {SERVICE1}").as_bytes())
    );
}

#[tokio::test]
async fn d1_read_as_meant_the_attacker_leaves_its_worthless_certificate_at_home() {
    let (cast, service2) = (cast(), Service2::start(DanglingElse::Meant).await);
    let captured = token(&cast.service1, SERVICE2, service2.clock.clock());
    assert_eq!(service2.ask(Some(&cast.service1), Some(&captured)).await.status, 200);

    assert_eq!(service2.ask(Some(&cast.impostor), Some(&captured)).await.status, 403);
    assert_eq!(service2.ask(None, Some(&captured)).await.status, 200);
}

#[tokio::test]
async fn d2_any_holder_of_a_trusted_certificate_gets_in_with_anothers_token() {
    let (cast, service2) = (cast(), Service2::start(DanglingElse::Meant).await);
    let captured = token(&cast.service1, SERVICE2, service2.clock.clock());
    assert_eq!(service2.ask(Some(&cast.service1), Some(&captured)).await.status, 200);

    let attack = service2.ask(Some(&cast.service3), Some(&captured)).await;
    assert_eq!(attack.status, 200);
    let controller_saw = format!("GET {} {SERVICE1}", cast.service3.name);
    assert_eq!(attack.body, controller_saw, "certificate and token name two services, and nobody minded");
    // The overload of Listing 5.2 that would have noticed exists, and Algorithm 5.1 does not call it.
    assert!(!service2.tokens.validate_token_of_issuer_with_truststore(&captured, &cast.service3.name));
}

#[tokio::test]
async fn d3_a_certificate_that_expired_goes_on_vouching_for_tokens() {
    let (cast, service2) = (cast(), Service2::start(DanglingElse::Meant).await);
    let clock = service2.clock.clock();
    let early = token(&cast.service1_short, SERVICE2, clock.clone());
    assert_eq!(service2.ask(Some(&cast.service1_short), Some(&early)).await.status, 200);

    service2.clock.advance(Duration::from_secs(2 * 3600));
    let late = token(&cast.service1_short, SERVICE2, clock);
    assert_eq!(service2.ask(Some(&cast.service1_short), Some(&late)).await.status, 403, "it did expire");
    assert_eq!(service2.ask(None, Some(&late)).await.status, 200);
}

#[tokio::test]
async fn d3_a_certificate_that_was_revoked_goes_on_vouching_for_tokens() {
    let (cast, service2) = (cast(), Service2::start(DanglingElse::Meant).await);
    let stolen = token(&cast.service1, SERVICE2, service2.clock.clock());
    assert_eq!(service2.ask(Some(&cast.service1), Some(&stolen)).await.status, 200);

    service2.revoke(&cast.service1);
    assert_eq!(service2.ask(Some(&cast.service1), Some(&stolen)).await.status, 403, "it is revoked");
    assert_eq!(service2.ask(None, Some(&stolen)).await.status, 200);
}

#[tokio::test]
async fn d3_the_last_certificate_of_a_subject_locks_out_the_one_before() {
    let (cast, service2) = (cast(), Service2::start(DanglingElse::Meant).await);
    let clock = service2.clock.clock();
    let of_one_replica = token(&cast.service1, SERVICE2, clock.clone());
    let of_another = token(&cast.service1_again, SERVICE2, clock);
    assert_eq!(service2.ask(Some(&cast.service1), Some(&of_one_replica)).await.status, 200);
    assert_eq!(service2.ask(Some(&cast.service1_again), Some(&of_another)).await.status, 200);
    assert_eq!(service2.ask(None, Some(&of_one_replica)).await.status, 403);
}

#[tokio::test]
async fn d4_a_caller_without_a_token_is_told_nothing_that_would_help() {
    let service2 = Service2::start(DanglingElse::Meant).await;
    let reply = service2.ask(Some(&cast().service1), None).await;
    assert_eq!(reply.status, 403);
    assert!(!reply.headers.contains_key(WWW_AUTHENTICATE));
    // Nor is the 401 of the algorithm what HTTP calls one (RFC 9110 section 15.5.2).
    let unknown = token(&cast().service1, SERVICE2, service2.clock.clock());
    let reply = service2.ask(None, Some(&unknown)).await;
    assert_eq!((reply.status.as_u16(), reply.headers.contains_key(WWW_AUTHENTICATE)), (401, false));
}

#[tokio::test]
async fn d5_a_captured_token_sends_any_request_for_five_minutes() {
    let (cast, service2) = (cast(), Service2::start(DanglingElse::Meant).await);
    let captured = token(&cast.service1, SERVICE2, service2.clock.clock());
    let honest = service2.send(Some(&cast.service1), Some(&captured), Method::GET, "/users/7", "").await;
    assert_eq!(honest.status, 200);
    for (method, path, body) in [
        (Method::GET, "/users/7", ""),
        (Method::GET, "/users/8?all=true", ""),
        (Method::POST, "/users/7/password", r#"{"password":"mine"}"#),
        (Method::DELETE, "/users/7", ""),
    ] {
        let attack = service2.send(None, Some(&captured), method.clone(), path, body).await;
        assert_eq!(attack.status, 200, "{method} {path}");
    }
    service2.clock.advance(Duration::from_secs(240));
    assert_eq!(service2.ask(None, Some(&captured)).await.status, 200, "four minutes later");
    assert_eq!(service2.controlled(), 6);
}

#[tokio::test]
async fn d5_nothing_in_the_token_is_about_the_request_so_it_proves_none() {
    // Section 4.2.1: the callee keeps token and request, to prove afterwards who asked for what. But the same token
    // goes with every request, so it proves only that the two once talked.
    let (cast, service2) = (cast(), Service2::start(DanglingElse::Meant).await);
    let kept = token(&cast.service1, SERVICE2, service2.clock.clock());
    let claims = serde_json::to_value(parse(&kept).unwrap().claims).unwrap();
    let mut names: Vec<_> = claims.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["aud", "exp", "iss", "nbf"]);
    let paid =
        service2.send(Some(&cast.service1), Some(&kept), Method::POST, "/orders/7/paid", "1 EUR").await;
    let forged = service2.send(None, Some(&kept), Method::POST, "/orders/7/paid", "1000 EUR").await;
    assert_eq!(
        (paid.status, paid.body),
        (forged.status, b"POST service1.swapindo.com service1.swapindo.com"[..].into())
    );
}
