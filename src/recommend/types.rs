//! What a recommendation says.

use crate::units::{Milli, Signal};
use serde::Serialize;

/// The targets for all metrics, and which of them to use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// The HPA tolerance that was reckoned with, as a fraction of 1.
    pub tolerance: f64,
    /// One per metric of the seed page, in the order of `Signal::ALL`.
    pub targets: Vec<Target>,
    /// The metric to scale on. `None`: none of them can carry a target.
    pub recommended: Option<Signal>,
    /// Why that one and not the others, in sentences.
    pub rationale: Vec<String>,
    /// What the reader must know before using any of it.
    pub warnings: Vec<String>,
}

/// The target for one metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// The metric.
    pub signal: Signal,
    /// Its value per replica at the SLO capacity, in its unit. `None`: never seen.
    pub at_capacity: Option<f64>,
    /// How many samples that value rests on.
    pub samples: u64,
    /// The `averageValue`, or why there is none.
    pub average_value: Result<Milli, String>,
    /// The smallest average that makes the controller scale up from one replica, where there is a target.
    pub fires_at: Option<Milli>,
    /// How the number came about, in order.
    pub terms: Vec<Term>,
    /// What speaks against relying on this metric.
    pub remarks: Vec<String>,
}

/// One step of a derivation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Term {
    /// What it is: "queue size at capacity".
    pub name: String,
    /// Its value with unit: "12.3 requests".
    pub value: String,
}
