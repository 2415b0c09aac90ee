//! From an analysis to HPA targets: one per metric, with its terms, its checks and its warnings.
//!
//! Invariants: pure. Every target is re-checked in the integer arithmetic of the controller after
//! rounding. A metric that cannot carry a target is refused with the reason, never left out.

mod advice;
mod choice;
pub mod lint;
mod plan;
mod target;
mod types;

pub use plan::{Alternative, Between, Demand, PerMillion, Plan, Row, Tokens, plan};
pub use types::*;

use crate::analyze::{Analysis, Capacity};
use crate::units::Signal;

/// Derives a target for every metric and chooses one to scale on.
pub fn recommend(analysis: &Analysis, capacity: &Capacity, assumptions: Assumptions) -> Recommendation {
    let targets: Vec<Target> = Signal::ALL
        .into_iter()
        .map(|signal| target::derive(signal, analysis, capacity, &assumptions))
        .collect();
    let (recommended, rationale) = choice::choose(&targets);
    let warnings = choice::warnings(analysis, capacity, recommended);
    let advice = advice::of(analysis, capacity, &assumptions);
    Recommendation { assumptions, targets, recommended, rationale, advice, warnings }
}
