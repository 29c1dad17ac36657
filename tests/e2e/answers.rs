//! The shape of an answer: limit, order, headers, HEAD, and what happens when its client goes away.

use crate::harness::logs::{assert_same_lines, numbered};
use crate::harness::node::{EVER, query_target};
use crate::harness::{Exchange, Node, Port, wait_until};
use oklog::world::entropy::Dice;

#[test]
fn limit_gives_the_first_records_and_with_order_desc_the_last_newest_first() {
    let node = Node::start_quick(&[]);
    let half = 5_000;
    let all = numbered("record", 2 * half);
    let middle = all.windows(11).position(|window| window == b"record 5000").unwrap();
    node.send(Port::Fast, &all[..middle]);
    node.wait_consumed();
    node.send(Port::Fast, &all[middle..]);
    let lines: Vec<&[u8]> = all.split_inclusive(|&b| b == b'\n').collect();
    let newest_first: Vec<&[u8]> = lines.iter().rev().copied().collect();
    for limit in [1, 2, 100, 5_001, 10_000, 20_000] {
        let number = limit.to_string();
        let take = limit.min(lines.len());
        let answer = node.query(&[("limit", &number)]);
        assert_same_lines(&answer.lines(), &lines[..take].concat(), &format!("limit {limit}"));
        let answer = node.query(&[("limit", &number), ("order", "asc")]);
        assert_same_lines(&answer.lines(), &lines[..take].concat(), &format!("limit {limit}, asc"));
        let answer = node.query(&[("limit", &number), ("order", "desc")]);
        assert_same_lines(&answer.lines(), &newest_first[..take].concat(), &format!("limit {limit}, desc"));
    }
    let answer = node.query(&[("q", "99"), ("limit", "3"), ("order", "desc")]);
    assert_eq!(answer.lines(), b"record 9999\nrecord 9998\nrecord 9997\n");
    let answer = node.query(&[("order", "desc")]);
    assert_same_lines(&answer.lines(), &newest_first.concat(), "desc without a limit");
}

#[test]
fn the_newest_record_is_found_without_scanning_the_range() {
    let node = Node::start_quick(&[]);
    let lines = numbered(&"x".repeat(200), 40_000);
    node.send(Port::Fast, &lines);
    node.wait_consumed();
    let before = node.metric("oklog_query_scanned_bytes_total", &[]);
    let answer = node.query(&[("limit", "1"), ("order", "desc")]);
    assert!(answer.lines().ends_with(b" 39999\n"));
    let scanned = node.metric("oklog_query_scanned_bytes_total", &[]) - before;
    assert!(scanned < lines.len() as f64 / 2.0, "{scanned} bytes of {} were scanned for one record", lines.len());
}

#[test]
fn the_headers_say_what_was_asked_and_what_it_took() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, &numbered("record", 1_000));
    node.wait_consumed();
    let answer = node.query(&[("q", "record 7"), ("regex", "")]);
    assert_eq!(answer.header("x-oklog-q"), "record 7");
    assert_eq!(answer.header("x-oklog-regex"), "true");
    assert_eq!(answer.header("x-oklog-complete"), "true");
    assert_eq!(answer.header("x-oklog-error-count"), "0");
    for name in ["x-oklog-from", "x-oklog-to"] {
        assert!(!answer.header(name).is_empty(), "{name}");
    }
    for name in ["x-oklog-nodes-queried", "x-oklog-segments-queried", "x-oklog-max-data-set-size"] {
        assert!(answer.header(name).parse::<u64>().is_ok_and(|number| number > 0), "{name}: {}", answer.header(name));
    }
    assert!(answer.headers.contains_key("x-oklog-duration"), "{:?}", answer.headers);
    assert_eq!(node.query(&[("q", "x")]).header("x-oklog-regex"), "false");
}

#[test]
fn a_needle_with_control_characters_does_not_break_the_headers() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, b"a\rb\nplain\n");
    let answer = node.query(&[("q", "a\rb")]);
    assert_eq!(answer.lines(), b"a\rb\n");
    assert_eq!(answer.header("x-oklog-q"), "a%0Db");
    let answer = node.query(&[("q", "x\r\nX-Injected: yes")]);
    assert!(!answer.headers.contains_key("x-injected"), "{:?}", answer.headers);
    assert_eq!(answer.lines(), b"");
}

#[test]
fn head_gives_the_statistics_and_no_body() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, &numbered("record", 1_000));
    node.wait_consumed();
    let answer = node.request("HEAD", &query_target(&[("q", "record")]));
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("x-oklog-q"), "record");
    assert!(answer.header("x-oklog-max-data-set-size").parse::<u64>().is_ok_and(|size| size > 1_000));
    node.request("HEAD", "/store/query?from=garbage").complete.then_some(()).expect("HEAD of a bad query ends too");
}

#[test]
fn an_empty_node_answers_with_nothing_and_says_that_this_is_whole() {
    let node = Node::start_quick(&[]);
    let answer = node.query(&[]);
    assert_eq!((answer.body.len(), answer.header("x-oklog-complete")), (0, "true"));
}

#[test]
fn a_client_that_goes_away_after_the_first_line_stops_the_scan() {
    let node = Node::start_quick(&[]);
    let mut dice = Dice::new(4);
    let chunk: Vec<u8> =
        (0..8 << 20).map(|n| if n % 200 == 199 { b'\n' } else { b'a' + dice.below(26) as u8 }).collect();
    let total = 12.0 * chunk.len() as f64;
    (0..12).for_each(|_| node.send(Port::Fast, &chunk));
    node.wait_consumed();
    let mut exchange = Exchange::open(node.address(Port::Api), "GET", &query_target(&[])).expect("an answer");
    assert_eq!(exchange.status, 200);
    let first = exchange.next_chunk().expect("a first piece").expect("not the last one");
    assert!(first.contains(&b'\n'));
    drop(exchange);
    wait_until("the query is counted as cancelled", || {
        node.metric("oklog_query_total", &["outcome=\"cancelled\""]) >= 1.0
    });
    let scanned = node.metric("oklog_query_scanned_bytes_total", &[]);
    assert!(scanned < total / 2.0, "{scanned} of {total} bytes were scanned for a client that had gone");
}

#[test]
fn what_the_segments_hold_can_be_read_by_the_ingest_api_and_given_back() {
    let node = Node::start(&["-ingest.segment-flush-age=50ms", "-store.segment-replication-factor=2"]);
    node.send(Port::Fast, b"one\ntwo\n");
    let next = crate::harness::wait_for("a flushed segment", || {
        let answer = node.get("/ingest/next");
        (answer.status == 200).then(|| answer.text().trim().to_string())
    });
    assert_eq!(node.get("/ingest/next").status, 404, "it is pending now");
    assert_eq!(node.request("POST", &format!("/ingest/commit?id={next}")).status, 428, "it was not read yet");
    assert_eq!(node.get(&format!("/ingest/read?id={next}")).lines(), b"one\ntwo\n");
    assert_eq!(node.request("POST", &format!("/ingest/failed?id={next}")).status, 200);
    assert_eq!(node.get("/ingest/next").text().trim(), next, "it was given back");
    assert_eq!(node.get(&format!("/ingest/read?id={next}")).lines(), b"one\ntwo\n");
    assert_eq!(node.everything(), b"one\ntwo\n");
    assert_eq!(node.request("POST", &format!("/ingest/commit?id={next}")).status, 200);
    assert_eq!(node.request("POST", &format!("/ingest/commit?id={next}")).status, 200, "commit may be repeated");
    assert_eq!(node.everything(), b"", "the consumer has said that it keeps these records: {EVER:?}");
}
