//! How far a calibration can be trusted: whole calibrations of simulated servers whose truth is known.
//!
//! Invariants: pure. The search that plans a real run plans these, the analysis that judges a real run
//! judges these; only server, client and clock are played, so that a calibration takes a second instead
//! of minutes.

mod servers;
mod summary;
mod world;

pub use servers::{Deployment, Family, built_in, variants};
pub use summary::{Row, Summary, row, summarize};

use crate::analyze::server_model::{self, Known, Prediction, Workload};
use crate::analyze::{Measured, analyze_last_step};
use crate::plan::{Guide, Next, Plan, RequestSource, Schedule, Spacing, StepResult};
use crate::scenario::RampSpec;
use crate::units::{Load, Rate, Replicas, Seconds};
use std::collections::BTreeMap;
use world::World;

/// One calibration of a deployment.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// Why each step was driven, and what it said.
    pub steps: Vec<(Option<String>, StepResult)>,
    /// Capacity per replica before the last, longer step that shows what clients get. `None`: none found.
    pub before_verification: Option<Rate>,
    /// What came out in the end. `None`: nothing.
    pub prediction: Option<Prediction>,
    /// Minutes of all replicas under load, the last step left out.
    pub gpu_minutes: f64,
    /// The same with the last step.
    pub gpu_minutes_verified: f64,
}

/// Requests that are drawn to know their sizes: by a calibration, and for the truth, whose own chance must not show.
const DRAWN: usize = 20_000;
const DRAWN_FOR_TRUTH: usize = 400_000;
/// Requests that a first guess of the truth is played with.
const PLAYED_ROUGHLY: usize = 10_000;

fn schedule(deployment: &Deployment, seed: u64) -> Schedule {
    Schedule {
        seed,
        spacing: Spacing::Poisson,
        requests: RequestSource::Specs(deployment.input_tokens, deployment.output_tokens),
        trace: None,
    }
}

fn known(deployment: &Deployment, seed: u64, production: Replicas, drawn: usize) -> Known {
    let mut sampler = schedule(deployment, seed).requests.sampler(seed, u32::MAX);
    Known {
        declared_output: deployment.declared_output,
        max_concurrent_requests: deployment.model.max_concurrent_requests,
        max_prefill_tokens: deployment.model.max_prefill_tokens,
        token_budget: None,
        planned: (0..drawn)
            .map(|_| sampler.sample())
            .map(|r| (r.input.unwrap_or(1), r.output.min(deployment.declared_output.unwrap_or(u32::MAX))))
            .collect(),
        production,
    }
}

/// The load that each of `production` replicas really carries within the SLO, in the state that the server
/// ends in, by playing so many requests: 600,000 tell it to 0.15 to 0.2 %, 150,000 to twice that (standard errors of
/// the servers that are built in). `None`: no load, or every load.
pub fn truth(deployment: &Deployment, production: Replicas, requests: usize) -> Option<Rate> {
    let known = known(deployment, u64::MAX, production, DRAWN_FOR_TRUTH);
    let mut model = deployment.model.clone();
    model.deviations.drift_after = Seconds::ZERO;
    let capacity = |requests, guess, reach| {
        let workload = Workload::poisson(&known.planned, requests, &known, u64::MAX);
        server_model::capacity(&model, &workload, &deployment.slos, guess, reach)
    };
    let rough = capacity(PLAYED_ROUGHLY, Rate(3.0 / deployment.single_latency().0), 256.0)?;
    capacity(requests, rough, 2.0)
}

/// Calibrates a deployment for `production` replicas. The same seed gives the same calibration.
pub fn calibrate(deployment: &Deployment, production: Replicas, seed: u64) -> Calibration {
    let gaps = BTreeMap::new();
    let schedule = schedule(deployment, seed);
    let known = known(deployment, seed, production, DRAWN);
    let here = Known { production: deployment.replicas, ..known.clone() };
    let n = f64::from(deployment.replicas.0);
    let mut plan =
        Plan::new(&RampSpec::Adaptive, None, deployment.single_latency(), deployment.replicas, None);
    let mut world = World::new(&deployment.model, deployment.replicas, deployment.declared_output, seed);
    let mut found = Calibration {
        steps: Vec::new(),
        before_verification: None,
        prediction: None,
        gpu_minutes: 0.0,
        gpu_minutes_verified: 0.0,
    };
    while let Next::Step(step, reason) = plan.next_step() {
        if plan.verifies() {
            found.gpu_minutes = world.now().0 * n / 60.0;
            found.before_verification =
                found.steps.last().and_then(|(_, step)| Some(Rate(step.guide?.capacity.0 / n)));
        }
        world.drive(step, &schedule);
        let requests = world.outcomes();
        let measured = world.measured(&requests, &gaps);
        let holds = analyze_last_step(&measured, &deployment.slos).is_some_and(|step| step.holds());
        let guide = server_model::estimate(&measured, &deployment.slos, &here).ok();
        let guide = guide.map(|found| Guide { capacity: Rate(found.capacity.0 * n), drift: found.drift });
        let Load::Rate(rate) = step.load else { continue };
        let result = StepResult { rate, length: step.length, holds, guide };
        plan.learn(result);
        found.steps.push((reason, result));
    }
    found.gpu_minutes_verified = world.now().0 * n / 60.0;
    if found.before_verification.is_none() {
        found.gpu_minutes = found.gpu_minutes_verified;
    }
    let requests = world.outcomes();
    let measured: Measured = world.measured(&requests, &gaps);
    found.prediction = server_model::predict(&measured, &deployment.slos, &known).ok();
    found
}
