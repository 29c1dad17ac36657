//! The threads that scan: a fixed number for the whole process, fair between queries.
//!
//! Every query has a line of its own; a free thread takes one piece of work from the line whose turn it is. So a query over
//! a week does not hold up one over a minute. How much a query has in line is bounded by the query (see `scan`). Buffers
//! belong to the threads, not to queries: memory to read into does not grow with the number of queries. What a query leaves
//! of its blocks serves the next one, [`MOST_SPARE`] of them: memory that was never touched is what a short query would cost.

use crate::segment::sealed::Unpacker;
use crate::world::crew::{Crew, LARGE_STACK, Patience, Stop, be_patient, lock, wait_for};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long a thread waits at a time. It is woken for work, and at the end.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How many blocks are kept for the queries to come.
const MOST_SPARE: usize = 16;

/// A block with more room than this is not kept: it held a record of unusual length.
const LARGEST_SPARE: usize = 1 << 20;

type Work = Box<dyn FnOnce(&mut Scratch) + Send>;

/// What a scanning thread lends to each piece of work.
#[derive(Default)]
pub struct Scratch {
    /// Which of the pool's threads it is, counted from 0.
    pub thread: usize,
    /// What is read.
    pub block: Vec<u8>,
    /// What is found in it.
    pub found: Vec<Range<usize>>,
    /// Unpacks blocks of sealed segments.
    pub unpacker: Option<Unpacker>,
}

/// The scanning threads.
#[derive(Default)]
pub struct Pool {
    lines: Mutex<Lines>,
    arrived: Condvar,
    threads: usize,
    /// Blocks that no query needs now.
    spare: Mutex<Vec<Vec<u8>>>,
    /// What whoever waits for work works with, where there are no threads.
    inline: Option<Mutex<Scratch>>,
}

#[derive(Default)]
struct Lines {
    /// Lines that are not empty, the next one to be served first.
    waiting: VecDeque<(u64, VecDeque<Work>)>,
    numbers: u64,
}

/// A query's line.
pub struct Line {
    pool: Arc<Pool>,
    number: u64,
}

impl Pool {
    /// Starts `threads` of them; they end when `stop` is raised.
    pub fn start(threads: usize, crew: &Crew, stop: &Stop) -> io::Result<Arc<Pool>> {
        let threads = threads.max(1);
        let pool = Arc::new(Pool { threads, ..Pool::default() });
        stop.wakes(&pool, |pool| (&pool.lines, &pool.arrived));
        for n in 0..threads {
            let (pool, stop) = (pool.clone(), stop.clone());
            crew.start(&format!("scan {n}"), LARGE_STACK, move || pool.work(n, &stop))?;
        }
        Ok(pool)
    }

    /// A pool without threads: whoever waits for work does it, see [`Line::help`]. For one thread in virtual time.
    pub fn inline() -> Arc<Pool> {
        Arc::new(Pool { threads: 1, inline: Some(Mutex::default()), ..Pool::default() })
    }

    /// Opens a line.
    pub fn line(self: &Arc<Pool>) -> Line {
        let mut lines = lock(&self.lines);
        lines.numbers += 1;
        Line { pool: self.clone(), number: lines.numbers }
    }

    fn work(&self, thread: usize, stop: &Stop) {
        be_patient(Patience::Answering);
        let mut scratch = Scratch { thread, ..Scratch::default() };
        while !stop.is_raised() {
            if let Some(work) = self.next(stop) {
                // A panic costs the piece of work, whose query sees that no answer comes, not the thread.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut scratch)));
            }
        }
    }

    fn next(&self, stop: &Stop) -> Option<Work> {
        let mut lines = lock(&self.lines);
        if lines.waiting.is_empty() && !stop.is_raised() {
            lines = wait_for(&self.arrived, lines, LONGEST_WAIT);
        }
        let (number, mut line) = lines.waiting.pop_front()?;
        let work = line.pop_front();
        if !line.is_empty() {
            lines.waiting.push_back((number, line));
        }
        work
    }
}

impl Line {
    /// Puts a piece of work in line.
    pub fn add(&self, work: impl FnOnce(&mut Scratch) + Send + 'static) {
        let mut lines = lock(&self.pool.lines);
        match lines.waiting.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, line)) => line.push_back(Box::new(work)),
            None => lines.waiting.push_back((self.number, VecDeque::from([Box::new(work) as Work]))),
        }
        drop(lines);
        self.pool.arrived.notify_one();
    }

    /// Does the line's next piece of work if the pool has no threads for it. Whether it did.
    pub fn help(&self) -> bool {
        let Some(scratch) = &self.pool.inline else { return false };
        let work = {
            let mut lines = lock(&self.pool.lines);
            lines.waiting.iter_mut().find(|(number, _)| *number == self.number).and_then(|(_, line)| line.pop_front())
        };
        work.map(|work| work(&mut lock(scratch))).is_some()
    }

    /// A block that another query has left, or one without memory.
    pub fn take_block(&self) -> Vec<u8> {
        lock(&self.pool.spare).pop().unwrap_or_default()
    }

    /// Leaves a block to other queries.
    pub fn leave_block(&self, block: Vec<u8>) {
        let mut spare = lock(&self.pool.spare);
        if spare.len() < MOST_SPARE && (1..=LARGEST_SPARE).contains(&block.capacity()) {
            spare.push(block);
        }
    }

    /// How many pieces of work can be done at once.
    pub fn threads(&self) -> usize {
        self.pool.threads
    }
}

/// What is still in line when a query ends is not done.
impl Drop for Line {
    fn drop(&mut self) {
        let left = {
            let mut lines = lock(&self.pool.lines);
            let at = lines.waiting.iter().position(|(number, _)| *number == self.number);
            at.and_then(|at| lines.waiting.remove(at))
        };
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_line_does_not_wait_for_a_long_one() {
        let pool = Arc::new(Pool::default());
        let (long, short) = (pool.line(), pool.line());
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |who: &'static str| {
            let order = order.clone();
            move |_: &mut Scratch| lock(&order).push(who)
        };
        for _ in 0..5 {
            long.add(note("long"));
        }
        short.add(note("short"));
        while let Some(work) = pool.next(&Stop::default()).filter(|_| lock(&order).len() < 6) {
            work(&mut Scratch::default());
            if lock(&order).len() == 6 {
                break;
            }
        }
        assert_eq!(*lock(&order), ["long", "short", "long", "long", "long", "long"]);
    }

    #[test]
    fn what_a_query_leaves_serves_the_next_and_no_more_than_a_few_blocks_are_kept() {
        let pool = Arc::new(Pool::default());
        let (one, other) = (pool.line(), pool.line());
        for _ in 0..2 * MOST_SPARE {
            one.leave_block(Vec::with_capacity(1000));
        }
        one.leave_block(Vec::new());
        drop(one);
        let kept = (0..2 * MOST_SPARE).filter(|_| other.take_block().capacity() > 0).count();
        assert_eq!(kept, MOST_SPARE);
        other.leave_block(Vec::with_capacity(LARGEST_SPARE + 1));
        assert_eq!(other.take_block().capacity(), 0);
    }

    #[test]
    fn what_is_left_in_a_line_goes_with_it() {
        let pool = Arc::new(Pool::default());
        let line = pool.line();
        line.add(|_| panic!("never done"));
        drop(line);
        assert!(lock(&pool.lines).waiting.is_empty());
    }
}
