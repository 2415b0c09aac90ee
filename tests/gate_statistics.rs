//! The gate's statistics against simulated servers, whose truth is known: how often equal runs fail, and how often
//! a regression is seen, with the lengths of `scenarios/ci.yaml`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the measured rates are worth showing")]

use calibrate::analyze::regression::{Comparison, Outcome, RUN_TO_RUN, Side, compare};
use calibrate::analyze::{Measured, NoCapacity, StepAnalysis, analyze_steps};
use calibrate::batching::{Completed, Deviations, Job, Pool, ServerModel};
use calibrate::measurement::{Event, Phase, RequestOutcome, StepMark};
use calibrate::plan::{Next, Plan, RequestSource, Schedule, Spacing, Step, StepWork};
use calibrate::scenario::{RampSpec, Scenario, read_settings};
use calibrate::simulator::Preset;
use calibrate::units::{MaxRegression, Replicas, Seconds};
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
    /// The scenario's server with 6 % noise of each forward, as fast as `pace` says.
    fn play(scenario: &Scenario, arrivals: u64, noise: u64, pace: f64) -> Run {
        let model = server(scenario, pace);
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
    fn slower(self, times: f64) -> Run {
        let mut run = self;
        for request in &mut run.requests {
            let scheduled = request.scheduled;
            let later = |time: Option<Seconds>| time.map(|t| scheduled + (t - scheduled) * times);
            (request.first_token, request.last_token) =
                (later(request.first_token), later(request.last_token));
            request.ended = request.last_token;
        }
        run
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

fn server(scenario: &Scenario, pace: f64) -> ServerModel {
    let model = Preset::by_name(&scenario.preset).unwrap().config().model;
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

/// What is compared: what a gate compares by itself, and percentiles.
const LIMITS: [&str; 4] = ["ttft:mean:10%", "tpot:mean:10%", "tpot:p95:10%", "e2e:p95:10%"];

/// A run and its baselines.
struct Trial {
    baselines: u64,
    /// By how much the speed of the server differs from run to run.
    spread: f64,
    same_requests: bool,
    longer: f64,
}

/// At these loads a server that is slower makes latencies twice as much longer, so that figures differ by what is
/// assumed of them.
const SPEED: f64 = RUN_TO_RUN / 2.0;

/// One baseline with the same seed, of the same length.
const PAIRED: Trial = Trial { baselines: 1, spread: SPEED, same_requests: true, longer: 1.0 };

impl Trial {
    /// The gates of many such trials: of runs as they came out, and of the same with every latency 10 % longer.
    fn gates(&self, limits: &[&str], trials: u64) -> [Vec<Vec<Comparison>>; 2] {
        let scenario = scenario(self.longer);
        let limits: Vec<MaxRegression> = limits.iter().map(|limit| limit.parse().unwrap()).collect();
        let both = |seed: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut play = |i: u64| {
                let noise = seed * 100 + i;
                let arrivals = if self.same_requests { seed } else { noise };
                Run::play(&scenario, arrivals, noise, pace(&mut rng, self.spread))
            };
            let run = play(0);
            let baselines: Vec<Run> = (1..=self.baselines).map(play).collect();
            let sides: Vec<Side> = baselines.iter().map(Run::side).collect();
            let gate = |run: &Run| compare(&run.side(), &sides, &limits, &scenario.slos);
            (gate(&run), gate(&run.slower(1.1)))
        };
        let (equal, slower) = (0..trials).into_par_iter().map(both).unzip();
        [equal, slower]
    }
}

/// In which share of the gates any check comes out so.
fn any(gates: &[Vec<Comparison>], outcome: Outcome) -> f64 {
    let any = |gate: &&Vec<Comparison>| gate.iter().any(|check| check.outcome == outcome);
    gates.iter().filter(any).count() as f64 / gates.len() as f64
}

/// In which share of the gates each check comes out so.
fn each(gates: &[Vec<Comparison>], outcome: Outcome) -> Vec<f64> {
    let share =
        |i: usize| gates.iter().filter(|gate| gate[i].outcome == outcome).count() as f64 / gates.len() as f64;
    (0..gates[0].len()).map(share).collect()
}

fn say(what: &str, gates: &[Vec<Comparison>]) {
    println!("{what}: {:.1} % of the gates fail", any(gates, Outcome::Fail) * 100.0);
    let (failed, passed) = (each(gates, Outcome::Fail), each(gates, Outcome::Pass));
    for (check, (failed, passed)) in gates[0].iter().zip(failed.iter().zip(&passed)) {
        println!("  {}: fail {:.1} %, pass {:.1} %", check.limit, failed * 100.0, passed * 100.0);
    }
}

#[test]
fn equal_runs_fail_in_at_most_five_percent_and_a_regression_of_the_limit_is_seen_in_nine_of_ten() {
    let [equal, slower] = PAIRED.gates(&LIMITS, PAIRS);
    say("equal", &equal);
    say("10 % slower", &slower);
    assert!(equal.iter().flatten().all(|check| check.paired), "the same seed sends the same requests");
    assert!(any(&equal, Outcome::Fail) <= 0.05);
    assert!(each(&equal, Outcome::Pass).iter().all(|passed| *passed >= 0.9));
    assert!(each(&slower, Outcome::Fail).iter().all(|failed| *failed >= 0.9));
}

#[test]
fn what_needs_longer_runs_raises_no_false_alarms_and_says_how_long_they_must_be() {
    let other = Trial { same_requests: false, ..PAIRED };
    let [equal, slower] = other.gates(&["e2e:p95:10%"], PAIRS / 2);
    say("equal, other requests", &equal);
    say("10 % slower, other requests", &slower);
    assert!(any(&equal, Outcome::Fail) <= 0.05);
    assert!(any(&slower, Outcome::Fail) < 0.9, "chance hides it");
    let open: Vec<&Comparison> =
        slower.iter().flatten().filter(|check| check.outcome == Outcome::CannotTell).collect();
    let told = open.iter().filter(|check| check.longer.is_some_and(|longer| longer > 1.0)).count();
    assert!(told * 2 > open.len(), "it is said that longer runs would tell: {told} of {}", open.len());
}

#[test]
fn several_baselines_show_how_runs_differ_so_that_equal_ones_do_not_fail() {
    let [equal, _] = Trial { baselines: 5, spread: 0.03, ..PAIRED }.gates(&["tpot:mean:10%"], PAIRS / 5);
    say("equal, of servers that differ by 3 % from run to run, five baselines", &equal);
    assert!(any(&equal, Outcome::Fail) <= 0.05);
    let told = equal.iter().flatten().filter(|check| !check.remarks.is_empty()).count();
    assert!(told * 2 > equal.len(), "that the baselines differ is seen and said: {told}");
}
