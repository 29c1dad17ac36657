//! Disks that lie: put between the servers and a disk that models what it forgets, to show that the simulation notices.
//!
//! A lie lives as long as its process: what is put off is lost with it, as in a cache.

use oklog::unit::{Bytes, UnixMillis};
use oklog::world::fs::{Entry, File, FileSystem, Space};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// What a disk does not do, although it says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Directories are not synced: no name is durable for sure.
    DirectoriesNotSynced,
    /// Files are not synced: no content is durable for sure.
    FilesNotSynced,
    /// Files are synced, but only when so many more operations that change or sync something have begun. So a rename, and
    /// what is promised after it, comes before the sync.
    FilesSyncedAfter(u64),
    /// A rename takes a name that is in use, and what had it is gone.
    RenamesReplace,
    /// Files are not cut: what a failed write or a crash left at the end stays there.
    FilesNotCut,
    /// A listing does not show files of this extension.
    Hides(&'static str),
    /// Files are not removed: what was given up comes back.
    FilesNotRemoved,
    /// Appends take no more than so many bytes, and say nothing of the rest.
    WritesAtMost(usize),
}

/// Puts a lie before a disk.
pub fn lying(disk: Arc<dyn FileSystem>, lie: Lie) -> Arc<dyn FileSystem> {
    Arc::new(Lying { disk, liar: Arc::new(Liar { lie, begun: AtomicU64::new(0), late: Mutex::default() }) })
}

struct Lying {
    disk: Arc<dyn FileSystem>,
    liar: Arc<Liar>,
}

struct Liar {
    lie: Lie,
    begun: AtomicU64,
    /// Files to be synced, each with the operation before which that is due.
    late: Mutex<Vec<(u64, Arc<dyn File>)>>,
}

impl Liar {
    /// Before an operation that changes or syncs something.
    fn begin(&self) {
        let now = self.begun.fetch_add(1, Relaxed) + 1;
        let mut late = self.late.lock().unwrap();
        while late.first().is_some_and(|(due, _)| *due <= now) {
            // It was said to be synced long ago: nobody is left to hear of an error.
            let _ = late.remove(0).1.sync_data();
        }
    }

    fn file(self: &Arc<Liar>, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(LyingFile { file, liar: self.clone() })
    }
}

impl FileSystem for Lying {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = self.disk.list(dir)?;
        if let Lie::Hides(extension) = self.liar.lie {
            entries.retain(|entry| Path::new(&entry.name).extension().is_none_or(|found| found != extension));
        }
        Ok(entries)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.disk.open(path)
    }

    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.liar.file(self.disk.open_append(path)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.liar.begin();
        Ok(self.liar.file(self.disk.create_new(path)?))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.liar.begin();
        match self.disk.rename_new(from, to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.liar.lie == Lie::RenamesReplace => {
                self.disk.remove(to)?;
                self.disk.rename_new(from, to)
            }
            other => other,
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.liar.begin();
        if self.liar.lie == Lie::FilesNotRemoved {
            return self.disk.open(path).map(drop);
        }
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.liar.begin();
        if self.liar.lie == Lie::DirectoriesNotSynced {
            return self.disk.list(dir).map(drop);
        }
        self.disk.sync_dir(dir)
    }

    fn set_modified(&self, path: &Path, to: UnixMillis) -> io::Result<()> {
        self.liar.begin();
        self.disk.set_modified(path, to)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.disk.space(dir)
    }

    fn reserve(&self, path: &Path, size: Bytes) -> io::Result<()> {
        self.liar.begin();
        self.disk.reserve(path, size)
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock_dir(dir)
    }
}

struct LyingFile {
    file: Arc<dyn File>,
    liar: Arc<Liar>,
}

impl File for LyingFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.liar.begin();
        match self.liar.lie {
            Lie::WritesAtMost(most) => self.file.append(&bytes[..bytes.len().min(most)]),
            _ => self.file.append(bytes),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> io::Result<Bytes> {
        self.file.size()
    }

    fn truncate(&self, to: Bytes) -> io::Result<()> {
        self.liar.begin();
        if self.liar.lie == Lie::FilesNotCut {
            return self.file.size().map(drop);
        }
        self.file.truncate(to)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.liar.begin();
        match self.liar.lie {
            Lie::FilesNotSynced => self.file.size().map(drop),
            Lie::FilesSyncedAfter(more) => {
                let due = self.liar.begun.load(Relaxed) + more;
                self.liar.late.lock().unwrap().push((due, self.file.clone()));
                self.file.size().map(drop)
            }
            _ => self.file.sync_data(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oklog::world::fs::memory::MemoryFs;
    use oklog::world::fs::read_full_at;

    const DIR: &str = "data";

    fn at(name: &str) -> std::path::PathBuf {
        Path::new(DIR).join(name)
    }

    fn content(fs: &dyn FileSystem, name: &str) -> Option<Vec<u8>> {
        let file = fs.open(&at(name)).ok()?;
        let mut bytes = vec![0; file.size().unwrap().0 as usize];
        read_full_at(&*file, &mut bytes, Bytes(0)).unwrap();
        Some(bytes)
    }

    /// What is left after a power cut at the end of a whole flush, one file having been there with the same name before,
    /// and one having been cut and one removed.
    fn left(lie: Option<Lie>) -> [Option<Vec<u8>>; 4] {
        let disk = MemoryFs::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        let honest: Arc<dyn FileSystem> = Arc::new(disk.clone());
        let fs = lie.map_or(honest.clone(), |lie| lying(honest, lie));
        let write = |name: &str, bytes: &[u8]| {
            let file = fs.create_new(&at(name)).unwrap();
            file.append(bytes).unwrap();
            file.sync_data().unwrap();
            file
        };
        write("taken", b"first");
        write("cut", b"whole torn").truncate(Bytes(5)).unwrap();
        fs.open_append(&at("cut")).unwrap().sync_data().unwrap();
        write("gone", b"");
        fs.remove(&at("gone")).unwrap();
        write("x.active", b"record");
        let _ = fs.rename_new(&at("x.active"), &at("taken"));
        let _ = fs.rename_new(&at("x.active"), &at("x.flushed"));
        fs.sync_dir(Path::new(DIR)).unwrap();
        drop(fs);
        let image = disk.harshest_image();
        ["taken", "cut", "gone", "x.flushed"].map(|name| content(&image, name))
    }

    #[test]
    fn each_lie_leaves_something_else_than_the_truth() {
        let some = |bytes: &[u8]| Some(bytes.to_vec());
        let truth = [some(b"first"), some(b"whole"), None, some(b"record")];
        assert_eq!(left(None), truth);
        assert_eq!(left(Some(Lie::DirectoriesNotSynced)), [None, None, None, None]);
        assert_eq!(left(Some(Lie::FilesNotSynced)), [some(b""), some(b""), None, some(b"")]);
        assert_eq!(left(Some(Lie::FilesSyncedAfter(4))), [some(b"first"), some(b"whole"), None, some(b"")]);
        assert_eq!(left(Some(Lie::FilesSyncedAfter(3))), truth, "the third operation after it finds it synced");
        assert_eq!(left(Some(Lie::RenamesReplace)), [some(b"record"), some(b"whole"), None, None]);
        assert_eq!(left(Some(Lie::FilesNotCut)), [some(b"first"), some(b"whole torn"), None, some(b"record")]);
        assert_eq!(left(Some(Lie::FilesNotRemoved)), [some(b"first"), some(b"whole"), some(b""), some(b"record")]);
        assert_eq!(left(Some(Lie::WritesAtMost(3))), [some(b"fir"), some(b"who"), None, some(b"rec")]);
    }

    #[test]
    fn what_is_hidden_is_there_for_who_knows_its_name() {
        let disk: Arc<dyn FileSystem> = Arc::new(MemoryFs::new());
        let fs = lying(disk, Lie::Hides("pending"));
        fs.create_dir_all(Path::new(DIR)).unwrap();
        for name in ["a.pending", "b.flushed", "pending"] {
            fs.create_new(&at(name)).unwrap();
        }
        let mut names: Vec<String> = fs.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        assert_eq!(names, ["b.flushed", "pending"]);
        fs.open(&at("a.pending")).unwrap();
    }
}
