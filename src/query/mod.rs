//! The reading room: finds records by time and content.
//!
//! ```text
//! params -> needle (a matcher) -> scan (piece by piece, through the pool) -> merge, or newest -> answer (of this node: api)
//!                                   ^-- piece (of plain segments), blocks (of sealed ones)
//!                                 remote (pieces of others) ---------------^
//!                                   ^-- scatter (asks them through calls; plan says whom, and with complete what silence means)
//! ```

mod answer;
pub mod api;
mod blocks;
mod calls;
pub mod complete;
mod formula;
#[cfg(test)]
mod formula_random_tests;
pub mod local;
pub mod needle;
pub mod newest;
pub mod node;
pub mod params;
mod piece;
pub mod plan;
pub mod pool;
pub mod remote;
pub mod scan;
pub mod scatter;
