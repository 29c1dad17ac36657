//! What machines do to files: processes that are killed, disks that are full, files that are wrong, power that goes. The real
//! binary on real files.
//!
//! `OKLOG_TEST_BINARY` and `OKLOG_TEST_DATA` are as in the end-to-end tests. Each test is short by itself, and long with
//! `OKLOG_TEST_LONG` set (`scripts/test-crash --long`).

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, its helpers too

#[path = "../e2e/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
#[path = "../cluster/ledger.rs"]
#[allow(dead_code)]
mod ledger;
mod load;
mod places;

mod drain;
mod full_disk;
mod killed;
mod power_cut;
mod wrong_at_random;
mod wrong_files;
