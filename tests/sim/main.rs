//! A whole cluster in one thread: on virtual time, on disks that forget, on a network that loses, from one seed.
//!
//! ```text
//! shape: what a seed stands for      world: time, clocks, what happens when
//! run: the loop, the end             faults: what goes wrong
//! node: a machine and its process    network: calls between them       membership: who knows of whom
//! client: producers                  carrier: consumers                query: who asks
//! stop: a node that is told to end
//! ledger: what was promised          points: images of disks, recovered
//! broken: variants that must be caught
//! suite: many seeds                  report: what they came to
//! ```
//!
//! All that decides or touches files is the code that is shipped; what is here are the shells that its threads, sockets and
//! clocks would be. A seed that fails is run again by `scripts/sim --seeds N..N+1 --verbose`, to the same step.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, its helpers too

mod broken;
mod carrier;
mod client;
mod faults;
mod ledger;
mod lying;
mod membership;
mod network;
mod node;
mod points;
mod query;
mod report;
mod run;
mod shape;
mod stop;
mod suite;
mod world;
