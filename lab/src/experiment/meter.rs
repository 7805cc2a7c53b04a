//! What processes spend and what callees counted, read from outside: `/proc` and `/metrics`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header::HOST};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};

use super::data::{EdgeUse, Handshakes, exact};
use crate::relay;

/// Why something was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MeterError {
    /// The process has ended, or this is no Linux.
    #[error("/proc/{pid} cannot be read: the process has ended")]
    Gone {
        /// Which.
        pid: u32,
    },
    /// A relay's own port does not answer.
    #[error("{address}{path} does not answer: {why}")]
    Silent {
        /// Where.
        address: SocketAddr,
        /// What was asked.
        path: String,
        /// Why.
        why: String,
    },
}

/// CPU time of a process so far, all threads that run: by the scheduler's own account, in nanoseconds. Of threads that
/// ended meanwhile nothing is left; the relays' work is done by threads that stay.
///
/// # Errors
/// The process has ended.
pub fn cpu_ns(pid: u32) -> Result<u64, MeterError> {
    let gone = || MeterError::Gone { pid };
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| gone())?;
    let of_thread = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let spent: Vec<u64> = threads.flatten().filter_map(of_thread).collect();
    if spent.is_empty() { Err(gone()) } else { Ok(spent.iter().sum()) }
}

/// Memory of a process now, in KiB: shared pages divided by those who share them.
///
/// # Errors
/// The process has ended.
pub fn pss_kib(pid: u32) -> Result<u64, MeterError> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).ok_or(MeterError::Gone { pid })
}

/// Everything that a callee counted since it started, as far as it is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Asks a relay.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn of(admin: SocketAddr) -> Result<Self, MeterError> {
        Ok(Self::read(&get(admin, "/metrics").await?.1))
    }

    /// Reads Prometheus' text format: each series by its name and labels as they are written.
    fn read(text: &str) -> Self {
        let series = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_asked_for = ASKED_FOR.iter().any(|name| series.starts_with(name));
            Some((series.to_owned(), value.parse().ok()?)).filter(|_| is_asked_for)
        });
        Self(series.collect())
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().filter_map(|(series, now)| {
            let grown = now.saturating_sub(before.0.get(series).copied().unwrap_or(0));
            (grown > 0).then(|| (series.clone(), grown))
        });
        Self(grown.collect())
    }

    /// As an edge between two relays.
    #[must_use]
    pub fn edge(&self, caller: &str, callee: &str) -> EdgeUse {
        let modes = self.by(REQUESTS, "countersign_auth_mode");
        let requests = exact(modes.values().sum::<u64>().max(1));
        let bytes = self.by(relay::BYTES, "direction");
        let direction = |name: &str| exact(bytes.get(name).copied().unwrap_or(0)) / requests;
        EdgeUse {
            caller: caller.to_owned(),
            callee: callee.to_owned(),
            modes,
            users: self.by(relay::REQUESTS, "user"),
            handshakes: self.handshakes(),
            handshakes_ever: Handshakes::default(),
            bytes_sent_per_request: direction("in"),
            bytes_received_per_request: direction("out"),
        }
    }

    /// Handshakes and connections.
    #[must_use]
    pub fn handshakes(&self) -> Handshakes {
        let mut seen = Handshakes::default();
        for (series, count) in self.named(HANDSHAKES) {
            let group = || label(series, "group").unwrap_or_default().to_owned();
            match (label(series, "client"), label(series, "resumed")) {
                (Some("refused"), _) => seen.refused += count,
                (_, Some("true")) => seen.resumed += count,
                (Some("proven"), _) => *seen.mutual.entry(group()).or_default() += count,
                _ => *seen.anonymous.entry(group()).or_default() += count,
            }
        }
        seen.plain = self.named(PLAIN).map(|(_, count)| count).sum();
        seen
    }

    /// Sums over all series of this name, by one of their labels.
    fn by(&self, name: &str, key: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (series, count) in self.named(name) {
            *sums.entry(label(series, key).unwrap_or_default().to_owned()).or_default() += count;
        }
        sums
    }

    fn named(&self, name: &str) -> impl Iterator<Item = (&str, u64)> {
        let is_it = move |series: &str| series.split('{').next() == Some(name);
        self.0
            .iter()
            .filter(move |(series, _)| is_it(series))
            .map(|(series, count)| (series.as_str(), *count))
    }
}

/// The value of one label. None of those that are asked about has a value with quotes or commas in it.
fn label<'a>(series: &'a str, key: &str) -> Option<&'a str> {
    let (_, labels) = series.split_once('{')?;
    let labels = labels.trim_end_matches('}').split(',');
    labels
        .filter_map(|label| label.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches('"'))
}

/// `GET` of a relay's own port, on a connection that is closed afterwards. Status and text.
///
/// # Errors
/// There is no answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), MeterError> {
    ask(Method::GET, (address, &address.to_string()), path, Bytes::new()).await
}

/// The same under the name of `host`.
///
/// # Errors
/// There is no answer.
pub async fn get_of(address: SocketAddr, host: &str, path: &str) -> Result<(u16, String), MeterError> {
    ask(Method::GET, (address, host), path, Bytes::new()).await
}

/// `POST`, likewise.
///
/// # Errors
/// There is no answer.
pub async fn post(address: SocketAddr, path: &str, text: String) -> Result<(u16, String), MeterError> {
    ask(Method::POST, (address, &address.to_string()), path, text.into()).await
}

async fn ask(
    method: Method,
    (address, host): (SocketAddr, &str),
    path: &str,
    text: Bytes,
) -> Result<(u16, String), MeterError> {
    let silent = |why: String| MeterError::Silent { address, path: path.to_owned(), why };
    let asking = async {
        let failed = |error: &dyn std::error::Error| silent(error.to_string());
        let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let driver = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, host);
        let request = request.body(Full::new(text)).map_err(|error| failed(&error))?;
        let (head, body) = sender.send_request(request).await.map_err(|error| failed(&error))?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| silent(error.to_string()))?.to_bytes();
        driver.abort();
        Ok((head.status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
    };
    timeout(ANSWER, asking).await.map_err(|_| silent("no answer in time".to_owned()))?
}

/// Requests by mode, as every door counts them.
const REQUESTS: &str = "http_server_request_duration_seconds_count";
const HANDSHAKES: &str = "countersign_handshakes_total";
const PLAIN: &str = "countersign_plain_connections_total";
const ASKED_FOR: [&str; 5] = [REQUESTS, HANDSHAKES, PLAIN, relay::REQUESTS, relay::BYTES];
const ANSWER: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BEFORE: &str = "\
# TYPE countersign_handshakes_total counter
countersign_handshakes_total{client=\"proven\",resumed=\"false\",group=\"X25519MLKEM768\"} 1
http_server_request_duration_seconds_count{http_route=\"/hop/{left}/{bytes}/{connections}\",countersign_auth_mode=\"mtls\"} 10
countersign_lab_wire_bytes_total{direction=\"in\"} 500
";
    const AFTER: &str = "\
countersign_handshakes_total{client=\"proven\",resumed=\"false\",group=\"X25519MLKEM768\"} 4
countersign_handshakes_total{client=\"anonymous\",resumed=\"true\",group=\"X25519\"} 1
countersign_handshakes_total{client=\"anonymous\",resumed=\"false\",group=\"X25519\"} 5
countersign_handshakes_total{client=\"refused\",resumed=\"false\",group=\"none\"} 2
countersign_plain_connections_total 3
http_server_request_duration_seconds_bucket{countersign_auth_mode=\"mtls\",le=\"0.1\"} 99
http_server_request_duration_seconds_count{http_route=\"/hop/{left}/{bytes}/{connections}\",countersign_auth_mode=\"mtls\"} 110
http_server_request_duration_seconds_count{http_route=\"/other\",countersign_auth_mode=\"none\"} 1
countersign_lab_requests_total{user=\"hop_token\"} 100
countersign_lab_wire_bytes_total{direction=\"in\"} 10600
countersign_lab_wire_bytes_total{direction=\"out\"} 20200
";

    #[test]
    fn an_edge_is_what_its_callee_counted_meanwhile() {
        let edge = Counters::read(AFTER).since(&Counters::read(BEFORE)).edge("a", "b");
        assert_eq!(edge.modes, BTreeMap::from([("mtls".into(), 100), ("none".into(), 1)]));
        assert_eq!(edge.users, BTreeMap::from([("hop_token".into(), 100)]));
        assert_eq!(edge.handshakes.mutual, BTreeMap::from([("X25519MLKEM768".into(), 3)]));
        assert_eq!(edge.handshakes.anonymous, BTreeMap::from([("X25519".into(), 5)]));
        let Handshakes { resumed, refused, plain, .. } = edge.handshakes;
        assert_eq!((resumed, refused, plain), (1, 2, 3));
        assert!((edge.bytes_sent_per_request - 100.0).abs() < 1e-9);
        assert!((edge.bytes_received_per_request - 200.0).abs() < 1e-9);
    }

    #[test]
    fn this_process_spends_and_one_that_is_not_there_cannot_be_read() {
        let pid = std::process::id();
        let before = cpu_ns(pid).unwrap();
        while cpu_ns(pid).unwrap() == before {
            std::hint::black_box((0..10_000).sum::<u64>());
        }
        assert!(pss_kib(pid).unwrap() > 0);
        assert_eq!(cpu_ns(u32::MAX), Err(MeterError::Gone { pid: u32::MAX }));
        assert_eq!(pss_kib(u32::MAX), Err(MeterError::Gone { pid: u32::MAX }));
    }

    #[tokio::test]
    async fn a_port_on_which_nobody_listens_is_silent() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(get(address, "/metrics").await, Err(MeterError::Silent { .. })));
    }
}
