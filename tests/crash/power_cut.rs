//! Power cuts on a real file system.
