//! What the gate knows of a request and its handler must learn: the client is gone; the body came whole.
//!
//! Each connection has a number here from its acceptance to its end. The gate writes the number into a private header,
//! and the server finds the exchange under it. The head and the body take the socket; these two facts take this way,
//! because tiny_http can tell neither: it reports the end of the stream in mid-chunk as the end of the body.
//!
//! Bounded by the gate's cap on connections.

use super::outlet::Counter;
use crate::world::clock::Clock;
use crate::world::crew::{Stop, lock, wait_for};
use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The header in which the gate tells the server a request's number. It never comes from outside.
pub(super) const NUMBER_HEADER: &str = "X-Oklog-Gate-Number";

/// Tells a handler that nobody waits for its answer any more. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Stop);

impl Cancel {
    /// Whether the client has hung up, or the server is stopping.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_raised()
    }

    /// Waits for that, at most for `span`. Gives whether it has happened.
    pub fn wait(&self, span: Duration) -> bool {
        self.0.wait(span)
    }

    /// Says so. For the gate; and for whoever does a request's work by itself and gives it up.
    pub fn raise(&self) {
        self.0.raise();
    }
}

/// One connection, and the one request on it.
pub(super) struct Exchange {
    /// Its number, which no other exchange of this server ever had.
    pub number: u64,
    /// Nobody waits for the answer.
    pub cancel: Cancel,
    /// Where the handler finds the client's socket.
    pub counter: Counter,
    whole: AtomicBool,
    taken: AtomicBool,
}

impl Exchange {
    /// The client has sent its body to the end, and all of it was written inward. Said before the final chunk is.
    pub fn set_whole(&self) {
        self.whole.store(true, Ordering::Release);
    }

    /// Whether the body that ends now is whole.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Whether the server has found the request in its queue.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }
}

/// All exchanges of one server.
#[derive(Default)]
pub(super) struct Table {
    state: Mutex<TableState>,
    left: Condvar,
}

#[derive(Default)]
struct TableState {
    last_number: u64,
    /// With the public side of each. A handler holds the exchange, but that does not keep the socket open.
    open: HashMap<u64, (Arc<Exchange>, Arc<TcpStream>)>,
}

impl Table {
    /// Enters a connection. It is struck off when the guard is dropped.
    pub fn enter(self: &Arc<Table>, public: Arc<TcpStream>) -> Entered {
        let mut state = lock(&self.state);
        state.last_number += 1;
        let exchange = Arc::new(Exchange {
            number: state.last_number,
            cancel: Cancel::default(),
            counter: Counter::default(),
            whole: AtomicBool::new(false),
            taken: AtomicBool::new(false),
        });
        state.open.insert(exchange.number, (exchange.clone(), public.clone()));
        Entered { table: self.clone(), exchange, public }
    }

    /// The exchange of this number, once: a second request under the same number has none.
    pub fn take(&self, number: u64) -> Option<Arc<Exchange>> {
        let exchange = lock(&self.state).open.get(&number)?.0.clone();
        (!exchange.taken.swap(true, Ordering::AcqRel)).then_some(exchange)
    }

    /// Cancels all, gives them `grace` to end, and shuts the sockets of those that have not.
    pub fn wind_up(&self, grace: Duration, clock: &dyn Clock) {
        let deadline = clock.now() + grace;
        let mut state = lock(&self.state);
        for (exchange, _) in state.open.values() {
            exchange.cancel.raise();
        }
        while !state.open.is_empty() {
            let left = deadline.since(clock.now());
            if left.is_zero() {
                break;
            }
            state = wait_for(&self.left, state, left);
        }
        for (_, public) in state.open.values() {
            // An error means that it is closed already.
            let _ = public.shutdown(Shutdown::Both);
        }
    }
}

/// An exchange as long as its connection lasts.
pub(super) struct Entered {
    table: Arc<Table>,
    /// The exchange.
    pub exchange: Arc<Exchange>,
    /// The client's socket.
    pub public: Arc<TcpStream>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.exchange.cancel.raise();
        // Nobody will take up what was not taken up yet.
        self.exchange.counter.take_back();
        lock(&self.table.state).open.remove(&self.exchange.number);
        self.table.left.notify_all();
    }
}
