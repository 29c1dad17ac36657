//! The housekeeper: joins segments, and removes what is past its time.

pub mod plan;
pub mod retain;
