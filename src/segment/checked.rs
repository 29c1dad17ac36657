//! Checking what was found at the start when it is first read: a segment that nobody has read since is known by its ends
//! alone, and what lies between may be damaged.
//!
//! A block that was checked is not checked again while the process lives: that would cost as much as searching it. Memory:
//! a bit for each [`PIECE`] bytes. Left out: damage within a text, which nothing on disk tells, and what happens to a file
//! after it was read.

use super::sealed::SealedText;
use super::sift::{Flaw, hole_in};
use super::{Form, Segment};
use crate::record::key::Key;
use crate::record::stored::{NotStored, PREFIX_LEN, records};
use crate::unit::Bytes;
use crate::world::crew::lock;
use crate::world::fs::{File, read_full_at};
use memchr::{memchr, memrchr};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// How much is checked and remembered as one, and how much a query reads at a time: it stays in the second-level cache.
pub const PIECE: u64 = 256 << 10;

/// How much is looked at on either side of a place that was found by bisection.
const GLANCE: u64 = 8 << 10;

/// What is known of a segment's pieces.
#[derive(Default)]
pub(super) struct Checked {
    /// A bit for each piece that was found sound.
    sound: Mutex<Vec<u64>>,
    damaged: Arc<AtomicBool>,
}

impl Checked {
    /// Notes an error, if it tells of damage.
    pub fn note(&self, error: &io::Error) {
        note(&self.damaged, error);
    }

    /// The text of a sealed segment, of which damage is noted when it is met.
    pub fn watch(&self, text: SealedText) -> Watched {
        Watched { text, damaged: self.damaged.clone() }
    }
}

fn note(damaged: &AtomicBool, error: &io::Error) {
    if tells_of_damage(error) {
        damaged.store(true, Ordering::Relaxed);
    }
}

fn tells_of_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// The text of a sealed segment. Its blocks have checksums, so each is checked whenever it is unpacked.
pub(super) struct Watched {
    text: SealedText,
    damaged: Arc<AtomicBool>,
}

impl File for Watched {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.text.append(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        self.text.read_at(buffer, offset).inspect_err(|e| note(&self.damaged, e))
    }

    fn size(&self) -> io::Result<Bytes> {
        self.text.size()
    }

    fn truncate(&self, to: Bytes) -> io::Result<()> {
        self.text.truncate(to)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.text.sync_data()
    }
}

impl Segment {
    /// Whether all of it was read or written by this process, and is what its digest says; or whether damage shows by itself,
    /// as it does in a sealed one.
    pub fn is_known_whole(&self) -> bool {
        self.digest().crc32.is_some() || self.form() == Form::Sealed
    }

    /// Checks whole records that were read from byte `at` on. `piece`: the bytes they were read for, `from` and `to`.
    pub fn check(&self, block: &[u8], at: u64, (from, to): (u64, u64)) -> io::Result<()> {
        let number = usize::try_from(from / PIECE).unwrap_or(usize::MAX);
        let (word, bit) = (number / 64, 1u64 << (number % 64));
        if lock(&self.checked().sound).get(word).is_some_and(|bits| bits & bit != 0) {
            return Ok(());
        }
        self.judge(block, at)?;
        let is_all = from.is_multiple_of(PIECE) && (to.is_multiple_of(PIECE) || to == self.digest().len.0);
        if is_all {
            let mut sound = lock(&self.checked().sound);
            let words = sound.len().max(word + 1);
            sound.resize(words, 0);
            sound[word] |= bit;
        }
        Ok(())
    }

    /// Checks that records are in order around a place that bisection has found: a damaged identifier leads it astray.
    pub fn check_around(&self, file: &dyn File, at: u64) -> io::Result<()> {
        let (from, to) = (at.saturating_sub(GLANCE), (at + GLANCE).min(self.digest().len.0));
        let mut window = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or_default()];
        let got = read_full_at(file, &mut window, Bytes(from))?;
        window.truncate(got);
        let begin = if from == 0 { Some(0) } else { memchr(b'\n', &window).map(|lf| lf + 1) };
        let end = memrchr(b'\n', &window).map(|lf| lf + 1);
        match (begin, end) {
            (Some(begin), Some(end)) if begin < end => self.judge(&window[begin..end], from + begin as u64),
            _ => Ok(()),
        }
    }

    /// Checks that no hole lies in whole records that were read from byte `at` on.
    pub fn check_for_holes(&self, block: &[u8], at: u64) -> io::Result<()> {
        match hole_in(block, at) {
            Some((from, to)) => {
                let flaw = Flaw::Hole { at: Bytes(at + from as u64), len: Bytes((to - from) as u64) };
                Err(self.damaged(&flaw))
            }
            None => Ok(()),
        }
    }

    fn judge(&self, block: &[u8], at: u64) -> io::Result<()> {
        self.check_for_holes(block, at)?;
        if are_in_order(block) {
            return Ok(());
        }
        fault_in(block, at).map_or(Ok(()), |fault| Err(self.damaged(&Flaw::NotStored(fault))))
    }

    fn damaged(&self, flaw: &Flaw) -> io::Error {
        self.checked().damaged.store(true, Ordering::Relaxed);
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {flaw}", self.path().display()))
    }

    /// Notes what reading it has run into, if that tells of its content: then it is damaged.
    pub fn note_failure(&self, error: io::Error) -> io::Error {
        if !tells_of_damage(&error) || self.checked().damaged.swap(true, Ordering::Relaxed) {
            return error;
        }
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {error}", self.path().display()))
    }

    /// Whether a reader has found it damaged since this was last asked.
    pub fn take_damaged(&self) -> bool {
        // Asked every second of every segment: mostly it is only read.
        let damaged = &self.checked().damaged;
        damaged.load(Ordering::Relaxed) && damaged.swap(false, Ordering::Relaxed)
    }
}

/// Whether a block is whole records whose ids ascend: what [`fault_in`] finds nothing in, without reading the ids as
/// numbers. Canonical ids are in the order of their bytes.
pub fn are_in_order(block: &[u8]) -> bool {
    let (mut rest, mut before) = (block, None);
    while !rest.is_empty() {
        let key = Key::at(rest);
        if key.is_none() || before >= key {
            return false;
        }
        before = key;
        let text = rest.get(PREFIX_LEN..).unwrap_or_default();
        let Some(lf) = memchr(b'\n', text) else { return false };
        rest = &text[lf + 1..];
    }
    true
}

/// What keeps a block, read from byte `at` on, from being whole records whose ids ascend.
fn fault_in(block: &[u8], at: u64) -> Option<NotStored> {
    let (mut before, mut seen) = (None, 0);
    for stored in records(block) {
        let at = Bytes(at + seen as u64);
        let Some(id) = stored.id() else { return Some(NotStored::BadId { at }) };
        if let Some(after) = before.filter(|before| *before >= id) {
            return Some(NotStored::Descends { at, id, after });
        }
        before = Some(id);
        seen += stored.whole.len();
    }
    (seen < block.len()).then_some(NotStored::Torn { at: Bytes(at + seen as u64) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::id::Id;
    use crate::record::stored::write;
    use crate::world::entropy::Dice;

    #[test]
    fn the_fast_check_finds_fault_where_the_slow_one_does() {
        let mut sound = 0;
        for seed in 0..20_000 {
            let mut dice = Dice::new(seed);
            let (mut block, mut id) = (Vec::new(), u128::from(dice.roll()) << dice.below(64));
            for _ in 0..dice.below(5) {
                write(&mut block, Id(id), &vec![b'x'; dice.below(40) as usize]);
                id = id.wrapping_add(u128::from(dice.below(3)) << dice.below(127));
            }
            if dice.one_in(2) && !block.is_empty() {
                let at = dice.below(block.len() as u64) as usize;
                let likely = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ \n\x00az/:@[8\xff";
                block[at] = likely[dice.below(likely.len() as u64) as usize];
            }
            if dice.one_in(4) {
                block.truncate(dice.below(block.len() as u64 + 1) as usize);
            }
            let fault = fault_in(&block, 0);
            assert_eq!(are_in_order(&block), fault.is_none(), "replay with seed {seed}: {fault:?}");
            sound += u32::from(fault.is_none());
        }
        assert!((5_000..15_000).contains(&sound), "{sound} of 20000 are sound: the cases are lopsided");
    }

    #[test]
    fn every_byte_is_a_digit_for_the_fast_check_or_not_as_it_is_for_the_slow_one() {
        for byte in 0..=u8::MAX {
            for at in 0..PREFIX_LEN {
                let mut block = b"01ARZ3NDEKTSV4RRFFQ69G5FAV text\n".to_vec();
                block[at] = byte;
                assert_eq!(are_in_order(&block), fault_in(&block, 0).is_none(), "byte {byte} at {at}");
            }
        }
    }
}
