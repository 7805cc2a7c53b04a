//! What an asking proxy has to change of a request that it passes on itself.

use std::net::IpAddr;

use countersign_identity::{Caller, DecisionId, SpiffeId, User};
use countersign_request::{TXN_TOKEN, strip_identity_headers};
use countersign_sdk::outbound::InternalToken;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::filter::Changes;
use crate::headers::{Rules, forwarded_headers};
use crate::sidecar::headers as told;

/// Headers to set, replacing what the client sent under the same name, and headers to remove.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) set: HeaderMap,
    pub(crate) remove: Vec<HeaderName>,
}

/// Who is calling, as the service behind the other proxy learns it.
pub(super) struct Known<'a> {
    pub(super) decision: DecisionId,
    pub(super) user: Option<&'a Caller>,
    pub(super) workload: Option<&'a SpiffeId>,
    pub(super) token: Option<&'a InternalToken>,
    pub(super) client: IpAddr,
    pub(super) scheme: &'static str,
    pub(super) authority: String,
}

impl Edits {
    /// The difference between what the client sent and what the service behind may see: the same that is made of a
    /// request which is forwarded from here.
    pub(super) fn new(came: &HeaderMap, changes: &Changes, rules: [&Rules; 2], known: &Known<'_>) -> Self {
        let mut goes = came.clone();
        strip_identity_headers(&mut goes);
        goes.remove(header::AUTHORIZATION);
        changes.apply(&mut goes);
        for rules in rules {
            rules.request.apply(&mut goes);
        }
        goes.extend(forwarded_headers(known.client, known.scheme, &known.authority));
        known.tell(&mut goes);
        let mut edits = Edits::default();
        for name in goes.keys() {
            if !came.get_all(name).iter().eq(goes.get_all(name)) {
                for value in goes.get_all(name) {
                    edits.set.append(name.clone(), value.clone());
                }
            }
        }
        edits.remove = came.keys().filter(|name| !goes.contains_key(*name)).cloned().collect();
        edits
    }
}

impl Known<'_> {
    fn tell(&self, headers: &mut HeaderMap) {
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(told::DECISION, &self.decision.to_string());
        if let Some(workload) = self.workload {
            set(told::CALLER, &workload.to_string());
        }
        if let Some(user) = self.user.and_then(Caller::user) {
            let User { id, name, roles, .. } = user.get();
            set(told::USER, &told::encoded(id));
            set(told::USER_NAME, &told::encoded(name));
            let roles: Vec<String> = roles.iter().map(|role| told::encoded(role)).collect();
            set(told::USER_ROLES, &roles.join(","));
        }
        if let Some(token) = self.token.and_then(InternalToken::txn_token) {
            headers.insert(TXN_TOKEN, token);
        }
    }
}
