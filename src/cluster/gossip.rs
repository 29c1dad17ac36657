//! What is still to be told: the news that ride along with other messages and fill the rounds of gossip.
//!
//! An entry says only about whom there is news: what is told is what is believed at the moment of telling. There is one
//! entry for each node at most, each is sent a bounded number of times, and those that were sent least go first, among
//! them the newest.

use crate::cluster::NodeId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// How many entries that are too long for what is left of a packet are passed over in search of a shorter one.
const PASSED_OVER_MAX: usize = 4;

/// Times sent, and then the newest first.
type Place = (u32, Reverse<u64>);

/// The news.
#[derive(Default, Debug)]
pub struct News {
    order: BTreeMap<Place, NodeId>,
    of: HashMap<NodeId, (Place, bool)>,
    count: u64,
}

impl News {
    /// There is news about a node; `whole` if it has to be told with the metadata, for others may not know them.
    pub fn add(&mut self, node: NodeId, whole: bool) {
        self.remove(node);
        self.count += 1;
        let place = (0, Reverse(self.count));
        self.order.insert(place, node);
        self.of.insert(node, (place, whole));
    }

    /// There is nothing to be told about it any more.
    pub fn remove(&mut self, node: NodeId) {
        if let Some((place, _)) = self.of.remove(&node) {
            self.order.remove(&place);
        }
    }

    /// Whether there is anything to tell.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Lets `write` append claims to `body` until it has `budget` bytes. An entry that has been sent `limit` times is gone.
    /// `write` gives false, and appends nothing, about a node that is not known any more.
    pub fn fill(
        &mut self,
        body: &mut Vec<u8>,
        budget: usize,
        limit: u32,
        mut write: impl FnMut(&mut Vec<u8>, NodeId, bool) -> bool,
    ) {
        let mut told = Vec::new();
        let mut lost = Vec::new();
        let mut passed_over = 0;
        for (place, node) in &self.order {
            if body.len() + SHORTEST > budget || passed_over > PASSED_OVER_MAX {
                break;
            }
            let before = body.len();
            let whole = self.of.get(node).is_some_and(|(_, whole)| *whole);
            if !write(body, *node, whole) {
                lost.push(*node);
            } else if body.len() > budget {
                body.truncate(before);
                passed_over += 1;
            } else {
                told.push((*place, *node, whole));
            }
        }
        lost.into_iter().for_each(|node| self.remove(node));
        for (place, node, whole) in told {
            self.order.remove(&place);
            let next = (place.0 + 1, place.1);
            if next.0 >= limit {
                self.of.remove(&node);
            } else {
                self.order.insert(next, node);
                self.of.insert(node, (next, whole));
            }
        }
    }
}

/// No claim is shorter: tag, length, node, incarnation, state.
const SHORTEST: usize = 20;

#[cfg(test)]
#[path = "gossip_tests.rs"]
mod tests;
