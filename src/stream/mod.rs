//! The open window: records as they arrive.

pub mod registry;
