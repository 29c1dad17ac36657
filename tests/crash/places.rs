//! Where nodes of these tests are, with which flags they run, and what must hold of the directories they leave.

use crate::harness::command::run;
use crate::harness::node::Role;
use crate::harness::{Node, oklog};
use oklog::world::entropy::random_u64;
use std::path::Path;

/// One of two values: in CI, and with `OKLOG_TEST_LONG` set.
pub fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os("OKLOG_TEST_LONG").is_some() { long } else { short }
}

/// What chance rests on: `OKLOG_TEST_SEED`, otherwise another one each time. Processes are never killed at the same
/// instruction twice, but the order of what is done to them is the same.
pub fn seed() -> u64 {
    let given = std::env::var("OKLOG_TEST_SEED").ok();
    given.map_or_else(random_u64, |seed| seed.parse().expect("OKLOG_TEST_SEED is a number"))
}

/// The address of node `n` of the scene that has this net: one that survives restarts, and that another process of these
/// tests hardly uses.
pub fn address(net: u8, n: usize) -> String {
    format!("127.{}.{net}.{}", 64 + std::process::id() % 190, n + 1)
}

/// The flags of a node at this address, with these nodes as its peers: everything moves on quickly.
pub fn flags_at(role: Role, at: &str, replicas: u8, all: &[String]) -> Vec<String> {
    let mut flags = vec![format!("-api=tcp://{at}:7650"), format!("-cluster=tcp://{at}:7659")];
    flags.push(format!("-cluster.advertise-addr={at}"));
    flags.extend(all.iter().filter(|other| *other != at).map(|other| format!("-peer={other}")));
    if role != Role::Store {
        for (name, port) in [("fast", 7651), ("durable", 7652), ("bulk", 7653)] {
            flags.push(format!("-ingest.{name}=tcp://{at}:{port}"));
        }
        flags.extend(["-ingest.segment-flush-age=150ms", "-ingest.segment-flush-size=262144"].map(String::from));
        flags.extend(["-ingest.segment-pending-timeout=2s", "-ingest.drain-timeout=20s"].map(String::from));
    }
    if role != Role::Ingest {
        flags.extend(["-store.segment-target-age=150ms", "-store.segment-delay=30ms"].map(String::from));
        flags.push("-store.segment-target-size=1048576".into());
        flags.push(format!("-store.segment-replication-factor={replicas}"));
    }
    flags
}

/// The names of the files in a tier's directory that end so; none where there is no such tier.
pub fn files(dir: &Path, tier: &str, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join(tier)).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(ending)).collect()
}

/// What `oklog verify` says of the directories of these nodes, taken as one cluster: all is sound, and each record is on so
/// many stores, those that are still in an ingest tier aside.
pub fn assert_verified(dirs: &[&Path], copies: u8, what: &str) {
    let mut args = vec!["verify".to_string(), format!("-copies={copies}")];
    args.extend(dirs.iter().map(|dir| dir.display().to_string()));
    let verified = run(oklog(args), b"");
    let report = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert_eq!(verified.status, Some(0), "{what}: oklog verify: {report}{}", verified.stderr);
}

/// Nodes that were stopped in order, with nothing left to consume: their ingest directories hold no segment, no file was
/// ever set aside, no process has complained of a panic, and `oklog verify` finds nothing amiss and so many copies.
pub fn assert_sound(nodes: &[&Node], copies: u8, what: &str) {
    let dirs: Vec<&Path> = nodes.iter().map(|node| node.dir()).collect();
    assert_verified(&dirs, copies, what);
    for node in nodes {
        for state in [".active", ".flushed", ".pending"] {
            assert_eq!(files(node.dir(), "ingest", state), [""; 0], "{what}: left in the ingest tier");
        }
        for tier in ["ingest", "store"] {
            assert_eq!(files(node.dir(), tier, ".corrupt"), [""; 0], "{what}: set aside in the {tier} tier");
        }
        let panics: Vec<String> = node.all_stderr().into_iter().filter(|line| line.contains("panic")).collect();
        assert_eq!(panics, [""; 0], "{what}");
    }
}
