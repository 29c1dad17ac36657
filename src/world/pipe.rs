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
