//! A whole cluster in one thread: on virtual time, on disks that forget, on a network that loses, from one seed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, its helpers too

mod lying;
