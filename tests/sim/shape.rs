//! What a seed stands for: how many nodes of which kind, with which settings, for how long, and how bad a world.

use crate::broken::Wrong;
use crate::node::Death;
use crate::world::{MS, Nanos, SECOND};
use oklog::cluster::PeerKind;
use oklog::compact::{retain, thread as compact};
use oklog::consume::machine;
use oklog::ingest::log::Limits;
use oklog::unit::Bytes;
use oklog::world::entropy::Dice;
use std::time::Duration;

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The seed all of it comes from.
    pub seed: u64,
    /// The nodes, by what they do.
    pub nodes: Vec<PeerKind>,
    /// R.
    pub replicas: usize,
    /// How many stores are lost for good, at most R - 1.
    pub lost_stores: usize,
    /// How long lines come and things go wrong.
    pub span: Nanos,
    /// How many connections there are.
    pub connections: usize,
    /// How many times something goes wrong.
    pub faults: usize,
    /// Whether clocks are set.
    pub clocks_jump: bool,
    /// Whether disks refuse now and then.
    pub disks_fail: bool,
    /// What ingesters keep to.
    pub ingest: Limits,
    /// How many slots the fast port has.
    pub slots: usize,
    /// What consumers keep to.
    pub consume: machine::Settings,
    /// What housekeepers keep to.
    pub compact: compact::Settings,
    /// The longest record.
    pub max_record: usize,
    /// Of so many calls between nodes one is lost, on the way there or back.
    pub loss_one_in: u64,
    /// What is done wrongly, to show that it is noticed.
    pub wrong: Option<Wrong>,
    /// Whether images are taken of disks.
    pub watched: bool,
    /// A death before an operation on the first node's disk, which comes for certain.
    pub death: Option<(u64, Death)>,
}

/// How large a disk is: records of one run are far less, and what is kept free a small part, but large enough for a ballast.
pub const DISK: Bytes = Bytes(2 << 20);

impl Shape {
    /// What this seed stands for.
    pub fn of(seed: u64) -> Shape {
        let mut dice = Dice::new(seed ^ 0x5EED_0F5A_A9E5);
        let replicas = 1 + dice.below(3) as usize;
        let lost_stores = if replicas > 1 && dice.one_in(3) { 1 + dice.below(replicas as u64 - 1) as usize } else { 0 };
        let stores = (replicas + lost_stores).max(1 + dice.below(4) as usize).min(5);
        let both = dice.below(stores.min(3) as u64 + 1) as usize;
        let ingesters = if both == 0 { 1 + dice.below(2) as usize } else { dice.below(2) as usize };
        let mut nodes = vec![PeerKind::IngestStore; both];
        nodes.extend(vec![PeerKind::Store; stores - both]);
        nodes.extend(vec![PeerKind::Ingest; ingesters]);
        dice.shuffle(&mut nodes);
        let millis = |dice: &mut Dice, from: u64, to: u64| Duration::from_millis(from + dice.below(to - from));
        let pending_timeout = millis(&mut dice, 5_000, 20_000);
        let target_size = Bytes(2_000 + dice.below(30_000));
        let retain = if dice.one_in(6) { millis(&mut dice, 8_000, 40_000) } else { Duration::from_secs(7 * 86_400) };
        Shape {
            seed,
            nodes,
            replicas,
            lost_stores,
            span: (20 + dice.below(30)) * SECOND,
            connections: 15 + dice.below(35) as usize,
            faults: dice.below(14) as usize,
            clocks_jump: dice.one_in(3),
            disks_fail: dice.one_in(3),
            ingest: Limits {
                flush_size: Bytes(500 + dice.below(3_500)),
                flush_age: millis(&mut dice, 300, 2_000),
                pending_timeout,
            },
            slots: 1 + dice.below(2) as usize,
            consume: machine::Settings {
                replicas,
                target_size,
                target_age: millis(&mut dice, 50, 1_500),
                delay: millis(&mut dice, 100, 600),
                renew_every: pending_timeout / 3,
                turn: 0,
            },
            compact: compact::Settings {
                target_size,
                retention: retain::Limits { retain, purge: millis(&mut dice, 1_000, 10_000), max_size: None },
                seal_age: seal_age(seed),
            },
            max_record: if dice.one_in(8) { 40 } else { 4_096 },
            loss_one_in: [u64::MAX, 200, 50, 15][dice.below(4) as usize],
            watched: std::env::var_os("OKLOG_SIM_NO_POINTS").is_none(),
            death: None,
            wrong: None,
        }
    }

    /// One node of both tiers, a few connections, and nothing that goes wrong but a death before this operation.
    pub fn alone(seed: u64, death: Option<(u64, Death)>) -> Shape {
        let shape = Shape::of(seed);
        Shape {
            nodes: vec![PeerKind::IngestStore],
            replicas: 1,
            lost_stores: 0,
            span: 8 * SECOND,
            connections: 6,
            faults: 0,
            clocks_jump: false,
            disks_fail: false,
            consume: machine::Settings { replicas: 1, ..shape.consume },
            loss_one_in: u64::MAX,
            watched: false,
            death,
            ..shape
        }
    }

    /// Whether a place keeps a store.
    pub fn stores(&self, place: usize) -> bool {
        self.nodes[place].stores()
    }

    /// Whether a place takes lines.
    pub fn ingests(&self, place: usize) -> bool {
        self.nodes[place].ingests()
    }

    /// How often the flusher looks.
    pub fn round_every(&self) -> Nanos {
        150 * MS
    }
}

/// Most stores seal, many of them so soon that small segments are sealed again and again as they grow.
fn seal_age(seed: u64) -> Option<Duration> {
    let mut dice = Dice::new(seed ^ 0x5EA1_ED00);
    let ages = [Some(Duration::ZERO), Some(Duration::from_secs(1)), Some(Duration::from_secs(8)), None];
    ages[dice.below(4) as usize]
}
