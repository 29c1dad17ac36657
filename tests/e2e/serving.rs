//! A node as the person who runs it sees it: starting, refusing, saying what it does, stopping.

use crate::harness::command::run;
use crate::harness::logs::numbered;
use crate::harness::{Node, Port, oklog, wait_until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

#[test]
fn the_bulk_port_refuses_cleanly_and_the_log_says_so() {
    let node = Node::start_quick(&[]);
    let mut stream = node.connect(Port::Bulk);
    // The refusal may come before or after these bytes are taken.
    let _ = stream.write_all(b"01ARZ3NDEKTSV4RRFFQ69G5FAV record\n");
    let mut answer = Vec::new();
    // A reset is a refusal too.
    let _ = stream.read_to_end(&mut answer);
    node.wait_for_line(&["bulk", "127.0.0.1:"]);
    wait_until("the log says that bulk is refused", || {
        node.stderr().iter().any(|line| line.contains("bulk") && !line.contains("listening"))
    });
    assert_eq!(node.everything(), b"");
    assert_eq!(node.get("/ready").status, 200);
}

#[test]
fn a_process_that_dies_with_what_it_has_read_leaves_no_clean_close_behind() {
    let mut node = Node::start_unconsumed(&[]);
    // No file of its may grow any more (setrlimit(2), EFBIG): it reads the line and cannot keep it.
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    prlimit(Pid::from_raw(node.pid() as i32), Resource::Fsize, nothing).expect("the limit of a child");
    let mut stream = node.connect(Port::Durable);
    stream.write_all(b"was this kept?\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    wait_until("it has read the line", || node.metric("oklog_ingest_write_errors_total", &[]) > 0.0);
    node.kill9();
    let closed = stream.read(&mut [0; 16]);
    let reset = closed.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
    assert!(reset, "the sender takes this for a promise: {closed:?}");
    node.restart();
    assert_eq!(node.everything(), b"");
}

#[test]
fn a_second_process_on_the_same_directories_is_refused_and_told_who_holds_them() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, b"mine\n");
    let twin = oklog([&["ingeststore".to_string()], &node.flags_of_a_twin()[..]].concat());
    let refused = run(twin, b"");
    assert!(refused.status.is_some_and(|status| status != 0), "{refused:?}");
    assert!(refused.stderr.contains(&node.pid().to_string()), "who holds it: {}", refused.stderr);
    assert_eq!(node.everything(), b"mine\n");
}

#[test]
fn without_peers_the_replication_factor_is_1_and_the_log_says_so() {
    let node = Node::start_quick(&[]);
    let line = node.wait_for_line(&["replication factor"]);
    assert!(line.contains('1'), "{line}");
}

#[test]
fn with_two_copies_wanted_a_node_alone_keeps_its_records_in_the_ingest_tier_and_finds_them() {
    let mut node = Node::start_quick(&["-store.segment-replication-factor=2", "-ingest.drain-timeout=1s"]);
    node.send(Port::Fast, &numbered("record", 1_000));
    let waiting = |node: &Node| node.metric("oklog_ingest_segments", &["flushed"]);
    wait_until("a segment is flushed", || waiting(&node) >= 1.0);
    assert_eq!(node.query(&[]).stored().count(), 1_000);
    assert_eq!(node.metric("oklog_store_consumed_segments_total", &[]), 0.0);
    node.stop();
    node.restart();
    assert!(waiting(&node) >= 1.0, "they wait for a second store");
    assert_eq!(node.everything(), numbered("record", 1_000));
}

#[test]
fn a_node_that_stops_writes_what_was_sent_drains_and_exits_with_0() {
    let mut node = Node::start(&["-ingest.segment-flush-age=1h"]);
    let mut open = node.connect(Port::Fast);
    open.write_all(b"from an open connection\n").unwrap();
    wait_until("it is taken in", || node.query(&[]).stored().count() == 1);
    node.stop();
    drop(open);
    let segments = |tier: &str| -> Vec<String> {
        let names = std::fs::read_dir(node.dir().join(tier)).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.contains(".flushed")).collect()
    };
    assert_eq!(segments("ingest"), Vec::<String>::new(), "the store has taken what was left");
    assert_eq!(segments("store").len(), 1);
    assert!(node.stderr().iter().all(|line| !line.contains("panic")), "{:?}", node.stderr());
}

#[test]
fn health_readiness_states_and_metrics_answer() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, &numbered("record", 100));
    node.wait_consumed();
    node.everything();
    for path in ["/health", "/ready", "/ingest/_segmentstate", "/ingest/_clusterstate", "/store/_clusterstate"] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.complete), (200, true), "{path}: {}", answer.text());
    }
    assert_eq!(node.get("/nothing/here").status, 404);
    assert_eq!(node.request("POST", "/health").status, 405);
    assert!(node.get("/metrics").header("content-type").starts_with("text/plain"));
    let one_of_each = [
        ("oklog_build_info", 1.0),
        ("oklog_cluster_size", 1.0),
        ("oklog_ingest_writer_records_written_total", 100.0),
        ("oklog_query_records_total", 100.0),
        ("oklog_store_segments", 1.0),
        ("oklog_thread_panics", 0.0),
        ("oklog_corrupt_files_total", 0.0),
    ];
    for (name, value) in one_of_each {
        assert_eq!(node.metric(name, &[]), value, "{name}");
    }
    for name in [
        "oklog_ingest_writer_bytes_written_total",
        "oklog_ingest_writer_syncs_total",
        "oklog_disk_free_bytes",
        "oklog_ingest_writer_flushes_total",
        "oklog_ingest_segment_flush_size_bytes_count",
        "oklog_ingest_committed_segments_total",
        "oklog_store_consumed_bytes_total",
        "oklog_store_replicated_bytes_total",
        "oklog_fsync_seconds_count",
        "oklog_api_request_duration_seconds_count",
        "process_open_fds",
        "process_cpu_seconds_total",
        "process_threads",
    ] {
        assert!(node.metric(name, &[]) > 0.0, "{name}");
    }
}

#[test]
fn a_node_on_a_virtual_filesystem_serves_and_leaves_no_files() {
    let node = Node::start_quick(&["-filesystem=virtual"]);
    node.send(Port::Durable, b"in memory\n");
    node.wait_consumed();
    assert_eq!(node.everything(), b"in memory\n");
    assert_eq!(std::fs::read_dir(node.dir()).unwrap().count(), 0);
}

#[test]
fn a_node_on_the_nop_filesystem_accepts_and_forgets() {
    let node = Node::start_quick(&["-filesystem=nop"]);
    node.send(Port::Fast, &numbered("record", 1_000));
    assert_eq!(node.metric("oklog_ingest_writer_records_written_total", &[]), 1_000.0);
    assert_eq!(node.everything(), b"");
    assert_eq!(std::fs::read_dir(node.dir()).unwrap().count(), 0);
}

#[test]
fn files_with_strange_names_or_torn_ends_are_never_deleted() {
    let mut node = Node::start_quick(&[]);
    node.send(Port::Fast, b"sound\n");
    node.wait_consumed();
    let id = node.query(&[]).ids().remove(0);
    node.stop();
    let files = [
        ("ingest/readme.txt", b"not ours".to_vec()),
        ("store/strange.flushed", b"no records in here\n".to_vec()),
        // A torn last record, as a crash leaves it: the whole one before it is kept.
        (
            "ingest/01ARZ3NDEKTSV4RRFFQ69G5FAV.active",
            b"01ARZ3NDEKTSV4RRFFQ69G5FAV whole\n01ARZ3NDEKTSV4RRFFQ69G5FAW to".to_vec(),
        ),
    ];
    for (name, bytes) in &files {
        std::fs::write(node.dir().join(name), bytes).unwrap();
    }
    node.restart();
    assert_eq!(node.everything(), b"whole\nsound\n", "{id}");
    let kept = |tier: &str| -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(node.dir().join(tier)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_file()).map(|path| std::fs::read(path).unwrap()).collect()
    };
    assert!(kept("ingest").contains(&files[0].1), "a file that is not ours stays");
    assert!(kept("store").contains(&files[1].1), "what is not understood is set aside, not deleted");
}

#[test]
fn requests_that_would_break_a_plain_server_are_refused_and_the_port_stays_open() {
    let node = Node::start_quick(&[]);
    let attacks: &[&[u8]] = &[
        b"POST /ingest/commit?id=x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /store/replicate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"POST /store/replicate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST /store/replicate HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nabcde",
        b"GET / HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    for attack in attacks {
        let mut stream = node.connect(Port::Api);
        stream.write_all(attack).unwrap();
        // What it answers matters less than that it lives on.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        assert_eq!(node.get("/health").status, 200, "{}", String::from_utf8_lossy(attack));
    }
    let endless: Vec<u8> = b"GET /health HTTP/1.1\r\nX: ".iter().copied().chain(vec![b'x'; 1 << 20]).collect();
    let mut stream = node.connect(Port::Api);
    // The node may close before all is written.
    let _ = stream.write_all(&endless);
    assert_eq!(node.get("/health").status, 200);
    let pipelined = b"GET /store/stream HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let streams: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = node.connect(Port::Api);
            // As above.
            let _ = stream.write_all(&pipelined);
            stream
        })
        .collect();
    assert_eq!(node.get("/health").status, 200);
    drop(streams);
    assert_eq!(node.metric("oklog_thread_panics", &[]), 0.0);
}
