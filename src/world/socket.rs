//! Sockets as this program wants them: listeners with a long backlog, dead peers noticed, waits with a deadline.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Connections that wait to be accepted. The kernel caps it at `net.core.somaxconn` (4096 since Linux 5.4).
const BACKLOG: i32 = 4096;

/// How long after the last sign of life a silent peer is probed, and how often; three probes without answer end it.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How long sent bytes may stay unacknowledged before the connection is given up (tcp(7), `TCP_USER_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Listens on an address. Port 0 takes a free one; see the listener's own address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What the kernel keeps of datagrams that were not read yet: a full round of a large cluster, while this process waits for
/// a processor. Capped at `net.core.rmem_max`, which is less on many machines.
const DATAGRAM_BACKLOG: usize = 1 << 20;

/// A socket for datagrams at an address, which does not block: see [`wait_readable`]. Port 0 takes a free one.
pub fn datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(DATAGRAM_BACKLOG)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Which address of this machine the kernel would put on datagrams to `peer`. Nothing is sent.
///
/// A connected datagram socket has its local address from the routing table (udp(7), connect(2)). So this names the one
/// interface that leads to the peer, where a list of all interfaces would leave bridges and tunnels to choose from.
pub fn local_address_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// Makes the kernel notice a peer that is gone without a word: idle after about a minute, in mid-transfer after 30 s.
pub fn watch_for_death(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Lets a peer that lives pause for as long as it likes: `TCP_USER_TIMEOUT` would also end a connection whose peer has no
/// room for more (tcp(7)). One that is gone in mid-transfer is then noticed when the retransmissions give up, after about
/// 15 minutes.
pub fn bear_pauses(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(None)
}

/// Makes the close of this socket a reset: the peer learns that what it sent was not taken. Also when it is the kernel that
/// closes it because the process has died (socket(7), `SO_LINGER`).
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Takes [`reset_on_close`] back.
pub fn close_cleanly(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(None)
}

/// What is true of a descriptor now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Readiness {
    /// A read does not block: there are bytes, or the end, or an error to fetch.
    pub readable: bool,
    /// The peer has closed its sending side, or all of it, or the connection is broken.
    pub hung_up: bool,
}

/// Waits until a descriptor is readable or hung up, at most for `span`; `None` waits for ever.
pub fn wait_readable(descriptor: impl AsFd, span: Option<Duration>) -> io::Result<Readiness> {
    wait_for(descriptor, PollFlags::IN | PollFlags::RDHUP, span)
}

/// Waits until a descriptor is hung up, at most for `span`, whether or not there is something to read.
pub fn wait_hung_up(descriptor: impl AsFd, span: Duration) -> io::Result<bool> {
    wait_for(descriptor, PollFlags::RDHUP, Some(span)).map(|ready| ready.hung_up)
}

/// Waits until a descriptor takes bytes or is broken, at most for `span`.
pub fn wait_writable(descriptor: impl AsFd, span: Duration) -> io::Result<()> {
    wait_for(descriptor, PollFlags::OUT, Some(span)).map(drop)
}

/// Polls, at most for `span`; `None` waits for ever. An interrupted wait is a wait that ended early, with nothing found: whoever
/// waits in a loop looks again.
fn poll_for(fds: &mut [PollFd<'_>], span: Option<Duration>) -> io::Result<()> {
    let timeout = match span {
        Some(span) => Some(Timespec::try_from(span).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?),
        None => None,
    };
    match poll(fds, timeout.as_ref()) {
        Err(rustix::io::Errno::INTR) | Ok(_) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn wait_for(descriptor: impl AsFd, events: PollFlags, span: Option<Duration>) -> io::Result<Readiness> {
    let mut fds = [PollFd::new(&descriptor, events)];
    poll_for(&mut fds, span)?;
    let found = fds[0].revents();
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    Ok(Readiness { readable: found.intersects(PollFlags::IN | gone), hung_up: found.intersects(gone) })
}

/// What to wait for on a descriptor. That it is broken is always told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interest {
    /// Bytes to read, or the end.
    pub read: bool,
    /// Room to write.
    pub write: bool,
    /// The peer's closing of its sending side, whether or not there is something to read before it.
    pub hang_up: bool,
}

/// What has come of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// A read does not block.
    pub read: bool,
    /// A write does not block.
    pub write: bool,
    /// The peer has closed its sending side.
    pub hung_up: bool,
    /// Nothing can be sent or received any more.
    pub broken: bool,
}

/// Waits for any of two descriptors, at most for `span`; `None` waits for ever. A second one that nothing is wanted of is
/// left out, even if it is broken: whoever has no use for it now would only be woken for it again and again.
pub fn wait_two(
    first: (impl AsFd, Interest),
    second: (impl AsFd, Interest),
    span: Option<Duration>,
) -> io::Result<(Outcome, Outcome)> {
    let flags = |wanted: Interest| {
        let of = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        of(wanted.read, PollFlags::IN) | of(wanted.write, PollFlags::OUT) | of(wanted.hang_up, PollFlags::RDHUP)
    };
    let mut fds = [PollFd::new(&first.0, flags(first.1)), PollFd::new(&second.0, flags(second.1))];
    let watched = if second.1 == Interest::default() { 1 } else { 2 };
    poll_for(&mut fds[..watched], span)?;
    let outcome = |fd: &PollFd<'_>| {
        let found = fd.revents();
        let broken = found.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        Outcome {
            read: found.intersects(PollFlags::IN) || broken,
            write: found.intersects(PollFlags::OUT) || broken,
            hung_up: found.intersects(PollFlags::RDHUP) || broken,
            broken,
        }
    };
    let second = if watched == 2 { outcome(&fds[1]) } else { Outcome::default() };
    Ok((outcome(&fds[0]), second))
}

/// Whether an error says that the process or the machine has run out of descriptors or memory, which passes.
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

/// Raises the soft limit on open files to the hard one, and gives the limit that now holds.
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// Wakes all who wait on a socket, once: when the process ends.
pub struct Bell {
    rope: std::sync::Mutex<Option<UnixStream>>,
    clapper: UnixStream,
    rung: AtomicBool,
}

impl Bell {
    /// A bell that was not rung yet.
    pub fn new() -> io::Result<Bell> {
        let (rope, clapper) = UnixStream::pair()?;
        Ok(Bell { rope: std::sync::Mutex::new(Some(rope)), clapper, rung: AtomicBool::new(false) })
    }

    /// Rings it. Whoever waits with it wakes now, and at once from now on.
    pub fn ring(&self) {
        self.rung.store(true, Ordering::Relaxed);
        super::crew::lock(&self.rope).take();
    }

    /// Whether it was rung, for those who are too busy to wait.
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed)
    }
}

/// Wakes one thread that waits on a socket, any number of times.
pub struct Alarm(rustix::fd::OwnedFd);

impl Alarm {
    /// An alarm that is silent.
    pub fn new() -> io::Result<Alarm> {
        Ok(Alarm(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes whoever waits with it, or will wait next.
    pub fn ring(&self) {
        // A counter that is full (eventfd(2)) rings already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Waits until the descriptor is readable or the alarm rings, at most for `span`; the alarm is silent then.
    pub fn wait_readable(&self, descriptor: impl AsFd, span: Duration) -> io::Result<()> {
        let read = Interest { read: true, ..Interest::default() };
        let (_, alarm) = wait_two((descriptor, read), (&self.0, read), Some(span))?;
        if alarm.read {
            // Nothing to read means that it is silent.
            let _ = rustix::io::read(&self.0, &mut [0; 8]);
        }
        Ok(())
    }
}

/// Waits until a socket has bytes, its end, or an error to fetch, or the bell is rung. Gives whether it was.
pub fn wait_readable_or(stream: &TcpStream, bell: &Bell) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, PollFlags::IN), PollFd::new(&bell.clapper, PollFlags::IN)];
    poll_for(&mut fds, None)?;
    Ok(!fds[1].revents().is_empty())
}

/// How many bytes a socket has received that were not read yet.
pub fn bytes_waiting(stream: &TcpStream) -> io::Result<usize> {
    let waiting = rustix::io::ioctl_fionread(stream)?;
    Ok(usize::try_from(waiting).unwrap_or(usize::MAX))
}

/// Waits until a listener has a connection to accept, or the bell is rung, at most for `span`; `None` waits for ever. Gives whether
/// the bell was rung.
pub fn wait_acceptable_or(listener: &TcpListener, bell: &Bell, span: Option<Duration>) -> io::Result<bool> {
    let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&bell.clapper, PollFlags::IN)];
    poll_for(&mut fds, span)?;
    Ok(!fds[1].revents().is_empty())
}
