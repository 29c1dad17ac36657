//! Whether this node is alive, and whether it takes work.

use crate::http::{Access, Lane, Reply, Request, Route, path};
use crate::ops::metrics::{self as m, Metrics};
use crate::unit::Bytes;
use crate::world::process;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where a node is between start and end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Recovery is running, or a listener is not open yet.
    Starting,
    /// It takes work.
    Serving,
    /// It is on its way out.
    Stopping,
    /// It is on its way out, and stores are to take what it has.
    Draining,
}

/// What keeps a node that serves from taking work at this moment, in a few words; `None`: nothing. Cheap.
pub type Hindrance = dyn Fn() -> Option<&'static str> + Send + Sync;

/// The state that `/health` and `/ready` answer with.
pub struct Health {
    phase: AtomicU8,
    hindered: Box<Hindrance>,
}

impl Health {
    /// A node that is starting. `hindered` is asked at each `/ready` of a node that serves: whether its disk can be
    /// trusted and has room, whether it is in the cluster.
    pub fn new(hindered: impl Fn() -> Option<&'static str> + Send + Sync + 'static) -> Health {
        Health { phase: AtomicU8::new(0), hindered: Box::new(hindered) }
    }

    /// Says where the node is now.
    pub fn enter(&self, phase: Phase) {
        let number = match phase {
            Phase::Starting => 0,
            Phase::Serving => 1,
            Phase::Stopping => 2,
            Phase::Draining => 3,
        };
        self.phase.store(number, Ordering::Relaxed);
    }

    /// Why the node takes no work; `None` if it does.
    pub fn why_not_ready(&self) -> Option<&'static str> {
        match self.phase.load(Ordering::Relaxed) {
            0 => Some("starting"),
            1 => (self.hindered)(),
            2 => Some("stopping"),
            _ => Some("stopping: stores are to take what is left"),
        }
    }
}

/// The routes for operators: `/health`, `/ready`, `/metrics`.
pub fn routes(health: Arc<Health>, metrics: Arc<Metrics>) -> Vec<Route> {
    let route = |path, handler| Route {
        path,
        methods: &["GET", "HEAD"],
        lane: Lane::Short,
        access: Access::Open,
        body_limit: Bytes(0),
        handler,
    };
    vec![
        route(path::HEALTH, Arc::new(|_: &mut Request, reply: Reply| reply.send(200, &[], b"alive\n"))),
        route(
            path::READY,
            Arc::new(move |_: &mut Request, reply: Reply| match health.why_not_ready() {
                None => reply.send(200, &[], b"ready\n"),
                Some(why) => reply.send(503, &[], format!("{why}\n").as_bytes()),
            }),
        ),
        route(
            path::METRICS,
            Arc::new(move |_: &mut Request, reply: Reply| -> io::Result<()> {
                let kind = [("Content-Type", "text/plain; version=0.0.4; charset=utf-8".to_string())];
                reply.send(200, &kind, metrics.text().as_bytes())
            }),
        ),
    ]
}

/// Keeps the numbers that every process has.
pub fn watch_process(metrics: &Metrics, max_fds: u64) {
    metrics.gauge(m::BUILD_INFO, &[env!("CARGO_PKG_VERSION")]).set(1.0);
    metrics.gauge(m::PROCESS_MAX_FDS, &[]).set(max_fds as f64);
    metrics.refresh_with(|metrics| {
        let numbers = process::numbers();
        let cpu = metrics.counter(m::PROCESS_CPU, &[]);
        cpu.add(numbers.cpu_ticks.saturating_sub(cpu.get()));
        metrics.gauge(m::PROCESS_RSS, &[]).set(numbers.resident as f64);
        metrics.gauge(m::PROCESS_VIRTUAL, &[]).set(numbers.virtual_size as f64);
        metrics.gauge(m::PROCESS_FDS, &[]).set(numbers.open_fds as f64);
        metrics.gauge(m::PROCESS_THREADS, &[]).set(numbers.threads as f64);
        metrics.gauge(m::PROCESS_START, &[]).set(numbers.start_seconds);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_node_is_ready_only_between_start_and_end_and_while_nothing_hinders_it() {
        let sound = Arc::new(AtomicBool::new(true));
        let disk = sound.clone();
        let health = Health::new(move || (!disk.load(Ordering::Relaxed)).then_some("the disk is full"));
        assert_eq!(health.why_not_ready(), Some("starting"));
        health.enter(Phase::Serving);
        assert_eq!(health.why_not_ready(), None);
        sound.store(false, Ordering::Relaxed);
        assert_eq!(health.why_not_ready(), Some("the disk is full"));
        health.enter(Phase::Stopping);
        assert_eq!(health.why_not_ready(), Some("stopping"));
        health.enter(Phase::Draining);
        assert!(health.why_not_ready().is_some_and(|why| why.starts_with("stopping: ")));
    }
}
