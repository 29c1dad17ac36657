//! `oklog stream`: prints matching records as they arrive, for ever.
//!
//! When the link to a store breaks, the next one is tried, with growing waits. The new stream is opened first, then the
//! gap is filled by a query; what both give is told apart by id. The query begins a little before the last record,
//! since records from several ingesters come in order only within the window, but never before the newest id that was
//! forgotten: so no record is printed twice.
//!
//! Bounds: the last [`REMEMBERED`] runs of ids, and one record. A store that sends nothing for 15 s, not even the beats that it is
//! asked for, is called anew.

use super::client::{self, Answer, CallError, Method, Shape};
use super::query::{FAILED, FOUND, say};
use crate::query::params::QueryString;
use crate::record::id::StreamBits;
use crate::record::stored::{Stored, records};
use crate::stream::runs::RecordReader;
use crate::stream::seen::Seen;
use crate::stream::wishes::{BEAT, SILENCE, is_beat};
use crate::unit::{Monotonic, show_duration};
use crate::world::clock::Clock;
use crate::world::crew::Stop;
use std::io::{self, Read, Write};
use std::time::Duration;
use ureq::Agent;

/// How many runs of ids are remembered, so that a record that comes again is known: 5 MiB of memory at most.
pub const REMEMBERED: usize = 65_536;

/// How much further back than the window a gap is taken to begin.
const MARGIN: Duration = Duration::from_secs(1);

/// The first wait after a link broke, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(16), Duration::from_millis(1_024));

/// What is asked for, and how it is printed.
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    /// Stores, `host:port`; tried in this order, again and again.
    pub stores: Vec<String>,
    /// The needle.
    pub q: Vec<u8>,
    /// Whether it is a regular expression.
    pub regex: bool,
    /// Within which span records are put in order; zero: printed as they come.
    pub window: Duration,
    /// How records are printed.
    pub shape: Shape,
}

/// Why a stream or a query ended.
enum Broken {
    /// `out` takes no more.
    Out(io::Error),
    /// The store or the link: worth another try.
    Link(String),
    /// A refusal: another try would end the same.
    Refused(CallError),
}

/// Streams until `stop` is raised (looked at between runs of records and in waits), `out` is closed or a store refuses the
/// request. Complains to `err` in whole lines. Gives the exit status: 0, or 2 after a refusal.
pub fn run(options: &StreamOptions, clock: &dyn Clock, stop: &Stop, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let (agent, live) = (client::agent(), client::agent_for(SILENCE));
    let mut tail = Tail { options, agent, live, stop, seen: Seen::new(REMEMBERED), began: None, shown: Vec::new() };
    let mut wait = WAITS.0;
    while !stop.is_raised() {
        let heard = tail.seen.count();
        let broken = match tail.follow(clock, out, err) {
            Ok(()) => continue,
            Err(broken) => broken,
        };
        match broken {
            Broken::Out(error) if error.kind() == io::ErrorKind::BrokenPipe => return FOUND,
            Broken::Out(error) => {
                say(err, &format!("oklog stream: printing records: {error}"));
                return FAILED;
            }
            Broken::Refused(error) => {
                say(err, &format!("oklog stream: {error}"));
                return FAILED;
            }
            Broken::Link(why) => {
                wait = if tail.seen.count() > heard { WAITS.0 } else { wait };
                say(err, &format!("oklog stream: {why}; next try in {}", show_duration(wait)));
            }
        }
        stop.wait(wait);
        wait = (wait * 2).min(WAITS.1);
    }
    FOUND
}

struct Tail<'a> {
    options: &'a StreamOptions,
    /// For queries, which may be silent while nothing is found.
    agent: Agent,
    /// For streams, which beat.
    live: Agent,
    stop: &'a Stop,
    seen: Seen,
    /// When the first stream was opened.
    began: Option<Monotonic>,
    shown: Vec<u8>,
}

impl Tail<'_> {
    /// Opens a stream, fills the gap before it, prints until it breaks. Ok only when it is told to stop.
    fn follow(&mut self, clock: &dyn Clock, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Broken> {
        let stores = client::stores(&self.options.stores);
        let target = format!("/store/stream?{}", self.query_string(None));
        let answer = call(&self.live, &stores, &target)?;
        match self.began {
            None => self.began = Some(clock.now()),
            Some(began) => {
                let from = self.gap_start(clock.now().since(began));
                let target = format!("/store/query?{}", self.query_string(Some(&from)));
                match call(&self.agent, &stores, &target).and_then(|answer| self.fill(answer, out, err)) {
                    Ok(()) => {}
                    Err(Broken::Link(why)) => say(err, &format!("oklog stream: records may be missing: {why}")),
                    Err(other) => return Err(other),
                }
            }
        }
        let store = answer.store.clone();
        match self.print_all(answer.records(), out, err) {
            Ok(()) if self.stop.is_raised() => Ok(()),
            Ok(()) => Err(Broken::Link(format!("{store} ended the stream"))),
            Err(Broken::Link(why)) => Err(Broken::Link(format!("the stream from {store} broke: {why}"))),
            Err(other) => Err(other),
        }
    }

    fn fill(&mut self, answer: Answer, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Broken> {
        let is_whole = answer.status == 200 && answer.header("X-Oklog-Complete") == Some("true");
        self.print_all(answer.records(), out, err)?;
        if is_whole { Ok(()) } else { Err(Broken::Link("the query for the gap may be incomplete".into())) }
    }

    fn query_string(&self, from: Option<&str>) -> String {
        let mut query = QueryString::default();
        query.add("q", &self.options.q);
        if self.options.regex {
            query.add("regex", b"true");
        }
        match from {
            Some(from) => query.add("from", from.as_bytes()),
            None => {
                query.add("window", show_duration(self.options.window).as_bytes());
                query.add("beat", show_duration(BEAT).as_bytes());
            }
        }
        query.into_string()
    }

    /// Where the gap begins: before the last record that was seen, or, as a span, when the first stream was opened.
    fn gap_start(&self, since_began: Duration) -> String {
        match self.seen.last() {
            Some(last) => self.seen.resume_from(last, self.options.window + MARGIN).to_string(),
            None => show_duration(since_began + MARGIN),
        }
    }

    /// Prints runs as they come, each flushed before the next is waited for.
    fn print_all<R: Read>(
        &mut self,
        mut reader: RecordReader<R>,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<(), Broken> {
        while let Some(run) = reader.next_run().map_err(|error| Broken::Link(error.to_string()))? {
            self.shown.clear();
            for record in records(run) {
                let Some(id) = record.id() else { continue };
                if is_beat(id) {
                    continue;
                }
                if id.stream() == StreamBits::NOTICE {
                    notice(err, record);
                } else if self.seen.is_new(id) {
                    self.options.shape.print(&mut self.shown, record);
                }
            }
            out.write_all(&self.shown).and_then(|()| out.flush()).map_err(Broken::Out)?;
            if self.stop.is_raised() {
                break;
            }
        }
        Ok(())
    }
}

fn call(agent: &Agent, stores: &[String], target: &str) -> Result<Answer, Broken> {
    client::call(agent, Method::Get, stores, target).map_err(|error| match error {
        CallError::Refused { status: 400..=499, .. } => Broken::Refused(error),
        _ if stores.is_empty() => Broken::Refused(error),
        _ => Broken::Link(error.to_string()),
    })
}

fn notice(err: &mut dyn Write, record: Stored<'_>) {
    let text = String::from_utf8_lossy(record.text());
    say(err, &text.chars().filter(|c| !c.is_control()).collect::<String>());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::id::Id;
    use crate::record::stored::write;
    use crate::unit::{UnixMillis, UnixNanos};
    use crate::world::clock::VirtualClock;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    fn id(n: u128) -> Id {
        Id(Id::first_of(UnixMillis(1_795_426_200_250)).0 + n)
    }

    fn block_of(ids: &[u128]) -> Vec<u8> {
        let mut block = Vec::new();
        ids.iter().for_each(|n| write(&mut block, id(*n), n.to_string().as_bytes()));
        block
    }

    fn chunked(body: &[u8], ends_well: bool) -> Vec<u8> {
        let head = "HTTP/1.1 200 OK\r\nX-Oklog-Complete: true\r\nTransfer-Encoding: chunked\r\n\r\n";
        let end: &[u8] = if ends_well { b"0\r\n\r\n" } else { b"" };
        [format!("{head}{:x}\r\n", body.len()).as_bytes(), body, b"\r\n", end].concat()
    }

    /// Answers one connection after the other, then refuses. Gives the request lines besides what was printed.
    fn stream_against(answers: Vec<Vec<u8>>) -> (u8, String, String, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options =
            StreamOptions { stores: vec![listener.local_addr().unwrap().to_string()], ..StreamOptions::default() };
        let asked = std::thread::spawn(move || {
            let mut targets = Vec::new();
            let refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 6\r\n\r\nno q.\n".to_vec();
            for answer in answers.into_iter().chain([refusal]) {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(&stream).lines().map(Result::unwrap);
                targets.push(lines.next().unwrap());
                lines.find(|line| line.is_empty());
                stream.write_all(&answer).unwrap();
            }
            targets
        });
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let clock = VirtualClock::at(UnixNanos(0));
        let status = run(&options, &clock, &Stop::default(), &mut out, &mut err);
        (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), asked.join().unwrap())
    }

    #[test]
    fn a_broken_stream_is_opened_again_and_the_gap_filled_without_printing_twice() {
        let answers = vec![
            chunked(&block_of(&[1, 2]), false),
            chunked(&block_of(&[4, 5]), false),
            chunked(&block_of(&[1, 2, 3, 4]), true),
        ];
        let (status, out, err, asked) = stream_against(answers);
        assert_eq!((status, out.as_str()), (FAILED, "1\n2\n3\n4\n5\n"), "{err}");
        assert!(asked[0].starts_with("GET /store/stream?q=&window=0s&beat=5s "), "{asked:?}");
        assert!(asked[1].starts_with("GET /store/stream?"), "{asked:?}");
        let from = Id::first_of(UnixMillis(1_795_426_200_250 - 1_000));
        assert!(asked[2].starts_with(&format!("GET /store/query?q=&from={from} ")), "{asked:?}");
        assert!(err.ends_with("answers 400: no q.\n"), "{err}");
    }

    #[test]
    fn a_gap_before_the_first_record_is_counted_from_the_first_stream() {
        let (_, out, _, asked) =
            stream_against(vec![chunked(b"", true), chunked(b"", true), chunked(&block_of(&[7]), true)]);
        assert_eq!(out, "7\n");
        assert!(asked[2].contains("from=1s "), "{asked:?}");
    }

    #[test]
    fn notices_go_to_standard_error_and_beats_nowhere() {
        let mut body = block_of(&[1]);
        let beat = Id::new(UnixNanos(1_795_426_200_250_000_000), StreamBits::NOTICE, u32::MAX);
        write(&mut body, beat, b"oklog: all until here");
        let at = Id::new(UnixNanos(1_795_426_200_250_000_000), StreamBits::NOTICE, 0);
        write(&mut body, at, b"oklog: 5 records missed");
        let (_, out, err, _) = stream_against(vec![chunked(&body, true)]);
        assert_eq!(out, "1\n");
        assert!(err.starts_with("oklog: 5 records missed\n"), "{err}");
    }
}
