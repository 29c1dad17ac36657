//! The ingest tier's directory of segments: appending batches, closing segments, and what a query may read.

use super::durable::Group;
use super::queue::{Drained, Queue, Verdict};
use super::rescue::copy_whole;
use super::witness::Witnesses;
use super::written::Written;
use crate::cluster::DataId;
use crate::ops::metrics::{self as m, Counter, Histogram, Metrics};
use crate::record::batch::Batch;
use crate::record::id::{Id, IdClock, IdRun, StreamBits};
use crate::record::line::Cut;
use crate::record::stored::Checker;
use crate::segment::findings::name as name_of;
use crate::segment::handle::{Graveyard, Known};
use crate::segment::names::Names;
use crate::segment::readable::{Readable, Source};
use crate::segment::recover::look;
use crate::segment::room::{Refusal, Room};
use crate::segment::{Bounds, Segment, State};
use crate::stream::registry::Registry;
use crate::unit::{Bytes, Monotonic, UnixNanos};
use crate::world::clock::Clock;
use crate::world::crew::{Stop, lock, wait_for};
use crate::world::entropy::Entropy;
use crate::world::fs::FileSystem;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A segment is closed when it is this large.
    pub flush_size: Bytes,
    /// A segment is closed when it is this old.
    pub flush_age: Duration,
    /// A pending segment goes back to flushed after this.
    pub pending_timeout: Duration,
}

/// Closed segments that wait to be synced; at this many, writers wait for the disk.
const MOST_CLOSING: usize = 64;

/// The numbers the log keeps.
pub(super) struct Gauges {
    pub bytes: Counter,
    pub records: Counter,
    pub syncs: Counter,
    pub flush_age: Histogram,
    pub flush_size: Histogram,
    pub sync_seconds: Histogram,
    pub committed: Counter,
    pub committed_bytes: Counter,
    pub failed: Counter,
    pub corrupt: Counter,
}

/// The directory of ingest segments.
pub struct IngestLog {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) names: Arc<Names>,
    pub(super) clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gauges: Gauges,
    pub(super) limits: Limits,
    id: DataId,
    began_empty: bool,
    pub(super) ids: IdClock,
    pub(super) slots: Vec<Slot>,
    pub(super) queue: Mutex<Queue>,
    /// Notified when something was closed, flushed, given back or committed.
    pub(super) moved: Condvar,
    pub(super) graveyard: Graveyard,
    /// The highest nanosecond of segments that were committed, which the saved mark must reach before they are removed.
    pub(super) committed_to: AtomicU64,
    pub(super) marked: Mutex<Option<(UnixNanos, PathBuf)>>,
    /// Stores that have segments of this log. Taken under the lock of `queue`, never the other way round.
    witnesses: Mutex<Witnesses>,
    /// What is left on the medium: without it writers wait before they make it worse.
    pub(super) room: Room,
    /// Cleared after a failed sync or write: this node should not be given work.
    pub(super) healthy: AtomicBool,
    /// Set when the process ends and connections were given their time: nothing is taken any more.
    ended: AtomicBool,
    live: Arc<Registry>,
    _lock: Box<dyn Send + Sync>,
}

/// One writer: at most one active segment.
pub struct Slot {
    pub(super) writer: Mutex<Writer>,
    /// The group commit of those who wait for stable storage; idle for a slot of the fast port.
    pub group: Group,
}

#[derive(Default)]
pub(super) struct Writer {
    pub active: Option<Active>,
    /// The batch as it goes to the file.
    batch: Batch,
    /// Files that were closed before they were synced, for the group commit.
    pub closed_unsynced: Vec<Arc<Written>>,
    /// Bytes ever appended through this slot.
    pub appended: u64,
}

/// A segment being written.
pub(super) struct Active {
    pub file: Arc<Written>,
    pub path: PathBuf,
    stream: StreamBits,
    counter: u32,
    checker: Checker,
    last_ns: UnixNanos,
    pub born: Monotonic,
    pub synced: u64,
}

/// A closed segment on its way to stable storage.
pub struct Closed {
    pub(super) file: Arc<Written>,
    pub(super) segment: Arc<Segment>,
    /// The file itself was set aside; only its content goes on.
    pub(super) aside: AtomicBool,
}

/// What is whole of a segment that no consumer can merge.
enum Whole {
    All,
    /// These, which are none where nothing is, and what is wrong with the rest.
    Some(Vec<Arc<Segment>>, String),
}

/// Why a segment was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It was full.
    Size,
    /// It was old.
    Age,
    /// Nobody writes any more.
    Quiet,
    /// The clock was set back.
    Clock,
    /// A write or sync failed.
    Error,
    /// The process ends.
    Stop,
}

impl Reason {
    fn label(self) -> &'static str {
        match self {
            Reason::Size => "size",
            Reason::Age => "age",
            Reason::Quiet => "quiet",
            Reason::Clock => "clock",
            Reason::Error => "error",
            Reason::Stop => "stop",
        }
    }
}

impl IngestLog {
    /// Puts a log together from what recovery has found.
    pub(super) fn assemble(parts: super::recover::Recovered, slots: usize) -> IngestLog {
        let super::recover::Recovered {
            fs,
            dir,
            names,
            clock,
            entropy,
            metrics,
            limits,
            id,
            flushed,
            aside,
            mark,
            marked,
            lock,
            live,
            room,
        } = parts;
        let gauges = Gauges {
            bytes: metrics.counter(m::WRITER_BYTES, &[]),
            records: metrics.counter(m::WRITER_RECORDS, &[]),
            syncs: metrics.counter(m::WRITER_SYNCS, &[]),
            flush_age: metrics.histogram(m::FLUSH_AGE, &[]),
            flush_size: metrics.histogram(m::FLUSH_SIZE, &[]),
            sync_seconds: metrics.histogram(m::SYNC_SECONDS, &["ingest"]),
            committed: metrics.counter(m::INGEST_COMMITTED, &[]),
            committed_bytes: metrics.counter(m::INGEST_COMMITTED_BYTES, &[]),
            failed: metrics.counter(m::INGEST_FAILED, &[]),
            corrupt: metrics.counter(m::CORRUPT, &["ingest"]),
        };
        let slot = || Slot { writer: Mutex::default(), group: Group::default() };
        let began_empty = flushed.is_empty();
        IngestLog {
            fs,
            dir,
            names,
            clock,
            entropy,
            metrics,
            gauges,
            limits,
            id,
            began_empty,
            ids: IdClock::resume(mark),
            slots: (0..=slots.max(1)).map(|_| slot()).collect(),
            queue: Mutex::new(Queue::of(flushed, aside)),
            moved: Condvar::new(),
            graveyard: Graveyard::default(),
            witnesses: Mutex::default(),
            committed_to: AtomicU64::new(0),
            marked: Mutex::new(marked),
            room,
            healthy: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            live,
            _lock: lock,
        }
    }

    /// The id that this directory has for life. Where nothing is kept it is another one at each start.
    pub fn id(&self) -> DataId {
        self.id
    }

    /// The names in its directory: the file system for whoever keeps other files there.
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Whether no record waited in this directory when it was opened: it is a new one, or all was handed over.
    pub fn began_empty(&self) -> bool {
        self.began_empty
    }

    /// The slot a connection of the fast port writes to, by the connection's number.
    pub fn fast_slot(&self, connection: u64) -> &Slot {
        let fast = self.slots.len() - 1;
        &self.slots[(connection % fast as u64) as usize]
    }

    /// The slot all connections of the durable port share, so that one sync serves them all.
    pub fn durable_slot(&self) -> &Slot {
        &self.slots[self.slots.len() - 1]
    }

    /// Why this node should not be given work, if there is a reason: there is no room, or a write or sync has failed.
    pub fn hindrance(&self) -> Option<&'static str> {
        if !self.healthy.load(Ordering::Relaxed) {
            return Some("the disk of the ingest tier has failed");
        }
        self.room.is_full().then_some("the disk of the ingest tier is full")
    }

    /// Gives each record of a batch its id and hands the batch to the operating system. Gives how many bytes the slot has
    /// taken in all: the mark to wait for where the batch must be on stable storage.
    ///
    /// On an error nothing of the batch is kept, no counter was used up, and the same batch may be tried again.
    pub fn append(&self, slot: &Slot, buffer: &[u8], cut: &Cut) -> io::Result<u64> {
        let mut writer = lock(&slot.writer);
        if cut.records.is_empty() {
            return Ok(writer.appended);
        }
        if self.ended.load(Ordering::Relaxed) {
            return Err(io::Error::other("the process ends"));
        }
        let count = cut.records.len() as u64;
        let reserved = self.ids.reserve(self.clock.unix(), count);
        if let Some(by) = reserved.stepped_back {
            log::warn!("the clock was set back by {by:?}: ids go back to the true time, in new segments");
        }
        self.close_if_unfit(&mut writer, reserved.first, count);
        if writer.active.is_none() {
            writer.active = Some(self.new_active(reserved.first)?);
            // Whoever looks after its age may be at rest.
            self.moved.notify_all();
        }
        let Writer { active: Some(active), batch, .. } = &mut *writer else {
            return Err(io::ErrorKind::NotFound.into());
        };
        batch.form(IdRun::new(reserved.first, active.stream, active.counter), buffer, cut);
        let stored = batch.bytes();
        if let Err(e) = active.file.file().append(stored) {
            let torn = active.file.file().truncate(active.checker.len()).is_err();
            if torn {
                active.file.condemn();
                self.close(&mut writer, Reason::Error);
            } else if Refusal::of(&e) == Refusal::TooLong {
                self.close(&mut writer, Reason::Size);
            }
            return Err(e);
        }
        let len = stored.len() as u64;
        let first = Id::new(reserved.first, active.stream, active.counter);
        active.last_ns = UnixNanos(reserved.first.0 + count - 1);
        let last = Id::new(active.last_ns, active.stream, active.counter.wrapping_add((count - 1) as u32));
        active.checker.take_trusted(stored, first, last, count);
        active.counter = active.counter.wrapping_add(count as u32);
        self.gauges.bytes.add(len);
        self.gauges.records.add(count);
        self.live.publish(stored, count);
        let full = active.checker.len() >= self.limits.flush_size;
        writer.appended += len;
        let appended = writer.appended;
        self.room.wrote(len);
        if full {
            self.close(&mut writer, Reason::Size);
        }
        Ok(appended)
    }

    /// Closes the active segment where the next ids would not ascend in it, or its counter would run over.
    fn close_if_unfit(&self, writer: &mut Writer, first: UnixNanos, count: u64) {
        let Some(active) = &writer.active else { return };
        if first <= active.last_ns {
            self.close(writer, Reason::Clock);
        } else if u64::from(active.counter) + count > u64::from(u32::MAX) {
            self.close(writer, Reason::Size);
        }
    }

    fn new_active(&self, first: UnixNanos) -> io::Result<Active> {
        let stream = StreamBits::from_random(self.entropy.bits_64());
        let path = self.dir.join(Bounds::From(Id::new(first, stream, 0)).file_name(State::Active));
        let since = self.names.since();
        let file = Written::new(self.fs.create_new(&path)?, since);
        Ok(Active {
            file,
            path,
            stream,
            counter: 0,
            checker: Checker::default(),
            last_ns: UnixNanos(0),
            born: self.clock.now(),
            synced: 0,
        })
    }

    /// Closes a slot's active segment and puts it before the flusher. The caller holds the slot's lock, so that a query
    /// finds the segment either in the slot or in the queue.
    pub(super) fn close(&self, writer: &mut Writer, reason: Reason) {
        let Some(active) = writer.active.take() else { return };
        let Some(digest) = active.checker.digest() else {
            // Nothing was ever written whole: the file goes, and with it what a failed write may have left.
            if let Err(e) = self.fs.remove(&active.path) {
                log::warn!("removing the empty segment {}: {e}", active.path.display());
                // A start would take for records what was refused to whoever sent it, and has sent it again.
                if let Err(e) = active.file.file().truncate(Bytes(0)) {
                    log::warn!("emptying {}: {e}", active.path.display());
                }
            }
            return;
        };
        self.metrics.counter(m::WRITER_FLUSHES, &[reason.label()]).inc();
        self.gauges.flush_size.observe(digest.len.0 as f64);
        self.gauges.flush_age.observe_span(self.clock.now().since(active.born));
        // Suspect or not: who waits for what it holds is to be told.
        if active.synced < digest.len.0 {
            writer.closed_unsynced.push(active.file.clone());
        }
        let segment = Arc::new(Segment::new(self.fs.clone(), active.path, digest));
        let closed = Closed { file: active.file, segment, aside: AtomicBool::new(false) };
        lock(&self.queue).closing.push(Arc::new(closed));
        self.moved.notify_all();
    }

    /// Takes nothing any more, whoever may still come, and closes all there is: what is drained from now on stays so.
    pub fn end(&self) {
        // Looked at under the slots' locks, which `close_all` takes after this.
        self.ended.store(true, Ordering::Relaxed);
        self.close_all(Reason::Stop);
    }

    /// Closes the active segments of all slots.
    pub fn close_all(&self, reason: Reason) {
        for slot in &self.slots {
            self.close(&mut lock(&slot.writer), reason);
        }
    }

    /// Waits while the disk does not keep up with closed segments, or is nearly full. `false` when `stop` was raised.
    pub fn wait_for_disk(&self, stop: &Stop) -> bool {
        self.room.look_after_writing(|| self.clock.now());
        while self.is_behind() {
            // There may be thousands who wait, and room does not come back within milliseconds.
            let glance = if self.room.is_full() { 100 } else { 20 };
            if stop.wait(Duration::from_millis(glance)) {
                return false;
            }
        }
        true
    }

    /// Whether writers must wait: the disk does not keep up with closed segments, or is nearly full.
    pub fn is_behind(&self) -> bool {
        self.room.is_full() || lock(&self.queue).closing.len() >= MOST_CLOSING
    }

    /// What a query may read of this tier, as of now. Take it before the stores' own snapshot.
    pub fn snapshot(&self, from: Id, to: Id) -> Vec<Readable> {
        if !self.fs.keeps() {
            return Vec::new();
        }
        // Slots first, then the queue: a segment moves in that direction, under its slot's lock.
        let mut found: Vec<Readable> = self.slots.iter().filter_map(|slot| lock(&slot.writer).readable()).collect();
        let queue = lock(&self.queue);
        let closed = queue.closing.iter().map(|closed| &closed.segment).chain(queue.aside.values());
        let waiting = queue.flushed.values().chain(queue.pending.values().map(|pending| &pending.segment));
        for segment in closed.chain(waiting) {
            let digest = segment.digest();
            found.retain(|readable| readable.low != digest.first);
            let source = Source::Segment(segment.clone());
            found.push(Readable { source, low: digest.first, high: digest.last, len: digest.len });
        }
        found.retain(|readable| readable.low <= to && readable.high >= from);
        found
    }

    /// Makes the oldest flushed segment pending.
    pub fn next(&self) -> io::Result<Option<Arc<Segment>>> {
        let taken = lock(&self.queue).take_next(self.clock.now(), self.limits.pending_timeout);
        let Some((id, segment)) = taken else { return Ok(None) };
        if let Err(e) = segment.rename(&Bounds::From(id).file_name(State::Pending)) {
            self.room.give_way(&e, self.clock.now());
            let mut queue = lock(&self.queue);
            if let Some(segment) = queue.fail(id) {
                queue.flushed.insert(id, segment);
            }
            return Err(e);
        }
        Ok(Some(segment))
    }

    /// Gives a pending segment to be read.
    pub fn read(&self, id: Id) -> Option<Arc<Segment>> {
        lock(&self.queue).read(id, self.clock.now(), self.limits.pending_timeout)
    }

    /// Gives a pending segment more time.
    pub fn renew(&self, id: Id) -> Verdict {
        lock(&self.queue).renew(id, self.clock.now(), self.limits.pending_timeout)
    }

    /// Ends a segment's time here: R stores have it, `stores` by name, if its consumer gives their names. The file goes soon
    /// after.
    pub fn commit(&self, id: Id, stores: &[DataId]) -> Verdict {
        let (verdict, segment) = {
            let mut queue = lock(&self.queue);
            let (verdict, segment) = queue.commit(id, self.clock.now());
            if verdict == Verdict::Done {
                // Under the queue's lock: who does not find the segment here any more finds the stores that have it.
                self.witness(stores);
            }
            (verdict, segment)
        };
        if let Some(segment) = segment {
            self.gauges.committed.inc();
            self.gauges.committed_bytes.add(segment.digest().len.0);
            self.committed_to.fetch_max(segment.digest().last.nanos().0, Ordering::Relaxed);
            self.graveyard.give_up(segment);
            self.moved.notify_all();
        }
        verdict
    }

    /// Notes stores that hold records of this ingester.
    pub fn witness(&self, stores: &[DataId]) {
        lock(&self.witnesses).note(stores);
    }

    /// The stores that hold records of this ingester, as far as its consumers have named them since it was started: at
    /// most [`MOST_WITNESSES`](super::witness::MOST_WITNESSES). Take it after the snapshot of a query.
    pub fn witnesses(&self) -> Vec<DataId> {
        lock(&self.witnesses).all()
    }

    /// Gives a pending segment back: it is offered again.
    pub fn failed(&self, id: Id) -> Verdict {
        let Some(segment) = lock(&self.queue).pending.get(&id).map(|pending| pending.segment.clone()) else {
            return Verdict::Unknown;
        };
        self.gauges.failed.inc();
        if let Err(e) = segment.rename(&Bounds::From(id).file_name(State::Flushed)) {
            log::error!("giving {} back: {e}", segment.path().display());
        }
        let mut queue = lock(&self.queue);
        if let Some(segment) = queue.fail(id) {
            queue.flushed.insert(id, segment);
        }
        self.moved.notify_all();
        Verdict::Done
    }

    /// Takes a pending segment out of circulation because no consumer can merge it. What is whole in it is offered as a
    /// segment of its own, its file stays, as `.corrupt`. Queries read the one until they read the other.
    pub fn set_aside(&self, id: Id) -> Verdict {
        let Some(segment) = lock(&self.queue).set_aside(id) else { return Verdict::Unknown };
        let path = segment.path();
        let what = match self.recover_from(&segment) {
            Ok(Whole::All) => {
                "it is sound, stays here for queries, and is offered again after the next start".to_string()
            }
            Ok(Whole::Some(recovered, fault)) => {
                self.gauges.corrupt.inc();
                let records: u64 = recovered.iter().filter_map(|segment| segment.digest().records).sum();
                let mut queue = lock(&self.queue);
                queue.aside.remove(&id);
                queue.flushed.extend(recovered.into_iter().map(|segment| (segment.digest().first, segment)));
                format!("{fault}: {records} whole records of it go on, the file is now {}", name_of(&segment.path()))
            }
            Err(e) => format!("what is whole in it was not recovered, the next start tries again: {e}"),
        };
        log::error!("{}: no consumer can merge it: {what}", path.display());
        self.moved.notify_all();
        Verdict::Done
    }

    /// Makes segments of what is whole in a file, unless that is all of it: then it is not the file that keeps consumers from
    /// merging it, and offering it again would never end.
    fn recover_from(&self, segment: &Arc<Segment>) -> io::Result<Whole> {
        let survey = look(&segment.open()?)?;
        if survey.sound().map(Known::from).is_some_and(|known| known == *segment.digest()) {
            segment.rename(&Bounds::From(segment.digest().first).file_name(State::Flushed))?;
            return Ok(Whole::All);
        }
        let since = self.names.since();
        let damaged = segment.mark_damaged()?;
        self.names.sync(since)?;
        let rescued = copy_whole(&self.names, &damaged)?;
        segment.set_aside()?;
        Ok(Whole::Some(rescued.segments, survey.fault().unwrap_or_else(|| "it is not what was written".into())))
    }

    /// Waits until every segment was taken over, or those that are left will not be, at most for `span`.
    pub fn wait_until_drained(&self, span: Duration) -> Drained {
        let deadline = self.clock.now() + span;
        let mut queue = lock(&self.queue);
        loop {
            let left = deadline.since(self.clock.now());
            match queue.drained() {
                Drained::Not if !left.is_zero() => {
                    queue = wait_for(&self.moved, queue, left.min(Duration::from_millis(200)));
                }
                found => return found,
            }
        }
    }

    /// The live streams that get a copy of every batch.
    pub fn live(&self) -> &Arc<Registry> {
        &self.live
    }

    /// What time it is for this log.
    pub fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }
}

impl Writer {
    fn readable(&self) -> Option<Readable> {
        let active = self.active.as_ref()?;
        let digest = active.checker.digest()?;
        let source = Source::Open(active.file.file().clone());
        Some(Readable { source, low: digest.first, high: digest.last, len: digest.len })
    }
}

impl Active {
    /// How many bytes of whole records the file holds.
    pub fn len(&self) -> u64 {
        self.checker.len().0
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
