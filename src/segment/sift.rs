//! What is whole in a damaged file: every record that can be told to be one, in as few ascending runs as that takes.
//!
//! A line is a record when it begins with an identifier and no hole lies in it. A *hole* is what a power cut or a lost
//! page leaves: bytes of zero from the beginning of a sector (512) to the end of a page (4,096). Where a line is none, a
//! record may still begin behind zeroes in it. Pages that cannot be read are passed over like holes.
//!
//! A record whose neighbours are in order without it has a damaged identifier, and is left out. All others go on: into
//! the first run that they continue. So blocks that changed places, and segments of programs that did not keep order,
//! become several segments, and nothing of them is lost.
//!
//! Left out: damage within a text. Nothing on disk tells it; see `oklog verify` for gaps in the counters of a stream.
//! Memory: one line, at most [`LONGEST_RECORD`] and a block, and [`KEPT`] for each of at most [`MOST_RUNS`] runs.

use super::reader::{BLOCK, LONGEST_RECORD};
use crate::record::id::{ID_LEN, Id};
use crate::record::stored::{Checker, Digest, NotStored, PREFIX_LEN, id_at};
use crate::unit::Bytes;
use crate::world::fs::{File, read_full_at};
use memchr::{memchr, memchr_iter, memrchr};
use std::fmt;
use std::io;

/// What the page cache writes, and loses, as one.
const PAGE: u64 = 4096;

/// How often a page is read before it counts as one that cannot be.
const TRIES: u32 = 4;

/// What a disk writes as one.
const SECTOR: u64 = 512;

/// The most runs that are told apart; records that continue none of them are left out.
pub const MOST_RUNS: usize = 16;

/// How much of a run is collected before it is handed on.
const KEPT: usize = 64 << 10;

/// What is wrong with a file, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Its bytes are not ascending records.
    NotStored(NotStored),
    /// Zeroes lie where records were.
    Hole {
        /// Where they begin.
        at: Bytes,
        /// How many they are.
        len: Bytes,
    },
    /// The medium does not give a page.
    Unreadable {
        /// Where it begins.
        at: Bytes,
        /// What the system says.
        why: String,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::NotStored(fault) => fault.fmt(f),
            Flaw::Hole { at, len } => write!(f, "{} bytes of zero from byte {} on", len.0, at.0),
            Flaw::Unreadable { at, why } => write!(f, "byte {} cannot be read: {why}", at.0),
        }
    }
}

/// What a file turned out to hold.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// How long the file is.
    pub size: Bytes,
    /// The whole records, as ascending runs, in the order in which they begin. One run is all that a sound file has.
    pub runs: Vec<Digest>,
    /// The first flaw before the last LF, if there is one.
    pub flaw: Option<Flaw>,
    /// Where the last LF ends: what follows is no record, or the beginning of one.
    pub end: Bytes,
    /// Whether what follows is what an append leaves that did not come to its end: nothing, the beginning of a record, or
    /// zeroes.
    pub ends_as_cut_off: bool,
}

impl Survey {
    /// The records of a file that is sound up to its last LF.
    pub fn sound(&self) -> Option<Digest> {
        match (&self.flaw, self.runs.as_slice()) {
            (None, [one]) if one.len == self.end => Some(*one),
            _ => None,
        }
    }

    /// How many whole records there are.
    pub fn records(&self) -> u64 {
        self.runs.iter().map(|run| run.records).sum()
    }

    /// What is wrong, for people.
    pub fn fault(&self) -> Option<String> {
        let torn = || Flaw::NotStored(NotStored::Torn { at: self.end });
        let flaw = self.flaw.clone().or_else(|| (self.end < self.size).then(torn));
        flaw.map(|flaw| flaw.to_string())
    }
}

/// Whether an error tells of the file, and not of what this process may use: then trying it later changes nothing.
pub fn tells_of_the_file(error: &io::Error) -> bool {
    // ENFILE, EMFILE, ENOMEM, EAGAIN, EINTR: errno(3).
    const OF_THE_PROCESS: [i32; 5] = [23, 24, 12, 11, 4];
    let kinds = [io::ErrorKind::OutOfMemory, io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
    !error.raw_os_error().is_some_and(|code| OF_THE_PROCESS.contains(&code)) && !kinds.contains(&error.kind())
}

/// Where the zeroes of a hole begin and end in `line`, which lies at `at` in its file: the last hole, if there are several.
pub fn hole_in(line: &[u8], at: u64) -> Option<(usize, usize)> {
    let mut page_end = (at + line.len() as u64) / PAGE * PAGE;
    while page_end > at {
        let end = usize::try_from(page_end - at).ok()?;
        page_end -= PAGE;
        if line.get(end - 1) != Some(&0) || line.get(end) == Some(&0) {
            continue;
        }
        let zeroes = line.get(..end)?.iter().rev().take_while(|byte| **byte == 0).count();
        // What the sector before it ends with may be zero by itself.
        let start = (at + (end - zeroes) as u64).next_multiple_of(SECTOR);
        if start + SECTOR <= at + end as u64 {
            return Some((usize::try_from(start - at).ok()?, end));
        }
    }
    None
}

/// Reads a file to its end, hands whole records to `keep`, with the number of their run, in blocks, and says what there is.
/// `may_begin` says whether a run may begin with an identifier: a record that may not is left out.
pub fn sift(
    file: &dyn File,
    may_begin: &dyn Fn(Id) -> bool,
    keep: &mut dyn FnMut(usize, &[u8]) -> io::Result<()>,
) -> io::Result<Survey> {
    let size = file.size()?;
    let mut pages = Pages { file, at: 0, size: size.0, careful_until: 0 };
    let mut lines =
        Lines { sorter: Sorter::new(may_begin, keep), held: Vec::new(), start: 0, end: 0, head: Vec::new() };
    let mut chunk = Vec::new();
    while let Some(gap) = pages.next(&mut chunk)? {
        lines.take(&chunk)?;
        if let Some(flaw) = gap {
            lines.sorter.note(flaw);
            lines.restart(pages.at);
        }
    }
    let ends_as_cut_off = is_cut_off(&lines.head);
    let end = Bytes(lines.end);
    let (runs, flaw) = lines.sorter.finish()?;
    Ok(Survey { size, runs, flaw, end, ends_as_cut_off })
}

/// The same without keeping anything.
pub fn survey(file: &dyn File) -> io::Result<Survey> {
    sift(file, &|_| true, &mut |_, _| Ok(()))
}

/// Whether these first bytes of a line are those of a record that did not come to its end: an identifier and a space, as
/// much as there is, or zeroes from some point on.
pub(super) fn is_cut_off(head: &[u8]) -> bool {
    let written = memchr(0, head).and_then(|zero| head.get(..zero)).unwrap_or(head);
    let mut whole = *b"00000000000000000000000000 ";
    let n = written.len().min(PREFIX_LEN);
    whole[..n].copy_from_slice(&written[..n]);
    id_at(&whole).is_some()
}

/// A file in chunks, without the pages that cannot be read.
struct Pages<'a> {
    file: &'a dyn File,
    at: u64,
    size: u64,
    /// Up to here pages are read one by one.
    careful_until: u64,
}

impl Pages<'_> {
    /// The next bytes; `None` at the end. With a flaw where a page after them is passed over.
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<Option<Option<Flaw>>> {
        chunk.clear();
        if self.at >= self.size {
            return Ok(None);
        }
        if self.at >= self.careful_until {
            match self.read(chunk, BLOCK as u64) {
                Err(e) if tells_of_the_file(&e) => self.careful_until = (self.at + BLOCK as u64).min(self.size),
                Err(e) => return Err(e),
                Ok(()) => return Ok(Some(None)),
            }
        }
        let mut read = self.read(chunk, PAGE - self.at % PAGE);
        for _ in 1..TRIES {
            if read.as_ref().is_err_and(tells_of_the_file) {
                read = self.read(chunk, PAGE - self.at % PAGE);
            }
        }
        match read {
            Ok(()) => Ok(Some(None)),
            Err(e) if tells_of_the_file(&e) => {
                let flaw = Flaw::Unreadable { at: Bytes(self.at), why: e.to_string() };
                self.at = (self.at / PAGE + 1) * PAGE;
                Ok(Some(Some(flaw)))
            }
            Err(e) => Err(e),
        }
    }

    fn read(&mut self, chunk: &mut Vec<u8>, wanted: u64) -> io::Result<()> {
        let wanted = wanted.min(self.size - self.at);
        chunk.resize(usize::try_from(wanted).unwrap_or(BLOCK), 0);
        let got = read_full_at(self.file, chunk, Bytes(self.at)).inspect_err(|_| chunk.clear())?;
        chunk.truncate(got);
        // A file that became shorter meanwhile has ended.
        self.at = if got == 0 { self.size } else { self.at + got as u64 };
        Ok(())
    }
}

/// Cuts chunks into lines.
struct Lines<'a> {
    sorter: Sorter<'a>,
    /// The beginning of a line that has no LF yet, or what is left of one that is too long.
    held: Vec<u8>,
    /// Where `held` begins in the file.
    start: u64,
    /// Where the last LF ends.
    end: u64,
    /// The first bytes after the last LF.
    head: Vec<u8>,
}

impl Lines<'_> {
    fn take(&mut self, chunk: &[u8]) -> io::Result<()> {
        let known = self.held.len();
        self.held.extend_from_slice(chunk);
        let missing = PREFIX_LEN - self.head.len().min(PREFIX_LEN);
        self.head.extend(chunk.iter().take(missing));
        let Some(last) = memrchr(b'\n', self.held.get(known..).unwrap_or_default()) else {
            self.forget_what_is_too_long();
            return Ok(());
        };
        let whole = known + last + 1;
        let held = std::mem::take(&mut self.held);
        let mut from = 0;
        for lf in memchr_iter(b'\n', &held[..whole]) {
            self.sorter.line(&held[from..=lf], self.start + from as u64)?;
            from = lf + 1;
        }
        self.start += whole as u64;
        self.end = self.start;
        self.held = held;
        self.held.drain(..whole);
        self.head = self.held.iter().take(PREFIX_LEN).copied().collect();
        Ok(())
    }

    /// A line that is longer than any record can be is none; one may still begin behind zeroes in it.
    fn forget_what_is_too_long(&mut self) {
        if self.held.len() > LONGEST_RECORD {
            let cut = memrchr(0, &self.held).filter(|zero| self.held.len() - zero <= LONGEST_RECORD);
            // One zero stays, so that what follows is not taken for the beginning of a line.
            let cut = cut.unwrap_or(self.held.len() - 1);
            self.held.drain(..cut);
            self.held[0] = 0;
            self.start += cut as u64;
        }
    }

    /// What was held is torn off: bytes after it are missing up to `at`.
    fn restart(&mut self, at: u64) {
        (self.start, self.end) = (at, at);
        self.held.clear();
        self.head.clear();
    }
}

/// Tells records from what is none, and puts them into runs.
struct Sorter<'a> {
    may_begin: &'a dyn Fn(Id) -> bool,
    keep: &'a mut dyn FnMut(usize, &[u8]) -> io::Result<()>,
    runs: Vec<Run>,
    flaw: Option<Flaw>,
    /// The record before the one that waits, as far as it was kept.
    before: Option<Id>,
    /// A record that is kept or left out when its successor is known.
    waiting: Option<(Id, u64)>,
    text: Vec<u8>,
}

#[derive(Default)]
struct Run {
    checker: Checker,
    last: Option<Id>,
    kept: Vec<u8>,
}

impl<'a> Sorter<'a> {
    fn new(may_begin: &'a dyn Fn(Id) -> bool, keep: &'a mut dyn FnMut(usize, &[u8]) -> io::Result<()>) -> Sorter<'a> {
        let (runs, text) = (Vec::new(), Vec::new());
        Sorter { may_begin, keep, runs, flaw: None, before: None, waiting: None, text }
    }

    fn note(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
    }

    fn line(&mut self, line: &[u8], at: u64) -> io::Result<()> {
        let hole = hole_in(line, at);
        match hole {
            Some((from, to)) => {
                self.note(Flaw::Hole { at: Bytes(at + from as u64), len: Bytes((to - from) as u64) });
            }
            None => match id_at(line) {
                Some(id) => return self.record(id, line, at),
                None => self.note(Flaw::NotStored(NotStored::BadId { at: Bytes(at) })),
            },
        }
        // Behind the last hole, or behind any zeroes where there is none.
        let from = hole.map_or(0, |(_, to)| to - 1);
        let zeroes = memchr_iter(0, &line[from..]).map(|zero| from + zero + 1);
        let begins = |at: &usize| line.get(*at..at + ID_LEN + 1).is_some_and(|front| id_at(front).is_some());
        let Some(start) = zeroes.into_iter().find(begins) else { return Ok(()) };
        match id_at(&line[start..]) {
            Some(id) => self.record(id, &line[start..], at + start as u64),
            None => Ok(()),
        }
    }

    fn record(&mut self, id: Id, whole: &[u8], at: u64) -> io::Result<()> {
        self.settle(Some(id))?;
        self.waiting = Some((id, at));
        self.text.clear();
        self.text.extend_from_slice(whole);
        Ok(())
    }

    /// Keeps the record that waits, or leaves it out if its neighbours are in order without it.
    fn settle(&mut self, next: Option<Id>) -> io::Result<()> {
        let Some((id, at)) = self.waiting.take() else { return Ok(()) };
        let descends = |after| Flaw::NotStored(NotStored::Descends { at: Bytes(at), id, after });
        let after = self.before.is_none_or(|before| before < id);
        if let Some(before) = self.before.filter(|_| !after) {
            self.note(descends(before));
        }
        let fits = match (self.before, next) {
            (None, None) => true,
            (Some(_), None) => after,
            (None, Some(next)) => id < next,
            (Some(before), Some(next)) => (after && id < next) || before >= next,
        };
        if !fits {
            if let Some(next) = next.filter(|_| after) {
                let at = Bytes(at + self.text.len() as u64);
                self.note(Flaw::NotStored(NotStored::Descends { at, id: next, after: id }));
            }
            return Ok(());
        }
        self.before = Some(id);
        let run = self.runs.iter().position(|run| run.last.is_none_or(|last| last < id));
        let number = match run {
            Some(number) => number,
            None if self.runs.len() < MOST_RUNS && (self.may_begin)(id) => {
                self.runs.push(Run::default());
                self.runs.len() - 1
            }
            None => return Ok(()),
        };
        let Some(run) = self.runs.get_mut(number) else { return Ok(()) };
        run.last = Some(id);
        run.kept.extend_from_slice(&self.text);
        if run.kept.len() >= KEPT { hand_on(run, number, self.keep) } else { Ok(()) }
    }

    fn finish(mut self) -> io::Result<(Vec<Digest>, Option<Flaw>)> {
        self.settle(None)?;
        for (number, run) in self.runs.iter_mut().enumerate() {
            hand_on(run, number, self.keep)?;
        }
        Ok((self.runs.iter().filter_map(|run| run.checker.digest()).collect(), self.flaw))
    }
}

fn hand_on(run: &mut Run, number: usize, keep: &mut dyn FnMut(usize, &[u8]) -> io::Result<()>) -> io::Result<()> {
    if run.kept.is_empty() {
        return Ok(());
    }
    run.checker.take(&run.kept).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    keep(number, &run.kept)?;
    run.kept.clear();
    Ok(())
}

#[cfg(test)]
#[path = "sift_tests.rs"]
mod tests;
