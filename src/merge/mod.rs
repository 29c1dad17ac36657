//! Many sorted streams into one, each record once.

pub mod k_way;
