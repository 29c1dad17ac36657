//! OK Log: takes lines over plain TCP, keeps them on a few ordinary machines, greps them by time range.
//!
//! The rooms stand in the order in which a record walks through them.

pub mod unit;

pub mod record;
pub mod segment;

pub mod ingest;

pub mod consume;
pub mod merge;

pub mod compact;
pub mod store;

pub mod query;
pub mod stream;

pub mod forward;

pub mod verify;

pub mod cluster;
pub mod http;
pub mod ops;
pub mod world;

pub mod cli;
