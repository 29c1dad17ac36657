//! Who is a member and who has died: the SWIM protocol as values in and actions out.
//!
//! Datagrams and the time go in; datagrams and events come out. There is no clock, socket or thread within, and chance
//! is a seeded generator that is handed in, so thousands of these run in one thread as they run on thousands of machines.

use crate::cluster::auth::Seal;
use crate::cluster::timing::Timing;
use crate::cluster::{Claim, Load, Meta, NodeId};
use crate::unit::Monotonic;
use crate::world::entropy::Dice;
use std::net::SocketAddr;

/// What a machine begins with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this process is.
    pub node: NodeId,
    /// What it is.
    pub meta: Meta,
    /// What a former process knew, from disk. Taken as incarnation 0; who was alive is taken for dead.
    pub remembered: Vec<Claim>,
    /// The rhythm.
    pub timing: Timing,
}

/// What a machine wants done.
#[derive(Default, Debug)]
pub struct Out {
    /// To be sent, in this order.
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// What has happened.
    pub events: Vec<Event>,
}

/// What has happened, for the shell to act on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The table has changed: views are to be made anew, and the table to be saved.
    Changed,
    /// The peers that were named to us are to be resolved now, and [`Machine::join`] to be called with their addresses.
    WantPeers,
    /// Two live nodes serve the same directory: one is a copy of the other, and they are no replicas of each other.
    Copied {
        /// The one that began earlier.
        one: Meta,
        /// The other.
        other: Meta,
    },
}

/// One node's part of the protocol.
#[derive(Debug)]
pub struct Machine {
    me: Claim,
    load: Load,
}

impl Machine {
    /// A node that has just started and knows nobody but those it remembers.
    pub fn new(config: Config, _seal: Seal, _dice: Dice, _now: Monotonic) -> Machine {
        let me = Claim { node: config.node, meta: config.meta, incarnation: 1, state: crate::cluster::State::Alive };
        Machine { me, load: Load::default() }
    }

    /// Takes a datagram.
    pub fn handle(&mut self, _now: Monotonic, _from: SocketAddr, _datagram: &[u8], _out: &mut Out) {}

    /// Does what is due at `now`.
    pub fn tick(&mut self, _now: Monotonic, _out: &mut Out) {}

    /// When [`Machine::tick`] is to be called next.
    pub fn next_deadline(&self) -> Monotonic {
        Monotonic::default()
    }

    /// Calls at these addresses, which the peers named to us have now.
    pub fn join(&mut self, _now: Monotonic, _addresses: &[SocketAddr], _out: &mut Out) {}

    /// Says good-bye; `drained` if no record is here alone. A store, or an ingester that has not handed over everything,
    /// says that it is dead, for its records are missed.
    pub fn leave(&mut self, _now: Monotonic, _drained: bool, _out: &mut Out) {}

    /// Whether the good-bye has been said often enough.
    pub fn has_left(&self, _now: Monotonic) -> bool {
        true
    }

    /// Lets all know that this node will not come back and that its records are not to be missed.
    pub fn forget(&mut self, _now: Monotonic, _node: NodeId, _out: &mut Out) {}

    /// What to say of this node's load from now on.
    pub fn set_load(&mut self, load: Load) {
        self.load = load;
    }

    /// The whole table in order of node ids, this node included.
    pub fn claims(&self) -> impl Iterator<Item = (Claim, Option<Load>)> + '_ {
        std::iter::once((self.me.clone(), Some(self.load)))
    }

    /// Whether another member has been heard since the start.
    pub fn is_joined(&self) -> bool {
        false
    }
}
