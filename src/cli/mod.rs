//! The commands: flags in, rooms wired together, exit status out.

pub mod client;
pub mod query;
pub mod stream;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that `args` (without the program's name) asks for.
pub fn main(_args: Vec<OsString>) -> ExitCode {
    ExitCode::from(2)
}
