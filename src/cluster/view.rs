//! Turns the table of claims into what the other rooms see, and tells what has changed from one table to the next.
//!
//! Whose records are missed is decided by directory, not by process: of all processes that have served one, the one that
//! began last has the word, and any that lives overrules all that do not.

use super::claim::{Claim, DataId, Load, NodeId, State};
use super::{Peer, View};
use std::collections::{BTreeMap, BTreeSet};

/// A table of claims, in order of node ids, each with what the node last said of its load.
pub type Table = Vec<(Claim, Option<Load>)>;

/// Which records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Data {
    Store(DataId),
    Ingest(DataId),
    /// Of a process that has not said which directory it serves: nobody else can be known to serve it.
    Unnamed(NodeId),
}

fn data_of(claim: &Claim) -> impl Iterator<Item = Data> {
    let meta = &claim.meta;
    let unnamed = Data::Unnamed(claim.node);
    let store = meta.kind.stores().then_some(meta.store.map_or(unnamed, Data::Store));
    let ingest = meta.kind.ingests().then_some(meta.ingest.map_or(unnamed, Data::Ingest));
    store.into_iter().chain(ingest)
}

fn lives(claim: &Claim) -> bool {
    matches!(claim.state, State::Alive | State::Suspect)
}

/// What a table means. `me` stands in where the table does not hold it.
pub fn view_of(me: &Peer, table: &Table) -> View {
    let peer = |(claim, load): &(Claim, Option<Load>)| Peer {
        node: claim.node,
        meta: claim.meta.clone(),
        state: claim.state,
        load: *load,
    };
    let mut newest: BTreeMap<Data, (bool, u64, NodeId)> = BTreeMap::new();
    for (claim, _) in table {
        for data in data_of(claim) {
            let word = (lives(claim), claim.meta.start, claim.node);
            let known = newest.entry(data).or_insert(word);
            *known = word.max(*known);
        }
    }
    let missed = |claim: &Claim| {
        let has_the_word = |data: Data| newest.get(&data).is_some_and(|(_, _, node)| *node == claim.node);
        let is_missed = |data: &Data| match data {
            Data::Store(_) => claim.state.misses_store(),
            Data::Ingest(_) | Data::Unnamed(_) => claim.state.misses_ingest(),
        };
        data_of(claim).filter(is_missed).any(has_the_word)
    };
    let is_me = |claim: &Claim| claim.node == me.node;
    let listed = |wanted: &dyn Fn(&Claim) -> bool| {
        let mut peers: Vec<Peer> = table.iter().filter(|(claim, _)| !is_me(claim) && wanted(claim)).map(peer).collect();
        peers.sort_by_key(|peer| (peer.meta.api, peer.node));
        peers
    };
    View {
        me: table.iter().find(|(claim, _)| is_me(claim)).map_or_else(|| me.clone(), peer),
        others: listed(&lives),
        silent: listed(&missed),
    }
}

/// What has become of a node, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// It was not known, or not as a living one.
    Joined,
    /// It is the process that was missed, or serves the directory of one that was.
    Returned,
    /// It is missed from now on.
    Silent,
    /// It does not live, and nothing is missed.
    Gone,
    /// It said good-bye.
    Left,
    /// An operator said that it is not to be missed.
    Forgotten,
}

/// What has changed between two tables and their views, in order of node ids. Suspicions are not told.
pub fn news(before: (&Table, &View), after: (&Table, &View)) -> Vec<(Peer, News)> {
    let known: BTreeMap<NodeId, State> = before.0.iter().map(|(claim, _)| (claim.node, claim.state)).collect();
    let missed = |view: &View| view.silent.iter().map(|peer| peer.node).collect::<BTreeSet<_>>();
    let (missed_before, missed_after) = (missed(before.1), missed(after.1));
    let missed_data: BTreeSet<Data> = before
        .0
        .iter()
        .filter(|(claim, _)| missed_before.contains(&claim.node))
        .flat_map(|(c, _)| data_of(c))
        .collect();
    let mut all = Vec::new();
    for (claim, load) in after.0.iter().filter(|(claim, _)| claim.node != after.1.me.node) {
        let lived = matches!(known.get(&claim.node), Some(State::Alive | State::Suspect));
        let is_known_so = known.get(&claim.node) == Some(&claim.state);
        let what = match claim.state {
            State::Alive | State::Suspect if lived => continue,
            State::Alive | State::Suspect if data_of(claim).any(|data| missed_data.contains(&data)) => News::Returned,
            State::Alive | State::Suspect => News::Joined,
            _ if is_known_so => continue,
            State::Dead if missed_after.contains(&claim.node) => News::Silent,
            State::Dead => News::Gone,
            State::Left if missed_after.contains(&claim.node) => News::Silent,
            State::Left => News::Left,
            State::Forgotten => News::Forgotten,
        };
        all.push((Peer { node: claim.node, meta: claim.meta.clone(), state: claim.state, load: *load }, what));
    }
    all
}

/// The different R that members work with, if there is more than one.
pub fn differing_replicas(view: &View) -> Option<Vec<u8>> {
    let all: BTreeSet<u8> = view.members().map(|peer| peer.meta.replicas).filter(|replicas| *replicas > 0).collect();
    (all.len() > 1).then(|| all.into_iter().collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cluster::{Meta, PeerKind};

    /// A claim about node `n`, which serves the directories with these ids (0 for none) and is its `start`th process.
    pub(crate) fn claim(n: u128, store: u128, ingest: u128, start: u64, state: State) -> Claim {
        let address = |port| std::net::SocketAddr::from(([10, 0, 0, n as u8], port));
        let kind = match (store, ingest) {
            (0, _) => PeerKind::Ingest,
            (_, 0) => PeerKind::Store,
            _ => PeerKind::IngestStore,
        };
        let id = |id: u128| (id != 0).then_some(DataId(id));
        let (gossip, api, replicas) = (address(7659), address(7650), if store == 0 { 0 } else { 2 });
        let meta = Meta { kind, gossip, api, store: id(store), ingest: id(ingest), replicas, start };
        Claim { node: NodeId(n), meta, incarnation: 1, state }
    }

    pub(crate) fn table(claims: &[Claim]) -> Table {
        claims.iter().map(|claim| (claim.clone(), None)).collect()
    }

    pub(crate) fn me() -> Peer {
        let Claim { node, meta, state, .. } = claim(1, 11, 0, 1, State::Alive);
        Peer { node, meta, state, load: None }
    }

    fn silent(claims: &[Claim]) -> Vec<u128> {
        let all: Vec<Claim> = [claim(1, 11, 0, 1, State::Alive)].iter().chain(claims).cloned().collect();
        view_of(&me(), &table(&all)).silent.iter().map(|peer| peer.node.0).collect()
    }

    use State::{Alive, Dead, Forgotten, Left, Suspect};

    #[test]
    fn the_dead_are_silent_and_so_are_stores_that_left_but_not_ingesters_that_did_nor_the_forgotten() {
        let of = |state| silent(&[claim(2, 12, 0, 1, state), claim(3, 0, 13, 1, state), claim(4, 14, 24, 1, state)]);
        assert_eq!(of(Dead), [2, 3, 4]);
        assert_eq!(of(Left), [2, 4]);
        for state in [Alive, Suspect, Forgotten] {
            assert_eq!(of(state), Vec::<u128>::new(), "{state:?}");
        }
    }

    #[test]
    fn a_directory_that_another_process_serves_is_not_missed() {
        assert!(silent(&[claim(2, 12, 0, 1, Dead), claim(3, 12, 0, 2, Suspect)]).is_empty());
        assert!(silent(&[claim(2, 12, 0, 9, Dead), claim(3, 12, 0, 2, Alive)]).is_empty(), "whatever its start says");
        assert!(silent(&[claim(2, 11, 0, 1, Dead)]).is_empty(), "this node serves it");
        assert_eq!(silent(&[claim(2, 12, 0, 1, Dead), claim(3, 0, 12, 2, Alive)]), [2], "the other tier is another");
        assert_eq!(silent(&[claim(2, 12, 22, 1, Dead), claim(3, 12, 0, 2, Alive)]), [2], "one of two is served");
    }

    #[test]
    fn of_several_dead_processes_of_a_directory_the_last_one_has_the_word() {
        assert_eq!(silent(&[claim(2, 12, 0, 1, Dead), claim(3, 12, 0, 2, Dead)]), [3]);
        assert!(silent(&[claim(2, 12, 0, 1, Dead), claim(3, 12, 0, 2, Forgotten)]).is_empty());
        assert!(silent(&[claim(2, 0, 12, 1, Dead), claim(3, 0, 12, 2, Left)]).is_empty());
        assert_eq!(silent(&[claim(2, 0, 12, 1, Left), claim(3, 0, 12, 2, Dead)]), [3]);
    }

    #[test]
    fn a_process_that_named_no_directory_is_missed_by_itself() {
        let mut unnamed = claim(2, 0, 0, 1, Dead);
        assert_eq!(silent(&[unnamed.clone(), claim(3, 0, 0, 2, Alive)]), [2]);
        unnamed.state = Left;
        assert!(silent(&[unnamed]).is_empty());
    }

    #[test]
    fn others_are_in_order_of_their_names_and_this_node_is_not_among_them() {
        let all = [claim(1, 11, 0, 1, Alive), claim(2, 12, 0, 1, Suspect), claim(3, 0, 13, 1, Alive)];
        let mut swapped = all.clone();
        swapped[1].meta.api = "10.0.0.9:7650".parse().unwrap();
        let view = view_of(&me(), &table(&swapped));
        assert_eq!(view.others.iter().map(|peer| peer.node.0).collect::<Vec<_>>(), [3, 2]);
        assert_eq!((view.me.node, view_of(&me(), &Table::new()).me), (NodeId(1), me()));
    }

    #[test]
    fn what_becomes_of_nodes_is_told_once() {
        let tell = |before: &[Claim], after: &[Claim]| {
            let (before, after) = (table(before), table(after));
            let views = (view_of(&me(), &before), view_of(&me(), &after));
            let all = news((&before, &views.0), (&after, &views.1));
            all.into_iter().map(|(peer, what)| (peer.node.0, what)).collect::<Vec<_>>()
        };
        let store = |n, start, state| claim(n, 12, 0, start, state);
        assert_eq!(tell(&[], &[store(2, 1, Alive)]), [(2, News::Joined)]);
        assert_eq!(tell(&[store(2, 1, Alive)], &[store(2, 1, Suspect)]), []);
        assert_eq!(tell(&[store(2, 1, Suspect)], &[store(2, 1, Dead)]), [(2, News::Silent)]);
        assert_eq!(tell(&[store(2, 1, Dead)], &[store(2, 1, Alive)]), [(2, News::Returned)]);
        assert_eq!(tell(&[store(2, 1, Dead)], &[store(2, 1, Dead), store(3, 2, Alive)]), [(3, News::Returned)]);
        let replaced = [store(2, 1, Dead), store(3, 2, Alive)];
        assert_eq!(tell(&[store(2, 1, Alive)], &replaced), [(2, News::Gone), (3, News::Joined)]);
        assert_eq!(tell(&[store(2, 1, Dead)], &[store(2, 1, Forgotten)]), [(2, News::Forgotten)]);
        assert_eq!(tell(&[claim(2, 0, 12, 1, Alive)], &[claim(2, 0, 12, 1, Left)]), [(2, News::Left)]);
        assert_eq!(tell(&[], &[claim(1, 11, 0, 1, Alive)]), [], "this node itself is no news");
    }

    #[test]
    fn members_that_work_with_another_r_are_noticed_and_those_without_any_are_not() {
        let mut other = claim(2, 12, 0, 1, Alive);
        let of = |other: &Claim| {
            let all = [claim(1, 11, 0, 1, Alive), other.clone(), claim(3, 0, 13, 1, Alive)];
            differing_replicas(&view_of(&me(), &table(&all)))
        };
        assert_eq!(of(&other), None);
        other.meta.replicas = 3;
        assert_eq!(of(&other), Some(vec![2, 3]));
    }
}
