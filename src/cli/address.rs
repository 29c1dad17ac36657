//! Addresses as people write them in flags: `tcp://0.0.0.0:7650`, `localhost:7650`, `db1`, `[::1]:7650`, `:7650`.
//!
//! A name stays a name here and is looked up at each use, so a machine that moves is found again.

use super::flags::Use;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// The longest host name in text (RFC 1035, section 3.1: 255 octets on the wire).
const MAX_HOST_LEN: usize = 253;

/// A host, by name or number, and a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    host: String,
    port: u16,
}

/// Why text is no address. `Display` is half a sentence: what was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAddress {
    /// Something other than `tcp://` (or `udp://`, `http://`) in front.
    Scheme,
    /// No host, or characters that no host name has.
    Host,
    /// Not a number up to 65535, or 0 where somebody is to be called.
    Port,
}

impl fmt::Display for NotAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotAddress::Scheme => "an address such as tcp://host:7650, with tcp:// or no scheme at all",
            NotAddress::Host => "an address such as tcp://host:7650, with a host name or IP address",
            NotAddress::Port => "an address such as tcp://host:7650, with a port from 1 to 65535",
        })
    }
}

impl std::error::Error for NotAddress {}

impl Address {
    /// Reads an address; `default_port` where it names none. The scheme says nothing that the flag does not say already:
    /// `tcp`, `udp` and `http` are taken and dropped.
    pub fn parse(text: &str, used: Use, default_port: u16) -> Result<Address, NotAddress> {
        let rest = match text.split_once("://") {
            Some(("tcp" | "udp" | "http", rest)) => rest,
            Some(_) => return Err(NotAddress::Scheme),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest)?;
        let port = match port {
            Some(digits) => read_port(digits)?,
            None => default_port,
        };
        if port == 0 && used == Use::Call {
            return Err(NotAddress::Port);
        }
        let host = match (host, used, rest.is_empty()) {
            (_, _, true) => return Err(NotAddress::Host),
            ("", Use::Listen, _) => "0.0.0.0",
            ("", Use::Call, _) => "localhost",
            (host, ..) if is_host(host) => host,
            _ => return Err(NotAddress::Host),
        };
        Ok(Address { host: host.to_string(), port })
    }

    /// The host, by name or number, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host's addresses now. Asks the system's resolver where the host is a name, which may take seconds.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host)));
        }
        Ok(found)
    }

    /// The first of the host's addresses, to listen on.
    pub fn resolve_one(&self) -> io::Result<SocketAddr> {
        let none = || io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host));
        self.resolve()?.first().copied().ok_or_else(none)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Host and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
fn split_port(text: &str) -> Result<(&str, Option<&str>), NotAddress> {
    if let Some(inner) = text.strip_prefix('[') {
        let (host, tail) = inner.split_once(']').ok_or(NotAddress::Host)?;
        if !host.contains(':') {
            return Err(NotAddress::Host);
        }
        return match tail.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if tail.is_empty() => Ok((host, None)),
            None => Err(NotAddress::Port),
        };
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => Ok((text, None)),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn read_port(digits: &str) -> Result<u16, NotAddress> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().map_err(|_| NotAddress::Port) } else { Err(NotAddress::Port) }
}

fn is_host(host: &str) -> bool {
    if host.contains(':') {
        // An IPv6 address, with a zone (RFC 4007) or without.
        let number = host.split_once('%').map_or(host, |(number, _)| number);
        return matches!(number.parse(), Ok(IpAddr::V6(_)));
    }
    let only_digits = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if only_digits {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    // Underscores are in no host name by RFC 952, but in many of today's container networks.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    host.len() <= MAX_HOST_LEN && !host.starts_with(['-', '.']) && !host.contains("..") && host.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form_people_write() {
        let cases = [
            ("tcp://0.0.0.0:7650", "0.0.0.0:7650"),
            ("udp://10.0.0.1", "10.0.0.1:7"),
            ("http://db1:80/", "db1:80"),
            ("localhost", "localhost:7"),
            ("a_b-c.example.org.:1", "a_b-c.example.org.:1"),
            ("[::1]:80", "[::1]:80"),
            ("[::1]", "[::1]:7"),
            ("::1", "[::1]:7"),
            ("tcp://[fe80::1%eth0]:5", "[fe80::1%eth0]:5"),
            (":80", "localhost:80"),
        ];
        for (text, expected) in cases {
            let read = Address::parse(text, Use::Call, 7).map(|address| address.to_string());
            assert_eq!(read, Ok(expected.to_string()), "{text}");
        }
        assert_eq!(Address::parse(":0", Use::Listen, 7).map(|a| a.to_string()), Ok("0.0.0.0:0".into()));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_part_that_is_wrong() {
        let cases = [
            ("", NotAddress::Host),
            ("tcp://", NotAddress::Host),
            ("ftp://x", NotAddress::Scheme),
            ("a b:1", NotAddress::Host),
            ("1.2.3:1", NotAddress::Host),
            ("256.1.1.1", NotAddress::Host),
            ("-x:1", NotAddress::Host),
            ("[x]:1", NotAddress::Host),
            ("[::1", NotAddress::Host),
            ("[::1]x", NotAddress::Port),
            ("1::2::3", NotAddress::Host),
            ("host:", NotAddress::Port),
            ("host:65536", NotAddress::Port),
            ("host:+1", NotAddress::Port),
            ("host:0", NotAddress::Port),
            ("host:7650/path", NotAddress::Port),
        ];
        for (text, expected) in cases {
            assert_eq!(Address::parse(text, Use::Call, 7), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_number_resolves_to_itself() {
        let address = Address::parse("[::1]:80", Use::Call, 1).expect("an address");
        assert_eq!(address.resolve_one().expect("no look-up needed").to_string(), "[::1]:80");
    }
}
