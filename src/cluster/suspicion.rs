//! Who is suspected, by whom, and for how much longer: the time that a suspect has to refute.
//!
//! A suspicion begins long and shortens with each other node that confirms it (Dadgar, Phillips, Currey: "Lifeguard: Local
//! Health Awareness for More Accurate Failure Detection", 2018, section IV-B). When it ends, the suspect is asked once
//! more, directly and several times, before it is declared dead: in simulations at 25 % loss most of those declared
//! dead by mistake were nodes whose refutation had got lost.

use crate::cluster::NodeId;
use crate::unit::Monotonic;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One suspicion.
#[derive(Clone, Debug)]
pub struct Suspicion {
    /// Which incarnation is suspected.
    pub incarnation: u64,
    /// Whether this node has found out itself: those that have ask and declare first.
    pub own: bool,
    /// Whether this node, which has not found out itself, has given those that have the time to declare.
    pub waited: bool,
    /// How often the suspect has been asked for the last time.
    pub asked: u32,
    /// Who else suspects it, the first first; at most one more than confirmations are needed.
    accusers: Vec<u32>,
    began: Monotonic,
    shortest: Duration,
    longest: Duration,
    needed: u32,
    due: Monotonic,
}

impl Suspicion {
    /// One that begins now. `needed` confirmations bring it from the longest down to the shortest.
    pub fn new(now: Monotonic, incarnation: u64, accuser: u32, spans: (Duration, Duration), needed: u32) -> Suspicion {
        let (shortest, longest) = spans;
        let longest = if needed == 0 { shortest } else { longest };
        let (own, waited, asked, due) = (false, false, 0, now + longest);
        let accusers = vec![accuser];
        Suspicion { incarnation, own, waited, asked, accusers, began: now, shortest, longest, needed, due }
    }

    /// Who is to be named when it is told on: the last that was heard.
    pub fn accuser(&self) -> u32 {
        self.accusers.last().copied().unwrap_or_default()
    }

    /// Whether enough others suspect it too.
    pub fn is_confirmed(&self) -> bool {
        self.accusers.len() > self.needed as usize
    }

    /// Another node suspects it too. Whether that counts.
    fn confirm(&mut self, accuser: u32) -> bool {
        if self.accusers.contains(&accuser) || self.accusers.len() > self.needed as usize {
            return false;
        }
        self.accusers.push(accuser);
        let (known, needed) = (self.accusers.len() as f64, f64::from(self.needed) + 1.0);
        let span = self.longest.saturating_sub(self.shortest).mul_f64((known.ln() / needed.ln()).clamp(0.0, 1.0));
        self.due = self.began + self.longest.saturating_sub(span).max(self.shortest);
        true
    }
}

/// All suspicions, ordered by when something is to be done about them.
#[derive(Default, Debug)]
pub struct Suspicions {
    of: BTreeMap<NodeId, Suspicion>,
    due: BTreeSet<(Monotonic, NodeId)>,
}

impl Suspicions {
    /// That about a node.
    pub fn get(&self, node: NodeId) -> Option<&Suspicion> {
        self.of.get(&node)
    }

    /// Adds or replaces one.
    pub fn put(&mut self, node: NodeId, suspicion: Suspicion) {
        self.remove(node);
        self.due.insert((suspicion.due, node));
        self.of.insert(node, suspicion);
    }

    /// Takes one out.
    pub fn remove(&mut self, node: NodeId) -> Option<Suspicion> {
        let suspicion = self.of.remove(&node)?;
        self.due.remove(&(suspicion.due, node));
        Some(suspicion)
    }

    /// Another node suspects it too. Whether that counts, and is to be told on.
    pub fn confirm(&mut self, node: NodeId, accuser: u32) -> bool {
        let Some(suspicion) = self.of.get_mut(&node) else { return false };
        let before = suspicion.due;
        // Once the last questions are out, they decide.
        if suspicion.asked > 0 || !suspicion.confirm(accuser) {
            return false;
        }
        let after = suspicion.due;
        self.due.remove(&(before, node));
        self.due.insert((after, node));
        true
    }

    /// This node has found out itself.
    pub fn own(&mut self, node: NodeId) {
        if let Some(suspicion) = self.of.get_mut(&node) {
            suspicion.own = true;
        }
    }

    /// The suspect lives, but has not refuted yet: it gets its time once more.
    pub fn answered(&mut self, now: Monotonic, node: NodeId) {
        if self.of.get(&node).is_none_or(|suspicion| suspicion.asked == 0) {
            return;
        }
        let Some(mut suspicion) = self.remove(node) else { return };
        suspicion.asked = 0;
        let due = now + suspicion.shortest;
        self.postpone(node, suspicion, due);
    }

    /// When the next is due.
    pub fn next(&self) -> Option<Monotonic> {
        self.due.first().map(|(due, _)| *due)
    }

    /// One that is due, taken out.
    pub fn take_due(&mut self, now: Monotonic) -> Option<(NodeId, Suspicion)> {
        let (due, node) = *self.due.first()?;
        if due > now {
            return None;
        }
        Some((node, self.remove(node)?))
    }

    /// Puts one back that is due again at `due`.
    pub fn postpone(&mut self, node: NodeId, mut suspicion: Suspicion, due: Monotonic) {
        suspicion.due = due;
        self.put(node, suspicion);
    }

    /// Time in which nothing could be heard does not count.
    pub fn delay_all(&mut self, span: Duration) {
        for (node, mut suspicion) in std::mem::take(&mut self.of) {
            suspicion.began = suspicion.began + span;
            suspicion.due = suspicion.due + span;
            suspicion.asked = 0;
            self.of.insert(node, suspicion);
        }
        self.due = self.of.iter().map(|(node, suspicion)| (suspicion.due, *node)).collect();
    }
}

#[cfg(test)]
#[path = "suspicion_tests.rs"]
mod tests;
