//! Sealed segments: records packed in blocks that stock tools unpack, with an index behind them.
//!
//! ```text
//! zstd frame (a block of whole stored records) ... | skippable frames: table, minutes, streams, filter | footer
//! ```
//!
//! `zstdcat FILE` prints the records: decoders pass over skippable frames (RFC 8878, 3.1.2). oklog-segment(5) tells every byte.
//! What is in the file is told by its first four bytes, never by its name: a sealed one begins with zstd's magic number, a
//! plain one with a digit of an id.
//!
//! Everybody but a query reads the text through [`SealedText`], as if the file was plain. A query asks [`Sealed::candidates`]
//! which blocks may hold what it looks for, and unpacks those alone.
//!
//! The index is never trusted further than its checksums. A damaged one is rebuilt in memory by walking the frames and costs
//! speed alone; a damaged block is an error of that block.

pub mod audit;
pub mod filter;
mod layout;
mod read;
mod rebuild;
mod text;
mod write;

pub use super::name::Form;
pub use layout::{Block, Minute, Stream, VERSION};
pub use read::{Glance, Sealed, Unpacker, form_of, glance, is_packed, of_another_version};
pub use text::SealedText;
pub use write::SealedWriter;

/// How much text is packed as one block, unless one record is longer. Smaller blocks are unpacked sooner, larger ones pack
/// better: see ARCHITECTURE, "Sealed segments".
pub const BLOCK_TEXT: usize = 336 << 10;

/// How hard blocks are packed: zstd's own scale.
pub const LEVEL: i32 = 6;

#[cfg(test)]
mod tests;
