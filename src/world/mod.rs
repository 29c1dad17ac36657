//! What may surprise: the clock, files, sockets, chance, signals, threads. Only here are they named; all other rooms are
//! handed what they need.

pub mod clock;
pub mod crew;
pub mod entropy;
pub mod fs;
pub mod notify;
pub mod pipe;
pub mod private;
pub mod process;
pub mod secret;
pub mod signal;
pub mod socket;
