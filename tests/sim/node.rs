//! A machine with a disk, and the process that runs on it or does not: opened, killed, cut off from power, lost for good.

use crate::broken;
use crate::carrier::Carrier;
use crate::shape::{DISK, Shape};
use crate::stop::Stopping;
use crate::world::{Nanos, NodeClock, Ticket};
use oklog::cluster::{DataId, Meta, NodeId, Peer, PeerKind, State};
use oklog::compact::retain::TrustedNow;
use oklog::compact::thread::Housekeeper;
use oklog::ingest::flusher::Rounds;
use oklog::ingest::log::IngestLog;
use oklog::ingest::recover::Ground;
use oklog::ops::metrics::Metrics;
use oklog::store::log::StoreLog;
use oklog::stream::inbox::Inbox;
use oklog::stream::registry::Registry;
use oklog::unit::{Monotonic, UnixMillis};
use oklog::world::clock::Clock;
use oklog::world::entropy::{Dice, Entropy};
use oklog::world::fs::FileSystem;
use oklog::world::fs::memory::MemoryFs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Which node, from 0.
pub type Place = usize;

/// Where the ingest tier lies on every disk.
pub const INGEST_DIR: &str = "/ingest";

/// Where the store lies on every disk.
pub const STORE_DIR: &str = "/store";

/// How a process ends before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// `kill -9`: what was written stays.
    Killed,
    /// The power goes: what was not synced may be lost.
    PowerCut,
}

/// A machine.
pub struct Node {
    /// Which one.
    pub place: Place,
    /// What it does.
    pub kind: PeerKind,
    /// Its disk.
    pub disk: MemoryFs,
    /// Which disk that is: another one if it was replaced.
    pub disk_no: usize,
    /// Its clocks.
    pub clock: Arc<NodeClock>,
    /// How many processes have begun here.
    pub life: u64,
    /// The process, if one runs.
    pub process: Option<Process>,
    /// Nothing happens here before: it is stopped, or its disk is slow.
    pub busy_until: Nanos,
    /// A death that is planned for an operation on its disk.
    pub death: Option<(u64, Death)>,
    /// It is gone, and its disk with it.
    pub lost: bool,
    /// It was told to end, and has come so far.
    pub stopping: Option<Stopping>,
    /// It has left with nothing in hand, so nobody misses it, and not all know yet that it is back.
    pub is_unmissed: bool,
    /// A sync may have failed in this life: what was written and not acknowledged is promised to nobody.
    pub is_suspect: bool,
    /// A sync may have failed since the machine was started: what a process reads may still never get to the disk.
    pub has_failed: bool,
    /// Its disk fails now and then.
    pub is_misbehaving: bool,
    /// The ids that its directories, ingest and store, have told the world.
    pub told: (Option<DataId>, Option<DataId>),
    /// The ids of its directories.
    pub store_id: Option<DataId>,
    /// As above.
    pub ingest_id: Option<DataId>,
    /// What it said of itself last.
    pub peer: Peer,
    start: u64,
}

/// What runs.
pub struct Process {
    /// Its ingest tier.
    pub ingest: Option<IngestTier>,
    /// Its store.
    pub store: Option<StoreTier>,
    /// Its consumer; taken out while it is at work.
    pub carrier: Option<Carrier>,
}

/// The ingest tier of a process.
pub struct IngestTier {
    /// The log.
    pub log: Arc<IngestLog>,
    /// What the flusher remembers.
    pub rounds: Rounds,
    /// When the fast port's segments were last synced, as the flusher counts it.
    pub synced: Monotonic,
    /// What is appended, with its ids.
    pub inbox: Arc<Inbox>,
    /// A group commit is planned.
    pub commit_due: bool,
}

/// The store of a process.
pub struct StoreTier {
    /// The log.
    pub log: Arc<StoreLog>,
    /// Who keeps it in order.
    pub keeper: Housekeeper,
    /// What time that one believes it is.
    pub trusted: TrustedNow,
}

/// What a disk is opened with.
pub struct Opening<'a> {
    /// The disk.
    pub fs: Arc<dyn FileSystem>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// What ids are drawn from.
    pub entropy: Arc<dyn Entropy>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
    /// What it keeps to.
    pub shape: &'a Shape,
}

impl Opening<'_> {
    /// Opens the ingest tier: recovery.
    pub fn ingest(&self, live: Arc<Registry>) -> Result<IngestLog, String> {
        let Opening { fs, clock, entropy, metrics, shape } = self;
        let ground =
            Ground { fs: fs.clone(), clock: clock.clone(), entropy: entropy.clone(), metrics: metrics.clone(), live };
        IngestLog::open(ground, Path::new(INGEST_DIR), shape.ingest.clone(), shape.slots).map_err(|e| e.to_string())
    }

    /// Opens the store: recovery.
    pub fn store(&self) -> Result<Arc<StoreLog>, String> {
        let Opening { fs, clock, entropy, metrics, .. } = self;
        StoreLog::open(fs.clone(), STORE_DIR, clock.clone(), metrics.clone(), &**entropy).map_err(|e| e.to_string())
    }
}

impl Node {
    /// A machine with an empty disk, whose clock is off by so many nanoseconds.
    pub fn new(place: Place, kind: PeerKind, clock: NodeClock, replicas: usize) -> Node {
        let clock = Arc::new(clock);
        let disk = MemoryFs::with_clock(clock.clone());
        disk.set_capacity(DISK);
        let address = |port| SocketAddr::from(([10, 0, 0, place as u8 + 1], port));
        let replicas = if kind.stores() { replicas as u8 } else { 0 };
        let (gossip, api) = (address(7659), address(7650));
        let meta = Meta { kind, gossip, api, store: None, ingest: None, replicas, start: 0 };
        let peer = Peer { node: NodeId(0), meta, state: State::Dead, load: None };
        Node {
            place,
            kind,
            disk,
            disk_no: place,
            clock,
            life: 0,
            process: None,
            busy_until: 0,
            death: None,
            lost: false,
            stopping: None,
            is_unmissed: false,
            is_suspect: false,
            has_failed: false,
            is_misbehaving: false,
            told: (None, None),
            store_id: None,
            ingest_id: None,
            peer,
            start: 0,
        }
    }

    /// The process that runs, as others plan for it.
    pub fn ticket(&self) -> Ticket {
        Ticket { place: self.place, life: self.life }
    }

    /// Whether this process still runs.
    pub fn runs(&self, life: u64) -> bool {
        self.life == life && self.process.is_some()
    }

    /// Whether the death that was planned has come.
    pub fn is_dying(&self) -> bool {
        self.death.is_some_and(|(at, _)| self.disk.operations() >= at)
    }

    /// Plans a death before the `n`-th file operation from now on, 0 for the next.
    pub fn plan_death(&mut self, n: u64, death: Death) {
        let at = self.disk.operations() + n;
        self.death = Some((at, death));
        self.disk.crash_at(at);
    }

    /// The machine comes back with an empty disk: nothing is left of what it was.
    pub fn replace_disk(&mut self, no: usize) {
        self.disk = MemoryFs::with_clock(self.clock.clone());
        self.disk.set_capacity(DISK);
        (self.disk_no, self.lost, self.told, self.death) = (no, false, (None, None), None);
    }

    /// Ends the process. The disk keeps what such a death leaves.
    pub fn die(&mut self, death: Death, dice: &mut Dice) {
        // The process goes while its disk is down: what its remains do on the way out reaches no file.
        self.disk.crash_at(self.disk.operations());
        self.process = None;
        self.stopping = None;
        self.busy_until = 0;
        if death == Death::PowerCut {
            self.disk.crash(dice);
            self.has_failed = self.is_misbehaving;
        }
        self.disk.recover();
        self.death = None;
        self.peer.state = State::Dead;
    }

    /// Begins a process: recovers both tiers. An error leaves none.
    pub fn start(
        &mut self,
        fs: Arc<dyn FileSystem>,
        shape: &Shape,
        metrics: &Arc<Metrics>,
        dice: &mut Dice,
    ) -> Result<(), String> {
        self.life += 1;
        self.clock.start_process();
        let entropy = broken::entropy(dice.roll(), shape.wrong);
        let clock = broken::ingest_clock(self.clock.clone(), shape.wrong);
        let mut opening = Opening { fs, clock, entropy, metrics: metrics.clone(), shape };
        let ingest = if self.kind.ingests() { Some(open_ingest(&opening)?) } else { None };
        opening.clock = broken::store_clock(self.clock.clone(), shape.wrong);
        let store = if self.kind.stores() { Some(open_store(&opening, &*self.clock)?) } else { None };
        self.ingest_id = ingest.as_ref().map(|tier| tier.log.id());
        self.store_id = store.as_ref().map(|tier| DataId(tier.log.id().0));
        self.start = (self.start + 1).max(self.clock.unix_millis().0);
        self.peer.node = NodeId(u128::from(dice.roll()) << 64 | u128::from(dice.roll()));
        self.peer.state = State::Alive;
        let meta = &mut self.peer.meta;
        (meta.store, meta.ingest, meta.start) = (self.store_id, self.ingest_id, self.start);
        let carrier = self.kind.stores().then(|| Carrier::new(self.place, shape));
        self.process = Some(Process { ingest, store, carrier });
        self.is_suspect = self.is_misbehaving;
        Ok(())
    }
}

fn open_ingest(opening: &Opening<'_>) -> Result<IngestTier, String> {
    let (live, inbox) = (Arc::new(Registry::default()), Arc::new(Inbox::default()));
    live.listen(&inbox);
    let log = Arc::new(opening.ingest(live)?);
    Ok(IngestTier { log, rounds: Rounds::default(), synced: Monotonic::default(), inbox, commit_due: false })
}

fn open_store(opening: &Opening<'_>, clock: &dyn Clock) -> Result<StoreTier, String> {
    let log = opening.store()?;
    let settings = opening.shape.compact;
    let newest = log.catalogue().live().iter().map(|segment| segment.digest().last).max();
    let trusted = TrustedNow::start(clock.unix_millis(), clock.now(), newest, settings.retention.retain);
    Ok(StoreTier { keeper: Housekeeper::new(log.clone(), settings), log, trusted })
}

impl StoreTier {
    /// Records older than this may go: what retention goes by now, less what is kept.
    pub fn horizon(&self, clock: &dyn Clock, shape: &Shape) -> UnixMillis {
        let (now, _) = self.trusted.now(clock.unix_millis(), clock.now());
        now.before(shape.compact.retention.retain)
    }
}
