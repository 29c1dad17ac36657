//! The archive: keeps segments and knows what is in them.

pub mod api;
pub mod catalogue;
pub mod log;
pub mod recover;
pub mod replicate;
mod rescue;
pub mod writer;

#[cfg(test)]
mod fault_tests;
