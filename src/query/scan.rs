//! Scanning segments, several stretches at once, in the order in which a merge asks for them.
//!
//! A part that is read is cut into stretches of a few pieces (see `piece`), and a stretch is what a thread of the pool does
//! at a time. The part outside the time range is cut off by bisection before. What nobody has read since the start is
//! checked on the way: a damaged part is an error, never left out in silence.
//!
//! A thread that is done with a stretch sends for the next itself. Whoever merges is woken when there is something to merge,
//! or when the part for which it waits has ended: a stretch in which nothing is found costs it nothing.
//!
//! Memory: each part that the merge has reached has at least one piece in work or waiting; beyond that a query has
//! [`AHEAD`] pieces in all, and as many files open. A piece is 256 KiB, or one record where that is longer. Parts that have
//! ended, and those that nobody has come to, cost nothing but what names them.

use super::blocks::{Question, Unpacking, Wanted};
use super::needle::Matcher;
pub use super::piece::PIECE;
use super::piece::{Left, Reading, Stretch};
use super::pool::{Line, Scratch};
use crate::http::Cancel;
use crate::merge::k_way::{MergeError, Source};
use crate::ops::metrics::Counter;
use crate::record::id::Id;
use crate::segment::Segment;
use crate::segment::handle::Content;
use crate::segment::readable::{Readable, Source as Place, first_at_least};
use crate::segment::sealed::filter::Formula;
use crate::unit::Bytes;
use crate::world::crew::{lock, wait_for};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::Duration;

/// Pieces a query has in work or waiting, beyond one for each part that the merge has reached.
pub const AHEAD: usize = 16;

/// The most pieces in a stretch. More would not make handing over cheaper: it is some microseconds for a MiB.
const LONGEST_STRETCH: usize = 4;

/// How often somebody who waits looks whether the query is cancelled.
const LOOK: Duration = Duration::from_millis(50);

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
    parts: Vec<Wanted>,
    formula: Formula,
    from: Id,
    to: Id,
    direction: Direction,
    /// The most pieces in a stretch.
    longest: usize,
    line: Line,
    matcher: Matcher,
    /// A clone of the matcher for each thread.
    matchers: Vec<OnceLock<Matcher>>,
    cancel: Cancel,
    scanned: Counter,
    state: Mutex<State>,
    /// There is something for whoever merges.
    arrived: Condvar,
}

struct State {
    /// The first part that nobody has come to.
    next: usize,
    /// The parts before it that have not ended.
    open: BTreeMap<usize, Part>,
    /// Pieces in work or waiting.
    in_work: usize,
    /// How many of them there may be beyond one for each part that is reached.
    ahead: usize,
    /// The part for which the merge waits.
    awaited: Option<usize>,
    /// Blocks that were merged, for what is read next.
    spare: Vec<Vec<u8>>,
}

/// A part that has not ended.
#[derive(Default)]
struct Part {
    /// What nobody has begun to read; `None` until it is known where that lies.
    left: Option<Left>,
    /// The open file; given up when nothing is left.
    file: Option<Content>,
    /// What is in work or waits for the merge, in order.
    tasks: VecDeque<Task>,
    /// The number of the first of them.
    first: u64,
    /// Whether the merge has come here.
    is_reached: bool,
}

struct Task {
    pieces: usize,
    /// What was found, when it is done.
    result: Option<io::Result<Vec<u8>>>,
}

/// What is needed to set a scan up.
pub struct Setup {
    /// What to read.
    pub parts: Vec<Wanted>,
    /// What a text must hold for a match.
    pub formula: Formula,
    /// The smallest id wanted.
    pub from: Id,
    /// The largest id wanted.
    pub to: Id,
    /// From which end.
    pub direction: Direction,
    /// Whether to read ahead from the start: not worth it where the first records found may be enough. Then it begins with
    /// nothing, and doubles with every block that is taken.
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
        let Setup { mut parts, formula, from, to, direction, read_ahead, matcher, line, cancel, scanned } = setup;
        match direction {
            Direction::Forward => parts.sort_by_key(|wanted| wanted.part.low),
            Direction::Backward => parts.sort_by_key(|wanted| std::cmp::Reverse(wanted.part.high)),
        }
        let count = parts.len();
        let threads = line.threads();
        // What is found everywhere goes on as it was read, piece by piece.
        let longest = if matcher.takes_all() { 1 } else { (AHEAD / threads / 2).clamp(1, LONGEST_STRETCH) };
        let state = State {
            next: 0,
            open: BTreeMap::new(),
            in_work: 0,
            ahead: if read_ahead { AHEAD } else { 0 },
            awaited: None,
            spare: Vec::new(),
        };
        let scan = Arc::new(Scan {
            parts,
            formula,
            from,
            to,
            direction,
            longest,
            line,
            matcher,
            matchers: (0..threads).map(|_| OnceLock::new()).collect(),
            cancel,
            scanned,
            state: Mutex::new(state),
            arrived: Condvar::new(),
        });
        (0..count).map(|index| PartSource { scan: scan.clone(), index }).collect()
    }

    /// The next matching records of a part; `None` at its end. `old` is a block that is not needed any more.
    fn next_found(self: &Arc<Self>, index: usize, old: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
        let mut state = lock(&self.state);
        state.keep(old);
        while state.next <= index && state.next < self.parts.len() {
            self.come_to_next(&mut state);
        }
        if let Some(part) = state.open.get_mut(&index) {
            part.is_reached = true;
        }
        loop {
            self.send(&mut state, index);
            let Some(part) = state.open.get_mut(&index) else { return Ok(None) };
            if let Some((pieces, result)) = part.take_done() {
                state.in_work -= pieces;
                state.ahead = (state.ahead * 2).clamp(1, AHEAD);
                if result.is_err() {
                    state.give_up(index);
                }
                self.send(&mut state, index);
                return result.map(Some);
            }
            if self.cancel.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            drop(state);
            let helped = self.line.help();
            state = lock(&self.state);
            let is_due = state.open.get(&index).is_none_or(|part| part.is_done());
            if !helped && !is_due {
                state.awaited = Some(index);
                state = wait_for(&self.arrived, state, LOOK);
                state.awaited = None;
            }
        }
    }

    /// Takes the next part among those that are open. What need not be looked for in it is known.
    fn come_to_next(&self, state: &mut State) {
        let Some(Wanted { part, blocks }) = self.parts.get(state.next) else { return };
        let is_inside = part.low >= self.from && part.high <= self.to;
        let left = match blocks {
            Some(blocks) => Some(Left::of(blocks.clone())),
            None if is_inside && part.is_plain() => Some(Left::Bytes(Stretch::between(0, part.len.0))),
            None => None,
        };
        state.open.insert(state.next, Part { left, ..Part::default() });
        state.next += 1;
    }

    /// Puts in line what is to be done next: for this part if it is reached and has nothing in work, and for all while there
    /// is room. Lets the part go if it has ended.
    fn send(self: &Arc<Self>, state: &mut State, index: usize) {
        if state.open.get(&index).is_some_and(Part::is_ended) {
            state.open.remove(&index);
        }
        if self.cancel.is_cancelled() {
            return;
        }
        if state.open.get(&index).is_some_and(|part| part.is_reached && part.tasks.is_empty()) {
            self.send_one(state, index);
        }
        while state.in_work < state.ahead {
            // What is furthest behind, and only then parts that nobody has come to.
            let behind = state.open.iter().filter(|(_, part)| part.has_work()).min_by_key(|(_, part)| part.tasks.len());
            match behind.map(|(index, _)| *index) {
                Some(index) => self.send_one(state, index),
                None if state.next < self.parts.len() => self.come_to_next(state),
                None => break,
            }
        }
    }

    fn send_one(self: &Arc<Self>, state: &mut State, index: usize) {
        let most = state.ahead.saturating_sub(state.in_work).clamp(1, self.longest) as u64;
        let Some(part) = state.open.get_mut(&index).filter(|part| part.has_work()) else { return };
        let stretch = part.left.as_mut().map(|left| match self.direction {
            Direction::Forward => left.split_front(most),
            Direction::Backward => left.split_back(most),
        });
        let number = part.first + part.tasks.len() as u64;
        let pieces = stretch.as_ref().map_or(1, Left::pieces);
        part.tasks.push_back(Task { pieces, result: None });
        let file = part.file.clone();
        if part.left.as_ref().is_some_and(Left::is_empty) {
            part.file = None;
        }
        state.in_work += pieces;
        let out =
            if stretch.is_some() { state.spare.pop().unwrap_or_else(|| self.line.take_block()) } else { Vec::new() };
        let mut order = Order { scan: Arc::downgrade(self), index, number, file, is_done: false };
        self.line.add(move |scratch| order.work(stretch, out, scratch));
    }

    /// Takes what came of a task. Wakes whoever merges if it waits for this.
    fn take(self: &Arc<Self>, order: &Order, done: io::Result<Done>) {
        let mut state = lock(&self.state);
        let Some(part) = state.open.get_mut(&order.index) else { return };
        let result = done.map(|done| match done {
            Done::Placed(left) => {
                part.left = Some(left);
                Vec::new()
            }
            Done::Found(found) => found,
        });
        let is_error = result.is_err();
        let place = order.number.checked_sub(part.first).and_then(|nth| part.tasks.get_mut(usize::try_from(nth).ok()?));
        let Some(task) = place else { return };
        task.result = Some(result);
        if is_error {
            part.left = Some(Left::nothing());
        }
        part.file = order.file.clone().filter(|_| part.has_work());
        while let Some((pieces, block)) = state.open.get_mut(&order.index).and_then(Part::take_empty) {
            state.in_work -= pieces;
            state.keep(block);
        }
        self.send(&mut state, order.index);
        let is_due = state.open.get(&order.index).is_none_or(Part::is_done);
        if is_due && state.awaited == Some(order.index) {
            state.awaited = None;
            self.arrived.notify_one();
        }
    }

    /// Which records of an open file are wanted.
    fn place(&self, part: &Readable, content: &Content) -> io::Result<Left> {
        let file = match content {
            Content::Plain(file) => file,
            Content::Sealed(sealed) => {
                let question = Question { formula: &self.formula, from: self.from, to: self.to };
                let chosen = question.choose(sealed);
                part.source.note_index(sealed);
                return chosen.map(Left::of).map_err(|e| part.source.note_failure(e));
            }
        };
        let unchecked = unchecked(part);
        let find = |id| {
            let at = first_at_least(&**file, part.len, id)?;
            unchecked.map_or(Ok(()), |segment| segment.check_around(&**file, at.0))?;
            Ok::<Bytes, io::Error>(at)
        };
        let start = if part.low >= self.from { Bytes(0) } else { find(self.from)? };
        let beyond = Id(self.to.0.saturating_add(1));
        let end = if part.high <= self.to { part.len } else { find(beyond)? };
        Ok(Left::Bytes(Stretch::between(start.0, end.0)))
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        for block in lock(&self.state).spare.drain(..) {
            self.line.leave_block(block);
        }
    }
}

/// The segment of a part, where it is not known to be whole.
fn unchecked(part: &Readable) -> Option<&Segment> {
    match &part.source {
        Place::Segment(segment) if !segment.is_known_whole() => Some(segment),
        _ => None,
    }
}

impl State {
    /// Ends a part, whatever is in work for it.
    fn give_up(&mut self, index: usize) {
        if let Some(part) = self.open.remove(&index) {
            self.in_work -= part.tasks.iter().map(|task| task.pieces).sum::<usize>();
        }
    }

    fn keep(&mut self, block: Vec<u8>) {
        if block.capacity() > 0 && self.spare.len() < AHEAD {
            self.spare.push(block);
        }
    }
}

impl Part {
    /// Whether there is something to be put in line.
    fn has_work(&self) -> bool {
        // Where it is to be read is looked for once.
        self.left.as_ref().map_or(self.tasks.is_empty(), |left| !left.is_empty())
    }

    fn is_ended(&self) -> bool {
        self.tasks.is_empty() && !self.has_work()
    }

    /// Whether there is something for the merge.
    fn is_done(&self) -> bool {
        self.tasks.front().map_or(!self.has_work(), |task| task.result.is_some())
    }

    fn take_done(&mut self) -> Option<(usize, io::Result<Vec<u8>>)> {
        self.tasks.front()?.result.as_ref()?;
        let task = self.tasks.pop_front()?;
        self.first += 1;
        Some((task.pieces, task.result?))
    }

    /// The block of a task in which nothing was found, if that is the next.
    fn take_empty(&mut self) -> Option<(usize, Vec<u8>)> {
        match &self.tasks.front()?.result {
            Some(Ok(found)) if found.is_empty() => {
                self.take_done().and_then(|(pieces, result)| Some((pieces, result.ok()?)))
            }
            _ => None,
        }
    }
}

/// What a task is for. One that is dropped before it is done tells so: nobody waits in vain.
struct Order {
    scan: Weak<Scan>,
    index: usize,
    number: u64,
    file: Option<Content>,
    is_done: bool,
}

enum Done {
    /// It is known where the part is to be read.
    Placed(Left),
    /// The matching records of a stretch.
    Found(Vec<u8>),
}

impl Order {
    fn work(&mut self, stretch: Option<Left>, out: Vec<u8>, scratch: &mut Scratch) {
        // The query may be over by now; then nobody wants the answer.
        let Some(scan) = self.scan.upgrade() else { return };
        let done = self.try_work(&scan, stretch, out, scratch);
        self.is_done = true;
        scan.take(self, done);
    }

    fn try_work(
        &mut self,
        scan: &Scan,
        stretch: Option<Left>,
        mut out: Vec<u8>,
        scratch: &mut Scratch,
    ) -> io::Result<Done> {
        let gone = || io::Error::other("a part is not there");
        if scan.cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let part = &scan.parts.get(self.index).ok_or_else(gone)?.part;
        let content = match self.file.take() {
            Some(content) => content,
            None => part.source.content()?,
        };
        let content = self.file.insert(content);
        let Some(stretch) = stretch else { return scan.place(part, content).map(Done::Placed) };
        let matcher = scan.matchers.get(scratch.thread).ok_or_else(gone)?.get_or_init(|| scan.matcher.clone());
        let (cancel, scanned) = (&scan.cancel, &scan.scanned);
        match (stretch, &*content) {
            (Left::Bytes(stretch), content) => {
                let file = content.clone().text();
                let reading = Reading { file: file.as_ref(), unchecked: unchecked(part), matcher, cancel, scanned };
                reading.find(&stretch, scratch, &mut out)?;
            }
            (Left::Blocks(blocks, places), Content::Sealed(sealed)) => {
                let unpacking = Unpacking { sealed, from: scan.from, to: scan.to, matcher, cancel, scanned };
                let numbers = blocks.get(places).unwrap_or_default();
                unpacking.find(numbers, scratch, &mut out).map_err(|e| part.source.note_failure(e))?;
            }
            (Left::Blocks(..), Content::Plain(_)) => return Err(gone()),
        }
        Ok(Done::Found(out))
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        if let Some(scan) = self.scan.upgrade().filter(|_| !self.is_done) {
            scan.take(self, Err(io::Error::other("a scan broke off")));
        }
    }
}

/// One part of a scan, as a source of a merge.
pub struct PartSource {
    scan: Arc<Scan>,
    index: usize,
}

impl PartSource {
    /// The matching records of the next pieces, in ascending order; `None` at the end. Backward scans give the last pieces
    /// first.
    pub fn next_piece(&self) -> io::Result<Option<Vec<u8>>> {
        self.scan.next_found(self.index, Vec::new())
    }

    /// No record of this part is larger.
    pub fn high(&self) -> Id {
        self.scan.parts.get(self.index).map_or(Id::MIN, |wanted| wanted.part.high.min(self.scan.to))
    }
}

impl Source for PartSource {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        let mut old = std::mem::take(block);
        old.clear();
        match self.scan.next_found(self.index, old) {
            Ok(Some(records)) => {
                *block = records;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(source) => Err(MergeError::Read { index: 0, source }),
        }
    }

    fn low(&self) -> Id {
        self.scan.parts.get(self.index).map_or(Id::MAX, |wanted| wanted.part.low.max(self.scan.from))
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
