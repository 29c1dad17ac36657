//! The front door: lines from sockets become records in segments, which wait for a consumer.
//!
//! ```text
//! listener -> connection -> log (slot: one active segment) -> flusher -> queue -> api / local link
//!                              `-> durable (group commit)       `-> disk, names, mark
//! ```
//!
//! Connections share a few *slots*, each the writer of one active segment. A slot's lock is held while a batch is given
//! ids and handed to the operating system, never while anything is synced.

pub mod api;
pub mod connection;
pub mod durable;
pub mod flusher;
pub mod listener;
pub mod log;
pub mod queue;
pub mod recover;
mod rescue;
pub mod witness;
mod written;

#[cfg(test)]
mod fault_tests;
