use super::*;
use crate::cluster::PeerKind;
use crate::world::fs::FileSystem;
use crate::world::fs::memory::MemoryFs;
use std::path::Path;

fn address(n: u128, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8], port))
}

fn at(ms: u64) -> Monotonic {
    Monotonic(Duration::from_millis(ms))
}

fn begin(n: u128, kind: PeerKind) -> Member {
    begin_again(n, kind, Remembered::default(), true, true)
}

fn begin_again(n: u128, kind: PeerKind, remembered: Remembered, is_new: bool, has_peers: bool) -> Member {
    let id = |of: bool| of.then_some(DataId(n));
    let meta = Meta {
        kind,
        gossip: address(n, 7659),
        api: address(n, 7650),
        store: id(kind.stores()),
        ingest: id(kind.ingests()),
        replicas: 2,
        start: 0,
    };
    let (timing, keys, dice) = (Timing::default(), Keys::none(), Dice::new(n as u64));
    Member::begin(Setup { node: NodeId(n), meta, timing, keys, dice, is_new, has_peers }, remembered, at(0), 1_000)
}

/// Lets datagrams arrive at once and deadlines pass, from `from` to `to`. Gives all news, with who got them.
fn run(members: &mut [Member], from: u64, to: u64) -> Vec<(usize, NodeId, News)> {
    let mut all = Vec::new();
    for now in (from..to).step_by(10).map(at) {
        let mut todos: Vec<Todo> = members.iter().map(|_| Todo::default()).collect();
        members.iter_mut().zip(&mut todos).for_each(|(member, todo)| member.tick(now, todo));
        while todos.iter().any(|todo| !todo.datagrams().is_empty()) {
            let sent = std::mem::replace(&mut todos, members.iter().map(|_| Todo::default()).collect());
            for (place, todo) in sent.into_iter().enumerate() {
                all.extend(todo.news.iter().map(|(peer, what)| (place, peer.node, *what)));
                let from = members[place].view().me.meta.gossip;
                for (to, datagram) in todo.datagrams() {
                    let receiver = members.iter_mut().zip(&mut todos).find(|(m, _)| m.view().me.meta.gossip == *to);
                    if let Some((member, todo)) = receiver {
                        member.handle(now, from, datagram, todo);
                        member.tick(now, todo);
                    }
                }
            }
        }
        all.extend(
            todos
                .iter()
                .enumerate()
                .flat_map(|(place, todo)| todo.news.iter().map(move |(peer, what)| (place, peer.node, *what))),
        );
    }
    all
}

fn join(members: &mut [Member], place: usize, to: SocketAddr, now: u64) {
    let mut todo = Todo::default();
    members[place].join(at(now), &[to, address(1, 7659)], &mut todo);
    let from = members[place].view().me.meta.gossip;
    for (to, datagram) in todo.datagrams() {
        let mut welcome = Todo::default();
        let Some(other) = members.iter_mut().find(|member| member.view().me.meta.gossip == *to) else { continue };
        other.handle(at(now), from, datagram, &mut welcome);
        other.tick(at(now), &mut welcome);
        let other = other.view().me.meta.gossip;
        for (_, datagram) in welcome.datagrams() {
            let mut todo = Todo::default();
            members[place].handle(at(now), other, datagram, &mut todo);
            members[place].tick(at(now), &mut todo);
        }
    }
}

#[test]
fn two_members_meet_and_each_is_in_the_others_view_and_a_good_bye_is_heard() {
    let mut members = [begin(1, PeerKind::IngestStore), begin(2, PeerKind::Store)];
    join(&mut members, 1, address(1, 7659), 0);
    run(&mut members, 0, 2_000);
    for (member, other) in [(0, 2), (1, 1)] {
        assert!(members[member].is_joined());
        let others: Vec<u128> = members[member].view().others.iter().map(|peer| peer.node.0).collect();
        assert_eq!((others, members[member].view().silent.len()), (vec![other], 0));
    }
    members[1].leave(at(2_000), true, &mut Todo::default());
    let news = run(&mut members, 2_010, 4_000);
    assert!(news.contains(&(0, NodeId(2), News::Silent)), "{news:?}");
    assert!(members[1].has_left(at(4_000)));
    let mut todo = Todo::default();
    assert_eq!(members[0].forget(at(4_000), "10.0.0.2:7650", &mut todo).map(|peer| peer.node), Ok(NodeId(2)));
    assert_eq!((todo.news.len(), todo.news[0].1, todo.has_new_view), (1, News::Forgotten, true));
    assert_eq!(members[0].forgotten(), [DataId(2)]);
    assert!(members[0].view().silent.is_empty());
}

#[test]
fn what_has_changed_is_to_be_saved_until_it_is_and_a_disk_that_fails_is_asked_again() {
    let (fs, dir) = (MemoryFs::default(), Path::new("/d"));
    fs.create_dir_all(dir).unwrap();
    let mut members = [begin(1, PeerKind::Store), begin(2, PeerKind::Store)];
    let mut keeper = crate::cluster::remembered::Keeper::default();
    fs.crash_at(fs.operations());
    let unsaved = members[0].unsaved(keeper.version()).expect("the start number");
    assert!(keeper.save(unsaved.clone(), &fs, dir).is_err());
    fs.crash(&mut Dice::new(0));
    fs.recover();
    assert_eq!(members[0].unsaved(keeper.version()), Some(unsaved.clone()));
    keeper.save(unsaved, &fs, dir).unwrap();
    assert_eq!(members[0].unsaved(keeper.version()), None);
    join(&mut members, 1, address(1, 7659), 0);
    run(&mut members, 0, 1_000);
    let unsaved = members[0].unsaved(keeper.version()).expect("a member more");
    keeper.save(unsaved.clone(), &fs, dir).unwrap();
    let remembered = Remembered::load(&fs, dir).unwrap();
    assert_eq!((remembered.start, remembered.claims.len()), (1_000, 2));

    let again = begin_again(3, PeerKind::Store, remembered, false, false);
    assert_eq!((again.view().me.meta.start, again.view().silent.len()), (1_001, 2));
    assert!(!again.is_informed(), "what it knows is as old as its last process");
}

#[test]
fn a_member_knows_whom_to_miss_when_it_has_found_a_table_like_its_own_or_is_alone() {
    assert!(begin_again(1, PeerKind::Store, Remembered::default(), true, false).is_informed());
    let mut members = [begin(1, PeerKind::Store), begin(2, PeerKind::Store), begin(3, PeerKind::Ingest)];
    assert!(!members[0].is_informed());
    join(&mut members, 1, address(1, 7659), 0);
    join(&mut members, 2, address(2, 7659), 0);
    run(&mut members, 0, 2_000);
    for member in &members {
        assert!(member.is_informed() && member.view().others.len() == 2, "{:?}", member.view());
    }
}

/// An ingester whose first process was killed before it took a line is as unknown as a new one when it starts again, that it
/// left a table of members behind says nothing; and one that had drained and left is missed by nobody.
#[test]
fn an_ingester_in_which_nothing_waits_opens_when_it_is_known_to_all_and_another_when_it_is_heard() {
    let first_word = at(3_000);
    let before = || Remembered { start: 7, claims: vec![] };
    for (kind, remembered, is_new, joined_opens) in [
        (PeerKind::Ingest, Remembered::default(), true, at(1_600)),
        (PeerKind::IngestStore, Remembered::default(), true, at(1_600)),
        (PeerKind::Ingest, before(), true, at(1_600)),
        (PeerKind::Ingest, before(), false, at(0)),
        (PeerKind::Store, before(), false, at(0)),
    ] {
        let mut members = [begin(1, PeerKind::Store), begin_again(2, kind, remembered.clone(), is_new, true)];
        let doors = |members: &[Member], now: Monotonic| members[1].doors(now);
        let alone = begin_again(3, kind, remembered.clone(), is_new, false);
        assert_eq!(alone.doors(at(0)), Doors::Open, "alone by its flags");
        assert_eq!(doors(&members, at(2_999)), Doors::ShutUntil(first_word));
        assert_eq!(doors(&members, first_word), Doors::OpenAlone);
        join(&mut members, 1, address(1, 7659), 0);
        assert!(members[1].is_joined());
        assert_eq!(doors(&members, joined_opens), Doors::Open, "{kind:?} {remembered:?}");
        if joined_opens > at(0) {
            assert_eq!(doors(&members, at(1_599)), Doors::ShutUntil(joined_opens));
        }
    }
}
