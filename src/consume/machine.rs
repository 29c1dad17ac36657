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
//! Bounds: one batch at a time, of at most [`MOST_PIECES`] segments, and at most one segment over the target size. Of
//! segments that failed, [`MOST_REMEMBERED`] are remembered.

use super::links::Offer;
use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::store::replicate::{Receipt, StoreId};
use crate::unit::{Bytes, Monotonic};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How many segments one batch holds at most: each may be open, with two blocks of memory, while they are merged.
pub const MOST_PIECES: usize = 64;

/// How many failed segments are remembered. Beyond it the one with the smallest name is forgotten, and has three tries again.
pub const MOST_REMEMBERED: usize = 1024;

/// How often a segment may fail before it is set aside.
pub const MOST_FAILURES: u32 = 3;

/// The longest wait between two looks for work, and how long a peer that did not answer is left alone.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What a peer is called.
pub type Peer = Arc<str>;

/// What a consumer keeps to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// On how many different stores a segment must be before its ingester may delete it; at least 1.
    pub replicas: usize,
    /// A batch of this size is copied.
    pub target_size: Bytes,
    /// A batch whose first segment was taken so long ago is copied, however small it is.
    pub target_age: Duration,
    /// The first wait where there is no work; it doubles up to [`LONGEST_WAIT`].
    pub delay: Duration,
    /// How often segments in hand are renewed: well below the ingesters' pending timeout.
    pub renew_every: Duration,
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
    /// Its bytes broke off, or are not what its ingester said, or are no segment.
    Unreadable,
}

/// How a store answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It has the segment. The digest is what was sent.
    Has(Receipt),
    /// It has not, for whatever reason.
    HasNot,
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
    /// No store took the batch to its end.
    NotCopied,
    /// The process is about to end.
    Stopping,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask an ingester for its next segment: Offered, Nothing or Silent.
    Ask {
        /// Which one.
        from: Peer,
    },
    /// Merge these and send the result to these stores: Copied, NotCopied or Spoilt.
    Copy {
        /// The segments.
        pieces: Vec<Piece>,
        /// The stores.
        to: Vec<Peer>,
    },
    /// Tell the ingesters that they may delete these.
    Commit(Vec<Piece>),
    /// Give these back to their ingesters.
    FailBack(Vec<Piece>),
    /// Tell the ingester to take this one out of circulation.
    SetAside(Piece),
    /// Tell the ingesters that these are still being worked on.
    Renew(Vec<Piece>),
    /// Do nothing until then.
    WaitUntil(Monotonic),
}

/// A consumer.
#[derive(Debug)]
pub struct Consumer {
    settings: Settings,
    ingesters: Vec<Peer>,
    stores: Vec<Peer>,
    batch: Vec<Piece>,
    /// When the first piece of the batch was taken.
    since: Monotonic,
    renewed: Monotonic,
    /// Ingesters that had nothing in this round.
    dry: BTreeSet<Peer>,
    /// Ingesters that did not answer, and until when they are left alone.
    resting: BTreeMap<Peer, Monotonic>,
    /// Which ingester was asked last, and which store was sent to last: the next one's turn comes.
    last_asked: Option<Peer>,
    last_sent: Option<Peer>,
    /// Stores that were asked to take the batch as it is now, and those that have it.
    tried: BTreeSet<Peer>,
    copies: BTreeMap<StoreId, Digest>,
    failures: BTreeMap<(Id, Peer), u32>,
    wait: Duration,
}

impl Consumer {
    /// A consumer that has nothing in hand.
    pub fn new(settings: Settings) -> Consumer {
        Consumer {
            wait: settings.delay,
            settings,
            ingesters: Vec::new(),
            stores: Vec::new(),
            batch: Vec::new(),
            since: Monotonic::default(),
            renewed: Monotonic::default(),
            dry: BTreeSet::new(),
            resting: BTreeMap::new(),
            last_asked: None,
            last_sent: None,
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
                self.dry.insert(from);
                self.gather(now)
            }
            Event::Silent { from } => {
                self.resting.insert(from, now + LONGEST_WAIT);
                self.gather(now)
            }
            Event::Copied { sent, answers } => self.count_copies(now, sent, answers),
            Event::NotCopied => self.copy_elsewhere(now),
            Event::Spoilt { piece, fault } => self.do_without(now, piece, fault),
            Event::Stopping => self.give_back(),
        }
    }

    fn look_around(&mut self, now: Monotonic, ingesters: Vec<Peer>, stores: Vec<Peer>) -> Vec<Action> {
        (self.ingesters, self.stores) = (ingesters, stores);
        self.resting.retain(|peer, until| *until > now && self.ingesters.contains(peer));
        self.dry.clear();
        if self.stores.len() >= self.settings.replicas {
            return self.gather(now);
        }
        let mut actions = self.give_back();
        actions.push(self.rest(now));
        actions
    }

    fn take(&mut self, now: Monotonic, piece: Piece) -> Vec<Action> {
        if self.batch.is_empty() {
            (self.since, self.renewed) = (now, now);
        }
        self.wait = self.settings.delay;
        self.batch.push(piece);
        self.gather(now)
    }

    /// Asks the next ingester, or starts to copy, or waits.
    fn gather(&mut self, now: Monotonic) -> Vec<Action> {
        let age = now.since(self.since);
        let size = self.batch.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.offer.len.0));
        let full = size >= self.settings.target_size.0 || self.batch.len() >= MOST_PIECES;
        if !self.batch.is_empty() && (full || age >= self.settings.target_age) {
            self.start_over();
            return self.copy_elsewhere(now);
        }
        if let Some(from) = self.next_ingester() {
            self.last_asked = Some(from.clone());
            return vec![Action::Ask { from }];
        }
        if self.batch.is_empty() {
            return vec![self.rest(now)];
        }
        let mut actions = Vec::new();
        if now.since(self.renewed) >= self.settings.renew_every {
            self.renewed = now;
            actions.push(Action::Renew(self.batch.clone()));
        }
        let left = self.settings.target_age.saturating_sub(age);
        actions.push(Action::WaitUntil(now + left.min(self.settings.delay)));
        actions
    }

    fn next_ingester(&self) -> Option<Peer> {
        let may_have = |peer: &&Peer| !self.dry.contains(*peer) && !self.resting.contains_key(*peer);
        in_turn(&self.ingesters, self.last_asked.as_ref()).find(may_have).cloned()
    }

    fn count_copies(&mut self, now: Monotonic, sent: Digest, answers: Vec<(Peer, Answer)>) -> Vec<Action> {
        for (_, answer) in answers {
            match answer {
                Answer::Has(receipt) if receipt.digest == sent => {
                    self.copies.insert(receipt.store_id, receipt.digest);
                }
                Answer::Has(_) | Answer::HasNot => {}
            }
        }
        // What was sent in an earlier round counts only if it was the same.
        self.copies.retain(|_, digest| *digest == sent);
        if self.copies.len() < self.settings.replicas {
            return self.copy_elsewhere(now);
        }
        self.start_over();
        let batch = std::mem::take(&mut self.batch);
        for piece in &batch {
            self.failures.remove(&(piece.offer.id, piece.from.clone()));
        }
        vec![Action::Commit(batch)]
    }

    /// Sends the batch to as many more stores as it needs, which have not been asked yet.
    fn copy_elsewhere(&mut self, now: Monotonic) -> Vec<Action> {
        let missing = self.settings.replicas.saturating_sub(self.copies.len());
        let not_tried = |peer: &&Peer| !self.tried.contains(*peer);
        let to: Vec<Peer> =
            in_turn(&self.stores, self.last_sent.as_ref()).filter(not_tried).take(missing).cloned().collect();
        if to.len() < missing || self.batch.is_empty() {
            let mut actions = self.give_back();
            actions.push(self.rest(now));
            return actions;
        }
        self.tried.extend(to.iter().cloned());
        self.last_sent = to.last().cloned();
        vec![Action::Copy { pieces: self.batch.clone(), to }]
    }

    /// Takes a segment out of the batch and copies the others: what was sent before was another segment.
    fn do_without(&mut self, now: Monotonic, piece: Piece, fault: Fault) -> Vec<Action> {
        let mut actions = Vec::new();
        match fault {
            // Neither is it asked to take its segments back: its own deadline does that.
            Fault::Unreachable => {
                self.resting.insert(piece.from.clone(), now + LONGEST_WAIT);
                self.batch.retain(|other| other.from != piece.from);
            }
            Fault::Gone => self.batch.retain(|other| *other != piece),
            Fault::Unreadable => {
                self.batch.retain(|other| *other != piece);
                actions.push(self.count_failure(piece));
            }
        }
        self.start_over();
        if self.batch.is_empty() {
            actions.push(self.rest(now));
        } else {
            actions.extend(self.copy_elsewhere(now));
        }
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
        self.tried.clear();
        self.copies.clear();
    }

    fn give_back(&mut self) -> Vec<Action> {
        self.start_over();
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Vec::new() } else { vec![Action::FailBack(batch)] }
    }

    fn rest(&mut self, now: Monotonic) -> Action {
        let until = now + self.wait.min(LONGEST_WAIT);
        self.wait = self.wait.saturating_mul(2).min(LONGEST_WAIT);
        Action::WaitUntil(until)
    }
}

/// All peers once, beginning with the one after `last`.
fn in_turn<'a>(peers: &'a [Peer], last: Option<&Peer>) -> impl Iterator<Item = &'a Peer> {
    let start = last.and_then(|last| peers.iter().position(|peer| peer == last)).map_or(0, |at| at + 1);
    peers.iter().skip(start).chain(peers.iter().take(start))
}

#[cfg(test)]
mod tests;
