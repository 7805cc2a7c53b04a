//! Fuzz targets: one for every kind of token, one for each parser below them, and one for each side of HTTP/1.
//!
//! A target takes any bytes and panics when a rule is broken:
//!
//! - no parser panics, whatever it reads;
//! - a good token with anything changed is never accepted (the samples of the benchmarks);
//! - claims of any form, properly signed, are judged without a panic;
//! - whatever a macaroon's readers accept is written back as the same macaroon;
//! - whatever is read as a request or a response is written as exactly one message that is read as the same.
//!
//! Two drivers run them. `cargo test -p countersign-fuzz` changes good tokens in a few thousand ways, the same ones each time.
//! `cargo xtask fuzz TARGET` lets libFuzzer look for new ones, guided by which branches they reach; it needs a C++ compiler and
//! works with the toolchain that builds everything else.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::panic, reason = "a fuzz target breaks by panicking")]

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_token::macaroon::{
    MACAROON_BYTES_MAX, Macaroon, MacaroonName, Predicate, binary, format, json, packets,
};
use countersign_token::{TokenKind, jws};

mod http1;
mod ledger;
#[path = "../../rules/token/tests/common/samples.rs"]
mod samples;

use samples::Sample;

/// What a fuzzer runs.
pub struct Target {
    /// What it is called on the command line: a kind of token, or a parser.
    pub name: &'static str,
    /// Good input to start from.
    pub seeds: Vec<Vec<u8>>,
    run: Run,
}

type Run = Box<dyn Fn(&[u8]) + Send + Sync>;

impl Target {
    /// Judges any bytes.
    ///
    /// # Panics
    /// A rule is broken.
    pub fn run(&self, data: &[u8]) {
        (self.run)(data);
    }
}

/// Every target.
pub static TARGETS: LazyLock<Vec<Target>> = LazyLock::new(|| {
    let mut targets: Vec<Target> = samples::all().into_iter().map(kind).collect();
    let seeds_of = |name: &str| {
        let found = targets.iter().find(|target| target.name == name);
        found.map(|target| target.seeds.clone()).unwrap_or_default()
    };
    let parsers = [
        parser("jws", seeds_of("service-token"), compact_jws),
        parser("macaroon-format", macaroons(), macaroon_format),
        parser("macaroon-caveat", caveats(), caveat),
        parser("allowed-calls", ledger::batches(), ledger::batch),
        parser("http1-request", http1::requests(), http1::request),
        parser("http1-response", http1::responses(), http1::response),
    ];
    targets.extend(parsers);
    targets
});

/// A token of one kind. Input that begins with a brace becomes the claims of a token that is properly signed; everything else
/// comes in place of a good token.
fn kind(sample: Sample) -> Target {
    assert!((sample.accepts)(&sample.text), "{}: the sample is not good", sample.kind);
    let claims = sample
        .text
        .split('.')
        .nth(1)
        .and_then(|payload| sample.sign.as_ref().and_then(|_| URL_SAFE_NO_PAD.decode(payload).ok()));
    let seeds = std::iter::once(sample.text.clone().into_bytes()).chain(claims).collect();
    // Structured fields have several spellings of one value (RFC 9651 section 4.2), and the signature covers the value.
    let (name, one_spelling) = (sample.kind, sample.kind != "http-signature");
    let run = move |data: &[u8]| match (&sample.sign, data.first()) {
        // Whether it is accepted is for the tests of its kind: any claims may happen to be good ones.
        (Some(sign), Some(b'{')) => {
            (sample.accepts)(&sign(data));
        }
        _ => {
            let Ok(text) = std::str::from_utf8(data) else { return };
            let accepted = (sample.accepts)(text);
            assert!(!accepted || !one_spelling || text == sample.text, "{name}: accepted {text:?}");
        }
    };
    Target { name, seeds, run: Box::new(run) }
}

fn parser(name: &'static str, seeds: Vec<Vec<u8>>, run: fn(&[u8])) -> Target {
    Target { name, seeds, run: Box::new(run) }
}

fn compact_jws(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = jws::claimed_typ(text);
    let fitting = TokenKind::ALL.into_iter().filter(|kind| jws::parse_as(*kind, text).is_ok()).count();
    assert!(fitting <= 1, "read as {fitting} kinds: {text:?}");
}

fn macaroon_format(data: &[u8]) {
    if let Ok(macaroon) = packets::read(data) {
        assert_eq!(packets::write(&macaroon).as_slice(), data, "one spelling only");
    }
    let Ok(macaroon) = format::read_any(data) else { return };
    // What is short in one form may be too long in another.
    let fits = |written: &[u8]| written.len() <= MACAROON_BYTES_MAX;
    let (v1, v2, text) = (packets::write(&macaroon), binary::write(&macaroon), json::write(&macaroon));
    assert!(!fits(&v1) || packets::read(&v1).as_ref() == Ok(&macaroon));
    assert!(!fits(&v2) || binary::read(&v2).as_ref() == Ok(&macaroon));
    assert!(!fits(text.as_bytes()) || json::read(text.as_bytes()).as_ref() == Ok(&macaroon));
}

fn caveat(data: &[u8]) {
    if let Ok(predicate) = Predicate::parse(data) {
        assert_eq!(predicate.to_string().as_bytes(), data, "one spelling only");
    }
    if let Ok(name) = MacaroonName::parse(data) {
        assert_eq!(MacaroonName::parse(name.to_string().as_bytes()), Ok(name));
    }
}

/// One macaroon with every kind of field, in all three forms.
fn macaroons() -> Vec<Vec<u8>> {
    let key = countersign_token::macaroon::RootKey::derive(b"secret");
    let narrowed = Macaroon::mint("http://example.org/", b"keyid", &key)
        .and_then(|macaroon| macaroon.attenuate("account = 7"))
        .and_then(|macaroon| {
            macaroon.attenuate_third_party("http://auth.example.org/", &key, b"\xff", [1; 24])
        });
    let macaroon = narrowed.expect("a good macaroon");
    vec![packets::write(&macaroon), binary::write(&macaroon), json::write(&macaroon).into_bytes()]
}

fn caveats() -> Vec<Vec<u8>> {
    let texts = [
        "aud = spiffe://td/svc/ads",
        "path-under = /ads/",
        "before = 1900000000",
        "body-sha256 = 47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU",
        "1 k1 spiffe://td/svc/ads BwcHBwcHBwcHBwcHBwcHBw",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
