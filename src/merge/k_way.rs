//! Merges sorted streams of stored records into one ascending stream in which every id appears once.
//!
//! The smallest id wins, the source with the smaller index among equals; what follows with the same id is dropped and
//! counted. As long as one source stays below all others its records are copied as one slice, so streams that hardly
//! overlap cost a copy and a handful of looks at ids. And as long as several sources hold the very same records, as the
//! copies of a replicated segment do, these are compared and given as one slice too.
//!
//! Memory: one block for each source that is open. A source is opened when the merge reaches its lower bound and let go
//! at its end, so what counts is how many overlap, not how many there are.
//!
//! Left out: descending order, and any thread. Whoever wants sources read ahead hands in sources that do so.

use crate::record::id::Id;
use crate::record::stored::{NotStored, id_at, last, records, whole_len};
use crate::unit::Bytes;
use memchr::{memchr, memchr_iter};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;

/// One sorted stream of stored records.
pub trait Source {
    /// Replaces `block` by the next run of whole stored records, ascending within it and from call to call. False at the
    /// end; `block` is then left out of account. An empty block with true is passed over.
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError>;

    /// No record of this source is smaller. Known without opening anything; the source is not asked for a block before
    /// the merge has come this far.
    fn low(&self) -> Id;
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        (**self).next_block(block)
    }

    fn low(&self) -> Id {
        (**self).low()
    }
}

/// Why a source had to be left out. `index` is its place among those that were handed in.
#[derive(Debug)]
pub enum MergeError {
    /// The source could not give its next block. A source that fails leaves `index` 0: the merge fills it in.
    Read {
        /// Which source.
        index: usize,
        /// What it said.
        source: io::Error,
    },
    /// What it gave are not ascending stored records.
    NotStored {
        /// Which source.
        index: usize,
        /// What is wrong; places are counted from the first byte of this source.
        source: NotStored,
    },
    /// Its first id is smaller than the bound it gave, and larger ids may have been given out already.
    BelowBound {
        /// Which source.
        index: usize,
        /// Its first id.
        id: Id,
        /// The bound.
        low: Id,
    },
}

impl MergeError {
    /// Which source is at fault.
    pub fn index(&self) -> usize {
        match self {
            MergeError::Read { index, .. }
            | MergeError::NotStored { index, .. }
            | MergeError::BelowBound { index, .. } => *index,
        }
    }

    fn at_source(self, index: usize) -> MergeError {
        match self {
            MergeError::Read { source, .. } => MergeError::Read { index, source },
            MergeError::NotStored { source, .. } => MergeError::NotStored { index, source },
            MergeError::BelowBound { id, low, .. } => MergeError::BelowBound { index, id, low },
        }
    }
}

impl From<io::Error> for MergeError {
    fn from(source: io::Error) -> MergeError {
        MergeError::Read { index: 0, source }
    }
}

impl fmt::Display for MergeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MergeError::Read { index, source } => write!(f, "reading source {index} of a merge: {source}"),
            MergeError::NotStored { index, source } => write!(f, "merging source {index}: {source}"),
            MergeError::BelowBound { index, id, low } => {
                write!(f, "merging source {index}: its first id {id} is below its bound {low}")
            }
        }
    }
}

impl std::error::Error for MergeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            MergeError::Read { source, .. } => Some(source),
            MergeError::NotStored { source, .. } => Some(source),
            MergeError::BelowBound { .. } => None,
        }
    }
}

/// The merge of some sources.
pub struct Merge<S> {
    cursors: Vec<Cursor<S>>,
    /// The next id of every source that is not at its end; the lower bound of those that are not open yet.
    heap: BinaryHeap<Reverse<Head>>,
    check_all: bool,
    last_given: Option<u128>,
    duplicates: u64,
    /// Blocks of sources that have ended, for those that begin.
    spare: Vec<Vec<u8>>,
    /// Sources that stand at the same id, while they are looked at.
    twins: Vec<Head>,
    /// What went wrong besides the error that was given last.
    failed: Vec<MergeError>,
}

/// Where a source stands. The order is that of the output: by id, then by index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    key: u128,
    index: usize,
}

struct Cursor<S> {
    /// None once it has ended or failed.
    source: Option<S>,
    low: Id,
    is_open: bool,
    block: Vec<u8>,
    /// Start of the next record in `block`.
    at: usize,
    /// The id of the last record in `block`.
    last_key: u128,
    /// Bytes of this source before `block`, for messages.
    before: u64,
}

impl<S: Source> Merge<S> {
    /// A merge that checks every id of every source: for what comes from files and peers.
    pub fn new(sources: Vec<S>) -> Merge<S> {
        Merge::with_check(sources, true)
    }

    /// A merge that checks both ends of each block and the records it has to look at: for sources that were checked.
    pub fn trusting(sources: Vec<S>) -> Merge<S> {
        Merge::with_check(sources, false)
    }

    fn with_check(sources: Vec<S>, check_all: bool) -> Merge<S> {
        let heap = sources.iter().enumerate().map(|(index, s)| Reverse(Head { key: s.low().0, index })).collect();
        let cursors = sources.into_iter().map(Cursor::new).collect();
        Merge {
            cursors,
            heap,
            check_all,
            last_given: None,
            duplicates: 0,
            spare: Vec::new(),
            twins: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Appends merged records to `out` until at least `at_least` bytes (or one) are appended or all sources have ended.
    /// False if nothing was appended: that is the end. Not more than a block of a source comes on top of `at_least`.
    ///
    /// After an error `out` holds whole records, all sound and in order, and the source at fault is left out of what is
    /// merged from then on. Whoever needs all sources stops at the first error; whoever can do without goes on.
    pub fn next_run(&mut self, out: &mut Vec<u8>, at_least: usize) -> Result<bool, MergeError> {
        let start = out.len();
        while out.len() - start < at_least.max(1) {
            if let Some(error) = self.failed.pop() {
                return Err(error);
            }
            let Some(Reverse(head)) = self.heap.pop() else { break };
            let next_key = match self.advance(head, out) {
                Ok(next_key) => next_key,
                Err(error) => {
                    self.close(head.index);
                    return Err(error.at_source(head.index));
                }
            };
            match next_key {
                Some(key) => self.heap.push(Reverse(Head { key, index: head.index })),
                None => self.close(head.index),
            }
        }
        Ok(out.len() > start)
    }

    /// How many records were left out because their id had been given out already.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Opens the source at the top, or drops its record, or gives out its records up to the next source's. Gives the id
    /// at which the source stands then.
    fn advance(&mut self, head: Head, out: &mut Vec<u8>) -> Result<Option<u128>, MergeError> {
        let Some(cursor) = self.cursors.get_mut(head.index) else { return Ok(None) };
        if !cursor.is_open {
            cursor.is_open = true;
            cursor.block = self.spare.pop().unwrap_or_default();
            return cursor.load(None, self.check_all);
        }
        if self.last_given == Some(head.key) {
            self.duplicates += 1;
            let end = cursor.next_start(cursor.at + 1);
            return cursor.go_to(end, head.key, self.check_all);
        }
        if self.heap.peek().is_some_and(|Reverse(next)| next.key == head.key)
            && let Some(shared) = self.shared(head)?
        {
            return self.give_shared(head, shared, out);
        }
        let Some(cursor) = self.cursors.get_mut(head.index) else { return Ok(None) };
        let (end, before_end, key_at_end) = match self.heap.peek() {
            None => (cursor.block.len(), cursor.last_key, None),
            Some(Reverse(limit)) => cursor.run_below(*limit, head)?,
        };
        out.extend_from_slice(&cursor.block[cursor.at..end]);
        self.last_given = Some(before_end);
        match key_at_end {
            Some(key) => {
                cursor.at = end;
                Ok(Some(key))
            }
            None => cursor.go_to(end, before_end, self.check_all),
        }
    }

    /// Takes from the heap all others that stand at the same id as the source at the top. Gives how many bytes of whole
    /// records they have in common with it, below all that is left, and the last id of these; if there are none, the others
    /// are put back.
    fn shared(&mut self, head: Head) -> Result<Option<(usize, u128)>, MergeError> {
        while let Some(Reverse(twin)) = self.heap.peek().copied().filter(|Reverse(next)| next.key == head.key) {
            self.heap.pop();
            self.twins.push(twin);
        }
        let found = self.find_shared(head);
        if !matches!(found, Ok(Some(_))) {
            self.heap.extend(self.twins.drain(..).map(Reverse));
        }
        found
    }

    fn find_shared(&self, head: Head) -> Result<Option<(usize, u128)>, MergeError> {
        let Some(cursor) = self.cursors.get(head.index) else { return Ok(None) };
        let end = match self.heap.peek() {
            None => cursor.block.len(),
            Some(Reverse(limit)) => cursor.run_below(*limit, head)?.0,
        };
        let mut run = &cursor.block[cursor.at..end];
        for twin in &self.twins {
            let Some(twin) = self.cursors.get(twin.index).filter(|twin| twin.is_open) else { return Ok(None) };
            run = &run[..in_common(run, &twin.block[twin.at..])];
        }
        run = &run[..whole_len(run)];
        let Some(last) = last(run) else { return Ok(None) };
        let last_key = cursor.key_at(cursor.at + run.len() - last.whole.len())?;
        Ok(Some((run.len(), last_key)))
    }

    /// Gives out what was found in common, and moves the source at the top and its twins behind it.
    fn give_shared(
        &mut self,
        head: Head,
        (len, last_key): (usize, u128),
        out: &mut Vec<u8>,
    ) -> Result<Option<u128>, MergeError> {
        let copies = self.twins.len();
        if let Some(cursor) = self.cursors.get(head.index) {
            let run = &cursor.block[cursor.at..cursor.at + len];
            self.duplicates += (memchr_iter(b'\n', run).count() * copies) as u64;
            out.extend_from_slice(run);
        }
        self.last_given = Some(last_key);
        while let Some(Head { index, .. }) = self.twins.pop() {
            let Some(cursor) = self.cursors.get_mut(index) else { continue };
            match cursor.go_to(cursor.at + len, last_key, self.check_all) {
                Ok(Some(key)) => self.heap.push(Reverse(Head { key, index })),
                Ok(None) => self.close(index),
                Err(error) => {
                    self.close(index);
                    self.failed.push(error.at_source(index));
                }
            }
        }
        let Some(cursor) = self.cursors.get_mut(head.index) else { return Ok(None) };
        cursor.go_to(cursor.at + len, last_key, self.check_all)
    }

    fn close(&mut self, index: usize) {
        if let Some(cursor) = self.cursors.get_mut(index) {
            cursor.source = None;
            self.spare.push(std::mem::take(&mut cursor.block));
        }
    }
}

/// How many bytes both begin with. The last few of them may be left out.
fn in_common(one: &[u8], other: &[u8]) -> usize {
    const AT_ONCE: usize = 1 << 10;
    let mut len = 0;
    // A comparison of many bytes at once is a copy's speed. Where it fails, less is compared.
    for at_once in [AT_ONCE, 32] {
        let pairs = one[len..].chunks(at_once).zip(other[len..].chunks(at_once));
        len += pairs.take_while(|(one, other)| one == other).map(|(one, _)| one.len()).sum::<usize>();
    }
    let (one, other) = (&one[len..], &other[len..]);
    len + one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// Below this many bytes between two looks the rest is walked record by record.
const WALK: usize = 256;

impl<S: Source> Cursor<S> {
    fn new(source: S) -> Cursor<S> {
        let low = source.low();
        let source = Some(source);
        Cursor { source, low, is_open: false, block: Vec::new(), at: 0, last_key: 0, before: 0 }
    }

    /// Reads the next block that is not empty. `after` is the id of the record before it. Gives its first id.
    fn load(&mut self, after: Option<u128>, check_all: bool) -> Result<Option<u128>, MergeError> {
        let Some(source) = self.source.as_mut() else { return Ok(None) };
        self.before += self.block.len() as u64;
        self.at = 0;
        loop {
            self.block.clear();
            if !source.next_block(&mut self.block)? {
                return Ok(None);
            }
            if !self.block.is_empty() {
                break;
            }
        }
        let first = self.key_at(0)?;
        if after.is_none() && first < self.low.0 {
            return Err(MergeError::BelowBound { index: 0, id: Id(first), low: self.low });
        }
        if let Some(after) = after.filter(|after| *after >= first) {
            return Err(self.descends(0, first, after));
        }
        let Some(last) = last(&self.block) else {
            return Err(self.not_stored(NotStored::Torn { at: self.place(self.block.len()) }));
        };
        let last_start = self.block.len() - last.whole.len();
        self.last_key = self.key_at(last_start)?;
        if self.last_key < first || (last_start > 0 && self.last_key == first) {
            return Err(self.descends(last_start, self.last_key, first));
        }
        if check_all {
            self.check()?;
        }
        Ok(Some(first))
    }

    /// Looks at every id of the block.
    fn check(&self) -> Result<(), MergeError> {
        let (mut at, mut before) = (0, None);
        for stored in records(&self.block) {
            let key = self.key_at(at)?;
            if let Some(before) = before.filter(|before| *before >= key) {
                return Err(self.descends(at, key, before));
            }
            before = Some(key);
            at += stored.whole.len();
        }
        Ok(())
    }

    /// Moves to `end`, a start of a record or the end of the block, where the next is read. Gives the id found there.
    fn go_to(&mut self, end: usize, before_end: u128, check_all: bool) -> Result<Option<u128>, MergeError> {
        if end == self.block.len() {
            return self.load(Some(before_end), check_all);
        }
        let key = self.key_at(end)?;
        if key <= before_end {
            return Err(self.descends(end, key, before_end));
        }
        self.at = end;
        Ok(Some(key))
    }

    /// Finds how far the records from `self.at` on, whose id is `head.key`, stay before `limit`. Gives where the first
    /// one that does not begins, the id before it and, if it was looked at, its own.
    fn run_below(&self, limit: Head, head: Head) -> Result<(usize, u128, Option<u128>), MergeError> {
        let stays = |key: u128| Head { key, index: head.index } < limit;
        if stays(self.last_key) {
            return Ok((self.block.len(), self.last_key, None));
        }
        // The record at `low` stays below, the one at `high` does not; none was looked at in between.
        let (mut low, mut low_key) = (self.at, head.key);
        let (mut high, mut high_key) = (self.block.len(), None);
        let mut step = 1;
        while high - low > step {
            let probe = self.next_start(low + step);
            if probe >= high {
                break;
            }
            let key = self.key_at(probe)?;
            if !stays(key) {
                (high, high_key) = (probe, Some(key));
                break;
            }
            self.ascending(probe, key, low_key)?;
            (low, low_key) = (probe, key);
            step = (step * 2).max(WALK);
        }
        // No record begins in `until..high`.
        let mut until = high;
        while until - low > 1 {
            let middle = if until - low > WALK { low + (until - low) / 2 } else { low + 1 };
            let probe = self.next_start(middle);
            if probe >= high {
                until = middle;
                continue;
            }
            let key = self.key_at(probe)?;
            self.ascending(probe, key, low_key)?;
            if stays(key) {
                (low, low_key) = (probe, key);
            } else {
                (high, high_key, until) = (probe, Some(key), middle);
            }
        }
        Ok((high, low_key, high_key))
    }

    /// The first start of a record at `from` or behind it, or the end of the block. `from` is above 0.
    fn next_start(&self, from: usize) -> usize {
        let before = self.block.get(from - 1..).unwrap_or_default();
        memchr(b'\n', before).map_or(self.block.len(), |lf| from + lf)
    }

    fn key_at(&self, at: usize) -> Result<u128, MergeError> {
        let found = self.block.get(at..).and_then(id_at);
        found.map(|id| id.0).ok_or_else(|| self.not_stored(NotStored::BadId { at: self.place(at) }))
    }

    fn ascending(&self, at: usize, key: u128, after: u128) -> Result<(), MergeError> {
        if key > after { Ok(()) } else { Err(self.descends(at, key, after)) }
    }

    fn descends(&self, at: usize, key: u128, after: u128) -> MergeError {
        self.not_stored(NotStored::Descends { at: self.place(at), id: Id(key), after: Id(after) })
    }

    fn not_stored(&self, source: NotStored) -> MergeError {
        MergeError::NotStored { index: 0, source }
    }

    fn place(&self, at: usize) -> Bytes {
        Bytes(self.before + at as u64)
    }
}

#[cfg(test)]
#[path = "k_way_tests.rs"]
mod tests;
