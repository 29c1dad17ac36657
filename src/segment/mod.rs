//! A file of records: its name, its reading, its recovery.
