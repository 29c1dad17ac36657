//! Merging parts from their newest end: records in descending order, each id once.
//!
//! Record by record with a heap: this serves "the newest N", where the result is small. Memory: one piece for each part
//! that was reached.

use super::scan::PartSource;
use crate::record::id::{ID_LEN, Id};
use crate::record::stored::{self, Stored};
use std::collections::BinaryHeap;
use std::io;

/// The descending merge of some parts.
pub struct Newest {
    cursors: Vec<Cursor>,
    /// The next id of every part that was reached; the upper bound of those that were not.
    heap: BinaryHeap<(u128, std::cmp::Reverse<usize>)>,
    last_given: Option<u128>,
}

struct Cursor {
    source: PartSource,
    reached: bool,
    /// Records not given yet, ascending: the next one is the last.
    block: Vec<u8>,
}

impl Newest {
    /// The merge of these parts.
    pub fn new(sources: Vec<PartSource>) -> Newest {
        let heap = sources.iter().enumerate().map(|(at, part)| (part.high().0, std::cmp::Reverse(at))).collect();
        let cursor = |source| Cursor { source, reached: false, block: Vec::new() };
        Newest { cursors: sources.into_iter().map(cursor).collect(), heap, last_given: None }
    }

    /// Appends the next record to `out`. `false` at the end.
    pub fn next_record(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        while let Some((key, std::cmp::Reverse(at))) = self.heap.pop() {
            let Some(cursor) = self.cursors.get_mut(at) else { continue };
            let given = cursor.reached && self.last_given != Some(key);
            if cursor.reached {
                if given {
                    out.extend_from_slice(cursor.last().map_or(&[][..], |stored| stored.whole));
                    self.last_given = Some(key);
                }
                cursor.drop_last();
            }
            cursor.reached = true;
            if let Some(id) = cursor.stand()? {
                self.heap.push((id.0, std::cmp::Reverse(at)));
            }
            if given {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Cursor {
    fn last(&self) -> Option<Stored<'_>> {
        stored::last(&self.block)
    }

    fn drop_last(&mut self) {
        let len = self.last().map_or(0, |stored| self.block.len() - stored.whole.len());
        self.block.truncate(len);
    }

    /// Brings the next piece in where the block is used up. Gives the id of the next record; `None` at the end.
    fn stand(&mut self) -> io::Result<Option<Id>> {
        while self.block.is_empty() {
            match self.source.next_piece()? {
                Some(block) => self.block = block,
                None => return Ok(None),
            }
        }
        let id = self.last().and_then(|stored| Id::parse(stored.whole.get(..ID_LEN)?));
        id.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no id where a record must begin"))
    }
}
