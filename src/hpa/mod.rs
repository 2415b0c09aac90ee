//! The Kubernetes HPA controller's arithmetic, exactly.
//!
//! So far what a target needs: one decision on one AverageValue metric with every pod sampled.
//! Milli-units are integers and ratios are binary64, as in the controller's replica calculator.
//!
//! Invariants: pure; no rounding of our own anywhere between a metric's value and the decision.

mod average_value;

pub use average_value::{Decision, Generation, decide, first_average_that_scales_up, scales_up};
