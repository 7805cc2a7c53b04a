//! Spans for a collector: OTLP over HTTP, in protobuf (OpenTelemetry Protocol 1.5, section "OTLP/HTTP").
//!
//! Requests only put what is known of them into a bounded queue. A task takes them out in batches, and sends each batch
//! again where the collector says that it may. Spans for which there is no room, or no collector, are lost and counted.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use countersign_sdk::trace::{Exchange, TraceId};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};
use prost::Message as _;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;

/// `[otlp]`: where spans go, and of how many traces.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpTable {
    /// Of a collector that speaks OTLP over HTTP, such as `http://127.0.0.1:4318`; `/v1/traces` is added to it.
    pub endpoint: Endpoint,
    /// Of the traces that begin here, this share is recorded. One that began elsewhere is recorded if its caller says
    /// so.
    #[serde(default)]
    pub ratio: Ratio,
}

/// The address of a collector.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Endpoint(#[schemars(with = "String")] Uri);

/// A share, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
pub struct Ratio(f64);

/// Why a setting of `[otlp]` is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OtlpError {
    /// Not `http://host:port`.
    #[error(
        "{endpoint:?} is no collector: write http://127.0.0.1:4318, or where else one listens for OTLP over HTTP"
    )]
    Endpoint {
        /// As it was written.
        endpoint: String,
    },
    /// A name or a password in it, which would be in every message about it.
    #[error("the address of the collector holds a name or a password: write http://HOST:PORT without them")]
    Credentials,
    /// Not a share.
    #[error("{ratio} is no share: write a number from 0 to 1")]
    Ratio {
        /// As it was written.
        ratio: f64,
    },
}

impl TryFrom<String> for Endpoint {
    type Error = OtlpError;

    fn try_from(text: String) -> Result<Self, OtlpError> {
        if text.contains('@') {
            return Err(OtlpError::Credentials);
        }
        let whole = format!("{}/v1/traces", text.trim_end_matches('/'));
        let uri = whole.parse::<Uri>().ok().filter(|uri| {
            uri.scheme_str() == Some("http") && uri.authority().is_some() && uri.query().is_none()
        });
        uri.map(Self).ok_or(OtlpError::Endpoint { endpoint: text })
    }
}

impl TryFrom<f64> for Ratio {
    type Error = OtlpError;

    fn try_from(ratio: f64) -> Result<Self, OtlpError> {
        if (0.0..=1.0).contains(&ratio) { Ok(Self(ratio)) } else { Err(OtlpError::Ratio { ratio }) }
    }
}

impl Default for Ratio {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Ratio {
    /// Is this trace among them? By its id, so that everybody with this ratio says the same.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of all numbers, give or take a few"
    )]
    pub(super) fn samples(self, trace: TraceId) -> bool {
        let low = trace.to_bytes().last_chunk().copied().map_or(0, u64::from_be_bytes);
        (low >> 1) < (self.0 * (1_u64 << 63) as f64) as u64
    }
}

/// The near end of the queue.
pub(super) struct Spans {
    pub(super) ratio: Ratio,
    queue: Sender<Exchange>,
}

impl Spans {
    /// Starts the task that sends; it ends when `closing` is cancelled and what waits was sent.
    pub(super) fn start(table: OtlpTable, closing: CancellationToken) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, exchanges) = channel(QUEUE_SPANS);
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let exporter = Exporter { client, endpoint: table.endpoint.0, failing: false };
        let task = tokio::spawn(exporter.run(exchanges, closing));
        (Self { ratio: table.ratio, queue }, task)
    }

    pub(super) fn put(&self, exchange: Exchange) {
        if self.queue.try_send(exchange).is_err() {
            dropped("queue_full", 1);
        }
    }
}

struct Exporter {
    client: Client<HttpConnector, Full<Bytes>>,
    endpoint: Uri,
    /// Was the last batch lost? Then the next one that is needs no line.
    failing: bool,
}

/// How a try to send a batch went.
enum Try {
    Taken,
    /// The collector may take it later.
    Later(String),
    Never(String),
}

impl Exporter {
    async fn run(mut self, mut exchanges: Receiver<Exchange>, closing: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_SPANS);
        loop {
            let gathering = async {
                exchanges.recv_many(&mut batch, BATCH_SPANS).await;
                if batch.len() < BATCH_SPANS {
                    tokio::time::sleep(BATCH_WAIT).await;
                }
            };
            let closes = tokio::select! {
                () = gathering => false,
                () = closing.cancelled() => true,
            };
            while batch.len() < BATCH_SPANS
                && let Ok(next) = exchanges.try_recv()
            {
                batch.push(next);
            }
            if batch.is_empty() {
                if closes || exchanges.is_closed() {
                    return;
                }
                continue;
            }
            self.send(std::mem::take(&mut batch), &closing).await;
        }
    }

    async fn send(&mut self, batch: Vec<Exchange>, closing: &CancellationToken) {
        let count = batch.len() as u64;
        let body = Bytes::from(request_of(&batch).encode_to_vec());
        let mut pauses = RETRY_AFTER.into_iter();
        let why = loop {
            match self.try_once(body.clone()).await {
                Try::Taken => {
                    self.failing = false;
                    return;
                }
                Try::Never(why) => break why,
                Try::Later(why) => match pauses.next().filter(|_| !closing.is_cancelled()) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => break why,
                },
            }
        };
        dropped("export_failed", count);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(endpoint = %self.endpoint, why, "spans cannot be sent to the collector, and are dropped");
        }
    }

    async fn try_once(&self, body: Bytes) -> Try {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.endpoint.clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(body));
        let Ok(request) = request else { return Try::Never("no request can be made".to_owned()) };
        let answering = async {
            let answer = self.client.request(request).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok::<_, String>((status, body.map(|body| body.to_bytes()).unwrap_or_default()))
        };
        let (status, body) = match tokio::time::timeout(ANSWER_WITHIN, answering).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Try::Later(why),
            Err(_) => return Try::Later("it did not answer in time".to_owned()),
        };
        let said = format!("it answered {status}");
        match status {
            status if status.is_success() => {
                count_rejected(&body);
                Try::Taken
            }
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Try::Later(said),
            _ => Try::Never(said),
        }
    }
}

/// A collector may take a part of a batch, and says then how much it did not.
fn count_rejected(body: &Bytes) {
    let partial = ExportTraceServiceResponse::decode(body.clone()).ok().and_then(|said| said.partial_success);
    let rejected = partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or_default());
    if rejected > 0 {
        dropped("rejected", rejected);
    }
}

fn dropped(reason: &'static str, count: u64) {
    metrics::counter!(super::SPANS_DROPPED, "reason" => reason).increment(count);
}

/// One resource for each service: a process has one, or few.
fn request_of(batch: &[Exchange]) -> ExportTraceServiceRequest {
    let mut services: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for exchange in batch {
        services.entry(&exchange.service).or_default().push(span_of(exchange));
    }
    let of_service = |(service, spans): (&str, Vec<Span>)| ResourceSpans {
        resource: Some(Resource { attributes: vec![text("service.name", service)], ..Resource::default() }),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "countersign".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..InstrumentationScope::default()
            }),
            spans,
            schema_url: String::new(),
        }],
        schema_url: String::new(),
    };
    ExportTraceServiceRequest { resource_spans: services.into_iter().map(of_service).collect() }
}

/// A server span as the semantic conventions for HTTP name its parts. The path is told by its template alone, and
/// neither query, token nor user.
fn span_of(exchange: &Exchange) -> Span {
    let hop = &exchange.hop;
    let method = if exchange.method.is_empty() { "_OTHER" } else { exchange.method.as_str() };
    let name = match exchange.route.as_str() {
        "" => if exchange.method.is_empty() { "HTTP" } else { method }.to_owned(),
        route => format!("{method} {route}"),
    };
    let began = u64::try_from(exchange.began.millis()).unwrap_or_default().saturating_mul(1_000_000);
    let took = u64::try_from(exchange.took.as_nanos()).unwrap_or(u64::MAX);
    let failed = exchange.status == 0 || exchange.status >= 500;
    let code = if failed { SpanStatus::Error } else { SpanStatus::Unset };
    let flags = u32::from(hop.is_sampled())
        | SpanFlags::ContextHasIsRemoteMask as u32
        | if hop.parent().is_some() { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    Span {
        trace_id: hop.trace().to_bytes().to_vec(),
        span_id: hop.span().to_bytes().to_vec(),
        parent_span_id: hop.parent().map(|parent| parent.to_bytes().to_vec()).unwrap_or_default(),
        flags,
        name,
        kind: SpanKind::Server as i32,
        start_time_unix_nano: began,
        end_time_unix_nano: began.saturating_add(took),
        attributes: attributes(exchange, method, failed),
        status: Some(Status { code: code as i32, message: String::new() }),
        ..Span::default()
    }
}

fn attributes(exchange: &Exchange, method: &str, failed: bool) -> Vec<KeyValue> {
    let mut told = vec![
        text("http.request.method", method),
        text("countersign.auth.mode", &exchange.mode),
        text("countersign.decision.id", &exchange.decision.to_string()),
    ];
    if exchange.status != 0 {
        told.push(number("http.response.status_code", u64::from(exchange.status)));
    }
    if let Some(bytes) = exchange.bytes {
        told.push(number("http.response.body.size", bytes));
    }
    let status = exchange.status.to_string();
    let error = exchange.code.as_deref().or_else(|| failed.then_some(status.as_str()));
    let texts = [
        ("http.route", Some(exchange.route.as_str()).filter(|route| !route.is_empty())),
        ("error.type", error),
        ("countersign.caller", exchange.caller.as_deref()),
        ("countersign.to", Some(exchange.to.as_str()).filter(|to| !to.is_empty())),
    ];
    told.extend(texts.into_iter().filter_map(|(key, value)| Some(text(key, value?))));
    told
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Spans that wait to be sent: some two seconds of a busy gateway.
const QUEUE_SPANS: usize = 16_384;
const BATCH_SPANS: usize = 512;
const BATCH_WAIT: Duration = Duration::from_millis(500);
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::super::tests::exchange;
    use super::*;

    #[test]
    fn a_span_is_named_by_method_and_template_and_knows_its_parent() {
        let exchange = exchange();
        let span = span_of(&exchange);
        assert_eq!((span.name.as_str(), span.kind), ("GET /ads/{id}", SpanKind::Server as i32));
        assert_eq!(span.trace_id, exchange.hop.trace().to_bytes());
        assert_eq!(span.parent_span_id, exchange.hop.parent().unwrap().to_bytes());
        assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 1_500_000);
        let keys: Vec<&str> = span.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        assert!(keys.contains(&"http.route") && keys.contains(&"http.response.status_code"), "{keys:?}");
        assert!(!keys.contains(&"error.type"));
    }

    #[test]
    fn a_span_says_nothing_of_the_user() {
        let told = format!("{:?}", request_of(&[exchange()]));
        assert!(told.contains("spiffe://fleamarket.test/svc/ads"));
        assert!(!told.contains("p_alice"), "{told}");
    }

    #[test]
    fn what_failed_is_an_error_and_what_was_refused_is_not() {
        for (status, code) in [(200, 0), (403, 0), (502, 2), (0, 2)] {
            let exchange = Exchange { status, ..exchange() };
            assert_eq!(span_of(&exchange).status.unwrap().code, code, "{status}");
        }
        let refused = Exchange {
            status: 403,
            code: Some("CS2107".to_owned()),
            method: String::new(),
            route: String::new(),
            ..exchange()
        };
        let span = span_of(&refused);
        assert_eq!(span.name, "HTTP");
        assert!(span.attributes.contains(&text("error.type", "CS2107")));
        assert!(span.attributes.contains(&text("http.request.method", "_OTHER")));
    }

    #[test]
    fn a_ratio_decides_by_the_trace_and_its_ends_are_all_and_nothing() {
        let traces: Vec<TraceId> = (0..4000).map(|_| TraceId::random()).collect();
        let sampled = |ratio: f64| {
            let ratio = Ratio::try_from(ratio).unwrap();
            traces.iter().filter(|trace| ratio.samples(**trace)).count()
        };
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 4000));
        let quarter = sampled(0.25);
        assert!((800..1200).contains(&quarter), "{quarter}");
        assert_eq!(quarter, sampled(0.25));
    }

    #[test]
    fn rejects_what_is_no_share_and_no_collector() {
        for ratio in [-0.1, 1.1, f64::INFINITY] {
            assert_eq!(Ratio::try_from(ratio), Err(OtlpError::Ratio { ratio }));
        }
        assert!(Ratio::try_from(f64::NAN).is_err());
        for bad in ["", "127.0.0.1:4318", "https://collector:4318", "ftp://a", "http://", "http://a/?x=1"] {
            let endpoint = bad.to_owned();
            assert_eq!(Endpoint::try_from(endpoint.clone()), Err(OtlpError::Endpoint { endpoint }), "{bad}");
        }
        for secret in ["http://alice:secret@collector:4318", "http://token@collector:4318"] {
            assert_eq!(Endpoint::try_from(secret.to_owned()), Err(OtlpError::Credentials));
        }
        assert!(!OtlpError::Credentials.to_string().contains("secret"));
        let with_path = Endpoint::try_from("http://collector:4318/otel/".to_owned()).unwrap();
        assert_eq!(with_path.0.to_string(), "http://collector:4318/otel/v1/traces");
    }

    #[tokio::test]
    async fn a_span_that_finds_no_room_is_dropped_and_nobody_waits() {
        let (queue, mut exchanges) = channel(1);
        let spans = Spans { ratio: Ratio::default(), queue };
        spans.put(exchange());
        spans.put(exchange());
        assert!(exchanges.try_recv().is_ok() && exchanges.try_recv().is_err());
    }
}
