//! The postman: lines from standard input to an ingester.

pub mod testsvc;
