//! Processes that are measured: their CPU time, their memory, and the nodes among them.

use crate::Outcome;
use crate::http::Client;
use crate::place::Place;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long something may take that should take a moment.
const SOON: Duration = Duration::from_secs(120);

/// Asks every other millisecond until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Outcome<T> {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(format!("waited {SOON:?} in vain: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A child that is killed when it is dropped.
pub struct Running {
    child: Child,
    place: Arc<Place>,
}

impl Running {
    pub fn spawn(place: &Arc<Place>, command: &mut Command) -> Outcome<Running> {
        let child = command.spawn().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
        place.adopt(child.id());
        Ok(Running { child, place: place.clone() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn wait(mut self) -> Outcome<ExitStatus> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.place.disown(self.child.id());
    }
}

/// What a command took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    pub wall: Duration,
    /// User and system time of it and of all it waited for.
    pub cpu_s: f64,
    pub status: ExitStatus,
}

impl Took {
    pub fn ms(&self) -> f64 {
        self.wall.as_secs_f64() * 1e3
    }
}

/// Runs a command to its end.
pub fn time(place: &Arc<Place>, command: &mut Command) -> Outcome<Took> {
    let (start, cpu) = (Instant::now(), cpu_of_children());
    let status = Running::spawn(place, command)?.wait()?;
    Ok(Took { wall: start.elapsed(), cpu_s: cpu_of_children() - cpu, status })
}

/// Runs a command to its end, which must be a good one; what it prints is given back.
pub fn output(command: &mut Command) -> Outcome<String> {
    let out = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(format!("{:?} ended with {}: {}", command.get_program(), out.status, said.trim()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether there is such a program in the path.
pub fn is_there(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// CPU seconds of all children that were waited for (proc_pid_stat(5): cutime, cstime).
fn cpu_of_children() -> f64 {
    stat_ticks("self", 13) / rustix::param::clock_ticks_per_second() as f64
}

/// The sum of two fields of `/proc/PID/stat`, the first one counted from the state of the process as 0.
fn stat_ticks(pid: &str, first: usize) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    fields.skip(first).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// CPU seconds of a process so far, all its threads.
pub fn cpu_s(pid: u32) -> f64 {
    stat_ticks(&pid.to_string(), 11) / rustix::param::clock_ticks_per_second() as f64
}

/// A line of `/proc/PID/status` in bytes, such as `VmHWM` (peak memory) or `VmRSS`.
pub fn memory(pid: u32, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

/// Which tiers a node has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Ingest,
    Store,
    Both,
}

/// The real binary with directories of its own, on ports that were free. Killed when dropped.
pub struct Node {
    running: Running,
    dir: PathBuf,
    addresses: BTreeMap<String, String>,
}

impl Node {
    /// Starts one in `dir` with these flags besides ports and paths, and waits until it takes work.
    pub fn start(place: &Arc<Place>, binary: &Path, role: Role, dir: &Path, flags: &[&str]) -> Outcome<Node> {
        Node::start_on(place, binary, role, dir, "127.0.0.1", flags)
    }

    /// The same on another address of this machine.
    pub fn start_on(
        place: &Arc<Place>,
        binary: &Path,
        role: Role,
        dir: &Path,
        ip: &str,
        flags: &[&str],
    ) -> Outcome<Node> {
        let mut node = Node::launch(place, binary, role, dir, ip, flags)?;
        node.wait_ready()?;
        Ok(node)
    }

    /// Starts one and waits for nothing.
    pub fn launch(
        place: &Arc<Place>,
        binary: &Path,
        role: Role,
        dir: &Path,
        ip: &str,
        flags: &[&str],
    ) -> Outcome<Node> {
        let (word, mut ports) = match role {
            Role::Ingest => ("ingest", vec!["ingest.fast", "ingest.durable", "ingest.bulk", "api"]),
            Role::Store => ("store", vec!["api"]),
            Role::Both => ("ingeststore", vec!["ingest.fast", "ingest.durable", "ingest.bulk", "api"]),
        };
        if !flags.iter().any(|flag| flag.starts_with("-cluster=")) {
            ports.push("cluster");
        }
        let mut command = Command::new(binary);
        command.arg(word).args(ports.iter().map(|port| format!("-{port}=tcp://{ip}:0"))).args(flags);
        if role != Role::Store {
            command.arg(format!("-ingest.path={}", dir.join("ingest").display()));
        }
        if role != Role::Ingest {
            command.arg(format!("-store.path={}", dir.join("store").display()));
        }
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(dir.join("log"))?);
        let running = Running::spawn(place, &mut command)?;
        Ok(Node { running, dir: dir.to_path_buf(), addresses: BTreeMap::new() })
    }

    /// Waits until `/ready` says 200.
    pub fn wait_ready(&mut self) -> Outcome<()> {
        let log = self.dir.join("log");
        let mut client = None;
        wait_for("the node is ready", || -> Option<Outcome<()>> {
            if let Ok(Some(status)) = self.running.child.try_wait() {
                return Some(Err(format!("the node ended: {status}: {}", last_lines(&log)).into()));
            }
            if !self.addresses.contains_key("api") {
                self.addresses = listening(&std::fs::read_to_string(&log).unwrap_or_default());
            }
            let client = client.get_or_insert(Client::new(self.addresses.get("api")?));
            (client.status("/ready").ok()? == 200).then_some(Ok(()))
        })??;
        self.addresses = listening(&std::fs::read_to_string(&log)?);
        Ok(())
    }

    fn address(&self, port: &str) -> &str {
        self.addresses.get(port).map_or("", String::as_str)
    }

    pub fn api(&self) -> &str {
        self.address("api")
    }

    pub fn fast(&self) -> &str {
        self.address("fast")
    }

    pub fn durable(&self) -> &str {
        self.address("durable")
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn client(&self) -> Client {
        Client::new(self.api())
    }

    pub fn cpu_s(&self) -> f64 {
        cpu_s(self.pid())
    }

    /// The most memory it had so far, in bytes, or since [`Node::forget_peak`].
    pub fn peak(&self) -> f64 {
        memory(self.pid(), "VmHWM")
    }

    /// What it has now, in bytes.
    pub fn resident(&self) -> f64 {
        memory(self.pid(), "VmRSS")
    }

    /// Peak memory is counted anew from here (proc_pid_clear_refs(5)).
    pub fn forget_peak(&self) {
        // Where the kernel has no such file the peak is that of the whole life: never too small.
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5");
    }

    /// Files in a tier's directory that have one of these extensions.
    pub fn files(&self, tier: &str, extensions: &[&str]) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.join(tier)).into_iter().flatten().flatten();
        let is_one = |path: &PathBuf| extensions.iter().any(|wanted| path.extension().is_some_and(|e| e == *wanted));
        entries.map(|entry| entry.path()).filter(is_one).collect()
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// The addresses in log lines such as `level=info msg=listening port=fast address=127.0.0.1:40001`.
fn listening(log: &str) -> BTreeMap<String, String> {
    let field = |line: &str, name: &str| {
        let value = line.split(&format!("{name}=")).nth(1)?.split_whitespace().next()?;
        Some(value.trim_matches('"').trim_start_matches("tcp://").to_string())
    };
    let lines = log.lines().filter(|line| line.contains("listening"));
    lines.filter_map(|line| Some((field(line, " port")?, field(line, " address")?))).collect()
}
