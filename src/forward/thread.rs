//! The shell: a thread that reads, and the caller's own, which connects and sends.

use super::address::Address;
use super::backoff::Backoff;
use super::buffer::{Policy, Queue};
use super::dns::Lookup;
use super::lines::Framer;
use super::{Buffer, ForwardError, Mode, Options, Summary, durable, fast};
use crate::ops::metrics::{Counter, FORWARD_BYTES, FORWARD_DROPPED, FORWARD_RECORDS, Metrics};
use crate::unit::Monotonic;
use crate::world::clock::Clock;
use crate::world::crew::{Crew, LARGE_STACK, Stop};
use crate::world::entropy::Dice;
use crate::world::fs::FileSystem;
use crate::world::socket;
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long one socket may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long we go on trying to hand over what is left after we were asked to stop.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// A fast server that has taken nothing for this long is asked for a sign of life, and again after as long.
const STALL: Duration = Duration::from_secs(30);

/// How often a blocked read or write looks whether we shall stop.
const LOOK: Duration = Duration::from_millis(200);

/// One read of the input.
const READ_SIZE: usize = 64 << 10;

/// What a forwarder needs of its surroundings.
#[derive(Clone)]
pub struct World {
    /// Measures delays.
    pub clock: Arc<dyn Clock>,
    /// Where resolv.conf is.
    pub files: Arc<dyn FileSystem>,
    /// The path of resolv.conf, read only for `tcp+dnssrv://`.
    pub resolv_conf: PathBuf,
    /// The port of nameservers: 53, but for tests.
    pub dns_port: u16,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Starts the reader. It may be left behind, blocked in a read, when we end by `stop` or by an error.
    pub crew: Crew,
    /// Ends forwarding: what is in the queue is sent, at most for [`STOP_GRACE`]. A read that returns after that brings
    /// bytes that nobody takes, as if they were still in the pipe.
    pub stop: Stop,
    /// The source of jitter.
    pub dice: Dice,
}

/// Forwards `input` to its end, or until we are asked to stop. Blocks as long as no ingester takes it.
pub fn run(options: Options, input: impl Read + Send + 'static, world: &World) -> Result<Summary, ForwardError> {
    if options.mode == Mode::Bulk {
        return Err(ForwardError::NotYet("-mode bulk"));
    }
    if options.buffer == Buffer::Disk {
        return Err(ForwardError::NotYet("-buffer disk"));
    }
    if options.addresses.is_empty() {
        return Err(ForwardError::NoAddress);
    }
    let framer = Framer::new(&options.prefixes).ok_or(ForwardError::Prefix)?;
    let policy = if options.buffer == Buffer::Drop { Policy::DropOldest } else { Policy::Block };
    let limit = usize::try_from(options.buffer_size.0).unwrap_or(usize::MAX);
    let dropped = world.metrics.counter(FORWARD_DROPPED, &[]);
    let dropped_before = dropped.get();
    let queue = Arc::new(Queue::new(framer, limit, policy, dropped.clone(), world.stop.clone()));
    let readers = queue.clone();
    world.crew.start("forward-read", LARGE_STACK, move || read_all(input, &readers)).map_err(ForwardError::Thread)?;

    let mut postman = Postman::new(options.mode, options.addresses, world);
    let sent = match options.mode {
        Mode::Durable => durable::send_all(&mut postman, &queue),
        _ => fast::send_all(&mut postman, &queue),
    };
    // Whatever happened, the reader shall not wait for us, and what it has brought is not lost without a word.
    let (records, bytes) = queue.abandon();
    postman.summary.dropped = dropped.get().saturating_sub(dropped_before);
    if let Err(Left { records: unsent, bytes: unsent_bytes }) = sent {
        let last = std::mem::take(&mut postman.last_failure);
        return Err(ForwardError::Undelivered { records: records + unsent, bytes: bytes + unsent_bytes, last });
    }
    match queue.failure() {
        Some(failure) => Err(ForwardError::Input(failure)),
        None => Ok(postman.summary),
    }
}

/// What could not be handed over before we had to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Lines.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
}

fn read_all(mut input: impl Read, queue: &Queue) {
    let mut piece = vec![0u8; READ_SIZE];
    loop {
        match input.read(&mut piece) {
            Ok(0) => return queue.end(None),
            Ok(n) => {
                if !queue.put(piece.get(..n).unwrap_or(&piece)) {
                    return queue.end(None);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return queue.end(Some(e)),
        }
    }
}

/// Makes connections and remembers how they went.
pub struct Postman<'a> {
    world: &'a World,
    addresses: Vec<Address>,
    mode: Mode,
    backoff: Backoff,
    dice: Dice,
    bytes: Counter,
    records: Counter,
    /// Set when we are first seen to be asked to stop.
    deadline: Option<Monotonic>,
    last_failure: String,
    /// What has come of it so far.
    pub summary: Summary,
}

/// An open connection.
pub struct Link {
    stream: TcpStream,
    peer: SocketAddr,
    name: String,
    since: Monotonic,
    /// Set while the server takes nothing: when to ask for a sign of life.
    stalled_until: Option<Monotonic>,
}

impl<'a> Postman<'a> {
    fn new(mode: Mode, addresses: Vec<Address>, world: &'a World) -> Postman<'a> {
        let mut dice = world.dice.clone();
        Postman {
            backoff: Backoff::new(addresses.len(), Dice::new(dice.roll())),
            bytes: world.metrics.counter(FORWARD_BYTES, &[]),
            records: world.metrics.counter(FORWARD_RECORDS, &[]),
            deadline: None,
            last_failure: String::new(),
            summary: Summary::default(),
            mode,
            world,
            addresses,
            dice,
        }
    }

    /// Time on the clock that measures delays.
    pub fn now(&self) -> Monotonic {
        self.world.clock.now()
    }

    /// Whether we were asked to stop, and the grace is over.
    pub fn must_stop(&mut self) -> bool {
        if !self.world.stop.is_raised() {
            return false;
        }
        let now = self.now();
        let deadline = *self.deadline.get_or_insert(now + STOP_GRACE);
        now >= deadline
    }

    /// Connects to the next ingester that lets us; `None` if we must stop before one does.
    pub fn connect(&mut self) -> Option<Link> {
        loop {
            let attempt = self.backoff.attempt();
            self.pause(attempt.wait);
            if self.must_stop() {
                return None;
            }
            let address = self.addresses.get(attempt.address)?.clone();
            match self.try_connect(&address) {
                Ok(link) => {
                    log::info!("connected to {}", link.name);
                    self.summary.connections += 1;
                    return Some(link);
                }
                Err(e) => {
                    self.backoff.failed();
                    self.complain(format!("connecting to {address}: {e}"));
                }
            }
        }
    }

    /// The connection has ended without our wish.
    pub fn broke(&mut self, link: Link, why: &io::Error) {
        self.backoff.broke(self.now().since(link.since));
        self.complain(format!("connection to {} broke: {why}", link.name));
    }

    /// All that was sent on this connection has arrived.
    pub fn arrived(&mut self) {
        self.backoff.succeeded();
    }

    /// Counts what was handed over.
    pub fn count(&mut self, bytes: u64, records: u64) {
        self.bytes.add(bytes);
        self.records.add(records);
        self.summary.bytes += bytes;
        self.summary.records += records;
    }

    /// Writes all of `bytes`, waiting for as long as the server lets us wait. On failure says how many were taken.
    pub fn write(&mut self, link: &mut Link, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            match link.stream.write(rest) {
                Ok(0) => return Err((taken, io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    taken += n;
                    link.moves_again().map_err(|e| (taken, e))?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !self.must_stop() => {
                    self.bear_with(link).map_err(|e| (taken, e))?;
                }
                Err(e) => return Err((taken, e)),
            }
        }
        Ok(())
    }

    /// Closes our side and waits for the server to close its own, at most for `patience`: then it has read all, and in
    /// durable mode synced it. An error says that this is not known.
    pub fn finish(&mut self, link: &mut Link, patience: Duration) -> io::Result<()> {
        // A server that has closed before we did has not read to our end.
        link.check()?;
        link.stream.shutdown(Shutdown::Write)?;
        let deadline = self.now() + patience;
        let mut ignored = [0u8; 1024];
        loop {
            match link.stream.read(&mut ignored) {
                Ok(0) => break,
                // Servers do not write. What does is drained, so that our close is no reset.
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if self.now() >= deadline || self.must_stop() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server has not closed its side"));
            }
        }
        link.stream.take_error()?.map_or(Ok(()), Err)
    }

    /// The server takes nothing: it is dead, or has no room and lets us wait.
    ///
    /// The kernel does not tell the two apart: `TCP_USER_TIMEOUT` ends both (tcp(7)). In durable mode that is right,
    /// another server may have room. In fast mode it would lose what is under way, each time anew for as long as the
    /// server's disk is full. So the timeout is lifted, and a second, empty connection asks whether anybody is there.
    fn bear_with(&mut self, link: &mut Link) -> io::Result<()> {
        if self.mode != Mode::Fast {
            return Ok(());
        }
        match link.stalled_until {
            None => SockRef::from(&link.stream).set_tcp_user_timeout(None)?,
            Some(until) if self.now() < until => return Ok(()),
            Some(_) => match TcpStream::connect_timeout(&link.peer, CONNECT_TIMEOUT) {
                // Where the machine lives and the program does not, the kernel there resets our connection by itself.
                Err(e) if e.kind() != io::ErrorKind::ConnectionRefused => return Err(e),
                _ => log::warn!("{} has taken nothing for {STALL:?}, waiting", link.name),
            },
        }
        link.stalled_until = Some(self.now() + STALL);
        Ok(())
    }

    fn try_connect(&mut self, address: &Address) -> io::Result<Link> {
        let lookup = Lookup {
            files: &*self.world.files,
            resolv_conf: &self.world.resolv_conf,
            port: self.world.dns_port,
            clock: &*self.world.clock,
        };
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for target in address.resolve(self.mode.default_port(), &lookup, &mut self.dice)? {
            match TcpStream::connect_timeout(&target, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    socket::watch_for_death(&stream)?;
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(LOOK))?;
                    stream.set_read_timeout(Some(LOOK))?;
                    let name = if address.to_string().contains(&target.to_string()) {
                        address.to_string()
                    } else {
                        format!("{address} ({target})")
                    };
                    let since = self.world.clock.now();
                    return Ok(Link { stream, peer: target, name, since, stalled_until: None });
                }
                Err(e) => failure = e,
            }
            if self.world.stop.is_raised() && self.must_stop() {
                break;
            }
        }
        Err(failure)
    }

    /// Waits before an attempt. Also after we were asked to stop: the grace is for trying, not for spinning.
    fn pause(&mut self, span: Duration) {
        if !span.is_zero() && self.world.stop.wait(span) {
            Stop::default().wait(span);
        }
    }

    /// Says what went wrong: always the first time, then ever more seldom while it goes on.
    fn complain(&mut self, what: String) {
        if self.backoff.failures().is_power_of_two() {
            log::warn!("{what}");
        }
        self.last_failure = what;
    }
}

impl Link {
    /// The server takes bytes again, if it had not: from now on a silence counts as death once more.
    fn moves_again(&mut self) -> io::Result<()> {
        if self.stalled_until.take().is_some() { socket::watch_for_death(&self.stream) } else { Ok(()) }
    }

    /// An error if the server has closed or reset this connection. Looks and does not wait.
    pub fn check(&self) -> io::Result<()> {
        if let Some(e) = self.stream.take_error()? {
            return Err(e);
        }
        if socket::wait_hung_up(&self.stream, Duration::ZERO)? {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has closed it"));
        }
        Ok(())
    }
}
