//! Which segments there are, in memory: whoever asks a question never lists the directory.
//!
//! The live segments are one immutable table that is replaced as a whole. A reader takes the table that stands when it
//! asks, so it sees a compaction's inputs or its outputs, never both and never neither. Building a table anew costs one
//! pointer per segment: well under a millisecond for 10,000.

use crate::record::id::Id;
use crate::segment::Segment;
use crate::unit::{Bytes, UnixMillis};
use crate::world::crew::lock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A segment that answers no queries any more.
#[derive(Clone)]
pub struct Trashed {
    /// The segment.
    pub segment: Arc<Segment>,
    /// When it was trashed.
    pub since: UnixMillis,
}

/// The segments of a store.
#[derive(Default)]
pub struct Catalogue {
    live: Mutex<Arc<Table>>,
    trash: Mutex<Vec<Trashed>>,
    changes: AtomicU64,
}

#[derive(Default)]
struct Table {
    /// In order of their first ids; among equal ones, of their last.
    segments: Vec<Arc<Segment>>,
    /// For each place, the largest last id up to and including it. It never falls, so the first segment that can reach
    /// into a range is found by halving, however wide some segments are.
    reach: Vec<Id>,
    /// How long all their files are together.
    disk: u64,
}

impl Table {
    fn of(mut segments: Vec<Arc<Segment>>) -> Table {
        segments.sort_by_key(|segment| (segment.digest().first, segment.digest().last));
        let mut furthest = Id(0);
        let reach = segments.iter().map(|segment| {
            furthest = furthest.max(segment.digest().last);
            furthest
        });
        let reach = reach.collect();
        let disk = segments.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.digest().disk.0));
        Table { segments, reach, disk }
    }

    fn overlapping(&self, from: Id, to: Id) -> Vec<Arc<Segment>> {
        if from > to {
            return Vec::new();
        }
        let begin = self.reach.partition_point(|reach| *reach < from);
        let end = self.segments.partition_point(|segment| segment.digest().first <= to);
        let near = self.segments.get(begin..end).unwrap_or_default();
        near.iter().filter(|segment| segment.digest().last >= from).cloned().collect()
    }
}

impl Catalogue {
    /// A catalogue of what was found at the start.
    pub fn new(live: Vec<Arc<Segment>>, trash: Vec<Trashed>) -> Catalogue {
        Catalogue { live: Mutex::new(Arc::new(Table::of(live))), trash: Mutex::new(trash), changes: AtomicU64::new(0) }
    }

    /// The live segments that may hold ids from `from` to `to`, both inclusive, in order of their first ids. Whoever holds
    /// them can read them to the end, whatever happens to the store meanwhile.
    pub fn snapshot(&self, from: Id, to: Id) -> Vec<Arc<Segment>> {
        let table = lock(&self.live).clone();
        table.overlapping(from, to)
    }

    /// All live segments, in order of their first ids.
    pub fn live(&self) -> Vec<Arc<Segment>> {
        lock(&self.live).segments.clone()
    }

    /// The live segments of which this is so. For looks at all of them, again and again, that seldom find any: nothing is
    /// copied but what is found.
    pub fn live_that(&self, is_so: impl Fn(&Segment) -> bool) -> Vec<Arc<Segment>> {
        let table = lock(&self.live).clone();
        table.segments.iter().filter(|segment| is_so(segment)).cloned().collect()
    }

    /// How long the files of all live segments are together.
    pub fn live_bytes(&self) -> Bytes {
        Bytes(lock(&self.live).disk)
    }

    /// How often the catalogue has changed. What was found out about it before is so as long as this is the same; take it
    /// before looking.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Takes `gone` out and puts `come` in, in one step.
    pub fn replace(&self, gone: &[Arc<Segment>], come: Vec<Arc<Segment>>) {
        let mut live = lock(&self.live);
        let mut leaving: Vec<*const Segment> = gone.iter().map(Arc::as_ptr).collect();
        leaving.sort_unstable();
        let stays = |segment: &&Arc<Segment>| leaving.binary_search(&Arc::as_ptr(segment)).is_err();
        let mut segments: Vec<_> = live.segments.iter().filter(stays).cloned().collect();
        segments.extend(come);
        *live = Arc::new(Table::of(segments));
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Moves a live segment to the trash.
    pub fn trash(&self, segment: &Arc<Segment>, since: UnixMillis) {
        self.replace(std::slice::from_ref(segment), Vec::new());
        lock(&self.trash).push(Trashed { segment: segment.clone(), since });
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// All that is in the trash.
    pub fn trashed(&self) -> Vec<Trashed> {
        lock(&self.trash).clone()
    }

    /// Takes a segment out of the trash.
    pub fn forget_trashed(&self, segment: &Arc<Segment>) {
        lock(&self.trash).retain(|trashed| !Arc::ptr_eq(&trashed.segment, segment));
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::handle::Known;
    use crate::world::entropy::Dice;
    use crate::world::fs::nop::NopFs;

    fn segment(first: u64, last: u64) -> Arc<Segment> {
        let (first, last) = (Id(first.into()), Id(last.into()));
        let known = Known::by_ends(first, last, Bytes(1));
        Arc::new(Segment::new(Arc::new(NopFs), "x".into(), known))
    }

    fn ends(segments: &[Arc<Segment>]) -> Vec<(u128, u128)> {
        segments.iter().map(|segment| (segment.digest().first.0, segment.digest().last.0)).collect()
    }

    #[test]
    fn a_snapshot_has_exactly_the_segments_that_reach_into_the_range() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let mut all = Vec::new();
            for _ in 0..dice.below(40) {
                let first = dice.below(1_000);
                let width = if dice.one_in(10) { 900 } else { 20 };
                all.push(segment(first, first + dice.below(width)));
            }
            let catalogue = Catalogue::new(all.clone(), Vec::new());
            let (from, to) = (Id(dice.below(1_100).into()), Id(dice.below(1_100).into()));
            let mut expected = all.clone();
            expected.retain(|s| from <= to && s.digest().first <= to && s.digest().last >= from);
            expected.sort_by_key(|s| (s.digest().first, s.digest().last));
            assert_eq!(ends(&catalogue.snapshot(from, to)), ends(&expected), "replay with seed {seed}");
        }
    }

    #[test]
    fn a_replacement_is_seen_whole_and_an_older_snapshot_keeps_what_it_has() {
        let (a, b, c) = (segment(1, 5), segment(4, 9), segment(20, 30));
        let catalogue = Catalogue::new(vec![a.clone(), c.clone(), b.clone()], Vec::new());
        let before = catalogue.snapshot(Id(0), Id(10));
        catalogue.replace(&[a, b], vec![segment(1, 9)]);
        assert_eq!(ends(&before), [(1, 5), (4, 9)]);
        assert_eq!(ends(&catalogue.live()), [(1, 9), (20, 30)]);
        assert_eq!(ends(&catalogue.live_that(|segment| segment.digest().last > Id(9))), [(20, 30)]);
        let changes = catalogue.changes();
        assert_eq!(catalogue.live_bytes(), Bytes(2));
        assert_eq!(catalogue.changes(), changes);
        catalogue.trash(&c, UnixMillis(7));
        assert!(catalogue.changes() > changes);
        assert_eq!(catalogue.live_bytes(), Bytes(1));
        assert_eq!(ends(&catalogue.live()), [(1, 9)]);
        assert_eq!(catalogue.trashed().len(), 1);
        catalogue.forget_trashed(&c);
        assert!(catalogue.trashed().is_empty());
    }
}
