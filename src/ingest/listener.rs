//! The doors: the fast, the durable and the bulk port, each with a thread that accepts and one per connection.

use super::connection::{Connection, Promise, Shared};
use super::log::IngestLog;
use crate::ops::metrics as m;
use crate::world::crew::{Crew, SMALL_STACK, Stop};
use crate::world::socket::{self, Bell};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long to wait after an accept that failed for want of descriptors, memory or threads.
const BREATH: Duration = Duration::from_millis(50);

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
    fn accept_all(self: &Arc<Self>, door: Door, listener: &TcpListener) {
        let refused = self.log.metrics.counter(m::CONNECTIONS_REFUSED, &[door.name()]);
        loop {
            if !self.connections.wait_for_room(self.max_connections, &self.stop) {
                return;
            }
            match socket::wait_acceptable_or(listener, &self.bell) {
                Ok(true) => return,
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
                    if let Err(e) = self.start(door, stream) {
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

    fn start(self: &Arc<Self>, door: Door, stream: TcpStream) -> io::Result<()> {
        if let Err(e) = socket::watch_for_death(&stream) {
            log::debug!("keepalive of a connection: {e}");
        }
        let inner = self.clone();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let connected = self.log.metrics.gauge(m::CONNECTED_CLIENTS, &[door.name()]).hold();
        self.connections.start(door.name(), SMALL_STACK, move || {
            let _connected = connected;
            let (slot, promise) = match door {
                Door::Durable => (inner.log.durable_slot(), Promise::Durable),
                _ => (inner.log.fast_slot(number), Promise::Fast),
            };
            let (log, shared, stop, bell) = (&*inner.log, &inner.shared, &inner.stop, &inner.bell);
            Connection { stream, log, slot, promise, shared, stop, bell }.serve();
        })
    }
}
