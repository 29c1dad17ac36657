//! One node: the real binary with a directory of its own, found by the ports it says it listens on.

use super::command::binary;
use super::http::{Answer, Exchange, encode};
use super::wait::{SOON, wait_for, wait_until};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

/// The first id of all, and the last: a query between them leaves nothing out.
pub const EVER: [(&str, &str); 2] = [("from", "00000000000000000000000000"), ("to", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ")];

/// Where a node listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    Api,
    Fast,
    Durable,
    Bulk,
}

impl Port {
    fn name(self) -> &'static str {
        match self {
            Port::Api => "api",
            Port::Fast => "fast",
            Port::Durable => "durable",
            Port::Bulk => "bulk",
        }
    }
}

/// Which tiers a node has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Ingest,
    Store,
    Both,
}

impl Role {
    fn command(self) -> &'static str {
        match self {
            Role::Ingest => "ingest",
            Role::Store => "store",
            Role::Both => "ingeststore",
        }
    }

    fn ports(self) -> &'static [Port] {
        match self {
            Role::Store => &[Port::Api],
            Role::Ingest | Role::Both => &[Port::Api, Port::Fast, Port::Durable, Port::Bulk],
        }
    }
}

/// A node under test. Killed when dropped; what it wrote on stderr is printed if the test has failed.
pub struct Node {
    role: Role,
    dir: PathBuf,
    /// Removes the directory when dropped, unless it was there before. Not read.
    #[allow(dead_code)]
    made: Option<tempfile::TempDir>,
    flags: Vec<String>,
    child: Child,
    stderr: Arc<Mutex<Vec<String>>>,
    /// What the processes before this one wrote on stderr.
    earlier: Vec<String>,
    addresses: BTreeMap<String, String>,
}

impl Node {
    /// Starts a node of both tiers with these flags besides its ports and paths, and waits until it is ready.
    pub fn start(flags: &[&str]) -> Node {
        Node::start_as(Role::Both, flags)
    }

    /// Starts a node of one tier or both likewise.
    pub fn start_as(role: Role, flags: &[&str]) -> Node {
        Node::start_under(role, flags, None)
    }

    /// Starts a node that tells a service manager at this socket how it is doing.
    pub fn start_under(role: Role, flags: &[&str], manager: Option<&Path>) -> Node {
        let mut node = Node::launch(role, flags, manager, &std::env::temp_dir());
        node.wait_ready();
        node
    }

    /// Starts a node whose directory is made below `parent`, and waits for nothing.
    pub fn launch(role: Role, flags: &[&str], manager: Option<&Path>, parent: &Path) -> Node {
        let dir = tempfile::tempdir_in(parent).expect("a temporary directory");
        let mut node = Node::launch_on(role, flags, manager, dir.path());
        node.made = Some(dir);
        node
    }

    /// Starts a node on a directory that is there already and stays, and waits for nothing.
    pub fn launch_on(role: Role, flags: &[&str], manager: Option<&Path>, dir: &Path) -> Node {
        let flags: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
        let (child, stderr) = spawn(role, dir, &flags, manager);
        let (dir, earlier, addresses) = (dir.to_path_buf(), Vec::new(), BTreeMap::new());
        Node { role, dir, made: None, flags, child, stderr, earlier, addresses }
    }

    /// A node on which segments move on quickly, so that tests of what comes later need not wait for it.
    pub fn start_quick(flags: &[&str]) -> Node {
        let quick = ["-ingest.segment-flush-age=100ms", "-store.segment-target-age=100ms", "-store.segment-delay=20ms"];
        Node::start(&[&quick, flags].concat())
    }

    /// A node whose records stay in the ingest tier.
    pub fn start_unconsumed(flags: &[&str]) -> Node {
        Node::start(&[&["-ingest.segment-flush-age=1h", "-ingest.drain-timeout=0s"], flags].concat())
    }

    /// Waits until it takes work.
    pub fn wait_ready(&mut self) {
        self.wait_listening();
        wait_until("the node is ready", || self.try_get("/ready").is_some_and(|answer| answer.status == 200));
    }

    /// Waits until all its ports are open: it need not be ready, as without its peers, or with a full disk.
    pub fn wait_listening(&mut self) {
        let ports = self.role.ports();
        self.addresses = wait_for("the node says where it listens", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the node ended while it should start: {status}");
            }
            let addresses = listening(&self.stderr.lock().unwrap());
            ports.iter().all(|port| addresses.contains_key(port.name())).then_some(addresses)
        });
    }

    /// Where it listens, as `127.0.0.1:PORT`.
    pub fn address(&self, port: Port) -> &str {
        &self.addresses[port.name()]
    }

    /// The names of the ports it says it listens on.
    pub fn ports(&self) -> Vec<&str> {
        self.addresses.keys().map(String::as_str).collect()
    }

    /// The port's number, as text for command lines.
    pub fn number(&self, port: Port) -> &str {
        self.address(port).rsplit(':').next().unwrap_or_default()
    }

    /// The directory that holds both tiers.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The flags that make another process use this one's directories, on ports of its own.
    pub fn flags_of_a_twin(&self) -> Vec<String> {
        let mut flags = standard_flags(self.role, &self.dir);
        flags.extend(self.flags.iter().cloned());
        flags
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines it has written on stderr.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    /// The lines it and the processes before it have written on stderr.
    pub fn all_stderr(&self) -> Vec<String> {
        self.earlier.iter().cloned().chain(self.stderr()).collect()
    }

    /// Waits until stderr has a line that holds all of these.
    pub fn wait_for_line(&self, parts: &[&str]) -> String {
        wait_for(&format!("a line on stderr with {parts:?}"), || {
            self.stderr().into_iter().find(|line| parts.iter().all(|part| line.contains(part)))
        })
    }

    /// Opens a connection.
    pub fn connect(&self, port: Port) -> TcpStream {
        let stream = TcpStream::connect(self.address(port)).expect("a connection to the node");
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream
    }

    /// Sends bytes on a connection of their own and waits until the node has closed it: then all are taken in.
    pub fn send(&self, port: Port, bytes: &[u8]) {
        let mut stream = self.connect(port);
        stream.write_all(bytes).expect("the node takes what is sent");
        end(stream);
    }

    /// One request, read to its end.
    pub fn request(&self, method: &str, target: &str) -> Answer {
        let exchange = Exchange::open(self.address(Port::Api), method, target);
        exchange.unwrap_or_else(|e| panic!("{method} {target}: {e}")).finish()
    }

    /// `GET`, read to its end.
    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target)
    }

    /// `GET` that may fail.
    pub fn try_get(&self, target: &str) -> Option<Answer> {
        Exchange::open(self.address(Port::Api), "GET", target).ok().map(Exchange::finish)
    }

    /// A query of the store, between any times unless `params` has its own. Fails the test unless it is whole.
    pub fn query(&self, params: &[(&str, &str)]) -> Answer {
        let answer = self.get(&query_target(params));
        assert_eq!(answer.status, 200, "{params:?}: {}", answer.text().chars().take(300).collect::<String>());
        assert!(answer.complete, "{params:?}: the answer breaks off");
        answer
    }

    /// All lines there are.
    pub fn everything(&self) -> Vec<u8> {
        self.query(&[]).lines()
    }

    /// All metrics, by name with labels.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = self.get("/metrics");
        assert_eq!((answer.status, answer.complete), (200, true));
        let text = answer.text();
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        samples.map(|(name, value)| (name.to_string(), value.parse().unwrap_or(f64::NAN))).collect()
    }

    /// The sum of a metric's values over those label sets that hold all of `labels`, each as `name="value"`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let of = |key: &str| key.split('{').next() == Some(name) && labels.iter().all(|label| key.contains(label));
        self.metrics().iter().filter(|(key, _)| of(key)).map(|(_, value)| value).sum()
    }

    /// Waits until the ingest tier is empty: the store tier has everything.
    pub fn wait_consumed(&self) {
        wait_until("all segments are consumed", || self.metric("oklog_ingest_segments", &[]) == 0.0);
    }

    /// Kills it as the out-of-memory killer would.
    pub fn kill9(&mut self) {
        self.child.kill().expect("a child can be killed");
        let status = self.child.wait().expect("a killed child ends");
        assert_eq!(status.signal(), Some(9), "it had ended by itself: {status}");
    }

    /// Sends it SIGTERM.
    pub fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a child can be signalled");
    }

    /// Asks it to stop and waits for that. Gives the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal();
        self.wait_ended()
    }

    /// Waits until it has ended. Gives the exit status.
    pub fn wait_ended(&mut self) -> ExitStatus {
        wait_for("the node ends", || self.child.try_wait().ok().flatten())
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Kills it unless it has ended by itself meanwhile.
    pub fn kill_if_running(&mut self) {
        self.child.kill().expect("a child can be killed");
    }

    /// Stops it in its steps, as a machine that is suspended; it goes on when the guard is dropped.
    pub fn pause(&self) -> Paused {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("a child can be stopped");
        Paused(pid)
    }

    /// Asks it to stop, and fails the test if it does not do so cleanly.
    pub fn stop(&mut self) {
        let status = self.terminate();
        assert!(status.success(), "after SIGTERM: {status}");
    }

    /// Starts it again on the same directories after it has ended, with these flags more.
    pub fn restart_with(&mut self, more: &[&str]) {
        self.flags.extend(more.iter().map(|flag| flag.to_string()));
        self.launch_again();
        self.wait_ready();
    }

    /// Starts it again on the same directories after it has ended, and waits for nothing.
    pub fn launch_again(&mut self) {
        let (child, stderr) = spawn(self.role, &self.dir, &self.flags, None);
        self.child = child;
        let before = std::mem::replace(&mut self.stderr, stderr);
        self.earlier.append(&mut before.lock().unwrap());
    }

    /// Starts it again on the same directories after it has ended.
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    fn print_stderr(&self) {
        let all = self.all_stderr();
        println!("--- stderr of the node, its last lines");
        all.iter().skip(all.len().saturating_sub(200)).for_each(|line| println!("{line}"));
    }
}

/// A process that stands still.
pub struct Paused(rustix::process::Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.print_stderr();
        }
    }
}

/// Half-closes a connection and waits until the other side has closed it too.
pub fn end(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).expect("half-close");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("a clean close after the half-close");
    assert!(answer.is_empty(), "the node wrote to a client that does not read: {answer:?}");
}

/// The path and query of a query.
pub fn query_target(params: &[(&str, &str)]) -> String {
    query_target_at("/store/query", params)
}

/// The same for another path that answers queries.
pub fn query_target_at(path: &str, params: &[(&str, &str)]) -> String {
    let defaults = EVER.iter().filter(|(name, _)| params.iter().all(|(given, _)| given != name));
    let pairs: Vec<String> =
        defaults.chain(params).map(|(name, value)| format!("{name}={}", encode(value.as_bytes()))).collect();
    format!("{path}?{}", pairs.join("&"))
}

fn standard_flags(role: Role, dir: &Path) -> Vec<String> {
    let path = |tier: &str| -> PathBuf { dir.join(tier) };
    let mut ports = vec!["api", "cluster"];
    if role != Role::Store {
        ports.extend(["ingest.fast", "ingest.durable", "ingest.bulk"]);
    }
    let mut flags: Vec<String> = ports.iter().map(|name| format!("-{name}=tcp://127.0.0.1:0")).collect();
    if role != Role::Store {
        flags.push(format!("-ingest.path={}", path("ingest").display()));
    }
    if role != Role::Ingest {
        flags.push(format!("-store.path={}", path("store").display()));
    }
    flags
}

fn spawn(role: Role, dir: &Path, flags: &[String], manager: Option<&Path>) -> (Child, Arc<Mutex<Vec<String>>>) {
    let mut command = Command::new(binary());
    if let Some(socket) = manager {
        command.env("NOTIFY_SOCKET", socket);
    } else {
        command.env_remove("NOTIFY_SOCKET");
    }
    let mut child = command
        .arg(role.command())
        .args(standard_flags(role, dir))
        .args(flags)
        .env_remove("JOURNAL_STREAM")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (pipe, kept) = (child.stderr.take().expect("a pipe"), lines.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            kept.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
    });
    (child, lines)
}

/// The addresses in lines such as `level=info msg=listening port=fast address=127.0.0.1:40001`.
fn listening(lines: &[String]) -> BTreeMap<String, String> {
    let mut addresses = BTreeMap::new();
    for fields in lines.iter().map(|line| logfmt(line)) {
        let is_listening = fields.get("msg").is_some_and(|message| message.starts_with("listening"));
        if let (true, Some(port), Some(address)) = (is_listening, fields.get("port"), fields.get("address")) {
            addresses.insert(port.clone(), address.trim_start_matches("tcp://").to_string());
        }
    }
    addresses
}

/// The fields of a logfmt line; quoted values are taken without their quotes.
fn logfmt(line: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut rest = line;
    while let Some((key, tail)) = rest.split_once('=') {
        let (value, next) = match tail.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => tail.split_once(' ').unwrap_or((tail, "")),
        };
        fields.insert(key.trim().to_string(), value.to_string());
        rest = next;
    }
    fields
}
