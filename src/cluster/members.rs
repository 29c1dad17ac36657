//! The table of all other nodes: who they are, what is believed of them, and in which order they are probed.
//!
//! Every lookup and every choice takes constant time, however many members there are. Nothing is decided by the order of
//! a hash map: they are only looked into.

use crate::cluster::{Load, Meta, NodeId, State};
use crate::unit::Monotonic;
use crate::world::entropy::Dice;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// How many nodes a table holds, the dead included. Further ones are refused and counted.
pub const MEMBERS_MAX: usize = 10_000;

/// Not in the ring.
const NOWHERE: u32 = u32::MAX;

/// What is believed of a node.
#[derive(Clone, Debug)]
pub struct Member {
    /// Which.
    pub node: NodeId,
    /// What it is. Shared, since a simulation holds thousands of tables about the same nodes.
    pub meta: Arc<Meta>,
    /// The greatest incarnation heard.
    pub incarnation: u64,
    /// What is believed.
    pub state: State,
    /// Whether other processes serve all its directories, so that its records are not missed.
    pub replaced: bool,
    /// Since when it is live, or is not.
    pub since: Monotonic,
    /// What it last said of its load.
    pub load: Option<Load>,
    ring: u32,
}

impl Member {
    /// Whether it is to be worked with.
    pub fn is_live(&self) -> bool {
        is_live(self.state)
    }

    /// Whether its records are missed.
    pub fn is_missed(&self) -> bool {
        !self.replaced && self.state.misses(&self.meta)
    }
}

/// Whether a node in this state is to be worked with.
pub fn is_live(state: State) -> bool {
    matches!(state, State::Alive | State::Suspect)
}

/// All nodes but this one.
#[derive(Default, Debug)]
pub struct Members {
    me: NodeId,
    slots: Vec<Option<Member>>,
    free: Vec<u32>,
    by_id: HashMap<NodeId, u32>,
    by_address: HashMap<SocketAddr, u32>,
    /// The live ones in random order; those before `turn` have been probed in this round.
    ring: Vec<u32>,
    turn: usize,
    /// The one alive that comes after this node in the order of ids, if that is known.
    neighbour: Option<NodeId>,
    /// The others, by the time since when they are so.
    gone: Vec<(Monotonic, u32)>,
    changes: u64,
}

impl Members {
    /// Nobody, for this node.
    pub fn new(me: NodeId) -> Members {
        Members { me, ..Members::default() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_id.len()
    }

    /// How often somebody has come, gone, or come back.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// All that are not live, those that have been so for longest first.
    pub fn gone(&self) -> impl Iterator<Item = &Member> {
        self.gone.iter().filter_map(|(_, slot)| self.at(*slot))
    }

    /// How many of them live.
    pub fn live(&self) -> usize {
        self.ring.len()
    }

    /// What is believed of a node.
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.at(*self.by_id.get(&node)?)
    }

    /// The same, to be changed; not its identity or state.
    pub fn get_mut(&mut self, node: NodeId) -> Option<&mut Member> {
        let slot = *self.by_id.get(&node)?;
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// The node that has this address.
    pub fn occupant(&self, address: SocketAddr) -> Option<&Member> {
        self.at(*self.by_address.get(&address)?)
    }

    /// All, in no meaningful but a repeatable order.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.slots.iter().flatten()
    }

    fn at(&self, slot: u32) -> Option<&Member> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Adds a node that is not there. Gives false, and does nothing, if the table is full.
    pub fn insert(&mut self, now: Monotonic, claim: (NodeId, u64, State), meta: Arc<Meta>, dice: &mut Dice) -> bool {
        let (node, incarnation, state) = claim;
        if self.count() >= MEMBERS_MAX || self.by_id.contains_key(&node) {
            return false;
        }
        let address = meta.gossip;
        let (since, ring) = (now, NOWHERE);
        let member = Member { node, meta, incarnation, state, replaced: false, since, load: None, ring };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(NOWHERE)
        });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(member);
        }
        self.by_id.insert(node, slot);
        self.consider_neighbour(node, state);
        if is_live(state) || !self.by_address.contains_key(&address) {
            self.by_address.insert(address, slot);
        }
        self.enter(slot, dice);
        true
    }

    /// Changes what is believed of a node.
    pub fn set(&mut self, now: Monotonic, node: NodeId, claim: (u64, State), dice: &mut Dice) {
        let Some(&slot) = self.by_id.get(&node) else { return };
        let Some(was_live) = self.at(slot).map(Member::is_live) else { return };
        let moves = was_live != is_live(claim.1);
        if moves {
            self.exit(slot);
        }
        self.consider_neighbour(node, claim.1);
        if let Some(Some(member)) = self.slots.get_mut(slot as usize) {
            (member.incarnation, member.state) = claim;
            if moves {
                member.since = now;
                member.replaced = false;
            }
        }
        if moves {
            self.enter(slot, dice);
        }
    }

    /// Gives a node other metadata, which only it can do.
    pub fn describe(&mut self, node: NodeId, meta: Arc<Meta>) {
        let Some(&slot) = self.by_id.get(&node) else { return };
        let Some(Some(member)) = self.slots.get_mut(slot as usize) else { return };
        let (old, new) = (member.meta.gossip, meta.gossip);
        member.meta = meta;
        if self.by_address.get(&old) == Some(&slot) {
            self.by_address.remove(&old);
        }
        self.by_address.insert(new, slot);
    }

    /// Takes a node out.
    pub fn remove(&mut self, node: NodeId) {
        self.changes += 1;
        let Some(slot) = self.by_id.remove(&node) else { return };
        self.exit(slot);
        let Some(member) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        if self.by_address.get(&member.meta.gossip) == Some(&slot) {
            self.by_address.remove(&member.meta.gossip);
        }
        self.free.push(slot);
    }

    /// Whose turn it is to be probed. Each comes once in a round, in an order that is new in each round.
    pub fn next_to_probe(&mut self, dice: &mut Dice) -> Option<NodeId> {
        if self.turn >= self.ring.len() {
            self.turn = 0;
            dice.shuffle(&mut self.ring);
            for (place, slot) in self.ring.iter().enumerate() {
                if let Some(Some(member)) = self.slots.get_mut(*slot as usize) {
                    member.ring = place as u32;
                }
            }
        }
        let slot = *self.ring.get(self.turn)?;
        self.turn += 1;
        self.at(slot).map(|member| member.node)
    }

    /// The next one alive in the order of ids after this node, as in a ring. Suspects are passed over: whoever suspects one takes
    /// care of the next in its stead.
    pub fn neighbour(&mut self) -> Option<NodeId> {
        let known = self.neighbour.and_then(|node| self.get(node)).filter(|member| member.state == State::Alive);
        if let Some(known) = known {
            return Some(known.node);
        }
        let alive = self.iter().filter(|member| member.state == State::Alive).map(|member| member.node);
        self.neighbour = alive.min_by_key(|node| self.distance(*node));
        self.neighbour
    }

    fn distance(&self, node: NodeId) -> u128 {
        node.0.wrapping_sub(self.me.0)
    }

    fn consider_neighbour(&mut self, node: NodeId, state: State) {
        let nearer = self.neighbour.is_some_and(|known| self.distance(node) < self.distance(known));
        if nearer && state == State::Alive {
            self.neighbour = Some(node);
        }
    }

    /// Any live one.
    pub fn any_live(&self, dice: &mut Dice) -> Option<&Member> {
        self.at(*self.ring.get(dice.below(self.ring.len() as u64) as usize)?)
    }

    /// Up to `count` different live ones for which `wanted` holds.
    pub fn some_live(&self, dice: &mut Dice, count: usize, wanted: impl Fn(&Member) -> bool) -> Vec<NodeId> {
        let mut chosen: Vec<NodeId> = Vec::with_capacity(count);
        if self.ring.len() <= 4 * count {
            let mut all: Vec<u32> = self.ring.clone();
            dice.shuffle(&mut all);
            let found = all.iter().filter_map(|slot| self.at(*slot)).filter(|member| wanted(member));
            return found.take(count).map(|member| member.node).collect();
        }
        for _ in 0..8 * count {
            let Some(member) = self.any_live(dice) else { break };
            if chosen.len() < count && wanted(member) && !chosen.contains(&member.node) {
                chosen.push(member.node);
            }
        }
        chosen
    }

    /// Any that is not live, since `since` at the earliest.
    pub fn any_gone(&self, dice: &mut Dice, since: Monotonic) -> Option<&Member> {
        let first = self.gone.partition_point(|(time, _)| *time < since);
        let recent = self.gone.get(first..)?;
        self.at(recent.get(dice.below(recent.len() as u64) as usize)?.1)
    }

    fn enter(&mut self, slot: u32, dice: &mut Dice) {
        self.changes += 1;
        let Some(Some(member)) = self.slots.get_mut(slot as usize) else { return };
        if !member.is_live() {
            let at = self.gone.partition_point(|(time, _)| *time <= member.since);
            self.gone.insert(at, (member.since, slot));
            return;
        }
        self.ring.push(slot);
        let last = self.ring.len() - 1;
        member.ring = last as u32;
        // Somewhere among those whose turn is still to come.
        let place = self.turn.min(last);
        self.swap(last, place + dice.below((last - place) as u64 + 1) as usize);
    }

    fn exit(&mut self, slot: u32) {
        let Some(Some(member)) = self.slots.get_mut(slot as usize) else { return };
        let (since, place) = (member.since, member.ring as usize);
        member.ring = NOWHERE;
        if place >= self.ring.len() {
            let from = self.gone.partition_point(|(time, _)| *time < since);
            let found = self.gone.iter().skip(from).position(|(_, other)| *other == slot);
            if let Some(found) = found {
                self.gone.remove(from + found);
            }
            return;
        }
        let last = self.ring.len() - 1;
        let mut hole = place;
        if place < self.turn {
            self.turn -= 1;
            self.swap(place, self.turn);
            hole = self.turn;
        }
        self.swap(hole, last);
        self.ring.pop();
        if let Some(Some(member)) = self.slots.get_mut(slot as usize) {
            member.ring = NOWHERE;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.ring.swap(a, b);
        for place in [a, b] {
            let slot = self.ring.get(place).copied().unwrap_or(NOWHERE);
            if let Some(Some(member)) = self.slots.get_mut(slot as usize) {
                member.ring = place as u32;
            }
        }
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
