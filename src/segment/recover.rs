//! What is whole in a segment file: read once from front to back, and cut or copied out where it is not.

use super::reader::{BlockReader, FileRange};
use crate::record::id::Id;
use crate::record::stored::{Checker, Digest, NotStored, records};
use crate::unit::Bytes;
use crate::world::fs::{File, FileSystem};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What reading a file has found.
#[derive(Debug)]
pub struct Examined {
    /// The whole, ascending records at the front; `None` if there is not one.
    pub digest: Option<Digest>,
    /// How long the file is.
    pub size: Bytes,
    /// Why the rest was not taken; `None` if there is no rest.
    pub fault: Option<NotStored>,
}

impl Examined {
    /// The bytes that are sound.
    pub fn sound(&self) -> Bytes {
        self.digest.map_or(Bytes(0), |digest| digest.len)
    }

    /// Whether the only fault is a last record without its LF: what a crash leaves, and no reason for alarm.
    pub fn is_torn_only(&self) -> bool {
        matches!(self.fault, Some(NotStored::Torn { .. }))
    }
}

/// Reads a file to its end and says what of it is whole.
pub fn examine(file: &Arc<dyn File>) -> io::Result<Examined> {
    let size = file.size()?;
    let mut reader = BlockReader::new(FileRange::new(file.clone(), Bytes(0), size));
    let (mut checker, mut block) = (Checker::default(), Vec::new());
    loop {
        match reader.next_block(&mut block) {
            Ok(false) => return Ok(Examined { digest: checker.digest(), size, fault: None }),
            Ok(true) => {}
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                let fault = Some(NotStored::BadId { at: checker.len() });
                return Ok(Examined { digest: checker.digest(), size, fault });
            }
            Err(e) => return Err(e),
        }
        if let Err(fault) = checker.take(&block) {
            take_one_by_one(&mut checker, &block);
            return Ok(Examined { digest: checker.digest(), size, fault: Some(fault) });
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

/// Hands every record that is whole and in order to `keep`, in blocks, and passes over what lies between. `None` if there
/// is not one.
///
/// Where two neighbours are out of order one of the two ids is damaged: a record whose id is larger than its successor's
/// is passed over, so that one wrong id does not cost all that follows.
pub fn sift(file: &Arc<dyn File>, keep: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Option<Digest>> {
    let mut reader = BlockReader::new(FileRange::new(file.clone(), Bytes(0), file.size()?));
    let (mut checker, mut block, mut kept) = (Checker::default(), Vec::new(), Vec::new());
    let mut waiting: Option<(Id, Vec<u8>)> = None;
    let mut last = None;
    while reader.next_block(&mut block)? {
        kept.clear();
        for record in records(&block) {
            let Some(id) = record.id().filter(|id| last.is_none_or(|last| *id > last)) else { continue };
            if let Some((before, stored)) = waiting.take().filter(|(before, _)| *before < id) {
                last = Some(before);
                kept.extend_from_slice(&stored);
            }
            waiting = Some((id, record.whole.to_vec()));
        }
        take_kept(&mut checker, &kept, keep)?;
    }
    if let Some((_, stored)) = waiting {
        take_kept(&mut checker, &stored, keep)?;
    }
    Ok(checker.digest())
}

fn take_kept(checker: &mut Checker, kept: &[u8], keep: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    checker.take(kept).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    keep(kept)
}

/// Copies what [`sift`] finds to a new file at `to` and syncs that. The caller syncs the directory. `None`, and no file, if
/// there is not one record, and no file either after an error.
pub fn salvage(fs: &dyn FileSystem, from: &Arc<dyn File>, to: &Path) -> io::Result<Option<Digest>> {
    let target = fs.create_new(to)?;
    let sifted = sift(from, &mut |kept| target.append(kept)).and_then(|digest| {
        if digest.is_some() {
            target.sync_data()?;
        }
        Ok(digest)
    });
    if !matches!(sifted, Ok(Some(_))) {
        // A part of what is whole must not be taken for all of it.
        fs.remove(to)?;
    }
    sifted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stored;
    use crate::world::fs::memory::MemoryFs;

    fn file_of(ids: &[u128], spoil: &[usize]) -> (MemoryFs, Arc<dyn File>) {
        let (fs, mut bytes) = (MemoryFs::new(), Vec::new());
        for (n, id) in ids.iter().enumerate() {
            let start = bytes.len();
            stored::write(&mut bytes, Id(*id), b"text");
            if spoil.contains(&n) {
                bytes[start + 3] = b'!';
            }
        }
        fs.create_dir_all(Path::new("d")).expect("in memory");
        let file = fs.create_new(Path::new("d/f")).expect("in memory");
        file.append(&bytes).expect("in memory");
        (fs, file)
    }

    fn sifted(ids: &[u128], spoil: &[usize]) -> Vec<u128> {
        let (_fs, file) = file_of(ids, spoil);
        let mut all = Vec::new();
        let mut keep = |kept: &[u8]| {
            all.extend(records(kept).filter_map(|record| record.id()).map(|id| id.0));
            Ok(())
        };
        sift(&file, &mut keep).expect("readable");
        all
    }

    #[test]
    fn what_is_whole_on_both_sides_of_damage_is_kept() {
        assert_eq!(sifted(&[1, 2, 3, 4], &[1]), [1, 3, 4]);
        assert_eq!(sifted(&[1, 2, 3, 4], &[0, 3]), [2, 3]);
        assert_eq!(sifted(&[1, 2], &[0, 1]), Vec::<u128>::new());
    }

    #[test]
    fn one_id_that_is_far_too_large_or_too_small_costs_only_its_own_record() {
        assert_eq!(sifted(&[1, 2, 900, 3, 4], &[]), [1, 2, 3, 4]);
        assert_eq!(sifted(&[5, 6, 1, 7, 8], &[]), [5, 6, 7, 8]);
        assert_eq!(sifted(&[900, 1, 2], &[]), [1, 2]);
        assert_eq!(sifted(&[1, 2, 2, 3], &[]), [1, 2, 3]);
    }

    #[test]
    fn a_file_without_one_record_leaves_none_behind() {
        let (fs, file) = file_of(&[1], &[0]);
        assert_eq!(salvage(&fs, &file, Path::new("d/out")).expect("readable"), None);
        assert_eq!(fs.open(Path::new("d/out")).err().map(|e| e.kind()), Some(io::ErrorKind::NotFound));
    }
}
