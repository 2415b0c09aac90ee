//! `benchmark-report.json`: llm-d's benchmark report v0.2.
//!
//! That report has one stage, and knows no field that is not its own. So the file holds the highest load that
//! holds the SLO (else the last step), and `benchmark-report/stage-N.json` one for each step; all name the run as
//! their experiment (`eid`).

use super::{LoadFacts, ReportInput, TokenCount};
use crate::analyze::{Capacity, GaugeSummary, LatencySummary, StepAnalysis, TimelinePoint};
use crate::measurement::FailureKind;
use crate::units::{Load, Seconds};
use serde_json::{Map, Value, json};

/// The version of the shape.
const VERSION: &str = "0.2";
/// What the observed component is called.
const SERVER: &str = "server";

/// The report of the stage that stands for the run. Without any step it has no results.
pub(super) fn document(input: &ReportInput) -> Value {
    let steps = &input.analysis.steps;
    let chosen = match &input.analysis.capacity {
        Ok(Capacity { bracket: Some(bracket), .. }) => steps.get(bracket.lower_step),
        _ => steps.last(),
    };
    report(input, chosen)
}

/// The reports of all stages, by their files.
pub(super) fn stages(input: &ReportInput) -> Vec<(String, Value)> {
    let name = |step: &StepAnalysis| format!("benchmark-report/stage-{}.json", step.mark.index);
    input.analysis.steps.iter().map(|step| (name(step), report(input, Some(step)))).collect()
}

fn report(input: &ReportInput, step: Option<&StepAnalysis>) -> Value {
    let facts = input.facts;
    let span = step.map_or((Seconds::ZERO, facts.load.length), |step| (step.mark.start, step.mark.end));
    let uid = step
        .map_or_else(|| facts.run_id.clone(), |step| format!("{}-stage-{}", facts.run_id, step.mark.index));
    without_nulls(json!({
        "version": VERSION,
        "run": {
            "uid": uid,
            "eid": facts.run_id,
            "time": {
                "start": timestamp(&facts.started, span.0),
                "end": timestamp(&facts.started, span.1),
                "duration": format!("PT{:.3}S", (span.1 - span.0).0.max(0.0)),
            },
        },
        "scenario": {
            "stack": [{
                "metadata": { "label": SERVER, "cfg_id": hash(&facts.server), "description": facts.server },
                "standardized": {
                    "kind": "generic",
                    "tool": facts.load.server_kind,
                    "tool_version": facts.server,
                    "replicas": input.analysis.replicas.0,
                    "simulated": facts.simulated,
                },
                "native": {},
            }],
            "load": load(input, step),
        },
        "results": step.map_or_else(|| json!({}), |step| results(input, step)),
    }))
}

fn load(input: &ReportInput, step: Option<&StepAnalysis>) -> Value {
    let facts = input.facts;
    let LoadFacts { input: prompts, output, sampled, shared_prefix, .. } = &facts.load;
    let asked = step.map(|step| step.mark.load);
    let prefix = (*shared_prefix > 0).then(|| {
        json!({
            "prefix_len": { "distribution": "fixed", "value": shared_prefix },
            "num_groups": 1, "num_users_per_group": 1, "num_prefixes": 1,
        })
    });
    json!({
        "metadata": { "cfg_id": hash(&facts.scenario_yaml), "description": asked.map(|load| load.to_string()) },
        "standardized": {
            "tool": "calibrate",
            "tool_version": facts.tool_version,
            "source": if *sampled { "sampled" } else { "random" },
            "stage": step.map_or(0, |step| step.mark.index),
            "input_seq_len": tokens(*prompts),
            "output_seq_len": tokens(*output),
            "prefix": prefix,
            "rate_qps": asked.filter(|load| load.is_open_loop() && load.level() > 0.0).map(|load| load.level()),
            "concurrency": match asked { Some(Load::Concurrency(n)) if n > 0 => Some(n), _ => None },
        },
        "native": { "config": facts.scenario_yaml },
    })
}

fn tokens(count: TokenCount) -> Value {
    json!({
        "distribution": count.distribution,
        "value": count.mean,
        "std_dev": count.deviation,
        "min": count.bounds.map(|(least, _)| least),
        "max": count.bounds.map(|(_, most)| most),
    })
}

fn results(input: &ReportInput, step: &StepAnalysis) -> Value {
    let facts = input.facts;
    let during = |point: &&TimelinePoint| point.time >= step.mark.hold_start && point.time < step.mark.end;
    let points: Vec<&TimelinePoint> = input.analysis.timeline.iter().filter(during).collect();
    let series = |units: &str, field: &str, of: &dyn Fn(&TimelinePoint) -> Option<f64>| {
        let point =
            |at: &&TimelinePoint| Some(json!({ "ts": timestamp(&facts.started, at.time)?, field: of(at)? }));
        let points: Vec<Value> = points.iter().filter_map(point).collect();
        (!points.is_empty()).then(|| json!({ "units": units, "series": points }))
    };
    let replicas = f64::from(input.analysis.replicas.0);
    json!({
        "request_performance": {
            "aggregate": aggregate(step),
            "time_series": {
                "latency": { "time_to_first_token": series("s", "p50", &|at| at.ttft_p50.map(|ttft| ttft.0)) },
                "throughput": { "request_rate": series("queries/s", "value", &|at| Some(at.completed.0)) },
            },
        },
        "observability": {
            "components": [{
                "component_label": SERVER,
                "aggregate": {
                    "running_requests": gauge(step.batch, "count"),
                    "waiting_requests": gauge(step.queue, "count"),
                    "gpu_utilization": gauge(step.gpu, "percent"),
                },
                "time_series": { "gpu_utilization": series("percent", "value", &|at| at.gpu) },
                "raw_data_path": "samples.csv",
            }],
            "replica_status": {
                "aggregate_ready_replicas":
                    { "units": "count", "mean": replicas, "min": replicas, "max": replicas },
            },
        },
    })
}

fn aggregate(step: &StepAnalysis) -> Value {
    let cut_off = step.failures.get(&FailureKind::Stopped).copied().unwrap_or(0);
    json!({
        "requests": {
            "total": step.attempts,
            "failures": step.attempts - step.succeeded - cut_off,
            "incomplete": cut_off,
        },
        "latency": {
            "time_to_first_token": latency(step.ttft, "s"),
            "normalized_time_per_output_token": latency(step.ntpot, "s/token"),
            "time_per_output_token": latency(step.tpot, "s/token"),
            "inter_token_latency": latency(step.itl, "s/token"),
            "request_latency": latency(step.e2e, "s"),
        },
        "throughput": {
            "output_token_rate": { "units": "tokens/s", "mean": step.output_tokens_per_second },
            "request_rate": { "units": "queries/s", "mean": step.achieved.0 },
        },
    })
}

fn latency(summary: Option<LatencySummary>, units: &str) -> Value {
    summary.map_or(Value::Null, |l| {
        json!({ "units": units, "mean": l.mean.0, "p50": l.p50.0, "p90": l.p90.0, "p95": l.p95.0, "p99": l.p99.0, "max": l.max.0 })
    })
}

fn gauge(summary: Option<GaugeSummary>, units: &str) -> Value {
    summary.map_or(
        Value::Null,
        |g| json!({ "units": units, "mean": g.mean, "stddev": g.std, "min": g.min, "max": g.max }),
    )
}

/// What is not known is left out, and so is what holds nothing else.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept =
                fields.into_iter().map(|(name, value)| (name, value.is_object(), without_nulls(value)));
            let known = |(name, was_object, value): (String, bool, Value)| {
                // `native` and `results` must be there, however empty.
                let empty = was_object && value.as_object().is_some_and(Map::is_empty);
                let needed = name == "native" || name == "results";
                (!value.is_null() && (needed || !empty)).then_some((name, value))
            };
            Value::Object(kept.filter_map(known).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// A time of the run, RFC 3339. `None`: its start cannot be read.
fn timestamp(started: &str, time: Seconds) -> Option<String> {
    let origin: jiff::Timestamp = started.parse().ok()?;
    let later = origin.checked_add(jiff::SignedDuration::from_millis((time.0 * 1e3).round() as i64)).ok()?;
    Some(format!("{later:.3}"))
}

/// FNV-1a: the same configuration has the same name.
fn hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
