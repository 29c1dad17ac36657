//! The client commands of the binary, and the tools they are used with.

use super::wait::wait_for;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("OKLOG_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_oklog").into(), PathBuf::from)
}

/// What a command has left behind.
#[derive(Debug)]
pub struct Finished {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    /// Fails the test unless the command failed with this status and said why in one line.
    pub fn assert_one_sentence(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "not one sentence: {:?}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {:?}", self.stderr);
        }
    }
}

/// The binary with these arguments, without anything of the environment that changes what it does.
pub fn oklog<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").env_remove("RUST_LOG");
    command
}

/// Runs a command to its end with this on its standard input.
pub fn run(mut command: Command, input: &[u8]) -> Finished {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // A command that does not read all of its input ends the writer with an error, as it would a shell's pipe.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let (stdout, stderr) = (collect(stdout.unwrap()), collect(stderr.unwrap()));
    let status = wait_for(&format!("the end of {command:?}"), || child.try_wait().ok().flatten());
    writer.join().unwrap();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    Finished { status: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
}

fn collect(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Runs a line of bash. Its status is that of the last command.
pub fn bash(script: &str) -> Finished {
    let mut command = Command::new("bash");
    command.args(["-c", script]).env("OKLOG", binary());
    run(command, b"")
}

/// Whether a tool is installed. In CI (`CI` is set) a missing one fails the test, elsewhere it says so and skips.
pub fn has_tool(name: &str, package: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()));
    let ci = std::env::var_os("CI").is_some();
    assert!(found || !ci, "{name} is not installed (package {package}); .ci/run installs it");
    if !found {
        println!("SKIPPED: {name} is not installed (package {package})");
    }
    found
}

/// A command that goes on until it is dropped; its output comes line by line.
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    /// Starts it. Its stderr is left to the test's own.
    pub fn start(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (pipe, lines) = (child.stdout.take().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                kept.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Running { child, lines }
    }

    /// The lines it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("its input is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("it reads its input");
    }

    /// Closes its standard input and waits for its end. Gives the exit status.
    pub fn finish(mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        wait_for("the command ends", || self.child.try_wait().ok().flatten()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The files of a directory with this extension.
pub fn files_of(dir: &std::path::Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(extension)).collect();
    files.sort();
    files
}
