//! A sealed file held against itself: every block unpacked, and the index against what its blocks give.
//!
//! Memory: one block, and what the index of the file takes, once as it is and once as it should be.

use super::filter::FilterBuilder;
use super::layout::{FOOTER_FRAME, FRAME_HEADER, Footer, Section, Unreadable, frame_header};
use super::read::{Glance, Sealed, Unpacker, form_of, glance, read_footer};
use super::text::SealedText;
use super::write::Tally;
use super::{Block, Form};
use crate::record::id::Id;
use crate::record::stored::Checker;
use crate::unit::Bytes;
use crate::world::fs::{File, read_full_at};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What is wrong with a sealed file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It is of a version that is not known here: nothing is known of it.
    Version(u32),
    /// A part of the index is damaged, and this is which. It costs speed alone.
    Index(String),
    /// A part of the index is as it was written, and not what the blocks give: whoever goes by it may miss records.
    Wrong(&'static str),
    /// A block cannot be unpacked, or is not what the index says of it.
    Block {
        /// Where its frame lies in the file.
        at: Range<u64>,
        /// How many records it had.
        records: u32,
        /// The first of them.
        first: Id,
        /// The last of them.
        last: Id,
        /// What it says when it is unpacked.
        why: String,
    },
    /// Bytes in which there is no block, found without the index.
    Lost {
        /// Where in the file.
        at: Range<u64>,
        /// The last record before them.
        after: Option<Id>,
        /// The first record behind them.
        before: Option<Id>,
    },
}

/// What looking at all of a sealed file has shown.
pub struct Audit {
    /// What is wrong with it.
    pub flaws: Vec<Flaw>,
    /// The records that can be unpacked; `None` if there are none.
    pub text: Option<Arc<dyn File>>,
}

/// Whether a file is a sealed one, also one whose first bytes are damaged: then its end says so.
pub fn is_sealed(file: &dyn File) -> io::Result<bool> {
    Ok(form_of(file)? == Form::Sealed || matches!(glance(file)?, Glance::Sound(_)))
}

/// Looks at all of a sealed file. An error is the medium's.
pub fn audit(file: &Arc<dyn File>) -> io::Result<Audit> {
    let size = file.size()?.0;
    let sealed = match Sealed::open(file.clone()) {
        Ok(sealed) => Arc::new(sealed),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            let lost = Flaw::Lost { at: 0..size, after: None, before: None };
            return Ok(Audit { flaws: vec![Flaw::Index(e.to_string()), lost], text: None });
        }
        Err(e) => {
            let Glance::Version(version) = glance(&**file)? else { return Err(e) };
            return Ok(Audit { flaws: vec![Flaw::Version(version)], text: None });
        }
    };
    if let Some(why) = sealed.fault() {
        let mut flaws = vec![Flaw::Index(why)];
        flaws.extend(sealed.lost().iter().map(|at| lost(at, sealed.blocks())));
        return Ok(Audit { flaws, text: Some(Arc::new(SealedText::new(sealed))) });
    }
    let mut flaws = Vec::new();
    let found = unpack_all(&sealed, &mut flaws)?;
    if flaws.is_empty() {
        flaws.extend(compare(&sealed, found)?);
    } else {
        flaws.extend(sealed.damaged_sections()?.into_iter().map(|name| Flaw::Index(damaged(name))));
    }
    flaws.extend(laid_out_wrongly(&**file, size, sealed.blocks())?.map(Flaw::Index));
    let whole = match flaws.iter().any(|flaw| matches!(flaw, Flaw::Block { .. })) {
        false => Some(sealed),
        true => Sealed::salvage(file.clone()).ok().map(Arc::new),
    };
    Ok(Audit { flaws, text: whole.map(|sealed| Arc::new(SealedText::new(sealed)) as Arc<dyn File>) })
}

fn damaged(section: &str) -> String {
    format!("the part of it called {section} is damaged")
}

fn lost(at: &Range<u64>, blocks: &[Block]) -> Flaw {
    let behind = blocks.partition_point(|block| block.offset < at.start);
    let after = behind.checked_sub(1).and_then(|number| blocks.get(number)).map(|block| block.last);
    Flaw::Lost { at: at.clone(), after, before: blocks.get(behind).map(|block| block.first) }
}

/// What the index should be.
#[derive(Default)]
struct Recount {
    checker: Checker,
    tally: Tally,
    filter: FilterBuilder,
}

/// Unpacks every block and counts what is in it.
fn unpack_all(sealed: &Sealed, flaws: &mut Vec<Flaw>) -> io::Result<Recount> {
    let (mut found, mut unpacker, mut text) = (Recount::default(), Unpacker::new()?, Vec::new());
    for (number, block) in sealed.blocks().iter().enumerate() {
        let unpacked = sealed.unpack(number, &mut unpacker, &mut text);
        let why = match unpacked {
            Ok(()) => differs(block, &text),
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                Some(e.to_string())
            }
            Err(e) => return Err(e),
        };
        if let Some(why) = why.or_else(|| found.checker.take(&text).err().map(|e| e.to_string())) {
            let at = block.offset..block.offset + u64::from(block.packed);
            let Block { records, first, last, .. } = *block;
            flaws.push(Flaw::Block { at, records, first, last, why });
            continue;
        }
        found.tally.take(&text);
        found.filter.add_block(&text);
    }
    Ok(found)
}

/// What of a block's text is not what the table says.
fn differs(block: &Block, text: &[u8]) -> Option<String> {
    let mut checker = Checker::default();
    if let Err(e) = checker.take(text) {
        return Some(e.to_string());
    }
    let Some(digest) = checker.digest() else { return Some("it has no record".to_string()) };
    if digest.records != u64::from(block.records) {
        return Some(format!("it has {} records instead of {}", digest.records, block.records));
    }
    (digest.crc32 != block.crc32).then(|| "its text has another checksum".to_string())
}

/// The first part of the index that is not what sound blocks give.
fn compare(sealed: &Sealed, found: Recount) -> io::Result<Option<Flaw>> {
    let Recount { checker, tally, filter } = found;
    if let Some(name) = sealed.damaged_sections()?.first() {
        return Ok(Some(Flaw::Index(damaged(name))));
    }
    if checker.digest().as_ref() != Some(sealed.digest()) {
        return Ok(Some(Flaw::Wrong("footer")));
    }
    if sealed.minutes()? != Some(tally.minutes.clone()) {
        return Ok(Some(Flaw::Wrong("minutes")));
    }
    if sealed.streams()? != Some(tally.streams()) {
        return Ok(Some(Flaw::Wrong("streams")));
    }
    let (shape, bytes) = filter.finish();
    Ok(match sealed.filter()? {
        // One that is laid out otherwise cannot be compared byte by byte; its checksum was looked at.
        Some((found, _)) if found != shape => None,
        Some((_, found)) if found == bytes => None,
        _ => Some(Flaw::Wrong("filter")),
    })
}

/// What is wrong with the frames around the parts of the index: stock tools go by them.
fn laid_out_wrongly(file: &dyn File, size: u64, blocks: &[Block]) -> io::Result<Option<String>> {
    let footer: Footer = match read_footer(file, size)? {
        Ok(footer) => footer,
        Err(Unreadable::Damaged(why)) => return Ok(Some(why)),
        Err(Unreadable::Version(version)) => return Ok(Some(format!("the footer says version {version}"))),
    };
    let mut end = blocks.last().map_or(0, |block| block.offset + u64::from(block.packed));
    for section in Section::ALL {
        let place = footer.place(section);
        let mut header = [0; FRAME_HEADER];
        let n = read_full_at(file, &mut header, Bytes(end))?;
        let wanted = usize::try_from(place.len).ok().and_then(frame_header);
        if n != FRAME_HEADER || Some(header) != wanted || place.offset != end + FRAME_HEADER as u64 {
            return Ok(Some(format!("the frame around its {} is damaged", section.name())));
        }
        end = place.offset + place.len;
    }
    let is_at_end = end.checked_add(FOOTER_FRAME as u64) == Some(size);
    Ok((!is_at_end).then(|| "there is something between its parts and its footer".to_string()))
}
