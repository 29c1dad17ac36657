//! One producer's connection, from its first byte to its close.
//!
//! An idle connection holds no buffer: bytes are awaited with `poll`, read into a buffer of the shared pool, and only the
//! beginning of an unfinished line stays. Backpressure is TCP's: what cannot be written is not read.

use super::durable;
use super::log::{IngestLog, Slot};
use crate::ops::metrics::Counter;
use crate::record::line::{Cut, LineCutter};
use crate::world::crew::{Stop, lock};
use crate::world::socket::{self, Bell};
use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How much is read at a time.
const READ: usize = 256 << 10;

/// Buffers kept for reuse.
const POOLED: usize = 32;

/// Bytes of unfinished lines above [`READ`] each, all connections together. Beyond it long lines are split early.
const LONG_LINES: usize = 256 << 20;

/// Bytes a durable connection may be ahead of its last sync.
const UNSYNCED: u64 = 1 << 20;

/// Bytes of a durable connection that has more to read after which a sync begins meanwhile. With less it may be its end that is read
/// next: then it syncs them itself, and no other thread is woken for it.
const UNWANTED: u64 = 256 << 10;

/// How long a batch that could not be written waits before it is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What all connections share.
pub struct Shared {
    buffers: Mutex<Vec<Vec<u8>>>,
    long_lines: AtomicUsize,
    long_lines_limit: usize,
    max_record: usize,
    split_long: Counter,
    split_memory: Counter,
    write_errors: Counter,
}

impl Shared {
    /// For connections to `log` whose records are at most `max_record` bytes long.
    pub fn new(log: &IngestLog, max_record: usize) -> Shared {
        use crate::ops::metrics as m;
        Shared {
            buffers: Mutex::default(),
            long_lines: AtomicUsize::new(0),
            long_lines_limit: LONG_LINES,
            max_record,
            split_long: log.metrics.counter(m::RECORDS_SPLIT, &["size"]),
            split_memory: log.metrics.counter(m::RECORDS_SPLIT, &["memory"]),
            write_errors: log.metrics.counter(m::WRITE_ERRORS, &["write"]),
        }
    }

    fn take_buffer(&self) -> Vec<u8> {
        lock(&self.buffers).pop().unwrap_or_else(|| vec![0; READ])
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut buffers = lock(&self.buffers);
        if buffers.len() < POOLED && buffer.len() == READ {
            buffers.push(buffer);
        }
    }
}

/// What is promised to the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// In the operating system's hands before the next batch is read.
    Fast,
    /// On stable storage before the connection is closed cleanly.
    Durable,
}

/// A connection at work.
pub struct Connection<'a> {
    /// The peer.
    pub stream: TcpStream,
    /// Where its records go.
    pub log: &'a IngestLog,
    /// Through which writer.
    pub slot: &'a Slot,
    /// What it was promised.
    pub promise: Promise,
    /// Buffers and counters.
    pub shared: &'a Shared,
    /// Raised when the process ends.
    pub stop: &'a Stop,
    /// Wakes the wait for bytes when the process ends.
    pub bell: &'a Bell,
}

/// The state between two reads.
struct Progress {
    cutter: LineCutter,
    cut: Cut,
    /// The beginning of an unfinished line.
    rest: Vec<u8>,
    /// What of the shared allowance for long lines this connection has taken.
    allowance: usize,
    /// The slot's bytes before the first batch that may be unsynced, and after the last.
    unsynced: Option<(u64, u64)>,
}

impl Connection<'_> {
    /// Serves the connection to its end. A broken promise ends in a reset.
    pub fn serve(self) {
        let mut progress = Progress {
            cutter: LineCutter::new(self.shared.max_record),
            cut: Cut::default(),
            rest: Vec::new(),
            allowance: 0,
            unsynced: None,
        };
        let result = self
            .begin()
            .and_then(|()| self.take_all(&mut progress))
            .and_then(|()| self.settle(&mut progress))
            .and_then(|()| socket::close_cleanly(&self.stream));
        self.keep_allowance(&mut progress, 0);
        if let Err(e) = result {
            log::debug!("a connection ended: {e}");
            // Where even this is refused the socket is broken already, and its peer knows.
            let _ = socket::reset_on_close(&self.stream);
        }
    }

    /// A clean close of a durable connection is a promise, and the kernel would give it in our name: it closes cleanly what
    /// a killed process has read to the end. So until the promise holds, however this process ends, the close is a reset.
    fn begin(&self) -> io::Result<()> {
        if self.promise == Promise::Durable { socket::reset_on_close(&self.stream) } else { Ok(()) }
    }

    fn take_all(&self, progress: &mut Progress) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        loop {
            let stopping = socket::wait_readable_or(&self.stream, self.bell)?;
            // When the process ends, what has arrived by now is taken, and no more: some peers never pause. One byte is asked
            // for beyond that, to see the peer's end behind it.
            let most = if stopping { Some(socket::bytes_waiting(&self.stream)?.saturating_add(1)) } else { None };
            let mut buffer = self.shared.take_buffer();
            let ended = self.take_available(progress, &mut buffer, most);
            self.shared.give_back(buffer);
            let ended = ended?;
            if ended || stopping {
                self.finish(progress)?;
                return if ended || self.promise == Promise::Fast { Ok(()) } else { self.break_off(progress) };
            }
        }
    }

    /// Reads until nothing is there now, or `most` bytes were read; without a bound, until the bell is rung. Gives whether the
    /// peer has ended.
    fn take_available(
        &self,
        progress: &mut Progress,
        buffer: &mut Vec<u8>,
        mut most: Option<usize>,
    ) -> io::Result<bool> {
        let mut held = progress.rest.len();
        if buffer.len() < held + READ / 2 {
            buffer.resize(held + READ, 0);
        }
        buffer[..held].copy_from_slice(&progress.rest);
        let outcome = loop {
            if !self.log.wait_for_disk(self.stop) {
                break Err(io::Error::other("the disk is full and the process ends"));
            }
            let end = match most {
                Some(0) => break Ok(false),
                None if self.bell.is_rung() => break Ok(false),
                Some(most) => buffer.len().min(held.saturating_add(most)),
                None => buffer.len(),
            };
            match (&self.stream).read(&mut buffer[held..end]) {
                Ok(0) => break Ok(true),
                Ok(n) => {
                    held += n;
                    most = most.map(|most| most.saturating_sub(n));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                // A peer that resets has still sent what came before.
                Err(e) if e.kind() == ErrorKind::ConnectionReset => break Ok(true),
                Err(e) => break Err(e),
            }
            progress.cutter.cut(&buffer[..held], &mut progress.cut);
            self.write(progress, buffer)?;
            buffer.copy_within(progress.cut.consumed..held, 0);
            held -= progress.cut.consumed;
            if buffer.len() - held < READ / 2 {
                held = self.make_room(progress, buffer, held)?;
            }
        };
        if let (Ok(false), Some((_, mark))) = (&outcome, progress.unsynced) {
            self.slot.group.want(mark);
        }
        // What an idle connection holds is its unfinished line, nothing else.
        progress.cut.records = Vec::new();
        progress.rest.clear();
        progress.rest.shrink_to(held);
        progress.rest.extend_from_slice(&buffer[..held]);
        self.keep_allowance(progress, if held > READ { held } else { 0 });
        outcome
    }

    /// A long line fills the buffer: a larger one, or, where there is no memory left for it, an early split.
    fn make_room(&self, progress: &mut Progress, buffer: &mut Vec<u8>, held: usize) -> io::Result<usize> {
        let wanted = buffer.len().max(READ);
        if self.shared.long_lines.fetch_add(wanted, Ordering::Relaxed) + wanted <= self.shared.long_lines_limit {
            progress.allowance += wanted;
            buffer.resize(buffer.len() + wanted, 0);
            return Ok(held);
        }
        self.shared.long_lines.fetch_sub(wanted, Ordering::Relaxed);
        progress.cutter.split_here(&buffer[..held], &mut progress.cut);
        self.shared.split_memory.inc();
        self.write(progress, buffer)?;
        Ok(0)
    }

    /// Holds just so much of the shared allowance from now on: the large buffer is gone, the unfinished line is not.
    fn keep_allowance(&self, progress: &mut Progress, keep: usize) {
        let held = std::mem::replace(&mut progress.allowance, keep);
        self.shared.long_lines.fetch_add(keep, Ordering::Relaxed);
        self.shared.long_lines.fetch_sub(held, Ordering::Relaxed);
    }

    /// The peer has ended, or we do: what is left is a record.
    fn finish(&self, progress: &mut Progress) -> io::Result<()> {
        let rest = std::mem::take(&mut progress.rest);
        progress.cutter.finish(&rest, &mut progress.cut);
        self.write(progress, &rest)
    }

    /// We end before the peer did: it may have sent what was not read. What was is made safe; the close must still not
    /// look like a promise for the rest.
    fn break_off(&self, progress: &mut Progress) -> io::Result<()> {
        self.settle(progress)?;
        Err(io::Error::new(ErrorKind::ConnectionAborted, "the process ends before the peer has"))
    }

    /// Hands the cut records to the log; holds on while it cannot take them.
    fn write(&self, progress: &mut Progress, buffer: &[u8]) -> io::Result<()> {
        if progress.cut.records.is_empty() {
            return Ok(());
        }
        self.shared.split_long.add(progress.cut.splits as u64);
        let mark = loop {
            match self.log.append(self.slot, buffer, &progress.cut) {
                Ok(mark) => break mark,
                Err(e) => {
                    self.shared.write_errors.inc();
                    self.log.note_refused_write(&e);
                    if self.stop.wait(RETRY) || !self.log.wait_for_disk(self.stop) {
                        return Err(e);
                    }
                }
            }
        };
        if self.promise == Promise::Durable {
            let stored = (progress.cut.text_len + 28 * progress.cut.records.len()) as u64;
            let from = progress.unsynced.map_or(mark.saturating_sub(stored), |(from, _)| from);
            progress.unsynced = Some((from, mark));
            if mark - from > UNSYNCED {
                self.settle(progress)?;
            } else if mark - from > UNWANTED {
                self.slot.group.want(mark);
            }
        }
        Ok(())
    }

    /// Waits until all that was written for a durable connection is on stable storage.
    fn settle(&self, progress: &mut Progress) -> io::Result<()> {
        match progress.unsynced.take() {
            Some((from, mark)) => durable::settle(self.log, self.slot, from, mark, self.stop),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::log::Limits;
    use crate::ingest::recover::Ground;
    use crate::record::id::Id;
    use crate::record::stored;
    use crate::segment::reader::{BlockReader, FileRange};
    use crate::unit::Bytes;
    use crate::world::clock::SystemClock;
    use crate::world::entropy::SystemEntropy;
    use crate::world::fs::memory::MemoryFs;
    use std::io::Write;
    use std::net::TcpListener;
    use std::path::Path;
    use std::sync::Arc;

    fn lengths(log: &IngestLog) -> Vec<usize> {
        let mut lengths = Vec::new();
        for part in log.snapshot(Id::MIN, Id::MAX) {
            let file = part.source.open().expect("in memory");
            let (mut reader, mut block) = (BlockReader::new(FileRange::new(file, Bytes(0), part.len)), Vec::new());
            while reader.next_block(&mut block).expect("in memory") {
                lengths.extend(stored::records(&block).map(|record| record.text().len()));
            }
        }
        lengths
    }

    #[test]
    fn one_connection_may_send_any_number_of_long_lines_and_none_is_split_for_want_of_memory() {
        let clock = Arc::new(SystemClock::default());
        let (metrics, live) = (Arc::default(), Arc::default());
        let ground = Ground { fs: Arc::new(MemoryFs::new()), clock, entropy: Arc::new(SystemEntropy), metrics, live };
        let hour = Duration::from_secs(3_600);
        let limits = Limits { flush_size: Bytes(1 << 30), flush_age: hour, pending_timeout: hour };
        let log = IngestLog::open(ground, Path::new("d"), limits, 1).expect("in memory");
        let mut shared = Shared::new(&log, 1 << 20);
        shared.long_lines_limit = 2 << 20;
        let (stop, bell) = (Stop::default(), Bell::new().expect("a pair"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        let stream = listener.accept().expect("connected").0;
        let connection = Connection {
            stream,
            log: &log,
            slot: log.fast_slot(0),
            promise: Promise::Fast,
            shared: &shared,
            stop: &stop,
            bell: &bell,
        };
        let send = || {
            let line = [vec![b'x'; 600_000], vec![b'\n']].concat();
            for sent in 1..=12 {
                client.write_all(&line).expect("taken");
                // The next line comes when this one is a record: so each is a wake of its own.
                while lengths(&log).len() < sent {
                    std::thread::yield_now();
                }
            }
            drop(client);
        };
        crate::world::crew::both(|| connection.serve(), send);
        assert_eq!(lengths(&log), [600_000; 12]);
        assert_eq!(shared.long_lines.load(Ordering::Relaxed), 0);
    }
}
