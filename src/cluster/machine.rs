//! Who is a member and who has died: the SWIM protocol as values in and actions out.
//!
//! Datagrams and the time go in; datagrams and events come out. There is no clock, socket or thread within, and chance
//! is a seeded generator that is handed in, so thousands of these run in one thread as they run on thousands of machines.
//!
//! Rests on Das, Gupta, Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group Membership Protocol"
//! (2002), and on Lifeguard (see [`super::suspicion`]). What a node believes of others is in [`super::members`], how it finds
//! out in [`super::probe`], what it makes of what it hears in `hear`, how it tells in [`super::gossip`], how tables are made
//! equal in [`super::exchange`].

use crate::cluster::auth::Seal;
use crate::cluster::exchange::Exchange;
use crate::cluster::gossip::News;
use crate::cluster::members::Members;
use crate::cluster::probe::{Favour, Probe};
use crate::cluster::suspicion::Suspicions;
use crate::cluster::timing::Timing;
use crate::cluster::wire::{self, CLAIM_MAX, Head, PACKET};
use crate::cluster::{Claim, Load, Meta, NodeId, State};
use crate::unit::Monotonic;
use crate::world::entropy::Dice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Datagrams that are taken between two ticks; further ones are dropped and counted. Ticks come every second at least.
pub const DATAGRAMS_PER_TICK_MAX: u32 = 8_192;
/// The worst health: nine times as slow (Lifeguard section IV-A: 8).
const HEALTH_MAX: u32 = 8;
/// How many addresses are called at a time.
const JOIN_ADDRESSES_MAX: usize = 16;
/// How often each is called, and how long after one another: a call may get lost.
const JOIN_ROUNDS: u32 = 4;
const JOIN_PAUSE: Duration = Duration::from_millis(120);
/// A good-bye is said in this many rounds, this long after one another, and is over after [`LEAVE_TIME`].
const LEAVE_ROUNDS: u32 = 3;
const LEAVE_PAUSE: Duration = Duration::from_millis(200);
const LEAVE_TIME: Duration = Duration::from_millis(900);

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
    /// The table has changed: views are to be made anew, and the table to be saved. Once for each call at most, last.
    Changed,
    /// The peers that were named to us are to be resolved now, and [`Machine::join`] to be called with their addresses.
    WantPeers,
    /// Another node is believed to be in another state than before; for logs.
    Became {
        /// Which.
        node: NodeId,
        /// What it is.
        meta: Arc<Meta>,
        /// Its state now.
        state: State,
    },
    /// Two live nodes have served the same directory for a while: one is a copy of the other, and they are no replicas
    /// of each other. Comes again for as long as it is so.
    Copied {
        /// The one that began earlier.
        one: Arc<Meta>,
        /// The other.
        other: Arc<Meta>,
    },
}

/// What was dropped, refused and passed over, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Datagrams that the envelope refused.
    pub refused: u64,
    /// Datagrams for a process that was at this address before.
    pub misdirected: u64,
    /// Datagrams that did not read.
    pub malformed: u64,
    /// Types, parts and bytes that this version does not know.
    pub skipped: u64,
    /// Datagrams beyond [`DATAGRAMS_PER_TICK_MAX`].
    pub flooded: u64,
    /// Claims of incarnations too far ahead.
    pub poisoned: u64,
    /// Nodes that found no place in the table, or came too many in a second.
    pub crowded: u64,
    /// Late wake-ups of this process.
    pub late: u64,
    /// Packets that came out too long: a bug.
    pub oversized: u64,
}

impl Counts {
    /// What was taken in and not acted upon, each under its name. What the envelope refuses is counted there, by reason.
    pub fn passed_over(&self) -> [(&'static str, u64); 7] {
        [
            ("malformed", self.malformed),
            ("unknown", self.skipped),
            ("flood", self.flooded),
            ("incarnation", self.poisoned),
            ("crowded", self.crowded),
            ("late", self.late),
            ("oversized", self.oversized),
        ]
    }
}

/// One node's part of the protocol.
#[derive(Debug)]
pub struct Machine {
    pub(super) me: Me,
    pub(super) timing: Timing,
    pub(super) dice: Dice,
    seal: Seal,
    pub(super) members: Members,
    pub(super) suspicions: Suspicions,
    pub(super) news: News,
    pub(super) health: u32,
    pub(super) sequence: u32,
    pub(super) probe: Option<Probe>,
    pub(super) next_probe: Monotonic,
    pub(super) probes: u32,
    /// A suspect that too few have confirmed yet.
    pub(super) ask_again: Option<NodeId>,
    pub(super) favours: Vec<Favour>,
    gossip_at: Option<Monotonic>,
    pub(super) exchange: Exchange,
    rejoin_at: Monotonic,
    pub(super) survey_at: Monotonic,
    pub(super) surveyed: u64,
    pub(super) copies: Vec<(NodeId, NodeId)>,
    joining: Option<Joining>,
    /// Since when other nodes have been heard.
    pub(super) joined: Option<Monotonic>,
    /// Whether another was found whose table is like this one.
    pub(super) informed: bool,
    leaving: Option<Leaving>,
    handled: u32,
    pub(super) newcomers: (Monotonic, u32),
    pub(super) counts: Counts,
    pub(super) changed: bool,
}

/// What this node says of itself.
#[derive(Debug)]
pub(super) struct Me {
    pub node: NodeId,
    pub meta: Arc<Meta>,
    pub incarnation: u64,
    pub state: State,
    pub load: Load,
}

#[derive(Debug)]
struct Joining {
    addresses: Vec<SocketAddr>,
    rounds: u32,
    next: Monotonic,
}

#[derive(Debug)]
struct Leaving {
    rounds: u32,
    next: Monotonic,
    over: Monotonic,
}

impl Machine {
    /// A node that has just started and knows nobody but those it remembers.
    pub fn new(config: Config, seal: Seal, mut dice: Dice, now: Monotonic) -> Machine {
        let Config { node, meta, remembered, timing } = config;
        let (next_probe, next_exchange) = (now + part(&mut dice, timing.probe), now + timing.exchange);
        let probes = dice.roll() as u32;
        let exchange = Exchange::new(next_exchange, !timing.whole_exchange);
        let me = Me { node, meta: Arc::new(meta), incarnation: 1, state: State::Alive, load: Load::default() };
        let mut machine = Machine {
            sequence: dice.roll() as u32,
            survey_at: now + timing.rejoin + part(&mut dice, timing.rejoin),
            timing,
            dice,
            seal,
            members: Members::new(me.node),
            me,
            suspicions: Suspicions::default(),
            news: News::default(),
            health: 0,
            probe: None,
            next_probe,
            probes,
            ask_again: None,
            favours: Vec::new(),
            gossip_at: None,
            exchange,
            rejoin_at: now,
            surveyed: 0,
            copies: Vec::new(),
            joining: None,
            joined: None,
            informed: false,
            leaving: None,
            handled: 0,
            newcomers: (now, 0),
            counts: Counts::default(),
            changed: true,
        };
        for claim in remembered {
            machine.remember(now, claim);
        }
        let me = machine.me.node;
        machine.news.add(me, true);
        machine
    }

    /// Makes it know these as alive, as if it had heard them long ago: a simulation can begin in the middle.
    pub fn acquaint(&mut self, now: Monotonic, others: &[(NodeId, Arc<Meta>)]) {
        for (node, meta) in others.iter().filter(|(node, _)| *node != self.me.node) {
            self.members.insert(now, (*node, 1, State::Alive), meta.clone(), &mut self.dice);
        }
        self.news.remove(self.me.node);
        (self.joined, self.informed) = (Some(now), true);
        self.rejoin_at = now + part(&mut self.dice, self.timing.rejoin);
        let span = self.exchange_span();
        self.exchange = Exchange::new(now + part(&mut self.dice, span), false);
    }

    /// Takes a datagram.
    pub fn handle(&mut self, now: Monotonic, from: SocketAddr, datagram: &[u8], out: &mut Out) {
        self.notice_late(now);
        self.handled += 1;
        if self.handled > DATAGRAMS_PER_TICK_MAX {
            self.counts.flooded += 1;
            return;
        }
        let Ok(opened) = self.seal.open(now, datagram) else {
            self.counts.refused += 1;
            return;
        };
        if opened.from == self.me.node || opened.to.is_some_and(|to| to != self.me.node) {
            self.counts.misdirected += 1;
            return;
        }
        let Ok(message) = wire::read(opened.body) else {
            self.counts.malformed += 1;
            return;
        };
        self.counts.skipped += u64::from(message.skipped);
        let sender = opened.from;
        self.take(now, (sender, from), opened.body.len(), message, out);
        self.finish(now, out);
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Monotonic, out: &mut Out) {
        self.notice_late(now);
        self.handled = 0;
        if self.has_left(now) {
            return;
        }
        if self.leaving.is_some() {
            self.tick_leave(now, out);
        } else {
            self.tick_join(now, out);
            self.tick_probe(now, out);
            self.tick_favours(now, out);
            self.tick_suspicions(now, out);
            self.tick_exchange(now, out);
            self.tick_survey(now, out);
            self.tick_rejoin(now, out);
        }
        self.tick_gossip(now, out);
        self.finish(now, out);
    }

    /// When [`Machine::tick`] is to be called next.
    pub fn next_deadline(&self) -> Monotonic {
        if let Some(leaving) = &self.leaving {
            let next = if leaving.rounds > 0 { leaving.next } else { leaving.over };
            return self.gossip_at.map_or(next, |gossip| gossip.min(next));
        }
        let probe = self.probe_deadline().min(self.rejoin_at).min(self.survey_at).min(self.exchange.deadline());
        let joining = self.joining.as_ref().map(|joining| joining.next);
        let favour = self.favours.iter().map(|favour| favour.answer_at).min();
        let others = [joining, favour, self.gossip_at, self.suspicions.next()];
        others.into_iter().flatten().fold(probe, Monotonic::min)
    }

    /// Calls at these addresses, which the peers named to us have now: at all of them while no other node lives, else at
    /// one of which no live member is known.
    pub fn join(&mut self, now: Monotonic, addresses: &[SocketAddr], out: &mut Out) {
        let mut addresses: Vec<SocketAddr> = addresses.iter().copied().filter(|to| self.is_unknown(*to)).collect();
        self.dice.shuffle(&mut addresses);
        let alone = self.members.live() == 0;
        addresses.truncate(if alone { JOIN_ADDRESSES_MAX } else { 1 });
        if addresses.is_empty() || self.leaving.is_some() {
            return;
        }
        self.joining = Some(Joining { addresses, rounds: if alone { JOIN_ROUNDS } else { 1 }, next: now });
        self.tick_join(now, out);
    }

    /// Says good-bye; `drained` if nothing waits in its ingest tier that no store has. Otherwise it says that it is dead, for
    /// those records are missed.
    pub fn leave(&mut self, now: Monotonic, drained: bool, out: &mut Out) {
        if self.leaving.is_some() {
            return;
        }
        self.me.state = if drained { State::Left } else { State::Dead };
        self.probe = None;
        self.favours.clear();
        self.joining = None;
        self.news.add(self.me.node, false);
        self.leaving = Some(Leaving { rounds: LEAVE_ROUNDS, next: now, over: now + LEAVE_TIME });
        self.changed = true;
        self.tick_leave(now, out);
        self.finish(now, out);
    }

    /// Whether the good-bye has been said often enough.
    pub fn has_left(&self, now: Monotonic) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| now >= leaving.over || self.members.live() == 0)
    }

    /// Lets all know that this node will not come back and that its records are not to be missed. Does nothing about a
    /// node that lives or that nobody knows.
    pub fn forget(&mut self, now: Monotonic, node: NodeId, out: &mut Out) {
        let Some(member) = self.members.get(node).filter(|member| !member.is_live()) else { return };
        let incarnation = member.incarnation;
        self.believe(now, node, (incarnation, State::Forgotten), out);
        self.finish(now, out);
    }

    /// What to say of this node's load from now on.
    pub fn set_load(&mut self, load: Load) {
        self.me.load = load;
    }

    /// The whole table in order of node ids, this node included; of each what it last said of its load. Those that are
    /// dead and whose directories are all served by others are left out: nothing of them is missed.
    pub fn claims(&self) -> impl Iterator<Item = (Claim, Option<Load>)> + '_ {
        let claim =
            |node, meta: &Arc<Meta>, incarnation, state| Claim { node, meta: Meta::clone(meta), incarnation, state };
        let me = (claim(self.me.node, &self.me.meta, self.me.incarnation, self.me.state), Some(self.me.load));
        let others = self.members.iter().filter(|other| !other.replaced);
        let others = others.map(|other| (claim(other.node, &other.meta, other.incarnation, other.state), other.load));
        let mut all: Vec<_> = std::iter::once(me).chain(others).collect();
        all.sort_by_key(|(claim, _)| claim.node);
        all.into_iter()
    }

    /// What is believed of a node; `None` if it is not in the table.
    pub fn state_of(&self, node: NodeId) -> Option<State> {
        if node == self.me.node {
            return Some(self.me.state);
        }
        self.members.get(node).map(|member| member.state)
    }

    /// How many nodes live, this one included.
    pub fn size(&self) -> usize {
        self.members.live() + 1
    }

    /// How many nodes are in the table, the dead and this one included. Never more than
    /// [`super::members::MEMBERS_MAX`] and one.
    pub fn table_size(&self) -> usize {
        self.members.count() + 1
    }

    /// How slow this node has reason to believe it is itself, 0 to 8.
    pub fn health(&self) -> u32 {
        self.health
    }

    /// What was dropped, refused and passed over.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether another member has been heard since the start.
    pub fn is_joined(&self) -> bool {
        self.joined.is_some()
    }

    /// Whether another was found since the start whose table is like this one, or as many were asked as who joins asks.
    pub fn is_informed(&self) -> bool {
        self.informed
    }

    fn is_unknown(&self, address: SocketAddr) -> bool {
        address != self.me.meta.gossip && self.members.occupant(address).is_none_or(|member| !member.is_live())
    }

    pub(super) fn adjust_health(&mut self, by: i32) {
        self.health = self.health.saturating_add_signed(by).min(HEALTH_MAX);
    }

    /// A process that was stopped has heard nobody, and must blame nobody for it.
    fn notice_late(&mut self, now: Monotonic) {
        let late = now.since(self.next_deadline());
        if late <= self.timing.period {
            return;
        }
        self.counts.late += 1;
        self.adjust_health(1);
        self.probe = None;
        self.favours.clear();
        self.next_probe = now + part(&mut self.dice, self.timing.probe);
        self.suspicions.delay_all(late + self.timing.period);
    }

    fn tick_join(&mut self, now: Monotonic, out: &mut Out) {
        let Some(joining) = self.joining.as_mut().filter(|joining| joining.next <= now) else { return };
        joining.rounds -= 1;
        joining.next = now + JOIN_PAUSE;
        let addresses = joining.addresses.clone();
        if joining.rounds == 0 {
            self.joining = None;
        }
        for to in addresses {
            if self.is_unknown(to) {
                self.call(to, out);
            }
        }
    }

    /// Asks whoever has this address to let us in, and tells what we believe of who had it.
    fn call(&mut self, address: SocketAddr, out: &mut Out) {
        let mut body = wire::write_head(&Head::Join);
        wire::write_claim(&mut body, self.me.node, (self.me.incarnation, self.me.state, 0), Some(&self.me.meta));
        let former = self.members.occupant(address).filter(|former| former.incarnation > 0);
        if let Some(former) = former {
            wire::write_claim(&mut body, former.node, (former.incarnation, former.state, 0), None);
        }
        wire::pad(&mut body, PACKET - Seal::OVERHEAD);
        self.post(None, address, &body, out);
    }

    fn tick_rejoin(&mut self, now: Monotonic, out: &mut Out) {
        if self.rejoin_at > now {
            return;
        }
        let alone = self.members.live() == 0;
        let pause = if alone { self.timing.rejoin_alone } else { self.timing.rejoin };
        self.rejoin_at = now + pause.mul_f64(0.9) + part(&mut self.dice, pause.mul_f64(0.2));
        out.events.push(Event::WantPeers);
        let gone = self.members.any_gone(&mut self.dice, Monotonic::default()).map(|member| member.meta.gossip);
        if let Some(address) = gone.filter(|address| self.is_unknown(*address)) {
            self.call(address, out);
        }
    }

    fn tick_leave(&mut self, now: Monotonic, out: &mut Out) {
        let Some(leaving) = self.leaving.as_mut().filter(|leaving| leaving.rounds > 0 && leaving.next <= now) else {
            return;
        };
        leaving.rounds -= 1;
        leaving.next = now + LEAVE_PAUSE;
        self.news.add(self.me.node, false);
        let targets = self.members.some_live(&mut self.dice, 3 * self.timing.fanout, |_| true);
        targets.into_iter().for_each(|to| self.send(to, &Head::Gossip, out));
    }

    fn tick_gossip(&mut self, now: Monotonic, out: &mut Out) {
        if self.gossip_at.is_none_or(|at| at > now) {
            return;
        }
        // By chance alone some hear nothing: one in e^9 if each tells nine. So a neighbour is told by its neighbour besides.
        let neighbour = if self.timing.by_chance > 1 { self.members.neighbour() } else { None };
        let others =
            self.members.some_live(&mut self.dice, self.timing.fanout, |member| Some(member.node) != neighbour);
        let targets: Vec<NodeId> = neighbour.into_iter().chain(others).collect();
        targets.into_iter().for_each(|to| self.send(to, &Head::Gossip, out));
        let since = now - self.timing.tell_the_dead;
        let dead = self.members.any_gone(&mut self.dice, since).filter(|gone| gone.state == State::Dead);
        if let Some((dead, address)) = dead.map(|dead| (dead.node, dead.meta.gossip)) {
            // Only what it has to refute: news would be wasted on most of them.
            let mut body = wire::write_head(&Head::Gossip);
            tell(&self.me, &self.members, &self.suspicions, &mut body, dead, false);
            self.post(Some(dead), address, &body, out);
        }
        let idle = self.news.is_empty() || self.members.live() == 0;
        self.gossip_at = (!idle).then(|| now + self.timing.gossip);
    }

    /// What comes after everything else: the next round of gossip, and that the table has changed.
    fn finish(&mut self, now: Monotonic, out: &mut Out) {
        if self.gossip_at.is_none() && !self.news.is_empty() && self.members.live() > 0 {
            self.gossip_at = Some(now + part(&mut self.dice, self.timing.gossip));
        }
        if std::mem::take(&mut self.changed) {
            out.events.push(Event::Changed);
        }
    }

    /// Sends a message to a node in the table, with news; what is believed of itself comes first if it has to refute it.
    pub(super) fn send(&mut self, to: NodeId, head: &Head, out: &mut Out) {
        let Some(member) = self.members.get(to) else { return };
        let address = member.meta.gossip;
        let mut body = wire::write_head(head);
        if member.state != State::Alive {
            tell(&self.me, &self.members, &self.suspicions, &mut body, to, false);
        }
        self.fill(&mut body);
        self.post(Some(to), address, &body, out);
    }

    fn fill(&mut self, body: &mut Vec<u8>) {
        let nodes = (self.members.live() + 2) as f64;
        let limit = self.timing.retransmit.saturating_mul(nodes.log10().ceil() as u32 + self.timing.retransmit_more);
        let (me, members, suspicions) = (&self.me, &self.members, &self.suspicions);
        let write = |body: &mut Vec<u8>, node: NodeId, whole: bool| tell(me, members, suspicions, body, node, whole);
        self.news.fill(body, PACKET - Seal::OVERHEAD, limit, write);
    }

    /// Sends what is ready.
    pub(super) fn post(&mut self, to: Option<NodeId>, address: SocketAddr, body: &[u8], out: &mut Out) {
        let datagram = self.seal.seal(to, body);
        debug_assert!(datagram.len() <= PACKET, "a packet of {} bytes", datagram.len());
        if datagram.len() > PACKET {
            self.counts.oversized += 1;
            return;
        }
        out.datagrams.push((address, datagram));
    }

    /// Tells a member that does not know us who we are.
    pub(super) fn introduce(&mut self, to: NodeId, address: SocketAddr, out: &mut Out) {
        let mut body = wire::write_head(&Head::Gossip);
        tell(&self.me, &self.members, &self.suspicions, &mut body, self.me.node, true);
        self.post(Some(to), address, &body, out);
    }

    /// Answers a call: whom we know, in no more bytes than came.
    pub(super) fn welcome(&mut self, to: NodeId, address: SocketAddr, room: usize, out: &mut Out) {
        let budget = room.min(PACKET - Seal::OVERHEAD);
        let mut body = wire::write_head(&Head::Welcome);
        tell(&self.me, &self.members, &self.suspicions, &mut body, self.me.node, true);
        if self.members.get(to).is_some_and(|member| member.state != State::Alive) {
            tell(&self.me, &self.members, &self.suspicions, &mut body, to, false);
        }
        // Who is refused because a later process has its address learns of that one.
        let occupant = self.members.occupant(address).map(|member| member.node).filter(|occupant| *occupant != to);
        let others = self.members.some_live(&mut self.dice, PACKET / 60, |member| member.node != to);
        for node in occupant.into_iter().chain(others) {
            if body.len() + CLAIM_MAX > budget {
                break;
            }
            tell(&self.me, &self.members, &self.suspicions, &mut body, node, true);
        }
        if body.len() <= budget {
            self.post(Some(to), address, &body, out);
        }
    }
}

/// Appends what is believed of a node; gives false if nothing is.
pub(super) fn tell(
    me: &Me,
    members: &Members,
    suspicions: &Suspicions,
    body: &mut Vec<u8>,
    node: NodeId,
    whole: bool,
) -> bool {
    if node == me.node {
        wire::write_claim(body, node, (me.incarnation, me.state, 0), whole.then_some(&*me.meta));
        return true;
    }
    let Some(member) = members.get(node) else { return false };
    let accuser = suspicions.get(node).map_or(0, |suspicion| suspicion.accuser());
    wire::write_claim(body, node, (member.incarnation, member.state, accuser), whole.then_some(&*member.meta));
    true
}

/// Any part of a span.
pub(super) fn part(dice: &mut Dice, span: Duration) -> Duration {
    Duration::from_nanos(dice.below(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod tests;
