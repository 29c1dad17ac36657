//! Virtual time: the clocks of all nodes, the heap of what happens when, and a running hash that proves a replay.

use crate::node::Place;
use oklog::unit::{Monotonic, UnixNanos};
use oklog::world::clock::Clock;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Nanoseconds since the world began.
pub type Nanos = u64;

/// A millisecond.
pub const MS: Nanos = 1_000_000;

/// A second.
pub const SECOND: Nanos = 1_000 * MS;

/// What the calendar says when the world begins.
pub const EPOCH: u64 = 1_795_000_000_000_000_000;

/// The clocks of one node: its time of day may be set, its time since the start of the process goes on with the world's.
pub struct NodeClock {
    world: Arc<AtomicU64>,
    started: AtomicU64,
    offset: AtomicI64,
}

impl NodeClock {
    /// A clock that is off by `offset` nanoseconds.
    pub fn new(world: &Arc<AtomicU64>, offset: i64) -> NodeClock {
        NodeClock { world: world.clone(), started: AtomicU64::new(0), offset: AtomicI64::new(offset) }
    }

    /// A process begins.
    pub fn start_process(&self) {
        self.started.store(self.world.load(Relaxed), Relaxed);
    }

    /// Sets the time of day `by` nanoseconds forward, or back.
    pub fn jump(&self, by: i64) {
        self.offset.fetch_add(by, Relaxed);
    }
}

impl Clock for NodeClock {
    fn unix(&self) -> UnixNanos {
        UnixNanos((EPOCH + self.world.load(Relaxed)).saturating_add_signed(self.offset.load(Relaxed)))
    }

    fn now(&self) -> Monotonic {
        Monotonic(Duration::from_nanos(self.world.load(Relaxed) - self.started.load(Relaxed)))
    }
}

/// What is due, and when.
struct Due<E> {
    at: Nanos,
    sequence: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Due<E>) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Due<E>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    // The heap gives the greatest first: that is to be the earliest.
    fn cmp(&self, other: &Due<E>) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// All that is to happen, in order of time, and among equal times in the order in which it was planned.
pub struct Timeline<E> {
    world: Arc<AtomicU64>,
    heap: BinaryHeap<Due<E>>,
    sequence: u64,
    /// How many events have happened.
    pub steps: u64,
    hash: u64,
}

impl<E> Timeline<E> {
    /// The beginning.
    pub fn new() -> Timeline<E> {
        Timeline { world: Arc::default(), heap: BinaryHeap::new(), sequence: 0, steps: 0, hash: 0xCBF2_9CE4_8422_2325 }
    }

    /// The hand that all clocks share.
    pub fn world(&self) -> &Arc<AtomicU64> {
        &self.world
    }

    /// What time it is.
    pub fn now(&self) -> Nanos {
        self.world.load(Relaxed)
    }

    /// Plans something.
    pub fn at(&mut self, at: Nanos, event: E) {
        self.sequence += 1;
        self.heap.push(Due { at: at.max(self.now()), sequence: self.sequence, event });
    }

    /// Plans something from now on.
    pub fn after(&mut self, span: Nanos, event: E) {
        self.at(self.now() + span, event);
    }

    /// The next event, unless it is later than `end`; time goes on to it.
    pub fn next(&mut self, end: Nanos) -> Option<E> {
        if self.heap.peek()?.at > end {
            return None;
        }
        let due = self.heap.pop()?;
        self.world.store(due.at, Relaxed);
        self.steps += 1;
        let sequence = due.sequence;
        self.note(due.at);
        self.note(sequence);
        Some(due.event)
    }

    /// Lets time pass up to `end` where nothing is planned before.
    pub fn pass(&mut self, end: Nanos) {
        self.world.fetch_max(end, Relaxed);
    }

    /// Makes a number part of the run's identity.
    pub fn note(&mut self, number: u64) {
        // FNV-1a, a word at a time, with a turn so that high bits matter too.
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }

    /// What the run has been so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// A process on a node: what was planned for it does not happen to the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Which node.
    pub place: Place,
    /// Its how manieth process.
    pub life: u64,
}
