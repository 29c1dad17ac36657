//! The doors: the fast, the durable and the bulk port, each with a thread that accepts and one per connection.

use super::connection::{Connection, Promise, Shared};
use super::log::IngestLog;
use crate::ops::metrics as m;
use crate::world::crew::{Crew, SMALL_STACK, Stop, give_way};
use crate::world::socket::{self, Bell};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How long to wait after an accept that failed for want of descriptors, memory or threads.
const BREATH: Duration = Duration::from_millis(50);

/// How long the thread of a connection that has ended waits for the next one: producers that confirm line by line come again at
/// once, and then neither is a thread made nor is it woken by the one that accepts.
const LINGER: Duration = Duration::from_millis(200);

/// How many threads of one ingester may wait so.
const LINGERING: usize = 2;

/// A door's name, and what is behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// Lines, handed to the operating system.
    Fast,
    /// Lines, brought to stable storage.
    Durable,
    /// Whole segments. Not served by this version: connections are closed at once, and the log says so.
    Bulk,
}

impl Door {
    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Door::Fast => "fast",
            Door::Durable => "durable",
            Door::Bulk => "bulk",
        }
    }
}

/// All doors of one ingester.
#[derive(Clone)]
pub struct Doors {
    inner: Arc<Inner>,
}

struct Inner {
    log: Arc<IngestLog>,
    shared: Shared,
    connections: Crew,
    acceptors: Crew,
    max_connections: usize,
    numbers: AtomicU64,
    lingering: AtomicUsize,
    stop: Stop,
    bell: Bell,
}

impl Doors {
    /// Doors that lead to `log`, for at most `max_connections` at a time: at the limit no more are accepted, and new ones
    /// wait in the listener's backlog.
    pub fn new(log: Arc<IngestLog>, max_record: usize, max_connections: usize) -> io::Result<Doors> {
        let shared = Shared::new(&log, max_record);
        let inner = Inner {
            log,
            shared,
            connections: Crew::default(),
            acceptors: Crew::default(),
            max_connections: max_connections.max(1),
            numbers: AtomicU64::new(0),
            lingering: AtomicUsize::new(0),
            stop: Stop::default(),
            bell: Bell::new()?,
        };
        Ok(Doors { inner: Arc::new(inner) })
    }

    /// Opens a door. Gives the address it listens on.
    pub fn open(&self, door: Door, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = socket::listen(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let inner = self.inner.clone();
        let listener = Arc::new(listener);
        self.inner.acceptors.start(door.name(), SMALL_STACK, move || inner.accept_all(door, &listener))?;
        Ok(address)
    }

    /// Stops accepting, lets every connection write what it was sent, and closes them. Gives how many would not end
    /// within `span`.
    pub fn close(&self, span: Duration) -> usize {
        self.inner.bell.ring();
        let late = self.inner.connections.join_all(span).late.len();
        self.inner.stop.raise();
        self.inner.acceptors.join_all(span);
        late + self.inner.connections.join_all(Duration::from_secs(1)).late.len().saturating_sub(late)
    }

    /// Threads that have ended by a panic.
    pub fn panics(&self) -> usize {
        self.inner.connections.panics() + self.inner.acceptors.panics()
    }
}

impl Inner {
    fn accept_all(self: &Arc<Self>, door: Door, listener: &Arc<TcpListener>) {
        let refused = self.log.metrics.counter(m::CONNECTIONS_REFUSED, &[door.name()]);
        loop {
            if !self.connections.wait_for_room(self.max_connections, &self.stop) {
                return;
            }
            match socket::wait_acceptable_or(listener, &self.bell, None) {
                Ok(true) => return,
                // A thread that is there already is faster.
                Ok(false) if self.lingering.load(Ordering::Relaxed) > 0 => give_way(),
                Ok(false) => {}
                Err(_) => {
                    self.stop.wait(BREATH);
                }
            }
            match listener.accept() {
                Ok((stream, _)) if door == Door::Bulk => {
                    refused.inc();
                    log::warn!("a connection to the bulk port was closed: bulk is not part of this version");
                    drop(stream);
                }
                Ok((stream, peer)) => {
                    if let Err(e) = self.start(door, listener, stream) {
                        refused.inc();
                        log::error!("a connection from {peer} was closed: no thread for it: {e}");
                        self.stop.wait(BREATH);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    // Out of descriptors or memory, or the peer was gone already: the door stays open.
                    log::warn!("accepting on the {} port: {e}", door.name());
                    self.stop.wait(BREATH);
                }
            }
        }
    }

    fn start(self: &Arc<Self>, door: Door, listener: &Arc<TcpListener>, stream: TcpStream) -> io::Result<()> {
        let (inner, listener) = (self.clone(), listener.clone());
        self.connections.start(door.name(), SMALL_STACK, move || {
            let mut next = Some(stream);
            while let Some(stream) = next {
                inner.serve(door, stream);
                next = inner.linger(&listener);
            }
        })
    }

    fn serve(&self, door: Door, stream: TcpStream) {
        if let Err(e) = socket::watch_for_death(&stream) {
            log::debug!("keepalive of a connection: {e}");
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let _connected = self.log.metrics.gauge(m::CONNECTED_CLIENTS, &[door.name()]).hold();
        let (slot, promise) = match door {
            Door::Durable => (self.log.durable_slot(), Promise::Durable),
            _ => (self.log.fast_slot(number), Promise::Fast),
        };
        let (log, shared, stop, bell) = (&*self.log, &self.shared, &self.stop, &self.bell);
        Connection { stream, log, slot, promise, shared, stop, bell }.serve();
    }

    /// The next connection, if one comes soon and few others wait for it. This thread counts as a connection meanwhile, so that
    /// taking one makes them no more than they may be.
    fn linger(&self, listener: &TcpListener) -> Option<TcpStream> {
        let waits = self.lingering.fetch_add(1, Ordering::Relaxed) < LINGERING;
        let next = match waits && !self.bell.is_rung() {
            true => match socket::wait_acceptable_or(listener, &self.bell, Some(LINGER)) {
                // What an error means is for the thread that accepts.
                Ok(false) => listener.accept().ok().map(|(stream, _)| stream),
                _ => None,
            },
            false => None,
        };
        self.lingering.fetch_sub(1, Ordering::Relaxed);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::log::Limits;
    use crate::ingest::recover::Ground;
    use crate::unit::Bytes;
    use crate::world::clock::SystemClock;
    use crate::world::entropy::SystemEntropy;
    use crate::world::fs::memory::MemoryFs;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::path::Path;

    #[test]
    fn connections_that_follow_each_other_or_come_together_are_all_served_at_any_limit() {
        for limit in [1, 2, 100] {
            let (fs, clock) = (Arc::new(MemoryFs::new()), Arc::new(SystemClock::default()));
            let (metrics, live) = (Arc::default(), Arc::default());
            let ground = Ground { fs, clock, entropy: Arc::new(SystemEntropy), metrics, live };
            let hour = Duration::from_secs(3_600);
            let limits = Limits { flush_size: Bytes(1 << 30), flush_age: hour, pending_timeout: hour };
            let log = Arc::new(IngestLog::open(ground, Path::new("d"), limits, 1).expect("in memory"));
            let doors = Doors::new(log.clone(), 1 << 20, limit).expect("a bell");
            let address = doors.open(Door::Durable, "127.0.0.1:0".parse().expect("an address")).expect("a port");
            let send = || {
                let mut stream = TcpStream::connect(address).expect("listening");
                stream.write_all(b"line\n").expect("taken");
                stream.shutdown(Shutdown::Write).expect("connected");
                assert_eq!(stream.read(&mut [0]).expect("a clean close"), 0);
            };
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..25).for_each(|_| send()));
                }
            });
            assert_eq!(log.gauges.records.get(), 100);
            assert_eq!((doors.close(Duration::from_secs(60)), doors.panics()), (0, 0));
        }
    }
}
