//! How the gateway proves itself to the services behind: as every caller, in the mode that its own entry names.
use crate::rig::client::{bearer, get};
use crate::rig::echo::{self, Seen};
use crate::rig::{Rig, eventually};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::{Mode, UserContext};
use countersign_keys::sha256;
use serde_json::Value;

const ROUTES: &str = "[[route]]\npath = \"/ads\"\nto = \"ads\"\n";
const EDGE_RULES: &str =
    r#"@id("signed-in") permit (principal is User, action, resource in Service::"gateway");"#;
const ADS_RULES: &str = r#"
@id("bound-requests-from-the-edge")
permit (principal == Workload::"spiffe://fleamarket.test/countersign/gateway/edge", action, resource)
when { context has user && context.user.name == "alice"
    && context.proof.binding.containsAll(["target", "method_and_query"]) };
"#;

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

async fn settled(rig: &Rig, edge: &crate::rig::Running) {
    eventually(|| edge.workload.live().snapshot().sequence == rig.world.sequence()).await;
}

#[tokio::test]
async fn the_gateway_signs_a_token_of_its_own_and_covers_the_users() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", EDGE_RULES);
    rig.open_service("ads", echo::router(&["/ads"], &seen)).await;
    rig.accepts("ads", &[Mode::Jwt, Mode::Mtls]);
    rig.gateway_sends(Mode::Jwt, UserContext::Same);
    let edge = rig.gateway(ROUTES).await;
    settled(&rig, &edge).await;
    let external = rig.access_token("alice", &["buyer"]);
    assert_eq!(get(edge.plain, "/ads", &[("authorization", &bearer(&external))]).await.status, 200);

    let request = seen.last();
    let header = |name: &str| echo::header(&request, name).pop().unwrap();
    let own = header("authorization").strip_prefix("Bearer ").unwrap().to_owned();
    let said = claims(&own);
    assert_eq!(said["iss"], "spiffe://fleamarket.test/countersign/gateway/edge");
    assert_eq!(said["aud"], "spiffe://fleamarket.test/svc/ads");
    let internal = header("txn-token");
    assert_eq!(said["tth"], URL_SAFE_NO_PAD.encode(sha256(internal.as_bytes())));
    assert!(!request.to_string().contains(&external), "the external token went past the gateway");
}

#[tokio::test]
async fn a_service_that_accepts_only_signed_requests_lets_the_gateway_in_once_it_signs() {
    let (rig, seen) = (Rig::new(), Seen::default());
    rig.policy("gateway", EDGE_RULES);
    let ads = rig.service("ads", ADS_RULES, echo::router(&["/ads"], &seen)).await;
    rig.accepts("ads", &[Mode::Jwt]);
    let edge = rig.gateway(ROUTES).await;
    settled(&rig, &edge).await;
    eventually(|| ads.live().snapshot().sequence == rig.world.sequence()).await;
    let external = rig.access_token("alice", &["buyer"]);
    let ask = async || get(edge.plain, "/ads", &[("authorization", &bearer(&external))]).await.status;
    assert_ne!(ask().await, 200, "a certificate alone is not what this service accepts");
    for context in [UserContext::Same, UserContext::Nested] {
        rig.gateway_sends(Mode::Jwt, context);
        settled(&rig, &edge).await;
        assert_eq!(ask().await, 200, "{context}");
    }
    let decision = rig.decision(|decision| decision.target == "ads" && decision.status == 200).await;
    assert_eq!(decision.mode, "jwt");
    assert_eq!(decision.policy.as_deref(), Some("bound-requests-from-the-edge"));
}
