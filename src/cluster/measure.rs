//! What the protocol is measured by: how soon is known what, at what cost, and how often by mistake.

use crate::cluster::simulation::{Network, Simulation};
use crate::cluster::timing::Timing;
use crate::cluster::{NodeId, State};
use std::time::Duration;

/// What one run gave.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// From a crash to the first suspicion; `None` if there was none in time.
    pub suspected: Vec<Option<Duration>>,
    /// From a crash until all others knew it.
    pub dead: Vec<Option<Duration>>,
    /// From the start of a process until 99 of 100 others knew it.
    pub joined_most: Vec<Option<Duration>>,
    /// The same, all others.
    pub joined: Vec<Option<Duration>>,
    /// From a good-bye until all others knew it.
    pub left: Vec<Option<Duration>>,
    /// From the healing of a split network until all were right about all.
    pub healed: Vec<Option<Duration>>,
    /// Nodes that lived and were declared dead, counted once for each who believed it.
    pub false_deaths: u64,
    /// The same of suspicions.
    pub false_suspicions: u64,
    /// For how long that was observed, times nodes.
    pub node_seconds: f64,
    /// Bytes with IP and UDP while nothing happened but loss.
    pub quiet_bytes: u64,
    /// For how long, times nodes.
    pub quiet_node_seconds: f64,
}

impl Figures {
    /// Takes those of another run in.
    pub fn add(&mut self, other: Figures) {
        self.suspected.extend(other.suspected);
        self.dead.extend(other.dead);
        self.joined_most.extend(other.joined_most);
        self.joined.extend(other.joined);
        self.left.extend(other.left);
        self.healed.extend(other.healed);
        self.false_deaths += other.false_deaths;
        self.false_suspicions += other.false_suspicions;
        self.node_seconds += other.node_seconds;
        self.quiet_bytes += other.quiet_bytes;
        self.quiet_node_seconds += other.quiet_node_seconds;
    }

    /// Bytes that a node sends in a second while nothing happens.
    pub fn bytes_per_second(&self) -> f64 {
        self.quiet_bytes as f64 / self.quiet_node_seconds.max(1.0)
    }
}

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Course {
    /// Nodes at the beginning.
    pub nodes: usize,
    /// Loss in percent.
    pub loss: u64,
    /// For how long nothing happens at first.
    pub quiet: Duration,
    /// How many join, leave and crash.
    pub events: usize,
    /// The rhythm.
    pub timing: Timing,
}

/// Events of one kind follow one another at this distance, not a multiple of the period, so that they meet all phases.
const APART: Duration = Duration::from_millis(2_370);
/// What takes longer than this is taken for never.
const PATIENCE: Duration = Duration::from_secs(120);

/// Nothing, then joins, good-byes and crashes, all in one world.
pub fn course(seed: u64, course: &Course) -> Figures {
    let mut world = Simulation::settled(seed, course.nodes, Network::losing(course.loss), course.timing.clone());
    let mut figures = Figures::default();
    // The first seconds are not like others: all begin at once.
    world.run(Duration::from_secs(2));
    let before = world.seen.bytes;
    world.run(course.quiet);
    figures.quiet_bytes = world.seen.bytes - before;
    figures.quiet_node_seconds = course.quiet.as_secs_f64() * course.nodes as f64;
    joins(&mut world, course, &mut figures);
    departures(&mut world, course, &mut figures);
    figures.false_deaths = world.seen.false_deaths.len() as u64;
    figures.false_suspicions = world.seen.false_suspicions;
    figures.node_seconds = world.now().as_secs_f64() * course.nodes as f64;
    figures
}

fn joins(world: &mut Simulation, course: &Course, figures: &mut Figures) {
    for number in 0..course.events {
        let started = world.now();
        let peers = (0..course.nodes.min(3)).map(Simulation::address).collect();
        let index = world.start(course.nodes + number, peers, Vec::new());
        let Some(node) = world.processes.get(index).map(|process| process.node) else { return };
        world.watch(node, State::Alive);
        let (others, most) = (course.nodes + number, (course.nodes + number) * 99 / 100);
        let joined = wait(world, node, others);
        let reached = world.watched(node).map(|watch| watch.reached.clone()).unwrap_or_default();
        let most = reached.get(most.max(1) - 1).map(|at| *at - started);
        figures.joined_most.push(most.filter(|_| others >= 100).or(joined));
        figures.joined.push(joined);
        world.run(APART);
    }
}

/// The newcomers leave, and as many of those that were there from the beginning crash.
fn departures(world: &mut Simulation, course: &Course, figures: &mut Figures) {
    world.run(Duration::from_secs(10));
    for number in 0..course.events {
        let index = course.nodes + number;
        let Some(node) = world.processes.get(index).map(|process| process.node) else { return };
        world.watch(node, State::Left);
        world.leave(index, true);
        let others = course.nodes + course.events - number - 1;
        let left = wait(world, node, others);
        figures.left.push(left);
        world.run(APART);
    }
    let crashes = course.events.min((course.nodes - 1) / 2);
    for number in 0..crashes {
        let index = course.nodes - 1 - number;
        let Some(node) = world.processes.get(index).map(|process| process.node) else { return };
        let crashed = world.now();
        world.stop(index);
        world.watch(node, State::Dead);
        let all = wait(world, node, course.nodes - number - 1);
        let suspected = world.watched(node).and_then(|watch| watch.suspected).map(|at| at - crashed);
        figures.suspected.push(suspected);
        figures.dead.push(all);
        world.run(APART);
    }
}

fn wait(world: &mut Simulation, node: NodeId, others: usize) -> Option<Duration> {
    let begun = world.now();
    let all = |world: &Simulation| world.watched(node).is_some_and(|watch| watch.believers() >= others);
    world.run_until(begun + PATIENCE, all).map(|at| at - begun)
}

/// Two halves that do not hear each other for a while, and then again.
pub fn halves(seed: u64, course: &Course, apart: Duration) -> Figures {
    let mut world = Simulation::settled(seed, course.nodes, Network::losing(course.loss), course.timing.clone());
    world.run(Duration::from_secs(2));
    let middle = course.nodes / 2;
    world.split(|index| u8::from(index > middle));
    world.run(apart);
    world.heal();
    // What follows is nobody's mistake: each half was right to bury the other.
    let before = world.seen.false_deaths.len();
    let begun = world.now();
    let healed = loop {
        // To compare all tables takes long, so they are looked at now and then.
        world.run(Duration::from_millis(500));
        if world.agrees() {
            break Some(world.now() - begun);
        }
        if world.now() - begun > 3 * PATIENCE {
            break None;
        }
    };
    let false_deaths = before as u64;
    Figures { healed: vec![healed], false_deaths, ..Figures::default() }
}
