//! `calibrate.prom`: the final figures in Prometheus' text format, for the textfile collector of a node exporter
//! or a push. What is not known has no series.

use super::ReportInput;
use crate::analyze::{LatencySummary, StepAnalysis, Verdict};
use crate::recommend::Target;
use std::fmt::Write;

/// Labels and a value.
type Series = (Vec<(&'static str, String)>, f64);

/// A metric with its series.
struct Metric {
    name: &'static str,
    help: &'static str,
    series: Vec<Series>,
}

/// The text. All are gauges, in base units: seconds, requests, requests per second, ratios from 0 to 1.
pub(super) fn render(input: &ReportInput) -> String {
    let mut metrics = of_run(input);
    metrics.extend(of_capacity(input));
    metrics.extend(of_targets(input));
    metrics.extend(of_steps(input));
    let mut out = String::new();
    for metric in metrics.iter().filter(|metric| !metric.series.is_empty()) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {} {}", metric.name, metric.help);
        let _ = writeln!(out, "# TYPE {} gauge", metric.name);
        for (labels, value) in &metric.series {
            let labels = std::iter::once(("run", input.facts.run_id.clone())).chain(labels.iter().cloned());
            let labels: Vec<String> =
                labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(&value))).collect();
            let _ = writeln!(out, "{}{{{}}} {value}", metric.name, labels.join(","));
        }
    }
    out
}

fn single(name: &'static str, help: &'static str, value: Option<f64>) -> Metric {
    Metric { name, help, series: value.map(|value| (Vec::new(), value)).into_iter().collect() }
}

fn of_run(input: &ReportInput) -> Vec<Metric> {
    let facts = input.facts;
    let labels = vec![
        ("server", facts.server.clone()),
        ("simulated", facts.simulated.to_string()),
        ("state", facts.state.clone()),
        ("tool_version", facts.tool_version.clone()),
    ];
    let started: Option<jiff::Timestamp> = facts.started.parse().ok();
    let valid = input.analysis.validity.verdict != Verdict::Invalid;
    vec![
        Metric {
            name: "calibrate_run_info",
            help: "What the run was; always 1.",
            series: vec![(labels, 1.0)],
        },
        single(
            "calibrate_run_start_timestamp_seconds",
            "When the run began, Unix time.",
            started.map(|at| at.as_second() as f64),
        ),
        single("calibrate_run_duration_seconds", "How long it measured.", Some(facts.load.length.0)),
        single(
            "calibrate_measurement_valid",
            "1 if the measurement can be believed, with remarks or without.",
            Some(f64::from(u8::from(valid))),
        ),
    ]
}

fn of_capacity(input: &ReportInput) -> Vec<Metric> {
    let found = input.analysis.capacity.as_ref().ok();
    vec![
        single(
            "calibrate_capacity_requests_per_second",
            "Load within the SLO, per replica.",
            found.map(|capacity| capacity.per_replica.0),
        ),
        single(
            "calibrate_capacity_low_requests_per_second",
            "Lower end of its interval.",
            found.map(|capacity| capacity.low.0),
        ),
        single(
            "calibrate_capacity_high_requests_per_second",
            "Upper end of its interval.",
            found.map(|capacity| capacity.high.0),
        ),
    ]
}

fn of_targets(input: &ReportInput) -> Vec<Metric> {
    let targets = || input.recommendation.iter().flat_map(|recommendation| &recommendation.targets);
    let series = |of: &dyn Fn(&Target) -> Option<f64>| {
        let one = |target: &Target| {
            let labels =
                vec![("metric", target.signal.slug().to_owned()), ("unit", target.signal.unit().to_owned())];
            Some((labels, of(target)?))
        };
        targets().filter_map(one).collect()
    };
    let recommended = input.recommendation.and_then(|recommendation| recommendation.recommended);
    vec![
        Metric {
            name: "calibrate_metric_at_capacity",
            help: "The metric at the capacity, in its unit.",
            series: series(&|target| target.at_capacity),
        },
        Metric {
            name: "calibrate_target_average_value",
            help: "The HPA's averageValue for the metric, in its unit.",
            series: series(&|target| Some(target.average_value.as_ref().ok()?.as_f64())),
        },
        Metric {
            name: "calibrate_target_recommended",
            help: "1 for the metric to scale on, 0 for the others.",
            series: series(&|target| Some(f64::from(u8::from(recommended == Some(target.signal))))),
        },
    ]
}

fn of_steps(input: &ReportInput) -> Vec<Metric> {
    let series = |of: &dyn Fn(&StepAnalysis) -> Option<f64>| {
        input.analysis.steps.iter().filter_map(|step| Some((labels(step), of(step)?))).collect()
    };
    let metric =
        |name, help, of: &dyn Fn(&StepAnalysis) -> Option<f64>| Metric { name, help, series: series(of) };
    vec![
        metric("calibrate_step_offered_requests_per_second", "Arrivals in the measured part.", &|s| {
            Some(s.offered.0)
        }),
        metric("calibrate_step_achieved_requests_per_second", "Successful completions in it.", &|s| {
            Some(s.achieved.0)
        }),
        metric("calibrate_step_output_tokens_per_second", "Output tokens of these.", &|s| {
            Some(s.output_tokens_per_second)
        }),
        metric("calibrate_step_requests", "Request attempts in it.", &|s| Some(s.attempts as f64)),
        metric("calibrate_step_failed_requests", "Of these, the failed ones.", &|s| {
            Some((s.attempts - s.succeeded) as f64)
        }),
        metric(
            "calibrate_step_goodput_ratio",
            "Requests within every latency limit over all attempts.",
            &|s| s.goodput,
        ),
        metric("calibrate_step_slo_holds", "1 if the SLO holds in the step.", &|s| {
            s.is_judged().then(|| f64::from(u8::from(s.holds())))
        }),
        Metric {
            name: "calibrate_step_latency_seconds",
            help: "Latency of successful requests, from the scheduled send time.",
            series: latencies(input),
        },
        metric("calibrate_step_queue_size_requests", "Mean queue size per replica.", &|s| {
            Some(s.queue?.mean)
        }),
        metric("calibrate_step_batch_size_requests", "Mean batch size per replica.", &|s| {
            Some(s.batch?.mean)
        }),
        metric("calibrate_step_gpu_utilization_ratio", "Mean GPU utilization per replica.", &|s| {
            Some(s.gpu?.mean / 100.0)
        }),
    ]
}

fn labels(step: &StepAnalysis) -> Vec<(&'static str, String)> {
    vec![("step", step.mark.index.to_string()), ("load", step.mark.load.to_string())]
}

fn latencies(input: &ReportInput) -> Vec<Series> {
    let mut latencies = Vec::new();
    for step in &input.analysis.steps {
        let all = [
            ("ttft", step.ttft),
            ("tpot", step.tpot),
            ("itl", step.itl),
            ("e2e", step.e2e),
            ("ntpot", step.ntpot),
        ];
        for (name, summary) in all {
            for (quantile, value) in summary.iter().flat_map(quantiles) {
                let own = [("latency", name.to_owned()), ("quantile", quantile.to_owned())];
                latencies.push((labels(step).into_iter().chain(own).collect(), value));
            }
        }
    }
    latencies
}

fn quantiles(summary: &LatencySummary) -> [(&'static str, f64); 4] {
    [("0.5", summary.p50.0), ("0.9", summary.p90.0), ("0.95", summary.p95.0), ("0.99", summary.p99.0)]
}

/// The value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
