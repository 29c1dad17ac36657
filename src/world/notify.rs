//! Word to the service manager: ready, stopping, what is being done (sd_notify(3)).
//!
//! Each word is one datagram of lines `NAME=value` to the socket that the variable `NOTIFY_SOCKET` names: by its path or,
//! with `@` in front, by its name in the abstract namespace (unix(7)). Without the variable nothing is said. That a word
//! could not be sent is logged once; nothing here keeps a server from serving.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The variable that names the socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// How long a manager that does not read may hold us up.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the service manager, if there is one.
pub struct Notify {
    manager: Option<(UnixDatagram, SocketAddr)>,
    complained: AtomicBool,
}

impl Notify {
    /// As the environment says.
    pub fn from_environment() -> Notify {
        Notify::to(std::env::var_os(VARIABLE).as_deref())
    }

    /// To the socket of this name; `None`: to nobody.
    pub fn to(name: Option<&OsStr>) -> Notify {
        let mut notify = Notify { manager: None, complained: AtomicBool::new(false) };
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            match open(name) {
                Ok(manager) => notify.manager = Some(manager),
                Err(e) => notify.complain(&e),
            }
        }
        notify
    }

    /// The server takes work.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}\n", one_line(status)));
    }

    /// The server is on its way out.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping\n");
    }

    /// What the server is doing, in a few words.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}\n", one_line(status)));
    }

    /// What the server is doing, and that it asks for so much time from now until it says more: the manager's own limit
    /// for starting or stopping holds no earlier than that.
    pub fn working(&self, status: &str, more: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS={}\n", more.as_micros(), one_line(status)));
    }

    fn send(&self, word: &str) {
        if let Some((socket, manager)) = &self.manager
            && let Err(e) = socket.send_to_addr(word.as_bytes(), manager)
        {
            self.complain(&e);
        }
    }

    fn complain(&self, error: &io::Error) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            log::warn!("telling the service manager at {VARIABLE}: {error}");
        }
    }
}

fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path from the root nor @ and a name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok((socket, manager))
}

/// A status with a line feed in it would be taken for two words.
fn one_line(status: &str) -> String {
    status.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::random_u64;

    fn heard(manager: &UnixDatagram) -> String {
        let mut word = [0; 1024];
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let len = manager.recv(&mut word).unwrap();
        String::from_utf8(word[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_at_a_path_hears_each_word_as_one_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manager");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::to(Some(path.as_os_str()));
        notify.status("recovering");
        notify.ready("serving");
        notify.stopping();
        notify.working("draining: 3\nREADY=1", Duration::from_millis(1500));
        assert_eq!(heard(&manager), "STATUS=recovering\n");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving\n");
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=stopping\n");
        assert_eq!(heard(&manager), "EXTEND_TIMEOUT_USEC=1500000\nSTATUS=draining: 3 READY=1\n");
    }

    #[test]
    fn a_manager_at_an_abstract_name_hears_too() {
        let name = format!("oklog-test-{:016x}", random_u64());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notify::to(Some(format!("@{name}").as_ref())).ready("serving");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving\n");
    }

    #[test]
    fn without_a_manager_or_with_one_that_is_gone_nothing_fails() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let names = [None, Some(OsStr::new("")), Some(gone.as_os_str()), Some(OsStr::new("vsock:2:1234"))];
        for (name, fails) in names.into_iter().zip([false, false, true, true]) {
            let notify = Notify::to(name);
            notify.ready("serving");
            notify.stopping();
            assert_eq!(notify.complained.load(Ordering::Relaxed), fails, "{name:?}");
        }
    }
}
