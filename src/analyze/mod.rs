//! From recorded values to judged values: steps, latencies, SLO checks, capacity, validity.
//!
//! Invariants: pure. The same recorded run and the same SLOs give the same analysis, on any
//! machine, at any time. Every estimate carries its n; what is not known is `None`.

mod types;

pub use types::*;
