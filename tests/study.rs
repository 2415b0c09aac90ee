//! Whole calibrations of simulated servers against known truth, and what must hold for every server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::analyze::server_model::{Known, Workload, capacity, play};
use calibrate::batching::ServerModel;
use calibrate::plan::{ArrivalTimes, Spacing, stream};
use calibrate::study::{Deployment, Family, built_in, calibrate, truth, variants};
use calibrate::units::{Load, Rate, Replicas, Seconds, Slo};
use rayon::prelude::*;

/// Requests that the truth is played with.
const PLAYED: usize = 150_000;

fn deployment(server: &str, family: Family) -> Deployment {
    let (_, deployment) = built_in().into_iter().find(|(name, _)| *name == server).unwrap();
    variants(&deployment).into_iter().find(|(other, _)| *other == family).unwrap().1
}

/// Error of one calibration as a share, and whether its interval holds the truth.
fn error(deployment: &Deployment, production: Replicas, seed: u64) -> (f64, calibrate::study::Calibration) {
    let truth = truth(deployment, production, PLAYED).unwrap();
    let found = calibrate(deployment, production, seed);
    let capacity = found.prediction.as_ref().expect("a capacity").capacity;
    (capacity.0 / truth.0 - 1.0, found)
}

#[test]
fn a_server_like_the_model_is_calibrated_within_a_percent_in_twelve_gpu_minutes() {
    let server = deployment("TPOT-bound", Family::Model);
    let (off, found) = error(&server, server.replicas, 11);
    assert!(off.abs() < 0.015, "{off}: {:?}", found.prediction.map(|p| p.uncertainty));
    assert!(found.gpu_minutes <= 12.0, "{}", found.gpu_minutes);
    assert!(found.gpu_minutes_verified <= 22.0, "{}", found.gpu_minutes_verified);
}

#[test]
fn what_two_replicas_show_tells_what_each_of_eight_carries() {
    let server = deployment("TPOT-bound", Family::Model);
    let two = truth(&server, Replicas(2), PLAYED).unwrap();
    let eight = truth(&server, Replicas(8), PLAYED).unwrap();
    assert!(eight.0 > two.0 * 1.03, "several share peaks: {two} and {eight}");
    let (off, _) = error(&server, Replicas(8), 12);
    assert!(off.abs() < 0.015, "{off}");
}

#[test]
fn a_server_that_becomes_slower_in_between_is_noticed_and_judged_as_it_is_last() {
    let server = deployment("TPOT-bound", Family::Drifting);
    let (off, found) = error(&server, server.replicas, 13);
    let prediction = found.prediction.unwrap();
    assert!(
        prediction.dispersion.iter().all(|step| (0.4..2.5).contains(&step.ratio)),
        "{:?}",
        prediction.dispersion
    );
    assert_eq!(prediction.drift.changes.len(), 1, "{:?}", prediction.drift);
    assert!((prediction.drift.changes[0].shift.0 - 0.001).abs() < 0.000_4, "{:?}", prediction.drift);
    assert!(off.abs() < 0.04, "{off}");
}

/// So many windows tell a standard deviation within 4 %.
const WINDOWS: u64 = 400;

/// Relative error of a mean batch over a window, in units of the load: sqrt((1 + CV^2) / (rate x length)),
/// times the elasticity for the batch itself.
#[test]
fn a_mean_batch_scatters_by_the_law_of_its_elasticity() {
    let server = deployment("TPOT-bound", Family::Model);
    let sizes: Vec<(u32, u32)> = vec![(392, 186); 10];
    let known = Known { declared_output: Some(512), ..Known::default() };
    let (rate, requests) = (1.5, 600.0);
    let batches: Vec<f64> = (0..WINDOWS)
        .into_par_iter()
        .map(|seed| {
            let length = Seconds(requests);
            let arrivals =
                ArrivalTimes::new(Load::Rate(Rate(1.0)), length, Spacing::Poisson, stream(seed, "window"));
            let arrivals: Vec<f64> = arrivals.map(|time| time.0).collect();
            let workload = Workload {
                sizes: vec![(392, 186); arrivals.len()],
                arrivals,
                declared_output: Some(512),
                warm_up: 0,
                replicas: Replicas(1),
            };
            play(&server.model, &workload, Rate(rate), &server.slos).batch
        })
        .collect();
    let n = WINDOWS as f64;
    let mean = batches.iter().sum::<f64>() / n;
    let error = (batches.iter().map(|b| (b / mean - 1.0).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let at = |rate: f64| {
        play(&server.model, &Workload::poisson(&sizes, 20_000, &known, 99), Rate(rate), &server.slos).batch
    };
    let elasticity = (at(rate * 1.05) / at(rate * 0.95)).ln() / (1.05_f64 / 0.95).ln();
    let law = elasticity / f64::sqrt(requests);
    assert!((error / law - 1.0).abs() < 0.15, "{error} for {law}");
}

fn small(slos: &[&str]) -> (ServerModel, Workload, Vec<Slo>) {
    let server = deployment("TPOT-bound", Family::Model);
    let sizes: Vec<(u32, u32)> = (0..500).map(|i| (50 + i % 300, 20 + (i * 7) % 150)).collect();
    let workload = Workload::poisson(&sizes, 3000, &Known::default(), 1);
    (server.model, workload, slos.iter().map(|slo| slo.parse().unwrap()).collect())
}

#[test]
fn a_tighter_limit_never_raises_the_capacity() {
    let mut last = 0.0;
    for limit in ["25ms", "30ms", "40ms", "60ms"] {
        let (model, workload, slos) = small(&["ttft:p95:2s", &format!("tpot:p95:{limit}")]);
        let found = capacity(&model, &workload, &slos, Rate(5.0), 64.0).unwrap();
        assert!(found.0 >= last, "{limit}: {found} after {last}");
        last = found.0;
    }
}

#[test]
fn a_server_twice_as_slow_carries_half_as_much_within_limits_twice_as_long() {
    let (model, workload, slos) = small(&["ttft:p95:2s", "tpot:p95:40ms"]);
    let found = capacity(&model, &workload, &slos, Rate(5.0), 64.0).unwrap();
    let twice = |time: Seconds| time * 2.0;
    let half_as_fast = ServerModel {
        prefill_base: twice(model.prefill_base),
        prefill_per_token: twice(model.prefill_per_token),
        decode_base: twice(model.decode_base),
        decode_per_sequence: twice(model.decode_per_sequence),
        overhead: twice(model.overhead),
        ..model
    };
    let (_, _, loose) = small(&["ttft:p95:4s", "tpot:p95:80ms"]);
    let half = capacity(&half_as_fast, &workload, &loose, Rate(2.5), 64.0).unwrap();
    assert!((half.0 * 2.0 / found.0 - 1.0).abs() < 0.002, "{half} for half of {found}");
}

#[test]
fn more_load_never_lowers_batch_or_violations() {
    let (model, workload, slos) = small(&["ttft:p95:2s", "tpot:p95:40ms"]);
    let played: Vec<_> =
        [1.0, 2.0, 4.0, 6.0, 8.0].map(|load| play(&model, &workload, Rate(load), &slos)).into();
    assert!(played.is_sorted_by(|a, b| a.batch <= b.batch && a.violations <= b.violations + 1e-9));
    // Little's law holds for what is counted; gauges do not show those that are being prefilled.
    assert!(played.iter().all(|p| p.batch + p.queue <= p.in_flight + 1e-9), "{played:?}");
}

/// Closed form of the half-saturation concurrency with the dispersion of in-flight requests, facts of a
/// birth-death server: Var / mean = 1 / (1 - rho).
#[test]
fn the_batch_follows_the_closed_form_of_the_model() {
    let server = deployment("TPOT-bound", Family::Model);
    let found = calibrate(&server, server.replicas, 14).prediction.unwrap();
    for share in [0.3, 0.5, 0.7] {
        let load = found.capacity.0 * share;
        let rho = load / found.asymptote.0;
        let closed = found.half_saturation * rho / (1.0 - rho);
        let played = found.curves.in_flight.as_ref().unwrap().at(Rate(load)).unwrap();
        assert!((played / closed - 1.0).abs() < 0.15, "{share}: {played} for {closed}");
    }
}
