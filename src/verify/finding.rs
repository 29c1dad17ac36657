//! What can be wrong, as values. How each is said to a person stands in `words`.

use super::copies::Span;
use super::streams::Oddity;
use super::walk::Fault;
use crate::record::id::Id;

/// How grave a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Records are lost, damaged, in danger or in the wrong place: somebody should act.
    Problem,
    /// Worth knowing; nobody has to act.
    Note,
}

/// Something that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which file of the directory; empty for the directory itself.
    pub name: String,
    /// What it is.
    pub what: What,
}

impl Finding {
    /// A finding on a file, or, with an empty name, on its directory.
    pub fn on(name: &str, what: What) -> Finding {
        Finding { name: name.to_string(), what }
    }
}

/// Why something that cannot be right is all the same no reason for alarm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excuse {
    /// There is none.
    None,
    /// A server that is killed leaves it so, and puts it right when it starts.
    Killed,
    /// Retention may have removed the rest.
    Retention,
    /// The rest may be in directories that were not given.
    Elsewhere,
    /// It may be what was sent.
    Sent,
}

/// What is found, of a name, of a file's content, or of all files together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A name that no server gives.
    NotUnderstood,
    /// A name that servers give in directories of the other tier.
    OtherTier,
    /// A name that is not UTF-8.
    NotUtf8,
    /// A segment's name, and not a plain file.
    NotAFile,
    /// A directory, a link or the like.
    LeftAlone,
    /// A second identity.
    SecondIdentity {
        /// The one that counts.
        used: u128,
    },
    /// An identity file whose name is no identity.
    BadIdentity,
    /// Segments, and no identity.
    NoIdentity,
    /// The identity that another directory has too.
    SameIdentity {
        /// The other directory.
        other: String,
    },
    /// A clock mark below another one.
    LowerMark,
    /// A clock mark in the future.
    FutureMark {
        /// What it says.
        at: Id,
    },
    /// Two files of one ingest segment.
    Twin {
        /// The other one.
        other: String,
    },
    /// A segment that was being written when the server ended.
    Unclosed,
    /// A segment that a consumer had when the server ended.
    Handed,
    /// A damaged ingest segment out of which what is whole was being copied.
    HalfRescued,
    /// Input of a compaction that was interrupted.
    Interrupted,
    /// A segment that a store was writing when it ended.
    Draft {
        /// Its records that are nowhere else.
        alone: Option<Span>,
    },
    /// A file that was set aside, or whose name is not understood.
    Aside {
        /// Whole records in it.
        records: u64,
        /// Those that are in no file that counts.
        alone: Option<Span>,
        /// Why they need not be missed.
        excuse: Excuse,
    },
    /// A fault in a file; excused where a start puts it right.
    Fault(Fault, Excuse),
    /// More faults of a file.
    MoreFaults(u64),
    /// Not one whole record.
    Empty(Excuse),
    /// The first record is not the one in the name.
    OtherFirst {
        /// What the first record's id is.
        first: Id,
        /// What the name says.
        named: Id,
    },
    /// The last record is not the one in the name.
    OtherLast {
        /// What the last record's id is.
        last: Id,
        /// What the name says.
        named: Id,
    },
    /// The newest record is dated after now.
    Future {
        /// The newest one.
        last: Id,
    },
    /// Different records under one id.
    Unlike {
        /// The other file.
        other: String,
        /// Which.
        span: Span,
    },
    /// Counters that are missing, or in the wrong place.
    Stream(Oddity, Excuse),
    /// Records on too few stores.
    Lacking {
        /// Which.
        span: Span,
        /// On how many stores they are.
        stores: u32,
        /// On how many they should be.
        wanted: u32,
        /// On which else, besides the directory that this is said of.
        others: Vec<String>,
    },
    /// Records that the directory has more than once.
    Repeated(u64),
    /// Findings of a kind beyond those that are kept.
    More {
        /// How many.
        count: u64,
        /// Of what.
        of: &'static str,
    },
}

impl What {
    /// Takes back that the zeroes in a record may have been sent: records behind it are missing.
    pub fn no_longer_sent(&mut self, before: Id) {
        match self {
            What::Fault(Fault::Zeroes { id, .. }, excuse) if *id == before => *excuse = Excuse::None,
            _ => {}
        }
    }

    /// How grave it is.
    pub fn severity(&self) -> Severity {
        use Severity::{Note, Problem};
        match self {
            What::LeftAlone
            | What::LowerMark
            | What::FutureMark { .. }
            | What::Unclosed
            | What::Handed
            | What::HalfRescued
            | What::Interrupted
            | What::Draft { .. }
            | What::Future { .. }
            | What::Repeated(_) => Note,
            What::Aside { alone, excuse, .. } => match (alone, excuse) {
                (Some(_), Excuse::None) => Problem,
                _ => Note,
            },
            What::Fault(_, excuse) | What::Empty(excuse) | What::Stream(_, excuse) => match excuse {
                Excuse::None => Problem,
                _ => Note,
            },
            _ => Problem,
        }
    }
}
