//! The commands: flags in, rooms wired together, exit status out.
//!
//! Standard output carries what was asked for and nothing else; refusals are one sentence on standard error.

pub mod address;
pub mod cat;
pub mod client;
mod commands;
mod cut;
pub mod flags;
pub mod forget;
pub mod help;
pub mod local;
pub mod parse;
pub mod query;
pub mod serve;
pub mod settings;
pub mod snapshot;
pub mod stream;
pub mod verify;

use crate::ops::logfmt;
use crate::world::clock::SystemClock;
use log::LevelFilter;
use parse::Refusal;
use settings::Request;
use simple_logger::SimpleLogger;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

/// Exit status for arguments that cannot be acted on, as grep and most shells have it.
pub const USAGE: u8 = 2;

/// Runs the command that `args` (without the program's name) asks for.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match parse::as_text(args).and_then(|args| Request::read(&args)) {
        Ok(request) => run(request),
        Err(refusal) => refuse(&refusal),
    }
}

/// Runs what was asked for. One arm per command; each gives the process's exit status.
fn run(request: Request) -> ExitCode {
    start_log(&request);
    let status = match request {
        Request::Help(None) => print(&help::overview()),
        Request::Help(Some(command)) => print(&help::of(command)),
        Request::Version => print(&format!("oklog {}\n", env!("CARGO_PKG_VERSION"))),
        Request::Serve(flags) => ExitCode::from(serve::run(&flags)),
        Request::Forward(flags) => ExitCode::from(commands::forward(&flags)),
        Request::Query(flags) => ExitCode::from(commands::query(&flags)),
        Request::Stream(flags) => ExitCode::from(commands::stream(&flags)),
        Request::Forget(flags) => ExitCode::from(commands::forget(&flags)),
        Request::Verify(flags) => ExitCode::from(commands::verify(&flags)),
        Request::Cat(flags) => ExitCode::from(commands::cat(&flags)),
        Request::Testsvc(flags) => ExitCode::from(commands::testsvc(&flags)),
    };
    log::logger().flush();
    status
}

/// Starts the log: logfmt where a machine reads it, plain lines where a person does.
fn start_log(request: &Request) {
    let start = |level| SimpleLogger::new().with_level(level).init();
    let client = |debug: bool| start(if debug { LevelFilter::Debug } else { LevelFilter::Warn });
    let started = match request {
        Request::Serve(flags) => logfmt::start(Arc::new(SystemClock::default()), flags.debug),
        Request::Forward(flags) => logfmt::start(Arc::new(SystemClock::default()), flags.debug),
        // What is wrong with files it says itself.
        Request::Query(flags) if flags.path.is_some() && !flags.debug => start(LevelFilter::Off),
        Request::Query(flags) => client(flags.debug),
        Request::Stream(flags) => client(flags.debug),
        Request::Forget(flags) => client(flags.debug),
        Request::Verify(flags) => client(flags.debug),
        Request::Cat(flags) => client(flags.debug),
        Request::Testsvc(flags) => client(flags.debug),
        Request::Help(_) | Request::Version => Ok(()),
    };
    // Refused only where there is a logger already, and then that one serves.
    let _ = started;
}

fn refuse(refusal: &Refusal) -> ExitCode {
    let text = match refusal {
        Refusal::NoCommand => help::overview(),
        other => format!("{other}\n"),
    };
    // Nobody is left to tell when standard error is gone; the exit status still does.
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(USAGE)
}

/// Prints on standard output. A reader that has gone away (`oklog help | head -1`) has what it wanted.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
