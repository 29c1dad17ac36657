//! The names in a data directory, whose failed sync is never forgotten.
//!
//! A failed sync of a directory is told once, to whoever syncs first, and may leave names that no later sync brings to the disk
//! (fsync(2)). Several threads give names and sync one directory. So they sync one after the other, and a failure counts for all
//! who had given a name before it. [`Names`] is itself a file system, for those who keep other files in the same directory.

use crate::unit::{Bytes, UnixMillis};
use crate::world::crew::lock;
use crate::world::fs::{Entry, File, FileSystem, Space};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A moment in the life of a directory: a name given after it is not touched by a sync that had failed before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Since(u64);

/// The names in one directory.
pub struct Names {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    failures: AtomicU64,
    /// Held while the directory is synced, by nobody whom writers wait for.
    syncing: Mutex<()>,
}

impl Names {
    /// Those in `dir`.
    pub fn new(fs: Arc<dyn FileSystem>, dir: PathBuf) -> Names {
        Names { fs, dir, failures: AtomicU64::new(0), syncing: Mutex::default() }
    }

    /// Now. To be taken before a name is given.
    pub fn since(&self) -> Since {
        Since(self.failures.load(Ordering::SeqCst))
    }

    /// Whether any sync has failed since the start: a name that was given before may have to be given anew.
    pub fn have_failed(&self) -> bool {
        self.since() != Since(0)
    }

    /// Where the names are given.
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.fs
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Brings all names that were given since then to stable storage.
    ///
    /// # Errors
    /// This sync has failed, or another one since then: what was named may not be there after a crash, whatever later syncs say.
    pub fn sync(&self, since: Since) -> io::Result<()> {
        let _one_at_a_time = lock(&self.syncing);
        let result = self.fs.sync_dir(&self.dir);
        if result.is_err() {
            self.failures.fetch_add(1, Ordering::SeqCst);
            return result;
        }
        if self.since() != since {
            return Err(io::Error::other("an earlier sync of the directory has failed"));
        }
        Ok(())
    }
}

/// The file system below, but for the sync of this directory, of which a failure counts for all who use it.
impl FileSystem for Names {
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if dir == self.dir { self.sync(self.since()) } else { self.fs.sync_dir(dir) }
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.fs.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.fs.list(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.open(path)
    }

    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.open_append(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.create_new(path)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.fs.remove(path)
    }

    fn set_modified(&self, path: &Path, to: UnixMillis) -> io::Result<()> {
        self.fs.set_modified(path, to)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.fs.space(dir)
    }

    fn keeps(&self) -> bool {
        self.fs.keeps()
    }

    fn reserve(&self, path: &Path, size: Bytes) -> io::Result<()> {
        self.fs.reserve(path, size)
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.fs.lock_dir(dir)
    }

    fn lock_holder(&self, dir: &Path) -> io::Result<Option<String>> {
        self.fs.lock_holder(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::fs::memory::{MemoryFs, Op};

    #[test]
    fn a_failed_sync_counts_for_all_who_had_given_a_name_before_it_and_for_nobody_after() {
        let fs = MemoryFs::new();
        fs.create_dir_all(Path::new("d")).expect("in memory");
        let names = Names::new(Arc::new(fs.clone()), "d".into());
        let (one, other) = (names.since(), names.since());
        fs.fail_nth(Op::SyncDir, 1, io::ErrorKind::Other);
        assert!(names.sync(one).is_err());
        assert!(names.sync(other).is_err(), "the kernel calls it a success");
        assert!(names.sync(names.since()).is_ok());
        let third = names.since();
        fs.fail_nth(Op::SyncDir, 1, io::ErrorKind::Other);
        assert!(names.sync_dir(Path::new("d")).is_err(), "whoever keeps another file there");
        assert!(names.sync(third).is_err());
    }
}
