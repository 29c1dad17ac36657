//! The auditor: reads data directories that no server uses, and says what in them is wrong, and what to do.
//!
//! Names are judged first ([`plan`]), each directory for itself. Then all files of all directories are read once, side by
//! side in the order of ids: [`walk`] reads one file and finds what is damaged in it, [`merge`] brings equal ids of different
//! files together, [`copies`] counts where each record is, [`streams`] looks for counters that are missing. [`judge`] makes
//! findings of all that, [`report`] prints them. Nothing is written, created or locked.
//!
//! Memory: one block for each file that overlaps the place where the reading is (32 MiB in all, and at least 16 KiB for each),
//! for each sealed one of them a block of text more, about 40 bytes for each stream, and a bounded number of findings. It does not grow with the number of records.

pub mod check;
pub mod copies;
pub mod finding;
pub mod judge;
pub mod merge;
pub mod plan;
pub mod report;
pub mod streams;
pub mod walk;
mod words;

#[cfg(test)]
mod copies_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod names_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod sealed_tests;
#[cfg(test)]
mod tests;

pub use check::{Options, check};
pub use report::Report;
