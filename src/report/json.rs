//! `recommendation.json`, which is also what `--json` prints. Versioned; types of its own.

use super::{ReportInput, words};
use crate::analyze::lag::Lag;
use crate::analyze::server_model::Prediction;
use crate::analyze::{Capacity, LatencySummary, Method, StepAnalysis, ValidityCheck, Verdict};
use crate::recommend::{Advice, Assumptions, Gate, Target};
use serde::Serialize;

const FORMAT: &str = "calibrate/recommendation";
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    tool_version: &'a str,
    run_id: &'a str,
    state: &'a str,
    server: &'a str,
    simulated: bool,
    slo: Vec<String>,
    replicas: u32,
    /// Whether anything is recommended; if not, `reason` says why and `remedy` what to do.
    recommended: bool,
    metric: Option<&'static str>,
    average_value: Option<String>,
    reason: Option<String>,
    remedy: Option<&'static str>,
    tolerance: Option<f64>,
    /// Lag and start-up in seconds, growth a minute.
    assumptions: Option<Assumptions>,
    /// What the targets of Google's how-to page would do.
    advice: &'a [Advice],
    capacity: Option<CapacityJson>,
    /// The capacity by the server's own counters; `null` with `prediction_missing` saying why.
    prediction: Option<&'a Prediction>,
    prediction_missing: Option<String>,
    targets: Vec<TargetJson<'a>>,
    rationale: &'a [String],
    warnings: &'a [String],
    validity: ValidityJson<'a>,
    /// How late an HPA sees each metric, seconds, where its API was read beside the direct scrape.
    #[serde(skip_serializing_if = "Option::is_none")]
    lags: Option<&'a [Lag]>,
    steps: Vec<StepJson>,
}

#[derive(Serialize)]
struct CapacityJson {
    requests_per_second_per_replica: f64,
    /// Ends of the interval: 90 % by the server model or a logistic fit, the two steps otherwise.
    interval_low: f64,
    interval_high: f64,
    method: Method,
    /// Replicas that it holds for.
    replicas: u32,
    /// The measured loads around it, where the ramp enclosed it.
    holds_at: Option<f64>,
    fails_at: Option<f64>,
    limited_by: String,
}

#[derive(Serialize)]
struct TargetJson<'a> {
    metric: &'static str,
    unit: &'static str,
    at_capacity: Option<f64>,
    samples: u64,
    average_value: Option<String>,
    average_value_milli: Option<i64>,
    scales_up_from_milli: Option<i64>,
    refused: Option<&'a str>,
    terms: Vec<(&'a str, &'a str)>,
    gates: &'a [Gate],
    remarks: &'a [String],
}

#[derive(Serialize)]
struct ValidityJson<'a> {
    verdict: Verdict,
    checks: &'a [ValidityCheck],
}

#[derive(Serialize)]
struct StepJson {
    step: u32,
    load: &'static str,
    value: f64,
    attempts: usize,
    succeeded: usize,
    offered_rps: f64,
    achieved_rps: f64,
    goodput: Option<f64>,
    slo_holds: Option<bool>,
    ttft_p50_s: Option<f64>,
    ttft_p95_s: Option<f64>,
    tpot_p95_s: Option<f64>,
    e2e_p95_s: Option<f64>,
    queue_mean: Option<f64>,
    batch_mean: Option<f64>,
    gpu_mean_percent: Option<f64>,
}

/// The document.
pub fn document(input: &ReportInput) -> serde_json::Value {
    let analysis = input.analysis;
    let recommended = words::recommended(input).filter(|target| target.average_value.is_ok());
    let recommendation = input.recommendation;
    let document = Document {
        format: FORMAT,
        version: VERSION,
        tool_version: &input.facts.tool_version,
        run_id: &input.facts.run_id,
        state: &input.facts.state,
        server: &input.facts.server,
        simulated: input.facts.simulated,
        slo: analysis.slos.iter().map(ToString::to_string).collect(),
        replicas: analysis.replicas.0,
        recommended: recommended.is_some(),
        metric: recommended.map(|target| target.signal.slug()),
        average_value: recommended.and_then(|t| t.average_value.as_ref().ok()).map(ToString::to_string),
        reason: recommended.is_none().then(|| words::headline(input)),
        remedy: words::way_out(input),
        tolerance: recommendation.map(|r| r.assumptions.tolerance),
        assumptions: recommendation.map(|r| r.assumptions),
        advice: recommendation.map(|r| r.advice.as_slice()).unwrap_or_default(),
        capacity: analysis.capacity.as_ref().ok().map(capacity),
        prediction: analysis.prediction.as_ref().ok(),
        prediction_missing: analysis.prediction.as_ref().err().map(ToString::to_string),
        targets: recommendation.map(|r| r.targets.iter().map(target).collect()).unwrap_or_default(),
        rationale: recommendation.map(|r| r.rationale.as_slice()).unwrap_or_default(),
        warnings: recommendation.map(|r| r.warnings.as_slice()).unwrap_or_default(),
        validity: ValidityJson { verdict: analysis.validity.verdict, checks: &analysis.validity.checks },
        lags: Some(analysis.lags.as_slice()).filter(|lags| !lags.is_empty()),
        steps: analysis.steps.iter().map(step).collect(),
    };
    serde_json::to_value(document).unwrap_or_default()
}

fn capacity(capacity: &Capacity) -> CapacityJson {
    CapacityJson {
        requests_per_second_per_replica: capacity.per_replica.0,
        interval_low: capacity.low.0,
        interval_high: capacity.high.0,
        method: capacity.method,
        replicas: capacity.replicas.0,
        holds_at: capacity.bracket.map(|bracket| bracket.holds_at.0),
        fails_at: capacity.bracket.map(|bracket| bracket.fails_at.0),
        limited_by: capacity.limited_by.to_string(),
    }
}

fn target(target: &Target) -> TargetJson<'_> {
    let value = target.average_value.as_ref();
    TargetJson {
        metric: target.signal.slug(),
        unit: target.signal.unit(),
        at_capacity: target.at_capacity,
        samples: target.samples,
        average_value: value.ok().map(ToString::to_string),
        average_value_milli: value.ok().map(|milli| milli.0),
        scales_up_from_milli: target.fires_at.map(|milli| milli.0),
        refused: value.err().map(String::as_str),
        terms: target.terms.iter().map(|term| (term.name.as_str(), term.value.as_str())).collect(),
        gates: &target.gates,
        remarks: &target.remarks,
    }
}

fn step(step: &StepAnalysis) -> StepJson {
    let (load, value) = (step.mark.load.kind(), step.mark.load.level());
    let at = |summary: Option<LatencySummary>, of: fn(&LatencySummary) -> f64| summary.as_ref().map(of);
    StepJson {
        step: step.mark.index,
        load,
        value,
        attempts: step.attempts,
        succeeded: step.succeeded,
        offered_rps: step.offered.0,
        achieved_rps: step.achieved.0,
        goodput: step.goodput,
        slo_holds: step.is_judged().then(|| step.holds()),
        ttft_p50_s: at(step.ttft, |l| l.p50.0),
        ttft_p95_s: at(step.ttft, |l| l.p95.0),
        tpot_p95_s: at(step.tpot, |l| l.p95.0),
        e2e_p95_s: at(step.e2e, |l| l.p95.0),
        queue_mean: step.queue.map(|g| g.mean),
        batch_mean: step.batch.map(|g| g.mean),
        gpu_mean_percent: step.gpu.map(|g| g.mean),
    }
}

/// A document as text.
pub(super) fn pretty(document: &serde_json::Value) -> String {
    serde_json::to_string_pretty(document).unwrap_or_else(|_| document.to_string()) + "\n"
}
