//! The W3C trace id that joins the hops of one call.

use std::fmt;

use countersign_keys::{SystemRandom, random_bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Version, trace, span and flags.
const HEADER_BYTES: usize = 55;
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// 128 bits, never all zero; as text, 32 lower-case hexadecimal digits. A label, not a proof.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// Of the request's `traceparent` (W3C Trace Context section 3.2), or a new one.
    #[must_use]
    pub fn of_request(headers: &HeaderMap) -> Self {
        let sent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(Self::parse);
        sent.unwrap_or_else(Self::random)
    }

    /// Of the value of `traceparent`, if there is one and it is one.
    #[must_use]
    pub fn of_value(traceparent: Option<&[u8]>) -> Option<Self> {
        Self::parse(std::str::from_utf8(traceparent?).ok()?)
    }

    /// Of random bits.
    #[must_use]
    pub fn from_random(bits: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bits).max(1).to_be_bytes())
    }

    /// The value of `traceparent` for the next hop, which is the span of this number.
    #[must_use]
    pub fn header(self, span: u64) -> [u8; HEADER_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        let digits = |number: u128, place: usize, count: usize| {
            let digit = u32::try_from((number >> (4 * (count - 1 - place))) & 0xf).unwrap_or_default();
            char::from_digit(digit, 16).map_or(b'0', |digit| digit as u8)
        };
        for (place, byte) in text.iter_mut().skip(3).take(32).enumerate() {
            *byte = digits(self.number(), place, 32);
        }
        for (place, byte) in text.iter_mut().skip(36).take(16).enumerate() {
            *byte = digits(u128::from(span.max(1)), place, 16);
        }
        text
    }

    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let random = random_bytes(&SystemRandom::new()).map_or(1, u128::from_be_bytes).max(1);
        Self(random.to_be_bytes())
    }

    fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let well_formed = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16);
        let id = u128::from_str_radix(trace, 16).ok()?;
        (well_formed && id != 0).then_some(Self(id.to_be_bytes()))
    }

    pub(crate) const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its number.
    pub(crate) const fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// Sets `traceparent` for the next hop.
    pub fn set(self, headers: &mut HeaderMap) {
        let span = random_bytes(&SystemRandom::new()).map_or(1, u64::from_be_bytes).max(1);
        if let Ok(value) = HeaderValue::from_bytes(&self.header(span)) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.number())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_trace_goes_on_at_the_next_hop() {
        let mut headers = HeaderMap::new();
        let trace = TraceId::random();
        trace.set(&mut headers);
        assert_eq!(TraceId::of_request(&headers), trace);
    }

    #[test]
    fn the_header_of_the_next_hop_names_trace_and_span() {
        let trace = TraceId::from_random([0xab; 16]);
        assert_eq!(trace.header(0x1f), *b"00-abababababababababababababababab-000000000000001f-01");
        assert_eq!(TraceId::of_value(Some(&trace.header(7))), Some(trace));
        assert_eq!(TraceId::of_value(Some(b"\xff")), None);
        assert_eq!(TraceId::of_value(None), None);
    }

    #[test]
    fn a_traceparent_that_is_none_begins_a_new_trace() {
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let upper = "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01";
        for bad in ["", "00-1-2-3", zero, upper, "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
            assert_eq!(TraceId::parse(bad), None, "{bad}");
        }
    }
}
