//! Reading a stretch of a segment piece by piece, and searching each piece while it is in the cache.
//!
//! A stretch is cut at fixed offsets into pieces of [`PIECE`] bytes; a record belongs to the piece, and to the stretch, in
//! which it starts. So every stretch can be read without its neighbours.

use super::needle::Matcher;
use super::pool::Scratch;
use crate::http::Cancel;
use crate::ops::metrics::Counter;
use crate::segment::Segment;
pub use crate::segment::checked::PIECE;
use crate::unit::Bytes;
use crate::world::fs::File;
use memchr::memchr;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// How much more than a piece is read to have the end of its last record, at first.
const SLACK: u64 = 1 << 10;

/// How much is read to find the beginning of a stretch's first record, at first.
const GLANCE: u64 = 512;

/// Room for a piece and the end of its last record. A buffer that a longer record has made larger is given up.
const ROOM: usize = (PIECE + SLACK) as usize;

/// A part of a file: the records that start in `from..to`. `floor` and `ceiling` are where records are known to begin and
/// to end.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    pub from: u64,
    pub to: u64,
    pub floor: u64,
    pub ceiling: u64,
}

impl Stretch {
    /// The records between two places at which records begin.
    pub fn between(from: u64, to: u64) -> Stretch {
        Stretch { from, to, floor: from, ceiling: to }
    }

    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }

    /// Cuts off the first pieces, at most `most` of them.
    pub fn split_front(&mut self, most: u64) -> Stretch {
        let front = Stretch { to: ((self.from / PIECE + most) * PIECE).min(self.to), ..*self };
        self.from = front.to;
        front
    }

    /// Cuts off the last pieces, at most `most` of them.
    pub fn split_back(&mut self, most: u64) -> Stretch {
        let back = Stretch { from: (self.to.div_ceil(PIECE).saturating_sub(most) * PIECE).max(self.from), ..*self };
        self.to = back.from;
        back
    }

    /// In how many pieces it lies.
    pub fn pieces(&self) -> usize {
        usize::try_from(self.to.div_ceil(PIECE) - self.from / PIECE).unwrap_or(usize::MAX)
    }
}

/// What is to be read of a part: a stretch of its bytes if it is plain, some of its blocks if it is sealed.
#[derive(Clone)]
pub(super) enum Left {
    /// A stretch.
    Bytes(Stretch),
    /// Those of the chosen blocks, by their places among them.
    Blocks(Arc<[u32]>, Range<usize>),
}

impl Left {
    /// All of these blocks.
    pub fn of(blocks: Arc<[u32]>) -> Left {
        let all = 0..blocks.len();
        Left::Blocks(blocks, all)
    }

    pub fn nothing() -> Left {
        Left::Bytes(Stretch::between(0, 0))
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Left::Bytes(stretch) => stretch.is_empty(),
            Left::Blocks(_, places) => places.is_empty(),
        }
    }

    /// Cuts off the first pieces or blocks, at most `most` of them.
    pub fn split_front(&mut self, most: u64) -> Left {
        match self {
            Left::Bytes(stretch) => Left::Bytes(stretch.split_front(most)),
            Left::Blocks(blocks, places) => {
                let front = places.start..places.end.min(places.start + most as usize);
                places.start = front.end;
                Left::Blocks(blocks.clone(), front)
            }
        }
    }

    /// Cuts off the last pieces or blocks, at most `most` of them.
    pub fn split_back(&mut self, most: u64) -> Left {
        match self {
            Left::Bytes(stretch) => Left::Bytes(stretch.split_back(most)),
            Left::Blocks(blocks, places) => {
                let back = places.start.max(places.end.saturating_sub(most as usize))..places.end;
                places.end = back.start;
                Left::Blocks(blocks.clone(), back)
            }
        }
    }

    /// How many pieces or blocks.
    pub fn pieces(&self) -> usize {
        match self {
            Left::Bytes(stretch) => stretch.pieces(),
            Left::Blocks(_, places) => places.len(),
        }
    }
}

/// Who reads stretches of one file, for one query.
pub(super) struct Reading<'a> {
    pub file: &'a dyn File,
    /// The segment, where it is not known to be whole.
    pub unchecked: Option<&'a Segment>,
    pub matcher: &'a Matcher,
    pub cancel: &'a Cancel,
    pub scanned: &'a Counter,
}

impl Reading<'_> {
    /// Appends the matching records of a stretch to `out`.
    pub fn find(&self, stretch: &Stretch, scratch: &mut Scratch, out: &mut Vec<u8>) -> io::Result<()> {
        let Scratch { block, found, .. } = scratch;
        if block.capacity() > ROOM {
            *block = Vec::new();
        }
        let mut at = self.first_start(stretch, block)?;
        let mut left = *stretch;
        while !left.is_empty() {
            let piece = left.split_front(1);
            if self.cancel.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if at >= piece.to {
                continue;
            }
            // Where every record matches, what is read goes on without a copy.
            if self.matcher.takes_all() {
                let known = out.len();
                self.read(&piece, at, out)?;
                at += self.take(&piece, at, &out[known..])?;
                continue;
            }
            block.clear();
            self.read(&piece, at, block)?;
            at += self.take(&piece, at, block)?;
            self.matcher.scan(block, found);
            for range in found.drain(..) {
                out.extend_from_slice(&block[range]);
            }
        }
        Ok(())
    }

    /// Checks the records that were read for a piece, from `at` on, and counts them in. Gives how long they are.
    fn take(&self, piece: &Stretch, at: u64, records: &[u8]) -> io::Result<u64> {
        if let Some(segment) = self.unchecked {
            segment.check(records, at, (piece.from, piece.to))?;
        }
        let len = records.len() as u64;
        self.scanned.add(len);
        Ok(len)
    }

    /// Where the first record begins that starts in the stretch; its end if there is none.
    fn first_start(&self, stretch: &Stretch, buffer: &mut Vec<u8>) -> io::Result<u64> {
        if stretch.from <= stretch.floor {
            return Ok(stretch.from);
        }
        // The record that holds the byte before a bound belongs to what lies before that bound: each side looks for the
        // same LF, at or after that byte.
        let (mut at, mut most) = (stretch.from - 1, GLANCE);
        while at < stretch.to {
            buffer.clear();
            let n = most.min(stretch.to - at);
            self.append(buffer, n, at)?;
            if let Some(lf) = memchr(b'\n', buffer) {
                return Ok(at + lf as u64 + 1);
            }
            at += n;
            most = (most * 8).min(PIECE);
        }
        Ok(stretch.to)
    }

    /// Appends to `block` the records of a piece from `at` on, where one begins.
    fn read(&self, piece: &Stretch, at: u64, block: &mut Vec<u8>) -> io::Result<()> {
        let known = block.len();
        if block.is_empty() && piece.to - at > PIECE / 2 {
            block.reserve_exact(ROOM);
        }
        self.append(block, (piece.to + SLACK).min(piece.ceiling) - at, at)?;
        // The last record may end behind the piece: with the first LF at or after the piece's last byte.
        let mut looked = known + (piece.to - at) as usize - 1;
        loop {
            if let Some(lf) = block.get(looked..).and_then(|tail| memchr(b'\n', tail)) {
                block.truncate(looked + lf + 1);
                return Ok(());
            }
            looked = block.len();
            let end = at + (looked - known) as u64;
            let more = (piece.ceiling - end).min(SLACK.max((looked - known) as u64 / 4));
            if more == 0 {
                return Ok(());
            }
            self.append(block, more, end)?;
        }
    }

    fn append(&self, block: &mut Vec<u8>, most: u64, at: u64) -> io::Result<()> {
        let wanted = block.len() + usize::try_from(most).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut at = at;
        while block.len() < wanted {
            match self.file.read_onto(block, wanted - block.len(), Bytes(at)) {
                Ok(0) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment is shorter than it was"));
                }
                Ok(n) => at += n as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
