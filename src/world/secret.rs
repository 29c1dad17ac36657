//! Reads a file that nobody else may read.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a secret was not read.
#[derive(Debug)]
pub enum SecretError {
    /// The operating system refused.
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a plain file.
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// Others than its owner may read, write or run it.
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is longer than any such file.
    TooLong {
        /// Which file.
        path: PathBuf,
        /// The limit, in bytes.
        most: u64,
    },
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretError::Io { path, source } => write!(f, "reading {}: {source}", path.display()),
            SecretError::NotAFile { path } => write!(f, "{} is not a plain file", path.display()),
            SecretError::Exposed { path, mode } => {
                let path = path.display();
                write!(f, "others than its owner may use {path} (mode {mode:03o}): chmod 600 {path} keeps it secret")
            }
            SecretError::TooLong { path, most } => write!(f, "{} is longer than {most} bytes", path.display()),
        }
    }
}

impl std::error::Error for SecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SecretError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Reads a plain file of at most `most` bytes that gives no rights to anybody but its owner.
///
/// The rights are those of the file that is read, not of the name: they are taken after it was opened.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, SecretError> {
    let io = |source| SecretError::Io { path: path.to_path_buf(), source };
    // Without O_NONBLOCK the opening of a pipe would wait for a writer.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?;
    if !found.is_file() {
        return Err(SecretError::NotAFile { path: path.to_path_buf() });
    }
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { path: path.to_path_buf(), mode });
    }
    let mut content = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut content).map_err(io)?;
    if content.len() as u64 > most {
        return Err(SecretError::TooLong { path: path.to_path_buf(), most });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_may_read_is_refused_and_so_is_what_is_no_file_or_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "secret").unwrap();
        for (mode, readable) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o601, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match read(&path, 6) {
                Ok(content) => assert!(readable && content == b"secret", "{mode:o}"),
                Err(e) => assert!(!readable && e.to_string().contains("chmod 600"), "{mode:o}: {e}"),
            }
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read(&path, 5), Err(SecretError::TooLong { .. })));
        assert!(matches!(read(dir.path(), 5), Err(SecretError::NotAFile { .. })));
        assert!(matches!(read(&dir.path().join("none"), 5), Err(SecretError::Io { .. })));
    }
}
