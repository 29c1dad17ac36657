//! Merges sorted streams of stored records into one ascending stream in which every id appears once.
//!
//! The smallest id wins, the source with the smaller index among equals; what follows with the same id is dropped and
//! counted. As long as one source stays below all others its records are copied as one slice, so streams that hardly
//! overlap cost a copy and a handful of looks at ids. Where several stand at the same record, what they have in common from
//! there on is given out as one slice too, so copies of a segment cost a comparison.
//!
//! Memory: one block for each source that is open. A source is opened when the merge reaches its lower bound and let go
//! at its end, so what counts is how many overlap, not how many there are.
//!
//! Left out: descending order, and any thread. Whoever wants sources read ahead hands in sources that do so.

use super::heads::{Head, Heads};
use crate::record::id::Id;
use crate::record::key::Key;
use crate::record::stored::{NotStored, last, records, whole_len};
use crate::unit::Bytes;
use memchr::{memchr, memchr_iter};
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
    heads: Heads,
    check_all: bool,
    last_given: Option<Key>,
    duplicates: u64,
    /// Blocks of sources that have ended, for those that begin.
    spare: Vec<Vec<u8>>,
    /// Faults of sources that were found together with the one that was told first.
    untold: Vec<MergeError>,
    /// Those that stand at one record; kept for its memory.
    group: Vec<Head>,
}

struct Cursor<S> {
    /// None once it has ended or failed.
    source: Option<S>,
    low: Id,
    is_open: bool,
    block: Vec<u8>,
    /// Whether every id in `block` was looked at.
    checked: bool,
    /// Start of the next record in `block`.
    at: usize,
    /// The id of the last record in `block`.
    last_key: Key,
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
        let heads = sources.iter().enumerate().map(|(index, s)| Head { key: s.low().into(), index });
        let heads = Heads::of(heads.collect());
        let cursors = sources.into_iter().map(Cursor::new).collect();
        let (spare, untold, group) = (Vec::new(), Vec::new(), Vec::new());
        Merge { cursors, heads, check_all, last_given: None, duplicates: 0, spare, untold, group }
    }

    /// Appends merged records to `out` until at least `at_least` bytes (or one) are appended or all sources have ended.
    /// False if nothing was appended: that is the end. Not more than a block of a source comes on top of `at_least`.
    ///
    /// After an error `out` holds whole records, all sound and in order, and the source at fault is left out of what is
    /// merged from then on. Whoever needs all sources stops at the first error; whoever can do without goes on.
    pub fn next_run(&mut self, out: &mut Vec<u8>, at_least: usize) -> Result<bool, MergeError> {
        let start = out.len();
        while out.len() - start < at_least.max(1) {
            if let Some(error) = self.untold.pop() {
                return Err(error);
            }
            let Some(head) = self.heads.first() else { break };
            if self.stands_with_others(head) && self.give_common(out) {
                continue;
            }
            match self.advance(head, out) {
                Ok(Some(key)) => self.heads.replace_first(Head { key, index: head.index }),
                Ok(None) => {
                    self.heads.pop();
                    self.close(head.index);
                }
                Err(error) => {
                    self.heads.pop();
                    self.close(head.index);
                    return Err(error.at_source(head.index));
                }
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
    fn advance(&mut self, head: Head, out: &mut Vec<u8>) -> Result<Option<Key>, MergeError> {
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
        let (end, before_end, key_at_end) = match self.heads.second() {
            None => (cursor.block.len(), cursor.last_key, None),
            Some(limit) => cursor.run_below(limit, head)?,
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

    /// Whether the next source stands at the same record, which was not given out yet, and both are open.
    fn stands_with_others(&self, head: Head) -> bool {
        let is_open = |index: usize| self.cursors.get(index).is_some_and(|cursor| cursor.is_open);
        let other = self.heads.second().filter(|other| other.key == head.key && is_open(other.index));
        other.is_some() && is_open(head.index) && self.last_given != Some(head.key)
    }

    /// Where sources stand at the same record, copies of it mostly, gives out what they have in common in one piece and takes
    /// them all behind it. False, and nothing is changed, if that is not even a record.
    fn give_common(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(first) = self.heads.pop() else { return false };
        let mut group = std::mem::take(&mut self.group);
        group.clear();
        group.push(first);
        while let Some(other) = self.heads.first() {
            if other.key != first.key || !self.cursors.get(other.index).is_some_and(|cursor| cursor.is_open) {
                break;
            }
            group.extend(self.heads.pop());
        }
        let common = self.common_of(&group);
        match common {
            Some((len, last_key)) => self.give_of_all(&group, len, last_key, out),
            None => group.iter().for_each(|head| self.heads.push(*head)),
        }
        self.group = group;
        common.is_some()
    }

    /// Gives out so much of what these sources have in common, which ends with the record of that id.
    fn give_of_all(&mut self, group: &[Head], len: usize, last_key: Key, out: &mut Vec<u8>) {
        let first = group.first().and_then(|head| self.cursors.get(head.index));
        let given = first.and_then(|cursor| cursor.block.get(cursor.at..cursor.at + len)).unwrap_or_default();
        let records = memchr_iter(b'\n', given).count() as u64;
        out.extend_from_slice(given);
        self.duplicates += records * (group.len() as u64 - 1);
        self.last_given = Some(last_key);
        for &Head { index, .. } in group {
            let Some(cursor) = self.cursors.get_mut(index) else { continue };
            match cursor.go_to(cursor.at + len, last_key, self.check_all) {
                Ok(Some(key)) => self.heads.push(Head { key, index }),
                Ok(None) => self.close(index),
                Err(error) => {
                    self.close(index);
                    self.untold.push(error.at_source(index));
                }
            }
        }
    }

    /// How many bytes of whole records, at least one, these sources have in common from where they stand, up to where the next
    /// of the others stands, and the last id within them.
    fn common_of(&self, group: &[Head]) -> Option<(usize, Key)> {
        let (first, others) = group.split_first()?;
        let cursor = self.cursors.get(first.index)?;
        let end = match self.heads.first() {
            None => cursor.block.len(),
            // A fault is told by `advance`, which meets it too.
            Some(limit) => cursor.run_below(limit, *first).ok()?.0,
        };
        let mut common = cursor.block.get(cursor.at..end)?;
        for other in others {
            let other = self.cursors.get(other.index)?;
            common = &common[..common_len(common, other.block.get(other.at..)?)];
        }
        let common = &common[..whole_len(common)];
        let last = common.len().checked_sub(last(common)?.whole.len())?;
        Some((common.len(), cursor.key_at(cursor.at + last).ok()?))
    }

    fn close(&mut self, index: usize) {
        if let Some(cursor) = self.cursors.get_mut(index) {
            cursor.source = None;
            self.spare.push(std::mem::take(&mut cursor.block));
        }
    }
}

/// How many bytes both begin with.
fn common_len(one: &[u8], other: &[u8]) -> usize {
    let most = one.len().min(other.len());
    let mut len = 0;
    // Whole pieces first: a comparison of slices is as fast as memory.
    for piece in [4096, 64, 1] {
        while len + piece <= most && one[len..len + piece] == other[len..len + piece] {
            len += piece;
        }
    }
    len
}

/// Below this many bytes between two looks the rest is walked record by record.
const WALK: usize = 256;

impl<S: Source> Cursor<S> {
    fn new(source: S) -> Cursor<S> {
        let low = source.low();
        let source = Some(source);
        let (last_key, block) = (low.into(), Vec::new());
        Cursor { source, low, is_open: false, block, checked: false, at: 0, last_key, before: 0 }
    }

    /// Reads the next block that is not empty. `after` is the id of the record before it. Gives its first id.
    fn load(&mut self, after: Option<Key>, check_all: bool) -> Result<Option<Key>, MergeError> {
        let Some(source) = self.source.as_mut() else { return Ok(None) };
        self.before += self.block.len() as u64;
        (self.at, self.checked) = (0, false);
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
        if after.is_none() && first < Key::from(self.low) {
            return Err(MergeError::BelowBound { index: 0, id: first.id().unwrap_or(Id::MIN), low: self.low });
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
            self.checked = true;
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
    fn go_to(&mut self, end: usize, before_end: Key, check_all: bool) -> Result<Option<Key>, MergeError> {
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
    fn run_below(&self, limit: Head, head: Head) -> Result<(usize, Key, Option<Key>), MergeError> {
        let stays = |key: Key| Head { key, index: head.index } < limit;
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

    fn key_at(&self, at: usize) -> Result<Key, MergeError> {
        let stored = self.block.get(at..).unwrap_or_default();
        let found = if self.checked { Key::known(stored) } else { Key::at(stored) };
        found.ok_or_else(|| self.not_stored(NotStored::BadId { at: self.place(at) }))
    }

    fn ascending(&self, at: usize, key: Key, after: Key) -> Result<(), MergeError> {
        if key > after { Ok(()) } else { Err(self.descends(at, key, after)) }
    }

    fn descends(&self, at: usize, key: Key, after: Key) -> MergeError {
        let (key, after) = (key.id().unwrap_or(Id::MIN), after.id().unwrap_or(Id::MIN));
        self.not_stored(NotStored::Descends { at: self.place(at), id: key, after })
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
