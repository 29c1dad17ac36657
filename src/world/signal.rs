//! SIGTERM, SIGINT and SIGHUP as values that a thread waits for.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;

/// The signals that ask a process to end. From the moment this exists they no longer end it by themselves.
pub struct EndSignals {
    signals: Signals,
}

impl EndSignals {
    /// Takes the signals over. Call it before the first thread starts.
    pub fn take_over() -> io::Result<EndSignals> {
        // A file that may not become longer (RLIMIT_FSIZE) is an error of that write, and not the end of the process.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map(|signals| EndSignals { signals })
    }

    /// Waits for the next one and gives its name.
    pub fn wait(&mut self) -> &'static str {
        match self.signals.forever().next() {
            Some(SIGINT) => "SIGINT",
            Some(SIGHUP) => "SIGHUP",
            _ => "SIGTERM",
        }
    }
}

/// Ends the process here and now, as a second signal asks. What was flushed or synced stays.
pub fn end_now(status: i32) -> ! {
    std::process::exit(status)
}
