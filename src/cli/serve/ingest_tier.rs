//! The ingest tier of a server: its log, its doors, its routes, its threads, and how it is emptied at the end.

use super::{Base, resolve};
use crate::cli::settings::IngestFlags;
use crate::cluster::DataId;
use crate::http::Route;
use crate::ingest::listener::{Door, Doors};
use crate::ingest::log::{IngestLog, Limits};
use crate::ingest::queue::Drained;
use crate::ingest::recover::Ground;
use crate::ingest::{api, durable, flusher};
use crate::ops::health::{Health, Phase};
use crate::ops::metrics as m;
use crate::query::node::Snapshot;
use crate::stream::registry::Registry;
use crate::unit::Monotonic;
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

/// What no store has taken over.
struct Left {
    segments: u64,
    bytes: u64,
    /// How many of the segments are in the hands of consumers.
    pending: u64,
}

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
        let log = Arc::downgrade(&self.log);
        base.stop.on_raise(move || log.upgrade().into_iter().for_each(|log| log.wake()));
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

    /// Takes no more lines, flushes, and waits for stores to take what is left, as long as the flags allow and any of it can
    /// be taken. `health` says so, and `missing` what keeps stores from taking it. Gives whether nothing is left.
    pub fn close_and_drain(&self, base: &Base, health: &Health, missing: &dyn Fn() -> Option<String>) -> bool {
        base.notify.working("closing connections", CLOSE_DOORS + GRACE);
        let late = self.doors.close(CLOSE_DOORS);
        if late > 0 {
            log::warn!("{late} connections could not write all they were sent");
        }
        self.log.end();
        // A file system that keeps nothing has nothing to hand over.
        if !base.fs.keeps() {
            return true;
        }
        health.enter(Phase::Draining);
        self.drain(base, missing) == Drained::All
    }

    fn drain(&self, base: &Base, missing: &dyn Fn() -> Option<String>) -> Drained {
        let began = base.clock.now();
        let all = self.left();
        let mut logged = None;
        loop {
            let now = base.clock.now();
            let patience = self.flags.drain_timeout.saturating_sub(now.since(began));
            // The first look is before the first word: mostly there is nothing to say, and never anything to wait for.
            let span = if logged.is_some() { patience.min(TELL_EVERY) } else { Duration::ZERO };
            let drained = self.log.wait_until_drained(span);
            if drained != Drained::Not || patience.is_zero() {
                self.say_how_it_ended(drained, &all, base.clock.now().since(began));
                return drained;
            }
            self.tell(base, &all, patience, &mut logged, missing);
        }
    }

    /// Tells the service manager each time, and the log now and then, how far it is.
    fn tell(
        &self,
        base: &Base,
        all: &Left,
        patience: Duration,
        logged: &mut Option<Monotonic>,
        missing: &dyn Fn() -> Option<String>,
    ) {
        let (now, left) = (base.clock.now(), self.left());
        let Left { segments, bytes, pending } = left;
        base.notify.working(&format!("draining, segments left: {segments}, bytes: {bytes}"), TELL_EVERY + GRACE);
        if logged.is_none_or(|logged| now.since(logged) >= LOG_EVERY) {
            *logged = Some(now);
            let (handed_over, seconds_left) = (all.segments.saturating_sub(segments), patience.as_secs());
            let held_up = missing().map(|why| format!(", but {why}")).unwrap_or_default();
            log::info!(
                segments, bytes, pending, handed_over, seconds_left;
                "draining: stores are to take what is left{held_up}"
            );
        }
    }

    fn say_how_it_ended(&self, drained: Drained, all: &Left, took: Duration) {
        let Left { segments, bytes, pending } = self.left();
        let (dir, handed_over, seconds) =
            (self.flags.path.display(), all.segments.saturating_sub(segments), took.as_secs());
        match drained {
            Drained::All => log::info!(handed_over, seconds; "drained: stores have all there was"),
            Drained::ButForAside(set_aside) => log::warn!(
                set_aside, handed_over, seconds;
                "not drained: what no store could merge stays in {dir}"
            ),
            Drained::Not => log::warn!(
                segments, bytes, pending, handed_over, seconds;
                "not drained: what no store has taken stays in {dir}, and goes on after the next start"
            ),
        }
    }

    fn left(&self) -> Left {
        let mut left = Left { segments: 0, bytes: 0, pending: 0 };
        for (state, segments, bytes) in self.log.states() {
            left.segments += segments;
            left.bytes += bytes;
            left.pending += if state == "pending" { segments } else { 0 };
        }
        left
    }
}
