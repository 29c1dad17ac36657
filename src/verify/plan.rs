//! What each name in a data directory stands for, judged by the names alone.

use super::finding::What;
use crate::cluster::remembered;
use crate::ingest::flusher::MARK_EXTENSION;
use crate::ingest::recover::ID_EXTENSION;
use crate::record::id::Id;
use crate::segment::handle::DAMAGED;
use crate::segment::{Bounds, State, identity, name, room};
use crate::store::recover::STORE_EXTENSION;
use crate::unit::Bytes;
use crate::world::fs::Entry;
use crate::world::fs::real::LOCK_NAME;
use std::collections::BTreeMap;
use std::fmt;

/// Whose directory it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// The ingest tier's.
    Ingest,
    /// A store's.
    Store,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Ingest => "ingest",
            Tier::Store => "store",
        })
    }
}

/// What the records of a file count for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// In the ingest tier: on its way to the stores.
    Waiting,
    /// In a store, answering queries: a copy.
    Live,
    /// In a store's trash: no copy any more, but not lost either.
    Trash,
    /// Being written in a store when it ended: never acknowledged, and removed at the next start.
    Draft,
    /// Set aside: no server reads it again.
    Aside,
}

/// A file that is to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// Its name in the directory.
    pub name: String,
    /// Its length.
    pub size: Bytes,
    /// What its name says of its content; `None` where that counts for nothing.
    pub bounds: Option<Bounds>,
    /// What its name says of its state.
    pub state: State,
    /// What its records count for.
    pub part: Part,
}

/// What a directory holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirPlan {
    /// Whose it is; `None` while nothing in it tells.
    pub tier: Option<Tier>,
    /// The id it has for life.
    pub id: Option<u128>,
    /// The files with records, by name.
    pub files: Vec<Planned>,
    /// What is wrong with names: of which one, and what.
    pub findings: Vec<(String, What)>,
}

/// What a directory turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// One tier's.
    Dir(DirPlan),
    /// One that holds these two, or one of them, as servers make it by default.
    Parent(Vec<&'static str>),
    /// None of ours.
    Strange,
}

/// The extension, with its dot, of a copy out of a damaged ingest file that has not got its final name yet.
const COPY: &str = ".copy";

/// Judges the entries of a directory. `future` is the first id that lies in the future.
pub fn plan(entries: &[Entry], future: Id) -> Place {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort();
    let tier = tier_of(&entries);
    if tier.is_none() {
        let below = |name: &&str| entries.iter().any(|entry| !entry.is_file && entry.name == *name);
        let found: Vec<&'static str> = ["ingest", "store"].into_iter().filter(below).collect();
        if !found.is_empty() {
            return Place::Parent(found);
        }
        if !entries.iter().any(|entry| entry.is_file && entry.name == LOCK_NAME) {
            return Place::Strange;
        }
    }
    let mut plan = DirPlan { tier, ..DirPlan::default() };
    let mut marks = Vec::new();
    for entry in entries {
        match kind_of(entry, tier) {
            Kind::Ours => {}
            Kind::Identity(id) => match plan.id {
                None => plan.id = Some(id),
                Some(used) => plan.findings.push((entry.name.clone(), What::SecondIdentity { used })),
            },
            Kind::Mark(at) => marks.push((at, entry)),
            Kind::Segment(planned) => plan.files.push(planned),
            Kind::Odd(what) => {
                // Whatever it is called, there may be records in it.
                if matches!(what, What::NotUnderstood | What::OtherTier) && entry.size > Bytes(0) {
                    plan.files.push(planned(entry, None, State::Corrupt, Part::Aside));
                }
                plan.findings.push((entry.name.clone(), what));
            }
        }
    }
    for (at, entry) in &marks {
        let highest = marks.iter().map(|(at, _)| *at).max();
        if Some(*at) != highest {
            plan.findings.push((entry.name.clone(), What::LowerMark));
        } else if *at >= future {
            plan.findings.push((entry.name.clone(), What::FutureMark { at: *at }));
        }
    }
    if plan.id.is_none() && plan.files.iter().any(|file| matches!(file.part, Part::Waiting | Part::Live)) {
        plan.findings.push((String::new(), What::NoIdentity));
    }
    find_twins(&mut plan);
    Place::Dir(plan)
}

enum Kind {
    Ours,
    Identity(u128),
    Mark(Id),
    Segment(Planned),
    Odd(What),
}

/// The tier whose identity lies here, or else the one that most segments' names are of.
fn tier_of(entries: &[&Entry]) -> Option<Tier> {
    let files = || entries.iter().filter(|entry| entry.is_file).map(|entry| entry.name.as_str());
    let has = |extension| files().any(|name| name.strip_suffix(extension).and_then(identity::parse).is_some());
    match (has(ID_EXTENSION), has(STORE_EXTENSION)) {
        (true, false) => return Some(Tier::Ingest),
        (false, true) => return Some(Tier::Store),
        _ => {}
    }
    let (mut ingest, mut store) = (0, 0);
    for name in files() {
        match name::parse(name) {
            Some((Bounds::From(_), _)) => ingest += 1,
            Some((Bounds::Range(..), _)) => store += 1,
            None => ingest += usize::from(mark_of(name).is_some()),
        }
    }
    match ingest + store {
        0 => None,
        _ if ingest > store => Some(Tier::Ingest),
        _ => Some(Tier::Store),
    }
}

fn mark_of(name: &str) -> Option<Id> {
    match name.rsplit_once('.') {
        Some((stem, MARK_EXTENSION)) => Id::parse(stem.as_bytes()),
        _ => None,
    }
}

fn kind_of(entry: &Entry, tier: Option<Tier>) -> Kind {
    let named = name::parse(&entry.name);
    if !entry.is_file {
        let taken = named.is_some_and(|(_, state)| state != State::Corrupt);
        return Kind::Odd(if taken { What::NotAFile } else { What::LeftAlone });
    }
    if entry.name == LOCK_NAME || remembered::is_ours(&entry.name) || room::is_ours(&entry.name) {
        return Kind::Ours;
    }
    // Such a name is shown as nearly as it can be (see `Entry`), and cannot be opened.
    if entry.name.contains(char::REPLACEMENT_CHARACTER) {
        return Kind::Odd(What::NotUtf8);
    }
    if tier == Some(Tier::Ingest) && entry.name.ends_with(DAMAGED) {
        return Kind::Segment(planned(entry, None, State::Flushed, Part::Waiting));
    }
    if tier == Some(Tier::Ingest) && entry.name.ends_with(COPY) && entry.name.contains(DAMAGED) {
        return Kind::Segment(planned(entry, None, State::Active, Part::Draft));
    }
    if entry.name.ends_with(".corrupt") {
        return Kind::Segment(planned(entry, None, State::Corrupt, Part::Aside));
    }
    for (extension, of) in [(ID_EXTENSION, Tier::Ingest), (STORE_EXTENSION, Tier::Store)] {
        let Some(stem) = entry.name.strip_suffix(extension) else { continue };
        return match identity::parse(stem) {
            Some(id) if tier == Some(of) => Kind::Identity(id),
            Some(_) => Kind::Odd(What::OtherTier),
            None => Kind::Odd(What::BadIdentity),
        };
    }
    if let Some(at) = mark_of(&entry.name) {
        return if tier == Some(Tier::Ingest) { Kind::Mark(at) } else { Kind::Odd(What::OtherTier) };
    }
    let Some((bounds, state)) = named else { return Kind::Odd(What::NotUnderstood) };
    let part = match (tier, bounds, state) {
        (Some(Tier::Ingest), Bounds::From(_), State::Active | State::Flushed | State::Pending) => Part::Waiting,
        (Some(Tier::Store), Bounds::Range(..), State::Flushed | State::Sealed | State::Reading) => Part::Live,
        (Some(Tier::Store), Bounds::Range(..), State::Trashed) => Part::Trash,
        (Some(Tier::Store), Bounds::Range(low, high, _), State::Active) if low == high => Part::Draft,
        (Some(Tier::Ingest), Bounds::Range(..), _) | (Some(Tier::Store), Bounds::From(_), _) => {
            return Kind::Odd(What::OtherTier);
        }
        _ => return Kind::Odd(What::NotUnderstood),
    };
    Kind::Segment(planned(entry, Some(bounds), state, part))
}

fn planned(entry: &Entry, bounds: Option<Bounds>, state: State, part: Part) -> Planned {
    Planned { name: entry.name.clone(), size: entry.size, bounds, state, part }
}

/// In the ingest tier one segment has one file: a start would give two of them one name.
fn find_twins(plan: &mut DirPlan) {
    let mut by_id: BTreeMap<Id, &str> = BTreeMap::new();
    for file in &plan.files {
        let Some(Bounds::From(id)) = file.bounds else { continue };
        if let Some(other) = by_id.insert(id, &file.name) {
            plan.findings.push((file.name.clone(), What::Twin { other: other.to_string() }));
        }
    }
}
