//! Which addresses other nodes are to call this one by.
//!
//! What an operator has said is taken. Else a socket that is bound to one address is called by that: it hears no other.
//! One that is bound to all is called by the address from which this machine would call its peers: the routing table
//! knows which of the interfaces leads to them, and a peer can answer there if anywhere. So names that are looked up
//! too late, bridges of containers and tunnels do not mislead. Without peers it is the address of the default route. A
//! private address goes before a public one, where both are to be had: nodes of a cluster talk behind the fence.

use crate::world::socket::local_address_towards;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses of which no packet comes back: they stand for "elsewhere" when the default route is asked for (RFC 5737,
/// TEST-NET-1; RFC 3849).
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// What there is to choose from.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    /// What the operator has said, if anything.
    pub explicit: Option<SocketAddr>,
    /// Where the socket for datagrams is bound, with its port.
    pub gossip: SocketAddr,
    /// Where the API listens, with its port.
    pub api: SocketAddr,
    /// The peers that were named and can be looked up now.
    pub peers: &'a [SocketAddr],
    /// Addresses of this machine that lead to them, in their order.
    pub towards_peers: &'a [IpAddr],
    /// Addresses of this machine that lead elsewhere.
    pub towards_elsewhere: &'a [IpAddr],
}

/// What was chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertised {
    /// Where other nodes send datagrams.
    pub gossip: SocketAddr,
    /// Where other nodes call the API.
    pub api: SocketAddr,
    /// What an operator should know.
    pub warning: Option<String>,
}

/// Chooses.
pub fn choose(choice: &Choice<'_>) -> Advertised {
    let gossip = choice.explicit.unwrap_or_else(|| {
        let bound = choice.gossip.ip();
        let ip = if bound.is_unspecified() { of_an_interface(choice) } else { bound };
        SocketAddr::new(ip, choice.gossip.port())
    });
    let api_ip = if choice.api.ip().is_unspecified() { gossip.ip() } else { choice.api.ip() };
    let api = SocketAddr::new(api_ip, choice.api.port());
    let far = choice.peers.iter().find(|peer| !peer.ip().is_loopback());
    let warning = match (far, [gossip, api].iter().find(|address| !is_routable(address.ip()))) {
        (Some(peer), Some(near)) => Some(format!(
            "other nodes are told to call {near}, which {peer} cannot reach: set -cluster.advertise-addr, or the address \
             of -cluster and -api"
        )),
        _ => None,
    };
    Advertised { gossip, api, warning }
}

/// The best address of this machine for a socket that is bound to all.
fn of_an_interface(choice: &Choice<'_>) -> IpAddr {
    // A socket of IPv4 hears nothing else.
    let fits = |ip: &IpAddr| choice.gossip.is_ipv6() || ip.is_ipv4();
    let first = |from: &[IpAddr], wanted: fn(IpAddr) -> bool| from.iter().copied().find(|ip| fits(ip) && wanted(*ip));
    let (near, elsewhere) = (choice.towards_peers, choice.towards_elsewhere);
    let all_near = !choice.peers.is_empty() && choice.peers.iter().all(|peer| peer.ip().is_loopback());
    let loopback = if all_near { first(near, |_| true) } else { None };
    loopback
        .or_else(|| first(near, is_private))
        .or_else(|| first(near, is_routable))
        .or_else(|| first(elsewhere, is_private))
        .or_else(|| first(elsewhere, is_routable))
        .unwrap_or(if choice.gossip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() })
}

/// Whether it is meant for networks of one owner: RFC 1918, RFC 4193.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Whether another machine may reach it. Link-local addresses of IPv6 would need a zone, which means something on one
/// machine alone.
fn is_routable(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() || ip.is_multicast()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() || ip.is_multicast()),
    }
}

/// Asks the routing table, and chooses. Nothing is sent.
pub fn find(explicit: Option<SocketAddr>, gossip: SocketAddr, api: SocketAddr, peers: &[SocketAddr]) -> Advertised {
    // An address to which there is no route is one that nothing can be learnt from.
    let towards = |there: SocketAddr| local_address_towards(there).ok();
    let towards_peers: Vec<IpAddr> = peers.iter().copied().filter_map(towards).collect();
    let elsewhere = ELSEWHERE.map(|ip| SocketAddr::new(ip, gossip.port().max(1)));
    let towards_elsewhere: Vec<IpAddr> = elsewhere.into_iter().filter_map(towards).collect();
    let (towards_peers, towards_elsewhere) = (&towards_peers[..], &towards_elsewhere[..]);
    choose(&Choice { explicit, gossip, api, peers, towards_peers, towards_elsewhere })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &str) -> Vec<IpAddr> {
        list.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    /// Gossip address, API address, and whether there is a warning.
    fn chosen(explicit: &str, bound: [&str; 2], peers: &str, near: &str, elsewhere: &str) -> (String, String, bool) {
        let peers: Vec<SocketAddr> = peers.split_whitespace().map(|peer| peer.parse().unwrap()).collect();
        let found = choose(&Choice {
            explicit: explicit.parse().ok(),
            gossip: bound[0].parse().unwrap(),
            api: bound[1].parse().unwrap(),
            peers: &peers,
            towards_peers: &ips(near),
            towards_elsewhere: &ips(elsewhere),
        });
        (found.gossip.to_string(), found.api.to_string(), found.warning.is_some())
    }

    #[test]
    fn the_address_others_call_is_the_best_that_is_known() {
        const ALL: [&str; 2] = ["0.0.0.0:7659", "0.0.0.0:7650"];
        const ALL6: [&str; 2] = ["[::]:7659", "[::]:7650"];
        const NEAR: [&str; 2] = ["127.0.0.2:7659", "127.0.0.2:7650"];
        let far = "10.0.0.9:7659";
        #[rustfmt::skip]
        let cases = [
            ("said by the operator", "10.1.1.1:99", ALL, far, "10.0.0.1", "8.8.8.8", "10.1.1.1:99", "10.1.1.1:7650", false),
            ("said, with an API elsewhere", "10.1.1.1:99", ["0.0.0.0:1", "10.2.2.2:2"], far, "", "", "10.1.1.1:99", "10.2.2.2:2", false),
            ("said, but useless", "127.0.0.1:99", ALL, far, "10.0.0.1", "", "127.0.0.1:99", "127.0.0.1:7650", true),
            ("bound to one", "", ["10.3.3.3:1", "0.0.0.0:2"], far, "10.0.0.1", "", "10.3.3.3:1", "10.3.3.3:2", false),
            ("bound to loopback, peers there too", "", NEAR, "127.0.0.3:7659", "127.0.0.1", "10.0.0.1", "127.0.0.2:7659", "127.0.0.2:7650", false),
            ("bound to loopback, peers far", "", NEAR, far, "10.0.0.1", "", "127.0.0.2:7659", "127.0.0.2:7650", true),
            ("an API on loopback, peers far", "", ["0.0.0.0:1", "127.0.0.1:2"], far, "10.0.0.1", "", "10.0.0.1:1", "127.0.0.1:2", true),
            ("bound to all, peers far", "", ALL, far, "10.0.0.1", "192.168.1.1", "10.0.0.1:7659", "10.0.0.1:7650", false),
            ("a private one before a public one", "", ALL, "10.0.0.9:1 8.8.8.8:1", "9.9.9.9 10.0.0.1", "", "10.0.0.1:7659", "10.0.0.1:7650", false),
            ("a public one that leads to the peers before a private one that does not", "", ALL, "8.8.8.8:1", "9.9.9.9", "10.0.0.1", "9.9.9.9:7659", "9.9.9.9:7650", false),
            ("bound to all, peers near", "", ALL, "127.0.0.3:1", "127.0.0.1", "10.0.0.1", "127.0.0.1:7659", "127.0.0.1:7650", false),
            ("peers near and far", "", ALL, "127.0.0.3:1 10.0.0.9:1", "127.0.0.1 10.0.0.1", "", "10.0.0.1:7659", "10.0.0.1:7650", false),
            ("no peers", "", ALL, "", "", "10.0.0.1", "10.0.0.1:7659", "10.0.0.1:7650", false),
            ("no peers and no network", "", ALL, "", "", "", "127.0.0.1:7659", "127.0.0.1:7650", false),
            ("peers and no network", "", ALL, far, "", "", "127.0.0.1:7659", "127.0.0.1:7650", true),
            ("an address that no router hands out", "", ALL, far, "169.254.1.1", "", "127.0.0.1:7659", "127.0.0.1:7650", true),
            ("IPv4 does not hear IPv6", "", ALL, "[fd00::9]:1", "fd00::1", "10.0.0.1", "10.0.0.1:7659", "10.0.0.1:7650", false),
            ("IPv6 hears both", "", ALL6, "[fd00::9]:1", "fd00::1", "10.0.0.1", "[fd00::1]:7659", "[fd00::1]:7650", false),
        ];
        for (what, explicit, bound, peers, near, elsewhere, gossip, api, warns) in cases {
            let expected = (gossip.to_string(), api.to_string(), warns);
            assert_eq!(chosen(explicit, bound, peers, near, elsewhere), expected, "{what}");
        }
    }

    #[test]
    fn towards_loopback_this_machine_is_at_loopback() {
        let all = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let found = find(None, all(7659), all(7650), &[SocketAddr::from(([127, 0, 0, 9], 7659))]);
        assert!(found.gossip.ip().is_loopback() && found.warning.is_none(), "{found:?}");
    }
}
