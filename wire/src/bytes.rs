//! Bytes inside JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes that JSON carries as standard base64 with padding (RFC 4648 section 4), as `x5c` does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Base64(pub Vec<u8>);

impl Base64 {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The text as it stands in JSON.
    #[must_use]
    pub fn to_text(&self) -> String {
        STANDARD.encode(&self.0)
    }
}

impl From<Vec<u8>> for Base64 {
    fn from(bytes: Vec<u8>) -> Base64 {
        Base64(bytes)
    }
}

impl From<&[u8]> for Base64 {
    fn from(bytes: &[u8]) -> Base64 {
        Base64(bytes.to_vec())
    }
}

impl AsRef<[u8]> for Base64 {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Base64).map_err(|_| de::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_survive_json() {
        let bytes = Base64(vec![0, 255, 62, 63]);
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!(json, "\"AP8+Pw==\"");
        assert_eq!(serde_json::from_str::<Base64>(&json).unwrap(), bytes);
    }

    #[test]
    fn rejects_the_other_alphabet_missing_padding_and_loose_bits() {
        for bad in ["\"AP8-Pw==\"", "\"AP8+Pw\"", "\"AP8+Px==\"", "\"AP8+ Pw==\"", "7"] {
            assert!(serde_json::from_str::<Base64>(bad).is_err(), "{bad}");
        }
    }
}
