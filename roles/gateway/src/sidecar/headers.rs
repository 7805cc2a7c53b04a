//! What a service behind a sidecar learns of its caller, in headers that only its sidecar sets.

use countersign_identity::User;
use countersign_sdk::inbound::Caller;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Full name of the workload that called, if it proved one.
pub(crate) const CALLER: HeaderName = HeaderName::from_static("countersign-caller");
/// Immutable id of the user on whose behalf, if there is one.
pub(crate) const USER: HeaderName = HeaderName::from_static("countersign-user");
/// Name of that user, percent encoded.
pub(crate) const USER_NAME: HeaderName = HeaderName::from_static("countersign-user-name");
/// Roles of that user, each percent encoded, apart by `,`.
pub(crate) const USER_ROLES: HeaderName = HeaderName::from_static("countersign-user-roles");
/// Under which id the decision is recorded.
pub(crate) const DECISION: HeaderName = HeaderName::from_static("countersign-decision");

/// Tells the service who is calling. Identity headers were stripped before: these are the only ones.
pub(super) fn tell(headers: &mut HeaderMap, caller: &Caller) {
    set(headers, DECISION, &caller.decision().to_string());
    if let Some(workload) = caller.workload() {
        set(headers, CALLER, &workload.id.to_string());
    }
    let Some(user) = caller.user() else { return };
    let User { id, name, roles, .. } = user.get();
    set(headers, USER, &encoded(id));
    set(headers, USER_NAME, &encoded(name));
    let roles: Vec<String> = roles.iter().map(|role| encoded(role)).collect();
    set(headers, USER_ROLES, &roles.join(","));
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Everything that is set is ASCII without control characters.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Percent encoded (RFC 3986 section 2.1), but for unreserved characters and `:@`.
pub(crate) fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, ENCODED).to_string()
}

const ENCODED: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'@');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_add_a_role_or_a_header() {
        assert_eq!(encoded("Zoë, admin\r\nx: y"), "Zo%C3%AB%2C%20admin%0D%0Ax:%20y");
        assert_eq!(encoded("alice@flea.test"), "alice@flea.test");
    }
}
