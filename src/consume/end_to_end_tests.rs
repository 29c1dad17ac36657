//! A consumer at work: a fake ingester, real stores in memory.

use super::courier::Patience;
use super::links::{Agents, Fixed, HttpPeer, IngestLink, LinkError, Offer, Reading, StoreLink};
use super::machine::Settings;
use super::thread::{Carrier, run};
use crate::cluster::DataId;
use crate::http::client::{Callee, Caller};
use crate::http::{Access, HttpServer, Lane, Limits, Reply, Request, Route, path};
use crate::ops::metrics::{self, Metrics};
use crate::record::id::Id;
use crate::record::stored;
use crate::segment::reader::FileRange;
use crate::segment::wire;
use crate::store::log::StoreLog;
use crate::store::replicate::Receipt;
use crate::unit::Bytes;
use crate::world::clock::SystemClock;
use crate::world::crew::{Crew, Farewell, Stop, both, lock};
use crate::world::entropy::SystemEntropy;
use crate::world::fs::FileSystem;
use crate::world::fs::memory::MemoryFs;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An ingester that raises the flag when it has nothing left, neither waiting nor pending.
struct Fake {
    state: Mutex<State>,
    done: Stop,
}

#[derive(Default)]
struct State {
    flushed: BTreeMap<Id, Vec<u8>>,
    pending: BTreeMap<Id, Vec<u8>>,
    committed: usize,
    /// The stores that the last commit has named.
    named: Vec<DataId>,
    aside: Vec<Id>,
    /// Reads of these give a byte that is not what it was.
    rotten: Vec<Id>,
    /// So many reads break off, as if the ingester was killed; it is started again before it is asked anything else.
    killed: usize,
    restarted: bool,
}

impl Fake {
    fn with(segments: impl IntoIterator<Item = Vec<u8>>) -> Fake {
        let named = segments.into_iter().map(|content| (stored::id_at(&content).expect("a record"), content));
        let state = State { flushed: named.collect(), ..State::default() };
        Fake { state: Mutex::new(state), done: Stop::default() }
    }

    fn leave(&self, id: Id, then: impl FnOnce(&mut State, Vec<u8>)) -> Result<(), LinkError> {
        let mut state = lock(&self.state);
        if let Some(content) = state.pending.remove(&id) {
            then(&mut state, content);
        }
        if state.pending.is_empty() && state.flushed.is_empty() {
            self.done.raise();
        }
        Ok(())
    }
}

impl IngestLink for Fake {
    fn name(&self) -> &str {
        "fake"
    }

    fn next(&self) -> Result<Option<Offer>, LinkError> {
        let mut state = lock(&self.state);
        let Some((id, content)) = state.flushed.pop_first() else { return Ok(None) };
        let len = Bytes(content.len() as u64);
        state.pending.insert(id, content);
        Ok(Some(Offer { id, len, age: Duration::ZERO, is_last: false }))
    }

    fn read(&self, id: Id) -> Result<Reading, LinkError> {
        let mut state = lock(&self.state);
        let mut content = state.pending[&id].clone();
        let (len, crc32) = (Bytes(content.len() as u64), crc32fast::hash(&content));
        if state.rotten.contains(&id) {
            content[40] ^= 1;
        }
        if state.killed > 0 {
            (state.killed, state.restarted) = (state.killed - 1, true);
            content.truncate(40);
            return Ok(Reading { len, crc32, body: Box::new(std::io::Cursor::new(content).chain(Failing)) });
        }
        Ok(Reading { len, crc32, body: Box::new(std::io::Cursor::new(content)) })
    }

    fn commit(&self, id: Id, stores: &[DataId]) -> Result<(), LinkError> {
        self.leave(id, |state, _| (state.committed, state.named) = (state.committed + 1, stores.to_vec()))
    }

    fn failed(&self, id: Id) -> Result<(), LinkError> {
        self.leave(id, |state, content| drop(state.flushed.insert(id, content)))
    }

    fn renew(&self, id: Id) -> Result<(), LinkError> {
        if !std::mem::take(&mut lock(&self.state).restarted) {
            return Ok(());
        }
        self.failed(id)?;
        Err(LinkError::Refused { doing: "renewing a segment of", peer: "fake".into(), said: "not pending".into() })
    }

    fn set_aside(&self, id: Id) -> Result<(), LinkError> {
        self.leave(id, |state, _| state.aside.push(id))
    }
}

fn segment(ids: impl IntoIterator<Item = u128>) -> Vec<u8> {
    let mut content = Vec::new();
    ids.into_iter().for_each(|id| stored::write(&mut content, Id(id), format!("record {id}").as_bytes()));
    content
}

fn store() -> Arc<StoreLog> {
    let fs = Arc::new(MemoryFs::new());
    StoreLog::open(fs, "store", Arc::new(SystemClock::default()), Arc::default(), &SystemEntropy).expect("opens")
}

fn content(store: &StoreLog) -> Vec<u8> {
    let mut content = Vec::new();
    for segment in store.snapshot(Id(0), Id::MAX) {
        let file = segment.open().expect("there");
        FileRange::new(file, Bytes(0), segment.digest().len).read_to_end(&mut content).expect("readable");
    }
    content
}

/// Runs a consumer until the fake has nothing left.
fn consume(fake: &Arc<Fake>, stores: Vec<Arc<dyn StoreLink>>, replicas: usize) -> Arc<Metrics> {
    consume_from(fake, vec![fake.clone()], stores, replicas, (Patience::SPARED, Patience::LAST))
}

/// The same, where the consumer reaches the fake by other links.
fn consume_from(
    fake: &Arc<Fake>,
    ingesters: Vec<Arc<dyn IngestLink>>,
    stores: Vec<Arc<dyn StoreLink>>,
    replicas: usize,
    patience: (Patience, Patience),
) -> Arc<Metrics> {
    let carrier = carrier(ingesters, stores, replicas, patience);
    let stop = Stop::default();
    let (_, done) = both(
        || run(&carrier, &stop),
        || {
            let done = fake.done.wait(Duration::from_secs(60));
            stop.raise();
            done
        },
    );
    assert!(done, "the consumer has not come to an end");
    carrier.metrics.clone()
}

fn carrier(
    ingesters: Vec<Arc<dyn IngestLink>>,
    stores: Vec<Arc<dyn StoreLink>>,
    replicas: usize,
    patience: (Patience, Patience),
) -> Carrier {
    let settings = Settings {
        replicas,
        target_size: Bytes(1 << 20),
        target_age: Duration::from_millis(100),
        delay: Duration::from_millis(5),
        renew_every: Duration::from_secs(20),
        turn: 0,
    };
    Carrier {
        settings,
        buffer: Bytes(1 << 20),
        members: Arc::new(Fixed { ingesters, stores }),
        clock: Arc::new(SystemClock::default()),
        metrics: Arc::default(),
        crew: Crew::default(),
        patience,
    }
}

#[test]
fn segments_that_overlap_become_one_and_are_committed() {
    let fake = Arc::new(Fake::with([
        segment((0..900).step_by(3)),
        segment((1..900).step_by(3)),
        segment((2..900).step_by(3)),
    ]));
    let store = store();
    let metrics = consume(&fake, vec![store.clone()], 1);
    assert_eq!(content(&store), segment(0..900));
    assert_eq!(store.snapshot(Id(0), Id::MAX).len(), 1);
    assert_eq!(lock(&fake.state).committed, 3);
    assert_eq!(metrics.counter(metrics::CONSUMED, &[]).get(), 3);
}

#[test]
fn two_stores_get_the_same_bytes() {
    let fake = Arc::new(Fake::with((0..40).map(|n| segment((n * 50_000)..(n * 50_000 + 2_000)))));
    let (one, two) = (store(), store());
    let metrics = consume(&fake, vec![Named::of("a", &one), Named::of("b", &two)], 2);
    assert_eq!(content(&one).len(), (0..40).map(|n| segment((n * 50_000)..(n * 50_000 + 2_000)).len()).sum::<usize>());
    assert!(content(&one) == content(&two));
    assert_eq!(lock(&fake.state).committed, 40);
    let sent = metrics.counter(metrics::REPLICATED, &["egress"]).get();
    assert_eq!(sent, 2 * one.snapshot(Id(0), Id::MAX).len() as u64);
}

#[test]
fn a_store_that_fails_is_passed_over_for_another() {
    let fake = Arc::new(Fake::with([segment(0..5_000)]));
    let (one, two) = (store(), store());
    let stores: Vec<Arc<dyn StoreLink>> = vec![Arc::new(Broken), Named::of("b", &one), Named::of("c", &two)];
    consume(&fake, stores, 2);
    assert_eq!(content(&one), segment(0..5_000));
    assert_eq!(content(&two), segment(0..5_000));
}

#[test]
fn a_rotten_segment_is_set_aside_and_the_others_are_not_held_up() {
    let fake = Arc::new(Fake::with([segment(0..100), segment(100..200), segment(200..300)]));
    lock(&fake.state).rotten.push(Id(100));
    let store = store();
    consume(&fake, vec![store.clone()], 1);
    let state = lock(&fake.state);
    assert_eq!((state.committed, &state.aside[..]), (2, &[Id(100)][..]));
    let mut expected = segment(0..100);
    expected.extend(segment(200..300));
    assert_eq!(content(&store), expected);
}

#[test]
fn a_segment_is_not_to_blame_for_an_ingester_that_is_killed_again_and_again_while_it_is_read() {
    let fake = Arc::new(Fake::with([segment(0..100)]));
    lock(&fake.state).killed = 5;
    let store = store();
    consume(&fake, vec![store.clone()], 1);
    let state = lock(&fake.state);
    assert_eq!((state.committed, state.killed, &state.aside[..]), (1, 0, &[][..]));
    assert_eq!(content(&store), segment(0..100));
}

#[test]
fn over_http_it_is_the_same_and_a_rotten_segment_leaves_no_file() {
    let fake = Arc::new(Fake::with([segment(0..6_000), segment(3_000..10_000), segment(200_000..200_010)]));
    lock(&fake.state).rotten.push(Id(200_000));
    let store = store();
    let (crew, stop) = (Crew::default(), Stop::default());
    let listen = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut routes = crate::store::api::routes(&store, Bytes(64 << 20));
    routes.extend(routes_of(&fake));
    let server = HttpServer::start(listen, routes, Limits::default(), None, Arc::default(), crew.clone(), stop.clone());
    let host = server.expect("starts").local_addr().to_string();
    let peer = Arc::new(http_peer(host));
    consume_from(&fake, vec![peer.clone()], vec![peer], 1, (Patience::SPARED, Patience::LAST));
    stop.raise();
    assert!(content(&store) == segment(0..10_000));
    assert_eq!(store.snapshot(Id(0), Id::MAX).len(), 1);
    let state = lock(&fake.state);
    assert_eq!((state.committed, &state.aside[..]), (2, &[Id(200_000)][..]));
    assert_eq!(state.named, [DataId(store.id().0)]);
    assert_eq!(crew.join_all(Duration::from_secs(60)), Farewell::default());
}

#[test]
fn over_http_a_store_refuses_what_is_no_segment_and_says_when_it_has_no_room() {
    let fs = MemoryFs::new();
    let store =
        StoreLog::open(Arc::new(fs.clone()), "store", Arc::new(SystemClock::default()), Arc::default(), &SystemEntropy);
    let (crew, stop) = (Crew::default(), Stop::default());
    let listen = TcpListener::bind("127.0.0.1:0").expect("a port");
    let routes = crate::store::api::routes(&store.expect("opens"), Bytes(64 << 20));
    let server = HttpServer::start(listen, routes, Limits::default(), None, Arc::default(), crew.clone(), stop.clone());
    let peer = http_peer(server.expect("starts").local_addr().to_string());
    let refused = peer.replicate(&mut &b"not a segment\n"[..]).expect_err("refused").to_string();
    assert!(refused.contains("status 400: not a segment: no id where a record must begin"), "{refused}");
    fs.set_capacity(Bytes(1000));
    let full = peer.replicate(&mut &segment(0..100)[..]);
    assert!(matches!(full, Err(LinkError::Full { .. })), "{full:?}");
    let full = peer.replicate(&mut &segment(0..500_000)[..]);
    assert!(matches!(full, Err(LinkError::Full { .. })), "also where the room ends long before the body: {full:?}");
    fs.set_capacity(Bytes(1 << 20));
    let content = segment(0..100);
    let mut broken = (&content[..]).chain(Failing);
    assert!(peer.replicate(&mut broken).is_err());
    stop.raise();
    crew.join_all(Duration::from_secs(60));
    let names = fs.list(std::path::Path::new("store")).expect("a directory");
    assert!(names.iter().all(|entry| !entry.name.contains('-')), "{names:?}");
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("as the test wants"))
    }
}

fn http_peer(api: String) -> HttpPeer {
    HttpPeer::new(Caller::default(), Agents::default(), Callee { api, node: 0 })
}

/// The fake's routes.
fn routes_of(fake: &Arc<Fake>) -> Vec<Route> {
    let route = |path, answer: fn(&Fake, &Request, Reply) -> std::io::Result<()>| {
        let fake = fake.clone();
        let handler = Arc::new(move |request: &mut Request, reply: Reply| answer(&fake, request, reply));
        Route {
            path,
            methods: &["GET", "POST"],
            lane: Lane::Short,
            access: Access::Peers,
            body_limit: Bytes(0),
            handler,
        }
    };
    fn id(request: &Request) -> Id {
        Id::parse(request.param("id").expect("an id").as_bytes()).expect("an id")
    }
    vec![
        route(path::INGEST_NEXT, |fake, _, reply| match fake.next().expect("never fails") {
            Some(offer) => reply.send(200, &[(wire::LENGTH, offer.len.0.to_string())], offer.id.to_string().as_bytes()),
            None => reply.send(404, &[], b""),
        }),
        route(path::INGEST_READ, |fake, request, reply| {
            let mut reading = fake.read(id(request)).expect("never fails");
            let headers = [(wire::LENGTH, reading.len.0.to_string()), (wire::CRC32, wire::crc32_text(reading.crc32))];
            let mut body = reply.sized(200, &headers, reading.len.0)?;
            std::io::copy(&mut reading.body, &mut body)?;
            body.finish()
        }),
        route(path::INGEST_COMMIT, |fake, request, reply| {
            let stores = request.param("stores").expect("named").split(',');
            let stores: Vec<DataId> = stores.map(|id| DataId(u128::from_str_radix(id, 16).expect("an id"))).collect();
            fake.commit(id(request), &stores).expect("never fails");
            reply.send(200, &[], b"")
        }),
        route(path::INGEST_FAILED, |fake, request, reply| {
            let aside = request.has_param("corrupt");
            if aside { fake.set_aside(id(request)) } else { fake.failed(id(request)) }.expect("never fails");
            reply.send(200, &[], b"")
        }),
    ]
}

/// A store under a name of its own.
struct Named(&'static str, Arc<StoreLog>);

impl Named {
    fn of(name: &'static str, store: &Arc<StoreLog>) -> Arc<dyn StoreLink> {
        Arc::new(Named(name, store.clone()))
    }
}

impl StoreLink for Named {
    fn name(&self) -> &str {
        self.0
    }

    fn replicate(&self, body: &mut dyn Read) -> Result<Receipt, LinkError> {
        StoreLink::replicate(&*self.1, body)
    }
}

/// A store that takes a little and then breaks.
struct Broken;

impl StoreLink for Broken {
    fn name(&self) -> &str {
        "a"
    }

    fn replicate(&self, body: &mut dyn Read) -> Result<Receipt, LinkError> {
        let source = body.take(100).read_to_end(&mut Vec::new()).err();
        let source = source.unwrap_or(std::io::ErrorKind::ConnectionReset.into());
        Err(LinkError::Broken { doing: "replicating to", peer: "a".into(), source })
    }
}

mod patience_tests;
