//! Files that are not what their names say: what a start of the real binary says and does, and what it answers then.

use crate::harness::command::oklog;
use crate::harness::http::Exchange;
use crate::harness::node::{Node, Port, Role, query_target};
use crate::harness::wait::{wait_for, wait_until};
use oklog::record::id::{Id, StreamBits};
use oklog::record::stored;
use oklog::segment::{Bounds, State};
use oklog::unit::UnixNanos;
use oklog::world::clock::{Clock, SystemClock};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

/// Records whose text is their place, of one stream, a microsecond apart.
struct Series {
    start: UnixNanos,
    stream: StreamBits,
}

impl Series {
    /// The `n`-th series of a test, some minutes old, so that retention leaves it alone.
    fn new(n: u64) -> Series {
        static NOW: OnceLock<UnixNanos> = OnceLock::new();
        let now = NOW.get_or_init(|| SystemClock::default().unix());
        Series { start: UnixNanos(now.0 - 600_000_000_000 + n * 1_000_000_000), stream: StreamBits::from_random(n + 7) }
    }

    fn id(&self, n: u32) -> Id {
        Id::new(UnixNanos(self.start.0 + u64::from(n) * 1_000), self.stream, n)
    }

    fn body(&self, numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
        let mut body = Vec::new();
        numbers.into_iter().for_each(|n| stored::write(&mut body, self.id(n), format!("record {n:06}").as_bytes()));
        body
    }

    fn in_tier(&self, tier: &str, count: u32, state: State) -> String {
        match tier {
            "ingest" => Bounds::From(self.id(0)).file_name(state),
            _ => Bounds::Range(self.id(0), self.id(count - 1), 0).file_name(state),
        }
    }
}

/// The length of a record of a [`Series`].
const RECORD: usize = 26 + 1 + 13 + 1;

/// One wrong file, and what is to come of it.
struct Case {
    name: String,
    content: Vec<u8>,
    /// Ids that are whole in it.
    whole: Vec<Id>,
    /// What the log says of it, if anything.
    said: Vec<&'static str>,
    /// Whether it is set aside.
    aside: bool,
    /// Whether it counts as wrong.
    counts: bool,
}

/// Every sort of damage that can be written as bytes, for one tier.
fn cases(tier: &'static str) -> Vec<Case> {
    let mut made = Vec::new();
    let mut case = |n: u64,
                    damage: &dyn Fn(&mut Vec<u8>) -> Vec<u32>,
                    name: Option<&dyn Fn(&Series) -> String>,
                    said: &[&'static str]| {
        let series = Series::new(n);
        let mut content = series.body(0..500);
        let whole = damage(&mut content).into_iter().map(|n| series.id(n)).collect();
        let name = name.map_or_else(|| series.in_tier(tier, 500, State::Flushed), |name| name(&series));
        made.push(Case { name, content, whole, said: said.to_vec(), aside: true, counts: true });
    };
    let at = |n: usize| n * RECORD;
    case(
        0,
        &|c| {
            c.truncate(at(300) + 10);
            (0..300).collect()
        },
        None,
        &["has no LF", "300 whole records of it go on"],
    );
    case(
        1,
        &|c| {
            c[at(0) + 3] = b'!';
            (1..500).collect()
        },
        None,
        &["at byte 0", "499 whole records"],
    );
    case(
        2,
        &|c| {
            c[at(498)..].fill(0);
            (0..498).collect()
        },
        None,
        &["has no LF", "498 whole records"],
    );
    case(
        3,
        &|c| {
            c.fill(0);
            vec![]
        },
        None,
        &["nothing in it is a record", "another version"],
    );
    case(
        4,
        &|c| {
            c.clear();
            vec![]
        },
        None,
        &["it is empty"],
    );
    case(
        5,
        &|c| {
            *c = b"oklog segment 9\nbinary\x01\x02\n".to_vec();
            vec![]
        },
        None,
        &["at byte 0", "another version"],
    );
    case(
        6,
        &|c| {
            c[at(0)] = b'9';
            c.rotate_left(at(250));
            (1..500).collect()
        },
        None,
        &["set aside"],
    );
    let newer = |s: &Series| format!("{}.unsealed", s.id(0));
    case(7, &|_| vec![], Some(&newer), &["its name is none of ours", "another version"]);
    let person = |_: &Series| "notes.txt".to_string();
    case(8, &|_| vec![], Some(&person), &["its name is none of ours"]);
    let mut right = |n: u64, name: &dyn Fn(&Series) -> String, said: &[&'static str], counts| {
        let series = Series::new(n);
        let whole = (0..500).map(|n| series.id(n)).collect();
        made.push(Case {
            name: name(&series),
            content: series.body(0..500),
            whole,
            said: said.to_vec(),
            aside: false,
            counts,
        });
    };
    right(
        20,
        &|s| format!("{}.flushed", s.id(0).to_string().to_lowercase()),
        &["its name is none", "it goes on as"],
        false,
    );
    right(21, &|s| format!("{}-{}.flushed", s.id(499), s.id(0)), &["its name is none", "it goes on as"], false);
    right(22, &|s| format!("{}-{}-x.flushed", s.id(0), s.id(499)), &["its name is none", "it goes on as"], false);
    right(
        23,
        &|_| "2f1c9c1e-6d0e-4a57-b6c4-b1c1a2d3e4f5.flushed".into(),
        &["its name is none", "it goes on as"],
        false,
    );
    right(24, &|s| s.in_tier(tier, 600, State::Flushed), &["its first and last id are not"], true);
    if tier == "ingest" {
        // The name of an ingest segment says nothing of its end.
        made.last_mut().expect("a case").name = Bounds::From(Series::new(24).id(1)).file_name(State::Flushed);
    }
    made
}

/// Names in a directory.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The content of every file that was set aside.
fn set_aside(dir: &Path) -> Vec<Vec<u8>> {
    let paths = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let aside = paths.filter(|path| path.extension().is_some_and(|extension| extension == "corrupt") && path.is_file());
    aside.map(|path| fs::read(path).expect("readable")).collect()
}

fn ids_of(node: &Node) -> BTreeSet<Id> {
    let ids = node.query(&[]).ids();
    let all: BTreeSet<Id> = ids.iter().map(|id| Id::parse(id.as_bytes()).expect("an id")).collect();
    assert_eq!(all.len(), ids.len(), "a record comes twice");
    all
}

fn complaints(node: &Node) -> Vec<String> {
    let wrong = ["set aside", "goes on", "go on", "left as it is", "cut off", "removed"];
    node.stderr().into_iter().filter(|line| wrong.iter().any(|word| line.contains(word))).collect()
}

fn a_start_over_wrong_files(tier: &'static str) {
    let mut node = Node::start_quick(&["-store.segment-retain=1h"]);
    node.stop();
    let dir = node.dir().join(tier);
    let cases = cases(tier);
    let mut expected = BTreeSet::new();
    for case in &cases {
        fs::write(dir.join(&case.name), &case.content).expect("written");
        expected.extend(case.whole.iter().copied());
    }
    // What is no plain file, and a file that was set aside long ago.
    let strange = Series::new(90).in_tier(tier, 9, State::Flushed);
    fs::create_dir(dir.join(&strange)).expect("made");
    fs::write(dir.join(&strange).join("inside"), "kept").expect("written");
    let link = Series::new(91).in_tier(tier, 9, State::Flushed);
    std::os::unix::fs::symlink("/etc/passwd", dir.join(&link)).expect("made");
    let pipe = Series::new(92).in_tier(tier, 9, State::Flushed);
    rustix::fs::mknodat(rustix::fs::CWD, dir.join(&pipe), rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
    let socket = Series::new(93).in_tier(tier, 9, State::Flushed);
    drop(std::os::unix::net::UnixListener::bind(dir.join("s")).expect("bound"));
    fs::rename(dir.join("s"), dir.join(&socket)).expect("renamed");
    fs::create_dir(dir.join("lost+found")).expect("made");
    fs::write(dir.join("earlier.corrupt"), "as it is").expect("written");

    node.restart();
    let wrong = cases.iter().filter(|case| case.counts).count() + 4;
    wait_until("all that is whole answers", || ids_of(&node) == expected);
    assert_eq!(node.metric("oklog_corrupt_files_total", &[&format!("tier=\"{tier}\"")]), wrong as f64);
    for case in &cases {
        let line = node.wait_for_line(&[&format!("{tier}/{}: ", case.name)]);
        case.said.iter().for_each(|part| assert!(line.contains(part), "{part:?} is not in {line}"));
        assert_eq!(set_aside(&dir).contains(&case.content), case.aside, "{}", case.name);
    }
    for name in [&strange, &link, &pipe, &socket] {
        node.wait_for_line(&[name, "it is no plain file: set aside as"]);
        assert!(names(&dir).contains(&format!("{name}.corrupt")) && !names(&dir).contains(name));
    }
    assert!(dir.join(format!("{strange}.corrupt/inside")).is_file());
    let aside = cases.iter().filter(|case| case.aside).count() + 4;
    node.wait_for_line(&[&format!("{aside} files set aside"), "whole records of them go on"]);
    assert_eq!(fs::read(dir.join("earlier.corrupt")).expect("there"), b"as it is");

    let before: BTreeSet<String> = names(&dir).into_iter().filter(|name| name.ends_with(".corrupt")).collect();
    node.kill9();
    node.restart();
    assert_eq!(complaints(&node), Vec::<String>::new(), "it was said once");
    assert_eq!(node.metric("oklog_corrupt_files_total", &[]), 0.0);
    let after: BTreeSet<String> = names(&dir).into_iter().filter(|name| name.ends_with(".corrupt")).collect();
    assert_eq!((after, ids_of(&node)), (before, expected));
}

#[test]
fn an_ingest_directory_with_every_sort_of_damage_gives_what_is_whole_and_keeps_the_rest() {
    a_start_over_wrong_files("ingest");
}

#[test]
fn a_store_directory_with_every_sort_of_damage_gives_what_is_whole_and_keeps_the_rest() {
    a_start_over_wrong_files("store");
}

#[test]
fn what_a_power_cut_leaves_of_an_active_segment_is_cut_off_with_a_word_and_no_alarm() {
    let mut node = Node::start_quick(&[]);
    node.stop();
    let dir = node.dir().join("ingest");
    let tails: [&[u8]; 3] = [b"01", &[0; 10_000], b""];
    for (n, tail) in (0..).zip(tails) {
        let series = Series::new(n);
        let content = [&series.body(0..100)[..], tail].concat();
        fs::write(dir.join(series.in_tier("ingest", 100, State::Active)), content).expect("written");
    }
    fs::write(dir.join(Series::new(50).in_tier("ingest", 1, State::Active)), [0; 100]).expect("written");
    node.restart();
    assert_eq!(ids_of(&node).len(), 300);
    let line = node.wait_for_line(&["the last 10000 bytes, from byte 4100 on", "they are cut off"]);
    assert!(line.contains("level=info"), "{line}");
    node.wait_for_line(&["level=info", "no record in its 100 bytes came to its end"]);
    assert_eq!(node.metric("oklog_corrupt_files_total", &[]), 0.0);
    assert!(names(&dir).iter().all(|name| !name.ends_with(".corrupt")));
}

#[test]
fn a_query_that_comes_to_damage_in_a_store_segment_is_cut_off_and_the_next_ones_have_what_is_whole() {
    for is_hole in [false, true] {
        let mut node = Node::start_quick(&["-store.segment-retain=1h"]);
        node.stop();
        let (dir, series) = (node.dir().join("store"), Series::new(0));
        let mut content = series.body(0..40_000);
        let at = 20_000 * RECORD;
        let lost: BTreeSet<Id> = if is_hole {
            let hole = at / 4096 * 4096..at / 4096 * 4096 + 8192;
            content[hole.clone()].fill(0);
            (hole.start / RECORD..hole.end.div_ceil(RECORD)).map(|n| series.id(n as u32)).collect()
        } else {
            content[at + 4] = b'!';
            [series.id(20_000)].into()
        };
        let name = series.in_tier("store", 40_000, State::Flushed);
        fs::write(dir.join(&name), &content).expect("written");
        node.restart();
        assert_eq!(complaints(&node), Vec::<String>::new(), "its two ends are right");
        // A needle that is not in the damaged part: what is not found there must not pass for the whole.
        let target = query_target(&[("q", "record 039999")]);
        let first = node.get(&target);
        assert!(first.status != 200 || !first.complete, "hole: {is_hole}: damage was passed over in silence");
        node.wait_for_line(&[&name, "is damaged"]);
        node.wait_for_line(&[&format!("{name}: "), "set aside as", "whole records of it go on"]);
        assert_eq!(node.metric("oklog_corrupt_files_total", &["tier=\"store\""]), 1.0);
        let expected: BTreeSet<Id> = (0..40_000).map(|n| series.id(n)).filter(|id| !lost.contains(id)).collect();
        assert_eq!(ids_of(&node), expected, "hole: {is_hole}");
        assert_eq!(set_aside(&dir), [content]);
        node.kill9();
        node.restart();
        assert_eq!((complaints(&node), ids_of(&node)), (vec![], expected));
    }
}

#[test]
fn damaged_marks_members_and_identities_are_set_aside_and_the_node_starts() {
    let mut node = Node::start_quick(&[]);
    node.stop();
    let (ingest, store) = (node.dir().join("ingest"), node.dir().join("store"));
    let id = names(&store).into_iter().find(|name| name.ends_with(".store")).expect("an id");
    fs::remove_file(store.join(&id)).expect("there");
    fs::create_dir(store.join(&id)).expect("made");
    fs::write(ingest.join("0123.mark"), "x").expect("written");
    let members = fs::read_to_string(store.join("members")).expect("there");
    fs::write(store.join("members"), format!("{members}api=?\n")).expect("written");
    node.restart();
    node.wait_for_line(&["members", "1 lines cannot be read", "set aside as"]);
    node.wait_for_line(&[&id, "it is no plain file"]);
    node.wait_for_line(&["0123.mark", "its name is none of ours"]);
    assert!(store.join(&id).is_file() && store.join(format!("{id}.corrupt")).is_dir());
    node.stop();
    node.restart();
    assert_eq!(complaints(&node), Vec::<String>::new());
    assert!(store.join(&id).is_file());
    // A pipe where the table of members was would hold up whoever opens it.
    node.stop();
    fs::remove_file(store.join("members")).expect("there");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, store.join("members"), fifo, 0o600.into(), 0).expect("made");
    node.restart();
    node.wait_for_line(&["members", "it is no plain file: set aside as"]);
}

#[test]
fn a_name_that_is_not_utf_8_is_left_alone_and_the_node_starts() {
    use std::os::unix::ffi::OsStrExt;
    let mut node = Node::start_quick(&[]);
    node.stop();
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe.flushed");
    for tier in ["ingest", "store"] {
        fs::write(node.dir().join(tier).join(name), "mine").expect("written");
    }
    node.restart();
    for tier in ["ingest", "store"] {
        node.wait_for_line(&[tier, "its name is not UTF-8: it is left alone"]);
        assert_eq!(fs::read(node.dir().join(tier).join(name)).expect("there"), b"mine");
    }
}

#[test]
fn the_directory_of_the_other_tier_is_refused_and_not_touched() {
    let mut node = Node::start_quick(&[]);
    node.send(Port::Fast, b"one\n");
    node.wait_consumed();
    node.stop();
    let store = node.dir().join("store");
    let before = names(&store);
    let mut flags: Vec<String> = node.flags_of_a_twin();
    flags.retain(|flag| !flag.starts_with("-store.") && !flag.starts_with("-ingest.path"));
    flags.push(format!("-ingest.path={}", store.display()));
    let mut command = oklog(["ingest"]);
    command.args(flags);
    let ended = crate::harness::command::run(command, b"");
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("it is the directory of another tier"), "{ended:?}");
    assert_eq!(names(&store), before);
}

/// A process of another user, to whom permissions apply: they do not to root.
struct Guest {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

/// Nobody, by number.
const NOBODY: u32 = 65_534;

impl Guest {
    fn start(dir: &Path) -> Guest {
        let mut command = oklog(["ingeststore"]);
        for port in ["api", "cluster", "ingest.fast", "ingest.durable", "ingest.bulk"] {
            command.arg(format!("-{port}=tcp://127.0.0.1:0"));
        }
        let path = |tier: &str| format!("-{tier}.path={}", dir.join(tier).display());
        command.args([path("ingest"), path("store")]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().expect("the binary starts, and another user may run it");
        let (pipe, lines) = (child.stderr.take().expect("a pipe"), Arc::new(Mutex::new(Vec::new())));
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Guest { child, lines }
    }

    fn wait_for_line(&self, parts: &[&str]) -> String {
        wait_for(&format!("a line with {parts:?}"), || {
            let lines = self.lines.lock().unwrap();
            lines.iter().find(|line| parts.iter().all(|part| line.contains(part))).cloned()
        })
    }

    /// Waits until it is ready and gives the ids that a query finds.
    fn ids(&self) -> usize {
        self.wait_for_line(&["msg=\"ready\""]);
        let line = self.wait_for_line(&["msg=\"listening\" port=api"]);
        let address = line.rsplit("address=").next().expect("an address").trim().to_string();
        Exchange::open(&address, "GET", &query_target(&[])).expect("it answers").finish().ids().len()
    }

    fn status(&mut self) -> Option<i32> {
        wait_for("it ends", || self.child.try_wait().ok().flatten()).code()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fresh place that belongs to the user of a [`Guest`], with both tiers' directories. `None` where that user cannot run
/// the binary.
fn place_for_a_guest() -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let is_open = |path: &Path| path.metadata().is_ok_and(|found| found.permissions().mode() & 0o005 == 0o005);
    let binary = crate::harness::command::binary();
    let reachable = binary.ancestors().chain(dir.path().ancestors()).filter(|path| !path.as_os_str().is_empty());
    if rustix::process::geteuid().is_root() && !reachable.clone().all(is_open) {
        println!("SKIPPED: permissions do not bind root, and another user cannot reach {}", binary.display());
        eprintln!("SKIPPED: permissions do not bind root, and another user cannot reach {}", binary.display());
        return None;
    }
    for tier in ["ingest", "store"] {
        fs::create_dir(dir.path().join(tier)).expect("made");
        give(&dir.path().join(tier));
    }
    let path = dir.path().to_path_buf();
    Some((dir, path))
}

fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
}

#[test]
fn files_without_permission_are_set_aside_and_the_others_answer() {
    let Some((_held, dir)) = place_for_a_guest() else { return };
    for (n, tier) in [(0, "ingest"), (10, "store")] {
        for (n, mode) in [(n, 0o000), (n + 1, 0o400), (n + 2, 0o640)] {
            let series = Series::new(n);
            let path = dir.join(tier).join(series.in_tier(tier, 50, State::Flushed));
            fs::write(&path, series.body(0..50)).expect("written");
            give(&path);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        }
    }
    let guest = Guest::start(&dir);
    assert_eq!(guest.ids(), 200, "what may be read answers");
    for (n, tier) in [(0, "ingest"), (10, "store")] {
        let name = Series::new(n).in_tier(tier, 50, State::Flushed);
        guest.wait_for_line(&[&name, "it cannot be read: Permission denied", "set aside as", "make it readable"]);
        let aside = dir.join(tier).join(format!("{name}.corrupt"));
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o640)).expect("ours");
        fs::rename(&aside, dir.join(tier).join(&name)).expect("back");
    }
    drop(guest);
    assert_eq!(Guest::start(&dir).ids(), 300, "as the message said");
}

#[test]
fn a_directory_without_permission_is_refused_in_one_sentence_that_names_it() {
    for (tier, mode) in [("ingest", 0o300), ("ingest", 0o500), ("store", 0o300), ("store", 0o500), ("store", 0o000)] {
        let Some((_held, dir)) = place_for_a_guest() else { return };
        fs::write(dir.join(tier).join("notes.txt"), "mine").expect("written");
        fs::set_permissions(dir.join(tier), fs::Permissions::from_mode(mode)).expect("ours");
        let mut guest = Guest::start(&dir);
        assert_eq!(guest.status(), Some(1), "{tier} {mode:o}");
        let path = dir.join(tier).display().to_string();
        let line = guest.wait_for_line(&["level=error", &path, "Permission denied", "must belong to the user"]);
        assert!(!line.contains("panicked"), "{line}");
        fs::set_permissions(dir.join(tier), fs::Permissions::from_mode(0o700)).expect("ours");
        assert!(names(&dir.join(tier)).contains("notes.txt"), "{tier} {mode:o}: untouched");
    }
}

#[test]
fn an_ingester_alone_takes_what_the_go_ok_log_left_and_offers_it() {
    let mut node = Node::start_as(Role::Ingest, &["-ingest.drain-timeout=0s"]);
    node.stop();
    let (dir, series) = (node.dir().join("ingest"), Series::new(0));
    for (name, numbers) in [("0a1b-c2.flushed", 0..10), ("0a1b-c3.pending", 10..20), ("0a1b-c4.active", 20..30)] {
        fs::write(dir.join(name), series.body(numbers)).expect("written");
    }
    node.restart();
    let flushed: BTreeSet<String> = [0, 10, 20].map(|n| Bounds::From(series.id(n)).file_name(State::Flushed)).into();
    assert!(names(&dir).is_superset(&flushed), "{:?}", names(&dir));
    assert_eq!(node.metric("oklog_ingest_segments", &["state=\"flushed\""]), 3.0);
    assert_eq!(node.metric("oklog_corrupt_files_total", &[]), 0.0);
}
