//! An ingester that is told to stop hands over what it has.

use crate::harness::http::Answer;
use crate::harness::logs::numbered;
use crate::harness::node::{Role, query_target, query_target_at};
use crate::harness::{Node, Port, wait_for, wait_until};
use crate::ledger::Ledger;
use crate::load::{Load, Target, prefix};
use crate::places::{address, assert_sound, files, flags_at, seed, short_or_long};
use oklog::world::entropy::Dice;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An ingester and the store it hands over to, with R = 1; each may be there or not.
struct Pair {
    addresses: Vec<String>,
    ingester: Node,
    store: Option<Node>,
}

impl Pair {
    /// `more`: flags of the ingester, over those it has.
    fn start(net: u8, with_store: bool, more: &[&str]) -> Pair {
        let addresses = vec![address(net, 0), address(net, 1)];
        let store = with_store.then(|| launch(Role::Store, &addresses, &[]));
        let mut ingester = launch(Role::Ingest, &addresses, more);
        let mut store = store;
        // Without its only peer an ingester takes lines, but does not call itself ready.
        store.iter_mut().for_each(Node::wait_ready);
        if with_store {
            ingester.wait_ready();
        } else {
            ingester.wait_listening();
        }
        Pair { addresses, ingester, store }
    }

    fn store(&self) -> &Node {
        self.store.as_ref().expect("there is a store")
    }

    /// Starts the store. It is ready when the ingester has answered it.
    fn launch_store(&mut self) {
        self.store = Some(launch(Role::Store, &self.addresses, &[]));
    }

    fn target(&self) -> Target {
        Target { durable: format!("{}:7652", self.addresses[0]), fast: format!("{}:7651", self.addresses[0]) }
    }

    /// All that the store finds, here and at the ingester, as soon as it calls that whole.
    fn whole_answer(&self, params: &[(&str, &str)]) -> Answer {
        let target = query_target(params);
        let whole = || self.store().try_get(&target).filter(|answer| (answer.status, answer.complete) == (200, true));
        wait_for("a whole answer", whole)
    }

    /// The segments in the ingest directory of an ingester that has ended.
    fn left(&self) -> Vec<String> {
        [".active", ".flushed", ".pending"]
            .iter()
            .flat_map(|state| files(self.ingester.dir(), "ingest", state))
            .collect()
    }

    /// Starts the ingester again, waits until everything is handed over, and holds what the store has against the ledger.
    fn restart_and_check(&mut self, ledger: &Ledger, what: &str) {
        self.ingester.restart();
        self.store.iter_mut().for_each(Node::wait_ready);
        ledger.assert_held_by(&self.whole_answer(&[]), what);
        self.ingester.wait_consumed();
        ledger.assert_held_by(&self.whole_answer(&[]), &format!("{what}, after all was consumed"));
    }
}

fn launch(role: Role, addresses: &[String], more: &[&str]) -> Node {
    let at = &addresses[usize::from(role == Role::Store)];
    let mut flags = flags_at(role, at, 1, addresses);
    flags.extend(more.iter().map(|flag| flag.to_string()));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Node::launch(role, &flags, None, &std::env::temp_dir())
}

/// The value of a word `name=value` in a line of the log.
fn number(line: &str, name: &str) -> u64 {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

#[test]
fn an_ingester_hands_over_what_it_has_while_more_is_sent_to_it_and_leaves_nothing_behind() {
    // One large segment that is not due for long: nothing is handed over before the signal.
    let mut pair = Pair::start(20, true, &["-ingest.segment-flush-age=1h", "-ingest.segment-flush-size=67108864"]);
    let seed = seed();
    let load = Load::start(Ledger::with_torn_ends(), seed, &[pair.target()]);
    let received = || pair.ingester.metric("oklog_ingest_writer_records_written_total", &[]);
    wait_until("lines come in", || received() > 5_000.0);
    assert_eq!(pair.store().metric("oklog_store_consumed_segments_total", &[]), 0.0);
    let owed = load.ledger.owed("");
    load.ledger.assert_shown(&pair.whole_answer(&[]), &owed, "before the signal");
    pair.ingester.stop();
    assert_eq!(pair.left(), [""; 0], "seed {seed}: {:?}", pair.ingester.stderr());
    let drained = pair.ingester.wait_for_line(&["\"drained: "]);
    assert!(number(&drained, "handed_over") >= 2, "a segment of each port: {drained}");
    let ledger = load.finish();
    // It has left for good: nobody misses it, and the store alone has everything.
    ledger.assert_held_by(&pair.whole_answer(&[]), &format!("seed {seed}: without the ingester"));
    let answer = crate::harness::command::run(
        crate::harness::oklog(["query", "-store", pair.store().address(Port::Api), "-from", "1h", "-q", "line 0 "]),
        b"",
    );
    assert_eq!(answer.status, Some(0), "{}", answer.stderr);
    pair.store.iter_mut().for_each(Node::stop);
    assert_sound(&[&pair.ingester, pair.store()], 1, &format!("seed {seed}"));
}

/// Sends lines as fast as they are taken, until the connection is cut. Gives how many bytes that were.
fn flood(address: &str, tag: &str) -> (JoinHandle<u64>, Arc<AtomicBool>) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_write_timeout(Some(Duration::from_secs(60))).expect("a socket takes options");
    let (lines, flowing) = (numbered(tag, 10_000), Arc::<AtomicBool>::default());
    let flows = flowing.clone();
    let sender = std::thread::spawn(move || {
        let mut sent = 0;
        while stream.write_all(&lines).is_ok() {
            sent += lines.len() as u64;
            flows.store(true, Ordering::Relaxed);
        }
        sent
    });
    (sender, flowing)
}

#[test]
fn senders_that_never_pause_do_not_keep_it_from_stopping() {
    let mut pair = Pair::start(21, true, &[]);
    let floods: Vec<_> = [7651, 7652].map(|port| flood(&format!("{}:{port}", pair.addresses[0]), "flood")).into();
    wait_until("both flow", || floods.iter().all(|(_, flowing)| flowing.load(Ordering::Relaxed)));
    let since = Instant::now();
    pair.ingester.signal();
    wait_for("connections are closed", || {
        pair.ingester.stderr().into_iter().find(|line| line.contains("draining") || line.contains("drained"))
    });
    let took = since.elapsed();
    let sent: Vec<u64> = floods.into_iter().map(|(sender, _)| sender.join().expect("it does not panic")).collect();
    println!("connections were closed {:.1} s after the signal; {sent:?} bytes were sent", took.as_secs_f64());
    assert!(took < Duration::from_secs(8), "connections were closed only after {took:?}");
    assert_eq!(pair.ingester.wait_ended().code(), Some(0));
    assert_eq!(pair.left(), [""; 0], "what came after the signal, too");
    let complaints: Vec<String> =
        pair.ingester.stderr().into_iter().filter(|line| line.contains("could not write")).collect();
    assert_eq!(complaints, [""; 0]);
    // As it said good-bye it had nothing, and so has whoever asks now.
    assert_eq!(pair.whole_answer(&[("limit", "1")]).status, 200);
}

#[test]
fn while_no_store_takes_anything_it_says_so_and_gives_up_at_its_time() {
    let mut pair = Pair::start(22, false, &["-ingest.drain-timeout=6s"]);
    let ledger = Ledger::default();
    assert!(ledger.send(&pair.target().durable, "durable", &numbered("line", 2_000)));
    let ready = pair.ingester.try_get("/ready").expect("an answer").text();
    assert!(ready.contains("joining"), "{ready}");
    let since = Instant::now();
    pair.ingester.signal();
    // At once, not only after the first five seconds.
    let first = pair.ingester.wait_for_line(&["draining: "]);
    assert!(since.elapsed() < Duration::from_secs(4), "first word after {:?}", since.elapsed());
    assert!(first.contains("no store is in the cluster"), "{first}");
    assert_eq!((number(&first, "segments"), number(&first, "handed_over")), (1, 0), "{first}");
    assert!(number(&first, "bytes") > 20_000 && number(&first, "seconds_left") <= 6, "{first}");
    let ready = pair.ingester.try_get("/ready").expect("an answer");
    assert_eq!(ready.status, 503);
    assert!(ready.text().starts_with("stopping: "), "{}", ready.text());
    let state = pair.ingester.try_get("/ingest/_segmentstate").expect("an answer").text();
    assert!(state.contains("\"segments\": 1"), "{state}");
    wait_until("the log says so again", || {
        pair.ingester.stderr().iter().filter(|line| line.contains("draining: ")).count() == 2
    });
    assert_eq!(pair.ingester.wait_ended().code(), Some(0));
    let took = since.elapsed();
    assert!(took >= Duration::from_secs(6) && took < Duration::from_secs(11), "it gave up after {took:?}");
    let last = pair.ingester.wait_for_line(&["not drained: "]);
    assert_eq!((number(&last, "segments"), number(&last, "seconds")), (1, 6), "{last}");
    assert!(last.contains(&pair.ingester.dir().join("ingest").display().to_string()), "{last}");
    assert_eq!(pair.left().len(), 1);
    // Another day there is a store.
    pair.launch_store();
    pair.restart_and_check(&ledger, "with a store");
    pair.ingester.stop();
    assert_eq!(pair.left(), [""; 0]);
}

#[test]
fn with_no_time_to_drain_it_waits_for_nobody_and_leaves_all_flushed() {
    let mut pair = Pair::start(23, true, &["-ingest.drain-timeout=0s", "-ingest.segment-flush-age=1h"]);
    let ledger = Ledger::default();
    assert!(ledger.send(&pair.target().durable, "durable", &numbered("line", 2_000)));
    let since = Instant::now();
    pair.ingester.stop();
    println!("it had ended after {:.1} s", since.elapsed().as_secs_f64());
    assert!(since.elapsed() < Duration::from_secs(6), "it waited: {:?}", since.elapsed());
    assert!(pair.ingester.stderr().iter().all(|line| !line.contains("\"draining: ")));
    let left = pair.left();
    assert!(left.len() == 1 && left[0].ends_with(".flushed"), "{left:?}");
    pair.restart_and_check(&ledger, "after no drain");
}

#[test]
fn a_signal_before_it_is_ready_ends_it_at_once_and_costs_nothing() {
    let mut pair = Pair::start(29, false, &["-ingest.drain-timeout=0s"]);
    let ledger = Ledger::default();
    assert!(ledger.send(&pair.target().durable, "durable", &numbered("line", 100)));
    pair.ingester.stop();
    // Without an answer of its peer it waits for three seconds before it opens its ports.
    pair.ingester.launch_again();
    pair.ingester.wait_for_line(&["listening", "port=api"]);
    let since = Instant::now();
    assert_eq!(pair.ingester.terminate().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(2), "it ended after {:?}", since.elapsed());
    pair.ingester.wait_for_line(&["SIGTERM before the start was over"]);
    pair.launch_store();
    pair.restart_and_check(&ledger, "after a start that was broken off");
}

#[test]
fn a_store_that_is_slow_is_waited_for() {
    let mut pair = Pair::start(24, true, &["-ingest.segment-pending-timeout=30s"]);
    let ledger = Ledger::default();
    let stands_still = pair.store().pause();
    for n in 0..5 {
        assert!(ledger.send(&pair.target().durable, &format!("d{n}"), &numbered("line", 500)));
    }
    pair.ingester.signal();
    let line = pair.ingester.wait_for_line(&["draining: "]);
    assert!(number(&line, "segments") >= 1, "{line}");
    // Longer than a probe takes to fail: the store is suspected, and drained to all the same.
    std::thread::sleep(Duration::from_secs(3));
    assert!(pair.ingester.is_running(), "it has not waited: {:?}", pair.ingester.stderr());
    drop(stands_still);
    assert_eq!(pair.ingester.wait_ended().code(), Some(0));
    pair.ingester.wait_for_line(&["\"drained: "]);
    assert_eq!(pair.left(), [""; 0]);
    ledger.assert_held_by(&pair.whole_answer(&[]), "after a slow store");
}

#[test]
fn what_a_consumer_holds_when_it_ends_is_handed_out_again_after_the_next_start() {
    let mut pair = Pair::start(25, false, &["-ingest.drain-timeout=1s"]);
    let ledger = Ledger::default();
    assert!(ledger.send(&pair.target().durable, "durable", &numbered("line", 1_000)));
    // A consumer that takes a segment and reads it, and is not heard of again in time.
    let taken = wait_for("a segment", || pair.ingester.try_get("/ingest/next").filter(|answer| answer.status == 200));
    let id = taken.text();
    assert_eq!(pair.ingester.get(&format!("/ingest/read?id={id}")).stored().count(), 1_000);
    pair.ingester.signal();
    let line = pair.ingester.wait_for_line(&["draining: "]);
    assert_eq!((number(&line, "segments"), number(&line, "pending")), (1, 1), "{line}");
    assert_eq!(pair.ingester.wait_ended().code(), Some(0));
    let left = pair.left();
    assert!(left.len() == 1 && left[0].ends_with(".pending"), "{left:?}");
    pair.ingester.launch_again();
    pair.ingester.wait_listening();
    // What the consumer says of it now is said too late.
    let late = pair.ingester.request("POST", &format!("/ingest/commit?id={id}"));
    assert_eq!(late.status, 404, "{}", late.text());
    assert_eq!(pair.ingester.get(&query_target_at("/ingest/_query", &[])).stored().count(), 1_000);
    pair.launch_store();
    pair.store.iter_mut().for_each(Node::wait_ready);
    wait_until("all is handed over", || pair.ingester.metric("oklog_ingest_segments", &[]) == 0.0);
    ledger.assert_held_by(&pair.whole_answer(&[]), "with a store");
}

/// How a drain is cut short.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Timeout,
    SecondSignal,
    Kill,
}

/// Signals an ingester under load, again and again, and lets it come to its end in one of the three ways at a random
/// moment. Nothing is lost, nothing doubled.
fn cut_short(net: u8, how: Cut, rounds: usize) {
    let seed = seed();
    println!("{how:?}: seed {seed}");
    let (mut dice, mut handed_over, mut left_behind) = (Dice::new(seed), 0, 0);
    // Segments are many and small, and the store takes one batch after another: a drain takes a while.
    let mut pair = Pair::start(net, true, &["-ingest.segment-flush-age=1h", "-ingest.segment-flush-size=8192"]);
    let load = Load::start(Ledger::with_torn_ends(), seed, &[pair.target()]);
    for round in 0..rounds {
        let epoch = load.next_epoch();
        std::thread::sleep(Duration::from_millis(100 + dice.below(150)));
        let what = format!("{how:?}, seed {seed}, round {round}");
        let owed = load.ledger.owed(&prefix(epoch));
        load.ledger.assert_shown(&pair.whole_answer(&[("q", &prefix(epoch))]), &owed, &what);
        // From nothing at all to the whole drain.
        let longest = if dice.one_in(3) { 5_000 } else { 1_500_000 };
        let moment = Duration::from_micros(dice.below(longest));
        pair.ingester.signal();
        match how {
            Cut::Timeout => {}
            Cut::SecondSignal => {
                std::thread::sleep(moment);
                pair.ingester.signal();
            }
            Cut::Kill => {
                std::thread::sleep(moment);
                pair.ingester.kill_if_running();
            }
        }
        let status = pair.ingester.wait_ended();
        // It may have come to its end before it was cut short.
        let expected = match how {
            Cut::Timeout => status.code() == Some(0),
            Cut::SecondSignal => matches!(status.code(), Some(0 | 1)),
            Cut::Kill => status.code().is_none_or(|code| code == 0),
        };
        assert!(expected, "{what}: {status}");
        match pair.left().is_empty() {
            true => handed_over += 1,
            false => left_behind += 1,
        }
        let short = matches!(how, Cut::Timeout) && round + 1 < rounds;
        let next = format!("-ingest.drain-timeout={}ms", if short { dice.below(150) } else { 20_000 });
        pair.ingester.restart_with(&[&next]);
        let owed = load.ledger.owed(&prefix(epoch));
        load.ledger.assert_shown(&pair.whole_answer(&[("q", &prefix(epoch))]), &owed, &what);
    }
    println!("{how:?}: {rounds} rounds; {handed_over} had handed over everything, {left_behind} had left something");
    let ledger = load.finish();
    ledger.assert_held_by(&pair.whole_answer(&[]), &format!("{how:?}, seed {seed}, at the end"));
    pair.ingester.stop();
    pair.store.iter_mut().for_each(Node::stop);
    assert_sound(&[&pair.ingester, pair.store()], 1, &format!("{how:?}, seed {seed}"));
}

#[test]
fn a_drain_that_is_cut_short_by_its_timeout_by_a_second_signal_or_by_a_kill_loses_nothing() {
    // Side by side: they mostly wait.
    std::thread::scope(|scope| {
        scope.spawn(|| cut_short(26, Cut::Timeout, short_or_long(6, 60)));
        scope.spawn(|| cut_short(27, Cut::SecondSignal, short_or_long(10, 100)));
        scope.spawn(|| cut_short(28, Cut::Kill, short_or_long(12, 150)));
    });
}
