//! The open window: records as they arrive.
