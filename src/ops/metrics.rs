//! Numbers for Prometheus: one table of all metrics, and the registry that holds their values.
//!
//! The text is Prometheus' exposition format 0.0.4. A metric can only be made from a row of [`TABLE`], which is also what
//! `oklog-metrics.7` is held against.

use crate::world::crew::lock;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a metric is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts observations by size.
    Histogram(&'static [f64]),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The name, by Prometheus' rules.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub help: &'static str,
}

const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
const SIZES: &[f64] = &[65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0, 134217728.0];

macro_rules! table {
    ($($id:ident = $kind:expr, $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Spec = Spec { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)*
        /// Every metric there is, in the order in which they are printed.
        pub const TABLE: &[Spec] = &[$($id),*];
    };
}

use Kind::{Counter as C, Gauge as G, Histogram as H};
table! {
    BUILD_INFO = G, "oklog_build_info" ["version"] "Always 1; the label says which build this is.";
    CONNECTED_CLIENTS = G, "oklog_connected_clients" ["modality"] "Open connections on the fast, durable and bulk ports.";
    CONNECTIONS_REFUSED = C, "oklog_ingest_connections_refused_total" ["modality"] "Connections that were closed unserved.";
    WRITER_BYTES = C, "oklog_ingest_writer_bytes_written_total" [] "Bytes of stored records appended to active segments.";
    WRITER_RECORDS = C, "oklog_ingest_writer_records_written_total" [] "Records appended to active segments.";
    WRITER_SYNCS = C, "oklog_ingest_writer_syncs_total" [] "Times an active segment was brought to stable storage.";
    WRITER_FLUSHES = C, "oklog_ingest_writer_flushes_total" ["reason"] "Active segments that were closed, by what closed them.";
    WRITE_ERRORS = C, "oklog_ingest_write_errors_total" ["kind"] "Batches that could not be appended or synced at the first try.";
    RECORDS_SPLIT = C, "oklog_ingest_records_split_total" ["reason"] "Cuts made within a line: at the size limit, or for want of memory.";
    SYNC_SECONDS = H(SECONDS), "oklog_fsync_seconds" ["tier"] "How long syncs of segment files took.";
    FLUSH_AGE = H(SECONDS), "oklog_ingest_segment_flush_age_seconds" [] "How old segments were when they were closed.";
    FLUSH_SIZE = H(SIZES), "oklog_ingest_segment_flush_size_bytes" [] "How large segments were when they were closed.";
    INGEST_FAILED = C, "oklog_ingest_failed_segments_total" [] "Segments a consumer gave back, or held for too long.";
    INGEST_COMMITTED = C, "oklog_ingest_committed_segments_total" [] "Segments the stores have taken over.";
    INGEST_COMMITTED_BYTES = C, "oklog_ingest_committed_bytes_total" [] "Bytes of segments the stores have taken over.";
    INGEST_SEGMENTS = G, "oklog_ingest_segments" ["state"] "Segments in the ingest tier.";
    INGEST_SEGMENT_BYTES = G, "oklog_ingest_segment_bytes" ["state"] "Bytes of segments in the ingest tier.";
    INGEST_OLDEST = G, "oklog_ingest_oldest_unconsumed_seconds" [] "Age of the oldest record that no store has taken over yet.";
    CONSUMED = C, "oklog_store_consumed_segments_total" [] "Ingest segments consumed.";
    CONSUMED_BYTES = C, "oklog_store_consumed_bytes_total" [] "Bytes of ingest segments consumed.";
    CONSUME_FAILURES = C, "oklog_store_consume_failures_total" ["phase"] "Batches that failed, by what failed.";
    REPLICATED = C, "oklog_store_replicated_segments_total" ["direction"] "Segments sent to (egress) and taken from (ingress) consumers.";
    REPLICATED_BYTES = C, "oklog_store_replicated_bytes_total" ["direction"] "Bytes sent to (egress) and taken from (ingress) consumers.";
    STORE_SEGMENTS = G, "oklog_store_segments" ["state"] "Segments in the store tier.";
    STORE_SEGMENT_BYTES = G, "oklog_store_segment_bytes" ["state"] "Bytes of the files of segments in the store tier.";
    TRASHED = C, "oklog_store_trashed_segments_total" ["success"] "Segments moved to the trash by retention.";
    PURGED = C, "oklog_store_purged_segments_total" ["success"] "Trashed segments removed for good.";
    COMPACT_SECONDS = H(SECONDS), "oklog_store_compact_duration_seconds" ["kind", "compacted", "result"] "How long compactions took.";
    COMPACT_BYTES = C, "oklog_store_compact_bytes_total" ["kind"] "Bytes written by compaction.";
    CORRUPT = C, "oklog_corrupt_files_total" ["tier"] "Files that were not what they should be: set aside, renamed to what they hold, or left.";
    QUERIES = C, "oklog_query_total" ["outcome"] "Queries that ended whole, partial, cancelled by their client, or with an error.";
    QUERY_SCANNED = C, "oklog_query_scanned_bytes_total" [] "Bytes of stored records that queries have read.";
    QUERY_SKIPPED = C, "oklog_query_skipped_bytes_total" [] "Bytes within a query's reach that it needed not read: outside its time range, or after its limit.";
    QUERY_RECORDS = C, "oklog_query_records_total" [] "Records that queries have returned.";
    STREAMS = G, "oklog_stream_clients" [] "Live streams that are open.";
    STREAM_MISSED = C, "oklog_stream_missed_records_total" [] "Records that slow readers of live streams have missed.";
    API_SECONDS = H(SECONDS), "oklog_api_request_duration_seconds" ["method", "path", "status_code"] "How long requests took, by route.";
    API_REFUSED = C, "oklog_api_refused_total" ["reason"] "Requests the gate turned away.";
    API_PANICS = C, "oklog_api_panics_total" [] "Request handlers that broke; the client got a 500.";
    CLUSTER_SIZE = G, "oklog_cluster_size" [] "Members this node knows of, itself included.";
    CLUSTER_SILENT = G, "oklog_cluster_silent" [] "Nodes that do not answer and whose records are missed.";
    CLUSTER_BYTES = C, "oklog_cluster_bytes_total" ["direction"] "Bytes of datagrams between nodes, sent (egress) and received (ingress).";
    CLUSTER_HEALTH = G, "oklog_cluster_health" [] "How slow this node seems to itself in the membership protocol, 0 (not at all) to 8: it then accuses others later.";
    CLUSTER_PASSED_OVER = C, "oklog_cluster_passed_over_total" ["reason"] "What the membership protocol did not act upon: malformed, unknown, too many, beyond belief; late are wake-ups, oversized a bug.";
    CLUSTER_REFUSED = C, "oklog_cluster_refused_datagrams_total" ["reason"] "Datagrams that were not of this cluster, forged, repeated or led astray.";
    FORWARD_BYTES = C, "oklog_forward_bytes_total" [] "Bytes a forwarder has sent.";
    FORWARD_RECORDS = C, "oklog_forward_records_total" [] "Records a forwarder has sent.";
    FORWARD_DROPPED = C, "oklog_forward_dropped_records_total" [] "Records a forwarder has dropped because its buffer was full.";
    DISK_FREE = G, "oklog_disk_free_bytes" ["tier"] "Room left where the tier keeps its files.";
    DISK_FULL = G, "oklog_disk_full" ["tier"] "1 while the tier takes no more for want of room, else 0.";
    THREAD_PANICS = G, "oklog_thread_panics" [] "Threads of this process that ended by a panic.";
    PROCESS_CPU = C, "process_cpu_seconds_total" [] "User and system CPU time of this process.";
    PROCESS_RSS = G, "process_resident_memory_bytes" [] "Resident memory of this process.";
    PROCESS_VIRTUAL = G, "process_virtual_memory_bytes" [] "Virtual memory of this process.";
    PROCESS_FDS = G, "process_open_fds" [] "Open file descriptors of this process.";
    PROCESS_MAX_FDS = G, "process_max_fds" [] "Most file descriptors this process may open.";
    PROCESS_THREADS = G, "process_threads" [] "Threads of this process.";
    PROCESS_START = G, "process_start_time_seconds" [] "When this process began, in Unix time.";
}

/// A number that only rises. Clones are the same number.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// What it has come to.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls. Clones are the same number.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Adds `by`, which may be negative.
    pub fn add(&self, by: f64) {
        let add = |bits| Some((f64::from_bits(bits) + by).to_bits());
        // The closure never refuses, so the update never fails.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// What it is.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Raises it by one until the guard is dropped.
    pub fn hold(&self) -> Held {
        self.add(1.0);
        Held(self.clone())
    }
}

/// One in a gauge, taken back when this is dropped.
#[derive(Debug)]
pub struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

/// Observations counted by size. Clones are the same histogram.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    sum: Gauge,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram(Arc::new(Buckets { bounds, counts, sum: Gauge::default() }))
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum.add(value);
    }

    /// Counts a span of time, in seconds.
    pub fn observe_span(&self, span: Duration) {
        self.observe(span.as_secs_f64());
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

#[derive(Clone)]
enum Value {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All numbers of one process.
#[derive(Default)]
pub struct Metrics {
    families: Mutex<BTreeMap<&'static str, BTreeMap<String, Value>>>,
    refreshers: Mutex<Vec<Arc<Refresh>>>,
}

impl Metrics {
    /// The counter of this row and these label values; the same values give the same counter.
    pub fn counter(&self, spec: Spec, labels: &[&str]) -> Counter {
        match self.value(spec, labels, || Value::Counter(Counter::default())) {
            Value::Counter(counter) => counter,
            _ => Counter::default(),
        }
    }

    /// The gauge of this row and these label values.
    pub fn gauge(&self, spec: Spec, labels: &[&str]) -> Gauge {
        match self.value(spec, labels, || Value::Gauge(Gauge::default())) {
            Value::Gauge(gauge) => gauge,
            _ => Gauge::default(),
        }
    }

    /// The histogram of this row and these label values.
    pub fn histogram(&self, spec: Spec, labels: &[&str]) -> Histogram {
        let bounds = if let Kind::Histogram(bounds) = spec.kind { bounds } else { &[] };
        match self.value(spec, labels, || Value::Histogram(Histogram::new(bounds))) {
            Value::Histogram(histogram) => histogram,
            _ => Histogram::new(bounds),
        }
    }

    fn value(&self, spec: Spec, labels: &[&str], new: impl FnOnce() -> Value) -> Value {
        debug_assert_eq!(spec.labels.len(), labels.len(), "{} has the labels {:?}", spec.name, spec.labels);
        let mut families = lock(&self.families);
        families.entry(spec.name).or_default().entry(label_text(spec.labels, labels)).or_insert_with(new).clone()
    }

    /// Registers work to be done before each printing: gauges that are cheaper to read than to keep.
    pub fn refresh_with(&self, refresh: impl Fn(&Metrics) + Send + Sync + 'static) {
        lock(&self.refreshers).push(Arc::new(Box::new(refresh)));
    }

    /// The text that `/metrics` answers with. Every row of the table is there, also those without a value yet.
    pub fn text(&self) -> String {
        let refreshers = lock(&self.refreshers).clone();
        for refresh in refreshers {
            refresh(self);
        }
        let families = lock(&self.families);
        let mut out = String::with_capacity(16 << 10);
        for spec in TABLE {
            let kind = match spec.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            // Writing to a String does not fail.
            let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", spec.name, spec.help, spec.name);
            for (labels, value) in families.get(spec.name).into_iter().flatten() {
                print_value(&mut out, spec.name, labels, value);
            }
        }
        out
    }
}

fn print_value(out: &mut String, name: &str, labels: &str, value: &Value) {
    let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let comma = if labels.is_empty() { "" } else { "," };
    // Writing to a String does not fail.
    let _ = match value {
        Value::Counter(counter) if name == PROCESS_CPU.name => {
            writeln!(out, "{name}{braced} {}", counter.get() as f64 / 100.0)
        }
        Value::Counter(counter) => writeln!(out, "{name}{braced} {}", counter.get()),
        Value::Gauge(gauge) => writeln!(out, "{name}{braced} {}", gauge.get()),
        Value::Histogram(histogram) => {
            let mut below = 0;
            for (bound, count) in
                histogram.0.bounds.iter().map(f64::to_string).chain(["+Inf".into()]).zip(&histogram.0.counts)
            {
                below += count.load(Ordering::Relaxed);
                let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}");
            }
            writeln!(out, "{name}_sum{braced} {}\n{name}_count{braced} {below}", histogram.0.sum.get())
        }
    };
}

fn label_text(names: &[&str], values: &[&str]) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> =
        names.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_prometheus_rules() {
        for spec in TABLE {
            assert!(
                spec.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{}",
                spec.name
            );
            assert_eq!(spec.kind == Kind::Counter, spec.name.ends_with("_total"), "{}", spec.name);
            assert!(spec.help.ends_with('.'), "{}", spec.name);
        }
    }

    #[test]
    fn the_text_has_values_with_labels_and_histograms_that_add_up() {
        let metrics = Metrics::default();
        metrics.counter(WRITER_FLUSHES, &["age"]).add(3);
        metrics.counter(WRITER_FLUSHES, &["age"]).inc();
        metrics.gauge(CLUSTER_SIZE, &[]).set(1.0);
        metrics.histogram(API_SECONDS, &["GET", "/health", "200"]).observe(0.002);
        let text = metrics.text();
        assert!(text.contains("oklog_ingest_writer_flushes_total{reason=\"age\"} 4\n"), "{text}");
        assert!(text.contains("\noklog_cluster_size 1\n"), "{text}");
        let labels = "method=\"GET\",path=\"/health\",status_code=\"200\"";
        assert!(text.contains(&format!("_bucket{{{labels},le=\"0.001\"}} 0\n")), "{text}");
        assert!(text.contains(&format!("_bucket{{{labels},le=\"+Inf\"}} 1\n")), "{text}");
        assert!(text.contains(&format!("_sum{{{labels}}} 0.002\n")), "{text}");
        assert!(text.contains("# TYPE oklog_store_purged_segments_total counter\n"), "{text}");
    }

    #[test]
    fn a_held_gauge_falls_when_the_guard_goes() {
        let gauge = Metrics::default().gauge(STREAMS, &[]);
        let held = gauge.hold();
        assert_eq!(gauge.get(), 1.0);
        drop(held);
        assert_eq!(gauge.get(), 0.0);
    }
}
