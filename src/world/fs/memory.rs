//! Files in memory that fail like a disk: for tests and demonstrations.
//!
//! What a disk may forget is modelled, so that a missing sync is found by a test and not by a power cut. Content, length
//! and directory entries reach the disk apart from each other:
//!
//! - of a file, what was appended since the last sync survives a crash as any prefix: its length may have reached the
//!   disk and its content not. Any 4 KiB page of it may be zeroes, from a sector of 512 bytes on or in any sectors;
//! - a truncation that was not synced may not have happened, or halfway: the old length, with what was written since, or
//!   zeroes, in any pages behind the cut (ext4 and XFS write the zeroes of the last page before the new length);
//! - of a directory, the creations of files and directories, renames, removals and set times since the last sync survive
//!   as any prefix, and after it any subset that leaves the order of changes to one name and to one file as it was. No
//!   change half happens: a rename has both names or neither. With a directory goes all that is in it;
//! - a file sync that fails leaves the pages marked clean, as Linux does: the next sync succeeds without them, and a
//!   crash turns them to zeroes, even where a later write would have brought them along;
//! - a directory sync that fails may have brought some changes, and leaves the others marked clean: a later sync brings
//!   them only along with a later change to the same name or file. A crash may still find them.
//!
//! A crash can be planned before any operation ([`MemoryFs::crash_at`]), and what it would leave can be looked at while
//! the disk goes on ([`MemoryFs::image`], [`MemoryFs::watch`]). The medium can be full, the n-th operation of a sort can
//! fail, or any by chance ([`MemoryFs::misbehave`]). Everything lies behind one mutex, held for one copy of memory at
//! most. Memory is bounded by the capacity, which is unlimited unless it is set. An image shares all bytes with the disk
//! it was taken of, until one of the two changes them.
//!
//! Left out: links, permissions, renames between directories (refused, since nothing rests on their order), and files
//! that hold their room after they were removed because they are open.

use crate::unit::Bytes;
use crate::world::clock::{Clock, SystemClock};
use crate::world::crew::lock;
use crate::world::entropy::Dice;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

mod directory;
mod faults;
#[cfg(test)]
mod image_tests;
mod images;
mod inode;
#[cfg(test)]
mod model_tests;
mod operations;
#[cfg(test)]
mod tests;

pub use faults::{Fault, Misbehaviour, Op, Tally};
pub use images::{Picture, Watch};

use directory::{Dir, Kind, Name, Node};
use faults::Planned;
use images::Subject;
use inode::FileNode;

/// The directory that relative paths begin at.
const RELATIVE: usize = 0;

/// The directory that absolute paths begin at.
const ABSOLUTE: usize = 1;

/// A file system in memory. Clones are handles to the same one.
#[derive(Clone)]
pub struct MemoryFs {
    state: Arc<Mutex<State>>,
}

impl Default for MemoryFs {
    fn default() -> MemoryFs {
        MemoryFs::new()
    }
}

impl MemoryFs {
    /// An empty one without a limit, whose files are as old as the machine's clock says.
    pub fn new() -> MemoryFs {
        MemoryFs::with_clock(Arc::new(SystemClock::default()))
    }

    /// An empty one without a limit, whose files are as old as `clock` says.
    pub fn with_clock(clock: Arc<dyn Clock>) -> MemoryFs {
        let dirs = vec![Dir::default(), Dir::default()];
        MemoryFs { state: Arc::new(Mutex::new(State::new(clock, Bytes(u64::MAX), dirs, 0))) }
    }

    /// Sets the size of the medium. Beyond it writes are short and end in [`io::ErrorKind::StorageFull`]. Names are
    /// free.
    pub fn set_capacity(&self, to: Bytes) {
        lock(&self.state).capacity = to;
    }

    /// How many operations that change or sync something have begun. Reading and listing do not count.
    pub fn operations(&self) -> u64 {
        lock(&self.state).operations
    }

    /// From the operation of this index on (the first one ever is 0) nothing works any more, reading neither, until
    /// [`MemoryFs::recover`].
    pub fn crash_at(&self, operation: u64) {
        lock(&self.state).crash_at = Some(operation);
    }

    /// Cuts the power: what was not synced is lost in a way that the dice choose. Open files fail from now on, locks
    /// are free. A crash that was planned with [`MemoryFs::crash_at`] still stands until [`MemoryFs::recover`].
    pub fn crash(&self, dice: &mut Dice) {
        let mut state = lock(&self.state);
        let State { dirs, used, .. } = state.survivor(Some(dice));
        (state.dirs, state.used) = (dirs, used);
        state.tally.crashes += 1;
        state.next_life();
    }

    /// Begins a new life: operations work again, files opened before fail, locks are free, planned faults are
    /// forgotten; a disk that misbehaves goes on so. Without a [`MemoryFs::crash`] before it, this is a killed process:
    /// nothing is lost.
    pub fn recover(&self) {
        let mut state = lock(&self.state);
        state.crash_at = None;
        state.planned.clear();
        state.next_life();
    }
}

struct State {
    clock: Arc<dyn Clock>,
    /// All directories, a directory behind the one it is in.
    dirs: Vec<Dir>,
    capacity: Bytes,
    /// Bytes in files that have a name.
    used: u64,
    operations: u64,
    crash_at: Option<u64>,
    planned: Vec<Planned>,
    misbehaviour: Option<Misbehaviour>,
    watch: Option<Watch>,
    pictures: Vec<Picture>,
    tally: Tally,
    /// Directories that are locked.
    locks: Vec<usize>,
    /// Counts crashes and recoveries, so that what was opened in an earlier life is known.
    life: u64,
}

impl State {
    fn up(&self) -> io::Result<()> {
        let down = self.crash_at.is_some_and(|at| self.operations >= at);
        if down { Err(io::Error::other("the machine is down")) } else { Ok(()) }
    }

    /// Before an operation that only looks.
    fn look(&mut self, op: Op) -> io::Result<()> {
        self.up()?;
        self.tally.count(op);
        Ok(())
    }

    /// Before an operation that changes or syncs.
    fn begin(&mut self, op: Op, on: Subject<'_>) -> io::Result<()> {
        self.look(op)?;
        if self.watch.is_some() {
            self.take_pictures(op, on);
        }
        self.operations += 1;
        Ok(())
    }

    /// The directory of a path.
    fn dir(&self, path: &Path) -> io::Result<usize> {
        self.walk(path.as_os_str().as_bytes(), path)
    }

    /// The directory of a path, and the name in it.
    fn place<'a>(&self, path: &'a Path) -> io::Result<(usize, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| not_found(path))?;
        let before = path.parent().unwrap_or(path);
        Ok((self.walk(before.as_os_str().as_bytes(), path)?, name))
    }

    /// Follows names from a root. `.` and empty names stay where they are, `..` is not known.
    fn walk(&self, names: &[u8], path: &Path) -> io::Result<usize> {
        let mut at = if names.first() == Some(&b'/') { ABSOLUTE } else { RELATIVE };
        for name in names.split(|byte| *byte == b'/') {
            if name.is_empty() || name == b"." {
                continue;
            }
            at = match self.dirs[at].find(OsStr::from_bytes(name)) {
                Some(Node::Dir(below)) => *below,
                Some(Node::File(_)) => return Err(io::Error::new(io::ErrorKind::NotADirectory, shown(path))),
                None => return Err(not_found(path)),
            };
        }
        Ok(at)
    }

    fn file(&self, path: &Path) -> io::Result<FileNode> {
        let (dir, name) = self.place(path)?;
        match self.dirs[dir].find(name) {
            Some(Node::File(file)) => Ok(file.clone()),
            Some(Node::Dir(_)) => Err(io::Error::new(io::ErrorKind::IsADirectory, shown(path))),
            None => Err(not_found(path)),
        }
    }

    fn make_dir(&mut self, parent: usize, name: &OsStr) -> usize {
        let (made, name) = (self.dirs.len(), Name::from(name));
        self.dirs.push(Dir { parent, name: Some(name.clone()), ..Dir::default() });
        self.dirs[parent].change(Node::Dir(made), Kind::Create { name });
        made
    }

    fn next_life(&mut self) {
        self.life += 1;
        self.locks.clear();
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file or directory: {}", path.display()))
}

fn taken(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("file exists: {}", path.display()))
}
