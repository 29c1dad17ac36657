//! A segment packed for keeping: compressed blocks, with an index behind them.

pub mod filter;
