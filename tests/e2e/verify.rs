//! `oklog verify` on directories that the real binary has made: sound as they are, and each damage found and named.

use crate::harness::command::{Finished, bash, run};
use crate::harness::logs::{all_lines, numbered};
use crate::harness::node::Role;
use crate::harness::{Node, Port, oklog, wait_until};
use oklog::record::id::{Id, StreamBits};
use oklog::record::stored;
use oklog::segment::{Bounds, State};
use oklog::unit::UnixNanos;
use std::fs;
use std::path::{Path, PathBuf};

fn verify(args: &[&str], dir: &Path) -> Finished {
    let mut command = oklog([&["verify"], args].concat());
    command.arg(dir);
    run(command, b"")
}

/// What was printed, if the exit status is this one and nothing was complained about.
fn report(finished: &Finished, status: i32) -> String {
    let report = String::from_utf8_lossy(&finished.stdout).into_owned();
    assert_eq!((finished.status, finished.stderr.as_str()), (Some(status), ""), "{report}");
    report
}

/// The files of a directory that end so, in order.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Everything in a directory: names, lengths, times of change.
fn listing(dir: &Path) -> String {
    bash(&format!("ls -lAR --time-style=full-iso {}", dir.display())).stdout.iter().map(|b| *b as char).collect()
}

#[test]
fn what_a_node_leaves_behind_is_sound_and_reading_it_changes_nothing() {
    let mut node = Node::start_quick(&[]);
    node.send(Port::Fast, &all_lines());
    node.send(Port::Durable, &all_lines());
    let refused = verify(&[], node.dir());
    refused.assert_one_sentence(2, &["in use by process", "stop that server first"]);
    assert_eq!(refused.stdout, b"");
    node.stop();
    let before = listing(node.dir());
    let lines = 2 * all_lines().iter().filter(|byte| **byte == b'\n').count();
    let text = report(&verify(&["-copies", "1"], node.dir()), 0);
    assert!(text.contains(&format!("\n{lines} records on 1 store\n")), "{text}");
    assert!(text.ends_with(": sound\n") && text.lines().count() == 5, "{text}");
    assert_eq!(listing(node.dir()), before);
    verify(&["-copies", "2"], node.dir()).assert_one_sentence(2, &["-copies 2", "2 stores or more"]);
    node.restart();
    assert_eq!(node.everything().len(), 2 * all_lines().len());
}

#[test]
fn what_a_killed_node_leaves_behind_is_sound_with_notes() {
    let mut node = Node::start_unconsumed(&[]);
    node.send(Port::Fast, &numbered("fast", 1_000));
    node.send(Port::Durable, &numbered("durable", 1_000));
    wait_until("all is in the log", || node.query(&[]).stored().count() == 2_000);
    node.kill9();
    let text = report(&verify(&["-v"], &node.dir().join("ingest")), 0);
    assert_eq!(text.matches("was being written when the server ended").count(), 2, "{text}");
    assert!(text.contains("2000 records in the ingest tier and on no store yet"), "{text}");
    let active = files(&node.dir().join("ingest"), ".active");
    let content = fs::read(&active[0]).unwrap();
    fs::write(&active[0], &content[..content.len() - 5]).unwrap();
    let text = report(&verify(&["-v"], node.dir()), 0);
    assert!(text.contains(&format!("note: {}: ends within a record", name(&active[0]))), "{text}");
    assert!(text.contains("1999 records in the ingest tier"), "{text}");
}

/// A node that is stopped, and the middle one of three segments of its store that one stream goes through, as a compaction
/// would have cut them.
fn cut_in_three() -> (Node, PathBuf) {
    let mut node = Node::start(&["-ingest.segment-flush-age=1h"]);
    node.send(Port::Durable, &numbered("durable", 3_000));
    node.stop();
    let store = node.dir().join("store");
    let [segment] = &files(&store, ".flushed")[..] else { panic!("{:?}", files(&store, ".flushed")) };
    let content = fs::read(segment).unwrap();
    let records: Vec<_> = stored::records(&content).collect();
    let mut paths = Vec::new();
    for part in records.chunks(1_000) {
        let (first, last) = (part[0].id().unwrap(), part[999].id().unwrap());
        paths.push(store.join(Bounds::Range(first, last, 0).file_name(State::Flushed)));
        fs::write(&paths[paths.len() - 1], part.iter().flat_map(|record| record.whole).copied().collect::<Vec<u8>>())
            .unwrap();
    }
    fs::remove_file(segment).unwrap();
    node.restart();
    assert_eq!(node.everything(), numbered("durable", 3_000));
    node.stop();
    (node, paths.swap_remove(1))
}

#[test]
fn damage_is_found_where_it_is() {
    let (node, middle) = &cut_in_three();
    let store = node.dir().join("store");
    assert!(report(&verify(&[], node.dir()), 0).contains("3000 records on 1 store"));
    let content = fs::read(middle).unwrap();
    let second = content.iter().position(|byte| *byte == b'\n').unwrap() + 1;

    let mut bad = content.clone();
    bad[second + 3] = b'!';
    fs::write(middle, &bad).unwrap();
    let text = report(&verify(&[], &store), 1);
    assert!(text.contains(&format!("problem: {}: ", name(middle))), "{text}");
    assert!(text.contains(&format!("from byte {second} to ")) && text.contains("1 record is missing"), "{text}");
    assert!(text.trim_end().ends_with(": 2 problems"), "{text}");

    fs::write(middle, &content[..content.len() - 10]).unwrap();
    let text = report(&verify(&[], &store), 1);
    assert!(text.contains("ends within a record") && text.contains("its name says"), "{text}");

    fs::remove_file(middle).unwrap();
    let text = report(&verify(&[], &store), 1);
    assert!(text.contains("1000 records are missing: counters 1000 to 1999 of stream"), "{text}");

    fs::write(middle, &content).unwrap();
    report(&verify(&[], &store), 0);

    // A copy under another third part is no harm; under a name that is not that of its content it is a problem.
    let copy = middle.with_extension("").to_string_lossy().into_owned() + "-1.flushed";
    fs::write(&copy, &content).unwrap();
    let text = report(&verify(&["-v"], &store), 0);
    assert!(text.contains("here more than once"), "{text}");
    fs::rename(&copy, store.join("backup.flushed")).unwrap();
    let text = report(&verify(&[], &store), 1);
    assert!(text.contains("problem: backup.flushed: no server gives a file this name"), "{text}");
    fs::remove_file(store.join("backup.flushed")).unwrap();

    // One bit of a text, beside a copy in another store.
    let other = tempfile::tempdir().unwrap();
    let copied = bash(&format!("cp -r {}/. {}", store.display(), other.path().display()));
    assert_eq!(copied.status, Some(0));
    let identity = &files(other.path(), ".store")[0];
    fs::rename(identity, other.path().join(format!("{:032x}.store", 7))).unwrap();
    let (mine, others) = (store.to_str().unwrap(), other.path());
    let text = report(&verify(&["-copies", "2", mine], others), 0);
    assert!(text.contains("3000 records on 2 stores"), "{text}");
    let mut bad = content;
    bad[second + 28] ^= 1;
    fs::write(others.join(name(middle)), &bad).unwrap();
    let text = report(&verify(&[mine], others), 1);
    assert!(text.contains("1 record differs from the one with the same id in "), "{text}");
}

#[test]
fn what_is_no_data_directory_is_said_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    verify(&[], dir.path()).assert_one_sentence(2, &["is no data directory of a server"]);
    verify(&[], &dir.path().join("none")).assert_one_sentence(2, &["cannot read", "none"]);
    run(oklog(["verify"]), b"").assert_one_sentence(2, &["no directory given"]);
    run(oklog(["verify", "-copies", "0", "x"]), b"").assert_one_sentence(2, &["-copies", "1 to 64"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

/// A store's directory of so many segments, each of which overlaps all others.
fn overlapping(segments: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(format!("{:032x}.store", 5)), b"").unwrap();
    let id = |at: u64, stream: u64, counter| {
        Id::new(UnixNanos(1_700_000_000_000_000_000 + at), StreamBits::from_random(stream), counter)
    };
    for n in 0..segments {
        let ids = [id(n, n, 0), id(1_000_000_000 + n, n, 1)];
        let mut content = Vec::new();
        ids.iter().for_each(|id| stored::write(&mut content, *id, &[b'x'; 2_000]));
        fs::write(dir.path().join(format!("{}-{}.flushed", ids[0], ids[1])), content).unwrap();
    }
    dir
}

#[test]
fn many_segments_that_overlap_take_neither_many_descriptors_nor_much_memory() {
    let dir = overlapping(3_000);
    let limited = bash(&format!("ulimit -n 16; ulimit -v 400000; exec \"$OKLOG\" verify {}", dir.path().display()));
    let text = report(&limited, 0);
    assert!(text.contains("6000 records on 1 store"), "{text}");
}

#[test]
fn a_file_without_permission_is_named_and_the_rest_is_read() {
    let dir = overlapping(3);
    let refused = &files(dir.path(), ".flushed")[1];
    bash(&format!("chmod 000 {}", refused.display()));
    if fs::File::open(refused).is_ok() {
        eprintln!("SKIPPED: this user may read every file");
        return;
    }
    let text = report(&verify(&[], dir.path()), 2);
    assert!(text.contains(&format!("problem: {}: cannot be read", name(refused))), "{text}");
    assert!(text.contains("4 records on 1 store") && text.contains("not all could be read"), "{text}");
}

#[test]
fn a_store_alone_and_an_ingester_alone_are_told_apart() {
    for (role, tier) in [(Role::Ingest, "ingest"), (Role::Store, "store")] {
        let mut node = Node::start_as(role, &["-ingest.drain-timeout=0s"][..usize::from(role == Role::Ingest)]);
        node.stop();
        let text = report(&verify(&[], node.dir()), 0);
        assert!(
            text.contains(&format!("/{tier} ({tier} ")) && text.starts_with(node.dir().to_str().unwrap()),
            "{text}"
        );
    }
}
