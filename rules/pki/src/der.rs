//! A strict DER reader (X.690), for lists too long to be built as objects: it borrows, allocates nothing and
//! accepts definite, minimal lengths only.

use countersign_identity::UnixTime;
use time::{Date, Month, OffsetDateTime, Time};

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// One element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// Tag, length and content.
    pub(crate) whole: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self) -> Option<Element<'a>> {
        let (tag, after_tag) = self.rest.split_first()?;
        let (length, after_length) = length(after_tag)?;
        let (content, rest) = after_length.split_at_checked(length)?;
        let whole = self.rest.get(..self.rest.len() - rest.len())?;
        self.rest = rest;
        Some(Element { tag: *tag, content, whole })
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn read(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.element(tag).map(|element| element.content)
    }

    /// The next element, which must have this tag. Reads nothing if it has another.
    pub(crate) fn element(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.rest.first() == Some(&tag) { self.any() } else { None }
    }

    /// UTCTime or GeneralizedTime in the only forms of RFC 5280 section 4.1.2.5: in UTC, with seconds.
    pub(crate) fn time(&mut self) -> Option<UnixTime> {
        let element = self.any()?;
        let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = match (element.tag, text.len()) {
            (UTC_TIME, 12) => {
                let (year, rest) = text.split_at_checked(2)?;
                let year: i32 = year.parse().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, rest)
            }
            (GENERALIZED_TIME, 14) => {
                let (year, rest) = text.split_at_checked(4)?;
                (year.parse().ok()?, rest)
            }
            _ => return None,
        };
        let two = |at: usize| rest.get(at..at + 2)?.parse::<u8>().ok();
        let date = Date::from_calendar_date(year, Month::try_from(two(0)?).ok()?, two(2)?).ok()?;
        let time = Time::from_hms(two(4)?, two(6)?, two(8)?).ok()?;
        Some(UnixTime::from_secs(OffsetDateTime::new_utc(date, time).unix_timestamp()))
    }
}

/// An INTEGER's content that is positive and minimal, without its sign octet.
pub(crate) fn positive(content: &[u8]) -> Option<&[u8]> {
    match content {
        [0] | [] => None,
        [0, second, ..] if second & 0x80 == 0 => None,
        [first, ..] if first & 0x80 != 0 => None,
        [0, rest @ ..] => Some(rest),
        all => Some(all),
    }
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    if *first < 0x80 {
        return Some((usize::from(*first), rest));
    }
    let count = usize::from(first & 0x7f);
    if !(1..=4).contains(&count) {
        return None;
    }
    let (octets, rest) = rest.split_at_checked(count)?;
    let value = octets.iter().fold(0_usize, |sum, octet| sum << 8 | usize::from(*octet));
    let minimal = value >= 0x80 && octets.first() != Some(&0);
    minimal.then_some((value, rest))
}

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
/// `[0]`, explicit.
pub(crate) const CONTEXT_0: u8 = 0xa0;
/// `[0]`, implicit over a primitive type.
pub(crate) const CONTEXT_0_PRIMITIVE: u8 = 0x80;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_an_element_and_leaves_the_rest() {
        let mut reader = Reader::new(&[0x04, 0x01, 0xaa, 0x05, 0x00]);
        assert_eq!(reader.element(INTEGER).map(|e| e.tag), None);
        assert_eq!(reader.read(OCTET_STRING), Some(&[0xaa][..]));
        assert_eq!(reader.any().unwrap().whole, [0x05, 0x00]);
        assert!(reader.is_empty());
    }

    #[test]
    fn refuses_indefinite_padded_and_overlong_lengths() {
        for bytes in
            [&[0x04, 0x80, 0, 0][..], &[0x04, 0x81, 0x01, 0xaa], &[0x04, 0x82, 0x00, 0x81], &[0x04, 0x05, 1]]
        {
            assert!(Reader::new(bytes).any().is_none(), "{bytes:02x?}");
        }
        assert!(Reader::new(&[0x04, 0x85, 1, 1, 1, 1, 1, 0]).any().is_none());
    }

    #[test]
    fn reads_both_kinds_of_time_and_refuses_fractions_and_offsets() {
        let read = |tag: u8, text: &str| {
            let bytes = [&[tag, text.len() as u8][..], text.as_bytes()].concat();
            Reader::new(&bytes).time()
        };
        assert_eq!(read(UTC_TIME, "700101000001Z"), Some(UnixTime::from_secs(1)));
        assert_eq!(read(GENERALIZED_TIME, "20500101000000Z"), Some(UnixTime::from_secs(2_524_608_000)));
        for bad in ["7001010000Z", "700101000000", "700101000000+0100", "701301000000Z", "7001010000.0Z"] {
            assert_eq!(read(UTC_TIME, bad), None, "{bad}");
        }
        assert_eq!(read(GENERALIZED_TIME, "20500101000000.5Z"), None);
    }

    #[test]
    fn only_minimal_positive_integers_are_positive() {
        assert_eq!(positive(&[0x00, 0x80]), Some(&[0x80][..]));
        assert_eq!(positive(&[0x7f, 0x00]), Some(&[0x7f, 0x00][..]));
        for bad in [&[][..], &[0], &[0x80], &[0, 0x7f]] {
            assert_eq!(positive(bad), None);
        }
    }
}
