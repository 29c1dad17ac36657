//! `oklog ingeststore`: both tiers in one process, wired together and stopped in order.

use super::address::Address;
use super::settings::{Filesystem, IngestStoreFlags};
use crate::cluster::{self, Cluster, DataId, Fixed as Alone, Meta, NodeId, Peer, PeerKind, State};
use crate::compact::thread::{Housekeeper, Settings};
use crate::compact::{self, retain};
use crate::consume::links::{Fixed, Membership};
use crate::consume::machine;
use crate::consume::thread::{Carrier, run as consume};
use crate::http::{Access, HttpServer, Lane, Limits as HttpLimits, Reply, Request, Route, path};
use crate::ingest::api::LocalIngester;
use crate::ingest::listener::{Door, Doors};
use crate::ingest::log::{IngestLog, Limits, Reason};
use crate::ingest::recover::Ground;
use crate::ingest::{api as ingest_api, durable, flusher};
use crate::ops::health::{self, Health, Phase};
use crate::ops::metrics::{self as m, Metrics};
use crate::query::api::Reader;
use crate::query::pool::Pool;
use crate::segment::readable::Readable;
use crate::store::api as store_api;
use crate::store::log::StoreLog;
use crate::stream::api::Streamer;
use crate::stream::registry::Registry;
use crate::unit::Bytes;
use crate::world::clock::{Clock, SystemClock};
use crate::world::crew::{Crew, LARGE_STACK, SMALL_STACK, Stop};
use crate::world::fs::{FileSystem, memory::MemoryFs, nop::NopFs, real::RealFs};
use crate::world::signal::EndSignals;
use crate::world::{crew, socket};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long connections may take to write what they were sent when the process ends.
const CLOSE_DOORS: Duration = Duration::from_secs(10);

/// How long threads may take to end after they were told to.
const JOIN: Duration = Duration::from_secs(10);

/// What every room of the process stands on.
struct Base {
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    crew: Crew,
    stop: Stop,
}

/// Runs the command until a signal ends it. Gives the exit status.
pub fn run(flags: &IngestStoreFlags) -> u8 {
    match serve(flags) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(sentence) => {
            log::error!("{sentence}");
            1
        }
    }
}

fn serve(flags: &IngestStoreFlags) -> Result<bool, String> {
    let mut signals = EndSignals::take_over().map_err(|e| format!("taking over the signals: {e}"))?;
    let fs: Arc<dyn FileSystem> = match flags.filesystem {
        Filesystem::Real => Arc::new(RealFs),
        Filesystem::Virtual => Arc::new(MemoryFs::default()),
        Filesystem::Nop => Arc::new(NopFs),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let metrics = Arc::new(Metrics::default());
    health::watch_process(&metrics, socket::raise_file_limit());
    let base = Base { fs, clock, metrics, crew: Crew::default(), stop: Stop::default() };
    say_what_holds(flags);
    let live: Arc<Registry> = Arc::default();
    let ingest = open_ingest(&base, flags, live.clone())?;
    let store = StoreLog::open(base.fs.clone(), &flags.store_path, base.clock.clone(), base.metrics.clone())
        .map_err(|e| e.to_string())?;
    let doors = Doors::new(ingest.clone(), flags.max_record_size.0 as usize, flags.max_connections)
        .map_err(|e| format!("preparing the ports: {e}"))?;
    let watched = ingest.clone();
    let health = Arc::new(Health::new(move || watched.is_healthy()));
    let server = start_api(&base, flags, &ingest, &store, &live, &health)?;
    log::info!(port = "api", address = server.local_addr().to_string(); "listening");
    start_threads(&base, flags, &ingest, &store)?;
    for (door, address) in
        [(Door::Fast, &flags.ingest_fast), (Door::Durable, &flags.ingest_durable), (Door::Bulk, &flags.ingest_bulk)]
    {
        let address = doors.open(door, resolve(address)?).map_err(|e| format!("listening on {address}: {e}"))?;
        log::info!(port = door.name(), address = address.to_string(); "listening");
    }
    health.enter(Phase::Serving);
    log::info!("ready");
    let signal = signals.wait();
    log::info!("{signal}: stopping; a second signal ends at once");
    end_at_once_on_the_next(signals);
    Ok(stop_in_order(&base, flags, &health, &doors, &ingest))
}

fn say_what_holds(flags: &IngestStoreFlags) {
    let why = match (flags.replication_factor, flags.peers.is_empty()) {
        (Some(_), _) => "as it was set",
        (None, true) => "no -peer is given: one copy of each record, on this machine",
        (None, false) => "-peer is given",
    };
    log::info!("replication factor {} ({why})", flags.replicas());
    if !flags.peers.is_empty() {
        log::warn!("-peer is given, but this version knows no other nodes: it serves alone");
    }
    if flags.replicas() > 1 {
        log::warn!("with fewer than {} stores nothing leaves the ingest tier, and it grows", flags.replicas());
    }
    if flags.filesystem != Filesystem::Real {
        log::warn!("records are not kept on disk, because -filesystem is not real");
    }
}

fn open_ingest(base: &Base, flags: &IngestStoreFlags, live: Arc<Registry>) -> Result<Arc<IngestLog>, String> {
    let ground = Ground { fs: base.fs.clone(), clock: base.clock.clone(), metrics: base.metrics.clone(), live };
    let limits =
        Limits { flush_size: flags.flush_size, flush_age: flags.flush_age, pending_timeout: flags.pending_timeout };
    let log = IngestLog::open(ground, &flags.ingest_path, limits, crew::cores()).map_err(|e| e.to_string())?;
    let log = Arc::new(log);
    let weak = Arc::downgrade(&log);
    base.metrics.refresh_with(move |metrics| {
        if let Some(log) = weak.upgrade() {
            for (state, segments, bytes) in log.states() {
                metrics.gauge(m::INGEST_SEGMENTS, &[state]).set(segments as f64);
                metrics.gauge(m::INGEST_SEGMENT_BYTES, &[state]).set(bytes as f64);
            }
            let age = log.oldest().map_or(Duration::ZERO, |id| log.clock().unix_millis().since(id.millis()));
            metrics.gauge(m::INGEST_OLDEST, &[]).set(age.as_secs_f64());
        }
    });
    Ok(log)
}

fn start_api(
    base: &Base,
    flags: &IngestStoreFlags,
    ingest: &Arc<IngestLog>,
    store: &Arc<StoreLog>,
    live: &Arc<Registry>,
    health: &Arc<Health>,
) -> Result<HttpServer, String> {
    let listener = socket::listen(resolve(&flags.api)?).map_err(|e| format!("listening on {}: {e}", flags.api))?;
    let address = listener.local_addr().map_err(|e| format!("listening on {}: {e}", flags.api))?;
    let meta = Meta {
        kind: PeerKind::IngestStore,
        gossip: address,
        api: address,
        store: Some(DataId(store.id().0)),
        ingest: None,
        replicas: u8::try_from(flags.replicas()).unwrap_or(u8::MAX),
        start: base.clock.unix_millis().0,
    };
    let me = Peer { node: NodeId::default(), meta, state: State::Alive, load: None };
    let alone: Arc<dyn Cluster> = Arc::new(Alone::alone(me));
    let mut routes = health::routes(health.clone(), base.metrics.clone());
    routes.extend(ingest_api::routes(ingest));
    // A batch may be over its target by one segment, and a segment over its size by one batch of a connection.
    let longest = Bytes(flags.target_size.0 + 2 * flags.flush_size.0 + 64 * flags.max_record_size.0);
    routes.extend(store_api::routes(store, longest));
    routes.extend(cluster::routes(&alone, &base.metrics));
    routes.extend(reading_routes(base, ingest, store, live).map_err(|e| format!("starting the scanners: {e}"))?);
    HttpServer::start(
        listener,
        routes,
        HttpLimits::default(),
        None,
        base.metrics.clone(),
        base.crew.clone(),
        base.stop.clone(),
    )
    .map_err(|e| format!("starting the HTTP server: {e}"))
}

/// Queries and live streams: of both tiers for people, of one tier for other nodes.
fn reading_routes(
    base: &Base,
    ingest: &Arc<IngestLog>,
    store: &Arc<StoreLog>,
    live: &Arc<Registry>,
) -> io::Result<Vec<Route>> {
    let pool = Pool::start(crew::cores(), &base.crew, &base.stop)?;
    let query = |path, tiers: &[&dyn Fn() -> Box<crate::query::api::Snapshot>]| {
        let (pool, clock, metrics) = (pool.clone(), base.clock.clone(), base.metrics.clone());
        let reader = Reader { tiers: tiers.iter().map(|tier| tier()).collect(), pool, clock, metrics };
        let handler = move |request: &mut Request, reply: Reply| reader.answer(request, reply);
        let access = if path == path::STORE_QUERY { Access::Open } else { Access::Peers };
        let (methods, lane) = (&["GET", "HEAD"], Lane::Query);
        Route { path, methods, lane, access, body_limit: Bytes(0), handler: Arc::new(handler) }
    };
    let of_ingest = || -> Box<crate::query::api::Snapshot> {
        let ingest = ingest.clone();
        Box::new(move |from, to| ingest.snapshot(from, to))
    };
    let of_store = || -> Box<crate::query::api::Snapshot> {
        let store = store.clone();
        Box::new(move |from, to| store.snapshot(from, to).into_iter().map(Readable::whole).collect())
    };
    let stream = |path| {
        let (live, clock, metrics) = (Some(live.clone()), base.clock.clone(), base.metrics.clone());
        let streamer = Streamer { live, beyond: None, clock, metrics };
        let handler = move |request: &mut Request, reply: Reply| streamer.serve(request, reply);
        let access = if path == path::STORE_STREAM { Access::Open } else { Access::Peers };
        Route { path, methods: &["GET"], lane: Lane::Stream, access, body_limit: Bytes(0), handler: Arc::new(handler) }
    };
    Ok(vec![
        query(path::STORE_QUERY, &[&of_ingest, &of_store]),
        query(path::STORE_OWN_QUERY, &[&of_store]),
        query(path::INGEST_QUERY, &[&of_ingest]),
        stream(path::STORE_STREAM),
        stream(path::INGEST_STREAM),
    ])
}

fn start_threads(
    base: &Base,
    flags: &IngestStoreFlags,
    ingest: &Arc<IngestLog>,
    store: &Arc<StoreLog>,
) -> Result<(), String> {
    let failed = |e: io::Error| format!("starting a thread: {e}");
    let (log, stop) = (ingest.clone(), base.stop.clone());
    base.crew.start("flusher", SMALL_STACK, move || flusher::run(&log, &stop)).map_err(failed)?;
    let (log, stop) = (ingest.clone(), base.stop.clone());
    base.crew
        .start("group commit", SMALL_STACK, move || durable::run(&log, log.durable_slot(), &stop))
        .map_err(failed)?;
    let members: Arc<dyn Membership> =
        Arc::new(Fixed { ingesters: vec![Arc::new(LocalIngester::new(ingest.clone()))], stores: vec![store.clone()] });
    for n in 0..flags.consumers {
        let carrier = carrier(base, flags, members.clone());
        let stop = base.stop.clone();
        base.crew.start(&format!("consume {n}"), LARGE_STACK, move || consume(&carrier, &stop)).map_err(failed)?;
    }
    let retention = retain::Limits { retain: flags.retain, purge: flags.purge, max_size: flags.max_size };
    let keeper = Housekeeper::new(store.clone(), Settings { target_size: flags.target_size, retention });
    let stop = base.stop.clone();
    base.crew.start("compact", LARGE_STACK, move || compact::thread::run(keeper, &stop)).map_err(failed)?;
    let crew = base.crew.clone();
    base.metrics.refresh_with(move |metrics| metrics.gauge(m::THREAD_PANICS, &[]).set(crew.panics() as f64));
    Ok(())
}

fn carrier(base: &Base, flags: &IngestStoreFlags, members: Arc<dyn Membership>) -> Carrier {
    Carrier {
        settings: machine::Settings {
            replicas: flags.replicas() as usize,
            target_size: flags.target_size,
            target_age: flags.target_age,
            delay: flags.delay,
            renew_every: flags.pending_timeout / 3,
        },
        buffer: flags.buffer_size,
        members,
        clock: base.clock.clone(),
        metrics: base.metrics.clone(),
    }
}

/// Stops accepting, lets connections finish, flushes, waits for the store to take what is left, ends the threads. Gives
/// whether all went well.
fn stop_in_order(base: &Base, flags: &IngestStoreFlags, health: &Health, doors: &Doors, ingest: &IngestLog) -> bool {
    health.enter(Phase::Stopping);
    let late = doors.close(CLOSE_DOORS);
    if late > 0 {
        log::warn!("{late} connections could not write all they were sent");
    }
    ingest.close_all(Reason::Stop);
    if base.fs.keeps() && !ingest.wait_until_drained(flags.drain_timeout) {
        let left: u64 = ingest.states().iter().map(|(_, segments, _)| segments).sum();
        log::info!("{left} segments stay in the ingest tier: they are kept, and go on after the next start");
    }
    base.stop.raise();
    let farewell = base.crew.join_all(JOIN);
    for name in farewell.late.iter() {
        log::warn!("thread {name} did not end in time");
    }
    for name in farewell.panicked.iter() {
        log::error!("thread {name} ended by a panic");
    }
    log::info!("stopped");
    farewell.panicked.is_empty() && doors.panics() == 0
}

fn end_at_once_on_the_next(mut signals: EndSignals) {
    // The thread outlives everything: it waits for a signal that may never come, and is not of the crew that is joined.
    let result = Crew::default().start("signals", SMALL_STACK, move || {
        let signal = signals.wait();
        log::warn!("{signal} again: ending at once");
        crate::world::signal::end_now(1);
    });
    if let Err(e) = result {
        log::warn!("a second signal will not be heard: {e}");
    }
}

fn resolve(address: &Address) -> Result<SocketAddr, String> {
    address.resolve_one().map_err(|e| format!("looking up {address}: {e}"))
}
