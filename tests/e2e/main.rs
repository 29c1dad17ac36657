//! End to end: the real binary, its real ports, a directory of its own for every node, clients as people use them.
//!
//! `OKLOG_TEST_BINARY` names another binary to test (the static one), `OKLOG_TEST_DATA` a directory of real log files.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, its helpers too

#[allow(dead_code)] // the tests of crashes stand on it too
mod harness;

mod answers;
mod cat;
mod commands;
mod forwarding;
mod hostile;
mod local;
mod matching;
mod real_logs;
mod roles;
mod sealed;
mod sealing;
mod serving;
mod times;
mod tools;
mod verify;
