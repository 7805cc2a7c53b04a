//! Tokens, decoded and not verified: whoever wants to know whether one counts asks `token verify`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_identity::UnixTime;
use countersign_token::bearer::{self, BearerToken};
use countersign_token::macaroon::{HeldMacaroon, Macaroon, MacaroonName};
use serde_json::{Value, json};

use crate::output;

/// A token nested in a token, and no further: whatever lies deeper is shown as it stands.
const NESTING_MAX: usize = 2;
const UNVERIFIED: &str = "no: nothing was checked, countersign token verify does";

/// What kind of token it is, and what it says.
pub fn describe(bytes: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    if text.is_empty() || text.contains(char::is_whitespace) {
        return None;
    }
    if bearer::claims_to_be(text) {
        return Some(opaque(text));
    }
    jws(text, NESTING_MAX).or_else(|| jwe(text)).or_else(|| macaroon(text))
}

fn jws(text: &str, nesting: usize) -> Option<Value> {
    let parts: Vec<&str> = text.split('.').collect();
    let [header, payload, _] = parts.as_slice() else { return None };
    let (header, mut claims) = (part(header)?, part(payload)?);
    let kind = header.get("typ").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
    for member in ["nbf", "iat", "exp"] {
        moment(&mut claims, member);
    }
    // The user's token inside a service's own.
    if let (Some(inner), Some(left)) =
        (claims.get("user_token").and_then(Value::as_str), nesting.checked_sub(1))
    {
        let shown = jws(inner, left);
        if let (Some(shown), Some(claims)) = (shown, claims.as_object_mut()) {
            claims.insert("user_token".to_owned(), shown);
        }
    }
    Some(json!({ "kind": kind_of(&kind), "verified": UNVERIFIED, "header": header, "claims": claims }))
}

fn kind_of(typ: &str) -> &'static str {
    match typ.strip_prefix("application/").unwrap_or(typ) {
        "at+jwt" => "access token (RFC 9068)",
        "txntoken+jwt" => "transaction token",
        "countersign-service+jwt" => "service token, self-signed for one request",
        "wit+jwt" => "workload identity token (WIT)",
        "wpt+jwt" => "workload proof token (WPT)",
        "dpop+jwt" => "DPoP proof (RFC 9449)",
        "client-authentication+jwt" => "client assertion (RFC 7523)",
        _ => "jwt",
    }
}

fn jwe(text: &str) -> Option<Value> {
    let parts: Vec<&str> = text.split('.').collect();
    let [header, _, _, ciphertext, _] = parts.as_slice() else { return None };
    let header = part(header)?;
    let bytes = URL_SAFE_NO_PAD.decode(ciphertext).ok()?.len();
    Some(json!({ "kind": "encrypted payload (JWE)", "header": header, "ciphertext_bytes": bytes }))
}

fn opaque(text: &str) -> Value {
    match BearerToken::parse(text) {
        // The secret is not shown again.
        Ok(token) => json!({ "kind": "bearer token", "id": token.id().to_string(), "checksum": "right" }),
        Err(error) => json!({ "kind": "bearer token", "broken": error.to_string() }),
    }
}

fn macaroon(text: &str) -> Option<Value> {
    let held = HeldMacaroon::parse(text).ok()?;
    let root = held.root();
    let mut shown = json!({
        "kind": "macaroon",
        "verified": UNVERIFIED,
        "location": root.location(),
        "caveats": caveats(root),
        "undischarged": held.undischarged().map(|(location, _)| location.to_owned()).collect::<Vec<_>>(),
    });
    if let (Ok(name), Some(members)) = (MacaroonName::parse(root.identifier()), shown.as_object_mut()) {
        members.insert("identifier".to_owned(), json!(name.to_string()));
    }
    Some(shown)
}

fn caveats(macaroon: &Macaroon<'_>) -> Vec<String> {
    let one = |caveat: &countersign_token::macaroon::Caveat<'_>| match caveat.discharger() {
        Some(location) => format!("to be discharged by {location}"),
        None => String::from_utf8_lossy(caveat.id()).into_owned(),
    };
    macaroon.caveats().iter().map(one).collect()
}

fn part(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    value.is_object().then_some(value)
}

/// Beside the number that stands there, what it means.
fn moment(claims: &mut Value, member: &str) {
    let Some(seconds) = claims.get(member).and_then(Value::as_i64) else { return };
    let readable = format!("{seconds} ({})", output::moment(UnixTime::from_secs(seconds)));
    if let Some(claims) = claims.as_object_mut() {
        claims.insert(member.to_owned(), json!(readable));
    }
}

#[cfg(test)]
mod tests {
    use countersign_keys::SystemRandom;
    use countersign_token::macaroon::RootKey;

    use super::*;

    fn jwt(header: &str, claims: &str) -> String {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        format!("{}.{}.AAAA", part(header), part(claims))
    }

    #[test]
    fn a_jwt_is_shown_with_its_kind_and_said_to_be_unverified() {
        let token = jwt(r#"{"alg":"ES256","typ":"at+jwt"}"#, r#"{"sub":"u_1","exp":1800000000}"#);
        let shown = describe(format!("{token}\n").as_bytes()).unwrap();
        assert_eq!(shown["kind"], "access token (RFC 9068)");
        assert_eq!(shown["claims"]["sub"], "u_1");
        assert!(shown["claims"]["exp"].as_str().unwrap().starts_with("1800000000 ("));
        assert!(shown["verified"].as_str().unwrap().starts_with("no"));
    }

    #[test]
    fn a_nested_user_is_shown_inside_and_not_without_end() {
        let mut token = jwt(r#"{"typ":"txntoken+jwt"}"#, r#"{"sub":"u_1"}"#);
        for _ in 0..5 {
            token = jwt(r#"{"typ":"countersign-service+jwt"}"#, &json!({ "user_token": token }).to_string());
        }
        let shown = describe(token.as_bytes()).unwrap();
        assert!(shown["claims"]["user_token"]["claims"]["user_token"]["claims"]["user_token"].is_string());
    }

    #[test]
    fn a_bearer_token_is_named_and_its_secret_is_not_shown_again() {
        let token = BearerToken::mint(&SystemRandom::new()).unwrap();
        let shown = describe(token.expose().as_bytes()).unwrap();
        assert_eq!((&shown["kind"], &shown["checksum"]), (&json!("bearer token"), &json!("right")));
        assert!(!shown.to_string().contains(token.expose()));
        let broken = describe(b"csb_nonsense").unwrap();
        assert!(broken["broken"].is_string());
    }

    #[test]
    fn a_macaroon_is_shown_with_its_caveats() {
        let root = Macaroon::mint("spiffe://fleamarket.test/svc/ads", b"anything", &RootKey::derive(b"k"));
        let held = HeldMacaroon::new(root.unwrap().attenuate("method = GET").unwrap());
        let shown = describe(held.to_text().as_bytes()).unwrap();
        assert_eq!(shown["location"], "spiffe://fleamarket.test/svc/ads");
        assert_eq!(shown["caveats"], json!(["method = GET"]));
    }

    #[test]
    fn what_is_no_token_is_left_to_others() {
        for other in ["", "hello", "a.b.c", "-----BEGIN CERTIFICATE-----\nAA==\n", "..", "...."] {
            assert_eq!(describe(other.as_bytes()), None, "{other}");
        }
    }
}
