//! Who knows what of whom: the truth, which comes to each node with a delay of its own.
//!
//! All nodes know each other at the beginning. Views are kept over restarts, as the table on a node's disk is.

use crate::node::{Node, Place};
use crate::run::{Event, Sim};
use crate::world::{MS, SECOND};
use oklog::cluster::{Peer, State, View};
use std::sync::Arc;

/// What all nodes believe.
#[derive(Default)]
pub struct Membership {
    /// By who believes, then by of whom.
    believed: Vec<Vec<Option<Peer>>>,
}

impl Membership {
    /// Nobody has heard of anybody yet.
    pub fn of(nodes: usize) -> Membership {
        Membership { believed: vec![vec![None; nodes]; nodes] }
    }

    /// What a node believes now.
    pub fn view(&self, nodes: &[Node], place: Place) -> Arc<View> {
        let known = self.believed[place].iter().enumerate().filter(|(other, _)| *other != place);
        let known: Vec<Peer> = known.filter_map(|(_, peer)| peer.clone()).collect();
        let (others, silent) = known.into_iter().partition(|peer| matches!(peer.state, State::Alive | State::Suspect));
        Arc::new(View { me: nodes[place].peer.clone(), others, silent })
    }

    /// At which place a peer is.
    pub fn place_of(&self, peer: &Peer) -> Option<Place> {
        place_of(peer)
    }

    /// A node hears of another, unless it knows something newer.
    pub fn learn(&mut self, who: Place, of: Place, peer: Peer) {
        let known = &mut self.believed[who][of];
        let is_older = |known: &Peer| known.meta.start > peer.meta.start;
        if !known.as_ref().is_some_and(is_older) {
            *known = Some(peer);
        }
    }
}

fn place_of(peer: &Peer) -> Option<Place> {
    match peer.meta.api.ip() {
        std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]).checked_sub(1),
        std::net::IpAddr::V6(_) => None,
    }
}

impl Sim {
    /// A node has begun or ended: the others hear of it, each in its own time.
    pub fn spread(&mut self, of: Place) {
        let peer = self.nodes[of].peer.clone();
        let is_first = self.nodes[of].life <= 1 && peer.state == State::Alive;
        for who in 0..self.nodes.len() {
            if is_first {
                self.members.learn(who, of, peer.clone());
            } else {
                let longest = if peer.state == State::Alive { 2 * SECOND } else { 8 * SECOND };
                let delay = 200 * MS + self.dice.below(longest);
                self.time.after(delay, Event::Learn(who, of, Box::new(peer.clone())));
            }
        }
    }
}
