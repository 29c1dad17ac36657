//! Whether counters are missing: each stream counts its records from 0, without gaps.
//!
//! Takes ids in rising order, each once. Within a stream that is the order of its counters, so all that is kept of one is
//! the counter that must come next. The 28 bits of a stream come again after some weeks of writing: a counter of 0
//! begins another stream of the same bits.
//!
//! What counters cannot tell: that the end of a stream is missing, or all of it.

use crate::record::id::{Id, StreamBits};
use crate::unit::UnixNanos;
use std::collections::HashMap;
use std::time::Duration;

/// Oddities that are kept; more are counted.
pub const MOST_ODDITIES: usize = 1_000;

/// Another stream with the same bits is expected to have ended when it was silent for so long.
const SILENT: Duration = Duration::from_secs(3_600);

/// Something that is wrong with a stream's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oddity {
    /// Counters between two that are there.
    Gap {
        /// The first one missing.
        from: u32,
        /// The last one missing.
        to: u32,
        /// The record before them.
        before: Id,
        /// The record behind them.
        after: Id,
    },
    /// The first counters of a stream.
    Headless {
        /// The first record that is there.
        first: Id,
    },
    /// One record between others of its stream whose counter does not fit there: its id is damaged.
    Stray {
        /// The record.
        id: Id,
        /// The counter that belongs there.
        expected: u32,
    },
}

/// An oddity, and the file that the record behind it lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// What is wrong.
    pub oddity: Oddity,
    /// As the caller counts files.
    pub file: usize,
}

/// What is kept of a stream.
#[derive(Clone, Copy)]
struct Tail {
    next: u32,
    last: UnixNanos,
}

/// All streams so far.
#[derive(Default)]
pub struct Streams {
    tails: HashMap<StreamBits, Tail>,
    /// Streams that go on beside another one of the same bits.
    beside: HashMap<StreamBits, Vec<Tail>>,
    /// Where in `seen` the last gap of a stream is.
    gaps: HashMap<StreamBits, usize>,
    seen: Vec<Seen>,
    more: u64,
    missing: u64,
    begun: u64,
}

impl Streams {
    /// Takes the next id. One that is not `sure` comes from a file that counts for nothing: it fills its place, so that
    /// nothing is called missing that is there, and tells nothing by itself.
    pub fn take(&mut self, id: Id, file: usize, sure: bool) {
        let (bits, counter, now) = (id.stream(), id.counter(), id.nanos());
        let Some(tail) = self.tails.get_mut(&bits) else {
            if counter == 0 || sure {
                self.begin(id);
            }
            if counter != 0 && sure {
                self.note(Oddity::Headless { first: id }, file);
            }
            return;
        };
        if tail.next == counter {
            *tail = Tail { next: counter.saturating_add(1), last: now };
            return;
        }
        if self.goes_on_beside(bits, counter, now) {
            return;
        }
        if counter == 0 {
            self.set_beside(bits, now);
            self.begin(id);
            return;
        }
        if sure {
            self.jump(id, file);
        }
    }

    /// What was found: the first [`MOST_ODDITIES`].
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// How many more there are.
    pub fn more(&self) -> u64 {
        self.more
    }

    /// How many records are missing in gaps.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// How many streams there are.
    pub fn count(&self) -> u64 {
        self.begun
    }

    fn begin(&mut self, id: Id) {
        self.begun += 1;
        self.tails.insert(id.stream(), Tail { next: id.counter().saturating_add(1), last: id.nanos() });
        self.gaps.remove(&id.stream());
    }

    fn goes_on_beside(&mut self, bits: StreamBits, counter: u32, now: UnixNanos) -> bool {
        let Some(others) = self.beside.get_mut(&bits) else { return false };
        let Some(other) = others.iter_mut().find(|other| other.next == counter) else { return false };
        *other = Tail { next: counter.saturating_add(1), last: now };
        true
    }

    /// Keeps the stream of these bits in mind while another one begins, unless it has ended long ago.
    fn set_beside(&mut self, bits: StreamBits, now: UnixNanos) {
        let is_recent = |tail: &Tail| now.millis().since(tail.last.millis()) < SILENT;
        let Some(tail) = self.tails.get(&bits).copied() else { return };
        let others = self.beside.entry(bits).or_default();
        others.retain(is_recent);
        others.extend(is_recent(&tail).then_some(tail));
        if others.is_empty() {
            self.beside.remove(&bits);
        }
    }

    /// A counter that is not the next one of its stream.
    fn jump(&mut self, id: Id, file: usize) {
        let (bits, counter) = (id.stream(), id.counter());
        let Some(Tail { next, last }) = self.tails.get(&bits).copied() else { return };
        if counter < next {
            self.step_back(id, file);
            return;
        }
        let before = Id::new(last, bits, next.saturating_sub(1));
        self.missing += u64::from(counter - next);
        if self.note(Oddity::Gap { from: next, to: counter - 1, before, after: id }, file) {
            self.gaps.insert(bits, self.seen.len() - 1);
        }
        self.tails.insert(bits, Tail { next: counter.saturating_add(1), last: id.nanos() });
    }

    /// A counter that was passed already. Where it lies in the gap that came before it, it was the record behind the gap
    /// whose counter is wrong.
    fn step_back(&mut self, id: Id, file: usize) {
        let (bits, counter) = (id.stream(), id.counter());
        let gap = self.gaps.remove(&bits).and_then(|at| self.seen.get_mut(at));
        if let Some(Seen { oddity, file: stray_file }) = gap
            && let Oddity::Gap { from, to, after, .. } = *oddity
            && (from..=to).contains(&counter)
        {
            self.missing -= u64::from(to - from) + 1;
            *oddity = Oddity::Stray { id: after, expected: from };
            let stray_file = *stray_file;
            self.tails.insert(bits, Tail { next: counter.saturating_add(1), last: id.nanos() });
            if counter > from + 1 {
                self.missing += u64::from(counter - from - 1);
                self.note(Oddity::Gap { from: from + 1, to: counter - 1, before: after, after: id }, stray_file);
            }
            return;
        }
        self.begin(id);
        self.note(Oddity::Headless { first: id }, file);
    }

    /// Gives whether it was kept.
    fn note(&mut self, oddity: Oddity, file: usize) -> bool {
        if self.seen.len() < MOST_ODDITIES {
            self.seen.push(Seen { oddity, file });
            return true;
        }
        self.more += 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn id(second: u64, stream: u64, counter: u32) -> Id {
        Id::new(UnixNanos(second * S), StreamBits::from_random(stream), counter)
    }

    fn oddities(ids: &[Id]) -> Vec<Oddity> {
        let mut streams = Streams::default();
        ids.iter().for_each(|id| streams.take(*id, 0, true));
        streams.seen().iter().map(|seen| seen.oddity).collect()
    }

    #[test]
    fn streams_that_count_from_0_without_gaps_are_sound_also_side_by_side() {
        assert_eq!(oddities(&[id(1, 7, 0), id(2, 8, 0), id(3, 7, 1), id(4, 8, 1), id(5, 7, 2)]), []);
    }

    #[test]
    fn a_gap_is_named_by_its_counters_and_its_neighbours() {
        let (before, after) = (id(1, 7, 0), id(9, 7, 4));
        assert_eq!(oddities(&[before, id(2, 8, 0), after]), [Oddity::Gap { from: 1, to: 3, before, after }]);
    }

    #[test]
    fn a_stream_whose_beginning_is_missing_is_named_once() {
        let first = id(1, 7, 5);
        assert_eq!(oddities(&[first, id(2, 7, 6), id(3, 7, 7)]), [Oddity::Headless { first }]);
    }

    #[test]
    fn one_counter_that_is_far_too_large_does_not_make_all_behind_it_missing() {
        let stray = id(3, 7, 900);
        let ids = [id(1, 7, 0), id(2, 7, 1), stray, id(4, 7, 3), id(5, 7, 4)];
        assert_eq!(oddities(&ids), [Oddity::Stray { id: stray, expected: 2 }]);
        let (stray, after) = (id(3, 7, 900), id(4, 7, 6));
        let ids = [id(1, 7, 0), id(2, 7, 1), stray, after];
        let gap = Oddity::Gap { from: 3, to: 5, before: stray, after };
        assert_eq!(oddities(&ids), [Oddity::Stray { id: stray, expected: 2 }, gap]);
    }

    #[test]
    fn two_streams_may_draw_the_same_bits_one_after_the_other_or_at_the_same_time() {
        assert_eq!(oddities(&[id(1, 7, 0), id(2, 7, 1), id(900_000, 7, 0), id(900_001, 7, 1)]), []);
        let ids = [id(1, 7, 0), id(2, 7, 1), id(3, 7, 0), id(4, 7, 2), id(5, 7, 1), id(6, 7, 3), id(7, 7, 2)];
        assert_eq!(oddities(&ids), []);
    }

    #[test]
    fn what_lies_in_a_file_that_counts_for_nothing_fills_a_gap_and_makes_none() {
        let mut streams = Streams::default();
        let all = [(id(1, 7, 0), true), (id(2, 7, 1), false), (id(3, 7, 2), true), (id(4, 9, 5), false)];
        all.iter().for_each(|(id, sure)| streams.take(*id, 0, *sure));
        streams.take(id(5, 7, 9), 0, false);
        streams.take(id(6, 7, 3), 0, true);
        assert_eq!(streams.seen(), []);
    }

    #[test]
    fn the_number_of_oddities_that_are_kept_is_bounded_and_the_rest_counted() {
        let mut streams = Streams::default();
        (0..MOST_ODDITIES as u64 + 5).for_each(|n| streams.take(id(n, n, 3), 0, true));
        assert_eq!((streams.seen().len(), streams.more()), (MOST_ODDITIES, 5));
    }
}
