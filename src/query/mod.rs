//! The reading room: finds records by time and content.

pub mod needle;
pub mod params;
