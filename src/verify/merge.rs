//! All files side by side in the order of ids, so that records with one id meet.
//!
//! A file is begun when the merge reaches its lower bound and let go at its end, so what takes up memory is how many
//! overlap, not how many there are.

use super::walk::Walker;
use crate::record::id::Id;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What all blocks together take up, while no more files overlap than it has room for.
const BUDGET: usize = 32 << 20;
/// A block is at most so long.
const LARGEST_BLOCK: usize = 256 << 10;
/// A block is at least so long, however many files overlap.
const SMALLEST_BLOCK: usize = 16 << 10;

/// The merge of some files.
pub struct Merge {
    walkers: Vec<Walker>,
    begun: Vec<bool>,
    open: usize,
    heap: BinaryHeap<Reverse<(Id, usize)>>,
    /// Those whose record was given out last.
    group: Vec<usize>,
}

impl Merge {
    /// Nothing is read yet.
    pub fn new(walkers: Vec<Walker>) -> Merge {
        let heap = walkers.iter().enumerate().map(|(index, walker)| Reverse((walker.low(), index))).collect();
        Merge { begun: vec![false; walkers.len()], walkers, open: 0, heap, group: Vec::new() }
    }

    /// Moves to the next id. `None` at the end.
    pub fn next_id(&mut self) -> Option<Id> {
        let mut group = std::mem::take(&mut self.group);
        for index in group.drain(..) {
            self.advance(index);
        }
        let mut found: Option<Id> = None;
        while let Some(Reverse((id, index))) = self.heap.peek().copied() {
            if found.is_some_and(|found| found != id) {
                break;
            }
            self.heap.pop();
            if self.begin(index) {
                // What was on the heap was its bound; its first record need not be the next one.
                self.advance(index);
                continue;
            }
            found = Some(id);
            group.push(index);
        }
        self.group = group;
        found
    }

    /// Which files have the id that [`Merge::next`] has moved to, in rising order.
    pub fn group(&self) -> &[usize] {
        &self.group
    }

    /// The record, with its line feed, that a file of the last group gave.
    pub fn record(&self, index: usize) -> &[u8] {
        self.walkers.get(index).map(Walker::record).unwrap_or_default()
    }

    /// The walks, when all is read.
    pub fn into_walkers(self) -> Vec<Walker> {
        self.walkers
    }

    /// Whether this is the first time that the file is asked for.
    fn begin(&mut self, index: usize) -> bool {
        let Some(begun) = self.begun.get_mut(index).filter(|begun| !**begun) else { return false };
        *begun = true;
        self.open += 1;
        true
    }

    fn advance(&mut self, index: usize) {
        let block = (BUDGET / self.open.max(1)).clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
        let Some(walker) = self.walkers.get_mut(index) else { return };
        match walker.next_record(block) {
            Some(id) => self.heap.push(Reverse((id, index))),
            None => {
                walker.close();
                self.open -= 1;
            }
        }
    }
}
