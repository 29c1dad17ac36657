//! The carrier: takes segments from the ingest tier, makes R copies, and only then lets the ingest tier forget.

pub mod links;
