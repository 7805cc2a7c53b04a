//! Words for the HTTP library's own errors.
//!
//! A head that cannot be parsed is answered by hyper itself, with a bare status and no body, before any
//! service sees it. RFC 9457 is promised for every error of every listener, so such an answer gets the body
//! that belongs to its status on its way out. Once a request of the connection has reached the service, answers are the
//! application's, and nobody can tell from its bytes whose a bare one is: from then on nothing is changed.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use countersign_wire::{
    codes::Code,
    problem::{PROBLEM_JSON, Problem},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::life::Activity;

/// A byte stream of HTTP/1 answers, in which none is an error without words.
pub(super) struct Worded<IO> {
    io: IO,
    /// What was said instead of a bare answer, as far as it is not written yet.
    unwritten: Vec<u8>,
    activity: Arc<Activity>,
    http2: Option<bool>,
}

impl<IO> Worded<IO> {
    /// `http2`: what is known of the protocol before its first byte.
    pub(super) const fn new(io: IO, activity: Arc<Activity>, http2: Option<bool>) -> Self {
        Self { io, unwritten: Vec::new(), activity, http2 }
    }

    /// Can it be the library that answers?
    fn may_be_bare(&self) -> bool {
        self.http2 != Some(true) && self.activity.begun() == 0
    }
}

impl<IO: AsyncWrite + Unpin> Worded<IO> {
    fn write_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unwritten.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.unwritten))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unwritten.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Worded<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Worded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.write_rest(cx))?;
        let worded = if self.may_be_bare() { in_words(buf) } else { None };
        let Some(worded) = worded else { return Pin::new(&mut self.io).poll_write(cx, buf) };
        self.unwritten = worded;
        // Taken over as a whole; what does not fit now goes out with the next write or flush.
        match self.write_rest(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.may_be_bare()
            && let [only] = bufs
        {
            return self.poll_write(cx, only);
        }
        ready!(self.write_rest(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_rest(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_rest(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The same answer with a body, if this is a whole answer that is an error and says nothing at all.
fn in_words(answer: &[u8]) -> Option<Vec<u8>> {
    if answer.len() > BARE_BYTES_MAX || !answer.starts_with(b"HTTP/1.") {
        return None;
    }
    let head = std::str::from_utf8(answer).ok()?.strip_suffix("\r\n\r\n")?;
    let (status_line, headers) = head.split_once("\r\n")?;
    let status: u16 = status_line.split(' ').nth(1)?.parse().ok()?;
    let code = match status {
        400 => Code::HeaderAmbiguous,
        414 => Code::UriTooLong,
        431 => Code::HeadersTooLarge,
        _ => return None,
    };
    let mut kept = String::new();
    let mut is_empty = false;
    for line in headers.split("\r\n") {
        match line.split_once(": ")? {
            ("content-length", "0") => is_empty = true,
            ("connection" | "date", _) => kept.push_str(&format!("{line}\r\n")),
            _ => return None,
        }
    }
    let body = Problem::new(code, None).to_json();
    let head = format!(
        "{status_line}\r\n{kept}content-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    is_empty.then(|| [head.into_bytes(), body].concat())
}

/// A bare answer is a status line and three short headers.
const BARE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const BARE: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
                        date: Sun, 22 Nov 2026 02:00:00 GMT\r\n\r\n";

    #[test]
    fn a_bare_error_gets_the_words_of_its_status() {
        let worded = String::from_utf8(in_words(BARE.as_bytes()).unwrap()).unwrap();
        let (head, body) = worded.split_once("\r\n\r\n").unwrap();
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert_eq!((problem.status, problem.code.as_str()), (431, "headers_too_large"));
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert!(
            head.contains("content-type: application/problem+json") && head.contains("connection: close")
        );
    }

    #[test]
    fn an_answer_that_says_anything_is_left_alone() {
        for (from, to) in [
            ("431 Request Header Fields Too Large", "200 OK"),
            ("431 Request Header Fields Too Large", "401 Unauthorized"),
            ("content-length: 0", "content-length: 2"),
            ("connection: close", "content-type: text/plain"),
            ("content-length: 0\r\n", ""),
        ] {
            assert_eq!(in_words(BARE.replace(from, to).as_bytes()), None, "{to}");
        }
        assert_eq!(in_words(format!("{BARE}more").as_bytes()), None);
        assert_eq!(in_words(b"PRI * HTTP/2.0\r\n\r\n"), None);
    }

    #[tokio::test]
    async fn words_that_do_not_fit_at_once_follow() {
        let (near, mut far) = tokio::io::duplex(16);
        let writing = tokio::spawn(async move {
            let mut stream = Worded::new(near, Arc::new(Activity::new()), None);
            stream.write_all(BARE.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        writing.await.unwrap();
        assert!(text.ends_with('}') && text.contains("headers_too_large"), "{text}");
    }
}
