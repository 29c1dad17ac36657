//! The open window: records as they arrive.
//!
//! ```text
//!  own ingest --Registry--.                              .--> client
//!  other node --Link------+--> Inbox --> Window ---------'
//!  other node --Link------+    bounded   in order, once
//!  past of the cluster --Filler
//! ```
//!
//! Each node streams what it takes in itself; whoever is asked for all follows them all. [`machine`] decides whom to
//! follow and which gaps to fill; [`links`] does it.

pub mod api;
pub mod backfill;
pub mod filler;
pub mod inbox;
pub mod link;
pub mod links;
pub mod machine;
pub mod registry;
pub mod runs;
pub mod seen;
pub mod window;
pub mod wishes;

#[cfg(test)]
mod merged_tests;
