//! The protocol as a whole, on simulated networks.

use super::*;
