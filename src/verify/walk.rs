//! One file from front to back: its sound records one by one, and whatever lies between them as faults.
//!
//! What is passed over is what a start of a server would pass over too (`segment::recover::sift`): lines without an id, and
//! of two neighbours out of order the one whose id is larger than its successor's, so that one wrong id does not cost all
//! that follows. A sealed file is held against itself first (`segment::sealed::audit`); then places are those in its text. The
//! file is opened for each block and closed again: ten thousand files need one descriptor.

use crate::record::id::Id;
use crate::record::stored::id_at;
use crate::segment::reader::LONGEST_RECORD;
use crate::segment::sealed::audit::{Audit, Flaw, audit, is_sealed};
use crate::unit::Bytes;
use crate::world::fs::{File, FileSystem, ReadAt, read_full_at};
use memchr::memchr;
use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// Faults that are kept of one file; more are counted.
pub const MOST_FAULTS: usize = 12;

/// So many zeroes in a row are a sector that was never written, or something strange that was sent.
pub const SECTOR: usize = 512;

/// From one byte of a file up to, not including, another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The first byte.
    pub from: u64,
    /// The first byte behind it.
    pub to: u64,
}

impl Stretch {
    /// How long it is.
    pub fn len(self) -> u64 {
        self.to - self.from
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.from == self.to
    }
}

/// Something in a file that is not a record in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Lines without an id at their beginning.
    NotRecords {
        /// Where.
        at: Stretch,
        /// The longest run of zeroes in it, if it is as long as a sector.
        zeroes: Option<Stretch>,
    },
    /// A record whose id is not between those of its neighbours.
    OutOfOrder {
        /// Where it begins.
        at: u64,
        /// Its id.
        id: Id,
        /// The neighbour it contradicts.
        neighbour: Id,
    },
    /// A record whose id the record beside it has too.
    Twice {
        /// Where the second one begins.
        at: u64,
        /// The id.
        id: Id,
        /// Whether what they hold is the same.
        alike: bool,
    },
    /// The file ends within a record.
    Torn {
        /// What follows the last line feed.
        at: Stretch,
        /// The longest run of zeroes in it, if it is as long as a sector.
        zeroes: Option<Stretch>,
    },
    /// A record with a run of zeroes in it that is as long as a sector.
    Zeroes {
        /// Where the zeroes are.
        at: Stretch,
        /// The record's id.
        id: Id,
    },
    /// A sealed file is not what it should be.
    Sealed(Flaw),
    /// The system did not give what follows.
    Unreadable {
        /// From where on.
        at: u64,
        /// What it said.
        error: String,
    },
}

/// What is known of a file that was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Sound records.
    pub records: u64,
    /// The id of the first sound record.
    pub first: Option<Id>,
    /// The id of the last one.
    pub last: Option<Id>,
    /// The first [`MOST_FAULTS`] faults, in the order of the file as far as it matters.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub more: u64,
    /// The system refused to give all of it.
    pub unreadable: bool,
}

/// Reads one file.
pub struct Walker {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    size: u64,
    /// No record of it is smaller; one that is, is out of order.
    low: Id,
    /// Bytes of the file from `base` on.
    buffer: Vec<u8>,
    base: u64,
    /// Where the next line begins in `buffer`, and how far behind it there is no line feed.
    at: usize,
    searched: usize,
    /// A record whose successor is not known yet.
    waiting: Option<Found>,
    current: Option<Found>,
    last: Option<Id>,
    ended: bool,
    facts: Facts,
    read: Rc<Cell<u64>>,
    /// What is read: the file, or the text of a sealed one. `None` until it is begun.
    content: Option<Arc<dyn File>>,
    is_sealed: bool,
}

/// A file that is open only while it is read.
struct Reopened {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
}

impl ReadAt for Reopened {
    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        self.fs.open(&self.path)?.read_at(buffer, offset)
    }

    fn size(&self) -> io::Result<Bytes> {
        self.fs.open(&self.path)?.size()
    }
}

/// A record in the buffer, with its line feed.
#[derive(Clone, Copy)]
struct Found {
    id: Id,
    start: usize,
    end: usize,
}

impl Walker {
    /// A walk through the file at `path`, which is `size` long. Nothing is opened yet. Bytes are added to `read`.
    pub fn new(fs: Arc<dyn FileSystem>, path: PathBuf, size: Bytes, low: Id, read: Rc<Cell<u64>>) -> Walker {
        Walker {
            fs,
            path,
            size: size.0,
            low,
            buffer: Vec::new(),
            base: 0,
            at: 0,
            searched: 0,
            waiting: None,
            current: None,
            last: None,
            ended: false,
            facts: Facts::default(),
            read,
            content: None,
            is_sealed: false,
        }
    }

    /// No record that it gives is smaller.
    pub fn low(&self) -> Id {
        self.low
    }

    /// Moves to the next sound record and gives its id; ids ascend. `None` at the end. Reads `block` bytes at a time.
    pub fn next_record(&mut self, block: usize) -> Option<Id> {
        self.current = None;
        loop {
            let Some(end) = self.line_end() else {
                if self.fill(block) {
                    continue;
                }
                self.take_rest();
                return self.give_waiting();
            };
            let (start, line) = (self.at, self.buffer.get(self.at..end).unwrap_or_default());
            let id = id_at(line);
            self.at = end;
            self.searched = end;
            match id {
                None => self.pass_over(start, end),
                Some(id) => {
                    if let Some(given) = self.meet(Found { id, start, end }) {
                        return Some(given);
                    }
                }
            }
        }
    }

    /// The record that [`Walker::next`] has moved to, with its line feed.
    pub fn record(&self) -> &[u8] {
        self.current.and_then(|found| self.buffer.get(found.start..found.end)).unwrap_or_default()
    }

    /// What was found so far.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Lets the buffer go: for a walk that has ended.
    pub fn close(&mut self) {
        self.buffer = Vec::new();
        self.content = None;
    }

    /// Where the line that begins at `at` ends, if that is in the buffer.
    fn line_end(&mut self) -> Option<usize> {
        let lf = memchr(b'\n', self.buffer.get(self.searched..)?);
        if lf.is_none() {
            self.searched = self.buffer.len();
        }
        lf.map(|lf| self.searched + lf + 1)
    }

    /// Takes a line with an id. Gives the id of the record before it, if that one turns out to be in its place.
    fn meet(&mut self, found: Found) -> Option<Id> {
        let at = self.base + found.start as u64;
        let floor = self.last.filter(|last| *last >= found.id).or((found.id < self.low).then_some(self.low));
        if let Some(floor) = floor {
            let neighbour = self.waiting.map_or(floor, |before| before.id.max(floor));
            self.note(Fault::OutOfOrder { at, id: found.id, neighbour });
            return None;
        }
        let before = self.waiting.replace(found)?;
        if before.id < found.id {
            return Some(self.give(before));
        }
        let text = |found: Found| self.buffer.get(found.start..found.end);
        let alike = text(before) == text(found);
        self.note(match before.id == found.id {
            true => Fault::Twice { at, id: found.id, alike },
            false => Fault::OutOfOrder { at: self.base + before.start as u64, id: before.id, neighbour: found.id },
        });
        None
    }

    fn give_waiting(&mut self) -> Option<Id> {
        let found = self.waiting.take()?;
        Some(self.give(found))
    }

    fn give(&mut self, found: Found) -> Id {
        self.current = Some(found);
        self.last = Some(found.id);
        self.facts.records += 1;
        self.facts.first.get_or_insert(found.id);
        self.facts.last = Some(found.id);
        if found.end - found.start > SECTOR
            && let Some(at) = self.zeroes(found.start, found.end)
        {
            self.note(Fault::Zeroes { at, id: found.id });
        }
        found.id
    }

    /// Notes a line that is no record; lines beside each other are one stretch.
    fn pass_over(&mut self, start: usize, end: usize) {
        let at = Stretch { from: self.base + start as u64, to: self.base + end as u64 };
        let zeroes = self.zeroes(start, end);
        if let Some(Fault::NotRecords { at: before, zeroes: known }) = self.facts.faults.last_mut()
            && before.to == at.from
        {
            before.to = at.to;
            *known = longer(*known, zeroes);
            return;
        }
        self.note(Fault::NotRecords { at, zeroes });
    }

    /// What follows the last line feed of the file.
    fn take_rest(&mut self) {
        let (start, end) = (self.at, self.buffer.len());
        self.at = end;
        if start == end || self.facts.unreadable {
            return;
        }
        let at = Stretch { from: self.base + start as u64, to: self.base + end as u64 };
        self.note(Fault::Torn { at, zeroes: self.zeroes(start, end) });
    }

    /// The longest run of zeroes in a part of the buffer, if it is as long as a sector.
    fn zeroes(&self, start: usize, end: usize) -> Option<Stretch> {
        let bytes = self.buffer.get(start..end).unwrap_or_default();
        let (mut at, mut longest) = (0, None);
        while let Some(zero) = bytes.get(at..).and_then(|rest| memchr(0, rest)) {
            let from = at + zero;
            let run = bytes.iter().skip(from).take_while(|byte| **byte == 0).count();
            at = from + run;
            if run >= SECTOR {
                let base = self.base + start as u64;
                longest = longer(longest, Some(Stretch { from: base + from as u64, to: base + at as u64 }));
            }
        }
        longest
    }

    /// Reads on; `false` at the end of the file.
    fn fill(&mut self, block: usize) -> bool {
        if self.ended {
            return false;
        }
        if self.buffer.len() - self.at > LONGEST_RECORD {
            // No record is so long. What was seen of it is let go; the rest is the next line.
            self.pass_over(self.at, self.buffer.len());
            self.at = self.buffer.len();
        }
        let keep = self.waiting.map_or(self.at, |found| found.start.min(self.at));
        self.buffer.drain(..keep);
        self.base += keep as u64;
        self.at -= keep;
        self.searched -= keep;
        if let Some(found) = self.waiting.as_mut() {
            found.start -= keep;
            found.end -= keep;
        }
        if let Err(e) = self.begin() {
            self.break_off(0, &e.to_string());
            return false;
        }
        let from = self.base + self.buffer.len() as u64;
        let wanted = self.size.saturating_sub(from).min(block.max(self.buffer.len()) as u64) as usize;
        let held = self.buffer.len();
        self.buffer.resize(held + wanted, 0);
        let got = if wanted == 0 { Ok(0) } else { self.read_at(held, from) };
        self.buffer.truncate(held + *got.as_ref().unwrap_or(&0));
        match got {
            Ok(n) if n == wanted => {}
            Ok(n) => self.break_off(from + n as u64, "the file is shorter than it was"),
            Err(e) => self.break_off(from, &e.to_string()),
        }
        self.ended |= wanted == 0;
        !self.ended || self.buffer.len() > held
    }

    /// Opens what is to be read. A sealed file is looked at as a whole before: then what can be unpacked of it is read.
    fn begin(&mut self) -> io::Result<()> {
        if self.content.is_some() || self.size == 0 {
            return Ok(());
        }
        let read = self.read.clone();
        let file = Arc::new(Reopened { fs: self.fs.clone(), path: self.path.clone() });
        let file: Arc<dyn File> = file;
        if !is_sealed(&*file)? {
            self.content = Some(file);
            return Ok(());
        }
        let Audit { flaws, text } = audit(&file)?;
        self.facts.unreadable |= flaws.iter().any(|flaw| matches!(flaw, Flaw::Version(_)));
        flaws.into_iter().for_each(|flaw| self.note(Fault::Sealed(flaw)));
        read.set(read.get() + self.size);
        self.is_sealed = true;
        self.size = text.as_ref().map_or(Ok(Bytes(0)), |text| text.size())?.0;
        self.content = Some(text.unwrap_or(file));
        Ok(())
    }

    fn read_at(&mut self, held: usize, from: u64) -> io::Result<usize> {
        let Some(file) = &self.content else { return Ok(0) };
        let got = read_full_at(&**file, self.buffer.get_mut(held..).unwrap_or_default(), Bytes(from))?;
        if !self.is_sealed {
            self.read.set(self.read.get() + got as u64);
        }
        Ok(got)
    }

    fn break_off(&mut self, at: u64, error: &str) {
        self.ended = true;
        self.facts.unreadable = true;
        self.note(Fault::Unreadable { at, error: error.to_string() });
    }

    fn note(&mut self, fault: Fault) {
        // What could not be read is said in any case: it decides the exit status.
        if self.facts.faults.len() < MOST_FAULTS || matches!(fault, Fault::Unreadable { .. }) {
            self.facts.faults.push(fault);
        } else {
            self.facts.more += 1;
        }
    }
}

fn longer(one: Option<Stretch>, other: Option<Stretch>) -> Option<Stretch> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.len() > one.len() { other } else { one }),
        (one, other) => one.or(other),
    }
}
