//! Whether an answer is provably whole, from what was missed: decided here, without a look at anything else.
//!
//! Every record is on R stores, or still on the one ingester that took it. So an answer lacks nothing while fewer than R
//! stores are silent and no ingester is. Stores are counted by the data they keep, not by address.
//!
//! A store may be so new that the node that is asked has not heard of it, while an ingester has, and has given it records.
//! It would be missed without anybody knowing, and could hold the only copies that are not silent. So ingesters name the
//! stores they know of, and one that the asked node knows nothing of is counted as silent.

use crate::cluster::{DataId, Peer};
use std::collections::BTreeSet;

/// The first 16 hexadecimal digits of a [`DataId`]: what ingesters name stores by, in a header that must stay short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoreKey(pub u64);

impl StoreKey {
    /// Of the data in a store.
    pub fn of(id: DataId) -> StoreKey {
        StoreKey((id.0 >> 64) as u64)
    }

    /// Of a peer that stores. One that does not say what it keeps is a store of its own.
    pub fn of_peer(peer: &Peer) -> StoreKey {
        peer.meta.store.map_or(StoreKey((peer.node.0 >> 64) as u64), StoreKey::of)
    }

    /// As in a header.
    pub fn text(self) -> String {
        format!("{:016x}", self.0)
    }

    /// Reads what [`StoreKey::text`] writes.
    pub fn parse(text: &str) -> Option<StoreKey> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(text, 16).ok().map(StoreKey)).flatten()
    }
}

/// At most this many names go into a header: 2 KiB and a half, where a client takes 16 in all.
pub const MAX_NAMES: usize = 100;

/// What is named where it is not known who there is.
pub const UNHEARD_OF: &str = "nodes that joined while this one was away";

/// What an answer lacks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Missed {
    stores: BTreeSet<StoreKey>,
    ingesters: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Missed {
    /// A store is silent.
    pub fn store(&mut self, key: StoreKey, name: &str) {
        self.stores.insert(key);
        self.names.insert(name.to_string());
    }

    /// An ingester is silent.
    pub fn ingester(&mut self, name: &str) {
        self.ingesters.insert(name.to_string());
        self.names.insert(name.to_string());
    }

    /// Nodes that the asked one has not heard of may have records of their own.
    pub fn unheard_of(&mut self) {
        self.ingester(UNHEARD_OF);
    }

    /// Whether an answer that lacks this is whole all the same, where every record is on `replicas` stores.
    pub fn is_harmless(&self, replicas: u8) -> bool {
        self.stores.len() < usize::from(replicas) && self.ingesters.is_empty()
    }

    /// How many nodes are silent.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// The silent nodes for a header: at most [`MAX_NAMES`], in order, and how many more.
    pub fn names(&self) -> String {
        let mut names: Vec<&str> = self.names.iter().take(MAX_NAMES).map(String::as_str).collect();
        let more = format!("and {} more", self.names.len().saturating_sub(MAX_NAMES));
        if self.names.len() > MAX_NAMES {
            names.push(&more);
        }
        names.join(", ")
    }

    /// Whether an answer whose head was sent when `self` was missed may go on now that `now` is: it was called whole and
    /// still is, or it was not and names the node that has broken off, `name`.
    pub fn may_become(&self, now: &Missed, name: &str, replicas: u8) -> bool {
        if self.is_harmless(replicas) { now.is_harmless(replicas) } else { self.names.contains(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(stores: &[u64], ingesters: &[&str]) -> Missed {
        let mut missed = Missed::default();
        stores.iter().for_each(|n| missed.store(StoreKey(*n), &format!("s{n}")));
        ingesters.iter().for_each(|name| missed.ingester(name));
        missed
    }

    #[test]
    fn fewer_than_r_silent_stores_and_no_silent_ingester_do_no_harm() {
        let cases: [(u8, &[u64], &[&str], bool); 9] = [
            (1, &[], &[], true),
            (1, &[1], &[], false),
            (2, &[1], &[], true),
            (2, &[1, 1], &[], true),
            (2, &[1, 2], &[], false),
            (3, &[1, 2], &[], true),
            (3, &[1, 2, 3], &[], false),
            (3, &[], &["i"], false),
            (0, &[], &[], false),
        ];
        for (replicas, stores, ingesters, harmless) in cases {
            let got = missed(stores, ingesters).is_harmless(replicas);
            assert_eq!(got, harmless, "R = {replicas}, stores {stores:?}, ingesters {ingesters:?}");
        }
    }

    #[test]
    fn one_store_at_two_addresses_is_missed_once_and_named_twice() {
        let mut missed = missed(&[], &[]);
        missed.store(StoreKey(1), "a");
        missed.store(StoreKey(1), "b");
        assert!(missed.is_harmless(2));
        assert_eq!((missed.count(), missed.names().as_str()), (2, "a, b"));
    }

    #[test]
    fn a_break_ends_an_answer_only_where_it_turns_what_was_said_into_a_lie() {
        let (none, one, two) = (missed(&[], &[]), missed(&[1], &[]), missed(&[1, 2], &[]));
        let cases = [
            (&none, &one, "s1", 2, true),
            (&one, &two, "s2", 2, false),
            (&none, &one, "s1", 1, false),
            // Called incomplete from the start: harmless if the node was named.
            (&two, &two, "s2", 2, true),
            (&one, &two, "s2", 1, false),
        ];
        for (sent, now, name, replicas, goes_on) in cases {
            assert_eq!(sent.may_become(now, name, replicas), goes_on, "{sent:?} to {now:?}, R = {replicas}");
        }
        assert!(!none.may_become(&missed(&[], &["i"]), "i", 3));
    }

    #[test]
    fn names_are_sorted_and_a_long_list_is_cut() {
        assert_eq!(missed(&[2, 1], &["i", "i"]).names(), "i, s1, s2");
        let many = missed(&(0..250).collect::<Vec<_>>(), &[]);
        assert!(many.names().ends_with(", and 150 more"), "{}", many.names());
        assert_eq!(many.names().matches(", ").count(), MAX_NAMES);
        assert_eq!(many.count(), 250);
    }

    #[test]
    fn a_store_key_is_the_front_of_the_id_and_reads_back() {
        let key = StoreKey::of(DataId(0x0123_4567_89ab_cdef_0000_0000_0000_0001));
        assert_eq!(key.text(), "0123456789abcdef");
        assert!(DataId(0x0123_4567_89ab_cdef_0000_0000_0000_0001).to_string().starts_with(&key.text()));
        assert_eq!(StoreKey::parse(&key.text()), Some(key));
        for bad in ["", "0123456789abcde", "+123456789abcdef", "0123456789abcdefg", "0123456789abcdeg"] {
            assert_eq!(StoreKey::parse(bad), None, "{bad}");
        }
    }
}
