//! Whom a query asks, and what is missed by what came of it: plain values in, a verdict out.
//!
//! ```text
//! view before -> own ingest tier, ask(Tier::Ingest) -> view now -> own store, ask(Tier::Store) -> Asked::missed -> Verdict
//! ```
//!
//! Ingesters are those that were known at the start, and stores those that are known when all ingesters have answered or
//! failed: a record moves from an ingester to stores and never back. Who asks, and how, is not known here.

use super::complete::{Missed, StoreKey};
use crate::cluster::{DataId, Peer, State, View};
use std::collections::BTreeSet;

/// The two places in which a record can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// Not taken over by stores yet.
    Ingest,
    /// Taken over.
    Store,
}

impl Tier {
    /// Whether a peer has this tier.
    pub fn is_of(self, peer: &Peer) -> bool {
        match self {
            Tier::Ingest => peer.meta.kind.ingests(),
            Tier::Store => peer.meta.kind.stores(),
        }
    }

    /// What a peer keeps in this tier.
    pub fn data_of(self, peer: &Peer) -> Option<DataId> {
        match self {
            Tier::Ingest => peer.meta.ingest,
            Tier::Store => peer.meta.store,
        }
    }

    /// Whether what answered at a peer's address is another's by now: it says that it keeps `found`, a [`DataId`] as text.
    pub fn is_anothers(self, peer: &Peer, found: &str) -> bool {
        self.data_of(peer).is_some_and(|wanted| wanted.to_string() != found)
    }
}

/// Who is to be asked for this tier: all others that have it. The node that is asked reads its own directly.
pub fn ask(tier: Tier, view: &View) -> Vec<&Peer> {
    view.others.iter().filter(|peer| tier.is_of(peer)).collect()
}

/// The stores that an ingest tier names in its answer: those of its node's view, and those that are known to have taken over
/// segments of it; not the forgotten.
pub fn named_by(view: &View, witnesses: &[DataId], forgotten: &[DataId]) -> BTreeSet<StoreKey> {
    let mut keys = stores_in(view);
    keys.extend(witnesses.iter().copied().map(StoreKey::of));
    for id in forgotten {
        keys.remove(&StoreKey::of(*id));
    }
    keys
}

/// The stores in a view, living and silent.
fn stores_in(view: &View) -> BTreeSet<StoreKey> {
    let stores = view.members().chain(&view.silent).filter(|peer| peer.meta.kind.stores());
    stores.map(StoreKey::of_peer).collect()
}

/// What came of asking everybody.
pub struct Asked<'a> {
    /// Whether the asked node knew whom to miss when it began: see [`crate::cluster::Cluster::is_informed`].
    pub was_informed: bool,
    /// Who was there when ingesters were asked.
    pub before: &'a View,
    /// Who was there when stores were asked: when the last ingester had answered or failed.
    pub now: &'a View,
    /// The ingesters that were asked, and whether each has answered.
    pub ingesters: Vec<(&'a Peer, bool)>,
    /// The stores that were asked, and whether each has answered.
    pub stores: Vec<(&'a Peer, bool)>,
    /// The stores that ingesters named in their answers.
    pub named: BTreeSet<StoreKey>,
    /// The stores that are known to have taken over segments of the asked node's own ingest tier.
    pub witnesses: &'a [DataId],
    /// The stores that an operator has said will not come back.
    pub forgotten: &'a [DataId],
}

impl Asked<'_> {
    /// What the answer lacks.
    pub fn missed(&self) -> Missed {
        let mut missed = Missed::default();
        if !self.was_informed {
            missed.unheard_of();
        }
        for peer in self.missed_ingesters() {
            missed.ingester(&peer.name());
        }
        let silent = self.now.silent.iter().filter(|peer| peer.meta.kind.stores());
        let failed = self.stores.iter().filter(|(_, has_answered)| !has_answered).map(|(peer, _)| *peer);
        for peer in silent.chain(failed) {
            missed.store(StoreKey::of_peer(peer), &peer.name());
        }
        for key in self.unheard_of() {
            missed.store(key, &key.text());
        }
        missed
    }

    /// How many nodes were asked, the asked one included.
    pub fn count(&self) -> usize {
        let others = self.ingesters.iter().chain(&self.stores).map(|(peer, _)| peer.node);
        others.chain([self.now.me.node]).collect::<BTreeSet<_>>().len()
    }

    /// The ingesters whose records are missed.
    ///
    /// One that is neither a member nor silent any more has handed over everything and left, or is forgotten, and the
    /// stores that are asked after this have its records; unless another process has taken over its directory, which was
    /// not asked.
    fn missed_ingesters(&self) -> impl Iterator<Item = &Peer> {
        let answered = self.ingesters.iter().filter(|(_, has_answered)| *has_answered);
        let answered: BTreeSet<_> = answered.map(|(peer, _)| peer.node).collect();
        let is_gone = |peer: &&Peer| {
            let same = |other: &Peer| {
                other.node == peer.node || (peer.meta.ingest.is_some() && other.meta.ingest == peer.meta.ingest)
            };
            !self.now.members().chain(silent_ingesters(self.now)).any(same)
        };
        let asked = self.ingesters.iter().map(|(peer, _)| *peer);
        let known = asked.chain(silent_ingesters(self.before)).filter(move |peer| !is_gone(peer));
        let all = known.chain(silent_ingesters(self.now));
        all.filter(move |peer| peer.meta.kind.ingests() && !answered.contains(&peer.node))
    }

    /// The stores that are named but that the asked node has not heard of.
    fn unheard_of(&self) -> impl Iterator<Item = StoreKey> {
        let mut known = stores_in(self.now);
        known.extend(self.forgotten.iter().copied().map(StoreKey::of));
        let mut named = self.named.clone();
        named.extend(self.witnesses.iter().copied().map(StoreKey::of));
        named.into_iter().filter(move |key| !known.contains(key))
    }
}

/// The silent nodes whose ingest tier is missed, too: not a node of both tiers that had drained when it left.
fn silent_ingesters(view: &View) -> impl Iterator<Item = &Peer> {
    view.silent.iter().filter(|peer| peer.meta.kind.ingests() && peer.state != State::Left)
}

/// Whose part of an answer a source is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    tier: Tier,
    name: String,
    key: StoreKey,
}

impl Owner {
    /// One tier of a peer.
    pub fn new(tier: Tier, peer: &Peer) -> Owner {
        Owner { tier, name: peer.name(), key: StoreKey::of_peer(peer) }
    }

    /// What its node is called.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What an answer says of itself in its head, and whether it may go on when sources break off after that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    told: Missed,
    now: Missed,
    replicas: u8,
}

impl Verdict {
    /// On an answer that lacks this, where every record is on `replicas` stores.
    pub fn new(missed: Missed, replicas: u8) -> Verdict {
        Verdict { now: missed.clone(), told: missed, replicas }
    }

    /// Whether the answer is called complete.
    pub fn is_complete(&self) -> bool {
        self.told.is_harmless(self.replicas)
    }

    /// What its head names.
    pub fn missed(&self) -> &Missed {
        &self.told
    }

    /// A source has broken off before the answer had all it wants. Gives whether it may go on without it; otherwise it is to end in a
    /// way that nobody takes for the whole.
    pub fn goes_on_without(&mut self, owner: &Owner) -> bool {
        match owner.tier {
            Tier::Ingest => self.now.ingester(&owner.name),
            Tier::Store => self.now.store(owner.key, &owner.name),
        }
        self.told.may_become(&self.now, &owner.name, self.replicas)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
