//! What goes wrong, chosen when it does: deaths, pauses, partitions, full and failing disks, clocks that are set, stores that
//! are lost.

use crate::ledger::Checked;
use crate::node::{Death, Place};
use crate::run::{Event, Sim};
use crate::shape::DISK;
use crate::world::{MS, SECOND};
use oklog::cluster::PeerKind;
use oklog::world::entropy::Dice;
use oklog::world::fs::FileSystem;
use oklog::world::fs::memory::Misbehaviour;
use std::io::ErrorKind;
use std::path::Path;

/// What others write to a disk.
const FILLER: &str = "/filler";

/// Something that goes wrong, or is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// What, is decided when it happens.
    Some,
    /// A store is lost for good.
    LoseStore,
    /// A partition heals.
    Heal,
    /// A disk has room again.
    Room(Place),
    /// A disk works again.
    Behave(Place),
    /// A machine comes back with an empty disk.
    Replace(Place),
}

impl Sim {
    /// Something goes wrong.
    pub fn go_wrong(&mut self, fault: Fault) -> Checked {
        match fault {
            Fault::Some => return self.something_goes_wrong(),
            Fault::LoseStore => self.lose_a_store(),
            Fault::Heal => {
                self.trace(|| "the network is whole".into());
                self.network.cut.clear();
            }
            Fault::Room(place) => self.make_room(place),
            Fault::Behave(place) => self.behave(place),
            Fault::Replace(place) => self.replace(place),
        }
        Ok(())
    }

    fn something_goes_wrong(&mut self) -> Checked {
        self.totals.faults += 1;
        let place = self.dice.below(self.nodes.len() as u64) as usize;
        let death = if self.dice.one_in(2) { Death::Killed } else { Death::PowerCut };
        match self.dice.below(16) {
            0..=1 if self.nodes[place].process.is_some() => self.end_process(place, death),
            2..=5 => self.plan_deaths(place, death),
            6 => self.pause(place),
            7..=8 => self.part(),
            9 => self.fill(place),
            10 if self.shape.clocks_jump => self.set_clock(place),
            11..=12 if self.shape.disks_fail => self.misbehave(place),
            13..=14 => return self.stop(place),
            _ => self.plan_deaths(place, death),
        }
        Ok(())
    }

    fn plan_deaths(&mut self, place: Place, death: Death) {
        let most = if self.dice.one_in(2) { 6 } else { 60 };
        let n = self.dice.below(most);
        if self.nodes[place].death.is_none() && !self.nodes[place].lost {
            self.trace(|| format!("node {place}: {death:?} is to come after {n} operations"));
            self.nodes[place].plan_death(n, death);
        }
    }

    /// As by SIGSTOP, or on a disk that does not answer.
    fn pause(&mut self, place: Place) {
        let longest = if self.dice.one_in(3) { 20 * SECOND } else { 3 * SECOND };
        let span = 100 * MS + self.dice.below(longest);
        self.trace(|| format!("node {place} stands still for {} ms", span / MS));
        self.nodes[place].busy_until = self.time.now() + span;
    }

    /// Some messages do not get through, one way or both.
    fn part(&mut self) {
        let sides: Vec<bool> = (0..self.nodes.len()).map(|_| self.dice.one_in(2)).collect();
        let one_way = self.dice.one_in(3);
        for (from, to) in pairs(self.nodes.len()) {
            if sides[from] != sides[to] && (!one_way || sides[from]) {
                self.network.cut.insert((from, to));
            }
        }
        self.trace(|| format!("the network is parted, one way: {one_way}: {sides:?}"));
        let span = SECOND + self.dice.below(12 * SECOND);
        self.time.after(span, Event::Fault(Fault::Heal));
    }

    /// Others fill the disk.
    fn fill(&mut self, place: Place) {
        let most = if self.dice.one_in(2) { 1_500 } else { DISK.0 / 8 };
        let room = self.dice.below(most);
        let disk = &self.nodes[place].disk;
        let Ok(space) = disk.space(Path::new("/")) else { return };
        let Ok(file) = disk.create_new(Path::new(FILLER)) else { return };
        let filled = file.append(&vec![1; space.available.0.saturating_sub(room) as usize]);
        let filled = filled.and_then(|()| file.sync_data()).and_then(|()| disk.sync_dir(Path::new("/")));
        self.trace(|| format!("the disk of node {place} has {room} bytes left: {filled:?}"));
        let span = SECOND + self.dice.below(12 * SECOND);
        self.time.after(span, Event::Fault(Fault::Room(place)));
    }

    /// What others have filled is free again.
    pub fn make_room(&mut self, place: Place) {
        let disk = &self.nodes[place].disk;
        match disk.remove(Path::new(FILLER)).and_then(|()| disk.sync_dir(Path::new("/"))) {
            Ok(()) => self.trace(|| format!("the disk of node {place} has room")),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            // The machine is about to go down, or its disk fails.
            Err(_) => self.time.after(SECOND, Event::Fault(Fault::Room(place))),
        }
    }

    fn set_clock(&mut self, place: Place) {
        let most = [2 * SECOND, 30 * SECOND, 600 * SECOND, 3 * 86_400 * SECOND][self.dice.below(4) as usize];
        let by = self.dice.below(2 * most) as i64 - most as i64;
        self.trace(|| format!("the clock of node {place} is set by {} ms", by / MS as i64));
        self.nodes[place].clock.jump(by);
    }

    /// Operations on a disk fail now and then, in some of the ways there are.
    fn misbehave(&mut self, place: Place) {
        let mut how = Misbehaviour::none(Dice::new(self.dice.roll()));
        let ways = [
            &mut how.write_error,
            &mut how.write_full,
            &mut how.write_short,
            &mut how.truncate_error,
            &mut how.sync_error,
            &mut how.sync_full,
            &mut how.sync_dir_error,
            &mut how.rename_error,
            &mut how.open_error,
            &mut how.create_full,
            &mut how.read_error,
            &mut how.read_interrupted,
            &mut how.read_short,
            &mut how.remove_error,
        ];
        for way in ways {
            if self.dice.one_in(3) {
                *way = 2 + self.dice.below(40);
            }
        }
        self.trace(|| format!("the disk of node {place} fails now and then: {how:?}"));
        let node = &mut self.nodes[place];
        node.disk.misbehave(Some(how));
        (node.is_misbehaving, node.is_suspect, node.has_failed) = (true, true, true);
        let span = SECOND + self.dice.below(10 * SECOND);
        self.time.after(span, Event::Fault(Fault::Behave(place)));
    }

    /// A disk works again.
    pub fn behave(&mut self, place: Place) {
        if std::mem::take(&mut self.nodes[place].is_misbehaving) {
            self.trace(|| format!("the disk of node {place} works again"));
            self.nodes[place].disk.misbehave(None);
        }
    }

    fn lose_a_store(&mut self) {
        let left = |place: &Place| self.nodes[*place].kind == PeerKind::Store && !self.nodes[*place].lost;
        let stores: Vec<Place> = (0..self.nodes.len()).filter(left).collect();
        let enough = self.nodes.iter().filter(|node| node.kind.stores() && !node.lost).count() > self.shape.replicas;
        let Some(place) = stores.get(self.dice.below(stores.len() as u64) as usize).copied().filter(|_| enough) else {
            return;
        };
        self.trace(|| format!("the store of node {place} is lost for good"));
        self.totals.lost_stores += 1;
        if self.nodes[place].process.is_some() {
            self.end_process(place, Death::PowerCut);
        }
        let node = &mut self.nodes[place];
        node.lost = true;
        self.ledger.lose(node.disk_no);
        self.lost_disks |= 1 << node.disk_no;
        if self.dice.one_in(2) {
            let later = self.dice.below(10 * SECOND);
            self.time.after(later, Event::Fault(Fault::Replace(place)));
        }
    }

    /// A machine that was lost comes back at its old address with an empty disk: another store.
    fn replace(&mut self, place: Place) {
        self.disks += 1;
        let no = self.disks - 1;
        self.trace(|| format!("node {place} comes back with an empty disk"));
        self.totals.operations += self.nodes[place].disk.operations();
        self.nodes[place].replace_disk(no);
        if self.shape.watched {
            self.watch(place);
        }
        self.time.after(0, Event::Start(place));
    }
}

fn pairs(nodes: usize) -> impl Iterator<Item = (Place, Place)> {
    (0..nodes).flat_map(move |from| (0..nodes).map(move |to| (from, to)))
}
