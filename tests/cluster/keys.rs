//! A cluster with a key: strangers learn nothing and change nothing, and a key can be changed while all go on.

use crate::harness::command::{oklog, run};
use crate::harness::http::Exchange;
use crate::harness::logs::numbered;
use crate::harness::{Cluster, DEATH, JOIN, Node, Role, loopback, throughout};
use crate::ledger::Ledger;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

const OLD: &str = "an old key of enough characters 0123456789";
const NEW: &str = "a new key of enough characters 9876543210";

/// Writes a key file that only its owner may read.
fn key_file(cluster: &Cluster, name: &str, keys: &[&str]) -> PathBuf {
    let path = cluster.dir().join(name);
    std::fs::write(&path, keys.join("\n") + "\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn flags(net: u8, key_file: Option<&PathBuf>) -> Vec<String> {
    let peers = (0..2).map(|n| format!("-peer={}", loopback(net, n)));
    peers.chain(key_file.map(|path| format!("-cluster.key-file={}", path.display()))).collect()
}

/// Three combined nodes with this key.
fn keyed(net: u8) -> Cluster {
    let mut cluster = Cluster::new(Vec::new(), &[]);
    let old = key_file(&cluster, "old", &[OLD]);
    for n in 0..3 {
        cluster.add(Role::IngestStore, &loopback(net, n), None).set_flags(&flags(net, Some(&old)));
    }
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.nodes.iter_mut().for_each(Node::wait_ready);
    cluster.wait_agreement(JOIN, "all have just been started with a key");
    cluster
}

fn assert_works(cluster: &Cluster, ledger: &Ledger, when: &str) {
    for (n, node) in cluster.nodes.iter().enumerate() {
        let tag = format!("{}{n}", when.replace(' ', "_"));
        assert!(ledger.send(&node.durable(), &tag, &numbered("line", 200)), "{when}: {tag} was not confirmed");
    }
    cluster.wait_consumed();
    for node in &cluster.nodes {
        let answer = node.everything();
        assert_eq!((answer.status, answer.complete), (200, true), "{when}: {:?}", answer.headers);
        ledger.assert_held_by(&answer, when);
    }
}

#[test]
fn a_node_without_the_key_learns_nothing_and_changes_nothing() {
    let cluster = keyed(50);
    let ledger = Ledger::default();
    assert_works(&cluster, &ledger, "with a key");

    let mut strangers = Cluster::new(Vec::new(), &[]);
    let other = key_file(&strangers, "other", &[NEW]);
    strangers.add(Role::IngestStore, &loopback(50, 10), None).set_flags(&flags(50, None));
    strangers.add(Role::IngestStore, &loopback(50, 11), None).set_flags(&flags(50, Some(&other)));
    strangers.nodes.iter_mut().for_each(Node::start);
    // A stranger is not ready: it was told of peers, and nobody talks to it. Its API answers all the same.
    let alone = |stranger: &Node| match stranger.believes() {
        Ok(believed) if believed.keys().eq([&stranger.api()]) => Ok(()),
        Ok(believed) => Err(format!("{} has learned of {believed:?}", stranger.api())),
        Err(_) => Ok(()),
    };
    let before: Vec<_> = cluster.nodes.iter().map(|node| node.believes().unwrap()).collect();
    throughout(Duration::from_secs(5), "strangers stay strangers", || {
        strangers.nodes.iter().try_for_each(alone)?;
        for (node, before) in cluster.nodes.iter().zip(&before) {
            let now = node.believes()?;
            if now != *before {
                return Err(format!("{} believed {before:?}, now {now:?}", node.api()));
            }
        }
        Ok(())
    });
    for stranger in &strangers.nodes {
        assert!(stranger.believes().is_ok(), "{} never served its API", stranger.api());
    }

    for (method, target) in [
        ("GET", "/ingest/next"),
        ("GET", "/ingest/read?id=x"),
        ("POST", "/ingest/commit?id=x"),
        ("POST", "/ingest/failed?id=x"),
        ("GET", "/ingest/_query?q="),
        ("GET", "/ingest/_stream?q="),
        ("POST", "/store/replicate"),
        ("GET", "/store/_query?q="),
    ] {
        for node in &cluster.nodes {
            let answer = Exchange::open(&node.api(), method, target).unwrap().finish();
            assert_eq!(answer.status, 401, "{method} {target}: {}", answer.text());
        }
    }
    assert_works(&cluster, &ledger, "beside strangers");
}

#[test]
fn a_key_is_changed_by_restarting_nodes_one_at_a_time() {
    let mut cluster = keyed(51);
    let ledger = Ledger::default();
    assert_works(&cluster, &ledger, "with the old key");
    for (step, keys) in [("old and new", &[OLD, NEW][..]), ("new and old", &[NEW, OLD]), ("only new", &[NEW])] {
        let path = key_file(&cluster, &step.replace(' ', "-"), keys);
        for n in 0..cluster.nodes.len() {
            cluster.nodes[n].stop();
            cluster.nodes[n].set_flags(&flags(51, Some(&path)));
            cluster.nodes[n].restart();
            cluster.wait_agreement(JOIN, &format!("node {n} has been given {step}"));
        }
        assert_works(&cluster, &ledger, step);
    }
}

#[test]
fn only_who_has_the_key_can_have_a_node_forgotten() {
    let mut cluster = keyed(53);
    let ledger = Ledger::default();
    assert_works(&cluster, &ledger, "with a key");
    cluster.nodes[2].kill9();
    cluster.wait_agreement(DEATH, "a node was killed");
    let (asked, name) = (cluster.nodes[0].api(), cluster.nodes[2].api());
    let refused = run(oklog(["forget", "-store", &asked, &name]), b"");
    refused.assert_one_sentence(2, &["key"]);
    assert_eq!(cluster.nodes[0].everything().status, 206, "nothing was forgotten");
    let key = key_file(&cluster, "mine", &[OLD]);
    let said = run(oklog(["forget", "-store", &asked, "-cluster.key-file", &key.display().to_string(), &name]), b"");
    assert_eq!(said.status, Some(0), "{said:?}");
    for node in &cluster.nodes[..2] {
        cluster.wait_complete(node, JOIN);
        ledger.assert_held_by(&node.everything(), "with the killed one forgotten");
    }
}

#[test]
fn a_key_file_that_others_may_read_keeps_a_node_from_starting() {
    let cluster = Cluster::new(Vec::new(), &[]);
    let path = key_file(&cluster, "open", &[OLD]);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let flag = format!("-cluster.key-file={}", path.display());
    let api = format!("-api=tcp://{}:7650", loopback(52, 0));
    let mut command = oklog(["store", &api, &flag]);
    command.current_dir(cluster.dir());
    let ended = run(command, b"");
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("open") && !ended.stderr.contains(OLD), "{}", ended.stderr);
}
