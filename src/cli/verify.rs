//! `oklog verify`: says whether the data directories of servers that are stopped are sound.
//!
//! The report goes to standard output, how far it is to standard error where that is a terminal.
//!
//! Exit status: 0 sound, 1 problems were found, 2 not all could be read, or a server uses a directory.

use crate::unit::Bytes;
use crate::verify::check::Progress;
use crate::verify::report::{UNREAD, size};
use crate::verify::{self, check};
use crate::world::clock::Clock;
use crate::world::fs::FileSystem;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// What is looked at, and what is printed.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Directories of tiers, or ones that hold those.
    pub dirs: Vec<PathBuf>,
    /// On so many stores every record must be.
    pub copies: Option<u32>,
    /// Print notes too.
    pub notes: bool,
}

/// Reads, prints the report to `out`, complains to `err`, and gives the exit status. Where `progress` is set, `err` is a
/// terminal and shows how far it is.
pub fn run(
    fs: &Arc<dyn FileSystem>,
    clock: &dyn Clock,
    options: &VerifyOptions,
    progress: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let mut show = |now: Progress| {
        if progress {
            // Nobody is left to see it when standard error is gone.
            let _ = write!(err, "\r{} of {} read\x1b[K", size(Bytes(now.read)), size(Bytes(now.total)));
            let _ = err.flush();
        }
    };
    let checked = check(fs, clock, &verify::Options { dirs: options.dirs.clone(), copies: options.copies }, &mut show);
    if progress {
        // Takes the line away that showed how far it was.
        let _ = write!(err, "\r\x1b[K");
    }
    let report = match checked {
        Ok(report) => report,
        Err(refusal) => {
            // The exit status says it too.
            let _ = writeln!(err, "oklog verify: {refusal}");
            return UNREAD;
        }
    };
    match report.print(options.notes, out).and_then(|()| out.flush()) {
        // A reader that has gone away (`oklog verify data | head`) has what it wanted.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(err, "oklog verify: printing the report: {e}");
            UNREAD
        }
        _ => report.exit_status(),
    }
}
