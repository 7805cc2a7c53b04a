//! Every JSON body: limits, exact errors, no panic, and no secret in an error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use countersign_wire::api::certificates::{IssueCertificate, Revoke};
use countersign_wire::api::nodes::NewJoinToken;
use countersign_wire::api::services::NewService;
use countersign_wire::api::status::Status;
use countersign_wire::api::users::{Login, NewUser, User};
use countersign_wire::api::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, PageQuery, audit::AuditQuery};
use countersign_wire::json::{BODY_BYTES_MAX, JsonError, from_slice};
use countersign_wire::problem::Problem;
use countersign_wire::snapshot::{FORMAT, Jwk, SNAPSHOT_BYTES_MAX, Snapshot, SnapshotError};
use proptest::prelude::*;
use serde::de::DeserializeOwned;

fn read<T: DeserializeOwned>(text: &str) -> Result<T, JsonError> {
    from_slice(text.as_bytes(), BODY_BYTES_MAX)
}

#[test]
fn accepts_a_body_at_the_limit_and_rejects_one_past_it() {
    let body = |bytes: usize| {
        let rest = r#"{"name":"","password":"p"}"#.len();
        format!(r#"{{"name":"{}","password":"p"}}"#, "a".repeat(bytes - rest))
    };
    assert!(read::<Login>(&body(BODY_BYTES_MAX)).is_ok());
    assert_eq!(
        read::<Login>(&body(BODY_BYTES_MAX + 1)).unwrap_err(),
        JsonError::TooLong { max: BODY_BYTES_MAX, got: BODY_BYTES_MAX + 1 }
    );
}

#[test]
fn rejects_what_is_not_one_json_document() {
    for (text, line, column) in
        [("", 1, 0), ("{", 1, 1), ("{}\n}", 2, 1), ("[1,]", 1, 4), ("{\"limit\":1} {}", 1, 13)]
    {
        let error = read::<PageQuery>(text).unwrap_err();
        assert_eq!(error, JsonError::Syntax { line, column }, "{text:?}");
    }
    let deep = "[".repeat(100_000 / 2);
    assert!(matches!(read::<serde_json::Value>(&deep), Err(JsonError::Syntax { .. })), "depth is bounded");
}

#[test]
fn rejects_unknown_missing_doubled_and_wrong_members_by_name() {
    let shape = |text: &str| match read::<Login>(text).unwrap_err() {
        JsonError::Shape { at, what } => (at, what),
        other => panic!("{text}: {other:?}"),
    };
    let (at, what) = shape(r#"{"name":"a","password":"p","role":"admin"}"#);
    assert!(at == "role" && what.starts_with("unknown field `role`, expected"), "{at}: {what}");
    assert_eq!(shape(r#"{"name":"a"}"#).1, "missing field `password`");
    assert_eq!(shape(r#"{"name":"a","name":"b","password":"p"}"#).1, "duplicate field `name`");
    assert_eq!(shape(r#"{"name":7,"password":"p"}"#), ("name".to_owned(), "expected a string".to_owned()));
}

#[test]
fn no_error_repeats_a_value_that_the_sender_wrote() {
    let secret = "hunter2-the-password";
    for text in [
        format!(r#"{{"name":"a","password":["{secret}"]}}"#),
        format!(r#"{{"name":{{"{secret}":1}},"password":"p"}}"#),
        format!(r#""{secret}""#),
        format!(r#"["{secret}", expected {secret} at line 1]"#),
    ] {
        let error = read::<Login>(&text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
    // A value that looks like the end of a message does not get through either.
    let tricky = format!(r#"{{"limit":"x, expected {secret} at line 9"}}"#);
    let error = read::<PageQuery>(&tricky).unwrap_err();
    assert!(!format!("{error:?}").contains(secret), "{error:?}");
    let tricky = format!(r#"{{"limit":"unknown field {secret}"}}"#);
    assert!(!format!("{:?}", read::<PageQuery>(&tricky).unwrap_err()).contains(secret));
}

#[test]
fn debug_of_a_login_shows_no_password() {
    let login: Login = read(r#"{"name":"alice","password":"hunter2"}"#).unwrap();
    assert!(!format!("{login:?}").contains("hunter2"));
    assert_eq!(login.password.expose(), "hunter2");
}

#[test]
fn a_request_refuses_what_it_does_not_know_and_a_response_ignores_it() {
    let refused: [Result<(), JsonError>; 7] = [
        read::<Login>(r#"{"name":"a","password":"p","x":1}"#).map(drop),
        read::<NewUser>(r#"{"name":"a","password":"p","x":1}"#).map(drop),
        read::<NewService>(r#"{"name":"a","address":"b","launch_by":[],"x":1}"#).map(drop),
        read::<NewJoinToken>(r#"{"node":"a","x":1}"#).map(drop),
        read::<IssueCertificate>(r#"{"csr":"","x":1}"#).map(drop),
        read::<Revoke>(r#"{"x":1}"#).map(drop),
        read::<AuditQuery>(r#"{"x":1}"#).map(drop),
    ];
    for result in refused {
        let Err(JsonError::Shape { what, .. }) = result else { panic!("{result:?}") };
        assert!(what.starts_with("unknown field `x`"), "{what}");
    }
    let user: User =
        read(r#"{"id":"u_1","name":"alice","roles":[],"created_at":5,"from_the_future":true}"#).unwrap();
    assert_eq!(user.created_at.millis(), 5);
}

#[test]
fn a_new_service_accepts_and_sends_mtls_unless_it_says_otherwise() {
    let service: NewService = read(r#"{"name":"ads","address":"127.0.0.1:1","launch_by":[0]}"#).unwrap();
    assert_eq!((service.accepts.len(), service.sends.as_str()), (1, "mtls"));
    for bad in [r#""Ads""#, r#""a/b""#, r#""""#] {
        assert!(read::<NewService>(&format!(r#"{{"name":{bad},"address":"x","launch_by":[]}}"#)).is_err());
    }
}

#[test]
fn pages_are_bounded_whatever_is_asked_for() {
    let items = |limit| PageQuery { limit, after: None }.items();
    assert_eq!(items(None), PAGE_ITEMS_DEFAULT);
    assert_eq!((items(Some(0)), items(Some(PAGE_ITEMS_MAX))), (1, PAGE_ITEMS_MAX));
    assert_eq!(items(Some(PAGE_ITEMS_MAX + 1)), PAGE_ITEMS_MAX);
}

/// A snapshot with every member.
fn snapshot() -> serde_json::Value {
    serde_json::json!({
        "format": FORMAT, "trust_domain": "fleamarket.test", "epoch": "e1", "sequence": 7,
        "issued_at": 1000, "valid_until": 2000, "critical": ["policies"],
        "bundles": [{"trust_domain": "fleamarket.test", "roots": ["MAA="], "crls": []}],
        "access_token": {"issuer": "https://a", "audience": "b", "keys": [{"kty":"EC","x":"1","x":"2"}]},
        "internal_token_keys": [{"owner": "spiffe://fleamarket.test/countersign/gateway/edge", "jwk": {"kty":"EC"}}],
        "services": [{"name": "ads", "spiffe_id": "spiffe://fleamarket.test/svc/ads",
                      "address": "127.0.0.1:1", "accepts": ["mtls"], "sends": "mtls"}],
        "policies": {"generation": 3, "files": [{"name": "ads", "text": "permit(principal, action, resource);"}]},
        "ledger_head": {"payload": "{}", "kid": "k", "signature": "s"},
    })
}

fn parse(value: &serde_json::Value) -> Result<Snapshot, SnapshotError> {
    Snapshot::parse(value.to_string().as_bytes())
}

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    let read = parse(&snapshot()).unwrap();
    assert_eq!(Snapshot::parse(&read.to_payload()), Ok(read.clone()));
    assert_eq!(read.service("ads").map(|service| service.address.as_str()), Some("127.0.0.1:1"));
    assert_eq!((read.service("Ads"), read.policy("users")), (None, None));
    assert!(read.policy("ads").unwrap().starts_with("permit"));
}

#[test]
fn a_snapshot_ignores_an_unknown_member_unless_it_is_critical() {
    let mut newer = snapshot();
    newer["quotas"] = serde_json::json!({"ads": 5});
    assert!(parse(&newer).is_ok());
    newer["critical"] = serde_json::json!(["policies", "quotas"]);
    assert_eq!(parse(&newer), Err(SnapshotError::Critical { member: "quotas".to_owned() }));
}

#[test]
fn a_snapshot_of_another_format_is_refused_before_anything_else_is_read() {
    let other = serde_json::json!({"format": FORMAT + 1, "everything": "else"});
    assert_eq!(parse(&other), Err(SnapshotError::Format { got: FORMAT + 1 }));
}

#[test]
fn a_snapshot_without_a_member_or_with_a_wrong_one_is_refused() {
    for member in ["trust_domain", "sequence", "valid_until", "bundles", "services", "policies"] {
        let mut without = snapshot();
        without.as_object_mut().unwrap().remove(member);
        let Err(SnapshotError::Json(JsonError::Shape { what, .. })) = parse(&without) else {
            panic!("{member} may not be missing")
        };
        assert_eq!(what, format!("missing field `{member}`"));
    }
    for (pointer, wrong) in [
        ("/trust_domain", "Not A Domain"),
        ("/services/0/spiffe_id", "https://fleamarket.test/svc/ads"),
        ("/services/0/sends", "telepathy"),
        ("/bundles/0/roots/0", "*"),
        ("/sequence", "7"),
    ] {
        let mut value = snapshot();
        *value.pointer_mut(pointer).unwrap() = wrong.into();
        assert!(matches!(parse(&value), Err(SnapshotError::Json(JsonError::Shape { .. }))), "{pointer}");
    }
    let too_long = vec![b' '; SNAPSHOT_BYTES_MAX + 1];
    assert!(matches!(
        Snapshot::parse(&too_long),
        Err(SnapshotError::Json(JsonError::TooLong { max: SNAPSHOT_BYTES_MAX, .. }))
    ));
}

#[test]
fn a_jwk_keeps_its_text_so_that_whoever_uses_it_sees_doubled_members() {
    let text = r#"{"kty":"EC", "d":"1","d":"2"}"#;
    let jwk = Jwk::from_text(text).unwrap();
    assert_eq!(jwk.as_str(), text);
    let json = serde_json::to_string(&jwk).unwrap();
    assert_eq!(serde_json::from_str::<Jwk>(&json).unwrap(), jwk);
    assert!(matches!(Jwk::from_text("{"), Err(JsonError::Syntax { .. })));
}

/// Text that is nearly JSON, which finds more than bytes at random do.
fn nearly_json() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"name\"",
        "\"password\"",
        "\"format\"",
        "\"critical\"",
        "\"csr\"",
        "\"limit\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "1e999",
        "-1",
        "1",
        "null",
        "true",
        "\"MAA=\"",
        " ",
        "\u{feff}",
        "99999999999999999999",
        "\"spiffe://a/b\"",
        "\"mtls\"",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn read_as_everything(bytes: &[u8]) {
    let _ = from_slice::<Login>(bytes, BODY_BYTES_MAX);
    let _ = from_slice::<NewUser>(bytes, BODY_BYTES_MAX);
    let _ = from_slice::<NewService>(bytes, BODY_BYTES_MAX);
    let _ = from_slice::<NewJoinToken>(bytes, BODY_BYTES_MAX);
    let _ = from_slice::<IssueCertificate>(bytes, BODY_BYTES_MAX);
    let _ = from_slice::<Revoke>(bytes, BODY_BYTES_MAX);
    let _ = from_slice::<PageQuery>(bytes, BODY_BYTES_MAX);
    let _ = from_slice::<AuditQuery>(bytes, BODY_BYTES_MAX);
    let _ = from_slice::<Problem>(bytes, BODY_BYTES_MAX);
    let _ = from_slice::<Status>(bytes, BODY_BYTES_MAX);
    let _ = Snapshot::parse(bytes);
}

proptest! {
    #[test]
    fn no_bytes_make_a_body_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn nothing_that_is_nearly_json_makes_a_body_parser_panic(text in nearly_json()) {
        read_as_everything(text.as_bytes());
    }

    #[test]
    fn no_damage_to_a_snapshot_makes_its_parser_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = snapshot().to_string().into_bytes();
        let at = at.index(bytes.len());
        if let Some(slot) = bytes.get_mut(at) {
            *slot = byte;
        }
        let _ = Snapshot::parse(&bytes);
    }

    #[test]
    fn an_error_message_is_bounded(name in "\\PC{0,2000}") {
        let body = serde_json::json!({ "name": "a", "password": "p", name: 1 }).to_string();
        if let Err(error) = read::<Login>(&body) {
            prop_assert!(error.to_string().len() < 400);
        }
    }
}
