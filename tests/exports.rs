//! What is written for other programs, from the sample run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::analyze::{Measured, analyze_clients};
use calibrate::observe::exposition;
use calibrate::recommend::{Assumptions, LagOrigin, recommend};
use calibrate::record::read;
use calibrate::report::{LoadFacts, ReportInput, RunFacts, TokenCount, render};
use calibrate::units::{Replicas, Seconds};
use std::path::Path;

fn facts(server: String) -> RunFacts {
    let tokens = TokenCount { distribution: "other", mean: 128.0, deviation: None, bounds: None };
    let load = LoadFacts {
        server_kind: "tgi".to_owned(),
        input: tokens,
        output: tokens,
        sampled: false,
        shared_prefix: 0,
        length: Seconds(150.0),
    };
    RunFacts {
        run_id: "a \"run\"".to_owned(),
        tool_version: "0.1.0".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        state: "complete".to_owned(),
        reason: None,
        target: String::new(),
        server,
        simulated: true,
        scenario_yaml: String::new(),
        command: String::new(),
        remarks: Vec::new(),
        load,
    }
}

#[test]
fn the_prometheus_textfile_is_read_back_as_the_figures_that_it_was_made_from() {
    let run = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample")).unwrap();
    let measured = Measured {
        requests: &run.requests,
        samples: &run.samples,
        events: &run.events,
        gaps: &run.gaps,
        replicas: Replicas(1),
    };
    // A limit that the steps of the run enclose.
    let analysis = analyze_clients(&measured, &["tpot:p95:30ms".parse().unwrap()]);
    let capacity = analysis.capacity.as_ref().unwrap();
    let assumptions = Assumptions {
        tolerance: 0.1,
        lag: Seconds(30.0),
        lag_origin: LagOrigin::Assumed,
        startup: Seconds(120.0),
        startup_origin: LagOrigin::Assumed,
        growth: 0.1,
    };
    let recommendation = recommend(&analysis, capacity, assumptions);
    let facts = facts(run.info.server());
    let input = ReportInput {
        analysis: &analysis,
        recommendation: Some(&recommendation),
        facts: &facts,
        manifests: &[],
        simulation: None,
        plan: None,
    };
    let files = render(&input).unwrap();
    let text = &files.iter().find(|file| file.path == "calibrate.prom").unwrap().contents;
    let found = exposition::parse(text).unwrap();
    assert_eq!(found.value("calibrate_capacity_requests_per_second"), Some(capacity.per_replica.0));
    assert_eq!(found.value("calibrate_run_start_timestamp_seconds"), Some(1_767_225_600.0));
    assert_eq!(found.all("calibrate_run_info").next().unwrap().label("run"), Some("a \"run\""));
    for target in &recommendation.targets {
        let read = found.labelled("calibrate_target_average_value", "metric", target.signal.slug());
        assert_eq!(read, target.average_value.as_ref().ok().map(|milli| milli.as_f64()));
    }
    let steps = &analysis.steps;
    assert_eq!(found.all("calibrate_step_requests").count(), steps.len());
    let p95 = found.all("calibrate_step_latency_seconds").find(|point| {
        let is = |name, value| point.label(name) == Some(value);
        is("step", "0") && is("latency", "ttft") && is("quantile", "0.95")
    });
    assert_eq!(p95.unwrap().value, steps[0].ttft.unwrap().p95.0);
}
