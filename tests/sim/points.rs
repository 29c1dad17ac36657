//! Crash points: what a disk may look like if the power went at some operation, recovered and held against the ledger.
//!
//! The disk takes the images itself, inside the steps of the code that is shipped. What a node had promised before the step
//! must be found in each; nothing may be found that was never sent; what was whole in the image must be whole after recovery.
//! Some images suffer a second crash within recovery, and some a third one after it, which must not change anything.

use crate::broken;
use crate::ledger::{Checked, KEPT, RECOVERY, broken};
use crate::node::{INGEST_DIR, Opening, Place, STORE_DIR};
use crate::run::Sim;
use crate::shape::DISK;
use oklog::cluster::DataId;
use oklog::record::id::Id;
use oklog::record::stored::records;
use oklog::segment::Segment;
use oklog::segment::name::{self, State};
use oklog::segment::readable::Readable;
use oklog::segment::sealed::{Form, Sealed, SealedText, form_of};
use oklog::store::log::StoreLog;
use oklog::unit::Bytes;
use oklog::world::entropy::{Dice, SeededEntropy};
use oklog::world::fs::memory::{MemoryFs, Picture, Watch};
use oklog::world::fs::{File, FileSystem, read_full_at};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Of so many operations images are taken before one.
const WATCHED_ONE_IN: u64 = 5;

/// How many: first the harshest, in which only what is synced survives.
const IMAGES: usize = 3;

/// Of so many images one suffers a second crash, within recovery.
const SECOND_CRASH_ONE_IN: u64 = 4;

/// Of so many images one is recovered twice.
const AGAIN_ONE_IN: u64 = 4;

/// How many images of one step are looked at, at most.
const MOST: usize = 400;

/// The bytes of a segment.
pub fn read_segment(segment: &Segment) -> io::Result<Vec<u8>> {
    read_file(&*segment.open()?, segment.digest().len)
}

fn read_file(file: &dyn File, len: Bytes) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len.0 as usize];
    let n = read_full_at(file, &mut bytes, Bytes(0))?;
    if n < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// The bytes of all parts of a snapshot, each with its first id.
pub fn read_parts(parts: &[Readable]) -> io::Result<Vec<(Id, Vec<u8>)>> {
    parts.iter().map(|part| Ok((part.low, read_file(&*part.source.open()?, part.len)?))).collect()
}

/// The same as one heap of records.
pub fn read_all(parts: &[Readable]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for (_, bytes) in read_parts(parts)? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// All records that a store answers with.
pub fn read_store(log: &StoreLog) -> io::Result<Vec<u8>> {
    let parts: Vec<Readable> = log.snapshot(Id::MIN, Id::MAX).into_iter().map(Readable::whole).collect();
    read_all(&parts)
}

/// One of the two tiers of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tier {
    Ingest,
    Store,
}

impl Tier {
    fn dir(self) -> &'static Path {
        Path::new(if self == Tier::Ingest { INGEST_DIR } else { STORE_DIR })
    }

    /// Whether a segment in this state answers queries after recovery.
    fn keeps(self, state: State) -> bool {
        match self {
            Tier::Ingest => matches!(state, State::Active | State::Flushed | State::Pending),
            Tier::Store => matches!(state, State::Flushed | State::Sealed | State::Reading),
        }
    }

    /// Recovers what lies on a disk. Gives all records, and the directory's id.
    fn open(self, opening: &Opening<'_>) -> Result<(Vec<u8>, DataId), String> {
        match self {
            Tier::Ingest => {
                let log = opening.ingest(Arc::default())?;
                let found = read_all(&log.snapshot(Id::MIN, Id::MAX)).map_err(|e| e.to_string())?;
                Ok((found, log.id()))
            }
            Tier::Store => {
                let log = opening.store()?;
                let found = read_store(&log).map_err(|e| e.to_string())?;
                Ok((found, DataId(log.id().0)))
            }
        }
    }
}

impl Sim {
    /// Lets the disk of a node take images from now on.
    pub fn watch(&mut self, place: Place) {
        let dice = Dice::new(self.dice.roll());
        self.nodes[place].disk.watch(Some(Watch { one_in: WATCHED_ONE_IN, images: IMAGES, most: MOST, dice }));
    }

    /// Looks at the images that were taken of a disk since the last time.
    pub fn look_at_pictures(&mut self, place: Place) -> Checked {
        let pictures = self.nodes[place].disk.pictures();
        if pictures.is_empty() {
            return Ok(());
        }
        let logged = log::max_level();
        log::set_max_level(log::LevelFilter::Off);
        for picture in pictures {
            let (ingests, stores) = (self.shape.ingests(place), self.shape.stores(place));
            for (tier, is_there) in [(Tier::Ingest, ingests), (Tier::Store, stores)] {
                let other = if tier == Tier::Ingest { Tier::Store } else { Tier::Ingest };
                // An operation in one directory leaves the other as it was.
                if is_there && !picture.path.starts_with(other.dir()) {
                    self.crash_point(place, tier, &picture)?;
                }
            }
        }
        log::set_max_level(logged);
        Ok(())
    }

    fn crash_point(&mut self, place: Place, tier: Tier, picture: &Picture) -> Checked {
        let mut dice = Dice::new(self.dice.roll());
        let image = &picture.image;
        let whole = if dice.one_in(2) { whole_in(tier, image) } else { Vec::new() };
        self.totals.crash_points += 1;
        if dice.one_in(SECOND_CRASH_ONE_IN) {
            self.totals.crash_points += 1;
            self.totals.second_crashes += 1;
            image.crash_at(image.operations() + dice.below(10));
            // Whether it came to its end makes no difference: the power goes now.
            let _ = self.open_image(place, tier, image, &mut dice);
            if dice.one_in(2) {
                image.crash(&mut dice);
            }
            image.recover();
        }
        let what = |problem: String| {
            let Picture { operation, what, path, .. } = picture;
            format!("a crash of node {place} before operation {operation} ({what:?} {}): {problem}", path.display())
        };
        let found = self.open_image(place, tier, image, &mut dice);
        let (found, id) = match found {
            Ok(found) => found,
            Err(why) if why.contains("o space left") => {
                // Nothing is lost by waiting for room.
                self.totals.waited_for_room += 1;
                image.set_capacity(DISK);
                match self.open_image(place, tier, image, &mut dice) {
                    Ok(found) => found,
                    Err(why) => return broken(RECOVERY, what(why)),
                }
            }
            Err(why) => return broken(RECOVERY, what(why)),
        };
        let told = self.nodes[place].told;
        let known = if tier == Tier::Ingest { told.0 } else { told.1 };
        if known.is_some_and(|known| known != id) {
            return broken(KEPT, what("the directory has another id".into()));
        }
        let checked = match tier {
            Tier::Ingest => self.ledger.check_ingest(place, &found).map(drop),
            Tier::Store => self.ledger.check_store(self.nodes[place].disk_no, &found),
        };
        if let Err(mut violation) = checked {
            violation.detail = what(violation.detail);
            return Err(violation);
        }
        let mut ids: Vec<Id> = records(&found).filter_map(|stored| stored.id()).collect();
        ids.sort_unstable();
        if let Some(lost) = whole.iter().find(|id| ids.binary_search(id).is_err()) {
            return broken(KEPT, what(format!("{lost} was whole before recovery")));
        }
        if dice.one_in(AGAIN_ONE_IN) {
            image.crash(&mut dice);
            image.recover();
            match self.open_image(place, tier, image, &mut dice) {
                Ok((again, same)) if same == id && is_same(&found, &again) => {}
                Ok(_) => return broken(RECOVERY, what("it comes to another result the second time".into())),
                Err(why) => return broken(RECOVERY, what(format!("it fails the second time: {why}"))),
            }
        }
        Ok(())
    }

    fn open_image(
        &self,
        place: Place,
        tier: Tier,
        image: &MemoryFs,
        dice: &mut Dice,
    ) -> Result<(Vec<u8>, DataId), String> {
        let fs = broken::disk(Arc::new(image.clone()), self.shape.wrong);
        let (clock, metrics) = (self.nodes[place].clock.clone(), self.metrics.clone());
        let entropy = Arc::new(SeededEntropy::new(dice.roll()));
        tier.open(&Opening { fs, clock, entropy, metrics, shape: &self.shape })
    }
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    let in_order = |bytes: &[u8]| {
        let mut all: Vec<Vec<u8>> = records(bytes).map(|stored| stored.whole.to_vec()).collect();
        all.sort_unstable();
        all
    };
    one == other || in_order(one) == in_order(other)
}

/// The records at the front of each segment file that are whole as they lie there.
fn whole_in(tier: Tier, disk: &MemoryFs) -> Vec<Id> {
    let mut ids = Vec::new();
    for entry in disk.list(tier.dir()).unwrap_or_default() {
        let state = name::parse(&entry.name).map(|(_, state)| state);
        if !entry.is_file || !state.is_some_and(|state| tier.keeps(state)) {
            continue;
        }
        let file = disk.open(&tier.dir().join(&entry.name)).expect("a file that is there");
        let bytes = match form_of(&*file).expect("a disk that works") {
            Form::Plain => read_file(&*file, entry.size).expect("a disk that works"),
            Form::Sealed => {
                let Ok(sealed) = Sealed::salvage(file) else { continue };
                let text = SealedText::new(Arc::new(sealed));
                read_file(&text, text.size().expect("known")).expect("it was unpacked before")
            }
        };
        let mut last = None;
        for stored in records(&bytes) {
            // Nobody sends zeroes here: where there are some, a page was lost.
            let is_damaged = stored.text().contains(&0);
            match stored.id().filter(|id| !is_damaged && last.is_none_or(|last| last < *id)) {
                Some(id) => {
                    ids.push(id);
                    last = Some(id);
                }
                None => break,
            }
        }
    }
    ids
}
