//! `oklog forward`, `oklog stream` and `oklog testsvc`: lines go in at one end and come out at the other.

use crate::harness::command::{bash, run};
use crate::harness::logs::{all_lines, assert_same_lines};
use crate::harness::{Node, Port, Running, oklog, wait_until};
use std::time::Instant;

fn forward(node: &Node, flags: &[&str]) -> std::process::Command {
    oklog([&["forward"], flags, &[&format!("tcp://{}", node.address(Port::Fast))]].concat())
}

#[test]
fn forward_delivers_real_logs_as_they_are() {
    let node = Node::start_quick(&[]);
    let finished = run(forward(&node, &[]), &all_lines());
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    wait_until("all have arrived", || node.everything().len() >= all_lines().len());
    assert_same_lines(&node.everything(), &all_lines(), "forwarded");
}

#[test]
fn forward_to_the_durable_port_delivers_too() {
    let node = Node::start_quick(&[]);
    let durable = format!("tcp://{}", node.address(Port::Durable));
    let finished = run(oklog(["forward", "-mode", "durable", &durable]), b"a\nb\n");
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    assert_eq!(node.everything(), b"a\nb\n", "all of it is there when the forwarder has ended");
}

#[test]
fn prefixes_stand_before_each_line_and_a_percent_sign_is_just_that() {
    let node = Node::start_quick(&[]);
    let long = "l".repeat(100_000);
    let input = format!("100% done %s %d\n\n{long}\nthe last line has no end %");
    let finished = run(forward(&node, &["-prefix", "web", "-prefix=100%", "--prefix", "eu"]), input.as_bytes());
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    let expected: String = input.lines().map(|line| format!("web 100% eu {line}\n")).collect();
    wait_until("all have arrived", || node.everything().len() >= expected.len());
    assert_same_lines(&node.everything(), expected.as_bytes(), "with prefixes");
}

#[test]
fn a_forwarder_survives_its_ingester_s_restart_and_goes_on_with_another() {
    let (mut first, second) = (Node::start_quick(&[]), Node::start_quick(&[]));
    let addresses = [&first, &second].map(|node| format!("tcp://{}", node.address(Port::Fast)));
    let mut forwarder = Running::start(oklog([&["forward".to_string()], &addresses[..]].concat()));
    forwarder.write(b"line 0\n");
    let found = |node: &Node| node.query(&[]).stored().count();
    wait_until("the first line is somewhere", || found(&first) + found(&second) == 1);
    let (dead, alive) = if found(&first) == 1 { (&mut first, &second) } else { (&mut { second }, &first) };
    dead.kill9();
    // The kernel takes a line or two on the broken connection before the forwarder can know; later ones must arrive.
    let mut sent = 0;
    wait_until("lines arrive at the other one", || {
        sent += 1;
        forwarder.write(format!("line {sent}\n").as_bytes());
        found(alive) > 0
    });
    let from = sent + 1;
    (from..from + 100).for_each(|number| forwarder.write(format!("line {number}\n").as_bytes()));
    assert_eq!(forwarder.finish(), Some(0));
    let expected: String = (from..from + 100).map(|number| format!("line {number}\n")).collect();
    wait_until("the last line is there", || alive.everything().ends_with(expected.as_bytes()));
}

#[test]
fn stream_prints_matching_lines_as_they_come() {
    let node = Node::start_quick(&[]);
    let stream = Running::start(oklog(["stream", "-store", node.address(Port::Api), "-q", "wanted", "-window", "0"]));
    wait_until("the stream is open", || node.metric("oklog_stream_clients", &[]) >= 1.0);
    let mut connection = node.connect(Port::Fast);
    for number in 0..3 {
        let asked = Instant::now();
        std::io::Write::write_all(&mut connection, format!("wanted {number}\nother\n").as_bytes()).unwrap();
        wait_until("the line is printed", || stream.lines().len() > number);
        assert!(asked.elapsed().as_secs() < 3, "it took {:?}", asked.elapsed());
    }
    assert_eq!(stream.lines(), ["wanted 0", "wanted 1", "wanted 2"]);
}

#[test]
fn a_stream_with_a_window_gives_each_record_once_in_order_and_ids_when_asked() {
    let node = Node::start_quick(&[]);
    let stream =
        oklog(["stream", "-store", node.address(Port::Api), "-q", "^n [0-9]+$", "-regex", "-ulid", "-window", "200ms"]);
    let stream = Running::start(stream);
    wait_until("the stream is open", || node.metric("oklog_stream_clients", &[]) >= 1.0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| node.send(Port::Fast, &crate::harness::logs::numbered("n", 250)));
        }
    });
    wait_until("all are printed", || stream.lines().len() >= 1_000);
    let lines = stream.lines();
    assert!(lines.windows(2).all(|pair| pair[0][..26] < pair[1][..26]), "ids ascend");
    assert_eq!(lines.len(), 1_000);
}

#[test]
fn a_stream_goes_on_after_its_node_s_restart_without_a_gap() {
    let mut node = Node::start_quick(&[]);
    let api = format!("-api=tcp://{}", node.address(Port::Api));
    node.stop();
    // From now on at the same address, so that the stream finds it again.
    node.restart_with(&[&api]);
    let stream = Running::start(oklog(["stream", "-store", node.address(Port::Api), "-window", "100ms"]));
    wait_until("the stream is open", || node.metric("oklog_stream_clients", &[]) >= 1.0);
    node.send(Port::Durable, b"before\n");
    wait_until("the first line is printed", || stream.lines() == ["before"]);
    node.kill9();
    node.restart();
    node.send(Port::Durable, b"after\n");
    wait_until("the stream has caught up", || stream.lines().contains(&"after".to_string()));
    assert_eq!(stream.lines(), ["before", "after"]);
}

#[test]
fn testsvc_prints_lines_of_the_size_and_name_asked_for_until_nobody_reads() {
    let finished = bash("\"$OKLOG\" testsvc -id shop -size 80 -rate 1000 | head -n 20; exit ${PIPESTATUS[0]}");
    let lines: Vec<&[u8]> = finished.stdout.split_inclusive(|&b| b == b'\n').collect();
    assert_eq!(lines.len(), 20);
    assert!(lines.iter().all(|line| line.len() == 80), "{}", String::from_utf8_lossy(lines[0]));
    assert!(lines.iter().all(|line| line.windows(4).any(|window| window == b"shop")));
    assert_eq!((finished.status, finished.stderr.as_str()), (Some(0), ""));
}
