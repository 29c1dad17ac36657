//! Who is there: all nodes agree on it, in time, whatever became of one.

use crate::harness::{Cluster, DEATH, JOIN, Node, Role, loopback, short_or_long, throughout, within};
use std::time::Duration;

const COMBINED: [Role; 3] = [Role::IngestStore; 3];

#[test]
fn joins_kills_restarts_and_farewells_are_known_to_all_in_time() {
    let mut cluster = Cluster::start(10, &COMBINED, &[]);

    cluster.nodes[1].kill9();
    cluster.wait_agreement(DEATH, "a node was killed");
    for node in [&cluster.nodes[0], &cluster.nodes[2]] {
        let state = node.believes().unwrap().get(&loopback_api(10, 1)).cloned();
        assert_eq!(state.as_deref(), Some("silent"), "a killed node's records are missed, so it is still named");
    }

    cluster.nodes[1].restart();
    cluster.wait_agreement(JOIN, "the killed node was started again");
    assert_names_once(&cluster);

    // The one that all the others were told to join may go as well as any other.
    cluster.nodes[0].stop();
    cluster.wait_agreement(JOIN, "a node said good-bye");
    cluster.nodes[0].restart();
    cluster.wait_agreement(JOIN, "the node that had left was started again");
    assert_names_once(&cluster);

    let newcomer = cluster.add(Role::Store, &loopback(10, 3), None);
    newcomer.start();
    newcomer.wait_ready();
    cluster.wait_agreement(JOIN, "a store more has joined");
    let newcomer = cluster.add(Role::Ingest, &loopback(10, 4), None);
    newcomer.start();
    newcomer.wait_ready();
    cluster.wait_agreement(JOIN, "an ingester more has joined");
}

fn loopback_api(net: u8, n: usize) -> String {
    format!("{}:7650", loopback(net, n))
}

/// A node that came back is not missed any more under its former name.
fn assert_names_once(cluster: &Cluster) {
    for node in &cluster.nodes {
        let text = node.get("/store/_clusterstate").unwrap().text();
        for other in &cluster.nodes {
            assert_eq!(text.matches(&format!("\"{}\"", other.api())).count(), 1, "{}: {text}", node.api());
        }
    }
}

#[test]
fn nodes_that_start_alone_find_their_peers_whenever_those_come() {
    let mut cluster = Cluster::new(vec![loopback(11, 2)], &[]);
    for n in 0..3 {
        cluster.add(Role::IngestStore, &loopback(11, n), None);
    }
    cluster.nodes[0].start();
    cluster.nodes[1].start();
    // Nobody is there at the address that they were given; then somebody is.
    within(JOIN, "a node that has found nobody serves its API", || cluster.nodes[0].believes().map(drop));
    cluster.nodes[2].start();
    cluster.nodes.iter_mut().for_each(Node::wait_ready);
    cluster.wait_agreement(Duration::from_secs(30 + 6), "the only peer that was named has come");
}

#[test]
fn a_node_that_stood_still_comes_back_and_has_accused_nobody() {
    let cluster = Cluster::start(12, &COMBINED, &[]);
    let [still, first, second] = &cluster.nodes[..] else { unreachable!("three nodes") };
    let pause = short_or_long(Duration::from_secs(12), Duration::from_secs(30));
    let others_live = || {
        let of_each_other = |me: &Node, other: &Node| match me.believes()?.get(&other.api()).map(String::as_str) {
            Some("alive" | "suspect") => Ok(()),
            state => Err(format!("{} believes {} to be {state:?}", me.api(), other.api())),
        };
        of_each_other(first, second).and_then(|()| of_each_other(second, first))
    };
    still.pause();
    throughout(pause, "the two that go on know of each other", others_live);
    for node in [first, second] {
        let state = node.believes().unwrap().get(&still.api()).cloned();
        assert_eq!(state.as_deref(), Some("silent"), "{} has not noticed in {pause:?}", node.api());
    }
    still.resume();
    cluster.wait_agreement(Duration::from_secs(5 + 6), &format!("a node stood still for {pause:?}"));
    throughout(Duration::from_secs(short_or_long(10, 40)), "nobody is dead after that", || {
        others_live()?;
        for node in &cluster.nodes {
            let dead: Vec<String> =
                node.believes()?.into_iter().filter(|(_, state)| state == "silent").map(|(name, _)| name).collect();
            if !dead.is_empty() {
                return Err(format!("{} believes {dead:?} to be dead", node.api()));
            }
        }
        Ok(())
    });
}
