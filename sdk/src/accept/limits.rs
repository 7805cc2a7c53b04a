//! What a connection may cost before its peer has been believed, and after.

use std::time::Duration;

use serde::Deserialize;

/// Limits of one listener. In TOML, durations are whole milliseconds; each has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// From the first byte to the end of the TLS handshake.
    #[serde(rename = "handshake_ms", deserialize_with = "millis")]
    pub handshake: Duration,
    /// From the first byte of a request, of the first one from the start of its connection, to the end of its headers.
    #[serde(rename = "header_read_ms", deserialize_with = "millis")]
    pub header_read: Duration,
    /// Without a request in progress.
    #[serde(rename = "idle_ms", deserialize_with = "millis")]
    pub idle: Duration,
    /// Life of a connection, after which it is drained.
    #[serde(rename = "connection_age_ms", deserialize_with = "millis")]
    pub connection_age: Duration,
    /// How long requests in progress may take once a connection or the process is draining.
    #[serde(rename = "drain_ms", deserialize_with = "millis")]
    pub drain: Duration,
    /// How long requests in progress may take once their peer is no longer believed.
    #[serde(rename = "cut_ms", deserialize_with = "millis")]
    pub cut: Duration,
    /// Open connections; more of them wait in the kernel's queue.
    pub connections_max: usize,
    /// Requests in progress on one HTTP/2 connection.
    pub streams_max: u32,
    /// Headers of one request, in bytes.
    pub header_bytes_max: u32,
    /// Headers of one HTTP/1.1 request, counted.
    pub headers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            connection_age: Duration::from_hours(1),
            drain: Duration::from_secs(10),
            cut: Duration::from_millis(500),
            connections_max: 1024,
            streams_max: 256,
            header_bytes_max: 32 * 1024,
            headers_max: 100,
        }
    }
}

fn millis<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}
