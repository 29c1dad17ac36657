//! The wire: the gate, the server behind it, and the client.
//!
//! ```text
//!  client --tcp--> gate ----private socket----> tiny_http --> dispatcher --> lane --> handler
//!                  judges the head,              parses         never         bounded    Request,
//!                  relays one request            again          blocks        workers    Reply
//! ```
//!
//! Whatever a network can send is met by the gate: limits, time limits, framing, hang-ups. What is behind it sees one
//! well-formed request per connection, its body chunked. A response that does not end as it should is never made to look
//! whole on the way out.

pub mod chunked;
pub mod client;
mod exchange;
mod gate;
mod head;
mod inner;
mod lanes;
mod outlet;
pub mod params;
pub mod path;
mod relay;
mod reply;
mod route;
mod server;

pub use exchange::Cancel;
pub use gate::{Limits, PAUSES};
pub use head::HeadLimits;
pub use reply::{BodyWriter, Reply, Request};
pub use route::{Access, Guard, Handler, Lane, Route, SIGNATURE};
pub use server::HttpServer;
