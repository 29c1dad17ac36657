//! Clients of the Go program's time: what they send, and what they take for an answer.

use crate::harness::http::Exchange;
use crate::harness::logs::numbered;
use crate::harness::{Cluster, JOIN, Node, Role, within};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// What Go's HTTP client sends, word for word.
fn as_go_does(address: &str, target: &str) -> Exchange {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    Exchange::answer_on(stream, "GET").expect("an answer")
}

/// Plain lines over plain TCP; the last one without a line feed.
fn send_plainly(address: &str, lines: &str) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(lines.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 16]).expect("a clean close"), 0, "the server writes nothing");
}

/// Times as the old client gave them.
const HOUR: &str = "from=2020-01-01T00%3A00%3A00Z&to=2099-12-31T23%3A59%3A59Z";

fn speaks_with_old_clients(cluster: &Cluster) {
    let ingesters = || cluster.nodes.iter().filter(|node| node.role.ingests());
    for (asked, store) in cluster.nodes.iter().filter(|node| node.role.stores()).enumerate() {
        // Streams first: what comes from now on is in them, wherever it comes in.
        let mut stream = as_go_does(&store.api(), &format!("/store/stream?q=round{asked}.&regex=true"));
        assert_eq!(stream.status, 200, "{}", store.api());
        // The head of the answer does not promise that all ingesters were reached: lines are sent until one of each came.
        let mut streamed = String::new();
        for turn in 0.. {
            for ingester in ingesters() {
                send_plainly(&ingester.fast(), &format!("round{asked}- {} {turn}", ingester.api()));
            }
            streamed.push_str(&String::from_utf8_lossy(
                &stream.next_chunk().expect("the stream goes on").expect("a chunk"),
            ));
            if ingesters().all(|ingester| streamed.contains(&format!("{} ", ingester.api()))) {
                break;
            }
            assert!(turn < 200, "{} streamed only {streamed:?}", store.api());
        }
        for line in streamed.lines() {
            assert!(line.len() > 27 && line.as_bytes()[26] == b' ', "not ID SP record: {line:?}");
        }

        for (n, ingester) in ingesters().enumerate() {
            send_plainly(
                &ingester.fast(),
                &format!("first {asked} {n}\nsecond {asked} {n}\nlast {asked} {n} without LF"),
            );
            send_plainly(&ingester.durable(), &format!("durable {asked} {n}"));
        }
        for q in ["first", "second", "last", "durable"] {
            let answer = as_go_does(&store.api(), &format!("/store/query?{HOUR}&q={q}+{asked}")).finish();
            assert_eq!((answer.status, answer.complete), (200, true), "{}: {}", store.api(), answer.text());
            assert!(!answer.headers.contains_key("content-encoding"), "it is not compressed");
            let found: Vec<(Vec<u8>, Vec<u8>)> =
                answer.stored().map(|(id, line)| (id.to_vec(), line.to_vec())).collect();
            assert_eq!(found.len(), ingesters().count(), "{} for {q}: {}", store.api(), answer.text());
            for header in [
                "x-oklog-from",
                "x-oklog-to",
                "x-oklog-q",
                "x-oklog-regex",
                "x-oklog-nodes-queried",
                "x-oklog-segments-queried",
                "x-oklog-max-data-set-size",
                "x-oklog-error-count",
                "x-oklog-duration",
            ] {
                assert!(answer.headers.contains_key(header), "{header} is not in {:?}", answer.headers);
            }
            assert_eq!(answer.header("x-oklog-error-count"), "0");
        }
    }
    for node in cluster.nodes.iter().filter(|node| !node.role.stores()) {
        assert_eq!(as_go_does(&node.api(), "/store/query?q=x").finish().status, 404, "an ingester answers no queries");
    }
}

#[test]
fn old_clients_work_with_combined_nodes() {
    speaks_with_old_clients(&Cluster::start(40, &[Role::IngestStore; 3], &[]));
}

#[test]
fn old_clients_work_with_tiers_apart() {
    speaks_with_old_clients(&Cluster::start(41, &[Role::Ingest, Role::Ingest, Role::Store, Role::Store], &[]));
}

#[test]
fn a_stream_gets_each_line_of_every_ingester_once() {
    let cluster = Cluster::start(42, &[Role::Ingest, Role::Ingest, Role::Store, Role::Store], &[]);
    let store: &Node = &cluster.nodes[2];
    let mut stream = as_go_does(&store.api(), "/store/stream?q=&window=500ms");
    // Nobody is told when the stream is linked to all: the first lines may be before its time.
    within(JOIN, "ingesters have someone who listens", || {
        for ingester in &cluster.nodes[..2] {
            send_plainly(&ingester.fast(), "knock");
        }
        let text =
            String::from_utf8_lossy(&stream.next_chunk().map_err(|e| e.to_string())?.unwrap_or_default()).into_owned();
        if text.matches("knock").count() >= 2 { Ok(()) } else { Err(text) }
    });
    for (n, ingester) in cluster.nodes[..2].iter().enumerate() {
        send_plainly(&ingester.fast(), &String::from_utf8(numbered(&format!("line of {n}"), 500)).unwrap());
    }
    let mut text = String::new();
    while text.matches("line of").count() < 1_000 || !text.ends_with('\n') {
        text.push_str(&String::from_utf8_lossy(&stream.next_chunk().expect("the stream goes on").expect("a chunk")));
    }
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("line of")).collect();
    let mut ids: Vec<&str> = lines.iter().map(|line| &line[..26]).collect();
    assert!(ids.is_sorted(), "lines come in the order of their ids");
    ids.dedup();
    assert_eq!(ids.len(), 1_000, "each once");
}
