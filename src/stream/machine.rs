//! Decides whom a stream of the whole cluster follows, which gaps are to be filled, and what its reader is told.
//!
//! Values in, actions out. One link for each ingesting member besides this node, known by its ingest directory, which
//! outlives a restart. For each the *mark* is kept: the last id that came from it. When its link stands again, everything
//! from a little before the mark on is asked for; what comes twice is dropped by the window.
//!
//! Bounds: [`LINKS_LIMIT`] links; the marks of [`GONE_LIMIT`] members that have gone.

use super::inbox::Source;
use crate::cluster::{DataId, NodeId, Peer, View};
use crate::http::client::Callee;
use crate::record::id::Id;
use crate::unit::{Monotonic, UnixMillis};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

/// Links of one stream. The reader is told when there are more ingesters.
pub const LINKS_LIMIT: usize = 1_000;

/// Members that have gone and whose marks are kept, in case they come back.
pub const GONE_LIMIT: usize = 1_000;

/// How far before the mark a gap is taken to begin: an ingester's batches may come a little out of order.
pub const MARGIN: Duration = Duration::from_secs(1);

/// A link that is down for so long is worth a word to the reader.
pub const LONG: Duration = Duration::from_secs(5);

/// The two times at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// For delays.
    pub at: Monotonic,
    /// For ids and for people.
    pub unix: UnixMillis,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Begin a link; if that cannot be, tell [`Followed::refused`].
    Begin {
        /// The number of its items.
        source: Source,
        /// To whom.
        to: Callee,
    },
    /// End a link.
    End {
        /// Which.
        source: Source,
    },
    /// Ask the whole cluster for everything from this id on.
    Fill {
        /// The first id wanted.
        from: Id,
    },
    /// Tell the reader.
    Say(String),
}

/// Who is followed.
pub struct Followed {
    began: Id,
    members: BTreeMap<Key, Member>,
    by_source: HashMap<Source, Key>,
    last_source: u64,
    /// How many could not be followed at the last look.
    too_many: usize,
}

/// What stays the same when a process is started again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Data(DataId),
    Node(NodeId),
}

struct Member {
    node: NodeId,
    api: SocketAddr,
    link: Option<Source>,
    /// Since when nothing comes; `None` while the link stands.
    down: Option<Now>,
    told: bool,
    /// Whether its link could not be begun at the last look.
    refused: bool,
    /// Whether it has said that it has sent all it had, and nothing was heard since.
    whole: bool,
    /// The first id that is wanted of it, where none has come.
    first: Id,
    mark: Option<Id>,
}

impl Member {
    fn gap(&self, began: Id) -> Id {
        let from = self.mark.map_or(self.first, |mark| Id::first_of(mark.millis().before(MARGIN)));
        from.max(began)
    }

    fn complaint(&self) -> Action {
        let since = self.down.map_or_else(String::new, |down| format!(" since {}", down.unix));
        Action::Say(format!("oklog: no stream from {}{since}", self.api))
    }
}

impl Followed {
    /// Nobody yet. `began`: the first id that the reader is to get.
    pub fn new(began: Id) -> Followed {
        let (members, by_source) = (BTreeMap::new(), HashMap::new());
        Followed { began, members, by_source, last_source: Source::GAP.0, too_many: 0 }
    }

    /// Compares with who is a member now. To be called again and again.
    pub fn look(&mut self, now: Now, view: &View) -> Vec<Action> {
        let ingesters = view.others.iter().filter(|peer| peer.meta.kind.ingests());
        let present: BTreeMap<Key, &Peer> = ingesters.map(|peer| (key_of(peer), peer)).collect();
        let mut actions = Vec::new();
        self.end_those_who_left(now, &present, &mut actions);
        self.begin_new_ones(now, &present, &mut actions);
        for member in self.members.values_mut().filter(|member| member.link.is_some() && !member.told) {
            if member.down.is_some_and(|down| now.at.since(down.at) >= LONG) {
                member.told = true;
                actions.push(member.complaint());
            }
        }
        self.forget_some(&present);
        actions
    }

    fn end_those_who_left(&mut self, now: Now, present: &BTreeMap<Key, &Peer>, actions: &mut Vec<Action>) {
        for (key, member) in &mut self.members {
            let peer = present.get(key);
            if peer.is_some_and(|peer| (peer.node, peer.meta.api) == (member.node, member.api)) {
                continue;
            }
            let Some(source) = member.link.take() else { continue };
            self.by_source.remove(&source);
            actions.push(Action::End { source });
            member.down.get_or_insert(now);
            // What it took last, and what others have of it by now. One that is there again is asked when its link stands.
            if peer.is_none() && !member.whole {
                actions.push(Action::Fill { from: member.gap(self.began) });
                if !member.told {
                    member.told = true;
                    actions.push(member.complaint());
                }
            }
        }
    }

    fn begin_new_ones(&mut self, now: Now, present: &BTreeMap<Key, &Peer>, actions: &mut Vec<Action>) {
        let mut too_many = 0;
        for (key, peer) in present {
            let is_linked = self.members.get(key).is_some_and(|member| member.link.is_some());
            if is_linked {
                continue;
            }
            if self.by_source.len() >= LINKS_LIMIT {
                too_many += 1;
                continue;
            }
            let (node, api) = (peer.node, peer.meta.api);
            let member = self.members.entry(*key).or_insert_with(|| {
                // It gives no id that is older than its start, by its own clock, or than the first word of it, by ours.
                let oldest = UnixMillis(peer.meta.start).min(now.unix).before(MARGIN);
                let first = Id::first_of(oldest).max(self.began);
                let (link, down, told, refused, whole, mark) = (None, None, false, false, false, None);
                Member { node, api, link, down, told, refused, whole, first, mark }
            });
            self.last_source += 1;
            let source = Source(self.last_source);
            member.link = Some(source);
            (member.node, member.api) = (node, api);
            if !std::mem::take(&mut member.refused) {
                // If the reader was told, then of another time.
                (member.down, member.told) = (Some(now), false);
            }
            self.by_source.insert(source, *key);
            actions.push(Action::Begin { source, to: Callee { api: peer.name(), node: node.0 } });
        }
        if too_many > self.too_many {
            actions.push(Action::Say(format!(
                "oklog: no stream from {too_many} ingesters: one stream follows {LINKS_LIMIT} at most"
            )));
        }
        self.too_many = too_many;
    }

    fn forget_some(&mut self, present: &BTreeMap<Key, &Peer>) {
        let gone: Vec<Key> = self.members.keys().filter(|key| !present.contains_key(key)).copied().collect();
        for key in gone.iter().take(gone.len().saturating_sub(GONE_LIMIT)) {
            self.members.remove(key);
        }
    }

    /// A link could not be begun. The next look tries again.
    pub fn refused(&mut self, source: Source) {
        if let Some(key) = self.by_source.remove(&source)
            && let Some(member) = self.members.get_mut(&key)
        {
            (member.link, member.refused) = (None, true);
        }
    }

    /// A link stands: what is published there from now on comes. What was before is to be filled.
    pub fn up(&mut self, source: Source) -> Option<Action> {
        let began = self.began;
        let member = self.member(source)?;
        (member.down, member.told, member.whole) = (None, false, false);
        Some(Action::Fill { from: member.gap(began) })
    }

    /// A link has ended, or did not come to stand. `whole`: the other side has said that it has sent all it had.
    pub fn down(&mut self, now: Now, source: Source, whole: bool) {
        let Some(member) = self.member(source) else { return };
        if member.down.is_none() {
            (member.down, member.whole) = (Some(now), whole);
        }
    }

    /// A link has brought this id, and all that its node had published before.
    pub fn mark(&mut self, source: Source, id: Id) {
        // The last one, not the largest: a clock that was set back must not hide a gap.
        if let Some(member) = self.member(source) {
            member.mark = Some(id);
        }
    }

    fn member(&mut self, source: Source) -> Option<&mut Member> {
        self.members.get_mut(self.by_source.get(&source)?)
    }
}

fn key_of(peer: &Peer) -> Key {
    peer.meta.ingest.map_or(Key::Node(peer.node), Key::Data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Meta, PeerKind, State};

    const BEGAN: u64 = 1_000_000;

    fn peer(node: u128, data: u128, kind: PeerKind, start: u64) -> Peer {
        let api = format!("10.0.0.{data}:7650").parse().unwrap();
        let ingest = kind.ingests().then_some(DataId(data));
        let meta = Meta { kind, gossip: api, api, store: None, ingest, replicas: 1, start };
        Peer { node: NodeId(node), meta, state: State::Alive, load: None }
    }

    fn view(others: Vec<Peer>) -> View {
        View { me: peer(1, 1, PeerKind::Store, 0), others, silent: Vec::new() }
    }

    fn at(ms: u64) -> Now {
        Now { at: Monotonic(Duration::from_millis(ms)), unix: UnixMillis(BEGAN + ms) }
    }

    fn id(ms: u64) -> Id {
        Id(Id::first_of(UnixMillis(BEGAN + ms)).0 + 5)
    }

    fn first_of(ms: u64) -> Id {
        Id::first_of(UnixMillis(BEGAN + ms))
    }

    fn to(node: u128, data: u128) -> Callee {
        Callee { api: format!("10.0.0.{data}:7650"), node }
    }

    fn said(action: &Action) -> &str {
        match action {
            Action::Say(text) => text,
            _ => panic!("not a word: {action:?}"),
        }
    }

    #[test]
    fn ingesters_are_followed_and_stores_are_not() {
        let mut followed = Followed::new(id(0));
        let view = view(vec![peer(2, 2, PeerKind::IngestStore, 0), peer(3, 3, PeerKind::Store, 0)]);
        let begin = Action::Begin { source: Source(2), to: to(2, 2) };
        assert_eq!(followed.look(at(0), &view), [begin]);
        assert_eq!(followed.look(at(200), &view), []);
        assert_eq!(followed.up(Source(2)), Some(Action::Fill { from: id(0) }));
    }

    #[test]
    fn a_link_that_stands_again_is_filled_from_a_little_before_its_mark() {
        let mut followed = Followed::new(id(0));
        let view = view(vec![peer(2, 2, PeerKind::Ingest, 0)]);
        followed.look(at(0), &view);
        followed.up(Source(2));
        followed.mark(Source(2), id(9_000));
        followed.down(at(9_100), Source(2), false);
        assert_eq!(followed.up(Source(2)), Some(Action::Fill { from: first_of(8_000) }));
        followed.mark(Source(2), id(300));
        assert_eq!(followed.up(Source(2)), Some(Action::Fill { from: id(0) }), "but not from before the stream");
    }

    #[test]
    fn a_link_that_is_down_for_long_is_told_once_in_each_outage() {
        let mut followed = Followed::new(id(0));
        let view = view(vec![peer(2, 2, PeerKind::Ingest, 0)]);
        followed.look(at(0), &view);
        followed.up(Source(2));
        followed.down(at(1_000), Source(2), false);
        followed.down(at(1_100), Source(2), false);
        assert_eq!(followed.look(at(5_999), &view), []);
        let told = followed.look(at(6_000), &view);
        assert_eq!(said(&told[0]), "oklog: no stream from 10.0.0.2:7650 since 1970-01-01T00:16:41.000Z");
        assert_eq!(followed.look(at(60_000), &view), []);
        followed.up(Source(2));
        followed.down(at(70_000), Source(2), false);
        assert_eq!(followed.look(at(76_000), &view).len(), 1);
    }

    #[test]
    fn a_member_that_is_gone_without_a_word_leaves_a_gap_and_one_that_said_so_does_not() {
        let both = view(vec![peer(2, 2, PeerKind::Ingest, 0), peer(3, 3, PeerKind::Ingest, 0)]);
        let mut followed = Followed::new(id(0));
        followed.look(at(0), &both);
        for source in [Source(2), Source(3)] {
            followed.up(source);
            followed.mark(source, id(4_000));
        }
        followed.down(at(5_000), Source(3), true);
        followed.down(at(5_100), Source(3), false);
        let actions = followed.look(at(6_000), &view(vec![]));
        let expected = [Action::End { source: Source(2) }, Action::Fill { from: first_of(3_000) }];
        assert_eq!(actions[..2], expected);
        assert!(said(&actions[2]).contains("10.0.0.2"), "{actions:?}");
        assert_eq!(actions[3..], [Action::End { source: Source(3) }]);
        let back = followed.look(at(9_000), &both);
        assert_eq!(back[0], Action::Begin { source: Source(4), to: to(2, 2) });
        assert_eq!(followed.up(Source(4)), Some(Action::Fill { from: first_of(3_000) }));
    }

    #[test]
    fn a_process_that_serves_the_same_directory_goes_on_where_the_last_one_ended() {
        let mut followed = Followed::new(id(0));
        followed.look(at(0), &view(vec![peer(2, 2, PeerKind::Ingest, 0)]));
        followed.up(Source(2));
        followed.mark(Source(2), id(4_000));
        let actions = followed.look(at(9_000), &view(vec![peer(7, 2, PeerKind::Ingest, BEGAN + 8_000)]));
        let begin = Action::Begin { source: Source(3), to: to(7, 2) };
        assert_eq!(actions, [Action::End { source: Source(2) }, begin]);
        followed.mark(Source(2), id(9_999));
        assert_eq!(followed.up(Source(2)), None, "what the old link says does not count any more");
        assert_eq!(followed.up(Source(3)), Some(Action::Fill { from: first_of(3_000) }));
    }

    #[test]
    fn of_a_member_that_appears_later_all_is_wanted_since_its_start_or_since_the_stream_began() {
        let mut followed = Followed::new(id(0));
        followed.look(at(0), &view(vec![]));
        let young = peer(2, 2, PeerKind::Ingest, BEGAN + 20_000);
        let old = peer(3, 3, PeerKind::Ingest, 5);
        let ahead = peer(4, 4, PeerKind::Ingest, BEGAN + 99_000_000);
        followed.look(at(30_000), &view(vec![young, old, ahead]));
        assert_eq!(followed.up(Source(2)), Some(Action::Fill { from: first_of(19_000) }));
        assert_eq!(followed.up(Source(3)), Some(Action::Fill { from: id(0) }));
        assert_eq!(followed.up(Source(4)), Some(Action::Fill { from: first_of(29_000) }));
    }

    #[test]
    fn links_and_what_is_remembered_of_the_gone_are_bounded_and_the_reader_is_told() {
        let mut followed = Followed::new(id(0));
        let many = |from: u128| {
            let peer = |n| Peer { node: NodeId(n), ..peer(n, 9, PeerKind::Ingest, 0) };
            let with = |n| Peer { meta: Meta { ingest: Some(DataId(n)), ..peer(n).meta }, ..peer(n) };
            view((from..from + 1_005).map(with).collect())
        };
        let actions = followed.look(at(0), &many(0));
        assert_eq!(actions.len(), LINKS_LIMIT + 1);
        assert!(said(&actions[LINKS_LIMIT]).contains("no stream from 5 ingesters"), "{actions:?}");
        assert_eq!(followed.look(at(1), &many(0)), []);
        for n in 1..4 {
            followed.look(at(n), &many(u128::from(n) * 10_000));
        }
        assert!(followed.members.len() <= LINKS_LIMIT + GONE_LIMIT);
    }

    #[test]
    fn a_link_that_could_not_be_begun_is_tried_again_and_told_like_one_that_is_down() {
        let mut followed = Followed::new(id(0));
        let view = view(vec![peer(2, 2, PeerKind::Ingest, 0)]);
        followed.look(at(0), &view);
        followed.refused(Source(2));
        assert_eq!(followed.look(at(200), &view), [Action::Begin { source: Source(3), to: to(2, 2) }]);
        followed.refused(Source(3));
        let told = followed.look(at(5_000), &view);
        assert_eq!(told[0], Action::Begin { source: Source(4), to: to(2, 2) });
        assert_eq!(said(&told[1]), "oklog: no stream from 10.0.0.2:7650 since 1970-01-01T00:16:40.000Z");
        followed.refused(Source(4));
        assert_eq!(followed.look(at(5_200), &view).len(), 1, "told once");
    }
}
