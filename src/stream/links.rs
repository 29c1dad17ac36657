//! The links of one stream: does what [`machine`](super::machine) decides.

use super::backfill::{Backfill, Leash};
use super::filler::Filler;
use super::inbox::{Inbox, Source};
use super::link::Link;
use super::machine::{Action, Followed, Now};
use super::wishes::{SILENCE, Wishes};
use crate::cluster::Cluster;
use crate::http::client::Caller;
use crate::record::id::Id;
use crate::unit::Monotonic;
use crate::world::clock::Clock;
use crate::world::crew::Crew;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The stack of a link: a call over HTTP, whose buffers are on the heap.
const LINK_STACK: usize = 256 << 10;

/// Links of all streams of a node together. Beyond it a link is tried again and again, and its reader told that there is none.
pub const ALL_LINKS_LIMIT: usize = 4_096;

/// How often the members are looked at.
pub const LOOK: Duration = Duration::from_millis(200);

/// How long the threads of a stream may take to end.
const JOIN: Duration = Duration::from_secs(1);

/// What there is besides this node: one for all its streams.
#[derive(Clone)]
pub struct Beyond {
    cluster: Arc<dyn Cluster>,
    caller: Caller,
    backfill: Arc<dyn Backfill>,
    /// Links of all streams.
    links: Arc<AtomicUsize>,
}

impl Beyond {
    /// `cluster` says who the others are, `caller` calls them, `backfill` knows what was missed.
    pub fn new(cluster: Arc<dyn Cluster>, caller: Caller, backfill: Arc<dyn Backfill>) -> Beyond {
        Beyond { cluster, caller, backfill, links: Arc::default() }
    }

    /// Room for one more link, as long as the guard is kept.
    fn room(&self) -> io::Result<Room> {
        let taken = Room(self.links.clone());
        if self.links.fetch_add(1, Ordering::Relaxed) >= ALL_LINKS_LIMIT {
            return Err(io::Error::other(format!("this node has {ALL_LINKS_LIMIT} links already")));
        }
        Ok(taken)
    }
}

/// One link's part of [`ALL_LINKS_LIMIT`].
struct Room(Arc<AtomicUsize>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The links of one stream. When this is dropped they end, and their threads are waited for.
pub struct Links {
    beyond: Beyond,
    followed: Followed,
    leashes: HashMap<Source, Leash>,
    filler: Arc<Filler>,
    filling: Leash,
    target: Arc<str>,
    inbox: Arc<Inbox>,
    clock: Arc<dyn Clock>,
    crew: Crew,
    looked: Option<Monotonic>,
}

impl Links {
    /// No links yet: the first [`Links::tend`] begins them. All threads are of `crew`, which is this stream's alone.
    pub fn new(beyond: Beyond, wishes: &Wishes, inbox: Arc<Inbox>, clock: Arc<dyn Clock>, crew: Crew) -> Links {
        let filling = Leash::new(None);
        let backfill = beyond.backfill.clone();
        let filler = Filler::new(backfill, wishes.clone(), inbox.clone(), filling.clone(), crew.clone());
        Links {
            followed: Followed::new(Id::first_of(clock.unix_millis())),
            leashes: HashMap::new(),
            target: wishes.link_target().into(),
            beyond,
            filler,
            filling,
            inbox,
            clock,
            crew,
            looked: None,
        }
    }

    /// Looks who is a member, if it is time for that. What the reader is to be told goes to `say`.
    pub fn tend(&mut self, say: &mut Vec<String>) {
        let now = self.now();
        if self.looked.is_some_and(|looked| now.at.since(looked) < LOOK) {
            return;
        }
        self.looked = Some(now.at);
        self.filler.tend();
        let view = self.beyond.cluster.view();
        for action in self.followed.look(now, &view) {
            self.perform(action, say);
        }
    }

    /// A link stands.
    pub fn up(&mut self, source: Source, say: &mut Vec<String>) {
        if let Some(action) = self.followed.up(source) {
            self.perform(action, say);
        }
    }

    /// A link has ended.
    pub fn down(&mut self, source: Source, whole: bool) {
        let now = self.now();
        self.followed.down(now, source, whole);
    }

    /// A link has brought this id.
    pub fn mark(&mut self, source: Source, id: Id) {
        self.followed.mark(source, id);
    }

    fn now(&self) -> Now {
        Now { at: self.clock.now(), unix: self.clock.unix_millis() }
    }

    fn perform(&mut self, action: Action, say: &mut Vec<String>) {
        match action {
            Action::Begin { source, to } => {
                let leash = Leash::new(Some(SILENCE));
                let (target, caller, inbox) = (self.target.clone(), self.beyond.caller.clone(), self.inbox.clone());
                let link = Link { source, to, target, caller, inbox, leash: leash.clone(), clock: self.clock.clone() };
                let started = self.beyond.room().and_then(|room| {
                    let work = move || {
                        let _room = room;
                        link.run();
                    };
                    self.crew.start("stream link", LINK_STACK, work)
                });
                match started {
                    Ok(()) => {
                        self.leashes.insert(source, leash);
                    }
                    Err(why) => {
                        log::warn!("stream: no thread for a link: {why}");
                        self.followed.refused(source);
                    }
                }
            }
            Action::End { source } => {
                if let Some(leash) = self.leashes.remove(&source) {
                    leash.pull();
                }
            }
            Action::Fill { from } => self.filler.want(from),
            Action::Say(text) => say.push(text),
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.filling.pull();
        self.leashes.values().for_each(Leash::pull);
        self.inbox.close();
        for name in self.crew.join_all(JOIN).late {
            log::warn!("stream: thread {name} did not end in time");
        }
    }
}
