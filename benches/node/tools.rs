//! The programs of `benches/tools`, built as their first lines say, and run as processes of their own.

use crate::Outcome;
use crate::place::Place;
use crate::process::{Running, output, wait_for};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The tools, built.
pub struct Tools {
    pub gen_corpus: PathBuf,
    pub loadgen: PathBuf,
}

/// What the load client said of one push.
#[derive(Clone, Copy, Debug)]
pub struct Pushed {
    /// From the first byte until the server had closed every connection, so had read everything.
    pub closed_s: f64,
}

impl Tools {
    /// Builds what is older than its source.
    pub fn build() -> Outcome<Tools> {
        Ok(Tools { gen_corpus: build("gen_corpus")?, loadgen: build("loadgen")? })
    }

    /// Sends a file over so many connections.
    pub fn push(&self, address: &str, file: &Path, connections: usize) -> Outcome<Pushed> {
        let mut command = self.push_command(address, file, connections);
        pushed(&output(&mut command)?)
    }

    /// The command that sends a file.
    pub fn push_command(&self, address: &str, file: &Path, connections: usize) -> Command {
        let mut command = Command::new(&self.loadgen);
        command.args(["push", "--addr", address, "--conns", &connections.to_string(), "--file"]).arg(file);
        command
    }

    /// A receiver that writes what it is sent to one file and does nothing else. Gives its address.
    pub fn sink(&self, place: &Arc<Place>, file: &Path) -> Outcome<(Running, String)> {
        let address = format!("127.0.0.1:{}", free_port("127.0.0.1")?);
        let mut command = Command::new(&self.loadgen);
        command.args(["sink", "--listen", &address, "--out"]).arg(file).stdout(Stdio::null());
        let sink = Running::spawn(place, &mut command)?;
        wait_for("the sink listens", || TcpStream::connect(&address).ok())?;
        Ok((sink, address))
    }
}

/// Reads what `loadgen push` printed.
pub fn pushed(said: &str) -> Outcome<Pushed> {
    let number = |name: &str| {
        let rest = said.split(&format!("\"{name}\":")).nth(1)?;
        rest.split([',', '}']).next()?.parse::<f64>().ok()
    };
    match (number("closed_s"), number("errors")) {
        (Some(closed_s), Some(0.0)) => Ok(Pushed { closed_s }),
        _ => Err(format!("the load client says {said:?}").into()),
    }
}

/// A port that was free a moment ago.
pub fn free_port(ip: &str) -> Outcome<u16> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?.port())
}

fn build(name: &str) -> Outcome<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/tools/{name}.rs"));
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    if changed(&built).is_ok_and(|built| changed(&source).is_ok_and(|source| source < built)) {
        return Ok(built);
    }
    std::fs::create_dir_all(env!("CARGO_TARGET_TMPDIR"))?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    output(Command::new(rustc).args(["--edition", "2021", "-O"]).arg(&source).arg("-o").arg(&built))?;
    Ok(built)
}
