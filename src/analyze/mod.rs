//! From recorded values to judged values: steps, latencies, SLO checks, capacity, validity.
//!
//! Invariants: pure. The same recorded run and the same SLOs give the same analysis, on any
//! machine, at any time. Every estimate carries its n; what is not known is `None`.

mod capacity;
pub mod gate;
mod gauges;
pub mod lag;
mod latency;
mod logistic;
pub mod regression;
pub mod server_model;
mod slo;
mod steady;
mod steps;
mod surface;
mod timeline;
mod types;
mod validity;

pub use server_model::Known;
pub use slo::breaks;
pub(crate) use surface::isotonic;
pub use surface::{Curve, Origin, Surface};
pub use types::*;

use crate::measurement::{Event, RequestOutcome, Sample, StepIndex};
use crate::units::{Replicas, Slo};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// What a run measured, as the record gives it.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// Request attempts in any order.
    pub requests: &'a [RequestOutcome],
    /// Metric samples in any order.
    pub samples: &'a [Sample],
    /// Events in the order they happened.
    pub events: &'a [Event],
    /// Gaps between token events of the measured part of each step, microseconds.
    pub gaps: &'a BTreeMap<StepIndex, Histogram<u64>>,
    /// Replicas that shared the load.
    pub replicas: Replicas,
}

/// Analyzes a whole run. `known` is what its record says of the server besides.
pub fn analyze(measured: &Measured, slos: &[Slo], known: &Known) -> Analysis {
    with_prediction(measured, slos, known.production, || server_model::predict(measured, slos, known))
}

/// The same from what clients saw alone, without the server that is fitted to its counters, which takes a
/// thousand times as long.
pub fn analyze_clients(measured: &Measured, slos: &[Slo]) -> Analysis {
    with_prediction(measured, slos, measured.replicas, || Err(server_model::NoPrediction::NotAsked))
}

fn with_prediction(
    measured: &Measured,
    slos: &[Slo],
    production: Replicas,
    predict: impl FnOnce() -> Result<server_model::Prediction, server_model::NoPrediction>,
) -> Analysis {
    let steps = analyze_steps(measured, slos);
    let validity = validity::judge(measured, &steps, slos);
    let prediction = predict();
    let capacity = match validity.verdict {
        Verdict::Invalid => Err(NoCapacity::Invalid),
        _ if steps::all_growing(&steps) => Err(NoCapacity::NoSteadyState),
        _ => capacity::find(&steps, measured, slos, &prediction),
    };
    let played = prediction
        .as_ref()
        .ok()
        .filter(|_| capacity.as_ref().is_ok_and(|capacity| capacity.method == Method::ServerModel));
    Analysis {
        slos: slos.to_vec(),
        lags: lag::lags(measured.samples),
        surface: surface::surface(&steps, measured, played),
        prediction,
        replicas: measured.replicas,
        production,
        timeline: timeline::build(measured),
        validity,
        capacity,
        steps,
    }
}

/// The load that a replica carries under other limits, as a share of its capacity: by the fitted server where
/// that is from it, else by what clients saw. `None`: there is no capacity, or none under these limits.
pub fn relative_capacity(
    analysis: &Analysis,
    measured: &Measured,
    known: &Known,
    slos: &[Slo],
) -> Option<f64> {
    let capacity = analysis.capacity.as_ref().ok()?;
    match &analysis.prediction {
        Ok(prediction) if capacity.method == Method::ServerModel => {
            server_model::capacity_under(prediction, &analysis.slos, slos, known)
        }
        _ => {
            let steps = analyze_steps(measured, slos);
            let other = capacity::by_clients(&steps, measured, slos).ok()?;
            Some(other.per_replica.0 / capacity.per_replica.0)
        }
    }
}

/// Whether the client was on time and not its own bottleneck, whatever became of the servers.
pub fn client_validity(measured: &Measured, slos: &[Slo]) -> Validity {
    validity::judge_client(measured, &analyze_steps(measured, slos), slos)
}

/// The steps alone.
pub fn analyze_steps(measured: &Measured, slos: &[Slo]) -> Vec<StepAnalysis> {
    let driven = steps::driven(measured.events);
    driven.into_iter().map(|mark| steps::analyze_step(mark, measured, slos)).collect()
}

/// Analyzes the last step that was driven, for an adaptive search. `None` before the first.
pub fn analyze_last_step(measured: &Measured, slos: &[Slo]) -> Option<StepAnalysis> {
    let mark = steps::driven(measured.events).pop()?;
    Some(steps::analyze_step(mark, measured, slos))
}
