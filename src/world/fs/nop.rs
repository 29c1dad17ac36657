//! No files at all: everything is accepted and forgotten. For measuring all else.

use super::{Entry, File, FileSystem, Space};
use crate::unit::{Bytes, UnixMillis};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file system that forgets.
#[derive(Clone, Copy, Debug, Default)]
pub struct NopFs;

impl FileSystem for NopFs {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<Entry>> {
        Ok(Vec::new())
    }

    fn open(&self, _path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(NopFile::default()))
    }

    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path)
    }

    fn rename_new(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn set_modified(&self, _path: &Path, _to: UnixMillis) -> io::Result<()> {
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        Ok(Space { total: Bytes(u64::MAX), available: Bytes(u64::MAX) })
    }

    fn reserve(&self, _path: &Path, _size: Bytes) -> io::Result<()> {
        Ok(())
    }

    fn keeps(&self) -> bool {
        false
    }

    fn lock_dir(&self, _dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
}

/// A file that knows how much was appended, and nothing of what.
#[derive(Default)]
pub(crate) struct NopFile {
    len: AtomicU64,
}

impl File for NopFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.len.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn read_at(&self, _buffer: &mut [u8], _offset: Bytes) -> io::Result<usize> {
        Ok(0)
    }

    fn size(&self) -> io::Result<Bytes> {
        Ok(Bytes(self.len.load(Ordering::Relaxed)))
    }

    fn truncate(&self, to: Bytes) -> io::Result<()> {
        self.len.store(to.0, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
