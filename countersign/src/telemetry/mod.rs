//! Logs, metrics, access lines and spans of every role: installed once, here; all else speaks to the facades `tracing`,
//! `metrics` and `countersign_sdk::trace`.

mod access;
mod histograms;
mod spans;

use std::io::IsTerminal as _;
use std::time::Duration;

use countersign_identity::UnixTime;
use countersign_sdk::trace::{Exchange, Observer, TraceId, observe};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

pub use access::Access;
pub use histograms::Meters;
pub use spans::OtlpTable;

use self::access::{AccessLog, Flusher};
use self::histograms::Metering;
use self::spans::Spans;
use crate::config::Config;
use crate::error::CliError;

/// Logs to stderr: text for a terminal, JSON lines otherwise. `COUNTERSIGN_LOG` sets the level (default `info`).
pub fn logs() {
    let filter = EnvFilter::try_from_env("COUNTERSIGN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second initialisation (tests that run in one process) keeps the first.
    let _ = if std::io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
}

/// Installs the process's metrics recorder; what it gives renders `/metrics`.
pub fn metrics() -> Result<Meters, CliError> {
    let metering = Metering::new(PrometheusBuilder::new().build_recorder());
    let meters = metering.meters();
    metrics::set_global_recorder(metering)
        .map_err(|e| CliError::failed("the metrics recorder cannot be installed", e, "report this"))?;
    metrics::describe_gauge!("countersign_build_info", "Version of the running binary; always 1");
    metrics::gauge!("countersign_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(meters)
}

/// Who hears of the requests of this process, until it is closed.
#[derive(Debug, Default)]
pub struct Observing {
    closing: CancellationToken,
    sending: Option<JoinHandle<()>>,
    writing: Option<Flusher>,
}

/// Writes access lines and sends spans, as `[log]` and `[otlp]` say. Where they say neither, nothing is made for it on
/// the path of a request.
///
/// Must be called inside a runtime, once in a process.
pub fn requests(config: &Config) -> Result<Observing, CliError> {
    let access = config.log.as_ref().map(|log| log.access).unwrap_or_default();
    let log = AccessLog::start(access)
        .map_err(|e| CliError::failed("the access log cannot be written", e, "raise the limit on threads"))?;
    let writing = log.as_ref().map(AccessLog::flusher);
    let mut observing = Observing { writing, ..Observing::default() };
    let spans = config.otlp.clone().map(|table| {
        let (spans, task) = Spans::start(table, observing.closing.clone());
        observing.sending = Some(task);
        spans
    });
    metrics::describe_counter!(LINES_DROPPED, "Access lines that were lost because nobody took them in time");
    metrics::describe_counter!(SPANS_DROPPED, "Spans that did not reach the collector, by reason");
    if log.is_some() || spans.is_some() {
        observe(Box::new(Both { log, spans }));
    }
    Ok(observing)
}

impl Observing {
    /// Sends and writes what waits, for a moment.
    pub async fn close(self) {
        self.closing.cancel();
        let sending = async {
            if let Some(sending) = self.sending {
                let _ = sending.await;
            }
        };
        let writing = async {
            if let Some(writing) = self.writing {
                writing.flush().await;
            }
        };
        if tokio::time::timeout(CLOSE_WITHIN, async { tokio::join!(sending, writing) }).await.is_err() {
            tracing::warn!("spans or access lines were not taken in time: the last of them are lost");
        }
    }
}

struct Both {
    log: Option<AccessLog>,
    spans: Option<Spans>,
}

impl Both {
    fn logs(&self, status: u16) -> Option<&AccessLog> {
        self.log.as_ref().filter(|log| log.which.wants(status))
    }
}

impl Observer for Both {
    fn records_spans(&self) -> bool {
        self.spans.is_some()
    }

    fn samples(&self, trace: TraceId) -> bool {
        self.spans.as_ref().is_none_or(|spans| spans.ratio.samples(trace))
    }

    fn wants(&self, status: u16, is_sampled: bool) -> bool {
        (is_sampled && self.spans.is_some()) || self.logs(status).is_some()
    }

    fn ended(&self, exchange: Exchange) {
        if let Some(spans) = self.spans.as_ref().filter(|_| exchange.hop.is_sampled()) {
            spans.put(exchange.clone());
        }
        if let Some(log) = self.logs(exchange.status) {
            log.put(exchange);
        }
    }
}

/// A moment as RFC 3339 has it, UTC, to the millisecond.
fn rfc3339(at: UnixTime) -> String {
    let nanos = i128::from(at.millis()) * 1_000_000;
    let at =
        time::OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (at.date(), at.time());
    let (hour, minute, second, milli) = clock.as_hms_milli();
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

const LINES_DROPPED: &str = "countersign_access_lines_dropped_total";
const SPANS_DROPPED: &str = "countersign_spans_dropped_total";
/// How long an end waits for a collector and for who reads the lines.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use countersign_identity::DecisionId;
    use countersign_sdk::trace::Hop;
    use http::{HeaderMap, HeaderValue};

    use super::*;

    /// A call of ads that went well.
    pub(super) fn exchange() -> Exchange {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let headers = [(http::HeaderName::from_static("traceparent"), HeaderValue::from_static(parent))];
        Exchange {
            began: UnixTime::from_millis(1_800_000_000_123),
            took: Duration::from_micros(1500),
            hop: Hop::of_request(&HeaderMap::from_iter(headers)),
            decision: DecisionId::from_random([7; 10]),
            service: "users".to_owned(),
            to: String::new(),
            method: "GET".to_owned(),
            route: "/ads/{id}".to_owned(),
            status: 200,
            caller: Some("spiffe://fleamarket.test/svc/ads".to_owned()),
            user: Some("p_alice".to_owned()),
            mode: "mtls".to_owned(),
            code: None,
            peer: Some("127.0.0.1:4000".to_owned()),
            bytes: Some(7),
        }
    }
}
