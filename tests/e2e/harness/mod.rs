//! What the end-to-end tests stand on: a node that is the real binary, small clients, waiting with a deadline.

pub mod command;
pub mod http;
pub mod logs;
pub mod node;
pub mod wait;

pub use command::{Running, oklog};
pub use http::Exchange;
pub use node::{Node, Port};
pub use wait::{wait_for, wait_until};
