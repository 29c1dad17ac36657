//! The operations: what the file system and its files do when they are asked.

use super::directory::{Kind, Name, Node};
use super::faults::{Fault, Op, enter};
use super::images::Subject;
use super::inode::{FileNode, Inode};
use super::{MemoryFs, State, not_found, taken};
use crate::unit::{Bytes, UnixMillis};
use crate::world::crew::lock;
use crate::world::fs::real::LOCK_NAME;
use crate::world::fs::{Entry, File, FileSystem, Space};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

impl MemoryFs {
    fn handle(&self, life: u64, node: FileNode, writable: bool) -> Arc<dyn File> {
        Arc::new(MemoryFile { state: self.state.clone(), node, life, writable })
    }

    fn open_as(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn File>> {
        let mut state = self.enter();
        state.look(Op::Open)?;
        state.refuse(Op::Open)?;
        let node = state.file(path)?;
        Ok(self.handle(state.life, node, writable))
    }
}

impl State {
    /// Gives a file that does not exist yet a name.
    fn create(&mut self, path: &Path) -> io::Result<FileNode> {
        let (dir, name) = self.place(path)?;
        if self.dirs[dir].find(name).is_some() {
            return Err(taken(path));
        }
        let name: Name = name.into();
        let node = Arc::new(Mutex::new(Inode::born(self.clock.unix_millis(), dir, name.clone())));
        self.dirs[dir].change(Node::File(node.clone()), Kind::Create { name });
        Ok(node)
    }

    /// Makes one directory, and syncs its entry.
    fn create_dir(&mut self, path: &Path, parent: usize, name: &OsStr) -> io::Result<usize> {
        self.begin(Op::CreateDir, Subject::Path(path))?;
        self.refuse(Op::CreateDir)?;
        let made = self.make_dir(parent, name);
        self.sync_entries(path.parent().unwrap_or(path), parent)?;
        Ok(made)
    }

    fn sync_entries(&mut self, path: &Path, dir: usize) -> io::Result<()> {
        self.begin(Op::SyncDir, Subject::Path(path))?;
        match self.failure(Op::SyncDir) {
            None => self.dirs[dir].sync(),
            Some(mut failure) => {
                self.dirs[dir].fail_sync(failure.dice.as_mut());
                return Err(failure.error);
            }
        }
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (dir, old) = self.place(from)?;
        let node = self.dirs[dir].find(old).cloned().ok_or_else(|| not_found(from))?;
        let (to_dir, new) = self.place(to)?;
        if self.dirs[to_dir].find(new).is_some() {
            return Err(taken(to));
        }
        if dir != to_dir {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a rename between directories"));
        }
        let (from, to): (Name, Name) = (old.into(), new.into());
        match &node {
            Node::File(file) => lock(file).name = to.clone(),
            Node::Dir(index) => self.dirs[*index].name = Some(to.clone()),
        }
        self.dirs[dir].change(node, Kind::Rename { from, to });
        Ok(())
    }
}

impl FileSystem for MemoryFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.enter();
        state.look(Op::CreateDir)?;
        // Ends at a root, which is always there.
        let mut missing: Vec<&Path> = dir.ancestors().take_while(|dir| state.dir(dir).is_err()).collect();
        missing.retain(|path| path.file_name().is_some());
        let there = missing.last().map_or(dir, |first| first.parent().unwrap_or(dir));
        let made = state.dir(there)?;
        let parent = state.dirs[made].parent;
        // Whoever made it may have been killed before its entry was synced.
        if state.dirs[made].name.is_some() && !state.dirs[parent].pending.is_empty() {
            state.sync_entries(there.parent().unwrap_or(there), parent)?;
        }
        for path in missing.into_iter().rev() {
            let (parent, name) = state.place(path)?;
            if state.dirs[parent].find(name).is_some() {
                return Err(taken(path));
            }
            state.create_dir(path, parent, name)?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.enter();
        state.look(Op::List)?;
        let dir = state.dir(dir)?;
        let entry = |(name, node): &(Name, Node)| {
            let name = name.to_string_lossy().into_owned();
            match node {
                Node::File(file) => {
                    let inode = lock(file);
                    Entry { name, is_file: true, size: Bytes(inode.len() as u64), modified: inode.modified }
                }
                Node::Dir(_) => Entry { name, is_file: false, size: Bytes(0), modified: UnixMillis(0) },
            }
        };
        Ok(state.dirs[dir].entries.iter().map(entry).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open_as(path, false)
    }

    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open_as(path, true)
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.enter();
        state.begin(Op::Create, Subject::Path(path))?;
        state.refuse(Op::Create)?;
        let node = state.create(path)?;
        Ok(self.handle(state.life, node, true))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.enter();
        state.begin(Op::Rename, Subject::Path(from))?;
        match state.failure(Op::Rename) {
            None => state.rename(from, to),
            Some(failure) if failure.fault == Fault::RenameLie => {
                state.rename(from, to)?;
                Err(failure.error)
            }
            Some(failure) => Err(failure.error),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.enter();
        state.begin(Op::Remove, Subject::Path(path))?;
        state.refuse(Op::Remove)?;
        let node = state.file(path)?;
        let (dir, name) = state.place(path)?;
        state.dirs[dir].change(Node::File(node.clone()), Kind::Remove { name: name.into() });
        let mut inode = lock(&node);
        inode.linked = false;
        state.used -= inode.len() as u64;
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.enter();
        match state.dir(dir) {
            Ok(index) => state.sync_entries(dir, index),
            Err(e) => state.look(Op::SyncDir).and(Err(e)),
        }
    }

    fn set_modified(&self, path: &Path, to: UnixMillis) -> io::Result<()> {
        let mut state = self.enter();
        state.begin(Op::SetModified, Subject::Path(path))?;
        let node = state.file(path)?;
        let (dir, _) = state.place(path)?;
        lock(&node).modified = to;
        state.dirs[dir].change(Node::File(node), Kind::Modified { to });
        Ok(())
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let state = self.enter();
        state.up()?;
        state.dir(dir)?;
        Ok(Space { total: state.capacity, available: Bytes(state.capacity.0.saturating_sub(state.used)) })
    }

    fn reserve(&self, path: &Path, size: Bytes) -> io::Result<()> {
        let mut state = self.enter();
        state.begin(Op::Write, Subject::Path(path))?;
        let (dir, name) = state.place(path)?;
        if state.dirs[dir].find(name).is_some() {
            return Err(taken(path));
        }
        state.refuse(Op::Write)?;
        if size.0 > state.capacity.0.saturating_sub(state.used) {
            return Err(state.full());
        }
        let node = state.create(path)?;
        state.used += size.0;
        lock(&node).reserve(usize::try_from(size.0).unwrap_or(usize::MAX));
        Ok(())
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.enter();
        state.look(Op::Open)?;
        state.refuse(Op::Open)?;
        let index = state.dir(dir)?;
        if state.locks.contains(&index) {
            let holder = format!("in use by process {}", std::process::id());
            return Err(io::Error::new(io::ErrorKind::WouldBlock, holder));
        }
        state.locks.push(index);
        // The file that is locked stands in the directory for ever, as on a real disk.
        if state.dirs[index].find(OsStr::new(LOCK_NAME)).is_none() {
            state.create(&dir.join(LOCK_NAME))?;
        }
        Ok(Box::new(LockGuard { state: self.state.clone(), dir: index, life: state.life }))
    }

    fn lock_holder(&self, dir: &Path) -> io::Result<Option<String>> {
        let mut state = self.enter();
        state.look(Op::Open)?;
        let index = state.dir(dir)?;
        Ok(state.locks.contains(&index).then(|| format!("process {}", std::process::id())))
    }
}

struct LockGuard {
    state: Arc<Mutex<State>>,
    dir: usize,
    life: u64,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.life == self.life {
            state.locks.retain(|dir| *dir != self.dir);
        }
    }
}

struct MemoryFile {
    state: Arc<Mutex<State>>,
    node: FileNode,
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
        let mut state = enter(&self.state);
        self.in_this_life(&state)?;
        state.begin(Op::Write, Subject::File(&self.node))?;
        let (mut fits, mut result) = match state.failure(Op::Write) {
            None => (bytes.len(), Ok(())),
            Some(failure) => {
                let some = failure.dice.map_or(bytes.len() / 2, |mut dice| dice.below(bytes.len() as u64) as usize);
                (some, Err(failure.error))
            }
        };
        let room = usize::try_from(state.capacity.0.saturating_sub(state.used)).unwrap_or(usize::MAX);
        if fits > room {
            fits = room;
            result = Err(state.full());
        }
        let mut inode = lock(&self.node);
        inode.append(bytes.get(..fits).unwrap_or_default());
        inode.modified = state.clock.unix_millis();
        if inode.linked {
            state.used += fits as u64;
        }
        result
    }

    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        let mut state = enter(&self.state);
        self.in_this_life(&state)?;
        state.look(Op::Read)?;
        let failure = state.failure(Op::Read);
        let inode = lock(&self.node);
        let from = usize::try_from(offset.0).unwrap_or(usize::MAX);
        let there = inode.content.get(from..).unwrap_or_default();
        let mut n = there.len().min(buffer.len());
        match failure {
            Some(failure) if failure.fault != Fault::ReadShort => return Err(failure.error),
            Some(failure) if n > 1 => n = 1 + failure.dice.map_or(0, |mut dice| dice.below(n as u64 - 1) as usize),
            _ => {}
        }
        if let (Some(buffer), Some(there)) = (buffer.get_mut(..n), there.get(..n)) {
            buffer.copy_from_slice(there);
        }
        Ok(n)
    }

    fn size(&self) -> io::Result<Bytes> {
        let state = enter(&self.state);
        self.in_this_life(&state)?;
        state.up()?;
        Ok(Bytes(lock(&self.node).len() as u64))
    }

    fn truncate(&self, to: Bytes) -> io::Result<()> {
        self.may_write()?;
        let mut state = enter(&self.state);
        self.in_this_life(&state)?;
        state.begin(Op::Truncate, Subject::File(&self.node))?;
        state.refuse(Op::Truncate)?;
        let mut inode = lock(&self.node);
        let before = inode.len();
        inode.truncate(usize::try_from(to.0).unwrap_or(usize::MAX));
        inode.modified = state.clock.unix_millis();
        if inode.linked {
            state.used -= (before - inode.len()) as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = enter(&self.state);
        self.in_this_life(&state)?;
        state.begin(Op::SyncFile, Subject::File(&self.node))?;
        let failure = state.failure(Op::SyncFile);
        let mut inode = lock(&self.node);
        match failure {
            None => inode.sync(),
            Some(mut failure) => {
                inode.fail_sync(failure.dice.as_mut());
                return Err(failure.error);
            }
        }
        Ok(())
    }
}
