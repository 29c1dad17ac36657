//! Nodes of one tier: what they serve, what they do not, and what they tell the service manager.

use crate::harness::logs::numbered;
use crate::harness::node::{Role, query_target_at};
use crate::harness::{Node, Port, oklog};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// The names of the files in a tier's directory that end so.
fn files(node: &Node, tier: &str, extension: &str) -> Vec<String> {
    let names = std::fs::read_dir(node.dir().join(tier)).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.ends_with(extension)).collect()
}

#[test]
fn an_ingester_alone_takes_lines_keeps_them_over_a_restart_and_answers_other_nodes() {
    let mut node = Node::start_as(Role::Ingest, &["-ingest.drain-timeout=0s"]);
    let ever = query_target_at("/ingest/_query", &[]);
    node.send(Port::Fast, &numbered("fast", 1_000));
    node.send(Port::Durable, b"durable\n");
    let lines = [numbered("fast", 1_000), b"durable\n".to_vec()].concat();
    assert_eq!(node.get(&ever).lines(), lines);
    let id = files(&node, "ingest", ".ingest");
    assert_eq!(id.len(), 1, "{id:?}");

    node.stop();
    assert!(node.stderr().iter().any(|line| line.contains("not drained")), "{:?}", node.stderr());
    node.restart();
    let answer = node.get(&ever);
    assert_eq!((answer.status, answer.complete), (200, true));
    assert_eq!(answer.lines(), lines);
    assert_eq!(files(&node, "ingest", ".ingest"), id, "the directory is the same one");
    assert_eq!(node.metric("oklog_ingest_segments", &["flushed"]), 2.0, "a segment of each port waits for a store");
}

#[test]
fn an_ingester_serves_nothing_of_a_store() {
    let node = Node::start_as(Role::Ingest, &["-ingest.drain-timeout=0s"]);
    for path in ["/store/query", "/store/_query", "/store/stream", "/store/replicate", "/store/_clusterstate"] {
        assert_eq!(node.get(path).status, 404, "{path}");
    }
    assert!(node.get("/ingest/_clusterstate").text().contains("\"ingest\""));
    assert_eq!(node.get("/ingest/_segmentstate").status, 200);
    assert!(!node.dir().join("store").exists());
}

#[test]
fn a_store_alone_answers_queries_with_nothing_and_has_no_ports_for_lines() {
    let mut node = Node::start_as(Role::Store, &[]);
    assert_eq!(node.ports(), ["api", "cluster"]);
    assert!(node.stderr().iter().all(|line| !line.contains("port=fast") && !line.contains("port=bulk")));
    let answer = node.query(&[]);
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b""[..]));
    for path in ["/ingest/next", "/ingest/_query", "/ingest/_stream", "/ingest/_segmentstate"] {
        assert_eq!(node.get(path).status, 404, "{path}");
    }
    assert!(node.get("/store/_clusterstate").text().contains("\"store\""));
    assert_eq!(node.get("/ingest/_clusterstate").status, 200);
    assert!(!node.dir().join("ingest").exists());
    assert_eq!(files(&node, "store", ".store").len(), 1);
    node.stop();
}

#[test]
fn a_key_that_cannot_be_used_keeps_a_node_from_starting_unprotected() {
    let dir = tempfile::tempdir().unwrap();
    let key = format!("-cluster.key-file={}", dir.path().join("no such key").display());
    let path = format!("-store.path={}", dir.path().join("store").display());
    let command = oklog(["store", "-api=127.0.0.1:0", "-cluster=127.0.0.1:0", &path, &key]);
    let refused = crate::harness::command::run(command, b"");
    assert_eq!(refused.status, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("no such key"), "{}", refused.stderr);
}

#[test]
fn the_service_manager_hears_when_a_node_is_ready_how_it_drains_and_that_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("manager");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let hear = |what: &str| {
        let mut heard = Vec::new();
        while !heard.last().is_some_and(|word: &String| word.contains(what)) {
            let mut word = [0; 1024];
            let len = manager.recv(&mut word).unwrap_or_else(|e| panic!("{what:?} was not heard: {e}: {heard:?}"));
            heard.push(String::from_utf8(word[..len].to_vec()).unwrap());
        }
        heard
    };
    let mut node = Node::start_under(Role::Ingest, &["-ingest.drain-timeout=1m"], Some(&socket));
    let before = hear("READY=1");
    assert!(before.iter().rev().skip(1).all(|word| word.starts_with("STATUS=")), "{before:?}");
    node.send(Port::Fast, b"a record that no store takes\n");
    node.signal();
    assert_eq!(hear("STOPPING=1").len(), 1);
    let draining = hear("draining, segments left: 1").pop().unwrap();
    assert!(draining.starts_with("EXTEND_TIMEOUT_USEC="), "{draining}");
    assert_eq!(node.get("/ready").status, 503);
    assert_eq!(node.terminate().code(), Some(1), "a second signal ends it at once");
}
