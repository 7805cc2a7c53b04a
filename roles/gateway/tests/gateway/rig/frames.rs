//! A client of HTTP/2 that writes frames one by one, whether or not they make sense (RFC 9113 sections 4 and 6).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

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

/// A connection after its preface.
pub struct Frames {
    stream: TcpStream,
}

impl Frames {
    /// With these settings (identifier, value).
    pub async fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        stream.write_all(&frame(SETTINGS, 0, 0, &settings)).await.unwrap();
        Frames { stream }
    }

    pub async fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).await.unwrap();
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

    /// Type and stream of the next frame with its payload; nothing at the end.
    pub async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        let reading = async {
            self.stream.read_exact(&mut head).await.ok()?;
            let mut payload =
                vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some((head[3], u32::from_be_bytes(head[5..9].try_into().unwrap()), payload))
        };
        timeout(Duration::from_secs(20), reading).await.expect("a frame, or the end")
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
