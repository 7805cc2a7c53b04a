//! What the metrics of a gateway or sidecar mean, and those that are read when somebody looks.
//!
//! No user, path, token or serial is a label: the number of series is bounded by the configuration.

use std::sync::Arc;

use countersign_sdk::workload::Workload;

use crate::admin::MetricsText;

/// Tells the process's recorder what each metric is, and sets those that are there from the start.
pub(crate) fn describe() {
    for (name, help) in COUNTERS {
        metrics::describe_counter!(*name, *help);
    }
    for (name, help) in GAUGES {
        metrics::describe_gauge!(*name, *help);
    }
    for (name, help) in HISTOGRAMS {
        metrics::describe_histogram!(*name, metrics::Unit::Seconds, *help);
    }
    // What was read at the start was good, or nothing would run.
    metrics::gauge!("countersign_config_reload_success").set(1.0);
}

/// The text of all metrics, with what is read only for it.
pub(crate) fn read_when_asked(workload: Workload, text: MetricsText) -> MetricsText {
    Arc::new(move || {
        let spool = workload.spool();
        metrics::gauge!("countersign_audit_queue_length").set(as_f64(spool.waiting() as u64));
        metrics::gauge!("countersign_audit_backlog_bytes").set(as_f64(spool.backlog_bytes()));
        if let Some(identity) = workload.trust().load().identity() {
            let expiry = u64::try_from(identity.not_after().secs()).unwrap_or_default();
            metrics::gauge!("countersign_svid_expiry_timestamp_seconds").set(as_f64(expiry));
        }
        text()
    })
}

/// Exact below 2^53, which none of these reaches.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

const COUNTERS: &[(&str, &str)] = &[
    (
        "countersign_requests_total",
        "Requests by kind of caller, target, evidence, verdict and class of status",
    ),
    ("countersign_decisions_total", "Decisions by mode of the evidence, effect and policy"),
    ("countersign_handshake_failures_total", "TLS handshakes that failed"),
    (
        "countersign_handshakes_total",
        "TLS handshakes of callers, by how the client proved itself, resumption and group",
    ),
    (
        "countersign_handshakes_total",
        "TLS handshakes by what they proved of the client, and by how their keys were agreed on",
    ),
    (
        "countersign_connections_refused_total",
        "Connections closed before their first byte was read, by reason",
    ),
    ("countersign_plain_connections_total", "Connections without TLS that were accepted"),
    ("countersign_login_failures_total", "Logins that were refused, by reason"),
    ("countersign_filter_answers_total", "Questions to the operator's own filters, by outcome"),
    (
        "countersign_filter_headers_ignored_total",
        "Changes of headers that a filter asked for and may not make",
    ),
    (
        "countersign_access_token_lookups_total",
        "Access tokens of requests, by whether their verdict was remembered: hit or miss",
    ),
    ("countersign_acme_orders_total", "Orders of certificates for the edge, by host and result"),
    ("countersign_issuer_fetch_failures_total", "Keys of other issuers that could not be fetched"),
    ("countersign_shared_limits_failures_total", "Questions that the server of shared limits did not answer"),
    ("countersign_upstream_requests_total", "Requests that were sent to an upstream"),
    (
        "countersign_upstream_failures_total",
        "Requests to an upstream that brought no answer, or a server error",
    ),
    ("countersign_upstream_ejections_total", "Endpoints that were left alone because they failed"),
    ("countersign_upstream_connections_total", "Connections that were made to an upstream"),
    ("countersign_upstream_retries_total", "Requests that were sent again"),
    ("countersign_upstream_refused_total", "Requests that an upstream had no room for, by limit"),
    (
        "countersign_upgrades_ended_total",
        "Connections outside HTTP, such as WebSockets, that ended, by reason",
    ),
    ("countersign_upstream_health_checks_total", "Health checks of endpoints, by result"),
];

const GAUGES: &[(&str, &str)] = &[
    (
        "countersign_config_reload_success",
        "1 if what was last read again is in force, 0 if the old one had to stay",
    ),
    ("countersign_audit_queue_length", "Ledger events that are not on disk yet"),
    ("countersign_audit_backlog_bytes", "Ledger records on disk that the authority does not hold yet"),
    ("countersign_svid_expiry_timestamp_seconds", "When the certificate of this process expires"),
    (
        "countersign_acme_certificate_expiry_timestamp_seconds",
        "When the certificate that was ordered for a host expires; 0 while it has none",
    ),
    ("countersign_acme_trouble", "1 while the last order of a host brought no certificate, else 0"),
    ("countersign_upstream_endpoints", "Endpoints of an upstream, by state"),
    ("countersign_upgrades_open", "Connections that left HTTP, such as WebSockets"),
    ("countersign_peer_clock_ahead_seconds", "How far the clock of a service is ahead of ours"),
];

const HISTOGRAMS: &[(&str, &str)] = &[
    ("countersign_request_duration_seconds", "From the head of a request to the head of its answer"),
    ("countersign_handshake_duration_seconds", "TLS handshakes that succeeded"),
    ("http_server_request_duration_seconds", "Requests to the service behind a sidecar"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Names of metrics in the sources below a folder.
    fn named(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                named(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for kind in ["counter!(\"", "gauge!(\"", "histogram!(\"", "RELOAD_SUCCESS: &str = \""] {
                    let found =
                        text.split(kind).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
                    names.extend(found.filter(|name| !name.is_empty() && !name.contains('\\')));
                }
            }
        }
    }

    fn described() -> BTreeSet<String> {
        [COUNTERS, GAUGES, HISTOGRAMS].concat().into_iter().map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn every_metric_of_a_gateway_is_described_and_nothing_else_is() {
        let root = countersign_testkit::workspace_root();
        let mut used = BTreeSet::new();
        named(&root.join("roles/gateway/src"), &mut used);
        named(&root.join("sdk/src"), &mut used);
        assert_eq!(used, described());
    }

    #[test]
    fn the_dashboard_and_the_alerts_ask_for_metrics_that_exist() {
        let root = countersign_testkit::workspace_root();
        let mut exist = BTreeSet::new();
        for folder in ["roles", "sdk/src", "countersign/src"] {
            named(&root.join(folder), &mut exist);
        }
        for file in ["alerts.yml", "dashboard.json"] {
            let text = std::fs::read_to_string(root.join("deploy/observability").join(file)).unwrap();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let asked: BTreeSet<&str> = words.filter(|word| word.starts_with("countersign_")).collect();
            assert!(asked.len() >= 5, "{file}: {asked:?}");
            for name in asked {
                let base = name.trim_end_matches("_bucket").trim_end_matches("_count");
                assert!(exist.contains(base), "{file} asks for {name}, which nobody exports");
            }
        }
        let alerts = std::fs::read_to_string(root.join("deploy/observability/alerts.yml")).unwrap();
        for alert in ["Expir", "Denial", "Renewal", "Clock", "Reload"] {
            assert!(alerts.contains(alert), "no alert about {alert}");
        }
    }
}
