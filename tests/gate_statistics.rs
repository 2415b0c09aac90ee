//! The gate's statistics against simulated servers, whose truth is known: how often equal runs fail, and how often
//! a regression is seen, with the lengths of `scenarios/ci.yaml`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::analyze::gate::default_regressions;
use calibrate::analyze::regression::{Comparison, Outcome, RUN_TO_RUN, Side, compare};
use calibrate::analyze::{Measured, NoCapacity, StepAnalysis, analyze_steps};
use calibrate::batching::{Completed, Deviations, Job, Pool, ServerModel};
use calibrate::measurement::{Event, Phase, RequestOutcome, StepMark};
use calibrate::plan::{Next, Plan, RequestSource, Schedule, Spacing, Step, StepWork};
use calibrate::scenario::{RampSpec, Scenario, read_settings};
use calibrate::simulator::Preset;
use calibrate::units::{Replicas, Seconds};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

const PAIRS: u64 = 400;
/// What a run is between its steps: long enough to drain.
const PAUSE: f64 = 30.0;

/// The scenario that ships, with its holds so many times as long.
fn scenario(longer: f64) -> Scenario {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/ci.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut scenario = read_settings(&path, &text).unwrap().resolve().unwrap();
    let warm_up = scenario.warm_up.unwrap();
    let RampSpec::Rate { hold, .. } = &mut scenario.ramp else { panic!("ci.yaml has a fixed ramp") };
    *hold = warm_up + (*hold - warm_up) * longer;
    scenario
}

/// A run of the scenario in simulated time.
struct Run {
    requests: Vec<RequestOutcome>,
    steps: Vec<StepAnalysis>,
    capacity: Result<calibrate::analyze::Capacity, NoCapacity>,
}

impl Run {
    /// The demo server with 6 % noise of each forward, as fast as `pace` says.
    fn play(scenario: &Scenario, arrivals: u64, noise: u64, pace: f64) -> Run {
        let model = server(pace);
        let mut pool = Pool::new(&model, Replicas(1), noise);
        let schedule = Schedule {
            seed: arrivals,
            spacing: Spacing::Poisson,
            requests: RequestSource::Specs(scenario.input_tokens, scenario.output_tokens),
            trace: None,
        };
        let mut plan = Plan::new(&scenario.ramp, scenario.warm_up, Seconds(1.0), Replicas(1), None);
        let (mut start, mut sent, mut events) = (0.0, Vec::new(), Vec::new());
        while let Next::Step(step, _) = plan.next_step() {
            let mark = drive(&mut pool, &schedule, step, start, &mut sent);
            events.push(Event::StepEnded { step: mark, ids: None });
            start = mark.end.0 + PAUSE;
        }
        pool.advance(Seconds(f64::INFINITY));
        let requests: Vec<RequestOutcome> = pool.results().iter().zip(&sent).map(outcome).collect();
        let steps = judged(scenario, &requests, &events);
        Run { requests, steps, capacity: Err(NoCapacity::NeverReached) }
    }

    /// The same run with every latency exactly so many times as long.
    fn slower(mut self, times: f64) -> Run {
        for request in &mut self.requests {
            let scheduled = request.scheduled;
            let later = |time: Option<Seconds>| time.map(|t| scheduled + (t - scheduled) * times);
            (request.first_token, request.last_token) = (later(request.first_token), later(request.last_token));
            request.ended = request.last_token;
        }
        self
    }

    fn side(&self) -> Side<'_> {
        Side {
            requests: &self.requests,
            steps: &self.steps,
            gaps: &[],
            replicas: Replicas(1),
            capacity: &self.capacity,
        }
    }
}

fn server(pace: f64) -> ServerModel {
    let model = Preset::by_name("demo").unwrap().config().model;
    ServerModel {
        prefill_base: model.prefill_base * pace,
        prefill_per_token: model.prefill_per_token * pace,
        decode_base: model.decode_base * pace,
        decode_per_sequence: model.decode_per_sequence * pace,
        deviations: Deviations { noise: 0.06, ..Deviations::default() },
        ..model
    }
}

type Sent = (Step, Phase, u32);

fn drive(pool: &mut Pool, schedule: &Schedule, step: Step, start: f64, sent: &mut Vec<Sent>) -> StepMark {
    let StepWork::Arrivals(arrivals) = schedule.work(&step) else { panic!("an open loop") };
    for (offset, request) in arrivals {
        let (time, input_tokens) = (Seconds(start) + offset, request.input.unwrap());
        pool.advance(time);
        let (id, output_tokens) = (sent.len() as u64, request.output);
        pool.submit(time, Job { id, input_tokens, declared_output: output_tokens, output_tokens });
        let phase = if offset < step.warm_up { Phase::WarmUp } else { Phase::Hold };
        sent.push((step, phase, input_tokens));
    }
    StepMark {
        index: step.index,
        load: step.load,
        start: Seconds(start),
        hold_start: Seconds(start) + step.warm_up,
        end: Seconds(start) + step.length,
    }
}

fn outcome((completed, (step, phase, input)): (&Completed, &Sent)) -> RequestOutcome {
    RequestOutcome {
        id: completed.id,
        step: step.index,
        phase: *phase,
        scheduled: completed.arrived,
        sent: Some(completed.arrived),
        first_token: completed.first_token,
        last_token: completed.finished,
        ended: completed.finished,
        input_tokens: Some(*input),
        output_tokens: Some(completed.output_tokens),
        chunks: completed.output_tokens,
        status: Some(200),
        error: None,
        replica: None,
    }
}

fn judged(scenario: &Scenario, requests: &[RequestOutcome], events: &[Event]) -> Vec<StepAnalysis> {
    let gaps = BTreeMap::new();
    let measured = Measured { requests, samples: &[], events, gaps: &gaps, replicas: Replicas(1) };
    analyze_steps(&measured, &scenario.slos)
}

/// How fast a run's server is, where runs of one server differ by `spread` (standard deviation).
fn pace(rng: &mut ChaCha8Rng, spread: f64) -> f64 {
    let deviation: f64 = StandardNormal.sample(rng);
    (spread * deviation).exp()
}

/// What a gate says of a run that is so many times as slow as its baselines.
struct Trial {
    baselines: usize,
    slower: f64,
    spread: f64,
    same_requests: bool,
    longer: f64,
}

const EQUAL: Trial =
    Trial { baselines: 1, slower: 1.0, spread: RUN_TO_RUN, same_requests: true, longer: 1.0 };

impl Trial {
    fn compare(&self, seed: u64) -> Vec<Comparison> {
        let scenario = scenario(self.longer);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut play = |i: u64| {
            let noise = seed * 100 + i;
            let arrivals = if self.same_requests { seed } else { noise };
            Run::play(&scenario, arrivals, noise, pace(&mut rng, self.spread))
        };
        let run = play(0).slower(self.slower);
        let baselines: Vec<Run> = (1..=self.baselines as u64).map(play).collect();
        let sides: Vec<Side> = baselines.iter().map(Run::side).collect();
        compare(&run.side(), &sides, &default_regressions(&scenario.slos), &scenario.slos)
    }

    fn compare_all(&self, pairs: u64) -> Vec<Vec<Comparison>> {
        (0..pairs).into_par_iter().map(|seed| self.compare(seed)).collect()
    }
}

/// In which share of the gates a check comes out so.
fn share(gates: &[Vec<Comparison>], outcome: Outcome) -> f64 {
    let any = |gate: &&Vec<Comparison>| gate.iter().any(|check| check.outcome == outcome);
    gates.iter().filter(any).count() as f64 / gates.len() as f64
}

fn passed(gates: &[Vec<Comparison>]) -> f64 {
    let all = |gate: &&Vec<Comparison>| gate.iter().all(|check| check.outcome == Outcome::Pass);
    gates.iter().filter(all).count() as f64 / gates.len() as f64
}

fn detectable(gates: &[Vec<Comparison>]) -> f64 {
    let all: Vec<f64> = gates.iter().flatten().filter_map(|check| check.detectable).collect();
    all.iter().sum::<f64>() / all.len() as f64
}

fn say(what: &str, gates: &[Vec<Comparison>]) {
    println!(
        "{what}: fail {:.1} %, cannot tell {:.1} %, all pass {:.1} %, detectable {:.1} %",
        share(gates, Outcome::Fail) * 100.0,
        share(gates, Outcome::CannotTell) * 100.0,
        passed(gates) * 100.0,
        detectable(gates) * 100.0
    );
}

#[test]
fn equal_runs_fail_in_at_most_five_percent_and_pass_in_most() {
    let gates = EQUAL.compare_all(PAIRS);
    say("equal runs", &gates);
    assert!(gates.iter().flatten().all(|check| check.paired), "the same seed sends the same requests");
    assert!(share(&gates, Outcome::Fail) <= 0.05);
    assert!(passed(&gates) >= 0.85);
}

#[test]
fn a_regression_of_the_limit_is_seen_in_nine_of_ten_runs() {
    let gates = Trial { slower: 1.1, ..EQUAL }.compare_all(PAIRS);
    say("10 % slower", &gates);
    assert!(share(&gates, Outcome::Fail) >= 0.9);
    assert!(passed(&gates) <= 0.05);
}

#[test]
fn other_requests_do_not_raise_false_alarms_but_hide_regressions_until_runs_are_as_long_as_is_said() {
    let other = Trial { same_requests: false, ..EQUAL };
    let equal = other.compare_all(PAIRS);
    say("equal runs, other requests", &equal);
    assert!(share(&equal, Outcome::Fail) <= 0.05);
    let worse = Trial { slower: 1.1, ..other }.compare_all(100);
    say("10 % slower, other requests", &worse);
    let mut longer: Vec<f64> =
        worse.iter().map(|gate| gate.iter().filter_map(|check| check.longer).fold(1.0, f64::max)).collect();
    longer.sort_by(f64::total_cmp);
    let longer = longer[longer.len() / 2];
    println!("needed: {longer:.1} times as long");
    let long = Trial { slower: 1.1, same_requests: false, longer, ..EQUAL }.compare_all(60);
    say("10 % slower, other requests, so long", &long);
    assert!(share(&long, Outcome::Fail) >= 0.85);
}

#[test]
fn several_baselines_show_how_runs_differ_so_that_equal_ones_do_not_fail() {
    let trial = Trial { baselines: 5, spread: 0.04, ..EQUAL };
    let gates = trial.compare_all(PAIRS / 2);
    say("equal runs that differ by 4 %, five baselines", &gates);
    assert!(share(&gates, Outcome::Fail) <= 0.05);
    let remarks = gates.iter().flatten().filter(|check| !check.remarks.is_empty()).count();
    assert!(remarks * 2 > gates.len(), "that the baselines differ is seen and said");
    let gates = Trial { baselines: 5, slower: 1.1, ..EQUAL }.compare_all(100);
    say("10 % slower than five baselines", &gates);
    assert!(share(&gates, Outcome::Fail) >= 0.9);
}
