//! The postman: lines from standard input to an ingester.

pub mod address;
pub mod dns;
pub mod testsvc;
