//! Where an ingester is: an address as a person writes it, and the sockets it stands for at this moment.
//!
//! | written | means |
//! | --- | --- |
//! | `host`, `host:port`, `tcp://host:port` | the addresses of a host, in the order in which the system gives them |
//! | `tcp+dns://host:port`, `tcp+dnsip://host:port` | any A or AAAA record of a name, in random order |
//! | `tcp+dnssrv://name` | the SRV records of a name, by priority and weight, with their ports (RFC 2782) |
//!
//! A port that is left out is the mode's own. Names are looked up anew at each attempt to connect.

use super::dns::{self, Lookup};
use crate::world::entropy::Dice;
use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Sockets tried in one attempt; those beyond have their chance at the next lookup.
const MAX_SOCKETS: usize = 16;

/// How the sockets of an address are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// The host itself.
    Plain,
    /// Any address record of the name.
    AnyIp,
    /// The service records of the name.
    Service,
}

/// One address of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    text: String,
    scheme: Scheme,
    host: String,
    port: Option<u16>,
}

/// Why an address was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address {:?}: {}", self.text, self.why)
    }
}

impl std::error::Error for AddressError {}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Address {
    /// Reads an address. No name is looked up yet.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        let refuse = |why| AddressError { text: text.to_string(), why };
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Plain, text),
            Some(("tcp", rest)) => (Scheme::Plain, rest),
            Some(("tcp+dns" | "tcp+dnsip", rest)) => (Scheme::AnyIp, rest),
            Some(("tcp+dnssrv", rest)) => (Scheme::Service, rest),
            Some(_) => {
                return Err(refuse("the scheme is none of tcp://, tcp+dns://, tcp+dnsip://, tcp+dnssrv://"));
            }
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest).map_err(refuse)?;
        if scheme == Scheme::Service && port.is_some() {
            return Err(refuse("the port of tcp+dnssrv:// comes from the SRV record, leave it out"));
        }
        if !is_host(host) {
            return Err(refuse("not a host name or IP address, with or without :PORT"));
        }
        Ok(Address { text: text.to_string(), scheme, host: host.to_string(), port })
    }

    /// Looks up the sockets to try, in the order in which to try them, at most 16. May block as long as the system's
    /// resolver does; SRV queries are bounded by [`dns::TIMEOUT`] per server.
    pub fn resolve(&self, default_port: u16, lookup: &Lookup<'_>, dice: &mut Dice) -> io::Result<Vec<SocketAddr>> {
        let mut sockets = Vec::new();
        match self.scheme {
            Scheme::Plain => sockets.extend((self.host.as_str(), self.port.unwrap_or(default_port)).to_socket_addrs()?),
            Scheme::AnyIp => {
                sockets.extend((self.host.as_str(), self.port.unwrap_or(default_port)).to_socket_addrs()?);
                dice.shuffle(&mut sockets);
            }
            Scheme::Service => {
                let services = dns::in_order(lookup.services(&self.host, dice)?, dice);
                let mut failure = None;
                for service in services.iter().take(MAX_SOCKETS) {
                    match (service.target.as_str(), service.port).to_socket_addrs() {
                        Ok(found) => sockets.extend(found),
                        Err(e) => failure = Some(e),
                    }
                }
                if let (true, Some(e)) = (sockets.is_empty(), failure) {
                    return Err(e);
                }
            }
        }
        sockets.truncate(MAX_SOCKETS);
        if sockets.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(sockets)
    }
}

/// Host and port; brackets around an IPv6 address are taken off.
fn split_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) = rest.split_once(']').ok_or("a [ without its ]")?;
            if host.parse::<Ipv6Addr>().is_err() {
                return Err("no IPv6 address between [ and ]");
            }
            match tail.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if tail.is_empty() => (host, None),
                None => return Err("only :PORT may follow the ]"),
            }
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address is written in brackets, as in [::1]:7651");
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let Some(port) = port else { return Ok((host, None)) };
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok((host, Some(number))),
        _ => Err("the port is not a number from 1 to 65535"),
    }
}

/// Whether this can be looked up at all. Names longer than 253 bytes cannot be asked for (RFC 1035, section 2.3.4).
fn is_host(host: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let labels = host.strip_suffix('.').unwrap_or(host);
    host.parse::<Ipv6Addr>().is_ok()
        || host.len() <= 253
            && labels.split('.').all(|label| !label.is_empty() && label.len() <= 63 && label.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        use Scheme::{AnyIp, Plain, Service};
        let table = [
            ("localhost", Plain, "localhost", None),
            ("localhost:1", Plain, "localhost", Some(1)),
            ("tcp://10.0.0.1:65535", Plain, "10.0.0.1", Some(65535)),
            ("tcp://ingest-1.example.com/", Plain, "ingest-1.example.com", None),
            ("[::1]:7651", Plain, "::1", Some(7651)),
            ("tcp://[fe80::1]", Plain, "fe80::1", None),
            ("tcp+dns://ingest.example.com.:9", AnyIp, "ingest.example.com.", Some(9)),
            ("tcp+dnsip://ingest", AnyIp, "ingest", None),
            ("tcp+dnssrv://_fast._tcp.example.com", Service, "_fast._tcp.example.com", None),
        ];
        for (text, scheme, host, port) in table {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.scheme, address.host.as_str(), address.port), (scheme, host, port), "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn a_bad_address_is_refused_by_name() {
        let table = [
            "",
            ":7651",
            "tcp://",
            "udp://host:1",
            "http://host",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:x",
            "::1",
            "[::1",
            "[::1]7651",
            "[host]:1",
            "a b",
            "a..b",
            "h\u{f6}st",
            "host/path",
            "tcp+dnssrv://name:1",
            "-debug=x",
        ];
        for text in table {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("address {text:?}: ")), "{error}");
        }
        assert!(Address::parse(&"a.".repeat(127)).is_err());
        assert!(Address::parse(&"a".repeat(64)).is_err());
    }

    #[test]
    fn a_port_left_out_is_the_modes_own() {
        let lookup = Lookup::nowhere();
        let mut dice = Dice::new(1);
        let sockets = |text: &str, dice: &mut Dice| Address::parse(text).unwrap().resolve(7652, &lookup, dice).unwrap();
        assert_eq!(sockets("127.0.0.1", &mut dice), ["127.0.0.1:7652".parse().unwrap()]);
        assert_eq!(sockets("tcp+dns://127.0.0.1:5", &mut dice), ["127.0.0.1:5".parse().unwrap()]);
        assert_eq!(sockets("tcp://[::1]", &mut dice), ["[::1]:7652".parse().unwrap()]);
        assert!(Address::parse("tcp+dnssrv://a.b").unwrap().resolve(1, &lookup, &mut dice).is_err());
    }
}
