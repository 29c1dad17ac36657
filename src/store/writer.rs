//! Writing a store segment: `.active` while it grows, synced, then named by what it turned out to hold.
//!
//! A segment that is dropped before it has its final name takes its file with it.

use crate::record::id::Id;
use crate::record::stored::{Checker, Digest, NotStored};
use crate::segment::{Bounds, Segment, State};
use crate::world::fs::{File, FileSystem};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many names that differ in their third part are tried: as many segments may share both ends.
pub(super) const MOST_NAMES: u32 = 10_000;

/// Why a block could not be added to a segment.
#[derive(Debug)]
pub enum WriteError {
    /// They are not stored records in ascending order.
    NotStored(NotStored),
    /// The file system refused.
    Io(io::Error),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::NotStored(fault) => fault.fmt(f),
            WriteError::Io(e) => e.fmt(f),
        }
    }
}

impl From<io::Error> for WriteError {
    fn from(e: io::Error) -> WriteError {
        WriteError::Io(e)
    }
}

/// A segment that grows.
pub struct Writer {
    draft: Draft,
    file: Arc<dyn File>,
    checker: Checker,
}

/// The file while it has no final name; removed when dropped.
struct Draft {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    kept: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(e) = self.fs.remove(&self.path) {
            // Recovery removes it: nobody was ever told that it exists.
            log::warn!("removing unfinished segment {}: {e}", self.path.display());
        }
    }
}

impl Writer {
    /// Begins a segment in `dir` whose first record will have the id `first`. Its last id is not known yet, so the name
    /// says the first one twice.
    pub fn begin(fs: &Arc<dyn FileSystem>, dir: &Path, first: Id) -> io::Result<Writer> {
        for n in 0..MOST_NAMES {
            let path = dir.join(Bounds::Range(first, first, n).file_name(State::Active));
            match fs.create_new(&path) {
                Ok(file) => {
                    let draft = Draft { fs: fs.clone(), path, kept: false };
                    return Ok(Writer { draft, file, checker: Checker::default() });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Adds a block of whole stored records, after looking at each one.
    pub fn append(&mut self, block: &[u8]) -> Result<(), WriteError> {
        self.checker.take(block).map_err(WriteError::NotStored)?;
        Ok(self.file.append(block)?)
    }

    /// Brings it to stable storage. After an error nothing is left of it.
    pub fn seal(self) -> io::Result<Sealed> {
        self.file.sync_data()?;
        let empty = || io::Error::new(io::ErrorKind::InvalidData, "a segment without records");
        let digest = self.checker.digest().ok_or_else(empty)?;
        if self.file.size()? != digest.len {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file is not as long as what was written to it",
            ));
        }
        Ok(Sealed { draft: self.draft, file: self.file, digest })
    }
}

/// A segment whose content is on stable storage, and whose name is still that of a draft.
pub struct Sealed {
    draft: Draft,
    file: Arc<dyn File>,
    digest: Digest,
}

impl Sealed {
    /// What it holds.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The open file, for whoever checks what was written.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Gives it a name that nobody has. Durable only when the caller has synced the directory.
    pub fn name(mut self) -> io::Result<Arc<Segment>> {
        let segment = Arc::new(Segment::new(self.draft.fs.clone(), self.draft.path.clone(), self.digest));
        rename_free(&segment, State::Flushed)?;
        self.draft.kept = true;
        Ok(segment)
    }
}

/// Renames a segment to the name of its ends in a state, with the first third part that is free: another segment with
/// the same two ends may be in that state.
pub fn rename_free(segment: &Segment, state: State) -> io::Result<()> {
    let (first, last) = (segment.digest().first, segment.digest().last);
    for n in 0..MOST_NAMES {
        match segment.rename(&Bounds::Range(first, last, n).file_name(state)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// The state that a segment's name says.
pub fn state_of(segment: &Segment) -> Option<State> {
    let path = segment.path();
    Some(crate::segment::name::parse(path.file_name()?.to_str()?)?.1)
}
