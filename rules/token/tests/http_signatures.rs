//! Signed requests and responses between workloads: what a signature covers, and why one is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{NOW, at, key};
use countersign_identity::{Binding, Bound, SpiffeId, TrustDomain, UnixTime};
use countersign_keys::{KeyPair, SignError, sha256};
use countersign_token::{
    ConfirmationKey, SignatureError, TimeError, Unproven, Wit, WitIssuer,
    http_signature::{
        Answered, FIELD_BYTES_MAX, Head, Request, Response, SIGNATURE_LIFETIME_MAX, SignatureFields,
        SignedRequest, Stamp, content_digest, is_signed, sign_request, sign_response, verify_request,
        verify_request_head, verify_response,
    },
    wit::PROOF_ID_BYTES_MAX,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

#[test]
fn accepts_what_it_signs_and_tells_what_it_is_bound_to() {
    let message = Message::signed();
    let signed = message.verify().unwrap();
    assert_eq!(signed.workload.subject.as_str(), ADS);
    assert_eq!(signed.workload.proof_id, NONCE);
    assert_eq!((signed.workload.proof_issued, signed.workload.proof_expires), (NOW, at(30)));
    assert_eq!(signed.workload.wit_expires, at(3600));
    let bound = [Bound::Target, Bound::MethodAndQuery, Bound::Body];
    assert_eq!(signed.workload.binding, Binding::of(&bound));
    assert_eq!(signed.workload.covers, ["txn-token"]);
    assert!(!signed.sign_response);
    assert!(is_signed(&message.headers) && !is_signed(&HeaderMap::new()));
}

#[test]
fn covers_exactly_what_the_profile_names() {
    let mut message = Message::new();
    for name in ["authorization", "user-token", "x-request-id", "accept"] {
        message.set(name, "a value");
    }
    message.sign();
    let input = message.headers["signature-input"].to_str().unwrap();
    let covered = "wimse=(\"@method\" \"@request-target\" \"content-type\" \"content-digest\" \"authorization\" \
                   \"txn-token\" \"user-token\" \"workload-identity-token\")";
    let parameters = format!(
        ";created={};expires={};nonce=\"{NONCE}\";tag=\"wimse-workload-to-workload\";wimse-aud=\"{AUDIENCE}\"",
        NOW.secs(),
        at(30).secs()
    );
    assert_eq!(input, format!("{covered}{parameters}"));
    assert_eq!(message.verify().unwrap().workload.covers, ["authorization", "txn-token", "user-token"]);
}

#[test]
fn accepts_a_request_without_a_body_and_refuses_one_that_got_a_body() {
    let mut message = Message::new();
    message.body.clear();
    message.headers.remove("content-digest");
    message.headers.remove("content-type");
    message.sign();
    assert!(message.verify().is_ok());
    message.body.push(b'x');
    assert_eq!(message.refused(), SignatureError::NoDigest);
    message.set("content-digest", &content_digest(b"x"));
    assert_eq!(message.refused(), SignatureError::Uncovered { name: "content-digest" });
}

#[test]
fn verifies_a_head_before_its_body_is_there_and_tells_which_body_it_must_be() {
    let digest_of = |message: &Message| {
        let head = Head { method: message.method, target: message.target, headers: &message.headers };
        verify_request_head(&head, AUDIENCE, &message.workload.unproven, NOW).map(|(_, digest)| digest)
    };
    let mut message = Message::signed();
    assert_eq!(digest_of(&message), Ok(sha256(&message.body)));
    message.target = "/";
    assert_eq!(digest_of(&message), Err(SignatureError::BadSignature));

    let mut bodiless = Message::new();
    bodiless.headers.remove("content-digest");
    bodiless.body.clear();
    bodiless.sign();
    assert_eq!(digest_of(&bodiless), Ok(sha256(b"")), "a body that is added later does not fit");

    let short = Forgery::default().digested("sha-256=:AAAA:");
    assert_eq!(digest_of(&short), Err(SignatureError::WrongDigest));
}

#[test]
fn rejects_a_changed_method_query_body_or_token() {
    let changed = |change: fn(&mut Message)| {
        let mut message = Message::signed();
        change(&mut message);
        message.refused()
    };
    assert_eq!(changed(|m| m.method = "PUT"), SignatureError::BadSignature);
    assert_eq!(changed(|m| m.target = "/ads/7?quantity=9"), SignatureError::BadSignature);
    assert_eq!(changed(|m| m.set("txn-token", "another")), SignatureError::BadSignature);
    assert_eq!(changed(|m| m.set("content-type", "text/html")), SignatureError::BadSignature);
    assert_eq!(changed(|m| m.body = b"{\"price\":1}".to_vec()), SignatureError::WrongDigest);
    assert_eq!(
        changed(|m| {
            m.body = b"{\"price\":1}".to_vec();
            m.set("content-digest", &content_digest(b"{\"price\":1}"));
        }),
        SignatureError::BadSignature
    );
}

#[test]
fn rejects_a_token_that_was_added_on_the_way() {
    for name in ["authorization", "user-token"] {
        let mut message = Message::signed();
        message.set(name, "added");
        assert_eq!(message.refused(), SignatureError::Uncovered { name });
    }
}

#[test]
fn rejects_a_request_from_which_a_token_was_removed() {
    let mut message = Message::signed();
    message.headers.remove("txn-token");
    assert_eq!(message.refused(), SignatureError::UnknownComponent { name: "txn-token".into() });
}

#[test]
fn rejects_a_second_value_of_a_covered_field() {
    let mut message = Message::signed();
    message.headers.append("txn-token", HeaderValue::from_static("another"));
    assert_eq!(message.refused(), SignatureError::BadSignature);
}

#[test]
fn rejects_a_request_without_signature() {
    for name in ["signature", "signature-input"] {
        let mut message = Message::signed();
        message.headers.remove(name);
        assert_eq!(message.refused(), SignatureError::NoSignature);
    }
    let mut message = Message::signed();
    message.set("signature", "other=:AAAA:");
    assert_eq!(message.refused(), SignatureError::NoSignature, "under another label");
    message.set("signature", "wimse=(\"a\")");
    assert_eq!(message.refused(), SignatureError::NoSignature, "no bytes");
}

#[test]
fn takes_the_signature_that_is_labelled_wimse_among_several() {
    let mut message = Message::signed();
    for (name, other) in
        [("signature", "proxy=:AAAA:, "), ("signature-input", "proxy=(\"date\");keyid=\"a\", ")]
    {
        let value = message.headers[name].to_str().unwrap().to_owned();
        message.set(name, &format!("{other}{value}"));
    }
    assert!(message.verify().is_ok());
    let mut message = Message::signed();
    for name in ["signature", "signature-input"] {
        let value = message.headers[name].to_str().unwrap().replacen("wimse=", "sig1=", 1);
        message.set(name, &value);
    }
    assert!(message.verify().is_ok(), "the only one may be called anything");
}

#[test]
fn rejects_a_request_without_workload_identity_token() {
    let mut message = Message::signed();
    message.headers.remove("workload-identity-token");
    assert_eq!(message.refused(), SignatureError::NoWit);
}

#[test]
fn rejects_another_wit_than_the_one_that_was_verified() {
    let mut message = Message::signed();
    let other = Workload::new();
    // Somebody else's WIT, verified as it should be, beside a message that carries the first one.
    message.workload.unproven = other.unproven;
    assert_eq!(message.refused(), SignatureError::WrongWit);
}

#[test]
fn rejects_a_signature_by_another_key_than_that_of_the_wit() {
    let mut message = Message::new();
    let own = std::mem::replace(&mut message.workload.key, key());
    message.sign();
    message.workload.key = own;
    assert_eq!(message.refused(), SignatureError::BadSignature);
}

#[test]
fn rejects_a_request_for_another_target() {
    let message = Message::signed();
    let audience = "https://users.test/ads/7";
    let found = verify_request(&message.request(), audience, &message.workload.unproven, NOW);
    assert_eq!(found, Err(SignatureError::WrongAudience { got: AUDIENCE.into() }));
}

#[test]
fn rejects_a_signature_for_something_else() {
    let found = Forgery::default().with("tag", "\"other\"").refused();
    assert_eq!(found, SignatureError::WrongTag { got: "other".into() });
}

#[test]
fn rejects_a_signature_without_a_required_parameter() {
    for name in ["created", "expires", "nonce", "tag", "wimse-aud"] {
        assert_eq!(Forgery::default().without(name).refused(), SignatureError::MissingParameter { name });
    }
}

#[test]
fn rejects_parameters_of_the_wrong_type() {
    for (name, value) in [
        ("created", "\"1800000000\""),
        ("created", "-1"),
        ("created", "1800000000.5"),
        ("expires", "@1800000030"),
        ("nonce", "abc"),
        ("nonce", ":AAAA:"),
        ("tag", "wimse-workload-to-workload"),
        ("wimse-aud", "7"),
        ("wimse-sign-response", "1"),
    ] {
        let found = Forgery::default().with(name, value).refused();
        assert_eq!(found, SignatureError::WrongParameter { name }, "{value}");
    }
}

#[test]
fn rejects_parameters_that_the_profile_forbids_or_does_not_know() {
    for name in ["keyid", "alg", "wimse-req-nonce", "anything"] {
        let found = Forgery::default().with(name, "\"ed25519\"").refused();
        assert_eq!(found, SignatureError::ForbiddenParameter { name: name.into() });
    }
}

#[test]
fn rejects_a_signature_that_does_not_cover_everything() {
    let all = Forgery::default().components;
    for (name, _) in &all {
        let components = all.iter().filter(|(other, _)| other != name).cloned().collect();
        let found = Forgery { components, ..Forgery::default() }.refused();
        assert_eq!(found, SignatureError::Uncovered { name });
    }
}

#[test]
fn rejects_components_that_the_profile_does_not_name() {
    for extra in ["@authority", "@query-param", "accept", "@status", "@METHOD"] {
        let found = Forgery::default().covering(&format!("\"{extra}\"")).refused();
        assert_eq!(found, SignatureError::UnknownComponent { name: extra.into() });
    }
    for (extra, name) in [
        ("\"@method\"", "@method"),
        ("\"@method\";req", "@method"),
        ("\"content-type\";bs", "content-type"),
        ("content-type", ""),
        ("7", ""),
    ] {
        let found = Forgery::default().covering(extra).refused();
        assert_eq!(found, SignatureError::UnknownComponent { name: name.into() }, "{extra}");
    }
    // In place of the plain component, not beside it.
    for parameter in ["bs", "sf", "tr", "key=\"a\"", "req=?0"] {
        let mut forgery = Forgery::default();
        forgery.components.retain(|(name, _)| *name != "content-type");
        let found = forgery.covering(&format!("\"content-type\";{parameter}")).refused();
        assert_eq!(found, SignatureError::UnknownComponent { name: "content-type".into() }, "{parameter}");
    }
}

#[test]
fn rejects_every_spelling_of_a_field_but_the_canonical_one() {
    let message = Message::signed();
    let input = message.headers["signature-input"].to_str().unwrap().to_owned();
    for spelling in [
        input.replace(";nonce=", "; nonce="),
        input.replace(";nonce=", ";nonce=\"first\";nonce="),
        input.replace("(\"@method\"", "( \"@method\""),
        format!("wimse=(), {input}"),
        format!("{input},"),
        input.replace("wimse=(", "wimse=(\""),
        "wimse".into(),
    ] {
        let mut message = Message::signed();
        message.set("signature-input", &spelling);
        let found = message.refused();
        let refused = matches!(
            found,
            SignatureError::Malformed { name: "signature-input" } | SignatureError::NoSignature
        );
        assert!(refused, "{spelling}: {found}");
    }
    let mut message = Message::signed();
    message.set("signature", "wimse=\"AAAA\"");
    assert_eq!(message.refused(), SignatureError::Malformed { name: "signature" });
}

#[test]
fn rejects_a_content_digest_without_sha_256() {
    for digest in ["md5=:AAAA:", "sha-512=:AAAA:", "sha-256=AAAA", "sha-256=:AAA:", "", "sha-256"] {
        let mut message = Message::new();
        message.set("content-digest", digest);
        let found = message.try_sign(NOW, at(30), NONCE).unwrap_err();
        assert_eq!(found, SignatureError::Malformed { name: "content-digest" }, "{digest}");
    }
}

#[test]
fn leaves_other_digests_beside_sha_256_alone() {
    let mut message = Message::new();
    let both = format!("sha-512=:AAAA:, {}", content_digest(&message.body));
    message.set("content-digest", &both);
    message.sign();
    assert!(message.verify().is_ok());
}

#[test]
fn rejects_fields_one_byte_above_the_limit() {
    let long = |bytes: usize| {
        let mut message = Message::signed();
        let value = format!("a=\"{}\"", "x".repeat(bytes - 4));
        message.set("signature-input", &value);
        message.refused()
    };
    assert_ne!(
        long(FIELD_BYTES_MAX),
        SignatureError::TooLong { name: "signature-input", bytes: FIELD_BYTES_MAX }
    );
    let bytes = FIELD_BYTES_MAX + 1;
    assert_eq!(long(bytes), SignatureError::TooLong { name: "signature-input", bytes });
}

#[test]
fn rejects_a_covered_field_that_is_not_ascii() {
    let mut message = Message::signed();
    let value = HeaderValue::from_bytes("größe".as_bytes()).unwrap();
    message.headers.insert("content-type", value);
    assert_eq!(message.refused(), SignatureError::NotText { name: "content-type" });
}

#[test]
fn rejects_an_expired_signature_in_the_second_that_it_expires() {
    let message = Message::signed();
    assert!(message.verify_at(at(29)).is_ok());
    assert_eq!(
        message.verify_at(at(30)).unwrap_err(),
        SignatureError::Times(TimeError::Expired { by_seconds: 0 })
    );
}

#[test]
fn rejects_a_signature_from_the_future() {
    let message = Message::signed();
    assert!(message.verify_at(at(-60)).is_ok(), "as much as honest clocks differ");
    assert_eq!(
        message.verify_at(at(-61)).unwrap_err(),
        SignatureError::Times(TimeError::NotYetValid { in_seconds: 61 })
    );
}

#[test]
fn rejects_a_signature_that_lives_too_long_to_be_remembered_or_not_at_all() {
    let expiring = |seconds| Forgery::default().with("expires", &at(seconds).secs().to_string());
    assert!(expiring(60).verify().is_ok());
    assert_eq!(expiring(61).refused(), too_long(61));
    let backwards = Forgery::default().with("created", &at(30).secs().to_string());
    assert_eq!(backwards.refused(), too_long(0));
}

#[test]
fn rejects_a_signature_whose_wit_has_expired_in_the_cache() {
    let mut message = Message::new();
    message.workload = Workload::until(at(10));
    let wit = message.workload.wit.clone();
    message.set("workload-identity-token", &wit);
    message.sign();
    assert!(message.verify_at(at(9)).is_ok());
    assert_eq!(message.verify_at(at(10)).unwrap_err(), SignatureError::WitExpired { by_seconds: 0 });
}

#[test]
fn rejects_a_nonce_that_is_empty_or_too_long() {
    let with = |nonce: &str| Forgery::default().with("nonce", &format!("\"{nonce}\""));
    assert!(with(&"n".repeat(PROOF_ID_BYTES_MAX)).verify().is_ok());
    let bytes = PROOF_ID_BYTES_MAX + 1;
    assert_eq!(with(&"n".repeat(bytes)).refused(), SignatureError::Nonce { bytes });
    assert_eq!(with("").refused(), SignatureError::Nonce { bytes: 0 });
}

#[test]
fn does_not_sign_what_it_would_refuse() {
    let message = Message::new();
    assert_eq!(message.try_sign(NOW, at(30), ""), Err(SignatureError::Nonce { bytes: 0 }));
    assert_eq!(message.try_sign(NOW, NOW, NONCE), Err(too_long(0)));
    assert_eq!(SIGNATURE_LIFETIME_MAX.as_secs(), 60);
    assert_eq!(message.try_sign(NOW, at(61), NONCE), Err(too_long(61)));
    assert_eq!(message.try_sign(NOW, at(30), "größe"), Err(SignatureError::WrongParameter { name: "nonce" }));
    let mut undigested = Message::new();
    undigested.headers.remove("content-digest");
    assert_eq!(undigested.try_sign(NOW, at(30), NONCE), Err(SignatureError::NoDigest));
    let mut wrong = Message::new();
    wrong.set("content-digest", &content_digest(b"another body"));
    assert_eq!(wrong.try_sign(NOW, at(30), NONCE), Err(SignatureError::WrongDigest));
    let mut nameless = Message::new();
    nameless.headers.remove("workload-identity-token");
    assert_eq!(nameless.try_sign(NOW, at(30), NONCE), Err(SignatureError::NoWit));
}

#[test]
fn a_failure_to_sign_is_passed_on() {
    assert_eq!(SignatureError::from(SignError::Failed), SignatureError::Sign(SignError::Failed));
}

#[test]
fn a_caller_may_demand_a_signed_response() {
    let mut message = Message::new();
    let stamp = Stamp { nonce: NONCE, created: NOW, expires: at(30) };
    let fields = sign_request(&message.workload.key, &message.request(), AUDIENCE, true, &stamp).unwrap();
    assert!(fields.signature_input.ends_with(";wimse-sign-response"));
    message.put(&fields);
    assert!(message.verify().unwrap().sign_response);
}

#[test]
fn a_signed_response_is_bound_to_its_request() {
    let response = Answer::signed();
    let workload = response.verify(&ANSWERED).unwrap();
    assert_eq!(workload.subject.as_str(), ADS);
    assert_eq!(workload.proof_id, "response nonce");
    let refused = |answered| response.verify(&answered).unwrap_err();
    assert_eq!(refused(Answered { nonce: "another", ..ANSWERED }), SignatureError::WrongRequest);
    assert_eq!(refused(Answered { method: "GET", ..ANSWERED }), SignatureError::BadSignature);
    assert_eq!(refused(Answered { target: "/ads/8", ..ANSWERED }), SignatureError::BadSignature);
}

#[test]
fn rejects_a_response_whose_status_or_body_was_changed() {
    let mut response = Answer::signed();
    response.status = 201;
    assert_eq!(response.refused(), SignatureError::BadSignature);
    let mut response = Answer::signed();
    response.body.push(b'!');
    assert_eq!(response.refused(), SignatureError::WrongDigest);
    response.headers.remove("content-digest");
    assert_eq!(response.refused(), SignatureError::UnknownComponent { name: "content-digest".into() });
}

#[test]
fn rejects_a_response_without_the_signature_that_is_required() {
    let mut response = Answer::signed();
    response.headers.remove("signature");
    response.headers.remove("signature-input");
    assert_eq!(response.refused(), SignatureError::NoSignature);
}

#[test]
fn rejects_the_signature_of_a_request_in_a_response() {
    let (request, mut response) = (Message::signed(), Answer::signed());
    for name in ["signature", "signature-input"] {
        response.headers.insert(name, request.headers[name].clone());
    }
    assert_eq!(response.refused(), SignatureError::ForbiddenParameter { name: "wimse-aud".into() });
}

proptest! {
    #[test]
    fn any_fields_are_judged_without_a_panic(
        input in "(wimse=)?\\(?(\"[@a-z-]{0,8}\"(;req)? ?){0,3}\\)?(;[a-z-]{0,8}(=(\"[ -~]{0,5}\"|[0-9]{0,20}|\\?1))?){0,4}",
        signature in "(wimse=)?:?[A-Za-z0-9+/=]{0,20}:?", digest in "[ -~]{0,30}"
    ) {
        let mut message = Message::new();
        message.set("signature-input", &input);
        message.set("signature", &signature);
        message.set("content-digest", &digest);
        prop_assert!(message.verify().is_err());
    }

    #[test]
    fn any_bytes_in_the_fields_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            for name in ["signature-input", "signature", "content-digest", "workload-identity-token"] {
                let mut message = Message::signed();
                message.headers.insert(name, value.clone());
                prop_assert!(message.verify().is_err());
            }
        }
    }
}

const ADS: &str = "spiffe://fleamarket.test/svc/ads";
const AUDIENCE: &str = "https://ads.test/ads/7";
const NONCE: &str = "Zm9ydHktdHdvIGJ5dGVz";
const ANSWERED: Answered<'static> = Answered { method: "POST", target: "/ads/7?quantity=1", nonce: NONCE };

fn too_long(seconds: u64) -> SignatureError {
    SignatureError::Times(TimeError::Lifetime { seconds, max: 60 })
}

/// A workload with its WIT.
struct Workload {
    key: KeyPair,
    wit: String,
    unproven: Unproven,
}

impl Workload {
    fn new() -> Self {
        Self::until(at(3600))
    }

    fn until(expires: UnixTime) -> Self {
        let (issuer, workload) = (key(), key());
        let wit = Wit {
            subject: ADS.parse::<SpiffeId>().unwrap(),
            confirmation: ConfirmationKey::new(workload.public_key().clone()),
            token_id: None,
            issuer: None,
            expires,
        };
        let wit = wit.mint(&issuer, NOW).unwrap();
        let issuer = WitIssuer {
            kid: issuer.public_key().thumbprint(),
            key: issuer.public_key().clone(),
            trust_domain: TrustDomain::parse("fleamarket.test").unwrap(),
            issuer: None,
        };
        let unproven = Wit::verify(&wit, NOW, |_| Some(issuer)).unwrap();
        Self { key: workload, wit, unproven }
    }
}

/// A request of a workload.
struct Message {
    workload: Workload,
    method: &'static str,
    target: &'static str,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Message {
    fn new() -> Self {
        let (workload, body) = (Workload::new(), b"{\"price\":700}".to_vec());
        let mut message =
            Self { workload, method: "POST", target: "/ads/7?quantity=1", headers: HeaderMap::new(), body };
        message.set("content-type", "application/json");
        message.set("content-digest", &content_digest(&message.body));
        message.set("txn-token", "a.b.c");
        message.set("workload-identity-token", &message.workload.wit.clone());
        message
    }

    fn signed() -> Self {
        let mut message = Self::new();
        message.sign();
        message
    }

    fn sign(&mut self) {
        let fields = self.try_sign(NOW, at(30), NONCE).unwrap();
        self.put(&fields);
    }

    fn try_sign(
        &self,
        created: UnixTime,
        expires: UnixTime,
        nonce: &str,
    ) -> Result<SignatureFields, SignatureError> {
        let stamp = Stamp { nonce, created, expires };
        sign_request(&self.workload.key, &self.request(), AUDIENCE, false, &stamp)
    }

    fn put(&mut self, fields: &SignatureFields) {
        self.set("signature-input", &fields.signature_input);
        self.set("signature", &fields.signature);
    }

    fn set(&mut self, name: &str, value: &str) {
        let name: HeaderName = name.parse().unwrap();
        self.headers.insert(name, HeaderValue::from_str(value).unwrap());
    }

    fn request(&self) -> Request<'_> {
        Request { method: self.method, target: self.target, headers: &self.headers, body: &self.body }
    }

    fn verify(&self) -> Result<SignedRequest, SignatureError> {
        self.verify_at(NOW)
    }

    fn verify_at(&self, now: UnixTime) -> Result<SignedRequest, SignatureError> {
        verify_request(&self.request(), AUDIENCE, &self.workload.unproven, now)
    }

    fn refused(&self) -> SignatureError {
        self.verify().unwrap_err()
    }
}

/// A signature made by hand: properly signed, whatever it says.
struct Forgery {
    message: Message,
    /// Name, and value where it is not that of a field.
    components: Vec<(&'static str, Option<&'static str>)>,
    extra: String,
    parameters: Vec<(String, String)>,
}

impl Default for Forgery {
    fn default() -> Self {
        let parameters = [
            ("created", NOW.secs().to_string()),
            ("expires", at(30).secs().to_string()),
            ("nonce", format!("\"{NONCE}\"")),
            ("tag", "\"wimse-workload-to-workload\"".into()),
            ("wimse-aud", format!("\"{AUDIENCE}\"")),
        ];
        Self {
            message: Message::new(),
            components: vec![
                ("@method", Some("POST")),
                ("@request-target", Some("/ads/7?quantity=1")),
                ("content-type", None),
                ("content-digest", None),
                ("txn-token", None),
                ("workload-identity-token", None),
            ],
            extra: String::new(),
            parameters: parameters.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        }
    }
}

impl Forgery {
    fn with(mut self, name: &str, value: &str) -> Self {
        match self.parameters.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.parameters.push((name.into(), value.into())),
        }
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.parameters.retain(|(other, _)| other != name);
        self
    }

    fn covering(mut self, extra: &str) -> Self {
        self.extra = format!(" {extra}");
        self
    }

    /// The message with another `Content-Digest`, and signed.
    fn digested(mut self, digest: &str) -> Message {
        self.message.set("content-digest", digest);
        self.signed()
    }

    fn signed(mut self) -> Message {
        let names: Vec<String> = self.components.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let parameters: String =
            self.parameters.iter().map(|(name, value)| format!(";{name}={value}")).collect();
        let input = format!("({}{}){parameters}", names.join(" "), self.extra);
        let mut base = String::new();
        for (name, value) in &self.components {
            let value = value.unwrap_or_else(|| self.message.headers[*name].to_str().unwrap());
            base += &format!("\"{name}\": {value}\n");
        }
        base += &format!("\"@signature-params\": {input}");
        let signature = self.message.workload.key.sign_raw(base.as_bytes()).unwrap();
        self.message.set("signature-input", &format!("wimse={input}"));
        self.message.set("signature", &format!("wimse=:{}:", STANDARD.encode(signature)));
        self.message
    }

    fn verify(self) -> Result<SignedRequest, SignatureError> {
        self.signed().verify()
    }

    fn refused(self) -> SignatureError {
        self.verify().unwrap_err()
    }
}

/// A response of a workload.
struct Answer {
    workload: Workload,
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn signed() -> Self {
        let (workload, body) = (Workload::new(), b"sold".to_vec());
        let mut headers = HeaderMap::new();
        headers.insert("content-digest", content_digest(&body).parse().unwrap());
        headers.insert("workload-identity-token", workload.wit.parse().unwrap());
        let mut answer = Self { workload, status: 200, headers, body };
        let stamp = Stamp { nonce: "response nonce", created: NOW, expires: at(30) };
        let fields = sign_response(&answer.workload.key, &answer.response(), &ANSWERED, &stamp).unwrap();
        answer.headers.insert("signature-input", fields.signature_input.parse().unwrap());
        answer.headers.insert("signature", fields.signature.parse().unwrap());
        answer
    }

    fn response(&self) -> Response<'_> {
        Response { status: self.status, headers: &self.headers, body: &self.body }
    }

    fn verify(&self, answered: &Answered<'_>) -> Result<countersign_token::ProvenWorkload, SignatureError> {
        let proven = verify_response(&self.response(), answered, &self.workload.unproven, NOW)?;
        Ok(proven.into_inner())
    }

    fn refused(&self) -> SignatureError {
        self.verify(&ANSWERED).unwrap_err()
    }
}
