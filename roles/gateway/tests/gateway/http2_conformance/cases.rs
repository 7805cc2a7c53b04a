//! What a client may not do, one case after the other, in the order of RFC 9113 (and RFC 7541 for header blocks).
//!
//! What is wrong asks for [`BAD`], what is right for [`GOOD`], and [`SLOW`] is never answered.

use crate::rig::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITISED, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, field, frame, parameters,
};

/// Bytes that a client sends after its preface, and what has to come of them.
pub(super) struct Case {
    /// Section of RFC 9113, unless it says otherwise.
    pub(super) section: &'static str,
    pub(super) what: &'static str,
    pub(super) steps: Vec<Step>,
    pub(super) comes: Comes,
}

pub(super) enum Step {
    Send(Vec<u8>),
    /// Wait until this stream is answered to its end.
    Answered(u32),
}

/// What comes of it. After all but the last, the connection serves the next request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Comes {
    /// The answer of the service.
    Served,
    /// A refusal in HTTP, or the end of the stream or connection as malformed (section 8.1.1).
    Refused,
    /// One of these error codes for the stream, or for the connection, which a server may always choose (section 5.4.2).
    Stream(&'static [u32]),
    /// One of these error codes for the connection, which ends.
    Connection(&'static [u32]),
}

use Comes::{Connection, Refused, Served, Stream};
use Step::{Answered, Send};

pub(super) const GOOD: &str = "/open/good";
pub(super) const BAD: &str = "/open/bad";
pub(super) const SLOW: &str = "/open/slow";

// Section 7.
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;

pub(super) fn all() -> Vec<Case> {
    let chapters =
        [frames, streams, of_each_type, settings, windows, continuations, fields, targets, lengths, blocks];
    chapters.iter().flat_map(|chapter| chapter()).collect()
}

/// Section 4: frames.
fn frames() -> Vec<Case> {
    let (post, get) = (post(1, GOOD), get(1, GOOD));
    let reserved = [&get[..5], &[0x80, 0, 0, 1], &get[9..]].concat();
    let half = frame(HEADERS, END_STREAM, 1, &block(GOOD));
    let large = field("x-large", &"x".repeat(16 * 1024));
    vec![
        case("4.1", "a frame of unknown type", [frame(0xee, 0xff, 0, b"12345678"), get.clone()], Served),
        case("4.1", "flags that mean nothing", [frame(PING, 0xfe, 0, &[7; 8]), get.clone()], Served),
        case("4.1", "the reserved bit", [reserved], Served),
        case("4.2", "as much data as a frame may hold", [post.clone(), data(1, &[0; 16_384])], Served),
        case("4.2", "more data than that", [post, data(1, &[0; 16_385])], Stream(&[FRAME_SIZE])),
        case(
            "4.2",
            "more fields than that",
            [asks(&[block(BAD), large].concat())],
            Connection(&[FRAME_SIZE]),
        ),
        case(
            "4.2",
            "more settings than that",
            [frame(SETTINGS, 0, 0, &parameters(&[(0xee, 0); 2731]))],
            Connection(&[FRAME_SIZE]),
        ),
        case("4.3", "a block that ends in a string", [asks(&[0, 9, b'x'])], Connection(&[COMPRESSION])),
        case(
            "4.3",
            "another frame within a block",
            [half.clone(), frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]), frame(CONTINUATION, END_HEADERS, 1, &[])],
            Connection(&[PROTOCOL]),
        ),
        case(
            "4.3",
            "another stream within a block",
            [half.clone(), frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(BAD))],
            Connection(&[PROTOCOL]),
        ),
        case(
            "5.5",
            "an unknown frame within a block",
            [half, frame(0xee, 0, 1, &[])],
            Connection(&[PROTOCOL]),
        ),
    ]
}

/// Section 5: the states of a stream, and its number.
fn streams() -> Vec<Case> {
    let end_of_block = frame(CONTINUATION, END_HEADERS, 1, &field("x-late", "1"));
    let reset = frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    let taken_back = |then: Vec<u8>| [get(1, SLOW), reset.clone(), then];
    let answered = |what, then: Vec<u8>, comes| Case {
        section: "5.1",
        what,
        steps: vec![Send(get(1, GOOD)), Answered(1), Send(then)],
        comes,
    };
    let closed = &[STREAM_CLOSED, PROTOCOL];
    let idle = |what, frame| case("5.1", what, [frame], Connection(&[PROTOCOL]));
    vec![
        idle("data for an idle stream", data(1, b"x")),
        idle("an idle stream is taken back", reset.clone()),
        idle("a window for an idle stream", window(1, 1)),
        idle("the rest of a block for an idle stream", end_of_block.clone()),
        case("5.1", "data after the end", [get(1, SLOW), data(1, b"x")], Stream(&[STREAM_CLOSED])),
        case("5.1", "a second head after the end", [get(1, SLOW), get(1, BAD)], Stream(&[STREAM_CLOSED])),
        case(
            "5.1",
            "more of a block after the end",
            [get(1, SLOW), end_of_block.clone()],
            Connection(closed),
        ),
        case("5.1", "data for what was taken back", taken_back(data(1, b"x")), Stream(&[STREAM_CLOSED])),
        case("5.1", "a head for what was taken back", taken_back(get(1, BAD)), Stream(&[STREAM_CLOSED])),
        case(
            "5.1",
            "more of a block after taking back",
            taken_back(end_of_block.clone()),
            Connection(closed),
        ),
        answered("data after the answer", data(1, b"x"), Stream(&[STREAM_CLOSED])),
        answered("a second head after the answer", get(1, BAD), Stream(&[STREAM_CLOSED])),
        answered("more of a block after the answer", end_of_block, Connection(closed)),
        answered("a stream is taken back after the answer", reset.clone(), Served),
        case("5.1.1", "a number of the server's", [get(2, BAD)], Connection(&[PROTOCOL])),
        case("5.1.1", "a number below the last", [get(5, SLOW), get(3, BAD)], Connection(closed)),
        case("5.1.1", "numbers left out", [get(77, GOOD)], Served),
    ]
}

/// Section 6, but for settings and windows.
fn of_each_type() -> Vec<Case> {
    let broken = |section, what, frame| case(section, what, [frame], Connection(&[PROTOCOL]));
    let short = |section, what, frame| case(section, what, [frame], Connection(&[FRAME_SIZE]));
    let padded = |pad: u8, rest: &[u8]| [&[pad], rest, &[0; 3][..]].concat();
    let whole = END_STREAM | END_HEADERS;
    let many_pads = frame(DATA, END_STREAM | PADDED, 1, &padded(9, b"12345"));
    let first = [&[0x80, 0, 0, 0, 255][..], &block(GOOD)].concat();
    vec![
        broken("6.1", "data of no stream", data(0, b"x")),
        case("6.1", "more padding than data", [post(1, BAD), many_pads], Connection(&[PROTOCOL])),
        case(
            "6.1",
            "padding",
            [post(1, GOOD), frame(DATA, END_STREAM | PADDED, 1, &padded(3, b"x"))],
            Served,
        ),
        broken("6.2", "a head of no stream", frame(HEADERS, whole, 0, &block(BAD))),
        broken(
            "6.2",
            "more padding than fields",
            frame(HEADERS, whole | PADDED, 1, &padded(255, &block(BAD))),
        ),
        case("6.2", "padding", [frame(HEADERS, whole | PADDED, 1, &padded(3, &block(GOOD)))], Served),
        case("6.2", "a priority", [frame(HEADERS, whole | PRIORITISED, 1, &first)], Served),
        broken("6.3", "a priority of no stream", frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])),
        case(
            "6.3",
            "a priority of four octets",
            [get(1, SLOW), frame(PRIORITY, 0, 1, &[0; 4])],
            Stream(&[FRAME_SIZE]),
        ),
        case(
            "6.3",
            "a priority of an idle stream",
            [frame(PRIORITY, 0, 9, &[0, 0, 0, 1, 1]), get(1, GOOD)],
            Served,
        ),
        broken("6.4", "no stream is taken back", frame(RST_STREAM, 0, 0, &[0; 4])),
        case(
            "6.4",
            "a stream is taken back in three octets",
            [get(1, SLOW), frame(RST_STREAM, 0, 1, &[0; 3])],
            Connection(&[FRAME_SIZE]),
        ),
        case(
            "7",
            "a stream is taken back for reasons unknown",
            [get(1, SLOW), frame(RST_STREAM, 0, 1, &0xee_u32.to_be_bytes()), get(3, GOOD)],
            Served,
        ),
        case(
            "8.4",
            "a push by a client",
            [get(1, SLOW), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(BAD)].concat())],
            Connection(&[PROTOCOL]),
        ),
        short("6.7", "a ping of seven octets", frame(PING, 0, 0, &[0; 7])),
        broken("6.7", "a ping of a stream", frame(PING, 0, 1, &[0; 8])),
        case(
            "6.7",
            "the answer to a ping that was never sent",
            [frame(PING, ACK, 0, &[7; 8]), get(1, GOOD)],
            Served,
        ),
        broken("6.8", "a farewell of a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        short("6.8", "a farewell of seven octets", frame(GOAWAY, 0, 0, &[0; 7])),
    ]
}

/// Section 6.5.
fn settings() -> Vec<Case> {
    let set = |what, id, value, code: &'static [u32]| {
        case("6.5.2", what, [frame(SETTINGS, 0, 0, &parameters(&[(id, value)]))], Connection(code))
    };
    let of_stream = frame(SETTINGS, 0, 1, &[]);
    vec![
        case(
            "6.5",
            "agreement with something",
            [frame(SETTINGS, ACK, 0, &[0; 6])],
            Connection(&[FRAME_SIZE]),
        ),
        case("6.5", "settings of a stream", [of_stream], Connection(&[PROTOCOL])),
        case("6.5", "half a setting", [frame(SETTINGS, 0, 0, &[0; 3])], Connection(&[FRAME_SIZE])),
        set("push neither on nor off", 2, 2, &[PROTOCOL]),
        set("a window past its maximum", 4, 1 << 31, &[FLOW_CONTROL]),
        set("frames below the minimum", 5, 16_383, &[PROTOCOL]),
        set("frames above the maximum", 5, 1 << 24, &[PROTOCOL]),
        set("extended CONNECT neither on nor off", 8, 2, &[PROTOCOL]),
        case(
            "6.5.2",
            "an unknown setting",
            [frame(SETTINGS, 0, 0, &parameters(&[(0xeeee, 7)])), get(1, GOOD)],
            Served,
        ),
        case(
            "6.5.3",
            "a setting twice",
            [frame(SETTINGS, 0, 0, &parameters(&[(4, 0), (4, 65_535)])), get(1, GOOD)],
            Served,
        ),
    ]
}

/// Section 6.9.
fn windows() -> Vec<Case> {
    let of_stream = |what, windows: Vec<u8>, codes: &'static [u32]| {
        case("6.9", what, [get(1, SLOW), windows], Stream(codes))
    };
    let largest = (1 << 31) - 1;
    let narrow = frame(SETTINGS, 0, 0, &parameters(&[(4, 65_536)]));
    vec![
        case("6.9", "a window by nothing", [window(0, 0)], Connection(&[PROTOCOL])),
        of_stream("a window of a stream by nothing", window(1, 0), &[PROTOCOL]),
        case(
            "6.9",
            "a window in three octets",
            [frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            Connection(&[FRAME_SIZE]),
        ),
        case("6.9.1", "a window past its maximum", [window(0, largest)], Connection(&[FLOW_CONTROL])),
        of_stream("a window of a stream past its maximum", window(1, largest), &[FLOW_CONTROL]),
        case(
            "6.9.2",
            "a setting that takes windows past their maximum",
            [get(1, SLOW), window(1, largest - 65_535), narrow],
            Connection(&[FLOW_CONTROL]),
        ),
        case("6.9", "a window after the end", [get(1, GOOD), window(1, 1)], Served),
    ]
}

/// Section 6.10.
fn continuations() -> Vec<Case> {
    let whole = block(GOOD);
    let (first, rest) = whole.split_at(3);
    let (second, third) = rest.split_at(9);
    let begin = frame(HEADERS, END_STREAM, 1, first);
    let (go_on, end) = (frame(CONTINUATION, 0, 1, second), frame(CONTINUATION, END_HEADERS, 1, third));
    let late = frame(CONTINUATION, END_HEADERS, 1, &field("x-late", "1"));
    let broken = |what, frames: [Vec<u8>; 2]| case("6.10", what, frames, Connection(&[PROTOCOL]));
    vec![
        case("6.10", "a block in three frames", [begin.clone(), go_on.clone(), end], Served),
        broken("a block that goes on in no stream", [begin.clone(), frame(CONTINUATION, 0, 0, second)]),
        broken("a block that goes on in another stream", [begin.clone(), frame(CONTINUATION, 0, 3, second)]),
        broken("data before the end of a block", [begin.clone(), data(1, b"x")]),
        broken("a ping before the end of a block", [begin, frame(PING, 0, 0, &[0; 8])]),
        broken("a block that goes on after its end", [post(1, SLOW), late.clone()]),
        case(
            "6.10",
            "a block after data",
            [post(1, SLOW), frame(DATA, 0, 1, b"x"), late],
            Connection(&[PROTOCOL]),
        ),
    ]
}

/// Sections 8.1 and 8.2: messages and their fields.
fn fields() -> Vec<Case> {
    let with = |what, name: &str, value: &str| {
        case("8.2", what, [asks(&[block(BAD), field(name, value)].concat())], Refused)
    };
    let more = frame(DATA, 0, 1, b"x");
    let last = |fields: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, fields);
    let broken = |what, trailers: &[u8]| {
        case("8.1", what, [post(1, BAD), more.clone(), last(trailers)], Stream(&[PROTOCOL]))
    };
    let no_end = frame(HEADERS, END_HEADERS, 1, &field("x-more", "1"));
    let trailers = last(&field("x-trailer", "1"));
    let pseudo = last(&[field(":path", BAD), field("x-trailer", "1")].concat());
    let te = asks(&[block(GOOD), field("te", "trailers")].concat());
    vec![
        case("8.1", "trailers", [post(1, GOOD), more.clone(), trailers], Served),
        case("8.1", "a second head without an end", [post(1, BAD), no_end], Stream(&[PROTOCOL])),
        // Malformed, says section 8.1; the library leaves it out, and nobody behind it ever sees it.
        case("8.1", "a pseudo-header in trailers", [post(1, GOOD), more.clone(), pseudo], Served),
        broken("an upper-case trailer", &field("X-Trailer", "1")),
        broken("connection in trailers", &field("connection", "close")),
        with("an upper-case name", "X-Case", "1"),
        with("a name with a space", "x name", "1"),
        with("a name with a colon", "x:name", "1"),
        with("a name with a line", "x\r\ny", "1"),
        with("a name that is none", "", "1"),
        with("a name of other octets", "x-\u{e9}", "1"),
        with("a value with a zero", "x-value", "a\0b"),
        with("a value with a line", "x-value", "a\r\nevil: 1"),
        with("a value with a line feed", "x-value", "a\nb"),
        with("a value with a carriage return", "x-value", "a\rb"),
        with("a value that begins with a space", "x-value", " a"),
        with("a value that ends with a tab", "x-value", "a\t"),
        with("connection", "connection", "x-other"),
        with("keep-alive", "keep-alive", "timeout=5"),
        with("proxy-connection", "proxy-connection", "keep-alive"),
        with("transfer-encoding", "transfer-encoding", "chunked"),
        with("upgrade", "upgrade", "websocket"),
        with("te that is more than trailers", "te", "trailers, gzip"),
        case("8.2.2", "te", [te], Served),
    ]
}

/// Section 8.3: what is asked for.
fn targets() -> Vec<Case> {
    let asked = |what, fields: Vec<(&str, &str)>| {
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
        case("8.3", what, [asks(&block)], Refused)
    };
    let with = |what, name: &'static str, value: &'static str| {
        asked(what, FOUR.iter().copied().chain([(name, value)]).collect())
    };
    let without =
        |what, left_out| asked(what, FOUR.iter().copied().filter(|(name, _)| *name != left_out).collect());
    let changed = |what, name, value| {
        let change =
            |(known, was): &(&'static str, &'static str)| (*known, if *known == name { value } else { *was });
        asked(what, FOUR.iter().map(change).collect())
    };
    vec![
        with("an unknown pseudo-header", ":unknown", "1"),
        with("a pseudo-header of answers", ":status", "200"),
        with("a protocol that was not announced", ":protocol", "websocket"),
        asked("a pseudo-header after others", [&FOUR[..3], &[("x-first", "1"), FOUR[3]]].concat()),
        without("no method", ":method"),
        without("no scheme", ":scheme"),
        without("no path", ":path"),
        without("no authority", ":authority"),
        with("two methods", ":method", "GET"),
        with("two schemes", ":scheme", "http"),
        with("two paths", ":path", GOOD),
        with("two authorities", ":authority", "flea.test"),
        with("a host that differs", "host", "admin.test"),
        changed("an empty method", ":method", ""),
        changed("a method with a space", ":method", "GET /"),
        changed("a method with a line", ":method", "GET\r\n"),
        changed("an empty scheme", ":scheme", ""),
        changed("a scheme that is none", ":scheme", "1/2"),
        changed("an empty path", ":path", ""),
        changed("a path without a root", ":path", "open/bad"),
        changed("a whole URI for a path", ":path", "http://flea.test/open/bad"),
        changed("a path with a space", ":path", "/open/bad HTTP/1.1"),
        changed("a path with a line", ":path", "/open/bad\r\nevil: 1"),
        // The library cuts it off before anybody reads it: what is judged is what goes on.
        case("8.3", "a path with a fragment", [get(1, "/open/good#part")], Served),
        changed("all of a server", ":path", "*"),
        changed("an empty authority", ":authority", ""),
        changed("an authority with a user", ":authority", "user@flea.test"),
        changed("an authority with a path", ":authority", "flea.test/open"),
        changed("an authority with a space", ":authority", "flea.test evil"),
        asked("a tunnel", vec![(":method", "CONNECT"), (":authority", "flea.test:443")]),
        changed("a tunnel with a path", ":method", "CONNECT"),
    ]
}

/// Section 8.1.1: a length, and the data that is no such length.
fn lengths() -> Vec<Case> {
    let of_length = |length: &str| {
        let head = [head("POST", BAD), field("content-length", length)].concat();
        frame(HEADERS, END_HEADERS, 1, &head)
    };
    let data_of =
        |what, length, data: Vec<u8>| case("8.1.1", what, [of_length(length), data], Stream(&[PROTOCOL]));
    let nothing = |what, lengths: &[&str]| {
        let lengths = lengths.iter().flat_map(|length| field("content-length", length));
        let head = head("POST", BAD).into_iter().chain(lengths).collect::<Vec<u8>>();
        case("8.1.1", what, [frame(HEADERS, END_HEADERS, 1, &head), data(1, b"12345")], Refused)
    };
    let at_once = [head("POST", BAD), field("content-length", "5")].concat();
    vec![
        data_of("less data than its length", "5", data(1, b"1234")),
        data_of("more data than its length", "5", data(1, b"123456")),
        data_of(
            "more data than its length, in two frames",
            "5",
            [frame(DATA, 0, 1, b"123"), data(1, b"456")].concat(),
        ),
        data_of("no data of a length", "5", data(1, b"")),
        case("8.1.1", "no data of a length at all", [asks(&at_once)], Stream(&[PROTOCOL])),
        nothing("two lengths", &["5", "6"]),
        nothing("a length and a list", &["5, 6"]),
        nothing("a length with a sign", &["+5"]),
        nothing("a negative length", &["-5"]),
        nothing("a length that is no number", &["five"]),
        nothing("an empty length", &[""]),
        nothing("a length past all numbers", &["99999999999999999999"]),
    ]
}

/// RFC 7541: header blocks.
fn blocks() -> Vec<Case> {
    let broken = |section, what, block: &[u8]| case(section, what, [asks(block)], Connection(&[COMPRESSION]));
    let served = |section, what, before: &[u8], after: &[u8]| {
        case(section, what, [asks(&[before, &block(GOOD), after].concat())], Served)
    };
    let then = |rest: &[u8]| [&block(BAD)[..], rest].concat();
    vec![
        served("7541 6.1", "an indexed field", &[], &[0x90]),
        served("7541 6.2.1", "a field to be indexed, and its index", &[], &[0x40, 1, b'x', 1, b'y', 0xbe]),
        served("7541 6.2.3", "a field never to be indexed", &[], &[0x10, 1, b'x', 1, b'y']),
        served("7541 5.2", "a string in Huffman's code", &[], &[0, 0x81, 0xf3, 0x81, 0xf5]),
        served("7541 6.3", "a table made empty and large again", &[0x20, 0x3f, 0xe1, 0x1f], &[]),
        broken("7541 2.3.3", "a field past both tables", &then(&[0xc6])),
        broken("7541 2.3.3", "a name past both tables", &then(&[0x7f, 0x07, 1, b'y'])),
        broken("7541 6.1", "a field of index 0", &then(&[0x80])),
        broken("7541 4.2", "a change of the table at the end", &then(&[0x20])),
        broken(
            "7541 6.3",
            "a table larger than was agreed",
            &[&[0x3f, 0xe2, 0x1f][..], &block(BAD)].concat(),
        ),
        broken(
            "7541 5.1",
            "a number without end",
            &then(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ),
        broken("7541 5.2", "a string past the end of its block", &then(&[0, 0x7f, 0xff, 0x7f, b'x'])),
        broken("7541 5.2", "a whole octet of padding", &then(&[0, 0x82, 0xf3, 0xff, 1, b'y'])),
        broken("7541 5.2", "padding of zeros", &then(&[0, 0x81, 0xf0, 1, b'y'])),
        broken(
            "7541 5.2",
            "the end of all strings within one",
            &then(&[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'y']),
        ),
    ]
}

fn case<const N: usize>(
    section: &'static str,
    what: &'static str,
    frames: [Vec<u8>; N],
    comes: Comes,
) -> Case {
    Case { section, what, steps: vec![Send(frames.concat())], comes }
}

/// The pseudo-headers of a request for [`BAD`].
const FOUR: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", BAD), (":authority", "flea.test")];

fn head(method: &str, path: &str) -> Vec<u8> {
    let four = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "flea.test")];
    four.iter().flat_map(|(name, value)| field(name, value)).collect()
}

fn block(path: &str) -> Vec<u8> {
    head("GET", path)
}

/// A request without a body, in stream 1.
fn asks(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block)
}

pub(super) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(path))
}

/// A request with a body to come.
pub(super) fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST", path))
}

/// The last of a body.
pub(super) fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, bytes)
}

pub(super) fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}
