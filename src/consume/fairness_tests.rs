//! Many consumers, ingesters and stores in virtual time: the real machine, everything else simulated.
//!
//! 200 ingesters: 180 steady ones (a small segment about every 3 s), ten bursty ones (forty of 16 MiB at once, now and then)
//! and ten rare ones (a handful of lines about every 40 s). 20 stores with a consumer each; one store is slow, one so slow
//! that it is always replaced, one is full for a while, one dead for a while; one ingester cannot be reached for a while.

use super::links::Offer;
use super::machine::{Action, Answer, Consumer, Event, Fault, Peer, Piece, Settings};
use crate::cluster::DataId;
use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::store::replicate::{Receipt, StoreId};
use crate::unit::{Bytes, Monotonic};
use crate::world::entropy::Dice;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::Duration;

const INGESTERS: usize = 200;
const STORES: usize = 20;
const R: usize = 2;
const MIB: u64 = 1 << 20;

/// Segments are made for so long; then all must be taken over. Milliseconds, as all times here.
const BUSY: u64 = 70_000;
/// Until when everything must be committed.
const END: u64 = 180_000;
/// After it an ingester takes a segment back.
const PENDING: u64 = 60_000;
/// No segment of an ingester that can be reached may wait longer for a consumer. Two or three seconds are what is seen.
const LONGEST_IN_QUEUE: u64 = 6_000;

/// How long an ingester that did not answer is left alone at most.
const LONGEST_REST: u64 = 30_000;

const UNREACHABLE: usize = 7;
const SLOW: usize = 3;
const DRIPPING: usize = 8;
const FULL: usize = 12;
const DEAD: usize = 16;

/// When one ingester cannot be reached, one store is dead, and one full.
const AWAY: Range<u64> = 15_000..50_000;

#[derive(Default)]
struct Ingester {
    flushed: BTreeMap<Id, Segment>,
    pending: BTreeMap<Id, (Segment, u64)>,
}

#[derive(Clone, Copy)]
struct Segment {
    len: u64,
    /// When it was made, or given back: since when it waits.
    since: u64,
}

#[derive(Default)]
struct Store {
    /// Until when it is busy with what it has taken.
    busy: u64,
    bytes: u64,
}

/// What surrounds one machine: as its thread, it takes answers when nothing else is to do.
struct Shell {
    consumer: Consumer,
    inbox: VecDeque<Event>,
    /// In a copy or a commit, until its event comes.
    at_work: bool,
    until: u64,
    /// The last turn that was planned.
    planned: u64,
    looked: bool,
}

enum What {
    /// An ingester closes a segment, or several.
    Make(usize),
    /// A consumer hears from an ingester.
    Answer(usize, Event),
    /// A consumer may have something to do.
    Turn(usize),
    /// What a consumer was at work on is done.
    Done(usize, Option<Event>),
}

struct World {
    seed: u64,
    dice: Dice,
    now: u64,
    ingesters: Vec<Ingester>,
    stores: Vec<Store>,
    shells: Vec<Shell>,
    names: (Vec<Peer>, Vec<Peer>),
    /// What is to happen, the soonest first: by time, then by number.
    plan: BinaryHeap<std::cmp::Reverse<(u64, usize)>>,
    happenings: Vec<Option<What>>,
    /// Who has which segment.
    copies: BTreeMap<(Peer, Id), BTreeSet<DataId>>,
    last_id: u128,
    made: usize,
    committed: usize,
    longest_in_queue: u64,
}

#[test]
fn no_ingester_starves_and_no_store_gets_more_than_twice_its_share() {
    for seed in 1..=2 {
        let world = World::run(seed);
        assert_eq!(world.committed, world.made, "all is committed in the end, replay with seed {seed}");
        let waited = world.longest_in_queue;
        assert!(waited <= LONGEST_IN_QUEUE, "a segment waited for {waited} ms, replay with seed {seed}");
        let bytes: Vec<u64> = world.stores.iter().map(|store| store.bytes / MIB).collect();
        let share = bytes.iter().sum::<u64>() / STORES as u64;
        assert!(bytes.iter().all(|bytes| *bytes <= 2 * share), "{bytes:?} MiB, replay with seed {seed}");
        let healthy = (0..STORES).filter(|store| ![SLOW, DRIPPING, FULL, DEAD].contains(store));
        for store in healthy {
            assert!(bytes[store] >= share / 2, "store {store} of {bytes:?} MiB, replay with seed {seed}");
        }
    }
}

impl World {
    fn run(seed: u64) -> World {
        let name = |kind: &str, n: usize| Peer::from(format!("{kind}{n:03}"));
        let names = ((0..INGESTERS).map(|n| name("i", n)).collect(), (0..STORES).map(|n| name("s", n)).collect());
        let shell = |turn| Shell {
            consumer: Consumer::new(settings(turn)),
            inbox: VecDeque::new(),
            at_work: false,
            until: 0,
            planned: 0,
            looked: false,
        };
        let mut world = World {
            seed,
            dice: Dice::new(seed),
            now: 0,
            ingesters: (0..INGESTERS).map(|_| Ingester::default()).collect(),
            stores: (0..STORES).map(|_| Store::default()).collect(),
            // The turn comes from the node's id, which is random.
            shells: (0..STORES).map(|n| shell(n * 31)).collect(),
            names,
            plan: BinaryHeap::new(),
            happenings: Vec::new(),
            copies: BTreeMap::new(),
            last_id: 0,
            made: 0,
            committed: 0,
            longest_in_queue: 0,
        };
        (0..INGESTERS).for_each(|n| world.plan_in(n as u64 * 17, What::Make(n)));
        (0..STORES).for_each(|n| world.plan_in(0, What::Turn(n)));
        while let Some(std::cmp::Reverse((at, number))) = world.plan.pop() {
            if at > END || at > BUSY && world.committed == world.made {
                break;
            }
            world.now = at;
            let what = world.happenings[number].take().expect("planned once");
            world.happen(what);
        }
        world
    }

    fn plan_in(&mut self, span: u64, what: What) {
        self.plan.push(std::cmp::Reverse((self.now + span, self.happenings.len())));
        self.happenings.push(Some(what));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Make(n) => self.make(n),
            What::Answer(consumer, event) => {
                self.shells[consumer].inbox.push_back(event);
                self.turn(consumer);
            }
            // Another time may have been planned since.
            What::Turn(consumer) if self.shells[consumer].planned != self.now => {}
            What::Turn(consumer) => self.turn(consumer),
            What::Done(consumer, event) => {
                self.shells[consumer].at_work = false;
                if let Some(event) = event {
                    self.step(consumer, event);
                }
                self.turn(consumer);
            }
        }
    }

    fn make(&mut self, n: usize) {
        if self.now >= BUSY {
            return;
        }
        let (segments, len, pause) = match n % 20 {
            0 => (40, 16 * MIB, 20_000 + self.dice.below(40_000)),
            1 => (1, 300, 20_000 + self.dice.below(40_000)),
            _ => (1, MIB / 2 + self.dice.below(MIB), 2_000 + self.dice.below(2_000)),
        };
        for _ in 0..segments {
            self.last_id += 1;
            self.made += 1;
            self.ingesters[n].flushed.insert(Id(self.last_id), Segment { len, since: self.now });
        }
        self.plan_in(pause, What::Make(n));
    }

    fn reachable(&self, ingester: usize) -> bool {
        ingester != UNREACHABLE || !AWAY.contains(&self.now)
    }

    /// As the shell of a consumer does it: answers when there are some, a look around when it is time for one.
    fn turn(&mut self, consumer: usize) {
        while !self.shells[consumer].at_work {
            let shell = &mut self.shells[consumer];
            let due = self.now >= shell.until;
            let event = if due && !shell.looked { None } else { shell.inbox.pop_front() };
            if event.is_none() && !due {
                let until = shell.until;
                if std::mem::replace(&mut shell.planned, until) != until {
                    self.plan_in(until - self.now, What::Turn(consumer));
                }
                return;
            }
            shell.looked = event.is_none();
            let (ingesters, stores) = self.names.clone();
            self.step(consumer, event.unwrap_or(Event::Woke { ingesters, stores }));
        }
    }

    fn step(&mut self, consumer: usize, event: Event) {
        let now = Monotonic(Duration::from_millis(self.now));
        self.shells[consumer].until = 0;
        for action in self.shells[consumer].consumer.step(now, event) {
            match action {
                Action::Ask { from } => from.into_iter().for_each(|from| self.ask(consumer, from)),
                Action::Copy { pieces, to, spare } => self.copy(consumer, pieces, to, spare),
                Action::Commit { pieces, stores } => self.commit(consumer, pieces, stores),
                Action::FailBack(pieces) => pieces.iter().for_each(|piece| self.give_back(piece)),
                Action::Renew(pieces) => self.renew(&pieces, self.now),
                Action::SetAside(piece) => panic!("nothing is wrong with {piece:?}, seed {}", self.seed),
                // At least a millisecond, or time would stand still.
                Action::WaitUntil(until) => {
                    let until = u64::try_from(until.0.as_millis()).expect("short");
                    self.shells[consumer].until = until.max(self.now + 1);
                }
            }
        }
    }

    fn index(peer: &Peer) -> usize {
        peer[1..].parse().expect("a number")
    }

    fn ask(&mut self, consumer: usize, from: Peer) {
        let n = World::index(&from);
        if !self.reachable(n) {
            return self.plan_in(2_000, What::Answer(consumer, Event::Silent { from }));
        }
        let (now, reached) = (self.now, 1 + self.dice.below(2));
        let ingester = &mut self.ingesters[n];
        let expired: Vec<Id> =
            ingester.pending.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        for id in expired {
            let (segment, _) = ingester.pending.remove(&id).expect("pending");
            ingester.flushed.insert(id, Segment { since: now, ..segment });
        }
        let event = match ingester.flushed.pop_first() {
            None => Event::Nothing { from },
            Some((id, segment)) => {
                // One that was away is found again after a rest.
                let back = if n == UNREACHABLE && now >= AWAY.end { AWAY.end + LONGEST_REST } else { 0 };
                self.longest_in_queue = self.longest_in_queue.max(now.saturating_sub(segment.since.max(back)));
                ingester.pending.insert(id, (segment, now + PENDING));
                Event::Offered(Piece {
                    from,
                    offer: Offer { id, len: Bytes(segment.len), age: Duration::ZERO, is_last: false },
                })
            }
        };
        self.plan_in(reached, What::Answer(consumer, event));
    }

    fn renew(&mut self, pieces: &[Piece], from: u64) {
        for piece in pieces {
            let n = World::index(&piece.from);
            if self.reachable(n) {
                if let Some((_, until)) = self.ingesters[n].pending.get_mut(&piece.offer.id) {
                    *until = from + PENDING;
                }
            }
        }
    }

    fn give_back(&mut self, piece: &Piece) {
        let n = World::index(&piece.from);
        if self.reachable(n) {
            if let Some((segment, _)) = self.ingesters[n].pending.remove(&piece.offer.id) {
                self.ingesters[n].flushed.insert(piece.offer.id, Segment { since: self.now, ..segment });
            }
        }
    }

    fn copy(&mut self, consumer: usize, pieces: Vec<Piece>, to: Vec<Peer>, spare: usize) {
        let seed = self.seed;
        self.shells[consumer].at_work = true;
        if let Some(piece) = pieces.iter().find(|piece| !self.reachable(World::index(&piece.from))) {
            let event = Event::Spoilt { piece: piece.clone(), fault: Fault::Unreachable };
            return self.plan_in(5_000, What::Done(consumer, Some(event)));
        }
        assert_eq!(to.iter().collect::<BTreeSet<_>>().len(), to.len(), "all different, seed {seed}");
        let len: u64 = pieces.iter().map(|piece| piece.offer.len.0).sum();
        let first = pieces.iter().map(|piece| piece.offer.id).min().expect("not empty");
        let sent = Digest { first, last: Id(self.last_id), records: 1, len: Bytes(len), crc32: 0 };
        let outcomes: Vec<(u64, Answer)> = to
            .iter()
            .map(|store| {
                let n = World::index(store);
                let (rate, away) = match n {
                    SLOW => (40 * MIB, false),
                    DRIPPING => (MIB / 2, false),
                    _ => (200 * MIB, AWAY.contains(&self.now)),
                };
                // One batch after the other. The couriers drop who takes nothing for 10 s, or less than 1 MiB/s.
                let begin = self.stores[n].busy.max(self.now);
                let too_slow = begin - self.now > 10_000 || rate < MIB;
                let end = begin + len * 1000 / rate + 5;
                match n {
                    DEAD if away => (2_000, Answer::HasNot),
                    FULL if away => (2, Answer::Full),
                    _ if too_slow => (10_500, Answer::HasNot),
                    _ => {
                        self.stores[n].busy = end;
                        (end - self.now, Answer::Has(Receipt { store_id: StoreId(n as u128), digest: sent }))
                    }
                }
            })
            .collect();
        let has = |answer: &Answer| matches!(answer, Answer::Has(_));
        let failed = outcomes.iter().filter(|(_, answer)| !has(answer)).count();
        let span = outcomes.iter().map(|(span, _)| *span).max().expect("some");
        // Renewed until its end.
        self.renew(&pieces, self.now + span);
        let event = if failed > spare || failed == to.len() {
            let cut = |answer: Answer| if has(&answer) { Answer::CutShort } else { answer };
            let answers = to.into_iter().zip(outcomes).map(|(store, (_, answer))| (store, cut(answer))).collect();
            Event::NotCopied { answers }
        } else {
            for (store, _) in to.iter().zip(&outcomes).filter(|(_, (_, answer))| has(answer)) {
                let n = World::index(store);
                self.stores[n].bytes += len;
                for piece in &pieces {
                    let copies = self.copies.entry((piece.from.clone(), piece.offer.id)).or_default();
                    copies.insert(DataId(n as u128));
                }
            }
            let answers = to.into_iter().zip(outcomes).map(|(store, (_, answer))| (store, answer)).collect();
            Event::Copied { sent, answers }
        };
        self.plan_in(span, What::Done(consumer, Some(event)));
    }

    fn commit(&mut self, consumer: usize, pieces: Vec<Piece>, stores: Vec<DataId>) {
        let seed = self.seed;
        let named: BTreeSet<DataId> = stores.into_iter().collect();
        assert!(named.len() >= R, "{named:?}: too few different stores, seed {seed}");
        let mut span = 2;
        for piece in pieces {
            let copies = &self.copies[&(piece.from.clone(), piece.offer.id)];
            assert!(named.is_subset(copies), "{named:?} are not all of {copies:?}, seed {seed}");
            let n = World::index(&piece.from);
            if !self.reachable(n) {
                span = 4_000;
            } else if self.ingesters[n].pending.remove(&piece.offer.id).is_some() {
                self.committed += 1;
            }
        }
        self.shells[consumer].at_work = true;
        self.plan_in(span, What::Done(consumer, None));
    }
}

fn settings(turn: usize) -> Settings {
    Settings {
        replicas: R,
        target_size: Bytes(128 * MIB),
        target_age: Duration::from_secs(3),
        delay: Duration::from_millis(100),
        renew_every: Duration::from_secs(20),
        turn,
    }
}
