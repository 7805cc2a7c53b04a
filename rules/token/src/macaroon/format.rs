//! What the three serialisations have in common, and how to tell them apart.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD},
};

use super::{
    CAVEATS_MAX, Caveat, FIELD_BYTES_MAX, MACAROON_BYTES_MAX, Macaroon, Tag, ThirdParty, binary,
    chain::TAG_BYTES, json, packets,
};
use crate::ClaimError;

/// Reads a macaroon in any of its forms: v1 packets, v2 binary, either of them in base64 (also twice, as libmacaroons writes
/// v1), or v2 JSON. For people and their tools; on the wire between services there is [one form](super::service).
///
/// # Errors
/// It is none of these, or not a good one.
pub fn read_any(text: &[u8]) -> Result<Macaroon<'static>, MacaroonFormatError> {
    let mut bytes = Cow::Borrowed(text);
    for _ in 0..=BASE64_LAYERS_MAX {
        // Each layer of base64 makes a third more of it.
        if bytes.len() > 2 * MACAROON_BYTES_MAX {
            return Err(MacaroonFormatError::TooLarge { bytes: bytes.len() });
        }
        if bytes.first() == Some(&2) {
            return binary::read(&bytes).map(Macaroon::into_owned);
        }
        if bytes.get(4..).is_some_and(|rest| rest.starts_with(b"location ")) {
            return packets::read(&bytes).map(Macaroon::into_owned);
        }
        // Only around text is white space nothing: a signature may end in it.
        let text = bytes.trim_ascii();
        if text.starts_with(b"{") {
            return json::read(text);
        }
        bytes = Cow::Owned(decode_base64(text).ok_or(MacaroonFormatError::Unknown)?);
    }
    Err(MacaroonFormatError::Unknown)
}

/// Canonical base64url without padding: the form in which we write.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Either alphabet, with or without padding, as the format's description allows; stray bits are refused all the same.
pub(crate) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let engine = if text.iter().any(|c| matches!(c, b'+' | b'/')) { ANY_STANDARD } else { ANY_URL_SAFE };
    engine.decode(text).ok()
}

/// Puts the parts together that a reader found.
pub(crate) struct Parts<'a> {
    pub(crate) location: Cow<'a, str>,
    pub(crate) identifier: Cow<'a, [u8]>,
    pub(crate) caveats: Vec<Caveat<'a>>,
    pub(crate) signature: Cow<'a, [u8]>,
}

impl<'a> Parts<'a> {
    pub(crate) fn assemble(self) -> Result<Macaroon<'a>, MacaroonFormatError> {
        let tag = <[u8; TAG_BYTES]>::try_from(&*self.signature);
        let tag = tag.map_err(|_| MacaroonFormatError::SignatureLength { bytes: self.signature.len() })?;
        Ok(Macaroon {
            location: self.location,
            identifier: field("identifier", self.identifier)?,
            caveats: self.caveats,
            tag: Tag::of(tag),
        })
    }
}

/// Appends a caveat that a reader found.
pub(crate) fn push_caveat<'a>(
    caveats: &mut Vec<Caveat<'a>>,
    id: Cow<'a, [u8]>,
    location: Option<Cow<'a, str>>,
    verification_id: Option<Cow<'a, [u8]>>,
) -> Result<(), MacaroonFormatError> {
    if caveats.len() >= CAVEATS_MAX {
        return Err(MacaroonFormatError::TooManyCaveats);
    }
    let third_party = match (location, verification_id) {
        (location, Some(id)) => Some(ThirdParty {
            location: location.unwrap_or_default(),
            verification_id: field("verification id", id)?,
        }),
        // An empty one says nothing, and pymacaroons writes it.
        (Some(location), None) if !location.is_empty() => return Err(MacaroonFormatError::LocationAlone),
        _ => None,
    };
    caveats.push(Caveat { id: field("caveat", id)?, third_party });
    Ok(())
}

pub(crate) fn text(bytes: &[u8]) -> Result<&str, MacaroonFormatError> {
    std::str::from_utf8(bytes).map_err(|_| MacaroonFormatError::NotText { field: "location" })
}

pub(crate) fn within_limit(bytes: &[u8]) -> Result<(), MacaroonFormatError> {
    if bytes.len() > MACAROON_BYTES_MAX {
        return Err(MacaroonFormatError::TooLarge { bytes: bytes.len() });
    }
    Ok(())
}

fn field<'a>(field: &'static str, bytes: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, MacaroonFormatError> {
    match bytes.len() {
        0 => Err(MacaroonFormatError::Empty { field }),
        1..=FIELD_BYTES_MAX => Ok(bytes),
        bytes => Err(MacaroonFormatError::FieldTooLong { field, bytes }),
    }
}

/// Why bytes are no macaroon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacaroonFormatError {
    /// Over [`MACAROON_BYTES_MAX`].
    #[error("the macaroon has {bytes} bytes, at most {MACAROON_BYTES_MAX} are allowed")]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// None of the three serialisations.
    #[error("this is no macaroon: neither v1 packets, nor v2 binary or JSON, nor base64 of them")]
    Unknown,
    /// The bytes end inside a field, or a length leads beyond them.
    #[error("the macaroon ends in the middle; copy it whole")]
    Truncated,
    /// A length that nobody would write: not four lower-case hexadecimal digits, or a number in more bytes than it needs.
    #[error("a length in the macaroon is not in its one canonical form")]
    BadLength,
    /// A field out of order, unknown, or twice.
    #[error("the macaroon has an unexpected field where {want} should be")]
    UnexpectedField {
        /// What should be there.
        want: &'static str,
    },
    /// Bytes after the signature.
    #[error("the macaroon has {bytes} bytes after its signature")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// A location is not UTF-8.
    #[error("the macaroon's {field} is not UTF-8")]
    NotText {
        /// Which part.
        field: &'static str,
    },
    /// A part that must not be empty is.
    #[error("the macaroon's {field} is empty")]
    Empty {
        /// Which part.
        field: &'static str,
    },
    /// Over [`FIELD_BYTES_MAX`].
    #[error("the macaroon's {field} has {bytes} bytes, at most {FIELD_BYTES_MAX} are allowed")]
    FieldTooLong {
        /// Which part.
        field: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// Over [`CAVEATS_MAX`].
    #[error("the macaroon has more than {CAVEATS_MAX} caveats")]
    TooManyCaveats,
    /// A first-party caveat with a location.
    #[error("a caveat names a discharger but has no verification id")]
    LocationAlone,
    /// Not 32 bytes.
    #[error("the macaroon's signature has {bytes} bytes instead of {TAG_BYTES}")]
    SignatureLength {
        /// How long it is.
        bytes: usize,
    },
    /// Not the JSON of a macaroon.
    #[error("the macaroon's JSON is not acceptable: {0}")]
    Json(#[from] ClaimError),
    /// A field in two encodings (`i` and `i64`), which readers may choose between as they like.
    #[error("the macaroon's JSON has both {field} and {field}64")]
    TwoEncodings {
        /// Which field.
        field: &'static str,
    },
    /// A field that is not base64 although its name says so.
    #[error("the macaroon's JSON field {field}64 is not base64")]
    NotBase64 {
        /// Which field.
        field: &'static str,
    },
    /// JSON of another version.
    #[error("the macaroon's JSON is not of version 2")]
    WrongVersion,
}

const BASE64_LAYERS_MAX: usize = 2;
const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const ANY_URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);
const ANY_STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
