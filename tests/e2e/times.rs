//! Time ranges: what people may write, what is within, and what is refused with a sentence.

use crate::harness::node::query_target;
use crate::harness::{Node, Port, wait_until};
use oklog::record::id::Id;
use oklog::unit::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A node with `count` records, `record 0` and so on, each in a millisecond of its own. Gives their ids too.
fn node_with(count: usize) -> (Node, Vec<Id>) {
    let node = Node::start_quick(&[]);
    for number in 0..count {
        node.send(Port::Fast, format!("record {number}\n").as_bytes());
        let sent = now_ms();
        wait_until("the next millisecond but one begins", || now_ms() > sent + 2);
    }
    let ids: Vec<Id> = node.query(&[]).ids().iter().map(|id| Id::parse(id.as_bytes()).unwrap()).collect();
    assert_eq!(ids.len(), count);
    assert!(ids.windows(2).all(|pair| pair[0].millis() < pair[1].millis()), "each in its own millisecond: {ids:?}");
    (node, ids)
}

fn lines(from: usize, to: usize) -> String {
    (from..=to).map(|number| format!("record {number}\n")).collect()
}

/// The same instant in another zone: five and a half hours east.
fn in_india(ms: UnixMillis) -> String {
    let shifted = UnixMillis(ms.0 + (5 * 60 + 30) * 60_000).to_string();
    format!("{}+05:30", shifted.trim_end_matches('Z'))
}

#[test]
fn both_ends_are_within_the_range_to_the_millisecond() {
    let (node, ids) = node_with(7);
    let (from, to) = (ids[2].millis(), ids[4].millis());
    let just = |shift: i64, ms: UnixMillis| UnixMillis(ms.0.checked_add_signed(shift).unwrap()).to_string();
    let cases = [
        (from.to_string(), to.to_string(), lines(2, 4)),
        (just(1, from), to.to_string(), lines(3, 4)),
        (just(-1, from), to.to_string(), lines(2, 4)),
        (from.to_string(), just(-1, to), lines(2, 3)),
        (from.to_string(), just(1, to), lines(2, 4)),
        (from.to_string(), from.to_string(), lines(2, 2)),
        (in_india(from), in_india(to), lines(2, 4)),
        (format!("{}000Z", from.to_string().trim_end_matches('Z')), to.to_string(), lines(2, 4)),
        (ids[2].to_string(), ids[4].to_string(), lines(2, 4)),
        (ids[2].to_string().to_lowercase(), to.to_string(), lines(2, 4)),
        ("2000-01-01T00:00:00Z".into(), "2099-12-31T23:59:59Z".into(), lines(0, 6)),
        ("2000-01-01T00:00:00Z".into(), "2001-01-01T00:00:00Z".into(), String::new()),
        ("2099-01-01T00:00:00Z".into(), "2099-01-02T00:00:00Z".into(), String::new()),
    ];
    for moment in ["at once", "after consumption"] {
        for (from, to, expected) in &cases {
            let answer = node.query(&[("from", from), ("to", to)]);
            assert_eq!(String::from_utf8_lossy(&answer.lines()), *expected, "from {from} to {to} {moment}");
        }
        node.wait_consumed();
    }
}

#[test]
fn a_time_without_a_fraction_is_the_first_millisecond_of_its_second() {
    let (node, ids) = node_with(3);
    let second = UnixMillis(ids[0].millis().0 / 1_000 * 1_000);
    let text = second.to_string().replace(".000Z", "Z");
    assert_eq!(String::from_utf8_lossy(&node.query(&[("from", &text)]).lines()), lines(0, 2));
    let expected = if ids[0].millis() == second { lines(0, 0) } else { String::new() };
    assert_eq!(String::from_utf8_lossy(&node.query(&[("to", &text)]).lines()), expected);
}

#[test]
fn relative_times_count_back_from_now() {
    let (node, _) = node_with(3);
    for (from, to, expected) in [
        ("15m", "now", lines(0, 2)),
        ("1h30m", "now", lines(0, 2)),
        ("7d", "0s", lines(0, 2)),
        ("2h", "1h", String::new()),
        ("now", "now", String::new()),
    ] {
        let answer = node.query(&[("from", from), ("to", to)]);
        assert_eq!(String::from_utf8_lossy(&answer.lines()), expected, "from {from} to {to}");
    }
}

#[test]
fn bad_parameters_get_400_and_a_plain_sentence() {
    let node = Node::start_quick(&[]);
    let open_paren = "(".repeat(2_000);
    let cases: &[&[(&str, &str)]] = &[
        &[("from", "yesterday")],
        &[("to", "2026-13-01T00:00:00Z")],
        &[("from", "2026-11-23")],
        &[("from", "-5m")],
        &[("from", "01ARZ3NDEKTSV4RRFFQ69G5FA")],
        &[("from", "81ARZ3NDEKTSV4RRFFQ69G5FAV")],
        &[("from", "1h"), ("to", "2h")],
        &[("q", "("), ("regex", "")],
        &[("q", "*"), ("regex", "")],
        &[("q", &open_paren), ("regex", "")],
        &[("q", "(((a{1000}){1000}){1000})"), ("regex", "")],
        &[("limit", "many")],
        &[("limit", "-1")],
        &[("order", "sideways")],
    ];
    for params in cases {
        node.get(&query_target(params)).assert_refused(400);
    }
    let long_pattern = "a".repeat(5_000);
    node.get(&query_target(&[("q", &long_pattern), ("regex", "")])).assert_refused(400);
    node.get("/store/query?from=%zz").assert_refused(400);
    assert_eq!(node.get("/ready").status, 200);
}
