//! `cargo bench --bench replay`: how fast a trace-hour is replayed, and how fast a search is.

#![allow(clippy::expect_used, reason = "a benchmark fails by panicking")]

use calibrate::hpa::{Range, Tolerances};
use calibrate::replay::{
    Autoscaler, Basis, Capacities, Conditions, Curves, Plant, Search, Traffic, World, optimize,
};
use calibrate::units::{Milli, Seconds, Signal};

const RANGE: Range = Range { min: 1, max: 16 };

fn main() {
    divan::main();
}

/// A server with K = 23 and at most 7 requests per second.
fn plant() -> Plant {
    let drain = (0..=54).map(|n| (f64::from(n), 7.0 * f64::from(n) / (23.0 + f64::from(n))));
    Plant::new(
        Basis::Model,
        &Curves {
            drain: drain.collect(),
            violations: vec![(0.0, 0.0), (30.0, 0.02), (40.0, 0.4), (50.0, 1.0)],
            batch: vec![(0.0, 0.0), (54.0, 54.0)],
            queue: vec![(54.0, 0.0), (128.0, 74.0)],
            gpu: Vec::new(),
            scatter: [vec![(0.0, 0.5)], vec![(0.0, 0.3)], Vec::new()],
            window: Seconds(8.0),
        },
        128.0,
    )
}

fn traffic(spec: &str) -> Traffic {
    spec.parse().ok().and_then(|spec| Traffic::of_shape(&spec)).expect("a shape")
}

/// One hour in steps of one second, on one core.
#[divan::bench]
fn a_trace_hour(bencher: divan::Bencher) {
    let (plant, traffic) = (plant(), traffic("diurnal:8..36@1h"));
    let capacities = Capacities::of(&plant, 0.05, RANGE);
    let conditions = Conditions::default();
    let world =
        World { plant: &plant, uncertainty: 0.01, capacities: &capacities, traffic: &traffic, conditions };
    let draw = world.draw(1);
    let scaler = Autoscaler::average_value(Signal::Batch, Milli(22_000), RANGE, None, Tolerances::default());
    bencher.bench_local(|| draw.play(&scaler, |_| {}));
}

/// Arrivals, noise and a clairvoyant's schedule of one hour.
#[divan::bench]
fn drawing_a_trace_hour(bencher: divan::Bencher) {
    let (plant, traffic) = (plant(), traffic("diurnal:8..36@1h"));
    let capacities = Capacities::of(&plant, 0.05, RANGE);
    let conditions = Conditions::default();
    let world =
        World { plant: &plant, uncertainty: 0.01, capacities: &capacities, traffic: &traffic, conditions };
    bencher.bench_local(|| world.draw(1));
}

/// 40 targets x 20 seeds x 2 hours, and the refinement around the best, on all cores.
#[divan::bench(sample_count = 10)]
fn a_search_of_40_targets_20_seeds_2_hours(bencher: divan::Bencher) {
    let (plant, traffic) = (plant(), traffic("ramp:10..40..10@2h"));
    let capacities = Capacities::of(&plant, 0.05, RANGE);
    let conditions = Conditions::default();
    let world =
        World { plant: &plant, uncertainty: 0.01, capacities: &capacities, traffic: &traffic, conditions };
    let search = Search {
        world,
        signal: Signal::Batch,
        range: RANGE,
        tolerance: 0.1,
        own_tolerance: false,
        tune: false,
        goal: 0.05,
        seeds: 20,
        targets: 40,
    };
    bencher.bench_local(|| optimize(&search, &|_| {}));
}
