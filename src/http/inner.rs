//! tiny_http on its private socket, and its replacement when it has died.
//!
//! Its accept thread ends for good at the first error, and panics where descriptors or threads run out; nobody is told of
//! a panic. So a generation that reports an error, refuses a connection, or leaves a request untaken, is retired and a new one put in its place,
//! on a new socket. The requests that the old one has accepted are still heard.
//!
//! Left out: joining tiny_http's own threads, which it does not offer. They end within 5 s of their server's end.

use crate::unit::Monotonic;
use crate::world::clock::Clock;
use crate::world::crew::{Crew, LARGE_STACK, Stop, lock};
use crate::world::private::{self, PrivateAddress};
use crate::world::socket::is_shortage;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often a dispatcher looks whether it was retired. At the end it is woken.
const LOOK: Duration = Duration::from_secs(5);

/// How long a retired generation must be silent until it may go. A request is written as soon as its connection is made,
/// so what was accepted is heard at once.
const SILENCE: Duration = Duration::from_secs(5);

/// The least time between two replacements.
const REPLACE_EVERY: Duration = Duration::from_secs(1);

/// What is done with a request. It must not block.
pub(super) type Dispatch = dyn Fn(tiny_http::Request) + Send + Sync;

/// The server behind the gate.
pub(super) struct Inner {
    current: Mutex<Generation>,
    dispatch: Arc<Dispatch>,
    clock: Arc<dyn Clock>,
    crew: Crew,
    stop: Stop,
}

#[derive(Clone)]
struct Generation {
    number: u64,
    address: Arc<PrivateAddress>,
    began: Monotonic,
}

impl Inner {
    /// Starts the first generation.
    pub fn start(dispatch: Arc<Dispatch>, clock: Arc<dyn Clock>, crew: Crew, stop: Stop) -> io::Result<Arc<Inner>> {
        let (server, address) = listen()?;
        let first = Generation { number: 1, address, began: clock.now() };
        let inner = Arc::new(Inner { current: Mutex::new(first.clone()), dispatch, clock, crew, stop });
        inner.start_dispatcher(server, first)?;
        Ok(inner)
    }

    /// A connection, and the generation it leads to. A socket that nobody listens on any more is replaced at once: an
    /// accept thread that dies takes its listener with it.
    pub fn connect(self: &Arc<Inner>) -> io::Result<(UnixStream, u64)> {
        let current = lock(&self.current).clone();
        let connected = match current.address.connect() {
            Err(error) if !is_shortage(&error) => {
                self.replace(current.number);
                let current = lock(&self.current).clone();
                return current.address.connect().map(|stream| (stream, current.number));
            }
            other => other?,
        };
        Ok((connected, current.number))
    }

    /// Puts a new generation in the place of this one, unless somebody has already, or has just tried.
    pub fn replace(self: &Arc<Inner>, number: u64) {
        let now = self.clock.now();
        let next = {
            let mut current = lock(&self.current);
            if current.number != number || now.since(current.began) < REPLACE_EVERY || self.stop.is_raised() {
                return;
            }
            // Whether or not the rest succeeds: the next attempt is not before its time.
            current.began = now;
            number + 1
        };
        let replaced = listen().and_then(|(server, address)| {
            let generation = Generation { number: next, address, began: now };
            self.start_dispatcher(server, generation.clone())?;
            *lock(&self.current) = generation;
            Ok(())
        });
        match replaced {
            Ok(()) => log::warn!("http: the inner server had stopped accepting and was replaced"),
            Err(error) => {
                log::error!("http: the inner server has stopped accepting and cannot be replaced yet: {error}")
            }
        }
    }

    fn start_dispatcher(self: &Arc<Inner>, server: tiny_http::Server, generation: Generation) -> io::Result<()> {
        let inner = self.clone();
        self.crew.start("http-dispatch", LARGE_STACK, move || inner.hear(server, generation))
    }

    /// Hands out requests until the stop, or until this generation is retired and silent.
    fn hear(self: &Arc<Inner>, server: tiny_http::Server, generation: Generation) {
        let mut heard = self.clock.now();
        let server = Arc::new(server);
        let woken = Arc::downgrade(&server);
        // Kept by tiny_http until somebody waits: it does not come too early.
        self.stop.on_raise(move || woken.upgrade().into_iter().for_each(|server| server.unblock()));
        while !self.stop.is_raised() {
            match server.recv_timeout(LOOK) {
                Ok(Some(request)) => {
                    heard = self.clock.now();
                    (self.dispatch)(request);
                }
                Ok(None) => {
                    let retired = lock(&self.current).number > generation.number;
                    if retired && self.clock.now().since(heard) > SILENCE {
                        break;
                    }
                }
                Err(error) => {
                    log::error!("http: the inner server has stopped accepting: {error}");
                    self.replace(generation.number);
                }
            }
        }
        drop(server);
        // tiny_http's accept thread looks at its flag after the next connection. It cannot find its socket by name.
        let _ = generation.address.connect();
    }
}

fn listen() -> io::Result<(tiny_http::Server, Arc<PrivateAddress>)> {
    let (listener, address) = private::listen()?;
    // It starts a thread, and panics if it gets none.
    let server = catch_unwind(AssertUnwindSafe(|| tiny_http::Server::from_listener(listener, None)))
        .map_err(|_| io::Error::other("no thread for the inner server"))?
        .map_err(io::Error::other)?;
    Ok((server, Arc::new(address)))
}
