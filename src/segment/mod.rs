//! A file of records: its name, its reading, its recovery.
//!
//! A segment holds stored records in ascending id order and nothing else. What state it is in is its file name's
//! extension; every change of state is one rename to a name that nobody has.

pub mod checked;
pub mod findings;
pub mod handle;
pub mod identity;
pub mod name;
pub mod names;
pub mod readable;
pub mod reader;
pub mod recover;
pub mod room;
pub mod sealed;
pub mod sift;
pub mod wire;

pub use handle::Segment;
pub use name::{Bounds, Form, State};
