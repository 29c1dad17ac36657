//! The postman: lines from standard input to an ingester.
//!
//! [`run`] reads on one thread and sends on another, with a bounded queue between them ([`buffer`]). Which ingester comes
//! next, and when, is decided by [`backoff`]; where it is, by [`address`] and [`dns`].
//!
//! What is promised depends on the mode.
//!
//! - *Fast* ([`fast`]): one connection for as long as it lives. A line that could not be handed wholly to the kernel goes
//!   to the next ingester. What the kernel had taken and the server had not when the connection broke is lost: the kernel
//!   knows how much that is (`SIOCOUTQ`), but asking takes unsafe code, which this program does not have.
//! - *Durable* ([`durable`]): windows of lines, each over a connection of its own, sent again until a server has confirmed
//!   that the window is on stable storage. Every line arrives at least once, in order.
//!
//! Memory: the queue's size, one read, one line of up to [`lines::LONG_LINE`], and in durable mode one window. Left out for
//! now: bulk mode, and a buffer on disk. Both are refused by name.

pub mod address;
pub mod backoff;
pub mod buffer;
pub mod dns;
pub mod durable;
pub mod fast;
pub mod lines;
pub mod testsvc;
pub mod thread;

#[cfg(test)]
mod tests;

pub use address::Address;
pub use thread::{World, run};

use crate::unit::Bytes;
use std::fmt;
use std::io;

/// What a server promises for what it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The lines are in the hands of the server's operating system.
    #[default]
    Fast,
    /// The lines are on the server's stable storage.
    Durable,
    /// Whole segments are on the stable storage of enough stores. Refused by this version.
    Bulk,
}

impl Mode {
    /// Reads `fast`, `durable` or `bulk`.
    pub fn parse(text: &str) -> Option<Mode> {
        match text {
            "fast" => Some(Mode::Fast),
            "durable" => Some(Mode::Durable),
            "bulk" => Some(Mode::Bulk),
            _ => None,
        }
    }

    /// The port on which an ingester listens for this mode if nobody says otherwise.
    pub fn default_port(self) -> u16 {
        match self {
            Mode::Fast => 7651,
            Mode::Durable => 7652,
            Mode::Bulk => 7653,
        }
    }
}

/// What happens to input while no ingester takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Buffer {
    /// Nothing more is read: whoever writes to us waits.
    #[default]
    Block,
    /// Reading goes on; the oldest waiting lines are dropped and counted.
    Drop,
    /// Reading goes on, onto disk. Refused by this version.
    Disk,
}

impl Buffer {
    /// Reads `block`, `drop` or `disk`.
    pub fn parse(text: &str) -> Option<Buffer> {
        match text {
            "block" => Some(Buffer::Block),
            "drop" => Some(Buffer::Drop),
            "disk" => Some(Buffer::Disk),
            _ => None,
        }
    }
}

/// How much input waits in memory if nobody says otherwise.
pub const DEFAULT_BUFFER_SIZE: Bytes = Bytes(4 << 20);

/// What to forward, how, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Written before each line, in order, each followed by a space. No LF in them.
    pub prefixes: Vec<Vec<u8>>,
    /// The ingesters. The first to be tried is drawn by lot, so that many forwarders spread; then in turn.
    pub addresses: Vec<Address>,
    /// What a server promises for what it takes.
    pub mode: Mode,
    /// What happens while no ingester takes anything.
    pub buffer: Buffer,
    /// How much input waits in memory at most, give or take one batch ([`lines::BATCH`] or one long line).
    pub buffer_size: Bytes,
}

/// What came of it. Prefixes count as sent bytes; what was sent again counts once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Bytes handed over: to the kernel in fast mode, to stable storage in durable mode.
    pub bytes: u64,
    /// Lines among them.
    pub records: u64,
    /// Lines dropped because the buffer was full.
    pub dropped: u64,
    /// Connections made.
    pub connections: u64,
    /// Fast mode only: the last connection did not end with the server's clean close, so its last lines are in doubt.
    pub end_in_doubt: bool,
}

/// Why forwarding ended before all input was handed over.
#[derive(Debug)]
pub enum ForwardError {
    /// This version does not do that. Nothing was read.
    NotYet(&'static str),
    /// There is nowhere to send to. Nothing was read.
    NoAddress,
    /// A prefix cannot stand before a line. Nothing was read.
    Prefix,
    /// The system gave no thread to read the input. Nothing was read.
    Thread(io::Error),
    /// The input could not be read to its end. What was read before has been handed over.
    Input(io::Error),
    /// We were asked to stop while no ingester took what was left. It is lost, unless its writer still has it.
    Undelivered {
        /// Lines left.
        records: u64,
        /// Bytes left.
        bytes: u64,
        /// What the last attempt said.
        last: String,
    },
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardError::NotYet(what) => write!(f, "{what} is not in this version"),
            ForwardError::NoAddress => f.write_str("no address to forward to"),
            ForwardError::Prefix => {
                write!(f, "a prefix has a line feed in it, or all together are over {} bytes long", lines::MAX_PREFIX)
            }
            ForwardError::Thread(source) => write!(f, "starting to read standard input: {source}"),
            ForwardError::Input(source) => write!(f, "reading standard input: {source}"),
            ForwardError::Undelivered { records, bytes, last } => {
                write!(f, "stopped with {records} lines ({bytes} bytes) not handed over: {last}")
            }
        }
    }
}

impl std::error::Error for ForwardError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ForwardError::Thread(source) | ForwardError::Input(source) => Some(source),
            _ => None,
        }
    }
}
