//! The client commands: settings become the options of the rooms that do the work.

use super::cat;
use super::client::Shape;
use super::forget::{self, ForgetOptions};
use super::local::{self, Ground};
use super::query::{self, QueryOptions};
use super::settings::{
    Buffer, CatFlags, ForgetFlags, ForwardFlags, Mode, QueryFlags, StreamFlags, TestsvcFlags, VerifyFlags,
};
use super::stream::{self, StreamOptions};
use super::verify::{self, VerifyOptions};
use super::{USAGE, address::Address};
use crate::forward::{self, testsvc};
use crate::http::{HttpServer, Limits};
use crate::ops::health::{self, Health, Phase};
use crate::ops::metrics::Metrics;
use crate::query::pool::Pool;
use crate::world::clock::SystemClock;
use crate::world::crew::{self, Crew, SMALL_STACK, Stop};
use crate::world::entropy::{Dice, random_u64};
use crate::world::fs::FileSystem;
use crate::world::fs::real::RealFs;
use crate::world::signal::EndSignals;
use crate::world::{pipe, socket};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

/// Output is gathered in pieces of this size, except where it must be seen at once.
const PIECE: usize = 64 << 10;

/// So many files may be open besides those that are held open to be read.
const OTHER_FILES: usize = 64;

pub(super) fn query(flags: &QueryFlags) -> u8 {
    let options = QueryOptions {
        stores: vec![flags.store.to_string()],
        from: flags.from.clone(),
        to: flags.to.clone(),
        q: flags.q.clone().into_bytes(),
        regex: flags.regex,
        invert: false,
        ignore_case: false,
        newest: flags.limit,
        stats: flags.stats,
        nocopy: flags.nocopy,
        shape: Shape { ulid: flags.ulid, time: flags.time },
        verbose: flags.verbose,
    };
    pipe::widen(io::stdout());
    let mut out = io::BufWriter::with_capacity(PIECE, io::stdout());
    let Some(dir) = &flags.path else { return query::run(&options, &mut out, &mut io::stderr()) };
    let (crew, stop) = (Crew::default(), Stop::default());
    let pool = match Pool::start(crew::cores(), &crew, &stop) {
        Ok(pool) => pool,
        Err(e) => return complain("query", &e, query::FAILED),
    };
    let most_open = usize::try_from(socket::raise_file_limit()).unwrap_or(usize::MAX).saturating_sub(OTHER_FILES);
    let ground = Ground { fs: Arc::new(RealFs), clock: Arc::new(SystemClock::default()), pool, most_open };
    // The threads that scan end with the process.
    local::run(&ground, &options, dir, &mut out, &mut io::stderr())
}

pub(super) fn stream(flags: &StreamFlags) -> u8 {
    let options = StreamOptions {
        stores: vec![flags.store.to_string()],
        q: flags.q.clone().into_bytes(),
        regex: flags.regex,
        window: flags.window,
        shape: Shape { ulid: flags.ulid, time: false },
    };
    let mut out = io::BufWriter::with_capacity(PIECE, io::stdout());
    // Signals keep their own meaning here: Ctrl-C ends the command at once.
    stream::run(&options, &SystemClock::default(), &Stop::default(), &mut out, &mut io::stderr())
}

pub(super) fn forget(flags: &ForgetFlags) -> u8 {
    let (store, key_file, name) = (flags.store.to_string(), flags.key_file.clone(), flags.name.clone());
    let options = ForgetOptions { store, key_file, name };
    forget::run(&options, &SystemClock::default(), &mut io::stdout(), &mut io::stderr())
}

pub(super) fn verify(flags: &VerifyFlags) -> u8 {
    let options = VerifyOptions { dirs: flags.dirs.clone(), copies: flags.copies, notes: flags.notes };
    let fs: Arc<dyn FileSystem> = Arc::new(RealFs);
    let mut out = io::BufWriter::with_capacity(PIECE, io::stdout());
    let is_terminal = io::stderr().is_terminal();
    verify::run(&fs, &SystemClock::default(), &options, is_terminal, &mut out, &mut io::stderr())
}

pub(super) fn cat(flags: &CatFlags) -> u8 {
    let fs: Arc<dyn FileSystem> = Arc::new(RealFs);
    pipe::widen(io::stdout());
    let mut out = io::BufWriter::with_capacity(PIECE, io::stdout());
    cat::run(&fs, &flags.files, io::stdin(), &mut out, &mut io::stderr())
}

pub(super) fn testsvc(flags: &TestsvcFlags) -> u8 {
    let options = testsvc::Options { id: flags.id.clone(), size: flags.size, rate: flags.rate };
    let dice = Dice::new(random_u64());
    match testsvc::run(&options, &mut io::stdout(), &SystemClock::default(), &Stop::default(), dice) {
        Ok(()) => 0,
        Err(e) => complain("testsvc", &e, 1),
    }
}

pub(super) fn forward(flags: &ForwardFlags) -> u8 {
    let mut addresses = Vec::new();
    for text in &flags.addresses {
        match forward::Address::parse(text) {
            Ok(address) => addresses.push(address),
            Err(e) => return complain("forward", &e, USAGE),
        }
    }
    let options = forward::Options {
        prefixes: flags.prefixes.iter().map(|prefix| prefix.clone().into_bytes()).collect(),
        addresses,
        mode: match flags.mode {
            Mode::Fast => forward::Mode::Fast,
            Mode::Durable => forward::Mode::Durable,
        },
        buffer: match flags.buffer {
            Buffer::Block => forward::Buffer::Block,
            Buffer::Drop => forward::Buffer::Drop,
        },
        buffer_size: forward::DEFAULT_BUFFER_SIZE,
    };
    match forward_all(flags.api.as_ref(), options) {
        Ok(status) => status,
        Err(e) => complain("forward", &e, 1),
    }
}

fn forward_all(api: Option<&Address>, options: forward::Options) -> io::Result<u8> {
    let world = forward::World {
        clock: Arc::new(SystemClock::default()),
        files: Arc::new(RealFs),
        resolv_conf: "/etc/resolv.conf".into(),
        dns_port: 53,
        metrics: Arc::new(Metrics::default()),
        crew: Crew::default(),
        stop: Stop::default(),
        dice: Dice::new(random_u64()),
    };
    let (mut signals, stop) = (EndSignals::take_over()?, world.stop.clone());
    world.crew.start("signals", SMALL_STACK, move || {
        log::info!("{}: sending what was read, then stopping", signals.wait());
        stop.raise();
    })?;
    if let Some(api) = api {
        serve_numbers(api, &world.metrics)?;
    }
    // What standard input's thread holds ends with the process: it may wait for a line that never comes.
    match forward::run(options, io::stdin(), &world) {
        Ok(summary) => {
            if summary.dropped > 0 {
                log::warn!("{} lines were dropped because the buffer was full", summary.dropped);
            }
            if summary.end_in_doubt {
                log::warn!("the ingester did not confirm the end: the last lines may not have arrived");
            }
            Ok(0)
        }
        Err(e) => Ok(complain("forward", &e, 1)),
    }
}

/// Serves the forwarder's health and metrics, where that was asked for.
fn serve_numbers(api: &Address, metrics: &Arc<Metrics>) -> io::Result<()> {
    let listener = socket::listen(api.resolve_one()?)?;
    health::watch_process(metrics, socket::raise_file_limit());
    let health = Arc::new(Health::new(|| None));
    health.enter(Phase::Serving);
    let routes = health::routes(health, metrics.clone());
    // A crew and a stop of its own: it answers until the process ends.
    let server = HttpServer::start(
        listener,
        routes,
        Limits::default(),
        None,
        metrics.clone(),
        Crew::default(),
        Stop::default(),
    )?;
    log::info!(port = "api", address = server.local_addr().to_string(); "listening");
    Ok(())
}

fn complain(command: &str, why: &dyn std::fmt::Display, status: u8) -> u8 {
    // Nobody is left to tell when standard error is gone; the exit status still does.
    let _ = writeln!(io::stderr(), "oklog {command}: {why}");
    status
}
