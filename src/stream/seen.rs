//! The ids seen last, so that a record that comes again is known.
//!
//! What is remembered is runs, not ids. Within one batch of one writer both the nanosecond and the counter of an id rise by
//! one from record to record. So with the counter taken off the time, the ids of a batch are consecutive numbers, and
//! a batch of which all is wanted is one run, however many records it has. Nothing is guessed: an id is known if and only if
//! it was seen and is not forgotten.

use crate::record::id::Id;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A memory for so many runs of ids; the oldest are forgotten. About 70 bytes each.
#[derive(Debug)]
pub struct Seen {
    limit: usize,
    /// First and last of each run, as [`leaned`].
    runs: BTreeMap<u128, u128>,
    /// Firsts of runs in the order in which they began. Also of some that were joined with others since.
    by_age: VecDeque<u128>,
    last: Option<Id>,
    forgotten: Option<Id>,
    count: u64,
}

/// Bits of an id below its time.
const TIME_SHIFT: u32 = 60;

/// The id as a number that is consecutive within a batch: its counter taken off its time. Each id has another one.
fn leaned(id: Id) -> u128 {
    id.0.wrapping_sub(u128::from(id.counter()) << TIME_SHIFT)
}

/// The id that was [`leaned`].
fn upright(leaned: u128) -> Id {
    Id(leaned.wrapping_add(u128::from(Id(leaned).counter()) << TIME_SHIFT))
}

impl Seen {
    /// A memory for `limit` runs.
    pub fn new(limit: usize) -> Seen {
        Seen { limit, runs: BTreeMap::new(), by_age: VecDeque::new(), last: None, forgotten: None, count: 0 }
    }

    /// Whether an id was not seen before, as far as is remembered; remembers it.
    pub fn is_new(&mut self, id: Id) -> bool {
        let number = leaned(id);
        let before = self.runs.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= number) {
            return false;
        }
        self.count += 1;
        self.last = self.last.max(Some(id));
        let joined = before.filter(|(_, last)| last.checked_add(1) == Some(number));
        let end = number.checked_add(1).and_then(|next| self.runs.remove(&next)).unwrap_or(number);
        let first = joined.map_or(number, |(first, _)| first);
        self.runs.insert(first, end);
        if joined.is_none() {
            self.by_age.push_back(first);
            self.forget_some();
        }
        true
    }

    fn forget_some(&mut self) {
        // Twice: a run that was joined with an older one has left its first behind.
        while self.runs.len() > self.limit || self.by_age.len() > self.limit.saturating_mul(2) {
            let Some(first) = self.by_age.pop_front() else { return };
            if let Some(last) = self.runs.remove(&first) {
                self.forgotten = self.forgotten.max(Some(upright(last)));
            }
        }
    }

    /// Whether an id is remembered.
    pub fn has(&self, id: Id) -> bool {
        let number = leaned(id);
        self.runs.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// How many ids were ever seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest id ever seen.
    pub fn last(&self) -> Option<Id> {
        self.last
    }

    /// The id from which a query gives nothing that was seen and is not remembered, at most `margin` before `last`.
    pub fn resume_from(&self, last: Id, margin: Duration) -> Id {
        let wanted = Id::first_of(last.millis().before(margin));
        match self.forgotten {
            Some(forgotten) => wanted.max(Id(forgotten.0.saturating_add(1))),
            None => wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::id::{IdRun, StreamBits};
    use crate::unit::{UnixMillis, UnixNanos};
    use crate::world::entropy::Dice;
    use std::collections::HashSet;

    fn id(n: u128) -> Id {
        Id(Id::first_of(UnixMillis(1_795_426_200_250)).0 + n * 1_000)
    }

    #[test]
    fn a_gap_never_begins_before_an_id_that_was_forgotten() {
        let mut seen = Seen::new(100);
        assert!((0..110).all(|n| seen.is_new(id(n))));
        assert!(!seen.is_new(id(20)) && seen.has(id(20)) && !seen.has(id(9)));
        let (last, margin) = (seen.last().unwrap(), Duration::from_secs(1));
        assert_eq!(seen.resume_from(last, margin), Id(id(9).0 + 1));
        assert_eq!(Seen::new(1).resume_from(last, margin), Id::first_of(UnixMillis(last.millis().0 - 1_000)));
    }

    #[test]
    fn a_whole_batch_takes_the_room_of_one_id() {
        let mut seen = Seen::new(2);
        let batch: Vec<Id> = IdRun::new(UnixNanos(77), StreamBits::from_random(9), 5).take(10_000).collect();
        assert!(batch.iter().all(|id| seen.is_new(*id)));
        assert!(batch.iter().rev().all(|id| !seen.is_new(*id)));
        assert_eq!((seen.runs.len(), seen.forgotten, seen.count()), (1, None, 10_000));
        assert!((1..5).all(|n| seen.is_new(id(n))));
        assert_eq!(seen.forgotten, Some(id(2)).max(batch.last().copied()));
    }

    #[test]
    fn it_knows_what_a_set_of_ids_knows_in_whatever_order_they_come() {
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            let (mut seen, mut model) = (Seen::new(1_000_000), HashSet::new());
            let batches: Vec<Vec<Id>> = (0..4)
                .map(|n| {
                    let at = UnixNanos(5_000_000 + dice.below(3) * 1_000_000 - dice.below(2).min(n) * 20);
                    IdRun::new(at, StreamBits::from_random(dice.below(2)), u32::MAX - 30 * (n as u32 % 2))
                        .take(40)
                        .collect()
                })
                .collect();
            for _ in 0..300 {
                let id = batches[dice.below(4) as usize][dice.below(40) as usize];
                assert_eq!(seen.has(id), model.contains(&id), "replay with seed {seed}");
                assert_eq!(seen.is_new(id), model.insert(id), "replay with seed {seed}");
            }
            let largest = model.iter().max().copied();
            assert_eq!((seen.last(), seen.count()), (largest, model.len() as u64), "replay with seed {seed}");
            assert!(seen.runs.values().all(|last| model.contains(&upright(*last))), "replay with seed {seed}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_also_where_runs_grow_backwards() {
        let mut seen = Seen::new(10);
        let batch: Vec<Id> = IdRun::new(UnixNanos(77), StreamBits::from_random(9), 5).take(1_000).collect();
        assert!(batch.iter().rev().all(|id| seen.is_new(*id)));
        assert!(seen.by_age.len() <= 20 && seen.runs.len() == 1);
    }
}
