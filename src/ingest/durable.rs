//! Group commit: many connections wait, one sync serves them all.

use super::log::{IngestLog, Reason, Slot};
use crate::world::crew::{Stop, lock, wait_for};
use std::io;
use std::sync::{Condvar, Mutex};
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
    /// Bytes up to here may be lost: a sync failed.
    failed_to: u64,
    /// The first byte that may be lost.
    failed_from: u64,
}

impl GroupState {
    /// Of bytes that are settled.
    fn outcome(&self, from: u64, mark: u64) -> io::Result<()> {
        if from < self.failed_to && mark > self.failed_from {
            return Err(io::Error::other("a sync failed"));
        }
        Ok(())
    }
}

/// How long a wait lasts before it looks whether the process ends.
const GLANCE: Duration = Duration::from_millis(500);

impl Group {
    /// Asks that the slot's bytes up to `mark` be synced, and does not wait.
    pub fn want(&self, mark: u64) {
        let mut state = lock(&self.state);
        if mark > state.wanted {
            state.wanted = mark;
            self.changed.notify_all();
        }
    }

    /// Waits until the bytes from `from` to `mark` are on stable storage.
    ///
    /// # Errors
    /// A sync of some of them has failed, or the process ended first: they must not be acknowledged.
    pub fn wait(&self, from: u64, mark: u64, stop: &Stop) -> io::Result<()> {
        self.want(mark);
        let mut state = lock(&self.state);
        while state.settled < mark {
            if stop.is_raised() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            state = wait_for(&self.changed, state, GLANCE);
        }
        state.outcome(from, mark)
    }

    /// What has become of the bytes from `from` to `mark`; `None` while their sync is still to come.
    pub fn outcome(&self, from: u64, mark: u64) -> Option<io::Result<()>> {
        let state = lock(&self.state);
        (state.settled >= mark).then(|| state.outcome(from, mark))
    }

    /// Waits until somebody wants a sync, at most for a glance. Gives whether one is wanted.
    fn wait_until_wanted(&self) -> bool {
        let mut state = lock(&self.state);
        if state.wanted <= state.settled {
            state = wait_for(&self.changed, state, GLANCE);
        }
        state.wanted > state.settled
    }

    fn settle(&self, mark: u64, failed: bool) {
        let mut state = lock(&self.state);
        if failed {
            state.failed_from = state.settled;
            state.failed_to = mark;
        }
        state.settled = state.settled.max(mark);
        self.changed.notify_all();
    }
}

/// Serves a slot's group until `stop` is raised: the work of one thread.
pub fn run(log: &IngestLog, slot: &Slot, stop: &Stop) {
    while !stop.is_raised() {
        if slot.group.wait_until_wanted() {
            sync_once(log, slot);
        }
    }
}

/// Brings all that a slot has taken so far to stable storage and wakes those who wait for it.
pub fn sync_once(log: &IngestLog, slot: &Slot) {
    let (files, fresh, mark, synced_len) = {
        let mut writer = lock(&slot.writer);
        let mut files = std::mem::take(&mut writer.closed_unsynced);
        // A file that was closed in between may have been fresh: its name is synced with the directory too.
        let mut fresh = !files.is_empty();
        let mut len = 0;
        if let Some(active) = &writer.active {
            files.push(active.file.clone());
            fresh |= active.fresh;
            len = active.len();
        }
        (files, fresh, writer.appended, len)
    };
    let active_file = files.last().cloned();
    let mut result = Ok(());
    for file in files {
        result = result.and(log.timed_sync(file.as_ref()));
    }
    if fresh {
        result = result.and_then(|()| log.fs.sync_dir(&log.dir));
    }
    let failed = result.is_err();
    {
        let mut writer = lock(&slot.writer);
        if let Some(active) =
            writer.active.as_mut().filter(|a| active_file.as_ref().is_some_and(|f| std::sync::Arc::ptr_eq(f, &a.file)))
        {
            if failed {
                active.suspect = true;
            } else {
                active.synced = active.synced.max(synced_len);
                active.fresh = false;
            }
        }
        if failed {
            log.close(&mut writer, Reason::Error);
        }
    }
    if let Err(e) = result {
        log.note_failed_sync(&e);
    }
    slot.group.settle(mark, failed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_whose_bytes_were_in_a_failed_sync_are_told_so() {
        let (group, stop) = (Group::default(), Stop::default());
        group.settle(100, false);
        group.settle(200, true);
        group.settle(300, false);
        assert!(group.wait(50, 100, &stop).is_ok());
        assert!(group.wait(90, 150, &stop).is_err());
        assert!(group.wait(150, 250, &stop).is_err());
        assert!(group.wait(200, 300, &stop).is_ok());
    }

    #[test]
    fn a_wait_ends_when_the_process_does() {
        let (group, stop) = (Group::default(), Stop::default());
        stop.raise();
        assert!(group.wait(0, 1, &stop).is_err());
    }
}
