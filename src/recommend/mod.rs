//! From an analysis to HPA targets: one per metric, with its terms, its checks and its warnings.
//!
//! Invariants: pure. Every target is re-checked in the integer arithmetic of the controller after
//! rounding. A metric that cannot carry a target is refused with the reason, never left out.

mod types;

pub use types::*;
