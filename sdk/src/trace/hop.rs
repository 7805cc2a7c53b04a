//! `traceparent` (W3C Trace Context section 3.2), read and written.

use std::{fmt, num::NonZeroU64};

use countersign_keys::{SystemRandom, random_bytes};
use countersign_request::Head;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    observer::{records_spans, samples},
    state::{TRACESTATE, is_well_formed},
};

/// The header that names trace and span.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// 128 bits, never all zero; as text, 32 lower-case hexadecimal digits. A label, not a proof.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// 64 bits, never all zero; as text, 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

/// One hop of a trace: where it came from, and what the next hop is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    trace: TraceId,
    parent: Option<SpanId>,
    span: SpanId,
    is_sampled: bool,
    keeps_state: bool,
}

/// A hop with the `tracestate` that came along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    hop: Hop,
    state: Option<HeaderValue>,
}

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace: TraceId,
    span: SpanId,
    is_sampled: bool,
}

impl TraceId {
    /// Of random bits.
    #[must_use]
    pub fn from_random(bits: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bits).max(1).to_be_bytes())
    }

    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self::from_random(random_bytes(&SystemRandom::new()).unwrap_or_default())
    }

    /// As it goes over the wire of collectors.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its number.
    pub(crate) const fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl SpanId {
    /// Of random bits.
    #[must_use]
    pub fn from_random(bits: [u8; 8]) -> Self {
        Self(NonZeroU64::new(u64::from_be_bytes(bits)).unwrap_or(NonZeroU64::MIN))
    }

    /// As it goes over the wire of collectors.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl Hop {
    /// Of what a request says, or the first of a new trace.
    #[must_use]
    pub fn of_request(headers: &HeaderMap) -> Self {
        let parent = Parent::of(values(headers, &TRACEPARENT));
        let keeps_state = is_well_formed(values(headers, &TRACESTATE));
        Self::after(parent, keeps_state, &|| random_bytes(&SystemRandom::new()).ok())
            .unwrap_or_else(Self::first)
    }

    /// The same for a borrowed head; `draw` gives bits that nobody had before. `None`: it has none to give.
    #[must_use]
    pub fn of_head(head: &impl Head, draw: &impl Fn() -> Option<[u8; 24]>) -> Option<Self> {
        let parent = Parent::of(head.header_values(&TRACEPARENT));
        Self::after(parent, is_well_formed(head.header_values(&TRACESTATE)), draw)
    }

    /// The first hop of a new trace.
    #[must_use]
    pub fn first() -> Self {
        Self::begun(random_bytes(&SystemRandom::new()).unwrap_or([1; 24]))
    }

    /// The same hop of the same trace, where the word of whoever sent the request does not count: whether it is recorded is
    /// decided here, as of a trace that begins here. `draw` as in [`Hop::of_head`].
    #[must_use]
    pub fn decided_here(self, draw: &impl Fn() -> Option<[u8; 24]>) -> Self {
        let Some(parent) = self.parent else { return self };
        let Some(bits) = draw() else { return Self { span: parent, is_sampled: false, ..self } };
        // A ratio looks at the lower half of the id, which the sender chose: by other bits nobody can ask to be recorded.
        let mut lot = self.trace.to_bytes();
        for (byte, drawn) in lot.iter_mut().zip(bits).skip(8) {
            *byte = drawn;
        }
        let is_sampled = samples(TraceId::from_bytes(lot));
        let span = if is_sampled && records_spans() { own_span(bits) } else { parent };
        Self { span, is_sampled, ..self }
    }

    /// Which trace.
    #[must_use]
    pub const fn trace(&self) -> TraceId {
        self.trace
    }

    /// The span that the request came from.
    #[must_use]
    pub const fn parent(&self) -> Option<SpanId> {
        self.parent
    }

    /// The span that the next hop came from: our own where we record it.
    #[must_use]
    pub const fn span(&self) -> SpanId {
        self.span
    }

    /// Does anybody record this trace?
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// Does the `tracestate` that came go on? One that is malformed, or belongs to no trace, does not.
    #[must_use]
    pub const fn keeps_state(&self) -> bool {
        self.keeps_state
    }

    /// The value of `traceparent` for the next hop.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_digits(&mut text, 3, &self.trace.to_bytes());
        write_digits(&mut text, 36, &self.span.to_bytes());
        write_digits(&mut text, 53, &[u8::from(self.is_sampled)]);
        text
    }

    fn after(
        parent: Option<Parent>,
        keeps_state: bool,
        draw: &impl Fn() -> Option<[u8; 24]>,
    ) -> Option<Self> {
        let Some(Parent { trace, span, is_sampled }) = parent else { return draw().map(Self::begun) };
        let own = if is_sampled && records_spans() { own_span(draw()?) } else { span };
        Some(Self { trace, parent: Some(span), span: own, is_sampled, keeps_state })
    }

    fn begun(bits: [u8; 24]) -> Self {
        let trace = TraceId::from_random(bits.first_chunk().copied().unwrap_or_default());
        let (span, is_sampled) = (own_span(bits), samples(trace));
        Self { trace, parent: None, span, is_sampled, keeps_state: false }
    }
}

impl TraceContext {
    /// Of what a request says, or a new one.
    #[must_use]
    pub fn of_request(headers: &HeaderMap) -> Self {
        let hop = Hop::of_request(headers);
        let state = if hop.keeps_state { joined(headers) } else { None };
        Self { hop, state }
    }

    /// The same for a request that this process only hands on, and records no span of.
    #[must_use]
    pub fn relayed(headers: &HeaderMap) -> Self {
        let mut relayed = Self::of_request(headers);
        relayed.hop.span = relayed.hop.parent.unwrap_or(relayed.hop.span);
        relayed
    }

    /// See [`Hop::decided_here`].
    #[must_use]
    pub fn decided_here(self) -> Self {
        Self { hop: self.hop.decided_here(&|| random_bytes(&SystemRandom::new()).ok()), ..self }
    }

    /// The hop.
    #[must_use]
    pub const fn hop(&self) -> Hop {
        self.hop
    }

    /// Says to the next hop which trace it is in.
    pub fn set(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_bytes(&self.hop.header()) {
            headers.insert(&TRACEPARENT, value);
        }
        match &self.state {
            Some(state) => drop(headers.insert(&TRACESTATE, state.clone())),
            None => drop(headers.remove(&TRACESTATE)),
        }
    }

    /// Of what was sealed for somebody else to keep.
    pub(crate) const fn of_parts(trace: [u8; 16], span: [u8; 8], is_sampled: bool) -> Option<Self> {
        let Some(span) = NonZeroU64::new(u64::from_be_bytes(span)) else { return None };
        let (trace, span) = (TraceId::from_bytes(trace), SpanId(span));
        let hop = Hop { trace, parent: Some(span), span, is_sampled, keeps_state: false };
        Some(Self { hop, state: None })
    }
}

/// Without what vendors say.
impl From<Hop> for TraceContext {
    fn from(hop: Hop) -> Self {
        Self { hop, state: None }
    }
}

impl Parent {
    /// The only one. Two are none (section 3.2: a vendor must not guess which is meant).
    fn of<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let value = values.next()?;
        if values.next().is_none() { Self::read(value) } else { None }
    }

    /// Version 00 to the letter; of a higher version the parts that it shares with 00 (section 3.2.4).
    fn read(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(HEADER_BYTES)?;
        let [version] = read_digits(head, 0)?;
        let ends_well =
            if version == 0 { rest.is_empty() } else { matches!(rest.first(), None | Some(b'-')) };
        let dashes = [2, 35, 52].iter().all(|place| head.get(*place) == Some(&b'-'));
        if version == 0xff || !ends_well || !dashes {
            return None;
        }
        let (trace, span) = (read_digits::<16>(head, 3)?, u64::from_be_bytes(read_digits(head, 36)?));
        let [flags] = read_digits(head, 53)?;
        let (span, is_sampled) = (SpanId(NonZeroU64::new(span)?), flags & SAMPLED != 0);
        (trace != [0; 16]).then_some(Self { trace: TraceId(trace), span, is_sampled })
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}

/// All lines as one.
fn joined(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(&TRACESTATE).iter();
    let (first, second) = (lines.next()?, lines.next());
    let Some(second) = second else { return Some(first.clone()) };
    let lines: Vec<&[u8]> = [first, second].into_iter().chain(lines).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&lines.join(&b","[..])).ok()
}

fn own_span(bits: [u8; 24]) -> SpanId {
    SpanId::from_random(bits.last_chunk().copied().unwrap_or_default())
}

fn write_digits(text: &mut [u8], place: usize, bytes: &[u8]) {
    for (pair, byte) in text.iter_mut().skip(place).zip(bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]))
    {
        *pair = if byte < 10 { b'0' + byte } else { b'a' + byte - 10 };
    }
}

/// `N` bytes in lower-case hexadecimal.
fn read_digits<const N: usize>(text: &[u8], place: usize) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.get(place..place + 2 * N)?.as_chunks::<2>().0) {
        let [high, low] = pair.map(|digit| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        });
        *byte = high? << 4 | low?;
    }
    Some(bytes)
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

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Version, trace, span and flags.
const HEADER_BYTES: usize = 55;
const SAMPLED: u8 = 1;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn sent(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn parent(value: &str) -> Option<Parent> {
        Parent::read(value.as_bytes())
    }

    #[test]
    fn a_trace_goes_on_at_the_next_hop_with_its_flag_and_its_state() {
        for flags in ["00", "01"] {
            let parent = format!("00-{TRACE}-{SPAN}-{flags}");
            let came = sent(&[("traceparent", &parent), ("tracestate", "a=1"), ("tracestate", "b=2")]);
            let context = TraceContext::of_request(&came);
            let mut goes = HeaderMap::new();
            context.set(&mut goes);
            // Nobody here records spans: the caller's is the parent of what comes next.
            assert_eq!(goes["traceparent"], parent);
            assert_eq!(goes["tracestate"], "a=1,b=2");
            assert_eq!(
                (context.hop().trace().to_string(), context.hop().is_sampled()),
                (TRACE.to_owned(), flags == "01")
            );
            assert_eq!(context.hop().parent().unwrap().to_string(), SPAN);
        }
    }

    #[test]
    fn a_trace_that_begins_here_has_no_parent_and_no_state() {
        let context = TraceContext::of_request(&sent(&[("tracestate", "a=1")]));
        let mut headers = sent(&[("tracestate", "a=1"), ("traceparent", "what the client said")]);
        context.set(&mut headers);
        assert_eq!(context.hop().parent(), None);
        assert!(!headers.contains_key("tracestate"));
        let next = Hop::of_request(&headers);
        assert_eq!((next.trace(), next.parent()), (context.hop().trace(), Some(context.hop().span())));
        assert_ne!(Hop::first().trace(), Hop::first().trace());
    }

    #[test]
    fn the_header_of_the_next_hop_names_trace_span_and_flag() {
        let bits: [u8; 24] = std::array::from_fn(|place| if place < 16 { 0xab } else { 0x1f });
        let mut hop = Hop::begun(bits);
        assert_eq!(hop.header(), *b"00-abababababababababababababababab-1f1f1f1f1f1f1f1f-01");
        hop.is_sampled = false;
        assert_eq!(hop.header(), *b"00-abababababababababababababababab-1f1f1f1f1f1f1f1f-00");
    }

    #[test]
    fn of_a_higher_version_the_first_four_fields_are_read() {
        let zero = parent(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(parent(&format!("01-{TRACE}-{SPAN}-01")), Some(zero));
        assert_eq!(parent(&format!("cc-{TRACE}-{SPAN}-ff-what-the-future-holds")), Some(zero));
        assert_eq!(parent(&format!("cc-{TRACE}-{SPAN}-01.what")), None);
        assert_eq!(parent(&format!("00-{TRACE}-{SPAN}-01-what-the-future-holds")), None);
    }

    #[test]
    fn a_traceparent_that_is_none_begins_a_new_trace_and_drops_the_state() {
        let zeros = "0".repeat(32);
        let bad = [
            String::new(),
            "00-1-2-3".to_owned(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0F-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0X"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01 "),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}"),
        ];
        for bad in bad {
            assert_eq!(parent(&bad), None, "{bad}");
            let context = TraceContext::of_request(&sent(&[("traceparent", &bad), ("tracestate", "a=1")]));
            assert_eq!((context.hop().parent(), context.state), (None, None), "{bad}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        let twice = TraceContext::of_request(&sent(&[("traceparent", &good), ("traceparent", &good)]));
        assert_eq!(twice.hop().parent(), None);
    }

    #[test]
    fn a_tracestate_that_is_malformed_is_dropped_and_the_trace_goes_on() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        for bad in ["a", "a=1,a=2", &"x".repeat(600)] {
            let context = TraceContext::of_request(&sent(&[("traceparent", &parent), ("tracestate", bad)]));
            assert_eq!((context.hop().trace().to_string(), context.state), (TRACE.to_owned(), None), "{bad}");
        }
    }
}
