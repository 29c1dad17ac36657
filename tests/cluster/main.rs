//! Clusters of real processes: loopback addresses of their own, network namespaces where the machine has them, nodes that
//! are killed, stopped, cut off and brought back.
//!
//! Each test has a range of addresses of its own, so they run side by side. They are short by themselves, and long with
//! `OKLOG_TEST_LONG` set (`scripts/test-cluster --long`). `OKLOG_TEST_BINARY` and `OKLOG_TEST_DATA` are as in the
//! end-to-end tests.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, its helpers too

mod harness;
#[allow(dead_code)]
mod ledger;
mod netns;
mod pour;

mod answers;
mod clients;
mod keys;
mod lost_disk;
mod membership;
mod partition;
mod quickstart;
mod survival;
