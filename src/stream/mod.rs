//! The open window: records as they arrive.

pub mod api;
pub mod registry;
pub mod window;
