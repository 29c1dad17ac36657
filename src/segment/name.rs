//! Names of segment files: what they hold before the dot, their state after it.
//!
//! ```text
//! ingest   ID.active  ID.flushed  ID.pending                  ID: of the first record
//! store    LOW-HIGH[-N].active .flushed .sealed .reading .trashed     first and last id; N keeps apart what shares both
//! either   ANYTHING.corrupt                                   set aside, never touched again
//! ```

use crate::record::id::{ID_LEN, Id};
use std::fmt;

/// The state of a segment, which is the extension of its file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// Being written.
    Active,
    /// Whole and synced. In the ingest tier it waits for a consumer; in the store it answers queries.
    Flushed,
    /// Store only: the same, compressed.
    Sealed,
    /// Ingest only: handed to a consumer, until it commits, fails or is too late.
    Pending,
    /// Store only: input of a running compaction. It still answers queries.
    Reading,
    /// Store only: past retention. It no longer answers queries and will be purged.
    Trashed,
    /// Set aside because it was not understood.
    Corrupt,
}

impl State {
    /// All states, in the order of a segment's life.
    pub const ALL: [State; 7] =
        [State::Active, State::Flushed, State::Sealed, State::Pending, State::Reading, State::Trashed, State::Corrupt];

    /// The extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Flushed => "flushed",
            State::Sealed => "sealed",
            State::Pending => "pending",
            State::Reading => "reading",
            State::Trashed => "trashed",
            State::Corrupt => "corrupt",
        }
    }

    /// The state that an extension, without its dot, says.
    pub fn of_extension(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.extension() == text)
    }
}

/// How a file holds its records. Its first bytes tell, never its name: `.reading` and the like may be of either form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Form {
    /// Stored records and nothing else.
    Plain,
    /// Blocks of them, compressed, and an index.
    Sealed,
}

impl Form {
    /// The state in which a store's segment of this form answers queries while nobody works on it.
    pub fn resting_state(self) -> State {
        match self {
            Form::Plain => State::Flushed,
            Form::Sealed => State::Sealed,
        }
    }
}

/// What a file name says before the dot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Bounds {
    /// An ingest segment: the id of its first record.
    From(Id),
    /// A store segment: its first and last id, and the number that tells it from others with the same two (0 if alone).
    Range(Id, Id, u32),
}

impl Bounds {
    /// The file name in a state.
    pub fn file_name(self, state: State) -> String {
        format!("{self}.{}", state.extension())
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bounds::From(id) => write!(f, "{id}"),
            Bounds::Range(low, high, 0) => write!(f, "{low}-{high}"),
            Bounds::Range(low, high, n) => write!(f, "{low}-{high}-{n}"),
        }
    }
}

/// Reads a segment's file name. `None` if it is not one.
pub fn parse(file_name: &str) -> Option<(Bounds, State)> {
    let (stem, extension) = file_name.rsplit_once('.')?;
    Some((parse_stem(stem)?, State::of_extension(extension)?))
}

fn parse_stem(stem: &str) -> Option<Bounds> {
    let mut parts = stem.split('-');
    let low = Id::parse(parts.next()?.as_bytes())?;
    let Some(high) = parts.next() else {
        return (stem.len() == ID_LEN).then_some(Bounds::From(low));
    };
    let high = Id::parse(high.as_bytes())?;
    let number = match parts.next() {
        None => 0,
        Some(digits) if digits.starts_with(|c: char| ('1'..='9').contains(&c)) => digits.parse().ok()?,
        Some(_) => return None,
    };
    (parts.next().is_none() && low <= high).then_some(Bounds::Range(low, high, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_itself() {
        for bounds in [Bounds::From(Id(7)), Bounds::Range(Id(7), Id(9), 0), Bounds::Range(Id(7), Id(7), 12)] {
            for state in State::ALL {
                assert_eq!(parse(&bounds.file_name(state)), Some((bounds, state)));
            }
        }
    }

    #[test]
    fn a_name_that_only_looks_like_one_is_none() {
        let id = Id(31).to_string();
        let large = Id(63).to_string();
        let names = [
            "LOCK".to_string(),
            id.clone(),
            format!("{id}.old"),
            format!("{}.flushed", id.to_lowercase()),
            format!("{large}-{id}.flushed"),
            format!("{id}-{large}-.flushed"),
            format!("{id}-{large}-01.flushed"),
            format!("{id}-{large}-1-2.flushed"),
            format!("{id}-{large}-99999999999.flushed"),
            format!("8{}.flushed", &id[1..]),
            ".flushed".into(),
        ];
        for name in names {
            assert_eq!(parse(&name), None, "{name}");
        }
    }
}
