//! The controller against a second implementation, written down from the rules as naively as can be: integers of
//! milli-units and seconds, one list of all that was asked for and one of all changes, looked through in every sync.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::hpa::{
    Controller, Flags, Generation, HpaSpec, Phase, Pod, Reading, Source, Target, Tolerances, Workload,
    propose,
};
use calibrate::units::{Milli, Seconds};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::cmp::Ordering;

/// Everything that ever happened to an HPA.
#[derive(Default)]
struct Naive {
    /// When, and what the metrics asked for.
    asked: Vec<(i64, i64)>,
    /// When, and by how much replicas were changed.
    changed: Vec<(i64, i64)>,
    /// Whether it was the controller that took the last replica away, and so may bring one back.
    slept: bool,
}

/// One direction of `behavior`, complete.
struct NaiveRules {
    window: i64,
    select: String,
    policies: Vec<(String, i64, i64)>,
}

fn naive_rules(behavior: &Value, direction: &str) -> NaiveRules {
    let given = &behavior[direction];
    let defaults = if direction == "scaleUp" {
        json!([["Pods", 4, 15], ["Percent", 100, 15]])
    } else {
        json!([["Percent", 100, 15]])
    };
    let policies = match given["policies"].as_array() {
        Some(list) => list.iter().map(|p| json!([p["type"], p["value"], p["periodSeconds"]])).collect(),
        None => defaults.as_array().unwrap().clone(),
    };
    NaiveRules {
        window: given["stabilizationWindowSeconds"].as_i64().unwrap_or(if direction == "scaleUp" {
            0
        } else {
            300
        }),
        select: given["selectPolicy"].as_str().unwrap_or("Max").to_owned(),
        policies: policies
            .iter()
            .map(|p| (p[0].as_str().unwrap().to_owned(), p[1].as_i64().unwrap(), p[2].as_i64().unwrap()))
            .collect(),
    }
}

/// The sum of one direction's changes that are younger than a period.
fn naive_change(changed: &[(i64, i64)], now: i64, period: i64, up: bool) -> i64 {
    let young = changed.iter().filter(|(at, change)| now - at < period && (*change > 0) == up);
    young.map(|(_, change)| change.abs()).sum()
}

/// How far one direction may go. The policies count from where the replicas were when their period began.
fn naive_limit(naive: &Naive, rules: &NaiveRules, now: i64, current: i64, up: bool) -> i64 {
    if rules.select == "Disabled" {
        return current;
    }
    let mut limits = Vec::new();
    for (kind, value, period) in &rules.policies {
        let added = naive_change(&naive.changed, now, *period, true);
        let removed = naive_change(&naive.changed, now, *period, false);
        let start = current - added + removed;
        limits.push(match (kind.as_str(), up) {
            ("Pods", true) => start + value,
            ("Pods", false) => start - value,
            (_, true) => (start as f64 * (1.0 + *value as f64 / 100.0)).ceil() as i64,
            (_, false) => (start as f64 * (1.0 - *value as f64 / 100.0)).trunc() as i64,
        });
    }
    let largest_change = rules.select == "Max";
    if up == largest_change { *limits.iter().max().unwrap() } else { *limits.iter().min().unwrap() }
}

/// One sync: what the replicas become. `proposals` are those of the metrics; `None` is one that failed.
fn naive_sync(naive: &mut Naive, now: i64, current: i64, hpa: &Value, proposals: &[Option<i64>]) -> i64 {
    let (min, max) = (hpa["minReplicas"].as_i64().unwrap_or(1), hpa["maxReplicas"].as_i64().unwrap());
    if naive.asked.is_empty() {
        naive.asked.push((now, current));
    }
    let after = if current == 0 && !naive.slept {
        0
    } else if current > max {
        max
    } else if current < min {
        min
    } else {
        naive_metrics(naive, now, current, hpa, proposals, (min, max))
    };
    if after != current {
        naive.slept = after == 0 && min == 0;
    }
    if after != current && !hpa["behavior"].is_null() {
        naive_remember(naive, now, after - current, &hpa["behavior"]);
    }
    after
}

/// A change takes the place of the last one of its direction that is older than all periods of that direction,
/// although the policies of the other direction may still look for it.
fn naive_remember(naive: &mut Naive, now: i64, change: i64, behavior: &Value) {
    let rules = naive_rules(behavior, if change > 0 { "scaleUp" } else { "scaleDown" });
    let longest = rules.policies.iter().map(|policy| policy.2).max().unwrap();
    let old = |past: &(i64, i64)| (past.1 > 0) == (change > 0) && now - past.0 > longest;
    if let Some(place) = naive.changed.iter().rposition(old) {
        naive.changed[place] = (now, change);
    } else {
        naive.changed.push((now, change));
    }
}

fn naive_metrics(
    naive: &mut Naive,
    now: i64,
    current: i64,
    hpa: &Value,
    proposals: &[Option<i64>],
    (min, max): (i64, i64),
) -> i64 {
    let largest = proposals.iter().flatten().max().copied();
    let failed = proposals.iter().any(Option::is_none);
    let Some(largest) = largest.filter(|largest| !(failed && *largest < current)) else { return current };
    let wanted = largest.max(0);
    let past = naive.asked.clone();
    naive.asked.push((now, wanted));
    let behavior = &hpa["behavior"];
    if behavior.is_null() {
        let recent = past.iter().filter(|(at, _)| now - at <= 300).map(|(_, asked)| *asked);
        let stable = recent.chain([wanted]).max().unwrap();
        let most = (2 * current).max(4).min(max);
        return if stable < min { min } else { stable.min(most) };
    }
    let (up, down) = (naive_rules(behavior, "scaleUp"), naive_rules(behavior, "scaleDown"));
    let within = |window: i64| past.iter().filter(move |(at, _)| now - at < window).map(|(_, asked)| *asked);
    let lowest = within(up.window).chain([wanted]).min().unwrap();
    let highest = within(down.window).chain([wanted]).max().unwrap();
    let mut stable = current;
    if stable < lowest {
        stable = lowest;
    }
    if stable > highest {
        stable = highest;
    }
    match stable.cmp(&current) {
        Ordering::Greater => stable.min(naive_limit(naive, &up, now, current, true).max(current).min(max)),
        Ordering::Less => stable.max(naive_limit(naive, &down, now, current, false).min(current).max(min)),
        Ordering::Equal => stable,
    }
}

/// External, per replica: an exact band at a tolerance of 0.1 in integers, then the sum over the target.
fn naive_external(sum: i64, target: i64, replicas: i64) -> i64 {
    let all = target * replicas;
    if 9 * all <= 10 * sum && 10 * sum <= 11 * all { replicas } else { (sum + target - 1) / target }
}

fn rules() -> impl Strategy<Value = Value> {
    let policy = (prop::bool::ANY, 1_i64..120, prop::sample::select(vec![15_i64, 30, 60, 180])).prop_map(
        |(pods, value, period)| {
            let (kind, value) = if pods { ("Pods", value % 6 + 1) } else { ("Percent", value) };
            json!({ "type": kind, "value": value, "periodSeconds": period })
        },
    );
    let policies = prop::option::of(prop::collection::vec(policy, 1..3));
    let select = prop::option::weighted(0.6, prop::sample::select(vec!["Max", "Min", "Disabled"]));
    let window = prop::option::of(prop::sample::select(vec![0_i64, 15, 30, 60, 300]));
    (policies, select, window).prop_map(|(policies, select, window)| {
        let mut rules = json!({});
        if let Some(policies) = policies {
            rules["policies"] = policies.into();
        }
        if let Some(select) = select {
            rules["selectPolicy"] = select.into();
        }
        if let Some(window) = window {
            rules["stabilizationWindowSeconds"] = window.into();
        }
        rules
    })
}

fn behavior() -> impl Strategy<Value = Value> {
    let both = (prop::option::of(rules()), prop::option::of(rules())).prop_map(|(up, down)| {
        let mut behavior = json!({});
        if let Some(up) = up {
            behavior["scaleUp"] = up;
        }
        if let Some(down) = down {
            behavior["scaleDown"] = down;
        }
        behavior
    });
    prop_oneof![1 => Just(Value::Null), 3 => both]
}

/// An HPA with two External metrics.
fn hpa() -> impl Strategy<Value = (Value, [i64; 2])> {
    (0_i64..4, 1_i64..30, behavior(), 1_i64..40_000, 1_i64..40_000).prop_map(
        |(min, more, behavior, first, second)| {
            let metric = |name: &str, target: i64| {
                let target = json!({ "type": "AverageValue", "averageValue": format!("{target}m") });
                json!({ "type": "External", "external": { "metric": { "name": name }, "target": target } })
            };
            let metrics = [metric("a", first), metric("b", second)];
            let mut hpa = json!({ "minReplicas": min, "maxReplicas": min + more, "metrics": metrics });
            if !behavior.is_null() {
                hpa["behavior"] = behavior;
            }
            (hpa, [first, second])
        },
    )
}

/// What two metrics show, sync by sync: sums in milli-units, or nothing.
fn load() -> impl Strategy<Value = Vec<[Option<i64>; 2]>> {
    let value = || prop_oneof![1 => Just(None), 2 => Just(Some(0)), 8 => (0_i64..400_000).prop_map(Some)];
    prop::collection::vec((value(), value()).prop_map(|(a, b)| [a, b]), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn every_sync_of_a_whole_life_agrees_with_the_naive_controller(
        (hpa, targets) in hpa(), load in load(), start in 0_i32..40,
    ) {
        let spec: HpaSpec = serde_json::from_value(hpa.clone()).unwrap();
        let mut controller = Controller::default();
        let mut naive = Naive::default();
        let mut replicas = start;
        for (sync, values) in (0_i64..).zip(&load) {
            let now = sync * 15;
            let workload = Workload { spec_replicas: replicas, status_replicas: replicas, pods: Vec::new() };
            let readings: Vec<Result<Reading, String>> = values
                .iter()
                .map(|value| {
                    let samples = vec![Some(Milli(value.ok_or("failed")?))];
                    Ok(Reading { samples, workload: workload.clone() })
                })
                .collect();
            let proposals: Vec<Option<i64>> = values
                .iter()
                .zip(targets)
                .map(|(value, target)| value.map(|value| naive_external(value, target, i64::from(replicas))))
                .collect();
            let decided = controller.sync_metrics(
                Seconds(now as f64), replicas, &spec, Flags::default(), &readings,
            );
            let expected = naive_sync(&mut naive, now, i64::from(replicas), &hpa, &proposals);
            prop_assert_eq!(i64::from(decided.decision.replicas), expected, "sync {} of {}: {:?}", sync, hpa, decided);
            replicas = decided.decision.replicas;
        }
    }

    /// A Value target: the ratio of the sum, times the pods that run and are ready.
    #[test]
    fn a_value_target_agrees_with_a_naive_one(
        series in prop::collection::vec(-50_000_i64..200_000, 1..5), target in 1_i64..100_000, current in 0_i32..12,
        pods in prop::collection::vec((prop::bool::ANY, prop::bool::ANY), 1..12), object in prop::bool::ANY,
    ) {
        let pod = |(running, ready): &(bool, bool)| Pod {
            phase: if *running { Phase::Running } else { Phase::Pending }, ready: *ready, deleted: false,
        };
        let workload = Workload { spec_replicas: current, status_replicas: 3, pods: pods.iter().map(pod).collect() };
        let samples: Vec<Option<Milli>> = series.iter().map(|value| Some(Milli(*value))).collect();
        let source = if object { Source::Object } else { Source::External };
        let got = propose(source, Target::Value(Milli(target)), &workload, &samples, Tolerances::default()).unwrap();
        let sum: i64 = series.iter().sum();
        let ready = pods.iter().filter(|pod| **pod == (true, true)).count();
        let ratio = sum as f64 / target as f64;
        let expected = if current == 0 {
            ratio.ceil() as i32
        } else if 9 * target <= 10 * sum && 10 * sum <= 11 * target {
            current
        } else {
            (ratio * ready as f64).ceil() as i32
        };
        prop_assert_eq!((got.replicas, got.usage), (expected, Milli(sum)));
    }

    /// The two generations differ at exactly 1.1 and nowhere else, where tolerances are 0.1.
    #[test]
    fn the_generations_differ_only_at_the_upper_edge(average in 1_i64..200_000, target in 1_i64..100_000, edge in prop::bool::ANY) {
        let (average, target) = if edge { (target * 11, target * 10) } else { (average, target) };
        let ratio = average as f64 / target as f64;
        let [new, old] = [Generation::Inclusive, Generation::Absolute].map(|g| Tolerances::both(0.1, g).hold(ratio));
        prop_assert_eq!(new, 9 * target <= 10 * average && 10 * average <= 11 * target);
        prop_assert_eq!(new != old, 10 * average == 11 * target, "{}", ratio);
    }
}
