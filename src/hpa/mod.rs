//! The Kubernetes HPA controller's decision, exactly.
//!
//! What one metric proposes (`replica_calculator`), what a controller makes of several over time
//! (`controller`, `behavior`, `sync`), and both checked against cases and recordings (`cases`, `recording`). A
//! recorded metric is played through it in `series`.
//!
//! Invariants: pure; no rounding of our own anywhere between a metric's value and the decision.

mod average_value;
mod behavior;
mod behavior_cases;
mod cases;
mod controller;
mod quantity;
mod recording;
mod replica_calculator;
mod series;
mod spec;
mod sync;
mod tolerance;

pub use average_value::{first_average_that_scales_up, scales_up};
pub use behavior::{Behavior, Event, Events, Policy, PolicyKind, Range, Rules, SelectPolicy, StepLimit};
pub use cases::{CaseError, Evaluation, EventAfter, Outcome, evaluate};
pub use controller::{
    Controller, DOWNSCALE_STABILIZATION, Decision, Recommendation, Recommendations, Settings, TOLERANCE,
};
pub use quantity::{ParseQuantityError, Quantity};
pub use recording::Replay;
pub use replica_calculator::{
    NoProposal, Phase, Pod, Proposal, Source, Target, Workload, propose, propose_tersely,
};
pub use series::{Column, Series, SeriesReplay, SeriesSettings, SeriesSync, TooManySyncs};
pub use spec::{
    BadMetric, BehaviorSpec, HpaSpec, MetricName, MetricSpec, RulesSpec, Selector, SourceSpec, TargetSpec,
};
pub use sync::{Flags, Reading, Synced};
pub use tolerance::{Generation, Tolerances};
