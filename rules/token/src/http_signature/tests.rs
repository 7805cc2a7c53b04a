#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
//! The examples of the draft. Their WITs are signed by a key that nobody published, so what the issuer said is
//! taken for granted here; everything that the workloads signed is verified.

use super::*;
use crate::WorkloadUri;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

#[test]
fn verifies_the_signed_request_of_the_draft() {
    let Some(example) = Example::read("sigs-request.txt") else { return };
    let signed = example.verify_request(AUDIENCE, at(0)).unwrap();
    assert_eq!(signed.workload.subject.as_str(), "wimse://example.com/svcA");
    assert!(signed.sign_response);
    assert_eq!(signed.workload.proof_id, "abcd1111");
    assert_eq!((signed.workload.proof_issued, signed.workload.proof_expires), (at(0), at(300)));
    let bound = [Bound::Target, Bound::MethodAndQuery, Bound::Body];
    assert_eq!(signed.workload.binding, Binding::of(&bound));
}

#[test]
fn verifies_the_signed_response_of_the_draft() {
    let Some(example) = Example::read("sigs-response.txt") else { return };
    let workload = example.verify_response(&ANSWERED, at(0)).unwrap();
    assert_eq!(workload.subject.as_str(), "wimse://example.com/svcB");
    assert_eq!(workload.proof_id, "abcd2222");
}

#[test]
fn signs_the_messages_of_the_draft_to_the_byte() {
    let (Some(request), Some(response)) =
        (Example::read("sigs-request.txt"), Example::read("sigs-response.txt"))
    else {
        return;
    };
    // The private keys are published, and Ed25519 leaves nothing to chance.
    let stamp = Stamp { nonce: "abcd1111", created: at(0), expires: at(300) };
    let parameters = Parameters { audience: Some(AUDIENCE), sign_response: true, request_nonce: None, stamp };
    let made = write(&key("sigs-svca-jwk.txt"), &Message::Request(&request.request()), &parameters).unwrap();
    assert_eq!(made, request.signature());

    let stamp = Stamp { nonce: "abcd2222", created: at(0), expires: at(302) };
    let request_nonce = Some(ANSWERED.nonce);
    let parameters = Parameters { audience: None, sign_response: false, request_nonce, stamp };
    let message = response.response();
    let made =
        write(&key("sigs-svcb-jwk.txt"), &Message::Response(&message, &ANSWERED), &parameters).unwrap();
    assert_eq!(made, response.signature());
}

#[test]
fn refuses_every_change_of_the_request_of_the_draft() {
    let Some(example) = Example::read("sigs-request.txt") else { return };
    let refused = |change: fn(&mut Example)| {
        let mut changed = example.clone();
        change(&mut changed);
        changed.verify_request(AUDIENCE, at(0)).unwrap_err()
    };
    assert_eq!(refused(|e| e.line[0] = "POST".into()), SignatureError::BadSignature);
    assert_eq!(refused(|e| e.line[1] = "/gimme-ice-cream?flavor=lemon".into()), SignatureError::BadSignature);
    assert_eq!(
        refused(|e| e.set("authorization", "Bearer a")),
        SignatureError::Uncovered { name: "authorization" }
    );
    assert_eq!(refused(|e| e.set("txn-token", "a.b.c")), SignatureError::Uncovered { name: "txn-token" });
    assert_eq!(refused(|e| e.set("content-type", "a/b")), SignatureError::Uncovered { name: "content-type" });
    assert_eq!(refused(|e| e.body.push(b'a')), SignatureError::NoDigest);
    let spelled = |what: &'static str, with: &'static str| {
        let mut changed = example.clone();
        let input = changed.signature().signature_input;
        assert!(input.contains(what));
        changed.set(SIGNATURE_INPUT, &input.replace(what, with));
        changed.verify_request(AUDIENCE, at(0)).unwrap_err()
    };
    assert_eq!(spelled("nonce=\"abcd1111\"", "nonce=\"abcd1112\""), SignatureError::BadSignature);
    assert_eq!(spelled("created=1785155797", "created=1785155798"), SignatureError::BadSignature);
    assert_eq!(spelled("expires=1785156097", "expires=1785156098"), SignatureError::BadSignature);
    assert_eq!(spelled(";wimse-sign-response", ""), SignatureError::BadSignature);
    let other = example.verify_request("https://svcc.example.com/gimme-ice-cream", at(0)).unwrap_err();
    assert_eq!(other, SignatureError::WrongAudience { got: AUDIENCE.into() });
    let late = example.verify_request(AUDIENCE, at(300)).unwrap_err();
    assert_eq!(late, SignatureError::Times(TimeError::Expired { by_seconds: 0 }));
}

#[test]
fn refuses_every_change_of_the_response_of_the_draft() {
    let Some(example) = Example::read("sigs-response.txt") else { return };
    let refused = |change: fn(&mut Example)| {
        let mut changed = example.clone();
        change(&mut changed);
        changed.verify_response(&ANSWERED, at(0)).unwrap_err()
    };
    assert_eq!(refused(|e| e.line[1] = "200".into()), SignatureError::BadSignature);
    assert_eq!(refused(|e| e.body.push(b'a')), SignatureError::WrongDigest);
    assert_eq!(refused(|e| e.set("content-type", "text/html")), SignatureError::BadSignature);
    let answered = |answered| example.verify_response(&answered, at(0)).unwrap_err();
    assert_eq!(answered(Answered { method: "POST", ..ANSWERED }), SignatureError::BadSignature);
    assert_eq!(answered(Answered { target: "/", ..ANSWERED }), SignatureError::BadSignature);
    assert_eq!(answered(Answered { nonce: "abcd1112", ..ANSWERED }), SignatureError::WrongRequest);
}

#[test]
fn reads_the_wit_svid_of_the_spiffe_standard() {
    let path = countersign_testkit::vectors("spiffe/standards/WIT-SVID.md");
    let Some(text) = path.map(|path| std::fs::read_to_string(path).unwrap()) else { return };
    let token = text.split("Signed JWT: `").nth(1).unwrap().split('`').next().unwrap();
    let unproven = Unproven::<SpiffeId>::of_unknown_issuer(token);
    assert_eq!(unproven.claimed_subject().as_str(), "spiffe://example.com/my-workload");
    assert_eq!(unproven.token_id(), Some("1yj19V4McOAzMcFi7qvsg_AgCxlrY5E_x509wlKKQtc"));
    assert_eq!(unproven.confirmation().alg(), "ES256");
}

const AUDIENCE: &str = "https://svcb.example.com/gimme-ice-cream";
const ANSWERED: Answered<'static> =
    Answered { method: "GET", target: "/gimme-ice-cream?flavor=vanilla", nonce: "abcd1111" };

/// So many seconds after the examples were made.
fn at(seconds: i64) -> UnixTime {
    UnixTime::from_secs(1_785_155_797 + seconds)
}

/// A message of the draft: the three parts of its first line, its head and its body.
#[derive(Clone)]
struct Example {
    line: [String; 3],
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Example {
    fn read(name: &str) -> Option<Self> {
        let text = std::fs::read_to_string(countersign_testkit::vectors(&format!("wimse/{name}"))?).unwrap();
        let (head, body) = text.split_once("\n\n").unwrap();
        let mut lines = head.lines();
        let line: Vec<String> = lines.next().unwrap().splitn(3, ' ').map(str::to_owned).collect();
        let mut example =
            Self { line: line.try_into().unwrap(), headers: HeaderMap::new(), body: Vec::new() };
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            example.set(name, value);
        }
        if example.line[0].starts_with("HTTP/") {
            body.as_bytes().clone_into(&mut example.body);
        }
        Some(example)
    }

    fn set(&mut self, name: &str, value: &str) {
        let name: HeaderName = name.parse().unwrap();
        self.headers.insert(name, HeaderValue::from_str(value).unwrap());
    }

    fn request(&self) -> Request<'_> {
        Request { method: &self.line[0], target: &self.line[1], headers: &self.headers, body: &self.body }
    }

    fn response(&self) -> Response<'_> {
        Response { status: self.line[1].parse().unwrap(), headers: &self.headers, body: &self.body }
    }

    fn wit(&self) -> Unproven<WorkloadUri> {
        Unproven::of_unknown_issuer(self.headers[base::WIT].to_str().unwrap())
    }

    fn verify_request(
        &self,
        audience: &str,
        now: UnixTime,
    ) -> Result<SignedRequest<WorkloadUri>, SignatureError> {
        verify_request(&self.request(), audience, &self.wit(), now)
    }

    fn verify_response(
        &self,
        answered: &Answered<'_>,
        now: UnixTime,
    ) -> Result<Verified<ProvenWorkload<WorkloadUri>>, SignatureError> {
        verify_response(&self.response(), answered, &self.wit(), now)
    }

    fn signature(&self) -> SignatureFields {
        let value = |name: &str| self.headers[name].to_str().unwrap().to_owned();
        SignatureFields { signature_input: value(SIGNATURE_INPUT), signature: value(SIGNATURE) }
    }
}

fn key(name: &str) -> KeyPair {
    let path = countersign_testkit::vectors(&format!("wimse/{name}")).unwrap();
    let jwk: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let seed = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(jwk["d"].as_str().unwrap()).unwrap();
    // RFC 8410 section 7: an Ed25519 key in PKCS#8 is this and the seed.
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    KeyPair::from_token_pkcs8(&[&prefix[..], &seed].concat()).unwrap()
}
