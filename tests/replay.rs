//! A replay beside discrete events, over the traffic shapes and targets that it is meant for; and the program
//! `simulate` as a user runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a study shows its figures")]

use calibrate::batching::{Admission, Deviations, ServerModel};
use calibrate::hpa::{Range, Tolerances};
use calibrate::replay::{
    Autoscaler, Capacities, Conditions, Plant, Requests, Search, Traffic, World, held_out, of_model, optimize,
};
use calibrate::units::{Milli, Seconds, Signal};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal};
use rayon::prelude::*;
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const RANGE: Range = Range { min: 1, max: 16 };
const GOAL: f64 = 0.05;

/// A server whose requests take about eight seconds. `coarse` times as long per forward and as many tokens
/// fewer per request is the same load with less to compute.
fn server(coarse: f64) -> ServerModel {
    ServerModel {
        prefill_base: Seconds(0.020 * coarse.sqrt()),
        prefill_per_token: Seconds(0.000_15),
        decode_base: Seconds(0.018 * coarse),
        decode_per_sequence: Seconds(0.000_35 * coarse),
        overhead: Seconds(0.0002),
        token_budget: 50_000,
        max_prefill_tokens: 4096,
        max_concurrent_requests: 128,
        max_batch_size: None,
        admission: Admission::Chunking,
        prefill_per_sequence: None,
        decode_table: None,
        deviations: Deviations::default(),
    }
}

fn requests(coarse: f64) -> Requests {
    let lognormal = |mean: f64, spread: f64| {
        let variance = (1.0 + spread * spread).ln();
        LogNormal::new(mean.ln() - variance / 2.0, variance.sqrt()).unwrap()
    };
    let (input, output) = (lognormal(392.0, 0.75), lognormal(186.0 / coarse, 0.6));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let sizes = (0..3000).map(|_| {
        let input = input.sample(&mut rng).clamp(8.0, 3000.0) as u32;
        (input, output.sample(&mut rng).clamp(4.0, 512.0 / coarse) as u32)
    });
    let limit = 45.0 * coarse;
    Requests {
        sizes: sizes.collect(),
        declared_output: Some(512),
        slos: vec!["ttft:p95:2s".parse().unwrap(), format!("tpot:p95:{limit}ms").parse().unwrap()],
    }
}

/// A trace like that of a real service: a rate that wanders, arrivals that come in clumps.
fn trace(hours: f64) -> Traffic {
    let spec = format!("bursts:9,sd=0.3,memory=400s@{}m", (hours * 60.0).round());
    let rates = Traffic::of_shape(&spec.parse().unwrap()).unwrap().draw(11);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut offsets = Vec::new();
    for (second, arrivals) in rates.arrivals.iter().enumerate() {
        for _ in 0..*arrivals as usize {
            let clump = 1 + usize::from(rng.random::<f64>() < 0.25);
            offsets.extend(std::iter::repeat_n(Seconds(second as f64 + rng.random::<f64>()), clump));
        }
    }
    offsets.sort_by(|a, b| a.0.total_cmp(&b.0));
    Traffic::of_arrivals(&offsets, 1.0).unwrap().scaled(1.6).unwrap()
}

/// The five shapes, each so many hours long.
fn shapes(hours: f64) -> Vec<(&'static str, Traffic)> {
    let minutes = (hours * 60.0).round();
    let specs = [
        ("diurnal", format!("diurnal:8..36@{minutes}m")),
        ("ramp", format!("ramp:10..40..10@{minutes}m")),
        ("spike", format!("spike:12..30,24@{minutes}m")),
        ("bursts", format!("bursts:18@{minutes}m")),
    ];
    let shape =
        |(name, spec): (&'static str, String)| (name, Traffic::of_shape(&spec.parse().unwrap()).unwrap());
    specs.into_iter().map(shape).chain([("trace", trace(hours))]).collect()
}

const TARGETS: [(Signal, i64); 8] = [
    (Signal::Batch, 12_000),
    (Signal::Batch, 18_000),
    (Signal::Batch, 22_000),
    (Signal::Batch, 26_000),
    (Signal::Batch, 32_000),
    (Signal::Batch, 40_000),
    (Signal::Queue, 4_000),
    (Signal::Dcgm, 85_000),
];

fn world<'a>(plant: &'a Plant, capacities: &'a Capacities, traffic: &'a Traffic) -> World<'a> {
    World { plant, uncertainty: 0.01, capacities, traffic, conditions: Conditions::default() }
}

fn scaler((signal, milli): (Signal, i64)) -> Autoscaler {
    Autoscaler::average_value(signal, Milli(milli), RANGE, None, Tolerances::default())
}

/// Mean absolute errors of the violation share, in percent points, and of the cost, in percent.
fn cross_check(coarse: f64, hours: f64, seeds: u64) -> (f64, f64) {
    let (model, requests) = (server(coarse), requests(coarse));
    let plant = of_model(&model, &requests).unwrap();
    let capacities = Capacities::of(&plant, GOAL, RANGE);
    let shapes = shapes(hours);
    let cases: Vec<_> = shapes.iter().flat_map(|shape| TARGETS.map(|target| (shape, target))).collect();
    let compared: Vec<[f64; 4]> = cases
        .par_iter()
        .map(|((_, traffic), target)| {
            let mut mean = [0.0; 4];
            for seed in 1..=seeds {
                let draw = world(&plant, &capacities, traffic).plain(seed);
                let replayed = draw.play(&scaler(*target), |_| {});
                let discrete = draw.play_discrete(&scaler(*target), &model, &requests);
                let cost = |seconds: f64| seconds / draw.schedule().replica_seconds;
                let figures = [
                    replayed.violations() * 100.0,
                    discrete.violations() * 100.0,
                    cost(replayed.replica_seconds),
                    cost(discrete.replica_seconds),
                ];
                mean.iter_mut().zip(figures).for_each(|(mean, figure)| *mean += figure / seeds as f64);
            }
            mean
        })
        .collect();
    let mut table = String::new();
    for (((name, _), (signal, milli)), [v, v_des, c, c_des]) in cases.iter().zip(&compared) {
        let target = Milli(*milli).as_f64();
        writeln!(
            table,
            "{name:8} {:6}{target:5}: violations {v:6.2} {v_des:6.2} %, cost {c:.3} {c_des:.3}",
            signal.slug()
        )
        .unwrap();
    }
    let n = compared.len() as f64;
    let violations = compared.iter().map(|[a, b, ..]| (a - b).abs()).sum::<f64>() / n;
    let cost = compared.iter().map(|[.., a, b]| (a / b - 1.0).abs() * 100.0).sum::<f64>() / n;
    println!("{table}mean absolute error: violations {violations:.2} points, cost {cost:.2} %");
    (violations, cost)
}

/// Half an hour of each, and a coarse server: quick, so that chance weighs more than in the full check below.
#[test]
fn a_short_replay_comes_near_to_what_discrete_events_come_to() {
    let (violations, cost) = cross_check(8.0, 0.5, 1);
    assert!(violations <= 3.5 && cost <= 5.0, "{violations} points, {cost} %");
}

/// `cargo test --release --test replay -- --ignored --nocapture`
#[test]
#[ignore = "minutes of discrete events"]
fn a_replay_comes_to_what_discrete_events_come_to_over_hours() {
    let (violations, cost) = cross_check(1.0, 2.0, 2);
    assert!(violations <= 2.0 && cost <= 3.0, "{violations} points, {cost} %");
}

/// `cargo test --release --test replay -- --ignored --nocapture`
#[test]
#[ignore = "minutes of discrete events"]
fn the_best_batch_target_holds_on_every_shape_in_discrete_events_that_no_search_has_seen() {
    let (model, requests) = (server(1.0), requests(1.0));
    let plant = of_model(&model, &requests).unwrap();
    let capacities = Capacities::of(&plant, GOAL, RANGE);
    let mut costs = [0.0; 2];
    let shapes = shapes(4.0);
    for (name, traffic) in &shapes {
        let world = world(&plant, &capacities, traffic);
        for (tune, cost) in [false, true].into_iter().zip(&mut costs) {
            let search = Search {
                world,
                signal: Signal::Batch,
                range: RANGE,
                tolerance: 0.1,
                own_tolerance: true,
                tune,
                goal: GOAL,
                seeds: 20,
                targets: 40,
            };
            let best = optimize(&search, &|_| {}).best.unwrap();
            let scaler = search.candidate(best.target, best.tuning).scaler;
            let unseen: Vec<[f64; 2]> = (0..6)
                .into_par_iter()
                .map(|index| {
                    let draw = world.plain(held_out(index));
                    let outcome = draw.play_discrete(&scaler, &model, &requests);
                    [outcome.violations(), outcome.replica_seconds / draw.schedule().replica_seconds]
                })
                .collect();
            let mean = |which: usize| unseen.iter().map(|figures| figures[which]).sum::<f64>() / 6.0;
            println!(
                "{name:8} {} with {}: {:.2} %, cost {:.3}",
                best.target,
                best.tuning,
                mean(0) * 100.0,
                mean(1)
            );
            assert!(mean(0) <= GOAL + 0.01, "{name}: {}", mean(0));
            *cost += mean(1) / shapes.len() as f64;
        }
    }
    println!("mean cost: {:.3} with the default behavior, {:.3} tuned", costs[0], costs[1]);
    assert!(costs[0] <= 1.40 && costs[1] <= 1.30, "{costs:?}");
}

/// A copy of the sample run, which was made with the embedded simulated server.
fn sample() -> TempDir {
    let directory = TempDir::new().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample");
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    directory
}

fn simulate(run: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_calibrate"))
        .arg("simulate")
        .arg(run)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn simulate_plays_the_targets_of_a_run_and_leaves_its_files_and_a_section_of_the_report() {
    let run = sample();
    let arguments = [
        "--traffic",
        "ramp:5..30@10m",
        "--max-replicas",
        "6",
        "--seeds",
        "2",
        "--target",
        "batch=8",
        "--json",
    ];
    let (code, stdout, stderr) = simulate(run.path(), &arguments);
    assert_eq!(code, Some(0), "{stderr}");
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&document["format"], &document["version"]), (&"calibrate/simulation".into(), &1.into()));
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        names(&document),
        "format version traffic conditions min_replicas max_replicas replica goal candidates check optimum remarks run_directory"
    );
    assert_eq!(names(&document["traffic"]), "spec scale seconds mean_rate peak_rate");
    assert_eq!(names(&document["candidates"][0]), "name origin metrics holds score steady_load");
    assert_eq!(names(&document["candidates"][0]["metrics"][0]), "metric source target_type target");
    assert_eq!(names(&document["replica"]), "basis capacity_alone capacity_of_max_replicas uncertainty");
    let candidates = document["candidates"].as_array().unwrap();
    let origins: Vec<&str> =
        candidates.iter().map(|candidate| candidate["origin"].as_str().unwrap()).collect();
    assert_eq!(origins[0], "given");
    assert!(
        origins.contains(&"recommended by the run") && origins.contains(&"Google's advice"),
        "{origins:?}"
    );
    for candidate in candidates {
        let score = &candidate["score"];
        assert!((0.0..=1.0).contains(&score["violations"].as_f64().unwrap()), "{candidate}");
        assert!(score["gpu_hours"].as_f64().unwrap() > 0.1, "{candidate}");
    }
    let check = &document["check"]["violations"];
    let difference = check["replay"].as_f64().unwrap() - check["discrete"].as_f64().unwrap();
    assert!(difference.abs() < 0.1, "{check}");
    for file in ["simulation.json", "plots/replay-replicas.svg", "plots/replay-violations.svg"] {
        assert!(run.path().join(file).is_file(), "{file}");
    }
    let report = fs::read_to_string(run.path().join("report.html")).unwrap();
    assert!(report.contains("Under traffic") && report.contains("Replicas over time"));
    assert!(stderr.contains("batch=8") && stderr.contains("clairvoyant"), "{stderr}");
}

#[test]
fn the_optimum_is_written_as_an_hpa_that_plays_the_same() {
    let run = sample();
    let traffic = ["--traffic", "ramp:5..30@20m", "--max-replicas", "6", "--seeds", "2", "--json"];
    let optimize = ["--optimize", "--cluster-version", "1.35", "--goal", "20"];
    let score = |stdout: &str, origin: &str| -> Value {
        let document: Value = serde_json::from_str(stdout).unwrap();
        let candidates = document["candidates"].as_array().unwrap();
        let found = candidates.iter().find(|found| found["origin"].as_str().unwrap().starts_with(origin));
        found.unwrap_or_else(|| panic!("{origin}"))["score"].clone()
    };
    let (code, optimized, stderr) = simulate(run.path(), &[&traffic[..], &optimize].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let path = run.path().join("hpa-optimized.yaml");
    let written = fs::read_to_string(&path).unwrap();
    assert!(written.contains("maxReplicas: 6") && written.contains("the cheapest that keeps"), "{written}");
    let path = path.to_str().unwrap();
    let (code, again, stderr) =
        simulate(run.path(), &[&traffic[..], &["--hpa", path, "--goal", "20"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(score(&again, path), score(&optimized, "optimized"));
    assert!(!Path::new(path).exists(), "what the last simulation did not find does not outlive it");
}

#[test]
fn recommend_searches_under_traffic_with_the_lag_and_start_up_that_are_given_and_writes_nothing() {
    let run = sample();
    let before = fs::read(run.path().join("recommendation.json")).unwrap();
    let recommend = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_calibrate"))
            .args(["recommend", run.path().to_str().unwrap(), "--traffic", "ramp:5..30@20m", "--json"])
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), output.stdout)
    };
    let (code, stderr, stdout) = recommend(&["--lag", "10s", "--startup", "20s"]);
    assert_eq!(code, Some(0), "{stderr}");
    let document: Value = serde_json::from_slice(&stdout).unwrap();
    assert!(document["optimum"]["best"]["target"].is_number(), "{document}");
    assert!(stderr.contains("start-up 20.0 s") && stderr.contains("lag 10.0 s"), "{stderr}");
    assert!(!run.path().join("hpa-optimized.yaml").exists());
    assert_eq!(fs::read(run.path().join("recommendation.json")).unwrap(), before);
    let (code, stderr, _) = recommend(&["--growth", "0.2"]);
    assert!(code == Some(2) && stderr.contains("--growth"), "{stderr}");
    let (code, stderr, _) = recommend(&["--lag", "5s"]);
    assert!(code == Some(2) && stderr.contains("lag"), "{stderr}");
}

#[test]
fn simulate_refuses_what_it_cannot_play_and_says_what_would_be_right() {
    let run = sample();
    let rates = run.path().join("load.csv");
    fs::write(&rates, "time,rate\n0,5\n60,6\n60,7\n").unwrap();
    let empty = run.path().join("empty.csv");
    fs::write(&empty, "TIMESTAMP,ContextTokens,GeneratedTokens\n").unwrap();
    let by_file = |kind: &str, file: &Path| format!("{kind}:{}", file.display());
    for (arguments, says) in [
        (vec!["--traffic", "diurnl:8..36"], "did you mean diurnal:?"),
        (vec!["--traffic", "trace:nowhere.csv"], "cannot read the trace nowhere.csv"),
        (
            vec!["--traffic", &by_file("rates", &rates)],
            "row 3: the time 60 s is not after the one before it (60 s)",
        ),
        (vec!["--traffic", &by_file("trace", &empty)], "holds no requests"),
        (vec!["--traffic", "constant:5", "--scale", "0"], "--scale 0 is not from"),
        (vec!["--traffic", "constant:5", "--scale", "NaN"], "--scale NaN is not from"),
        (vec!["--traffic", "constant:5", "--target", "batch=-1"], "METRIC=VALUE, like batch=22"),
        (vec!["--traffic", "constant:5", "--target", "speed=3"], "queue, batch, duty-cycle or dcgm"),
        (vec!["--traffic", "constant:5", "--min-replicas", "3", "--max-replicas", "2"], "1 <= min <= max"),
        (vec!["--traffic", "constant:5", "--hpa", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (vec!["--traffic", "constant:5", "--cluster-version", "new"], "MAJOR.MINOR, like 1.35"),
        (vec!["--traffic", "constant:5", "--startup", "120"], "a number with a unit"),
        (vec![], "--traffic"),
    ] {
        let (code, _, stderr) = simulate(run.path(), &arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
    let (code, _, stderr) = simulate(Path::new("nowhere"), &["--traffic", "constant:5"]);
    assert!(code == Some(2) && stderr.contains("no run directory"), "{stderr}");
}
