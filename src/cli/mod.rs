//! The commands: flags in, rooms wired together, exit status out.
