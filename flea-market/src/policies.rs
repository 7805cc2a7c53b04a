//! Who may do what at the flea market.

/// The trust domain that [`POLICIES`] are written for.
pub const TRUST_DOMAIN: &str = "fleamarket.test";

/// The services that have rules, each with its file; `gateway` holds the coarse ones, `sts` says who may exchange
/// tokens for whom.
pub const POLICIES: [(&str, &str); 8] = [
    ("gateway", include_str!("../policies/gateway.cedar")),
    ("ads", include_str!("../policies/ads.cedar")),
    ("users", include_str!("../policies/users.cedar")),
    ("chat", include_str!("../policies/chat.cedar")),
    ("media", include_str!("../policies/media.cedar")),
    ("subscriptions", include_str!("../policies/subscriptions.cedar")),
    ("reports", include_str!("../policies/reports.cedar")),
    ("sts", include_str!("../policies/sts.cedar")),
];

/// What exists outside, and which service it leads to.
pub const EDGE_ROUTES: [(&str, &str); 16] = [
    ("/ads", "ads"),
    ("/ads/{id}", "ads"),
    ("/ads/{id}/buy", "ads"),
    ("/ads/{id}/rent", "ads"),
    ("/ads/{id}/swap", "ads"),
    ("/users/me", "users"),
    ("/users/{handle}", "users"),
    ("/chats", "chat"),
    ("/chats/{id}", "chat"),
    ("/media", "media"),
    ("/media/{id}", "media"),
    ("/subscriptions", "subscriptions"),
    ("/subscriptions/{id}", "subscriptions"),
    ("/subscriptions/notifications", "subscriptions"),
    ("/reports", "reports"),
    ("/reports/{id}/close", "reports"),
];

/// [`POLICIES`] for a deployment whose trust domain has another name.
#[must_use]
pub fn policies_for(trust_domain: &str) -> Vec<(&'static str, String)> {
    let (ours, theirs) = (format!("spiffe://{TRUST_DOMAIN}/"), format!("spiffe://{trust_domain}/"));
    POLICIES.iter().map(|(name, text)| (*name, text.replace(&ours, &theirs))).collect()
}
