//! When segments are closed before they are full, on a disk in memory and a clock wound by hand.

use super::*;
use crate::ingest::log::Slot;
use crate::ingest::recover::Ground;
use crate::record::line::{Cut, LineCutter};
use crate::unit::Bytes;
use crate::world::clock::VirtualClock;
use crate::world::entropy::SystemEntropy;
use crate::world::fs::memory::MemoryFs;

struct Stage {
    log: IngestLog,
    clock: Arc<VirtualClock>,
    rounds: Rounds,
}

impl Stage {
    fn new(flush_size: u64) -> Stage {
        let clock = Arc::new(VirtualClock::at(UnixNanos(1_795_000_000_000_000_000)));
        let ground = Ground {
            fs: Arc::new(MemoryFs::new()),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy),
            metrics: Arc::default(),
            live: Arc::default(),
        };
        let flush_age = Duration::from_secs(3);
        let limits = Limits { flush_size: Bytes(flush_size), flush_age, pending_timeout: Duration::from_secs(60) };
        let log = IngestLog::open(ground, std::path::Path::new("ingest"), limits, 2).expect("a fresh disk");
        Stage { log, clock, rounds: Rounds::default() }
    }

    fn append(&self, slot: &Slot) {
        let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
        cutter.finish(b"line\n", &mut cut);
        self.log.append(slot, b"line\n", &cut).expect("room");
    }

    /// Lets one tick pass. Gives how many segments wait for a consumer then.
    fn tick(&mut self) -> usize {
        self.clock.advance(TICK);
        self.log.round(&mut self.rounds);
        lock(&self.log.queue).flushed.len()
    }
}

#[test]
fn what_nobody_adds_to_is_flushed_at_once_but_not_more_often_than_by_its_age() {
    let mut stage = Stage::new(1 << 20);
    stage.append(stage.log.fast_slot(0));
    assert_eq!((stage.tick(), stage.tick()), (0, 1), "when nothing has come for a tick");
    let mut flushed = Vec::new();
    for tick in 0..100 {
        // A host that says a word every second.
        if tick % 10 == 0 {
            stage.append(stage.log.fast_slot(0));
        }
        flushed.push(stage.tick());
    }
    let made = flushed.last().copied().unwrap_or_default() - 1;
    assert!((3..=4).contains(&made), "{made} files in ten seconds: {flushed:?}");
}

#[test]
fn after_four_full_segments_what_is_left_need_not_wait_for_its_age() {
    let mut stage = Stage::new(100);
    stage.append(stage.log.fast_slot(0));
    assert_eq!((stage.tick(), stage.tick()), (0, 1));
    // 32 bytes each: 100 are reached by the fourth.
    for _ in 0..4 * 4 + 1 {
        stage.append(stage.log.fast_slot(0));
    }
    assert_eq!((stage.tick(), stage.tick()), (5, 6));
}

#[test]
fn the_segments_of_all_slots_are_closed_together_when_one_of_them_is_old() {
    let mut stage = Stage::new(1 << 20);
    stage.append(stage.log.fast_slot(0));
    for tick in 1..30 {
        stage.append(stage.log.fast_slot(1));
        assert_eq!(stage.tick(), 0, "tick {tick}");
    }
    stage.append(stage.log.durable_slot());
    assert_eq!(stage.tick(), 3);
}

#[test]
fn an_offer_tells_its_age_and_whether_it_is_the_last() {
    let mut stage = Stage::new(1 << 20);
    stage.append(stage.log.fast_slot(0));
    stage.append(stage.log.fast_slot(1));
    assert_eq!((stage.tick(), stage.tick()), (0, 2));
    let offers: Vec<_> = (0..3).map(|_| stage.log.offer().expect("renamed")).collect();
    let told: Vec<_> = offers.iter().map(|offer| offer.map(|offer| (offer.age, offer.is_last))).collect();
    assert_eq!(told, [Some((TICK * 2, false)), Some((TICK * 2, true)), None]);
    let mut rung = 0;
    let (bell, heard) = crossbeam::channel::bounded(1);
    lock(&stage.log.queue).bells.push(Box::new(move || bell.send(()).is_ok()));
    stage.append(stage.log.fast_slot(0));
    for _ in 0..40 {
        stage.tick();
        rung += heard.try_iter().count();
    }
    assert_eq!(rung, 1, "when something is flushed, and not else");
    assert!(stage.log.offer().expect("renamed").is_some_and(|offer| offer.is_last));
}
