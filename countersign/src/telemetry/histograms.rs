//! Histograms that cost a few counters each, however much is counted.
//!
//! The exporter keeps every sample until it is asked, some 24 bytes for each, and takes many equal ones one by one. The
//! proxy counts tens of thousands in a second, and hands over equal ones by their number: here that is one addition.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

/// Counters and gauges are the exporter's, histograms are ours.
pub(super) struct Metering {
    exporter: PrometheusRecorder,
    histograms: Arc<Histograms>,
}

/// Renders `/metrics`.
#[derive(Clone)]
pub struct Meters {
    exporter: PrometheusHandle,
    histograms: Arc<Histograms>,
}

/// Every histogram of the process, by its name and its labels.
#[derive(Default)]
struct Histograms {
    help: Mutex<BTreeMap<String, String>>,
    /// Read for every request, so without a lock: a new series is rare, and makes a new map.
    known: ArcSwap<HashMap<Key, Arc<Buckets>>>,
    registering: Mutex<()>,
}

/// How many samples were at most so large, and not as large as the bound before.
#[derive(Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS.len()],
    larger: AtomicU64,
    /// The bits of a number of seconds.
    sum: AtomicU64,
}

impl Metering {
    pub(super) fn new(exporter: PrometheusRecorder) -> Self {
        Self { exporter, histograms: Arc::default() }
    }

    pub(super) fn meters(&self) -> Meters {
        Meters { exporter: self.exporter.handle(), histograms: Arc::clone(&self.histograms) }
    }
}

impl Meters {
    /// The text format of Prometheus, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.exporter.render();
        self.histograms.render(&mut text);
        text
    }
}

impl Recorder for Metering {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, _unit: Option<Unit>, description: SharedString) {
        lock(&self.histograms.help).insert(key.as_str().to_owned(), description.into_owned());
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.exporter.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.exporter.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histograms.buckets(key))
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        let bucket = self.counts.get(BOUNDS.partition_point(|bound| *bound < value)).unwrap_or(&self.larger);
        bucket.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        let more = value * u32::try_from(count).map_or(f64::from(u32::MAX), f64::from);
        let add = |bits| Some((f64::from_bits(bits) + more).to_bits());
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl Histograms {
    fn buckets(&self, key: &Key) -> Arc<Buckets> {
        if let Some(known) = self.known.load().get(key) {
            return Arc::clone(known);
        }
        let _one_at_a_time = lock(&self.registering);
        let mut known = HashMap::clone(&self.known.load());
        let buckets = Arc::clone(known.entry(key.clone()).or_default());
        self.known.store(Arc::new(known));
        buckets
    }

    fn render(&self, text: &mut String) {
        let (help, known) = (lock(&self.help), self.known.load());
        let labels = |key: &Key| key.labels().map(written).collect::<Vec<_>>().join(",");
        let known: BTreeMap<_, _> =
            known.iter().map(|(key, buckets)| ((key.name(), labels(key)), buckets)).collect();
        let mut last = None;
        for ((name, labels), buckets) in &known {
            if last != Some(name) {
                if let Some(help) = help.get(*name) {
                    let _ =
                        writeln!(text, "# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"));
                }
                let _ = writeln!(text, "# TYPE {name} histogram");
                last = Some(name);
            }
            buckets.render(text, name, labels);
        }
    }
}

impl Buckets {
    fn render(&self, text: &mut String, name: &str, labels: &str) {
        let and = if labels.is_empty() { "" } else { "," };
        let mut so_far = 0_u64;
        for (bound, count) in BOUNDS.iter().zip(&self.counts) {
            so_far = so_far.saturating_add(count.load(Ordering::Relaxed));
            let _ = writeln!(text, "{name}_bucket{{{labels}{and}le=\"{bound}\"}} {so_far}");
        }
        so_far = so_far.saturating_add(self.larger.load(Ordering::Relaxed));
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}_bucket{{{labels}{and}le=\"+Inf\"}} {so_far}");
        let _ = writeln!(text, "{name}_sum{braced} {sum}\n{name}_count{braced} {so_far}");
    }
}

/// A label as it stands between braces.
fn written(label: &Label) -> String {
    let value = label.value().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{}=\"{value}\"", label.key())
}

/// Nothing under these locks can leave them half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Upper bounds, in seconds: whatever is measured here is a duration.
const BOUNDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn rendered(measure: impl FnOnce()) -> String {
        let metering = Metering::new(PrometheusBuilder::new().build_recorder());
        let meters = metering.meters();
        metrics::with_local_recorder(&metering, measure);
        meters.render()
    }

    #[test]
    fn what_is_known_is_counted_without_a_lock() {
        let metering = Metering::new(PrometheusBuilder::new().build_recorder());
        let meters = metering.meters();
        metrics::with_local_recorder(&metering, || metrics::histogram!("work_seconds").record(0.001));
        let histograms = Arc::clone(&metering.histograms);
        let _held = lock(&histograms.registering);
        let (done, counted) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            metrics::with_local_recorder(&metering, || metrics::histogram!("work_seconds").record(0.001));
            let _ = done.send(());
        });
        assert!(counted.recv_timeout(std::time::Duration::from_secs(60)).is_ok(), "it waits for a lock");
        assert!(meters.render().contains("work_seconds_count 2"));
    }

    #[test]
    fn samples_count_for_every_bound_that_they_do_not_exceed() {
        let text = rendered(|| {
            metrics::describe_histogram!("work_seconds", "Work\nin seconds");
            let work = metrics::histogram!("work_seconds", "target" => "ads");
            work.record_many(0.000_3, 1_000_000);
            work.record(0.001);
            work.record(11.0);
            metrics::histogram!("work_seconds", "target" => "ads").record(0.7);
            metrics::counter!("calls_total").increment(2);
        });
        let line = |line: &str| assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        line("calls_total 2");
        line("# HELP work_seconds Work\\nin seconds");
        line("# TYPE work_seconds histogram");
        line("work_seconds_bucket{target=\"ads\",le=\"0.00025\"} 0");
        line("work_seconds_bucket{target=\"ads\",le=\"0.0005\"} 1000000");
        line("work_seconds_bucket{target=\"ads\",le=\"0.001\"} 1000001");
        line("work_seconds_bucket{target=\"ads\",le=\"1\"} 1000002");
        line("work_seconds_bucket{target=\"ads\",le=\"10\"} 1000002");
        line("work_seconds_bucket{target=\"ads\",le=\"+Inf\"} 1000003");
        line("work_seconds_count{target=\"ads\"} 1000003");
        let sum = text.lines().find_map(|line| line.strip_prefix("work_seconds_sum{target=\"ads\"} "));
        let sum: f64 = sum.and_then(|sum| sum.parse().ok()).unwrap_or_default();
        assert!((sum - 311.701).abs() < 1e-6, "{sum}");
        assert_eq!(text.matches("# TYPE work_seconds").count(), 1);
    }

    #[test]
    fn a_label_cannot_end_its_line_or_begin_another() {
        let text = rendered(|| metrics::histogram!("work_seconds", "target" => "a\"} 1\nb\\").record(1.0));
        assert!(text.contains("work_seconds_count{target=\"a\\\"} 1\\nb\\\\\"} 1\n"), "{text}");
        let bare = rendered(|| metrics::histogram!("work_seconds").record(1.0));
        assert!(bare.contains("work_seconds_count 1\n") && bare.contains("_bucket{le=\"1\"} 1\n"), "{bare}");
    }
}
