//! The gate: the only part of the server that a network can reach. It holds all limits.
//!
//! One request per connection. The head is read and judged here; what passes is relayed to tiny_http on a private socket,
//! see [`relay`](super::relay). The accept loop ends at the stop and at nothing else.
//!
//! Bounds: [`Limits`]; a small thread and at most 128 KiB of buffers per connection. Calls that are for
//! nodes only are held to their [`Guard`] here. Left out for now, with their place here: authentication of people, and TLS.

use super::exchange::{Entered, Table};
use super::head::Framing;
use super::head::{self, Head, HeadLimits, Progress, Refusal};
use super::inner::Inner;
use super::outlet::Patience;
use super::relay::{self, End, Relay};
use super::route::{Access, Guard, Lane, Route, SIGNATURE};
use crate::ops::metrics::{API_REFUSED, Metrics};
use crate::unit::{Bytes, Monotonic};
use crate::world::clock::Clock;
use crate::world::crew::{Crew, SMALL_STACK, Stop, lock};
use crate::world::socket::{
    Bell, bear_pauses, is_shortage, reset_on_close, wait_acceptable_or, wait_readable, watch_for_death,
};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a client may take of us.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections in all. More are answered with 503.
    pub connections: usize,
    /// Open connections from one address. More are answered with 503.
    pub per_address: usize,
    /// How large a head may be.
    pub head: HeadLimits,
    /// How long a head may take.
    pub head_time: Duration,
    /// How long the next bytes of a body may take.
    pub read: Duration,
    /// How long a whole body may take.
    pub body: Duration,
    /// How long a client may take to read a piece of the response, 32 KiB beyond what the kernel holds. A client that
    /// reads a byte now and then does not live longer by it.
    pub write: Duration,
    /// The same for another node on [`Lane::Part`]: it merges the answers of many in the order of time, so it reads nothing
    /// of one while the records of others are older, and nothing at all while its own client does not. And for a client on
    /// [`Lane::Query`] that says by the header [`PAUSES`] that it may pause, a person with a pager: but only while no other
    /// request waits for a worker.
    pub pause: Duration,
    /// How long a client may take to close after the response.
    pub linger: Duration,
    /// How long the inner server may take to find a request in its socket, before it is held to be dead.
    pub taken: Duration,
}

/// The header by which a client says that it may pause for long while it reads an answer.
pub const PAUSES: &str = "X-Oklog-Pauses";

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1024,
            per_address: 256,
            head: HeadLimits::default(),
            head_time: Duration::from_secs(10),
            read: Duration::from_secs(30),
            body: Duration::from_secs(600),
            write: Duration::from_secs(30),
            pause: Duration::from_secs(24 * 3600),
            linger: Duration::from_secs(2),
            taken: Duration::from_secs(5),
        }
    }
}

/// How long the accept loop waits when descriptors or memory have run out.
const SHORTAGE: Duration = Duration::from_millis(50);

/// How long requests may take to end after the stop.
const GRACE: Duration = Duration::from_millis(500);

/// Connections that were turned away without a thread of their own and may still be reading why.
const PARTING: usize = 64;

/// How long each of them may.
const PARTING_TIME: Duration = Duration::from_millis(500);

/// What is read of a client that goes on sending after it was answered.
const LINGER_BYTES: usize = 16 << 20;

/// The gate of one server.
pub(super) struct Gate {
    pub routes: Arc<Vec<Route>>,
    pub limits: Limits,
    /// Judges calls that are for nodes only; without one they are for everybody.
    pub guard: Option<Arc<dyn Guard>>,
    pub metrics: Arc<Metrics>,
    pub table: Arc<Table>,
    pub inner: Arc<Inner>,
    pub clock: Arc<dyn Clock>,
    pub crew: Crew,
    pub admitted: Mutex<Admitted>,
    /// Whether requests of a lane wait for a worker.
    pub is_pressed: Arc<dyn Fn(Lane) -> bool + Send + Sync>,
}

/// How many connections are open.
#[derive(Default)]
pub(super) struct Admitted {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place in the count of connections, given back when dropped.
struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut admitted = lock(&self.gate.admitted);
        admitted.all -= 1;
        if let Some(count) = admitted.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                admitted.by_address.remove(&self.address);
            }
        }
    }
}

impl Gate {
    /// Accepts until the stop, for which the bell rings, then winds up. The listener is non-blocking.
    pub fn accept(self: &Arc<Gate>, listener: TcpListener, bell: &Bell, stop: &Stop) {
        let mut parting: VecDeque<(Monotonic, Arc<TcpStream>)> = VecDeque::new();
        while !stop.is_raised() {
            let now = self.clock.now();
            while parting.len() > PARTING || parting.front().is_some_and(|(until, _)| *until <= now) {
                parting.pop_front().into_iter().for_each(|(_, stream)| drain(&stream));
            }
            let accepted = match listener.accept() {
                Ok((stream, peer)) => self.welcome(Arc::new(stream), peer.ip().to_canonical()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // An error of the wait is an error of the next accept.
                    let _ = match parting.is_empty() {
                        true => wait_acceptable_or(&listener, bell, None).map(drop),
                        false => wait_readable(&listener, Some(SHORTAGE)).map(drop),
                    };
                    Ok(())
                }
                Err(e) if is_shortage(&e) => {
                    self.count("descriptors");
                    stop.wait(SHORTAGE);
                    Ok(())
                }
                // ECONNABORTED, EPROTO and the like are a client's mishap (accept(2)).
                Err(_) => Ok(()),
            };
            if let Err(turned_away) = accepted {
                parting.push_back((now + PARTING_TIME, turned_away));
            }
        }
        drop(listener);
        self.table.wind_up(GRACE, &*self.clock);
    }

    /// Gives a connection its thread. One that gets none has its answer already and is to be closed in a while.
    fn welcome(self: &Arc<Gate>, stream: Arc<TcpStream>, address: IpAddr) -> Result<(), Arc<TcpStream>> {
        let turn_away = |reason: &'static str, sentence: &str| {
            let refusal = Refusal { header: Some("Retry-After: 1".into()), ..Refusal::new(503, reason, sentence) };
            self.count(reason);
            // The socket's buffer is empty, so this is all written or the client is gone.
            let _ = (&*stream).write_all(&refusal.response(true));
            let _ = stream.shutdown(Shutdown::Write);
            stream.clone()
        };
        // Options that cannot be set mean a connection that has ended, which the first read tells.
        let _ = stream.set_nodelay(true);
        let _ = watch_for_death(&stream);
        if stream.set_nonblocking(true).is_err() {
            return Ok(());
        }
        let place = self.admit(address).map_err(|(reason, sentence)| turn_away(reason, sentence))?;
        let (gate, entered) = (self.clone(), self.table.enter(stream.clone()));
        let begun = self.crew.start("http-client", SMALL_STACK, move || {
            let _place = place;
            gate.serve(entered);
        });
        begun.map_err(|_| turn_away("threads", "the server has no thread for this connection"))
    }

    fn admit(self: &Arc<Gate>, address: IpAddr) -> Result<Place, (&'static str, &'static str)> {
        let mut admitted = lock(&self.admitted);
        if admitted.all >= self.limits.connections {
            return Err(("connections", "the server has as many connections as it takes"));
        }
        let count = admitted.by_address.entry(address).or_default();
        if *count >= self.limits.per_address {
            return Err(("address", "the server has as many connections as it takes from one address"));
        }
        *count += 1;
        admitted.all += 1;
        Ok(Place { gate: self.clone(), address })
    }

    fn count(&self, reason: &str) {
        self.metrics.counter(API_REFUSED, &[reason]).inc();
    }

    /// One connection, from its first byte to its last.
    fn serve(&self, entered: Entered) {
        let public = &*entered.public;
        let mut sent = Vec::new();
        let end = match self.read_head(public, &mut sent) {
            Ok(Some((head, used))) => {
                let rest = sent.get(used..).unwrap_or_default();
                let end = self.pass(&entered, &head, rest);
                (end, head.method != "HEAD")
            }
            Ok(None) => (End::Gone, false),
            Err(refusal) => (End::Refused(refusal), true),
        };
        match end {
            (End::Relayed, _) => self.linger(public),
            (End::Refused(refusal), body_wanted) => self.refuse(public, &refusal, body_wanted),
            // That the socket cannot be made to reset means that it is broken already.
            (End::Torn | End::Gone | End::NotTaken, _) => drop(reset_on_close(public)),
        }
    }

    /// Reads until the head is whole. `None`: the client went away before it had asked for anything.
    fn read_head(&self, public: &TcpStream, sent: &mut Vec<u8>) -> Result<Option<(Head, usize)>, Refusal> {
        let deadline = self.clock.now() + self.limits.head_time;
        let mut piece = vec![0; 8 << 10];
        loop {
            match (&mut &*public).read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(n) => {
                    sent.extend_from_slice(piece.get(..n).unwrap_or_default());
                    if let Progress::Whole(head, used) = head::parse(sent, self.limits.head)? {
                        return Ok(Some((head, used)));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Ok(None),
                Err(_) => {
                    let left = deadline.since(self.clock.now());
                    if left.is_zero() {
                        return Err(Refusal::new(408, "timeout", "the request's head took too long"));
                    }
                    // An error of the wait is an error of the next read.
                    let _ = wait_readable(public, Some(left));
                }
            }
            if self.clock.now() >= deadline {
                return Err(Refusal::new(408, "timeout", "the request's head took too long"));
            }
        }
    }

    /// Judges a head, and relays what may pass.
    fn pass(&self, entered: &Entered, head: &Head, rest: &[u8]) -> End {
        let route = match self.judge(head) {
            Ok(route) => route,
            Err(refusal) => return End::Refused(refusal),
        };
        let public = &*entered.public;
        let busy = |sentence: &str| {
            let refusal = Refusal::new(503, "inner", sentence);
            End::Refused(Refusal { header: Some("Retry-After: 1".into()), ..refusal })
        };
        // tiny_http will take two descriptors and dies if it does not get them: try whether they are there.
        if public.try_clone().and_then(|one| public.try_clone().map(|two| (one, two))).is_err() {
            return busy("the server has no descriptor for this request");
        }
        let connected = self.inner.connect().and_then(|(inner, generation)| {
            inner.set_nonblocking(true)?;
            Ok((inner, generation))
        });
        let Ok((inner, generation)) = connected else { return busy("the server cannot reach itself") };
        let mut limits = self.limits.clone();
        let pauses = route.lane == Lane::Query && head.header(PAUSES).is_some();
        if pauses || route.lane == Lane::Part {
            // An error means a connection that has ended, which the first write tells.
            let _ = bear_pauses(public);
        }
        if route.lane == Lane::Part {
            limits.write = limits.pause;
        }
        let exchange = &entered.exchange;
        // Where nothing but the response is to be written, and its framing shows whether it is whole.
        if !head.has_body() && !head.is_http10 {
            let (is_pressed, lane, cancel) = (self.is_pressed.clone(), route.lane, exchange.cancel.clone());
            let pause = if pauses { limits.pause } else { limits.write };
            let patience = Patience { limit: limits.write, pause, is_pressed: Arc::new(move || is_pressed(lane)) };
            exchange.counter.lend(entered.public.clone(), self.clock.clone(), patience, cancel);
        }
        let relay = Relay::new(public, inner, exchange, head, route.body_limit, &limits, &*self.clock);
        match relay.run(rest) {
            End::NotTaken => {
                self.inner.replace(generation);
                // A handler may have come to it in this very moment.
                if exchange.counter.take_back() || head.has_body() || head.is_http10 {
                    busy("the server did not get to this request")
                } else {
                    End::Gone
                }
            }
            end => end,
        }
    }

    fn judge(&self, head: &Head) -> Result<&Route, Refusal> {
        let Some(route) = self.routes.iter().find(|route| route.path == head.path()) else {
            return Err(Refusal::new(404, "route", "there is nothing here"));
        };
        if !route.methods.contains(&head.method.as_str()) {
            let allow = format!("Allow: {}", route.methods.join(", "));
            let refusal =
                Refusal::new(405, "method", format!("{} knows only {}", route.path, route.methods.join(", ")));
            return Err(Refusal { header: Some(allow), ..refusal });
        }
        // Browsers say where a page that calls is from (Fetch standard, section 3.2); nodes have nothing to say there. So no
        // page that an operator happens to open makes nodes hand over segments, or forget one another.
        if route.access == Access::Peers && head.header("Origin").is_some() {
            return Err(Refusal::new(403, "origin", "this is for nodes of the cluster, not for web pages"));
        }
        if let (Access::Peers, Some(guard)) = (route.access, &self.guard) {
            let admitted = guard.admit(&head.method, &head.target, head.header(SIGNATURE));
            admitted.map_err(|sentence| Refusal::new(401, "signature", sentence))?;
        }
        match head.framing {
            Framing::Length(length) if length > route.body_limit => Err(relay::too_long(route.body_limit)),
            Framing::Chunked if route.body_limit == Bytes(0) => Err(relay::too_long(route.body_limit)),
            _ => Ok(route),
        }
    }

    fn refuse(&self, public: &TcpStream, refusal: &Refusal, body_wanted: bool) {
        self.count(refusal.reason);
        // Nothing was written before, so the socket's buffer takes it; or the client is gone.
        let _ = (&*public).write_all(&refusal.response(body_wanted));
        self.linger(public);
    }

    /// Closes so that the client can read all we sent: a close with bytes unread would reset the connection and take the
    /// response with it. So say that we are done, and read what comes until the client is done too.
    fn linger(&self, public: &TcpStream) {
        let deadline = self.clock.now() + self.limits.linger;
        if public.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut nothing = vec![0; 8 << 10];
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            let left = deadline.since(self.clock.now());
            if left.is_zero() {
                return;
            }
            match (&mut &*public).read(&mut nothing) {
                Ok(0) => return,
                Ok(n) => discarded += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // An error of the wait is an error of the next read.
                    let _ = wait_readable(public, Some(left));
                }
                Err(_) => return,
            }
        }
    }
}

/// Reads what is there, so that the close is less likely to be a reset. Bounded: who sends much does not listen.
fn drain(stream: &TcpStream) {
    let mut nothing = [0; 4 << 10];
    for _ in 0..16 {
        match (&mut &*stream).read(&mut nothing) {
            Ok(n) if n > 0 => {}
            _ => return,
        }
    }
}
