//! The ingest tier of a server: its log, its doors, its routes, its threads, and how it is emptied at the end.

use super::{Base, resolve};
use crate::cli::settings::IngestFlags;
use crate::cluster::DataId;
use crate::http::Route;
use crate::ingest::listener::{Door, Doors};
use crate::ingest::log::{IngestLog, Limits, Reason};
use crate::ingest::recover::Ground;
use crate::ingest::{api, durable, flusher};
use crate::ops::metrics as m;
use crate::query::node::Snapshot;
use crate::stream::registry::Registry;
use crate::unit::{Bytes, Monotonic};
use crate::world::crew::{self, SMALL_STACK};
use std::sync::Arc;
use std::time::Duration;

/// How long connections may take to write what they were sent when the process ends.
const CLOSE_DOORS: Duration = Duration::from_secs(10);

/// How often the service manager is told how much is left while the tier is emptied.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How often the log says so.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// How much longer than to the next word the service manager is asked to wait.
const GRACE: Duration = Duration::from_secs(10);

/// One ingest tier, open.
pub struct IngestTier {
    log: Arc<IngestLog>,
    doors: Doors,
    flags: IngestFlags,
}

impl IngestTier {
    /// Opens the directory and recovers what is in it. No port is open yet.
    pub fn open(base: &Base, flags: &IngestFlags, live: Arc<Registry>) -> Result<IngestTier, String> {
        let Base { fs, clock, entropy, metrics, .. } = base;
        let ground =
            Ground { fs: fs.clone(), clock: clock.clone(), entropy: entropy.clone(), metrics: metrics.clone(), live };
        let limits =
            Limits { flush_size: flags.flush_size, flush_age: flags.flush_age, pending_timeout: flags.pending_timeout };
        let log = IngestLog::open(ground, &flags.path, limits, crew::cores()).map_err(|e| e.to_string())?;
        let log = Arc::new(log);
        let weak = Arc::downgrade(&log);
        base.metrics.refresh_with(move |metrics| {
            if let Some(log) = weak.upgrade() {
                for (state, segments, bytes) in log.states() {
                    metrics.gauge(m::INGEST_SEGMENTS, &[state]).set(segments as f64);
                    metrics.gauge(m::INGEST_SEGMENT_BYTES, &[state]).set(bytes as f64);
                }
                let age = log.oldest().map_or(Duration::ZERO, |id| log.clock().unix_millis().since(id.millis()));
                metrics.gauge(m::INGEST_OLDEST, &[]).set(age.as_secs_f64());
            }
        });
        let longest = usize::try_from(flags.max_record_size.0).unwrap_or(usize::MAX);
        let doors = Doors::new(log.clone(), longest, flags.max_connections)
            .map_err(|e| format!("preparing the ports for lines: {e}"))?;
        Ok(IngestTier { log, doors, flags: flags.clone() })
    }

    /// The directory's id.
    pub fn id(&self) -> DataId {
        self.log.id()
    }

    /// The log itself.
    pub fn log(&self) -> &Arc<IngestLog> {
        &self.log
    }

    /// What other nodes take segments by.
    pub fn routes(&self) -> Vec<Route> {
        api::routes(&self.log)
    }

    /// What a query reads of this tier.
    pub fn snapshot(&self) -> Box<Snapshot> {
        let log = self.log.clone();
        Box::new(move |from, to| log.snapshot(from, to))
    }

    /// Starts what works behind the writers.
    pub fn start_threads(&self, base: &Base) -> Result<(), String> {
        let log = self.log.clone();
        base.start("flusher", SMALL_STACK, move |stop| flusher::run(&log, stop))?;
        let log = self.log.clone();
        base.start("group commit", SMALL_STACK, move |stop| durable::run(&log, log.durable_slot(), stop))
    }

    /// Opens the ports for lines.
    pub fn open_doors(&self) -> Result<(), String> {
        let IngestFlags { fast, durable, bulk, .. } = &self.flags;
        for (door, address) in [(Door::Fast, fast), (Door::Durable, durable), (Door::Bulk, bulk)] {
            let listening =
                self.doors.open(door, resolve(address)?).map_err(|e| format!("listening on {address}: {e}"))?;
            log::info!(port = door.name(), address = listening.to_string(); "listening");
        }
        Ok(())
    }

    /// How many connections have ended by a panic.
    pub fn panics(&self) -> usize {
        self.doors.panics()
    }

    /// Takes no more lines, flushes, and waits for stores to take what is left, as long as the flags allow. Gives whether
    /// nothing is left.
    pub fn close_and_drain(&self, base: &Base) -> bool {
        base.notify.working("closing connections", CLOSE_DOORS + GRACE);
        let late = self.doors.close(CLOSE_DOORS);
        if late > 0 {
            log::warn!("{late} connections could not write all they were sent");
        }
        self.log.close_all(Reason::Stop);
        // A file system that keeps nothing has nothing to hand over.
        let drained = !base.fs.keeps() || self.drain(base);
        if !drained {
            let (segments, size) = self.left();
            log::warn!(
                segments, bytes = size.0;
                "not drained: what no store has taken stays in the ingest tier, and goes on after the next start"
            );
        }
        drained
    }

    fn drain(&self, base: &Base) -> bool {
        let began = base.clock.now();
        let mut logged = began;
        loop {
            let now = base.clock.now();
            let left = self.flags.drain_timeout.saturating_sub(now.since(began));
            if self.log.wait_until_drained(left.min(TELL_EVERY)) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            self.tell(base, now, &mut logged);
        }
    }

    fn tell(&self, base: &Base, now: Monotonic, logged: &mut Monotonic) {
        let (segments, size) = self.left();
        base.notify.working(&format!("draining, segments left: {segments}"), TELL_EVERY + GRACE);
        if now.since(*logged) >= LOG_EVERY {
            *logged = now;
            log::info!(segments, bytes = size.0; "draining: stores are to take what is left");
        }
    }

    fn left(&self) -> (u64, Bytes) {
        let states = self.log.states();
        let sum = states.iter().fold((0, 0), |(n, sum), (_, segments, bytes)| (n + segments, sum + bytes));
        (sum.0, Bytes(sum.1))
    }
}
