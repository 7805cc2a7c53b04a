//! Both ends of a wire that record every byte: an upstream and a reader, each of which reads HTTP/1.1 in one way only and
//! shares no line with the codec that is tested.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// One message, read strictly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The first line, without its end.
    pub start: String,
    /// Names in lower case, values trimmed.
    pub headers: Vec<(String, String)>,
    /// Without chunks.
    pub body: Vec<u8>,
}

impl Message {
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Method and target of a request.
    pub fn asks(&self) -> &str {
        self.start.rsplit_once(' ').unwrap().0
    }

    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

/// What stands at the start of some bytes.
#[derive(Debug)]
pub enum Read {
    /// A message, and how many bytes it takes.
    Whole(Message, usize),
    /// The beginning of one.
    Part,
    /// Nothing that everybody reads alike.
    Bad(String),
}

/// How a body without a length ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unstated {
    /// There is none: a request.
    Empty,
    /// With these bytes: an answer, and the connection has ended.
    AtEnd,
}

/// Reads one message.
pub fn read(bytes: &[u8], unstated: Unstated) -> Read {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Read::Part };
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else { return Read::Bad("not text".into()) };
    let mut lines = head.split("\r\n");
    let start = lines.next().unwrap().to_owned();
    if head.replace("\r\n", "").contains(['\r', '\n', '\0']) || start.split(' ').count() < 3 {
        return Read::Bad(format!("{head:?}"));
    }
    let mut headers = Vec::new();
    for line in lines {
        match line.split_once(':') {
            Some((name, value)) if !name.is_empty() && name.bytes().all(is_token) => {
                headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
            }
            _ => return Read::Bad(format!("{line:?}")),
        }
    }
    let mut message = Message { start, headers, body: Vec::new() };
    let rest = &bytes[end + 4..];
    let body = match (
        message.values("content-length")[..].as_ref(),
        message.values("transfer-encoding")[..].as_ref(),
    ) {
        ([], []) if unstated == Unstated::AtEnd => Some((rest.to_vec(), rest.len())),
        ([], []) => Some((Vec::new(), 0)),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse::<usize>().unwrap();
            rest.get(..length).map(|body| (body.to_vec(), length))
        }
        ([], ["chunked"]) => match chunks(rest) {
            Ok(body) => body,
            Err(why) => return Read::Bad(why),
        },
        lengths => return Read::Bad(format!("{lengths:?}")),
    };
    let Some((body, used)) = body else { return Read::Part };
    message.body = body;
    Read::Whole(message, end + 4 + used)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The body, and how many bytes its chunks take; nothing if more has to come.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        if line.is_empty() || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("chunk size {line:?}"));
        }
        let size = usize::from_str_radix(&line, 16).map_err(|why| format!("{line:?}: {why}"))?;
        at += end + 2;
        if size == 0 {
            // Trailers, each on its line, and the empty line.
            while let Some(end) = bytes[at..].windows(2).position(|window| window == b"\r\n") {
                at += end + 2;
                if end == 0 {
                    return Ok(Some((body, at)));
                }
            }
            return Ok(None);
        }
        match bytes.get(at..at + size + 2) {
            None => return Ok(None),
            Some(chunk) if chunk.ends_with(b"\r\n") => body.extend_from_slice(&chunk[..size]),
            Some(chunk) => return Err(format!("chunk {chunk:?}")),
        }
        at += size + 2;
    }
}

/// What the upstream answers.
pub struct Said {
    pub bytes: Vec<u8>,
    /// Is this the end of the connection?
    pub ends: bool,
}

impl Said {
    pub fn text(text: &str) -> Self {
        let bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        Said { bytes: bytes.into_bytes(), ends: false }
    }
}

/// An upstream that records every byte; it ends with the value.
pub struct Tape {
    pub address: SocketAddr,
    wound: Arc<Mutex<Wound>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Wound {
    requests: Vec<Message>,
    /// Bytes that nobody could read.
    bad: Vec<String>,
    /// For each connection that is open, what is there of a request that has not ended.
    open: Vec<Option<Vec<u8>>>,
}

impl Tape {
    /// Answers every request with what `answer` says of it.
    pub async fn new(answer: impl Fn(&Message) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tape = Tape {
            address: listener.local_addr().unwrap(),
            wound: Arc::default(),
            stop: CancellationToken::new(),
        };
        let (wound, stop, answer) = (Arc::clone(&tape.wound), tape.stop.clone(), Arc::new(answer));
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (wound, answer) = (Arc::clone(&wound), Arc::clone(&answer));
                tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                    record(stream, &wound, &*answer).await;
                }));
            }
        }));
        tape
    }

    /// The requests that came since this was last asked, once none is half there.
    ///
    /// # Panics
    /// If anything came that is not exactly a request.
    pub async fn take(&self) -> Vec<Message> {
        super::eventually(|| self.wound.lock().unwrap().open.iter().flatten().all(Vec::is_empty)).await;
        let mut wound = self.wound.lock().unwrap();
        assert!(wound.bad.is_empty(), "{:?}", wound.bad);
        std::mem::take(&mut wound.requests)
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn record(
    mut stream: TcpStream,
    wound: &Mutex<Wound>,
    answer: &(dyn Fn(&Message) -> Said + Send + Sync),
) {
    let number = {
        let mut wound = wound.lock().unwrap();
        wound.open.push(Some(Vec::new()));
        wound.open.len() - 1
    };
    let mut piece = [0; 16 * 1024];
    'reading: while let Ok(count @ 1..) = stream.read(&mut piece).await {
        wound.lock().unwrap().open[number].as_mut().unwrap().extend_from_slice(&piece[..count]);
        while let Some(request) = next(wound, number) {
            let said = answer(&request);
            wound.lock().unwrap().requests.push(request);
            if stream.write_all(&said.bytes).await.is_err() || said.ends {
                break 'reading;
            }
        }
    }
    wound.lock().unwrap().open[number] = None;
}

fn next(wound: &Mutex<Wound>, number: usize) -> Option<Message> {
    let mut wound = wound.lock().unwrap();
    let bytes = wound.open[number].as_mut().unwrap();
    match read(bytes, Unstated::Empty) {
        Read::Whole(request, used) => {
            bytes.drain(..used);
            Some(request)
        }
        Read::Part => None,
        Read::Bad(why) => {
            bytes.clear();
            wound.bad.push(why);
            None
        }
    }
}

/// Sends bytes and says that these were all; what comes back until the other side ends too.
pub async fn converse(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Who is refused may be cut off while he still speaks.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let (mut heard, mut piece) = (Vec::new(), [0; 16 * 1024]);
    while let Ok(count @ 1..) =
        timeout(Duration::from_secs(20), stream.read(&mut piece)).await.expect("the connection ends")
    {
        heard.extend_from_slice(&piece[..count]);
    }
    heard
}

/// Did the connection end within its first answer? Its client knows that the rest is missing.
pub fn broke_off(heard: &[u8]) -> bool {
    !is_bodiless(heard, "GET") && matches!(read(heard, Unstated::AtEnd), Read::Part)
}

fn is_bodiless(heard: &[u8], method: &str) -> bool {
    let status: u16 = heard.get(9..12).map_or(0, |digits| String::from_utf8_lossy(digits).parse().unwrap());
    method == "HEAD" || (100..200).contains(&status) || [204, 304].contains(&status)
}

/// The answers in all that a client heard, without those that only announce another; `methods` are those of its requests.
pub fn answers(mut heard: &[u8], methods: &[&str]) -> Vec<Message> {
    let mut answers = Vec::new();
    while !heard.is_empty() {
        let method = methods.get(answers.len()).copied().unwrap_or("GET");
        let end = heard.windows(4).position(|window| window == b"\r\n\r\n").map_or(heard.len(), |at| at + 4);
        let part = if is_bodiless(heard, method) {
            let head = String::from_utf8_lossy(&heard[..end]).to_lowercase();
            let lines: Vec<_> = head
                .split("\r\n")
                .filter(|line| !line.starts_with("content-length") && !line.starts_with("transfer-encoding"))
                .collect();
            match read(lines.join("\r\n").as_bytes(), Unstated::Empty) {
                Read::Whole(answer, _) => (answer, end),
                other => panic!("{other:?} in {:?}", String::from_utf8_lossy(heard)),
            }
        } else {
            match read(heard, Unstated::AtEnd) {
                Read::Whole(answer, used) => (answer, used),
                other => panic!("{other:?} in {:?}", String::from_utf8_lossy(heard)),
            }
        };
        heard = &heard[part.1..];
        if part.0.status() >= 200 {
            answers.push(part.0);
        }
    }
    answers
}
