//! Version 1: packets of `LLLL name value\n`, the length in four hexadecimal digits and counting itself.

use std::borrow::Cow;

use super::{
    FIELD_BYTES_MAX, Macaroon, MacaroonFormatError,
    format::{Parts, push_caveat, text, within_limit},
};

/// Reads packets.
///
/// # Errors
/// Anything but `location`, `identifier`, caveats of `cid` or `cid vid cl`, and `signature`, in this order and with nothing
/// after it.
pub fn read(bytes: &[u8]) -> Result<Macaroon<'_>, MacaroonFormatError> {
    within_limit(bytes)?;
    let mut packets = Packets(bytes);
    let location = packets.expect("location")?;
    let identifier = packets.expect("identifier")?;
    let (mut caveats, mut next) = (Vec::new(), packets.next()?);
    while let (b"cid", id) = next {
        next = packets.next()?;
        let (mut verification_id, mut discharger) = (None, None);
        if let (b"vid", value) = next {
            verification_id = Some(Cow::Borrowed(value));
            discharger = Some(Cow::Borrowed(text(packets.expect("cl")?)?));
            next = packets.next()?;
        }
        push_caveat(&mut caveats, Cow::Borrowed(id), discharger, verification_id)?;
    }
    let (b"signature", signature) = next else {
        return Err(MacaroonFormatError::UnexpectedField { want: "a caveat or the signature" });
    };
    if !packets.0.is_empty() {
        return Err(MacaroonFormatError::TrailingBytes { bytes: packets.0.len() });
    }
    Parts {
        location: Cow::Borrowed(text(location)?),
        identifier: Cow::Borrowed(identifier),
        caveats,
        signature: Cow::Borrowed(signature),
    }
    .assemble()
}

/// Writes packets.
#[must_use]
pub fn write(macaroon: &Macaroon<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, "location", macaroon.location.as_bytes());
    put(&mut bytes, "identifier", &macaroon.identifier);
    for caveat in &macaroon.caveats {
        put(&mut bytes, "cid", &caveat.id);
        if let Some(third) = &caveat.third_party {
            put(&mut bytes, "vid", &third.verification_id);
            put(&mut bytes, "cl", third.location.as_bytes());
        }
    }
    put(&mut bytes, "signature", macaroon.tag.bytes());
    bytes
}

struct Packets<'a>(&'a [u8]);

impl<'a> Packets<'a> {
    fn expect(&mut self, name: &'static str) -> Result<&'a [u8], MacaroonFormatError> {
        match self.next()? {
            (found, value) if found == name.as_bytes() => Ok(value),
            _ => Err(MacaroonFormatError::UnexpectedField { want: name }),
        }
    }

    /// Name and value of the next packet.
    fn next(&mut self) -> Result<(&'a [u8], &'a [u8]), MacaroonFormatError> {
        let digits = self.0.first_chunk::<4>().ok_or(MacaroonFormatError::Truncated)?;
        let length = digits.iter().try_fold(0_usize, |sum, digit| match digit {
            b'0'..=b'9' => Ok(sum * 16 + usize::from(digit - b'0')),
            b'a'..=b'f' => Ok(sum * 16 + usize::from(digit - b'a' + 10)),
            _ => Err(MacaroonFormatError::BadLength),
        })?;
        let (packet, rest) = self.0.split_at_checked(length).ok_or(MacaroonFormatError::Truncated)?;
        let body = packet.get(4..).ok_or(MacaroonFormatError::BadLength)?;
        let body = body.strip_suffix(b"\n").ok_or(MacaroonFormatError::BadLength)?;
        let space = body.iter().position(|byte| *byte == b' ');
        let want = "a name and a value";
        let space = space.ok_or(MacaroonFormatError::UnexpectedField { want })?;
        let (name, value) = body.split_at(space);
        self.0 = rest;
        Ok((name, value.get(1..).unwrap_or_default()))
    }
}

fn put(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    // Four digits hold the longest field with room to spare.
    const _: () = assert!(FIELD_BYTES_MAX + 32 < 0xffff);
    let length = 4 + name.len() + 1 + value.len() + 1;
    bytes.extend_from_slice(format!("{length:04x}{name} ").as_bytes());
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}
