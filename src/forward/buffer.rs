//! The bounded queue between the thread that reads input and the one that sends it.
//!
//! At its limit the reader waits ([`Policy::Block`]), or the oldest waiting lines are dropped and counted
//! ([`Policy::DropOldest`]), so that what arrives is the newest. Only whole lines are dropped: of a line in pieces whose
//! beginning is sent already the rest is dropped and an LF ends it.

use super::lines::{Batch, Framer};
use crate::ops::metrics::Counter;
use crate::world::crew::{Stop, lock, wait_for};
use memchr::memchr;
use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// How often those who wait here look whether they shall stop.
const LOOK: Duration = Duration::from_millis(100);

/// What happens when the queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The reader waits.
    Block,
    /// The oldest lines go.
    DropOldest,
}

/// The queue. The reader calls [`Queue::put`] and [`Queue::end`], the sender the rest.
pub struct Queue {
    limit: usize,
    policy: Policy,
    stop: Stop,
    dropped: Counter,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    framer: Framer,
    batches: VecDeque<Batch>,
    /// Sum of the batches' lengths.
    bytes: usize,
    /// The sender has the beginning of a line whose rest is not taken yet.
    taken_open: bool,
    /// The queue begins with the rest of a line whose beginning was dropped.
    skip_line: bool,
    /// The sender has the beginning of a line whose rest was dropped: it needs an LF.
    owe_lf: bool,
    /// No more comes.
    ended: bool,
    failure: Option<io::Error>,
}

/// What the sender finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// The next bytes to send.
    Batch(Batch),
    /// Nothing came within the time given.
    Idle,
    /// Nothing is left, and nothing will come: the input has ended, or we were asked to stop.
    End,
}

impl Queue {
    /// An empty queue for about `limit` bytes: the batch that crosses the limit is still taken.
    pub fn new(framer: Framer, limit: usize, policy: Policy, dropped: Counter, stop: Stop) -> Queue {
        let state = State {
            framer,
            batches: VecDeque::new(),
            bytes: 0,
            taken_open: false,
            skip_line: false,
            owe_lf: false,
            ended: false,
            failure: None,
        };
        Queue { limit: limit.max(1), policy, stop, dropped, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Takes input in. Gives false when nobody wants more.
    pub fn put(&self, input: &[u8]) -> bool {
        let mut rest = input;
        let mut state = lock(&self.state);
        while !rest.is_empty() {
            // Once we were asked to stop, what is in hand goes in all the same: it is bounded, and its writer thinks it gone.
            while self.policy == Policy::Block && state.bytes >= self.limit && !state.ended && !self.stop.is_raised() {
                state = wait_for(&self.changed, state, LOOK);
            }
            if state.ended {
                return false;
            }
            let (taken, batch) = state.framer.feed(rest);
            rest = rest.get(taken..).unwrap_or_default();
            if let Some(batch) = batch {
                state.bytes += batch.bytes.len();
                state.batches.push_back(batch);
                self.changed.notify_all();
            }
            while self.policy == Policy::DropOldest && state.bytes > self.limit && state.batches.len() > 1 {
                self.dropped.add(state.drop_oldest());
            }
        }
        !self.stop.is_raised()
    }

    /// No more will come: the input has ended, or failed.
    pub fn end(&self, failure: Option<io::Error>) {
        let mut state = lock(&self.state);
        if state.end() {
            state.failure = failure;
        }
        self.changed.notify_all();
    }

    /// Takes the oldest bytes out; waits for them, at most for `span`.
    pub fn take(&self, span: Duration) -> Taken {
        let mut state = lock(&self.state);
        let mut left = span;
        loop {
            let (batch, skipped) = state.next();
            self.dropped.add(skipped);
            if let Some(batch) = batch {
                self.changed.notify_all();
                return Taken::Batch(batch);
            }
            if state.ended {
                return Taken::End;
            }
            if self.stop.is_raised() {
                state.end();
                self.changed.notify_all();
                continue;
            }
            if left.is_zero() {
                return Taken::Idle;
            }
            // A wake-up for something else shortens the wait; whoever called looks again.
            state = wait_for(&self.changed, state, left.min(LOOK));
            left = left.saturating_sub(LOOK);
        }
    }

    /// Ends the queue from the sender's side. Gives the lines and bytes that were still in it.
    pub fn abandon(&self) -> (u64, u64) {
        let mut state = lock(&self.state);
        state.end();
        let records = state.batches.iter().map(|batch| batch.records).sum();
        let bytes = state.bytes as u64;
        state.batches.clear();
        state.bytes = 0;
        self.changed.notify_all();
        (records, bytes)
    }

    /// Why the input failed, if it did.
    pub fn failure(&self) -> Option<io::Error> {
        lock(&self.state).failure.take()
    }
}

impl State {
    /// Gives whether it had not ended before.
    fn end(&mut self) -> bool {
        if self.ended {
            return false;
        }
        self.ended = true;
        if let Some(last) = self.framer.finish() {
            self.bytes += last.bytes.len();
            self.batches.push_back(last);
        }
        true
    }

    /// Drops the oldest batch. Gives how many lines went with it; a line whose end is still here is counted with its end.
    fn drop_oldest(&mut self) -> u64 {
        let Some(batch) = self.batches.pop_front() else { return 0 };
        self.bytes -= batch.bytes.len();
        if batch.continues && self.taken_open {
            (self.taken_open, self.owe_lf) = (false, true);
        }
        self.skip_line = batch.open;
        batch.records
    }

    /// The next batch for the sender, and how many lines were skipped on the way.
    fn next(&mut self) -> (Option<Batch>, u64) {
        if std::mem::take(&mut self.owe_lf) {
            return (Some(Batch { bytes: vec![b'\n'], records: 0, continues: true, open: false }), 0);
        }
        let mut skipped = 0;
        while let Some(mut batch) = self.batches.pop_front() {
            self.bytes -= batch.bytes.len();
            if self.skip_line {
                let end = memchr(b'\n', &batch.bytes).map(|lf| lf + 1);
                skipped += u64::from(batch.records > 0);
                batch.records = batch.records.saturating_sub(1);
                self.skip_line = batch.open && end.is_none();
                batch.bytes.drain(..end.unwrap_or(batch.bytes.len()));
                batch.continues = false;
                if batch.bytes.is_empty() {
                    continue;
                }
            }
            self.taken_open = batch.open;
            return (Some(batch), skipped);
        }
        (None, skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::lines::LONG_LINE;

    fn queue(limit: usize, policy: Policy) -> (Queue, Counter, Stop) {
        let (dropped, stop) = (Counter::default(), Stop::default());
        (Queue::new(Framer::new(&[]).unwrap(), limit, policy, dropped.clone(), stop.clone()), dropped, stop)
    }

    fn take_all(queue: &Queue) -> Vec<u8> {
        let mut all = Vec::new();
        while let Taken::Batch(batch) = queue.take(Duration::ZERO) {
            all.extend(batch.bytes);
        }
        all
    }

    #[test]
    fn a_full_queue_drops_the_oldest_lines_and_counts_them() {
        let (queue, dropped, _) = queue(10, Policy::DropOldest);
        for n in 0..9 {
            assert!(queue.put(format!("ln{n}\n").as_bytes()));
        }
        assert_eq!(take_all(&queue), b"ln7\nln8\n");
        assert_eq!(dropped.get(), 7);
        assert_eq!(queue.take(Duration::ZERO), Taken::Idle);
        queue.put(b"last");
        queue.end(None);
        assert_eq!(take_all(&queue), b"last");
        assert_eq!(queue.take(Duration::ZERO), Taken::End);
    }

    #[test]
    fn a_full_queue_holds_the_reader_until_there_is_room() {
        let (queue, dropped, _) = queue(8, Policy::Block);
        let input: Vec<u8> = (0..1_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let (_, got) = crate::world::crew::both(
            || {
                input.chunks(7).for_each(|piece| assert!(queue.put(piece)));
                queue.end(None);
            },
            || {
                let mut got = Vec::new();
                loop {
                    match queue.take(Duration::from_secs(10)) {
                        Taken::Batch(batch) => got.extend(batch.bytes),
                        Taken::Idle => panic!("the reader is stuck"),
                        Taken::End => return got,
                    }
                }
            },
        );
        assert_eq!((got, dropped.get()), (input, 0));
    }

    #[test]
    fn a_long_line_is_dropped_whole_or_ended_where_it_was_cut() {
        let long = vec![b'x'; LONG_LINE];
        // Its beginning waits in the queue: all of it goes, and its neighbours stay whole.
        let (queue, dropped, _) = queue(LONG_LINE, Policy::DropOldest);
        queue.put(&long);
        queue.put(b"xx\nnext\n");
        assert_eq!(take_all(&queue), b"next\n");
        assert_eq!(dropped.get(), 1);
        // Its beginning is sent: the line is cut there.
        queue.put(&long);
        assert!(matches!(queue.take(Duration::ZERO), Taken::Batch(batch) if batch.open));
        queue.put(&long);
        queue.put(&long);
        queue.put(b"yy\nnext\n");
        assert_eq!(take_all(&queue), b"\nnext\n");
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn a_stop_gives_out_the_line_that_was_begun_and_then_the_end() {
        let (queue, _, stop) = queue(1 << 20, Policy::Block);
        queue.put(b"whole\nbegun");
        stop.raise();
        assert_eq!(take_all(&queue), b"whole\nbegun");
        assert_eq!(queue.take(Duration::from_secs(10)), Taken::End);
        assert!(!queue.put(b"late\n"), "the reader is told to end");
    }

    #[test]
    fn what_is_abandoned_is_counted() {
        let (queue, _, _) = queue(1 << 20, Policy::Block);
        queue.put(b"a\nb\nc");
        assert_eq!(queue.abandon(), (3, 5));
        assert_eq!(queue.take(Duration::ZERO), Taken::End);
    }
}
