//! A deployment in which tokens are exchanged: rules, a user, and clients.

use countersign_keys::KeyPair;
use countersign_wire::api::certificates::IssuedCertificate;
use serde_json::{Value, json};

use super::{
    Place, Running,
    curl::{Curl, Reply},
    from_base64url,
};

pub const TOKEN: &str = "/oauth2/token";
pub const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
pub const TXN: &str = "urn:ietf:params:oauth:token-type:txn_token";
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
pub const PASSWORD: &str = "a very long password";

/// The gateway gets tokens for everybody, `ads` for `users` and `users` for `ads`; and the partner's shop for `ads`.
pub const RULES: &str = r#"
@id("gateway")
permit (principal == Workload::"spiffe://fleamarket.test/countersign/gateway/edge", action, resource in Service::"sts")
unless { resource == Route::"sts /txn/unsigned-json" };
@id("ads-for-users")
permit (principal == Workload::"spiffe://fleamarket.test/svc/ads", action, resource == Route::"sts /exchange/users")
when { context has user && context.user.roles.contains("buyer") };
@id("ads-states")
permit (principal == Workload::"spiffe://fleamarket.test/svc/ads", action, resource == Route::"sts /txn/unsigned-json");
@id("users-for-ads")
permit (principal == Workload::"spiffe://fleamarket.test/svc/users", action, resource == Route::"sts /exchange/ads")
when { context has user };
@id("users-for-the-partner")
permit (
    principal == Workload::"spiffe://fleamarket.test/svc/users",
    action,
    resource == Route::"sts /exchange/partner.test/countersign/authority"
);
@id("users-for-itself")
permit (principal == Workload::"spiffe://fleamarket.test/svc/users", action, resource == Route::"sts /jwt-svid/ads");
"#;

/// An authority with rules for exchanges, and a user.
pub struct Market {
    pub authority: Running,
    /// What alice got by logging in.
    pub login: String,
    _place: Place,
}

impl Market {
    pub async fn open() -> Self {
        Self::open_at(Place::new()).await
    }

    pub async fn open_at(place: Place) -> Self {
        std::fs::write(place.deployment.policy_dir.as_ref().unwrap().join("sts.cedar"), RULES).unwrap();
        let authority = place.start().await;
        authority.add_user("alice", PASSWORD).await;
        let login = authority.post("/api/v1/login", json!({ "name": "alice", "password": PASSWORD })).await;
        let login = login["access_token"].as_str().unwrap().to_owned();
        Self { authority, login, _place: place }
    }

    /// curl as a service, or as the gateway.
    pub async fn client(&self, service: &str) -> Curl {
        let (key, issued) = self.svid(service).await;
        Curl::showing(&self.authority, &key, &issued).await
    }

    pub async fn svid(&self, service: &str) -> (KeyPair, IssuedCertificate) {
        self.authority.issue(json!({ "service": service })).await
    }
}

/// What every exchange says, with more.
pub fn form<'a>(subject: &'a str, kind: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let first = [("grant_type", GRANT), ("subject_token", subject), ("subject_token_type", kind)];
    first.into_iter().chain(more.iter().copied()).collect()
}

pub fn claims(token: &str) -> Value {
    serde_json::from_slice(&from_base64url(token.split('.').nth(1).unwrap())).unwrap()
}

pub fn issued(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["access_token"].as_str().unwrap().to_owned()
}
