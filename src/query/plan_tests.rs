use super::*;
use crate::cluster::{Meta, NodeId, PeerKind};
use std::net::SocketAddr;

use PeerKind::{Ingest, IngestStore, Store};

fn peer(kind: PeerKind, n: u128) -> Peer {
    let address = |port| SocketAddr::from(([10, 0, 0, n as u8], port));
    let data = |offset| Some(DataId((n + offset) << 64));
    let store = data(0).filter(|_| kind.stores());
    let ingest = data(1_000).filter(|_| kind.ingests());
    let meta = Meta { kind, gossip: address(7659), api: address(7650), store, ingest, replicas: 2, start: 0 };
    Peer { node: NodeId(n), meta, state: State::Alive, load: None }
}

fn view(others: &[&Peer], silent: &[&Peer]) -> View {
    let list = |peers: &[&Peer]| peers.iter().map(|peer| (*peer).clone()).collect();
    View { me: peer(IngestStore, 9), others: list(others), silent: list(silent) }
}

fn asked<'a>(
    before: &'a View,
    now: &'a View,
    ingesters: &[(&'a Peer, bool)],
    stores: &[(&'a Peer, bool)],
) -> Asked<'a> {
    let (ingesters, stores) = (ingesters.to_vec(), stores.to_vec());
    Asked { was_informed: true, before, now, ingesters, stores, named: BTreeSet::new(), witnesses: &[], forgotten: &[] }
}

#[test]
fn each_tier_is_asked_of_those_who_have_it_and_never_of_this_node_or_the_silent() {
    let (i, s, both, gone) = (peer(Ingest, 1), peer(Store, 2), peer(IngestStore, 3), peer(IngestStore, 4));
    let view = view(&[&i, &s, &both], &[&gone]);
    assert_eq!(ask(Tier::Ingest, &view), [&i, &both]);
    assert_eq!(ask(Tier::Store, &view), [&s, &both]);
}

#[test]
fn an_ingester_that_has_left_meanwhile_is_not_missed_unless_another_has_its_directory() {
    let (leaving, store) = (peer(Ingest, 1), peer(Store, 2));
    let before = view(&[&leaving], &[]);
    let missed =
        |now: &View, answered: bool| !asked(&before, now, &[(&leaving, answered)], &[]).missed().is_harmless(1);
    assert!(!missed(&view(&[&store], &[]), false));
    assert!(missed(&view(&[&leaving], &[]), false));
    assert!(missed(&view(&[], &[&leaving]), false));
    assert!(!missed(&view(&[], &[&leaving]), true));
    let mut successor = peer(Ingest, 3);
    successor.meta.ingest = leaving.meta.ingest;
    assert!(missed(&view(&[&successor], &[]), false));
}

#[test]
fn a_silent_node_of_both_tiers_is_missed_as_an_ingester_unless_it_had_drained_and_left() {
    let silent = |state| Peer { state, ..peer(IngestStore, 1) };
    let harmless = |before: &[&Peer], now: &[&Peer], of: &[(&Peer, bool)]| {
        asked(&view(&[], before), &view(&[], now), of, &[]).missed().is_harmless(2)
    };
    let (dead, left, alive) = (silent(State::Dead), silent(State::Left), silent(State::Alive));
    assert!(!harmless(&[&dead], &[&dead], &[]));
    assert!(harmless(&[&left], &[&left], &[]));
    assert!(harmless(&[], &[&left], &[(&alive, false)]), "it left while it was asked");
}

/// A store that had been away called an answer complete in the moment after its start, without the records of an ingester
/// that had joined in the meantime: it knew of nobody else whom it could not do without.
#[test]
fn a_node_that_does_not_know_yet_who_there_is_cannot_say_that_nothing_is_missed() {
    let view = view(&[], &[]);
    let mut asked = asked(&view, &view, &[], &[]);
    assert!(asked.missed().is_harmless(1));
    asked.was_informed = false;
    assert!(!asked.missed().is_harmless(3));
    assert_eq!(asked.missed().names(), crate::query::complete::UNHEARD_OF);
}

#[test]
fn stores_that_are_silent_or_did_not_answer_or_are_only_named_are_missed_once_each() {
    let (dead, slow, well, left) = (peer(Store, 1), peer(Store, 2), peer(Store, 3), peer(Store, 4));
    let now = view(&[&slow, &well], &[&dead]);
    let before = view(&[&slow, &well, &left], &[&dead]);
    let mut all = asked(&before, &now, &[], &[(&slow, false), (&well, true)]);
    assert_eq!(all.missed().names(), "10.0.0.1:7650, 10.0.0.2:7650");
    assert_eq!(all.count(), 3);
    let key = |n: u128| StoreKey::of(DataId(n << 64));
    all.named = [key(1), key(3), key(9), key(5), key(6)].into();
    let (witnesses, forgotten) = ([DataId(6 << 64), DataId(7 << 64)], [DataId(5 << 64)]);
    (all.witnesses, all.forgotten) = (&witnesses, &forgotten);
    assert_eq!(all.missed().names(), "0000000000000006, 0000000000000007, 10.0.0.1:7650, 10.0.0.2:7650");
}

#[test]
fn an_ingest_tier_names_the_stores_it_sees_and_those_that_took_its_segments_but_not_the_forgotten() {
    let (dead, well, ingester) = (peer(Store, 1), peer(Store, 2), peer(Ingest, 3));
    let view = view(&[&well, &ingester], &[&dead]);
    let named = named_by(&view, &[DataId(5 << 64), DataId(6 << 64)], &[DataId(6 << 64), DataId(1 << 64)]);
    assert_eq!(named.into_iter().map(|key| key.0).collect::<Vec<_>>(), [2, 5, 9]);
}

#[test]
fn a_source_that_breaks_off_is_judged_by_what_was_told_and_by_all_that_broke_before() {
    let owner = |tier, n| Owner::new(tier, &peer(IngestStore, n));
    let mut verdict = Verdict::new(Missed::default(), 2);
    assert!(verdict.is_complete());
    assert!(verdict.goes_on_without(&owner(Tier::Store, 1)));
    assert!(verdict.goes_on_without(&owner(Tier::Store, 1)), "several segments of one store");
    assert!(!verdict.goes_on_without(&owner(Tier::Store, 2)));
    assert!(!Verdict::new(Missed::default(), 3).goes_on_without(&owner(Tier::Ingest, 1)));
    let mut named = Missed::default();
    named.ingester(owner(Tier::Ingest, 1).name());
    let mut partial = Verdict::new(named, 2);
    assert!(!partial.is_complete());
    assert!(partial.goes_on_without(&owner(Tier::Store, 1)), "it was named");
    assert!(!partial.goes_on_without(&owner(Tier::Store, 2)));
    assert_eq!(partial.missed().names(), "10.0.0.1:7650");
}

#[test]
fn an_address_is_anothers_when_it_says_so_and_the_directory_was_known() {
    let store = peer(Store, 1);
    assert!(!Tier::Store.is_anothers(&store, &DataId(1 << 64).to_string()));
    assert!(Tier::Store.is_anothers(&store, &DataId(2 << 64).to_string()));
    assert!(!Tier::Ingest.is_anothers(&store, &DataId(2 << 64).to_string()));
}
