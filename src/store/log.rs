//! A directory of store segments: opened, locked, recovered, counted.
//!
//! What a store is: a persistent id, a catalogue of live segments, a trash, and segments that were given up and wait for
//! their last reader. Segments come in through [`StoreLog::replicate`] and through compaction; queries take snapshots.

use super::catalogue::Catalogue;
use super::recover::{STORE_EXTENSION, list, recover};
use super::replicate::StoreId;
use super::rescue::{Copied, Look, copy_out, look_into};
use super::writer::{self, Synced, Writer};
use crate::ops::metrics::{self, Counter, Histogram, Metrics};
use crate::record::id::Id;
use crate::segment::findings::{hint, name as name_of};
use crate::segment::handle::{Graveyard, Known};
use crate::segment::names::Names;
use crate::segment::room::{Refusal, Room, Tier};
use crate::segment::{Form, Segment, State, identity};
use crate::world::clock::Clock;
use crate::world::entropy::Entropy;
use crate::world::fs::FileSystem;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why a store did not open. Files are as far in order as recovery had come; opening again goes on from there.
#[derive(Debug)]
pub enum StoreError {
    /// The operating system refused.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_path_buf();
        move |source| StoreError::Io { doing, path, source }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoreError::Io { doing, path, source } = self;
        write!(f, "{doing} {}: {source}{}", path.display(), hint(source))
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let StoreError::Io { source, .. } = self;
        Some(source)
    }
}

/// The segments of one store, and the right to change them.
pub struct StoreLog {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    names: Arc<Names>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) id: StoreId,
    pub(super) metrics: Arc<Metrics>,
    room: Room,
    /// A write or sync has failed since a segment was taken last.
    failing: AtomicBool,
    catalogue: Catalogue,
    graveyard: Graveyard,
    sync_seconds: Histogram,
    corrupt: Counter,
    _lock: Box<dyn Send + Sync>,
}

impl StoreLog {
    /// Opens the store in `dir`, which is made if it is not there: locks it, brings it into order, gives it an id for life.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        dir: impl Into<PathBuf>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        entropy: &dyn Entropy,
    ) -> Result<Arc<StoreLog>, StoreError> {
        let dir = dir.into();
        fs.create_dir_all(&dir).map_err(StoreError::io("making", &dir))?;
        let lock = fs.lock_dir(&dir).map_err(StoreError::io("locking", &dir))?;
        let corrupt = metrics.counter(metrics::CORRUPT, &["store"]);
        let entries = list(&*fs, &dir)?;
        let room = Room::open(&fs, &dir, Tier::Store, &metrics)
            .map_err(StoreError::io("looking after the ballast in", &dir))?;
        // What looks after the ballast changes files of its own names alone, of which recovery asks no more than that.
        let found = recover(&fs, &dir, &entries, &corrupt)?;
        drop(entries);
        let id = match found.id {
            Some(id) => id,
            None => {
                let drawn = identity::draw(&*fs, &dir, STORE_EXTENSION, entropy);
                StoreId(drawn.map_err(StoreError::io("giving an id to", &dir))?)
            }
        };
        let log = Arc::new(StoreLog {
            sync_seconds: metrics.histogram(metrics::SYNC_SECONDS, &["store"]),
            catalogue: Catalogue::new(found.live, found.trash),
            graveyard: Graveyard::default(),
            names: Arc::new(Names::new(fs.clone(), dir.clone())),
            room,
            failing: AtomicBool::new(false),
            metrics: metrics.clone(),
            _lock: lock,
            corrupt,
            clock,
            dir,
            fs,
            id,
        });
        // The metrics may outlive the store: they must not hold its lock.
        let weak = Arc::downgrade(&log);
        metrics.refresh_with(move |metrics| {
            if let Some(log) = weak.upgrade() {
                log.refresh_gauges(metrics);
            }
        });
        Ok(log)
    }

    /// The id that this directory has for life.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// The live segments that may hold ids from `from` to `to`, both inclusive. Holding them keeps their files.
    pub fn snapshot(&self, from: Id, to: Id) -> Vec<Arc<Segment>> {
        self.catalogue.snapshot(from, to)
    }

    /// What there is.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// What was given up and is still being read.
    pub fn graveyard(&self) -> &Graveyard {
        &self.graveyard
    }

    /// What is left on the medium.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Why this store should not be sent segments, if there is a reason.
    pub fn hindrance(&self) -> Option<&'static str> {
        if self.failing.load(Ordering::Relaxed) {
            return Some("the disk of the store has failed");
        }
        self.room.is_full().then_some("the disk of the store is full")
    }

    /// Notes how taking a segment has ended, as far as the disk goes: what it refused, or nothing.
    pub(super) fn note_disk(&self, refused: Option<&io::Error>) {
        match refused.map(|e| (Refusal::of(e), e)) {
            None => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    log::info!("{} takes segments again", self.dir.display());
                }
            }
            Some((Refusal::NoRoom, e)) => self.room.refused(e, self.clock.now()),
            Some((Refusal::Broken, e)) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    log::error!("writing to {}: {e}; not ready until a segment can be taken", self.dir.display());
                }
            }
            Some((Refusal::TooLong | Refusal::Passing, _)) => {}
        }
    }

    /// The file system the store lies in.
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.fs
    }

    /// The directory the store lies in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names in that directory: the file system for whoever keeps other files there.
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// The clock the store goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Where the store counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Counts files that had to be set aside.
    pub fn corrupt(&self) -> &Counter {
        &self.corrupt
    }

    /// Begins a segment whose first record will have the id `first`.
    pub fn begin(&self, first: Id, form: Form) -> io::Result<Writer> {
        Writer::begin(&self.fs, &self.dir, first, form)
    }

    /// Brings a written segment to stable storage, and counts how long that took.
    pub fn sync(&self, writer: Writer) -> io::Result<Synced> {
        let start = self.clock.now();
        let synced = writer.sync();
        self.sync_seconds.observe_span(self.clock.now().since(start));
        synced
    }

    /// Gives synced segments their final names and makes those durable. On an error none of them is left.
    pub fn name_all(&self, synced: Vec<Synced>) -> io::Result<Vec<Arc<Segment>>> {
        let since = self.names.since();
        let mut named = Vec::with_capacity(synced.len());
        let result = synced.into_iter().try_for_each(|synced| {
            named.push(synced.name()?);
            Ok(())
        });
        match result.and_then(|()| self.names.sync(since)) {
            Ok(()) => Ok(named),
            Err(e) => {
                named.iter().for_each(|segment| self.discard(segment));
                Err(e)
            }
        }
    }

    /// Takes a segment out because its content is bad: what is whole in it stays as segments of their own, the file
    /// becomes `.corrupt`. On an error the segment is as it was.
    pub fn set_aside(&self, segment: &Arc<Segment>) -> io::Result<()> {
        let file = match segment.form() {
            Form::Plain => segment.open()?,
            // Past what answers queries, which refuses a file of which blocks are missing.
            Form::Sealed => self.fs.open(&segment.path())?,
        };
        let Look { survey, text, .. } = look_into(file)?;
        if survey.sound().is_some_and(|digest| Known::from(digest).ends() == segment.digest().ends()) {
            return Err(io::Error::other("nothing is wrong with its content"));
        }
        let (from, since) = (segment.path(), self.names.since());
        let Copied { records, mut segments, before } = copy_out(&self.fs, &self.dir, &*text, Some(&from))?;
        // What an earlier try has copied and could not publish.
        let live: BTreeSet<PathBuf> = self.catalogue.live().iter().map(|segment| segment.path()).collect();
        for (path, known) in before.into_iter().filter(|(path, _)| !live.contains(path)) {
            let copy = Segment::new(self.fs.clone(), path, known);
            if self.names.have_failed() {
                // That try's sync may have left its name in memory, where no later one brings it to the disk: it is given anew.
                writer::rename_free(&copy, State::Active)?;
                writer::rename_free(&copy, copy.resting_state())?;
            }
            segments.push(Arc::new(copy));
        }
        self.names.sync(since)?;
        self.catalogue.replace(std::slice::from_ref(segment), segments);
        let to = segment.set_aside()?;
        self.corrupt.inc();
        let why = survey.fault().unwrap_or_else(|| "its ends are not those in its name".to_string());
        log::error!("{}: {why}: set aside as {}; {records} whole records of it go on", from.display(), name_of(&to));
        Ok(())
    }

    /// Removes a segment that was never published.
    fn discard(&self, segment: &Segment) {
        let path = segment.path();
        if let Err(e) = self.fs.remove(&path) {
            // It is whole, and a second copy is never wrong: the next start takes it as one.
            log::warn!("removing unpublished segment {}: {e}", path.display());
        }
    }

    fn refresh_gauges(&self, metrics: &Metrics) {
        let states = [State::Flushed, State::Sealed, State::Reading, State::Trashed];
        let mut sums = states.map(|state| (state, 0u64, 0u64));
        let trashed = self.catalogue.trashed().into_iter().map(|trashed| trashed.segment);
        for segment in self.catalogue.live().into_iter().chain(trashed) {
            let state = writer::state_of(&segment);
            if let Some(sum) = sums.iter_mut().find(|sum| Some(sum.0) == state) {
                sum.1 += 1;
                sum.2 = sum.2.saturating_add(segment.digest().disk.0);
            }
        }
        for (state, count, bytes) in sums {
            metrics.gauge(metrics::STORE_SEGMENTS, &[state.extension()]).set(count as f64);
            metrics.gauge(metrics::STORE_SEGMENT_BYTES, &[state.extension()]).set(bytes as f64);
        }
    }
}

#[cfg(test)]
mod tests;
