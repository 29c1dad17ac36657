//! The thread behind the writers: closes what is old, syncs what is closed, offers it, removes what was committed.

use super::log::{Closed, IngestLog, Limits, Reason};
use super::rescue::{Rescued, copy_whole};
use super::written::Written;
use crate::ops::metrics as m;
use crate::record::id::{Id, StreamBits};
use crate::segment::handle::Known;
use crate::segment::room::Refusal;
use crate::segment::{Bounds, Segment, State};
use crate::unit::{Monotonic, UnixNanos};
use crate::world::crew::{Stop, lock, wait_for};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often segments are looked at for their age, and committed ones removed.
const TICK: Duration = Duration::from_millis(100);

/// The same while nothing is there to be looked at. A new segment ends the rest; one that came in the moment before is seen
/// no later than it would be synced.
const REST: Duration = Duration::from_secs(1);

/// How often the fast port's segments are synced while they are written: a power cut costs no more than this.
const FAST_SYNC_EVERY: Duration = Duration::from_secs(1);

/// The extension of the file whose name is the highest id that is known to be used up.
pub const MARK_EXTENSION: &str = "mark";

/// Works until `stop` is raised; then closes, syncs and offers all there is.
pub fn run(log: &IngestLog, stop: &Stop) {
    let mut rounds = Rounds::default();
    while !stop.is_raised() {
        let span = if log.is_at_rest() { REST } else { TICK };
        {
            let queue = lock(&log.queue);
            // What could not be flushed is tried again at the next tick, not at once.
            if queue.closing.len() <= rounds.stuck && !stop.is_raised() {
                drop(wait_for(&log.moved, queue, span));
            }
        }
        log.round(&mut rounds);
    }
    log.close_all(Reason::Stop);
    log.flush_closed();
    log.remove_committed();
}

/// When the slower duties were last done.
#[derive(Default)]
pub struct Rounds {
    fast_sync: Monotonic,
    slow: Monotonic,
    quiet: Quiet,
    /// Closed segments that could not be flushed.
    stuck: usize,
}

/// Whether nobody writes, and when that was last a reason to close segments, or their age.
#[derive(Default)]
struct Quiet {
    /// Bytes ever appended, as of the last look, and since when there are no more.
    appended: u64,
    since: Monotonic,
    /// When segments were closed that were not full, and how many bytes there were then.
    closed: Option<(Monotonic, u64)>,
}

impl Quiet {
    /// Notes what was appended so far. Gives whether nothing has come for [`TICK`].
    fn look(&mut self, now: Monotonic, appended: u64) -> bool {
        if appended != self.appended {
            (self.appended, self.since) = (appended, now);
        }
        now.since(self.since) >= TICK
    }

    /// Whether segments may be closed before their time. Not sooner than their age after the last that were not full, or at least
    /// four full ones: a host that says a word every second makes no more files than one that never stops.
    fn is_due(&self, now: Monotonic, limits: &Limits) -> bool {
        let Some((at, appended)) = self.closed else { return true };
        let written = self.appended.saturating_sub(appended);
        now.since(at) >= limits.flush_age || written >= limits.flush_size.0.saturating_mul(4)
    }

    fn was_closed(&mut self, now: Monotonic) {
        self.closed = Some((now, self.appended));
    }
}

impl IngestLog {
    /// Wakes the threads that work behind the writers, to see that the process ends.
    pub fn wake(&self) {
        self.durable_slot().group.wake();
        drop(lock(&self.queue));
        self.moved.notify_all();
    }

    /// One round of the flusher's duties. Public so that tests on a virtual clock can go round by round.
    pub fn round(&self, rounds: &mut Rounds) {
        let now = self.clock.now();
        self.close_old(now, rounds);
        rounds.stuck = self.flush_closed();
        self.remove_committed();
        if now.since(rounds.fast_sync) >= FAST_SYNC_EVERY {
            rounds.fast_sync = now;
            self.sync_written();
        }
        if now.since(rounds.slow) >= FAST_SYNC_EVERY {
            rounds.slow = now;
            self.expire_pending(now);
        }
        self.room.look(now);
    }

    /// Whether nothing is written, handed out, or to be removed, and there is room.
    fn is_at_rest(&self) -> bool {
        let written_to = self.slots.iter().any(|slot| lock(&slot.writer).active.is_some());
        !written_to && self.graveyard.is_empty() && lock(&self.queue).is_at_rest() && !self.room.is_full()
    }

    /// Closes the segments of all slots when one of them is old, so that a consumer finds them all and stores make one file of
    /// them; or when nobody writes any more.
    fn close_old(&self, now: Monotonic, rounds: &mut Rounds) {
        let (mut appended, mut oldest) = (0u64, None);
        for slot in &self.slots {
            let writer = lock(&slot.writer);
            appended = appended.saturating_add(writer.appended);
            let born = writer.active.as_ref().map(|active| active.born);
            oldest = oldest.into_iter().chain(born).min();
        }
        let quiet = rounds.quiet.look(now, appended);
        let Some(oldest) = oldest else { return };
        let reason = match now.since(oldest) >= self.limits.flush_age {
            true => Reason::Age,
            false if quiet && rounds.quiet.is_due(now, &self.limits) => Reason::Quiet,
            false => return,
        };
        rounds.quiet.was_closed(now);
        self.close_all(reason);
    }

    /// Syncs, renames and offers every closed segment; one sync of the directory serves them all. Gives how many are left.
    pub fn flush_closed(&self) -> usize {
        let closing = lock(&self.queue).closing.clone();
        if closing.is_empty() {
            return 0;
        }
        let since = self.names.since();
        let mut whole = Vec::new();
        for closed in &closing {
            match self.make_durable(closed) {
                Ok(segments) => whole.push((closed.clone(), segments)),
                Err(e) => self.note_refused(&e, || format!("flushing {}", closed.segment.path().display())),
            }
        }
        if let Err(e) = self.names.sync(since) {
            self.note_failed_sync(&e);
        }
        let left = closing.len() - whole.len();
        let mut queue = lock(&self.queue);
        for (closed, segments) in whole {
            queue.closing.retain(|other| !Arc::ptr_eq(other, &closed));
            if self.fs.keeps() {
                queue.flushed.extend(segments.into_iter().map(|segment| (segment.digest().first, segment)));
            }
        }
        queue.ring();
        drop(queue);
        self.moved.notify_all();
        left
    }

    /// Brings one closed segment to stable storage under its flushed name. More than one, or none, of what was suspect.
    fn make_durable(&self, closed: &Closed) -> io::Result<Vec<Arc<Segment>>> {
        let sound = !closed.file.is_suspect() && self.timed_sync(&closed.file).is_ok();
        if sound {
            // Done already where an earlier round got this far.
            closed.segment.rename(&Bounds::From(closed.segment.digest().first).file_name(State::Flushed))?;
            return Ok(vec![closed.segment.clone()]);
        }
        self.rewrite(closed)
    }

    /// After a failed sync the file is suspect for ever (fsync(2): the pages may be marked clean). What can be read of it
    /// goes to a new file; the checksum kept while writing tells whether that is all. The old one is set aside only then: a
    /// crash before that leaves it to the next start.
    fn rewrite(&self, closed: &Closed) -> io::Result<Vec<Arc<Segment>>> {
        // What a refused batch has left behind is not what was written: its records are elsewhere, under other ids.
        let (file, len) = (closed.file.file(), closed.segment.digest().len);
        if file.size()? > len {
            file.truncate(len)?;
        }
        let since = self.names.since();
        let damaged = closed.segment.mark_damaged()?;
        if !closed.aside.swap(true, Ordering::Relaxed) {
            self.gauges.corrupt.inc();
            log::error!("{} is suspect: what can be read of it goes to a new file", damaged.display());
        }
        self.names.sync(since)?;
        let Rescued { survey, segments } = copy_whole(&self.names, &damaged)?;
        if survey.sound().map(Known::from).as_ref() != Some(closed.segment.digest()) {
            log::error!("{} was damaged by a failed sync: what is whole of it is kept", damaged.display());
        }
        closed.segment.set_aside()?;
        Ok(segments)
    }

    /// Syncs a file and counts it.
    pub(super) fn timed_sync(&self, file: &Written) -> io::Result<()> {
        let start = self.clock.now();
        let result = file.sync();
        self.gauges.syncs.inc();
        self.gauges.sync_seconds.observe_span(self.clock.now().since(start));
        if let Err(e) = &result {
            self.note_failed_sync(e);
        }
        result
    }

    /// A failed sync turns this node's readiness off: its disk cannot be trusted.
    pub(super) fn note_failed_sync(&self, error: &io::Error) {
        self.healthy.store(false, Ordering::Relaxed);
        self.metrics.counter(m::WRITE_ERRORS, &["sync"]).inc();
        log::error!("bringing segments to stable storage: {error}; this node is no longer ready");
    }

    /// Syncs what the fast port has written since the last time.
    fn sync_written(&self) {
        for slot in &self.slots[..self.slots.len() - 1] {
            let unsynced = lock(&slot.writer).active.as_ref().map(|active| (active.synced, active.len()));
            if unsynced.is_some_and(|(synced, len)| synced < len) {
                super::durable::sync_once(self, slot);
            }
            lock(&slot.writer).closed_unsynced.clear();
        }
    }

    fn expire_pending(&self, now: Monotonic) {
        let expired = {
            let mut queue = lock(&self.queue);
            queue.forget_old_commits(now);
            queue.expired(now)
        };
        for id in expired {
            log::warn!("segment {id} was not committed in time: it is offered again");
            self.failed(id);
        }
    }

    /// Removes committed segments, after the mark that keeps their ids from being given again is saved.
    pub fn remove_committed(&self) {
        if self.graveyard.is_empty() {
            return;
        }
        if let Err(e) = self.save_mark(UnixNanos(self.committed_to.load(Ordering::Relaxed))) {
            self.note_refused(&e, || format!("saving the clock mark in {}", self.dir.display()));
            return;
        }
        for (path, e) in self.graveyard.sweep() {
            self.note_refused(&e, || format!("removing the committed segment {}", path.display()));
        }
    }

    /// Saves the highest nanosecond used so far, as the name of an empty file.
    fn save_mark(&self, to: UnixNanos) -> io::Result<()> {
        let mut marked = lock(&self.marked);
        if marked.as_ref().is_some_and(|(saved, _)| *saved >= to) {
            return Ok(());
        }
        let path = self.dir.join(format!("{}.{MARK_EXTENSION}", Id::new(to, StreamBits::from_random(0), 0)));
        let since = self.names.since();
        match self.fs.create_new(&path) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        if let Err(e) = self.names.sync(since) {
            // It may be that no later sync brings this name to the disk: the next try gives it anew. One that stays is no harm.
            let _ = self.fs.remove(&path);
            return Err(e);
        }
        if let Some((_, old)) = marked.replace((to, path)) {
            self.fs.remove(&old)?;
        }
        Ok(())
    }

    /// Something that makes room was refused. For want of room, that is said by the room itself, once, and it gives way.
    fn note_refused(&self, error: &io::Error, doing: impl FnOnce() -> String) {
        match Refusal::of(error) {
            Refusal::NoRoom => self.room.give_way(error, self.clock.now()),
            _ => log::error!("{}: {error}", doing()),
        }
    }

    /// A batch could not be written. Its connection is held: this says so once, and not for each of them.
    pub(super) fn note_refused_write(&self, error: &io::Error) {
        match Refusal::of(error) {
            Refusal::NoRoom => self.room.refused(error, self.clock.now()),
            Refusal::TooLong => log::warn!("a segment in {} ends early: {error}", self.dir.display()),
            Refusal::Passing => log::warn!("writing to {}: {error}; the connection is held", self.dir.display()),
            Refusal::Broken => {
                if self.healthy.swap(false, Ordering::Relaxed) {
                    let path = self.dir.display();
                    log::error!("writing to {path}: {error}; connections are held, and this node is no longer ready");
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "flusher_tests.rs"]
mod tests;
