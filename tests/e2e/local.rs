//! `oklog query -path` on the directories of nodes that run, that were killed, and that were damaged.

use crate::harness::command::{Finished, bash, files_of, run};
use crate::harness::logs::numbered;
use crate::harness::node::Role;
use crate::harness::{Node, Port, oklog, wait_until};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn query(dir: &Path, args: &[&str]) -> Finished {
    let path = dir.to_str().expect("a path in UTF-8");
    run(oklog([&["query", "-path", path][..], args].concat()), b"")
}

#[test]
fn a_directory_gives_what_its_running_server_gives_and_nothing_in_it_changes() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, &numbered("kept", 3_000));
    node.wait_consumed();
    for dir in ["store", "."] {
        let printed = query(&node.dir().join(dir), &["-ulid"]);
        assert_eq!((printed.status, printed.stderr.as_str()), (Some(0), ""), "{dir}");
        assert_eq!(printed.stdout, node.query(&[]).body, "{dir}");
    }
    assert_eq!(query(&node.dir().join("ingest"), &[]).status, Some(1));
    let stats = query(node.dir(), &["-stats", "-from", "7d"]);
    assert!(stats.status == Some(0) && stats.stdout.starts_with(b"from "), "{stats:?}");
}

#[test]
fn an_ingester_has_what_no_store_has_taken_while_it_runs_and_when_it_was_killed() {
    let mut node = Node::start_as(Role::Ingest, &["-ingest.drain-timeout=0s"]);
    node.send(Port::Durable, b"alpha\nbeta 100%\ngamma\n");
    for is_running in [true, false] {
        if !is_running {
            node.kill9();
        }
        for dir in ["ingest", "."] {
            let dir = node.dir().join(dir);
            assert_eq!(query(&dir, &["-q", "^(alpha|gamma)$", "-regex"]).stdout, b"alpha\ngamma\n");
            assert_eq!(query(&dir, &["-n", "2"]).stdout, b"beta 100%\ngamma\n");
            let none = query(&dir, &["-q", "delta"]);
            assert_eq!((none.status, none.stdout.as_slice(), none.stderr.as_str()), (Some(1), &b""[..], ""));
            assert_eq!(query(&dir, &["-nocopy"]).stdout, b"");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    query(dir.path(), &[]).assert_one_sentence(2, &["is no data directory of a server"]);
    query(&dir.path().join("none"), &[]).assert_one_sentence(2, &["cannot read", "none"]);
    query(dir.path(), &["-store", "localhost"]).assert_one_sentence(2, &["-store", "-path"]);
    query(dir.path(), &["-q", "(", "-regex"]).assert_one_sentence(2, &["q is not a regular expression"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn of_a_killed_and_damaged_store_all_is_found_that_can_be_and_the_rest_is_said() {
    let mut node = Node::start_quick(&[]);
    for n in 0..3 {
        node.send(Port::Fast, &numbered(&format!("part {n}"), 1_000));
        node.wait_consumed();
        wait_until("the next segment", || files_of(&node.dir().join("store"), ".flushed").len() > n);
    }
    node.kill9();
    let store = node.dir().join("store");
    let all = query(&store, &[]);
    assert_eq!((all.status, all.stdout.iter().filter(|byte| **byte == b'\n').count()), (Some(0), 3_000));
    let segments = files_of(&store, ".flushed");
    let bad = &segments[1];
    let mut content = fs::read(bad).unwrap();
    content[3] = b'u';
    fs::write(bad, content).unwrap();
    let found = query(&store, &["-ulid"]);
    found.assert_one_sentence(3, &["records may be missing", bad.to_str().unwrap(), "no id"]);
    let whole = run(oklog(["cat".as_ref(), segments[0].as_os_str(), segments[2].as_os_str()]), b"");
    assert_eq!(found.stdout, whole.stdout);
    let piped = bash(&format!("\"$OKLOG\" query -path {} | head -n 1; exit ${{PIPESTATUS[0]}}", store.display()));
    assert!(piped.stdout.starts_with(b"part 0 ") && piped.stdout.ends_with(b"\n"));
}

/// Ends the traffic, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn while_a_server_takes_moves_and_compacts_every_record_is_found_once() {
    let node = Node::start_quick(&[]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        let traffic = scope.spawn(|| {
            let changes = || fs::metadata(node.dir().join("store")).unwrap().modified().unwrap();
            let (mut n, mut last) = (0, changes());
            while !is_over.load(Ordering::Relaxed) {
                node.send(Port::Fast, &numbered("other traffic", 200));
                wait_until("a change of names", || n == 0 || changes() != last);
                last = changes();
                n += 1;
            }
            n
        });
        for round in 1..=30_u64 {
            node.send(Port::Durable, &numbered(&format!("round {round}"), 50));
            let found = query(node.dir(), &["-q", "round ", "-ulid"]);
            assert_eq!((found.status, found.stderr.as_str()), (Some(0), ""), "round {round}");
            let lines: Vec<&[u8]> = found.stdout.split_inclusive(|byte| *byte == b'\n').collect();
            assert_eq!(lines.len() as u64, 50 * round, "round {round}");
            assert!(lines.is_sorted_by(|a, b| a[..26] < b[..26]), "round {round}");
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(traffic.join().unwrap() > 0);
    });
    let compacted = node.metric("oklog_store_compact_duration_seconds_count", &[]);
    println!("{compacted} compactions meanwhile");
}
