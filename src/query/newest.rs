//! Merging sources from their newest end: records in descending order, each id once.
//!
//! Record by record with a heap: this serves "the newest N", where the result is small. Memory: one piece for each source
//! that was reached.

use super::scan::PartSource;
use crate::merge::k_way::MergeError;
use crate::record::id::{ID_LEN, Id};
use crate::record::stored::{self, Stored};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;

/// Stored records that come from the newest end.
pub trait Descending {
    /// The next piece, which is older than all before it; ascending within itself. `None` at the end.
    fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// No record is larger. Known without opening anything.
    fn high(&self) -> Id;
}

impl Descending for PartSource {
    fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        PartSource::next_piece(self)
    }

    fn high(&self) -> Id {
        PartSource::high(self)
    }
}

/// The descending merge of some sources.
pub struct Newest<S> {
    cursors: Vec<Cursor<S>>,
    /// The next id of every source that was reached; the upper bound of those that were not.
    heap: BinaryHeap<(u128, Reverse<usize>)>,
    last_given: Option<u128>,
}

struct Cursor<S> {
    source: S,
    reached: bool,
    /// Records not given yet, ascending: the next one is the last.
    block: Vec<u8>,
}

impl<S: Descending> Newest<S> {
    /// The merge of these sources.
    pub fn new(sources: Vec<S>) -> Newest<S> {
        let heap = sources.iter().enumerate().map(|(at, source)| (source.high().0, Reverse(at))).collect();
        let cursor = |source| Cursor { source, reached: false, block: Vec::new() };
        Newest { cursors: sources.into_iter().map(cursor).collect(), heap, last_given: None }
    }

    /// Appends the next record to `out`. `false` at the end.
    ///
    /// After an error `out` may have got a record all the same, and the source at fault is left out from then on.
    pub fn next_record(&mut self, out: &mut Vec<u8>) -> Result<bool, MergeError> {
        while let Some((key, Reverse(index))) = self.heap.pop() {
            let Some(cursor) = self.cursors.get_mut(index) else { continue };
            let given = cursor.reached && self.last_given != Some(key);
            if cursor.reached {
                if given {
                    out.extend_from_slice(cursor.last().map_or(&[][..], |stored| stored.whole));
                    self.last_given = Some(key);
                }
                cursor.drop_last();
            }
            cursor.reached = true;
            if let Some(id) = cursor.stand().map_err(|source| MergeError::Read { index, source })? {
                self.heap.push((id.0, Reverse(index)));
            }
            if given {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl<S: Descending> Cursor<S> {
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
