//! Truths with known answers: what the closed loop must do with plants that can be computed by hand.

use super::closed_loop::{Servers, Setting, Tick, play};
use super::fluid::Fluid;
use super::traffic::Path;
use super::*;
use crate::analyze::{Curve, Origin, Surface};
use crate::hpa::{BehaviorSpec, Generation, Range, RulesSpec, Source, Target, Tolerances, Workload, propose};
use crate::units::{Milli, Rate, Replicas, Seconds, Signal};

/// Servers whose gauge is a function of the load on each.
struct Formula<F> {
    load: f64,
    serving: usize,
    gauge: F,
}

impl<F: Fn(f64) -> f64> Servers for Formula<F> {
    fn add(&mut self) {
        self.serving += 1;
    }
    fn drain(&mut self, youngest: usize) {
        self.serving -= youngest;
    }
    fn step(&mut self, _second: usize, _arrivals: f64, _noise: f64) {}
    fn gauges(&mut self, _signal: Signal, gauges: &mut Vec<Option<f64>>) {
        let shown = (self.gauge)(self.load / self.serving as f64);
        gauges.extend(std::iter::repeat_n(Some(shown), self.serving));
    }
    fn draining(&self) -> usize {
        0
    }
    fn in_flight(&self) -> f64 {
        0.0
    }
    fn violations(self) -> Vec<f32> {
        Vec::new()
    }
}

fn scaler(
    signal: Signal,
    source: Source,
    target: f64,
    max: i32,
    behavior: Option<&BehaviorSpec>,
) -> Autoscaler {
    let target = Milli::floor(target).unwrap();
    let range = Range { min: 1, max };
    let mut scaler = Autoscaler::average_value(signal, target, range, behavior, Tolerances::default());
    scaler.metrics[0].source = source;
    scaler
}

/// Replicas that are wanted, second by second, where starts take exactly two minutes.
fn wanted(
    gauge: impl Fn(f64) -> f64,
    load: f64,
    replicas: usize,
    scaler: &Autoscaler,
    seconds: usize,
) -> Vec<i32> {
    let path = Path { rates: vec![load; seconds], arrivals: vec![load; seconds], noise: vec![0.0; seconds] };
    let start_up = StartUp { spread: 0.0, ..StartUp::default() };
    let conditions = Conditions { start_up, ..Conditions::default() };
    let setting = Setting { path: &path, scaler, conditions: &conditions, replicas, seed: 1 };
    let mut wanted = Vec::new();
    play(Formula { load, serving: replicas, gauge }, &setting, |tick: Tick| wanted.push(tick.wanted));
    wanted
}

fn changes(wanted: &[i32]) -> Vec<(usize, i32)> {
    let pairs = wanted.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]);
    pairs.map(|(second, pair)| (second + 1, pair[1])).collect()
}

fn at_once() -> BehaviorSpec {
    let down = RulesSpec { stabilization_window_seconds: Some(0), ..RulesSpec::default() };
    BehaviorSpec { scale_up: None, scale_down: Some(down) }
}

#[test]
fn a_replica_that_is_gone_stays_in_an_external_sum_for_five_minutes() {
    let behavior = at_once();
    let second_drop = |source| {
        let scaler = scaler(Signal::Batch, source, 20.0, 5, Some(&behavior));
        let changes = changes(&wanted(|_| 10.0, 1.0, 3, &scaler, 1200));
        assert_eq!(changes.iter().map(|change| change.1).collect::<Vec<_>>(), [2, 1], "{source:?}");
        changes[1].0 - changes[0].0
    };
    assert!(second_drop(Source::Pods) <= 60);
    assert!((300..=360).contains(&second_drop(Source::External)), "{}", second_drop(Source::External));
}

#[test]
fn the_target_of_a_gpu_metric_is_for_all_gpus_of_a_replica() {
    let path = Path { rates: vec![1.0; 600], arrivals: vec![1.0; 600], noise: vec![0.0; 600] };
    let conditions = Conditions { gpus_per_replica: 4, ..Conditions::default() };
    for (target, expected) in [(4.0 * 80.0, 2), (80.0, 8)] {
        let scaler = scaler(Signal::Dcgm, Source::External, target, 8, None);
        let setting = Setting { path: &path, scaler: &scaler, conditions: &conditions, replicas: 2, seed: 1 };
        let mut last = 0;
        play(Formula { load: 1.0, serving: 2, gauge: |_| 80.0 }, &setting, |tick| last = tick.wanted);
        assert_eq!(last, expected, "four GPUs at 80 % on two replicas sum to 640");
    }
}

#[test]
fn seventy_percent_on_one_replica_and_fifty_five_on_two_go_to_two_and_stay() {
    let scaler = scaler(Signal::Batch, Source::Pods, 60.0, 10, None);
    let gauge = |load: f64| if load > 0.75 { 70.0 } else { 55.0 };
    assert_eq!(
        changes(&wanted(gauge, 1.0, 1, &scaler, 4 * 3600)).iter().map(|c| c.1).collect::<Vec<_>>(),
        [2]
    );
}

/// What an External metric of `sum` proposes for `n` replicas and a target of 1.
fn proposed(sum: f64, n: i32) -> i32 {
    let workload = Workload { spec_replicas: n, status_replicas: n, pods: Vec::new() };
    let samples = [Some(Milli((sum * 1e6) as i64))];
    let tolerances = Tolerances::both(0.1, Generation::Inclusive);
    propose(Source::External, Target::AverageValue(Milli(1_000_000)), &workload, &samples, tolerances)
        .unwrap()
        .replicas
}

#[test]
fn replicas_flap_for_some_load_exactly_where_the_inequality_says() {
    for (elasticity, most) in [(1.0, 1), (1.5, 5), (2.0, 10), (3.0, 15), (5.0, 25)] {
        for n in 2..=30 {
            let sum = |load: f64, n: i32| f64::from(n) * (load / f64::from(n)).powf(elasticity);
            let flaps = (1..4000)
                .map(|i| f64::from(i) / 4000.0 * f64::from(n) * 1.2)
                .any(|load| proposed(sum(load, n), n) < n && proposed(sum(load, n - 1), n - 1) >= n);
            let ratio = f64::from(n - 1) / f64::from(n);
            let inequality = ratio.min(0.9) * ratio.recip().powf(elasticity) > 1.1;
            assert_eq!(flaps, inequality, "elasticity {elasticity}, {n} replicas");
            assert_eq!(inequality, n <= most, "elasticity {elasticity}, {n} replicas");
        }
    }
}

#[test]
fn around_the_fixed_point_a_deviation_is_multiplied_by_one_minus_the_elasticity() {
    for elasticity in [0.5, 1.0, 1.5, 3.0] {
        let next = |n: f64| n * (1000.0 / n).powf(elasticity);
        let (off, after) = (1010.0 - 1000.0, next(1010.0) - 1000.0);
        assert!((after / off - (1.0 - elasticity)).abs() < 0.05, "{elasticity}: {after}");
        // The controller does the same, rounded up, where tolerance does not hold it.
        assert_eq!(proposed(next(1300.0), 1300), next(1300.0).ceil() as i32);
    }
}

#[test]
fn a_target_that_the_capped_metric_cannot_exceed_by_the_tolerance_never_scales_up() {
    let up = |target: f64| {
        changes(&wanted(
            |load| (load * 5.0).min(54.0),
            500.0,
            3,
            &scaler(Signal::Batch, Source::External, target, 90, None),
            3600,
        ))
    };
    assert!(up(49.1).is_empty(), "49.1 x 1.1 is above 54");
    assert!(!up(49.0).is_empty(), "49.0 x 1.1 is below 54");
}

#[test]
fn with_a_capped_metric_replicas_grow_by_cap_over_target_per_start_up() {
    let (cap, target, load, start) = (54.0, 36.0, 100.0_f64, 20_usize);
    // One replica shows the target at a load of 1, so that 100 are needed.
    let gauge = |load: f64| (load * target).min(cap);
    let scaler = scaler(Signal::Batch, Source::External, target, 500, None);
    let changes = changes(&wanted(gauge, load, start, &scaler, 3600));
    let rounds = ((load / start as f64).ln() / (cap / target).ln()).ceil() as usize;
    assert_eq!(changes.iter().map(|change| change.1).collect::<Vec<_>>(), [30, 45, 68, 100]);
    assert_eq!(changes.len(), rounds);
    assert!(changes.windows(2).all(|pair| (120..=180).contains(&(pair[1].0 - pair[0].0))), "{changes:?}");
}

#[test]
fn a_utilization_that_is_always_full_never_scales_above_ninety_one_and_always_below_ninety() {
    for (target, expected) in [(95.0, 2), (91.0, 2), (90.9, 12), (80.0, 12), (50.0, 12)] {
        let scaler = scaler(Signal::Dcgm, Source::External, target, 12, None);
        let last = *wanted(|_| 100.0, 1.0, 2, &scaler, 4 * 3600).last().unwrap();
        assert_eq!(last, expected, "{target}");
    }
}

/// A server that completes mu n / (K + n), for which the mean in flight is known.
fn hyperbola() -> Plant {
    let drain = (0..=54).map(|n| (f64::from(n), 7.0 * f64::from(n) / (23.0 + f64::from(n))));
    let curves = Curves {
        drain: drain.collect(),
        violations: vec![(0.0, 0.0), (30.0, 0.02), (40.0, 0.4), (50.0, 1.0)],
        batch: vec![(0.0, 0.0), (54.0, 54.0)],
        queue: vec![(54.0, 0.0), (128.0, 74.0)],
        gpu: Vec::new(),
        scatter: Default::default(),
        window: Seconds(8.0),
    };
    Plant::new(Basis::Model, &curves, 128.0)
}

fn world<'a>(plant: &'a Plant, capacities: &'a Capacities, traffic: &'a Traffic) -> World<'a> {
    World { plant, uncertainty: 0.0, capacities, traffic, conditions: Conditions::default() }
}

fn shape(spec: &str) -> Traffic {
    Traffic::of_shape(&spec.parse().unwrap()).unwrap()
}

#[test]
fn the_mean_and_spread_in_flight_are_those_of_the_negative_binomial() {
    let plant = hyperbola();
    for load in [1.0, 2.5, 4.0] {
        let path = shape(&format!("constant:{load}@100h")).draw(1);
        let mut servers = Fluid::new(&plant, 1, Rate(load), path.arrivals.len(), 1);
        let (mut sum, mut squares) = (0.0, 0.0);
        for (second, (arrivals, noise)) in path.arrivals.iter().zip(&path.noise).enumerate() {
            servers.step(second, *arrivals, *noise);
            sum += servers.in_flight();
            squares += servers.in_flight().powi(2);
        }
        let n = path.arrivals.len() as f64;
        let (mean, variance) = (sum / n, squares / n - (sum / n).powi(2));
        let rho: f64 = load / 7.0;
        let expected = 24.0 * rho / (1.0 - rho);
        assert!((mean / expected - 1.0).abs() < 0.08, "{load}: {mean} for {expected}");
        assert!((variance / mean * (1.0 - rho) - 1.0).abs() < 0.2, "{load}: {}", variance / mean);
    }
}

#[test]
fn several_replicas_carry_more_each_and_a_slower_server_less() {
    let plant = hyperbola();
    let each = |plant: &Plant, n: u32| plant.capacity(Replicas(n), 0.05).0 / f64::from(n);
    let (one, four, sixteen) = (each(&plant, 1), each(&plant, 4), each(&plant, 16));
    assert!(one < four && four < sixteen && sixteen < one * 1.3, "{one} {four} {sixteen}");
    let slower = plant.at_speed(0.9);
    let ratio = each(&slower, 4) / four;
    assert!(
        (0.78..0.9).contains(&ratio),
        "a slower server carries less, and each request sees more: {ratio}"
    );
    assert_eq!(plant.at_speed(1.0).capacity(Replicas(2), 0.05), plant.capacity(Replicas(2), 0.05));
}

/// Changes within a day, after the first hour, at a load that stays the same, without noise.
fn changes_within_a_day(target: f64, load: f64) -> usize {
    let (plant, seconds) = (hyperbola(), 24 * 3600);
    let scaler = scaler(Signal::Batch, Source::Pods, target, 30, None);
    let path = Path { rates: vec![load; seconds], arrivals: vec![load; seconds], noise: vec![0.0; seconds] };
    let replicas = (load / plant.drain(target).0).ceil() as usize;
    let conditions = Conditions::default();
    let setting = Setting { path: &path, scaler: &scaler, conditions: &conditions, replicas, seed: 3 };
    let servers = Fluid::new(&plant, replicas, Rate(load / replicas as f64), seconds, 1);
    let mut wanted = Vec::new();
    play(servers, &setting, |tick| wanted.push(tick.wanted));
    changes(&wanted[3600..]).len()
}

#[test]
fn without_noise_a_constant_load_changes_no_replica_for_a_day_where_the_inequality_allows_no_flapping() {
    // A batch of 6 at K = 23 has the elasticity 1.26, with which only 3 replicas or fewer can flap.
    for load in [7.3, 9.3, 14.0, 21.7, 40.0] {
        assert_eq!(changes_within_a_day(6.0, load), 0, "{load} req/s");
    }
    // A batch of 11 has 1.48, with which 3 replicas flap to 2 and back at some loads.
    assert!(changes_within_a_day(11.0, 5.0) > 100);
}

#[test]
fn a_queue_target_is_found_to_be_a_limit_cycle_and_a_batch_target_is_not() {
    let plant = hyperbola();
    let capacities = Capacities::of(&plant, 0.05, Range { min: 1, max: 16 });
    let traffic = shape("constant:18@1h");
    let world = world(&plant, &capacities, &traffic);
    for target in [0.5, 4.0] {
        let found = world.watch(&scaler(Signal::Queue, Source::Pods, target, 16, None));
        assert!(matches!(found, Steadiness::LimitCycle { from: 1..=4, .. }), "{target}: {found}");
    }
    let found = world.watch(&scaler(Signal::Batch, Source::Pods, 15.0, 16, None));
    assert!(!matches!(found, Steadiness::LimitCycle { .. }), "{found}");
}

#[test]
fn more_than_the_limit_in_flight_are_refused_and_count_as_violations() {
    let plant = hyperbola();
    let capacities = Capacities::of(&plant, 0.05, Range { min: 1, max: 1 });
    let traffic = shape("constant:10@1h");
    let draw = world(&plant, &capacities, &traffic).plain(1);
    let outcome = draw.play(&scaler(Signal::Batch, Source::Pods, 20.0, 1, None), |_| {});
    assert!(outcome.violations() > 0.98, "{}", outcome.violations());
    assert_eq!(outcome.changes, 0);
}

#[test]
fn a_replica_known_by_steps_alone_shows_what_the_steps_showed() {
    let curve = |points: &[(f64, f64)]| Curve::new(Origin::Measured, points.iter().copied());
    let surface = Surface {
        batch: curve(&[(1.0, 3.0), (2.0, 8.0), (4.0, 30.0)]),
        queue: curve(&[(1.0, 0.0), (2.0, 0.0), (4.0, 2.0)]),
        violations: curve(&[(1.0, 0.0), (2.0, 0.01), (4.0, 0.3)]),
        ..Surface::default()
    };
    let plant = of_surface(&surface, 128.0).unwrap();
    assert_eq!(plant.basis(), Basis::Steps);
    assert!((plant.drain(8.0).0 - 2.0).abs() < 1e-6 && (plant.drain(32.0).0 - 4.0).abs() < 1e-6);
    assert!((plant.violations(32.0) - 0.3).abs() < 1e-6);
    assert_eq!((plant.gauge(Signal::Batch, 32.0), plant.gauge(Signal::Dcgm, 32.0)), (Some(30.0), None));
    assert_eq!(of_surface(&Surface::default(), 128.0), Err(NoPlant::TooLittle));
}

fn search(world: World<'_>, min: i32) -> Search<'_> {
    Search {
        world,
        signal: Signal::Batch,
        range: Range { min, max: 16 },
        tolerance: 0.1,
        own_tolerance: true,
        tune: true,
        goal: 0.05,
        seeds: 3,
        targets: 10,
    }
}

#[test]
fn a_search_finds_the_cheapest_that_holds_and_is_the_same_every_time() {
    let plant = hyperbola();
    let capacities = Capacities::of(&plant, 0.05, Range { min: 1, max: 16 });
    let traffic = shape("ramp:10..30..10@30m");
    let search = search(world(&plant, &capacities, &traffic), 1);
    let found = optimize(&search, &|_| {});
    let (best, default) = (found.best.unwrap(), found.default.unwrap());
    assert!(best.holds && best.score.violations_upper <= 0.05);
    assert!(best.score.gpu_hours <= default.score.gpu_hours);
    assert!(best.score.cost < 1.4, "{}", best.score.cost);
    assert!(found.frontier.is_sorted_by(|a, b| a.score.gpu_hours <= b.score.gpu_hours));
    assert!(found.frontier.is_sorted_by(|a, b| a.score.violations_upper > b.score.violations_upper));
    assert!(found.frontier.iter().filter(|t| t.holds).all(|t| t.score.gpu_hours >= best.score.gpu_hours));
    let later = found.sensitivity.iter().find(|other| other.change.starts_with("start-up 480")).unwrap();
    assert!(later.score.violations > best.score.violations, "a slower start breaks more limits");
    let untuned = Search { tune: false, ..search };
    assert_eq!(optimize(&untuned, &|_| {}), optimize(&untuned, &|_| {}));
    // It still holds in draws that no search has seen.
    let draws: Vec<Draw> = (0..4).map(|index| search.world.draw(held_out(index))).collect();
    let score = Score::of(&search.candidate(best.target, best.tuning).scaler, &draws);
    assert!(score.violations < 0.06, "{}", score.violations);
}

#[test]
fn where_no_target_can_hold_it_says_so_and_what_would() {
    let plant = hyperbola();
    let capacities = Capacities::of(&plant, 0.05, Range { min: 1, max: 16 });
    let traffic = shape("spike:2..40,40,40@30m");
    let mut world = world(&plant, &capacities, &traffic);
    world.conditions.start_up.mean = Seconds(600.0);
    let found = optimize(&search(world, 1), &|_| {});
    assert_eq!(found.best, None);
    assert!(
        found.reasons[0].starts_with("no target can hold this: raise minReplicas or cut start-up"),
        "{found:?}"
    );
    let min = found.reasons.iter().find_map(|reason| reason.strip_prefix("with minReplicas ")).unwrap();
    let min: i32 = min.split(' ').next().unwrap().parse().unwrap();
    let held = optimize(&Search { range: Range { min, max: 16 }, ..search(world, 1) }, &|_| {});
    assert!(held.best.is_some(), "what it advises lets a target hold");
}

#[test]
fn a_metric_that_the_server_does_not_show_gives_no_target() {
    let plant = hyperbola();
    let capacities = Capacities::of(&plant, 0.05, Range { min: 1, max: 16 });
    let traffic = shape("constant:10@10m");
    let search = Search { signal: Signal::Dcgm, ..search(world(&plant, &capacities, &traffic), 1) };
    let found = optimize(&search, &|_| {});
    assert_eq!(found.best, None);
    assert!(found.reasons[0].contains("is not known of this server"), "{found:?}");
}
