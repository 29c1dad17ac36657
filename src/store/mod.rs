//! The archive: keeps segments and knows what is in them.

pub mod replicate;
