//! What happens to a segment after it was closed: closing, flushed, pending, committed.
//!
//! A segment leaves this queue only when a consumer commits it, or when what is whole of a damaged one has come in its place, so
//! a query that looks here before it asks the stores sees every record in at least one place.

use super::log::Closed;
use crate::record::id::Id;
use crate::segment::Segment;
use crate::unit::Monotonic;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a commit is remembered, so that a consumer that did not hear the answer may ask again.
const REMEMBER: Duration = Duration::from_secs(3600);

/// How many commits are remembered at most: 100 a second for the whole hour. The oldest are forgotten first.
const REMEMBER_AT_MOST: usize = 360_000;

/// A segment that a consumer works on.
pub struct Pending {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Whether its bytes were ever asked for. What was never read cannot be committed.
    pub read: bool,
    /// When it goes back to flushed by itself.
    pub deadline: Monotonic,
}

/// All segments that were closed and not yet committed.
#[derive(Default)]
pub struct Queue {
    /// Closed, not yet synced and renamed, in the order in which they were closed.
    pub closing: Vec<Arc<Closed>>,
    /// Offered to consumers, by id.
    pub flushed: BTreeMap<Id, Arc<Segment>>,
    /// Handed to consumers, by id.
    pub pending: BTreeMap<Id, Pending>,
    /// Taken out of circulation, by id, and still to be read by queries: until what is whole of them is offered by itself, or
    /// the next start where all is whole and no consumer can merge it all the same, or where nothing could be recovered.
    pub aside: BTreeMap<Id, Arc<Segment>>,
    /// Rung when something was flushed. One that gives `false` has nobody who listens any more.
    pub bells: Vec<Bell>,
    committed: BTreeMap<Id, Monotonic>,
}

/// Tells a consumer of this process that it may ask. Must not block.
pub type Bell = Box<dyn Fn() -> bool + Send>;

/// The answer to a verb of a consumer on a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Done, now or at an earlier call.
    Done,
    /// There is no pending segment of that id.
    Unknown,
    /// It was never read.
    NeverRead,
}

/// How far handing over is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// Segments wait for consumers, or are with them.
    Not,
    /// Only so many are left that no consumer can merge: waiting changes nothing.
    ButForAside(usize),
    /// Every segment was taken over.
    All,
}

impl Queue {
    /// The queue a process begins with: what recovery has found.
    pub fn of(flushed: BTreeMap<Id, Arc<Segment>>, aside: BTreeMap<Id, Arc<Segment>>) -> Queue {
        Queue { flushed, aside, ..Queue::default() }
    }

    /// Makes the oldest flushed segment pending.
    pub fn take_next(&mut self, now: Monotonic, timeout: Duration) -> Option<(Id, Arc<Segment>)> {
        let (id, segment) = self.flushed.pop_first()?;
        let pending = Pending { segment: segment.clone(), read: false, deadline: now + timeout };
        self.pending.insert(id, pending);
        Some((id, segment))
    }

    /// Whether nothing is offered, or will be before something else is written.
    pub fn has_none_to_offer(&self) -> bool {
        self.closing.is_empty() && self.flushed.is_empty()
    }

    /// Tells consumers of this process that something was flushed.
    pub fn ring(&mut self) {
        self.bells.retain(|bell| bell());
    }

    /// Gives a pending segment to be read, and more time.
    pub fn read(&mut self, id: Id, now: Monotonic, timeout: Duration) -> Option<Arc<Segment>> {
        let pending = self.pending.get_mut(&id)?;
        pending.read = true;
        pending.deadline = now + timeout;
        Some(pending.segment.clone())
    }

    /// Gives a pending segment more time.
    pub fn renew(&mut self, id: Id, now: Monotonic, timeout: Duration) -> Verdict {
        match self.pending.get_mut(&id) {
            Some(pending) => {
                pending.deadline = now + timeout;
                Verdict::Done
            }
            None => Verdict::Unknown,
        }
    }

    /// Ends a pending segment's time here. The segment, if this call was the one that ended it.
    pub fn commit(&mut self, id: Id, now: Monotonic) -> (Verdict, Option<Arc<Segment>>) {
        match self.pending.get(&id) {
            Some(pending) if !pending.read => (Verdict::NeverRead, None),
            Some(_) => {
                self.committed.insert(id, now);
                let segment = self.pending.remove(&id).map(|pending| pending.segment);
                (Verdict::Done, segment)
            }
            None if self.committed.contains_key(&id) => (Verdict::Done, None),
            None => (Verdict::Unknown, None),
        }
    }

    /// Takes a pending segment out of circulation. Queries still read it.
    pub fn set_aside(&mut self, id: Id) -> Option<Arc<Segment>> {
        let segment = self.fail(id)?;
        self.aside.insert(id, segment.clone());
        Some(segment)
    }

    /// Takes a pending segment out, to be offered again or set aside once it was renamed.
    pub fn fail(&mut self, id: Id) -> Option<Arc<Segment>> {
        self.pending.remove(&id).map(|pending| pending.segment)
    }

    /// Pending segments whose time is over.
    pub fn expired(&self, now: Monotonic) -> Vec<Id> {
        self.pending.iter().filter(|(_, pending)| pending.deadline <= now).map(|(id, _)| *id).collect()
    }

    /// Whether nothing is on its way in, and nothing handed out that may have to be taken back.
    pub fn is_at_rest(&self) -> bool {
        self.closing.is_empty() && self.pending.is_empty()
    }

    /// Forgets commits that are long past.
    pub fn forget_old_commits(&mut self, now: Monotonic) {
        self.committed.retain(|_, at| now.since(*at) < REMEMBER);
        while self.committed.len() > REMEMBER_AT_MOST {
            self.committed.pop_first();
        }
    }

    /// How far handing over is.
    pub fn drained(&self) -> Drained {
        match self.closing.is_empty() && self.flushed.is_empty() && self.pending.is_empty() {
            false => Drained::Not,
            true if !self.aside.is_empty() => Drained::ButForAside(self.aside.len()),
            true => Drained::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stored::Digest;
    use crate::unit::Bytes;
    use crate::world::fs::nop::NopFs;

    fn queue_of(ids: &[u128]) -> Queue {
        let mut queue = Queue::default();
        for &id in ids {
            let digest = Digest { first: Id(id), last: Id(id), records: 1, len: Bytes(30), crc32: 0 };
            queue.flushed.insert(Id(id), Arc::new(Segment::new(Arc::new(NopFs), "x".into(), digest)));
        }
        queue
    }

    const NOW: Monotonic = Monotonic(Duration::from_secs(1_000));
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_oldest_segment_is_offered_first_and_only_once() {
        let mut queue = queue_of(&[5, 3]);
        assert_eq!(queue.take_next(NOW, MINUTE).map(|(id, _)| id), Some(Id(3)));
        assert_eq!(queue.take_next(NOW, MINUTE).map(|(id, _)| id), Some(Id(5)));
        assert!(queue.take_next(NOW, MINUTE).is_none());
    }

    #[test]
    fn what_was_never_read_cannot_be_committed_and_a_second_commit_is_fine() {
        let mut queue = queue_of(&[3]);
        assert_eq!(queue.commit(Id(3), NOW).0, Verdict::Unknown);
        queue.take_next(NOW, MINUTE);
        assert_eq!(queue.commit(Id(3), NOW).0, Verdict::NeverRead);
        assert!(queue.read(Id(3), NOW, MINUTE).is_some());
        assert!(matches!(queue.commit(Id(3), NOW), (Verdict::Done, Some(_))));
        assert!(matches!(queue.commit(Id(3), NOW), (Verdict::Done, None)));
        assert_eq!(queue.drained(), Drained::All);
        queue.forget_old_commits(NOW + REMEMBER);
        assert_eq!(queue.commit(Id(3), NOW).0, Verdict::Unknown);
    }

    #[test]
    fn a_pending_segment_expires_unless_it_is_renewed() {
        let mut queue = queue_of(&[3]);
        queue.take_next(NOW, MINUTE);
        assert!(queue.expired(NOW + MINUTE / 2).is_empty());
        assert_eq!(queue.renew(Id(3), NOW + MINUTE / 2, MINUTE), Verdict::Done);
        assert!(queue.expired(NOW + MINUTE).is_empty());
        assert_eq!(queue.expired(NOW + MINUTE * 2), [Id(3)]);
        assert!(queue.fail(Id(3)).is_some() && queue.fail(Id(3)).is_none());
        assert_eq!(queue.renew(Id(3), NOW, MINUTE), Verdict::Unknown);
    }
}
