//! Whether a segment file is whole: read once from front to back.

use super::reader::{BlockReader, FileRange};
use super::sift::{Survey, hole_in, is_cut_off, survey, tells_of_the_file};
use crate::record::stored::{Checker, Digest, NotStored, records};
use crate::unit::Bytes;
use crate::world::fs::File;
use std::io;
use std::sync::Arc;

/// What reading a file has found.
#[derive(Debug)]
pub struct Examined {
    /// The whole, ascending records at the front; `None` if there is not one.
    pub digest: Option<Digest>,
    /// Why the rest was not taken; `None` if there is no rest.
    pub fault: Option<NotStored>,
}

/// Reads a file to its end and says what of it is whole.
pub fn examine(file: &Arc<dyn File>) -> io::Result<Examined> {
    let size = file.size()?;
    let mut reader = BlockReader::new(FileRange::new(file.clone(), Bytes(0), size));
    let (mut checker, mut block) = (Checker::default(), Vec::new());
    loop {
        match reader.next_block(&mut block) {
            Ok(false) => return Ok(Examined { digest: checker.digest(), fault: None }),
            Ok(true) => {}
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                let fault = Some(NotStored::BadId { at: checker.len() });
                return Ok(Examined { digest: checker.digest(), fault });
            }
            Err(e) => return Err(e),
        }
        if let Err(fault) = checker.take(&block) {
            take_one_by_one(&mut checker, &block);
            return Ok(Examined { digest: checker.digest(), fault: Some(fault) });
        }
    }
}

/// Takes the sound records at the front of a block that is not sound as a whole.
fn take_one_by_one(checker: &mut Checker, block: &[u8]) {
    for stored in records(block) {
        if checker.take(stored.whole).is_err() {
            return;
        }
    }
}

/// Reads a file to its end and says what of it is whole, also behind damage. A sound one is read once.
pub fn look(file: &Arc<dyn File>) -> io::Result<Survey> {
    match look_for_flaws(file) {
        Ok(Some(survey)) => Ok(survey),
        // What cannot be read at once can perhaps be read around.
        Ok(None) => survey(&**file),
        Err(e) if tells_of_the_file(&e) => survey(&**file),
        Err(e) => Err(e),
    }
}

/// `None` if there is a flaw before the last LF.
fn look_for_flaws(file: &Arc<dyn File>) -> io::Result<Option<Survey>> {
    let size = file.size()?;
    let mut reader = BlockReader::new(FileRange::new(file.clone(), Bytes(0), size));
    let (mut checker, mut block) = (Checker::default(), Vec::new());
    while reader.next_block(&mut block)? {
        let at = checker.len().0;
        if block.last() != Some(&b'\n') {
            let ends_as_cut_off = is_cut_off(&block);
            let runs = checker.digest().into_iter().collect();
            return Ok(Some(Survey { size, runs, flaw: None, end: Bytes(at), ends_as_cut_off }));
        }
        if hole_in(&block, at).is_some() || checker.take(&block).is_err() {
            return Ok(None);
        }
    }
    let runs = checker.digest().into_iter().collect();
    Ok(Some(Survey { size, runs, flaw: None, end: size, ends_as_cut_off: true }))
}
