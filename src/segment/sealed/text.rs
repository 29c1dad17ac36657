//! The text of a sealed segment as a file: what reads plain segments reads sealed ones by it.
//!
//! It holds the block that was read last, so reading on from front to back unpacks each block once. Memory: one block and its
//! frame.

use super::read::{Sealed, Unpacker};
use crate::unit::Bytes;
use crate::world::crew::lock;
use crate::world::fs::ReadAt;
use std::io;
use std::sync::{Arc, Mutex};

/// The stored records of a sealed segment, at the places they would have in a plain one.
pub struct SealedText {
    sealed: Arc<Sealed>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    unpacker: Option<Unpacker>,
    /// The number of the block whose text is held.
    number: Option<usize>,
    text: Vec<u8>,
}

impl SealedText {
    /// The text of this one.
    pub fn new(sealed: Arc<Sealed>) -> SealedText {
        SealedText { sealed, held: Mutex::default() }
    }

    /// What it is the text of.
    pub fn sealed(&self) -> &Arc<Sealed> {
        &self.sealed
    }
}

impl Held {
    fn hold(&mut self, sealed: &Sealed, number: usize) -> io::Result<()> {
        if self.number == Some(number) {
            return Ok(());
        }
        self.number = None;
        let unpacker = match &mut self.unpacker {
            Some(unpacker) => unpacker,
            none => none.insert(Unpacker::new()?),
        };
        sealed.unpack(number, unpacker, &mut self.text)?;
        self.number = Some(number);
        Ok(())
    }
}

impl ReadAt for SealedText {
    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        let blocks = self.sealed.blocks();
        let next = blocks.partition_point(|block| block.text_at <= offset.0);
        let Some((number, block)) = next.checked_sub(1).and_then(|number| Some((number, blocks.get(number)?))) else {
            return Ok(0);
        };
        let within = usize::try_from(offset.0 - block.text_at).unwrap_or(usize::MAX);
        if within >= block.text as usize {
            return Ok(0);
        }
        let mut held = lock(&self.held);
        held.hold(&self.sealed, number)?;
        let rest = held.text.get(within..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn size(&self) -> io::Result<Bytes> {
        Ok(self.sealed.digest().len)
    }
}
