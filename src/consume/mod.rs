//! The carrier: takes segments from the ingest tier, makes R copies, and only then lets the ingest tier forget.

pub mod clustered;
pub mod copy;
pub mod courier;
mod http_peer;
pub mod links;
pub mod machine;
pub mod rest;
pub mod thread;

#[cfg(test)]
mod end_to_end_tests;
#[cfg(test)]
mod fairness_tests;
