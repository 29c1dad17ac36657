//! The reading room: finds records by time and content.
