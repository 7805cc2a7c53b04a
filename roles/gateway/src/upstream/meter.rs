//! `countersign_upstream_*`: counters by the name of the upstream, which configuration bounds.

use std::sync::atomic::{AtomicU64, Ordering};

use super::roster::Roster;

/// The counters of one upstream; handles are made once.
pub(super) struct Meter {
    name: String,
    requests: metrics::Counter,
    failures: metrics::Counter,
    ejections: metrics::Counter,
    connections: metrics::Counter,
    retries: metrics::Counter,
    /// Requests that began at endpoints which are gone.
    retired: AtomicU64,
}

impl Meter {
    pub(super) fn new(name: &str) -> Self {
        let upstream = || name.to_owned();
        Meter {
            requests: metrics::counter!("countersign_upstream_requests_total", "upstream" => upstream()),
            failures: metrics::counter!("countersign_upstream_failures_total", "upstream" => upstream()),
            ejections: metrics::counter!("countersign_upstream_ejections_total", "upstream" => upstream()),
            connections: metrics::counter!("countersign_upstream_connections_total", "upstream" => upstream()),
            retries: metrics::counter!("countersign_upstream_retries_total", "upstream" => upstream()),
            name: upstream(),
            retired: AtomicU64::new(0),
        }
    }

    /// Requests are counted at their endpoints; from time to time the sum goes here.
    pub(super) fn requests(&self, ever: u64) {
        self.requests.absolute(ever);
    }

    pub(super) fn retire(&self, requests: u64) {
        self.retired.fetch_add(requests, Ordering::Relaxed);
    }

    pub(super) fn retired(&self) -> u64 {
        self.retired.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) {
        self.failures.increment(1);
    }

    pub(super) fn ejected(&self) {
        self.ejections.increment(1);
    }

    pub(super) fn connected(&self) {
        self.connections.increment(1);
    }

    pub(super) fn retried(&self) {
        self.retries.increment(1);
    }

    pub(super) fn refused(&self, why: &'static str) {
        metrics::counter!("countersign_upstream_refused_total", "upstream" => self.name.clone(), "reason" => why)
            .increment(1);
    }

    pub(super) fn checked(&self, well: bool) {
        let result = if well { "pass" } else { "fail" };
        metrics::counter!("countersign_upstream_health_checks_total", "upstream" => self.name.clone(),
            "result" => result)
        .increment(1);
    }

    pub(super) fn endpoints(&self, roster: &Roster) {
        let well = roster.all.iter().filter(|member| member.endpoint.is_well()).count();
        for (state, count) in [("well", well), ("unwell", roster.all.len() - well)] {
            metrics::gauge!("countersign_upstream_endpoints", "upstream" => self.name.clone(), "state" => state)
                .set(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn everything_is_counted_by_the_name_of_the_upstream_alone() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let meter = Meter::new("backend");
            meter.requests(7);
            meter.requests(5);
            meter.failed();
            meter.ejected();
            meter.connected();
            meter.retried();
            meter.refused("requests_max");
            meter.checked(false);
            meter.endpoints(&Roster::default());
        });
        let text = shown.render();
        for series in [
            "requests_total{upstream=\"backend\"} 7",
            "failures_total{upstream=\"backend\"} 1",
            "ejections_total{upstream=\"backend\"} 1",
            "connections_total{upstream=\"backend\"} 1",
            "retries_total{upstream=\"backend\"} 1",
            "refused_total{upstream=\"backend\",reason=\"requests_max\"} 1",
            "health_checks_total{upstream=\"backend\",result=\"fail\"} 1",
            "endpoints{upstream=\"backend\",state=\"well\"} 0",
        ] {
            assert!(text.contains(&format!("countersign_upstream_{series}")), "{series} is not in\n{text}");
        }
    }
}
