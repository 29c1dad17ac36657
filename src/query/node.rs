//! What a node answers queries from: its tiers, whom it knows, who scans; and what its answers tell of it.

use super::plan::{self, Tier};
use super::pool::Pool;
use crate::cluster::{Cluster, DataId};
use crate::http::Reply;
use crate::http::client::Caller;
use crate::ops::metrics::{self as m, Counter, Metrics};
use crate::record::id::Id;
use crate::segment::readable::Readable;
use crate::world::clock::Clock;
use std::io;
use std::sync::Arc;

/// Where a tier's readable parts come from: a snapshot between two ids, as of the call.
pub type Snapshot = dyn Fn(Id, Id) -> Vec<Readable> + Send + Sync;

/// Names of stores, as of the call.
pub type Stores = dyn Fn() -> Vec<DataId> + Send + Sync;

/// What a node answers queries from.
pub struct Node {
    /// Its ingest tier, if it takes lines.
    pub ingest: Option<Box<Snapshot>>,
    /// Its store, if it keeps one.
    pub store: Option<Box<Snapshot>>,
    /// Who else there is.
    pub cluster: Arc<dyn Cluster>,
    /// How others are called.
    pub caller: Caller,
    /// The stores that are known to have taken over segments of its ingest tier.
    pub witnesses: Box<Stores>,
    /// The stores that an operator has said will not come back.
    pub forgotten: Box<Stores>,
    /// Who scans.
    pub pool: Arc<Pool>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
}

/// Header: the persistent identity of what a part was read from, 32 hexadecimal digits. Who asks knows by it that nobody
/// else has the address by now.
pub const DATA_ID: &str = "X-Oklog-Data-Id";

/// Header: which stores an ingester knows of. The first 16 hexadecimal digits of each one's id, with spaces between; at
/// most [`MAX_STORES`], and `more` behind them if there are more.
pub const KNOWN_STORES: &str = "X-Oklog-Stores";

/// 5 KiB of names: together with a needle of 8 KiB the head stays within the 16 KiB that our client takes.
pub const MAX_STORES: usize = 300;

impl Node {
    pub(super) fn tier(&self, tier: Tier) -> Option<&Snapshot> {
        match tier {
            Tier::Ingest => self.ingest.as_deref(),
            Tier::Store => self.store.as_deref(),
        }
    }

    /// The stores that this node's own ingest tier has reason to know.
    pub(super) fn known_stores(&self) -> String {
        let keys = plan::named_by(&self.cluster.view(), &(self.witnesses)(), &(self.forgotten)());
        let mut names: Vec<String> = keys.iter().take(MAX_STORES).map(|key| key.text()).collect();
        if keys.len() > MAX_STORES {
            names.push("more".into());
        }
        names.join(" ")
    }

    pub(super) fn refuse(&self, reply: Reply, why: &str) -> io::Result<()> {
        self.count("refused");
        reply.send(400, &[], format!("{why}\n").as_bytes())
    }

    pub(super) fn count(&self, outcome: &str) {
        self.metrics.counter(m::QUERIES, &[outcome]).inc();
    }

    /// Counts what was read of `reach` bytes, and the records that were sent.
    pub(super) fn count_work(&self, scanned: &Counter, reach: u64, records: u64) {
        self.metrics.counter(m::QUERY_SCANNED, &[]).add(scanned.get());
        self.metrics.counter(m::QUERY_SKIPPED, &[]).add(reach.saturating_sub(scanned.get()));
        self.metrics.counter(m::QUERY_RECORDS, &[]).add(records);
    }
}
