//! Which stores hold records of this ingester, as its consumers have told.
//!
//! A query elsewhere can tell by it that it does not know a store whose records it needs. Kept in memory: after a restart
//! the members' own memory of each other has to do. What is noted is never taken back.

use crate::cluster::DataId;
use crate::segment::identity;
use std::collections::BTreeSet;

/// How many stores are noted at most: as many as a cluster may have members. One more is not noted, which is logged once.
pub const MOST_WITNESSES: usize = 10_000;

/// How many stores one commit may name: R is a small number.
pub const MOST_NAMED: usize = 256;

/// The stores that hold records of this ingester.
#[derive(Debug, Default)]
pub struct Witnesses {
    known: BTreeSet<DataId>,
    overflown: bool,
}

impl Witnesses {
    /// Notes stores.
    pub fn note(&mut self, stores: &[DataId]) {
        for store in stores {
            if self.known.len() < MOST_WITNESSES || self.known.contains(store) {
                self.known.insert(*store);
            } else if !self.overflown {
                self.overflown = true;
                log::error!(
                    "more than {MOST_WITNESSES} stores hold records of this node: queries will not miss the rest"
                );
            }
        }
    }

    /// All of them, in order.
    pub fn all(&self) -> Vec<DataId> {
        self.known.iter().copied().collect()
    }
}

/// Reads the stores that a commit names: 32 lower-case hex digits each, separated by commas. The empty text names none.
pub fn parse_stores(text: &str) -> Option<Vec<DataId>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let stores: Option<Vec<DataId>> =
        text.split(',').take(MOST_NAMED + 1).map(|id| identity::parse(id).map(DataId)).collect();
    stores.filter(|stores| stores.len() <= MOST_NAMED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show_stores(stores: &[DataId]) -> String {
        stores.iter().map(DataId::to_string).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn named_stores_read_back_as_themselves_and_what_is_none_is_refused() {
        let stores = [DataId(1), DataId(u128::MAX)];
        assert_eq!(parse_stores(&show_stores(&stores)), Some(stores.to_vec()));
        assert_eq!(parse_stores(""), Some(Vec::new()));
        let upper = "A".repeat(32);
        for bad in ["1", ",", upper.as_str(), "+0000000000000000000000000000001", &format!("{},", DataId(1))] {
            assert_eq!(parse_stores(bad), None, "{bad}");
        }
        assert_eq!(parse_stores(&show_stores(&vec![DataId(1); MOST_NAMED + 1])), None);
    }

    #[test]
    fn no_more_than_the_limit_is_noted_and_what_was_noted_stays() {
        let mut witnesses = Witnesses::default();
        let many: Vec<DataId> = (0..MOST_WITNESSES as u128 + 5).map(DataId).collect();
        witnesses.note(&many);
        witnesses.note(&many[..3]);
        assert_eq!(witnesses.all(), many[..MOST_WITNESSES]);
    }
}
