//! One sync of a whole HPA: what each of its metrics reads, proposes, and what becomes of it.

use super::controller::{Controller, Decision, Settings, TOLERANCE};
use super::replica_calculator::{Proposal, Workload, propose};
use super::spec::HpaSpec;
use super::tolerance::{Generation, Tolerances};
use crate::units::{Milli, Seconds};

/// What the metrics API answered for one metric, and the workload as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// As for [`propose`]: one per pod, or one per series.
    pub samples: Vec<Option<Milli>>,
    /// The workload.
    pub workload: Workload,
}

/// What the controller is told by its flags and by its release.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flags {
    /// --horizontal-pod-autoscaler-tolerance, as a fraction of 1.
    pub tolerance: f64,
    /// How this release tests it.
    pub generation: Generation,
}

impl Default for Flags {
    fn default() -> Self {
        Flags { tolerance: TOLERANCE, generation: Generation::Inclusive }
    }
}

/// A sync, with what each metric contributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// What was decided. Its steps begin with those of the metrics.
    pub decision: Decision,
    /// Per metric of the HPA, in its order: what it proposes, or why it failed.
    pub proposals: Vec<Result<Proposal, String>>,
}

impl Controller {
    /// One sync of `spec` at `now`, with `replicas` asked for. `readings` are one per metric of the HPA, in
    /// its order: an error is a metric that could not be read.
    pub fn sync_metrics(
        &mut self,
        now: Seconds,
        replicas: i32,
        spec: &HpaSpec,
        flags: Flags,
        readings: &[Result<Reading, String>],
    ) -> Synced {
        let tolerances = Tolerances { generation: flags.generation, ..spec.tolerances(flags.tolerance) };
        let mut steps = Vec::new();
        let mut proposals = Vec::new();
        for (metric, reading) in spec.metrics.iter().zip(readings) {
            let resolved = metric.resolve();
            let name = resolved.as_ref().map_or(metric.kind.as_str(), |(_, name, _)| name).to_owned();
            let proposal = reading.clone().and_then(|reading| {
                let (source, _, target) = resolved.map_err(|error| error.to_string())?;
                propose(source, target, &reading.workload, &reading.samples, tolerances)
                    .map_err(|error| error.to_string())
            });
            if spec.metrics.len() > 1 {
                let outcome =
                    proposal.as_ref().map_or("fails".to_owned(), |p| format!("proposes {}", p.replicas));
                steps.push(format!("metric {name} {outcome}"));
            }
            match &proposal {
                Ok(proposal) => steps.extend(proposal.steps.iter().cloned()),
                Err(error) => steps.push(error.clone()),
            }
            proposals.push(proposal);
        }
        let counts: Vec<Result<i32, String>> = proposals
            .iter()
            .map(|proposal| proposal.as_ref().map(|p| p.replicas).map_err(Clone::clone))
            .collect();
        let settings = Settings::of(spec, self.downscale_stabilization);
        let mut decision = self.sync(now, replicas, &settings, &counts);
        if decision.read_metrics {
            steps.append(&mut decision.steps);
            decision.steps = steps;
        }
        Synced { decision, proposals }
    }
}
