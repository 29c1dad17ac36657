//! A segment file being written, whose failed sync is never forgotten.
//!
//! The kernel tells of a failed write-back once, to whoever syncs first, and marks the pages clean (fsync(2)): the next sync of
//! the same file succeeds and means nothing. Two threads sync a segment, the group commit and the flusher. So they do it one
//! after the other, and what one was told the other is told too.

use crate::world::crew::lock;
use crate::world::fs::{File, FileSystem};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The file of one segment, shared by all who sync it.
pub(super) struct Written {
    file: Arc<dyn File>,
    /// Set when what the file holds must be proven before anybody relies on it. Held while it is synced, by nobody whom
    /// writers wait for.
    suspect: Mutex<bool>,
    /// How many syncs of the directory had failed when it was made.
    failures: u64,
}

/// The names in one directory. What is true of a file's pages is true of a directory's: a failed sync is told once, and marks the
/// names of all new files clean, whosever they are. So all syncs of the directory go through here, one after the other.
#[derive(Default)]
pub(super) struct Names {
    failures: Mutex<u64>,
}

impl Names {
    /// How many syncs have failed: to be asked before a file is made.
    pub fn failures(&self) -> u64 {
        *lock(&self.failures)
    }

    /// Brings the names to stable storage. Gives how many syncs have failed before: a name that is older than one of them may
    /// not be there.
    pub fn sync(&self, fs: &dyn FileSystem, dir: &Path) -> io::Result<u64> {
        let mut failures = lock(&self.failures);
        let result = fs.sync_dir(dir);
        *failures += u64::from(result.is_err());
        result.map(|()| *failures)
    }

    /// Says that something has failed that syncs the directory by itself.
    pub fn may_have_failed(&self) {
        *lock(&self.failures) += 1;
    }
}

impl Written {
    /// A new file, made when so many syncs of its directory had failed.
    pub fn new(file: Arc<dyn File>, failures: u64) -> Arc<Written> {
        Arc::new(Written { file, suspect: Mutex::new(false), failures })
    }

    /// Whether its name got there by a sync before which so many have failed.
    pub fn is_named_by(&self, failures: u64) -> bool {
        self.failures == failures
    }

    /// For writing and reading.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Whether what the file holds must be proven.
    pub fn is_suspect(&self) -> bool {
        *lock(&self.suspect)
    }

    /// Brings what was written to stable storage, unless the file is suspect: no later sync makes that good.
    pub fn sync(&self) -> io::Result<()> {
        let mut suspect = lock(&self.suspect);
        if *suspect {
            return Err(io::Error::other("an earlier sync or write of this file has failed"));
        }
        let result = self.file.sync_data();
        *suspect = result.is_err();
        result
    }

    /// Says that a write has left something in the file that does not belong there, or that its name may not be on disk.
    pub fn condemn(&self) {
        *lock(&self.suspect) = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::fs::memory::{MemoryFs, Op};

    #[test]
    fn a_file_whose_sync_has_failed_once_is_never_called_synced_again() {
        let fs = MemoryFs::new();
        fs.create_dir_all(Path::new("d")).expect("in memory");
        let written = Written::new(fs.create_new(Path::new("d/f")).expect("in memory"), 0);
        written.sync().expect("nothing fails yet");
        written.file().append(b"text").expect("in memory");
        fs.fail_nth(Op::Sync, 1, io::ErrorKind::Other);
        assert!(written.sync().is_err());
        assert!(written.file().sync_data().is_ok(), "the kernel says so");
        assert!(written.sync().is_err(), "but the bytes are not there");
    }

    #[test]
    fn a_name_that_is_older_than_a_failed_sync_of_its_directory_is_not_called_durable() {
        let (fs, names, dir) = (MemoryFs::new(), Names::default(), Path::new("d"));
        fs.create_dir_all(dir).expect("in memory");
        let make = |name: &str| {
            let failures = names.failures();
            Written::new(fs.create_new(&dir.join(name)).expect("in memory"), failures)
        };
        let old = make("old");
        fs.fail_nth(Op::SyncDir, 1, io::ErrorKind::Other);
        assert!(names.sync(&fs, dir).is_err(), "as whoever saves something else in the directory is told");
        let new = make("new");
        let failures = names.sync(&fs, dir).expect("the kernel says so");
        assert!(!old.is_named_by(failures) && new.is_named_by(failures));
        let left: Vec<String> =
            fs.harshest_image().list(dir).expect("a directory").into_iter().map(|e| e.name).collect();
        assert_eq!(left, ["new"], "and so it is");
    }
}
