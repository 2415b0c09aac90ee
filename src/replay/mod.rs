//! Traffic, replicas, metrics on their way and the HPA in a closed loop: what a target comes to.
//!
//! ```text
//! traffic -> replicas (plant) -> gauges -> scrape, ingestion, adapter -> hpa -> replicas that start or go
//! ```
//!
//! A replica is known by its curves over the requests in flight (`plant`), which come from the fitted server
//! played with discrete events, or from a run's steps (`calibrated`). A replay (`closed_loop`) goes in steps
//! of one second over a diffusion of the requests in flight (`fluid`); the same loop over discrete-event
//! servers (`discrete`) is what it is checked against. `optimize` searches; `clairvoyant` says what the load
//! would cost somebody who knew it ahead.
//!
//! Invariants: pure, no ambient randomness: the same inputs and seeds give the same outcome. Decisions are
//! those of the room `hpa`, to the last bit.

mod calibrated;
mod candidate;
mod clairvoyant;
mod closed_loop;
mod conditions;
mod discrete;
mod fluid;
mod optimize;
mod plant;
mod steadiness;
mod table;
mod traffic;

pub use calibrated::{NoPlant, of_model, of_surface};
pub use candidate::{Candidate, Draw, Played, Score, World, held_out};
pub use clairvoyant::{Capacities, Schedule};
pub use closed_loop::{Outcome, Tick};
pub use conditions::{Autoscaler, Conditions, Pipeline, ScaledMetric, StartUp};
pub use discrete::Requests;
pub use optimize::{
    Optimum, Progress, SLIGHTLY_BELOW, Search, Sensitivity, Tried, Tuning, googles_advice, optimize,
};
pub use plant::{Basis, Curves, Plant};
pub use steadiness::Steadiness;
pub use traffic::{FORMS, Path, Traffic, TrafficError, TrafficSpec};

#[cfg(test)]
mod tests;
