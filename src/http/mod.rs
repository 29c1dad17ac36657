//! The wire: the gate, the server behind it, and the client.
