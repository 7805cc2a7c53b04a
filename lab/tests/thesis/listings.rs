//! Listings 5.2 and 5.3, and the token of figure 5.2.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::UnixTime;
use countersign_keys::{KeyPair, SystemRandom};
use countersign_lab::thesis::{
    ClosedPki, ClosedPkiError, ISSUERS_MAX, JwtValidationService, TokenCreatorService,
    TokenValidationService, sha1_thumbprint, subject, system_clock,
    token::{Claims, Header, parse},
};

use crate::rig::{SERVICE1, SERVICE2, cast, creator, token, trust_domain};

const FIGURE_HEADER: &str = r#"{"alg":"RS256","kid":"F01DE50B55935ACED9CC77BF4E2696EC9181B969","typ":"JWT"}"#;
const FIGURE_PAYLOAD: &str =
    r#"{"nbf":1645525923,"exp":1645526223,"iss":"service1.swapindo.com","aud":"service2.swapindo.com"}"#;

fn part(token: &str, at: usize) -> String {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap()).unwrap()
}

#[test]
fn listing_5_3_makes_exactly_the_token_of_figure_5_2() {
    let at_the_figures_time = Arc::new(|| UnixTime::from_secs(1_645_525_923));
    let made = creator(&cast().service1, at_the_figures_time).create_token(SERVICE2).unwrap();
    let kid = sha1_thumbprint(&cast().service1.chain[0]);
    assert!(kid.len() == 40 && kid.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')), "{kid}");
    let figure = FIGURE_HEADER.replace("F01DE50B55935ACED9CC77BF4E2696EC9181B969", &kid);
    assert_eq!(part(&made, 0), figure);
    assert_eq!(part(&made, 1), FIGURE_PAYLOAD);
    assert_eq!(
        URL_SAFE_NO_PAD.decode(made.rsplit('.').next().unwrap()).unwrap().len(),
        256,
        "RSA of 2048 bits"
    );
}

#[test]
fn the_thumbprint_is_what_openssl_calls_the_sha_1_fingerprint() {
    let certificate = &cast().service1.chain[0];
    let mut openssl = Command::new("openssl")
        .args(["x509", "-inform", "DER", "-noout", "-fingerprint", "-sha1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    openssl.stdin.take().unwrap().write_all(certificate).unwrap();
    let openssl = openssl.wait_with_output().unwrap();
    let said = String::from_utf8(openssl.stdout).unwrap();
    assert_eq!(said.trim().rsplit('=').next().unwrap().replace(':', ""), sha1_thumbprint(certificate));
}

#[test]
fn the_figures_own_header_and_payload_are_read_as_they_stand() {
    let made =
        [FIGURE_HEADER, FIGURE_PAYLOAD, "signature"].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let read = parse(&made).unwrap();
    let kid = "F01DE50B55935ACED9CC77BF4E2696EC9181B969".to_owned();
    assert_eq!(read.header, Header { alg: "RS256".into(), kid, typ: "JWT".into() });
    let claims =
        Claims { nbf: 1_645_525_923, exp: 1_645_526_223, iss: SERVICE1.into(), aud: SERVICE2.into() };
    assert_eq!(read.claims, claims);
    assert_eq!(read.claims.exp - read.claims.nbf, 300);
}

#[test]
fn rejects_tokens_of_any_other_form() {
    let of = |header: &str, payload: &str| {
        [header, payload, "signature"].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
    };
    assert!(parse(&of(FIGURE_HEADER, FIGURE_PAYLOAD)).is_some());
    for header in [
        FIGURE_HEADER.replace("RS256", "none"),
        FIGURE_HEADER.replace("RS256", "HS256"),
        FIGURE_HEADER.replace("JWT", "at+jwt"),
        FIGURE_HEADER.replace(r#""typ""#, r#""alg":"RS256","typ""#),
        FIGURE_HEADER.replace(r#""typ""#, r#""jku":"https://evil.test","typ""#),
        "[]".to_owned(),
    ] {
        assert_eq!(parse(&of(&header, FIGURE_PAYLOAD)), None, "{header}");
    }
    for payload in [
        FIGURE_PAYLOAD.replace(r#""nbf":1645525923,"#, ""),
        FIGURE_PAYLOAD.replace("1645526223", r#""1645526223""#),
        FIGURE_PAYLOAD.replace(r#""service2.swapindo.com""#, r#"["service2.swapindo.com"]"#),
        FIGURE_PAYLOAD.replace(r#""aud""#, r#""sub":"alice","aud""#),
    ] {
        assert_eq!(parse(&of(FIGURE_HEADER, &payload)), None, "{payload}");
    }
    for text in ["", "a.b", "....", &format!("{}=", of(FIGURE_HEADER, FIGURE_PAYLOAD)), &"a".repeat(9000)] {
        assert_eq!(parse(text), None);
    }
}

#[test]
fn listing_5_2_has_four_operations_and_they_do_what_their_names_say() {
    let (cast, clock) = (cast(), system_clock());
    let service2 = JwtValidationService::new(SERVICE2.to_owned(), clock.clone());
    let made = token(&cast.service1, SERVICE2, clock.clone());
    assert!(!service2.contains_issuer_in_truststore(SERVICE1));
    assert!(!service2.validate_token_with_truststore(&made), "an unknown issuer's token is not valid");

    assert!(service2.put_into_truststore(&cast.service1.chain[0]));
    assert!(service2.contains_issuer_in_truststore(SERVICE1));
    assert!(!service2.contains_issuer_in_truststore(SERVICE2));
    assert!(service2.validate_token_with_truststore(&made));
    assert!(service2.validate_token_of_issuer_with_truststore(&made, SERVICE1));

    // This is what the second overload is for, and what Algorithm 5.1 does not ask.
    assert!(service2.put_into_truststore(&cast.service3.chain[0]));
    assert!(!service2.validate_token_of_issuer_with_truststore(&made, &cast.service3.name));
    let tampered = made.replace(made.rsplit('.').next().unwrap(), &URL_SAFE_NO_PAD.encode([1; 256]));
    assert!(!service2.validate_token_with_truststore(&tampered));
}

#[test]
fn a_certificate_without_an_rsa_key_cannot_be_put_into_the_trust_store() {
    let service2 = JwtValidationService::new(SERVICE2.to_owned(), system_clock());
    assert!(!service2.put_into_truststore(&cast().service1_p256.chain[0]));
    assert!(!service2.put_into_truststore(&vec![0x30, 0].into()));
    assert!(!service2.contains_issuer_in_truststore(SERVICE1));
    assert_eq!(subject(&cast().service1_p256.chain[0]).as_deref(), Some(SERVICE1));
}

#[test]
fn the_trust_store_takes_as_many_issuers_as_its_limit_and_no_more() {
    let service2 = JwtValidationService::new(SERVICE2.to_owned(), system_clock());
    let (pki, key) = (&cast().pki, &cast().service1.key);
    let now = countersign_sdk::clock::now();
    let mut certificates = (0..=ISSUERS_MAX).map(|number| {
        let label = format!("service-{number}");
        pki.certify(&label, key.clone(), now, std::time::Duration::from_secs(60)).unwrap()
    });
    assert!(certificates.by_ref().take(ISSUERS_MAX).all(|one| service2.put_into_truststore(&one.chain[0])));
    let one_past = certificates.next().unwrap();
    assert!(!service2.put_into_truststore(&one_past.chain[0]));
    let known = pki.certify("service-0", key.clone(), now, std::time::Duration::from_secs(60)).unwrap();
    assert!(
        service2.put_into_truststore(&known.chain[0]),
        "a known subject's next certificate takes no more room"
    );
}

#[test]
fn the_closed_pki_certifies_services_under_names_of_its_own_only() {
    let now = countersign_sdk::clock::now();
    let pki = ClosedPki::new(trust_domain(), now).unwrap();
    let key = KeyPair::generate(&SystemRandom::new()).unwrap();
    let life = std::time::Duration::from_secs(60);
    assert!(pki.certify("ads", key.clone(), now, life).is_ok());
    for name in ["", "Ads", "a/b", "a b"] {
        let refused = pki.certify(name, key.clone(), now, life).map(|_| ());
        assert_eq!(refused, Err(ClosedPkiError::Name { name: name.to_owned() }));
    }
    let never = UnixTime::from_millis(i64::MAX);
    assert_eq!(ClosedPki::new(trust_domain(), never).map(|_| ()), Err(ClosedPkiError::Failed));
    assert_eq!(pki.trust_domain(), &trust_domain());
}
