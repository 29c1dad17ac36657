//! The store tier of a server: its log, its routes, its consumers and its housekeeper.

use super::Base;
use crate::cli::settings::StorageFlags;
use crate::cluster::DataId;
use crate::compact::thread::{Housekeeper, Settings};
use crate::compact::{self, retain};
use crate::consume::courier::Patience;
use crate::consume::links::Membership;
use crate::consume::machine;
use crate::consume::thread::{Carrier, run as consume};
use crate::http::Route;
use crate::query::node::Snapshot;
use crate::segment::readable::Readable;
use crate::store::api;
use crate::store::log::StoreLog;
use crate::unit::Bytes;
use crate::world::crew::LARGE_STACK;
use std::sync::Arc;
use std::time::Duration;

/// The longest batch that any node may send, whatever its own flags are: the largest target size that there can be, an
/// ingest segment of the largest flush size more, and that over its size by one batch of a connection, 64 records of the
/// largest size. A smaller limit would refuse for ever what a node with larger flags sends. The disk is guarded by itself.
const LONGEST_BATCH: Bytes = Bytes((64 << 30) + 2 * (1 << 30) + 64 * (64 << 20));

/// How often, at least, a consumer says that it is still at work on what it took. It does not know the pending timeouts of
/// other processes' ingest tiers: with less than three times this, segments of theirs may be copied twice.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// One store tier, open.
pub struct StoreTier {
    log: Arc<StoreLog>,
    flags: StorageFlags,
    replicas: u8,
    renew_every: Duration,
}

impl StoreTier {
    /// Opens the directory and recovers what is in it. `pending_timeout` is that of the ingest tier beside it, if there is
    /// one.
    pub fn open(
        base: &Base,
        flags: &StorageFlags,
        replicas: u8,
        pending_timeout: Option<Duration>,
    ) -> Result<StoreTier, String> {
        let log =
            StoreLog::open(base.fs.clone(), &flags.path, base.clock.clone(), base.metrics.clone(), &*base.entropy)
                .map_err(|e| e.to_string())?;
        let renew_every = pending_timeout.map_or(RENEW_EVERY, |timeout| RENEW_EVERY.min(timeout / 3));
        Ok(StoreTier { log, flags: flags.clone(), replicas, renew_every })
    }

    /// The store's id.
    pub fn id(&self) -> DataId {
        DataId(self.log.id().0)
    }

    /// The log itself.
    pub fn log(&self) -> &Arc<StoreLog> {
        &self.log
    }

    /// What other nodes send segments by.
    pub fn routes(&self) -> Vec<Route> {
        api::routes(&self.log, LONGEST_BATCH)
    }

    /// What a query reads of this tier.
    pub fn snapshot(&self) -> Box<Snapshot> {
        let log = self.log.clone();
        Box::new(move |from, to| log.snapshot(from, to).into_iter().map(Readable::whole).collect())
    }

    /// Starts what fills the store and what keeps it in order. `turn`: at which store the consumers begin.
    pub fn start_threads(&self, base: &Base, members: &Arc<dyn Membership>, turn: usize) -> Result<(), String> {
        for n in 0..self.flags.consumers {
            let carrier = self.carrier(base, members.clone(), turn.wrapping_add(n));
            base.start(&format!("consume {n}"), LARGE_STACK, move |stop| consume(&carrier, stop))?;
        }
        let StorageFlags { retain, purge, max_size, target_size, seal_age, .. } = self.flags;
        let retention = retain::Limits { retain, purge, max_size };
        let keeper = Housekeeper::new(self.log.clone(), Settings { target_size, retention, seal_age });
        base.start("compact", LARGE_STACK, move |stop| compact::thread::run(keeper, stop))
    }

    fn carrier(&self, base: &Base, members: Arc<dyn Membership>, turn: usize) -> Carrier {
        Carrier {
            settings: machine::Settings {
                replicas: usize::from(self.replicas),
                target_size: self.flags.target_size,
                target_age: self.flags.target_age,
                delay: self.flags.delay,
                renew_every: self.renew_every,
                turn,
            },
            buffer: self.flags.buffer_size,
            members,
            clock: base.clock.clone(),
            metrics: base.metrics.clone(),
            crew: base.crew.clone(),
            patience: (Patience::SPARED, Patience::LAST),
        }
    }
}
