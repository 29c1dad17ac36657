//! `oklog ingest`, `oklog store`, `oklog ingeststore`: one tier or both in one process, wired together and stopped in order.
//!
//! A node serves the routes and opens the ports of the tiers it has. What both kinds of tier need is in [`Base`].

mod ingest_tier;
mod joining;
mod reading;
mod store_tier;

use super::address::Address;
use super::settings::{Filesystem, ServeFlags};
use crate::cluster::{self, PeerKind};
use crate::http::{HttpServer, Limits, Route, path};
use crate::ops::health::{self, Health, Phase};
use crate::ops::metrics::{self as m, Metrics};
use crate::stream::registry::Registry;
use crate::world::clock::{Clock, SystemClock};
use crate::world::crew::{Crew, SMALL_STACK, Stop};
use crate::world::entropy::{Entropy, SystemEntropy};
use crate::world::fs::{FileSystem, memory::MemoryFs, nop::NopFs, real::RealFs};
use crate::world::notify::Notify;
use crate::world::signal::{EndSignals, end_now};
use crate::world::socket;
use ingest_tier::IngestTier;
use joining::Joined;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use store_tier::StoreTier;

/// How long threads may take to end after they were told to.
const JOIN: Duration = Duration::from_secs(10);

/// What every room of the process stands on.
struct Base {
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
    crew: Crew,
    stop: Stop,
    notify: Notify,
}

/// The tiers that are there: at least one.
struct Tiers {
    ingest: Option<IngestTier>,
    store: Option<StoreTier>,
    /// Who listens to what comes in. Without an ingest tier nothing does.
    live: Arc<Registry>,
}

/// Runs the command until a signal ends it. Gives the exit status.
pub fn run(flags: &ServeFlags) -> u8 {
    match serve(flags) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(sentence) => {
            log::error!("{sentence}");
            1
        }
    }
}

fn serve(flags: &ServeFlags) -> Result<bool, String> {
    let mut signals = EndSignals::take_over().map_err(|e| format!("taking over the signals: {e}"))?;
    let base = Base::new(flags.server.filesystem);
    say_what_holds(flags);
    base.notify.status("recovering");
    let tiers = Tiers::open(&base, flags)?;
    let (listener, api) = listen(&flags.server.api)?;
    let joined = Arc::new(joining::join_cluster(&base, flags, &tiers, api)?);
    let health = Arc::new(tiers.health(&joined));
    let started = start_api(&base, flags.kind(), &tiers, listener, &joined, &health)
        .and_then(|()| tiers.start_threads(&base, &joined))
        .map(|()| joined.settle())
        .and_then(|()| tiers.ingest.as_ref().map_or(Ok(()), IngestTier::open_doors));
    if let Err(sentence) = started {
        // Others know of this node by now. What its directories hold is missed until it does start.
        joined.leave(false);
        return Err(sentence);
    }
    health.enter(Phase::Serving);
    base.notify.ready("serving");
    log::info!("ready");
    let signal = signals.wait();
    log::info!("{signal}: stopping; a second signal ends at once");
    end_at_once_on_the_next(signals);
    Ok(stop_in_order(&base, &tiers, &joined, &health))
}

fn say_what_holds(flags: &ServeFlags) {
    if let (Some(storage), Some(replicas)) = (&flags.storage, flags.replicas()) {
        let why = match (storage.replication_factor, flags.server.peers.is_empty()) {
            (Some(_), _) => "as it was set",
            (None, true) => "no -peer is given: one copy of each record, on this machine",
            (None, false) => "-peer is given",
        };
        log::info!("replication factor {replicas} ({why})");
        if replicas > 1 {
            log::warn!("with fewer than {replicas} stores nothing leaves the ingest tier, and it grows");
        }
    }
    if flags.kind() == PeerKind::Ingest && flags.server.peers.is_empty() {
        log::warn!("no -peer is given: until stores join this node, nothing leaves it, and it grows");
    }
    if flags.server.filesystem != Filesystem::Real {
        log::warn!("records are not kept on disk, because -filesystem is not real");
    }
}

impl Base {
    fn new(filesystem: Filesystem) -> Base {
        let fs: Arc<dyn FileSystem> = match filesystem {
            Filesystem::Real => Arc::new(RealFs),
            Filesystem::Virtual => Arc::new(MemoryFs::default()),
            Filesystem::Nop => Arc::new(NopFs),
        };
        let metrics = Arc::new(Metrics::default());
        health::watch_process(&metrics, socket::raise_file_limit());
        let (crew, stop, notify) = (Crew::default(), Stop::default(), Notify::from_environment());
        let counted = crew.clone();
        metrics.refresh_with(move |metrics| metrics.gauge(m::THREAD_PANICS, &[]).set(counted.panics() as f64));
        let entropy = Arc::new(SystemEntropy);
        Base { fs, clock: Arc::new(SystemClock::default()), entropy, metrics, crew, stop, notify }
    }

    /// Starts a thread of the crew.
    fn start(&self, name: &str, stack: usize, work: impl FnOnce(&Stop) + Send + 'static) -> Result<(), String> {
        let stop = self.stop.clone();
        self.crew.start(name, stack, move || work(&stop)).map_err(|e| format!("starting the thread {name}: {e}"))
    }
}

impl Tiers {
    /// Opens the directories and recovers what is in them.
    fn open(base: &Base, flags: &ServeFlags) -> Result<Tiers, String> {
        let live: Arc<Registry> = Arc::default();
        let ingest = match &flags.ingest {
            Some(flags) => Some(IngestTier::open(base, flags, live.clone())?),
            None => None,
        };
        let pending_timeout = flags.ingest.as_ref().map(|flags| flags.pending_timeout);
        let store = match (&flags.storage, flags.replicas()) {
            (Some(storage), Some(replicas)) => Some(StoreTier::open(base, storage, replicas, pending_timeout)?),
            _ => None,
        };
        Ok(Tiers { ingest, store, live })
    }

    /// Readiness: sound disks with room, and a place in the cluster.
    fn health(&self, joined: &Arc<Joined>) -> Health {
        let ingest = self.ingest.as_ref().map(|tier| tier.log().clone());
        let store = self.store.as_ref().map(|tier| tier.log().clone());
        let joined = joined.clone();
        Health::new(move || {
            let ingest = ingest.as_ref().and_then(|log| log.hindrance());
            let store = store.as_ref().and_then(|log| log.hindrance());
            ingest.or(store).or_else(|| (!joined.is_in()).then_some("joining the cluster"))
        })
    }

    fn start_threads(&self, base: &Base, joined: &Joined) -> Result<(), String> {
        if let Some(ingest) = &self.ingest {
            ingest.start_threads(base)?;
        }
        if let Some(store) = &self.store {
            store.start_threads(base, &joining::members(joined, self), joined.turn())?;
        }
        Ok(())
    }
}

fn start_api(
    base: &Base,
    kind: PeerKind,
    tiers: &Tiers,
    listener: TcpListener,
    joined: &Joined,
    health: &Arc<Health>,
) -> Result<(), String> {
    let mut routes = health::routes(health.clone(), base.metrics.clone());
    routes.extend(tiers.ingest.iter().flat_map(IngestTier::routes));
    routes.extend(tiers.store.iter().flat_map(StoreTier::routes));
    // An ingester calls no store, and says nothing under /store. A store pulls from ingesters, and says which it knows.
    let told = |route: &Route| kind.stores() || route.path != path::STORE_CLUSTER_STATE;
    routes.extend(cluster::routes(&joined.cluster, &base.metrics).into_iter().filter(told));
    routes.extend(reading::routes(base, tiers, joined).map_err(|e| format!("starting the scanners: {e}"))?);
    let (limits, guard, metrics) = (Limits::default(), joined.guard.clone(), base.metrics.clone());
    let server = HttpServer::start(listener, routes, limits, guard, metrics, base.crew.clone(), base.stop.clone())
        .map_err(|e| format!("starting the HTTP server: {e}"))?;
    log::info!(port = "api", address = server.local_addr().to_string(); "listening");
    Ok(())
}

/// Stops accepting, lets connections finish, flushes, waits for stores to take what is left, says good-bye, ends the
/// threads. Gives whether all went well.
fn stop_in_order(base: &Base, tiers: &Tiers, joined: &Joined, health: &Health) -> bool {
    health.enter(Phase::Stopping);
    base.notify.stopping();
    let drained = tiers.ingest.as_ref().is_none_or(|ingest| ingest.close_and_drain(base));
    joined.leave(drained);
    base.notify.working("ending threads", JOIN);
    base.stop.raise();
    let farewell = base.crew.join_all(JOIN);
    for name in farewell.late.iter() {
        log::warn!("thread {name} did not end in time");
    }
    for name in farewell.panicked.iter() {
        log::error!("thread {name} ended by a panic");
    }
    log::info!("stopped");
    farewell.panicked.is_empty() && tiers.ingest.as_ref().is_none_or(|ingest| ingest.panics() == 0)
}

fn end_at_once_on_the_next(mut signals: EndSignals) {
    // The thread outlives everything: it waits for a signal that may never come, and is not of the crew that is joined.
    let result = Crew::default().start("signals", SMALL_STACK, move || {
        let signal = signals.wait();
        log::warn!("{signal} again: ending at once");
        end_now(1);
    });
    if let Err(e) = result {
        log::warn!("a second signal will not be heard: {e}");
    }
}

/// Binds a port. Gives the address that it got, too.
fn listen(address: &Address) -> Result<(TcpListener, SocketAddr), String> {
    let bound = socket::listen(resolve(address)?).and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|e| format!("listening on {address}: {e}"))
}

fn resolve(address: &Address) -> Result<SocketAddr, String> {
    address.resolve_one().map_err(|e| format!("looking up {address}: {e}"))
}
