//! Writing a store segment of either form: `.active` while it grows, synced, then named by what it turned out to hold.
//!
//! A segment that is dropped before it has its final name takes its file with it.

use crate::record::id::Id;
use crate::record::stored::{Checker, Digest, NotStored};
use crate::segment::handle::Known;
use crate::segment::recover::examine;
use crate::segment::sealed::{Sealed, SealedText, SealedWriter};
use crate::segment::{Bounds, Form, Segment, State};
use crate::unit::Bytes;
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
    packing: Packing,
}

/// How records become bytes of the file.
enum Packing {
    Plain(Checker),
    Sealed(Box<SealedWriter>),
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
    pub fn begin(fs: &Arc<dyn FileSystem>, dir: &Path, first: Id, form: Form) -> io::Result<Writer> {
        for n in 0..MOST_NAMES {
            let path = dir.join(Bounds::Range(first, first, n).file_name(State::Active));
            match fs.create_new(&path) {
                Ok(file) => {
                    let draft = Draft { fs: fs.clone(), path, kept: false };
                    let packing = match form {
                        Form::Plain => Packing::Plain(Checker::default()),
                        Form::Sealed => Packing::Sealed(Box::new(SealedWriter::new(file.clone())?)),
                    };
                    return Ok(Writer { draft, file, packing });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Adds a block of whole stored records, after looking at each one.
    pub fn append(&mut self, block: &[u8]) -> Result<(), WriteError> {
        match &mut self.packing {
            Packing::Plain(checker) => {
                checker.take(block).map_err(WriteError::NotStored)?;
                Ok(self.file.append(block)?)
            }
            Packing::Sealed(writer) => Ok(writer.append(block)?),
        }
    }

    /// Ends it, and brings it to stable storage. After an error nothing is left of it.
    pub fn sync(self) -> io::Result<Synced> {
        let Writer { draft, file, packing } = self;
        let (digest, disk, form) = match packing {
            Packing::Plain(checker) => {
                let digest = checker.digest().ok_or_else(|| invalid("a segment without records"))?;
                (digest, digest.len, Form::Plain)
            }
            Packing::Sealed(writer) => {
                let (digest, disk) = writer.finish()?;
                (digest, disk, Form::Sealed)
            }
        };
        file.sync_data()?;
        if file.size()? != disk {
            return Err(invalid("the file is not as long as what was written to it"));
        }
        Ok(Synced { draft, file, digest, disk, form })
    }
}

/// A segment whose content is on stable storage, and whose name is still that of a draft.
pub struct Synced {
    draft: Draft,
    file: Arc<dyn File>,
    digest: Digest,
    disk: Bytes,
    form: Form,
}

impl Synced {
    /// What it holds.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How long the file is.
    pub fn disk(&self) -> Bytes {
        self.disk
    }

    /// Reads it back: every record, and of a sealed one the index. `Err` in the middle: what is in the file is something else.
    pub fn read_back(&self) -> io::Result<Result<(), String>> {
        let text: Arc<dyn File> = match self.form {
            Form::Plain => self.file.clone(),
            Form::Sealed => {
                let sealed = Sealed::open(self.file.clone())?;
                let damaged = sealed.damaged_sections()?;
                if let Some(why) = sealed.fault().or_else(|| damaged.first().map(|section| section.to_string())) {
                    return Ok(Err(format!("the index is not what was written: {why}")));
                }
                Arc::new(SealedText::new(Arc::new(sealed)))
            }
        };
        let examined = examine(&text)?;
        let is_same = examined.fault.is_none() && examined.digest == Some(self.digest);
        Ok(if is_same { Ok(()) } else { Err(format!("{examined:?} was read, {:?} was written", self.digest)) })
    }

    /// Gives it a name that nobody has. Durable only when the caller has synced the directory.
    pub fn name(mut self) -> io::Result<Arc<Segment>> {
        let known = Known { disk: self.disk, form: self.form, ..Known::from(self.digest) };
        let segment = Arc::new(Segment::new(self.draft.fs.clone(), self.draft.path.clone(), known));
        rename_free(&segment, segment.resting_state())?;
        self.draft.kept = true;
        Ok(segment)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
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
