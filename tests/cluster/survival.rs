//! What was confirmed on the durable port is found, exactly once and in the order of its connection, from every node.

use crate::harness::command::{Running, oklog};
use crate::harness::{Cluster, DEATH, JOIN, Node, Role, loopback, short_or_long};
use crate::ledger::Ledger;
use crate::pour::Pour;
use std::collections::BTreeSet;
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
fn a_confirmation_holds_however_soon_after_it_the_node_is_killed() {
    // One node alone: what waits for a second store is found in its ingest tier.
    let mut cluster = Cluster::new(Vec::new(), &[]);
    cluster.add(Role::IngestStore, &loopback(23, 0), None).restart();
    let pour = Pour::start(std::iter::repeat_n(&cluster.nodes[0], 6), 100);
    for kill in 0..short_or_long(30, 300) {
        // Long enough for connections to come to their end, and at another moment of their lives each time.
        std::thread::sleep(Duration::from_millis(60 + kill * 37 % 100));
        cluster.nodes[0].kill9();
        cluster.nodes[0].restart();
    }
    let ledger = pour.finish();
    ledger.assert_held_by(&cluster.nodes[0].everything(), "after all kills");
}

#[test]
fn what_a_forwarder_has_handed_over_durably_is_found_whatever_was_killed_meanwhile() {
    let mut cluster = Cluster::start(24, &COMBINED, &[]);
    let addresses: Vec<String> = cluster.nodes.iter().map(Node::durable).collect();
    let mut args = vec!["forward".to_string(), "-mode=durable".into()];
    args.extend(addresses);
    let mut forwarder = Running::start(oklog(args));
    let mut sent = BTreeSet::new();
    for kill in 0..short_or_long(6, 40) {
        for portion in 0..20 {
            let lines: Vec<String> =
                (0..100).map(|line| format!("kill {kill} portion {portion} line {line}")).collect();
            forwarder.write((lines.join("\n") + "\n").as_bytes());
            sent.extend(lines);
            std::thread::sleep(Duration::from_millis(25));
        }
        let node = &mut cluster.nodes[kill % 3];
        node.kill9();
        node.restart();
    }
    assert_eq!(forwarder.finish(), Some(0), "the forwarder says that all is handed over");
    cluster.wait_agreement(JOIN, "the last kill");
    for node in &cluster.nodes {
        cluster.wait_complete(node, Duration::from_secs(10));
        let found = String::from_utf8(node.everything().lines()).expect("what was sent is text");
        let found: BTreeSet<&str> = found.lines().collect();
        // A portion whose confirmation was lost is there twice; none is missing, and nothing else is there.
        let missing: Vec<&String> = sent.iter().filter(|line| !found.contains(line.as_str())).take(3).collect();
        assert!(missing.is_empty(), "{}: {} of {} lines, not {missing:?}", node.api(), found.len(), sent.len());
        assert_eq!(found.len(), sent.len(), "{}", node.api());
    }
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
