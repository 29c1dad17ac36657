//! What is past its time, and what time it is for that question.
//!
//! [`plan_retention`] decides over a snapshot; [`TrustedNow`] keeps a clock that jumped from removing what people still
//! need. Segments go whole: one is past its time when its last record is.

use crate::record::id::Id;
use crate::unit::{Bytes, Monotonic, UnixMillis};
use std::fmt;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// A segment that takes up room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// What the caller knows it by.
    pub key: u64,
    /// Its last id.
    pub high: Id,
    /// The length of its file.
    pub len: Bytes,
    /// When it was trashed, if it was.
    pub trashed: Option<UnixMillis>,
}

/// How long, and how much, is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// A segment is queryable until its last record is older than this.
    pub retain: Duration,
    /// A trashed segment can be brought back by hand until this much later.
    pub purge: Duration,
    /// Live and trashed segments together take no more than this.
    pub max_size: Option<Bytes>,
}

/// What to do with a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Action {
    /// Take it out of queries and note the time.
    Trash(u64),
    /// Remove it for good. Comes after its [`Action::Trash`] where both are due at once.
    Purge(u64),
}

/// What to do now, in this order: what time asks for, then, oldest first, what room asks for: trashed segments before
/// live ones.
///
/// The age of a segment is that of its last id. One whose last id, or whose time of trashing, lies in the future is
/// new.
pub fn plan_retention(held: &[Held], limits: &Limits, trusted_now: UnixMillis) -> Vec<Action> {
    let mut actions = Vec::new();
    let (mut trashed, mut live) = (Vec::new(), Vec::new());
    for segment in held {
        match segment.trashed {
            Some(at) if trusted_now.since(at) > limits.purge => actions.push(Action::Purge(segment.key)),
            Some(_) => trashed.push(segment),
            None if trusted_now.since(segment.high.millis()) > limits.retain => {
                actions.push(Action::Trash(segment.key));
                trashed.push(segment);
            }
            None => live.push(segment),
        }
    }
    let Some(Bytes(max_size)) = limits.max_size else { return actions };
    trashed.sort_by_key(|segment| (segment.high, segment.key));
    live.sort_by_key(|segment| (segment.high, segment.key));
    let live_from = trashed.len();
    let oldest_first: Vec<&Held> = trashed.into_iter().chain(live).collect();
    let mut size = oldest_first.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.len.0));
    for (at, segment) in oldest_first.into_iter().enumerate() {
        if size <= max_size {
            break;
        }
        if at >= live_from {
            actions.push(Action::Trash(segment.key));
        }
        actions.push(Action::Purge(segment.key));
        size -= segment.len.0;
    }
    actions
}

/// Until when, this included, [`plan_retention`] finds nothing past its time among these segments.
pub fn nothing_before(held: &[Held], limits: &Limits) -> UnixMillis {
    let due = held.iter().map(|segment| match segment.trashed {
        Some(at) => at.after(limits.purge),
        None => segment.high.millis().after(limits.retain),
    });
    due.min().unwrap_or(UnixMillis(u64::MAX))
}

/// The time of day as far as retention may believe it.
///
/// A clock that jumps ahead by a month would have retention remove everything. So the time it goes by is never more
/// than a tenth of `retain` ahead of an anchor plus the time this process has run. The anchor is the wall clock's
/// reading at the start, or the newest id in the store if that is earlier: what was written last was written in the
/// past.
///
/// What this delays: a store that was down for longer than that tenth begins with an anchor as old as its newest
/// record, and then removes late, by the time it was down less the tenth, until it is started again with newer records.
/// The same holds after a machine was suspended, or started with a clock that was behind. The complaint says so,
/// `max_size` still bounds the disk, and no record is ever removed early by more than the tenth.
#[derive(Clone, Copy, Debug)]
pub struct TrustedNow {
    anchor: UnixMillis,
    started: Monotonic,
    tenth: Duration,
}

impl TrustedNow {
    /// `newest` is the last id in the store at its start, `None` if it is empty.
    pub fn start(wall: UnixMillis, mono: Monotonic, newest: Option<Id>, retain: Duration) -> TrustedNow {
        let anchor = newest.map_or(wall, |newest| wall.min(newest.millis()));
        TrustedNow { anchor, started: mono, tenth: retain / 10 }
    }

    /// The time to go by, and a complaint if that is not what the clock says. Nothing is remembered between calls: the
    /// complaint comes each time for as long as the clock is not believed.
    pub fn now(&self, wall: UnixMillis, mono: Monotonic) -> (UnixMillis, Option<Complaint>) {
        let latest = self.anchor.after(mono.since(self.started)).after(self.tenth);
        if wall <= latest {
            return (wall, None);
        }
        (latest, Some(Complaint { wall, trusted: latest }))
    }
}

/// The clock runs ahead of what retention believes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Complaint {
    /// What the clock says.
    pub wall: UnixMillis,
    /// What retention goes by.
    pub trusted: UnixMillis,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the clock says {}, further ahead than the newest record and the time since start allow: retention goes by \
             {}; if the clock is right, restart once new records have come in",
            self.wall, self.trusted
        )
    }
}
