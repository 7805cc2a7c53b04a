//! What the callees saw of an edge answers some questions by itself, and says whether anything has to change.

use countersign_identity::Mode;
use countersign_wire::api::edges::Edge;
use serde::Serialize;

use super::{Advice, Question, Reason, Scheme, Sheet, advise, catalogue, lacks};

/// An edge as it is, beside the advice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Observed {
    /// What the callee verified, not what is configured.
    pub today: String,
    /// Calls that were seen.
    pub requests: u64,
    /// Refused ones among them.
    pub denied: u64,
    /// What today's way lacks. Empty: it may stay, even where something simpler would do.
    pub today_lacks: Vec<Reason>,
    /// What would be taken if nothing were there.
    pub advice: Advice,
}

impl Observed {
    /// Does today's way serve?
    #[must_use]
    pub const fn may_stay(&self) -> bool {
        self.today_lacks.is_empty()
    }
}

/// Advises on an edge that was seen; `given` says what no traffic shows. Users and strangers at the edge are no
/// services: for them there is nothing to choose.
#[must_use]
pub fn observed(edge: &Edge, given: &Sheet) -> Option<Observed> {
    let source = short(&edge.source)?;
    let today = scheme_of(Mode::parse(&edge.mode).ok()?)?;
    let mut sheet = given.clone();
    let seen = match edge.user.as_str() {
        "none" => "nobody",
        "hop_token" => "confined",
        _ => "carried",
    };
    if given.open().contains(&Question::User) {
        sheet.answer(Question::User, seen).ok()?;
    }
    Some(Observed {
        today: edge.mode.clone(),
        requests: edge.requests,
        denied: edge.denied,
        today_lacks: lacks(today, sheet.answers()),
        advice: advise(source, &edge.target, &sheet),
    })
}

fn scheme_of(mode: Mode) -> Option<Scheme> {
    catalogue().iter().map(|entry| entry.scheme).find(|scheme| scheme.mode() == Some(mode))
}

/// The name that the command line knows a workload by.
fn short(source: &str) -> Option<&str> {
    let path = source.strip_prefix("spiffe://")?.split_once('/')?.1;
    match path.split_once('/')? {
        ("svc", name) => Some(name),
        ("countersign", role) if role.starts_with("gateway/") => Some("gateway"),
        _ => Some(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(source: &str, mode: &str, user: &str) -> Edge {
        Edge {
            source: source.to_owned(),
            target: "users".to_owned(),
            mode: mode.to_owned(),
            user: user.to_owned(),
            requests: 7,
            denied: 1,
            p50_ms: None,
            p99_ms: None,
            policy: None,
        }
    }

    const ADS: &str = "spiffe://fleamarket.test/svc/ads";

    #[test]
    fn what_serves_may_stay_and_what_does_not_is_told() {
        let mtls = observed(&edge(ADS, "mtls", "internal_token"), &Sheet::default()).unwrap();
        assert!(mtls.may_stay());
        assert_eq!((mtls.advice.source.as_str(), mtls.advice.user_context), ("ads", Some("same")));
        let more = observed(&edge(ADS, "mtls+jwt", "none"), &Sheet::default()).unwrap();
        assert!(more.may_stay() && more.advice.take == Scheme::Mtls, "nobody is told to take less");
        let plain = observed(&edge(ADS, "none", "internal_token"), &Sheet::default()).unwrap();
        assert!(!plain.may_stay());
        let mut sheet = Sheet::default();
        sheet.answer(Question::Dispute, "yes").unwrap();
        let disputed = observed(&edge(ADS, "mtls", "internal_token"), &sheet).unwrap();
        assert!(!disputed.may_stay() && disputed.advice.take == Scheme::SignedToken);
    }

    #[test]
    fn traffic_answers_for_the_user_unless_somebody_did() {
        let seen = observed(&edge(ADS, "mtls", "hop_token"), &Sheet::default()).unwrap();
        assert_eq!(seen.advice.user_context, Some("per-hop"));
        assert!(!seen.advice.assumed.iter().any(|assumed| assumed.starts_with("--user")));
        let mut sheet = Sheet::default();
        sheet.answer(Question::User, "nobody").unwrap();
        let said = observed(&edge(ADS, "mtls", "hop_token"), &sheet).unwrap();
        assert_eq!(said.advice.user_context, None);
    }

    #[test]
    fn users_and_strangers_are_no_services_and_gateways_are() {
        for source in ["user", "stranger"] {
            assert_eq!(observed(&edge(source, "none", "access_token"), &Sheet::default()), None);
        }
        let gateway = "spiffe://fleamarket.test/countersign/gateway/edge";
        let seen = observed(&edge(gateway, "mtls", "none"), &Sheet::default()).unwrap();
        assert_eq!(seen.advice.source, "gateway");
    }
}
