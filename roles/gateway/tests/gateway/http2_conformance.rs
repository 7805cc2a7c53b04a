//! What a client of HTTP/2 may do and may not, as RFC 9113 has it: what is wrong ends its stream or its connection with the
//! code of the standard, nobody else notices, and not one wrong request reaches the service.
//!
//! The cases are those of h2spec, a program that is not packaged for any package manager in use, and more for fields and
//! targets, which a proxy must not read differently than the service behind it.

mod cases;

use axum::Router;
use tokio::net::TcpStream;

use self::cases::{BAD, Case, Comes, GOOD, SLOW, Step, data, get, post, window};
use crate::edge::tls_settings;
use crate::rig::client::{self, raw, tls};
use crate::rig::echo::{self, Seen};
use crate::rig::frames::{
    ACK, DATA, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
    parameters,
};
use crate::rig::{Rig, Running};

const ROUTES: &str = "[throttle]\nrequests_burst = 100000\n[limits]\nstreams_max = 8\n\
     [[route]]\npath = \"/open/*\"\nto = \"ads\"\nuser = \"optional\"\n";
const RULES: &str = "@id(\"open\")\npermit (principal, action, resource);";

struct Deployment {
    _rig: Rig,
    edge: Running,
    seen: Seen,
    root: Vec<u8>,
}

impl Deployment {
    async fn new() -> Self {
        let (rig, seen) = (Rig::new(), Seen::default());
        let never = axum::routing::any(async || std::future::pending::<()>().await);
        rig.policy("gateway", RULES);
        let router = echo::router(&[GOOD, BAD], &seen).merge(Router::new().route(SLOW, never));
        rig.open_service("ads", router).await;
        let (toml, root) = tls_settings(&rig, &["flea.test"], "edge");
        let edge = rig.gateway(&format!("{toml}\n{ROUTES}")).await;
        Self { _rig: rig, edge, seen, root }
    }

    async fn plain(&self) -> Frames {
        Frames::open(self.edge.plain, &[]).await
    }

    async fn over_tls(&self) -> Frames {
        let stream = tls(self.edge.tls.unwrap(), "flea.test", &self.root, b"h2").await.unwrap();
        Frames::over(stream, &[]).await
    }

    /// How much that was wrong reached the service, now that others were served after it.
    async fn wrongly_served(&self) -> usize {
        assert_eq!(client::get(self.edge.plain, GOOD, &[]).await.status, 200);
        self.seen.all().iter().filter(|saw| saw["path"] != GOOD).count()
    }
}

/// Sends a case, and says how what comes differs from what has to.
async fn examine(case: &Case, client: &mut Frames) -> Result<(), String> {
    for step in &case.steps {
        match step {
            // Whoever was refused already reads no more.
            Step::Send(frames) => client.try_send(frames).await,
            Step::Answered(stream) => answered(client, *stream).await?,
        }
    }
    // The generic code may stand for any other (section 5.4).
    let is_one = |code: &u32, codes: &[u32]| *code == PROTOCOL_ERROR || codes.contains(code);
    let fits = |came: &Came| match (case.comes, came) {
        (Comes::Served, Came::Answer { is_success, .. }) => *is_success,
        (Comes::Refused, Came::Answer { is_refusal, .. }) => *is_refusal,
        (Comes::Refused, Came::Reset(code) | Came::Farewell(code)) => is_one(code, &[]),
        (Comes::Stream(codes), Came::Reset(code)) => is_one(code, codes),
        (Comes::Stream(codes) | Comes::Connection(codes), Came::Farewell(code)) => is_one(code, codes),
        _ => false,
    };
    let came = match case.steps.last() {
        // Its answer came before, and the next request will have one.
        Some(Step::Send(_)) if matches!((case.comes, case.steps.len()), (Comes::Served, 3)) => {
            return goes_on(client).await;
        }
        _ => Came::next(client).await,
    };
    if !fits(&came) {
        return Err(format!("{came:?}"));
    }
    match came {
        Came::Farewell(_) => ended(client).await,
        _ => goes_on(client).await,
    }
}

/// The first that says what became of it.
#[derive(Debug)]
enum Came {
    Answer { is_success: bool, is_refusal: bool },
    Reset(u32),
    Farewell(u32),
    End,
}

impl Came {
    async fn next(client: &mut Frames) -> Self {
        loop {
            let Some(Frame { kind, payload, .. }) = client.frame().await else { return Self::End };
            match kind {
                HEADERS => return Self::answer(&payload),
                RST_STREAM => return Self::Reset(u32::from_be_bytes(payload.try_into().unwrap())),
                GOAWAY => return Self::Farewell(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
                _ => {}
            }
        }
    }

    /// By the status, which comes first: in the static table, or with a name from there and in Huffman's code.
    fn answer(block: &[u8]) -> Self {
        let (is_success, is_refusal) = match block {
            [0x88, ..] => (true, false),
            // 400 and 404.
            [0x8c | 0x8d, ..] => (false, true),
            // 501, and others that begin with `4`, whose code is 011010.
            [0x08 | 0x18 | 0x48, 0x82, 0x6c, 0x01, ..] => (false, true),
            [0x08 | 0x18 | 0x48, 0x82 | 0x83, digits, ..] => (false, digits >> 2 == 0b01_1010),
            _ => (false, false),
        };
        Self::Answer { is_success, is_refusal }
    }
}

async fn answered(client: &mut Frames, stream: u32) -> Result<(), String> {
    loop {
        let frame = client.frame().await.ok_or("no answer")?;
        if frame.stream == stream && [HEADERS, DATA].contains(&frame.kind) && frame.flags & END_STREAM != 0 {
            return Ok(());
        }
    }
}

/// The connection serves the next request.
async fn goes_on(client: &mut Frames) -> Result<(), String> {
    client.try_send(&get(NEXT, GOOD)).await;
    loop {
        match client.frame().await {
            Some(Frame { kind: HEADERS, stream: NEXT, payload, .. }) => {
                return if payload[0] == 0x88 { Ok(()) } else { Err("the next request is refused".into()) };
            }
            Some(Frame { kind: GOAWAY, .. }) | None => {
                return Err("the connection serves no other request".into());
            }
            Some(_) => {}
        }
    }
}

/// The connection is closed (section 5.4.1).
async fn ended(client: &mut Frames) -> Result<(), String> {
    client.try_send(&get(NEXT, BAD)).await;
    while let Some(frame) = client.frame().await {
        if frame.kind == HEADERS {
            return Err("a request is answered after the farewell".into());
        }
    }
    Ok(())
}

#[tokio::test]
async fn whatever_the_standard_forbids_ends_its_stream_or_connection_and_reaches_no_service() {
    let deployment = Deployment::new().await;
    let (mut wrong, mut reached) = (Vec::new(), 0);
    let cases = cases::all();
    for case in &cases {
        for over_tls in [false, true] {
            let mut client = if over_tls { deployment.over_tls().await } else { deployment.plain().await };
            if let Err(why) = examine(case, &mut client).await {
                let (section, what, has_to) = (case.section, case.what, case.comes);
                wrong.push(format!("{section} {what} (TLS: {over_tls}): {why}, and not {has_to:?}"));
            }
        }
        let now_reached = deployment.wrongly_served().await;
        if now_reached > reached {
            wrong.push(format!("{} {} reached the service", case.section, case.what));
        }
        reached = now_reached;
    }
    eprintln!("{} cases of HTTP/2, each with TLS and without", cases.len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Section 3.4.
#[tokio::test]
async fn what_does_not_begin_with_the_preface_is_no_connection_of_http2() {
    let deployment = Deployment::new().await;
    let stream = tls(deployment.edge.tls.unwrap(), "flea.test", &deployment.root, b"h2").await.unwrap();
    let mut client = Frames::beginning(stream, b"GET /open/bad HTTP/1.1\r\nhost: flea.test\r\n\r\n").await;
    while let Some(frame) = client.frame().await {
        assert_ne!(frame.kind, HEADERS);
    }
    let odd = "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n";
    assert_eq!(raw(deployment.edge.plain, odd).await.status, 400);
    assert_eq!(deployment.wrongly_served().await, 0);
}

/// Section 5.1.2.
#[tokio::test]
async fn one_request_past_the_announced_number_at_a_time_is_refused_and_may_come_again() {
    let deployment = Deployment::new().await;
    let mut client = deployment.plain().await;
    let announced = announced(&mut client).await;
    assert_eq!(announced.iter().find(|(id, _)| *id == 3), Some(&(3, 8)), "{announced:?}");
    for number in 0..8 {
        client.send(&get(number * 2 + 1, SLOW)).await;
    }
    client.send(&get(17, BAD)).await;
    let refused = next_of(&mut client, RST_STREAM).await;
    // REFUSED_STREAM: nothing was done about it (section 8.7).
    assert_eq!((refused.stream, refused.payload.as_slice()), (17, &[0, 0, 0, 7][..]));
    client.send(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await;
    client.send(&get(19, GOOD)).await;
    let answer = next_of(&mut client, HEADERS).await;
    assert_eq!((answer.stream, answer.payload[0]), (19, 0x88));
    assert_eq!(deployment.wrongly_served().await, 0);
}

/// Sections 6.5.3 and 6.7.
#[tokio::test]
async fn settings_and_pings_are_answered_in_their_order() {
    let deployment = Deployment::new().await;
    let mut client = deployment.plain().await;
    let mine = [frame(PING, 0, 0, b"-first--"), frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, b"-second-")];
    client.send(&mine.concat()).await;
    let mut acks = Vec::new();
    while acks.len() < 4 {
        let came = client.frame().await.unwrap();
        if [PING, SETTINGS].contains(&came.kind) && came.flags & ACK != 0 {
            acks.push((came.kind, came.payload));
        }
    }
    let pings: Vec<_> = acks.iter().filter(|(kind, _)| *kind == PING).map(|(_, payload)| payload).collect();
    assert_eq!(pings, [b"-first--", b"-second-"]);
    assert!(acks.iter().all(|(kind, payload)| *kind == PING || payload.is_empty()));
}

/// Sections 6.9.1 and 6.9.2.
#[tokio::test]
async fn an_answer_keeps_to_windows_that_are_opened_and_closed_as_it_goes() {
    let deployment = Deployment::new().await;
    let stream = TcpStream::connect(deployment.edge.plain).await.unwrap();
    let mut client = Frames::over(stream, &[(4, 0)]).await;
    client.send(&get(1, GOOD)).await;
    next_of(&mut client, HEADERS).await;
    // Nothing comes through a window of nothing: an answer to this ping would come after it.
    client.send(&frame(PING, 0, 0, b"nothing?")).await;
    assert_eq!(next_of(&mut client, PING).await.payload, b"nothing?");
    client.send(&frame(SETTINGS, 0, 0, &parameters(&[(4, 3)]))).await;
    assert_eq!(next_of(&mut client, DATA).await.payload.len(), 3);
    // Below nothing now: what was sent counts (section 6.9.2).
    client.send(&frame(SETTINGS, 0, 0, &parameters(&[(4, 1)]))).await;
    client.send(&window(1, 2)).await;
    client.send(&frame(PING, 0, 0, b"nothing?")).await;
    assert_eq!(next_of(&mut client, PING).await.payload, b"nothing?");
    client.send(&window(1, 5)).await;
    assert_eq!(next_of(&mut client, DATA).await.payload.len(), 5);
    client.send(&window(1, 65_535)).await;
    while next_of(&mut client, DATA).await.flags & END_STREAM == 0 {}
}

/// Section 6.9.1.
#[tokio::test]
async fn a_body_past_its_window_ends_its_stream_or_connection() {
    let deployment = Deployment::new().await;
    let mut client = deployment.plain().await;
    let mut window = 65_535_u64;
    for (id, value) in announced(&mut client).await {
        if id == 4 {
            window = u64::from(value);
        }
    }
    client.send(&post(1, SLOW)).await;
    // The service never reads: nothing opens its window but what is buffered on the way there.
    let frames = window / 16_384 * 4 + 1_024;
    for _ in 0..frames {
        client.try_send(&frame(DATA, 0, 1, &[0; 16_384])).await;
    }
    client.try_send(&data(1, b"x")).await;
    let came = loop {
        match Came::next(&mut client).await {
            Came::Answer { .. } => {}
            came => break came,
        }
    };
    assert!(matches!(came, Came::Reset(3) | Came::Farewell(3)), "{came:?}");
    assert_eq!(deployment.wrongly_served().await, 0);
}

/// What the server announces first of all (section 3.4).
async fn announced(client: &mut Frames) -> Vec<(u16, u32)> {
    let first = client.frame().await.unwrap();
    assert_eq!((first.kind, first.flags), (SETTINGS, 0));
    let parse = |both: &[u8]| {
        let (id, value) = both.split_at(2);
        (u16::from_be_bytes(id.try_into().unwrap()), u32::from_be_bytes(value.try_into().unwrap()))
    };
    first.payload.chunks(6).map(parse).collect()
}

/// The next frame of this type; pings and settings of the server's own are passed over.
async fn next_of(client: &mut Frames, kind: u8) -> Frame {
    loop {
        let came = client.frame().await.expect("the connection goes on");
        let is_own = came.kind == PING && came.flags & ACK == 0;
        if came.kind == kind && !is_own {
            return came;
        }
        assert!([SETTINGS, WINDOW_UPDATE, PING].contains(&came.kind), "{came:?}");
    }
}

const PROTOCOL_ERROR: u32 = 1;
/// A stream that no case uses.
const NEXT: u32 = 1_001;
