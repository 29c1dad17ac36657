//! Power cuts on a real file system.
//!
//! An XFS image that can share blocks between files (reflink) is mounted by loop; in it lies an ext4 image, which is mounted
//! by loop too, and there a node runs under load. A copy of the ext4 image at a random moment, which XFS makes at once by
//! sharing blocks, is what a power cut at that moment leaves: what the node has written and ext4 has not, is not in it. The
//! copy is mounted (which replays its journal), a node is started on it, and its answer is held against the ledger: all
//! that was confirmed before the copy was begun is there. What the fast port has taken may be missing as far as it is
//! young; that some of it is, shows that these cuts do lose what was not synced.
//!
//! The mounts are made in a mount namespace of their own (the test runs itself once more in there), so whatever ends this
//! test ends them, and the loop devices with them.

use crate::harness::command::has_tool;
use crate::harness::node::{Role, query_target};
use crate::harness::{Node, Port, wait_for};
use crate::ledger::{Ledger, Owed, missed};
use crate::load::{Load, Target, prefix};
use crate::places::{address, flags_at, seed, short_or_long};
use oklog::world::entropy::Dice;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Set inside of the namespace.
const INSIDE: &str = "OKLOG_TEST_POWER_CUT_INSIDE";

/// How many cuts there are to be. Where it is set, a machine on which this cannot run fails the test.
const CUTS: &str = "OKLOG_TEST_CUTS";

/// A new disk after so many cuts, so that answers stay short.
const CUTS_PER_DISK: usize = 20;

/// The fast port's lines are synced every second. A machine with other work may take two more to come to it.
const YOUNG: Duration = Duration::from_secs(3);

#[test]
fn what_was_confirmed_is_there_after_every_power_cut() {
    if std::env::var_os(INSIDE).is_some() {
        return cut_the_power_again_and_again();
    }
    if let Err(why) = may_mount() {
        assert!(std::env::var_os(CUTS).is_none(), "power cuts cannot be made here: {why}");
        eprintln!("SKIPPED: power cuts cannot be made here: {why}");
        return;
    }
    let name =
        format!("{}::what_was_confirmed_is_there_after_every_power_cut", module_path!().split_once("::").unwrap().1);
    let mut inside = Command::new("unshare");
    inside.arg("--mount").arg(std::env::current_exe().expect("this test")).args(["--exact", &name, "--nocapture"]);
    let status = inside.env(INSIDE, "1").status().expect("unshare starts");
    assert!(status.success(), "inside of the namespace: {status}");
}

/// An error says why this machine cannot do it.
fn may_mount() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may mount".into());
    }
    let tools = [("mkfs.xfs", "xfsprogs"), ("mkfs.ext4", "e2fsprogs"), ("mount", "mount"), ("unshare", "util-linux")];
    if let Some((tool, _)) = tools.into_iter().find(|(tool, package)| !has_tool(tool, package)) {
        return Err(format!("{tool} is not installed"));
    }
    // The modules may be loaded by the first mount, so this is tried, not looked up.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let script = "set -e; truncate -s 300M $0/i; mkfs.xfs -q -m reflink=1 $0/i; mkdir $0/m; mount -o loop $0/i $0/m";
    let out = Command::new("unshare").args(["--mount", "bash", "-c", script]).arg(dir.path()).output();
    let out = out.map_err(|e| format!("unshare: {e}"))?;
    let said = String::from_utf8_lossy(&out.stderr).trim().to_string();
    if out.status.success() { Ok(()) } else { Err(format!("mounting XFS by loop: {said}")) }
}

/// Runs a command that must succeed.
fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// An image that is mounted. Unmounted when dropped.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(image: &Path, at: PathBuf) -> Mounted {
        std::fs::create_dir_all(&at).expect("a directory");
        run("mount", &["-o", "loop", &image.display().to_string(), &at.display().to_string()]);
        Mounted { at }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process may still be ending there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

fn make_image(at: &Path, mega_bytes: u64, tool: &str, args: &[&str]) {
    let file = std::fs::File::create(at).expect("an image");
    file.set_len(mega_bytes << 20).expect("a sparse file");
    run(tool, &[args, &[&at.display().to_string()]].concat());
}

#[derive(Default, Debug)]
struct Counts {
    cuts: usize,
    within_recovery: usize,
    kills: usize,
    /// Confirmed lines that were looked for, over all cuts.
    confirmed_lines: usize,
    /// Lines of the fast port that an answer had shown before the cut, and those of them that it has cost.
    fast_lines: usize,
    fast_lines_lost: usize,
    cuts_with_loss: usize,
}

fn cut_the_power_again_and_again() {
    let given = std::env::var(CUTS).ok().map(|cuts| cuts.parse().expect("a number of cuts"));
    let cuts: usize = given.unwrap_or_else(|| short_or_long(10, 500));
    let (seed, begin) = (seed(), Instant::now());
    println!("power cuts: seed {seed}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    make_image(&dir.path().join("outer.img"), 4_096, "mkfs.xfs", &["-q", "-m", "reflink=1"]);
    let outer = Mounted::new(&dir.path().join("outer.img"), dir.path().join("outer"));
    let (mut dice, mut counts) = (Dice::new(seed), Counts::default());
    while counts.cuts < cuts {
        let until = cuts.min(counts.cuts + CUTS_PER_DISK);
        Machine::start(&outer.at, dice.roll()).cut_until(until, &mut counts);
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("power cuts: {counts:?}, seed {seed}, {seconds:.1} s");
    let Counts { cuts, within_recovery, confirmed_lines, fast_lines, fast_lines_lost, cuts_with_loss, .. } = counts;
    println!("power cuts: {cuts} cuts, and {within_recovery} more while the node recovered from one of them");
    println!("power cuts: {confirmed_lines} confirmed lines looked for, 0 of them lost");
    println!("power cuts: {fast_lines_lost} of {fast_lines} lines of the fast port lost, in {cuts_with_loss} cuts");
    assert!(
        cuts < 10 || fast_lines_lost > 0,
        "no cut has cost anything that was not synced: they are no power cuts, and prove nothing"
    );
}

/// A node under load on a disk of its own.
struct Machine {
    seed: u64,
    dice: Dice,
    outer: PathBuf,
    image: PathBuf,
    // Ended before the disk is unmounted.
    node: Node,
    _disk: Mounted,
    load: Load,
    epoch: usize,
    /// What was owed at a moment, of the last epochs.
    history: Vec<(Instant, Owed)>,
}

/// Starts a node on a disk. Its key is its own: a node and one that runs on a copy of its disk would otherwise meet, and
/// both refuse to be the store that the other one says it is.
fn launch(n: usize, dir: &Path) -> Node {
    let at = address(40, n);
    let mut flags = flags_at(Role::Both, &at, 1, std::slice::from_ref(&at));
    // So that most of the fast port's lines are synced by the second alone.
    flags.push("-ingest.segment-flush-age=1500ms".into());
    let key = dir.with_extension("key");
    std::fs::write(&key, format!("the key of the node on disk {n}\n")).expect("a key");
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("a key of our own");
    flags.push(format!("-cluster.key-file={}", key.display()));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Node::launch_on(Role::Both, &flags, None, dir)
}

impl Machine {
    fn start(outer: &Path, seed: u64) -> Machine {
        let image = outer.join("disk.img");
        make_image(&image, 768, "mkfs.ext4", &["-q", "-F"]);
        let disk = Mounted::new(&image, outer.join("disk"));
        let mut node = launch(0, &disk.at);
        node.wait_ready();
        let target =
            Target { durable: node.address(Port::Durable).to_string(), fast: node.address(Port::Fast).to_string() };
        let load = Load::start(Ledger::default(), seed, &[target]);
        let (dice, outer, history) = (Dice::new(seed), outer.to_path_buf(), Vec::new());
        Machine { seed, dice, outer, image, node, _disk: disk, load, epoch: 0, history }
    }

    fn cut_until(mut self, cuts: usize, counts: &mut Counts) {
        while counts.cuts < cuts {
            self.epoch = self.load.next_epoch();
            if self.dice.one_in(5) {
                // What a killed process had written is not synced by that.
                self.node.kill9();
                self.node.restart();
                counts.kills += 1;
            }
            let moment = Instant::now() + Duration::from_millis(self.dice.below(700));
            while Instant::now() < moment {
                self.look();
            }
            self.cut(counts);
            counts.cuts += 1;
        }
        self.load.finish();
    }

    /// Looks what the node has, of the connections of the last two epochs.
    fn look(&mut self) {
        for epoch in [self.epoch.saturating_sub(1), self.epoch] {
            let owed = self.load.ledger.owed(&prefix(epoch));
            let answer = self.node.query(&[("q", &prefix(epoch))]);
            self.load.ledger.assert_shown(&answer, &owed, &format!("seed {}, epoch {epoch}, before a cut", self.seed));
            self.history.push((Instant::now(), self.load.ledger.owed(&prefix(epoch))));
        }
    }

    fn cut(&mut self, counts: &mut Counts) {
        let confirmed = self.load.ledger.confirmed();
        let mut shown = self.load.ledger.owed("");
        shown.retain(|tag, _| !confirmed.contains_key(tag));
        let now = Instant::now();
        let mut old = confirmed.clone();
        for (_, owed) in self.history.iter().filter(|(at, _)| now.duration_since(*at) > YOUNG) {
            owed.iter().for_each(|(tag, lines)| {
                let known = old.entry(tag.clone()).or_default();
                *known = *lines.max(known);
            });
        }
        let what = format!("seed {}, cut {}", self.seed, counts.cuts);
        let copy = self.copy(&self.image, "cut.img");
        let again = {
            let (mut node, _disk) = self.recover(&copy);
            let again = self.dice.one_in(3).then(|| {
                std::thread::sleep(Duration::from_millis(self.dice.below(60)));
                self.copy(&copy, "again.img")
            });
            counts.confirmed_lines += confirmed.values().sum::<usize>();
            counts.fast_lines += shown.values().sum::<usize>();
            let lost = check(&mut node, &self.load.ledger, &old, &shown, &what);
            counts.fast_lines_lost += lost;
            counts.cuts_with_loss += usize::from(lost > 0);
            node.kill9();
            again
        };
        if let Some(again) = again {
            let (mut node, _disk) = self.recover(&again);
            check(&mut node, &self.load.ledger, &old, &shown, &format!("{what}, once more while it recovered"));
            node.kill9();
            counts.within_recovery += 1;
        }
    }

    /// What a power cut leaves of an image.
    fn copy(&self, image: &Path, name: &str) -> PathBuf {
        let copy = self.outer.join(name);
        // Where the name is taken, a clone into the file would not be made at once.
        let _ = std::fs::remove_file(&copy);
        run("cp", &["--reflink=always", &image.display().to_string(), &copy.display().to_string()]);
        copy
    }

    /// Starts a node on a copy.
    fn recover(&self, copy: &Path) -> (Node, Mounted) {
        let disk = Mounted::new(copy, copy.with_extension("mounted"));
        (launch(1, &disk.at), disk)
    }
}

/// Holds what a node has after a cut against the ledger as it was before. Gives how many lines of `shown` it lacks.
fn check(node: &mut Node, ledger: &Ledger, old: &Owed, shown: &Owed, what: &str) -> usize {
    node.wait_ready();
    let whole = || node.try_get(&query_target(&[])).filter(|answer| (answer.status, answer.complete) == (200, true));
    let answer = wait_for("a whole answer", whole);
    ledger.assert_part(&answer, what);
    let lost = missed(&answer, old, what);
    let some: Vec<_> = lost.iter().take(5).collect();
    let lines: usize = lost.values().sum();
    assert!(lost.is_empty(), "{what}: of what was confirmed, or old, it lacks {lines} lines, among them {some:?}");
    missed(&answer, shown, what).values().sum()
}
