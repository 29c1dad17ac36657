//! Many sorted streams into one, each record once.
