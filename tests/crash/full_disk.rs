//! Disks that are full: a small medium for each test, in memory (tmpfs) or in a file (ext4), filled by lines and by a file that is
//! not ours.
//!
//! A medium is mounted in a mount namespace of its own and reached through `/proc/PID/root`, so nothing of it is left however the
//! test ends. Without the right to do that a test says so and proves nothing.

use crate::harness::logs::{assert_same_lines, numbered};
use crate::harness::node::{Role, end, query_target_at};
use crate::harness::{Node, Port, wait_for, wait_until};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Segments move on quickly.
const QUICK: [&str; 3] =
    ["-ingest.segment-flush-age=100ms", "-store.segment-target-age=100ms", "-store.segment-delay=20ms"];

/// What a medium is formatted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Tmpfs,
    /// Tmpfs with room for so many files.
    Inodes(u32),
    /// In a file, over a loop device: with a journal, blocks that are chosen late, and some that are root's alone.
    Ext4,
}

/// A file system of its own size. It is gone with the process that holds it.
struct Medium {
    keeper: Child,
    root: PathBuf,
    _dir: tempfile::TempDir,
}

impl Medium {
    /// `None`, said on stderr, where this user may not mount.
    fn of(format: Format, size: u64) -> Option<Medium> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, image) = (dir.path().join("mounted"), dir.path().join("image"));
        std::fs::create_dir(&path).expect("an empty directory");
        let (path, image) = (path.display().to_string(), image.display());
        let mount = match format {
            Format::Tmpfs => format!("mount -t tmpfs -o size={size} oklog {path}"),
            Format::Inodes(most) => format!("mount -t tmpfs -o size={size},nr_inodes={most} oklog {path}"),
            Format::Ext4 => {
                format!("truncate -s {size} {image} && mkfs.ext4 -q {image} && mount -o loop {image} {path}")
            }
        };
        for unshare in [&["-m"][..], &["-r", "-m"]] {
            let started = Command::new("unshare")
                .args(unshare)
                .args(["sh", "-c", &format!("{mount} && echo ready && exec cat")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            let Ok(mut keeper) = started else { continue };
            let mut word = String::new();
            BufReader::new(keeper.stdout.take().expect("a pipe")).read_line(&mut word).expect("readable");
            let root = PathBuf::from(format!("/proc/{}/root{path}", keeper.id()));
            if word == "ready\n" && std::fs::write(root.join("probe"), b"").is_ok() {
                std::fs::remove_file(root.join("probe")).expect("just written");
                return Some(Medium { keeper, root, _dir: dir });
            }
            // It may have ended already.
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        eprintln!("SKIPPED: this user may mount no {format:?}, not even in a namespace of its own");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The flags that put the tiers there.
    fn flags(&self, tiers: &[&str]) -> Vec<String> {
        tiers.iter().map(|tier| format!("-{tier}.path={}", self.path(tier).display())).collect()
    }

    fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.root).expect("the medium");
        found.f_bavail * found.f_frsize
    }

    /// Somebody else's file, of `size` bytes, or as large as it gets.
    fn foreign(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        let mut file = std::fs::File::create(&path).expect("a name");
        let (piece, mut left) = (vec![b'x'; 4096], size);
        while left > 0 {
            let n = left.min(4096) as usize;
            match file.write_all(&piece[..n]) {
                Ok(()) => left -= n as u64,
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                Err(e) => panic!("{}: {e}", path.display()),
            }
        }
        path
    }

    /// Somebody else's file that has all blocks there are, in a moment.
    fn foreign_at_once(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let file = std::fs::File::create(&path).expect("a name");
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.free()).expect("so much is free");
        path
    }

    /// Somebody else's file, as large as leaves `free` bytes.
    fn foreign_but(&self, name: &str, free: u64) -> PathBuf {
        self.foreign(name, self.free().saturating_sub(free))
    }

    /// The names in a tier's directory.
    fn names(&self, tier: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(tier)).expect("the tier's directory");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// Fails the test if a file was set aside.
    fn assert_nothing_corrupt(&self, tiers: &[&str]) {
        for tier in tiers {
            let names = self.names(tier);
            assert!(names.iter().all(|name| !name.ends_with(".corrupt")), "{tier}: {names:?}");
        }
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn start(role: Role, medium: &Medium, tiers: &[&str], flags: &[&str]) -> Node {
    let paths = medium.flags(tiers);
    let all: Vec<&str> = paths.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    Node::start_as(role, &all)
}

/// A producer that sends lines on one connection for as long as they are taken.
struct Producer {
    sent: Arc<AtomicUsize>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Producer {
    /// Sends all of `lines`, ends, and waits for the answer: `Ok` is a clean close.
    fn start(mut stream: TcpStream, lines: Vec<u8>) -> Producer {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        // It is to be held for as long as it takes.
        stream.set_write_timeout(None).expect("a socket");
        let thread = std::thread::spawn(move || {
            for piece in lines.chunks(16 << 10) {
                stream.write_all(piece)?;
                count.fetch_add(piece.len(), Ordering::Relaxed);
            }
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        });
        Producer { sent, thread }
    }

    /// Waits until nothing more is taken.
    fn wait_held(&self, node: &Node) {
        wait_until("the node says that it is full", || full(node, "ingest"));
        let mut last = usize::MAX;
        wait_until("the connection is held", || {
            std::thread::sleep(Duration::from_millis(100));
            let before = std::mem::replace(&mut last, self.sent.load(Ordering::Relaxed));
            before == last
        });
        assert!(!self.thread.is_finished(), "all was taken, or the connection was closed");
    }

    fn finish(self) -> std::io::Result<()> {
        wait_until("the connection ends", || self.thread.is_finished());
        self.thread.join().expect("no panic")
    }
}

fn full(node: &Node, tier: &str) -> bool {
    node.metric("oklog_disk_full", &[&format!("tier=\"{tier}\"")]) == 1.0
}

fn said(node: &Node, tier: &str, what: &str) -> usize {
    node.stderr().iter().filter(|line| line.contains(what) && line.contains(&format!("tier={tier}"))).count()
}

fn wait_ready(node: &Node) {
    wait_until("the node is ready", || node.get("/ready").status == 200);
}

fn assert_not_ready(node: &Node, why: &str) {
    let ready = node.get("/ready");
    assert_eq!((ready.status, ready.text().contains(why)), (503, true), "{}", ready.text());
}

/// Lines of about 200 bytes, `size` bytes of them.
fn lines(prefix: &str, size: u64) -> Vec<u8> {
    let pad = "a line of a log that says nothing of interest ".repeat(4);
    numbered(&format!("{prefix} {pad}"), (size / 200) as usize)
}

/// The lines of a text, in order, to compare what several connections have sent.
fn sorted(text: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = text.split_inclusive(|&b| b == b'\n').collect();
    lines.sort_unstable();
    lines.concat()
}

#[test]
fn a_full_node_holds_its_connections_says_so_once_answers_queries_and_goes_on_when_there_is_room() {
    Medium::of(Format::Tmpfs, 12 * MIB).into_iter().for_each(|medium| fill_and_free(&medium));
}

#[test]
fn so_it_does_on_a_file_system_with_a_journal() {
    Medium::of(Format::Ext4, 32 * MIB).into_iter().for_each(|medium| fill_and_free(&medium));
}

fn fill_and_free(medium: &Medium) {
    let foreign = medium.foreign_but("foreign", 7 * MIB);
    let node = start(Role::Both, medium, &["ingest", "store"], &QUICK);
    let safe = lines("safe", MIB / 2);
    node.send(Port::Durable, &safe);
    let held = lines("held", 5 * MIB);
    let producer = Producer::start(node.connect(Port::Durable), held.clone());
    producer.wait_held(&node);
    assert_not_ready(&node, "the disk of the ingest tier is full");
    assert_eq!(node.get("/health").status, 200);
    assert!(medium.free() > MIB / 2, "the reserve is not touched: {} bytes are free", medium.free());
    let found = node.everything();
    assert_same_lines(&found[..safe.len().min(found.len())], &safe, "what was acknowledged, while the disk is full");
    let said = || (said(&node, "ingest", "the disk is full"), said(&node, "ingest", "there is room again"));
    let (full_said, room_said) = said();
    // Once for each time: what was just handed over to the store may have made room for a moment.
    assert!(full_said == room_said + 1 && full_said <= 3, "{:?}", node.stderr());

    std::fs::remove_file(foreign).expect("there");
    producer.finish().expect("a clean close: all of it is on the disk");
    wait_ready(&node);
    assert!(!full(&node, "ingest") && !full(&node, "store"));
    let (full_said, room_said) = said();
    assert!(full_said == room_said && full_said <= 3, "{:?}", node.stderr());
    assert_same_lines(&node.everything(), &[safe, held].concat(), "all that was sent");
    medium.assert_nothing_corrupt(&["ingest", "store"]);
}

#[test]
fn retention_makes_room_for_a_producer_that_never_stops() {
    let Some(medium) = Medium::of(Format::Tmpfs, 10 * MIB) else { return };
    let limits = ["-store.max-size=2MiB", "-store.segment-target-size=512KiB"];
    let node = start(Role::Both, &medium, &["ingest", "store"], &[&QUICK[..], &limits].concat());
    let poured = lines("poured", 16 * MIB);
    let producer = Producer::start(node.connect(Port::Durable), poured.clone());
    producer.finish().expect("more than the medium holds was taken, as room was made");
    wait_until("the store fits its limit", || node.metric("oklog_store_segment_bytes", &[]) <= 2.0 * MIB as f64);
    wait_ready(&node);
    let found = node.everything();
    assert!(!found.is_empty() && poured.ends_with(&found), "what is left is what came last, without a gap");
}

#[test]
fn a_full_ingester_is_emptied_by_a_store_that_joins_it_and_goes_on() {
    let Some(medium) = Medium::of(Format::Tmpfs, 8 * MIB) else { return };
    let ingester = start(Role::Ingest, &medium, &["ingest"], &[QUICK[0], "-ingest.drain-timeout=0s"]);
    let held = lines("held", 12 * MIB);
    let producer = Producer::start(ingester.connect(Port::Durable), held.clone());
    producer.wait_held(&ingester);
    assert_not_ready(&ingester, "the disk of the ingest tier is full");
    // Everybody else takes what was kept back; what empties it must work all the same.
    let foreign = medium.foreign("foreign", u64::MAX);
    let first = ingester.get(&query_target_at("/ingest/_query", &[])).lines();
    assert!(held.starts_with(&first) && first.len() as u64 > 4 * MIB, "{} bytes are found", first.len());

    let peer = format!("-peer={}", ingester.wait_for_line(&["port=cluster"]).rsplit('=').next().expect("an address"));
    let store = Node::start_as(Role::Store, &[QUICK[1], QUICK[2], "-store.segment-replication-factor=1", &peer]);
    producer.finish().expect("a clean close: all of it is on some disk");
    std::fs::remove_file(foreign).expect("there");
    wait_until("the store has all", || ingester.metric("oklog_ingest_segments", &[]) == 0.0);
    assert_same_lines(&store.everything(), &held, "all that was sent");
    wait_ready(&ingester);
    medium.assert_nothing_corrupt(&["ingest"]);
}

#[test]
fn a_full_store_refuses_with_507_and_the_copies_go_to_others() {
    let Some(medium) = Medium::of(Format::Tmpfs, 8 * MIB) else { return };
    let ingester = Node::start_as(Role::Ingest, &[QUICK[0], "-ingest.drain-timeout=0s"]);
    let peer = format!("-peer={}", ingester.wait_for_line(&["port=cluster"]).rsplit('=').next().expect("an address"));
    let flags = [QUICK[1], QUICK[2], "-store.segment-replication-factor=2", &peer];
    let foreign = medium.foreign("foreign", 8 * MIB - MIB / 4);
    let stores = [Node::start_as(Role::Store, &flags), Node::start_as(Role::Store, &flags)];
    let paths = medium.flags(&["store"]);
    let full_flags: Vec<&str> = [paths[0].as_str()].into_iter().chain(flags).collect();
    let mut small = Node::launch(Role::Store, &full_flags, None, &std::env::temp_dir());
    small.wait_listening();
    wait_until("the full store knows the others", || small.metric("oklog_cluster_size", &[]) == 4.0);
    wait_until("it is not ready, and says why", || {
        let ready = small.get("/ready");
        ready.status == 503 && ready.text().contains("the disk of the store is full")
    });
    let refused = || small.metric("oklog_api_request_duration_seconds_count", &["status_code=\"507\""]);
    let mut sent = Vec::new();
    // Each batch goes to the stores whose turn it is: sooner or later that is the full one.
    wait_until("it has refused a copy with 507", || {
        let more = numbered(&format!("batch {}", sent.len()), 200);
        ingester.send(Port::Durable, &more);
        sent.extend_from_slice(&more);
        std::thread::sleep(Duration::from_millis(150));
        refused() > 0.0
    });
    wait_until("all is consumed", || ingester.metric("oklog_ingest_segments", &[]) == 0.0);
    for store in &stores {
        let own = store.get(&query_target_at("/store/_query", &[]));
        assert_same_lines(&sorted(&own.lines()), &sorted(&sent), "each of the two others has all");
    }
    assert!(small.get(&query_target_at("/store/_query", &[])).lines().is_empty());
    assert_eq!(said(&small, "store", "the disk is full"), 1, "{:?}", small.stderr());

    std::fs::remove_file(foreign).expect("there");
    wait_ready(&small);
    let mut more = 0;
    wait_until("it takes copies again", || {
        ingester.send(Port::Durable, &numbered(&format!("again {more}"), 10));
        more += 1;
        std::thread::sleep(Duration::from_millis(150));
        !small.get(&query_target_at("/store/_query", &[])).lines().is_empty()
    });
    medium.assert_nothing_corrupt(&["store"]);
}

#[test]
fn a_node_that_is_killed_while_its_disk_is_full_to_the_last_byte_starts_there_and_has_lost_nothing() {
    Medium::of(Format::Tmpfs, 10 * MIB).into_iter().for_each(|medium| kill_while_full(&medium));
}

#[test]
fn so_it_is_where_there_is_a_journal() {
    Medium::of(Format::Ext4, 32 * MIB).into_iter().for_each(|medium| kill_while_full(&medium));
}

fn kill_while_full(medium: &Medium) {
    let first = medium.foreign_but("first", 7 * MIB);
    let mut node = start(Role::Both, medium, &["ingest", "store"], &QUICK);
    let safe = lines("safe", MIB);
    node.send(Port::Durable, &safe);
    let held = lines("held", 9 * MIB);
    let producer = Producer::start(node.connect(Port::Durable), held.clone());
    producer.wait_held(&node);
    let foreign = medium.foreign("foreign", u64::MAX);
    assert_eq!(medium.free(), 0);
    node.kill9();
    assert!(producer.finish().is_err(), "it was reset: nobody promised anything");

    for round in 0..3 {
        node.launch_again();
        node.wait_listening();
        let found = node.everything();
        assert_same_lines(&found[..safe.len().min(found.len())], &safe, "what was acknowledged");
        assert!(held.starts_with(&found[safe.len()..]), "and what else is found is what was sent, in order, once");
        wait_until("it is not ready, and says why", || {
            let ready = node.get("/ready");
            ready.status == 503 && ready.text().contains("full")
        });
        let gave_way = node.stderr().iter().any(|line| line.contains("ballast is given up"));
        assert_eq!(gave_way, round == 0, "what was kept back is there for the first start: {:?}", node.stderr());
        if round < 2 {
            // Another start finds what this one has left.
            medium.foreign(&format!("foreign {round}"), u64::MAX);
            node.kill9();
        }
    }
    for foreign in [first, foreign, medium.path("foreign 0"), medium.path("foreign 1")] {
        std::fs::remove_file(foreign).expect("there");
    }
    wait_ready(&node);
    node.send(Port::Durable, b"after\n");
    assert!(node.everything().ends_with(b"after\n"));
    medium.assert_nothing_corrupt(&["ingest", "store"]);
}

#[test]
fn what_the_fast_port_could_not_write_is_cut_off_and_written_whole_when_there_is_room() {
    let Some(medium) = Medium::of(Format::Tmpfs, 16 * MIB) else { return };
    let flags = ["-ingest.segment-flush-age=1h", "-ingest.drain-timeout=0s"];
    let node = start(Role::Ingest, &medium, &["ingest"], &flags);
    let errors = || node.metric("oklog_ingest_write_errors_total", &["kind=\"write\""]);
    let mut stream = node.connect(Port::Fast);
    // A page that is there already has room for some bytes, also on a full disk: there the line is cut.
    let (mut sent, mut tries) = (b"first\n".to_vec(), 0);
    stream.write_all(&sent).expect("the kernel takes it");
    wait_until("the first line is written", || node.metric("oklog_ingest_writer_records_written_total", &[]) == 1.0);
    while errors() == 0.0 {
        tries += 1;
        assert!(tries <= 20, "the node always looked at its disk just before it wrote");
        // It looks once a second: in between others take all the room there is, the reserve too.
        let foreign = medium.foreign_at_once("foreign");
        let more = lines(&format!("try {tries}"), 40_000);
        stream.write_all(&more).expect("the kernel takes it");
        sent.extend_from_slice(&more);
        wait_until("the node says that it is full", || full(&node, "ingest"));
        for name in medium.names("ingest").iter().filter(|name| name.ends_with(".active")) {
            let path = medium.path("ingest").join(name);
            // It tries to write again now and then, and cuts off what that leaves.
            wait_until("the file ends with a whole record", || {
                std::fs::read(&path).is_ok_and(|content| content.is_empty() || content.ends_with(b"\n"))
            });
        }
        let found = node.get(&query_target_at("/ingest/_query", &[]));
        assert!(found.complete && sent.starts_with(&found.lines()), "what was appended is found, and is whole");
        std::fs::remove_file(foreign).expect("there");
        wait_until("there is room again", || !full(&node, "ingest"));
    }
    end(stream);
    assert_same_lines(&node.get(&query_target_at("/ingest/_query", &[])).lines(), &sent, "all that was sent, once");
    assert_eq!(said(&node, "ingest", "the disk is full"), tries, "{:?}", node.stderr());
    medium.assert_nothing_corrupt(&["ingest"]);
}

#[test]
fn a_disk_without_room_for_another_file_is_full_until_there_is_some() {
    let Some(medium) = Medium::of(Format::Inodes(100), 64 * MIB) else { return };
    let flags = ["-ingest.segment-flush-age=1h", "-ingest.drain-timeout=0s"];
    let node = start(Role::Ingest, &medium, &["ingest"], &flags);
    wait_until("room is kept back", || medium.names("ingest").contains(&"ballast".into()));
    let others: Vec<PathBuf> = (0..100)
        .map(|n| medium.path(&format!("foreign {n}")))
        .take_while(|path| std::fs::File::create(path).is_ok())
        .collect();
    assert!(medium.free() > 32 * MIB && others.len() < 100, "blocks are free, inodes are not");
    let sent = lines("sent", MIB);
    let producer = Producer::start(node.connect(Port::Durable), sent.clone());
    wait_until("it is not ready, and says why", || {
        let ready = node.get("/ready");
        ready.status == 503 && ready.text().contains("full")
    });
    // It is asked ten times a second whether there is room: that must not look like room.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((said(&node, "ingest", "the disk is full"), said(&node, "ingest", "there is room again")), (1, 0));
    others.iter().for_each(|path| std::fs::remove_file(path).expect("there"));
    producer.finish().expect("a clean close");
    assert_same_lines(&node.get(&query_target_at("/ingest/_query", &[])).lines(), &sent, "all that was sent");
    assert_eq!((said(&node, "ingest", "the disk is full"), said(&node, "ingest", "there is room again")), (1, 1));
    wait_ready(&node);
}

#[test]
fn a_node_that_is_told_to_stop_while_its_disk_is_full_ends_and_has_lost_nothing() {
    let Some(medium) = Medium::of(Format::Tmpfs, 8 * MIB) else { return };
    let flags = ["-ingest.segment-flush-age=100ms", "-ingest.drain-timeout=0s"];
    let mut node = start(Role::Ingest, &medium, &["ingest"], &flags);
    let safe = lines("safe", MIB / 2);
    node.send(Port::Durable, &safe);
    let held = lines("held", 12 * MIB);
    let producer = Producer::start(node.connect(Port::Durable), held.clone());
    producer.wait_held(&node);
    node.stop();
    assert!(producer.finish().is_err(), "it was reset: the sender knows");
    node.launch_again();
    node.wait_listening();
    let found = node.get(&query_target_at("/ingest/_query", &[])).lines();
    assert_same_lines(&found[..safe.len().min(found.len())], &safe, "what was acknowledged");
    assert!(held.starts_with(&found[safe.len()..]), "and what else is found is what was sent, in order, once");
    medium.assert_nothing_corrupt(&["ingest"]);
}

#[test]
fn a_limit_on_the_size_of_files_ends_segments_early_and_not_the_process() {
    let node = Node::start_as(Role::Ingest, &["-ingest.segment-flush-age=1h", "-ingest.drain-timeout=0s"]);
    let limited = Command::new("prlimit").args(["--pid", &node.pid().to_string(), "--fsize=1000000"]).status();
    if !limited.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no prlimit (package util-linux)");
        return;
    }
    let sent = lines("sent", 4 * MIB);
    let mut stream = node.connect(Port::Durable);
    stream.write_all(&sent).expect("taken");
    end(stream);
    let found = node.get(&query_target_at("/ingest/_query", &[]));
    assert_same_lines(&found.lines(), &sent, "all that was sent");
    assert!(node.metric("oklog_ingest_segments", &[]) > 3.0, "in several segments");
    let count = |extension: &str| {
        let names = std::fs::read_dir(Path::new(node.dir()).join("ingest")).expect("the tier's directory");
        names.filter(|name| name.as_ref().expect("a name").file_name().to_string_lossy().ends_with(extension)).count()
    };
    assert_eq!(count(".corrupt"), 0);
    wait_for("segments are flushed", || (count(".flushed") >= 3).then_some(()));
}
