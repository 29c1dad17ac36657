//! The address book: who else there is.
