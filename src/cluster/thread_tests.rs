use super::*;
use crate::cluster::State;
use crate::cluster::{DataId, PeerKind};
use crate::world::clock::SystemClock;
use crate::world::fs::memory::MemoryFs;
use crate::world::socket;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Longer than anything here takes on a busy machine; nothing waits for it that goes well.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node with its own disk, clock and threads.
struct Bench {
    node: Arc<Node>,
    at: SocketAddr,
    metrics: Arc<Metrics>,
    stop: Stop,
    crew: Crew,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.raise();
        assert_eq!(self.crew.join_all(PATIENCE).late, Vec::<String>::new());
    }
}

fn quick() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        period: ms(100),
        probe: ms(160),
        within: ms(90),
        pings: vec![ms(0), ms(20), ms(40)],
        helps: vec![ms(60), ms(80)],
        gossip: ms(10),
        rejoin: ms(200),
        rejoin_alone: ms(50),
        exchange: ms(300),
        ..Timing::default()
    }
}

fn keys(text: &str) -> Keys {
    if text.is_empty() { Keys::none() } else { Keys::parse(text.as_bytes(), Path::new("keys")).unwrap() }
}

/// Starts process `id`, which serves the store `store`, on a disk.
fn start(id: u128, store: u128, key: &str, peers: &[SocketAddr], fs: &Arc<MemoryFs>) -> Bench {
    let socket = socket::datagrams(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let at = socket.local_addr().unwrap();
    let (clock, metrics): (Arc<dyn Clock>, _) = (Arc::new(SystemClock::default()), Arc::new(Metrics::default()));
    let (crew, stop) = (Crew::default(), Stop::default());
    let api = SocketAddr::from(([127, 0, 0, 1], at.port() ^ 1));
    let meta = Meta {
        kind: PeerKind::Store,
        gossip: at,
        api,
        store: Some(DataId(store)),
        ingest: None,
        replicas: 2,
        start: 0,
    };
    fs.create_dir_all(Path::new("/data")).unwrap();
    // A name that nobody knows at first.
    let named = |peer: &SocketAddr| {
        let (peer, tries) = (*peer, AtomicU32::new(0));
        let resolve = move || match tries.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Err(io::Error::other("no such name")),
            _ => Ok(vec![at, peer]),
        };
        Named { name: peer.to_string(), resolve: Box::new(resolve) }
    };
    let node = Node::start(Setup {
        socket,
        node: NodeId(id),
        meta,
        timing: quick(),
        keys: keys(key),
        peers: peers.iter().map(named).collect(),
        load: Box::new(move || Load { waiting: 0, stored: id as u64 }),
        dir: "/data".into(),
        dice: Dice::new(id as u64),
        is_new: false,
        fs: fs.clone(),
        clock,
        metrics: metrics.clone(),
        crew: crew.clone(),
        stop: stop.clone(),
    });
    Bench { node: node.unwrap(), at, metrics, stop, crew }
}

fn disk() -> Arc<MemoryFs> {
    Arc::default()
}

impl Bench {
    fn waits_for(&self, what: &str, seen: impl Fn(&View) -> bool) {
        let reached = self.node.wait_until(PATIENCE, |_, _| seen(&self.node.view()));
        assert!(reached, "{what}: {:?}", self.node.view());
    }

    fn sees(&self, others: &[u128], silent: &[u128]) {
        let ids = |peers: &[Peer]| {
            let mut ids: Vec<u128> = peers.iter().map(|peer| peer.node.0).collect();
            ids.sort_unstable();
            ids
        };
        self.waits_for("the view", |view| ids(&view.others) == others && ids(&view.silent) == silent);
    }

    fn refused(&self, why: Refused) -> u64 {
        self.metrics.counter(m::CLUSTER_REFUSED, &[why.label()]).get()
    }
}

#[test]
fn two_nodes_meet_with_a_key_and_without() {
    for key in ["", "the key of this cluster"] {
        let a = start(1, 11, key, &[], &disk());
        assert!(!lock(&a.node.member).is_joined());
        let b = start(2, 12, key, &[a.at], &disk());
        let joined = |bench: &Bench| bench.node.wait_until(PATIENCE, |member, _| member.is_joined());
        assert!(joined(&b) && joined(&a));
        a.sees(&[2], &[]);
        b.sees(&[1], &[]);
    }
}

#[test]
fn a_store_that_leaves_is_silent_until_its_directory_is_served_again_or_it_is_forgotten() {
    let (a, disk_of_b) = (start(1, 11, "", &[], &disk()), disk());
    let b = start(2, 12, "", &[a.at], &disk_of_b);
    a.sees(&[2], &[]);
    let name = b.node.view().me.name();
    assert!(b.node.leave(true, PATIENCE));
    a.sees(&[], &[2]);
    drop(b);

    let again = start(3, 12, "", &[a.at], &disk_of_b);
    a.sees(&[3], &[]);
    again.sees(&[1], &[]);
    a.waits_for("what it says of its load", |view| view.others[0].load == Some(Load { waiting: 0, stored: 3 }));
    let alive = a.node.forget(&again.node.view().me.name());
    assert!(matches!(alive, Err(ForgetError::Alive { .. })), "{alive:?}");
    assert!(matches!(a.node.forget(&name), Err(ForgetError::NotFound { .. })), "its directory is served again");
    assert!(again.node.leave(false, PATIENCE));
    a.sees(&[], &[3]);
    assert_eq!(a.node.forget(&format!("{:032x}", 12)).map(|peer| peer.node), Ok(NodeId(3)));
    a.sees(&[], &[]);
    let written = Remembered::load(&*a.node.fs, &a.node.dir).unwrap();
    assert!(written.claims.iter().any(|claim| claim.node == NodeId(3) && claim.state == State::Forgotten));
}

#[test]
fn a_node_with_another_key_or_none_learns_nothing_and_changes_nothing() {
    let a = start(1, 11, "the key of this cluster", &[], &disk());
    let b = start(2, 12, "the key of this cluster", &[a.at], &disk());
    a.sees(&[2], &[]);
    for (id, key, why) in [(3, "the key of another cluster", Refused::Signature), (4, "", Refused::Unkeyed)] {
        let stranger = start(id, 13, key, &[a.at, b.at], &disk());
        a.waits_for("its calls to come and be refused", |_| a.refused(why) >= 2);
        stranger.node.socket.send_to(b"GET / HTTP/1.0\r\n\r\n", a.at).unwrap();
        a.waits_for("what is none of ours to be refused", |_| a.refused(Refused::NotOurs) > 0);
        assert_eq!((stranger.node.view().members().count(), stranger.node.received.get()), (1, 0), "it got an answer");
        a.sees(&[2], &[]);
    }
}

#[test]
fn who_was_known_is_missed_after_a_restart_until_it_is_heard() {
    let disk_of_a = disk();
    let (a, b) = (start(1, 11, "", &[], &disk_of_a), start(2, 12, "", &[], &disk()));
    let met = start(4, 14, "", &[a.at, b.at], &disk());
    a.sees(&[2, 4], &[]);
    let first = a.node.view().me.meta.start;
    drop(met);
    drop(a);
    let again = start(5, 11, "", &[], &disk_of_a);
    assert_eq!(again.node.view().silent.len(), 2, "{:?}", again.node.view());
    assert!(again.node.view().me.meta.start > first);
    // It calls those it remembers, though nobody is named to it.
    again.waits_for("the one that lives", |view| view.others.iter().any(|peer| peer.node == NodeId(2)));
}
