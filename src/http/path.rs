//! Every URL path of the API, once.

/// The process lives.
pub const HEALTH: &str = "/health";
/// The process takes work.
pub const READY: &str = "/ready";
/// Numbers for Prometheus.
pub const METRICS: &str = "/metrics";

/// The id of the oldest flushed segment, which is pending from now on.
pub const INGEST_NEXT: &str = "/ingest/next";
/// The bytes of a pending segment.
pub const INGEST_READ: &str = "/ingest/read";
/// A pending segment was taken over: it may go.
pub const INGEST_COMMIT: &str = "/ingest/commit";
/// A pending segment was not taken over: hand it out again.
pub const INGEST_FAILED: &str = "/ingest/failed";
/// The consumer of a pending segment is still at work.
pub const INGEST_RENEW: &str = "/ingest/renew";
/// Counts and sizes of the segments of the ingest tier.
pub const INGEST_SEGMENT_STATE: &str = "/ingest/_segmentstate";
/// What the ingest tier knows of the cluster.
pub const INGEST_CLUSTER_STATE: &str = "/ingest/_clusterstate";
/// A query over what this ingester has not handed over yet.
pub const INGEST_QUERY: &str = "/ingest/_query";
/// Records as they arrive at this ingester.
pub const INGEST_STREAM: &str = "/ingest/_stream";

/// Takes a stream of stored records as a segment.
pub const STORE_REPLICATE: &str = "/store/replicate";
/// A query over the whole cluster.
pub const STORE_QUERY: &str = "/store/query";
/// A query over the segments of this store.
pub const STORE_OWN_QUERY: &str = "/store/_query";
/// Records as they arrive anywhere in the cluster.
pub const STORE_STREAM: &str = "/store/stream";
/// What the store tier knows of the cluster.
pub const STORE_CLUSTER_STATE: &str = "/store/_clusterstate";

/// Says that a silent node will not come back.
pub const CLUSTER_FORGET: &str = "/cluster/forget";
