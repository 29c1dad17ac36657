//! What was confirmed on the durable port is found, exactly once and in the order of its connection, from every node.

use crate::harness::{Cluster, DEATH, JOIN, Node, Role, short_or_long};
use crate::pour::{Ledger, Pour};
use std::time::{Duration, Instant};

const COMBINED: [Role; 3] = [Role::IngestStore; 3];

/// Every node's answer holds all of the ledger: as it is now, and when the ingest tiers are empty.
fn assert_found_everywhere(cluster: &Cluster, ledger: &Ledger) {
    for node in cluster.nodes.iter().filter(|node| node.role.stores()) {
        cluster.wait_complete(node, Duration::from_secs(60));
    }
    let look = |when: &str| {
        for node in cluster.nodes.iter().filter(|node| node.role.stores()) {
            let answer = node.everything();
            assert_eq!((answer.status, answer.complete), (200, true), "{}: {:?}", node.api(), answer.headers);
            ledger.assert_held_by(&answer, &format!("{} {when}", node.api()));
        }
    };
    look("at once");
    cluster.wait_consumed();
    look("after all was consumed");
}

#[test]
fn nodes_that_are_killed_one_after_another_lose_nothing_that_was_confirmed() {
    let mut cluster = Cluster::start(20, &COMBINED, &[]);
    let pour = Pour::start(cluster.nodes.iter(), 5);
    let end = Instant::now() + short_or_long(Duration::from_secs(25), Duration::from_secs(120));
    let (mut kills, mut down) = (0, 0);
    while Instant::now() < end {
        // Some are back before they were missed, some after they were declared dead.
        let away = if kills % 3 == 2 { DEATH.min(Duration::from_secs(10)) } else { Duration::from_millis(300) };
        let n = kills % 3;
        std::thread::sleep(Duration::from_secs(1));
        cluster.nodes[n].kill9();
        std::thread::sleep(away);
        cluster.nodes[n].restart();
        kills += 1;
        down += usize::from(away > Duration::from_secs(1));
        cluster.wait_agreement(JOIN + Duration::from_secs(3), &format!("kill {kills}"));
    }
    println!("{kills} kills, {down} of them with a long absence");
    let ledger = pour.finish();
    cluster.wait_agreement(JOIN, "all are back");
    assert_found_everywhere(&cluster, &ledger);
}

#[test]
fn rolling_restarts_under_load_lose_nothing_and_end_in_order() {
    let mut cluster = Cluster::start(21, &COMBINED, &[]);
    let pour = Pour::start(cluster.nodes.iter(), 5);
    for round in 0..short_or_long(2, 5) {
        for n in 0..cluster.nodes.len() {
            let start = Instant::now();
            cluster.nodes[n].stop();
            println!("round {round}: node {n} had stopped after {:.1} s", start.elapsed().as_secs_f64());
            let waiting = leftover(&cluster.nodes[n]);
            assert_eq!(waiting, 0, "node {n} drained, yet left {waiting} segments behind");
            cluster.nodes[n].restart();
            cluster.wait_agreement(JOIN, &format!("round {round}, node {n} restarted"));
        }
    }
    let ledger = pour.finish();
    assert_found_everywhere(&cluster, &ledger);
}

#[test]
fn a_store_that_stands_still_at_work_costs_no_record_and_doubles_none() {
    let roles = [Role::Ingest, Role::Ingest, Role::Store, Role::Store, Role::Store];
    let cluster = Cluster::start(22, &roles, &[]);
    let pour = Pour::start(cluster.nodes[..2].iter(), 10);
    let pause = short_or_long(Duration::from_secs(6), Duration::from_secs(90));
    for store in &cluster.nodes[2..] {
        // Longer than a consumer may keep a segment without a word: others take over what it was carrying.
        store.pause();
        std::thread::sleep(pause);
        store.resume();
        cluster.wait_agreement(JOIN, &format!("{} stood still for {pause:?}", store.api()));
    }
    let ledger = pour.finish();
    assert_found_everywhere(&cluster, &ledger);
}

/// Segments in the ingest directory of a node that has ended.
fn leftover(node: &Node) -> usize {
    let entries = std::fs::read_dir(node.home().join("ingest")).expect("the ingest directory");
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| [".active", ".flushed", ".pending"].iter().any(|state| name.ends_with(state))).count()
}
