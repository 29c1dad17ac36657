//! Many nodes' machines in one thread and in virtual time, on a network that loses, delays, repeats and splits.
//!
//! The machines are the real ones. Everything that happens stands in one heap, ordered by time and then by when it was
//! put there, and every choice comes from one seed: the same seed gives the same run, to the bit ([`Simulation::hash`]).

use crate::cluster::auth::{Keys, Seal};
use crate::cluster::machine::{Config, Event, Machine, Out};
use crate::cluster::members::is_live;
use crate::cluster::timing::Timing;
use crate::cluster::{Claim, DataId, Load, Meta, NodeId, PeerKind, State};
use crate::unit::Monotonic;
use crate::world::entropy::Dice;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that IP and UDP add to a datagram (RFC 791, RFC 768).
pub const IP_UDP: u64 = 28;
/// Bytes that a key adds. The simulated nodes have none, for speed; what they send is counted as if they had.
pub const TAG: u64 = 16;
/// Datagrams that wait for a stopped process; further ones are lost, as in a full socket buffer of 1 MiB.
const INBOX_MAX: usize = 800;

/// As a busy node may have it; it takes bytes in each ping.
const USUAL_LOAD: Load = Load { waiting: 16 << 20, stored: 500 << 30 };

/// What the network does.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// How many of a hundred datagrams are lost.
    pub loss_percent: u64,
    /// How many of a hundred come twice.
    pub twice_percent: u64,
    /// How many of a hundred come up to 50 ms later than others.
    pub late_percent: u64,
}

impl Network {
    /// Only loss.
    pub fn losing(percent: u64) -> Network {
        Network { loss_percent: percent, twice_percent: 0, late_percent: 0 }
    }
}

/// What is seen of one node from now on.
#[derive(Clone, Debug)]
pub struct Watch {
    state: State,
    believers: BTreeSet<usize>,
    /// When each further observer came to believe it, in order.
    pub reached: Vec<Duration>,
    /// When the first suspected it.
    pub suspected: Option<Duration>,
}

impl Watch {
    /// How many believe it now.
    pub fn believers(&self) -> usize {
        self.believers.len()
    }
}

/// What has been seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Changes of what anybody believes.
    pub changes: u64,
    /// Nodes declared dead that lived: time, observer, subject.
    pub false_deaths: Vec<(Duration, usize, usize)>,
    /// Suspicions of nodes that lived.
    pub false_suspicions: u64,
    /// Two nodes serve one directory.
    pub copies: u64,
    /// Datagrams sent, and their bytes with IP, UDP and the tag that a key adds.
    pub datagrams: u64,
    /// The same in bytes.
    pub bytes: u64,
}

enum Happening {
    Arrives { to: usize, from: SocketAddr, datagram: Vec<u8> },
    Ticks { node: usize },
}

struct Entry {
    at: Duration,
    sequence: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// One process.
pub struct Process {
    /// Its part of the protocol.
    pub machine: Machine,
    /// Who it is.
    pub node: NodeId,
    /// Where.
    pub address: SocketAddr,
    /// Whether it still runs.
    pub is_running: bool,
    /// Since when it has gone, on purpose or not, so that to believe it dead is right.
    excused: bool,
    paused: bool,
    inbox: Vec<(SocketAddr, Vec<u8>)>,
    /// Its clock: what it showed at the beginning, and how fast it goes.
    ahead: Duration,
    rate: f64,
    scheduled: Option<Duration>,
    peers: Vec<SocketAddr>,
}

/// The world.
pub struct Simulation {
    /// All processes that ever were.
    pub processes: Vec<Process>,
    /// What the network does.
    pub network: Network,
    /// What has been seen.
    pub seen: Seen,
    watches: HashMap<NodeId, Watch>,
    now: Duration,
    dice: Dice,
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    hash: u64,
    at_address: HashMap<SocketAddr, usize>,
    by_node: HashMap<NodeId, usize>,
    /// Into which part of a split network each process belongs.
    parts: Vec<u8>,
    blocked: BTreeSet<(usize, usize)>,
    timing: Timing,
    out: Out,
}

impl Simulation {
    /// An empty world.
    pub fn new(seed: u64, network: Network, timing: Timing) -> Simulation {
        Simulation {
            processes: Vec::new(),
            network,
            seen: Seen::default(),
            watches: HashMap::new(),
            now: Duration::ZERO,
            dice: Dice::new(seed),
            heap: BinaryHeap::new(),
            sequence: 0,
            hash: seed,
            at_address: HashMap::new(),
            by_node: HashMap::new(),
            parts: Vec::new(),
            blocked: BTreeSet::new(),
            timing,
            out: Out::default(),
        }
    }

    /// A world of `count` nodes that have known each other for long.
    pub fn settled(seed: u64, count: usize, network: Network, timing: Timing) -> Simulation {
        let mut simulation = Simulation::new(seed, network, timing);
        for place in 0..count {
            simulation.start(place, Vec::new(), Vec::new());
        }
        let all: Vec<(NodeId, Arc<Meta>)> = (0..count)
            .filter_map(|place| simulation.claim_of(place))
            .map(|(node, meta)| (node, Arc::new(meta)))
            .collect();
        for place in 0..count {
            let now = simulation.local(place);
            if let Some(process) = simulation.processes.get_mut(place) {
                process.machine.acquaint(now, &all);
            }
            simulation.plan(place);
        }
        simulation
    }

    /// The time since the beginning.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// All that has happened, in one number.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The address of the `place`th machine.
    pub fn address(place: usize) -> SocketAddr {
        let [_, a, b, c] = (place as u32 + 1).to_be_bytes();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), 7659)
    }

    /// What a process at this place says of itself: a combined node with directories of its own.
    pub fn meta(place: usize, start: u64) -> Meta {
        let gossip = Simulation::address(place);
        let api = SocketAddr::new(gossip.ip(), 7650);
        let id = |salt: u64| Some(DataId(u128::from(Dice::new(place as u64 * 2 + salt).roll())));
        let (store, ingest) = (id(0), id(1));
        Meta { kind: PeerKind::IngestStore, gossip, api, store, ingest, replicas: 2, start }
    }

    /// Starts a process at this place, in the stead of one that ran there; gives its index.
    pub fn start(&mut self, place: usize, peers: Vec<SocketAddr>, remembered: Vec<Claim>) -> usize {
        let meta = Simulation::meta(place, 1_000_000 + self.now.as_millis() as u64);
        self.start_as(meta, peers, remembered)
    }

    /// Starts a process that is to say this of itself.
    pub fn start_as(&mut self, meta: Meta, peers: Vec<SocketAddr>, remembered: Vec<Claim>) -> usize {
        let node = NodeId(u128::from(self.dice.roll()) << 64 | u128::from(self.dice.roll()));
        let index = self.processes.len();
        let address = meta.gossip;
        let ahead = Duration::from_millis(self.dice.below(10_000_000));
        // A quartz is wrong by up to 200 ppm.
        let rate = 1.0 + (self.dice.below(401) as f64 - 200.0) / 1e6;
        let config = Config { node, meta, remembered, timing: self.timing.clone() };
        let seal = Seal::new(Keys::default(), node, 1_700_000_000_000 + self.now.as_millis() as u64);
        let start = Monotonic(ahead + self.now.mul_f64(rate));
        let mut machine = Machine::new(config, seal, Dice::new(self.dice.roll()), start);
        machine.set_load(USUAL_LOAD);
        if let Some(former) = self.at_address.insert(address, index) {
            self.stop(former);
        }
        self.by_node.insert(node, index);
        self.parts.push(0);
        self.processes.push(Process {
            machine,
            node,
            address,
            is_running: true,
            excused: false,
            paused: false,
            inbox: Vec::new(),
            ahead,
            rate,
            scheduled: None,
            peers,
        });
        self.plan(index);
        index
    }

    /// Ends a process without a word.
    pub fn stop(&mut self, index: usize) {
        if let Some(process) = self.processes.get_mut(index) {
            process.is_running = false;
            process.excused = true;
        }
    }

    /// Stops a process as SIGSTOP does.
    pub fn pause(&mut self, index: usize) {
        if let Some(process) = self.processes.get_mut(index) {
            process.paused = true;
            process.excused = true;
        }
    }

    /// Lets it go on: it finds what has come in the meantime.
    pub fn resume(&mut self, index: usize) {
        let Some(process) = self.processes.get_mut(index) else { return };
        process.paused = false;
        for (from, datagram) in std::mem::take(&mut process.inbox) {
            self.deliver(index, from, &datagram);
        }
        self.plan(index);
    }

    /// Who went missing for a while and is back: to believe it dead is wrong again.
    pub fn expect(&mut self, index: usize) {
        if let Some(process) = self.processes.get_mut(index) {
            process.excused = false;
        }
    }

    /// Splits the network: datagrams go only between processes of the same part.
    pub fn split(&mut self, part_of: impl Fn(usize) -> u8) {
        self.parts = (0..self.processes.len()).map(part_of).collect();
    }

    /// Lets no datagram through from one to another.
    pub fn block(&mut self, from: usize, to: usize) {
        self.blocked.insert((from, to));
    }

    /// All links work again.
    pub fn heal(&mut self) {
        self.parts.iter_mut().for_each(|part| *part = 0);
        self.blocked.clear();
    }

    /// Says good-bye for a process.
    pub fn leave(&mut self, index: usize, drained: bool) {
        if let Some(process) = self.processes.get_mut(index) {
            process.excused = true;
        }
        self.act(index, |machine, now, out| machine.leave(now, drained, out));
    }

    /// Lets a process do something out of turn.
    pub fn act(&mut self, index: usize, what: impl FnOnce(&mut Machine, Monotonic, &mut Out)) {
        let now = self.local(index);
        let mut out = std::mem::take(&mut self.out);
        if let Some(process) = self.processes.get_mut(index) {
            what(&mut process.machine, now, &mut out);
        }
        self.perform(index, &mut out);
        self.out = out;
        self.plan(index);
    }

    /// Lets a datagram arrive out of nowhere.
    pub fn inject(&mut self, to: usize, from: SocketAddr, datagram: &[u8]) {
        self.deliver(to, from, datagram);
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.run_until(end, |_| false);
    }

    /// Lets time pass up to `end`, or until something holds, which is asked after whatever changes what somebody believes.
    /// Gives the time if it does.
    pub fn run_until(&mut self, end: Duration, holds: impl Fn(&Simulation) -> bool) -> Option<Duration> {
        let mut changes = u64::MAX;
        loop {
            if changes != self.seen.changes {
                changes = self.seen.changes;
                if holds(self) {
                    return Some(self.now);
                }
            }
            if self.heap.peek().is_none_or(|Reverse(entry)| entry.at > end) {
                self.now = end;
                return None;
            }
            let Reverse(entry) = self.heap.pop()?;
            self.now = entry.at;
            match entry.what {
                Happening::Arrives { to, from, datagram } => self.deliver(to, from, &datagram),
                Happening::Ticks { node } => self.tick(node),
            }
        }
    }

    /// Observes from now on who believes this of a node.
    pub fn watch(&mut self, node: NodeId, state: State) {
        let watch = Watch { state, believers: BTreeSet::new(), reached: Vec::new(), suspected: None };
        self.watches.insert(node, watch);
    }

    /// What has been seen of a watched node.
    pub fn watched(&self, node: NodeId) -> Option<&Watch> {
        self.watches.get(&node)
    }

    /// Whether every running process has all that run for members, and nobody else. With loss there is always somebody who
    /// is suspected somewhere, but is a member still.
    pub fn agrees(&self) -> bool {
        let running: Vec<&Process> = self.running().collect();
        let is_member = |one: &Process, other: &Process| one.machine.state_of(other.node).is_some_and(is_live);
        let is_right =
            |one: &Process| one.machine.size() == running.len() && running.iter().all(|other| is_member(one, other));
        running.iter().all(|one| is_right(one))
    }

    /// How many running processes believe this of a node.
    pub fn believers(&self, node: NodeId, state: Option<State>) -> usize {
        self.running().filter(|process| process.machine.state_of(node) == state).count()
    }

    /// All that run.
    pub fn running(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| process.is_running && !process.paused)
    }

    fn claim_of(&self, index: usize) -> Option<(NodeId, Meta)> {
        let process = self.processes.get(index)?;
        let (claim, _) = process.machine.claims().find(|(claim, _)| claim.node == process.node)?;
        Some((claim.node, claim.meta))
    }

    /// What the clock of a process shows.
    fn local(&self, index: usize) -> Monotonic {
        let (ahead, rate) =
            self.processes.get(index).map_or((Duration::ZERO, 1.0), |process| (process.ahead, process.rate));
        Monotonic(ahead + self.now.mul_f64(rate))
    }

    /// Puts the next tick of a process into the heap, unless an earlier one is there.
    fn plan(&mut self, index: usize) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(index) else { return };
        if !process.is_running || process.paused {
            return;
        }
        let local = process.machine.next_deadline().0.saturating_sub(process.ahead);
        // A little later, as a timer of the operating system is, and never earlier than its clock says.
        let at = (local.div_f64(process.rate) + Duration::from_micros(1)).max(now);
        if process.scheduled.is_none_or(|scheduled| at < scheduled) {
            process.scheduled = Some(at);
            self.push(at, Happening::Ticks { node: index });
        }
    }

    fn push(&mut self, at: Duration, what: Happening) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry { at, sequence: self.sequence, what }));
    }

    fn tick(&mut self, index: usize) {
        let now = self.local(index);
        let Some(process) = self.processes.get_mut(index) else { return };
        if process.scheduled != Some(self.now) {
            return;
        }
        process.scheduled = None;
        if !process.is_running || process.paused {
            return;
        }
        if process.machine.has_left(now) {
            process.is_running = false;
            return;
        }
        if process.machine.next_deadline() <= now {
            let mut out = std::mem::take(&mut self.out);
            process.machine.tick(now, &mut out);
            self.perform(index, &mut out);
            self.out = out;
        }
        self.plan(index);
    }

    fn deliver(&mut self, to: usize, from: SocketAddr, datagram: &[u8]) {
        let now = self.local(to);
        self.stir(to as u64 ^ (datagram.len() as u64) << 32);
        self.stir(self.now.as_nanos() as u64);
        for chunk in datagram.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.stir(u64::from_le_bytes(word));
        }
        let Some(process) = self.processes.get_mut(to) else { return };
        if !process.is_running {
            return;
        }
        if process.paused {
            if process.inbox.len() < INBOX_MAX {
                process.inbox.push((from, datagram.to_vec()));
            }
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        process.machine.handle(now, from, datagram, &mut out);
        self.perform(to, &mut out);
        self.out = out;
        self.plan(to);
    }

    fn stir(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Does what a machine wants done.
    fn perform(&mut self, index: usize, out: &mut Out) {
        let wants_peers = out.events.contains(&Event::WantPeers);
        for event in out.events.drain(..) {
            self.note(index, event);
        }
        let Some(from) = self.processes.get(index).map(|process| process.address) else { return };
        for (to, datagram) in out.datagrams.drain(..) {
            self.send(index, from, to, datagram);
        }
        let now = self.local(index);
        if let Some(process) = self.processes.get_mut(index).filter(|process| wants_peers && !process.peers.is_empty())
        {
            process.machine.join(now, &process.peers, out);
            self.perform(index, out);
        }
    }

    fn send(&mut self, index: usize, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        self.seen.datagrams += 1;
        self.seen.bytes += datagram.len() as u64 + IP_UDP + TAG;
        let Some(&target) = self.at_address.get(&to) else { return };
        let apart = self.parts.get(index) != self.parts.get(target) || self.blocked.contains(&(index, target));
        let times = if self.dice.below(100) < self.network.twice_percent { 2 } else { 1 };
        for _ in 0..times {
            let lost = self.dice.below(100) < self.network.loss_percent;
            let late = self.dice.below(100) < self.network.late_percent;
            let delay = 200_000 + self.dice.below(if late { 50_000_000 } else { 1_800_000 });
            if !lost && !apart {
                let at = self.now + Duration::from_nanos(delay);
                self.push(at, Happening::Arrives { to: target, from, datagram: datagram.clone() });
            }
        }
    }

    fn note(&mut self, observer: usize, event: Event) {
        match event {
            Event::Copied { .. } => self.seen.copies += 1,
            Event::Became { node, state, .. } => {
                self.seen.changes += 1;
                let now = self.now;
                if let Some(watch) = self.watches.get_mut(&node) {
                    if state == State::Suspect {
                        watch.suspected.get_or_insert(now);
                    }
                    if state != watch.state {
                        watch.believers.remove(&observer);
                    } else if watch.believers.insert(observer) {
                        watch.reached.push(now);
                    }
                }
                let Some(&subject) = self.by_node.get(&node) else { return };
                let apart = self.parts.get(observer) != self.parts.get(subject);
                let lives = self.processes.get(subject).is_some_and(|process| process.is_running && !process.excused);
                if lives && !apart && state == State::Dead {
                    self.seen.false_deaths.push((self.now, observer, subject));
                }
                self.seen.false_suspicions += u64::from(lives && !apart && state == State::Suspect);
            }
            Event::Changed | Event::WantPeers => {}
        }
    }
}

#[cfg(test)]
#[path = "simulation_tests.rs"]
mod tests;
