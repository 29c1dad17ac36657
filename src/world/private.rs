//! A socket that only this process can reach.
//!
//! It is bound in a fresh directory that nobody else may enter (mode 0700), opened with `O_PATH`, and its name removed at
//! once: from then on the only way to it is `/proc/self/fd/N` of this process (proc(5); connect(2) follows it to the
//! inode). Where that does not work (no `/proc`), the name stays in its directory until the end.

use super::entropy::random_u64;
use rustix::fs::{Mode, OFlags};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The way to the socket. Dropping it removes what is left of its name.
#[derive(Debug)]
pub struct PrivateAddress {
    /// Where to connect to.
    path: PathBuf,
    /// Keeps the inode reachable through `path`, unless that is the real name.
    inode: Option<OwnedFd>,
    /// What to remove at the end.
    directory: Option<PathBuf>,
}

impl PrivateAddress {
    /// Connects to the socket.
    pub fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path)
    }

    /// Whether the socket has no name any more.
    pub fn is_nameless(&self) -> bool {
        self.inode.is_some()
    }
}

impl Drop for PrivateAddress {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            remove(directory);
        }
    }
}

const NAME: &str = "socket";

/// Listens on a new private socket.
pub fn listen() -> io::Result<(UnixListener, PrivateAddress)> {
    let directory = std::env::temp_dir().join(format!("oklog-{:016x}", random_u64()));
    DirBuilder::new().mode(0o700).create(&directory)?;
    let bound = bind_in(&directory);
    if bound.is_err() {
        remove(&directory);
    }
    bound
}

fn bind_in(directory: &Path) -> io::Result<(UnixListener, PrivateAddress)> {
    let name = directory.join(NAME);
    let listener = UnixListener::bind(&name)?;
    let named = PrivateAddress { path: name.clone(), inode: None, directory: Some(directory.to_path_buf()) };
    let inode = rustix::fs::open(&name, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", inode.as_raw_fd()));
    let nameless = PrivateAddress { path, inode: Some(inode), directory: None };
    // Tried out while the name is still there. The listener finds a connection that has ended, and thinks nothing of it.
    if nameless.connect().is_err() {
        return Ok((listener, named));
    }
    drop(named);
    if nameless.connect().is_err() {
        return Err(io::Error::other("a private socket cannot be reached without its name"));
    }
    Ok((listener, nameless))
}

fn remove(directory: &Path) {
    // Errors are of no use to anybody here: the directory is empty but for the socket, and nobody else may enter it.
    let _ = std::fs::remove_file(directory.join(NAME));
    let _ = std::fs::remove_dir(directory);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_private_socket_is_reached_without_a_name_and_leaves_nothing_behind() {
        let (listener, address) = listen().unwrap();
        assert!(address.is_nameless());
        let bound = listener.local_addr().unwrap();
        let name = bound.as_pathname().unwrap();
        assert!(!name.exists() && !name.parent().unwrap().exists());
        let mut client = address.connect().unwrap();
        client.write_all(b"x").unwrap();
        let read = listener.incoming().find_map(|stream| {
            let mut text = [0];
            (stream.unwrap().read(&mut text).unwrap() == 1).then_some(text)
        });
        assert_eq!(read, Some(*b"x"));
    }
}
