//! Runs the membership machine: a socket, a clock, a file and a log around it.
//!
//! Three threads: `gossip` receives and does what is due; `peers` looks up the names of `-peer`, which may take seconds;
//! `members` keeps the table on disk and says what load there is. All of them end when the stop is raised, the middle
//! one when its look-up has ended.
//!
//! Bounds: [`ROUND`] datagrams are taken before what is due is done; the table is written at most once a second;
//! [`MAX_ADDRESSES`] addresses of a name are called. Nothing is sent, logged or written while the machine is locked. A
//! datagram that cannot be sent is a datagram that is lost, which the protocol bears.

use super::auth::{Keys, Refusals, Refused, Seal};
use super::forget;
use super::machine::{Config, Event, Machine, Out};
use super::remembered::Remembered;
use super::timing::Timing;
use super::view::{News, Table, differing_replicas, news, view_of};
use super::{Cluster, DataId, ForgetError, Load, Meta, NodeId, Peer, State, View};
use crate::ops::metrics::{self as m, Counter, Metrics};
use crate::unit::Monotonic;
use crate::world::clock::Clock;
use crate::world::crew::{Crew, LARGE_STACK, SMALL_STACK, Stop, lock, wait_for};
use crate::world::entropy::Dice;
use crate::world::fs::FileSystem;
use crate::world::socket;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Datagrams that are taken in one round.
const ROUND: usize = 64;

/// The longest wait for a datagram: what other threads ask of the machine begins no later.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// The shortest, so that a deadline that stands still does not keep a processor busy.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// The longest datagram there is (RFC 768), so that none is cut.
const LONGEST_DATAGRAM: usize = 65_535;

/// How many addresses of one name are called.
const MAX_ADDRESSES: usize = 64;

/// From one look at what there is to write and to do to the next.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// How long the log is silent about one reason for refusing datagrams after it was told.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// A peer that was named to us.
pub struct Named {
    /// As it was given.
    pub name: String,
    /// Its addresses now. May take seconds.
    pub resolve: Box<dyn Fn() -> io::Result<Vec<SocketAddr>> + Send + Sync>,
}

/// What a node begins with.
pub struct Setup {
    /// Bound to where it takes datagrams: [`socket::datagrams`].
    pub socket: UdpSocket,
    /// Who this process is.
    pub node: NodeId,
    /// What it is. The start number is set here: later than any before in this directory.
    pub meta: Meta,
    /// The rhythm.
    pub timing: Timing,
    /// What proves that a datagram is of this cluster.
    pub keys: Keys,
    /// Whom to call until one answers, and now and then after that.
    pub peers: Vec<Named>,
    /// What there is to do and to keep, asked every second. Cheap.
    pub load: Box<dyn Fn() -> Load + Send + Sync>,
    /// Where the table is kept; the directory is there already.
    pub dir: PathBuf,
    /// What chance rests on.
    pub dice: Dice,
    /// Where files lie.
    pub fs: Arc<dyn FileSystem>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
    /// Who counts the threads.
    pub crew: Crew,
    /// Ends the threads. [`Node::leave`] comes before it.
    pub stop: Stop,
}

/// This node's part in the cluster.
pub struct Node {
    me: Peer,
    core: Mutex<Core>,
    /// Told after each round.
    changed: Condvar,
    /// Told when the names of peers are to be looked up.
    wanted: Condvar,
    view: Mutex<Arc<View>>,
    /// Locked while it writes, which only threads wait for that have something to be written.
    keeper: Mutex<Keeper>,
    socket: UdpSocket,
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    stop: Stop,
    sent: Counter,
    received: Counter,
}

/// What is locked.
struct Core {
    machine: Machine,
    table: Table,
    /// Raised when the claims in the table are others than before.
    version: u64,
    /// The different R that were told of last.
    replicas: Option<Vec<u8>>,
    wants_peers: bool,
}

impl Cluster for Node {
    fn view(&self) -> Arc<View> {
        lock(&self.view).clone()
    }

    fn forgotten(&self) -> Vec<DataId> {
        let core = lock(&self.core);
        let gone = core.table.iter().filter(|(claim, _)| claim.state == State::Forgotten);
        gone.filter_map(|(claim, _)| claim.meta.store).collect()
    }

    fn forget(&self, name: &str) -> Result<Peer, ForgetError> {
        let chosen = forget::choose(&self.view(), name)?.clone();
        let mut out = Out::default();
        lock(&self.core).machine.forget(self.clock.now(), chosen.node, &mut out);
        out.events.push(Event::Changed);
        self.perform(out);
        // On disk before the operator is told, so that it holds even if all nodes stop now.
        lock(&self.keeper).save(self);
        Ok(chosen)
    }
}

impl Node {
    /// Loads what is remembered and starts the threads. An error means that the system gave no thread.
    pub fn start(setup: Setup) -> io::Result<Arc<Node>> {
        let Setup { socket, node, mut meta, dir, fs, clock, metrics, crew, stop, .. } = setup;
        let remembered = Remembered::load(&*fs, &dir).unwrap_or_else(|error| {
            log::error!("reading who was known from {}: {error}: it is as if nobody was", dir.display());
            Remembered::default()
        });
        let unix_ms = clock.unix_millis().0;
        meta.start = remembered.next_start(unix_ms);
        let me = Peer { node, meta: meta.clone(), state: State::Alive, load: None };
        let seal = Seal::new(setup.keys, node, unix_ms);
        let refusals = seal.refusals();
        let config = Config { node, meta, remembered: remembered.claims, timing: setup.timing };
        let machine = Machine::new(config, seal, setup.dice, clock.now());
        let table: Table = machine.claims().collect();
        let view = view_of(&me, &table);
        for peer in &view.silent {
            log::warn!("{} was a member before, and is missed until it is heard or forgotten", forget::described(peer));
        }
        let (sent, received) =
            (metrics.counter(m::CLUSTER_BYTES, &["egress"]), metrics.counter(m::CLUSTER_BYTES, &["ingress"]));
        let core = Core { machine, table, version: 1, replicas: None, wants_peers: false };
        let (view, core) = (Mutex::new(Arc::new(view)), Mutex::new(core));
        let (changed, wanted, keeper) = (Condvar::new(), Condvar::new(), Mutex::default());
        let node = Node { me, core, changed, wanted, view, keeper, socket, fs, clock, dir, stop, sent, received };
        let node = Arc::new(node);
        let counted = Arc::downgrade(&node);
        metrics.refresh_with(move |metrics| {
            let Some(node) = counted.upgrade() else { return };
            let (counts, health) = {
                let core = lock(&node.core);
                (core.machine.counts(), core.machine.health())
            };
            metrics.gauge(m::CLUSTER_HEALTH, &[]).set(f64::from(health));
            for (reason, count) in counts.passed_over() {
                let counter = metrics.counter(m::CLUSTER_PASSED_OVER, &[reason]);
                counter.add(count.saturating_sub(counter.get()));
            }
        });
        let strangers = Strangers::new(refusals, metrics);
        node.start_threads(&crew, strangers, setup.peers, setup.load)?;
        Ok(node)
    }

    fn start_threads(
        self: &Arc<Node>,
        crew: &Crew,
        mut strangers: Strangers,
        peers: Vec<Named>,
        load: Box<dyn Fn() -> Load + Send + Sync>,
    ) -> io::Result<()> {
        // Before the first datagram goes out the start number is on disk, so that no later start has a lower one.
        lock(&self.keeper).save(self);
        let node = self.clone();
        crew.start("members", SMALL_STACK, move || node.keep(&*load))?;
        if !peers.is_empty() {
            let node = self.clone();
            // The system's resolver is code we do not bound.
            crew.start("peers", LARGE_STACK, move || node.call_peers(&peers))?;
        }
        let node = self.clone();
        crew.start("gossip", LARGE_STACK, move || node.gossip(&mut strangers))
    }

    /// Whether another member was heard since the start.
    pub fn is_joined(&self) -> bool {
        lock(&self.core).machine.is_joined()
    }

    /// Waits until another member was heard, at most for `span`. Gives whether one was.
    pub fn wait_joined(&self, span: Duration) -> bool {
        self.wait_until(span, |machine, _| machine.is_joined())
    }

    /// Says good-bye to all and waits until that was said often enough, at most for `span`. `drained`: no record is here
    /// alone. Gives whether it was said in full. Comes before the stop is raised.
    pub fn leave(&self, drained: bool, span: Duration) -> bool {
        let mut out = Out::default();
        lock(&self.core).machine.leave(self.clock.now(), drained, &mut out);
        self.perform(out);
        self.wait_until(span, |machine, now| machine.has_left(now))
    }

    fn wait_until(&self, span: Duration, reached: impl Fn(&Machine, Monotonic) -> bool) -> bool {
        let deadline = self.clock.now() + span;
        let mut core = lock(&self.core);
        loop {
            let now = self.clock.now();
            if reached(&core.machine, now) {
                return true;
            }
            let left = deadline.since(now);
            if left.is_zero() || self.stop.is_raised() {
                return false;
            }
            core = wait_for(&self.changed, core, left.min(LONGEST_WAIT));
        }
    }

    /// Receives and does what is due, until the stop.
    fn gossip(&self, strangers: &mut Strangers) {
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        while !self.stop.is_raised() {
            let due = lock(&self.core).machine.next_deadline().since(self.clock.now());
            let wait = due.clamp(SHORTEST_WAIT, LONGEST_WAIT);
            if let Err(error) = socket::wait_readable(&self.socket, Some(wait)) {
                log::warn!("waiting for datagrams: {error}");
                self.stop.wait(LONGEST_WAIT);
            }
            let mut out = Out::default();
            self.receive(&mut buffer, strangers, &mut out);
            lock(&self.core).machine.tick(self.clock.now(), &mut out);
            self.perform(out);
            self.changed.notify_all();
        }
    }

    fn receive(&self, buffer: &mut [u8], strangers: &mut Strangers, out: &mut Out) {
        for _ in 0..ROUND {
            let (length, from) = match self.socket.recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What an earlier datagram of ours met, told with the next call (udp(7)): ECONNREFUSED and its like.
                Err(error) => {
                    log::debug!("receiving a datagram: {error}");
                    continue;
                }
            };
            self.received.add(length as u64);
            // A socket for both families gives IPv4 addresses in IPv6's clothes.
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            let now = self.clock.now();
            lock(&self.core).machine.handle(now, from, buffer.get(..length).unwrap_or_default(), out);
            strangers.note(now, from);
        }
    }

    /// Does what the machine wants done.
    fn perform(&self, out: Out) {
        for (to, datagram) in &out.datagrams {
            match self.socket.send_to(datagram, to) {
                Ok(length) => self.sent.add(length as u64),
                Err(error) => log::debug!("sending a datagram to {to}: {error}"),
            }
        }
        let mut has_changed = false;
        for event in out.events {
            match event {
                Event::Changed => has_changed = true,
                Event::WantPeers => {
                    lock(&self.core).wants_peers = true;
                    self.wanted.notify_all();
                }
                // Told from one view to the next, which also knows whether anything is missed.
                Event::Became { .. } => {}
                Event::Copied { one, other } => log::error!(
                    "{} and {} serve the same directory: one is a copy of the other, and what both hold counts once; \
                     stop one of them, and remove the file that holds the id in its directory",
                    one.api,
                    other.api
                ),
            }
        }
        if has_changed {
            self.refresh();
        }
    }

    /// Makes the view anew, and tells what is new in it.
    fn refresh(&self) {
        let mut core = lock(&self.core);
        let table: Table = core.machine.claims().collect();
        let before = std::mem::replace(&mut core.table, table);
        let is_same = before.iter().map(|(claim, _)| claim).eq(core.table.iter().map(|(claim, _)| claim));
        core.version += u64::from(!is_same);
        let after = Arc::new(view_of(&self.me, &core.table));
        // Swapped within the lock, or an older view might follow a newer one.
        let old = std::mem::replace(&mut *lock(&self.view), after.clone());
        let news = news((&before, &old), (&core.table, &after));
        let replicas = differing_replicas(&after);
        let differing = if core.replicas == replicas { None } else { replicas.clone() };
        core.replicas = replicas;
        drop(core);
        for (peer, what) in &news {
            tell(peer, *what);
        }
        if let Some(replicas) = differing {
            let all: Vec<String> = replicas.iter().map(u8::to_string).collect();
            log::warn!(
                "members differ in -store.segment-replication-factor ({}): the least is what answers rely on",
                all.join(", ")
            );
        }
    }

    /// Writes the table when it has changed, and says what load there is, until the stop and once after it.
    fn keep(&self, load: &dyn Fn() -> Load) {
        loop {
            let load = load();
            lock(&self.core).machine.set_load(load);
            // What others said of theirs changes no claim, so nothing else brings it into the view.
            self.refresh();
            let stopped = self.stop.wait(KEEP_EVERY);
            lock(&self.keeper).save(self);
            if stopped {
                return;
            }
        }
    }

    /// Looks up the peers that were named whenever the machine wants to call them.
    fn call_peers(&self, peers: &[Named]) {
        let mut known: Vec<Option<Result<(), String>>> = vec![None; peers.len()];
        while !self.stop.is_raised() {
            let mut core = lock(&self.core);
            if !core.wants_peers {
                core = wait_for(&self.wanted, core, KEEP_EVERY);
            }
            if !std::mem::take(&mut core.wants_peers) {
                continue;
            }
            drop(core);
            let mut addresses = Vec::new();
            for (peer, known) in peers.iter().zip(&mut known) {
                let found = (peer.resolve)().map_err(|error| error.to_string());
                let outcome = found.as_ref().map(drop).map_err(String::clone);
                if known.as_ref() != Some(&outcome) {
                    match &outcome {
                        Err(error) => log::warn!("looking up the peer {}: {error}: it is tried again", peer.name),
                        Ok(()) if known.is_some() => log::info!("the peer {} is found again", peer.name),
                        Ok(()) => {}
                    }
                    *known = Some(outcome);
                }
                addresses.extend(found.unwrap_or_default().into_iter().take(MAX_ADDRESSES));
            }
            // A name for all nodes has this one among its addresses.
            addresses.retain(|address| *address != self.me.meta.gossip);
            let mut out = Out::default();
            lock(&self.core).machine.join(self.clock.now(), &addresses, &mut out);
            self.perform(out);
        }
    }
}

fn tell(peer: &Peer, what: News) {
    let (name, kind) = (peer.name(), peer.meta.kind.name());
    match what {
        News::Joined => log::info!("{name} is a member now, as {kind}"),
        News::Returned => log::info!("{name} is back, as {kind}: its records are there again"),
        News::Silent => {
            log::warn!("{} is gone: its records are missed until it is back or forgotten", forget::described(peer))
        }
        News::Gone => log::info!("{name} ({kind}) is gone, and nothing is missed by that"),
        News::Left => log::info!("{name} ({kind}) has left, and nothing is missed by that"),
        News::Forgotten => log::warn!("{} is forgotten: its records are not missed any more", forget::described(peer)),
    }
}

/// Keeps the table on disk.
#[derive(Default)]
struct Keeper {
    /// The version that was looked at last; 0 if none was.
    version: u64,
    /// What was written last.
    saved: Option<String>,
    failure: Option<String>,
}

impl Keeper {
    /// Writes the table if it differs from what was written last. What fails is tried again the next time.
    fn save(&mut self, node: &Node) {
        if !node.fs.keeps() {
            return;
        }
        let core = lock(&node.core);
        let version = core.version;
        if self.version == version {
            return;
        }
        let claims = core.table.iter().map(|(claim, _)| claim.clone()).collect();
        drop(core);
        let remembered = Remembered { start: node.me.meta.start, claims };
        let text = remembered.text();
        if self.saved.as_ref() == Some(&text) {
            self.version = version;
            return;
        }
        match remembered.save(&*node.fs, &node.dir) {
            Ok(()) => (self.version, self.saved, self.failure) = (version, Some(text), None),
            Err(error) => {
                let failure = error.to_string();
                if self.failure.as_ref() != Some(&failure) {
                    log::error!("writing down who is a member, in {}: {failure}", node.dir.display());
                }
                self.failure = Some(failure);
            }
        }
    }
}

/// Counts datagrams that were refused, and tells of each reason now and then.
struct Strangers {
    refusals: Refusals,
    metrics: Arc<Metrics>,
    seen: [u64; Refused::ALL.len()],
    told: [Option<Monotonic>; Refused::ALL.len()],
}

impl Strangers {
    fn new(refusals: Refusals, metrics: Arc<Metrics>) -> Strangers {
        Strangers { refusals, metrics, seen: Default::default(), told: Default::default() }
    }

    /// Looks whether the last datagram, which came from this address, was refused.
    fn note(&mut self, now: Monotonic, from: SocketAddr) {
        for (((why, count), seen), told) in self.refusals.counts().into_iter().zip(&mut self.seen).zip(&mut self.told) {
            let new = count.saturating_sub(*seen);
            if new == 0 {
                continue;
            }
            *seen = count;
            self.metrics.counter(m::CLUSTER_REFUSED, &[why.label()]).add(new);
            if why.is_ordinary() {
                log::debug!("a datagram from {from} is refused: {why}");
            } else if told.is_none_or(|told| now.since(told) >= TELL_AGAIN) {
                *told = Some(now);
                log::warn!("a datagram from {from} is refused: {why}; more of the kind are only counted for a while");
            }
        }
    }
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
