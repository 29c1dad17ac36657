//! One compaction, carried out: inputs are read, outputs are synced and read back, and only then do names change hands.
//!
//! ```text
//! inputs -> .reading | merge -> .active | sync | read back | LOW-HIGH[-N].flushed or .sealed | sync directory | catalogue | give inputs up
//! ```
//!
//! At every point before the last, the inputs are there, and after it the outputs are. Memory: two blocks (512 KiB) for each
//! input, of which there are at most [`super::plan::MOST_INPUTS`], and one run.

use crate::merge::k_way::{Merge, MergeError, Source};
use crate::record::id::Id;
use crate::record::stored::records;
use crate::segment::reader::{BLOCK, BlockReader, FileRange};
use crate::segment::{Form, Segment, State};
use crate::store::log::StoreLog;
use crate::store::writer::{Synced, WriteError, Writer, rename_free};
use crate::unit::Bytes;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Why a compaction came to nothing. Its inputs are as they were.
#[derive(Debug)]
pub enum CompactError {
    /// One of the inputs cannot be merged.
    Input {
        /// Its place among them.
        index: usize,
        /// What is wrong with it.
        source: MergeError,
    },
    /// The file system refused.
    Io {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// What was written is not what was read: a fault of the disk, or ours.
    Wrong(String),
}

impl CompactError {
    fn io(doing: &'static str) -> impl Fn(io::Error) -> CompactError {
        move |source| CompactError::Io { doing, source }
    }
}

impl fmt::Display for CompactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompactError::Input { source, .. } => source.fmt(f),
            CompactError::Io { doing, source } => write!(f, "{doing} while compacting: {source}"),
            CompactError::Wrong(what) => write!(f, "checking what a compaction wrote: {what}"),
        }
    }
}

impl std::error::Error for CompactError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CompactError::Input { source, .. } => Some(source),
            CompactError::Io { source, .. } => Some(source),
            CompactError::Wrong(_) => None,
        }
    }
}

/// Where outputs end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cuts {
    /// After the record that brings one to this length.
    pub at: Bytes,
    /// Before a record that would take one over this.
    pub never_over: Bytes,
}

/// Replaces the inputs by their merge, in files of this form. Gives how many bytes that took to write.
pub fn execute(store: &StoreLog, inputs: &[Arc<Segment>], cuts: Cuts, form: Form) -> Result<Bytes, CompactError> {
    let result = replace(store, inputs, cuts, form);
    match &result {
        Ok(_) => inputs.iter().for_each(|input| store.graveyard().give_up(input.clone())),
        Err(_) => inputs.iter().for_each(|input| put_back(input)),
    }
    result
}

fn put_back(input: &Segment) {
    let path = input.path();
    if crate::store::writer::state_of(input) == Some(State::Reading)
        && let Err(e) = rename_free(input, input.resting_state())
    {
        // It answers queries under either name.
        log::warn!("renaming {} back: {e}", path.display());
    }
}

fn replace(store: &StoreLog, inputs: &[Arc<Segment>], cuts: Cuts, form: Form) -> Result<Bytes, CompactError> {
    for input in inputs {
        rename_free(input, State::Reading).map_err(CompactError::io("renaming an input"))?;
    }
    let outputs = write(store, inputs, cuts, form)?;
    check(inputs, &outputs)?;
    let written = outputs.iter().fold(0u64, |sum, output| sum.saturating_add(output.disk().0));
    let named = store.name_all(outputs).map_err(CompactError::io("naming an output"))?;
    store.catalogue().replace(inputs, named);
    Ok(Bytes(written))
}

/// Merges the inputs into synced outputs, which hold each id of the inputs once.
fn write(store: &StoreLog, inputs: &[Arc<Segment>], cuts: Cuts, form: Form) -> Result<Vec<Synced>, CompactError> {
    let counted = std::cell::Cell::new(0);
    let mut merge =
        Merge::new(inputs.iter().map(|segment| Input { segment, open: None, at: 0, counted: &counted }).collect());
    let mut outputs = Outputs { store, cuts, form, synced: Vec::new(), open: None };
    let mut run = Vec::new();
    loop {
        run.clear();
        let more = merge.next_run(&mut run, BLOCK).map_err(|e| CompactError::Input { index: e.index(), source: e })?;
        if !more {
            break;
        }
        outputs.append(&run)?;
    }
    let synced = outputs.finish()?;
    let out: u64 = synced.iter().map(|output| output.digest().records).sum();
    if out != counted.get() - merge.duplicates() {
        let (read, twice) = (counted.get(), merge.duplicates());
        return Err(CompactError::Wrong(format!("{out} records of {read} with {twice} duplicates")));
    }
    Ok(synced)
}

/// Reads the outputs back: they are what was meant to be written, and reach from the first id to the last.
fn check(inputs: &[Arc<Segment>], outputs: &[Synced]) -> Result<(), CompactError> {
    for output in outputs {
        let same = output.read_back().map_err(CompactError::io("reading an output back"))?;
        same.map_err(CompactError::Wrong)?;
    }
    let first = inputs.iter().map(|input| input.digest().first).min();
    let last = inputs.iter().map(|input| input.digest().last).max();
    let ends = (outputs.first().map(|output| output.digest().first), outputs.last().map(|output| output.digest().last));
    if ends != (first, last) {
        return Err(CompactError::Wrong(format!("inputs reach from {first:?} to {last:?}, outputs {ends:?}")));
    }
    Ok(())
}

struct Outputs<'a> {
    store: &'a StoreLog,
    cuts: Cuts,
    form: Form,
    synced: Vec<Synced>,
    open: Option<(Writer, u64)>,
}

impl Outputs<'_> {
    fn append(&mut self, mut run: &[u8]) -> Result<(), CompactError> {
        while !run.is_empty() {
            let (len, ends) = fitting(run, self.open.as_ref().map_or(0, |open| open.1), self.cuts);
            let (front, rest) = run.split_at(len);
            self.append_one(front)?;
            if ends {
                self.end()?;
            }
            run = rest;
        }
        Ok(())
    }

    fn append_one(&mut self, block: &[u8]) -> Result<(), CompactError> {
        let Some(first) = crate::record::stored::id_at(block) else { return Ok(()) };
        let store = self.store;
        let (writer, len) = match &mut self.open {
            Some(open) => open,
            none => none.insert((store.begin(first, self.form).map_err(CompactError::io("creating an output"))?, 0)),
        };
        writer.append(block).map_err(|e| match e {
            WriteError::Io(source) => CompactError::Io { doing: "writing an output", source },
            WriteError::NotStored(fault) => CompactError::Wrong(fault.to_string()),
        })?;
        *len += block.len() as u64;
        store.room().wrote(block.len() as u64);
        store.room().look_after_writing(|| store.clock().now());
        Ok(())
    }

    fn end(&mut self) -> Result<(), CompactError> {
        if let Some((writer, _)) = self.open.take() {
            self.synced.push(self.store.sync(writer).map_err(CompactError::io("syncing an output"))?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Synced>, CompactError> {
        self.end()?;
        Ok(self.synced)
    }
}

/// How much of a run of whole records goes into an output that has `len` bytes, and whether it ends there.
fn fitting(run: &[u8], len: u64, cuts: Cuts) -> (usize, bool) {
    if len + (run.len() as u64) < cuts.at.0.min(cuts.never_over.0) {
        return (run.len(), false);
    }
    let mut taken = 0;
    for record in records(run) {
        let before = len + taken as u64;
        let after = before + record.whole.len() as u64;
        if before > 0 && after > cuts.never_over.0 {
            return (taken, true);
        }
        taken += record.whole.len();
        if after >= cuts.at.0 {
            return (taken, true);
        }
    }
    (run.len(), false)
}

/// A segment as a source of the merge: opened when the merge comes to it, held to its length.
struct Input<'a> {
    segment: &'a Segment,
    open: Option<BlockReader<FileRange>>,
    /// Where the next block begins.
    at: u64,
    /// Records read from all inputs so far.
    counted: &'a std::cell::Cell<u64>,
}

impl Source for Input<'_> {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        let blocks = match &mut self.open {
            Some(blocks) => blocks,
            closed => closed.insert(self.segment.blocks()?),
        };
        let more = blocks.next_block(block)?;
        // The merge checks identifiers. What zeroes have swallowed it would take for a text, and write anew as if it was.
        if more && !self.segment.is_known_whole() {
            self.segment.check_for_holes(block, self.at)?;
            self.at += block.len() as u64;
        }
        let count = memchr::memchr_iter(b'\n', block).count() as u64;
        self.counted.set(self.counted.get() + if more { count } else { 0 });
        Ok(more)
    }

    fn low(&self) -> Id {
        self.segment.digest().first
    }
}
