//! The controller's decisions against Kubernetes' own cases and against recorded runs of a real controller.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::hpa::{
    Column, Evaluation, Flags, HpaSpec, Outcome, Quantity, Series, SeriesSettings, evaluate,
};
use calibrate::units::{Milli, Seconds};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

fn document(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The cases of a table, each with what it gives.
fn table(name: &str) -> Vec<(Value, Outcome)> {
    let document = document(&directory().join(name));
    let Evaluation::Cases(outcomes) = evaluate(&document).unwrap() else { panic!("{name} is a table") };
    let cases = document["cases"].as_array().unwrap();
    assert_eq!(cases.len(), outcomes.len());
    cases.iter().cloned().zip(outcomes).collect()
}

#[test]
fn the_replica_calculator_gives_what_every_case_expects() {
    let mut wrong = Vec::new();
    for (case, outcome) in table("hpa_cases.json") {
        let error = case["expectError"].as_str();
        let told = match (&outcome.error, error) {
            (Some(error), Some(expected)) => error.contains(expected),
            (error, expected) => error.is_none() == expected.is_none(),
        };
        let usage =
            [&case["expectedUsageMilli"], &case["modelUsageMilli"]].into_iter().find_map(Value::as_i64);
        let right = told
            && outcome.replicas.map(i64::from) == case["expectedReplicas"].as_i64()
            && usage.is_none_or(|usage| outcome.usage_milli == Some(usage))
            && outcome.reason.is_some() == error.is_none();
        if !right {
            wrong.push(format!("{outcome:?}\n  for {case}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_behavior_functions_give_what_every_case_expects() {
    let mut wrong = Vec::new();
    for (case, outcome) in table("hpa_behavior_cases.json") {
        let numbers = |value: &Value| {
            value.as_array().map(|list| list.iter().map(|n| n.as_i64().unwrap()).collect::<Vec<_>>())
        };
        let replicas = case.get("expectedLimit").or(case.get("expectedReplicas")).and_then(Value::as_i64);
        let log = numbers(&case["expectedRecommendationsAfter"]).or(numbers(&case["modelLogAfter"]));
        let remembered = outcome
            .recommendations_after
            .as_ref()
            .map(|log| log.iter().map(|n| i64::from(*n)).collect::<Vec<_>>());
        let events = serde_json::to_value(&outcome.events_after).unwrap();
        let reason = case["expectedReason"].as_str();
        let right = replicas == outcome.replicas.map(i64::from)
            && (log.is_none() || log == remembered)
            && case["expectedLogLength"]
                .as_u64()
                .is_none_or(|length| remembered.is_some_and(|log| log.len() as u64 == length))
            && (case["expectedEventsAfter"].is_null() || case["expectedEventsAfter"] == events)
            && case["changeWithinLast60s"].as_i64() == outcome.change_within_last_60s.map(i64::from)
            && reason.is_none_or(|reason| outcome.conditions.contains(&reason));
        if !right {
            wrong.push(format!("{outcome:?}\n  for {case}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_sync_of_every_recorded_run_is_decided_as_the_real_controller_did() {
    let mut wrong = Vec::new();
    let mut runs = 0;
    for entry in fs::read_dir(directory().join("controller_runs")).unwrap() {
        let run = document(&entry.unwrap().path());
        let Evaluation::Run(replay) = evaluate(&run).unwrap() else { panic!("{} is a run", run["name"]) };
        let recorded: Vec<i64> = run["syncs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|sync| sync["specReplicasAfter"].as_i64().unwrap())
            .collect();
        let decided: Vec<i64> =
            replay.spec_replicas_after.iter().map(|replicas| i64::from(*replicas)).collect();
        if recorded != decided {
            wrong.push(format!("{}\n  recorded {recorded:?}\n  decided  {decided:?}", replay.name));
        }
        runs += 1;
    }
    assert!(runs >= 58, "only {runs} runs were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A recorded run as a series: what its one External metric showed in each sync, 15 s apart.
fn series_of(run: &Value) -> Option<(HpaSpec, i32, Series, Vec<i64>)> {
    let [hpa] = run["hpa"].as_array()?.as_slice() else { return None };
    let [metric] = hpa["metrics"].as_array()?.as_slice() else { return None };
    let syncs = run["syncs"].as_array()?;
    let external = metric["type"] == "External" && metric["external"]["target"]["type"] == "AverageValue";
    let answered = syncs.iter().all(|sync| sync["status"] == 200);
    // Manual changes, restarts, unready pods and edits of the HPA are in no series.
    let told = ["edge-", "x-", "kcm-", "unready-", "zero-", "emu"];
    let name = run["name"].as_str()?;
    if !external || !answered || told.iter().any(|told| name.starts_with(told)) {
        return None;
    }
    let value = |sync: &Value| -> Option<Milli> {
        let values = sync["values"].as_array()?.iter();
        let milli = values.map(|value| value.as_str()?.parse::<Quantity>().ok().map(|q| q.milli().0));
        milli.sum::<Option<i64>>().map(Milli)
    };
    let cells = syncs.iter().map(value).collect();
    let series = Series {
        times: (0..syncs.len()).map(|index| Seconds(15.0 * index as f64)).collect(),
        columns: vec![Column { metric: 0, total: true, cells }],
    };
    let recorded = syncs.iter().map(|sync| sync["specReplicasAfter"].as_i64().unwrap()).collect();
    let start = i32::try_from(run["startReplicas"].as_i64()?).ok()?;
    Some((serde_json::from_value(hpa.clone()).ok()?, start, series, recorded))
}

#[test]
fn a_recorded_metric_played_as_a_series_gives_what_the_real_controller_did() {
    let mut played = 0;
    for entry in fs::read_dir(directory().join("controller_runs")).unwrap() {
        let run = document(&entry.unwrap().path());
        let Some((spec, replicas, series, recorded)) = series_of(&run) else { continue };
        let (period, look_back) = (Seconds(15.0), Seconds(300.0));
        let settings = SeriesSettings {
            replicas,
            period,
            first_sync: Seconds::ZERO,
            look_back,
            flags: Flags::default(),
        };
        let syncs = series.replay(&spec, settings).unwrap().syncs;
        let decided: Vec<i64> = syncs.iter().map(|sync| i64::from(sync.synced.decision.replicas)).collect();
        assert_eq!(decided, recorded, "{}", run["name"]);
        played += 1;
    }
    assert!(played >= 10, "only {played} runs are series");
}

/// A pod of a generated case: its phase, whether it is being deleted, its sample in milli-units.
type GeneratedPod = (&'static str, bool, Option<i64>);

fn pods() -> impl Strategy<Value = Vec<GeneratedPod>> {
    let phase =
        prop_oneof![6 => Just("Running"), 2 => Just("Pending"), 1 => Just("Failed"), 1 => Just("Succeeded")];
    let sample = prop_oneof![4 => (0_i64..60_000).prop_map(Some), 1 => Just(None)];
    prop::collection::vec((phase, prop::bool::weighted(0.1), sample), 1..12)
}

/// Whether nothing happens at a tolerance of 0.1: in integers, as an oracle for the binary64 test.
fn naively_in_band(average: i64, target: i64) -> bool {
    9 * target <= 10 * average && 10 * average <= 11 * target
}

/// The Pods decision as one would first write it down: lists of values, built anew for every step.
fn naive(pods: &[GeneratedPod], current: i64, target: i64) -> Option<(i64, i64)> {
    let alive: Vec<&GeneratedPod> = pods.iter().filter(|pod| !pod.1 && pod.0 != "Failed").collect();
    let started: Vec<Option<i64>> = alive.iter().filter(|pod| pod.0 != "Pending").map(|pod| pod.2).collect();
    let pending = alive.len() - started.len();
    let known: Vec<i64> = started.iter().flatten().copied().collect();
    let missing = started.len() - known.len();
    if known.is_empty() {
        return None;
    }
    let mean = |values: &[i64]| values.iter().sum::<i64>() / i64::try_from(values.len()).unwrap();
    let scaled = |average: i64, n: usize| (average as f64 / target as f64 * n as f64).ceil() as i64;
    let usage = mean(&known);
    let up = usage > target;
    if missing == 0 && !(up && pending > 0) {
        let replicas = if naively_in_band(usage, target) { current } else { scaled(usage, known.len()) };
        return Some((replicas, usage));
    }
    let mut all = known;
    if up {
        all.extend(vec![0; missing + pending]);
    } else if usage < target {
        all.extend(vec![target; missing]);
    }
    let average = mean(&all);
    let turned = (up && average < target) || (usage < target && average > target);
    let replicas = scaled(average, all.len());
    let against = (average < target && replicas > current) || (average > target && replicas < current);
    let hold = naively_in_band(average, target) || turned || against;
    Some((if hold { current } else { replicas }, usage))
}

fn decide(case: &Value) -> Outcome {
    let Evaluation::Cases(mut outcomes) = evaluate(case).unwrap() else { panic!("{case} is a case") };
    outcomes.remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_pods_decision_agrees_with_a_naive_one(pods in pods(), current in 1_i64..15, target in 1_i64..40_000) {
        let outcome = decide(&json!({
            "name": "generated", "kind": "Pods/AverageValue", "currentReplicas": current, "targetMilli": target,
            "podCount": pods.len(),
            "podPhase": pods.iter().map(|pod| pod.0).collect::<Vec<_>>(),
            "podDeleted": pods.iter().map(|pod| pod.1).collect::<Vec<_>>(),
            "metricLevelsMilli": pods.iter().map(|pod| pod.2).collect::<Vec<_>>(),
        }));
        let expected = naive(&pods, current, target);
        prop_assert_eq!(outcome.replicas.map(i64::from), expected.map(|(replicas, _)| replicas));
        prop_assert_eq!(outcome.usage_milli, expected.map(|(_, usage)| usage));
        prop_assert_eq!(outcome.error.is_some(), expected.is_none());
    }

    #[test]
    fn the_external_decision_is_the_sum_over_the_target_rounded_up(
        series in prop::collection::vec(0_i64..200_000, 1..5), replicas in 1_i64..15, target in 1_i64..100_000,
    ) {
        let outcome = decide(&json!({
            "name": "generated", "kind": "External/AverageValue", "currentReplicas": replicas,
            "targetMilli": target, "metricLevelsMilli": series,
        }));
        let sum: i64 = series.iter().sum();
        let hold = naively_in_band(sum, target * replicas);
        let expected = if hold { replicas } else { (sum + target - 1) / target };
        prop_assert_eq!(outcome.replicas.map(i64::from), Some(expected));
        prop_assert_eq!(outcome.usage_milli, Some((sum + replicas - 1) / replicas));
    }
}

#[test]
fn a_case_about_a_limit_presses_against_that_limit() {
    let pressed = |test: &str, min: i64| {
        decide(&json!({
            "function": "controller", "test": test, "minReplicas": min, "maxReplicas": 5, "specReplicas": 3,
            "recommendations": [],
        }))
    };
    assert_eq!(pressed("TestMaxReplicas", 2).replicas, Some(5));
    let lower = pressed("TestMinReplicas", 2);
    assert_eq!((lower.replicas, lower.conditions.last()), (Some(2), Some(&"TooFewReplicas")));
    assert!(
        lower.reason.unwrap().starts_with("no proposal is given, so the metrics of a case about the minimum")
    );
}

#[test]
fn what_is_no_case_is_refused_with_a_reason() {
    for document in [json!({}), json!(3), json!({ "hello": [1] }), json!({ "syncs": 1 })] {
        assert!(evaluate(&document).is_err(), "{document}");
    }
    let outcome = decide(&json!({ "name": "odd", "kind": "Pods/Nothing" }));
    assert_eq!((outcome.name.as_str(), outcome.replicas), ("odd", None));
    assert!(outcome.error.unwrap().contains("Pods/Nothing"));
}

#[test]
fn a_case_is_printed_with_null_for_what_does_not_apply() {
    let outcome = decide(&json!({
        "name": "hold", "kind": "Pods/AverageValue", "currentReplicas": 1, "targetMilli": 10_000,
        "metricLevelsMilli": [10_800],
    }));
    let printed = serde_json::to_value(outcome).unwrap();
    assert_eq!(printed["replicas"], 1);
    assert_eq!(printed["error"], Value::Null);
    let reason = printed["reason"].as_str().unwrap();
    assert!(reason.ends_with("ratio 1.08 is inside 1 +/- 0.1: no change, 1"), "{reason}");
    assert_eq!(printed.as_object().unwrap().len(), 5);
}
