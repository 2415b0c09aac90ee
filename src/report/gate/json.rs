//! For machines, versioned.

use super::{GateReport, GateRun, words};
use crate::analyze::gate::{Check, Decision, OnInconclusive};
use crate::analyze::regression::{Change, Comparison};
use serde::Serialize;

const FORMAT: &str = "calibrate/gate";
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    tool_version: &'a str,
    /// `passed`, `failed`, `inconclusive` or `invalid`.
    verdict: &'static str,
    message: String,
    on_inconclusive: &'static str,
    exit_code: u8,
    run: RunJson<'a>,
    baselines: Vec<RunJson<'a>>,
    checks: Vec<CheckJson>,
    remarks: &'a [String],
}

#[derive(Serialize)]
struct RunJson<'a> {
    directory: &'a str,
    run_id: Option<&'a str>,
    started: Option<&'a str>,
    server: Option<&'a str>,
    simulated: bool,
    measurement: Option<&'static str>,
    /// Why it cannot be used.
    problem: Option<&'a str>,
}

/// One check; what its kind does not have is `null`.
#[derive(Default, Serialize)]
struct CheckJson {
    /// `slo`, `capacity` or `regression`.
    kind: &'static str,
    name: String,
    /// `pass`, `fail` or `cannot-tell`.
    outcome: &'static str,
    detail: String,
    /// The limit as its flag takes it.
    limit: String,
    /// Seconds, a share from 0 to 1, or requests per second and replica.
    value: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    /// The load of an SLO's step.
    load: Option<f64>,
    load_kind: Option<&'static str>,
    requests: Option<usize>,
    change: Option<ChangeJson>,
    loads: Vec<LoadJson>,
    /// Whether all runs sent the same requests at the same times.
    paired: Option<bool>,
    /// The smallest regression seen in nine of ten runs, as a share.
    detectable: Option<f64>,
    /// Seconds that a run would take in which the limit is seen in nine of ten.
    run_again_seconds: Option<f64>,
    remarks: Vec<String>,
}

/// Shares: 0.1 is 10 % more.
#[derive(Serialize)]
struct ChangeJson {
    by: f64,
    low: Option<f64>,
    high: Option<f64>,
}

#[derive(Serialize)]
struct LoadJson {
    load: f64,
    load_kind: &'static str,
    baseline: f64,
    run: f64,
    change: ChangeJson,
}

/// The document.
pub fn json(report: &GateReport) -> serde_json::Value {
    let document = Document {
        format: FORMAT,
        version: VERSION,
        tool_version: &report.tool_version,
        verdict: match report.decision {
            Decision::Passed => "passed",
            Decision::Failed => "failed",
            Decision::Inconclusive => "inconclusive",
            Decision::Invalid => "invalid",
        },
        message: words::verdict(report),
        on_inconclusive: match report.on_inconclusive {
            OnInconclusive::Pass => "pass",
            OnInconclusive::Fail => "fail",
            OnInconclusive::Rerun => "rerun",
        },
        exit_code: report.exit_code,
        run: run(&report.run),
        baselines: report.baselines.iter().map(run).collect(),
        checks: report.checks.iter().map(check).collect(),
        remarks: &report.remarks,
    };
    serde_json::to_value(document).unwrap_or_default()
}

fn run(run: &GateRun) -> RunJson<'_> {
    RunJson {
        directory: &run.directory,
        run_id: run.id.as_deref(),
        started: run.started.as_deref(),
        server: run.server.as_deref(),
        simulated: run.simulated,
        measurement: run.measurement,
        problem: run.problem.as_deref(),
    }
}

fn check(check: &Check) -> CheckJson {
    let of_all = CheckJson {
        name: words::title(check),
        outcome: words::word(check.outcome()),
        detail: words::detail(check),
        ..CheckJson::default()
    };
    match check {
        Check::Slo(slo) => CheckJson {
            kind: "slo",
            limit: slo.slo.to_string(),
            value: slo.value,
            load: Some(slo.load.level()),
            load_kind: Some(slo.load.kind()),
            requests: Some(slo.attempts),
            ..of_all
        },
        Check::Capacity(least) => {
            let found = least.capacity.as_ref().ok();
            CheckJson {
                kind: "capacity",
                limit: format!("{}rps", least.least.0),
                value: found.map(|capacity| capacity.per_replica.0),
                low: found.map(|capacity| capacity.low.0),
                high: found.map(|capacity| capacity.high.0),
                ..of_all
            }
        }
        Check::Regression(comparison) => regression(comparison, of_all),
    }
}

fn regression(comparison: &Comparison, of_all: CheckJson) -> CheckJson {
    let loads = comparison.loads.iter().map(|at| LoadJson {
        load: at.load.level(),
        load_kind: at.load.kind(),
        baseline: at.baseline,
        run: at.run,
        change: change(at.change),
    });
    CheckJson {
        kind: "regression",
        limit: comparison.limit.to_string(),
        requests: (comparison.requests > 0).then_some(comparison.requests),
        change: comparison.change.map(change),
        loads: loads.collect(),
        paired: (!comparison.loads.is_empty()).then_some(comparison.paired),
        detectable: comparison.detectable,
        run_again_seconds: comparison.length.map(|length| length.0),
        remarks: comparison.remarks.clone(),
        ..of_all
    }
}

fn change(change: Change) -> ChangeJson {
    let bound = |value: f64| value.is_finite().then_some(value);
    ChangeJson { by: change.by, low: bound(change.low), high: bound(change.high) }
}
