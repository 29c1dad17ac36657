//! A cluster under test: real nodes on addresses of their own, each with a directory that outlives its processes.

// What the end-to-end tests stand on, as far as it is not about a single node.
#[path = "../e2e/harness/command.rs"]
#[allow(dead_code)]
pub mod command;
#[path = "../e2e/harness/http.rs"]
#[allow(dead_code)]
pub mod http;
#[path = "../e2e/harness/logs.rs"]
#[allow(dead_code)]
pub mod logs;
#[path = "../e2e/harness/wait.rs"]
#[allow(dead_code)]
pub mod wait;

use crate::netns::Wire;
use command::{Finished, oklog, run};
use http::{Answer, Exchange};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wait::wait_for;

/// A query between the first id and the last leaves nothing out.
pub const EVERYTHING: &str = "/store/query?from=00000000000000000000000000&to=7ZZZZZZZZZZZZZZZZZZZZZZZZZ&q=";

/// Until a death is known to all of three nodes, with the margin of a machine that has other things to do (the bound
/// itself is 9 s).
pub const DEATH: Duration = Duration::from_secs(9 + 6);
/// Until a join, or a good-bye, is known to all of three nodes (the bound itself is 1 s), likewise.
pub const JOIN: Duration = Duration::from_secs(1 + 6);

/// One of two values: in CI, and with `OKLOG_TEST_LONG` set.
pub fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os("OKLOG_TEST_LONG").is_some() { long } else { short }
}

/// Asks again and again until the condition holds. Gives how long that took; fails the test after `limit`, with what was
/// last said of it.
pub fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> Result<(), String>) -> Duration {
    let start = Instant::now();
    loop {
        match holds() {
            Ok(()) => return start.elapsed(),
            Err(why) => assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Looks again and again that something holds for all of a time.
pub fn throughout(time: Duration, what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(why) = holds() {
            panic!("{what}: not any more after {:?}: {why}", start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Which command a node runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Ingest,
    Store,
    IngestStore,
}

impl Role {
    pub fn command(self) -> &'static str {
        match self {
            Role::Ingest => "ingest",
            Role::Store => "store",
            Role::IngestStore => "ingeststore",
        }
    }

    pub fn ingests(self) -> bool {
        self != Role::Store
    }

    pub fn stores(self) -> bool {
        self != Role::Ingest
    }
}

/// One node; the default ports, on an address that nobody else has.
pub struct Node {
    pub role: Role,
    address: String,
    home: PathBuf,
    flags: Vec<String>,
    /// Where its address is, if not on loopback.
    wire: Option<Arc<Wire>>,
    child: Option<Child>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Node {
    fn port(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }

    /// Where its API answers. This is also its name.
    pub fn api(&self) -> String {
        self.port(7650)
    }

    pub fn fast(&self) -> String {
        self.port(7651)
    }

    pub fn durable(&self) -> String {
        self.port(7652)
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts a process on its directory.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.address);
        let mut command = match &self.wire {
            Some(wire) => wire.command(&command::binary()),
            None => Command::new(command::binary()),
        };
        command.arg(self.role.command()).args(self.standard_flags()).args(&self.flags);
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").current_dir(&self.home);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let (pipe, log) = (child.stderr.take().expect("a pipe"), self.log.clone());
        log.lock().unwrap().push(format!("--- process {}", child.id()));
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                log.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        self.child = Some(child);
    }

    fn standard_flags(&self) -> Vec<String> {
        let at = |flag: &str, port: u16| format!("-{flag}=tcp://{}", self.port(port));
        let path = |tier: &str| format!("-{tier}.path={}", self.home.join(tier).display());
        let mut flags = vec![at("api", 7650), at("cluster", 7659), format!("-cluster.advertise-addr={}", self.address)];
        if self.role.ingests() {
            flags.extend([
                at("ingest.fast", 7651),
                at("ingest.durable", 7652),
                at("ingest.bulk", 7653),
                path("ingest"),
            ]);
            flags.extend(["-ingest.segment-flush-age=200ms", "-ingest.drain-timeout=20s"].map(String::from));
            flags.push("-ingest.segment-pending-timeout=3s".into());
        }
        if self.role.stores() {
            flags.extend(["-store.segment-target-age=200ms", "-store.segment-delay=50ms"].map(String::from));
            flags.extend(["-store.segment-replication-factor=2".into(), path("store")]);
        }
        flags
    }

    /// Waits until it takes work.
    pub fn wait_ready(&mut self) {
        wait_for(&format!("{} is ready", self.address), || {
            let child = self.child.as_mut().expect("it was started");
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{} ended while it should start: {status}", self.address);
            }
            self.get("/ready").ok().filter(|answer| answer.status == 200).map(drop)
        });
    }

    /// Starts it again and waits until it takes work.
    pub fn restart(&mut self) {
        self.start();
        self.wait_ready();
    }

    /// Kills it as the out-of-memory killer would.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("a child can be signalled");
    }

    /// Stops it in its steps, as a debugger or a snapshot of the machine does.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to stop.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended.
    pub fn wait_ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let limit = Duration::from_secs(60);
        let mut status = None;
        within(limit, &format!("{} ends after SIGTERM", self.address), || {
            status = child.try_wait().ok().flatten();
            status.map(drop).ok_or_else(|| "it runs".into())
        });
        status.expect("it has ended")
    }

    /// Asks it to stop, and fails the test if it does not do so cleanly.
    pub fn stop(&mut self) {
        self.ask_to_stop();
        let status = self.wait_ended();
        assert!(status.success(), "{} after SIGTERM: {status}", self.address);
    }

    /// Flags for its next process, in place of those it had.
    pub fn set_flags(&mut self, flags: &[String]) {
        self.flags = flags.to_vec();
    }

    /// A request whose head was answered.
    pub fn open(&self, method: &str, target: &str) -> io::Result<Exchange> {
        let api = self.api();
        self.on_its_network(|| Exchange::open(&api, method, target))
    }

    /// Does something that opens connections, from where the node can be reached.
    pub fn on_its_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.wire {
            None => work(),
            Some(wire) => wire.within(work),
        }
    }

    pub fn get(&self, target: &str) -> io::Result<Answer> {
        self.open("GET", target).map(Exchange::finish)
    }

    /// All records there are. The caller judges status and completeness.
    pub fn everything(&self) -> Answer {
        self.get(EVERYTHING).unwrap_or_else(|e| panic!("{}: everything: {e}", self.address))
    }

    /// `oklog query` of everything, at this node.
    pub fn oklog_query(&self) -> Finished {
        run(oklog(["query", "-store", &self.api(), "-from", "1h", "-ulid"]), b"")
    }

    /// What it believes of all nodes, itself included: by name, the state.
    pub fn believes(&self) -> Result<BTreeMap<String, String>, String> {
        let mut all = BTreeMap::new();
        for (path, serves) in [("/ingest/_clusterstate", true), ("/store/_clusterstate", self.role.stores())] {
            if !serves {
                continue;
            }
            let answer = self.get(path).map_err(|e| format!("{} {path}: {e}", self.address))?;
            if answer.status != 200 || !answer.complete {
                return Err(format!("{} {path}: status {}", self.address, answer.status));
            }
            all.extend(peers_in(&answer.text()));
        }
        Ok(all)
    }

    fn print_log(&self) {
        let log = self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        println!("--- the last lines of {} {}", self.role.command(), self.address);
        log.iter().skip(log.len().saturating_sub(80)).for_each(|line| println!("{line}"));
    }

    /// The sum of a metric's values over all labels that hold `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").map(|answer| answer.text()).unwrap_or_default();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn home(&self) -> &Path {
        &self.home
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Names and states of the peers in the JSON of `_clusterstate`: each object that has an `api`, with its `state`.
fn peers_in(json: &str) -> Vec<(String, String)> {
    let field = |object: &str, name: &str| {
        let (_, rest) = object.split_once(&format!("\"{name}\""))?;
        Some(rest.split('"').nth(1)?.to_string())
    };
    let objects = json.split("\"type\"").skip(1);
    objects.filter_map(|object| Some((field(object, "api")?, field(object, "state").unwrap_or_default()))).collect()
}

/// Nodes that know of each other.
pub struct Cluster {
    pub nodes: Vec<Node>,
    dir: tempfile::TempDir,
    /// The addresses that every node is told as peers.
    peers: Vec<String>,
    flags: Vec<String>,
}

impl Cluster {
    /// No nodes yet. Each will be given these peers and flags besides the ports and paths of its own.
    pub fn new(peers: Vec<String>, flags: &[&str]) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Cluster { nodes: Vec::new(), dir, peers, flags: flags.iter().map(|flag| flag.to_string()).collect() }
    }

    /// Nodes on 127.0.NET.1 and so on, started and in agreement. NET is the test's own.
    pub fn start(net: u8, roles: &[Role], flags: &[&str]) -> Cluster {
        // Two are named to all, so that the first to come is not the only one who knows.
        let mut cluster = Cluster::new(vec![loopback(net, 0), loopback(net, 1)], flags);
        for (n, role) in roles.iter().enumerate() {
            cluster.add(*role, &loopback(net, n), None);
        }
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.nodes.iter_mut().for_each(Node::wait_ready);
        cluster.wait_agreement(JOIN, "all have just been started");
        cluster
    }

    /// One more node, which is not started yet.
    pub fn add(&mut self, role: Role, address: &str, wire: Option<Arc<Wire>>) -> &mut Node {
        let home = self.dir.path().join(address);
        std::fs::create_dir_all(&home).expect("a directory for the node");
        let peers = self.peers.iter().map(|peer| format!("-peer={peer}"));
        let flags = peers.chain(self.flags.iter().cloned()).collect();
        let (address, log) = (address.to_string(), Arc::default());
        self.nodes.push(Node { role, address, home, flags, wire, child: None, log });
        self.nodes.last_mut().expect("it was just added")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until every node that runs believes exactly those that run to be alive. Gives how long that took.
    pub fn wait_agreement(&self, limit: Duration, after: &str) -> Duration {
        let took = within(limit, &format!("all nodes agree after {after}"), || self.agreement());
        println!("agreement {:.1} s after this: {after}", took.as_secs_f64());
        took
    }

    /// Whether every node that runs believes exactly those that run to be alive.
    pub fn agreement(&self) -> Result<(), String> {
        self.nodes
            .iter()
            .filter(|node| node.is_running())
            .try_for_each(|node| self.agrees(node, &|node| node.is_running()))
    }

    /// Whether this node believes exactly those nodes to be alive of which this holds, as far as its API tells of them.
    pub fn agrees(&self, node: &Node, lives: &dyn Fn(&Node) -> bool) -> Result<(), String> {
        let believed = node.believes()?;
        let seen = |other: &&Node| other.role.ingests() || node.role.stores();
        for other in self.nodes.iter().filter(seen) {
            let state = believed.get(&other.api()).map(String::as_str);
            // Neither a suspicion nor the lack of one is agreement.
            let settled = if lives(other) { state == Some("alive") } else { matches!(state, None | Some("silent")) };
            if !settled {
                return Err(format!("{} believes {} to be {state:?}; all: {believed:?}", node.address, other.address));
            }
        }
        Ok(())
    }

    /// Waits until all segments of all ingesters that run are with the stores.
    pub fn wait_consumed(&self) {
        within(Duration::from_secs(60), "all segments are consumed", || {
            let ingesters = self.nodes.iter().filter(|node| node.is_running() && node.role.ingests());
            let left: f64 = ingesters.map(|node| node.metric("oklog_ingest_segments", "")).sum();
            if left == 0.0 { Ok(()) } else { Err(format!("{left} segments wait")) }
        });
    }

    /// Waits until a store says that its answers are whole.
    pub fn wait_complete(&self, node: &Node, limit: Duration) -> Duration {
        within(limit, &format!("answers of {} are complete", node.address), || {
            let answer = node.get("/store/query?from=1m&to=now&q=nothing+holds+this").map_err(|e| e.to_string())?;
            let headers = format!("status {}, {:?}", answer.status, answer.headers);
            if answer.status == 200 && answer.complete { Ok(()) } else { Err(headers) }
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.nodes.iter().for_each(Node::print_log);
        }
    }
}

/// The address of node `n` of the test that has this net.
pub fn loopback(net: u8, n: usize) -> String {
    format!("127.0.{net}.{}", n + 1)
}
