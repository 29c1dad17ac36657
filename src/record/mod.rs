//! What is kept: a record, its id, and the one form in which both are stored.

pub mod copy;
pub mod id;
pub mod line;
pub mod stored;
