//! JSON objects out of tokens: read in exactly one way, every claim with its exact type.

use std::{cell::Cell, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_identity::UnixTime;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::jws::printable;

/// A JSON object without duplicate members at any depth.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claims(Map<String, Value>);

impl Claims {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, ClaimError> {
        let finding = Cell::new(None);
        let mut reader = serde_json::Deserializer::from_slice(json);
        let value = Strict { finding: &finding, depth: CLAIM_DEPTH_MAX }
            .deserialize(&mut reader)
            .and_then(|value| reader.end().map(|()| value));
        match (value, finding.take()) {
            (_, Some(finding)) => Err(finding),
            (Err(_), None) => Err(ClaimError::NotJson),
            (Ok(Value::Object(map)), None) => Ok(Self(map)),
            (Ok(_), None) => Err(ClaimError::NotAnObject),
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A string that is not empty.
    pub(crate) fn string(&self, name: &'static str) -> Result<&str, ClaimError> {
        match self.value(name)? {
            Value::String(text) if text.is_empty() => Err(ClaimError::Empty { name }),
            Value::String(text) => Ok(text),
            _ => Err(ClaimError::WrongType { name, want: "a string" }),
        }
    }

    /// A string that may be empty.
    pub(crate) fn text(&self, name: &'static str) -> Result<&str, ClaimError> {
        self.value(name)?.as_str().ok_or(ClaimError::WrongType { name, want: "a string" })
    }

    /// A NumericDate in whole seconds. RFC 7519 allows fractions; we write none and accept none.
    pub(crate) fn time(&self, name: &'static str) -> Result<UnixTime, ClaimError> {
        let seconds = self.value(name)?.as_i64().filter(|seconds| (0..=SECONDS_MAX).contains(seconds));
        seconds
            .map(UnixTime::from_secs)
            .ok_or(ClaimError::WrongType { name, want: "a time in whole seconds" })
    }

    /// A string, or an array of strings, as `aud` may be.
    pub(crate) fn one_or_many(&self, name: &'static str) -> Result<Vec<&str>, ClaimError> {
        match self.value(name)? {
            Value::String(_) => Ok(vec![self.string(name)?]),
            Value::Array(_) => self.strings(name),
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
        let Value::Array(values) = self.value(name)? else { return Err(wrong) };
        if values.len() > CLAIM_VALUES_MAX {
            return Err(ClaimError::TooMany { name, values: values.len() });
        }
        values
            .iter()
            .map(|value| value.as_str().filter(|text| !text.is_empty()).ok_or(wrong.clone()))
            .collect()
    }

    pub(crate) fn object(&self, name: &'static str) -> Result<Claims, ClaimError> {
        match self.value(name)? {
            Value::Object(map) => Ok(Self(map.clone())),
            _ => Err(ClaimError::WrongType { name, want: "an object" }),
        }
    }

    /// Its members, where the names are data.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Is there such a member, whatever its value? `null` is a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The same without one of its members.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// The object as JSON text again, for a reader of its own such as that of keys.
    pub(crate) fn to_json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }

    /// All members, for a format whose fields come in several encodings.
    pub(crate) const fn members(&self) -> &Map<String, Value> {
        &self.0
    }

    fn value(&self, name: &'static str) -> Result<&Value, ClaimError> {
        self.0.get(name).ok_or(ClaimError::Missing { name })
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
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inside)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(self.refuse(ClaimError::Duplicate { name: printable(&name) }));
            }
            let value = map.next_value_seed(inside)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
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
