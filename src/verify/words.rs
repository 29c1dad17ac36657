//! Each finding as a line that says what it is and what to do.

use super::copies::Span;
use super::finding::{Excuse, What};
use super::streams::Oddity;
use super::walk::{Fault, Stretch};
use crate::record::id::Id;
use crate::segment::sealed::audit::Flaw;
use std::fmt;

const COPIES_OUT: &str = "the next start copies what is whole to a new segment and sets this file aside as .corrupt";
const AROUND: &str = "check the disk; servers keep what is whole around it";

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::SecondIdentity { used } => {
                write!(
                    f,
                    "is a second identity, servers go by {used:032x}; remove the one that is not this directory's"
                )
            }
            What::SameIdentity { other } => write!(
                f,
                "has the same identity as {other}: given twice, or copied; copies in the two count as one, and never \
                 start both"
            ),
            What::FutureMark { at } => {
                write!(
                    f,
                    "is a clock mark of {}, which is after now: the clock was ahead, or is behind now",
                    at.millis()
                )
            }
            What::Twin { other } => write!(
                f,
                "is another file of the segment {other}: a start can give the name to one of them only; move one away"
            ),
            What::Draft { alone } => draft(f, *alone),
            What::Aside { records, alone, excuse } => aside(f, *records, *alone, *excuse),
            What::Fault(found, excuse) => fault(f, found, *excuse),
            What::MoreFaults(count) => write!(f, "{count} more places like these in this file"),
            What::OtherFirst { first, named } => write!(
                f,
                "begins with {first}, its name says {named}: records are missing at its beginning, or it was renamed; \
                 {COPIES_OUT}"
            ),
            What::OtherLast { last, named } => write!(
                f,
                "ends with {last}, its name says {named}: records are missing at its end, or it was renamed; {COPIES_OUT}"
            ),
            What::Future { last } => {
                write!(
                    f,
                    "has records of {}, which is after now: a clock was ahead, or this one is behind",
                    last.millis()
                )
            }
            What::Unlike { other, span } => {
                let records = match span.records {
                    1 => "1 record differs from the one with the same id".to_string(),
                    more => format!("{more} records differ from those with the same ids"),
                };
                let when = when(*span);
                write!(
                    f,
                    "{records} in {other}, {when}: one of the two is damaged; compare them, and keep both until then"
                )
            }
            What::Stream(found, excuse) => oddity(f, *found, *excuse),
            What::Lacking { span, stores, wanted, others } => {
                let also = if others.is_empty() { String::new() } else { format!(" (also in {})", others.join(", ")) };
                let records = counted(span.records);
                write!(f, "{records} on {stores} of {wanted} stores{also}, {}: keep this directory safe", when(*span))
            }
            What::Repeated(records) => {
                write!(
                    f,
                    "{} here more than once; queries show one, and compaction drops the others",
                    counted(*records)
                )
            }
            What::More { count, of } => write!(f, "{count} more {of}, which are not listed"),
            other => f.write_str(always(other)),
        }
    }
}

/// What is said in the same words each time.
fn always(what: &What) -> &'static str {
    match what {
        What::NotUnderstood => {
            "no server gives a file this name; the next start takes in what is whole in it, or sets it aside as .corrupt"
        }
        What::OtherTier => {
            "this name belongs into a directory of the other tier; move it there if it was misplaced; the next start \
             takes in what is whole in it, or sets it aside as .corrupt"
        }
        What::NotUtf8 => "its name is not UTF-8: not read, and servers leave it alone; move it away",
        What::NotAFile => "has a segment's name and is no plain file: not read, and never queried; move it away",
        What::LeftAlone => "is no plain file: not read; servers leave it alone",
        What::BadIdentity => "is no identity: 32 lower-case hexadecimal digits; give it its name back",
        What::NoIdentity => {
            "has segments and no identity: the next start draws one, and other nodes take the directory for a new one; \
             bring its .store or .ingest file back if you know its name, or 'oklog forget' the old one"
        }
        What::LowerMark => "is an older clock mark; the next start removes it",
        What::Unclosed => "was being written when the server ended; the next start closes it",
        What::Handed => {
            "was with a consumer when the server ended, and stores may have it too; the next start offers it again"
        }
        What::HalfRescued => {
            "is damaged, and what is whole in it was being copied when the server ended; the next start goes on with that"
        }
        What::Interrupted => "was input of a compaction when the server ended; the next start takes it back",
        What::Empty(Excuse::Killed) => "has no whole record; the next start removes it",
        What::Empty(_) => "has no whole record: what it held is lost here; look for it on other stores",
        _ => "",
    }
}

fn counted(records: u64) -> String {
    if records == 1 { "1 record".into() } else { format!("{records} records") }
}

fn when(span: Span) -> String {
    if span.records == 1 {
        return format!("id {}, at {}", span.first, span.first.millis());
    }
    format!("from {} at {} to {} at {}", span.first, span.first.millis(), span.last, span.last.millis())
}

fn draft(f: &mut fmt::Formatter<'_>, alone: Option<Span>) -> fmt::Result {
    write!(f, "was being written when the server ended and was acknowledged to nobody; the next start removes it")?;
    match alone {
        None => Ok(()),
        Some(span) => write!(f, "; {} of it in no other file that was given", counted(span.records)),
    }
}

fn aside(f: &mut fmt::Formatter<'_>, records: u64, alone: Option<Span>, excuse: Excuse) -> fmt::Result {
    write!(f, "counts for nothing, has {} that can be read", counted(records))?;
    let Some(span) = alone else {
        return match records {
            0 => Ok(()),
            _ => write!(f, ", all of them also in files that count"),
        };
    };
    write!(f, ", {} of them in no file that counts, {}", span.records, when(span))?;
    match excuse {
        Excuse::Retention => write!(f, ": retention may have removed those"),
        Excuse::Elsewhere => write!(f, ": give the directories of all stores to know whether they have them"),
        _ => write!(f, ": queries do not find them; keep the file"),
    }
}

fn fault(f: &mut fmt::Formatter<'_>, fault: &Fault, excuse: Excuse) -> fmt::Result {
    let zeroed = |zeroes: &Option<Stretch>| match zeroes {
        Some(at) => format!(" ({} of them zeroes, from byte {} to {})", at.len(), at.from, at.to),
        None => String::new(),
    };
    match fault {
        Fault::NotRecords { at, zeroes } => write!(
            f,
            "{} bytes from byte {} to {} are no records{}; {AROUND}",
            at.len(),
            at.from,
            at.to,
            zeroed(zeroes)
        ),
        Fault::OutOfOrder { at, id, neighbour } => {
            write!(f, "the record at byte {at} has the id {id}, which is out of order beside {neighbour}; {AROUND}")
        }
        Fault::Twice { at, id, alike: true } => write!(f, "the id {id} comes twice in a row, at byte {at}; {AROUND}"),
        Fault::Twice { at, id, alike: false } => {
            write!(f, "the id {id} comes twice in a row with different records, at byte {at}; {AROUND}")
        }
        Fault::Torn { at, zeroes } => {
            let tail = format!("ends within a record: {} bytes from byte {} on have no line feed", at.len(), at.from);
            let next = match excuse {
                Excuse::Killed => "a killed server leaves that, and the next start cuts it off",
                _ => "the next start keeps what is whole",
            };
            write!(f, "{tail}{}; {next}", zeroed(zeroes))
        }
        Fault::Zeroes { at, id } => {
            let why = match excuse {
                Excuse::Sent => "it may have been sent so",
                _ => "a part of the disk was never written, and the records behind this one are missing",
            };
            write!(f, "the record {id} has {} zeroes in a row, from byte {} to {}: {why}", at.len(), at.from, at.to)
        }
        Fault::Sealed(flaw) => sealed(f, flaw),
        Fault::Unreadable { at, error } => {
            write!(f, "cannot be read from byte {at} on: {error}; what follows was not looked at")
        }
    }
}

fn sealed(f: &mut fmt::Formatter<'_>, flaw: &Flaw) -> fmt::Result {
    match flaw {
        Flaw::Version(version) => {
            write!(f, "is sealed in version {version}, which this oklog does not know: nothing in it was looked at; ")?;
            write!(f, "use the oklog that wrote it, or a newer one")
        }
        Flaw::Index(why) => {
            write!(f, "its index is damaged, which costs speed alone: {why}; check the disk; stores write it anew")
        }
        Flaw::Wrong(part) => write!(
            f,
            "its index is whole, and the part of it called {part} is not that of its records: queries may miss records; \
             report it as a bug, and see oklog cat for what is in the file"
        ),
        Flaw::Block { at, records, first, last, why } => write!(
            f,
            "{} lost: the block from byte {} to {} is damaged, from {first} at {} to {last} at {}: {why}; {AROUND}",
            counted_are(u64::from(*records)),
            at.start,
            at.end,
            first.millis(),
            last.millis()
        ),
        Flaw::Lost { at, after, before } => {
            let bytes = format!("{} bytes from byte {} to {} are no block", at.end - at.start, at.start, at.end);
            let what = match (after, before) {
                (Some(after), Some(before)) => format!("between {after} and {before}"),
                (Some(after), None) => format!("behind {after}"),
                (None, Some(before)) => format!("before {before}"),
                (None, None) => "in it".to_string(),
            };
            write!(f, "{bytes}: records {what} are lost; {AROUND}")
        }
    }
}

fn counted_are(records: u64) -> String {
    if records == 1 { "1 record is".into() } else { format!("{records} records are") }
}

fn oddity(f: &mut fmt::Formatter<'_>, oddity: Oddity, excuse: Excuse) -> fmt::Result {
    let stream = |id: Id| format!("{:07x}", id.0 >> 32 & ((1 << 28) - 1));
    match oddity {
        Oddity::Gap { from, to, before, after } => {
            let (counters, records) = match to - from {
                0 => (format!("counter {from}"), "1 record is".to_string()),
                more => (format!("counters {from} to {to}"), format!("{} records are", u64::from(more) + 1)),
            };
            write!(
                f,
                "{records} missing: {counters} of stream {}, between {before} at {} and {after} at {}; look for them in \
                 directories that were not given",
                stream(after),
                before.millis(),
                after.millis()
            )
        }
        Oddity::Headless { first } => {
            let missing = match first.counter() {
                1 => "the first record of a stream is missing".to_string(),
                more => format!("the first {more} records of a stream are missing"),
            };
            write!(f, "{missing}: stream {} begins with {first} at {}", stream(first), first.millis())?;
            match excuse {
                Excuse::None => write!(f, "; look for them in directories that were not given"),
                _ => write!(f, ": retention may have removed what came before"),
            }
        }
        Oddity::Stray { id, expected } => write!(
            f,
            "the record {id} at {} has counter {} where {expected} belongs in stream {}: its id is damaged",
            id.millis(),
            id.counter(),
            stream(id)
        ),
    }
}
