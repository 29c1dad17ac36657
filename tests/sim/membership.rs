//! Who knows what of whom: each process is a member by the real protocol, over datagrams that are lost, repeated, late and
//! kept apart, with the real table on its own disk, which crashes with the node.
//!
//! What the design leaves open, and what is no fault here:
//! - a *new* ingester that joined less than 1.6 s ago, or in another part of a partition, is unknown to the node that is
//!   asked, which calls its answer complete all the same. So all nodes meet before the first line comes, on a network
//!   without partitions, and wait until each has written down who the others are. They may restart at any time after that;
//! - the same holds for an ingester that has left with nothing in hand, whom nobody misses, and is back: nobody connects to
//!   it before all that run know that it is;
//! - a table of members that is older than the last second: who joined within it is not in it after a crash. The same holds;
//! - a store that an operator has forgotten is missed by nobody. Nobody forgets here; a store that is lost for good stays
//!   silent to the end.

use crate::ledger::{Checked, LIVENESS, broken};
use crate::node::{Death, INGEST_DIR, Node, Place, STORE_DIR};
use crate::run::{Event, Sim};
use crate::world::{MS, Nanos, SECOND, Ticket};
use oklog::cluster::auth::Keys;
use oklog::cluster::member::{Doors, KNOWN_TO_ALL, Member, Setup, Todo};
use oklog::cluster::remembered::{Keeper, Remembered};
use oklog::cluster::timing::Timing;
use oklog::cluster::{DataId, Load, Peer, View};
use oklog::segment::names::Names;
use oklog::world::clock::Clock;
use oklog::world::entropy::Dice;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// From one look at what there is to write to the next, as in `cluster/thread.rs`.
const KEEP_EVERY: Nanos = SECOND;

/// The shortest wait from one tick to the next, likewise.
const SHORTEST_WAIT: Nanos = MS;

/// In which time all nodes meet at the beginning, on any network that there is here.
const TO_MEET: Nanos = 20 * SECOND;

/// What each node believes.
#[derive(Default)]
pub struct Membership {
    seats: Vec<Option<Seat>>,
    /// Datagrams that were sent.
    pub datagrams: u64,
}

/// The part of one process; that of the last one, where none runs.
struct Seat {
    member: Member,
    keeper: Keeper,
    life: u64,
    /// When its next tick is planned for.
    planned: Nanos,
}

impl Membership {
    /// Nobody has heard of anybody yet.
    pub fn of(nodes: usize) -> Membership {
        Membership { seats: (0..nodes).map(|_| None).collect(), datagrams: 0 }
    }

    /// What a node believes now.
    pub fn view(&self, nodes: &[Node], place: Place) -> Arc<View> {
        match &self.seats[place] {
            Some(seat) => seat.member.view().clone(),
            None => Arc::new(View { me: nodes[place].peer.clone(), others: Vec::new(), silent: Vec::new() }),
        }
    }

    /// At which place a peer is.
    pub fn place_of(&self, peer: &Peer) -> Option<Place> {
        place_of(peer.meta.api)
    }

    /// The stores that a node holds for forgotten.
    pub fn forgotten(&self, place: Place) -> Vec<DataId> {
        self.seats[place].as_ref().map(|seat| seat.member.forgotten()).unwrap_or_default()
    }

    /// Whether a node knows whom to miss.
    pub fn is_informed(&self, place: Place) -> bool {
        self.seats[place].as_ref().is_some_and(|seat| seat.member.is_informed())
    }

    /// Whether the process that runs at a place takes lines yet.
    pub fn has_open_doors(&self, node: &Node) -> bool {
        let seat = self.seats[node.place].as_ref().filter(|seat| node.runs(seat.life));
        seat.is_some_and(|seat| !matches!(seat.member.doors(node.clock.now()), Doors::ShutUntil(_)))
    }

    fn seat(&mut self, node: &Node) -> Option<&mut Seat> {
        self.seats[node.place].as_mut().filter(|seat| node.runs(seat.life))
    }
}

fn place_of(address: SocketAddr) -> Option<Place> {
    match address.ip() {
        std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]).checked_sub(1),
        std::net::IpAddr::V6(_) => None,
    }
}

/// Where a node keeps its table: as `cli/serve/joining.rs` chooses.
fn directory(node: &Node) -> &'static Path {
    Path::new(if node.kind.stores() { STORE_DIR } else { INGEST_DIR })
}

impl Sim {
    /// A process has begun and has recovered its directories: it becomes a member.
    pub fn member_begins(&mut self, place: Place) -> Checked {
        let (node, fs) = (&self.nodes[place], self.names_of(place));
        let Ok(remembered) = Remembered::load(&*fs, directory(node)) else {
            // A server ends then, and is started again.
            self.end_process(place, Death::Killed);
            return Ok(());
        };
        let process = node.process.as_ref().expect("it has begun");
        let is_new = process.ingest.as_ref().is_some_and(|tier| tier.log.began_empty());
        let setup = Setup {
            node: node.peer.node,
            meta: node.peer.meta.clone(),
            timing: Timing::default(),
            keys: Keys::none(),
            dice: Dice::new(self.dice.roll()),
            is_new,
            has_peers: self.nodes.len() > 1,
        };
        let member = Member::begin(setup, remembered, node.clock.now(), node.clock.unix_millis().0);
        let (ticket, life) = (node.ticket(), node.life);
        self.nodes[place].peer = member.view().me.clone();
        let (start, silent) = (member.view().me.meta.start, member.view().silent.len());
        self.trace(|| format!("node {place} is a member by its start {start}, {silent} are silent"));
        self.members.seats[place] = Some(Seat { member, keeper: Keeper::default(), life, planned: Nanos::MAX });
        // Before the first datagram the start number is on disk, or there will be later tries.
        self.save_members(ticket)?;
        let first = self.dice.below(KEEP_EVERY);
        self.time.after(first, Event::KeepMembers(ticket));
        self.plan_gossip(ticket);
        Ok(())
    }

    /// A datagram has come.
    pub fn datagram(&mut self, to: Place, from: Place, datagram: &[u8]) {
        let Some(ticket) = self.nodes[to].process.is_some().then(|| self.nodes[to].ticket()) else { return };
        let from = self.nodes[from].peer.meta.gossip;
        self.with_member(ticket, |member, now, todo| {
            member.handle(now, from, datagram, todo);
            member.tick(now, todo);
        });
    }

    /// What is due for a member.
    pub fn gossip(&mut self, ticket: Ticket) {
        let now = self.time.now();
        let node = &self.nodes[ticket.place];
        // Another tick was planned since, for an earlier time.
        let is_due = self.members.seat(node).is_some_and(|seat| seat.life == ticket.life && seat.planned <= now);
        if is_due {
            self.with_member(ticket, |member, now, todo| member.tick(now, todo));
        }
    }

    /// What is looked at every second: what load to tell of, and whether there is something to write.
    pub fn keep_members(&mut self, ticket: Ticket) -> Checked {
        self.save_members(ticket)?;
        if self.nodes[ticket.place].runs(ticket.life) {
            self.with_member(ticket, |member, _, todo| member.set_load(Load::default(), todo));
            self.time.after(KEEP_EVERY, Event::KeepMembers(ticket));
        }
        Ok(())
    }

    /// What a node keeps its table by: the names in the directory of a tier, as `cli/serve/joining.rs` chooses.
    fn names_of(&self, place: Place) -> Arc<Names> {
        let process = self.nodes[place].process.as_ref().expect("it has begun");
        let store = process.store.as_ref().map(|tier| tier.log.names().clone());
        store.or(process.ingest.as_ref().map(|tier| tier.log.names().clone())).expect("it has a tier")
    }

    fn save_members(&mut self, ticket: Ticket) -> Checked {
        let (node, fs) = (&self.nodes[ticket.place], self.names_of(ticket.place));
        let Some(seat) = self.members.seat(node).filter(|seat| seat.life == ticket.life) else { return Ok(()) };
        let Some(unsaved) = seat.member.unsaved(seat.keeper.version()) else { return Ok(()) };
        let (mut keeper, dir) = (std::mem::take(&mut seat.keeper), directory(node));
        // What fails is tried again a second later.
        self.act(ticket.place, |_| drop(keeper.save(unsaved, &*fs, dir)))?;
        if let Some(seat) = self.members.seat(&self.nodes[ticket.place]) {
            seat.keeper = keeper;
        }
        Ok(())
    }

    /// Lets a member do something, and does what it wants done for it.
    fn with_member(&mut self, ticket: Ticket, what: impl FnOnce(&mut Member, oklog::unit::Monotonic, &mut Todo)) {
        let mut todo = Todo::default();
        let node = &self.nodes[ticket.place];
        let now = node.clock.now();
        let Some(seat) = self.members.seat(node).filter(|seat| seat.life == ticket.life) else { return };
        what(&mut seat.member, now, &mut todo);
        if std::mem::take(&mut todo.wants_peers) {
            // All nodes are named to each other, and names take no time here.
            let peers: Vec<SocketAddr> = self.nodes.iter().map(|node| node.peer.meta.gossip).collect();
            let node = &self.nodes[ticket.place];
            let Some(seat) = self.members.seat(node) else { return };
            seat.member.join(now, &peers, &mut todo);
        }
        for (to, datagram) in todo.datagrams() {
            if let Some(to) = place_of(*to).filter(|to| *to < self.nodes.len()) {
                self.post(ticket.place, to, datagram);
            }
        }
        self.plan_gossip(ticket);
    }

    fn post(&mut self, from: Place, to: Place, datagram: &[u8]) {
        self.members.datagrams += 1;
        let times = if self.dice.one_in(self.shape.loss_one_in.saturating_mul(2)) { 2 } else { 1 };
        for _ in 0..times {
            if let Some(delay) = self.delay(from, to) {
                self.time.after(delay, Event::Datagram(from, to, datagram.into()));
            }
        }
    }

    /// Plans the next tick, unless one is planned before it.
    fn plan_gossip(&mut self, ticket: Ticket) {
        let now = self.time.now();
        let node = &self.nodes[ticket.place];
        let local = node.clock.now();
        let Some(seat) = self.members.seat(node) else { return };
        let wait = seat.member.next_deadline().since(local).as_nanos() as Nanos;
        let at = now + wait.max(SHORTEST_WAIT);
        if seat.planned <= now || at < seat.planned {
            seat.planned = at;
            self.time.at(at, Event::Gossip(ticket));
        }
    }

    /// Looks who of those that have left and are back is known to all.
    pub fn who_is_back_is_known(&mut self) {
        for place in 0..self.nodes.len() {
            let node = &self.nodes[place];
            let knows = |other: &Node| {
                self.members.view(&self.nodes, other.place).members().any(|peer| peer.node == node.peer.node)
            };
            let others = self.nodes.iter().filter(|other| other.process.is_some());
            if node.is_unmissed && node.process.is_some() && others.clone().all(knows) {
                self.nodes[place].is_unmissed = false;
            }
        }
    }

    /// A node says good-bye.
    pub fn say_good_bye(&mut self, ticket: Ticket, drained: bool) {
        self.with_member(ticket, |member, now, todo| member.leave(now, drained, todo));
    }

    /// Whether it has said so often enough.
    pub fn has_said_good_bye(&self, place: Place) -> bool {
        let seat = self.members.seats[place].as_ref();
        seat.is_none_or(|seat| seat.member.has_left(self.nodes[place].clock.now()))
    }

    /// Lets all nodes meet before anything goes wrong: each knows all others, and has written that down.
    pub fn meet(&mut self, after_each: &mut dyn FnMut(&Sim)) -> Checked {
        let end = self.time.now() + TO_MEET;
        while !self.have_met() {
            if self.time.now() > end {
                return broken(LIVENESS, "nodes do not find each other");
            }
            self.until(self.time.now() + 100 * MS, after_each)?;
        }
        self.until(self.time.now() + KNOWN_TO_ALL.as_nanos() as Nanos, after_each)
    }

    /// Whether each node knows all others that are left, and has written that down.
    pub fn have_met(&self) -> bool {
        let left = || self.nodes.iter().filter(|node| !node.lost);
        let count = left().count();
        let knows_all = |node: &Node| {
            let seat = self.members.seats[node.place].as_ref().filter(|seat| node.runs(seat.life));
            seat.is_some_and(|seat| {
                let is_written = seat.member.unsaved(seat.keeper.version()).is_none();
                let view = seat.member.view();
                let lives = |node: &Node| view.members().any(|peer| peer.node == node.peer.node);
                is_written && seat.member.is_informed() && view.others.len() + 1 == count && left().all(lives)
            })
        };
        left().all(knows_all)
    }

    /// Whom each node does not hold for a member, and what is not written.
    pub fn who_is_missing(&self) -> String {
        let mut all = Vec::new();
        for (node, seat) in self.nodes.iter().zip(&self.members.seats) {
            let Some(seat) = seat.as_ref().filter(|seat| node.runs(seat.life)) else { continue };
            let view = seat.member.view();
            let lives = |other: &&Node| !other.lost && view.members().all(|peer| peer.node != other.peer.node);
            let missing: Vec<Place> = self.nodes.iter().filter(lives).map(|other| other.place).collect();
            let strange = view.others.iter().filter(|peer| self.nodes.iter().all(|node| node.peer.node != peer.node));
            let strange: Vec<String> = strange.map(Peer::name).collect();
            let is_written = seat.member.unsaved(seat.keeper.version()).is_none();
            if !missing.is_empty() || !strange.is_empty() || !is_written || !seat.member.is_informed() {
                let place = node.place;
                all.push(format!(
                    "node {place} misses {missing:?}, holds {strange:?} to live, written: {is_written}, informed: {}",
                    seat.member.is_informed()
                ));
            }
        }
        all.join("; ")
    }
}
