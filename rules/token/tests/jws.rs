//! The compact form: one way to write a token, and a name for every other way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{encode, forge, header, key};
use countersign_keys::{Algorithm, JwkError, KeyPair, PublicKey, SignError};
use countersign_token::{
    ClaimError, JwsError, TokenKind,
    jws::{self, HEADER_VALUE_BYTES_MAX, TOKEN_BYTES_MAX, Unverified},
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn accepts_what_it_signed() {
    let key = key();
    let token = jws::sign_as(TokenKind::AccessToken, &key, b"{}").unwrap();
    let unverified = parse(&token).unwrap();
    assert_eq!((unverified.alg, unverified.typ.as_str()), (Algorithm::EcdsaP256, "at+jwt"));
    assert_eq!(unverified.kid, key.public_key().thumbprint());
    assert_eq!(unverified.verify(key.public_key()), Ok(&b"{}"[..]));
}

#[test]
fn what_is_printed_of_a_token_is_no_token() {
    let key = key();
    let token = jws::sign_as(TokenKind::AccessToken, &key, br#"{"sub":"u_1"}"#).unwrap();
    let kid = key.public_key().thumbprint();
    assert_eq!(format!("{:?}", parse(&token).unwrap()), format!(r#"Unverified(ES256 "at+jwt" "{kid}")"#));
}

#[test]
fn accepts_a_media_type_in_any_case_and_with_its_prefix() {
    let key = key();
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
        assert_eq!(parse(&forge(&key, &header(&key, typ), "{}")).unwrap().typ, "at+jwt");
    }
    let other = forge(&key, &header(&key, "application/application/at+jwt"), "{}");
    assert!(matches!(parse(&other), Err(JwsError::OtherKind { .. })));
}

#[test]
fn accepts_a_token_at_the_size_limit_and_rejects_one_byte_more() {
    let key = key();
    let frame = jws::sign_as(TokenKind::AccessToken, &key, b"").unwrap().len();
    // Four characters carry three bytes; the last group may be shorter.
    let payload = (0..TOKEN_BYTES_MAX).find(|n| frame + (n * 4).div_ceil(3) == TOKEN_BYTES_MAX).unwrap();
    let longest = jws::sign_as(TokenKind::AccessToken, &key, &vec![b' '; payload]).unwrap();
    assert_eq!(longest.len(), TOKEN_BYTES_MAX);
    assert!(parse(&longest).unwrap().verify(key.public_key()).is_ok());

    let too_large = JwsError::TooLarge { bytes: TOKEN_BYTES_MAX + 1 };
    assert_eq!(parse(&"x".repeat(TOKEN_BYTES_MAX + 1)), Err(too_large));
    let signed = jws::sign_as(TokenKind::AccessToken, &key, &vec![b' '; payload + 2]);
    assert!(matches!(signed, Err(JwsError::TooLarge { .. })), "what nobody would read is not signed");
}

#[test]
fn rejects_a_megabyte_of_dots_by_its_length_alone() {
    // CVE-2025-30204: splitting it would allocate a million parts.
    let dots = ".".repeat(1 << 20);
    for kind in TokenKind::ALL {
        assert_eq!(jws::parse_as(kind, &dots), Err(JwsError::TooLarge { bytes: 1 << 20 }));
    }
    assert_eq!(jws::claimed_typ(&dots), Err(JwsError::TooLarge { bytes: 1 << 20 }));
}

#[test]
fn rejects_anything_but_three_parts() {
    for token in ["", ".", "a", "a.b", "a.b.c.d", "a.b.c.d.e", "...", "{\"payload\":\"x\"}"] {
        assert_eq!(parse(token), Err(JwsError::NotThreeParts), "{token}");
    }
}

#[test]
fn rejects_every_spelling_of_a_part_but_the_canonical_one() {
    let key = key();
    let token = jws::sign_as(TokenKind::AccessToken, &key, b"{}").unwrap();
    let (input, signature) = token.rsplit_once('.').unwrap();
    // 64 bytes end in a character of which only two bits count: set one of the others.
    let last = signature.chars().last().unwrap();
    let twin = char::from_u32(u32::from(last) + 1).unwrap();
    let stray = format!("{}{twin}", &signature[..signature.len() - 1]);
    let spellings = [
        format!("{token}="),
        format!("{token}=="),
        format!("{token}\n"),
        format!(" {token}"),
        format!("{input}.{stray}"),
        token.replacen('.', "=.", 1),
        format!("{input}.+/{}", &signature[2..]),
        format!("{input}.é{}", &signature[2..]),
    ];
    for spelling in spellings {
        assert_eq!(parse(&spelling), Err(JwsError::NotBase64Url), "{spelling:?}");
    }
}

#[test]
fn rejects_every_algorithm_that_no_key_of_ours_has() {
    let key = key();
    for alg in [
        "none", "None", "nOnE", "HS256", "HS384", "RS384", "PS256", "ES384", "ES512", "ES256K", "eddsa",
        "Ed448", "es256", "ES256 ",
    ] {
        let header = header(&key, "at+jwt").replace("ES256", alg);
        let found = read(&forge(&key, &header, "{}")).unwrap_err();
        assert!(matches!(found, JwsError::ForbiddenAlgorithm { .. }), "{alg}: {found:?}");
    }
    // The usual shape of the attack: no signature at all.
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"none","kid":"a","typ":"at+jwt"}"#), encode("{}"));
    assert_eq!(parse(&unsigned), Err(JwsError::ForbiddenAlgorithm { alg: "none".into() }));
}

#[test]
fn the_key_decides_about_the_algorithm_and_the_header_only_agrees() {
    // CVE-2026-22817: neither a key without `alg` nor one with falls back to what the header says.
    let keys = common::keys_of_every_algorithm();
    for signer in &keys {
        for claimed in &keys {
            let header = header(signer, "at+jwt");
            let ours = format!("\"{}\"", signer.algorithm().jose_name());
            let other = format!("\"{}\"", claimed.algorithm().jose_name());
            let token = forge(signer, &header.replace(&ours, &other), "{}");
            let found = parse(&token).unwrap().verify(signer.public_key()).map(|_| ());
            if signer.algorithm() == claimed.algorithm() {
                assert_eq!(found, Ok(()));
            } else {
                let (alg, key) = (claimed.algorithm().jose_name(), signer.algorithm().jose_name());
                assert_eq!(found, Err(JwsError::WrongAlgorithm { alg, key }));
            }
        }
    }
}

#[test]
fn eddsa_is_the_other_name_of_ed25519() {
    let [_, ed25519, _] = common::keys_of_every_algorithm();
    let header = header(&ed25519, "at+jwt").replace("Ed25519", "EdDSA");
    let token = forge(&ed25519, &header, "{}");
    let read = parse(&token).unwrap();
    assert_eq!((read.alg, read.alg_name()), (Algorithm::Ed25519, "EdDSA"));
    assert!(read.verify(ed25519.public_key()).is_ok());
}

#[test]
fn rejects_a_token_of_every_other_kind() {
    let key = key();
    for made in TokenKind::ALL {
        let token = jws::sign_as(made, &key, b"{}").unwrap();
        for wanted in TokenKind::ALL {
            let found = jws::parse_as(wanted, &token).map(|_| ());
            if made == wanted {
                assert_eq!(found, Ok(()));
            } else {
                let (typ, want) = (made.typ().to_lowercase(), wanted.typ());
                assert_eq!(found, Err(JwsError::OtherKind { typ, want }));
            }
        }
    }
}

#[test]
fn rejects_ed25519_where_the_standard_has_none() {
    let [_, ed25519, _] = common::keys_of_every_algorithm();
    let refused = JwsError::ForbiddenAlgorithm { alg: "Ed25519".into() };
    assert_eq!(jws::sign_as(TokenKind::JwtSvid, &ed25519, b"{}"), Err(refused.clone()));
    let token = forge(&ed25519, &header(&ed25519, "JWT"), "{}");
    assert_eq!(jws::parse_as(TokenKind::JwtSvid, &token), Err(refused));
}

#[test]
fn a_certificate_is_named_in_service_tokens_alone() {
    let key = key();
    let token = jws::sign_certified(TokenKind::Service, &key, &[7; 32], b"{}").unwrap();
    let read = jws::parse_as(TokenKind::Service, &token).unwrap();
    assert_eq!(read.certificate_sha256, Some([7; 32]));
    assert!(read.verify(key.public_key()).is_ok());
    let token = jws::sign_certified(TokenKind::AccessToken, &key, &[7; 32], b"{}").unwrap();
    assert_eq!(parse(&token), Err(JwsError::ForbiddenMember { member: "x5t#S256".into() }));
    for thumbprint in
        [json!("AAAA"), json!(encode([7; 31])), json!(format!("{}=", encode([7; 32]))), json!(7)]
    {
        let mut header: Value = serde_json::from_str(&header(&key, TokenKind::Service.typ())).unwrap();
        header["x5t#S256"] = thumbprint;
        let found = jws::parse_as(TokenKind::Service, &forge(&key, &header.to_string(), "{}")).map(|_| ());
        assert!(matches!(found, Err(JwsError::Header(ClaimError::WrongType { .. }))), "{found:?}");
    }
}

#[test]
fn a_key_stands_in_dpop_proofs_alone_and_is_public() {
    let key = key();
    let token = jws::sign_as(TokenKind::Dpop, &key, b"{}").unwrap();
    let read = jws::parse_as(TokenKind::Dpop, &token).unwrap();
    assert_eq!(read.jwk.as_ref(), Some(key.public_key()));
    assert_eq!(read.kid, key.public_key().thumbprint());
    let jwk: Value = serde_json::from_str(&key.public_key().to_jwk()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header = json!({ "alg": "ES256", "typ": "dpop+jwt", "jwk": jwk });
        change(&mut header);
        jws::parse_as(TokenKind::Dpop, &forge(&key, &header.to_string(), "{}")).map(|_| ())
    };
    assert_eq!(with(&|_| {}), Ok(()));
    assert_eq!(with(&|header| header["jwk"]["d"] = json!("AAAA")), Err(JwsError::Jwk(JwkError::Private)));
    assert_eq!(with(&|header| header["jwk"]["kty"] = json!("oct")), {
        Err(JwsError::Jwk(JwkError::OtherKind { kty: "oct".into(), crv: "P-256".into() }))
    });
    let kid = Err(JwsError::ForbiddenMember { member: "kid".into() });
    assert_eq!(with(&|header| header["kid"] = json!("a")), kid);
    let missing = Err(JwsError::Header(ClaimError::Missing { name: "jwk" }));
    assert_eq!(with(&|header| drop(header.as_object_mut().unwrap().remove("jwk"))), missing);
}

#[test]
fn a_proof_whose_key_is_named_beside_it_needs_no_kid_but_may_have_the_right_one() {
    let (ours, theirs) = (key(), key());
    let read = |header: String| {
        let token = forge(&ours, &header, "{}");
        jws::parse_as(TokenKind::Wpt, &token).unwrap().verify(ours.public_key()).map(|_| ())
    };
    assert_eq!(read(r#"{"alg":"ES256","typ":"wpt+jwt"}"#.into()), Ok(()));
    assert_eq!(read(header(&ours, "wpt+jwt")), Ok(()));
    assert_eq!(read(header(&theirs, "wpt+jwt")), Err(JwsError::WrongKey));
}

#[test]
fn a_public_key_is_never_an_hmac_secret() {
    // CVE-2026-39999: the attacker knows the public key, and signs with it as if it were a secret.
    let key = key();
    let header = header(&key, "at+jwt").replace("ES256", "HS256");
    let input = format!("{}.{}", encode(header), encode("{}"));
    let mac = countersign_keys::hmac_sha256(&key.public_key().spki_der(), input.as_bytes());
    let forged = format!("{input}.{}", encode(mac));
    assert_eq!(parse(&forged), Err(JwsError::ForbiddenAlgorithm { alg: "HS256".into() }));
    // And with an honest header the MAC is no signature.
    let input = format!("{}.{}", encode(common::header(&key, "at+jwt")), encode("{}"));
    let mac = countersign_keys::hmac_sha256(&key.public_key().spki_der(), input.as_bytes());
    let forged = format!("{input}.{}", encode(mac));
    assert_eq!(parse(&forged).unwrap().verify(key.public_key()), Err(JwsError::BadSignature));
}

#[test]
fn rejects_every_header_member_that_would_choose_a_key_or_a_rule() {
    let key = key();
    let members = [
        ("jku", "\"https://evil.test/keys\""),
        ("jwk", "{}"),
        ("x5u", "\"https://evil.test/cert\""),
        ("x5c", "[\"MIIB\"]"),
        ("x5t", "\"a\""),
        ("x5t#S256", "\"a\""),
        ("crit", "[\"b64\"]"),
        ("b64", "false"),
        ("zip", "\"DEF\""),
        ("cty", "\"JWT\""),
        ("enc", "\"A256GCM\""),
        ("Alg", "\"ES256\""),
        ("anything", "null"),
    ];
    for (member, value) in members {
        let header = header(&key, "at+jwt").replacen('{', &format!("{{\"{member}\":{value},"), 1);
        let found = read(&forge(&key, &header, "{}"));
        assert_eq!(found, Err(JwsError::ForbiddenMember { member: member.into() }));
    }
}

#[test]
fn rejects_a_header_without_its_three_members() {
    let key = key();
    for name in ["alg", "kid", "typ"] {
        let mut header: Value = serde_json::from_str(&header(&key, "at+jwt")).unwrap();
        header.as_object_mut().unwrap().remove(name);
        let found = read(&forge(&key, &header.to_string(), "{}"));
        assert_eq!(found, Err(JwsError::Header(ClaimError::Missing { name })));
    }
}

#[test]
fn rejects_header_members_of_the_wrong_type() {
    let key = key();
    for name in ["alg", "kid", "typ"] {
        for value in [Value::Null, 1.into(), true.into(), Value::Array(vec!["ES256".into()])] {
            let mut header: Value = serde_json::from_str(&header(&key, "at+jwt")).unwrap();
            header[name] = value;
            let found = read(&forge(&key, &header.to_string(), "{}"));
            assert_eq!(found, Err(JwsError::Header(ClaimError::WrongType { name, want: "a string" })));
        }
    }
}

#[test]
fn rejects_a_header_that_says_something_twice() {
    let key = key();
    for doubled in [r#""alg":"none","#, r#""kid":"other","#, r#""typ":"JWT","#, r#""\u0061lg":"none","#] {
        let header = header(&key, "at+jwt").replacen('{', &format!("{{{doubled}"), 1);
        let found = read(&forge(&key, &header, "{}"));
        assert!(matches!(found, Err(JwsError::Header(ClaimError::Duplicate { .. }))), "{found:?}");
    }
}

#[test]
fn rejects_a_header_that_is_no_json_object() {
    let key = key();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        ("", ClaimError::NotJson),
        ("{", ClaimError::NotJson),
        ("{}x", ClaimError::NotJson),
        ("{}{}", ClaimError::NotJson),
        ("\u{feff}{}", ClaimError::NotJson),
        ("[]", ClaimError::NotAnObject),
        ("\"ES256\"", ClaimError::NotAnObject),
        ("null", ClaimError::NotAnObject),
        ("[[[[[[[[[]]]]]]]]]", ClaimError::TooDeep),
    ];
    for (header, expected) in cases {
        let found = read(&forge(&key, header, "{}"));
        assert_eq!(found, Err(JwsError::Header(expected)), "{header}");
    }
    assert!(matches!(parse(&forge(&key, &deep, "{}")), Err(JwsError::TooLarge { .. })));
}

#[test]
fn rejects_a_kid_or_typ_that_is_empty_or_too_long() {
    let key = key();
    let empty = parse(&forge(&key, &header(&key, ""), "{}")).unwrap_err();
    assert_eq!(empty, JwsError::Header(ClaimError::Empty { name: "typ" }));
    let fits = "x".repeat(HEADER_VALUE_BYTES_MAX);
    let named = |kid: &str| header(&key, "at+jwt").replace(&key.public_key().thumbprint(), kid);
    let found = read(&forge(&key, &named(""), "{}"));
    assert_eq!(found, Err(JwsError::Header(ClaimError::Empty { name: "kid" })));
    assert!(parse(&forge(&key, &named(&fits), "{}")).is_ok());
    for header in [named(&format!("{fits}x")), header(&key, &format!("{fits}x"))] {
        let found = read(&forge(&key, &header, "{}"));
        assert_eq!(found, Err(JwsError::HeaderValueLength { bytes: HEADER_VALUE_BYTES_MAX + 1 }));
    }
}

#[test]
fn rejects_a_signature_by_another_key() {
    let (ours, theirs) = (key(), key());
    let token = forge(&theirs, &header(&ours, "at+jwt"), "{}");
    assert_eq!(parse(&token).unwrap().verify(ours.public_key()), Err(JwsError::BadSignature));
}

#[test]
fn rejects_a_key_that_the_kid_does_not_name() {
    let (ours, theirs) = (key(), key());
    let token = forge(&theirs, &header(&ours, "at+jwt"), "{}");
    // A look-up that ignored the kid would hand out the very key that signed.
    assert_eq!(parse(&token).unwrap().verify(theirs.public_key()), Err(JwsError::WrongKey));
}

#[test]
fn rejects_signatures_of_zeros_and_of_other_encodings() {
    let key = key();
    let token = jws::sign_as(TokenKind::AccessToken, &key, b"{}").unwrap();
    let (input, _) = token.rsplit_once('.').unwrap();
    let der = key.sign_asn1(input.as_bytes()).unwrap();
    let fixed = key.sign_raw(input.as_bytes()).unwrap();
    // CVE-2022-21449: r = s = 0 must never verify.
    let signatures: [&[u8]; 7] =
        [&[0; 64], &[0xff; 64], &[], &fixed[..63], &[fixed.as_slice(), &[0]].concat(), &der, &[0; 8]];
    for signature in signatures {
        let forged = format!("{input}.{}", encode(signature));
        let found = parse(&forged).unwrap().verify(key.public_key()).map(<[u8]>::to_vec);
        assert_eq!(found, Err(JwsError::BadSignature), "{signature:?}");
    }
}

#[test]
fn a_failure_to_sign_is_passed_on() {
    assert_eq!(JwsError::from(SignError::Failed), JwsError::Sign(SignError::Failed));
}

#[test]
fn errors_carry_no_more_of_a_strangers_text_than_fits_a_log_line() {
    let key = key();
    let header =
        header(&key, "at+jwt").replacen('{', &format!("{{\"a\\n\\u001b[31m{}\":1,", "b".repeat(500)), 1);
    let Err(JwsError::ForbiddenMember { member }) = parse(&forge(&key, &header, "{}")) else { panic!() };
    assert!(member.len() <= 64 && member.starts_with("a[31mb"), "{member}");
}

#[test]
fn verifies_the_es256_example_of_rfc_7515_below_the_header_rules() {
    let jwk = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    let key = PublicKey::from_jwk(jwk).unwrap();
    let input = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signature).unwrap();
    key.verify_raw(input.as_bytes(), &bytes).unwrap();
    // As a token it lacks what our profile demands.
    let found = parse(&format!("{input}.{signature}")).map(|_| ());
    assert_eq!(found, Err(JwsError::Header(ClaimError::Missing { name: "typ" })));
}

/// A stranger verifies our tokens: openssl.
#[test]
fn openssl_verifies_what_we_sign() {
    let key = key();
    let token = jws::sign_as(TokenKind::AccessToken, &key, br#"{"sub":"u_1"}"#).unwrap();
    assert!(openssl_verifies(&key, &token), "openssl refused our token");
    let (input, signature) = token.rsplit_once('.').unwrap();
    let changed = format!("{}.{}.{signature}", input.split('.').next().unwrap(), encode(r#"{"sub":"u_2"}"#));
    assert!(!openssl_verifies(&key, &changed), "openssl accepted a changed token");
}

fn parse(token: &str) -> Result<Unverified<'_>, JwsError> {
    jws::parse_as(TokenKind::AccessToken, token)
}

/// What `parse` says, without what it borrows.
fn read(token: &str) -> Result<(), JwsError> {
    parse(token).map(|_| ())
}

fn openssl_verifies(key: &KeyPair, token: &str) -> bool {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    };
    let dir = countersign_testkit::temp_dir();
    let path = |name: &str| dir.path().join(name);
    let (input, signature) = token.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let pem = STANDARD.encode(key.public_key().spki_der());
    std::fs::write(
        path("key.pem"),
        format!("-----BEGIN PUBLIC KEY-----\n{}\n{}\n-----END PUBLIC KEY-----\n", &pem[..64], &pem[64..]),
    )
    .unwrap();
    std::fs::write(path("input"), input).unwrap();
    std::fs::write(path("signature"), der(&raw)).unwrap();
    std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-verify"])
        .arg(path("key.pem"))
        .arg("-signature")
        .arg(path("signature"))
        .arg(path("input"))
        .output()
        .expect("openssl must be installed")
        .status
        .success()
}

/// r‖s as a DER `Ecdsa-Sig-Value`.
fn der(fixed: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
        let mut value = bytes[start..].to_vec();
        if value[0] >= 0x80 {
            value.insert(0, 0);
        }
        [vec![2, u8::try_from(value.len()).unwrap()], value].concat()
    };
    let body = [integer(&fixed[..32]), integer(&fixed[32..])].concat();
    [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat()
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_without_a_panic(text in ".{0,300}") {
        for kind in TokenKind::ALL {
            let _ = jws::parse_as(kind, &text);
        }
    }

    #[test]
    fn any_three_parts_are_parsed_or_refused_without_a_panic(
        header in ".{0,60}", payload in prop::collection::vec(any::<u8>(), 0..60), signature in prop::collection::vec(any::<u8>(), 0..70)
    ) {
        let token = format!("{}.{}.{}", encode(header), encode(payload), encode(signature));
        for kind in TokenKind::ALL {
            let _ = jws::parse_as(kind, &token);
        }
    }

    #[test]
    fn a_token_with_any_one_character_changed_is_refused(place in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.=-]") {
        let key = key();
        let token = jws::sign_as(TokenKind::AccessToken, &key, br#"{"sub":"u_1"}"#).unwrap();
        let at = place.index(token.len());
        let changed = format!("{}{with}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        let accepted = parse(&changed).is_ok_and(|unverified| unverified.verify(key.public_key()).is_ok());
        prop_assert!(!accepted, "{changed}");
    }
}
