//! A segment file that may be renamed or given up while somebody still reads it.
//!
//! Readers hold a [`Segment`], not a path. It is opened when it is first read and shared while anybody reads it, so ten
//! thousand segments cost no descriptors. Renames go through it, so a reader that opens late opens the right name.
//! Whoever gives a segment up waits until no reader holds it ([`Graveyard`]) before the file goes.

use super::checked::Checked;
use super::name::{Form, State};
use super::sealed::{Sealed, SealedText, form_of};
use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::unit::Bytes;
use crate::world::crew::lock;
use crate::world::fs::{File, FileSystem};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// What is known of a segment. One that was found at the start, and not read yet, is known by its ends and length alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// The smallest id.
    pub first: Id,
    /// The largest id.
    pub last: Id,
    /// How many bytes of stored records.
    pub len: Bytes,
    /// How many bytes the file has: the same if it is plain.
    pub disk: Bytes,
    /// How the file holds them.
    pub form: Form,
    /// How many records, if they were counted.
    pub records: Option<u64>,
    /// CRC-32 (IEEE 802.3) of all the stored records, if they were read.
    pub crc32: Option<u32>,
}

impl Known {
    /// A plain file of which no more is known than this.
    pub fn by_ends(first: Id, last: Id, len: Bytes) -> Known {
        Known { first, last, len, disk: len, form: Form::Plain, records: None, crc32: None }
    }

    /// The same records in a sealed file of `disk` bytes.
    pub fn sealed(self, disk: Bytes) -> Known {
        Known { disk, form: Form::Sealed, ..self }
    }

    /// The first id, the last id, and the length.
    pub fn ends(&self) -> (Id, Id, Bytes) {
        (self.first, self.last, self.len)
    }

    /// All of it, if all of it is known.
    pub fn whole(&self) -> Option<Digest> {
        let (records, crc32) = (self.records?, self.crc32?);
        Some(Digest { first: self.first, last: self.last, records, len: self.len, crc32 })
    }
}

impl From<Digest> for Known {
    fn from(digest: Digest) -> Known {
        let Digest { first, last, records, len, crc32 } = digest;
        Known { records: Some(records), crc32: Some(crc32), ..Known::by_ends(first, last, len) }
    }
}

/// A finished segment file: its content never changes, its name may.
pub struct Segment {
    fs: Arc<dyn FileSystem>,
    known: Known,
    place: Mutex<Place>,
    checked: Checked,
    /// The index of a sealed file was found damaged.
    slow: AtomicBool,
}

struct Place {
    path: PathBuf,
    open: Weak<dyn File>,
    sealed: Weak<Sealed>,
}

/// An open segment, as it is on the disk.
#[derive(Clone)]
pub enum Content {
    /// Stored records as they are.
    Plain(Arc<dyn File>),
    /// Packed in blocks.
    Sealed(Arc<Sealed>),
}

impl Content {
    /// Its stored records as a file.
    pub fn text(self) -> Arc<dyn File> {
        match self {
            Content::Plain(file) => file,
            Content::Sealed(sealed) => Arc::new(SealedText::new(sealed)),
        }
    }

    /// What it is if it is packed.
    pub fn sealed(self) -> Option<Arc<Sealed>> {
        match self {
            Content::Plain(_) => None,
            Content::Sealed(sealed) => Some(sealed),
        }
    }
}

impl Segment {
    /// A segment that lies at `path` and holds what a [`Digest`], or a [`Known`], says.
    pub fn new(fs: Arc<dyn FileSystem>, path: PathBuf, known: impl Into<Known>) -> Segment {
        let nobody: Weak<dyn File> = Weak::<crate::world::fs::nop::NopFile>::new();
        Segment {
            fs,
            known: known.into(),
            place: Mutex::new(Place { path, open: nobody, sealed: Weak::new() }),
            checked: Checked::default(),
            slow: AtomicBool::new(false),
        }
    }

    /// First and last id and bytes; records and checksum if they are known.
    pub fn digest(&self) -> &Known {
        &self.known
    }

    /// How its file holds the records.
    pub fn form(&self) -> Form {
        self.known.form
    }

    /// The state in which it answers queries while nobody works on it: `.flushed` or `.sealed`.
    pub fn resting_state(&self) -> State {
        self.known.form.resting_state()
    }

    /// Notes that the index of a sealed file is damaged: it has cost time to read, and it should be written anew. True for
    /// the first who says so.
    pub fn note_damaged_index(&self) -> bool {
        !self.slow.swap(true, Ordering::Relaxed)
    }

    /// Whether its index was found damaged.
    pub fn has_damaged_index(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// What is known of its parts.
    pub(super) fn checked(&self) -> &Checked {
        &self.checked
    }

    /// Where it lies now.
    pub fn path(&self) -> PathBuf {
        lock(&self.place).path.clone()
    }

    /// Its stored records as a file, whichever form it has; opened now if nobody has it open.
    pub fn open(&self) -> io::Result<Arc<dyn File>> {
        Ok(match self.content()? {
            Content::Plain(file) => file,
            Content::Sealed(sealed) => Arc::new(self.checked.watch(SealedText::new(sealed))),
        })
    }

    /// The open file in the form it has; opened now if nobody has it open.
    pub fn content(&self) -> io::Result<Content> {
        // Opening under the lock keeps a rename from coming between the path and the open.
        let mut place = lock(&self.place);
        if let Some(file) = place.open.upgrade() {
            return Ok(Content::Plain(file));
        }
        if let Some(sealed) = place.sealed.upgrade() {
            return Ok(Content::Sealed(sealed));
        }
        let file = self.fs.open(&place.path)?;
        if form_of(&*file)? == Form::Plain {
            if self.form() == Form::Sealed {
                let why = format!("{} is damaged: its first bytes are others", place.path.display());
                let error = io::Error::new(io::ErrorKind::InvalidData, why);
                self.checked.note(&error);
                return Err(error);
            }
            place.open = Arc::downgrade(&file);
            return Ok(Content::Plain(file));
        }
        let sealed = Sealed::open(file).inspect_err(|e| self.checked.note(e))?;
        self.judge_index(&place.path, &sealed)?;
        let sealed = Arc::new(sealed);
        place.sealed = Arc::downgrade(&sealed);
        Ok(Content::Sealed(sealed))
    }

    /// An index that had to be made anew costs time alone, unless blocks are missing.
    fn judge_index(&self, path: &Path, sealed: &Sealed) -> io::Result<()> {
        let (found, path) = (Known::from(*sealed.digest()), path.display());
        if found.ends() != self.known.ends() {
            let why = sealed.fault().unwrap_or_else(|| "its records are others".to_string());
            let (is, was) = (found.len.0, self.known.len.0);
            let why = format!("{path} is damaged: {why}, and {is} of {was} bytes of records are found");
            let error = io::Error::new(io::ErrorKind::InvalidData, why);
            self.checked.note(&error);
            return Err(error);
        }
        self.judge_speed(sealed, path);
        Ok(())
    }

    fn judge_speed(&self, sealed: &Sealed, path: impl std::fmt::Display) {
        if let Some(why) = sealed.fault()
            && self.note_damaged_index()
        {
            log::warn!("{path}: {why}: all its records are there, and reading it takes longer");
        }
    }

    /// Notes what asking the index of its file has shown.
    pub fn note_index(&self, sealed: &Sealed) {
        if sealed.fault().is_some() {
            self.judge_speed(sealed, self.path().display());
        }
    }

    /// Renames the file to another name in its directory that nobody else has. On an error it keeps the one it had.
    pub fn rename(&self, file_name: &str) -> io::Result<()> {
        let mut place = lock(&self.place);
        let to = place.path.with_file_name(file_name);
        if to == place.path {
            return Ok(());
        }
        rename_surely(self.fs.as_ref(), &place.path, &to)?;
        place.path = to;
        Ok(())
    }

    /// Renames the file to a `.corrupt` name that nobody has. Readers go on with it: they hold this, not its name.
    pub fn set_aside(&self) -> io::Result<PathBuf> {
        let mut place = lock(&self.place);
        place.path = set_aside(self.fs.as_ref(), &place.path)?;
        Ok(place.path.clone())
    }

    /// The same with the name that says that what is whole in it is still to be copied.
    pub fn mark_damaged(&self) -> io::Result<PathBuf> {
        let mut place = lock(&self.place);
        place.path = mark_damaged(self.fs.as_ref(), &place.path)?;
        Ok(place.path.clone())
    }

    /// Removes the file. Only when no reader is left.
    fn remove(&self) -> io::Result<()> {
        self.fs.remove(&lock(&self.place).path)
    }
}

/// Segments that were given up and wait for their last reader.
#[derive(Default)]
pub struct Graveyard {
    waiting: Mutex<Vec<Arc<Segment>>>,
}

impl Graveyard {
    /// Gives a segment up: it is removed by a later [`Graveyard::sweep`].
    pub fn give_up(&self, segment: Arc<Segment>) {
        lock(&self.waiting).push(segment);
    }

    /// Removes those that nobody reads any more. Gives what could not be removed, with the reason; it is not kept.
    pub fn sweep(&self) -> Vec<(PathBuf, io::Error)> {
        let mut free = Vec::new();
        lock(&self.waiting).retain(|segment| {
            let read = Arc::strong_count(segment) > 1;
            if !read {
                free.push(segment.clone());
            }
            read
        });
        free.into_iter().filter_map(|segment| segment.remove().err().map(|e| (segment.path(), e))).collect()
    }

    /// How many still wait.
    pub fn len(&self) -> usize {
        lock(&self.waiting).len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The extension, with its dot, of a damaged ingest file while what is whole in it is copied.
pub const DAMAGED: &str = ".damaged";

/// How many names are tried for a file that is put aside.
const MOST_NAMES: u32 = 10_000;

/// The most bytes of a name that are kept before an extension: a name has at most 255 (`NAME_MAX`).
const LONGEST_STEM: usize = 230;

/// Renames `path` to `path.corrupt`, or to `path.1.corrupt` and so on where that is taken. Gives the new path. On an error
/// it has the name it had.
pub fn set_aside(fs: &dyn FileSystem, path: &Path) -> io::Result<PathBuf> {
    rename_beside(fs, path, ".corrupt")
}

/// The same with `.damaged`, which says that what is whole in it is still to be copied. A file that has it keeps its name.
pub fn mark_damaged(fs: &dyn FileSystem, path: &Path) -> io::Result<PathBuf> {
    if path.to_string_lossy().ends_with(DAMAGED) {
        return Ok(path.to_path_buf());
    }
    rename_beside(fs, path, DAMAGED)
}

/// Renames to a name that nobody has. An error may come though it was done; then it was done.
pub fn rename_surely(fs: &dyn FileSystem, from: &Path, to: &Path) -> io::Result<()> {
    let is_gone = |path| matches!(fs.open(path), Err(e) if e.kind() == io::ErrorKind::NotFound);
    match fs.rename_new(from, to) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists && is_gone(from) && !is_gone(to) => Ok(()),
        other => other,
    }
}

fn rename_beside(fs: &dyn FileSystem, path: &Path, extension: &str) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.strip_suffix(DAMAGED).unwrap_or(&name);
    let cut = (0..=LONGEST_STEM.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
    let stem = name.get(..cut).unwrap_or_default();
    for n in 0..MOST_NAMES {
        let number = if n == 0 { String::new() } else { format!(".{n}") };
        let to = path.with_file_name(format!("{stem}{number}{extension}"));
        match rename_surely(fs, path, &to) {
            Ok(()) => return Ok(to),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{MOST_NAMES} names like {stem}{extension} are taken")))
}
