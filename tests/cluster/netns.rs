//! Machines without machines: each in a network namespace of its own, with a cable to a switch that can be cut in two.
//!
//! The switch is a namespace too, with a bridge per half, so nothing of the host's network is touched. A cut moves cables
//! to the other bridge: whatever is sent across is lost without a word, as on a broken link.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The place of one machine.
pub struct Wire {
    namespace: String,
}

impl Wire {
    /// A command that will run there.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Does something there: sockets that are opened meanwhile belong to that place.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.namespace)).expect("the namespace");
        let there = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("going there");
            work()
        };
        // A thread that has gone there never comes back.
        std::thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A switch with machines. Removed when dropped.
pub struct Switch {
    namespace: String,
    pub wires: Vec<Arc<Wire>>,
}

/// Runs `ip` with these words.
fn ip(words: &str) -> Result<(), String> {
    let out = Command::new("ip").args(words.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("ip {words}: {}", String::from_utf8_lossy(&out.stderr).trim())),
    }
}

impl Switch {
    /// Machines with the addresses 10.99.0.1 and so on: all namespaces are apart, so every switch may have the same.
    /// An error says why this machine has none.
    pub fn with_machines(count: usize) -> Result<Switch, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("oklog-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut switch = Switch { namespace: format!("{name}-switch"), wires: Vec::new() };
        let hub = switch.namespace.clone();
        ip(&format!("netns add {hub}"))?;
        for half in ["left", "right"] {
            ip(&format!("-n {hub} link add {half} type bridge"))?;
            ip(&format!("-n {hub} link set {half} up"))?;
        }
        for n in 0..count {
            let namespace = format!("{name}-{n}");
            ip(&format!("netns add {namespace}"))?;
            switch.wires.push(Arc::new(Wire { namespace: namespace.clone() }));
            ip(&format!("-n {hub} link add port{n} type veth peer name eth0 netns {namespace}"))?;
            ip(&format!("-n {hub} link set port{n} master left up"))?;
            ip(&format!("-n {namespace} address add {}/24 dev eth0", address(n)))?;
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
        }
        Ok(switch)
    }

    /// Cuts the switch in two: these machines are alone with each other, and so are the others.
    pub fn cut_off(&self, machines: &[usize]) {
        machines.iter().for_each(|n| self.plug(*n, "right"));
    }

    /// Makes it whole again.
    pub fn heal(&self) {
        (0..self.wires.len()).for_each(|n| self.plug(n, "left"));
    }

    fn plug(&self, n: usize, half: &str) {
        ip(&format!("-n {} link set port{n} master {half}", self.namespace)).expect("a cable can be moved");
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for namespace in self.wires.iter().map(|wire| &wire.namespace).chain([&self.namespace]) {
            if let Err(e) = ip(&format!("netns delete {namespace}")) {
                println!("{e}");
            }
        }
    }
}

/// The address of machine `n`.
pub fn address(n: usize) -> String {
    format!("10.99.0.{}", n + 1)
}
