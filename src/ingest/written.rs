//! A segment file being written, whose failed sync is never forgotten.
//!
//! The kernel tells of a failed write-back once, to whoever syncs first, and marks the pages clean (fsync(2)): the next sync of
//! the same file succeeds and means nothing. Two threads sync a segment, the group commit and the flusher. So they do it one
//! after the other, and what one was told the other is told too.

use crate::segment::names::Since;
use crate::world::crew::lock;
use crate::world::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The file of one segment, shared by all who sync it.
pub(super) struct Written {
    file: Arc<dyn File>,
    /// Set when what the file holds must be proven before anybody relies on it. Held while it is synced, by nobody whom
    /// writers wait for.
    suspect: Mutex<bool>,
    /// From before it got its name, and whether that is known to be on stable storage.
    since: Since,
    named: AtomicBool,
}

impl Written {
    /// A new file, whose name was given after `since`.
    pub fn new(file: Arc<dyn File>, since: Since) -> Arc<Written> {
        Arc::new(Written { file, suspect: Mutex::new(false), since, named: AtomicBool::new(false) })
    }

    /// From when on a sync of the directory must not have failed for its name to be on stable storage; `None` if it is.
    pub fn to_be_named(&self) -> Option<Since> {
        (!self.named.load(Ordering::Relaxed)).then_some(self.since)
    }

    /// Says that its name is on stable storage.
    pub fn was_named(&self) {
        self.named.store(true, Ordering::Relaxed);
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
    use crate::segment::names::Names;
    use crate::world::fs::FileSystem;
    use crate::world::fs::memory::{MemoryFs, Op};
    use std::path::Path;

    #[test]
    fn a_file_whose_sync_has_failed_once_is_never_called_synced_again() {
        let fs = MemoryFs::new();
        fs.create_dir_all(Path::new("d")).expect("in memory");
        let names = Names::new(Arc::new(fs.clone()), "d".into());
        let written = Written::new(fs.create_new(Path::new("d/f")).expect("in memory"), names.since());
        written.sync().expect("nothing fails yet");
        written.file().append(b"text").expect("in memory");
        fs.fail_nth(Op::Sync, 1, io::ErrorKind::Other);
        assert!(written.sync().is_err());
        assert!(written.file().sync_data().is_ok(), "the kernel says so");
        assert!(written.sync().is_err(), "but the bytes are not there");
    }
}
