//! Runs a member of the cluster: a socket, a clock, a file and a log around it.
//!
//! Three threads: `gossip` receives and does what is due; `peers` looks up the names of `-peer`, which may take seconds;
//! `members` keeps the table on disk and says what load there is. All of them end when the stop is raised, the middle
//! one when its look-up has ended.
//!
//! Bounds: [`ROUND`] datagrams are taken before what is due is done; the table is written at most once a second;
//! [`MAX_ADDRESSES`] addresses of a name are called. Nothing is sent, logged or written while the member is locked. A
//! datagram that cannot be sent is a datagram that is lost, which the protocol bears.

use super::auth::{Keys, Refusals, Refused};
use super::forget;
use super::member::{self, Doors, Member, Todo};
use super::remembered::{Keeper, Remembered};
use super::timing::Timing;
use super::view::News;
use super::{Cluster, DataId, ForgetError, Load, Meta, NodeId, Peer, View};
use crate::ops::metrics::{self as m, Counter, Metrics};
use crate::unit::Monotonic;
use crate::world::clock::Clock;
use crate::world::crew::{Crew, LARGE_STACK, SMALL_STACK, Stop, lock, wait_for};
use crate::world::entropy::Dice;
use crate::world::fs::FileSystem;
use crate::world::socket::Alarm;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Datagrams that are taken in one round.
const ROUND: usize = 64;

/// The longest wait for a datagram, and from one look at a condition to the next.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long after a failed wait the next one begins.
const PAUSE: Duration = Duration::from_millis(200);

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
    /// Whether no record waits in its ingest tier.
    pub is_new: bool,
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
    member: Mutex<Member>,
    /// Told after each round.
    changed: Condvar,
    /// Whether the names of peers are to be looked up.
    wants_peers: Mutex<bool>,
    /// Told when they are.
    wanted: Condvar,
    view: Mutex<Arc<View>>,
    /// Locked while it writes, which only threads wait for that have something to be written.
    keeper: Mutex<Keeper>,
    /// Why the table could not be written the last time.
    failure: Mutex<Option<String>>,
    socket: UdpSocket,
    /// Wakes the thread that waits for datagrams: what another thread asked of the member may be due before it would look.
    alarm: Alarm,
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    stop: Stop,
    sent: Counter,
    received: Counter,
}

impl Cluster for Node {
    fn view(&self) -> Arc<View> {
        lock(&self.view).clone()
    }

    fn forgotten(&self) -> Vec<DataId> {
        lock(&self.member).forgotten()
    }

    fn is_informed(&self) -> bool {
        lock(&self.member).is_informed()
    }

    fn forget(&self, name: &str) -> Result<Peer, ForgetError> {
        let chosen = self.act(|member, now, todo| member.forget(now, name, todo))?;
        // On disk before the operator is told, so that it holds even if all nodes stop now.
        self.save();
        Ok(chosen)
    }
}

impl Node {
    /// Loads what is remembered and starts the threads. An error means that the table of members cannot be read, or that the
    /// system gave no thread. To go on without the table would be to forget whose records are missed, and to overwrite it.
    pub fn start(setup: Setup) -> io::Result<Arc<Node>> {
        let Setup { socket, node, meta, timing, keys, dice, is_new, dir, fs, clock, metrics, crew, stop, .. } = setup;
        let unreadable = |e| io::Error::other(format!("reading who was known from {}: {e}", dir.display()));
        let remembered = Remembered::load(&*fs, &dir).map_err(unreadable)?;
        let unix_ms = clock.unix_millis().0;
        let setup_of_member =
            member::Setup { node, meta, timing, keys, dice, is_new, has_peers: !setup.peers.is_empty() };
        let member = Member::begin(setup_of_member, remembered, clock.now(), unix_ms);
        let (view, refusals) = (member.view().clone(), member.refusals());
        for peer in &view.silent {
            log::warn!("{} was a member before, and is missed until it is heard or forgotten", forget::described(peer));
        }
        let (sent, received) =
            (metrics.counter(m::CLUSTER_BYTES, &["egress"]), metrics.counter(m::CLUSTER_BYTES, &["ingress"]));
        let node = Arc::new(Node {
            member: Mutex::new(member),
            changed: Condvar::new(),
            wants_peers: Mutex::new(false),
            wanted: Condvar::new(),
            view: Mutex::new(view),
            keeper: Mutex::default(),
            failure: Mutex::default(),
            socket,
            alarm: Alarm::new()?,
            fs,
            clock,
            dir,
            stop,
            sent,
            received,
        });
        let woken = Arc::downgrade(&node);
        node.stop.on_raise(move || {
            if let Some(node) = woken.upgrade() {
                node.alarm.ring();
            }
        });
        node.stop.wakes(&node, |node| (&node.member, &node.changed));
        node.stop.wakes(&node, |node| (&node.wants_peers, &node.wanted));
        let counted = Arc::downgrade(&node);
        metrics.refresh_with(move |metrics| {
            let Some(node) = counted.upgrade() else { return };
            let (counts, health) = {
                let member = lock(&node.member);
                (member.counts(), member.health())
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
        self.save();
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

    /// Waits until lines may be taken, or the stop is raised. Gives whether another member was heard, or need not be.
    pub fn wait_for_doors(&self) -> bool {
        let mut member = lock(&self.member);
        loop {
            let now = self.clock.now();
            match member.doors(now) {
                Doors::Open => return true,
                Doors::OpenAlone => return false,
                Doors::ShutUntil(_) if self.stop.is_raised() => return false,
                Doors::ShutUntil(at) => member = wait_for(&self.changed, member, at.since(now).min(LONGEST_WAIT)),
            }
        }
    }

    /// Says good-bye to all and waits until that was said often enough, at most for `span`. `drained`: no record is here
    /// alone. Gives whether it was said in full. Comes before the stop is raised.
    pub fn leave(&self, drained: bool, span: Duration) -> bool {
        self.act(|member, now, todo| member.leave(now, drained, todo));
        self.wait_until(span, |member, now| member.has_left(now))
    }

    fn wait_until(&self, span: Duration, reached: impl Fn(&Member, Monotonic) -> bool) -> bool {
        let deadline = self.clock.now() + span;
        let mut member = lock(&self.member);
        loop {
            let now = self.clock.now();
            if reached(&member, now) {
                return true;
            }
            let left = deadline.since(now);
            if left.is_zero() || self.stop.is_raised() {
                return false;
            }
            member = wait_for(&self.changed, member, left.min(LONGEST_WAIT));
        }
    }

    /// Lets the member do something, and does what it wants done for it.
    fn act<R>(&self, what: impl FnOnce(&mut Member, Monotonic, &mut Todo) -> R) -> R {
        let mut todo = Todo::default();
        let result = self.act_and_note(what, &mut todo);
        self.perform(&todo);
        self.alarm.ring();
        result
    }

    fn act_and_note<R>(&self, what: impl FnOnce(&mut Member, Monotonic, &mut Todo) -> R, todo: &mut Todo) -> R {
        let mut member = lock(&self.member);
        let result = what(&mut member, self.clock.now(), todo);
        if todo.has_new_view {
            // Within the lock, or an older view might follow a newer one.
            lock(&self.view).clone_from(member.view());
        }
        result
    }

    /// Receives and does what is due, until the stop.
    fn gossip(&self, strangers: &mut Strangers) {
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        while !self.stop.is_raised() {
            let due = lock(&self.member).next_deadline().since(self.clock.now());
            let wait = due.clamp(SHORTEST_WAIT, LONGEST_WAIT);
            if let Err(error) = self.alarm.wait_readable(&self.socket, wait) {
                log::warn!("waiting for datagrams: {error}");
                self.stop.wait(PAUSE);
            }
            let mut todo = Todo::default();
            self.receive(&mut buffer, strangers, &mut todo);
            self.act_and_note(|member, now, todo| member.tick(now, todo), &mut todo);
            self.perform(&todo);
            self.changed.notify_all();
        }
    }

    fn receive(&self, buffer: &mut [u8], strangers: &mut Strangers, todo: &mut Todo) {
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
            lock(&self.member).handle(now, from, buffer.get(..length).unwrap_or_default(), todo);
            strangers.note(now, from);
        }
    }

    /// Does what the member wants done.
    fn perform(&self, todo: &Todo) {
        for (to, datagram) in todo.datagrams() {
            match self.socket.send_to(datagram, to) {
                Ok(length) => self.sent.add(length as u64),
                Err(error) => log::debug!("sending a datagram to {to}: {error}"),
            }
        }
        if todo.wants_peers {
            *lock(&self.wants_peers) = true;
            self.wanted.notify_all();
        }
        for (one, other) in &todo.copied {
            log::error!(
                "{} and {} serve the same directory: one is a copy of the other, and what both hold counts once; \
                 stop one of them, and remove the file that holds the id in its directory",
                one.api,
                other.api
            );
        }
        for (peer, what) in &todo.news {
            tell(peer, *what);
        }
        if let Some(replicas) = &todo.differing {
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
            let (load, mut todo) = (load(), Todo::default());
            // Nothing is due by this.
            self.act_and_note(|member, _, todo| member.set_load(load, todo), &mut todo);
            self.perform(&todo);
            let stopped = self.stop.wait(KEEP_EVERY);
            self.save();
            if stopped {
                return;
            }
        }
    }

    /// Writes the table if it differs from what was written last. What fails is tried again the next time.
    fn save(&self) {
        let mut keeper = lock(&self.keeper);
        let Some(unsaved) = lock(&self.member).unsaved(keeper.version()) else { return };
        let failure = keeper.save(unsaved, &*self.fs, &self.dir).err().map(|error| error.to_string());
        let before = std::mem::replace(&mut *lock(&self.failure), failure.clone());
        if let Some(failure) = failure.filter(|failure| before.as_ref() != Some(failure)) {
            log::error!("writing down who is a member, in {}: {failure}", self.dir.display());
        }
    }

    /// Looks up the peers that were named whenever the machine wants to call them.
    fn call_peers(&self, peers: &[Named]) {
        let mut known: Vec<Option<Result<(), String>>> = vec![None; peers.len()];
        while !self.stop.is_raised() {
            let mut wants = lock(&self.wants_peers);
            if !*wants && !self.stop.is_raised() {
                wants = wait_for(&self.wanted, wants, LONGEST_WAIT);
            }
            if !std::mem::take(&mut *wants) {
                continue;
            }
            drop(wants);
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
            self.act(|member, now, todo| member.join(now, &addresses, todo));
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
