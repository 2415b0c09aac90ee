//! The load at which a fitted server breaks the SLO, found by playing it.

use super::super::slo;
use super::super::types::SloCheck;
use crate::batching::{Completed, Job, ServerModel, run_open};
use crate::measurement::{FailureKind, Phase, RequestOutcome};
use crate::units::{Rate, Replicas, Seconds, Slo};

/// What the server is played with.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Arrival times at a rate of one a second, in order.
    pub arrivals: Vec<f64>,
    /// Prompt tokens and output tokens of each arrival.
    pub sizes: Vec<(u32, u32)>,
    /// `max_new_tokens` as declared; `None`: the output tokens.
    pub declared_output: Option<u32>,
    /// Arrivals at the start that are played but not judged.
    pub warm_up: usize,
}

/// The precision of the search, as a share of the capacity.
const PRECISION: f64 = 5e-4;

impl Workload {
    fn jobs(&self, rate: f64) -> impl Iterator<Item = (Seconds, Job)> {
        (0..).zip(self.arrivals.iter().zip(&self.sizes)).map(move |(id, (time, (input, output)))| {
            let declared_output = self.declared_output.unwrap_or(*output);
            let job = Job { id, input_tokens: *input, declared_output, output_tokens: *output };
            (Seconds(time / rate), job)
        })
    }
}

/// Plays the workload at a rate, and judges it as a measured step is judged.
pub fn judge_load(model: &ServerModel, workload: &Workload, rate: Rate, slos: &[Slo]) -> Vec<SloCheck> {
    let completed = run_open(model, Replicas(1), workload.jobs(rate.0));
    let outcomes: Vec<RequestOutcome> = completed.iter().skip(workload.warm_up).map(outcome).collect();
    let attempts: Vec<&RequestOutcome> = outcomes.iter().collect();
    slos.iter().map(|limit| slo::check(*limit, &attempts, None, slos)).collect()
}

/// The largest rate at which every SLO holds, between two rates of which the first holds and the
/// second does not. Arrivals and sizes are the same at each rate, only stretched, so that the search is
/// not led astray by chance. `None` where the bounds do not enclose it.
pub fn capacity(
    model: &ServerModel,
    workload: &Workload,
    slos: &[Slo],
    bounds: (Rate, Rate),
) -> Option<Rate> {
    let holds = |rate: f64| judge_load(model, workload, Rate(rate), slos).iter().all(|check| check.holds);
    let (mut low, mut high) = (bounds.0.0, bounds.1.0);
    if !holds(low) || holds(high) {
        return None;
    }
    while high / low - 1.0 > PRECISION {
        let middle = f64::midpoint(low, high);
        if holds(middle) { low = middle } else { high = middle }
    }
    Some(Rate(f64::midpoint(low, high)))
}

/// A played request as a measured one.
fn outcome(completed: &Completed) -> RequestOutcome {
    let refused = completed.finished.is_none();
    RequestOutcome {
        id: completed.id,
        step: 0,
        phase: Phase::Hold,
        scheduled: completed.arrived,
        sent: Some(completed.arrived),
        first_token: completed.first_token,
        last_token: completed.finished,
        ended: completed.finished,
        input_tokens: None,
        output_tokens: Some(completed.output_tokens),
        chunks: completed.output_tokens,
        status: None,
        error: refused.then_some(FailureKind::Overloaded),
        replica: None,
    }
}
