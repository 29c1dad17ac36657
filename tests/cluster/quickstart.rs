//! The two quickstarts: from the first line of output to the end after Ctrl-C.

use crate::harness::command::{binary, oklog, run};
use crate::harness::http::Exchange;
use crate::harness::wait::wait_for;
use crate::harness::within;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Ends the nodes too if the test fails: the script does so whatever ends it, but for a kill -9.
struct Script {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn start(name: &str, dir: &Path) -> Script {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
        let mut command = Command::new(script);
        command.arg("--binary").arg(binary()).arg("--dir").arg(dir);
        // A group of its own: what Ctrl-C reaches in a terminal.
        let mut child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("bash");
        let (pipe, said) = (child.stdout.take().expect("a pipe"), Arc::<Mutex<Vec<String>>>::default());
        let kept = said.clone();
        std::thread::spawn(move || {
            BufReader::new(pipe).lines().map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line));
        });
        Script { child, said }
    }

    fn press_ctrl_c(&self) {
        kill_process_group(Pid::from_child(&self.child), Signal::INT).expect("a group can be signalled");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn starts_answers_and_stops(name: &str, ingester: &str, store: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut script = Script::start(name, dir.path());
    within(Duration::from_secs(90), &format!("{name} says that its nodes are ready"), || {
        if let Ok(Some(status)) = script.child.try_wait() {
            panic!("{name} ended while it should start: {status}");
        }
        let said = script.said.lock().unwrap().join("\n");
        if said.contains(" are ready.") { Ok(()) } else { Err(said) }
    });
    TcpStream::connect((ingester, 7651)).expect("the fast port").write_all(b"the first line\n").unwrap();
    wait_for("the line is found at a store", || {
        let asked = run(oklog(["query", "-store", store, "-from", "5m", "-q", "first line"]), b"");
        (asked.status == Some(0) && asked.stdout == b"the first line\n").then_some(())
    });
    script.press_ctrl_c();
    let status = wait_for(&format!("{name} ends after Ctrl-C"), || script.child.try_wait().ok().flatten());
    assert!(status.success(), "{name}: {status}: {:?}", script.said.lock().unwrap());
    assert!(Exchange::open(&format!("{store}:7650"), "GET", "/health").is_err(), "{name} left a node behind");
    assert!(std::fs::read_dir(dir.path()).unwrap().count() >= 3, "--dir keeps what is in it");
}

#[test]
fn quickstarts_start_answer_and_stop_on_ctrl_c() {
    // They take the default ports on the first addresses of loopback, as a person has them.
    for n in 1..=6 {
        if let Err(e) = TcpListener::bind((format!("127.0.0.{n}").as_str(), 7650)) {
            return println!("SKIPPED: the quickstarts cannot have 127.0.0.{n}:7650: {e}");
        }
    }
    starts_answers_and_stops("quickstart-combined", "127.0.0.2", "127.0.0.3");
    starts_answers_and_stops("quickstart-separate", "127.0.0.2", "127.0.0.5");
}
