//! `benchmark-report.json`: the shape of llm-d's benchmark report v0.2.
//!
//! That shape has one result, so it gets the highest load that holds the SLO (else the last step);
//! all steps stand beside it under `stages`.

use super::ReportInput;
use crate::analyze::{Capacity, GaugeSummary, LatencySummary, StepAnalysis};
use serde_json::{Value, json};

/// The document.
pub(super) fn document(input: &ReportInput) -> Value {
    let analysis = input.analysis;
    let chosen = match &analysis.capacity {
        Ok(Capacity { bracket: Some(bracket), .. }) => analysis.steps.get(bracket.lower_step),
        _ => analysis.steps.last(),
    };
    json!({
        "version": "0.2",
        "run": { "uid": input.facts.run_id, "time": { "start": input.facts.started } },
        "scenario": {
            "stack": [{ "standardized": { "kind": "inference_engine", "tool": "tgi", "replicas": analysis.replicas.0 },
                        "native": { "server": input.facts.server, "simulated": input.facts.simulated } }],
            "load": {
                "metadata": { "tool": "calibrate", "tool_version": input.facts.tool_version },
                "standardized": { "stages": analysis.steps.iter().map(stage).collect::<Vec<_>>() },
                "native": { "scenario": input.facts.scenario_yaml },
            },
        },
        "results": chosen.map(result),
        "stages": analysis.steps.iter().map(result).collect::<Vec<_>>(),
    })
}

fn stage(step: &StepAnalysis) -> Value {
    let duration = step.mark.hold().0;
    let load = step.mark.load;
    let key = if load.is_open_loop() { "rate_qps" } else { "concurrency" };
    json!({ key: load.level(), "duration_s": duration })
}

fn result(step: &StepAnalysis) -> Value {
    json!({
        "stage": step.mark.index,
        "request_performance": { "aggregate": {
            "latency": {
                "time_to_first_token": latency(step.ttft),
                "time_per_output_token": latency(step.tpot),
                "inter_token_latency": latency(step.itl),
                "request_latency": latency(step.e2e),
                "normalized_time_per_output_token": latency(step.ntpot),
            },
            "requests": {
                "total": step.attempts,
                "failures": step.attempts - step.succeeded,
                "incomplete": step.failures.get(&crate::measurement::FailureKind::Stopped).copied().unwrap_or(0),
            },
            "throughput": {
                "output_token_rate": { "units": "tokens/s", "mean": step.output_tokens_per_second },
                "request_rate": { "units": "queries/s", "mean": step.achieved.0 },
            },
        }},
        "observability": { "components": [{ "aggregate": {
            "running_requests": gauge(step.batch, "requests"),
            "waiting_requests": gauge(step.queue, "requests"),
            "gpu_utilization": gauge(step.gpu, "percent"),
        }}]},
    })
}

fn latency(summary: Option<LatencySummary>) -> Value {
    summary.map_or(Value::Null, |l| {
        json!({ "units": "s", "mean": l.mean.0, "p50": l.p50.0, "p90": l.p90.0, "p95": l.p95.0, "p99": l.p99.0, "max": l.max.0 })
    })
}

fn gauge(summary: Option<GaugeSummary>, units: &str) -> Value {
    summary.map_or(
        Value::Null,
        |g| json!({ "units": units, "mean": g.mean, "stddev": g.std, "min": g.min, "max": g.max }),
    )
}
