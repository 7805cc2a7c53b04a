//! # Users come in through the gateway, and through nothing else.

use serde_json::Value;

use crate::deployment::Deployment;

const NEAR: &str = "/ads?near=48.37,14.51";

#[test]
fn alice_sees_ads_around_her_with_a_preview_of_each_seller() {
    let d = Deployment::shared();
    let (status, body) = d.as_user("alice", NEAR, &[]);
    assert_eq!(status, 200, "{body}");
    let found: Value = serde_json::from_str(&body).unwrap();
    let ads = found["ads"].as_array().unwrap();
    assert!(!ads.is_empty());
    for ad in ads {
        assert!(ad["seller"]["preview"]["display_name"].is_string(), "an ad without a seller preview: {ad}");
    }
    let distances: Vec<f64> = ads.iter().map(|ad| ad["distance_km"].as_f64().unwrap()).collect();
    assert!(distances.is_sorted(), "nearest first: {distances:?}");
}

#[test]
fn plain_http_on_loopback_serves_the_same_ads() {
    let d = Deployment::shared();
    let config = d.curl_config("alice");
    let (status, _) = d.curl(&format!("{}{NEAR}", d.url("gateway")), &["-K", &config]);
    assert_eq!(status, 200);
}

#[test]
fn without_a_token_the_answer_is_401_problem_json_with_a_challenge() {
    let d = Deployment::shared();
    let (status, said) = d.curl(&format!("{}{NEAR}", d.url("gateway")), &["-i"]);
    assert_eq!(status, 401);
    let head = said.to_ascii_lowercase();
    assert!(head.contains("content-type: application/problem+json"), "{said}");
    assert!(head.contains("www-authenticate: bearer"), "{said}");
    let problem: Value = serde_json::from_str(said.rsplit_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(problem["status"], 401);
    assert!(problem["decision"].as_str().unwrap().starts_with("d_"));
}

#[test]
fn a_token_that_is_not_ours_is_refused() {
    let d = Deployment::shared();
    let forged = "Authorization: Bearer eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.eyJzdWIiOiJhIn0.";
    let (status, _) = d.curl(&format!("{}{NEAR}", d.url("gateway")), &["-H", forged]);
    assert_eq!(status, 401);
    let (status, _) = d.curl(&format!("{}{NEAR}", d.url("gateway")), &["-H", "Authorization: Bearer x"]);
    assert_eq!(status, 401);
}

#[test]
fn eve_the_guest_may_not_buy_and_alice_may() {
    let d = Deployment::shared();
    let buy = ["-X", "POST", "-H", "Content-Type: application/json", "-d", "{}"];
    let (status, body) = d.as_user("eve", "/ads/1/buy", &buy);
    assert_eq!(status, 403, "{body}");
    let problem: Value = serde_json::from_str(&body).unwrap();
    let explained = d.json(&["explain", problem["decision"].as_str().unwrap()]);
    assert_eq!(explained["verdict"], "deny");
    assert_eq!(explained["stage"], "policy");
    assert!(explained["fix"].is_string(), "{explained}");
    let (status, body) = d.as_user("alice", "/ads/2/buy", &buy);
    assert_eq!(status, 200, "{body}");
}

#[test]
fn with_the_gateway_s_coarse_rule_removed_the_service_s_fine_rule_still_refuses_eve() {
    let mut d = Deployment::start();
    let buy = ["-X", "POST", "-H", "Content-Type: application/json", "-d", "{}"];
    d.ok(&["down"]);
    let file = d.state().join("policies/gateway.cedar");
    std::fs::write(
        &file,
        "@id(\"all-users\")\npermit (principal is User, action, resource in Service::\"gateway\");\n",
    )
    .unwrap();
    d.up();
    let (status, body) = d.as_user("eve", "/ads/1/buy", &buy);
    assert_eq!(status, 403, "{body}");
    let explained = d.explain_after(None);
    assert!(
        explained["writer"].as_str().unwrap().ends_with("/svc/ads"),
        "the fine rule decided: {explained}"
    );
}

#[test]
fn with_the_services_fine_rule_removed_the_gateway_s_coarse_rule_still_refuses_eve() {
    let mut d = Deployment::start();
    d.ok(&["down"]);
    let file = d.state().join("policies/ads.cedar");
    std::fs::write(
        &file,
        "@id(\"all\")\npermit (principal is Workload, action, resource in Service::\"ads\");\n",
    )
    .unwrap();
    d.up();
    let buy = ["-X", "POST", "-H", "Content-Type: application/json", "-d", "{}"];
    let (status, body) = d.as_user("eve", "/ads/1/buy", &buy);
    assert_eq!(status, 403, "{body}");
    let explained = d.explain_after(None);
    assert!(explained["writer"].as_str().unwrap().contains("/countersign/gateway/"), "{explained}");
}

#[test]
fn identity_headers_of_a_client_never_reach_a_service_whatever_their_spelling() {
    let d = Deployment::shared();
    for header in [
        "Txn-Token: x",
        "X-Forwarded-Client-Cert: By=spiffe://x",
        "X_Forwarded_User: mod",
        "X-User-Roles: moderator",
    ] {
        let (status, _) = d.as_user("alice", "/reports", &["-H", header]);
        assert!(status == 403 || status == 400, "{header}: {status}");
    }
}

#[test]
fn answers_of_the_edge_name_nothing_of_the_inside() {
    let d = Deployment::shared();
    let ca = d.url("ca_file");
    let config = d.curl_config("alice");
    let (_, said) =
        d.curl(&format!("{}{NEAR}", d.url("gateway_tls")), &["-i", "--cacert", ca, "-K", &config]);
    let head = said.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
    for inside in ["spiffe", "txn-token", "server:", "x-powered-by", "127.0.0.1", "via:"] {
        assert!(!head.contains(inside), "{inside} in {head}");
    }
}

#[test]
fn paths_that_can_be_read_in_two_ways_are_refused_at_the_edge() {
    let d = Deployment::shared();
    let config = d.curl_config("alice");
    for path in [
        "/ads/../reports",
        "//reports",
        "/ads%2F1",
        "/ads/%2e%2e/reports",
        "/ads/%5c..",
        "/ads;x=1",
        "/ads/%00",
    ] {
        let url = format!("{}{path}", d.url("gateway"));
        let (status, _) = d.curl(&url, &["--path-as-is", "-K", &config]);
        assert_eq!(status, 400, "{path}");
    }
}

#[test]
fn the_authority_s_api_refuses_strangers_users_and_services() {
    let d = Deployment::shared();
    let base = d.url("authority");
    let ca = d.url("ca_file");
    let ads = d.scratch("api-ads");
    d.ok(&["cert", "issue", "--service", "ads", "--out", ads.to_str().unwrap()]);
    let (cert, key) = (ads.join("cert.pem").display().to_string(), ads.join("key.pem").display().to_string());
    let config = d.curl_config("alice");
    let public = [
        "POST /api/v1/login",
        "GET /api/v1/bundle",
        "GET /api/v1/bundle/spiffe",
        "GET /api/v1/crl",
        "GET /api/v1/openapi.json",
    ];
    let (_, openapi) = d.curl(&format!("{base}/api/v1/openapi.json"), &["--cacert", ca]);
    let openapi: Value = serde_json::from_str(&openapi).unwrap();
    let mut asked = 0;
    for (path, methods) in openapi["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let route = format!("{} {path}", method.to_uppercase());
            if !path.starts_with("/api/v1") || public.contains(&route.as_str()) {
                continue;
            }
            let url = format!(
                "{base}{}",
                path.replace("{id}", "last").replace("{name}", "ads").replace("{trust_domain}", "b.test")
            );
            let method = method.to_uppercase();
            let ask = ["-X", &method, "--cacert", ca, "-H", "Content-Type: application/json", "-d", "{}"];
            let (stranger, said) = d.curl(&url, &ask);
            assert_eq!(stranger, 401, "{route} by a stranger: {said}");
            let (user, _) = d.curl(&url, &[&ask[..], &["-K", &config]].concat());
            let (service, said) = d.curl(&url, &[&ask[..], &["--cert", &cert, "--key", &key]].concat());
            if route == DISCHARGE {
                // Whoever proves a name may ask; the sealed condition of the caveat decides.
                assert_eq!((user, service), (400, 400), "{route}: {said}");
            } else {
                assert!(matches!(user, 401 | 403), "{route} by alice: {user}");
                assert!(matches!(service, 401 | 403), "{route} by ads: {service} {said}");
            }
            asked += 1;
        }
    }
    assert!(asked >= 15, "only {asked} routes are in the document");
}

const DISCHARGE: &str = "POST /api/v1/tokens/discharge";
