//! Pipes as this program wants them.

use std::os::fd::AsFd;

/// What a pipe is made to hold: what an unprivileged process may ask for (pipe(7), `/proc/sys/fs/pipe-max-size`).
const WIDE: usize = 1 << 20;

/// Makes a pipe hold more than the usual 64 KiB, so that who writes much to it and who reads it wait for each other less
/// often. Nothing where this is no pipe, or the user's pipes hold as much as they may.
pub fn widen(descriptor: impl AsFd) {
    // An error leaves it as it was, which is good enough.
    let _ = rustix::pipe::fcntl_setpipe_size(descriptor, WIDE);
}

/// A pipe whose reader has gone away: for tests of what that ends.
#[cfg(test)]
pub struct Gone;

#[cfg(test)]
impl std::io::Write for Gone {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
}
