//! Logs and metrics of every role: installed once, here; all else speaks to the facades `tracing` and `metrics`.

use std::io::IsTerminal as _;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::error::CliError;

/// Upper bounds of the latency histograms, in seconds.
const LATENCY_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// How often the exporter folds its histograms.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

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

/// Installs the process's metrics recorder and keeps it folded; the handle renders `/metrics`.
///
/// Must be called inside a runtime.
pub fn metrics() -> Result<PrometheusHandle, CliError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".into()), LATENCY_BUCKETS)
        .and_then(|builder| builder.install_recorder())
        .map_err(|e| CliError::failed("the metrics recorder cannot be installed", e, "report this"))?;
    metrics::describe_gauge!("countersign_build_info", "Version of the running binary; always 1");
    metrics::gauge!("countersign_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let folded = handle.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(UPKEEP_EVERY);
        loop {
            tick.tick().await;
            folded.run_upkeep();
        }
    });
    Ok(handle)
}
