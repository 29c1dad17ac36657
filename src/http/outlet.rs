//! The client's own socket, lent to a handler: its response leaves without being carried through the inner server.
//!
//! The gate lends it while it waits for the inner server; a handler that takes it up writes all of its response there and
//! nothing inward. The gate goes on watching for the client's hang-up, and takes back what nobody has taken up. Only one
//! of the two ever writes.
//!
//! Time limits are the relay's: a piece of [`PIECE`] bytes must be taken within the limit for writing. A client that reads
//! a byte now and then does not live longer by it. One that has said that it may pause is borne with for longer, as long
//! as nobody waits for the worker that waits for it.

use super::exchange::Cancel;
use crate::unit::Monotonic;
use crate::world::clock::Clock;
use crate::world::crew::lock;
use crate::world::socket::wait_writable;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How much a client must take within the limit for writing.
pub(super) const PIECE: usize = 32 << 10;

/// How often it is looked whether somebody waits.
const LOOK: Duration = Duration::from_millis(500);

/// How long a client may take for a piece.
#[derive(Clone)]
pub(super) struct Patience {
    /// What it is given in any case.
    pub limit: Duration,
    /// What it is given while nobody waits.
    pub pause: Duration,
    /// Whether anybody waits.
    pub is_pressed: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Where the gate leaves the socket for the handler, and the handler leaves word for the gate.
#[derive(Default)]
pub(super) struct Counter {
    lent: Mutex<Option<Outlet>>,
    word: Arc<Word>,
}

/// What the gate must know of a response that does not come through its hands.
#[derive(Debug, Default)]
struct Word {
    begun: AtomicBool,
    given_up: AtomicBool,
}

impl Counter {
    /// Offers the socket. It does not block.
    pub fn lend(&self, public: Arc<TcpStream>, clock: Arc<dyn Clock>, patience: Patience, cancel: Cancel) {
        *lock(&self.lent) = Some(Outlet { public, clock, patience, cancel, word: self.word.clone() });
    }

    /// Takes the socket up. `None` if there is none, or it was taken back.
    pub fn take_up(&self) -> Option<Outlet> {
        lock(&self.lent).take()
    }

    /// Takes it back. `false` if it was taken up: then the response is not the gate's affair any more.
    pub fn take_back(&self) -> bool {
        lock(&self.lent).take().is_some()
    }

    /// Whether anything of a response was written there.
    pub fn has_begun(&self) -> bool {
        self.word.begun.load(Ordering::Acquire)
    }

    /// Whether the client did not read, or is gone.
    pub fn was_given_up(&self) -> bool {
        self.word.given_up.load(Ordering::Acquire)
    }
}

/// The socket in a handler's hands.
pub(super) struct Outlet {
    public: Arc<TcpStream>,
    clock: Arc<dyn Clock>,
    patience: Patience,
    cancel: Cancel,
    word: Arc<Word>,
}

impl Outlet {
    /// Writes all of these, one behind the other. After an error nothing more may be written.
    pub fn write_all(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.word.begun.store(true, Ordering::Release);
        IoSlice::advance_slices(&mut parts, 0);
        let mut pace = Pace { began: None, taken: 0 };
        while !parts.is_empty() {
            match (&*self.public).write_vectored(parts) {
                Ok(0) => return Err(self.give_up(io::ErrorKind::WriteZero.into())),
                Ok(taken) => {
                    IoSlice::advance_slices(&mut parts, taken);
                    pace.taken += taken;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let Patience { limit, pause, is_pressed } = &self.patience;
                    let waited = pace.waited(self.clock.now());
                    if waited >= *pause || (waited >= *limit && is_pressed()) {
                        return Err(self.give_up(io::ErrorKind::TimedOut.into()));
                    }
                    let look = if limit < pause { limit.saturating_sub(waited).max(LOOK) } else { *pause };
                    // An error of the wait is an error of the next write.
                    let _ = wait_writable(&*self.public, look.min(pause.saturating_sub(waited)));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.give_up(e)),
            }
        }
        Ok(())
    }

    fn give_up(&self, error: io::Error) -> io::Error {
        self.word.given_up.store(true, Ordering::Release);
        self.cancel.raise();
        error
    }
}

/// How fast a client takes what is written.
struct Pace {
    /// When the piece that is going out was first waited with.
    began: Option<Monotonic>,
    /// What was taken since.
    taken: usize,
}

impl Pace {
    /// How long the client has taken for the piece that is going out.
    fn waited(&mut self, now: Monotonic) -> Duration {
        if self.taken >= PIECE || self.began.is_none() {
            (self.began, self.taken) = (Some(now), 0);
        }
        self.began.map_or(Duration::ZERO, |began| now.since(began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_now_and_then_does_not_prolong_a_piece_but_a_whole_piece_begins_the_next() {
        let (at, seconds) = (|s| Monotonic(Duration::from_secs(s)), Duration::from_secs);
        let mut pace = Pace { began: None, taken: 5 * PIECE };
        assert_eq!(pace.waited(at(100)), Duration::ZERO);
        pace.taken += PIECE - 1;
        assert_eq!(pace.waited(at(129)), seconds(29));
        pace.taken += 1;
        assert_eq!(pace.waited(at(130)), Duration::ZERO);
        assert_eq!(pace.waited(at(131)), seconds(1));
    }
}
