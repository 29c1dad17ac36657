//! A network that falls apart and heals, between machines with addresses of their own.

use crate::harness::{Cluster, DEATH, JOIN, Node, Role, short_or_long, within};
use crate::ledger::Ledger;
use crate::netns::{Switch, address};
use std::net::UdpSocket;
use std::time::Duration;

/// A switch with so many machines. Also in CI there may be none: whether a container may make network namespaces is not
/// for the tests to decide.
fn switch(count: usize) -> Option<Switch> {
    let made = Switch::with_machines(count);
    made.map_err(|why| println!("SKIPPED: no network namespaces here (they need root and iproute2): {why}")).ok()
}

#[test]
fn a_switch_that_is_cut_loses_what_is_sent_across_until_it_is_whole_again() {
    let Some(switch) = switch(3) else { return };
    let bind = |n: usize| switch.wires[n].within(|| UdpSocket::bind((address(n), 7)).expect("a socket"));
    let sockets: Vec<UdpSocket> = (0..3).map(bind).collect();
    let arrives = |from: usize, to: usize| {
        sockets[to].set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // Sending fails when the other has not been found for long.
        (0..10).any(|_| {
            let sent = sockets[from].send_to(b"?", (address(to), 7));
            sent.is_ok() && sockets[to].recv(&mut [0; 8]).is_ok()
        })
    };
    assert!(arrives(0, 1) && arrives(1, 2) && arrives(2, 0), "all are connected");
    switch.cut_off(&[0]);
    assert!(!arrives(0, 1) && !arrives(2, 0), "the first is alone");
    assert!(arrives(1, 2), "the others are not");
    switch.heal();
    assert!(arrives(0, 1) && arrives(2, 0), "all are connected again");
}

#[test]
fn two_halves_find_each_other_again_and_answers_are_whole_again() {
    let Some(switch) = switch(3) else { return };
    let mut cluster = Cluster::new(vec![address(0), address(1)], &[]);
    for n in 0..3 {
        cluster.add(Role::IngestStore, &address(n), Some(switch.wires[n].clone()));
    }
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.nodes.iter_mut().for_each(Node::wait_ready);
    cluster.wait_agreement(JOIN, "all have just been started");
    let ledger = Ledger::default();
    send(&cluster, &ledger, "before", &[0, 1, 2]);

    let apart = short_or_long(Duration::from_secs(15), Duration::from_secs(60));
    let since = std::time::Instant::now();
    switch.cut_off(&[0]);
    let (alone, pair) = (&cluster.nodes[0], &cluster.nodes[1..]);
    let took = within(DEATH, "each half knows that the other is away", || {
        cluster.agrees(alone, &|node| node.api() == alone.api())?;
        pair.iter().try_for_each(|node| cluster.agrees(node, &|node| node.api() != alone.api()))
    });
    println!("both halves had noticed after {:.1} s", took.as_secs_f64());
    // Each half takes lines, and answers with what it has, which it does not call whole.
    send(&cluster, &ledger, "apart", &[0, 1, 2]);
    for node in &cluster.nodes {
        let answer = node.everything();
        assert_ne!(answer.status, 200, "{} has lost sight of an ingester: {:?}", node.api(), answer.headers);
    }
    std::thread::sleep(apart.saturating_sub(since.elapsed()));
    switch.heal();
    // Dead nodes are tried every 30 s.
    cluster.wait_agreement(Duration::from_secs(60 + 6), &format!("a partition of {apart:?} has healed"));
    send(&cluster, &ledger, "after", &[0, 1, 2]);
    for node in &cluster.nodes {
        cluster.wait_complete(node, Duration::from_secs(10));
    }
    cluster.wait_consumed();
    for node in &cluster.nodes {
        let answer = node.everything();
        assert_eq!((answer.status, answer.complete), (200, true), "{}: {:?}", node.api(), answer.headers);
        ledger.assert_held_by(&answer, &node.api());
    }
}

/// Sends lines to these nodes over durable connections that must be confirmed.
fn send(cluster: &Cluster, ledger: &Ledger, tag: &str, nodes: &[usize]) {
    for n in nodes {
        let (node, tag) = (&cluster.nodes[*n], format!("{tag}{n}"));
        let lines = crate::harness::logs::numbered("line", 2_000);
        let confirmed = node.on_its_network(|| ledger.send(&node.durable(), &tag, &lines));
        assert!(confirmed, "{tag} was not confirmed by {}", node.api());
    }
}
