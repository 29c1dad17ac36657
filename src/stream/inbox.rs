//! What has come for one stream and was not taken yet.
//!
//! Several sources bring, one thread takes. Live batches are never waited with: what finds no room is passed over, and its
//! records are counted as missed. What can wait, a gap that is being filled and word of a link, waits for room instead.
//!
//! Bounds: [`QUEUE_LIMIT`] for one source, so that a loud one does not crowd out the others, and [`TOTAL_LIMIT`] for all.
//! One batch that is larger finds room when nothing else is there.

use crate::world::crew::{lock, wait_for};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Bytes of batches that wait from one source.
pub const QUEUE_LIMIT: usize = 4 << 20;

/// Bytes of batches that wait from all sources together.
pub const TOTAL_LIMIT: usize = 32 << 20;

/// What an item costs besides its bytes.
const EACH: usize = 64;

/// How long a wait for room lasts before it looks again.
const LOOK: Duration = Duration::from_millis(200);

/// Where an item comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Source(pub u64);

impl Source {
    /// This node's own ingest tier: whole batches, in which nothing was looked for yet.
    pub const OWN: Source = Source(0);
    /// A query that fills a gap: records that match.
    pub const GAP: Source = Source(1);
}

/// What a source brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A block of whole stored records, ascending.
    Batch(Arc<[u8]>),
    /// A link stands: what is published there from now on comes.
    Up,
    /// A link has ended.
    Down {
        /// Whether the other side has said that this was all.
        whole: bool,
    },
    /// Something the reader should be told.
    Say(String),
}

impl Item {
    fn cost(&self) -> usize {
        EACH + match self {
            Item::Batch(batch) => batch.len(),
            Item::Say(text) => text.len(),
            Item::Up | Item::Down { .. } => 0,
        }
    }
}

/// The items that wait for one stream.
#[derive(Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Condvar,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<(Source, Item)>,
    /// What waits, by source.
    bytes: HashMap<Source, usize>,
    total: usize,
    missed: u64,
    closed: bool,
}

/// What is taken away at once.
#[derive(Debug, Default)]
pub struct Taken {
    /// In the order in which they came.
    pub items: VecDeque<(Source, Item)>,
    /// Records that were passed over since the last time.
    pub missed: u64,
}

impl Waiting {
    fn has_room(&self, source: Source, cost: usize) -> bool {
        let own = self.bytes.get(&source).copied().unwrap_or(0);
        self.total == 0 || own + cost <= QUEUE_LIMIT && self.total + cost <= TOTAL_LIMIT
    }

    fn put(&mut self, source: Source, item: Item, cost: usize) {
        *self.bytes.entry(source).or_default() += cost;
        self.total += cost;
        self.items.push_back((source, item));
    }
}

impl Inbox {
    /// Brings a live batch of `records` records, or counts them as missed. Never waits.
    pub fn offer(&self, source: Source, batch: &Arc<[u8]>, records: u64) {
        let mut waiting = lock(&self.waiting);
        let cost = EACH + batch.len();
        if waiting.has_room(source, cost) {
            waiting.put(source, Item::Batch(batch.clone()), cost);
        } else {
            waiting.missed += records;
        }
        self.arrived.notify_one();
    }

    /// Brings what must not be missed: waits for room. `false` if the inbox was closed before there was any.
    pub fn bring(&self, source: Source, item: Item) -> bool {
        let cost = item.cost();
        let mut waiting = lock(&self.waiting);
        while !waiting.closed {
            if waiting.has_room(source, cost) {
                waiting.put(source, item, cost);
                self.arrived.notify_one();
                return true;
            }
            waiting = wait_for(&self.room, waiting, LOOK);
        }
        false
    }

    /// Takes all there is; waits up to `span` if there is nothing.
    pub fn take(&self, span: Duration) -> Taken {
        let mut waiting = lock(&self.waiting);
        if waiting.items.is_empty() && waiting.missed == 0 {
            waiting = wait_for(&self.arrived, waiting, span);
        }
        waiting.bytes.clear();
        waiting.total = 0;
        self.room.notify_all();
        Taken { items: std::mem::take(&mut waiting.items), missed: std::mem::take(&mut waiting.missed) }
    }

    /// Sends away all who wait for room, from now on too.
    pub fn close(&self) {
        lock(&self.waiting).closed = true;
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::crew::{Crew, SMALL_STACK};

    fn batch(len: usize) -> Arc<[u8]> {
        vec![b'x'; len].into()
    }

    #[test]
    fn a_loud_source_does_not_crowd_out_the_others() {
        let inbox = Inbox::default();
        for _ in 0..10 {
            inbox.offer(Source(2), &batch(QUEUE_LIMIT / 4 - EACH), 7);
        }
        inbox.offer(Source(3), &batch(100), 1);
        let taken = inbox.take(Duration::ZERO);
        assert_eq!((taken.items.len(), taken.missed), (5, 42));
        assert_eq!(taken.items[4].0, Source(3));
    }

    #[test]
    fn many_sources_together_are_bounded_too_and_a_batch_larger_than_all_limits_gets_through_alone() {
        let inbox = Inbox::default();
        for source in 0..1_000 {
            inbox.offer(Source(source), &batch(QUEUE_LIMIT - EACH), 1);
        }
        let taken = inbox.take(Duration::ZERO);
        assert_eq!((taken.items.len(), taken.missed), (TOTAL_LIMIT / QUEUE_LIMIT, 1_000 - 8));
        inbox.offer(Source(2), &batch(TOTAL_LIMIT + 1), 1);
        inbox.offer(Source(2), &batch(1), 1);
        let taken = inbox.take(Duration::ZERO);
        assert_eq!((taken.items.len(), taken.missed), (1, 1));
    }

    #[test]
    fn what_must_not_be_missed_waits_for_room_until_the_inbox_is_closed() {
        let (inbox, crew) = (Arc::new(Inbox::default()), Crew::default());
        inbox.offer(Source::GAP, &batch(QUEUE_LIMIT), 1);
        let bringing = inbox.clone();
        let work = move || while bringing.bring(Source::GAP, Item::Batch(batch(QUEUE_LIMIT))) {};
        crew.start("brings", SMALL_STACK, work).unwrap();
        let mut taken = 0;
        while taken < 5 {
            let all = inbox.take(Duration::from_secs(60));
            assert!(all.items.len() <= 1 && all.missed == 0);
            taken += all.items.len();
        }
        inbox.close();
        assert!(crew.join_all(Duration::from_secs(60)).late.is_empty());
    }
}
