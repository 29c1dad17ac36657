//! What is whole in a segment file: read once from front to back, and cut or copied out where it is not.

use super::reader::{BlockReader, FileRange};
use crate::record::stored::{Checker, Digest, NotStored};
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
    for stored in crate::record::stored::records(block) {
        if checker.take(stored.whole).is_err() {
            return;
        }
    }
}

/// Copies every record that is whole and ascends to a new file at `to` and syncs that; what lies between is passed over.
/// The caller syncs the directory. `None`, and no file, if there is not one record.
pub fn salvage(fs: &dyn FileSystem, from: &Arc<dyn File>, to: &Path) -> io::Result<Option<Digest>> {
    let size = from.size()?;
    let mut reader = BlockReader::new(FileRange::new(from.clone(), Bytes(0), size));
    let target = fs.create_new(to)?;
    let (mut checker, mut block, mut kept) = (Checker::default(), Vec::new(), Vec::new());
    while reader.next_block(&mut block)? {
        kept.clear();
        for stored in crate::record::stored::records(&block) {
            if checker.take(stored.whole).is_ok() {
                kept.extend_from_slice(stored.whole);
            }
        }
        target.append(&kept)?;
    }
    let digest = checker.digest();
    match digest {
        Some(_) => target.sync_data()?,
        None => fs.remove(to)?,
    }
    Ok(digest)
}
