//! The housekeeper: joins segments, and removes what is past its time.

pub mod execute;
pub mod plan;
pub mod retain;
pub mod thread;

#[cfg(test)]
mod work_tests;

#[cfg(test)]
mod week_tests;
