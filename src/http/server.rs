//! Brings gate, inner server and lanes together, and runs the handlers.
//!
//! One dispatcher takes requests from tiny_http and hands them to lanes; it never blocks. A handler that panics costs its
//! client the answer and nobody else anything.
//!
//! Stopping: raise the [`Stop`]. The port closes, all requests are cancelled, and what has not ended after half a second is
//! cut; the crew given at the start is at home within a second, if the handlers heed their [`Cancel`](super::Cancel).

use super::exchange::NUMBER_HEADER;
use super::exchange::{Exchange, Table};
use super::gate::{Gate, Limits};
use super::head::Refusal;
use super::inner::Inner;
use super::lanes::Workers;
use super::params::Params;
use super::reply::Request;
use super::route::{Guard, Lane, Route};
use crate::ops::metrics::{API_PANICS, API_REFUSED, API_SECONDS, Metrics};
use crate::unit::Monotonic;
use crate::world::clock::{Clock, SystemClock};
use crate::world::crew::{Crew, LARGE_STACK, Stop};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// A running HTTP server.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
}

impl HttpServer {
    /// Serves these routes on this listener until the stop is raised. All threads are of this crew.
    pub fn start(
        listen: TcpListener,
        routes: Vec<Route>,
        limits: Limits,
        guard: Option<Arc<dyn Guard>>,
        metrics: Arc<Metrics>,
        crew: Crew,
        stop: Stop,
    ) -> io::Result<HttpServer> {
        let address = listen.local_addr()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let (routes, table) = (Arc::new(routes), Arc::new(Table::default()));
        let desk = Arc::new(Desk { metrics: metrics.clone(), clock: clock.clone(), stop: stop.clone() });
        let lanes = Lanes::start(&desk, &crew, &stop)?;
        let lanes = Arc::new(lanes);
        let asked = lanes.clone();
        let is_pressed = Arc::new(move |lane| asked.of(lane).is_pressed());
        let dispatcher = Dispatcher { routes: routes.clone(), table: table.clone(), lanes, desk };
        let dispatch = Arc::new(move |request| dispatcher.dispatch(request));
        let inner = Inner::start(dispatch, clock.clone(), crew.clone(), stop.clone())?;
        let (crew_of_gate, admitted) = (crew.clone(), Mutex::default());
        let gate =
            Gate { routes, limits, guard, metrics, table, inner, clock, crew: crew_of_gate, admitted, is_pressed };
        let gate = Arc::new(gate);
        listen.set_nonblocking(true)?;
        crew.start("http-gate", LARGE_STACK, move || gate.accept(listen, &stop))?;
        Ok(HttpServer { address })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// A request that was matched with its route.
struct Job {
    request: tiny_http::Request,
    exchange: Arc<Exchange>,
    route: Route,
    method: &'static str,
    began: Monotonic,
}

struct Lanes {
    short: Arc<Workers<Job>>,
    query: Arc<Workers<Job>>,
    part: Arc<Workers<Job>>,
    stream: Arc<Workers<Job>>,
    upload: Arc<Workers<Job>>,
}

impl Lanes {
    fn start(desk: &Arc<Desk>, crew: &Crew, stop: &Stop) -> io::Result<Lanes> {
        let start = |lane| {
            let desk = desk.clone();
            Workers::start(lane, Arc::new(move |job| desk.serve(job)), crew.clone(), stop.clone())
        };
        Ok(Lanes {
            short: start(Lane::Short)?,
            query: start(Lane::Query)?,
            part: start(Lane::Part)?,
            stream: start(Lane::Stream)?,
            upload: start(Lane::Upload)?,
        })
    }

    fn of(&self, lane: Lane) -> &Arc<Workers<Job>> {
        match lane {
            Lane::Short => &self.short,
            Lane::Query => &self.query,
            Lane::Part => &self.part,
            Lane::Stream => &self.stream,
            Lane::Upload => &self.upload,
        }
    }
}

/// Finds each request's exchange and route.
struct Dispatcher {
    routes: Arc<Vec<Route>>,
    table: Arc<Table>,
    lanes: Arc<Lanes>,
    desk: Arc<Desk>,
}

impl Dispatcher {
    fn dispatch(&self, request: tiny_http::Request) {
        let header = request.headers().iter().find(|header| header.field.equiv(NUMBER_HEADER));
        let number = header.and_then(|header| header.value.as_str().parse().ok());
        let Some(exchange) = number.and_then(|number| self.table.take(number)) else {
            return self
                .desk
                .refuse(request, &Refusal::new(403, "stranger", "this request did not come through the gate"));
        };
        let path = request.url().split('?').next().unwrap_or_default();
        let route = self.routes.iter().find(|route| route.path == path).cloned();
        let known = route.and_then(|route| {
            let sent = request.method().as_str();
            let method = route.methods.iter().find(|method| **method == sent)?;
            Some((*method, route))
        });
        let Some((method, route)) = known else {
            return self.desk.refuse(request, &Refusal::new(404, "route", "there is nothing here"));
        };
        let lane = self.lanes.of(route.lane);
        let began = self.desk.clock.now();
        if let Err(job) = lane.offer(Job { request, exchange, route, method, began }) {
            self.desk.refuse(job.request, &busy());
        }
    }
}

fn busy() -> Refusal {
    let mut refusal = Refusal::new(503, "busy", "all workers for requests of this kind are taken");
    refusal.header = Some("Retry-After: 1".into());
    refusal
}

/// Where the handlers are run.
struct Desk {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    stop: Stop,
}

impl Desk {
    /// Answers in the handler's place. Does not block: the answer fits into the empty buffer of its socket.
    fn refuse(&self, request: tiny_http::Request, refusal: &Refusal) {
        self.metrics.counter(API_REFUSED, &[refusal.reason]).inc();
        let body_wanted = *request.method() != tiny_http::Method::Head;
        let mut writer = request.into_writer();
        // The client may be gone; then nobody misses the answer.
        let _ = writer.write_all(&refusal.response(body_wanted)).and_then(|()| writer.flush());
    }

    fn serve(&self, job: Job) {
        let Job { request, exchange, route, method, began } = job;
        if self.stop.is_raised() {
            return self.refuse(request, &Refusal::new(503, "stopping", "the server is stopping"));
        }
        let query = request.url().split_once('?').map_or("", |(_, query)| query).to_string();
        let params = match Params::parse(&query) {
            Ok(params) => params,
            Err(error) => return self.refuse(request, &Refusal::new(400, "parameters", error.to_string())),
        };
        let status = Arc::new(AtomicU16::new(500));
        let (mut request, reply) = Request::split(request, exchange, (method, route.path), params, status.clone());
        // The handler's own state is behind locks that bear a panic; request and reply are dropped here.
        let ended = catch_unwind(AssertUnwindSafe(|| (route.handler)(&mut request, reply)));
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::debug!("http: {method} {} ended early: {error}", route.path),
            Err(_) => {
                self.metrics.counter(API_PANICS, &[]).inc();
                log::error!("http: the handler of {method} {} panicked", route.path);
            }
        }
        let status = status.load(Ordering::Relaxed).to_string();
        let took = self.clock.now().since(began);
        self.metrics.histogram(API_SECONDS, &[method, route.path, &status]).observe_span(took);
    }
}
