//! Files, behind one small trait: real ones, ones in memory that can be made to fail, and none at all.
//!
//! The trait has just what a log of immutable segments needs. A file is created new, appended to, synced, renamed to a
//! name that nobody has, read at offsets, removed. Nothing is ever replaced.

pub mod memory;
pub mod nop;
pub mod real;

#[cfg(test)]
mod contract_tests;

use crate::unit::{Bytes, UnixMillis};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What the servers ask of a file system.
pub trait FileSystem: Send + Sync {
    /// Makes a directory and its parents; one that exists is fine. Each new entry is synced into its parent, and that of
    /// the first one that exists, since whoever made it may not have come that far.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// What a directory holds, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// When a name in a directory was last added, changed or removed, as its medium tells time; `None` where a list is taken
    /// at one instant. Names that another process changes while they are listed may be missed under both their names: who
    /// must miss none looks at this before and after.
    fn names_changed(&self, _dir: &Path) -> io::Result<Option<UnixMillis>> {
        Ok(None)
    }

    /// Opens a file for reading. A directory is [`io::ErrorKind::IsADirectory`].
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a file for appending and truncating. Only recovery does this.
    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Creates a file for appending and reading; an existing one is [`io::ErrorKind::AlreadyExists`]. Its name is durable
    /// only after [`FileSystem::sync_dir`].
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Renames atomically to a name that nobody has; an existing one is [`io::ErrorKind::AlreadyExists`] and nothing has
    /// changed. After another error it may have happened all the same. Durable only after [`FileSystem::sync_dir`].
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable only after [`FileSystem::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Brings the entries of a directory to stable storage. After an error any of its latest changes may be durable or
    /// not, and a later success need not speak for them.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Sets the time at which a file was last changed.
    fn set_modified(&self, path: &Path, to: UnixMillis) -> io::Result<()>;

    /// Room on the medium that holds `dir`.
    fn space(&self, dir: &Path) -> io::Result<Space>;

    /// Whether what is written can be read again. Where it cannot, a segment ends when it is full: nobody can fetch it.
    fn keeps(&self) -> bool {
        true
    }

    /// How many calls it is worth making at once, from as many threads of the caller: more than 1 where each of them may wait
    /// for a medium. Where it is 1, calls come in the caller's order.
    fn at_once(&self) -> usize {
        1
    }

    /// Creates a file of `size` zeroes whose blocks are the file's own from now on. On an error there is no file; where the file
    /// system cannot promise blocks that is [`io::ErrorKind::Unsupported`].
    fn reserve(&self, path: &Path, size: Bytes) -> io::Result<()>;

    /// Locks a directory for this process until the guard is dropped; [`io::ErrorKind::WouldBlock`] with the holder's own
    /// words in the message if another process has it.
    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// Who holds the lock of a directory, in the holder's own words; `None` while it is free. Only looks: nothing is created,
    /// written or locked. For those who read what belongs to a server.
    fn lock_holder(&self, _dir: &Path) -> io::Result<Option<String>> {
        Ok(None)
    }
}

/// An open file. Methods take `&self`: several threads may read one file at once.
pub trait File: Send + Sync {
    /// Appends all of `bytes`, or fails; a failure may leave some of them at the end of the file.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;

    /// Reads from `offset` on what is there and fits, or less; 0 at the end. May be [`io::ErrorKind::Interrupted`]: then
    /// it is asked again, as [`read_full_at`] does.
    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize>;

    /// The same, appended to `block`: at most `most` bytes. A real file fills memory that nobody has cleared before.
    fn read_onto(&self, block: &mut Vec<u8>, most: usize, offset: Bytes) -> io::Result<usize> {
        read_onto_cleared(self, block, most, offset)
    }

    /// How long the file is now.
    fn size(&self) -> io::Result<Bytes>;

    /// Cuts the file to a length; one that is not longer stays as it is.
    fn truncate(&self, to: Bytes) -> io::Result<()>;

    /// Brings content and length to stable storage (`fdatasync`). After an error the file is suspect: never try again.
    fn sync_data(&self) -> io::Result<()>;
}

/// What can be read but never written, which makes a [`File`] of it.
pub trait ReadAt: Send + Sync {
    /// As [`File::read_at`].
    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize>;

    /// As [`File::size`].
    fn size(&self) -> io::Result<Bytes>;
}

impl<T: ReadAt> File for T {
    fn append(&self, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        ReadAt::read_at(self, buffer, offset)
    }

    fn size(&self) -> io::Result<Bytes> {
        ReadAt::size(self)
    }

    fn truncate(&self, _to: Bytes) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// The last part of the path. A name that is not UTF-8 is given as nearly as it can be shown.
    pub name: String,
    /// Whether this is a plain file. Directories, links and the rest are not.
    pub is_file: bool,
    /// Its length.
    pub size: Bytes,
    /// When it was last changed.
    pub modified: UnixMillis,
}

/// Room on a medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// All of it.
    pub total: Bytes,
    /// What we may still use.
    pub available: Bytes,
}

/// [`File::read_onto`] for any file.
fn read_onto_cleared<F: File + ?Sized>(file: &F, block: &mut Vec<u8>, most: usize, offset: Bytes) -> io::Result<usize> {
    let known = block.len();
    block.resize(known + most, 0);
    let read = file.read_at(&mut block[known..], offset);
    block.truncate(known + read.as_ref().map_or(0, |n| *n));
    read
}

/// Reads at `offset` until the buffer is full or the file ends. Gives how much was read.
pub fn read_full_at(file: &dyn File, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], Bytes(offset.0 + filled as u64)) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
