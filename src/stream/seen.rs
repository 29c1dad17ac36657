//! The ids seen last, so that a record that comes again is known.

use crate::record::id::Id;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// A memory for so many ids; the oldest are forgotten. About 50 bytes each.
#[derive(Debug)]
pub struct Seen {
    limit: usize,
    ids: HashSet<Id>,
    by_arrival: VecDeque<Id>,
    last: Option<Id>,
    forgotten: Option<Id>,
    count: u64,
}

impl Seen {
    /// A memory for `limit` ids.
    pub fn new(limit: usize) -> Seen {
        Seen { limit, ids: HashSet::new(), by_arrival: VecDeque::new(), last: None, forgotten: None, count: 0 }
    }

    /// Whether an id was not seen before, as far as is remembered; remembers it.
    pub fn is_new(&mut self, id: Id) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.count += 1;
        self.by_arrival.push_back(id);
        self.last = self.last.max(Some(id));
        if self.by_arrival.len() > self.limit
            && let Some(old) = self.by_arrival.pop_front()
        {
            self.ids.remove(&old);
            self.forgotten = self.forgotten.max(Some(old));
        }
        true
    }

    /// Whether an id is remembered.
    pub fn has(&self, id: Id) -> bool {
        self.ids.contains(&id)
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
    use crate::unit::UnixMillis;

    fn id(n: u128) -> Id {
        Id(Id::first_of(UnixMillis(1_795_426_200_250)).0 + n)
    }

    #[test]
    fn a_gap_never_begins_before_an_id_that_was_forgotten() {
        let mut seen = Seen::new(100);
        assert!((0..110).all(|n| seen.is_new(id(n))));
        assert!(!seen.is_new(id(20)) && seen.has(id(20)) && !seen.has(id(9)));
        let (last, margin) = (seen.last().unwrap(), Duration::from_secs(1));
        assert_eq!(seen.resume_from(last, margin), id(10));
        assert_eq!(Seen::new(1).resume_from(last, margin), Id::first_of(UnixMillis(last.millis().0 - 1_000)));
    }
}
