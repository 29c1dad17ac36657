//! Records of a live stream, held back for a moment so that they leave in order and once.

use crate::record::id::Id;
use crate::unit::Monotonic;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes a window holds at most: beyond it the oldest leave early.
pub const LIMIT: usize = 16 << 20;

/// Holds each record for a span after it arrived, and gives them out by id.
#[derive(Debug)]
pub struct Window {
    span: Duration,
    held: BTreeMap<Id, (Monotonic, Vec<u8>)>,
    bytes: usize,
}

impl Window {
    /// A window of this span. Zero: records leave as they come.
    pub fn new(span: Duration) -> Window {
        Window { span, held: BTreeMap::new(), bytes: 0 }
    }

    /// Takes a stored record. A second one with the same id is dropped.
    pub fn take(&mut self, now: Monotonic, id: Id, stored: &[u8]) {
        self.held.entry(id).or_insert_with(|| {
            self.bytes += stored.len();
            (now, stored.to_vec())
        });
    }

    /// Appends the records that have waited long enough, in order of id, to `out`.
    pub fn give(&mut self, now: Monotonic, out: &mut Vec<u8>) {
        while let Some(entry) = self.held.first_entry() {
            if now.since(entry.get().0) < self.span && self.bytes <= LIMIT {
                return;
            }
            let (_, stored) = entry.remove();
            self.bytes -= stored.len();
            out.extend_from_slice(&stored);
        }
    }

    /// When the next record may leave.
    pub fn next_due(&self) -> Option<Monotonic> {
        self.held.first_key_value().map(|(_, (arrived, _))| *arrived + self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic(Duration::from_millis(ms))
    }

    #[test]
    fn records_leave_in_order_and_once_when_their_time_has_come() {
        let mut window = Window::new(Duration::from_millis(100));
        window.take(at(0), Id(2), b"two ");
        window.take(at(10), Id(1), b"one ");
        window.take(at(20), Id(2), b"two ");
        let mut out = Vec::new();
        window.give(at(105), &mut out);
        assert!(out.is_empty(), "the smaller id came later and goes first");
        window.give(at(110), &mut out);
        assert_eq!(out, b"one two ");
        assert_eq!(window.next_due(), None);
    }

    #[test]
    fn a_window_of_zero_holds_nothing_back() {
        let (mut window, mut out) = (Window::new(Duration::ZERO), Vec::new());
        window.take(at(0), Id(2), b"two ");
        window.give(at(0), &mut out);
        assert_eq!(out, b"two ");
    }

    #[test]
    fn a_full_window_lets_the_oldest_go_early() {
        let (mut window, mut out) = (Window::new(Duration::from_secs(60)), Vec::new());
        for n in 0..20 {
            window.take(at(0), Id(n), &vec![b'x'; 1 << 20]);
        }
        window.give(at(1), &mut out);
        assert_eq!(out.len(), 4 << 20);
    }
}
