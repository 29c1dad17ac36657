//! Processes that are killed at random moments, also while they recover.
