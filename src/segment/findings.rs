//! What a start has found wrong in a directory: each file is told of in one line, and all of them are summed up at the end.

use super::handle::{DAMAGED, set_aside};
use crate::ops::metrics::Counter;
use crate::world::fs::FileSystem;
use crate::world::fs::real::LOCK_NAME;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// The findings of one start in one directory.
pub struct Findings {
    dir: PathBuf,
    corrupt: Counter,
    aside: u64,
    records: u64,
    renamed: u64,
    left: u64,
}

/// What may be done about an error, where that is plain.
pub fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (it must belong to the user that oklog runs as, who must be allowed to list it and to write into it)"
        }
        io::ErrorKind::ReadOnlyFilesystem => " (the file system must be mounted for writing)",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => " (a file is where a directory must be)",
        _ => "",
    }
}

/// Whether an error of a rename says that nothing can be renamed in this directory.
fn tells_of_the_directory(error: &io::Error) -> bool {
    // EPERM is one file's: chattr(1), or another's file in a sticky directory. EACCES is the directory's (rename(2)).
    const EPERM: i32 = 1;
    let denied = error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error() != Some(EPERM);
    denied || error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

impl Findings {
    /// None yet. `corrupt` counts files that are set aside, or are not what their names say.
    pub fn new(dir: &Path, corrupt: Counter) -> Findings {
        Findings { dir: dir.to_path_buf(), corrupt, aside: 0, records: 0, renamed: 0, left: 0 }
    }

    /// Sets a file aside as `.corrupt`. Where that one file cannot be renamed it is left as it is; an error means that the
    /// directory cannot be worked with.
    pub fn set_aside(&mut self, fs: &dyn FileSystem, path: &Path, why: impl Display, then: &str) -> io::Result<()> {
        match set_aside(fs, path) {
            Ok(to) => {
                self.corrupt.inc();
                self.aside += 1;
                log::error!("{}: {why}: set aside as {}; {then}", shown(path), name(&to));
                Ok(())
            }
            Err(e) => self.cannot(path, why, e),
        }
    }

    /// Sets aside what is no plain file and has a name of ours; what has not is left alone. Gives whether it was set aside.
    pub fn no_file(&mut self, fs: &dyn FileSystem, path: &Path, is_ours: bool) -> io::Result<bool> {
        if !is_ours {
            log::info!("{} is no plain file, and its name is none of ours: it is left alone", path.display());
            return Ok(false);
        }
        let is_aside = path.extension().is_some_and(|extension| extension == "corrupt");
        if is_aside || path.file_name().is_some_and(|name| name == LOCK_NAME) {
            return Ok(false);
        }
        self.set_aside(fs, path, "it is no plain file", "what is in it is not looked at")?;
        Ok(true)
    }

    /// Sets a damaged file aside of which `records` go on, in files of their own.
    pub fn rescued(
        &mut self,
        fs: &dyn FileSystem,
        path: &Path,
        why: impl Display,
        records: u64,
        files: &[PathBuf],
    ) -> io::Result<()> {
        self.records += records;
        let goes_on = match files {
            [] => "nothing in it is a record, perhaps it is of another version of oklog".to_string(),
            [one] => format!("{records} whole records of it go on as {}", name(one)),
            [first, more @ ..] => {
                format!("{records} whole records of it go on as {} and {} more files", name(first), more.len())
            }
        };
        self.set_aside(fs, path, why, &goes_on)
    }

    /// Tells of a file that goes on under the name that fits what it holds. `lost`: its own name promised something else.
    pub fn renamed(&mut self, from: &Path, to: &Path, lost: bool) {
        self.renamed += 1;
        if lost {
            self.corrupt.inc();
            log::error!(
                "{}: its first and last id are not those in its name: it goes on as {}; records may be missing",
                from.display(),
                name(to)
            );
        } else {
            log::warn!(
                "{}: its name is none of this version's, its content is: it goes on as {}",
                from.display(),
                name(to)
            );
        }
    }

    /// Tells of a file whose form was not that of its name, and which goes on under another one.
    pub fn rested(&mut self, from: &Path, to: &Path) {
        self.renamed += 1;
        log::warn!("{}: its name says another form than it has: it goes on as {}", from.display(), name(to));
    }

    /// Tells of a sealed file that goes on without its index.
    pub fn slow(&mut self, path: &Path, why: &str) {
        self.corrupt.inc();
        log::error!("{}: {why}: all its records are there, and reading it takes longer", path.display());
    }

    /// Tells of a file that cannot be brought in order and stays where it is. An error means that no file can.
    pub fn cannot(&mut self, path: &Path, why: impl Display, error: io::Error) -> io::Result<()> {
        if tells_of_the_directory(&error) {
            return Err(error);
        }
        self.corrupt.inc();
        self.left += 1;
        log::error!("{}: {why}: it is left as it is until the next start: {error}", shown(path));
        Ok(())
    }

    /// Says in one line what was found, if anything was.
    pub fn sum_up(&self) {
        let Findings { dir, aside, records, renamed, left, .. } = self;
        if aside + renamed + left > 0 {
            log::warn!(
                "{}: {aside} files set aside, {records} whole records of them go on; {renamed} files renamed to what they \
                 hold; {left} could not be brought in order",
                dir.display()
            );
        }
    }
}

/// A path with the name that people know a file by.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    text.strip_suffix(DAMAGED).unwrap_or(&text).to_string()
}

/// The last part of a path.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
