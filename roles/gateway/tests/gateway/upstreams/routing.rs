//! Which upstream a request meets, and by which path.
use super::endpoints;
use crate::rig::Rig;
use crate::rig::backend::Backend;
use crate::rig::client::get;
use crate::rig::echo::{self, Seen};

#[tokio::test]
async fn the_path_is_rewritten_after_the_decision_and_everybody_before_sees_the_one_that_came() {
    let rig = Rig::new();
    let backend = Backend::named("here").await;
    // The policy permits the path that came, and would deny the one that goes out.
    rig.policy(
        "gateway",
        "@id(\"ads\")\npermit (principal, action, resource) when { context.path like \"/ads/*\" };",
    );
    let edge = rig
        .gateway(&format!(
            "[[route]]\npath = \"/ads/*\"\nto = \"backend\"\nuser = \"none\"\nrewrite_prefix = \"/v2\"\n\
             [[route]]\npath = \"/v2/*\"\nto = \"backend\"\nuser = \"none\"\n\
             [[upstream]]\nname = \"backend\"\n{}\n",
            endpoints(&[&backend])
        ))
        .await;
    assert_eq!(get(edge.plain, "/ads/7?near=1,2", &[]).await.status, 200);
    assert!(backend.last().starts_with("GET /v2/7?near=1,2 HTTP/1.1\r\n"), "{}", backend.last());
    assert_eq!(
        get(edge.plain, "/v2/7", &[]).await.status,
        403,
        "the rewritten path is not what was permitted"
    );
    let decision = rig.decision(|decision| decision.status == 200).await;
    assert_eq!(decision.route, "/ads/*");
}

#[tokio::test]
async fn a_rewritten_path_past_a_limit_is_refused_and_nothing_is_sent() {
    let rig = Rig::new();
    let backend = Backend::named("here").await;
    rig.policy("gateway", super::ALL);
    let edge = rig
        .gateway(&format!(
            "[[route]]\npath = \"/a/*\"\nto = \"backend\"\nuser = \"none\"\nrewrite_prefix = \"/a/deeper\"\n\
             [[upstream]]\nname = \"backend\"\n{}\n",
            endpoints(&[&backend])
        ))
        .await;
    let deep = format!("/a{}", "/b".repeat(63));
    assert_eq!(get(edge.plain, &deep, &[]).await.status, 414);
    assert_eq!(backend.count(), 0);
    assert_eq!(get(edge.plain, "/a/b", &[]).await.status, 200);
}

#[tokio::test]
async fn a_header_a_split_and_a_service_of_the_snapshot_each_find_their_target() {
    let (rig, seen) = (Rig::new(), Seen::default());
    let (beta, blue, green) =
        (Backend::named("beta").await, Backend::named("blue").await, Backend::named("green").await);
    rig.policy("gateway", super::ALL);
    rig.open_service("ads", echo::router(&["/service"], &seen)).await;
    let upstream = |name: &str, backend: &Backend| {
        format!("[[upstream]]\nname = \"{name}\"\n{}\n", endpoints(&[backend]))
    };
    let edge = rig
        .gateway(&format!(
            r#"
            [[route]]
            path = "/a"
            user = "none"
            to   = "beta"
            match_headers = {{ x-beta = "1" }}
            [[route]]
            path  = "/a"
            user  = "none"
            split = [{{ to = "blue", weight = 1 }}, {{ to = "green", weight = 1 }}]
            [[route]]
            path = "/service"
            user = "none"
            to   = "ads"
            {}{}{}"#,
            upstream("beta", &beta),
            upstream("blue", &blue),
            upstream("green", &green)
        ))
        .await;
    assert_eq!(get(edge.plain, "/a", &[("x-beta", "1")]).await.body, "beta");
    assert_eq!(get(edge.plain, "/service", &[]).await.status, 200);
    assert_eq!(seen.count(), 1);
    // Of 64 requests, one share stays without any once in 2^63 runs.
    for _ in 0..64 {
        assert_ne!(get(edge.plain, "/a", &[]).await.body, "beta");
    }
    assert_eq!(blue.count() + green.count(), 64);
    assert!(blue.count() > 0 && green.count() > 0);
}
