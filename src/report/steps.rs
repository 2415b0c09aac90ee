//! `steps.csv`: one row per step; an empty cell is unknown. Seconds, requests per second, percent.

use super::{ReportError, ReportInput};
use crate::analyze::{GaugeSummary, LatencySummary, Steadiness, StepAnalysis};

const COLUMNS: [&str; 41] = [
    "step",
    "load",
    "load_value",
    "start_s",
    "hold_start_s",
    "end_s",
    "attempts",
    "succeeded",
    "failed",
    "failures",
    "offered_rps",
    "achieved_rps",
    "output_tokens_per_s",
    "in_flight",
    "goodput",
    "slo_holds",
    "steady",
    "ttft_n",
    "ttft_mean_s",
    "ttft_p50_s",
    "ttft_p95_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "tpot_p50_s",
    "tpot_p95_s",
    "tpot_p99_s",
    "itl_p50_s",
    "itl_p95_s",
    "itl_p99_s",
    "e2e_p50_s",
    "e2e_p95_s",
    "e2e_p99_s",
    "schedule_delay_p99_s",
    "queue_mean",
    "queue_se",
    "queue_max",
    "batch_mean",
    "batch_se",
    "batch_max",
    "gpu_mean_percent",
    "gpu_se_percent",
];

/// The table.
pub(super) fn render(input: &ReportInput) -> Result<String, ReportError> {
    let error = |reason: &dyn ToString| ReportError::Render { what: "steps.csv", reason: reason.to_string() };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(|e| error(&e))?;
    for step in &input.analysis.steps {
        writer.write_record(row(step)).map_err(|e| error(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| error(&e))?;
    String::from_utf8(bytes).map_err(|e| error(&e))
}

fn row(step: &StepAnalysis) -> Vec<String> {
    let number = |value: f64| format!("{value:.6}");
    let (kind, value) = (step.mark.load.kind(), step.mark.load.level().to_string());
    let steady = match step.steady {
        Steadiness::Steady => "steady",
        Steadiness::Growing { .. } => "growing",
        Steadiness::Unknown => "unknown",
    };
    let mut row = vec![
        step.mark.index.to_string(),
        kind.to_owned(),
        value,
        number(step.mark.start.0),
        number(step.mark.hold_start.0),
        number(step.mark.end.0),
        step.attempts.to_string(),
        step.succeeded.to_string(),
        (step.attempts - step.succeeded).to_string(),
        super::words::failures(step).replace(", ", ";"),
        number(step.offered.0),
        number(step.achieved.0),
        number(step.output_tokens_per_second),
        number(step.in_flight),
        step.goodput.map(number).unwrap_or_default(),
        super::words::holds(step, ["true", "false", "unknown"]).to_owned(),
        steady.to_owned(),
    ];
    let latency = |summary: Option<LatencySummary>, of: fn(&LatencySummary) -> f64| {
        summary.as_ref().map(of).map(number).unwrap_or_default()
    };
    row.push(step.ttft.map(|ttft| ttft.n.to_string()).unwrap_or_default());
    row.extend([latency(step.ttft, |l| l.mean.0), latency(step.ttft, |l| l.p50.0)]);
    row.extend([latency(step.ttft, |l| l.p95.0), latency(step.ttft, |l| l.p99.0)]);
    row.extend([latency(step.tpot, |l| l.mean.0), latency(step.tpot, |l| l.p50.0)]);
    row.extend([latency(step.tpot, |l| l.p95.0), latency(step.tpot, |l| l.p99.0)]);
    for summary in [step.itl, step.e2e] {
        row.extend([
            latency(summary, |l| l.p50.0),
            latency(summary, |l| l.p95.0),
            latency(summary, |l| l.p99.0),
        ]);
    }
    row.push(latency(step.schedule_delay, |l| l.p99.0));
    let gauge = |summary: Option<GaugeSummary>, of: fn(&GaugeSummary) -> f64| {
        summary.as_ref().map(of).map(number).unwrap_or_default()
    };
    let error = |summary: Option<GaugeSummary>| {
        summary.and_then(|g| g.standard_error).map(number).unwrap_or_default()
    };
    for summary in [step.queue, step.batch] {
        row.extend([gauge(summary, |g| g.mean), error(summary), gauge(summary, |g| g.max)]);
    }
    row.extend([gauge(step.gpu, |g| g.mean), error(step.gpu)]);
    row
}
