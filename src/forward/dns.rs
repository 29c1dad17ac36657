//! SRV records: one question to the nameservers of resolv.conf(5), over UDP, and over TCP if the answer was cut.
//!
//! The standard library looks up addresses but not services. Reading and writing messages (RFC 1035, RFC 2782) is pure;
//! [`Lookup`] is the shell. The answer is anybody's bytes: every length is checked, compression pointers only go backwards
//! and so end. Left out: search lists (write the whole name), EDNS, caching, DNSSEC.

use crate::unit::Bytes;
use crate::world::clock::Clock;
use crate::world::entropy::Dice;
use crate::world::fs::{FileSystem, read_full_at};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// How long one nameserver may take.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// Nameservers asked, as in resolv.conf(5), `MAXNS`.
const MAX_SERVERS: usize = 3;

/// How much of resolv.conf is read.
const MAX_CONF: usize = 64 << 10;

/// Records taken from one answer.
const MAX_RECORDS: usize = 64;

const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;

/// One place where a service is offered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Lower is asked first.
    pub priority: u16,
    /// Share among those of equal priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host.
    pub target: String,
}

/// Why there is no usable answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DnsError {
    /// The name cannot be asked for.
    BadName,
    /// The answer is to another question.
    NotOurs,
    /// The answer was cut for want of room.
    Truncated,
    /// The answer's bytes make no sense.
    Malformed,
    /// The server refuses, by its response code (RFC 1035, section 4.1.1).
    Refused(u8),
    /// There is no such name, or no service under it.
    NoService,
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DnsError::BadName => f.write_str("the name cannot be asked for"),
            DnsError::NotOurs => f.write_str("the nameserver answered another question"),
            DnsError::Truncated => f.write_str("the nameserver's answer was cut"),
            DnsError::Malformed => f.write_str("the nameserver's answer is malformed"),
            DnsError::Refused(code) => write!(f, "the nameserver refuses with code {code}"),
            DnsError::NoService => f.write_str("the name has no SRV record"),
        }
    }
}

impl std::error::Error for DnsError {}

/// The question for the SRV records of `name`. Recursion is asked for.
pub fn encode_question(id: u16, name: &str) -> Result<Vec<u8>, DnsError> {
    let mut message = Vec::with_capacity(name.len() + 18);
    for field in [id, 0x0100, 1, 0, 0, 0] {
        message.extend_from_slice(&field.to_be_bytes());
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    for label in name.split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len)).ok_or(DnsError::BadName)?;
        message.push(len);
        message.extend_from_slice(label.as_bytes());
    }
    if name.len() > 253 {
        return Err(DnsError::BadName);
    }
    message.push(0);
    message.extend_from_slice(&TYPE_SRV.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    Ok(message)
}

/// The SRV records of an answer to `question`. Records under a name's aliases count: the server has followed them.
pub fn decode_answer(message: &[u8], question: &[u8]) -> Result<Vec<Service>, DnsError> {
    let mut at = Cursor { message, at: 0 };
    let (id, flags) = (at.u16()?, at.u16()?);
    let (questions, answers) = (at.u16()?, at.u16()?);
    at.skip(4)?;
    let asked = question.get(..2).ok_or(DnsError::NotOurs)?;
    if id.to_be_bytes() != asked || flags & 0x8000 == 0 {
        return Err(DnsError::NotOurs);
    }
    if flags & 0x0200 != 0 {
        return Err(DnsError::Truncated);
    }
    match flags & 0x000f {
        0 => {}
        3 => return Err(DnsError::NoService),
        code => return Err(DnsError::Refused(code as u8)),
    }
    let ours = question.get(12..).unwrap_or_default();
    let echoed = message.get(12..12 + ours.len()).ok_or(DnsError::Malformed)?;
    if questions != 1 || !echoed.eq_ignore_ascii_case(ours) {
        return Err(DnsError::NotOurs);
    }
    at.skip(ours.len())?;
    let mut services = Vec::new();
    for _ in 0..answers {
        at.name()?;
        let (kind, class) = (at.u16()?, at.u16()?);
        at.skip(4)?;
        let length = usize::from(at.u16()?);
        let mut inner = Cursor { message: message.get(..at.at + length).ok_or(DnsError::Malformed)?, at: at.at };
        at.skip(length)?;
        if kind == TYPE_SRV && class == CLASS_IN && services.len() < MAX_RECORDS {
            let (priority, weight, port) = (inner.u16()?, inner.u16()?, inner.u16()?);
            let target = inner.name()?;
            // A target of "." says that the service is decidedly not offered here (RFC 2782).
            if !target.is_empty() && port != 0 {
                services.push(Service { priority, weight, port, target });
            }
        }
    }
    if services.is_empty() { Err(DnsError::NoService) } else { Ok(services) }
}

/// The order in which to try services: by priority, and among equals drawn by weight (RFC 2782, "Usage rules").
pub fn in_order(mut services: Vec<Service>, dice: &mut Dice) -> Vec<Service> {
    services.sort_by_key(|service| service.priority);
    let mut ordered = Vec::with_capacity(services.len());
    while let Some(priority) = services.first().map(|service| service.priority) {
        let equals = services.iter().take_while(|service| service.priority == priority);
        // One more than the weight: a weight of 0 means seldom, not never.
        let total: u64 = equals.clone().map(|service| u64::from(service.weight) + 1).sum();
        let mut lot = dice.below(total);
        let mut chosen = 0;
        for (place, service) in equals.enumerate() {
            chosen = place;
            match lot.checked_sub(u64::from(service.weight) + 1) {
                Some(rest) => lot = rest,
                None => break,
            }
        }
        ordered.push(services.remove(chosen));
    }
    ordered
}

/// The nameservers of a resolv.conf(5), at most 3; the local one if it names none.
pub fn nameservers(conf: &str, port: u16) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = conf
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, port))
        .take(MAX_SERVERS)
        .collect();
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    }
    servers
}

/// Reads one message front to back; nothing beyond its end is ever touched.
struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn u8(&mut self) -> Result<u8, DnsError> {
        let byte = self.message.get(self.at).copied().ok_or(DnsError::Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    fn u16(&mut self) -> Result<u16, DnsError> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn skip(&mut self, bytes: usize) -> Result<(), DnsError> {
        let to = self.at.saturating_add(bytes);
        if to > self.message.len() {
            return Err(DnsError::Malformed);
        }
        self.at = to;
        Ok(())
    }

    /// A name, without its last dot; the root is empty. Labels that would not look like a host's become an error, since
    /// the name is handed to the system's resolver.
    fn name(&mut self) -> Result<String, DnsError> {
        let mut name = String::new();
        let mut walk = Cursor { message: self.message, at: self.at };
        // Where the last piece began: a pointer must point before it, so that each jump goes backwards and the walk ends.
        let mut begin = self.at;
        let mut jumped = false;
        loop {
            let length = walk.u8()?;
            match length >> 6 {
                0 if length == 0 => break,
                0 => {
                    let from = walk.at;
                    walk.skip(usize::from(length))?;
                    let label = walk.message.get(from..walk.at).ok_or(DnsError::Malformed)?;
                    if !name.is_empty() {
                        name.push('.');
                    }
                    let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
                    if !label.iter().all(plain) || name.len() + label.len() > 253 {
                        return Err(DnsError::Malformed);
                    }
                    name.extend(label.iter().map(|b| char::from(*b)));
                }
                3 => {
                    let to = usize::from(length & 0x3f) << 8 | usize::from(walk.u8()?);
                    if to >= begin {
                        return Err(DnsError::Malformed);
                    }
                    if !jumped {
                        self.at = walk.at;
                    }
                    (jumped, begin) = (true, to);
                    walk.at = to;
                }
                _ => return Err(DnsError::Malformed),
            }
        }
        if !jumped {
            self.at = walk.at;
        }
        Ok(name)
    }
}

/// The way to the nameservers.
pub struct Lookup<'a> {
    /// Where resolv.conf is read, at each lookup.
    pub files: &'a dyn FileSystem,
    /// Its path.
    pub resolv_conf: &'a Path,
    /// The port of nameservers: 53, but for tests.
    pub port: u16,
    /// Measures the patience with each.
    pub clock: &'a dyn Clock,
}

impl Lookup<'_> {
    /// Asks for the services under a name, one nameserver after the other until one knows.
    pub fn services(&self, name: &str, dice: &mut Dice) -> io::Result<Vec<Service>> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        // A missing file means the local nameserver, as for the system's resolver.
        let conf = self.read_conf().unwrap_or_default();
        for server in nameservers(&conf, self.port) {
            let question = encode_question((dice.roll() >> 48) as u16, name).map_err(io::Error::other)?;
            match self.ask(server, &question) {
                Ok(services) => return Ok(services),
                Err(e) => failure = io::Error::new(e.kind(), format!("asking nameserver {server} for {name}: {e}")),
            }
        }
        Err(failure)
    }

    fn read_conf(&self) -> io::Result<String> {
        let file = self.files.open(self.resolv_conf)?;
        let mut conf = vec![0; MAX_CONF];
        let length = read_full_at(&*file, &mut conf, Bytes(0))?;
        Ok(String::from_utf8_lossy(conf.get(..length).unwrap_or_default()).into_owned())
    }

    fn ask(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<Service>> {
        let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0u8; 16].into() };
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect(server)?;
        socket.send(question)?;
        let deadline = self.clock.now() + TIMEOUT;
        let mut answer = [0u8; 4096];
        loop {
            let left = deadline.since(self.clock.now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            socket.set_read_timeout(Some(left))?;
            let length = match socket.recv(&mut answer) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            };
            match decode_answer(answer.get(..length).unwrap_or_default(), question) {
                // Late answers, and those of somebody else: the right one may still come.
                Err(DnsError::NotOurs) => {}
                Err(DnsError::Truncated) => return self.ask_tcp(server, question),
                other => return other.map_err(io::Error::other),
            }
        }
    }

    /// The same question over TCP, where a message has two bytes of length before it (RFC 1035, section 4.2.2).
    fn ask_tcp(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<Service>> {
        let deadline = self.clock.now() + TIMEOUT;
        let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let length = u16::try_from(question.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(question);
        stream.write_all(&framed)?;
        let mut answer = Vec::new();
        let mut wanted = 2;
        let mut piece = [0u8; 4096];
        while answer.len() < wanted {
            let left = deadline.since(self.clock.now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => answer.extend_from_slice(piece.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if let Some(length) = answer.first_chunk::<2>() {
                wanted = 2 + usize::from(u16::from_be_bytes(*length));
            }
        }
        decode_answer(answer.get(2..wanted).unwrap_or_default(), question).map_err(io::Error::other)
    }
}

#[cfg(test)]
pub(super) mod tests;
