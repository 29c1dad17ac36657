//! What went in comes out, byte for byte and in order, wherever it is on its way and whatever happened to the process.

use crate::harness::logs::{all_lines, assert_same_lines, files, numbered};
use crate::harness::{Node, Port, wait_until};

fn send_all(node: &Node, port: Port) {
    files().iter().for_each(|file| node.send(port, &file.bytes));
}

#[test]
fn real_logs_come_back_whole_and_in_order_at_once() {
    let node = Node::start_unconsumed(&[]);
    let mut expected = Vec::new();
    for file in files() {
        node.send(Port::Fast, &file.bytes);
        expected.extend(file.lines());
        assert_same_lines(&node.everything(), &expected, &format!("right after {}", file.name));
    }
    assert_eq!(node.metric("oklog_store_consumed_segments_total", &[]), 0.0, "nothing was to be consumed here");
}

#[test]
fn real_logs_come_back_whole_after_consumption_compaction_and_a_restart() {
    let mut node = Node::start_quick(&[]);
    let mut expected = Vec::new();
    for file in files() {
        node.send(Port::Fast, &file.bytes);
        expected.extend(file.lines());
        node.wait_consumed();
        assert_same_lines(&node.everything(), &expected, &format!("after {} was consumed", file.name));
    }
    // Neighbours of one size are joined four at a time, whatever the files before them were.
    for round in 0..8 {
        let lines = numbered(&format!("round {round}"), 2_000);
        node.send(Port::Fast, &lines);
        expected.extend_from_slice(&lines);
        node.wait_consumed();
    }
    wait_until("small neighbours are compacted", || {
        node.metric("oklog_store_compact_bytes_total", &[]) > 0.0
            && node.metric("oklog_store_segments", &["state=\"flushed\""]) < (files().len() + 8) as f64
    });
    assert_same_lines(&node.everything(), &expected, "after compaction");
    node.stop();
    node.restart();
    assert_same_lines(&node.everything(), &expected, "after a restart");
}

#[test]
fn every_record_is_found_while_it_is_on_its_way() {
    let node = Node::start_quick(&["-ingest.segment-flush-size=64KiB"]);
    let mut expected = Vec::new();
    for file in files() {
        node.send(Port::Fast, &file.bytes);
        expected.extend(file.lines());
        for look in 0..5 {
            assert_same_lines(&node.everything(), &expected, &format!("{} was just sent, look {look}", file.name));
        }
    }
}

#[test]
fn a_restart_keeps_what_was_not_consumed() {
    let mut node = Node::start_unconsumed(&[]);
    send_all(&node, Port::Fast);
    node.stop();
    node.restart();
    assert_same_lines(&node.everything(), &all_lines(), "after SIGTERM and a start");
}

#[test]
fn what_the_durable_port_has_closed_survives_kill_9_in_the_ingest_tier() {
    let mut node = Node::start_unconsumed(&[]);
    send_all(&node, Port::Durable);
    node.kill9();
    node.restart();
    assert_same_lines(&node.everything(), &all_lines(), "after kill -9");
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_acknowledged_and_doubles_nothing() {
    let mut node = Node::start_quick(&["-ingest.segment-flush-size=64KiB"]);
    let mut expected = Vec::new();
    for file in files() {
        node.send(Port::Durable, &file.bytes);
        expected.extend(file.lines());
        // Segments are being flushed, consumed, committed and compacted right now.
        node.kill9();
        node.restart();
        assert_same_lines(&node.everything(), &expected, &format!("kill -9 after {}", file.name));
    }
    node.wait_consumed();
    assert_same_lines(&node.everything(), &expected, "after all was consumed");
}

#[test]
fn a_killed_process_costs_the_fast_port_nothing_that_the_node_had_read() {
    let mut node = Node::start_unconsumed(&[]);
    send_all(&node, Port::Fast);
    node.kill9();
    node.restart();
    assert_same_lines(&node.everything(), &all_lines(), "after kill -9");
}

#[test]
fn connections_at_the_same_time_each_keep_their_order() {
    let node = Node::start_quick(&["-ingest.segment-flush-size=64KiB"]);
    let lines_of = |connection: usize, file: &crate::harness::logs::LogFile| -> Vec<Vec<u8>> {
        let lines = file.lines();
        let lines = lines.split_inclusive(|&b| b == b'\n');
        lines.map(|line| [format!("c{connection} ").as_bytes(), line].concat()).collect()
    };
    let sent: Vec<Vec<Vec<u8>>> = files().iter().enumerate().map(|(number, file)| lines_of(number, file)).collect();
    std::thread::scope(|scope| {
        for lines in &sent {
            scope.spawn(|| node.send(Port::Fast, &lines.concat()));
        }
    });
    for moment in ["at once", "after consumption"] {
        let all = node.everything();
        assert_eq!(all.len(), sent.iter().flatten().map(Vec::len).sum::<usize>(), "{moment}");
        for (connection, lines) in sent.iter().enumerate() {
            let prefix = format!("c{connection} ").into_bytes();
            let of_it: Vec<&[u8]> =
                all.split_inclusive(|&b| b == b'\n').filter(|line| line.starts_with(&prefix)).collect();
            assert_same_lines(&of_it.concat(), &lines.concat(), &format!("connection {connection} {moment}"));
        }
        node.wait_consumed();
    }
}
