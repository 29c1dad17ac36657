//! One run: everything that happens, in order, from one seed; and the end, when all must be well.

use crate::broken;
use crate::client::{Connection, ConnectionNo};
use crate::faults::Fault;
use crate::ledger::{Checked, KEPT, LIVENESS, Ledger, RECOVERY, RecordNo, Violation, broken};
use crate::membership::Membership;
use crate::network::{CallNo, Letter, Network, Reply};
use crate::node::{Death, IngestTier, Node, Place, Process};
use crate::points::read_all;
use crate::query::{Ending, Part, Query, QueryNo, everything};
use crate::report::Totals;
use crate::shape::Shape;
use crate::world::{MS, Nanos, NodeClock, SECOND, Ticket, Timeline};
use oklog::ingest::queue::Drained;
use oklog::ops::metrics::{self as m, Metrics};
use oklog::query::pool::Pool;
use oklog::record::id::Id;
use oklog::record::stored::records;
use oklog::unit::UnixNanos;
use oklog::world::clock::Clock;
use oklog::world::crew::Stop;
use oklog::world::entropy::Dice;
use oklog::world::fs::FileSystem;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What can happen.
pub enum Event {
    /// A node starts.
    Start(Place),
    /// A producer connects.
    Connect,
    /// A producer sends.
    Send(ConnectionNo),
    /// A server looks what a connection has brought.
    Serve(Ticket, ConnectionNo),
    /// A group commit.
    GroupCommit(Ticket),
    /// A round of the flusher.
    Round(Ticket),
    /// A look around of the housekeeper.
    Keep(Ticket),
    /// A consumer wakes.
    Carry(Ticket),
    /// A request comes.
    Arrive(Letter),
    /// An answer comes, or is not waited for any longer.
    Answer(CallNo, Reply),
    /// A node reads its part of an answer.
    Part(CallNo),
    /// A query goes on with what it merges.
    Merge(QueryNo),
    /// A query looks whether those it waits for are members still.
    Look(QueryNo),
    /// A datagram comes, from one to another.
    Datagram(Place, Place, Box<[u8]>),
    /// Something is due for a member.
    Gossip(Ticket),
    /// A member looks whether there is something to be written.
    KeepMembers(Ticket),
    /// A node that was told to end goes on with it.
    Stop(Ticket),
    /// Somebody asks.
    Query,
    /// Something goes wrong.
    Fault(Fault),
}

/// Everything.
pub struct Sim {
    /// What the run is like.
    pub shape: Shape,
    /// What happens when.
    pub time: Timeline<Event>,
    /// Where all choices come from.
    pub dice: Dice,
    /// The machines.
    pub nodes: Vec<Node>,
    /// The wires.
    pub network: Network,
    /// Who knows of whom.
    pub members: Membership,
    /// What is promised.
    pub ledger: Ledger,
    /// What producers send.
    pub connections: Vec<Connection>,
    /// What was asked.
    pub queries: Vec<Query>,
    /// How queries have ended.
    pub endings: BTreeMap<QueryNo, Ending>,
    /// Parts of answers that are still to be read.
    pub parts: BTreeMap<CallNo, Part>,
    /// What the fast port has taken since the last sync, by node.
    pub unsynced: BTreeMap<Place, Vec<RecordNo>>,
    /// What durable connections have brought and were not told of yet.
    pub unsettled: BTreeMap<ConnectionNo, Vec<RecordNo>>,
    /// What is known of how each node gives ids.
    pub id_clocks: BTreeMap<Place, Ids>,
    /// How many disks there were so far.
    pub disks: usize,
    /// Those that are lost, a bit for each.
    pub lost_disks: u64,
    /// What was counted.
    pub totals: Totals,
    /// Who scans: nobody but the one thread.
    pub pool: Arc<Pool>,
    /// Where all processes count: making a table of numbers costs more than a recovery.
    pub metrics: Arc<Metrics>,
    tracing: Option<Trace>,
}

/// How a node gives ids.
#[derive(Clone, Copy, Default)]
pub struct Ids {
    /// The highest that it has given or found.
    pub highest: UnixNanos,
    /// When it last went back to the true time.
    pub stepped_back: Option<Nanos>,
}

/// What has happened, in words.
pub struct Trace {
    /// Whether each line is printed at once.
    pub prints: bool,
    /// The last lines.
    pub lines: Vec<String>,
}

/// How a run ended early.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was broken.
    pub violation: Violation,
    /// At which event.
    pub step: u64,
    /// At what time.
    pub at: Nanos,
}

/// What a run comes to.
pub struct Outcome {
    /// What was counted.
    pub totals: Totals,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// The running hash after each step, if it was wanted.
    pub hashes: Vec<u64>,
    /// What happened last, if it was wanted.
    pub trace: Vec<String>,
}

/// How much of what happened is kept.
#[derive(Clone, Copy, Default)]
pub struct Wanted {
    /// The hash after each step.
    pub hashes: bool,
    /// The last events in words.
    pub trace: bool,
    /// All events, printed as they happen.
    pub verbose: bool,
}

/// How many lines a report of a failure has.
const TRACE_LINES: usize = 60;

/// How long draining may take once all is well again.
const PATIENCE: Nanos = 300 * SECOND;

/// Runs one seed.
pub fn run(shape: Shape, wanted: Wanted) -> Outcome {
    let mut sim = Sim::new(shape);
    if wanted.trace || wanted.verbose {
        sim.tracing = Some(Trace { prints: wanted.verbose, lines: Vec::new() });
    }
    let mut hashes = Vec::new();
    let result = sim.play(&mut |sim| {
        if wanted.hashes {
            hashes.push(sim.time.hash());
        }
    });
    let (step, at) = (sim.time.steps, sim.time.now());
    let failure = result.err().map(|violation| Failure { violation, step, at });
    sim.totals.operations += sim.nodes.iter().map(|node| node.disk.operations()).sum::<u64>();
    sim.totals.events = step;
    sim.totals.network_faults = sim.network.faults;
    sim.totals.damaged = sim.ledger.damaged.get();
    let metrics = &sim.metrics;
    let compactions = ["join", "overlap", "close"].map(|kind| {
        let done = metrics.histogram(m::COMPACT_SECONDS, &[kind, "true", "ok"]);
        done.count()
    });
    let trashed = metrics.counter(m::TRASHED, &["true"]).get();
    sim.totals.moved = [metrics.counter(m::INGEST_COMMITTED, &[]).get(), compactions.iter().sum(), trashed];
    let faults = sim.nodes.iter().flat_map(|node| node.disk.tally().faults().collect::<Vec<_>>());
    sim.totals.disk_faults = faults.map(|(_, n)| n).sum();
    Outcome { totals: sim.totals, failure, hashes, trace: sim.tracing.map(|trace| trace.lines).unwrap_or_default() }
}

impl Sim {
    fn new(shape: Shape) -> Sim {
        let mut dice = Dice::new(shape.seed);
        let time = Timeline::new();
        let skew = |dice: &mut Dice| (dice.below(400) as i64 - 200) * MS as i64;
        let nodes = shape.nodes.iter().enumerate();
        let nodes: Vec<Node> = nodes
            .map(|(place, kind)| Node::new(place, *kind, NodeClock::new(time.world(), skew(&mut dice)), shape.replicas))
            .collect();
        Sim {
            members: Membership::of(nodes.len()),
            disks: nodes.len(),
            lost_disks: 0,
            network: Network::losing(shape.loss_one_in),
            shape,
            time,
            dice,
            nodes,
            ledger: Ledger::default(),
            connections: Vec::new(),
            queries: Vec::new(),
            endings: BTreeMap::new(),
            parts: BTreeMap::new(),
            unsynced: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            id_clocks: BTreeMap::new(),
            totals: Totals::default(),
            pool: Pool::inline(),
            metrics: Arc::default(),
            tracing: None,
        }
    }

    /// Notes something for whoever wants to read what happened.
    pub fn trace(&mut self, what: impl FnOnce() -> String) {
        let Some(trace) = &mut self.tracing else { return };
        let at = self.time.now();
        let line = format!("{:>6} {:>4}.{:06} s  {}", self.time.steps, at / SECOND, at % SECOND / 1_000, what());
        if trace.prints {
            println!("{line}");
        }
        if trace.lines.len() >= TRACE_LINES {
            trace.lines.remove(0);
        }
        trace.lines.push(line);
    }

    fn play(&mut self, after_each: &mut dyn FnMut(&Sim)) -> Checked {
        let Shape { span, connections, faults, .. } = self.shape;
        for place in 0..self.nodes.len() {
            if self.shape.watched {
                self.watch(place);
            }
            self.time.after(place as u64 * 5 * MS, Event::Start(place));
        }
        if let Some((operation, death)) = self.shape.death {
            self.nodes[0].plan_death(operation, death);
        }
        self.meet(after_each)?;
        let (begun, end) = (self.time.now(), self.time.now() + span);
        for _ in 0..connections {
            let at = begun + 100 * MS + self.dice.below(span);
            self.time.at(at, Event::Connect);
        }
        let mut at = begun + SECOND;
        while at < end {
            self.time.at(at, Event::Query);
            at += 300 * MS + self.dice.below(3 * SECOND);
        }
        for _ in 0..faults {
            let at = begun + self.dice.below(span);
            self.time.at(at, Event::Fault(Fault::Some));
        }
        for _ in 0..self.shape.lost_stores {
            let at = begun + self.dice.below(span);
            self.time.at(at, Event::Fault(Fault::LoseStore));
        }
        self.until(end, after_each)?;
        self.all_is_well_again();
        self.settle_down(after_each)
    }

    pub fn until(&mut self, end: Nanos, after_each: &mut dyn FnMut(&Sim)) -> Checked {
        while let Some(event) = self.time.next(end) {
            self.happen(event)?;
            after_each(self);
        }
        self.time.pass(end);
        Ok(())
    }

    /// The node that an event happens on, if it is one's own.
    fn place_of(&self, event: &Event) -> Option<Ticket> {
        match event {
            Event::Serve(ticket, _)
            | Event::GroupCommit(ticket)
            | Event::Round(ticket)
            | Event::Keep(ticket)
            | Event::Carry(ticket)
            | Event::Gossip(ticket)
            | Event::Stop(ticket)
            | Event::KeepMembers(ticket) => Some(*ticket),
            Event::Arrive(letter) => Some(self.nodes[letter.to].ticket()),
            Event::Datagram(_, to, _) => Some(self.nodes[*to].ticket()),
            _ => None,
        }
    }

    pub fn happen(&mut self, event: Event) -> Checked {
        if let Some(ticket) = self.place_of(&event) {
            let node = &self.nodes[ticket.place];
            if node.life != ticket.life {
                return Ok(());
            }
            if node.busy_until > self.time.now() {
                let until = node.busy_until;
                self.time.at(until, event);
                return Ok(());
            }
            if node.process.is_none() && !matches!(event, Event::Arrive(_)) {
                return Ok(());
            }
        }
        match event {
            Event::Start(place) => self.start(place),
            Event::Connect => {
                self.connect();
                Ok(())
            }
            Event::Send(number) => {
                self.send(number);
                Ok(())
            }
            Event::Serve(_, number) => self.serve(number),
            Event::GroupCommit(ticket) => self.group_commit(ticket.place),
            Event::Round(ticket) => self.round(ticket),
            Event::Keep(ticket) => self.keep(ticket),
            Event::Carry(ticket) => {
                self.carry(ticket);
                Ok(())
            }
            Event::Arrive(letter) => self.arrive(letter),
            Event::Answer(call, reply) => self.answered(call, reply),
            Event::Part(call) => {
                self.part_goes_on(call);
                Ok(())
            }
            Event::Merge(query) => self.query_reads(query),
            Event::Look(query) => self.look(query),
            Event::Datagram(from, to, datagram) => {
                self.datagram(to, from, &datagram);
                Ok(())
            }
            Event::Gossip(ticket) => {
                self.gossip(ticket);
                Ok(())
            }
            Event::KeepMembers(ticket) => self.keep_members(ticket),
            Event::Stop(ticket) => self.stop_goes_on(ticket),
            Event::Query => self.ask(),
            Event::Fault(fault) => self.go_wrong(fault),
        }
    }

    /// Lets a process do something with files. `None` if it dies over it.
    pub fn act<R>(&mut self, place: Place, what: impl FnOnce(&mut Process) -> R) -> Checked<Option<R>> {
        let node = &mut self.nodes[place];
        let Some(process) = node.process.as_mut() else { return Ok(None) };
        let result = what(process);
        let operations = node.disk.operations();
        self.time.note(operations);
        self.look_at_pictures(place)?;
        if let Some((_, death)) = self.nodes[place].death.filter(|_| self.nodes[place].is_dying()) {
            self.end_process(place, death);
            return Ok(None);
        }
        Ok(Some(result))
    }

    /// The ingest tier of a process, if one runs there.
    pub fn ingest_tier(&mut self, place: Place) -> Option<&mut IngestTier> {
        self.nodes[place].process.as_mut()?.ingest.as_mut()
    }

    /// A process ends before its time; another one will begin.
    pub fn end_process(&mut self, place: Place, death: Death) {
        self.trace(|| format!("node {place}: {death:?}"));
        match death {
            Death::Killed => self.totals.kills += 1,
            Death::PowerCut => self.totals.power_cuts += 1,
        }
        self.nodes[place].die(death, &mut self.dice);
        self.forget_process(place);
        let longest = if self.dice.one_in(4) { 15 * SECOND } else { 2 * SECOND };
        let delay = 50 * MS + self.dice.below(longest);
        self.time.after(delay, Event::Start(place));
    }

    fn forget_process(&mut self, place: Place) {
        self.unsynced.remove(&place);
    }

    /// A node's disk, as its processes see it.
    pub fn fs_of(&self, place: Place) -> Arc<dyn FileSystem> {
        broken::disk(Arc::new(self.nodes[place].disk.clone()), self.shape.wrong)
    }

    /// A node starts: recovery, and what it has found.
    fn start(&mut self, place: Place) -> Checked {
        let fs = self.fs_of(place);
        let node = &mut self.nodes[place];
        if node.process.is_some() || node.lost {
            return Ok(());
        }
        let started = node.start(fs, &self.shape, &self.metrics, &mut self.dice);
        let operations = self.nodes[place].disk.operations();
        self.time.note(operations);
        self.look_at_pictures(place)?;
        if let Some((_, death)) = self.nodes[place].death.filter(|_| self.nodes[place].is_dying()) {
            self.totals.deaths_in_recovery += 1;
            self.end_process(place, death);
            return Ok(());
        }
        if let Err(why) = started {
            let is_full = why.contains("o space left");
            self.totals.waited_for_room += u64::from(is_full);
            if self.nodes[place].is_misbehaving || is_full {
                self.trace(|| format!("node {place} does not start: {why}"));
                self.time.after(SECOND, Event::Start(place));
                return Ok(());
            }
            return broken(RECOVERY, format!("node {place} does not start: {why}"));
        }
        if !self.found_after_start(place)? {
            return Ok(());
        }
        self.trace(|| format!("node {place} has started"));
        let ticket = self.nodes[place].ticket();
        self.member_begins(place)?;
        let phase = self.dice.below(100 * MS);
        if self.shape.ingests(place) {
            self.time.after(phase, Event::Round(ticket));
        }
        if self.shape.stores(place) {
            self.time.after(SECOND + phase, Event::Keep(ticket));
            self.time.after(phase, Event::Carry(ticket));
        }
        Ok(())
    }

    /// Holds what a process has recovered against what is due. False if it could not be read, and was killed for it.
    fn found_after_start(&mut self, place: Place) -> Checked<bool> {
        let found = self.act(place, |process| {
            let ingest = process.ingest.as_ref().map(|tier| read_all(&tier.log.snapshot(Id::MIN, Id::MAX)));
            let store = process.store.as_ref().map(|tier| crate::points::read_store(&tier.log));
            (ingest.transpose(), store.transpose())
        })?;
        let Some((ingest, store)) = found else { return Ok(false) };
        let (Ok(ingest), Ok(store)) = (ingest, store) else {
            if !self.nodes[place].is_misbehaving {
                return broken(RECOVERY, format!("what node {place} has recovered cannot be read"));
            }
            self.end_process(place, Death::Killed);
            return Ok(false);
        };
        let node = &mut self.nodes[place];
        let before = std::mem::replace(&mut node.told, (node.ingest_id, node.store_id));
        if before != (None, None) && before != node.told {
            return broken(KEPT, format!("the directories of node {place} have other ids than before"));
        }
        if let Some(found) = ingest {
            self.ledger.recovered(place, &found, !self.nodes[place].has_failed)?;
            let highest = records(&found).filter_map(|stored| stored.id()).map(Id::nanos).max().unwrap_or_default();
            let ids = self.id_clocks.entry(place).or_default();
            ids.highest = ids.highest.max(highest);
        }
        if let Some(found) = store {
            self.ledger.check_store(self.nodes[place].disk_no, &found)?;
        }
        Ok(true)
    }

    fn round(&mut self, ticket: Ticket) -> Checked {
        let Ticket { place, .. } = ticket;
        let now = self.nodes[place].clock.now();
        let done = self.act(place, |process| {
            let tier = process.ingest.as_mut().expect("an ingester");
            tier.log.round(&mut tier.rounds);
            // As the flusher counts: what the fast port wrote before is synced now.
            let synced = now.since(tier.synced) >= Duration::from_secs(1);
            if synced {
                tier.synced = now;
            }
            synced
        })?;
        if done == Some(true) {
            let synced = self.unsynced.remove(&place).unwrap_or_default();
            if !self.nodes[place].is_suspect {
                self.ledger.promise(synced);
            }
        }
        if done.is_some() {
            let jitter = self.dice.below(20 * MS);
            self.time.after(self.shape.round_every() + jitter, Event::Round(ticket));
        }
        Ok(())
    }

    fn keep(&mut self, ticket: Ticket) -> Checked {
        let node = &self.nodes[ticket.place];
        let tier = node.process.as_ref().and_then(|process| process.store.as_ref());
        let horizon = tier.map(|tier| tier.horizon(&*node.clock as &dyn Clock, &self.shape)).unwrap_or_default();
        self.ledger.may_expire(horizon);
        let done = self.act(ticket.place, |process| {
            process.store.as_mut().expect("a store").keeper.tick(&Stop::default());
        })?;
        if done.is_some() {
            self.time.after(SECOND, Event::Keep(ticket));
        }
        Ok(())
    }

    /// Everything works from now on.
    fn all_is_well_again(&mut self) {
        self.trace(|| "from here on nothing goes wrong any more".into());
        self.network.cut.clear();
        self.network.loss_one_in = u64::MAX;
        self.shape.loss_one_in = u64::MAX;
        for place in 0..self.nodes.len() {
            self.behave(place);
            let node = &mut self.nodes[place];
            node.busy_until = 0;
            if node.death.take().is_some() {
                node.disk.crash_at(u64::MAX);
            }
            self.make_room(place);
            let node = &mut self.nodes[place];
            if node.process.is_none() {
                self.time.after(0, Event::Start(place));
            }
        }
    }

    /// Everything drains, and then every node answers completely.
    fn settle_down(&mut self, after_each: &mut dyn FnMut(&Sim)) -> Checked {
        let begun = self.time.now();
        while !(self.is_drained() && self.have_met()) {
            if self.time.now() > begun + PATIENCE {
                return broken(LIVENESS, self.what_is_left());
            }
            self.until(self.time.now() + 2 * SECOND, after_each)?;
            self.restart_what_was_set_aside();
        }
        self.check_copies()?;
        let mut asked = Vec::new();
        for place in 0..self.nodes.len() {
            asked.extend(self.begin_query(place, everything())?);
        }
        let end = self.time.now() + 60 * SECOND;
        while asked.iter().any(|no| !self.endings.contains_key(no)) && self.time.now() < end {
            self.until(self.time.now() + SECOND, after_each)?;
        }
        for no in asked {
            let ending = self.endings.get(&no);
            if ending != Some(&Ending::Complete) {
                return broken(LIVENESS, format!("query {no} has ended {ending:?}"));
            }
        }
        Ok(())
    }

    /// What a disk that failed has kept from being brought in order goes on at the next start: an operator's part.
    fn restart_what_was_set_aside(&mut self) {
        for place in 0..self.nodes.len() {
            let Some(tier) = self.ingest_tier(place) else { continue };
            if matches!(tier.log.wait_until_drained(Duration::ZERO), Drained::ButForAside(_)) {
                self.totals.restarts += 1;
                self.end_process(place, Death::Killed);
            }
        }
    }

    fn is_drained(&self) -> bool {
        let is_empty = |node: &Node| match &node.process {
            Some(Process { ingest: Some(tier), .. }) => tier.log.snapshot(Id::MIN, Id::MAX).is_empty(),
            Some(_) => true,
            None => node.lost,
        };
        // Who was told to end before all was well ends, and is started again.
        let nobody_ends = self.nodes.iter().all(|node| node.stopping.is_none());
        nobody_ends && self.producers_are_done() && self.nodes.iter().all(is_empty)
    }

    fn what_is_left(&self) -> String {
        let states = self.nodes.iter().map(|node| match &node.process {
            Some(Process { ingest: Some(tier), .. }) => format!("node {}: {:?}", node.place, tier.log.states()),
            Some(_) => format!("node {} runs", node.place),
            None => format!("node {} does not run", node.place),
        });
        let (done, missing) = (self.producers_are_done(), self.who_is_missing());
        let states = states.collect::<Vec<_>>().join("; ");
        format!("after {} s: producers are done: {done}; {states}; {missing}", PATIENCE / SECOND)
    }

    fn check_copies(&mut self) -> Checked {
        let mut contents = BTreeMap::new();
        for node in &self.nodes {
            let Some(Process { store: Some(tier), .. }) = &node.process else { continue };
            let Ok(found) = crate::points::read_store(&tier.log) else {
                return broken(KEPT, format!("the store of node {} cannot be read", node.place));
            };
            contents.insert(node.place, records(&found).filter_map(|stored| stored.id()).collect::<BTreeSet<Id>>());
        }
        match self.ledger.not_on(self.shape.replicas, self.lost_disks, &contents).first() {
            Some(no) => broken(KEPT, format!("fewer than R stores have {}", self.ledger.describe(*no))),
            None => Ok(()),
        }
    }
}
