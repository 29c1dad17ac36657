//! The reading room: finds records by time and content.
//!
//! ```text
//! params -> needle (a matcher) -> scan (pieces, through the pool) -> merge, or newest -> api (the answer)
//! ```

pub mod api;
pub mod needle;
pub mod newest;
pub mod params;
pub mod pool;
pub mod scan;
