//! The serialisations: what they refuse.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_token::ClaimError;
use countersign_token::macaroon::{
    AttenuateError, CAVEATS_MAX, FIELD_BYTES_MAX, MACAROON_BYTES_MAX, Macaroon, MacaroonFormatError, RootKey,
    binary, format, json, packets,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{key, plain};

fn rich() -> Macaroon<'static> {
    let third = RootKey::derive(b"of the third party");
    plain()
        .attenuate("account = 3735928559")
        .unwrap()
        .attenuate_third_party("http://auth.example.org/", &third, b"ticket \xff\n", [9; 24])
        .unwrap()
        .attenuate(b"not text: \xff")
        .unwrap()
}

#[test]
fn every_serialisation_reads_back_what_it_wrote() {
    let macaroon = rich();
    assert_eq!(packets::read(&packets::write(&macaroon)).unwrap(), macaroon);
    assert_eq!(binary::read(&binary::write(&macaroon)).unwrap(), macaroon);
    assert_eq!(json::read(json::write(&macaroon).as_bytes()).unwrap(), macaroon);
}

#[test]
fn a_reader_for_people_takes_any_form_and_any_base64() {
    let macaroon = rich();
    let (v1, v2, text) = (packets::write(&macaroon), binary::write(&macaroon), json::write(&macaroon));
    let once = URL_SAFE_NO_PAD.encode(&v1);
    let padded = base64::engine::general_purpose::STANDARD.encode(&v2);
    for form in [
        &v1[..],
        &v2,
        text.as_bytes(),
        once.as_bytes(),
        URL_SAFE_NO_PAD.encode(&once).as_bytes(),
        padded.as_bytes(),
    ] {
        let is_text = form[0] != b'0' && form[0] != 2;
        let with_newline = [form, if is_text { b"\n" } else { b"" }].concat();
        assert_eq!(format::read_any(&with_newline).unwrap(), macaroon);
    }
    for nothing in [&b""[..], b"csb_0123", b"eyJhbGciOiJFUzI1NiJ9.e30.c2ln", b"\x03abc", b"===="] {
        assert_eq!(format::read_any(nothing), Err(MacaroonFormatError::Unknown));
    }
    let huge = vec![b'A'; 2 * MACAROON_BYTES_MAX + 1];
    assert_eq!(format::read_any(&huge), Err(MacaroonFormatError::TooLarge { bytes: huge.len() }));
}

#[test]
fn rejects_a_macaroon_that_ends_anywhere_but_at_its_end() {
    let (v1, v2) = (packets::write(&rich()), binary::write(&rich()));
    for length in 0..v1.len() {
        assert!(packets::read(&v1[..length]).is_err(), "{length} bytes of v1");
    }
    for length in 0..v2.len() {
        assert!(binary::read(&v2[..length]).is_err(), "{length} bytes of v2");
    }
    assert_eq!(packets::read(&v1[..v1.len() - 1]), Err(MacaroonFormatError::Truncated));
    assert_eq!(binary::read(&v2[..v2.len() - 1]), Err(MacaroonFormatError::Truncated));
    assert_eq!(
        packets::read(&[&v1[..], b"\n"].concat()),
        Err(MacaroonFormatError::TrailingBytes { bytes: 1 })
    );
    assert_eq!(
        binary::read(&[&v2[..], b"\0\0"].concat()),
        Err(MacaroonFormatError::TrailingBytes { bytes: 2 })
    );
}

#[test]
fn rejects_a_length_that_nobody_would_write() {
    // Upper case, a sign, a packet shorter than its own head, no newline at its end.
    for packet in [
        &b"001Alocation http://x/      \n"[..],
        b"+01alocation http://x/      \n",
        b"0003",
        b"0010location  xx",
    ] {
        assert_eq!(packets::read(packet), Err(MacaroonFormatError::BadLength), "{packet:?}");
    }
    // Five bytes of identifier, their length in two bytes although one would do.
    assert_eq!(binary::read(b"\x02\x02\x85\x00keyid\x00\x00\x06"), Err(MacaroonFormatError::BadLength));
}

#[test]
fn rejects_fields_out_of_order_unknown_or_twice() {
    let binary = |fields: &[u8]| binary::read(&[b"\x02", fields].concat()).unwrap_err();
    let unexpected = |want| MacaroonFormatError::UnexpectedField { want };
    assert_eq!(binary(b"\x01\x01l\x00"), unexpected("the identifier"));
    assert_eq!(binary(b"\x02\x01i\x01\x01l\x00"), unexpected("the end of the head"));
    assert_eq!(binary(b"\x02\x01i\x02\x01i\x00"), unexpected("the end of the head"));
    assert_eq!(binary(b"\x02\x01i\x00\x04\x01v\x00"), unexpected("a caveat"));
    assert_eq!(binary(b"\x02\x01i\x00\x02\x01c\x05\x01x\x00"), unexpected("the end of a caveat"));
    assert_eq!(binary(b"\x02\x01i\x00\x00\x07\x01x"), unexpected("the signature"));
    assert_eq!(binary::read(b"\x01"), Err(MacaroonFormatError::Unknown));

    let v1 = packets::write(&plain());
    let without_location = &v1[v1.windows(2).position(|pair| pair == b"\n0").unwrap() + 1..];
    assert_eq!(packets::read(without_location), Err(unexpected("location")));
    assert_eq!(packets::read(&[&v1[..0x21], &v1].concat()), Err(unexpected("identifier")));
    let stranger = [&v1[..0x21 + 0x15], b"000bxid x\n\n"].concat();
    assert_eq!(packets::read(&stranger), Err(unexpected("a caveat or the signature")));
    assert_eq!(packets::read(b"000blocation\n"), Err(MacaroonFormatError::BadLength));
    assert_eq!(packets::read(b"000dlocation\n"), Err(unexpected("a name and a value")));
    assert_eq!(changed(|macaroon| macaroon["x"] = json!(1)), unexpected("one of the format's members"));
}

#[test]
fn rejects_empty_and_oversized_parts() {
    assert_eq!(
        binary::read(b"\x02\x02\x00\x00\x00\x06\x00"),
        Err(MacaroonFormatError::SignatureLength { bytes: 0 })
    );
    let signed = |head: &[u8]| [b"\x02", head, b"\x00\x06\x20", &[7; 32]].concat();
    assert!(binary::read(&signed(b"\x02\x01i\x00")).is_ok());
    assert_eq!(
        binary::read(&signed(b"\x02\x00\x00")),
        Err(MacaroonFormatError::Empty { field: "identifier" })
    );
    assert_eq!(
        binary::read(&signed(b"\x02\x01i\x00\x02\x00\x00")),
        Err(MacaroonFormatError::Empty { field: "caveat" })
    );
    let no_vid = binary::read(&signed(b"\x02\x01i\x00\x02\x01c\x04\x00\x00")).unwrap_err();
    assert_eq!(no_vid, MacaroonFormatError::Empty { field: "verification id" });

    let identifier = |bytes: usize| {
        let length = [0x80 | (bytes & 0x7f) as u8, (bytes >> 7) as u8];
        signed(&[b"\x02", &length[..], &vec![b'i'; bytes], b"\x00"].concat())
    };
    assert!(binary::read(&identifier(FIELD_BYTES_MAX)).is_ok());
    let refused = binary::read(&identifier(FIELD_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(
        refused,
        MacaroonFormatError::FieldTooLong { field: "identifier", bytes: FIELD_BYTES_MAX + 1 }
    );
    let huge = vec![2; MACAROON_BYTES_MAX + 1];
    for refused in [binary::read(&huge), packets::read(&huge), json::read(&huge)] {
        assert_eq!(refused, Err(MacaroonFormatError::TooLarge { bytes: huge.len() }));
    }
}

#[test]
fn accepts_as_many_caveats_as_are_allowed_and_not_one_more() {
    let full = (0..CAVEATS_MAX).fold(plain(), |m, n| m.attenuate(format!("n = {n}")).unwrap());
    assert_eq!(full.clone().attenuate("n = 33"), Err(AttenuateError::TooManyCaveats));
    let refused = full.clone().attenuate_third_party("l", &key(), b"id", [0; 24]);
    assert_eq!(refused, Err(AttenuateError::TooManyCaveats));
    let written = binary::write(&full);
    assert_eq!(binary::read(&written).unwrap(), full);
    let end = written.len() - 2 - 32 - 1;
    let one_more = [&written[..end], b"\x02\x01x\x00", &written[end..]].concat();
    assert_eq!(binary::read(&one_more), Err(MacaroonFormatError::TooManyCaveats));
}

#[test]
fn rejects_a_location_that_is_not_text_or_that_discharges_nothing() {
    assert_eq!(
        binary::read(b"\x02\x01\x01\xff\x02\x01i\x00\x00"),
        Err(MacaroonFormatError::NotText { field: "location" })
    );
    let alone = [b"\x02\x02\x01i\x00\x01\x01l\x02\x01c\x00\x00\x06\x20", &[7; 32][..]].concat();
    assert_eq!(binary::read(&alone), Err(MacaroonFormatError::LocationAlone));
}

#[test]
fn rejects_json_in_which_a_field_has_two_encodings() {
    let both = |name: &'static str| changed(|m| m[format!("{name}64")] = json!("Zm9v"));
    assert_eq!(both("i"), MacaroonFormatError::TwoEncodings { field: "i" });
    let signature = "00".repeat(32);
    assert_eq!(changed(|m| m["s"] = json!(signature)), MacaroonFormatError::TwoEncodings { field: "s" });
    let caveat = changed(|m| m["c"][0]["i64"] = json!("Zm9v"));
    assert_eq!(caveat, MacaroonFormatError::TwoEncodings { field: "i" });
    let verification_id = changed(|m| m["c"][1]["v"] = json!("Zm9v"));
    assert_eq!(verification_id, MacaroonFormatError::TwoEncodings { field: "v" });
}

#[test]
fn rejects_json_that_is_not_a_macaroon_of_version_2() {
    let wrong = |name, want| MacaroonFormatError::Json(ClaimError::WrongType { name, want });
    assert_eq!(changed(|m| m["v"] = json!(1)), MacaroonFormatError::WrongVersion);
    assert_eq!(changed(|m| m["v"] = Value::Null), MacaroonFormatError::WrongVersion);
    assert_eq!(changed(|m| m["i"] = json!(7)), wrong("i", "a string"));
    assert_eq!(changed(|m| m["l"] = json!(["x"])), wrong("l", "a string"));
    assert_eq!(changed(|m| m["c"] = json!({})), wrong("c", "an array of objects"));
    assert_eq!(changed(|m| m["c"][0] = json!("x")), wrong("c", "an array of objects"));
    assert_eq!(changed(|m| m["c"][1]["v64"] = json!("!")), MacaroonFormatError::NotBase64 { field: "v" });
    let missing = |m: &mut Value, name: &str| drop(m.as_object_mut().unwrap().remove(name));
    assert_eq!(changed(|m| missing(m, "i")), MacaroonFormatError::Json(ClaimError::Missing { name: "i" }));
    assert_eq!(changed(|m| missing(m, "s64")), MacaroonFormatError::Json(ClaimError::Missing { name: "s" }));
    assert_eq!(changed(|m| m["s64"] = json!("Zm9v")), MacaroonFormatError::SignatureLength { bytes: 3 });
    let twice = json::write(&rich()).replacen('{', r#"{"i":"x","#, 1);
    assert_eq!(
        json::read(twice.as_bytes()),
        Err(MacaroonFormatError::Json(ClaimError::Duplicate { name: "i".into() }))
    );
    assert_eq!(json::read(b"{"), Err(MacaroonFormatError::Json(ClaimError::NotJson)));
}

#[test]
fn accepts_what_other_writers_of_json_do() {
    let expected = plain();
    let mut value: Value = serde_json::from_str(&json::write(&expected)).unwrap();
    let signature = URL_SAFE_NO_PAD.decode(value["s64"].as_str().unwrap()).unwrap();
    let accepts = |value: &Value| assert_eq!(json::read(value.to_string().as_bytes()).unwrap(), expected);
    value["v"] = json!("2");
    accepts(&value);
    value["s64"] = json!(base64::engine::general_purpose::STANDARD.encode(&signature));
    accepts(&value);
    value.as_object_mut().unwrap().remove("s64");
    for hex in
        [countersign_keys::hash::hex(&signature), countersign_keys::hash::hex(&signature).to_uppercase()]
    {
        value["s"] = json!(hex);
        accepts(&value);
    }
    value.as_object_mut().unwrap().remove("c");
    value.as_object_mut().unwrap().remove("v");
    accepts(&value);
}

#[test]
fn refuses_to_make_what_it_would_not_read() {
    let long = vec![b'x'; FIELD_BYTES_MAX + 1];
    let text = String::from_utf8(long.clone()).unwrap();
    let too_long = |field| Err(AttenuateError::TooLong { field, bytes: FIELD_BYTES_MAX + 1 });
    assert_eq!(Macaroon::mint("", &long, &key()), too_long("identifier"));
    assert_eq!(Macaroon::mint(&text, b"i", &key()), too_long("location"));
    assert_eq!(Macaroon::mint("", b"", &key()), Err(AttenuateError::Empty { field: "identifier" }));
    assert_eq!(plain().attenuate(""), Err(AttenuateError::Empty { field: "caveat" }));
    assert_eq!(plain().attenuate(&long), too_long("caveat"));
    assert_eq!(plain().attenuate_third_party(&text, &key(), b"i", [0; 24]), too_long("location"));
    // Beyond what any macaroon can hold; named, because the crypto library may refuse to seal.
    assert_eq!(
        AttenuateError::NotSealed.to_string(),
        "the key of the third-party caveat could not be sealed"
    );
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_back_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let v2 = [&[2][..], &bytes].concat();
        for form in [&bytes, &v2] {
            if let Ok(macaroon) = binary::read(form) {
                let written = binary::write(&macaroon);
                prop_assert_eq!(binary::read(&written).unwrap(), macaroon);
            }
            let _ = (packets::read(form), json::read(form), format::read_any(form));
        }
    }

    #[test]
    fn a_macaroon_with_a_byte_changed_is_read_as_another_or_not_at_all(place in 0..300_usize, bit in 0..8_u8) {
        let good = binary::write(&rich());
        let mut bad = good.clone();
        let place = place % bad.len();
        bad[place] ^= 1 << bit;
        prop_assert!(binary::read(&bad).map_or(true, |macaroon| macaroon != rich()));
    }
}

/// Why JSON is refused that differs in one respect from a good one.
fn changed(change: impl FnOnce(&mut Value)) -> MacaroonFormatError {
    let mut value: Value = serde_json::from_str(&json::write(&rich())).unwrap();
    change(&mut value);
    json::read(value.to_string().as_bytes()).unwrap_err()
}
