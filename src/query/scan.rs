//! Scanning segments in pieces, several at once, in the order in which a merge asks for them.
//!
//! A segment is cut at fixed offsets into pieces of [`PIECE`] bytes; a record belongs to the piece in which it starts, so
//! every piece can be scanned without its neighbours. The part outside the time range is cut off by bisection before.
//! What nobody has read since the start is checked on the way: a damaged part is an error, never left out in silence.
//!
//! Memory: each part that is open has at least one piece in work; beyond that a query has [`AHEAD`] pieces in all. A piece
//! is 256 KiB, or one record where that is longer.

use super::needle::Matcher;
use super::pool::Line;
use crate::http::Cancel;
use crate::merge::k_way::{MergeError, Source};
use crate::ops::metrics::Counter;
use crate::record::id::Id;
use crate::segment::Segment;
pub use crate::segment::checked::PIECE;
use crate::segment::readable::{Readable, Source as Place, first_at_least};
use crate::unit::Bytes;
use crate::world::crew::lock;
use crate::world::fs::{File, read_full_at};
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use memchr::memchr;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pieces a query has in work or waiting, beyond one for each part that is open.
pub const AHEAD: usize = 16;

/// From which end a query reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

/// What all parts of one query share.
pub struct Scan {
    parts: Vec<Part>,
    from: Id,
    to: Id,
    direction: Direction,
    /// Pieces that may be in work beyond one for each part.
    ahead: usize,
    in_work: AtomicUsize,
    line: Line,
    matchers: Mutex<Vec<Matcher>>,
    matcher: Matcher,
    cancel: Cancel,
    scanned: Counter,
}

struct Part {
    readable: Readable,
    state: Mutex<PartState>,
}

#[derive(Default)]
struct PartState {
    opened: bool,
    /// What is left to be scanned; given up, and the file with it, when nothing is.
    left: Option<Span>,
    pieces: VecDeque<Receiver<io::Result<Vec<u8>>>>,
}

struct Span {
    file: Arc<dyn File>,
    /// The segment, where it is not known to be whole.
    unchecked: Option<Arc<Segment>>,
    from: u64,
    to: u64,
    floor: u64,
    ceiling: u64,
}

/// What is needed to set a scan up.
pub struct Setup {
    /// What to read.
    pub parts: Vec<Readable>,
    /// The smallest id wanted.
    pub from: Id,
    /// The largest id wanted.
    pub to: Id,
    /// From which end.
    pub direction: Direction,
    /// Whether to read ahead: not worth it where the first records found are enough.
    pub read_ahead: bool,
    /// What matches.
    pub matcher: Matcher,
    /// The query's line in the pool.
    pub line: Line,
    /// Tells when nobody waits for the answer.
    pub cancel: Cancel,
    /// Counts what was read.
    pub scanned: Counter,
}

impl Scan {
    /// Sets up a scan; nothing is opened yet. Gives one source for each part, in the order in which they begin.
    pub fn sources(setup: Setup) -> Vec<PartSource> {
        let Setup { mut parts, from, to, direction, read_ahead, matcher, line, cancel, scanned } = setup;
        match direction {
            Direction::Forward => parts.sort_by_key(|part| part.low),
            Direction::Backward => parts.sort_by_key(|part| std::cmp::Reverse(part.high)),
        }
        let parts: Vec<Part> = parts.into_iter().map(|readable| Part { readable, state: Mutex::default() }).collect();
        let count = parts.len();
        let scan = Arc::new(Scan {
            parts,
            from,
            to,
            direction,
            ahead: if read_ahead { AHEAD } else { 0 },
            in_work: AtomicUsize::new(0),
            line,
            matchers: Mutex::default(),
            matcher,
            cancel,
            scanned,
        });
        (0..count).map(|index| PartSource { scan: scan.clone(), index }).collect()
    }

    /// Puts pieces in line: one of this part for certain, and more of it and of those that follow while there is room.
    fn schedule(self: &Arc<Self>, index: usize) -> io::Result<()> {
        for (nth, part) in self.parts.iter().enumerate().skip(index) {
            let mut state = lock(&part.state);
            loop {
                let must = nth == index && state.pieces.is_empty();
                if !must && self.in_work.load(Ordering::Relaxed) >= self.ahead {
                    return Ok(());
                }
                if !state.opened {
                    state.opened = true;
                    state.left = Some(self.open(&part.readable)?);
                }
                let Some(piece) = state.left.as_mut().and_then(|span| span.next(self.direction)) else {
                    state.left = None;
                    break;
                };
                state.pieces.push_back(self.send(piece));
            }
        }
        Ok(())
    }

    fn open(&self, part: &Readable) -> io::Result<Span> {
        let file = part.source.open()?;
        let unchecked = match &part.source {
            Place::Segment(segment) if !segment.is_known_whole() => Some(segment.clone()),
            _ => None,
        };
        let find = |id| {
            let at = first_at_least(file.as_ref(), part.len, id)?;
            unchecked.as_ref().map_or(Ok(()), |segment| segment.check_around(file.as_ref(), at.0))?;
            Ok::<Bytes, io::Error>(at)
        };
        let start = if part.low >= self.from { Bytes(0) } else { find(self.from)? };
        let beyond = Id(self.to.0.saturating_add(1));
        let end = if part.high <= self.to { part.len } else { find(beyond)? };
        Ok(Span { file, unchecked, from: start.0, to: end.0, floor: start.0, ceiling: end.0 })
    }

    fn send(self: &Arc<Self>, piece: Piece) -> Receiver<io::Result<Vec<u8>>> {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = bounded(1);
        let scan = Arc::downgrade(self);
        self.line.add(move || {
            // The query may be over by now; then nobody wants the answer.
            if let Some(scan) = scan.upgrade() {
                let _ = sender.send(scan.scan_piece(&piece));
            }
        });
        receiver
    }

    fn scan_piece(&self, piece: &Piece) -> io::Result<Vec<u8>> {
        if self.cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (block, at) = piece.read()?;
        if let Some(segment) = &piece.unchecked {
            segment.check(&block, at, (piece.from, piece.to))?;
        }
        self.scanned.add(block.len() as u64);
        if self.matcher.takes_all() {
            return Ok(block);
        }
        let matcher = lock(&self.matchers).pop().unwrap_or_else(|| self.matcher.clone());
        let mut found = Vec::new();
        matcher.scan(&block, &mut found);
        lock(&self.matchers).push(matcher);
        let mut records = Vec::with_capacity(found.iter().map(|range| range.len()).sum());
        for range in found {
            records.extend_from_slice(&block[range]);
        }
        Ok(records)
    }

    /// The matching records of the part's next piece; `None` at the end of the part.
    fn next_piece(self: &Arc<Self>, index: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(part) = self.parts.get(index) else { return Ok(None) };
        self.schedule(index)?;
        let Some(receiver) = lock(&part.state).pieces.pop_front() else { return Ok(None) };
        let received = loop {
            match receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(result) => break result,
                Err(RecvTimeoutError::Timeout) if self.cancel.is_cancelled() => {
                    break Err(io::ErrorKind::Interrupted.into());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Err(io::Error::other("a scan broke off")),
            }
        };
        self.in_work.fetch_sub(1, Ordering::Relaxed);
        received.map(Some)
    }
}

impl Span {
    fn next(&mut self, direction: Direction) -> Option<Piece> {
        if self.from >= self.to {
            return None;
        }
        let (from, to) = match direction {
            Direction::Forward => (self.from, ((self.from / PIECE + 1) * PIECE).min(self.to)),
            Direction::Backward => (((self.to - 1) / PIECE * PIECE).max(self.from), self.to),
        };
        match direction {
            Direction::Forward => self.from = to,
            Direction::Backward => self.to = from,
        }
        let (file, unchecked) = (self.file.clone(), self.unchecked.clone());
        Some(Piece { file, unchecked, from, to, floor: self.floor, ceiling: self.ceiling })
    }
}

/// A piece of a file: the records that start in `from..to`. `floor` and `ceiling` are where records are known to begin and
/// to end.
struct Piece {
    file: Arc<dyn File>,
    unchecked: Option<Arc<Segment>>,
    from: u64,
    to: u64,
    floor: u64,
    ceiling: u64,
}

/// How much more is read at a time to find the end of a piece's last record.
const TAIL: usize = 4 << 10;

impl Piece {
    /// The records, and where the first of them begins.
    fn read(&self) -> io::Result<(Vec<u8>, u64)> {
        // The record that holds the byte before a bound belongs to the piece before that bound: so each side looks for the
        // same LF, at or after that byte.
        let from = if self.from > self.floor { self.from - 1 } else { self.from };
        let mut block = vec![0; usize::try_from(self.to - from).map_err(|_| io::ErrorKind::InvalidInput)?];
        self.fill(&mut block, from)?;
        while self.to < self.ceiling && block.last() != Some(&b'\n') {
            let at = from + block.len() as u64;
            let more = (self.ceiling - at).min(TAIL.max(block.len() / 4) as u64) as usize;
            if more == 0 {
                break;
            }
            let known = block.len();
            block.resize(known + more, 0);
            self.fill(&mut block[known..], at)?;
            if let Some(lf) = memchr(b'\n', &block[known..]) {
                block.truncate(known + lf + 1);
            }
        }
        let start = if from < self.from { memchr(b'\n', &block).map_or(block.len(), |lf| lf + 1) } else { 0 };
        block.drain(..start);
        Ok((block, from + start as u64))
    }

    fn fill(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        if read_full_at(self.file.as_ref(), buffer, Bytes(at))? < buffer.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment is shorter than it was"));
        }
        Ok(())
    }
}

/// One part of a scan, as a source of a merge.
pub struct PartSource {
    scan: Arc<Scan>,
    index: usize,
}

impl PartSource {
    /// The matching records of the next piece, in ascending order; `None` at the end. Backward scans give the last piece
    /// first.
    pub fn next_piece(&self) -> io::Result<Option<Vec<u8>>> {
        self.scan.next_piece(self.index)
    }

    /// No record of this part is larger.
    pub fn high(&self) -> Id {
        self.scan.parts.get(self.index).map_or(Id::MIN, |part| part.readable.high.min(self.scan.to))
    }
}

impl Source for PartSource {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        match self.next_piece() {
            Ok(Some(records)) => {
                *block = records;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(source) => Err(MergeError::Read { index: 0, source }),
        }
    }

    fn low(&self) -> Id {
        self.scan.parts.get(self.index).map_or(Id::MAX, |part| part.readable.low.max(self.scan.from))
    }
}
