//! What is kept: a record, its id, and the one form in which both are stored.

pub mod batch;
pub mod id;
pub mod key;
pub mod line;
pub mod stored;
