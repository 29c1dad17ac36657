//! Checking what was found at the start when it is first read: a segment that nobody has read since is known by its ends
//! alone, and what lies between may be damaged.
//!
//! A block that was checked is not checked again while the process lives: that would cost as much as searching it. Memory:
//! a bit for each [`PIECE`] bytes. Left out: damage within a text, which nothing on disk tells, and what happens to a file
//! after it was read.

use super::Segment;
use super::sift::{Flaw, hole_in};
use crate::record::stored::{NotStored, records};
use crate::unit::Bytes;
use crate::world::crew::lock;
use crate::world::fs::{File, read_full_at};
use memchr::{memchr, memrchr};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// How much is checked and remembered as one, and how much a query reads at a time: it stays in the second-level cache.
pub const PIECE: u64 = 256 << 10;

/// How much is looked at on either side of a place that was found by bisection.
const GLANCE: u64 = 8 << 10;

/// What is known of a segment's pieces.
#[derive(Default)]
pub(super) struct Checked {
    /// A bit for each piece that was found sound.
    sound: Mutex<Vec<u64>>,
    damaged: AtomicBool,
}

impl Segment {
    /// Whether all of it was read or written by this process, and is what its digest says.
    pub fn is_known_whole(&self) -> bool {
        self.digest().crc32.is_some()
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
        let (mut before, mut seen) = (None, 0);
        for stored in records(block) {
            let place = Bytes(at + seen as u64);
            let Some(id) = stored.id() else {
                return Err(self.damaged(&Flaw::NotStored(NotStored::BadId { at: place })));
            };
            if let Some(after) = before.filter(|before| *before >= id) {
                return Err(self.damaged(&Flaw::NotStored(NotStored::Descends { at: place, id, after })));
            }
            before = Some(id);
            seen += stored.whole.len();
        }
        if seen < block.len() {
            return Err(self.damaged(&Flaw::NotStored(NotStored::Torn { at: Bytes(at + seen as u64) })));
        }
        Ok(())
    }

    fn damaged(&self, flaw: &Flaw) -> io::Error {
        self.checked().damaged.store(true, Ordering::Relaxed);
        io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {flaw}", self.path().display()))
    }

    /// Whether a reader has found it damaged since this was last asked.
    pub fn take_damaged(&self) -> bool {
        self.checked().damaged.swap(false, Ordering::Relaxed)
    }
}
