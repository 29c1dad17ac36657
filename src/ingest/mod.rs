//! The front door: lines from sockets become records in segments, which wait for a consumer.
