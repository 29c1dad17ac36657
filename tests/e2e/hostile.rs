//! Input that nobody sends on purpose, except those who do.

use crate::harness::logs::assert_same_lines;
use crate::harness::node::end;
use crate::harness::{Node, Port, wait_until};
use oklog::world::entropy::Dice;
use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

fn long_line(len: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    (0..len).map(|_| b' ' + dice.below(95) as u8).collect()
}

#[test]
fn empty_lines_nuls_and_invalid_utf8_are_records_as_they_are() {
    let node = Node::start_quick(&[]);
    let input = b"\n\n\r\n\0\n\0\0 with \0 within\nplain\n\xff\xfe\xfd\n\xc3\x28 \xe2\x82\n \n\x1b[31mred\x1b[0m\n\n";
    node.send(Port::Fast, input);
    assert_same_lines(&node.everything(), input, "at once");
    node.wait_consumed();
    assert_same_lines(&node.everything(), input, "after consumption");
}

#[test]
fn lines_of_70_kb_and_900_kb_are_single_records_and_wedge_nothing() {
    let node = Node::start_quick(&[]);
    let lines = [&long_line(70_000, 1)[..], b"short", &long_line(900_000, 2), b"last"].join(&b'\n');
    let expected = [&lines[..], b"\n"].concat();
    node.send(Port::Fast, &lines);
    assert_same_lines(&node.everything(), &expected, "at once");
    node.wait_consumed();
    let answer = node.query(&[]);
    assert_eq!(answer.stored().count(), 4);
    assert_same_lines(&answer.lines(), &expected, "after consumption");
}

#[test]
fn a_line_of_10_mb_is_split_without_losing_a_byte_and_memory_stays_bounded() {
    let node = Node::start_quick(&[]);
    let line = long_line(10_000_000, 3);
    let before = node.metric("process_resident_memory_bytes", &[]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| node.send(Port::Fast, &line));
        }
    });
    let after = node.metric("process_resident_memory_bytes", &[]);
    assert!(after - before < 200e6, "{before} bytes resident before, {after} after");
    assert!(node.metric("oklog_ingest_records_split_total", &[]) >= 36.0, "each line is cut nine times");
    node.wait_consumed();
    let texts: Vec<usize> = node.query(&[]).stored().map(|(_, text)| text.len() - 1).collect();
    assert_eq!(texts.iter().sum::<usize>(), 4 * line.len());
    assert!(texts.iter().all(|len| *len <= 1 << 20), "no record is over the limit");

    let node = Node::start_quick(&["-ingest.max-record-size=1000"]);
    node.send(Port::Fast, &line[..1_000_001]);
    let answer = node.query(&[]);
    assert_eq!(answer.stored().count(), 1_001);
    let whole: Vec<u8> = answer.stored().flat_map(|(_, text)| text[..text.len() - 1].to_vec()).collect();
    assert!(whole == line[..1_000_001], "the parts after each other are not the line");
}

#[test]
fn a_connection_that_sends_one_byte_a_second_holds_up_nobody() {
    let node = Node::start_quick(&[]);
    let mut slow = node.connect(Port::Fast);
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    for byte in b"abc\n" {
        slow.write_all(&[*byte]).unwrap();
        // The second between the bytes is what is tested; nobody ever sends on this channel.
        let _ = never.recv_timeout(Duration::from_secs(1));
        let asked = Instant::now();
        node.send(Port::Fast, b"meanwhile\n");
        node.query(&[("q", "meanwhile"), ("limit", "1")]);
        assert!(asked.elapsed() < Duration::from_secs(1), "others wait: {:?}", asked.elapsed());
    }
    wait_until("the slow line is found while its connection is open", || {
        node.query(&[("q", "abc")]).lines() == b"abc\n"
    });
    end(slow);
}

#[test]
fn a_client_that_never_sends_lf_and_goes_away_leaves_a_record_and_no_trouble() {
    let node = Node::start_quick(&[]);
    let mut polite = node.connect(Port::Fast);
    polite.write_all(b"without an end").unwrap();
    end(polite);
    assert_eq!(node.everything(), b"without an end\n");
    let mut rude = node.connect(Port::Fast);
    rude.write_all(b"gone").unwrap();
    rude.shutdown(Shutdown::Both).unwrap();
    drop(rude);
    wait_until("the node sees that it is gone", || node.metric("oklog_connected_clients", &["fast"]) == 0.0);
    node.send(Port::Fast, b"after\n");
    assert_eq!(node.query(&[("q", "after")]).lines(), b"after\n");
}

#[test]
fn two_thousand_connections_of_which_most_are_idle_are_ordinary() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may rise to the hard one");
    if limit.maximum.is_some_and(|most| most < 4_500) {
        println!("SKIPPED: at most {:?} descriptors are allowed here", limit.maximum);
        return;
    }
    let node = Node::start_quick(&[]);
    let mut connections: Vec<_> = (0..2_000).map(|_| node.connect(Port::Fast)).collect();
    wait_until("all are served", || node.metric("oklog_connected_clients", &["fast"]) == 2_000.0);
    for (number, connection) in connections.iter_mut().enumerate().step_by(20) {
        connection.write_all(format!("from {number}\n").as_bytes()).unwrap();
    }
    wait_until("the busy ones are heard", || node.query(&[]).stored().count() == 100);
    let resident = node.metric("process_resident_memory_bytes", &[]);
    assert!(resident < 400e6, "{resident} bytes resident");
    connections.into_iter().for_each(end);
    wait_until("all have gone", || node.metric("oklog_connected_clients", &["fast"]) == 0.0);
    assert_eq!(node.query(&[]).stored().count(), 100);
}
