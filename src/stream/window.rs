//! Records of a live stream, held back for a moment so that they leave in order and once.
//!
//! A record leaves when its span is over, and takes with it those that are up to a span older and came later. So one
//! that is late within the span still leaves in order; none is ever held longer than the span, whatever comes besides: not by
//! a gap that is being filled, nor by an ingester whose clock is wrong.

use super::seen::Seen;
use crate::record::id::Id;
use crate::unit::Monotonic;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Bytes a window holds at most: beyond it the oldest leave early.
pub const LIMIT: usize = 16 << 20;

/// Holds each record for a span after it arrived, and gives them out by id.
#[derive(Debug)]
pub struct Window {
    span: Duration,
    held: BTreeMap<Id, Vec<u8>>,
    /// When they came. Also of some that left early.
    arrivals: VecDeque<(Monotonic, Id)>,
    bytes: usize,
    /// What has left; none if nothing can come twice.
    seen: Option<Seen>,
    due: Vec<Id>,
}

impl Window {
    /// A window of this span. Zero: records leave as they come. Of those that have left, the last `remembered` runs (see
    /// [`Seen`]) are known and dropped when they come again.
    pub fn new(span: Duration, remembered: usize) -> Window {
        let seen = (remembered > 0).then(|| Seen::new(remembered));
        Window { span, held: BTreeMap::new(), arrivals: VecDeque::new(), bytes: 0, seen, due: Vec::new() }
    }

    /// Takes a stored record. A second one with the same id is dropped.
    pub fn take(&mut self, now: Monotonic, id: Id, stored: &[u8]) {
        if self.seen.as_ref().is_some_and(|seen| seen.has(id)) {
            return;
        }
        self.held.entry(id).or_insert_with(|| {
            self.bytes += stored.len();
            self.arrivals.push_back((now, id));
            stored.to_vec()
        });
    }

    /// Appends the records that have waited long enough to `out`, in order of id.
    pub fn give(&mut self, now: Monotonic, out: &mut Vec<u8>) {
        self.due.clear();
        while let Some((arrived, id)) = self.arrivals.front().copied() {
            let is_held = self.held.contains_key(&id);
            if is_held && now.since(arrived) < self.span {
                break;
            }
            self.arrivals.pop_front();
            if is_held {
                self.due.push(id);
            }
        }
        let mut due = std::mem::take(&mut self.due);
        due.sort_unstable();
        for &id in &due {
            let oldest = Id::first_of(id.millis().before(self.span)).min(id);
            let oldest = if self.span.is_zero() { id } else { oldest };
            while let Some(next) = self.held.range(oldest..=id).next().map(|(next, _)| *next) {
                self.leave(next, out);
            }
        }
        self.due = due;
        while self.bytes > LIMIT
            && let Some(next) = self.held.first_key_value().map(|(next, _)| *next)
        {
            self.leave(next, out);
        }
    }

    /// Appends all that are held to `out`, in order of id.
    pub fn give_all(&mut self, out: &mut Vec<u8>) {
        while let Some(next) = self.held.first_key_value().map(|(next, _)| *next) {
            self.leave(next, out);
        }
        self.arrivals.clear();
    }

    fn leave(&mut self, id: Id, out: &mut Vec<u8>) {
        let Some(stored) = self.held.remove(&id) else { return };
        self.bytes -= stored.len();
        out.extend_from_slice(&stored);
        if let Some(seen) = &mut self.seen {
            seen.is_new(id);
        }
    }

    /// When the next record may leave.
    pub fn next_due(&self) -> Option<Monotonic> {
        self.arrivals.front().map(|(arrived, _)| *arrived + self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::UnixMillis;

    fn at(ms: u64) -> Monotonic {
        Monotonic(Duration::from_millis(ms))
    }

    fn second(n: u64) -> Id {
        Id::first_of(UnixMillis(n * 1_000))
    }

    fn given(window: &mut Window, now: Monotonic) -> String {
        let mut out = Vec::new();
        window.give(now, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn records_leave_in_order_and_once_when_their_time_has_come() {
        let mut window = Window::new(Duration::from_millis(100), 10);
        window.take(at(0), Id(2), b"two ");
        window.take(at(10), Id(1), b"one ");
        window.take(at(20), Id(2), b"two ");
        window.take(at(50), Id(3), b"three ");
        assert_eq!(given(&mut window, at(99)), "");
        assert_eq!(given(&mut window, at(100)), "one two ", "the smaller id came later and goes first");
        window.take(at(101), Id(1), b"one ");
        assert_eq!(given(&mut window, at(1_000)), "three ", "what has left does not come again");
        assert_eq!(window.next_due(), None);
    }

    #[test]
    fn a_window_of_zero_holds_nothing_back() {
        let mut window = Window::new(Duration::ZERO, 0);
        window.take(at(0), Id(2), b"two ");
        window.take(at(0), Id(1), b"one ");
        assert_eq!(given(&mut window, at(0)), "one two ");
    }

    #[test]
    fn neither_old_records_nor_those_of_a_clock_that_is_ahead_hold_up_the_others_or_spoil_their_order() {
        let mut window = Window::new(Duration::from_millis(100), 10);
        window.take(at(0), second(9_000), b"ahead ");
        window.take(at(50), second(51), b"b ");
        window.take(at(60), second(50), b"a ");
        window.take(at(90), second(1), b"old ");
        assert_eq!(given(&mut window, at(100)), "ahead ", "the others are not older by a span or less");
        assert_eq!(given(&mut window, at(150)), "b ");
        assert_eq!(given(&mut window, at(160)), "a ");
        assert_eq!(given(&mut window, at(190)), "old ");
    }

    #[test]
    fn a_full_window_lets_the_oldest_go_early() {
        let mut window = Window::new(Duration::from_secs(60), 0);
        for n in 0..20 {
            window.take(at(0), Id(n), &vec![b'x'; 1 << 20]);
        }
        assert_eq!(given(&mut window, at(1)).len(), 4 << 20);
        assert_eq!(given(&mut window, at(1)).len(), 0);
        assert_eq!(window.arrivals.len(), 16, "those that left early are forgotten");
    }
}
