use super::*;
use crate::record::id::Id;
use crate::record::stored::write;
use crate::unit::UnixMillis;
use crate::world::pipe::Gone;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;

const WHOLE: &str = "HTTP/1.1 200 OK\r\nX-Oklog-Complete: true\r\nX-Oklog-Q: 100%25\r\n";

fn body_of(texts: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        write(&mut body, Id(Id::first_of(UnixMillis(1_795_426_200_250)).0 + n as u128), text.as_bytes());
    }
    body
}

fn answer(head: &str, body: &[u8], len: usize) -> Vec<u8> {
    [format!("{head}Content-Length: {len}\r\nConnection: close\r\n\r\n").as_bytes(), body].concat()
}

/// A store that answers one connection after the other with these bytes; gives its address and the request lines.
fn store_that_says(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let head: Vec<String> =
                BufReader::new(&stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            lines.push(head[0].clone());
            // The client may have gone away, as a test wants it to.
            let _ = stream.write_all(&answer);
        }
        lines
    });
    (address, asked)
}

fn ask(mut options: QueryOptions, answers: Vec<Vec<u8>>) -> (u8, String, String, Vec<String>) {
    let (address, asked) = store_that_says(answers);
    options.stores.push(address);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = run(&options, &mut out, &mut err);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), asked.join().unwrap())
}

#[test]
fn records_are_printed_without_ids_and_found_is_0() {
    let body = body_of(&["one", "", "three"]);
    let options = QueryOptions { q: b"a b&c".to_vec(), regex: true, from: "2h".into(), ..Default::default() };
    let (status, out, err, asked) = ask(options, vec![answer(WHOLE, &body, body.len())]);
    assert_eq!((status, out.as_str(), err.as_str()), (FOUND, "one\n\nthree\n", ""));
    assert_eq!(asked, ["GET /store/query?from=2h&to=&q=a%20b%26c&regex=true HTTP/1.1"]);
}

#[test]
fn ids_and_times_are_printed_where_they_are_asked_for() {
    let body = body_of(&["one"]);
    let shaped = |ulid, time| {
        let options = QueryOptions { shape: Shape { ulid, time }, ..Default::default() };
        ask(options, vec![answer(WHOLE, &body, body.len())]).1
    };
    let stored = String::from_utf8(body.clone()).unwrap();
    assert_eq!(shaped(true, false), stored);
    assert_eq!(shaped(false, true), "2026-11-23T09:30:00.250Z one\n");
    assert_eq!(shaped(true, true), format!("2026-11-23T09:30:00.250Z {stored}"));
}

#[test]
fn nothing_found_is_1() {
    assert_eq!(ask(QueryOptions::default(), vec![answer(WHOLE, b"", 0)]).0, NOT_FOUND);
}

#[test]
fn the_newest_are_printed_oldest_first() {
    let body = body_of(&["third", "second", "first"]);
    let options = QueryOptions { newest: Some(3), ..Default::default() };
    let (status, out, _, asked) = ask(options, vec![answer(WHOLE, &body, body.len())]);
    assert_eq!((status, out.as_str()), (FOUND, "first\nsecond\nthird\n"));
    assert!(asked[0].contains("order=desc&limit=3"), "{asked:?}");
}

#[test]
fn an_answer_that_may_lack_something_is_printed_and_is_3() {
    let body = body_of(&["one"]);
    let partial = "HTTP/1.1 206 Partial Content\r\nX-Oklog-Complete: false\r\nX-Oklog-Silent-Nodes: b:7650,c:7650\r\n";
    let (status, out, err, _) = ask(QueryOptions::default(), vec![answer(partial, &body, body.len())]);
    assert_eq!((status, out.as_str()), (INCOMPLETE, "one\n"));
    assert_eq!(err, "oklog query: the answer may be incomplete: silent: b:7650,c:7650\n");
    let (status, out, err, _) = ask(QueryOptions::default(), vec![answer(WHOLE, &body, body.len() + 5)]);
    assert_eq!((status, out.as_str()), (INCOMPLETE, "one\n"));
    assert!(err.starts_with("oklog query: the answer broke off") && err.lines().count() == 1, "{err}");
    let silent_on_it = "HTTP/1.1 200 OK\r\n";
    assert_eq!(ask(QueryOptions::default(), vec![answer(silent_on_it, &body, body.len())]).0, INCOMPLETE);
}

#[test]
fn a_refusal_is_2_and_says_what_the_store_says() {
    let refusal = answer("HTTP/1.1 400 Bad Request\r\n", b"from must be a time\n", 20);
    let (status, out, err, _) = ask(QueryOptions::default(), vec![refusal.clone()]);
    assert_eq!((status, out.as_str()), (FAILED, ""));
    assert!(err.ends_with("answers 400: from must be a time\n"), "{err}");
    let options = QueryOptions { stats: true, ..Default::default() };
    let (status, _, err, asked) = ask(options, vec![answer("HTTP/1.1 400 Bad Request\r\n", b"", 20), refusal]);
    assert!(status == FAILED && err.ends_with("answers 400: from must be a time\n"), "{err}");
    assert!(asked[0].starts_with("HEAD ") && asked[1].starts_with("GET "));
}

#[test]
fn statistics_are_the_headers_made_readable() {
    let options = QueryOptions { stats: true, ..Default::default() };
    let (status, out, _, _) = ask(options, vec![answer(WHOLE, b"", 0)]);
    assert_eq!(status, FOUND);
    assert!(out.contains("complete  true\n") && out.contains("q         100%\n"), "{out}");
}

#[test]
fn the_next_store_is_asked_when_one_cannot_be_reached_or_is_not_ready() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let body = body_of(&["one"]);
    let options = QueryOptions { stores: vec![nobody.clone()], ..Default::default() };
    let (status, out, err, _) = ask(options, vec![answer(WHOLE, &body, body.len())]);
    assert_eq!((status, out.as_str(), err.as_str()), (FOUND, "one\n", ""));
    let mut err = Vec::new();
    let status = run(&QueryOptions { stores: vec![nobody.clone()], ..Default::default() }, &mut Vec::new(), &mut err);
    let err = String::from_utf8(err).unwrap();
    assert!(status == FAILED && err.contains(&nobody) && err.lines().count() == 1, "{err}");
}

#[test]
fn with_nocopy_records_are_fetched_and_not_printed() {
    let body = body_of(&["one"]);
    let options = QueryOptions { nocopy: true, ..Default::default() };
    let (status, out, _, _) = ask(options, vec![answer(WHOLE, &body, body.len())]);
    assert_eq!((status, out.as_str()), (FOUND, ""));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_quietly() {
    let body = body_of(&["one"]);
    let (address, _asked) = store_that_says(vec![answer(WHOLE, &body, body.len())]);
    let mut err = Vec::new();
    let options = QueryOptions { stores: vec![address], ..Default::default() };
    assert_eq!(run(&options, &mut Gone, &mut err), FOUND);
    assert!(err.is_empty());
}
