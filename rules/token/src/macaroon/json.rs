//! Version 2, JSON: `v`, `l`, `i` or `i64`, `c`, and `s` or `s64`; in a caveat `i` or `i64`, `l`, and `v` or `v64`.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{
    Caveat, Macaroon, MacaroonFormatError,
    chain::TAG_BYTES,
    format::{Parts, decode_base64, encode_base64, push_caveat, within_limit},
};
use crate::{
    ClaimError,
    claims::{Claims, Json},
};

/// Reads the JSON form.
///
/// # Errors
/// No strict JSON object of version 2 (the number, or as text), a member unknown, twice or in two encodings, or wrong base64.
pub fn read(bytes: &[u8]) -> Result<Macaroon<'static>, MacaroonFormatError> {
    within_limit(bytes)?;
    let object = &Claims::parse(bytes)?;
    only(object, &["v", "l", "i", "i64", "c", "s", "s64"])?;
    // pymacaroons leaves the version out.
    if !object.get("v").is_none_or(is_two) {
        return Err(MacaroonFormatError::WrongVersion);
    }
    let mut caveats = Vec::new();
    for caveat in list(object)? {
        let Json::Object(caveat) = caveat else { return Err(wrong("c", "an array of objects")) };
        only(caveat, &["i", "i64", "l", "v", "v64"])?;
        let id = bytes_of(caveat, "i", "i64")?.ok_or(missing("i"))?;
        let verification_id = bytes_of(caveat, "v", "v64")?;
        push_caveat(
            &mut caveats,
            Cow::Owned(id),
            location(caveat)?.map(Cow::Owned),
            verification_id.map(Cow::Owned),
        )?;
    }
    let signature = bytes_of(object, "s", "s64")?.ok_or(missing("s"))?;
    Parts {
        location: Cow::Owned(location(object)?.unwrap_or_default()),
        identifier: Cow::Owned(bytes_of(object, "i", "i64")?.ok_or(missing("i"))?),
        caveats,
        signature: Cow::Owned(from_hex(&signature).unwrap_or(signature)),
    }
    .assemble()
}

/// Writes the JSON form: as text what is text, else in base64url.
#[must_use]
pub fn write(macaroon: &Macaroon<'_>) -> String {
    let mut object = Map::new();
    object.insert("v".into(), 2.into());
    if !macaroon.location.is_empty() {
        object.insert("l".into(), (*macaroon.location).into());
    }
    put(&mut object, "i", &macaroon.identifier);
    object.insert("c".into(), macaroon.caveats.iter().map(write_caveat).collect());
    object.insert("s64".into(), encode_base64(macaroon.tag.bytes()).into());
    Value::Object(object).to_string()
}

fn write_caveat(caveat: &Caveat<'_>) -> Value {
    let mut object = Map::new();
    put(&mut object, "i", &caveat.id);
    if let Some(third) = &caveat.third_party {
        object.insert("l".into(), (*third.location).into());
        put(&mut object, "v", &third.verification_id);
    }
    Value::Object(object)
}

fn put(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}64"), encode_base64(bytes).into()),
    };
}

/// The number, or its digit as text.
fn is_two(version: &Json<'_>) -> bool {
    match version {
        Json::Number(number) => number.as_u64() == Some(2),
        other => other.as_text() == Some("2"),
    }
}

/// The content of a field in whichever of its two encodings it has.
fn bytes_of(
    object: &Claims<'_>,
    plain: &'static str,
    encoded: &'static str,
) -> Result<Option<Vec<u8>>, MacaroonFormatError> {
    match (object.get(plain), object.get(encoded)) {
        (None, None) => Ok(None),
        (Some(Json::Text(text)), None) => Ok(Some(text.as_bytes().to_vec())),
        (None, Some(Json::Text(text))) => {
            let bytes = decode_base64(text.as_bytes());
            bytes.map(Some).ok_or(MacaroonFormatError::NotBase64 { field: plain })
        }
        (Some(_), Some(_)) => Err(MacaroonFormatError::TwoEncodings { field: plain }),
        _ => Err(wrong(plain, "a string")),
    }
}

/// A signature as text can only be its 64 hexadecimal digits: 32 random bytes are hardly ever UTF-8.
fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() != 2 * TAG_BYTES {
        return None;
    }
    let digit = |c: &u8| char::from(*c).to_digit(16).and_then(|value| u8::try_from(value).ok());
    text.chunks_exact(2).map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.last()?)?)).collect()
}

fn location(object: &Claims<'_>) -> Result<Option<String>, MacaroonFormatError> {
    match object.get("l") {
        None => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text.clone().into_owned())),
        Some(_) => Err(wrong("l", "a string")),
    }
}

fn list<'a, 'b>(object: &'b Claims<'a>) -> Result<&'b [Json<'a>], MacaroonFormatError> {
    match object.get("c") {
        None => Ok(&[]),
        Some(Json::List(caveats)) => Ok(caveats),
        Some(_) => Err(wrong("c", "an array of objects")),
    }
}

fn only(object: &Claims<'_>, names: &[&str]) -> Result<(), MacaroonFormatError> {
    let known = object.names().all(|name| names.contains(&name));
    if known {
        Ok(())
    } else {
        Err(MacaroonFormatError::UnexpectedField { want: "one of the format's members" })
    }
}

fn missing(name: &'static str) -> MacaroonFormatError {
    ClaimError::Missing { name }.into()
}

fn wrong(name: &'static str, want: &'static str) -> MacaroonFormatError {
    ClaimError::WrongType { name, want }.into()
}
