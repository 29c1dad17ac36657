//! One node's part in the cluster as a value: the machine, the table it makes, the view others see, and what is to be kept.
//!
//! Nothing here acts: each call says in a [`Todo`] what is to be sent, told and looked up, and [`Member::unsaved`] what is
//! to be written. `thread` does it with a socket, a clock and threads; a simulation does it in virtual time.
//!
//! A round is any number of [`Member::handle`] and one [`Member::tick`] after them: the view is made anew once a round,
//! not for each datagram.

use super::auth::{Keys, Refusals, Seal};
use super::forget;
use super::machine::{Config, Counts, Event, Machine, Out};
use super::remembered::{Remembered, Unsaved};
use super::timing::Timing;
use super::view::{News, Table, differing_replicas, news, view_of};
use super::{DataId, ForgetError, Load, Meta, NodeId, Peer, State, View};
use crate::unit::Monotonic;
use crate::world::entropy::Dice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a start waits for an answer of any peer that was named, before it takes lines alone.
pub const FIRST_WORD: Duration = Duration::from_secs(3);

/// How long a new ingester is known to somebody before it takes lines: that it joined is known to all members by then
/// (1.6 s at 5,000 nodes, simulated), so no query that calls itself complete leaves it out. One in which records wait
/// did not leave with everything handed over: it was missed while it was away, and need not wait.
pub const KNOWN_TO_ALL: Duration = Duration::from_millis(1600);

/// What a member begins with.
pub struct Setup {
    /// Who this process is.
    pub node: NodeId,
    /// What it is. The start number is set here: later than any before in this directory.
    pub meta: Meta,
    /// The rhythm.
    pub timing: Timing,
    /// What proves that a datagram is of this cluster.
    pub keys: Keys,
    /// What chance rests on.
    pub dice: Dice,
    /// Whether no record waits in its ingest tier: then nobody may know of it, or all may believe that it has handed over
    /// everything and left, and in either case nobody misses it.
    pub is_new: bool,
    /// Whether others were named to it: it is not alone by what it was told.
    pub has_peers: bool,
}

/// What is to be done after a call, in no order but that of the datagrams.
#[derive(Default, Debug)]
pub struct Todo {
    out: Out,
    /// What has become of others, for the log.
    pub news: Vec<(Peer, News)>,
    /// Members work with different R, and that is new: these.
    pub differing: Option<Vec<u8>>,
    /// Two nodes serve the same directory. Comes again for as long as it is so.
    pub copied: Vec<(Arc<Meta>, Arc<Meta>)>,
    /// The peers that were named are to be looked up, and [`Member::join`] to be called with their addresses.
    pub wants_peers: bool,
    /// [`Member::view`] is another than before.
    pub has_new_view: bool,
}

impl Todo {
    /// To be sent, in this order.
    pub fn datagrams(&self) -> &[(SocketAddr, Vec<u8>)] {
        &self.out.datagrams
    }
}

/// Whether a node may take lines yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doors {
    /// It may.
    Open,
    /// It may, though no peer has answered.
    OpenAlone,
    /// Not before this time, at which it is to be asked again; sooner only if another member was heard meanwhile.
    ShutUntil(Monotonic),
}

/// One node's part in the cluster.
#[derive(Debug)]
pub struct Member {
    me: Peer,
    machine: Machine,
    table: Table,
    view: Arc<View>,
    /// Raised when the claims in the table are others than before.
    version: u64,
    /// The different R that were told of last.
    replicas: Option<Vec<u8>>,
    refusals: Refusals,
    began: Monotonic,
    is_new: bool,
    has_peers: bool,
}

impl Member {
    /// A process that has just started. `remembered` is what a former one knew. `unix_ms` is the time of day.
    pub fn begin(setup: Setup, remembered: Remembered, now: Monotonic, unix_ms: u64) -> Member {
        let Setup { node, mut meta, timing, keys, dice, is_new, has_peers } = setup;
        meta.start = remembered.next_start(unix_ms);
        let me = Peer { node, meta: meta.clone(), state: State::Alive, load: None };
        let seal = Seal::new(keys, node, unix_ms);
        let refusals = seal.refusals();
        let config = Config { node, meta, remembered: remembered.claims, timing };
        let machine = Machine::new(config, seal, dice, now);
        let table: Table = machine.claims().collect();
        let view = Arc::new(view_of(&me, &table));
        Member { me, machine, table, view, version: 1, replicas: None, refusals, began: now, is_new, has_peers }
    }

    /// Takes a datagram. The view follows with the next tick.
    pub fn handle(&mut self, now: Monotonic, from: SocketAddr, datagram: &[u8], todo: &mut Todo) {
        self.machine.handle(now, from, datagram, &mut todo.out);
    }

    /// Does what is due, and makes the view anew if anything has changed since the last time.
    pub fn tick(&mut self, now: Monotonic, todo: &mut Todo) {
        self.machine.tick(now, &mut todo.out);
        self.settle(todo);
    }

    /// When [`Member::tick`] is to be called next.
    pub fn next_deadline(&self) -> Monotonic {
        self.machine.next_deadline()
    }

    /// Calls at these addresses, which the peers that were named have now. A name for all nodes has this one among them.
    pub fn join(&mut self, now: Monotonic, addresses: &[SocketAddr], todo: &mut Todo) {
        let others: Vec<SocketAddr> = addresses.iter().copied().filter(|to| *to != self.me.meta.gossip).collect();
        self.machine.join(now, &others, &mut todo.out);
        self.settle(todo);
    }

    /// Says good-bye. `drained`: no record is here alone.
    pub fn leave(&mut self, now: Monotonic, drained: bool, todo: &mut Todo) {
        self.machine.leave(now, drained, &mut todo.out);
        self.settle(todo);
    }

    /// Whether the good-bye has been said often enough.
    pub fn has_left(&self, now: Monotonic) -> bool {
        self.machine.has_left(now)
    }

    /// Lets all know that a silent node will not come back and that its records are not to be missed; gives who it was.
    /// It is to be written before the operator is told, so that it holds even if all nodes stop now.
    pub fn forget(&mut self, now: Monotonic, name: &str, todo: &mut Todo) -> Result<Peer, ForgetError> {
        let chosen = forget::choose(&self.view, name)?.clone();
        self.machine.forget(now, chosen.node, &mut todo.out);
        todo.out.events.push(Event::Changed);
        self.settle(todo);
        Ok(chosen)
    }

    /// What to say of this node's load from now on. What others said of theirs changes no claim, so this makes the view
    /// anew, too.
    pub fn set_load(&mut self, load: Load, todo: &mut Todo) {
        self.machine.set_load(load);
        self.refresh(todo);
    }

    /// Whether another member was heard since the start.
    pub fn is_joined(&self) -> bool {
        self.machine.is_joined()
    }

    /// Whether this node knows whom to miss: since its start it has found another whose table is like its own, or there is
    /// nobody to hear. What it remembers is as old as the end of its last process: an ingester that joined while it was away
    /// is not in it.
    pub fn is_informed(&self) -> bool {
        let is_alone = !self.has_peers && self.view.others.is_empty() && self.view.silent.is_empty();
        is_alone || self.machine.is_informed()
    }

    /// Whether lines may be taken at `now`.
    pub fn doors(&self, now: Monotonic) -> Doors {
        let takes_lines = self.me.meta.kind.ingests();
        let opens = match self.machine.joined {
            _ if !self.has_peers => return Doors::Open,
            Some(at) if self.is_new && takes_lines => at + KNOWN_TO_ALL,
            Some(_) => return Doors::Open,
            None => self.began + FIRST_WORD,
        };
        match () {
            () if now < opens => Doors::ShutUntil(opens),
            () if self.is_joined() => Doors::Open,
            () => Doors::OpenAlone,
        }
    }

    /// Who is there, as of the last tick.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The stores that were forgotten, as long as that is remembered.
    pub fn forgotten(&self) -> Vec<DataId> {
        let gone = self.table.iter().filter(|(claim, _)| claim.state == State::Forgotten);
        gone.filter_map(|(claim, _)| claim.meta.store).collect()
    }

    /// What is to be written, if claims have changed since the table had this version. The first version is 1.
    pub fn unsaved(&self, since: u64) -> Option<Unsaved> {
        let version = self.version;
        let claims = || self.table.iter().map(|(claim, _)| claim.clone()).collect();
        (since != version)
            .then(|| Unsaved { version, remembered: Remembered { start: self.me.meta.start, claims: claims() } })
    }

    /// What was dropped, refused and passed over.
    pub fn counts(&self) -> Counts {
        self.machine.counts()
    }

    /// How slow this node has reason to believe it is itself, 0 to 8.
    pub fn health(&self) -> u32 {
        self.machine.health()
    }

    /// The count of datagrams that are refused.
    pub fn refusals(&self) -> Refusals {
        self.refusals.clone()
    }

    /// Turns what the machine says has happened into what is to be done.
    fn settle(&mut self, todo: &mut Todo) {
        let mut has_changed = false;
        for event in todo.out.events.drain(..) {
            match event {
                Event::Changed => has_changed = true,
                Event::WantPeers => todo.wants_peers = true,
                // Told from one view to the next, which also knows whether anything is missed.
                Event::Became { .. } => {}
                Event::Copied { one, other } => todo.copied.push((one, other)),
            }
        }
        if has_changed {
            self.refresh(todo);
        }
    }

    /// Makes the view anew, and tells what is new in it.
    fn refresh(&mut self, todo: &mut Todo) {
        let table: Table = self.machine.claims().collect();
        let before = std::mem::replace(&mut self.table, table);
        let is_same = before.iter().map(|(claim, _)| claim).eq(self.table.iter().map(|(claim, _)| claim));
        self.version += u64::from(!is_same);
        let after = Arc::new(view_of(&self.me, &self.table));
        let old = std::mem::replace(&mut self.view, after);
        todo.has_new_view = true;
        todo.news.extend(news((&before, &old), (&self.table, &self.view)));
        let replicas = differing_replicas(&self.view);
        if self.replicas != replicas {
            todo.differing.clone_from(&replicas);
            self.replicas = replicas;
        }
    }
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
