//! What a query may read of one segment: whole records, from the start of its file up to a length.

use super::Segment;
use super::handle::Content;
use super::sealed::{Form, Sealed};
use crate::record::id::Id;
use crate::record::stored::id_at;
use crate::unit::Bytes;
use crate::world::fs::{File, read_full_at};
use std::io;
use std::sync::Arc;

/// Whole records at the front of a file.
#[derive(Clone)]
pub struct Readable {
    /// Opens the file.
    pub source: Source,
    /// The first id.
    pub low: Id,
    /// The last id within `len`.
    pub high: Id,
    /// How much of the file to read.
    pub len: Bytes,
}

/// Where a [`Readable`] is read from. Holding it keeps the file from being removed.
#[derive(Clone)]
pub enum Source {
    /// A segment being written: its open file.
    Open(Arc<dyn File>),
    /// A finished one, opened when it is first read.
    Segment(Arc<Segment>),
}

impl Source {
    /// Its stored records as a file.
    pub fn open(&self) -> io::Result<Arc<dyn File>> {
        self.content().map(Content::text)
    }

    /// The open file, in the form it has.
    pub fn content(&self) -> io::Result<Content> {
        match self {
            Source::Open(file) => Ok(Content::Plain(file.clone())),
            Source::Segment(segment) => segment.content(),
        }
    }
}

impl Source {
    /// Notes what asking its index has shown, see [`Segment::note_index`].
    pub fn note_index(&self, sealed: &Sealed) {
        if let Source::Segment(segment) = self {
            segment.note_index(sealed);
        }
    }

    /// Notes what reading it has run into, see [`Segment::note_failure`].
    pub fn note_failure(&self, error: io::Error) -> io::Error {
        match self {
            Source::Open(_) => error,
            Source::Segment(segment) => segment.note_failure(error),
        }
    }
}

impl Readable {
    /// Whether it is known to be plain without opening it.
    pub fn is_plain(&self) -> bool {
        match &self.source {
            Source::Open(_) => true,
            Source::Segment(segment) => segment.form() == Form::Plain,
        }
    }

    /// All of a finished segment.
    pub fn whole(segment: Arc<Segment>) -> Readable {
        let (low, high, len) = (segment.digest().first, segment.digest().last, segment.digest().len);
        Readable { source: Source::Segment(segment), low, high, len }
    }
}

/// How much is read to find the record around an offset, at first.
const GLANCE: usize = 4 << 10;

/// Where the first record starts whose id is at least `id`, by bisection over the first `len` bytes; `len` if there is none.
///
/// Reads about log2(len / 4 KiB) times 4 KiB.
pub fn first_at_least(file: &dyn File, len: Bytes, id: Id) -> io::Result<Bytes> {
    // Every record that starts below `low` is smaller; every one that starts at or above `high` is not.
    let (mut low, mut high) = (0, len.0);
    while low < high {
        let middle = low + (high - low) / 2;
        match next_record(file, middle, len.0)? {
            Some((_, found)) if found >= id => high = middle,
            None => high = middle,
            Some((start, _)) => low = start + 1,
        }
    }
    // `low` is now the smallest offset from which the next record is one that is wanted, or there is none.
    Ok(Bytes(next_record(file, low, len.0)?.map_or(len.0, |(start, _)| start)))
}

/// The first record that starts at or after `from`: where, and its id.
fn next_record(file: &dyn File, from: u64, len: u64) -> io::Result<Option<(u64, Id)>> {
    let start = if from == 0 { Some(0) } else { after_lf(file, from - 1, len)? };
    let Some(start) = start.filter(|start| *start < len) else { return Ok(None) };
    let mut prefix = [0; crate::record::stored::PREFIX_LEN];
    let n = read_full_at(file, &mut prefix, Bytes(start))?;
    match id_at(&prefix[..n]) {
        Some(id) => Ok(Some((start, id))),
        None => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("no id where a record must begin, at byte {start}")))
        }
    }
}

/// The offset after the first LF at or after `from`.
fn after_lf(file: &dyn File, from: u64, len: u64) -> io::Result<Option<u64>> {
    let (mut at, mut buffer) = (from, vec![0; GLANCE]);
    while at < len {
        let n = read_full_at(file, &mut buffer, Bytes(at))?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(lf) = memchr::memchr(b'\n', &buffer[..n]) {
            return Ok(Some(at + lf as u64 + 1));
        }
        at += n as u64;
        if buffer.len() < 1 << 20 {
            buffer.resize(buffer.len() * 4, 0);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stored;
    use crate::world::entropy::Dice;
    use crate::world::fs::{FileSystem, real::RealFs};

    #[test]
    fn bisection_finds_what_a_look_at_every_record_finds() {
        for seed in 0..20 {
            let mut dice = Dice::new(seed);
            let (mut bytes, mut starts) = (Vec::new(), Vec::new());
            for n in 0..1 + dice.below(200) {
                starts.push((Id(u128::from(n) * 10 + 5), bytes.len() as u64));
                let longest = if dice.one_in(30) { 20_000 } else { 60 };
                stored::write(&mut bytes, Id(u128::from(n) * 10 + 5), &vec![b'x'; dice.below(longest) as usize]);
            }
            let dir = tempfile::tempdir().expect("a directory");
            let file = RealFs.create_new(&dir.path().join("f")).expect("a file");
            file.append(&bytes).expect("room");
            let len = Bytes(bytes.len() as u64);
            for wanted in 0..starts.len() as u128 * 10 + 20 {
                let expected = starts.iter().find(|(id, _)| id.0 >= wanted).map_or(len.0, |(_, at)| *at);
                let found = first_at_least(file.as_ref(), len, Id(wanted)).expect("readable");
                assert_eq!(found, Bytes(expected), "replay with seed {seed}, id {wanted}");
            }
        }
    }
}
