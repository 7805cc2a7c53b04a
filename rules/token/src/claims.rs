//! JSON objects out of tokens: read in exactly one way, every claim with its exact type.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::UnixTime;
use serde::{
    Serialize,
    de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;

use crate::jws::printable;

/// A JSON object without duplicate members at any depth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Claims<'a>(BTreeMap<Cow<'a, str>, Json<'a>>);

/// A JSON value. Its texts are borrowed from what was read; only those with escapes had to be copied.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Claims<'a>),
}

impl<'a> Claims<'a> {
    pub(crate) fn parse(json: &'a [u8]) -> Result<Self, ClaimError> {
        let finding = Cell::new(None);
        let mut reader = serde_json::Deserializer::from_slice(json);
        let value = Strict { finding: &finding, depth: CLAIM_DEPTH_MAX }
            .deserialize(&mut reader)
            .and_then(|value| reader.end().map(|()| value));
        match (value, finding.take()) {
            (_, Some(finding)) => Err(finding),
            (Err(_), None) => Err(ClaimError::NotJson),
            (Ok(Json::Object(claims)), None) => Ok(claims),
            (Ok(_), None) => Err(ClaimError::NotAnObject),
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    /// A string that is not empty.
    pub(crate) fn string(&self, name: &'static str) -> Result<&str, ClaimError> {
        match self.value(name)? {
            Json::Text(text) if text.is_empty() => Err(ClaimError::Empty { name }),
            Json::Text(text) => Ok(text),
            _ => Err(ClaimError::WrongType { name, want: "a string" }),
        }
    }

    /// A string that may be empty.
    pub(crate) fn text(&self, name: &'static str) -> Result<&str, ClaimError> {
        self.value(name)?.as_text().ok_or(ClaimError::WrongType { name, want: "a string" })
    }

    /// A NumericDate in whole seconds. RFC 7519 allows fractions; we write none and accept none.
    pub(crate) fn time(&self, name: &'static str) -> Result<UnixTime, ClaimError> {
        let seconds = match self.value(name)? {
            Json::Number(number) => number.as_i64(),
            _ => None,
        };
        seconds
            .filter(|seconds| (0..=SECONDS_MAX).contains(seconds))
            .map(UnixTime::from_secs)
            .ok_or(ClaimError::WrongType { name, want: "a time in whole seconds" })
    }

    /// A string, or an array of strings, as `aud` may be.
    pub(crate) fn one_or_many(&self, name: &'static str) -> Result<Vec<&str>, ClaimError> {
        match self.value(name)? {
            Json::Text(_) => Ok(vec![self.string(name)?]),
            Json::List(_) => self.strings(name),
            _ => Err(ClaimError::WrongType { name, want: "a string or an array of strings" }),
        }
    }

    /// A SHA-256, or another 32 bytes, in canonical base64url.
    pub(crate) fn sha256(&self, name: &'static str) -> Result<[u8; 32], ClaimError> {
        URL_SAFE_NO_PAD
            .decode(self.string(name)?)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(ClaimError::WrongType { name, want: "32 bytes in canonical base64url" })
    }

    /// An array of strings, none of them empty.
    pub(crate) fn strings(&self, name: &'static str) -> Result<Vec<&str>, ClaimError> {
        let wrong = ClaimError::WrongType { name, want: "an array of strings" };
        let Json::List(values) = self.value(name)? else { return Err(wrong) };
        if values.len() > CLAIM_VALUES_MAX {
            return Err(ClaimError::TooMany { name, values: values.len() });
        }
        values
            .iter()
            .map(|value| value.as_text().filter(|text| !text.is_empty()).ok_or(wrong.clone()))
            .collect()
    }

    pub(crate) fn object(&self, name: &'static str) -> Result<&Self, ClaimError> {
        match self.value(name)? {
            Json::Object(claims) => Ok(claims),
            _ => Err(ClaimError::WrongType { name, want: "an object" }),
        }
    }

    /// Its members, where the names are data.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// Is there such a member, whatever its value? `null` is a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The same without one of its members.
    pub(crate) fn without(&self, name: &str) -> Self {
        let mut others = self.clone();
        others.0.remove(name);
        others
    }

    /// The object as JSON text again, for a reader of its own such as that of keys.
    pub(crate) fn to_json(&self) -> String {
        // It was JSON before: this cannot fail, and no reader takes an empty text for anything.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A member of whatever type, for a format whose fields come in several encodings.
    pub(crate) fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.0.get(name)
    }

    fn value(&self, name: &'static str) -> Result<&Json<'a>, ClaimError> {
        self.get(name).ok_or(ClaimError::Missing { name })
    }
}

impl Json<'_> {
    /// The text, if it is one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A member that may be absent. One that is there and wrong stays wrong.
pub(crate) fn optional<T>(member: Result<T, ClaimError>) -> Result<Option<T>, ClaimError> {
    match member {
        Ok(value) => Ok(Some(value)),
        Err(ClaimError::Missing { .. }) => Ok(None),
        Err(wrong) => Err(wrong),
    }
}

/// Reads any JSON value, but refuses what two readers might read differently. What it found is left in
/// `finding`, because serde's own errors are text.
#[derive(Clone, Copy)]
struct Strict<'a> {
    finding: &'a Cell<Option<ClaimError>>,
    depth: usize,
}

impl Strict<'_> {
    fn refuse<E: serde::de::Error>(self, finding: ClaimError) -> E {
        let error = E::custom(&finding);
        self.finding.set(Some(finding));
        error
    }

    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth, ..self }),
            None => Err(self.refuse(ClaimError::TooDeep)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json<'de>, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let inside = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inside)? {
            values.push(value);
        }
        Ok(Json::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let inside = self.deeper()?;
        let mut members = BTreeMap::new();
        while let Some(name) = map.next_key_seed(Name)? {
            match members.entry(name) {
                Entry::Vacant(free) => free.insert(map.next_value_seed(inside)?),
                Entry::Occupied(taken) => {
                    return Err(self.refuse(ClaimError::Duplicate { name: printable(taken.key()) }));
                }
            };
        }
        Ok(Json::Object(Claims(members)))
    }
}

/// Reads the name of a member: serde's own reader of a `Cow` always copies.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// Why the JSON in a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Not JSON.
    #[error("it is not JSON")]
    NotJson,
    /// JSON, but not an object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// The same member twice.
    #[error("the member {name:?} occurs twice")]
    Duplicate {
        /// Its name.
        name: String,
    },
    /// Nested deeper than [`CLAIM_DEPTH_MAX`].
    #[error("it is nested more than {CLAIM_DEPTH_MAX} deep")]
    TooDeep,
    /// A required member is absent.
    #[error("{name} is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A member has another JSON type. It never counts as absent (CVE-2026-25537).
    #[error("{name} must be {want}")]
    WrongType {
        /// Its name.
        name: &'static str,
        /// What it must be.
        want: &'static str,
    },
    /// A text is empty.
    #[error("{name} is empty")]
    Empty {
        /// Its name.
        name: &'static str,
    },
    /// A list is longer than [`CLAIM_VALUES_MAX`].
    #[error("{name} has {values} values, more than {CLAIM_VALUES_MAX}")]
    TooMany {
        /// Its name.
        name: &'static str,
        /// How many.
        values: usize,
    },
}

/// How deep objects and arrays may be nested.
pub const CLAIM_DEPTH_MAX: usize = 8;
/// How many values a list may have: roles, audiences.
pub const CLAIM_VALUES_MAX: usize = 64;
/// The end of the year 9999: beyond it a time is a mistake.
const SECONDS_MAX: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn texts_with_and_without_escapes_read_alike() {
        let claims = Claims::parse(br#"{"\u0069ss":"a\u0062c","sub":"abc"}"#).unwrap();
        assert_eq!(claims.string("iss"), claims.string("sub"));
        assert_eq!(claims.to_json(), r#"{"iss":"abc","sub":"abc"}"#);
    }

    #[test]
    fn rejects_the_same_name_once_with_and_once_without_escapes() {
        for json in [br#"{"iss":1,"\u0069ss":1}"#, br#"{"\u0069ss":1,"iss":1}"#] {
            assert_eq!(Claims::parse(json), Err(ClaimError::Duplicate { name: "iss".to_owned() }));
        }
    }

    #[test]
    fn a_key_keeps_every_member_that_its_reader_must_see() {
        let json = r#"{"d":null,"e":[true,1.5,-1,"x"],"k":{"a":18446744073709551615}}"#;
        assert_eq!(Claims::parse(json.as_bytes()).unwrap().to_json(), json);
    }
}
