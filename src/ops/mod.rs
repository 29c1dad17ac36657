//! The gauges: what an operator sees of a running server.

pub mod health;
pub mod logfmt;
pub mod metrics;
