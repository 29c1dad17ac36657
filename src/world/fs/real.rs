//! The machine's own files.

use super::{Entry, File, FileSystem, Space, read_onto_cleared};
use crate::unit::{Bytes, UnixMillis};
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, FallocateFlags, FlockOperation, OFlags, RenameFlags, fallocate, flock, renameat_with, statvfs};
use rustix::io::pread;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Files are for the server's user, and for a group that may read logs; never for all.
const FILE_MODE: u32 = 0o640;

/// The name of the file that a directory's lock is taken on. It is never removed: a second process could otherwise lock
/// a new file of the same name while the first holds the old one.
pub const LOCK_NAME: &str = "LOCK";

/// How many reads are under way at once where many small files are read: what a disk is glad to be asked for, and little for
/// the processors where nothing is waited for (measured from 1 to 64: beyond 16 nothing is won).
const AT_ONCE: usize = 16;

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl FileSystem for RealFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let above = dir.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        if dir.is_dir() {
            // Whoever made it may have been killed before its entry was synced.
            return above.map_or(Ok(()), |above| sync_if_ours(self.sync_dir(above)));
        }
        let above = above.unwrap_or(Path::new("."));
        self.create_dir_all(above)?;
        match fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => self.sync_dir(above),
            Err(e) => Err(e),
            Ok(()) => self.sync_dir(above),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Renamed or removed since the name was read: another thread of ours is at work.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            entries.push(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_file: metadata.is_file(),
                size: Bytes(metadata.len()),
                modified: to_millis(metadata.modified()?),
            });
        }
        Ok(entries)
    }

    fn names_changed(&self, dir: &Path) -> io::Result<Option<UnixMillis>> {
        Ok(Some(to_millis(fs::metadata(dir)?.modified()?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        // A pipe would be waited for until somebody writes into it; a plain file is not changed by the flag (open(2)).
        let at_once = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = fs::File::options().read(true).custom_flags(at_once).open(path)?;
        // A directory can be opened, and fails only when it is read.
        if file.metadata()?.is_dir() {
            return Err(rustix::io::Errno::ISDIR.into());
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(fs::File::options().read(true).append(true).open(path)?)))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options().read(true).append(true).create_new(true).mode(FILE_MODE).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system without the flag, or a kernel without the call (renameat2(2)): a second name, then the first
            // one goes. When that fails the file has two names, of which neither is taken back: it may have happened.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            other => Ok(other?),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // Not a file by mistake, whose sync would say nothing of its name.
        let directory = OFlags::DIRECTORY.bits().cast_signed();
        fs::File::options().read(true).custom_flags(directory).open(dir)?.sync_all()
    }

    fn set_modified(&self, path: &Path, to: UnixMillis) -> io::Result<()> {
        fs::File::options().append(true).open(path)?.set_modified(UNIX_EPOCH + Duration::from_millis(to.0))
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let found = statvfs(dir)?;
        let of = |blocks: u64| Bytes(blocks.saturating_mul(found.f_frsize));
        Ok(Space { total: of(found.f_blocks), available: of(found.f_bavail) })
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    fn reserve(&self, path: &Path, size: Bytes) -> io::Result<()> {
        let file = fs::File::options().write(true).create_new(true).mode(FILE_MODE).open(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, size.0).map_err(|e| {
            // A part of it is nobody's: the caller hears of what was refused first.
            let _ = fs::remove_file(path);
            match e {
                rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS => io::ErrorKind::Unsupported.into(),
                e => e.into(),
            }
        })
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let path = dir.join(LOCK_NAME);
        // A link could lead to anything, and what is locked is written to.
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            let why = format!("{LOCK_NAME} in it is no plain file: move it away");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut file =
            fs::File::options().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, format!("in use by {}", words_in(file))));
            }
            Err(e) => return Err(e.into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        // The lock is held. A disk without room for these words must not keep a process from starting and making some.
        let _ = writeln!(file, "process {}", std::process::id());
        Ok(Box::new(file))
    }

    fn lock_holder(&self, dir: &Path) -> io::Result<Option<String>> {
        let file = match fs::File::open(dir.join(LOCK_NAME)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        // Shared, and let go at once: there is no call that only looks.
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(words_in(file))),
            Err(e) => Err(e.into()),
        }
    }
}

fn to_millis(time: SystemTime) -> UnixMillis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What the holder of a lock has written into its file.
fn words_in(mut lock: fs::File) -> String {
    let mut holder = String::new();
    // Who holds it is only for the message: unreadable words are no reason to fail differently.
    let _ = lock.read_to_string(&mut holder);
    holder.lines().next().unwrap_or("another process").to_string()
}

/// The sync of a directory in which we need not have made anything. It may be none that can be read, or synced.
fn sync_if_ours(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => Ok(()),
        other => other,
    }
}

/// An open file of the machine.
struct RealFile(fs::File);

impl File for RealFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.0).write_all(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        self.0.read_at(buffer, offset.0)
    }

    fn read_onto(&self, block: &mut Vec<u8>, most: usize, offset: Bytes) -> io::Result<usize> {
        let known = block.len();
        block.reserve_exact(most);
        // The system fills whatever room there is. Where that is far more than is wanted, clearing costs less.
        if most == 0 || (block.capacity() - known) / 2 > most {
            return read_onto_cleared(self, block, most, offset);
        }
        let n = pread(&self.0, spare_capacity(block), offset.0)?.min(most);
        block.truncate(known + n);
        Ok(n)
    }

    fn size(&self) -> io::Result<Bytes> {
        self.0.metadata().map(|metadata| Bytes(metadata.len()))
    }

    fn truncate(&self, to: Bytes) -> io::Result<()> {
        // ftruncate(2) would make a shorter file longer, by a hole.
        if self.size()? > to { self.0.set_len(to.0) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_never_replaces_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        RealFs.create_new(&a).and_then(|file| file.append(b"one")).expect("a file");
        RealFs.create_new(&b).and_then(|file| file.append(b"two")).expect("a file");
        let refused = RealFs.rename_new(&a, &b).expect_err("the name is taken");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&b).expect("still there"), b"two");
        RealFs.rename_new(&a, &dir.path().join("c")).expect("a free name");
    }

    #[test]
    fn what_is_reserved_takes_up_blocks_and_what_cannot_be_leaves_no_file() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        match RealFs.reserve(&a, Bytes(1 << 20)) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                eprintln!("SKIPPED: {} cannot promise blocks", dir.path().display());
                return;
            }
            other => other.expect("room"),
        }
        let found = fs::metadata(&a).expect("there");
        assert!(found.len() == 1 << 20 && found.blocks() * 512 >= 1 << 20, "{found:?}");
        assert_eq!(RealFs.reserve(&a, Bytes(1)).expect_err("taken").kind(), io::ErrorKind::AlreadyExists);
        RealFs.reserve(&b, Bytes(1 << 60)).expect_err("no disk is so large");
        assert!(!b.exists());
    }

    #[test]
    fn a_locked_directory_says_who_holds_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = RealFs.lock_dir(dir.path()).expect("free");
        let refused = RealFs.lock_dir(dir.path()).err().expect("held");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        RealFs.lock_dir(dir.path()).expect("free again");
    }

    #[test]
    fn a_look_at_the_lock_names_the_holder_and_leaves_no_trace() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(RealFs.lock_holder(dir.path()).expect("readable"), None);
        assert_eq!(RealFs.list(dir.path()).expect("readable"), [], "no file was made");
        let held = RealFs.lock_dir(dir.path()).expect("free");
        let holder = RealFs.lock_holder(dir.path()).expect("readable");
        assert_eq!(holder, Some(format!("process {}", std::process::id())));
        drop(held);
        assert_eq!(RealFs.lock_holder(dir.path()).expect("readable"), None);
        RealFs.lock_dir(dir.path()).expect("the look holds nothing");
    }

    #[test]
    fn a_lock_that_is_a_link_is_refused_and_what_it_leads_to_is_not_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let other = dir.path().join("other");
        fs::write(&other, "precious").expect("a file");
        std::os::unix::fs::symlink(&other, dir.path().join(LOCK_NAME)).expect("a link");
        let refused = RealFs.lock_dir(dir.path()).err().expect("no plain file");
        assert!(refused.to_string().contains("move it away"), "{refused}");
        assert_eq!(fs::read(&other).expect("still there"), b"precious");
    }
}
