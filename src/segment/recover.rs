//! Whether a segment file is whole: read once from front to back; and how a start looks at many files.

use super::reader::{BlockReader, FileRange};
use super::sift::{Survey, hole_in, is_cut_off, survey, tells_of_the_file};
use crate::record::stored::{Checker, Digest, NotStored, records};
use crate::unit::Bytes;
use crate::world::crew::each;
use crate::world::fs::{File, FileSystem};
use std::io;
use std::sync::Arc;

/// How many files of a directory are looked at before the first of them is brought into order: so many findings are held.
pub const BATCH: usize = 16_384;

/// How many of them a thread takes at a time.
const CHUNK: usize = 16;

/// Looks at many files, several at once where the file system says that it is worth while: a cold disk then has the next
/// question before it has answered the last one. Gives what `look` found, in the order of `items`.
pub fn look_at_all<T: Sync, R: Send>(fs: &dyn FileSystem, items: &[T], look: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let chunks: Vec<&[T]> = items.chunks(CHUNK).collect();
    let found = each(&chunks, fs.at_once(), |chunk| chunk.iter().map(&look).collect::<Vec<R>>());
    found.into_iter().flatten().collect()
}

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
    let mut reader = BlockReader::sized(FileRange::new(file.clone(), Bytes(0), size), size);
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
    let mut reader = BlockReader::sized(FileRange::new(file.clone(), Bytes(0), size), size);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::fs::nop::NopFs;
    use crate::world::fs::real::RealFs;

    #[test]
    fn many_are_looked_at_and_what_was_found_comes_in_their_order() {
        let items: Vec<usize> = (0..1_000).collect();
        for fs in [&NopFs as &dyn FileSystem, &RealFs] {
            assert_eq!(look_at_all(fs, &items, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>());
            assert!(look_at_all(fs, &[], |n: &usize| *n).is_empty());
        }
    }
}
