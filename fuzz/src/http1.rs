//! HTTP/1 from bytes to the canonical request, and from bytes to a response: whatever is read is read in one way only, and
//! written again as exactly one message that is read as the same.

use countersign_http1::{
    Asked, BodyDecoder, BodyEvent, BodyLength, Limits, RequestDecoder, ResponseDecoder, Slots, encode,
};
use countersign_request::{CanonicalRequest, Field, Head as _, is_identity_header};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

pub(crate) fn request(data: &[u8]) {
    let mut slots = Slots::new();
    let Ok(Some(head)) = RequestDecoder::new(LIMITS).decode(data, &mut slots) else { return };
    let owned = CanonicalRequest::parse(
        head.canonical.method(),
        &head.target.parse::<Uri>().expect("a canonical target is a URI"),
        &map(head.canonical.fields()),
        head.version,
    );
    let owned = owned.expect("what the borrowed head accepts, the owned request accepts");
    assert_eq!(head.canonical.authority(), countersign_request::Head::authority(&owned));
    assert_eq!((head.canonical.path(), head.canonical.query()), (owned.path(), owned.query()));

    let Some(body) = body(BodyDecoder::of_request(head.body, LIMITS), &data[head.bytes..]) else { return };
    let mut onward = Vec::new();
    let mut writer = encode::request_head(&mut onward, &head.canonical).expect("a canonical target");
    head.canonical.onward().for_each(|field| writer.copied(field));
    writer.finish(head.body);
    write_body(&mut onward, head.body, &body);

    let mut slots = Slots::new();
    let again = RequestDecoder::new(LIMITS).decode(&onward, &mut slots).expect("what we write, we read");
    let again = again.expect("a whole head");
    assert_eq!(again.canonical.method(), head.canonical.method());
    assert_eq!(again.canonical.authority(), head.canonical.authority());
    assert_eq!((again.canonical.path(), again.canonical.query()), (owned.path(), owned.query()));
    assert_eq!(again.body, head.body);
    assert!(!again.canonical.fields().iter().any(|field| is_identity_header(field.name)));
    assert_ends(BodyDecoder::of_request(again.body, LIMITS), &onward[again.bytes..], &body);
}

pub(crate) fn response(data: &[u8]) {
    for asked in [Asked::default(), Asked { head: true, upgrade: true }] {
        let mut slots = Slots::new();
        let Ok(Some(head)) = ResponseDecoder::new(LIMITS).decode(data, &mut slots, asked) else { continue };
        let Some(body) = body(BodyDecoder::of_response(head.body, LIMITS), &data[head.bytes..]) else {
            continue;
        };
        let mut onward = Vec::new();
        let mut writer = encode::response(&mut onward, head.status);
        head.onward().for_each(|field| writer.copied(field));
        writer.finish(if head.body == BodyLength::None { head.stated } else { head.body });
        write_body(&mut onward, head.body, &body);

        let mut slots = Slots::new();
        let again =
            ResponseDecoder::new(LIMITS).decode(&onward, &mut slots, asked).expect("what we write, we read");
        let again = again.expect("a whole head");
        assert_eq!((again.status, again.body), (head.status, head.body));
        assert!(again.onward().map(line).eq(head.onward().map(line)));
        assert_ends(BodyDecoder::of_response(again.body, LIMITS), &onward[again.bytes..], &body);
    }
}

/// A good message of every framing.
pub(crate) fn requests() -> Vec<Vec<u8>> {
    let heads = [
        "GET /ads/7?near=48.37,14.51 HTTP/1.1\r\nHost: flea.test\r\nAccept: */*\r\n\r\n",
        "POST /ads HTTP/1.1\r\nHost: flea.test:80\r\nConnection: keep-alive, x-a\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello",
        "PUT http://flea.test/caf%c3%a9 HTTP/1.1\r\nHost: Flea.test\r\nX-User: mallory\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;a=\"b\"\r\nhello\r\n0\r\nServer-Timing: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: [::1]:8443\r\n\r\n",
    ];
    heads.map(|head| head.as_bytes().to_vec()).to_vec()
}

/// A good message of every framing.
pub(crate) fn responses() -> Vec<Vec<u8>> {
    let heads = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nServer-Timing: a\r\n\r\n",
        "HTTP/1.0 404 Not Found\r\n\r\nuntil the end",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n",
    ];
    heads.map(|head| head.as_bytes().to_vec()).to_vec()
}

/// The whole body, or `None` where it is refused or its end is missing. Reading it byte by byte says the same.
fn body(decoder: BodyDecoder, bytes: &[u8]) -> Option<Vec<u8>> {
    let at_once = read(decoder.clone(), bytes, bytes.len());
    assert_eq!(at_once, read(decoder, bytes, 1), "in whatever pieces it comes");
    at_once.map(|(body, _)| body)
}

/// The body and how many bytes it took.
fn read(mut decoder: BodyDecoder, bytes: &[u8], piece: usize) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut from, mut to) = (Vec::new(), 0, piece.min(bytes.len()));
    loop {
        let step = decoder.decode(&bytes[from..to]).ok()?;
        from += step.consumed;
        match step.event {
            BodyEvent::Data(data) => body.extend_from_slice(data),
            BodyEvent::End => return Some((body, from)),
            BodyEvent::More if to == bytes.len() => {
                return decoder.end_of_input().ok().map(|()| (body, from));
            }
            BodyEvent::More => to = (to + piece).min(bytes.len()),
        }
    }
}

fn write_body(out: &mut Vec<u8>, length: BodyLength, body: &[u8]) {
    if length == BodyLength::Chunked {
        encode::chunk(out, body);
        encode::last_chunk(out, &HeaderMap::new());
    } else {
        out.extend_from_slice(body);
    }
}

/// The body stands there, and nothing after it.
fn assert_ends(decoder: BodyDecoder, bytes: &[u8], body: &[u8]) {
    assert_eq!(read(decoder, bytes, bytes.len()), Some((body.to_vec(), bytes.len())));
}

fn line<'a>(field: &'a Field<'a>) -> (&'a str, &'a [u8]) {
    (field.name, field.value)
}

fn map(fields: &[Field<'_>]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in fields {
        let name: HeaderName = field.name.parse().expect("a name that was read");
        map.append(name, HeaderValue::from_bytes(field.value).expect("a value that was read"));
    }
    map
}

const LIMITS: Limits = Limits::DEFAULT;
