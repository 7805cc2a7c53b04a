//! The edge: a reader of HTTP/1.1 that takes what comes, as so many do, behind the checks that make it a right one.

use std::net::IpAddr;

use countersign_request::{CanonicalHead, Field, HeaderError, RequestError, is_identity_header};
use countersign_sdk::inbound::Denial;
use countersign_wire::{
    codes::Code,
    problem::{PROBLEM_JSON, Problem},
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Weak, Weakness, door::Asked};

/// What is known of a connection to the edge.
pub(super) struct Met {
    /// Which host the handshake named.
    pub(super) server_name: Option<String>,
    /// Who is at the other end.
    pub(super) address: IpAddr,
}

/// A head, read with every kindness: whatever looks like a line is one.
struct Loose {
    method: String,
    target: String,
    is_http_1_0: bool,
    fields: Vec<(String, String)>,
}

struct Answer {
    status: u16,
    media_type: &'static str,
    headers: String,
    body: Vec<u8>,
}

/// Answers one request after the other; what cannot be read in one way ends the connection.
pub(super) async fn requests<IO>(mut io: IO, met: &Met, weak: &Weak)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut waiting = Vec::new();
    while let Some(head) = next_head(&mut io, &mut waiting).await {
        let loose = Loose::read(&head);
        let refused = weak.reads(&head, &loose, met).err();
        let goes_on = refused.is_none();
        let answer = match refused {
            Some(denial) => weak.refusal(&denial),
            None => {
                let Some(body) = next_body(&mut io, &mut waiting, loose.length()).await else { return };
                weak.answers(&loose, &body, met)
            }
        };
        if io.write_all(&answer.to_bytes()).await.is_err() || io.flush().await.is_err() || !goes_on {
            // Whoever still writes is to read the answer first.
            let _ = io.shutdown().await;
            let _ = tokio::io::copy(&mut (&mut io).take(HEAD_READ_MAX), &mut tokio::io::sink()).await;
            return;
        }
    }
}

async fn next_head<IO: AsyncRead + Unpin>(io: &mut IO, waiting: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = waiting.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Some(waiting.drain(..end + 4).collect());
        }
        more(io, waiting).await?;
    }
}

async fn next_body<IO: AsyncRead + Unpin>(
    io: &mut IO,
    waiting: &mut Vec<u8>,
    length: usize,
) -> Option<Vec<u8>> {
    while waiting.len() < length {
        more(io, waiting).await?;
    }
    Some(waiting.drain(..length).collect())
}

async fn more<IO: AsyncRead + Unpin>(io: &mut IO, waiting: &mut Vec<u8>) -> Option<()> {
    let is_bounded = (waiting.len() as u64) < HEAD_READ_MAX;
    let read = if is_bounded { io.read_buf(waiting).await.ok()? } else { 0 };
    (read > 0).then_some(())
}

impl Loose {
    fn read(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
        let mut first = lines.next().unwrap_or_default().split(' ');
        let mut next = || first.next().unwrap_or_default().to_owned();
        let (method, target, version) = (next(), next(), next());
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        Self { method, target, is_http_1_0: version == "HTTP/1.0", fields: fields.collect() }
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// The first length that can be read as one.
    fn length(&self) -> usize {
        let stated = self.fields.iter().filter(|(name, _)| name == "content-length");
        let length = stated.filter_map(|(_, value)| value.parse().ok()).next().unwrap_or(0);
        length.min(BODY_BYTES_MAX)
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.fields {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            {
                headers.append(name, value);
            }
        }
        headers
    }

    fn connection_lists(&self, wanted: &str) -> bool {
        let listed = self.header("connection").unwrap_or_default().split(',');
        listed.map(str::trim).any(|name| name.eq_ignore_ascii_case(wanted))
    }
}

impl Weak {
    /// What could be read in another way is refused, except where that is the mistake.
    fn reads(&self, head: &[u8], loose: &Loose, met: &Met) -> Result<(), Denial> {
        let unless = |weakness: Weakness, denial: Denial| match self.makes(weakness) {
            true => Ok(()),
            false => Err(denial),
        };
        if head.len() > HEAD_BYTES_MAX {
            unless(Weakness::AnyHead, Denial::new(Code::HeadersTooLarge, "head has more than 32768 bytes"))?;
        }
        let mut slots = [httparse::EMPTY_HEADER; 100];
        let mut line = httparse::Request::new(&mut slots);
        let is_read = matches!(line.parse(head), Ok(httparse::Status::Complete(_)));
        if !is_read || has_bare_line_feed(head) {
            let odd = Denial::new(Code::HeaderAmbiguous, "header line is not a name, a colon and a value");
            return unless(Weakness::KindLines, odd);
        }
        let version = if loose.is_http_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
        let fields: &[Field<'_>] = line.headers;
        let coding = loose.header("transfer-encoding");
        if coding.is_some_and(|coding| loose.is_http_1_0 || !coding.eq_ignore_ascii_case("chunked")) {
            let odd = Denial::new(Code::HeaderAmbiguous, "transfer-encoding is not exactly chunked");
            unless(Weakness::EitherLength, odd)?;
        }
        let canonical = CanonicalHead::read(
            line.method.unwrap_or_default(),
            line.path.unwrap_or_default(),
            version,
            fields,
        );
        if let Err(error) = canonical {
            unless(forgiving(&error), Denial::from(&error))?;
        }
        if loose.connection_lists("upgrade") {
            unless(Weakness::Tunnels, Denial::new(Code::UpgradeRefused, "the request asks to leave HTTP"))?;
        }
        match (&met.server_name, loose.header("host")) {
            (Some(named), Some(host)) if named != host => {
                let why = format!("the handshake named {named}, the request {host}");
                unless(Weakness::AnyHost, Denial::new(Code::Misdirected, why))
            }
            _ => Ok(()),
        }
    }

    fn answers(&self, loose: &Loose, body: &[u8], met: &Met) -> Answer {
        if loose.target == "/login" {
            let told = loose.header("x-forwarded-for");
            return match self.log_in(told, met.address, body) {
                Ok(token) => Answer::json(200, token),
                Err(denial) => self.refusal(&denial),
            };
        }
        let headers = loose.headers();
        let asked = Asked {
            method: &loose.method,
            target: &loose.target,
            headers: &headers,
            body,
            exporter: None,
            peer: None,
        };
        let bearer = loose.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if let Some(Err(denial)) = bearer.map(|token| self.still_counts(token)) {
            return self.refusal(&denial);
        }
        match self.named_by_header(loose).map_or_else(|| self.user(&asked), Ok) {
            Ok(user) => self.served(loose, &user),
            Err(denial) => self.refusal(&denial),
        }
    }

    /// As the service behind sees it.
    fn served(&self, loose: &Loose, user: &str) -> Answer {
        let deleted = self.makes(Weakness::ConnectionDeletes) && loose.connection_lists("txn-token");
        let user = if deleted { "nobody" } else { user };
        let method = loose.header("x-http-method-override").filter(|_| self.makes(Weakness::MethodByHeader));
        let method = method.unwrap_or(&loose.method);
        let mut answer = Answer::json(200, format!("you are {user}, and this is the answer to {method}"));
        if let Some(origin) = loose.header("origin").filter(|_| self.makes(Weakness::AnyOrigin)) {
            answer.headers = format!("Access-Control-Allow-Origin: {origin}\r\n");
        }
        answer
    }

    /// The name in a header in which some program somewhere believes it.
    fn named_by_header(&self, loose: &Loose) -> Option<String> {
        let kindly = self.makes(Weakness::AliasesCount);
        let believed = |name: &str| match kindly {
            true => is_identity_header(name.replace(['_', '.'], "-")),
            false => self.makes(Weakness::UserByHeader) && is_identity_header(name),
        };
        loose.fields.iter().find(|(name, _)| believed(name)).map(|(_, value)| value.clone())
    }

    fn refusal(&self, denial: &Denial) -> Answer {
        let problem = Problem::new(denial.code, Some(self.tells(denial.code, &denial.reason)));
        Answer { media_type: PROBLEM_JSON, ..Answer::json(problem.status, problem.to_json()) }
    }
}

impl Answer {
    fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, media_type: "application/json", headers: String::new(), body: body.into() }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Self { status, media_type, headers, body } = self;
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} So\r\nContent-Type: {media_type}\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }
}

/// Which mistake overlooks it.
fn forgiving(error: &RequestError) -> Weakness {
    match error {
        RequestError::Header(HeaderError::Alias(_)) => Weakness::AliasesCount,
        RequestError::Header(HeaderError::Duplicate(name)) if *name == http::header::HOST => {
            Weakness::EitherHost
        }
        RequestError::Header(
            HeaderError::Duplicate(_) | HeaderError::BadContentLength | HeaderError::TwoLengths,
        ) => Weakness::EitherLength,
        RequestError::Header(
            HeaderError::TooMany { .. }
            | HeaderError::NameTooLong { .. }
            | HeaderError::ValueTooLong { .. }
            | HeaderError::TooLong { .. },
        ) => Weakness::AnyHead,
        RequestError::Header(_) => Weakness::KindLines,
        RequestError::Authority(_) => Weakness::EitherHost,
        RequestError::Method => Weakness::Tunnels,
        RequestError::Query(_) => Weakness::TokenInQuery,
        RequestError::Path(_) | RequestError::Version | RequestError::Scheme => Weakness::PathRepaired,
    }
}

fn has_bare_line_feed(head: &[u8]) -> bool {
    head.windows(2).any(|pair| matches!(pair, [before, b'\n'] if *before != b'\r'))
}

/// Longest head that counts.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Longest that is read at all.
const HEAD_READ_MAX: u64 = 256 * 1024;
const BODY_BYTES_MAX: usize = 64 * 1024;
