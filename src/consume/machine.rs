//! What a consumer does next: gather, copy, commit, or give back. No clock, no network, no file.
//!
//! ```text
//!            Offered: not full           Spoilt: without that piece
//!             .--------.                  .--------.
//!             v        |                  v        |
//!  Woke --> gathering -'-- full, old --> copying --+-- R receipts of different stores --> Commit
//!             |                             |
//!             '-- nothing: WaitUntil        '-- no store left to try --> FailBack, WaitUntil
//! ```
//!
//! A batch is copied when it is full; or when its oldest record is as old as [`Settings::target_age`], or its last piece is all
//! that there was, once the ingesters that were asked have answered. So as not to make a file of every small segment, batches that
//! are not full begin at least half of that age apart, and none waits longer than the whole of it from its first piece on: a
//! record is on its way to the stores at most max(age at which it was closed, target age) + half the target age + one round of
//! questions after it came in, and while one consumer takes all there is, without that half.
//!
//! Several ingesters are asked at once, in turn; one that does not answer holds up nobody but itself. One that has nothing is
//! left alone for the delay, twice as long each time, up to [`LONGEST_WAIT`]. Who fails rests ([`super::rest`]): an ingester is
//! not asked meanwhile, a store is sent to only where R others are not to be had. While fewer than R stores are awake nothing
//! is gathered: it could not be copied, and the ingesters are the queue.
//!
//! Bounds: one batch at a time, of at most [`MOST_PIECES`] segments, and at most one segment over the target size; besides
//! it what the ingesters that were asked hand out meanwhile, at most [`MOST_ASKED`] segments. A batch is sent at most
//! [`MOST_ROUNDS`] times for the stores' sake. Of segments that failed, [`MOST_REMEMBERED`] are remembered.

use super::links::Offer;
use super::rest::{Rests, Why, doubled};
use crate::cluster::DataId;
use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::store::replicate::{Receipt, StoreId};
use crate::unit::{Bytes, Monotonic};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How many segments one batch holds at most: each may be open, with two blocks of memory, while they are merged.
pub const MOST_PIECES: usize = 64;

/// How many ingesters are asked at once at most.
pub const MOST_ASKED: usize = 8;

/// How often a batch is sent at most, to other stores each time, before it is given back.
pub const MOST_ROUNDS: usize = 4;

/// How many failed segments are remembered. Beyond it the one with the smallest name is forgotten, and has three tries again.
pub const MOST_REMEMBERED: usize = 1024;

/// How often a segment may fail before it is set aside.
pub const MOST_FAILURES: u32 = 3;

/// The longest wait between two looks for work and for members.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The shortest: a delay of none would be a busy loop.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// What a peer is called.
pub type Peer = Arc<str>;

/// What a consumer keeps to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// On how many different stores a segment must be before its ingester may delete it; at least 1.
    pub replicas: usize,
    /// A batch of this size is copied.
    pub target_size: Bytes,
    /// A batch whose oldest record is so old is copied, however small it is.
    pub target_age: Duration,
    /// How long an ingester that has nothing is left alone at first; it doubles up to [`LONGEST_WAIT`]. At least 1 ms.
    pub delay: Duration,
    /// How often segments in hand are renewed: well below the ingesters' pending timeout.
    pub renew_every: Duration,
    /// With which peers it begins, counted from the first by name: any number. Consumers that start at the same time should
    /// each have another one, so that they do not all turn to the same ingesters and stores.
    pub turn: usize,
}

/// A segment in hand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The ingester it is from.
    pub from: Peer,
    /// Which one, and how long.
    pub offer: Offer,
}

/// Why a segment could not be merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Its ingester does not answer: this says nothing about the segment.
    Unreachable,
    /// Its ingester does not have it pending any more: it was too late.
    Gone,
    /// Its bytes broke off, maybe because they were not listened to for too long: this says nothing about the segment.
    Interrupted,
    /// Its bytes broke off, or are not what its ingester said, or are no segment.
    Unreadable,
}

/// How a store answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It has the segment. The digest is what was sent.
    Has(Receipt),
    /// It has not, because it has no room.
    Full,
    /// It has not, for another reason: it refused, broke off, was too slow, or could not be reached.
    HasNot,
    /// It was not let finish, because the others could not: this says nothing about it.
    CutShort,
}

/// What has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Nothing in particular; these are the peers known now.
    Woke {
        /// All ingesters.
        ingesters: Vec<Peer>,
        /// All stores.
        stores: Vec<Peer>,
    },
    /// An ingester has handed out a segment.
    Offered(Piece),
    /// An ingester has none.
    Nothing {
        /// Which one.
        from: Peer,
    },
    /// An ingester did not answer.
    Silent {
        /// Which one.
        from: Peer,
    },
    /// An ingester that was not asked says that it may have one.
    Stirred {
        /// Which one.
        from: Peer,
    },
    /// The batch was merged and sent.
    Copied {
        /// What was sent.
        sent: Digest,
        /// The answers, one for each store that was asked.
        answers: Vec<(Peer, Answer)>,
    },
    /// The batch could not be merged, because of this segment. No store has kept anything.
    Spoilt {
        /// The segment.
        piece: Piece,
        /// What is wrong.
        fault: Fault,
    },
    /// The batch was not sent to its end, since too few stores went on taking it.
    NotCopied {
        /// The answers, one for each store that was asked. None of them has it.
        answers: Vec<(Peer, Answer)>,
    },
    /// The process is about to end.
    Stopping,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask these ingesters for their next segment, all at the same time and without waiting for the answers: Offered, Nothing
    /// or Silent, for each of them once, at any time later.
    Ask {
        /// Which ones.
        from: Vec<Peer>,
    },
    /// Merge these and send the result to these stores: Copied, NotCopied or Spoilt.
    Copy {
        /// The segments.
        pieces: Vec<Piece>,
        /// The stores.
        to: Vec<Peer>,
        /// How many other stores there are that could take the place of one that fails.
        spare: usize,
    },
    /// Tell the ingesters that they may delete these.
    Commit {
        /// The segments.
        pieces: Vec<Piece>,
        /// The stores that have them.
        stores: Vec<DataId>,
    },
    /// Give these back to their ingesters.
    FailBack(Vec<Piece>),
    /// Tell the ingester to take this one out of circulation.
    SetAside(Piece),
    /// Tell the ingesters that these are still being worked on.
    Renew(Vec<Piece>),
    /// Wait until an ingester answers. If none has by then, look around: Woke.
    WaitUntil(Monotonic),
}

/// An ingester, as this consumer has found it.
#[derive(Debug)]
struct Ingester {
    name: Peer,
    /// It was asked and has not answered yet.
    asked: bool,
    /// It has said meanwhile that it may have something.
    stirred: bool,
    /// When it may be asked again.
    due: Monotonic,
    /// How long it was left alone last because it had nothing; zero if it had something.
    dry: Duration,
    /// How long it was left alone last because it did not answer; zero if it did.
    silent: Duration,
}

impl Ingester {
    fn new(name: Peer) -> Ingester {
        let (dry, silent) = (Duration::ZERO, Duration::ZERO);
        Ingester { name, asked: false, stirred: false, due: Monotonic::default(), dry, silent }
    }

    fn was_silent(&mut self, now: Monotonic) {
        self.silent = doubled(self.silent, Why::Failed.shortest(), Why::Failed.longest());
        self.due = now + self.silent;
    }
}

/// A consumer.
#[derive(Debug)]
pub struct Consumer {
    settings: Settings,
    /// By name.
    ingesters: Vec<Ingester>,
    stores: Vec<Peer>,
    batch: Vec<Piece>,
    /// When the first piece of the batch was taken.
    since: Monotonic,
    /// When the oldest record of the batch is old enough, or at once where nothing is left to wait for.
    ripe: Monotonic,
    /// When the next batch that is not full may be copied.
    spaced: Monotonic,
    renewed: Monotonic,
    /// When it looked around last.
    looked: Monotonic,
    /// When to look around again where there is nothing to do, and how long it waits the next time.
    look_at: Monotonic,
    wait: Duration,
    /// How many that were asked have not answered yet.
    asked: usize,
    failing: Rests,
    /// Which ingester was asked last, and which store was sent to last: the next one's turn comes.
    last_asked: Option<Peer>,
    last_sent: Option<Peer>,
    /// How often the batch was sent as it is now.
    rounds: usize,
    /// A batch of this size is copied: the target size, less where a store had no room for one, so that a store with little room
    /// takes small ones. Bytes.
    largest: u64,
    /// Stores that were asked to take the batch as it is now, and those that have it.
    tried: BTreeSet<Peer>,
    copies: BTreeMap<StoreId, Digest>,
    failures: BTreeMap<(Id, Peer), u32>,
}

impl Consumer {
    /// A consumer that has nothing in hand.
    pub fn new(settings: Settings) -> Consumer {
        let settings = Settings { delay: settings.delay.clamp(SHORTEST_WAIT, LONGEST_WAIT), ..settings };
        Consumer {
            wait: settings.delay,
            settings,
            ingesters: Vec::new(),
            stores: Vec::new(),
            batch: Vec::new(),
            since: Monotonic::default(),
            ripe: Monotonic::default(),
            spaced: Monotonic::default(),
            renewed: Monotonic::default(),
            looked: Monotonic::default(),
            look_at: Monotonic::default(),
            asked: 0,
            failing: Rests::default(),
            last_asked: None,
            last_sent: None,
            rounds: 0,
            largest: settings.target_size.0,
            tried: BTreeSet::new(),
            copies: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// One step. `now` is the only clock it ever sees.
    pub fn step(&mut self, now: Monotonic, event: Event) -> Vec<Action> {
        match event {
            Event::Woke { ingesters, stores } => self.look_around(now, ingesters, stores),
            Event::Offered(piece) => self.take(now, piece),
            Event::Nothing { from } => {
                let delay = self.settings.delay;
                self.answered(&from, |ingester| {
                    ingester.dry = doubled(ingester.dry, delay, LONGEST_WAIT);
                    ingester.silent = Duration::ZERO;
                    ingester.due = now + ingester.dry;
                    if std::mem::take(&mut ingester.stirred) {
                        ingester.due = now;
                    }
                });
                self.gather(now)
            }
            Event::Stirred { from } => {
                self.change(&from, |ingester| {
                    ingester.stirred = ingester.asked;
                    (ingester.dry, ingester.due) = (Duration::ZERO, now);
                });
                self.gather(now)
            }
            Event::Silent { from } => {
                self.answered(&from, |ingester| ingester.was_silent(now));
                self.gather(now)
            }
            Event::Copied { sent, answers } => self.count_copies(now, sent, answers),
            Event::NotCopied { answers } => {
                self.judge(now, None, answers);
                self.copy_elsewhere(now)
            }
            Event::Spoilt { piece, fault } => self.do_without(now, piece, fault),
            Event::Stopping => {
                // What is offered from now on is given back too.
                self.stores.clear();
                self.give_back()
            }
        }
    }

    fn look_around(&mut self, now: Monotonic, mut ingesters: Vec<Peer>, mut stores: Vec<Peer>) -> Vec<Action> {
        stores.sort();
        self.stores = stores;
        self.failing.keep(&self.stores);
        if !ingesters.iter().eq(self.ingesters.iter().map(|known| &known.name)) {
            ingesters.sort();
            let mut known: BTreeMap<Peer, Ingester> =
                self.ingesters.drain(..).map(|ingester| (ingester.name.clone(), ingester)).collect();
            let kept = |name: Peer| known.remove(&name).unwrap_or_else(|| Ingester::new(name));
            self.ingesters = ingesters.into_iter().map(kept).collect();
        }
        self.looked = now;
        if self.enough_stores(now) {
            self.wait = self.settings.delay;
        } else {
            self.put_off(now);
        }
        self.gather(now)
    }

    /// An ingester has answered, or not; `then` says what follows from it.
    fn answered(&mut self, name: &Peer, then: impl FnOnce(&mut Ingester)) {
        self.asked = self.asked.saturating_sub(1);
        self.change(name, |ingester| {
            ingester.asked = false;
            then(ingester);
        });
    }

    fn change(&mut self, name: &Peer, how: impl FnOnce(&mut Ingester)) {
        // It may be no member any more.
        if let Ok(at) = self.ingesters.binary_search_by(|ingester| ingester.name.cmp(name)) {
            how(&mut self.ingesters[at]);
        }
    }

    fn take(&mut self, now: Monotonic, piece: Piece) -> Vec<Action> {
        self.answered(&piece.from, |ingester| {
            (ingester.dry, ingester.silent, ingester.due) = (Duration::ZERO, Duration::ZERO, now);
            ingester.stirred = false;
        });
        let Offer { age, is_last, .. } = piece.offer;
        let ripe = if is_last { now } else { now + self.settings.target_age.saturating_sub(age) };
        if self.batch.is_empty() {
            (self.since, self.renewed, self.ripe) = (now, now, ripe);
        }
        self.ripe = self.ripe.min(ripe);
        self.batch.push(piece);
        self.gather(now)
    }

    /// Whether what is gathered could be copied.
    fn enough_stores(&self, now: Monotonic) -> bool {
        self.stores.iter().filter(|store| self.failing.may_be_asked(now, store)).count() >= self.settings.replicas
    }

    fn size(&self) -> u64 {
        self.batch.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.offer.len.0))
    }

    /// Asks the next ingesters, or starts to copy, or waits.
    fn gather(&mut self, now: Monotonic) -> Vec<Action> {
        if !self.enough_stores(now) {
            let mut actions = self.give_back();
            actions.push(Action::WaitUntil(self.look_at));
            return actions;
        }
        let full = self.size() >= self.largest || self.batch.len() >= MOST_PIECES;
        let late = self.since + self.settings.target_age;
        if !self.batch.is_empty() && (full || now >= late) {
            return self.begin_copy(now, full);
        }
        let mut actions = Vec::new();
        let from = self.next_ingesters(now);
        if !from.is_empty() {
            actions.push(Action::Ask { from });
        }
        let ready = self.ripe.max(self.spaced);
        if !self.batch.is_empty() && self.asked == 0 && now >= ready {
            return self.begin_copy(now, false);
        }
        let mut until = self.next_look();
        if !self.batch.is_empty() {
            if now.since(self.renewed) >= self.settings.renew_every {
                self.renewed = now;
                actions.push(Action::Renew(self.batch.clone()));
            }
            until = until.min(late);
            if self.asked == 0 {
                until = until.min(ready);
            }
        }
        actions.push(Action::WaitUntil(until));
        actions
    }

    fn begin_copy(&mut self, now: Monotonic, full: bool) -> Vec<Action> {
        if !full {
            self.spaced = now + self.settings.target_age / 2;
        }
        self.start_over();
        self.copy_elsewhere(now)
    }

    fn next_ingesters(&mut self, now: Monotonic) -> Vec<Peer> {
        let room = MOST_PIECES.saturating_sub(self.batch.len()).min(MOST_ASKED).saturating_sub(self.asked);
        let start = start(&self.ingesters, |ingester| &ingester.name, self.last_asked.as_ref(), self.settings.turn);
        let (before, after) = self.ingesters.split_at_mut(start);
        let due = after.iter_mut().chain(before).filter(|ingester| !ingester.asked && ingester.due <= now);
        let mut from = Vec::new();
        for ingester in due.take(room) {
            ingester.asked = true;
            from.push(ingester.name.clone());
        }
        self.asked += from.len();
        self.last_asked = from.last().cloned().or(self.last_asked.take());
        from
    }

    /// When the next ingester is due, but not more often than the delay says, and for the members' sake not more seldom than
    /// [`LONGEST_WAIT`].
    fn next_look(&self) -> Monotonic {
        let due = self.ingesters.iter().filter(|ingester| !ingester.asked).map(|ingester| ingester.due).min();
        let latest = self.looked + LONGEST_WAIT;
        due.unwrap_or(latest).clamp(self.looked + self.settings.delay, latest)
    }

    fn count_copies(&mut self, now: Monotonic, sent: Digest, answers: Vec<(Peer, Answer)>) -> Vec<Action> {
        self.judge(now, Some(sent), answers);
        // What was sent in an earlier round counts only if it was the same.
        self.copies.retain(|_, digest| *digest == sent);
        if self.copies.len() < self.settings.replicas {
            return self.copy_elsewhere(now);
        }
        self.largest = self.largest.saturating_mul(2).min(self.settings.target_size.0);
        let stores = self.copies.keys().map(|store| DataId(store.0)).collect();
        self.start_over();
        let pieces = std::mem::take(&mut self.batch);
        for piece in &pieces {
            self.failures.remove(&(piece.offer.id, piece.from.clone()));
        }
        vec![Action::Commit { pieces, stores }]
    }

    /// Counts the copies of what was sent, and lets rest who has failed.
    fn judge(&mut self, now: Monotonic, sent: Option<Digest>, answers: Vec<(Peer, Answer)>) {
        for (store, answer) in answers {
            match answer {
                Answer::Has(receipt) if Some(receipt.digest) == sent => {
                    self.copies.insert(receipt.store_id, receipt.digest);
                    self.failing.worked(&store);
                }
                Answer::Has(_) | Answer::HasNot => self.failing.failed(now, &store, Why::Failed),
                Answer::Full => {
                    self.failing.failed(now, &store, Why::Full);
                    self.largest = (self.size() / 4).max(1);
                }
                Answer::CutShort => drop(self.tried.remove(&store)),
            }
        }
    }

    /// Sends the batch to as many more stores as it needs, which have not been asked yet: first those that do not rest, last
    /// those that are full.
    fn copy_elsewhere(&mut self, now: Monotonic) -> Vec<Action> {
        let missing = self.settings.replicas.saturating_sub(self.copies.len());
        let start = start(&self.stores, |store| store, self.last_sent.as_ref(), self.settings.turn);
        let in_turn = self.stores.iter().skip(start).chain(self.stores.iter().take(start));
        let mut to: Vec<Peer> = in_turn.filter(|peer| !self.tried.contains(*peer)).cloned().collect();
        to.sort_by_key(|peer| self.failing.why(now, peer));
        if to.len() < missing || self.batch.is_empty() || self.rounds >= MOST_ROUNDS {
            let mut actions = self.give_back();
            self.put_off(now);
            actions.push(Action::WaitUntil(self.look_at));
            return actions;
        }
        let spare = to.len().saturating_sub(missing);
        to.truncate(missing);
        self.rounds += 1;
        self.tried.extend(to.iter().cloned());
        let awake = to.iter().rev().find(|peer| self.failing.why(now, peer).is_none());
        self.last_sent = awake.or(to.last()).cloned();
        vec![Action::Copy { pieces: self.batch.clone(), to, spare }]
    }

    /// Takes a segment out of the batch and copies the others: what was sent before was another segment.
    fn do_without(&mut self, now: Monotonic, piece: Piece, fault: Fault) -> Vec<Action> {
        let mut actions = Vec::new();
        match fault {
            // Neither is it asked to take its segments back: its own deadline does that.
            Fault::Unreachable => {
                self.change(&piece.from, |ingester| ingester.was_silent(now));
                self.batch.retain(|other| other.from != piece.from);
            }
            Fault::Gone => self.batch.retain(|other| *other != piece),
            Fault::Interrupted => {
                self.batch.retain(|other| *other != piece);
                actions.push(Action::FailBack(vec![piece]));
            }
            Fault::Unreadable => {
                self.batch.retain(|other| *other != piece);
                actions.push(self.count_failure(piece));
            }
        }
        self.start_over();
        // Gives nothing back where nothing is left.
        actions.extend(self.copy_elsewhere(now));
        actions
    }

    fn count_failure(&mut self, piece: Piece) -> Action {
        let key = (piece.offer.id, piece.from.clone());
        let failures = self.failures.entry(key.clone()).or_default();
        *failures += 1;
        if *failures >= MOST_FAILURES {
            self.failures.remove(&key);
            return Action::SetAside(piece);
        }
        if self.failures.len() > MOST_REMEMBERED {
            self.failures.pop_first();
        }
        Action::FailBack(vec![piece])
    }

    fn start_over(&mut self) {
        self.rounds = 0;
        self.tried.clear();
        self.copies.clear();
    }

    fn give_back(&mut self) -> Vec<Action> {
        self.start_over();
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Vec::new() } else { vec![Action::FailBack(batch)] }
    }

    /// Looks around after a wait, which is twice as long each time until there is work.
    fn put_off(&mut self, now: Monotonic) {
        self.look_at = now + self.wait;
        self.wait = self.wait.saturating_mul(2).min(LONGEST_WAIT);
    }
}

/// Whose turn it is: the one after `last`, or, where there is no such one, the one at `turn`. Less than the length.
fn start<T>(peers: &[T], name: impl Fn(&T) -> &Peer, last: Option<&Peer>, turn: usize) -> usize {
    let after_last = last.and_then(|last| peers.binary_search_by(|peer| name(peer).cmp(last)).ok()).map(|at| at + 1);
    after_last.unwrap_or(turn).checked_rem(peers.len()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
