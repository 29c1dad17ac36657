//! Files in memory that fail like a disk: for tests and demonstrations.
//!
//! What a disk may forget is modelled, so that a missing sync is found by a test and not by a power cut:
//!
//! - of a file, what was appended since the last sync survives a [`MemoryFs::crash`] as any prefix, and within it any
//!   4 KiB page may be zeroes or torn at a sector of 512 bytes; a truncation that was not synced may not have happened;
//! - of a directory, the creations, renames, removals and set times since the last sync survive as any prefix, and
//!   after it any subset that leaves the order of changes to one name and to one file as it was;
//! - a sync that fails leaves the pages marked clean, as Linux does: the next sync succeeds without them, and a crash
//!   turns them to zeroes.
//!
//! A crash can be planned before any operation ([`MemoryFs::crash_at`]), the medium can be full, the n-th operation of
//! a kind can fail. Everything lies behind one mutex, held for one copy of memory at most. Memory is bounded by the
//! capacity, which is unlimited unless it is set.
//!
//! Left out: links, permissions, and renames between directories (refused, since nothing rests on their order).

use super::real::LOCK_NAME;
use super::{Entry, File, FileSystem, Space};
use crate::unit::{Bytes, UnixMillis};
use crate::world::clock::{Clock, SystemClock};
use crate::world::crew::lock;
use crate::world::entropy::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

mod forget;
#[cfg(test)]
mod tests;

use forget::{Change, Dir, Inode, Node};

/// A sort of operation that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Opening a file, be it new or old.
    Open,
    /// Reading from a file.
    Read,
    /// Appending to a file; half of the bytes get there all the same.
    Write,
    /// Syncing a file or a directory.
    Sync,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
}

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
        let roots = [PathBuf::new(), PathBuf::from("/")];
        MemoryFs {
            state: Arc::new(Mutex::new(State {
                clock,
                dirs: roots.into_iter().map(|root| (root, Dir::default())).collect(),
                capacity: Bytes(u64::MAX),
                used: 0,
                operations: 0,
                crash_at: None,
                faults: Vec::new(),
                locks: BTreeSet::new(),
                life: 0,
            })),
        }
    }

    /// Sets the size of the medium. Beyond it writes are short and end in [`io::ErrorKind::StorageFull`]. Names are
    /// free.
    pub fn set_capacity(&self, to: Bytes) {
        lock(&self.state).capacity = to;
    }

    /// Makes the `n`-th operation of a sort from now on fail with `kind`; 1 is the next one.
    pub fn fail_nth(&self, op: Op, n: u64, kind: io::ErrorKind) {
        lock(&self.state).faults.push(Fault { op, left: n.max(1), kind });
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
        lock(&self.state).crash(dice);
    }

    /// Begins a new life: operations work again, files opened before fail, locks are free, planned faults are
    /// forgotten. Without a [`MemoryFs::crash`] before it, this is a killed process: nothing is lost.
    pub fn recover(&self) {
        let mut state = lock(&self.state);
        state.crash_at = None;
        state.faults.clear();
        state.next_life();
    }

    fn handle(&self, state: &State, node: &Node, writable: bool) -> Arc<dyn File> {
        Arc::new(MemoryFile { state: self.state.clone(), node: node.clone(), life: state.life, writable })
    }
}

struct State {
    clock: Arc<dyn Clock>,
    dirs: BTreeMap<PathBuf, Dir>,
    capacity: Bytes,
    /// Bytes in files that have a name.
    used: u64,
    operations: u64,
    crash_at: Option<u64>,
    faults: Vec<Fault>,
    locks: BTreeSet<PathBuf>,
    /// Counts crashes and recoveries, so that what was opened in an earlier life is known.
    life: u64,
}

struct Fault {
    op: Op,
    left: u64,
    kind: io::ErrorKind,
}

impl State {
    fn is_down(&self) -> bool {
        self.crash_at.is_some_and(|at| self.operations >= at)
    }

    /// Before anything that only looks.
    fn look(&self) -> io::Result<()> {
        if self.is_down() { Err(io::Error::other("the machine is down")) } else { Ok(()) }
    }

    /// Before anything that changes or syncs.
    fn begin(&mut self) -> io::Result<()> {
        self.look()?;
        self.operations += 1;
        Ok(())
    }

    /// Whether this operation was chosen to fail.
    fn fault(&mut self, op: Op) -> io::Result<()> {
        let mut hit = None;
        self.faults.retain_mut(|fault| {
            if fault.op == op {
                fault.left -= 1;
            }
            if fault.left == 0 {
                hit = Some(fault.kind);
            }
            fault.left > 0
        });
        hit.map_or(Ok(()), |kind| Err(io::Error::new(kind, format!("chosen to fail: {op:?}"))))
    }

    fn dir(&mut self, dir: &Path) -> io::Result<&mut Dir> {
        self.dirs.get_mut(&plain(dir)).ok_or_else(|| not_found(dir))
    }

    /// The directory of a path, and the name in it.
    fn place(&mut self, path: &Path) -> io::Result<(&mut Dir, OsString)> {
        let path = plain(path);
        let name = path.file_name().ok_or_else(|| not_found(&path))?.to_os_string();
        Ok((self.dir(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn node(&mut self, path: &Path) -> io::Result<Node> {
        let (dir, name) = self.place(path)?;
        dir.entries.get(&name).cloned().ok_or_else(|| not_found(path))
    }

    fn create(&mut self, path: &Path) -> io::Result<Node> {
        if self.dirs.contains_key(&plain(path)) {
            return Err(taken(path));
        }
        let modified = self.clock.unix_millis();
        let (dir, name) = self.place(path)?;
        if dir.entries.contains_key(&name) {
            return Err(taken(path));
        }
        let inode = Inode::born(modified);
        let node = Arc::new(Mutex::new(inode));
        dir.change(Change::Create { name, node: node.clone() });
        Ok(node)
    }

    fn next_life(&mut self) {
        self.life += 1;
        self.locks.clear();
    }

    fn crash(&mut self, dice: &mut Dice) {
        self.next_life();
        self.used = 0;
        for dir in self.dirs.values_mut() {
            dir.crash(dice);
            for node in dir.entries.values() {
                let mut inode = lock(node);
                inode.crash(dice);
                inode.linked = true;
                self.used += inode.content.len() as u64;
            }
        }
    }
}

/// A path without `.`, so that two spellings of one directory meet.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file or directory: {}", path.display()))
}

fn taken(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("file exists: {}", path.display()))
}

impl FileSystem for MemoryFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        let dir = plain(dir);
        let ancestors: Vec<&Path> = dir.ancestors().collect();
        for ancestor in ancestors.into_iter().rev() {
            if state.dirs.contains_key(ancestor) {
                continue;
            }
            state.begin()?;
            if state.node(ancestor).is_ok() {
                return Err(taken(ancestor));
            }
            state.dirs.insert(ancestor.to_path_buf(), Dir::default());
        }
        state.look()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = lock(&self.state);
        state.look()?;
        let path = plain(dir);
        let shown = |name: &OsStr| name.to_string_lossy().into_owned();
        let mut entries: Vec<Entry> = state
            .dir(dir)?
            .entries
            .iter()
            .map(|(name, node)| {
                let inode = lock(node);
                let size = Bytes(inode.content.len() as u64);
                Entry { name: shown(name), is_file: true, size, modified: inode.modified }
            })
            .collect();
        let below = state.dirs.keys().filter(|below| below.parent() == Some(&path));
        entries.extend(below.filter_map(|below| below.file_name()).map(|name| Entry {
            name: shown(name),
            is_file: false,
            size: Bytes(0),
            modified: UnixMillis(0),
        }));
        Ok(entries)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = lock(&self.state);
        state.look()?;
        state.fault(Op::Open)?;
        let node = state.node(path)?;
        Ok(self.handle(&state, &node, false))
    }

    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = lock(&self.state);
        state.look()?;
        state.fault(Op::Open)?;
        let node = state.node(path)?;
        Ok(self.handle(&state, &node, true))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = lock(&self.state);
        state.begin()?;
        state.fault(Op::Open)?;
        let node = state.create(path)?;
        Ok(self.handle(&state, &node, true))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.begin()?;
        state.fault(Op::Rename)?;
        let node = state.node(from)?;
        if state.node(to).is_ok() || state.dirs.contains_key(&plain(to)) {
            return Err(taken(to));
        }
        if plain(from).parent() != plain(to).parent() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a rename between directories"));
        }
        let (_, from) = state.place(from)?;
        let (dir, to) = state.place(to)?;
        dir.change(Change::Rename { from, to, node });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.begin()?;
        state.fault(Op::Remove)?;
        let node = state.node(path)?;
        let (dir, name) = state.place(path)?;
        dir.change(Change::Remove { name, node: node.clone() });
        let mut inode = lock(&node);
        inode.linked = false;
        state.used -= inode.content.len() as u64;
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.begin()?;
        state.fault(Op::Sync)?;
        state.dir(dir)?.sync();
        Ok(())
    }

    fn set_modified(&self, path: &Path, to: UnixMillis) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.begin()?;
        let node = state.node(path)?;
        lock(&node).modified = to;
        state.place(path)?.0.pending.push(Change::Modified { node, to });
        Ok(())
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let mut state = lock(&self.state);
        state.look()?;
        state.dir(dir)?;
        Ok(Space { total: state.capacity, available: Bytes(state.capacity.0.saturating_sub(state.used)) })
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = lock(&self.state);
        state.look()?;
        let path = plain(dir);
        state.dir(&path)?;
        if !state.locks.insert(path.clone()) {
            let holder = format!("in use by process {}", std::process::id());
            return Err(io::Error::new(io::ErrorKind::WouldBlock, holder));
        }
        // The file that is locked stands in the directory for ever, as on a real disk.
        let file = path.join(LOCK_NAME);
        if state.node(&file).is_err() {
            state.create(&file)?;
        }
        Ok(Box::new(LockGuard { state: self.state.clone(), path, life: state.life }))
    }

    fn lock_holder(&self, dir: &Path) -> io::Result<Option<String>> {
        let state = lock(&self.state);
        state.look()?;
        Ok(state.locks.contains(&plain(dir)).then(|| format!("process {}", std::process::id())))
    }
}

struct LockGuard {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    life: u64,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

struct MemoryFile {
    state: Arc<Mutex<State>>,
    node: Node,
    life: u64,
    writable: bool,
}

impl MemoryFile {
    fn in_this_life(&self, state: &State) -> io::Result<()> {
        if state.life == self.life { Ok(()) } else { Err(io::Error::other("opened before the crash")) }
    }

    fn may_write(&self) -> io::Result<()> {
        let refused = || io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading");
        if self.writable { Ok(()) } else { Err(refused()) }
    }
}

impl File for MemoryFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.may_write()?;
        let mut state = lock(&self.state);
        self.in_this_life(&state)?;
        state.begin()?;
        let mut result = state.fault(Op::Write);
        let mut fits = if result.is_ok() { bytes.len() } else { bytes.len() / 2 };
        let room = usize::try_from(state.capacity.0.saturating_sub(state.used)).unwrap_or(usize::MAX);
        if fits > room {
            fits = room;
            result = Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        let mut inode = lock(&self.node);
        inode.content.extend_from_slice(&bytes[..fits]);
        inode.modified = state.clock.unix_millis();
        if inode.linked {
            state.used += fits as u64;
        }
        result
    }

    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        let mut state = lock(&self.state);
        self.in_this_life(&state)?;
        state.look()?;
        state.fault(Op::Read)?;
        let inode = lock(&self.node);
        let from = usize::try_from(offset.0).unwrap_or(usize::MAX);
        let there = inode.content.get(from..).unwrap_or_default();
        let n = there.len().min(buffer.len());
        buffer[..n].copy_from_slice(&there[..n]);
        Ok(n)
    }

    fn size(&self) -> io::Result<Bytes> {
        let state = lock(&self.state);
        self.in_this_life(&state)?;
        state.look()?;
        Ok(Bytes(lock(&self.node).content.len() as u64))
    }

    fn truncate(&self, to: Bytes) -> io::Result<()> {
        self.may_write()?;
        let mut state = lock(&self.state);
        self.in_this_life(&state)?;
        state.begin()?;
        let mut inode = lock(&self.node);
        let before = inode.content.len();
        // A longer file would have to count its hole; nobody asks for one.
        let to = usize::try_from(to.0).unwrap_or(usize::MAX).min(before);
        inode.truncate(to);
        inode.modified = state.clock.unix_millis();
        if inode.linked {
            state.used -= (before - to) as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        self.in_this_life(&state)?;
        state.begin()?;
        let result = state.fault(Op::Sync);
        let mut inode = lock(&self.node);
        match &result {
            Ok(()) => inode.sync(),
            Err(_) => inode.fail_sync(),
        }
        result
    }
}
