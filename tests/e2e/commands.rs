//! The client commands as a script sees them: exit statuses, one sentence on stderr, pipes that close.

use crate::harness::command::{bash, run};
use crate::harness::logs::numbered;
use crate::harness::{Node, Port, oklog};
use std::io::{Read, Write};
use std::net::TcpListener;

#[test]
fn query_exits_with_0_when_found_1_when_not_and_2_on_an_error() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, b"alpha\nbeta 100%\ngamma\n");
    let store = node.address(Port::Api);
    let query = |args: &[&str]| run(oklog([&["query", "-store", store][..], args].concat()), b"");
    let found = query(&["-q", "beta"]);
    assert_eq!((found.status, found.stdout.as_slice(), found.stderr.as_str()), (Some(0), &b"beta 100%\n"[..], ""));
    let none = query(&["-q", "delta"]);
    assert_eq!((none.status, none.stdout.as_slice(), none.stderr.as_str()), (Some(1), &b""[..], ""));
    assert_eq!(query(&["-q", "^(alpha|gamma)$", "-regex"]).stdout, b"alpha\ngamma\n");
    assert_eq!(query(&["-n", "2"]).stdout, b"beta 100%\ngamma\n");
    let verbose = query(&["-q", "a$", "-regex=true", "-v"]);
    assert_eq!((verbose.stdout.as_slice(), verbose.stderr.is_empty()), (&b"alpha\ngamma\n"[..], false));
    assert_eq!(query(&["--q=gamma", "--from", "10m", "--to=now"]).stdout, b"gamma\n");
    let counted = query(&["-nocopy"]);
    assert_eq!((counted.status, counted.stdout.len()), (Some(0), 0), "{}", counted.stderr);
    query(&["-q", "(", "-regex"]).assert_one_sentence(2, &["q is not a regular expression", "unclosed group"]);
    query(&["-from", "yesterday"]).assert_one_sentence(2, &["from", "yesterday"]);
    query(&["-unknown"]).assert_one_sentence(2, &["unknown"]);
    run(oklog(["query", "-store", "127.0.0.1:1"]), b"").assert_one_sentence(2, &["127.0.0.1:1"]);
}

#[test]
fn query_prints_ids_times_and_statistics_when_asked() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, b"alpha\n");
    let store = node.address(Port::Api);
    let line = |flag: &str| {
        let finished = run(oklog(["query", "-store", store, flag]), b"");
        assert_eq!(finished.status, Some(0), "{flag}: {finished:?}");
        (String::from_utf8(finished.stdout).unwrap(), finished.stderr)
    };
    let id = node.query(&[]).ids().remove(0);
    assert_eq!(line("-ulid").0, format!("{id} alpha\n"));
    let with_time = line("-time").0;
    let (time, text) = with_time.split_once(' ').expect("a time and a text");
    assert!(oklog::unit::parse_rfc3339(time).is_ok() && text == "alpha\n", "{with_time:?}");
    let (stdout, stderr) = line("-stats");
    assert!(!stdout.contains("alpha"), "statistics hold no records: {stdout:?}");
    assert!(format!("{stdout}{stderr}").lines().count() >= 2, "{stdout:?} {stderr:?}");
}

#[test]
fn query_into_head_ends_quietly() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, &numbered(&"x".repeat(100), 100_000));
    let store = node.address(Port::Api);
    let finished = bash(&format!("\"$OKLOG\" query -store {store} | head -n 1; exit ${{PIPESTATUS[0]}}"));
    assert_eq!(finished.stdout, format!("{} 0\n", "x".repeat(100)).into_bytes());
    assert_eq!((finished.status, finished.stderr.as_str()), (Some(0), ""));
}

/// A store that answers one query with these bytes and closes.
fn fake_store(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => head.extend_from_slice(&buffer[..n]),
                }
            }
            // The client may have gone.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn query_prints_what_came_and_exits_with_3_when_the_answer_may_be_incomplete() {
    let partial = fake_store(concat!(
        "HTTP/1.1 206 Partial Content\r\nX-Oklog-Complete: false\r\nX-Oklog-Error-Count: 1\r\n",
        "X-Oklog-Nodes-Queried: 2\r\nX-Oklog-Silent-Nodes: 10.0.0.7:7650\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        "20\r\n01ARZ3NDEKTSV4RRFFQ69G5FAV come\n\r\n0\r\n\r\n"
    ));
    let finished = run(oklog(["query", "-store", &partial]), b"");
    assert_eq!(finished.stdout, b"come\n");
    finished.assert_one_sentence(3, &["10.0.0.7:7650"]);
    let broken = fake_store(concat!(
        "HTTP/1.1 200 OK\r\nX-Oklog-Complete: true\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        "20\r\n01ARZ3NDEKTSV4RRFFQ69G5FAV come\n\r\n"
    ));
    let finished = run(oklog(["query", "-store", &broken]), b"");
    assert_eq!(finished.stdout, b"come\n");
    finished.assert_one_sentence(3, &[]);
}

#[test]
fn help_and_version_answer_on_stdout_and_mistakes_on_stderr() {
    for args in
        [&["help"][..], &["help", "query"], &["query", "-h"], &["query", "-help"], &["ingeststore", "-h"], &["version"]]
    {
        let finished = run(oklog(args), b"");
        assert_eq!((finished.status, finished.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(!finished.stdout.is_empty(), "{args:?}");
    }
    let cases: &[(&[&str], &[&str])] = &[
        (&["frobnicate"], &["frobnicate"]),
        (&["query", "-n", "many"], &["-n", "many"]),
        (&["ingeststore", "-ingest.segment-flush-age", "5 parsecs"], &["-ingest.segment-flush-age", "5 parsecs"]),
        (&["ingeststore", "-ingest.segment-flush-size=big"], &["-ingest.segment-flush-size", "big"]),
        (&["ingeststore", "-api", "tcp://nonsense:port"], &["-api", "nonsense:port"]),
        (&["ingeststore", "-filesystem", "cloud"], &["-filesystem", "cloud"]),
        (&["forward", "gopher://localhost"], &["gopher://localhost"]),
        (&["forward"], &["address"]),
        (&["testsvc", "-rate", "fast"], &["-rate", "fast"]),
    ];
    for (args, parts) in cases {
        run(oklog(*args), b"").assert_one_sentence(2, parts);
    }
}
