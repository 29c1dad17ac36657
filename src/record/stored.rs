//! The stored record, `ID SP record LF`: the only form on disk, between nodes, and out of the API.

use super::id::{ID_LEN, Id};
use super::key::Key;
use crate::unit::Bytes;
use memchr::{memchr, memchr_iter, memrchr};
use std::fmt;

/// Bytes before the text of a stored record: the id and a space.
pub const PREFIX_LEN: usize = ID_LEN + 1;

/// One stored record within a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored<'a> {
    /// The whole, LF included.
    pub whole: &'a [u8],
}

impl<'a> Stored<'a> {
    /// The record itself, without id and LF. Empty if the stored record is too short to hold one.
    pub fn text(self) -> &'a [u8] {
        let end = self.whole.len().saturating_sub(1);
        self.whole.get(PREFIX_LEN..end).unwrap_or_default()
    }

    /// The id, if there is one in canonical form.
    pub fn id(self) -> Option<Id> {
        id_at(self.whole)
    }
}

/// Appends a stored record.
pub fn write(out: &mut Vec<u8>, id: Id, text: &[u8]) {
    out.extend_from_slice(&id.text());
    out.push(b' ');
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// The id at the start of a stored record, if it is followed by a space.
pub fn id_at(stored: &[u8]) -> Option<Id> {
    if stored.get(ID_LEN) != Some(&b' ') {
        return None;
    }
    Id::parse(stored.get(..ID_LEN)?)
}

/// The stored records of a block, which ends with an LF. What follows the last LF is left out.
pub fn records(block: &[u8]) -> impl Iterator<Item = Stored<'_>> {
    let mut rest = block;
    std::iter::from_fn(move || {
        let end = memchr(b'\n', rest)? + 1;
        let (whole, later) = rest.split_at(end);
        rest = later;
        Some(Stored { whole })
    })
}

/// The last stored record of a block that ends with an LF.
pub fn last(block: &[u8]) -> Option<Stored<'_>> {
    let body = block.strip_suffix(b"\n")?;
    let start = memrchr(b'\n', body).map_or(0, |lf| lf + 1);
    Some(Stored { whole: &block[start..] })
}

/// Where `block` is cut so that the front holds whole records only: just after its last LF.
pub fn whole_len(block: &[u8]) -> usize {
    memrchr(b'\n', block).map_or(0, |lf| lf + 1)
}

/// Why bytes are not stored records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotStored {
    /// No canonical id and space where a record begins.
    BadId {
        /// Where, from the start of what was read.
        at: Bytes,
    },
    /// The id is not larger than the one before it.
    Descends {
        /// Where, from the start of what was read.
        at: Bytes,
        /// The id found there.
        id: Id,
        /// The id before it.
        after: Id,
    },
    /// The end comes before an LF.
    Torn {
        /// Where the unfinished record begins.
        at: Bytes,
    },
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotStored::BadId { at } => write!(f, "no id where a record must begin, at byte {}", at.0),
            NotStored::Descends { at, id, after } => {
                write!(f, "id {id} at byte {} is not larger than {after} before it", at.0)
            }
            NotStored::Torn { at } => write!(f, "the record at byte {} has no LF", at.0),
        }
    }
}

impl std::error::Error for NotStored {}

/// What is known of a run of stored records after reading it once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    /// The smallest id.
    pub first: Id,
    /// The largest id.
    pub last: Id,
    /// How many records.
    pub records: u64,
    /// How many bytes, ids and LFs included.
    pub len: Bytes,
    /// CRC-32 (IEEE 802.3) of all the bytes.
    pub crc32: u32,
}

/// Reads stored records block by block and checks that ids are canonical and ascend strictly.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    first: Option<Id>,
    last: Option<Id>,
    records: u64,
    len: u64,
    crc32: crc32fast::Hasher,
}

impl Checker {
    /// Takes the next block of whole records. After an error the digest covers what was taken before this block.
    pub fn take(&mut self, block: &[u8]) -> Result<(), NotStored> {
        let (mut last, mut taken) = (self.last.map(Key::from), 0);
        let mut offset = 0;
        for stored in records(block) {
            let at = Bytes(self.len + offset as u64);
            let key = Key::at(stored.whole).ok_or(NotStored::BadId { at })?;
            if last >= Some(key) {
                let read = |key: Option<Key>| key.and_then(Key::id).unwrap_or(Id::MIN);
                return Err(NotStored::Descends { at, id: read(Some(key)), after: read(last) });
            }
            (last, taken) = (Some(key), taken + 1);
            offset += stored.whole.len();
        }
        if offset != block.len() {
            return Err(NotStored::Torn { at: Bytes(self.len + offset as u64) });
        }
        self.first = self.first.or_else(|| id_at(block));
        self.last = last.and_then(Key::id);
        self.records += taken;
        self.len += block.len() as u64;
        self.crc32.update(block);
        Ok(())
    }

    /// Takes a block of whole records whose ids were just given or checked by the caller: only its ends are looked at.
    pub fn take_trusted(&mut self, block: &[u8], first: Id, last: Id, records: u64) {
        debug_assert!(self.last.is_none_or(|before| before < first) && first <= last);
        self.first = self.first.or(Some(first));
        self.last = Some(last);
        self.records += records;
        self.len += block.len() as u64;
        self.crc32.update(block);
    }

    /// Takes a block of whole records of which each was looked at just before: that it goes on from the last one, and how many
    /// they are. Not empty.
    pub fn take_seen(&mut self, block: &[u8]) -> Result<(), NotStored> {
        let at = self.len();
        let last = last(block).ok_or(NotStored::Torn { at })?.id().ok_or(NotStored::BadId { at })?;
        let first = id_at(block).ok_or(NotStored::BadId { at })?;
        if let Some(after) = self.last.filter(|after| *after >= first) {
            return Err(NotStored::Descends { at, id: first, after });
        }
        self.take_trusted(block, first, last, memchr_iter(b'\n', block).count() as u64);
        Ok(())
    }

    /// What was read; `None` if there was no record.
    pub fn digest(&self) -> Option<Digest> {
        Some(Digest {
            first: self.first?,
            last: self.last?,
            records: self.records,
            len: Bytes(self.len),
            crc32: self.crc32.clone().finalize(),
        })
    }

    /// Bytes taken so far.
    pub fn len(&self) -> Bytes {
        Bytes(self.len)
    }

    /// Whether nothing was taken yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_of(ids: &[u128]) -> Vec<u8> {
        let mut block = Vec::new();
        for &id in ids {
            write(&mut block, Id(id), format!("record {id}").as_bytes());
        }
        block
    }

    #[test]
    fn a_block_is_read_back_record_by_record() {
        let mut block = Vec::new();
        write(&mut block, Id(1), b"");
        write(&mut block, Id(2), b"two words\r");
        let read: Vec<_> = records(&block).map(|stored| (stored.id(), stored.text().to_vec())).collect();
        assert_eq!(read, [(Some(Id(1)), vec![]), (Some(Id(2)), b"two words\r".to_vec())]);
        assert_eq!(last(&block).and_then(Stored::id), Some(Id(2)));
    }

    #[test]
    fn the_checker_s_digest_does_not_depend_on_where_blocks_end() {
        let (mut one, mut two) = (Checker::default(), Checker::default());
        one.take(&block_of(&[1, 2, 3])).expect("sound");
        two.take(&block_of(&[1])).expect("sound");
        two.take(&block_of(&[2, 3])).expect("sound");
        assert_eq!(one.digest(), two.digest());
        let mut seen = Checker::default();
        seen.take_seen(&block_of(&[1, 2])).expect("sound");
        assert!(seen.take_seen(&block_of(&[2])).is_err() && seen.take_seen(b"").is_err());
        seen.take_seen(&block_of(&[3])).expect("sound");
        assert_eq!(one.digest(), seen.digest());
        let digest = one.digest().expect("three records");
        assert_eq!((digest.first, digest.last, digest.records), (Id(1), Id(3), 3));
    }

    #[test]
    fn ids_that_repeat_or_descend_are_refused_also_across_blocks() {
        let mut checker = Checker::default();
        checker.take(&block_of(&[5])).expect("sound");
        let refused = checker.take(&block_of(&[5]));
        assert_eq!(refused, Err(NotStored::Descends { at: Bytes(36), id: Id(5), after: Id(5) }));
        assert_eq!(checker.take(&block_of(&[7, 6])).map_err(|e| matches!(e, NotStored::Descends { .. })), Err(true));
        assert_eq!(checker.digest().map(|d| d.records), Some(1));
    }

    #[test]
    fn bytes_that_are_no_records_are_refused_with_their_place() {
        let mut block = block_of(&[1]);
        let good = block.len() as u64;
        block.extend_from_slice(b"not an id\n");
        assert_eq!(Checker::default().take(&block), Err(NotStored::BadId { at: Bytes(good) }));
        assert_eq!(Checker::default().take(b"\n"), Err(NotStored::BadId { at: Bytes(0) }));
        let torn = &block_of(&[1])[..20];
        assert_eq!(Checker::default().take(torn), Err(NotStored::Torn { at: Bytes(0) }));
    }
}
