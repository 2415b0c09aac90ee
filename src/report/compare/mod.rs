//! Runs beside each other: what differs, and what the runs' own uncertainty lets nobody tell apart.

mod page;
mod text;

pub use page::{MOST_COMPARED, render_comparison};
pub use text::{comparison_document, comparison_summary};

use super::ReportInput;
use crate::analyze::{Capacity, Curve, LatencySummary, Origin, StepAnalysis, Verdict};
use crate::recommend::Between;
use crate::units::{Rate, Signal, SloMetric};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A run that is compared.
#[derive(Debug, Clone)]
pub struct Compared<'a> {
    /// What it is called: the name of its directory.
    pub name: String,
    /// What it says.
    pub input: ReportInput<'a>,
    /// GPUs of a replica.
    pub gpus_per_replica: u32,
    /// Scenario and server, field by field.
    pub fields: BTreeMap<String, String>,
}

/// Runs beside each other, the first being what the others are compared with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The runs.
    pub runs: Vec<Beside>,
    /// Latencies at equal loads.
    pub latencies: Vec<AtLoad>,
    /// Fields of scenario and server that are not the same in all runs, with each run's value.
    pub differs: Vec<(String, Vec<String>)>,
    /// What to know before believing it.
    pub remarks: Vec<String>,
}

/// What one of the runs says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Beside {
    /// Its name.
    pub name: String,
    /// When it began.
    pub started: String,
    /// The server.
    pub server: String,
    /// The limits it was judged by.
    pub slo: Vec<String>,
    /// Whether it can be believed.
    pub validity: Verdict,
    /// Requests per second that a replica carries within the SLO.
    pub capacity: Option<Between<Rate>>,
    /// Why there is none.
    pub no_capacity: Option<String>,
    /// The capacity over that of the first run.
    pub ratio: Option<Between<f64>>,
    /// Whether the intervals let the two be told apart. `None`: it is the first, or one has no capacity.
    pub told_apart: Option<bool>,
    /// The metric that is recommended.
    pub metric: Option<Signal>,
    /// `averageValue` of each metric that has one.
    pub targets: Vec<(Signal, String)>,
    /// GPU-minutes that its steps took.
    pub gpu_minutes: f64,
}

/// A latency at one load of a replica, by run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AtLoad {
    /// Which latency, its 95th percentile.
    pub metric: &'static str,
    /// The load.
    pub load: Rate,
    /// Seconds, between the steps around the load. `None`: the run was not driven there.
    pub values: Vec<Option<Between<f64>>>,
    /// Whether each run's interval lies apart from that of the first.
    pub told_apart: Vec<Apart>,
}

/// Whether a figure can be told from that of the first run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Apart {
    /// It is of the first run.
    First,
    /// The intervals do not meet.
    Yes,
    /// The intervals meet.
    No,
    /// One has no interval, or is not known.
    Unknown,
}

/// Standard deviations on either side of a 90 % interval.
const NINETY_PERCENT: f64 = 1.645;
/// Loads at which latencies are compared, as shares of the least capacity.
const SHARES: [f64; 4] = [0.25, 0.5, 0.75, 0.95];
/// Fields that say which requests are sent and how.
const REQUESTS: [&str; 12] = [
    "input-tokens",
    "output-tokens",
    "dataset",
    "max-new-tokens",
    "shared-prefix",
    "tokenizer",
    "api",
    "stream",
    "arrivals",
    "burstiness",
    "replicas",
    "production-replicas",
];
/// Fields that differ between any two runs and mean nothing.
const IDLE: [&str; 2] = ["name", "out"];

/// Compares runs with the first of them.
pub fn compare(runs: &[Compared]) -> Comparison {
    let differs = differs(runs);
    Comparison {
        latencies: latencies(runs),
        remarks: remarks(runs, &differs),
        runs: runs.iter().map(|run| beside(run, &runs[0])).collect(),
        differs,
    }
}

fn beside(run: &Compared, first: &Compared) -> Beside {
    let analysis = run.input.analysis;
    let capacity = analysis.capacity.as_ref().ok();
    let is_first = std::ptr::eq(run, first);
    let ratio =
        capacity.zip(first.input.analysis.capacity.as_ref().ok()).map(|(one, other)| ratio(one, other));
    let seconds: f64 = analysis.steps.iter().map(|step| (step.mark.end - step.mark.start).0).sum();
    let recommendation = run.input.recommendation;
    let targets = recommendation.iter().flat_map(|r| &r.targets);
    Beside {
        name: run.name.clone(),
        started: run.input.facts.started.clone(),
        server: run.input.facts.server.clone(),
        slo: analysis.slos.iter().map(ToString::to_string).collect(),
        validity: analysis.validity.verdict,
        capacity: capacity.map(|c| Between { value: c.per_replica, low: c.low, high: c.high }),
        no_capacity: analysis.capacity.as_ref().err().map(ToString::to_string),
        told_apart: ratio.filter(|_| !is_first).map(|ratio| ratio.low > 1.0 || ratio.high < 1.0),
        ratio,
        metric: recommendation.and_then(|r| r.recommended),
        targets: targets
            .filter_map(|target| Some((target.signal, target.average_value.as_ref().ok()?.to_string())))
            .collect(),
        gpu_minutes: seconds / 60.0 * f64::from(analysis.replicas.0 * run.gpus_per_replica),
    }
}

/// One capacity over another, with the interval that both make: errors of two runs add up as squares of their
/// logarithms.
fn ratio(one: &Capacity, other: &Capacity) -> Between<f64> {
    let deviation = |capacity: &Capacity| (capacity.high.0 / capacity.low.0).ln() / (2.0 * NINETY_PERCENT);
    let factor = (NINETY_PERCENT * deviation(one).hypot(deviation(other))).exp();
    let value = one.per_replica.0 / other.per_replica.0;
    Between { value, low: value / factor, high: value * factor }
}

fn latencies(runs: &[Compared]) -> Vec<AtLoad> {
    let reach = |run: &Compared| {
        let analysis = run.input.analysis;
        let driven = analysis.steps.iter().map(|step| step.carried(analysis.replicas).0).fold(0.0, f64::max);
        analysis.capacity.as_ref().map_or(driven, |capacity| capacity.per_replica.0)
    };
    let least = runs.iter().map(reach).fold(f64::INFINITY, f64::min);
    let metrics = [SloMetric::Ttft, SloMetric::Tpot, SloMetric::E2e];
    let rows = metrics.into_iter().flat_map(|metric| SHARES.map(|share| (metric, Rate(least * share))));
    rows.map(|(metric, load)| at_load(runs, metric, load))
        .filter(|row| row.values.iter().filter(|value| value.is_some()).count() > 1)
        .collect()
}

fn at_load(runs: &[Compared], metric: SloMetric, load: Rate) -> AtLoad {
    let of = |run: &Compared| {
        let at = |figure: &dyn Fn(&LatencySummary) -> Option<f64>| p95(run, metric, figure)?.at(load);
        let value = at(&|latency| Some(latency.p95.0))?;
        let low = at(&|latency| Some(latency.p95_interval?.0.0)).unwrap_or(value);
        let high = at(&|latency| Some(latency.p95_interval?.1.0)).unwrap_or(value);
        Some(Between { value, low: low.min(value), high: high.max(value) })
    };
    let values: Vec<Option<Between<f64>>> = runs.iter().map(of).collect();
    let has_interval = |value: &Between<f64>| value.low < value.high;
    let apart = |(i, value): (usize, &Option<Between<f64>>)| match (*value, values[0]) {
        _ if i == 0 => Apart::First,
        (Some(one), Some(first)) if has_interval(&one) && has_interval(&first) => {
            if one.low > first.high || one.high < first.low { Apart::Yes } else { Apart::No }
        }
        _ => Apart::Unknown,
    };
    AtLoad { metric: metric.word(), load, told_apart: values.iter().enumerate().map(apart).collect(), values }
}

/// A figure of a latency over the load of a replica, as the steps show it.
fn p95(run: &Compared, metric: SloMetric, figure: &dyn Fn(&LatencySummary) -> Option<f64>) -> Option<Curve> {
    let analysis = run.input.analysis;
    let of = |step: &StepAnalysis| match metric {
        SloMetric::Tpot => step.tpot,
        SloMetric::E2e => step.e2e,
        _ => step.ttft,
    };
    let points = analysis
        .steps
        .iter()
        .filter_map(|step| Some((step.carried(analysis.replicas).0, figure(&of(step)?)?)));
    Curve::new(Origin::Measured, points)
}

/// Fields that are not the same in all runs.
fn differs(runs: &[Compared]) -> Vec<(String, Vec<String>)> {
    let fields: BTreeSet<&String> = runs.iter().flat_map(|run| run.fields.keys()).collect();
    let values = |field: &String| {
        let of = |run: &Compared| run.fields.get(field).cloned().unwrap_or_else(|| "–".to_owned());
        runs.iter().map(of).collect::<Vec<_>>()
    };
    fields
        .into_iter()
        .filter(|field| !IDLE.contains(&field.as_str()))
        .map(|field| (field.clone(), values(field)))
        .filter(|(_, values)| values.iter().any(|value| *value != values[0]))
        .collect()
}

fn remarks(runs: &[Compared], differs: &[(String, Vec<String>)]) -> Vec<String> {
    let mut remarks = Vec::new();
    let first = &runs[0];
    for run in &runs[1..] {
        if run.input.analysis.slos != first.input.analysis.slos {
            remarks.push(format!(
                "{} is judged by other limits than {}, so their capacities answer different questions; --slo judges all by \
                 the same",
                run.name, first.name
            ));
        }
        let other = |name: &str| run.fields.get(name) != first.fields.get(name);
        let requests: Vec<&str> = REQUESTS.into_iter().filter(|name| other(name)).collect();
        if !requests.is_empty() {
            remarks.push(format!(
                "{} was measured with another load than {} ({}), so they did not do the same work",
                run.name,
                first.name,
                requests.join(", ")
            ));
        }
    }
    for run in runs {
        if run.input.facts.state != "complete" {
            remarks.push(format!("{} was cut short; what it measured before is compared", run.name));
        }
        if run.input.analysis.validity.verdict == Verdict::Invalid {
            remarks.push(format!("{} is invalid: nothing of it may be relied on", run.name));
        }
        if run.input.facts.simulated != first.input.facts.simulated {
            remarks
                .push(format!("one of {} and {} is of the embedded simulated server", run.name, first.name));
        }
    }
    if differs.is_empty() {
        remarks.push(
            "scenario and server are the same in all runs: what differs is chance, or what no field says"
                .to_owned(),
        );
    }
    remarks
}

#[cfg(test)]
mod tests;
