//! What an operator gets: files in the right places, units that systemd takes and that are closed to the rest of the
//! machine, and nothing left after it was taken away again.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, its helpers too

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory to install into, as packagers do.
struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        Stage { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, installed: &str) -> PathBuf {
        self.dir.path().join(installed.trim_start_matches('/'))
    }

    fn read(&self, installed: &str) -> String {
        let path = self.path(installed);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn install(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = script("install");
        command.arg("--destdir").arg(self.dir.path()).args(args);
        command.output().expect("scripts/install runs")
    }

    /// Every file, with its content and its mode.
    fn files(&self) -> BTreeMap<String, (Vec<u8>, u32)> {
        let mut files = BTreeMap::new();
        collect(self.dir.path(), self.dir.path(), &mut files);
        files
    }
}

fn collect(top: &Path, dir: &Path, files: &mut BTreeMap<String, (Vec<u8>, u32)>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            collect(top, &entry.path(), files);
        } else {
            let name = entry.path().strip_prefix(top).unwrap().display().to_string();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            files.insert(format!("/{name}"), (std::fs::read(entry.path()).unwrap(), mode));
        }
    }
}

fn script(name: &str) -> Command {
    let mut command = Command::new(root().join("scripts").join(name));
    command.env_remove("TMPDIR");
    command
}

fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_oklog")
}

fn names_in(dir: &str, extension: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(dir)).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(extension)).collect()
}

/// Whether systemd-analyze is there. In CI it must be; elsewhere its absence is said and the test skipped.
fn has_systemd_analyze() -> bool {
    let found = Command::new("systemd-analyze").arg("--version").output().is_ok_and(|out| out.status.success());
    assert!(found || std::env::var_os("CI").is_none(), "systemd-analyze is not installed; .ci/run installs it");
    if !found {
        println!("SKIPPED: systemd-analyze is not installed (package systemd)");
    }
    found
}

#[test]
fn all_that_belongs_to_it_is_installed_below_the_prefix() {
    let stage = Stage::new();
    stage.install(&["--prefix", "/usr", "--binary", binary()]);
    let files = stage.files();
    let mut expected =
        vec!["/usr/bin/oklog".to_string(), "/etc/default/oklog".into(), "/usr/share/oklog/installed".into()];
    expected.push("/usr/lib/sysusers.d/oklog.conf".into());
    expected.extend(["1", "5", "7", "8"].iter().flat_map(|section| {
        let pages = names_in("man", &format!(".{section}"));
        assert!(!pages.is_empty(), "no pages in section {section}");
        pages.into_iter().map(move |page| format!("/usr/share/man/man{section}/{page}"))
    }));
    for role in ["ingest", "store", "ingeststore", "forward", "forward@"] {
        expected.push(format!("/usr/lib/systemd/system/oklog-{role}.service"));
    }
    expected.sort();
    assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected);
    for (name, (content, mode)) in &files {
        let program = name == "/usr/bin/oklog";
        assert_eq!(*mode, if program { 0o755 } else { 0o644 }, "mode of {name}");
        assert!(!content.is_empty(), "{name} is empty");
        if program {
            assert!(*content == std::fs::read(binary()).unwrap(), "another binary was installed");
        }
    }
}

#[test]
fn units_name_the_binary_where_it_is_and_lie_where_systemd_looks() {
    let places = [
        ("/usr", "/usr/lib/systemd/system"),
        ("/usr/local", "/usr/local/lib/systemd/system"),
        ("/opt/oklog", "/etc/systemd/system"),
    ];
    for (prefix, units) in places {
        let stage = Stage::new();
        stage.install(&["--prefix", prefix, "--binary", binary()]);
        for unit in names_in("scripts/systemd", ".service") {
            let text = stage.read(&format!("{units}/{unit}"));
            let start = text.lines().find(|line| line.starts_with("ExecStart=")).expect("ExecStart");
            assert!(start.contains(&format!("{prefix}/bin/oklog ")), "{unit}: {start}");
            assert!(prefix == "/usr" || !text.contains("/usr/bin/oklog"), "{unit} names two binaries");
        }
    }
}

#[test]
fn to_install_twice_is_to_install_once() {
    let stage = Stage::new();
    stage.install(&["--binary", binary()]);
    let once = stage.files();
    stage.install(&["--binary", binary()]);
    assert!(once == stage.files(), "the second time changed something");
}

#[test]
fn what_is_uninstalled_leaves_nothing_and_takes_nothing_else() {
    let stage = Stage::new();
    std::fs::create_dir_all(stage.path("/usr/local/bin")).unwrap();
    std::fs::write(stage.path("/usr/local/bin/other"), "not ours").unwrap();
    let before = stage.files();
    stage.install(&["--binary", binary()]);
    stage.install(&["--binary", binary()]);
    stage.install(&["--uninstall"]);
    assert_eq!(stage.files(), before);
    assert!(!stage.path("/etc").exists() && !stage.path("/usr/local/share").exists(), "directories are left");
    let again = stage.install(&["--uninstall"]);
    assert!(again.contains("nothing is installed"), "{again}");
}

#[test]
fn a_changed_configuration_is_neither_overwritten_nor_removed() {
    let stage = Stage::new();
    let mine = "OKLOG_STORE_OPTS=\"-peer=log1\"\n";
    stage.install(&["--binary", binary()]);
    std::fs::write(stage.path("/etc/default/oklog"), mine).unwrap();
    stage.install(&["--binary", binary()]);
    assert_eq!(stage.read("/etc/default/oklog"), mine);
    let said = stage.install(&["--uninstall"]);
    assert_eq!(stage.files().into_keys().collect::<Vec<_>>(), ["/etc/default/oklog"]);
    assert_eq!(stage.read("/etc/default/oklog"), mine);
    assert!(said.contains("kept") && said.contains("/etc/default/oklog"), "{said}");
    // And one that was there before the first time is nobody's but the operator's.
    stage.install(&["--binary", binary()]);
    stage.install(&["--uninstall"]);
    assert_eq!(stage.read("/etc/default/oklog"), mine);
}

#[test]
fn a_file_that_a_newer_version_no_longer_has_goes_when_that_is_installed() {
    let stage = Stage::new();
    stage.install(&["--binary", binary()]);
    let (old, list) = (stage.path("/usr/local/share/man/man1/oklog-old.1"), "/usr/local/share/oklog/installed");
    std::fs::write(&old, ".Dd today").unwrap();
    let listed = format!("{}file /usr/local/share/man/man1/oklog-old.1\n", stage.read(list));
    std::fs::write(stage.path(list), listed).unwrap();
    stage.install(&["--binary", binary()]);
    assert!(!old.exists() && !stage.read(list).contains("oklog-old"));
}

#[test]
fn bad_arguments_change_nothing_and_say_why() {
    let stage = Stage::new();
    let cases: [&[&str]; 6] = [
        &["--prefix", "relative", "--binary", binary()],
        &["--prefix", "/a b", "--binary", binary()],
        &["--prefix", "/a%n", "--binary", binary()],
        &["--binary", "/nonexistent/oklog"],
        &["--binary"],
        &["--strange"],
    ];
    for args in cases {
        let out = stage.run(args);
        assert!(!out.status.success() && !out.stderr.is_empty(), "{args:?}: {out:?}");
    }
    assert!(stage.files().is_empty());
}

#[test]
fn every_script_says_what_it_does() {
    for name in [
        "install",
        "build-static",
        "quickstart-combined",
        "quickstart-separate",
        "test-cluster",
        "test-crash",
        "power-cut",
        "fuzz",
        "sim",
        "bench",
    ] {
        for flag in ["-h", "--help"] {
            let out = script(name).arg(flag).output().unwrap();
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success() && said.starts_with(&format!("usage: scripts/{name}")), "{name}: {out:?}");
        }
        let out = script(name).arg("--no-such-option").output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{name}: {out:?}");
    }
}

#[test]
fn servers_are_ready_when_they_say_so_and_have_time_to_drain() {
    for role in ["ingest", "store", "ingeststore"] {
        let path = root().join(format!("scripts/systemd/oklog-{role}.service"));
        let text = std::fs::read_to_string(path).unwrap();
        let value = |key: &str| {
            let mut values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            values.next().unwrap_or_else(|| panic!("{role} has no {key}")).to_string()
        };
        assert_eq!(value("Type"), "notify");
        assert_eq!(value("KillSignal"), "SIGTERM");
        assert_eq!(value("Restart"), "on-failure");
        assert_eq!(value("EnvironmentFile"), "-/etc/default/oklog");
        assert_eq!(value("User"), "oklog");
        assert_eq!(value("StateDirectory"), "oklog");
        // Open connections, drain, good-bye, threads.
        let least = if role == "store" { 12 } else { 10 + 30 + 1 + 10 + 1 };
        let timeout: u64 = value("TimeoutStopSec").trim_end_matches('s').parse().unwrap();
        assert!(timeout > least, "{role}: {timeout} s to stop");
        let (files, tasks): (u64, u64) = (value("LimitNOFILE").parse().unwrap(), value("TasksMax").parse().unwrap());
        let connections = if role == "store" { 0 } else { 16_384 };
        assert!(files > 2 * connections && tasks > connections + 1_000, "{role}: {files} files, {tasks} tasks");
        let options = format!("OKLOG_{}_OPTS", role.to_uppercase());
        assert!(value("ExecStart").ends_with(&format!(" ${options}")), "{}", value("ExecStart"));
        let defaults = std::fs::read_to_string(root().join("scripts/systemd/oklog.default")).unwrap();
        assert!(defaults.contains(&format!("#{options}=")), "{options} is not in oklog.default");
    }
}

#[test]
fn units_name_pages_of_the_manual_that_there_are() {
    for unit in names_in("scripts/systemd", ".service") {
        let text = std::fs::read_to_string(root().join("scripts/systemd").join(&unit)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Documentation=")).expect("Documentation");
        for page in line.split(' ') {
            let file = page.strip_prefix("man:").and_then(|page| page.strip_suffix(')')).expect("a page");
            assert!(root().join("man").join(file.replace('(', ".")).is_file(), "{unit}: {page}");
        }
    }
}

#[test]
fn the_default_file_changes_nothing_until_it_is_edited() {
    let text = std::fs::read_to_string(root().join("scripts/systemd/oklog.default")).unwrap();
    let active: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(active.is_empty(), "{active:?}");
}

#[test]
fn systemd_takes_the_units_without_a_word() {
    if !has_systemd_analyze() {
        return;
    }
    // The path in a unit has to lead to the binary here and now, so the prefix is where the files really are.
    let place = tempfile::tempdir().unwrap();
    let prefix = place.path().join("oklog");
    let stage = Stage::new();
    stage.install(&["--prefix", prefix.to_str().unwrap(), "--binary", binary()]);
    std::os::unix::fs::symlink(stage.path(prefix.to_str().unwrap()), &prefix).unwrap();
    let mut units: Vec<PathBuf> = names_in("scripts/systemd", ".service")
        .iter()
        .map(|unit| stage.path("/etc/systemd/system").join(unit))
        .collect();
    units.retain(|unit| !unit.ends_with("oklog-forward@.service"));
    // A template is judged as one of its instances.
    let instance = place.path().join("oklog-forward@nginx.service.service");
    std::fs::copy(stage.path("/etc/systemd/system/oklog-forward@.service"), &instance).unwrap();
    units.push(instance);
    let out = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty() && out.stdout.is_empty(), "{out:?}");
}

#[test]
fn units_are_closed_to_the_rest_of_the_machine() {
    if !has_systemd_analyze() {
        return;
    }
    for unit in names_in("scripts/systemd", ".service") {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager"]).env("LC_ALL", "C");
        let out = command.arg(root().join("scripts/systemd").join(&unit)).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let level = text.lines().last().and_then(|line| line.split("service: ").nth(1)?.split(' ').next());
        let level: f64 = level.and_then(|level| level.parse().ok()).unwrap_or_else(|| panic!("{unit}: {out:?}"));
        println!("{unit}: exposure {level}");
        assert!(level < 2.0, "{unit}: exposure {level}\n{text}");
    }
}
