//! The merged stream of several nodes, over real sockets.

use super::api::Streamer;
use super::backfill::{Backfill, Leash, OwnQuery, Past};
use super::links::Beyond;
use super::registry::Registry;
use super::runs::RecordReader;
use super::wishes::Wishes;
use crate::cluster::{Cluster, DataId, Meta, NodeId, Peer, PeerKind, State, View};
use crate::http::client::{Caller, Patience, agent, get};
use crate::http::{Access, HttpServer, Lane, Limits, Reply, Request, Route, path};
use crate::record::id::{Id, StreamBits};
use crate::record::stored;
use crate::unit::Bytes;
use crate::world::clock::{Clock, SystemClock};
use crate::world::crew::{Crew, Stop, lock};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something has become true.
fn until(what: &str, condition: impl Fn() -> bool) {
    let (deadline, pause) = (Instant::now() + PATIENCE, Stop::default());
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        pause.wait(Duration::from_millis(1));
    }
}

/// The ids of the tests lie an hour ahead, so that they are in every stream that begins meanwhile.
fn id(n: u128) -> Id {
    static BASE: OnceLock<Id> = OnceLock::new();
    let ahead = || Id::first_of(SystemClock::default().unix_millis().after(Duration::from_secs(3_600)));
    Id(BASE.get_or_init(ahead).0 + n)
}

fn block(ids: &[Id]) -> Vec<u8> {
    let mut block = Vec::new();
    ids.iter().for_each(|id| stored::write(&mut block, *id, b"a record"));
    block
}

/// A view that tests change.
struct Switch(Mutex<Arc<View>>);

impl Cluster for Switch {
    fn view(&self) -> Arc<View> {
        lock(&self.0).clone()
    }
}

impl Switch {
    fn set(&self, others: &[SocketAddr]) {
        let others = others.iter().map(|api| peer(*api, PeerKind::Ingest)).collect();
        let mut view = lock(&self.0);
        *view = Arc::new(View { me: view.me.clone(), others, silent: Vec::new() });
    }
}

fn peer(api: SocketAddr, kind: PeerKind) -> Peer {
    let ingest = kind.ingests().then_some(DataId(api.port().into()));
    let meta = Meta { kind, gossip: api, api, store: None, ingest, replicas: 1, start: 0 };
    Peer { node: NodeId(api.port().into()), meta, state: State::Alive, load: None }
}

/// The past, as tests say it was.
#[derive(Default)]
struct History {
    records: Mutex<BTreeMap<Id, Vec<u8>>>,
    asked: Mutex<Vec<Id>>,
    broken: Mutex<bool>,
}

impl History {
    fn keep(&self, ids: &[Id]) {
        ids.iter().for_each(|id| {
            lock(&self.records).insert(*id, block(&[*id]));
        });
    }
}

impl Backfill for History {
    fn since(&self, from: Id, _: &Wishes, _: &Leash) -> io::Result<Past> {
        lock(&self.asked).push(from);
        let body: Vec<u8> = lock(&self.records).range(from..).flat_map(|(_, record)| record.clone()).collect();
        Ok(Past { body: Box::new(Cursor::new(body)), whole: !*lock(&self.broken) })
    }
}

/// A node that serves streams.
struct Node {
    live: Arc<Registry>,
    cluster: Arc<Switch>,
    history: Arc<History>,
    address: SocketAddr,
    /// Of all its streams.
    links: Crew,
    crew: Crew,
    stop: Stop,
}

impl Node {
    fn start(others: &[SocketAddr]) -> Node {
        Node::start_as(others, true)
    }

    fn start_as(others: &[SocketAddr], ingests: bool) -> Node {
        let (crew, stop, links) = (Crew::default(), Stop::default(), Crew::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (live, history) = (Arc::new(Registry::default()), Arc::new(History::default()));
        let me = peer(listener.local_addr().unwrap(), PeerKind::Store);
        let cluster = Arc::new(Switch(Mutex::new(Arc::new(View { me, others: vec![], silent: vec![] }))));
        cluster.set(others);
        let beyond = Beyond::new(cluster.clone(), Caller::default(), history.clone());
        let route = |path, beyond| {
            let clock = Arc::new(SystemClock::default());
            let live = ingests.then(|| live.clone());
            let (streamer, links) = (Streamer { live, beyond, clock, metrics: Arc::default() }, links.clone());
            let serve = move |request: &mut Request, reply: Reply| streamer.serve_with(request, reply, links.clone());
            let (methods, lane, access) = (&["GET"], Lane::Stream, Access::Open);
            Route { path, methods, lane, access, body_limit: Bytes(0), handler: Arc::new(serve) }
        };
        let routes = vec![route(path::STORE_STREAM, Some(beyond)), route(path::INGEST_STREAM, None)];
        let server =
            HttpServer::start(listener, routes, Limits::default(), None, Arc::default(), crew.clone(), stop.clone());
        let address = server.unwrap().local_addr();
        Node { live, cluster, history, address, links, crew, stop }
    }

    fn publish(&self, ids: &[Id]) {
        self.live.publish(&block(ids), ids.len() as u64);
    }

    fn read(&self, target: &str) -> Reading {
        let agent = agent(Patience { read: Some(PATIENCE), ..Patience::NODE });
        let answer = get(&agent, &format!("http://{}{target}", self.address)).unwrap();
        Reading { runs: RecordReader::new(Box::new(answer.into_reader())), waiting: VecDeque::new() }
    }

    fn stream(&self, window: &str) -> Reading {
        self.read(&format!("/store/stream?window={window}"))
    }

    fn status(&self, target: &str) -> u16 {
        let answer = get(&agent(Patience::NODE), &format!("http://{}{target}", self.address));
        answer.map_or_else(|error| error.status().unwrap_or(0), |answer| answer.status())
    }

    fn wait_for_listeners(&self, count: usize) {
        until("listeners", || self.live.listeners() == count);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.raise();
        let late = self.crew.join_all(PATIENCE).late;
        assert!(late.is_empty() && self.links.is_empty() || std::thread::panicking(), "{late:?}");
    }
}

/// A stream as its client sees it.
struct Reading {
    runs: RecordReader<Box<dyn Read>>,
    waiting: VecDeque<(Id, String)>,
}

impl Reading {
    fn next(&mut self) -> (Id, String) {
        while self.waiting.is_empty() {
            let run = self.runs.next_run().unwrap().expect("no end yet");
            let text = |record: stored::Stored<'_>| String::from_utf8(record.text().to_vec()).unwrap();
            self.waiting.extend(stored::records(run).map(|record| (record.id().unwrap(), text(record))));
        }
        self.waiting.pop_front().unwrap()
    }

    /// The next records, notices left out.
    fn records(&mut self, count: usize) -> Vec<Id> {
        let all = std::iter::repeat_with(|| self.next().0);
        all.filter(|id| id.stream() != StreamBits::NOTICE).take(count).collect()
    }
}

/// An ingester whose every byte the test decides.
struct Puppet(TcpListener);

impl Puppet {
    fn new() -> (Puppet, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Puppet(listener), address)
    }

    /// Takes a call without an answer.
    fn take(&self) -> TcpStream {
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let lines = BufReader::new(&stream).lines().map(Result::unwrap);
        lines.take_while(|line| !line.is_empty()).for_each(drop);
        stream
    }

    fn answer(&self) -> TcpStream {
        let mut stream = self.take();
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        stream
    }
}

fn send(stream: &mut TcpStream, ids: &[Id]) {
    let block = block(ids);
    let chunk = [format!("{:x}\r\n", block.len()).as_bytes(), &block, b"\r\n"].concat();
    stream.write_all(&chunk).unwrap();
}

#[test]
fn records_of_all_nodes_come_once_and_in_order_within_the_window() {
    let (a, b) = (Node::start(&[]), Node::start(&[]));
    let c = Node::start(&[a.address, b.address]);
    let mut reading = c.stream("500ms");
    [&a, &b, &c].iter().for_each(|node| node.wait_for_listeners(1));
    let ids: Vec<Id> = (0..9).map(id).collect();
    c.publish(&ids[6..9]);
    b.publish(&ids[1..4]);
    a.publish(&[ids[0], ids[3], ids[4], ids[5]]);
    c.history.keep(&ids);
    assert_eq!(reading.records(9), ids);
}

#[test]
fn with_a_window_of_zero_records_come_at_once() {
    let a = Node::start(&[]);
    let c = Node::start(&[a.address]);
    let mut reading = c.stream("0");
    [&a, &c].iter().for_each(|node| node.wait_for_listeners(1));
    for (n, node) in [(5, &a), (4, &c), (3, &a), (9, &c)] {
        node.publish(&[id(n)]);
        assert_eq!(reading.records(1), [id(n)]);
    }
}

#[test]
fn a_store_that_takes_no_lines_streams_what_others_take() {
    let a = Node::start(&[]);
    let c = Node::start_as(&[a.address], false);
    let mut reading = c.stream("0");
    a.wait_for_listeners(1);
    a.publish(&[id(1)]);
    assert_eq!(reading.records(1), [id(1)]);
}

#[test]
fn a_link_that_breaks_is_made_again_and_its_gap_filled_without_repeats() {
    let (puppet, address) = Puppet::new();
    let c = Node::start(&[address]);
    let mut reading = c.stream("0");
    let mut link = puppet.answer();
    until("the first gap", || lock(&c.history.asked).len() == 1);
    send(&mut link, &[id(1)]);
    assert_eq!(reading.records(1), [id(1)]);
    c.history.keep(&[id(1), id(2)]);
    drop(link);
    let mut link = puppet.answer();
    send(&mut link, &[id(3)]);
    let mut rest = reading.records(2);
    rest.sort();
    assert_eq!(rest, [id(2), id(3)]);
    assert_eq!(lock(&c.history.asked).len(), 2);
}

#[test]
fn a_member_that_is_gone_is_told_and_its_link_ended() {
    let (puppet, address) = Puppet::new();
    let c = Node::start(&[address]);
    let mut reading = c.stream("0");
    let mut link = puppet.answer();
    send(&mut link, &[id(1)]);
    reading.records(1);
    c.history.keep(&[id(1), id(2)]);
    c.cluster.set(&[]);
    assert_eq!(link.read(&mut [0]).unwrap_or(0), 0, "the link is ended");
    let mut last = [reading.next(), reading.next()];
    last.sort_by_key(|(id, _)| id.stream() != StreamBits::NOTICE);
    assert!(last[0].1.starts_with(&format!("oklog: no stream from {address} since 20")), "{last:?}");
    assert_eq!(last[1].0, id(2), "what it took last");
    until("no thread is left", || c.links.is_empty());
}

#[test]
fn a_node_that_stops_in_order_has_sent_all_and_leaves_neither_a_gap_nor_a_complaint() {
    let a = Node::start(&[]);
    let c = Node::start(&[a.address]);
    let mut reading = c.stream("0");
    [&a, &c].iter().for_each(|node| node.wait_for_listeners(1));
    until("the first gap", || lock(&c.history.asked).len() == 1);
    a.publish(&[id(1)]);
    drop(a);
    c.cluster.set(&[]);
    until("no link is left", || c.links.is_empty());
    c.publish(&[id(2)]);
    assert_eq!([reading.next().0, reading.next().0], [id(1), id(2)]);
    assert_eq!(lock(&c.history.asked).len(), 1);
}

#[test]
fn what_a_new_member_took_before_its_link_stood_is_filled_and_a_doubt_is_told() {
    let c = Node::start(&[]);
    let mut reading = c.stream("0");
    let a = Node::start(&[]);
    c.history.keep(&[id(7)]);
    *lock(&c.history.broken) = true;
    c.cluster.set(&[a.address]);
    let mut first = [reading.next(), reading.next()];
    first.sort_by_key(|(id, _)| id.stream() != StreamBits::NOTICE);
    assert!(first[0].1.ends_with("may be missing: some nodes do not answer"), "{first:?}");
    assert_eq!(first[1].0, id(7));
    a.publish(&[id(8)]);
    assert_eq!(reading.records(1), [id(8)]);
}

#[test]
fn a_reader_that_is_slow_is_told_what_it_missed_and_nobody_waits_for_it() {
    let c = Node::start(&[]);
    let (mut slow, mut quick) = (c.stream("0"), c.stream("0"));
    let text = vec![b'x'; 256 << 10];
    for n in 0..160 {
        let mut batch = Vec::new();
        stored::write(&mut batch, id(n), &text);
        c.live.publish(&batch, 1);
        assert_eq!(quick.records(1), [id(n)]);
    }
    let (mut came, mut missed) = (0, 0);
    while came + missed < 160 {
        let (id, text) = slow.next();
        match text.strip_prefix("oklog: ").filter(|_| id.stream() == StreamBits::NOTICE) {
            Some(told) => missed += told.split(' ').next().unwrap().parse::<u64>().unwrap(),
            None => came += 1,
        }
    }
    assert!(came + missed == 160 && missed > 0, "{came} came, {missed} were missed");
}

#[test]
fn when_the_client_has_gone_all_links_end_whatever_they_wait_for() {
    let a = Node::start(&[]);
    let ((mute, mute_at), (idle, idle_at), (_deaf, deaf_at)) = (Puppet::new(), Puppet::new(), Puppet::new());
    let c = Node::start(&[a.address, mute_at, idle_at, deaf_at]);
    let reading = c.stream("1s");
    a.wait_for_listeners(1);
    let _held = (mute.take(), idle.answer());
    assert!(c.links.len() >= 4);
    let began = Instant::now();
    drop(reading);
    until("no thread is left", || c.links.is_empty());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    a.wait_for_listeners(0);
}

#[test]
fn other_nodes_are_told_now_and_then_that_all_has_been_sent() {
    let a = Node::start(&[]);
    let mut reading = a.read("/ingest/_stream?window=0&beat=100ms");
    let before = SystemClock::default().unix_millis();
    let (id, _) = reading.next();
    assert_eq!((id.stream(), id.counter()), (StreamBits::NOTICE, u32::MAX));
    assert!(id.millis() >= before.before(PATIENCE));
    assert_eq!(a.status("/ingest/_stream?beat=soon"), 400);
}

#[test]
fn the_past_comes_by_a_query_to_this_node_whose_doubts_are_heeded_and_which_can_be_broken_off() {
    let (puppet, address) = Puppet::new();
    let me = peer(address, PeerKind::Store);
    let own = OwnQuery(Arc::new(Switch(Mutex::new(Arc::new(View { me, others: vec![], silent: vec![] })))));
    let asking = std::thread::spawn(move || {
        let leash = Leash::new(None);
        let mut past = own.since(id(1), &Wishes::default(), &leash).unwrap();
        let mut first = vec![0; block(&[id(1)]).len()];
        past.body.read_exact(&mut first).unwrap();
        leash.pull();
        (past.whole, first, past.body.read(&mut [0]).is_err(), own.since(id(1), &Wishes::default(), &leash).is_err())
    });
    let mut call = puppet.take();
    let head = "HTTP/1.1 206 Partial Content\r\nX-Oklog-Complete: true\r\nTransfer-Encoding: chunked\r\n\r\n";
    call.write_all(head.as_bytes()).unwrap();
    send(&mut call, &[id(1)]);
    assert_eq!(asking.join().unwrap(), (false, block(&[id(1)]), true, true));
}
