//! `oklog forget`: tells the cluster that a silent node will not come back.
//!
//! Any node may be asked; it tells the others. Where the cluster has a key the call is signed with it, and for the very
//! process that is asked, so that process is asked first who it is.
//!
//! Exit status: 0 forgotten, 1 no such silent node, or it is alive, 2 arguments, key or connection are of no use.

use super::client;
use crate::cluster::auth::Keys;
use crate::cluster::signature::HttpSigner;
use crate::cluster::{NODE_HEADER, NodeId};
use crate::http::client::{Callee, Caller, ClientError, Sign};
use crate::http::params::encode_param;
use crate::http::path;
use crate::world::clock::Clock;
use crate::world::entropy::random_u128;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// The node is forgotten.
pub const FORGOTTEN: u8 = 0;
/// Nothing was forgotten: no silent node is called so.
pub const NOT_FORGOTTEN: u8 = 1;
/// The node that was to be asked could not be.
pub const FAILED: u8 = 2;

/// The longest answer that is read, in bytes: a cluster's state has some hundred for each node.
const LONGEST_ANSWER: u64 = 16 << 20;

/// What is to be forgotten, and who is asked.
#[derive(Clone, Debug)]
pub struct ForgetOptions {
    /// The node that is asked, `host:port`.
    pub store: String,
    /// Where the cluster's key is, if it has one.
    pub key_file: Option<PathBuf>,
    /// Who is to be forgotten.
    pub name: String,
}

/// Asks, prints to `out` what was forgotten, complains to `err`, and gives the exit status.
pub fn run(options: &ForgetOptions, clock: &dyn Clock, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let (said, status) = match ask(options, clock) {
        Ok(text) => (out.write_all(text.as_bytes()).and_then(|()| out.flush()), FORGOTTEN),
        Err((complaint, status)) => (writeln!(err, "oklog forget: {complaint}"), status),
    };
    // What was asked for is done or not, whether or not anybody reads it: the exit status says which.
    let _ = said;
    status
}

fn ask(options: &ForgetOptions, clock: &dyn Clock) -> Result<String, (String, u8)> {
    let failed = |error: &dyn std::fmt::Display| (error.to_string(), FAILED);
    let keys = match &options.key_file {
        Some(path) => Keys::read(path).map_err(|error| failed(&error))?,
        None => Keys::none(),
    };
    let me = NodeId(random_u128());
    let signer = HttpSigner::new(keys, me, clock.unix_millis().0);
    let caller = Caller::new(signer.map(|signer| -> Arc<dyn Sign> { Arc::new(signer) }));
    let agent = client::agent();
    let mut callee = Callee { api: options.store.clone(), node: 0 };
    // Every kind of node answers this.
    let state = caller.get(&agent, &callee, path::INGEST_CLUSTER_STATE).map_err(|error| failed(&error))?;
    let node = state.header(NODE_HEADER).and_then(|id| u128::from_str_radix(id, 16).ok());
    callee.node = node.ok_or_else(|| failed(&format!("{} does not say who it is: is it oklog?", options.store)))?;
    let target = format!("{}?name={}", path::CLUSTER_FORGET, encode_param(options.name.as_bytes()));
    let answer = caller.post_empty(&agent, &callee, &target).and_then(|answer| answer.text(LONGEST_ANSWER));
    answer.map_err(|error| match error {
        ClientError::Refused { status: 404 | 409, sentence, .. } => (sentence, NOT_FORGOTTEN),
        ClientError::Refused { status: 401, sentence, .. } => {
            (format!("{sentence}: -cluster.key-file must name the cluster's key"), FAILED)
        }
        other => failed(&other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::State::{Alive, Dead};
    use crate::cluster::view::tests::{claim, me, table};
    use crate::cluster::view::view_of;
    use crate::cluster::{Cluster, Fixed, routes, signature::HttpGuard};
    use crate::http::{Guard, HttpServer, Limits};
    use crate::ops::metrics::Metrics;
    use crate::world::clock::SystemClock;
    use crate::world::crew::{Crew, Stop};
    use crate::world::socket;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    #[test]
    fn the_command_says_what_was_forgotten_or_why_not_and_signs_where_there_is_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let key_file = |name: &str, key: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, key).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let (right, wrong) =
            (key_file("right", "the key of this cluster"), key_file("wrong", "the key of another one"));
        let all = table(&[claim(2, 12, 0, 1, Dead), claim(3, 13, 0, 1, Alive)]);
        let cluster: Arc<dyn Cluster> = Arc::new(Fixed(Arc::new(view_of(&me(), &all))));
        let (metrics, crew, stop) = (Arc::new(Metrics::default()), Crew::default(), Stop::default());
        let clock = Arc::new(SystemClock::default());
        let guard = HttpGuard::new(Keys::read(&right).unwrap(), me().node, clock.clone()).unwrap();
        let guard: Option<Arc<dyn Guard>> = Some(Arc::new(guard));
        let listener = socket::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let routes = routes(&cluster, &metrics);
        let server =
            HttpServer::start(listener, routes, Limits::default(), guard, metrics, crew.clone(), stop.clone()).unwrap();
        let store = server.local_addr().to_string();
        let ask = |key_file: Option<&PathBuf>, name: &str| {
            let options = ForgetOptions { store: store.clone(), key_file: key_file.cloned(), name: name.into() };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let status = run(&options, &*clock, &mut out, &mut err);
            (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
        };
        let (status, out, err) = ask(Some(&right), "10.0.0.2:7650");
        assert_eq!((status, err.as_str()), (0, ""));
        assert!(out.starts_with("10.0.0.2:7650 (store 0") && out.ends_with("again.\n"), "{out}");
        let (status, out, err) = ask(Some(&right), "10.0.0.3:7650");
        assert_eq!((status, out.as_str()), (1, ""));
        assert!(err.starts_with("oklog forget: 10.0.0.3:7650 is alive"), "{err}");
        assert_eq!(ask(Some(&right), "a b&c=%").0, 1);
        for (key_file, name) in [(Some(&wrong), "10.0.0.2:7650"), (None, "10.0.0.2:7650")] {
            let (status, _, err) = ask(key_file, name);
            assert!(status == 2 && err.contains("-cluster.key-file"), "{err}");
        }
        assert_eq!(ask(Some(&dir.path().join("none")), "10.0.0.2:7650").0, 2);
        stop.raise();
        assert_eq!(crew.join_all(Duration::from_secs(20)).panicked, Vec::<String>::new());
    }
}
