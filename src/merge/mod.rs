//! Many sorted streams into one, each record once.

mod heads;
pub mod k_way;
