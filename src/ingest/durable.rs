//! Group commit: many connections wait, one sync serves them all.
//!
//! Whoever has to wait and finds nobody syncing does it himself: a line that comes alone is not handed from thread to thread. The
//! thread of this room syncs what is wanted while nobody waits.

use super::log::{Active, IngestLog, Reason, Slot};
use super::written::Written;
use crate::world::crew::{Stop, lock, wait_for};
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Those who wait for one slot's bytes to reach stable storage.
#[derive(Default)]
pub struct Group {
    state: Mutex<GroupState>,
    changed: Condvar,
}

#[derive(Default)]
struct GroupState {
    /// Somebody wants all bytes up to here synced.
    wanted: u64,
    /// All bytes up to here are synced, or their sync has failed.
    settled: u64,
    /// Bytes that may be lost, since their sync has failed: from the first up to, not including, the last. In order, apart from
    /// each other, at most [`MOST_FAILED`].
    failed: Vec<(u64, u64)>,
    /// Somebody syncs now. Only one at a time: a later one would settle bytes that the earlier one still has in hand.
    taken: bool,
    /// How many wait until that one is done.
    waiting: usize,
}

/// The right to sync, for one at a time. Those who need it are woken when it ends, however it does.
struct Turn<'a>(&'a Group);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.taken = false;
        // To wake the thread for nothing costs a line that comes alone more than all else here.
        if state.waiting > 0 || state.wanted > state.settled {
            self.0.changed.notify_all();
        }
    }
}

impl GroupState {
    fn note_failed(&mut self, first: u64, end: u64) {
        match self.failed.last_mut() {
            Some(last) if last.1 >= first => last.1 = last.1.max(end),
            _ => self.failed.push((first, end)),
        }
        if let [oldest, next, ..] = self.failed[..]
            && self.failed.len() > MOST_FAILED
        {
            self.failed.splice(..2, [(oldest.0, next.1)]);
        }
    }

    /// Of bytes that are settled.
    fn outcome(&self, from: u64, mark: u64) -> io::Result<()> {
        if self.failed.iter().any(|(first, end)| from < *end && mark > *first) {
            return Err(io::Error::other("a sync failed"));
        }
        Ok(())
    }
}

/// How many stretches of failed bytes are told apart. With more, the two oldest become one with what lies between: that may
/// reset a connection whose bytes are safe, and never the other way round.
const MOST_FAILED: usize = 1_000;

/// How long a wait lasts before it looks whether the process ends.
const GLANCE: Duration = Duration::from_millis(500);

/// How long the thread that syncs waits at a time. It is woken when a sync is wanted, and by [`Group::wake`].
const LONGEST_WAIT: Duration = Duration::from_secs(600);

impl Group {
    /// Wakes all who wait here, to see that the process ends.
    pub fn wake(&self) {
        drop(lock(&self.state));
        self.changed.notify_all();
    }

    /// Asks that the slot's bytes up to `mark` be synced, and does not wait.
    pub fn want(&self, mark: u64) {
        let mut state = lock(&self.state);
        if mark > state.wanted {
            state.wanted = mark;
            // Whoever syncs now looks when he is done.
            if !state.taken {
                self.changed.notify_all();
            }
        }
    }

    /// Waits until the bytes from `from` to `mark` are on stable storage, and calls `sync`, which is to settle them, if nobody does.
    ///
    /// # Errors
    /// A sync of some of them has failed, or the process ended first: they must not be acknowledged.
    pub fn wait(&self, from: u64, mark: u64, stop: &Stop, sync: impl Fn()) -> io::Result<()> {
        let mut state = lock(&self.state);
        while state.settled < mark {
            if stop.is_raised() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if state.taken {
                state.waiting += 1;
                state = wait_for(&self.changed, state, GLANCE);
                state.waiting -= 1;
                continue;
            }
            state.taken = true;
            drop(state);
            let turn = Turn(self);
            sync();
            drop(turn);
            state = lock(&self.state);
        }
        state.outcome(from, mark)
    }

    /// What has become of the bytes from `from` to `mark`; `None` while their sync is still to come.
    pub fn outcome(&self, from: u64, mark: u64) -> Option<io::Result<()>> {
        let state = lock(&self.state);
        (state.settled >= mark).then(|| state.outcome(from, mark))
    }

    /// Waits until somebody wants a sync and nobody is at it, or the process ends.
    fn wait_until_wanted(&self, stop: &Stop) -> Option<Turn<'_>> {
        let mut state = lock(&self.state);
        if (state.taken || state.wanted <= state.settled) && !stop.is_raised() {
            state = wait_for(&self.changed, state, LONGEST_WAIT);
        }
        if state.taken || state.wanted <= state.settled {
            return None;
        }
        state.taken = true;
        Some(Turn(self))
    }

    fn settle(&self, mark: u64, failed: bool) {
        let mut state = lock(&self.state);
        if failed {
            let first = state.settled;
            state.note_failed(first, mark);
        }
        state.settled = state.settled.max(mark);
        // Whoever has taken his turn wakes them when it is over.
        if !state.taken {
            self.changed.notify_all();
        }
    }
}

/// Serves a slot's group until `stop` is raised: the work of one thread.
pub fn run(log: &IngestLog, slot: &Slot, stop: &Stop) {
    while !stop.is_raised() {
        if let Some(_turn) = slot.group.wait_until_wanted(stop) {
            sync_once(log, slot);
        }
    }
}

/// Waits until what a slot has taken from `from` to `mark` is on stable storage.
///
/// # Errors
/// See [`Group::wait`].
pub fn settle(log: &IngestLog, slot: &Slot, from: u64, mark: u64, stop: &Stop) -> io::Result<()> {
    slot.group.wait(from, mark, stop, || sync_once(log, slot))
}

/// Brings all that a slot has taken so far to stable storage and wakes those who wait for it.
pub fn sync_once(log: &IngestLog, slot: &Slot) {
    let (files, mark, synced_len) = {
        let mut writer = lock(&slot.writer);
        let mut files = std::mem::take(&mut writer.closed_unsynced);
        let mut len = 0;
        if let Some(active) = &writer.active {
            files.push(active.file.clone());
            len = active.len();
        }
        (files, writer.appended, len)
    };
    // Each one, also after one has failed: those that are sound need not be rewritten.
    let synced = files.iter().filter(|file| log.timed_sync(file).is_err()).count() == 0;
    let failed = !(synced && sync_names(log, &files));
    {
        let mut writer = lock(&slot.writer);
        let is_last = |active: &&mut Active| files.last().is_some_and(|file| Arc::ptr_eq(file, &active.file));
        if let Some(active) = writer.active.as_mut().filter(is_last).filter(|_| !failed) {
            active.synced = active.synced.max(synced_len);
        }
        if failed {
            log.close(&mut writer, Reason::Error);
            // All who wait for what these files hold are told now, unless more was written meanwhile: then it is in one of
            // them, and the next sync tells.
            if writer.appended == mark {
                writer.closed_unsynced.clear();
            }
        }
    }
    slot.group.settle(mark, failed);
}

/// Brings the names of new files to stable storage. Where that fails they are suspect like those whose sync has failed: a later
/// sync of the directory may succeed and mean nothing.
fn sync_names(log: &IngestLog, files: &[Arc<Written>]) -> bool {
    let Some(since) = files.iter().filter_map(|file| file.to_be_named()).min() else { return true };
    let result = log.names.sync(since);
    let new = files.iter().filter(|file| file.to_be_named().is_some());
    match &result {
        Ok(()) => new.for_each(|file| file.was_named()),
        Err(e) => {
            new.for_each(|file| file.condemn());
            log.note_failed_sync(e);
        }
    }
    result.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn only_those_whose_bytes_were_in_a_failed_sync_are_told_so() {
        let (group, stop) = (Group::default(), Stop::default());
        group.settle(100, false);
        group.settle(200, true);
        group.settle(300, false);
        assert!(group.wait(50, 100, &stop, || ()).is_ok());
        assert!(group.wait(90, 150, &stop, || ()).is_err());
        assert!(group.wait(150, 250, &stop, || ()).is_err());
        assert!(group.wait(200, 300, &stop, || ()).is_ok());
    }

    #[test]
    fn a_failure_is_told_to_who_asks_only_after_the_next_one() {
        let group = Group::default();
        group.settle(100, true);
        group.settle(200, false);
        group.settle(300, true);
        let sound = |from, mark| group.outcome(from, mark).map(|outcome| outcome.is_ok());
        assert_eq!(sound(0, 50), Some(false), "the first failure is not forgotten");
        assert_eq!((sound(100, 200), sound(200, 300), sound(300, 301)), (Some(true), Some(false), None));
        for n in 2..3_000 {
            group.settle(n * 200, n % 2 == 0);
        }
        assert_eq!((sound(0, 50), sound(599_000, 599_600)), (Some(false), Some(false)));
        assert_eq!(sound(599_600, 599_800), Some(true), "the latest are told apart");
        assert!(lock(&group.state).failed.len() <= MOST_FAILED);
    }

    #[test]
    fn who_waits_alone_syncs_himself_and_who_comes_meanwhile_waits_for_the_next_sync() {
        let (group, stop, taken) = (Group::default(), Stop::default(), AtomicU64::new(0));
        let (syncing, most, rounds) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let sync = || {
            most.fetch_max(syncing.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let mark = taken.load(Ordering::SeqCst);
            rounds.fetch_add(1, Ordering::SeqCst);
            std::thread::yield_now();
            syncing.fetch_sub(1, Ordering::SeqCst);
            group.settle(mark, false);
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let from = taken.fetch_add(10, Ordering::SeqCst);
                        group.wait(from, from + 10, &stop, sync).expect("no sync fails");
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 1, "one at a time");
        assert_eq!(lock(&group.state).settled, 20_000);
        assert!(rounds.into_inner() <= 2_000);
    }

    #[test]
    fn a_sync_that_panics_leaves_the_next_one_to_others() {
        let (group, stop) = (Group::default(), Stop::default());
        let wait = || group.wait(0, 10, &stop, || panic!("as the test wants"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(wait)).is_err());
        group.wait(0, 10, &stop, || group.settle(10, false)).expect("settled");
    }

    #[test]
    fn a_wait_ends_when_the_process_does() {
        let (group, stop) = (Group::default(), Stop::default());
        stop.raise();
        assert!(group.wait(0, 1, &stop, || ()).is_err());
    }
}
