//! From what was read of a file to the findings on it.

use super::copies::Span;
use super::finding::{Excuse, Finding, What};
use super::plan::{Part, Planned};
use super::walk::{Facts, Fault};
use crate::record::id::Id;
use crate::segment::{Bounds, State};

/// What is known of a file beside what was read of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Surroundings {
    /// The first id that lies in the future.
    pub future: Id,
    /// Where it counts for nothing: its records that are in no file that counts.
    pub alone: Option<Span>,
    /// Where it counts for nothing: why those need not be missed.
    pub excuse: Excuse,
}

/// The findings on one file.
pub fn judge(file: &Planned, facts: &Facts, around: &Surroundings) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |what| found.push(Finding::on(&file.name, what));
    match file.part {
        Part::Aside => {
            say(What::Aside { records: facts.records, alone: around.alone, excuse: around.excuse });
            unreadable(facts).map(|fault| What::Fault(fault, Excuse::None)).into_iter().for_each(&mut say);
            return found;
        }
        Part::Draft => {
            say(What::Draft { alone: around.alone });
            unreadable(facts).map(|fault| What::Fault(fault, Excuse::None)).into_iter().for_each(&mut say);
            return found;
        }
        Part::Waiting | Part::Live | Part::Trash => {}
    }
    let killed = if file.state == State::Active { Excuse::Killed } else { Excuse::None };
    for fault in &facts.faults {
        let excuse = match fault {
            Fault::Torn { .. } => killed,
            Fault::Zeroes { .. } => Excuse::Sent,
            _ => Excuse::None,
        };
        say(What::Fault(fault.clone(), excuse));
    }
    if facts.more > 0 {
        say(What::MoreFaults(facts.more));
    }
    match (facts.first, facts.last) {
        (Some(first), Some(last)) => {
            ends(file.bounds, first, last, facts.unreadable).into_iter().for_each(&mut say);
            if last >= around.future {
                say(What::Future { last });
            }
        }
        _ if facts.unreadable => {}
        _ => say(What::Empty(killed)),
    }
    match file.state {
        State::Flushed if file.bounds.is_none() => say(What::HalfRescued),
        State::Active => say(What::Unclosed),
        State::Pending => say(What::Handed),
        State::Reading => say(What::Interrupted),
        State::Flushed | State::Sealed | State::Trashed | State::Corrupt => {}
    }
    found
}

fn unreadable(facts: &Facts) -> Option<Fault> {
    facts.faults.iter().find(|fault| matches!(fault, Fault::Unreadable { .. })).cloned()
}

/// Holds the ends of what was read against the name.
fn ends(bounds: Option<Bounds>, first: Id, last: Id, unreadable: bool) -> Vec<What> {
    let (low, high) = match bounds {
        None => return Vec::new(),
        Some(Bounds::From(low)) => (low, None),
        Some(Bounds::Range(low, high, _)) => (low, Some(high)),
    };
    let mut found = Vec::new();
    if first != low {
        found.push(What::OtherFirst { first, named: low });
    }
    if let Some(high) = high.filter(|high| *high != last && !unreadable) {
        found.push(What::OtherLast { last, named: high });
    }
    found
}
