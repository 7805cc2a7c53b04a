//! The token service, spoken to by `curl` through real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{
    Place,
    curl::Curl,
    entry, from_base64url, home,
    market::{ACCESS, GRANT, JWT, Market, PASSWORD, TOKEN, TXN, claims, form, issued},
};
use countersign_authority::LOCAL_NODE;
use countersign_identity::SpiffeId;
use countersign_wire::{
    agent::{IssueTokenRequest, TokenKind},
    node::NodeIssueTokenRequest,
};
use serde_json::{Value, json};

#[tokio::test]
async fn over_three_hops_the_actors_grow_newest_outermost_and_scope_and_life_only_shrink() {
    let market = Market::open().await;
    let (gateway, ads, users) =
        (market.client("gateway").await, market.client("ads").await, market.client("users").await);
    let more = [("audience", "ads"), ("scope", "read write")];
    let reply = gateway.post(TOKEN, &form(&market.login, ACCESS, &more)).await;
    let first = issued(&reply);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let answer = reply.json();
    assert_eq!((&answer["issued_token_type"], &answer["token_type"]), (&json!(ACCESS), &json!("Bearer")));
    assert_eq!(answer["scope"], "read write");
    let one = claims(&first);
    assert_eq!(one["aud"], "spiffe://fleamarket.test/svc/ads");
    let edge = json!({ "sub": "spiffe://fleamarket.test/countersign/gateway/edge" });
    assert_eq!(one["act"], edge);

    let more = [("resource", "spiffe://fleamarket.test/svc/users"), ("scope", "read")];
    let second = issued(&ads.post(TOKEN, &form(&first, ACCESS, &more)).await);
    let two = claims(&second);
    assert_eq!((&two["sub"], &two["txn"], &two["scope"]), (&one["sub"], &one["txn"], &json!("read")));
    assert_eq!(two["act"], json!({ "sub": "spiffe://fleamarket.test/svc/ads", "act": edge }));
    assert!(two["exp"].as_i64() <= one["exp"].as_i64(), "never longer than what it was made of");

    let wider =
        users.post(TOKEN, &form(&second, ACCESS, &[("audience", "ads"), ("scope", "read write")])).await;
    assert_eq!(wider.error(), (400, "invalid_scope".to_owned()));
    let third = issued(&users.post(TOKEN, &form(&second, ACCESS, &[("audience", "ads")])).await);
    let three = claims(&third);
    assert_eq!(three["act"], json!({ "sub": "spiffe://fleamarket.test/svc/users", "act": two["act"] }));
    assert_eq!((&three["scope"], &three["client_id"]), (&json!("read"), &three["act"]["sub"]));
    assert_eq!(three["user_possession"], "none", "the user's token was a bearer's, and stays one");

    let events = market.authority.events_at_least("token_exchanged", 3).await;
    assert_eq!(events[2]["actors"].as_array().unwrap().len(), 3);
    assert_eq!(events[2]["policy"], "users-for-ads");
    assert!(!events[2].to_string().contains("alice"), "the ledger knows pseudonyms");
    market.authority.stop().await;
}

/// A mistake, the form that makes it, and what OAuth calls it.
type Mistake<'a> = (&'static str, Vec<(&'a str, &'a str)>, &'static str);

fn mistakes<'a>(alice: &'a str, forged: &'a str) -> Vec<Mistake<'a>> {
    let ads = ("audience", "ads");
    vec![
        ("nothing", vec![], "invalid_request"),
        ("another grant", vec![("grant_type", "password")], "unsupported_grant_type"),
        ("no subject token", vec![("grant_type", GRANT), ads], "invalid_request"),
        ("no type", vec![("grant_type", GRANT), ("subject_token", alice), ads], "invalid_request"),
        ("an unknown type", form(alice, "urn:ietf:params:oauth:token-type:saml2", &[ads]), "invalid_request"),
        ("another type", form(alice, TXN, &[ads]), "invalid_request"),
        (
            "an actor token without its type",
            form(alice, ACCESS, &[ads, ("actor_token", alice)]),
            "invalid_request",
        ),
        (
            "its type without an actor token",
            form(alice, ACCESS, &[ads, ("actor_token_type", JWT)]),
            "invalid_request",
        ),
        (
            "an actor token that is none",
            form(alice, ACCESS, &[ads, ("actor_token", alice), ("actor_token_type", JWT)]),
            "invalid_request",
        ),
        ("a forged subject token", form(forged, ACCESS, &[ads]), "invalid_request"),
        ("no subject token at all", form("e30.e30.e30", ACCESS, &[ads]), "invalid_request"),
        ("nobody", form(alice, ACCESS, &[]), "invalid_target"),
        ("an unknown service", form(alice, ACCESS, &[("audience", "nobody")]), "invalid_target"),
        (
            "an unknown resource",
            form(alice, ACCESS, &[("resource", "https://example.org/")]),
            "invalid_target",
        ),
        ("two services", form(alice, ACCESS, &[ads, ("audience", "users")]), "invalid_target"),
        ("itself", form(alice, ACCESS, &[("audience", "gateway")]), "invalid_target"),
        ("an odd scope", form(alice, ACCESS, &[ads, ("scope", "a  b")]), "invalid_request"),
        (
            "a doubled parameter",
            form(alice, ACCESS, &[ads, ("scope", "a"), ("scope", "b")]),
            "invalid_request",
        ),
        (
            "a person's token for a workload's",
            form(alice, ACCESS, &[ads, ("requested_token_type", JWT)]),
            "invalid_request",
        ),
        (
            "a type that is never issued",
            form(
                alice,
                ACCESS,
                &[ads, ("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")],
            ),
            "invalid_request",
        ),
        (
            "a transaction of another trust domain",
            form(alice, ACCESS, &[("audience", "other.test"), ("scope", "a"), ("requested_token_type", TXN)]),
            "invalid_target",
        ),
        (
            "a transaction without a purpose",
            form(alice, ACCESS, &[("audience", "fleamarket.test"), ("requested_token_type", TXN)]),
            "invalid_request",
        ),
    ]
}

#[tokio::test]
async fn each_mistake_in_a_request_has_the_error_that_the_standards_name() {
    let market = Market::open().await;
    let gateway = market.client("gateway").await;
    let alice = market.login.as_str();
    let forged = format!("{}x", &alice[..alice.len() - 1]);
    for (why, form, expected) in mistakes(alice, &forged) {
        let reply = gateway.post(TOKEN, &form).await;
        assert_eq!(reply.error(), (400, expected.to_owned()), "{why}: {reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{why}");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{why}");
    }
    let json = gateway.call(TOKEN, &["-H", "Content-Type: application/json", "-d", "{}"]).await.unwrap();
    assert_eq!(json.error(), (400, "invalid_request".to_owned()));
    let long = format!("scope={}", "a".repeat(40_000));
    assert_eq!(gateway.call(TOKEN, &["-d", &long]).await.unwrap().status, 413);
    assert_eq!(gateway.call(TOKEN, &[]).await.unwrap().status, 405, "POST only");
    market.authority.stop().await;
}

#[tokio::test]
async fn rejects_a_client_that_proves_nothing_and_one_that_claims_to_be_another() {
    let market = Market::open().await;
    let request = form(&market.login, ACCESS, &[("audience", "ads")]);
    let stranger = Curl::stranger(&market.authority).await;
    let reply = stranger.post(TOKEN, &request).await;
    assert_eq!(reply.error(), (401, "invalid_client".to_owned()));
    assert_eq!(reply.header("www-authenticate"), Some(r#"Countersign need="certificate""#));
    let secret = stranger.post_with(TOKEN, &request, &["-u", "ads:secret"]).await;
    assert_eq!(secret.error(), (401, "invalid_client".to_owned()), "nobody has a secret");
    let token = format!("Authorization: Bearer {}", market.login);
    let bearer = stranger.post_with(TOKEN, &request, &["-H", &token]).await;
    assert_eq!(bearer.error(), (401, "invalid_client".to_owned()), "a user is no client");
    let gateway = market.client("gateway").await;
    let claims = [request.clone(), vec![("client_id", "spiffe://fleamarket.test/svc/ads")]].concat();
    assert_eq!(gateway.post(TOKEN, &claims).await.error(), (401, "invalid_client".to_owned()));
    let own = [request, vec![("client_id", "spiffe://fleamarket.test/countersign/gateway/edge")]].concat();
    issued(&gateway.post(TOKEN, &own).await);
    market.authority.stop().await;
}

#[tokio::test]
async fn a_refusal_is_explained_to_the_operator_and_never_to_the_client() {
    let market = Market::open().await;
    let (ads, users) = (market.client("ads").await, market.client("users").await);
    let stolen = form(&market.login, ACCESS, &[("audience", "users")]);
    let reply = ads.post(TOKEN, &stolen).await;
    assert_eq!(reply.error(), (400, "invalid_request".to_owned()), "a login is for gateways");
    let answer = reply.json();
    assert_eq!(answer.as_object().unwrap().len(), 2, "the error and the decision: {answer}");
    let decision = answer["decision"].as_str().unwrap();
    let mut explained = Value::Null;
    for _ in 0..100 {
        let found =
            market.authority.admin(http::Method::GET, &format!("/api/v1/decisions/{decision}"), None).await;
        if found.status == 200 {
            explained = found.json();
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    let text = explained.to_string();
    assert!(text.contains("only the one whom a token is for may exchange it"), "{text}");
    assert!(!text.contains(&market.login) && !answer.to_string().contains("only the one"));
    // Users may exchange for ads, and for nobody else: an unknown service and a forbidden one look alike.
    let gateway = market.client("gateway").await;
    let hop = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "users")])).await);
    let forbidden = users.post(TOKEN, &form(&hop, ACCESS, &[("audience", "users")])).await;
    let unknown = users.post(TOKEN, &form(&hop, ACCESS, &[("audience", "nobody")])).await;
    assert_eq!(
        (forbidden.error(), unknown.error().1),
        ((400, "invalid_target".to_owned()), forbidden.error().1)
    );
    market.authority.stop().await;
}

#[tokio::test]
async fn a_token_is_exchanged_by_whom_it_is_for_and_by_nobody_who_captured_it() {
    let market = Market::open().await;
    let (gateway, ads, users) =
        (market.client("gateway").await, market.client("ads").await, market.client("users").await);
    let for_ads = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await);
    let captured = users.post(TOKEN, &form(&for_ads, ACCESS, &[("audience", "ads")])).await;
    assert_eq!(captured.error(), (400, "invalid_request".to_owned()), "it is for ads");
    issued(&ads.post(TOKEN, &form(&for_ads, ACCESS, &[("audience", "users")])).await);
    market.authority.stop().await;
}

#[tokio::test]
async fn without_rules_nobody_exchanges_anything() {
    let place = Place::new();
    let authority = place.start().await;
    authority.add_user("alice", PASSWORD).await;
    let login = authority.post("/api/v1/login", json!({ "name": "alice", "password": PASSWORD })).await;
    let (key, issued) = authority.issue(json!({ "service": "gateway" })).await;
    let gateway = Curl::showing(&authority, &key, &issued).await;
    let token = login["access_token"].as_str().unwrap();
    let reply = gateway.post(TOKEN, &form(token, ACCESS, &[("audience", "ads")])).await;
    assert_eq!(reply.error(), (400, "unauthorized_client".to_owned()));
    authority.stop().await;
}

#[tokio::test]
async fn a_token_is_bound_to_the_certificate_of_its_client_which_introspection_repeats() {
    let market = Market::open().await;
    let (key, certificate) = market.authority.issue(json!({ "service": "gateway" })).await;
    let gateway = Curl::showing(&market.authority, &key, &certificate).await;
    let token = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await);
    let leaf = countersign_keys::sha256(&common::chain(&certificate)[0]);
    let bound = claims(&token)["cnf"]["x5t#S256"].as_str().unwrap().to_owned();
    assert_eq!(from_base64url(&bound), leaf);
    let told = gateway.post("/oauth2/introspect", &[("token", &token)]).await.json();
    assert_eq!((&told["active"], &told["cnf"]["x5t#S256"]), (&json!(true), &json!(bound)));
    market.authority.stop().await;
}

#[tokio::test]
async fn introspection_tells_those_whom_a_token_concerns_and_is_no_oracle_for_others() {
    let market = Market::open().await;
    let (gateway, ads, users) =
        (market.client("gateway").await, market.client("ads").await, market.client("users").await);
    let token = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await);
    let ask = async |client: &Curl, token: &str| {
        let reply = client.post("/oauth2/introspect", &[("token", token)]).await;
        assert_eq!((reply.status.as_u16(), reply.header("cache-control")), (200, Some("no-store")));
        reply.json()
    };
    for client in [&gateway, &ads] {
        let told = ask(client, &token).await;
        assert_eq!((&told["active"], &told["act"]["sub"]), (&json!(true), &claims(&token)["act"]["sub"]));
    }
    assert_eq!(ask(&gateway, &market.login).await["active"], true);
    let nothing = json!({ "active": false });
    let forged = format!("{}x", &token[..token.len() - 1]);
    for (client, text) in [
        (&users, token.as_str()),
        (&ads, &market.login),
        (&ads, &forged),
        (&ads, "nonsense"),
        (&gateway, "a.b.c"),
    ] {
        assert_eq!(ask(client, text).await, nothing);
    }
    let stranger = Curl::stranger(&market.authority).await;
    let reply = stranger.post("/oauth2/introspect", &[("token", &token)]).await;
    assert_eq!(reply.error(), (401, "invalid_client".to_owned()));
    let empty = ads.post("/oauth2/introspect", &[]).await;
    assert_eq!(empty.error(), (400, "invalid_request".to_owned()));
    let get = ads.call(&format!("/oauth2/introspect?token={token}"), &[]).await.unwrap();
    assert!(matches!(get.status.as_u16(), 400 | 405), "POST only");
    market.authority.stop().await;
}

/// K1: an opaque token says nothing by itself, so what it is good for is asked of whoever issued it.
#[tokio::test]
async fn an_opaque_token_is_told_to_its_owner_and_its_callees_for_as_long_as_it_counts() {
    let mut place = Place::new();
    place.deployment.services.push(entry("media", LOCAL_NODE));
    let market = Market::open_at(place).await;
    let (gateway, ads, users) =
        (market.client("gateway").await, market.client("ads").await, market.client("users").await);
    let ask = async |client: &Curl, token: &str| {
        let reply = client.post("/oauth2/introspect", &[("token", token)]).await;
        assert_eq!((reply.status.as_u16(), reply.header("cache-control")), (200, Some("no-store")));
        reply.json()
    };
    let mint = async |order: Value| {
        let issued = market.authority.post("/api/v1/tokens/bearer", order).await;
        (issued["token"].as_str().unwrap().to_owned(), issued["id"].as_str().unwrap().to_owned())
    };
    let name = |service| SpiffeId::service(&home(), service).unwrap().to_string();
    let (token, id) = mint(json!({ "service": "ads", "scope": ["users", "media"], "ttl_s": 600 })).await;
    let told = ask(&users, &token).await;
    assert_eq!((&told["active"], &told["token_type"]), (&json!(true), &json!("Bearer")));
    assert_eq!((&told["sub"], &told["jti"]), (&json!(name("ads")), &json!(id)));
    assert_eq!(told["aud"], json!([name("media"), name("users")]));
    assert_eq!(told["scope"], format!("{} {}", name("media"), name("users")));
    assert_eq!(told["exp"].as_i64().unwrap() - told["iat"].as_i64().unwrap(), 600);
    assert_eq!(ask(&ads, &token).await, told, "its owner");
    let administrator = async |token: &str| {
        market.authority.admin_form("/oauth2/introspect", &format!("token={token}")).await.json()
    };
    assert_eq!(administrator(&token).await, told);

    let nothing = json!({ "active": false });
    let last = |text: &str, c: char| format!("{}{c}", &text[..text.len() - 1]);
    let wrong_checksum = last(&token, if token.ends_with('0') { '8' } else { '0' });
    let unknown = countersign_token::BearerToken::mint(&countersign_keys::SystemRandom::new()).unwrap();
    for (why, client, text) in [
        ("it is for others, and issued to another", &gateway, token.as_str()),
        ("its checksum is wrong", &users, &wrong_checksum),
        ("nobody issued it", &users, unknown.expose()),
        ("an id is no token", &users, &format!("csb_{id}")),
        ("garbage", &users, "csb_"),
    ] {
        assert_eq!(ask(client, text).await, nothing, "{why}");
    }
    // The right id with the secret and checksum of another.
    let secret = format!("{}{}", &token[..20], &unknown.expose()[20..]);
    assert_eq!(administrator(&secret).await, nothing);
    let stranger = Curl::stranger(&market.authority).await;
    let reply = stranger.post("/oauth2/introspect", &[("token", &token)]).await;
    assert_eq!(reply.error(), (401, "invalid_client".to_owned()));

    let (short, _) = mint(json!({ "service": "ads", "scope": ["users"], "ttl_s": 1 })).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(ask(&users, &short).await, nothing, "it has expired");
    assert_eq!(administrator(&short).await, nothing);
    market.authority.post("/api/v1/revocations", json!({ "kind": "token", "id": id })).await;
    assert_eq!(ask(&users, &token).await, nothing, "it was revoked");
    let (last, _) = mint(json!({ "service": "ads", "scope": ["users"] })).await;
    assert_eq!(ask(&users, &last).await["active"], true);
    market.authority.post("/api/v1/certificates/revoke", json!({ "service": "ads" })).await;
    assert_eq!(ask(&users, &last).await, nothing, "its owner was revoked");
    market.authority.stop().await;
}

#[tokio::test]
async fn an_administrator_introspects_every_token_and_is_no_client_for_all_that() {
    let market = Market::open().await;
    let ask = async |token: &str| {
        market.authority.admin_form("/oauth2/introspect", &format!("token={token}")).await.json()
    };
    assert_eq!(ask(&market.login).await["active"], true);
    assert_eq!(ask("nonsense").await, json!({ "active": false }));
    let form =
        format!("grant_type={GRANT}&subject_token={}&subject_token_type={ACCESS}&audience=ads", market.login);
    let refused = market.authority.admin_form(TOKEN, &form).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]), (401, &json!("invalid_client")));
    market.authority.stop().await;
}

#[tokio::test]
async fn a_token_that_its_holder_takes_back_is_gone_at_once_and_what_others_hold_stays() {
    let market = Market::open().await;
    let (gateway, ads) = (market.client("gateway").await, market.client("ads").await);
    let token = issued(&gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await);
    let revoke = async |client: &Curl, token: &str| {
        client.post("/oauth2/revoke", &[("token", token), ("token_type_hint", "access_token")]).await
    };
    let others = revoke(&ads, &token).await;
    assert_eq!(others.error(), (400, "unauthorized_client".to_owned()), "it was not issued to ads");
    assert_eq!(revoke(&gateway, "unknown").await.status, 200, "as good as gone");
    let bearer = revoke(&gateway, "csb_0123456789abcdefghijklmnopqrstuvwxyz").await;
    assert_eq!(bearer.error(), (400, "unsupported_token_type".to_owned()));
    issued(&ads.post(TOKEN, &form(&token, ACCESS, &[("audience", "users")])).await);

    let done = revoke(&gateway, &token).await;
    assert_eq!((done.status.as_u16(), done.text.as_str()), (200, ""));
    let told = ads.post("/oauth2/introspect", &[("token", &token)]).await.json();
    assert_eq!(told, json!({ "active": false }));
    let again = ads.post(TOKEN, &form(&token, ACCESS, &[("audience", "users")])).await;
    assert_eq!(again.error(), (400, "invalid_request".to_owned()), "nothing comes of it any more");
    let stranger = Curl::stranger(&market.authority).await;
    assert_eq!(stranger.post("/oauth2/revoke", &[("token", &token)]).await.status, 401);
    assert_eq!(market.authority.events("token_revoked").await.len(), 1);
    market.authority.stop().await;
}

#[tokio::test]
async fn a_jwt_svid_from_an_exchange_is_taken_back_with_the_service_that_it_speaks_for() {
    let mut place = Place::new();
    place.deployment.services[1] = entry("users", LOCAL_NODE);
    let market = Market::open_at(place).await;
    let (users, ads) = (market.client("users").await, market.client("ads").await);
    let name = |service| SpiffeId::service(&home(), service).unwrap().to_string();
    let own = IssueTokenRequest {
        kind: TokenKind::JwtSvid.into(),
        audience: SpiffeId::authority(&home()).to_string(),
        ..IssueTokenRequest::default()
    };
    let own = NodeIssueTokenRequest { spiffe_id: name("users"), request: Some(own) };
    let own = market.authority.agent("local").await.issue_token(own).await.unwrap().into_inner().token;
    let svid = form(&own, JWT, &[("audience", "ads"), ("requested_token_type", JWT)]);
    let svid = issued(&users.post(TOKEN, &svid).await);
    let told = async || ads.post("/oauth2/introspect", &[("token", &svid)]).await.json();
    assert_eq!(told().await["sub"], json!(name("users")));

    market.authority.post("/api/v1/certificates/revoke", json!({ "service": "users" })).await;
    assert_eq!(told().await, json!({ "active": false }));
    market.authority.stop().await;
}

#[tokio::test]
async fn a_revoked_token_user_or_key_of_the_subject_ends_every_exchange() {
    let market = Market::open().await;
    let gateway = market.client("gateway").await;
    let exchange = async || gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await;
    issued(&exchange().await);
    let jti = claims(&market.login)["jti"].as_str().unwrap().to_owned();
    market.authority.post("/api/v1/revocations", json!({ "kind": "token", "id": jti })).await;
    assert_eq!(exchange().await.error(), (400, "invalid_request".to_owned()));

    let login = json!({ "name": "alice", "password": PASSWORD });
    let second =
        market.authority.post("/api/v1/login", login).await["access_token"].as_str().unwrap().to_owned();
    issued(&gateway.post(TOKEN, &form(&second, ACCESS, &[("audience", "ads")])).await);
    market.authority.post("/api/v1/revocations", json!({ "kind": "user", "id": "alice" })).await;
    let refused = gateway.post(TOKEN, &form(&second, ACCESS, &[("audience", "ads")])).await;
    assert_eq!(refused.error(), (400, "invalid_request".to_owned()));
    market.authority.stop().await;

    let market = Market::open().await;
    let gateway = market.client("gateway").await;
    let head: Value =
        serde_json::from_slice(&from_base64url(market.login.split('.').next().unwrap())).unwrap();
    market.authority.post("/api/v1/revocations", json!({ "kind": "key", "id": head["kid"] })).await;
    let refused = gateway.post(TOKEN, &form(&market.login, ACCESS, &[("audience", "ads")])).await;
    assert_eq!(refused.error(), (400, "invalid_request".to_owned()));
    market.authority.stop().await;
}

#[tokio::test]
async fn a_transaction_token_names_its_requester_is_good_in_this_trust_domain_and_can_be_exchanged() {
    let market = Market::open().await;
    let (gateway, ads) = (market.client("gateway").await, market.client("ads").await);
    let more = [("audience", "fleamarket.test"), ("scope", "trade"), ("requested_token_type", TXN)];
    let reply = gateway.post(TOKEN, &form(&market.login, ACCESS, &more)).await;
    let token = issued(&reply);
    let answer = reply.json();
    assert_eq!((&answer["token_type"], &answer["issued_token_type"]), (&json!("N_A"), &json!(TXN)));
    assert!(answer.get("refresh_token").is_none());
    let said = claims(&token);
    assert_eq!((&said["aud"], &said["scope"]), (&json!("fleamarket.test"), &json!("trade")));
    assert_eq!(said["req_wl"], "spiffe://fleamarket.test/countersign/gateway/edge");
    assert!(said["txn"].is_string() && said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap() <= 300);
    let head: Value = serde_json::from_slice(&from_base64url(token.split('.').next().unwrap())).unwrap();
    assert_eq!(head["typ"], "txntoken+jwt");
    let hop = issued(&ads.post(TOKEN, &form(&token, TXN, &[("audience", "users")])).await);
    let edge = json!({ "sub": "spiffe://fleamarket.test/countersign/gateway/edge" });
    assert_eq!(claims(&hop)["act"], json!({ "sub": "spiffe://fleamarket.test/svc/ads", "act": edge }));
    assert_eq!(claims(&hop)["txn"], said["txn"], "one transaction");
    let again = ads.post(TOKEN, &form(&token, TXN, &more)).await;
    assert_eq!(again.error(), (400, "invalid_request".to_owned()), "it is passed on as it is");
    market.authority.stop().await;
}

#[tokio::test]
async fn a_subject_by_the_clients_own_word_needs_a_rule_of_its_own_and_has_no_roles() {
    let market = Market::open().await;
    let (gateway, ads) = (market.client("gateway").await, market.client("ads").await);
    let kind = "urn:ietf:params:oauth:token-type:unsigned_json";
    let more = [("audience", "fleamarket.test"), ("scope", "nightly"), ("requested_token_type", TXN)];
    let stated = r#"{"sub":"nightly-job"}"#;
    let token = issued(&ads.post(TOKEN, &form(stated, kind, &more)).await);
    let said = claims(&token);
    assert_eq!((&said["sub"], &said["tctx"]["roles"]), (&json!("nightly-job"), &json!([])));
    let refused = gateway.post(TOKEN, &form(stated, kind, &more)).await;
    assert_eq!(refused.error(), (400, "unauthorized_client".to_owned()), "no rule");
    for wrong in [
        "{}",
        r#"{"sub":""}"#,
        r#"{"sub":"a","roles":["moderator"]}"#,
        "nonsense",
        r#"{"sub":"spiffe://x/y"}"#,
    ] {
        let refused = ads.post(TOKEN, &form(wrong, kind, &more)).await;
        assert_eq!(refused.error(), (400, "invalid_request".to_owned()), "{wrong}");
    }
    let hop = ads.post(TOKEN, &form(stated, kind, &[("audience", "users")])).await;
    assert_eq!(hop.error(), (400, "invalid_request".to_owned()), "good for a transaction alone");
    market.authority.stop().await;
}

#[tokio::test]
async fn the_metadata_names_what_is_there_and_nothing_else() {
    let market = Market::open().await;
    let stranger = Curl::stranger(&market.authority).await;
    let found = stranger.call("/.well-known/oauth-authorization-server", &[]).await.unwrap().json();
    let issuer = format!("https://localhost:{}", market.authority.api.port());
    assert_eq!(found["issuer"], issuer);
    for (name, path) in [
        ("token_endpoint", TOKEN),
        ("introspection_endpoint", "/oauth2/introspect"),
        ("revocation_endpoint", "/oauth2/revoke"),
    ] {
        assert_eq!(
            (&found[name], &found["mtls_endpoint_aliases"][name]),
            (&json!(format!("{issuer}{path}")), &found[name])
        );
        assert_eq!(stranger.post(path, &[]).await.status, 401, "{path} is there");
    }
    assert_eq!(found["grant_types_supported"], json!([GRANT]));
    assert_eq!(found["tls_client_certificate_bound_access_tokens"], true);
    assert!(found.get("authorization_endpoint").is_none());
    let keys = stranger.call("/oauth2/jwks", &[]).await.unwrap().json()["keys"].clone();
    let kids: std::collections::BTreeSet<&str> =
        keys.as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert_eq!(kids.len(), 5, "one key for each kind of token");
    market.authority.stop().await;
}
