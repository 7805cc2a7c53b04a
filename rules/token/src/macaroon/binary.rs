//! Version 2, binary: fields of type, length and content, both numbers as varints; a zero ends each group. The form on the wire
//! between services.

use std::borrow::Cow;

use super::{
    Macaroon, MacaroonFormatError,
    format::{Parts, push_caveat, text, within_limit},
};

/// Reads the binary form. Nothing is copied.
///
/// # Errors
/// Anything but version, `[location] identifier 0 ([location] identifier [vid] 0)* 0 signature`, every number in its shortest form
/// and nothing after it.
pub fn read(bytes: &[u8]) -> Result<Macaroon<'_>, MacaroonFormatError> {
    within_limit(bytes)?;
    let [VERSION, fields @ ..] = bytes else { return Err(MacaroonFormatError::Unknown) };
    let mut fields = Fields(fields);
    let location = fields.take(LOCATION)?.map(text).transpose()?;
    let identifier = fields.take(IDENTIFIER)?.ok_or(unexpected("the identifier"))?;
    fields.end_of_group("the end of the head")?;
    // Sparing the growth of a list that nearly always has a handful.
    let mut caveats = Vec::with_capacity(8);
    while fields.0.first() != Some(&END) {
        let location = fields.take(LOCATION)?.map(text).transpose()?;
        let id = fields.take(IDENTIFIER)?.ok_or(unexpected("a caveat"))?;
        let verification_id = fields.take(VERIFICATION_ID)?.map(Cow::Borrowed);
        fields.end_of_group("the end of a caveat")?;
        push_caveat(&mut caveats, Cow::Borrowed(id), location.map(Cow::Borrowed), verification_id)?;
    }
    fields.end_of_group("the end of the caveats")?;
    let signature = fields.take(SIGNATURE)?.ok_or(unexpected("the signature"))?;
    if !fields.0.is_empty() {
        return Err(MacaroonFormatError::TrailingBytes { bytes: fields.0.len() });
    }
    Parts {
        location: Cow::Borrowed(location.unwrap_or_default()),
        identifier: Cow::Borrowed(identifier),
        caveats,
        signature: Cow::Borrowed(signature),
    }
    .assemble()
}

/// Writes the binary form.
#[must_use]
pub fn write(macaroon: &Macaroon<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.push(VERSION);
    put_unless_empty(&mut bytes, LOCATION, macaroon.location.as_bytes());
    put(&mut bytes, IDENTIFIER, &macaroon.identifier);
    bytes.push(END);
    for caveat in &macaroon.caveats {
        if let Some(third) = &caveat.third_party {
            put_unless_empty(&mut bytes, LOCATION, third.location.as_bytes());
        }
        put(&mut bytes, IDENTIFIER, &caveat.id);
        if let Some(third) = &caveat.third_party {
            put(&mut bytes, VERIFICATION_ID, &third.verification_id);
        }
        bytes.push(END);
    }
    bytes.push(END);
    put(&mut bytes, SIGNATURE, macaroon.tag.bytes());
    bytes
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The content of the next field if it is of this type.
    fn take(&mut self, kind: u8) -> Result<Option<&'a [u8]>, MacaroonFormatError> {
        // Types are below 128, so their varint is one byte.
        let Some((_, rest)) = self.0.split_first().filter(|(found, _)| **found == kind) else {
            return if self.0.is_empty() { Err(MacaroonFormatError::Truncated) } else { Ok(None) };
        };
        let (length, rest) = varint(rest)?;
        let (content, rest) = rest.split_at_checked(length).ok_or(MacaroonFormatError::Truncated)?;
        self.0 = rest;
        Ok(Some(content))
    }

    fn end_of_group(&mut self, want: &'static str) -> Result<(), MacaroonFormatError> {
        match self.0.split_first() {
            Some((&END, rest)) => {
                self.0 = rest;
                Ok(())
            }
            Some(_) => Err(unexpected(want)),
            None => Err(MacaroonFormatError::Truncated),
        }
    }
}

/// Lengths here need at most two bytes: `MACAROON_BYTES_MAX` is less than 2^14.
fn varint(bytes: &[u8]) -> Result<(usize, &[u8]), MacaroonFormatError> {
    match bytes {
        [low @ 0..=0x7f, rest @ ..] => Ok((usize::from(*low), rest)),
        [low, high @ 1..=0x7f, rest @ ..] => Ok((usize::from(low & 0x7f) | usize::from(*high) << 7, rest)),
        [_, 0, ..] => Err(MacaroonFormatError::BadLength),
        _ => Err(MacaroonFormatError::Truncated),
    }
}

fn put_unless_empty(bytes: &mut Vec<u8>, kind: u8, content: &[u8]) {
    if !content.is_empty() {
        put(bytes, kind, content);
    }
}

fn put(bytes: &mut Vec<u8>, kind: u8, content: &[u8]) {
    bytes.push(kind);
    let mut length = content.len();
    while length > 0x7f {
        bytes.push(0x80 | u8::try_from(length & 0x7f).unwrap_or(0));
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or(0));
    bytes.extend_from_slice(content);
}

fn unexpected(want: &'static str) -> MacaroonFormatError {
    MacaroonFormatError::UnexpectedField { want }
}

const VERSION: u8 = 2;
const LOCATION: u8 = 1;
const IDENTIFIER: u8 = 2;
const VERIFICATION_ID: u8 = 4;
const SIGNATURE: u8 = 6;
const END: u8 = 0;
