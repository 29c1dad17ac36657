//! Segments are sealed by the real binary: what is in them is read by queries and by stock tools, whatever happens meanwhile.

use crate::harness::command::{bash, has_tool};
use crate::harness::logs::{assert_same_lines, files, numbered};
use crate::harness::{Node, Port, wait_until};
use std::fs;
use std::path::PathBuf;

/// The files of a node's store that end so, in order.
fn segments(node: &Node, end: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(node.dir().join("store")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    found.sort();
    found
}

fn wait_until_all_is_sealed(node: &Node) {
    let count = |state: &str| node.metric("oklog_store_segments", &[&format!("state=\"{state}\"")]);
    wait_until("all segments are sealed", || {
        count("sealed") > 0.0 && count("flushed") == 0.0 && count("reading") == 0.0
    });
}

#[test]
fn zstdcat_prints_what_the_query_answers() {
    let mut node = Node::start_quick(&["-store.seal-age=1s"]);
    let mut expected = Vec::new();
    for file in files() {
        node.send(Port::Fast, &file.bytes);
        expected.extend(file.lines());
    }
    node.wait_consumed();
    wait_until_all_is_sealed(&node);
    assert_same_lines(&node.everything(), &expected, "from sealed segments");
    let answer = node.query(&[]).body;
    let disk = node.metric("oklog_store_segment_bytes", &["state=\"sealed\""]);
    let lengths: u64 = segments(&node, ".sealed").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(disk == lengths as f64 && lengths < answer.len() as u64 / 2, "{lengths} of {}", answer.len());
    assert!(node.metric("oklog_store_compact_bytes_total", &["kind=\"seal\""]) > 0.0);
    node.stop();
    if has_tool("zstdcat", "zstd") {
        let printed = bash(&format!("zstdcat {}/store/*.sealed | LC_ALL=C sort -u", node.dir().display()));
        assert_eq!((printed.status, printed.stderr.as_str()), (Some(0), ""));
        let mut records: Vec<&[u8]> = answer.split_inclusive(|byte| *byte == b'\n').collect();
        records.sort_unstable();
        assert!(printed.stdout == records.concat(), "the records and nothing else");
    }
    // What is sealed stays readable where nothing is sealed any more.
    node.restart_with(&["-store.seal=false"]);
    assert_same_lines(&node.everything(), &expected, "after a restart");
    let more = numbered("more", 100);
    node.send(Port::Fast, &more);
    expected.extend(&more);
    node.wait_consumed();
    assert_same_lines(&node.everything(), &expected, "over both forms");
}

#[test]
fn nothing_is_sealed_where_that_is_turned_off() {
    let node = Node::start_quick(&["-store.seal=false", "-store.seal-age=0s"]);
    let mut expected = Vec::new();
    for round in 0..8 {
        let lines = numbered(&format!("round {round}"), 500);
        node.send(Port::Fast, &lines);
        expected.extend(&lines);
        node.wait_consumed();
    }
    wait_until("small neighbours are compacted", || node.metric("oklog_store_compact_bytes_total", &[]) > 0.0);
    assert_eq!(segments(&node, ".sealed"), Vec::<PathBuf>::new());
    assert_eq!(node.metric("oklog_store_compact_bytes_total", &["kind=\"seal\""]), 0.0);
    assert_same_lines(&node.everything(), &expected, "plain");
}

#[test]
fn killed_at_any_time_while_it_seals_a_store_has_each_record_once() {
    let mut node = Node::start_quick(&["-store.seal-age=0s", "-store.segment-target-size=262144"]);
    let mut expected = Vec::new();
    for round in 0..12 {
        for part in 0..3 {
            let lines = numbered(&format!("round {round}, part {part}: some text that is to be packed"), 3_000);
            node.send(Port::Durable, &lines);
            expected.extend(&lines);
        }
        // Some rounds are ended in the middle of it, and some right after it has begun.
        let before = node.metric("oklog_store_compact_bytes_total", &["kind=\"seal\""]);
        if round % 3 > 0 {
            wait_until("something is sealed", || {
                round % 3 == 1 && segments(&node, ".reading").len() + segments(&node, ".active").len() > 0
                    || node.metric("oklog_store_compact_bytes_total", &["kind=\"seal\""]) > before
            });
        }
        node.kill9();
        node.restart();
        assert_same_lines(&node.everything(), &expected, &format!("killed in round {round}"));
    }
    node.wait_consumed();
    wait_until_all_is_sealed(&node);
    assert_same_lines(&node.everything(), &expected, "in the end");
}
