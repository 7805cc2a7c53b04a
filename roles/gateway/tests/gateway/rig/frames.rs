//! A client of HTTP/2 that writes frames one by one, whether or not they make sense (RFC 9113 sections 4 and 6).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITISED: u8 = 32;

/// How a flood ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// The other side closed the connection.
    Ended,
    /// The other side reads no more, and waits until somebody reads what it says.
    Stalled,
    /// It read everything.
    Swallowed,
}

/// A stream of bytes, over TLS or not.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Wire for IO {}

/// A connection after its preface.
pub struct Frames {
    stream: Box<dyn Wire>,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frames {
    /// With these settings (identifier, value).
    pub async fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), settings).await
    }

    pub async fn over(stream: impl Wire + 'static, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::beginning(stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        frames.send(&frame(SETTINGS, 0, 0, &parameters(settings))).await;
        frames
    }

    /// With these bytes for a preface (section 3.4), and no settings yet.
    pub async fn beginning(stream: impl Wire + 'static, bytes: &[u8]) -> Self {
        let mut stream = Box::new(stream);
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        Frames { stream }
    }

    /// To whoever may have hung up already.
    pub async fn try_send(&mut self, frame: &[u8]) {
        let _ = self.stream.write_all(frame).await;
        let _ = self.stream.flush().await;
    }

    pub async fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Writes what `batch` makes of each number below `batches`, and reads nothing meanwhile.
    pub async fn flood(&mut self, batches: u32, batch: impl Fn(u32) -> Vec<u8>) -> Flood {
        for number in 0..batches {
            match timeout(Duration::from_secs(3), self.stream.write_all(&batch(number))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Flood::Ended,
                Err(_) => return Flood::Stalled,
            }
        }
        Flood::Swallowed
    }

    /// The next frame; nothing at the end.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let reading = async {
            self.stream.read_exact(&mut head).await.ok()?;
            let mut payload =
                vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        };
        timeout(Duration::from_secs(20), reading).await.expect("a frame, or the end")
    }

    /// Type and stream of the next frame with its payload; nothing at the end.
    pub async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        self.frame().await.map(|frame| (frame.kind, frame.stream, frame.payload))
    }

    /// Everything until the connection ends: the error code of its GOAWAY, if one came.
    pub async fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, payload)) = self.next().await {
            if kind == GOAWAY {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        code
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload of a SETTINGS frame (section 6.5.1).
pub fn parameters(settings: &[(u16, u32)]) -> Vec<u8> {
    let both = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
    settings.iter().flat_map(both).collect()
}

/// A field of a header block, literal and without indexing (RFC 7541 section 6.2.2), whatever its octets are.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &string(name.as_bytes()), &string(value.as_bytes())].concat()
}

/// A string without Huffman's code (RFC 7541 section 5.2).
fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match u8::try_from(text.len()) {
        Ok(length) if length < 127 => bytes.push(length),
        _ => {
            let mut rest = text.len() - 127;
            bytes.push(127);
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
    }
    bytes.extend_from_slice(text);
    bytes
}

/// A header block without compression (RFC 7541): method by its index in the static table, scheme, path, authority.
pub fn head(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![method, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(&[0x01, 9]);
    block.extend_from_slice(b"flea.test");
    block
}

pub const GET: u8 = 0x82;
pub const POST: u8 = 0x83;
