//! Which node an operator means who says that one will not come back, and what that may cost.

use super::{Peer, View};
use std::fmt;

/// The fewest digits of a data id that name it.
pub const FEWEST_DIGITS: usize = 8;

/// Why nothing was forgotten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ForgetError {
    /// No silent node is called so.
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// The node that is called so is a member: it would only come back.
    Alive {
        /// Where its API answers.
        name: String,
    },
    /// Several silent nodes are called so.
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Their names, each with its data.
        these: Vec<String>,
    },
}

impl fmt::Display for ForgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForgetError::NotFound { name } => write!(
                f,
                "no silent node is called {name}: name it by the address of its API, or by {FEWEST_DIGITS} digits or \
                 more of the id of its directory"
            ),
            ForgetError::Alive { name } => write!(f, "{name} is alive: only a node that is silent can be forgotten"),
            ForgetError::Ambiguous { name, these } => {
                write!(f, "{name} may be any of these, name one by the id of its directory: {}", these.join(", "))
            }
        }
    }
}

impl std::error::Error for ForgetError {}

/// The silent node that is called `name`: by the address of its API, by the id of one of its directories, or by a
/// beginning of that which no other has.
pub fn choose<'a>(view: &'a View, name: &str) -> Result<&'a Peer, ForgetError> {
    let found: Vec<&Peer> = view.silent.iter().filter(|peer| is_called(peer, name)).collect();
    match (found.as_slice(), view.members().find(|peer| is_called(peer, name))) {
        ([one], _) => Ok(one),
        ([], Some(alive)) => Err(ForgetError::Alive { name: alive.name() }),
        ([], None) => Err(ForgetError::NotFound { name: name.into() }),
        (several, _) => {
            let these = several.iter().map(|peer| described(peer)).collect();
            Err(ForgetError::Ambiguous { name: name.into(), these })
        }
    }
}

fn is_called(peer: &Peer, name: &str) -> bool {
    let digits = name.to_ascii_lowercase();
    let ids = [peer.meta.store, peer.meta.ingest];
    let by_id = digits.len() >= FEWEST_DIGITS && ids.iter().flatten().any(|id| id.to_string().starts_with(&digits));
    peer.name() == name || by_id
}

/// A node and its directories: `10.0.0.1:7650 (store 0123…)`.
pub fn described(peer: &Peer) -> String {
    let store = peer.meta.store.map(|id| format!("store {id}"));
    let ingest = peer.meta.ingest.map(|id| format!("ingest {id}"));
    let ids: Vec<String> = store.into_iter().chain(ingest).collect();
    if ids.is_empty() { peer.name() } else { format!("{} ({})", peer.name(), ids.join(", ")) }
}

/// What was done, and what it may have cost: sentences for the operator.
pub fn said(peer: &Peer, replicas: u8) -> String {
    let mut text = format!("{} is forgotten: answers no longer wait for it.", described(peer));
    if peer.meta.kind.stores() {
        let others = match replicas {
            0 | 1 => "Every record is on one store only: what it held is lost".to_string(),
            _ => format!(
                "Every record is on {replicas} stores: what it held is lost where the other copies were on stores that \
                 are gone too"
            ),
        };
        text.push_str(&format!(" {others}, unless its directory is served again."));
    }
    if peer.meta.kind.ingests() {
        text.push_str(
            " Records it had taken and not yet handed to the stores are lost, unless its directory is served again.",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::State::{Alive, Dead};
    use crate::cluster::view::tests::{claim, me, table};
    use crate::cluster::view::view_of;

    const A: u128 = 0xaaaa_bbbb_0000_0000_0000_0000_0000_0001;
    const B: u128 = 0xaaaa_bbbb_0000_0000_0000_0000_0000_0002;

    fn chosen(name: &str) -> Result<u128, ForgetError> {
        let mut all = vec![claim(2, A, 0, 1, Dead), claim(3, 0, B, 1, Dead), claim(4, 4 << 96, 0, 1, Alive)];
        // One that was given a new disk: a living process where the silent one was.
        all.push(claim(5, 5 << 120, 0, 1, Dead));
        all.push(claim(6, 6 << 120, 0, 1, Alive));
        all[4].meta.api = all[3].meta.api;
        choose(&view_of(&me(), &table(&all)), name).map(|peer| peer.node.0)
    }

    #[test]
    fn a_silent_node_is_found_by_its_address_and_by_enough_digits_of_its_directories() {
        assert_eq!(chosen("10.0.0.2:7650"), Ok(2));
        assert_eq!(chosen("AAAABBBB000000000000000000000001"), Ok(2));
        assert_eq!(chosen(&format!("{B:032x}")), Ok(3));
        assert_eq!(chosen("05000000"), Ok(5));
        assert_eq!(chosen("10.0.0.5:7650"), Ok(5), "not the one that lives at its address");
    }

    #[test]
    fn what_names_nobody_or_several_or_a_living_node_is_refused_with_a_sentence() {
        let refused = |name: &str| chosen(name).unwrap_err();
        for name in ["", "10.0.0.9:7650", "0500000", "aaaabbb", "zzzzzzzzzz", "10.0.0.2"] {
            assert_eq!(refused(name), ForgetError::NotFound { name: name.into() });
        }
        assert_eq!(refused("10.0.0.4:7650"), ForgetError::Alive { name: "10.0.0.4:7650".into() });
        assert_eq!(refused("10.0.0.1:7650").to_string().split(':').next(), Some("10.0.0.1"));
        let ForgetError::Ambiguous { these, .. } = refused("aaaabbbb") else { panic!("one of two was chosen") };
        assert_eq!(these.len(), 2);
    }

    #[test]
    fn the_operator_is_told_what_may_be_lost() {
        let view = view_of(&me(), &table(&[claim(2, A, B, 1, Dead)]));
        let text = said(&view.silent[0], 2);
        assert!(text.contains("on 2 stores") && text.contains("not yet handed"), "{text}");
        assert!(said(&view.silent[0], 1).contains("on one store only"));
    }
}
