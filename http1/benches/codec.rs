//! What it costs to read a head and to write it again, beside httparse alone, which judges nothing.
//!
//! `cargo bench -p countersign-http1`, and with `-- decode` after it what has that in its name.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::hint::black_box;

use countersign_http1::{
    Asked, BodyDecoder, BodyEvent, BodyLength, Limits, RequestDecoder, ResponseDecoder, Slots, encode,
};
use countersign_request::{Head as _, RouteTable, RouteTemplate, is_identity_header};
use countersign_testkit::measure::per_cpu_second;

fn main() {
    heads();
    bodies();
    routes();
}

fn heads() {
    let limits = Limits::default();
    for (what, head) in [("GET, 5 headers", GET), ("GET of a browser, 15 headers", BROWSER)] {
        print(&format!("{what}: httparse alone"), || {
            let mut fields = [const { std::mem::MaybeUninit::uninit() }; 100];
            let mut request = httparse::Request::new(&mut []);
            assert!(request.parse_with_uninit_headers(black_box(head), &mut fields).unwrap().is_complete());
        });
        let mut decoder = RequestDecoder::new(limits);
        print(&format!("{what}: decode"), || {
            let mut slots = Slots::new();
            black_box(&decoder.decode(black_box(head), &mut slots).unwrap().unwrap());
        });
        let mut slots = Slots::new();
        let request = decoder.decode(head, &mut slots).unwrap().unwrap();
        let mut out = Vec::new();
        print(&format!("{what}: encode for the next hop"), || {
            out.clear();
            let mut writer = encode::request_head(&mut out, black_box(&request.canonical)).unwrap();
            request.canonical.onward().for_each(|field| writer.copied(field));
            writer.finish(request.body);
        });
    }
    let mut decoder = ResponseDecoder::new(limits);
    print("200, 5 headers: decode", || {
        let mut slots = Slots::new();
        black_box(&decoder.decode(black_box(OK), &mut slots, Asked::default()).unwrap().unwrap());
    });
    let mut slots = Slots::new();
    let response = decoder.decode(OK, &mut slots, Asked::default()).unwrap().unwrap();
    let mut out = Vec::new();
    print("200, 5 headers: encode for the client", || {
        out.clear();
        let mut writer = encode::response(&mut out, response.status);
        black_box(&response).onward().for_each(|field| writer.copied(field));
        writer.finish(response.body);
    });
    print("is it an identity header, 5 names", || {
        black_box(response.fields).iter().filter(|field| is_identity_header(field.name)).count()
    });
}

fn bodies() {
    let mut body = Vec::new();
    (0..16).for_each(|_| encode::chunk(&mut body, &[b'a'; 4096]));
    encode::last_chunk(&mut body, &http::HeaderMap::new());
    let mut out = Vec::new();
    print("64 KiB in 16 chunks: decode and write again", || {
        let mut decoder = BodyDecoder::of_request(BodyLength::Chunked, Limits::default());
        let mut rest = black_box(&body[..]);
        out.clear();
        loop {
            let step = decoder.decode(rest).unwrap();
            rest = &rest[step.consumed..];
            match step.event {
                BodyEvent::Data(data) => encode::chunk(&mut out, data),
                BodyEvent::More => unreachable!("the whole body is there"),
                BodyEvent::End => break,
            }
        }
    });
}

fn routes() {
    let mut slots = Slots::new();
    let request = RequestDecoder::new(Limits::default()).decode(GET, &mut slots).unwrap().unwrap();
    for count in [20, 1000, 10_000] {
        let ads = RouteTemplate::parse("/ads/{id}").unwrap();
        let others = (1..count).map(|n| RouteTemplate::parse(&format!("/service{n}/{{id}}")).unwrap());
        let table =
            RouteTable::new(std::iter::once(ads).chain(others).map(|template| (template, ()))).unwrap();
        assert_eq!(request.canonical.path(), "/ads/4711");
        print(&format!("route of {count}"), || table.find(black_box(&request.canonical)).unwrap());
    }
}

fn print<T>(what: &str, mut work: impl FnMut() -> T) {
    if std::env::args().skip(1).any(|wanted| !wanted.starts_with('-') && !what.contains(&wanted)) {
        return;
    }
    // Looking at the clock costs more than most of these.
    let many = || (0..1000).for_each(|_| drop(black_box(work())));
    println!("{what:<52} {:>8.0} ns", 1e6 / per_cpu_second(many));
}

const GET: &[u8] = b"GET /ads/4711?near=48.37,14.51 HTTP/1.1\r\n\
    Host: flea.test:8080\r\n\
    User-Agent: curl/8.11.0\r\n\
    Accept: */*\r\n\
    Authorization: Bearer csb_0123456789abcdef0123456789abcdef\r\n\
    X-Request-Id: 7b4c8f0e-5f0a-4a55-9d5c-6f3c3f0f1a2b\r\n\r\n";

const BROWSER: &[u8] = b"GET /ads/4711 HTTP/1.1\r\n\
    Host: flea.test\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    sec-ch-ua: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Dest: document\r\n\
    Referer: https://flea.test/ads\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\r\n";

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 100\r\n\
    Date: Sun, 22 Nov 2026 08:00:00 GMT\r\n\
    Cache-Control: no-store\r\n\
    X-Request-Id: 7b4c8f0e-5f0a-4a55-9d5c-6f3c3f0f1a2b\r\n\r\n";
