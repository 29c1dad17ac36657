//! Where everything is made that a run needs, and that nothing of it stays: neither files nor processes.

use crate::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A directory of this run, and the processes that were started in it.
pub struct Place {
    dir: PathBuf,
    children: Mutex<Vec<u32>>,
}

impl Place {
    /// Makes the directory below `parent`. When the run is interrupted, it is removed and the process ends.
    pub fn new(parent: &Path) -> Outcome<Arc<Place>> {
        let dir = parent.join(format!("oklog-bench.{}", std::process::id()));
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let place = Arc::new(Place { dir: dir.canonicalize()?, children: Mutex::default() });
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let cleared = place.clone();
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                eprintln!("bench: interrupted, removing {}", cleared.dir.display());
                cleared.clear();
                std::process::exit(128 + signal);
            }
        });
        Ok(place)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// An empty directory of this name; what was there is removed.
    pub fn fresh(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.path(name);
        self.remove(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    }

    /// Removes a file or a directory with all in it. What is not there needs no removing.
    pub fn remove(&self, name: &str) {
        let path = self.path(name);
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }

    /// Room on the medium, in bytes.
    pub fn free(&self) -> Outcome<u64> {
        let medium = rustix::fs::statvfs(&self.dir)?;
        Ok(medium.f_bavail * medium.f_frsize)
    }

    /// An error unless there is room for so much.
    pub fn need(&self, bytes: u64) -> Outcome<()> {
        let free = self.free()?;
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        if free < bytes {
            let (dir, need, free) = (self.dir.display(), gib(bytes), gib(free));
            return Err(
                format!("{need:.1} GiB are needed in {dir}, where {free:.1} GiB are free (OKLOG_BENCH_DIR)").into()
            );
        }
        Ok(())
    }

    pub fn adopt(&self, pid: u32) {
        self.children.lock().unwrap().push(pid);
    }

    /// The process was waited for: its number may be given to another from now on.
    pub fn disown(&self, pid: u32) {
        self.children.lock().unwrap().retain(|child| *child != pid);
    }

    /// Ends all processes and removes everything.
    pub fn clear(&self) {
        for pid in self.children.lock().unwrap().drain(..) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        // Processes that are dying may still make files: twice is enough.
        if std::fs::remove_dir_all(&self.dir).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(200));
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
