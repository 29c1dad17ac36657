//! Real servers on loopback with parts in memory, and fakes that break as a test wants.

use super::*;
use crate::cluster::{Cluster, DataId, Fixed, Meta, NodeId, PeerKind, State};
use crate::http::client::{self, Caller, Patience, agent};
use crate::http::{Access, HttpServer, Lane, Limits, Route};
use crate::ops::metrics::{self as m, Metrics};
use crate::query::api::routes;
use crate::query::pool::Pool;
use crate::record::stored::{records, write};
use crate::segment::readable::Source as FileSource;
use crate::unit::Bytes;
use crate::world::clock::SystemClock;
use crate::world::crew::{Crew, Stop, lock};
use crate::world::fs::FileSystem;
use crate::world::fs::memory::MemoryFs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

#[path = "scatter_random_tests.rs"]
mod random;

/// Servers, until the test ends.
struct Town {
    crew: Crew,
    stop: Stop,
    pool: Arc<Pool>,
}

impl Drop for Town {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

/// What a node holds, which a test may change: lists of ids, one for each segment.
#[derive(Clone, Default)]
struct Held {
    ingest: Arc<Mutex<Vec<Vec<u128>>>>,
    store: Arc<Mutex<Vec<Vec<u128>>>>,
    witnesses: Arc<Mutex<Vec<DataId>>>,
    forgotten: Arc<Mutex<Vec<DataId>>>,
    metrics: Arc<Metrics>,
}

impl Held {
    fn with(ingest: &[u128], store: &[u128]) -> Held {
        let held = Held::default();
        held.hold(ingest, store);
        held
    }

    fn hold(&self, ingest: &[u128], store: &[u128]) {
        *lock(&self.ingest) = vec![ingest.to_vec()];
        *lock(&self.store) = vec![store.to_vec()];
    }

    fn ended(&self, outcome: &str) -> u64 {
        self.metrics.counter(m::QUERIES, &[outcome]).get()
    }
}

/// Records from this id on are 64 KiB long.
const LONG: u128 = 1_000_000;

fn text_of(id: u128) -> Vec<u8> {
    if id >= LONG {
        return vec![b'x'; 64 << 10];
    }
    format!("record {id}, {}", if id.is_multiple_of(3) { "fizz" } else { "other" }).into_bytes()
}

fn content(ids: &[u128]) -> Vec<u8> {
    let mut content = Vec::new();
    ids.iter().for_each(|id| write(&mut content, Id(*id), &text_of(*id)));
    content
}

fn readable(content: &[u8], low: u128, high: u128) -> Readable {
    let file = MemoryFs::new().create_new(Path::new("segment")).expect("a file");
    file.append(content).expect("room");
    Readable { source: FileSource::Open(file), low: Id(low), high: Id(high), len: Bytes(content.len() as u64) }
}

fn parts(segments: &[Vec<u128>], from: Id, to: Id) -> Vec<Readable> {
    let whole = segments.iter().filter_map(|ids| Some(readable(&content(ids), *ids.first()?, *ids.last()?)));
    whole.filter(|part| part.low <= to && part.high >= from).collect()
}

/// A view that a test may change.
struct Changing(Mutex<Arc<View>>);

impl Cluster for Changing {
    fn view(&self) -> Arc<View> {
        lock(&self.0).clone()
    }
}

fn peer(kind: PeerKind, n: u128, api: SocketAddr, replicas: u8) -> Peer {
    let data = |offset| Some(DataId((n + offset) << 64));
    let store = data(0).filter(|_| kind.stores());
    let ingest = data(1_000).filter(|_| kind.ingests());
    let meta = Meta { kind, gossip: api, api, store, ingest, replicas, start: 0 };
    Peer { node: NodeId(n), meta, state: State::Alive, load: None }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// A peer at whose address nobody listens.
fn nobody(kind: PeerKind, n: u128, replicas: u8) -> Peer {
    peer(kind, n, listener().1, replicas)
}

impl Town {
    fn new() -> Town {
        let (crew, stop) = (Crew::default(), Stop::default());
        let pool = Pool::start(2, &crew, &stop).expect("threads");
        Town { crew, stop, pool }
    }

    fn serve(&self, listener: TcpListener, routes: Vec<Route>) {
        let (crew, stop) = (self.crew.clone(), self.stop.clone());
        HttpServer::start(listener, routes, Limits::default(), None, Arc::default(), crew, stop).expect("starts");
    }

    fn routes(&self, kind: PeerKind, held: &Held, cluster: Arc<dyn Cluster>) -> Vec<Route> {
        let (ingest, store) = (held.ingest.clone(), held.store.clone());
        let (witnesses, forgotten) = (held.witnesses.clone(), held.forgotten.clone());
        routes(Node {
            ingest: kind.ingests().then(|| Box::new(move |from, to| parts(&lock(&ingest), from, to)) as _),
            store: kind.stores().then(|| Box::new(move |from, to| parts(&lock(&store), from, to)) as _),
            cluster,
            caller: Caller::default(),
            witnesses: Box::new(move || lock(&witnesses).clone()),
            forgotten: Box::new(move || lock(&forgotten).clone()),
            pool: self.pool.clone(),
            clock: Arc::new(SystemClock::default()),
            metrics: held.metrics.clone(),
        })
    }

    /// A node that others ask.
    fn node(&self, kind: PeerKind, n: u128, replicas: u8, held: &Held) -> Peer {
        let (listener, api) = listener();
        let me = peer(kind, n, api, replicas);
        self.serve(listener, self.routes(kind, held, Arc::new(Fixed::alone(me.clone()))));
        me
    }

    /// A node that answers as the test wants.
    fn fake(
        &self,
        kind: PeerKind,
        n: u128,
        replicas: u8,
        answer: impl Fn(&Request, Reply) -> io::Result<()> + Send + Sync + 'static,
    ) -> Peer {
        let (listener, api) = listener();
        let handler = Arc::new(move |request: &mut Request, reply: Reply| answer(request, reply));
        let route = |path| {
            let (methods, lane, access) = (&["GET", "HEAD"], Lane::Part, Access::Peers);
            Route { path, methods, lane, access, body_limit: Bytes(0), handler: handler.clone() }
        };
        self.serve(listener, vec![route(path::INGEST_QUERY), route(path::STORE_OWN_QUERY)]);
        peer(kind, n, api, replicas)
    }

    /// The node that is asked: a combined one, the others as given.
    fn asked(&self, held: &Held, replicas: u8, others: &[&Peer], silent: &[&Peer]) -> (Peer, Arc<Changing>) {
        let (listener, api) = listener();
        let me = peer(PeerKind::IngestStore, 99, api, replicas);
        let list = |peers: &[&Peer]| peers.iter().map(|peer| (*peer).clone()).collect();
        let view = View { me: me.clone(), others: list(others), silent: list(silent) };
        let cluster = Arc::new(Changing(Mutex::new(Arc::new(view))));
        self.serve(listener, self.routes(PeerKind::IngestStore, held, cluster.clone()));
        (me, cluster)
    }
}

/// An answer as a client sees it.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: Vec<(&'static str, String)>,
    ids: Vec<u128>,
    /// Whether the body ended as it should.
    ended: bool,
}

const SHOWN: [&str; 6] = [
    "X-Oklog-Complete",
    "X-Oklog-Silent-Nodes",
    "X-Oklog-Error-Count",
    "X-Oklog-Nodes-Queried",
    "X-Oklog-Segments-Queried",
    "X-Oklog-Max-Data-Set-Size",
];

impl Got {
    fn of(answer: Answer) -> Got {
        let header = |name| Some((name, answer.header(name)?.to_string()));
        let (status, headers) = (answer.status(), SHOWN.into_iter().filter_map(header).collect());
        let mut body = Vec::new();
        let ended = answer.into_reader().read_to_end(&mut body).is_ok();
        let ids = records(&body).map(|stored| {
            let id = stored.id().expect("an id").0;
            assert_eq!(stored.text(), text_of(id));
            id
        });
        Got { status, headers, ids: ids.collect(), ended }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// Status, what is said of completeness, who is silent, and whether the body ended.
    fn verdict(&self) -> (u16, &str, &str, bool) {
        (self.status, self.header("X-Oklog-Complete"), self.header("X-Oklog-Silent-Nodes"), self.ended)
    }
}

const RANGE: &str = "from=00000000000000000000000000&to=7ZZZZZZZZZZZZZZZZZZZZZZZZZ";

fn url(of: &Peer, more: &str) -> String {
    format!("http://{}/store/query?{RANGE}{more}", of.name())
}

fn ask(of: &Peer, more: &str) -> Got {
    Got::of(client::get(&agent(Patience::NODE), &url(of, more)).expect("an answer"))
}

fn ids(of: impl IntoIterator<Item = u128>) -> Vec<u128> {
    of.into_iter().collect()
}

/// Answers as one of ours would, with these bytes, and breaks off if `whole` is false.
fn answer_with(reply: Reply, bytes: &[u8], whole: bool) -> io::Result<()> {
    let headers = [("X-Oklog-Segments-Queried", "1".into()), ("X-Oklog-Max-Data-Set-Size", "1".into())];
    let mut body = reply.stream(200, &headers)?;
    body.write_all(bytes)?;
    body.flush()?;
    if whole { body.finish() } else { Err(io::Error::other("as the test wants")) }
}

use PeerKind::{Ingest, IngestStore, Store};

#[test]
fn records_of_all_nodes_come_once_and_in_order_however_many_copies_there_are() {
    let town = Town::new();
    let one = town.node(Store, 1, 2, &Held::with(&[], &ids((0..900).filter(|n| n % 3 != 0))));
    let two = town.node(IngestStore, 2, 2, &Held::with(&ids(900..1_000), &ids((0..900).filter(|n| n % 3 != 1))));
    let three = town.node(Ingest, 3, 2, &Held::with(&ids(1_000..1_100), &[]));
    let own = Held::with(&ids(1_100..1_200), &ids((0..900).filter(|n| n % 3 != 2)));
    let (me, _) = town.asked(&own, 2, &[&one, &two, &three], &[]);
    let got = ask(&me, "");
    assert_eq!(got.verdict(), (200, "true", "", true));
    assert_eq!(got.ids, ids(0..1_200));
    assert_eq!(got.header("X-Oklog-Nodes-Queried"), "4");
    assert_eq!(got.header("X-Oklog-Error-Count"), "0");
    assert_eq!(ask(&me, "&q=fizz").ids, ids((0..1_200).step_by(3)));
    assert_eq!(ask(&me, "&q=fizz&invert&limit=3").ids, [1, 2, 4]);
    assert_eq!(own.ended("whole"), 3);
}

#[test]
fn the_newest_come_from_all_nodes_and_no_more_than_are_wanted() {
    let town = Town::new();
    let one = town.node(Store, 1, 2, &Held::with(&[], &ids((0..2_000).step_by(2))));
    let two = town.node(Store, 2, 2, &Held::with(&[], &ids(0..2_000)));
    let three = town.node(Ingest, 3, 2, &Held::with(&ids(2_000..2_005), &[]));
    let (me, _) = town.asked(&Held::with(&[], &ids((1..2_000).step_by(2))), 2, &[&one, &two, &three], &[]);
    assert_eq!(ask(&me, "&order=desc&limit=10").ids, ids((1_995..2_005).rev()));
    assert_eq!(ask(&me, "&order=desc").ids, ids((0..2_005).rev()));
    assert_eq!(ask(&me, "&limit=7").ids, ids(0..7));
}

#[test]
fn fewer_than_r_silent_stores_leave_an_answer_whole_and_more_are_named() {
    let town = Town::new();
    let (dead, gone) = (nobody(Store, 1, 2), nobody(Store, 2, 2));
    let own = Held::with(&[], &ids(0..50));
    let (me, cluster) = town.asked(&own, 2, &[&dead], &[]);
    let got = ask(&me, "");
    assert_eq!(got.verdict(), (200, "true", dead.name().as_str(), true));
    assert_eq!((got.ids, own.ended("whole")), (ids(0..50), 1));
    let with = |others: &[&Peer], silent: &[&Peer]| {
        let list = |peers: &[&Peer]| peers.iter().map(|peer| (*peer).clone()).collect();
        let view = View { me: me.clone(), others: list(others), silent: list(silent) };
        *lock(&cluster.0) = Arc::new(view);
        ask(&me, "")
    };
    let mut names = [dead.name(), gone.name()];
    names.sort();
    let both = names.join(", ");
    assert_eq!(with(&[&dead], &[&gone]).verdict(), (206, "false", both.as_str(), true));
    assert_eq!(with(&[], &[&dead, &gone]).verdict(), (206, "false", both.as_str(), true));
    let ingester = nobody(Ingest, 3, 2);
    assert_eq!(with(&[&ingester], &[]).verdict(), (206, "false", ingester.name().as_str(), true));
    assert_eq!(with(&[], &[&ingester]).verdict(), (206, "false", ingester.name().as_str(), true));
    let combined = nobody(IngestStore, 4, 2);
    let got = with(&[&combined], &[]);
    assert_eq!(got.verdict(), (206, "false", combined.name().as_str(), true));
    assert_eq!((got.ids.len(), got.header("X-Oklog-Error-Count")), (50, "1"));
    assert_eq!(own.ended("partial"), 5);
}

#[test]
fn an_answer_that_is_not_one_of_ours_is_silence() {
    let town = Town::new();
    let refuses = town.fake(Store, 1, 1, |_, reply| reply.send(503, &[], b"busy\n"));
    let strange = town.fake(Store, 2, 1, |_, reply| reply.send(200, &[], b"hello\n"));
    // What was kept there is gone, and something else has its address.
    let mut moved = town.node(Store, 3, 1, &Held::default());
    moved.meta.store = Some(DataId(4));
    let (me, _) = town.asked(&Held::with(&[], &ids(0..5)), 1, &[&refuses, &strange, &moved], &[]);
    let got = ask(&me, "");
    assert_eq!((got.status, got.header("X-Oklog-Error-Count"), got.ids.len()), (206, "3", 5));
}

#[test]
fn a_store_that_breaks_off_does_no_harm_where_others_have_the_copies() {
    let town = Town::new();
    let breaks = town.fake(Store, 1, 2, |_, reply| answer_with(reply, &content(&ids(0..20)), false));
    let whole = town.node(Store, 2, 2, &Held::with(&[], &ids(0..40)));
    let own = Held::with(&[], &ids(40..60));
    let (me, _) = town.asked(&own, 2, &[&breaks, &whole], &[]);
    let got = ask(&me, "");
    assert_eq!((got.verdict(), &got.ids), ((200, "true", "", true), &ids(0..60)));
    let strange = town.fake(Store, 1, 2, |_, reply| answer_with(reply, b"no record\n", true));
    let (me, _) = town.asked(&own, 2, &[&strange, &whole], &[]);
    let got = ask(&me, "");
    assert_eq!((got.verdict(), &got.ids), ((200, "true", "", true), &ids(0..60)));
}

#[test]
fn a_break_that_endangers_the_answer_ends_it_without_its_end() {
    let town = Town::new();
    let breaks =
        |kind, n, replicas| town.fake(kind, n, replicas, |_, reply| answer_with(reply, &content(&ids(0..20)), false));
    let own = Held::with(&[], &ids(15..60));
    let store = breaks(Store, 1, 1);
    let (me, _) = town.asked(&own, 1, &[&store], &[]);
    let got = ask(&me, "");
    assert_eq!(got.verdict(), (200, "true", "", false));
    assert!(ids(0..60).starts_with(&got.ids), "{:?}", got.ids);
    assert_eq!(own.ended("broken"), 1);
    // An ingester, however many copies the stores have.
    let ingester = breaks(Ingest, 2, 3);
    let (me, _) = town.asked(&own, 3, &[&ingester], &[]);
    assert!(!ask(&me, "").ended);
    // A partial answer that does not name the one that breaks.
    let dead = nobody(Ingest, 3, 3);
    let (me, _) = town.asked(&own, 3, &[&dead, &breaks(Store, 4, 3)], &[]);
    assert_eq!(ask(&me, "").verdict(), (206, "false", dead.name().as_str(), false));
    // What broke behind the last record that is wanted is not missed.
    let (me, _) = town.asked(&own, 1, &[&store], &[]);
    assert!(ask(&me, "&limit=10").ended);
}

#[test]
fn a_store_that_only_an_ingester_has_heard_of_counts_as_silent() {
    let town = Town::new();
    let unheard = DataId(0x0123_4567_89ab_cdef_u128 << 64);
    let of_ingester = Held::default();
    let ingester = town.node(Ingest, 1, 1, &of_ingester);
    let own = Held::with(&[], &ids(0..5));
    let (me, _) = town.asked(&own, 1, &[&ingester], &[]);
    assert_eq!(ask(&me, "").status, 200);
    lock(&of_ingester.witnesses).push(unheard);
    assert_eq!(ask(&me, "").verdict(), (206, "false", "0123456789abcdef", true));
    lock(&own.forgotten).push(unheard);
    assert_eq!(ask(&me, "").status, 200);
    // The asked node's own ingest tier counts as any other.
    lock(&own.witnesses).push(DataId(7 << 64));
    assert_eq!(ask(&me, "").verdict(), (206, "false", "0000000000000007", true));
}

#[test]
fn stores_are_asked_when_all_ingesters_have_answered() {
    let town = Town::new();
    let events: Arc<Mutex<Vec<&str>>> = Arc::default();
    let note = |event: &'static str| {
        let events = events.clone();
        move || lock(&events).push(event)
    };
    let (answers, asked) = (note("ingester answers"), note("store is asked"));
    let ingester = town.fake(Ingest, 1, 2, move |_, reply| {
        // Time for a store to be asked too early.
        Stop::default().wait(Duration::from_millis(100));
        answers();
        answer_with(reply, b"", true)
    });
    let store = town.fake(Store, 2, 2, move |_, reply| {
        asked();
        answer_with(reply, b"", true)
    });
    let (me, _) = town.asked(&Held::default(), 2, &[&ingester, &store], &[]);
    assert_eq!(ask(&me, "").verdict(), (200, "true", "", true));
    assert_eq!(*lock(&events), ["ingester answers", "store is asked"]);
}

#[test]
fn a_head_request_sums_up_what_all_would_read() {
    let town = Town::new();
    let one = town.node(Store, 1, 1, &Held::with(&[], &ids(0..10)));
    let two = town.node(IngestStore, 2, 1, &Held::with(&ids(10..20), &ids(20..30)));
    let (me, _) = town.asked(&Held::with(&[], &ids(30..40)), 1, &[&one, &two], &[]);
    let got = Got::of(client::head(&agent(Patience::NODE), &url(&me, "")).expect("an answer"));
    assert_eq!((got.verdict(), got.ids.len()), ((200, "true", "", true), 0));
    assert_eq!(got.header("X-Oklog-Nodes-Queried"), "3");
    assert_eq!(got.header("X-Oklog-Segments-Queried"), "4");
    assert_eq!(got.header("X-Oklog-Max-Data-Set-Size"), content(&ids(0..40)).len().to_string());
    let dead = nobody(Store, 3, 1);
    let (me, _) = town.asked(&Held::default(), 1, &[&one, &dead], &[]);
    let got = Got::of(client::head(&agent(Patience::NODE), &url(&me, "")).expect("an answer"));
    assert_eq!(got.verdict(), (206, "false", dead.name().as_str(), true));
}

#[test]
fn a_client_that_goes_away_stops_the_work_on_all_nodes() {
    let town = Town::new();
    let (told, tell) = std::sync::mpsc::channel();
    let scans = town.fake(Store, 1, 2, move |request, reply| {
        let headers = [("X-Oklog-Segments-Queried", "1".into()), ("X-Oklog-Max-Data-Set-Size", "1".into())];
        let mut body = reply.stream(200, &headers)?;
        body.flush()?;
        // A scan that finds nothing for long.
        told.send(request.cancel().wait(Duration::from_secs(60))).map_err(io::Error::other)
    });
    let own = Held::with(&[], &ids(0..5));
    let (me, _) = town.asked(&own, 2, &[&scans], &[]);
    let go_away = |me: &Peer| {
        let gone = agent(Patience::NODE);
        drop(client::get(&gone, &url(me, "")).expect("a head"));
        gone.shutdown();
    };
    go_away(&me);
    assert_eq!(tell.recv_timeout(Duration::from_secs(30)), Ok(true));
    let is_told = |held: &Held| {
        (0..3_000).any(|_| held.ended("cancelled") == 1 || Stop::default().wait(Duration::from_millis(10)))
    };
    assert!(is_told(&own), "the query is not counted as cancelled");
    // One that sends more than all the buffers on the way can hold.
    let (sends, own) = (Held::with(&[], &ids(LONG..LONG + 400)), Held::default());
    let sending = town.node(Store, 2, 2, &sends);
    go_away(&town.asked(&own, 2, &[&sending], &[]).0);
    assert!(is_told(&sends) && is_told(&own), "the other node's part is not counted as cancelled");
}

#[test]
fn a_node_that_the_cluster_holds_to_be_gone_is_not_waited_for() {
    let town = Town::new();
    let hangs = town.fake(Store, 1, 2, |request, reply| {
        let headers = [("X-Oklog-Segments-Queried", "1".into()), ("X-Oklog-Max-Data-Set-Size", "1".into())];
        let mut body = reply.stream(200, &headers)?;
        body.flush()?;
        request.cancel().wait(Duration::from_secs(60));
        body.finish()
    });
    let (me, cluster) = town.asked(&Held::with(&[], &ids(0..5)), 2, &[&hangs], &[]);
    let answer = client::get(&agent(Patience::NODE), &url(&me, "")).expect("a head");
    let view = View { me: me.clone(), others: vec![], silent: vec![hangs] };
    *lock(&cluster.0) = Arc::new(view);
    let got = Got::of(answer);
    assert_eq!((got.verdict(), &got.ids), ((200, "true", "", true), &ids(0..5)));
}

#[test]
fn a_needle_that_cannot_be_passed_on_is_refused_and_not_answered_in_part() {
    let town = Town::new();
    let one = town.node(Store, 1, 1, &Held::default());
    let (me, _) = town.asked(&Held::default(), 1, &[&one], &[]);
    let refused = client::get(&agent(Patience::NODE), &url(&me, &format!("&q={}", "(".repeat(4_000))));
    assert_eq!(refused.expect_err("too long").status(), Some(400));
}
