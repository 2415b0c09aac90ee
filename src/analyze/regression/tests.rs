use super::*;
use crate::analyze::capacity::tests::step as analyzed;
use crate::analyze::{LatencySummary, Method};
use crate::measurement::{FailureKind, Phase, StepMark};
use crate::units::{Rate, Replicas};
use rand::RngExt;

const NEVER: Result<Capacity, NoCapacity> = Err(NoCapacity::NeverReached);

/// Requests of one step of 40 seconds: latencies around `level`, and each `nth` failed.
fn requests(seed: u64, level: f64, nth: usize) -> Vec<RequestOutcome> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let request = |i: u64| {
        let scheduled = Seconds(i as f64 * 0.1);
        let ttft = Seconds(level * (1.0 + 0.2 * rng.random::<f64>()));
        RequestOutcome {
            id: i,
            step: 0,
            phase: Phase::Hold,
            scheduled,
            sent: Some(scheduled),
            first_token: Some(scheduled + ttft),
            last_token: Some(scheduled + ttft + Seconds(0.5)),
            ended: Some(scheduled + ttft + Seconds(0.5)),
            input_tokens: Some(100),
            output_tokens: Some(11),
            chunks: 11,
            status: Some(200),
            error: (nth > 0 && (i as usize).is_multiple_of(nth)).then_some(FailureKind::Overloaded),
            replica: None,
        }
    };
    (0..400).map(request).collect()
}

fn step(load: Load) -> StepAnalysis {
    let e2e = LatencySummary {
        n: 400,
        mean: Seconds(0.6),
        p50: Seconds(0.6),
        p90: Seconds(0.7),
        p95: Seconds(0.7),
        p95_interval: None,
        p99: Seconds(0.7),
        max: Seconds(0.7),
    };
    let base = analyzed(0, 10.0, Some(0.1), 4.0);
    let mark = StepMark { index: 0, load, start: Seconds(0.0), hold_start: Seconds(4.0), end: Seconds(40.0) };
    StepAnalysis { mark, e2e: Some(e2e), ..base }
}

fn side<'a>(requests: &'a [RequestOutcome], steps: &'a [StepAnalysis]) -> Side<'a> {
    Side { requests, steps, gaps: &[], replicas: Replicas(1), capacity: &NEVER }
}

/// One check of a run against one baseline.
fn compared(run: &[RequestOutcome], baseline: &[RequestOutcome], limit: &str) -> Comparison {
    let steps = [step(Load::Rate(Rate(10.0)))];
    let slos = ["ttft:p95:115ms".parse().unwrap()];
    let limits = [limit.parse().unwrap()];
    compare(&side(run, &steps), &[side(baseline, &steps)], &limits, &slos).pop().unwrap()
}

#[test]
fn equal_runs_pass_and_slower_ones_fail_with_bounds_around_the_truth() {
    let baseline = requests(1, 0.1, 0);
    let equal = compared(&requests(2, 0.1, 0), &baseline, "ttft:p95:10%");
    assert_eq!((equal.outcome, equal.paired, equal.requests), (Outcome::Pass, true, 100));
    let slower = compared(&requests(2, 0.12, 0), &baseline, "ttft:p95:10%");
    let change = slower.change.unwrap();
    assert_eq!(slower.outcome, Outcome::Fail);
    assert!(change.low < 0.2 && 0.2 < change.high && change.low > 0.1, "{change:?}");
    assert_eq!(compared(&requests(2, 0.08, 0), &baseline, "ttft:mean:10%").outcome, Outcome::Pass);
}

#[test]
fn a_regression_that_is_sure_but_surely_below_the_limit_passes() {
    let slightly = compared(&requests(1, 0.105, 0), &requests(1, 0.1, 0), "ttft:mean:20%");
    assert!(slightly.change.unwrap().low > 0.0);
    assert_eq!(slightly.outcome, Outcome::Pass);
}

#[test]
fn what_is_too_noisy_cannot_be_told_and_says_how_long_would_do() {
    let unsure = compared(&requests(2, 0.1, 0), &requests(1, 0.1, 0), "ttft:p95:2%");
    assert_eq!(unsure.outcome, Outcome::CannotTell);
    assert_eq!(unsure.longer, None, "runs of one server differ by about as much");
    assert!(unsure.detectable.unwrap() > 0.02);
    let steps = [step(Load::Rate(Rate(10.0)))];
    assert_eq!(run_length(&steps, 2.0), Seconds(76.0));
    assert_eq!(run_length(&steps, 0.5), Seconds(40.0), "no shorter than it was");
}

#[test]
fn goodput_and_throughput_fall_where_latencies_rise() {
    let baseline = requests(1, 0.1, 0);
    let worse = requests(2, 0.1, 4);
    let goodput = compared(&worse, &baseline, "goodput:5%");
    assert_eq!(goodput.outcome, Outcome::Fail);
    assert!(goodput.change.unwrap().by < -0.15, "{goodput:?}");
    let throughput = compared(&worse, &baseline, "throughput:5%");
    assert_eq!(throughput.outcome, Outcome::Fail);
    assert!((throughput.change.unwrap().by + 0.25).abs() < 0.01, "{throughput:?}");
    assert_eq!(compared(&baseline, &worse, "throughput:5%").outcome, Outcome::Pass);
}

#[test]
fn failures_beyond_the_rank_fail_the_run_and_leave_a_baseline_of_no_use() {
    let (good, bad) = (requests(1, 0.1, 0), requests(2, 0.1, 4));
    let run = compared(&bad, &good, "ttft:p95:10%");
    assert_eq!(run.outcome, Outcome::Fail);
    assert!(run.remarks[0].contains("too many of its requests failed"));
    assert_eq!(compared(&good, &bad, "ttft:p95:10%").outcome, Outcome::CannotTell);
}

#[test]
fn only_equal_loads_are_compared() {
    let requests = requests(1, 0.1, 0);
    let limits = ["ttft:p95:10%".parse().unwrap()];
    let at = |load| [step(load)];
    let compare = |run: Load, base: Load| {
        compare(&side(&requests, &at(run)), &[side(&requests, &at(base))], &limits, &[]).pop().unwrap()
    };
    let rate = |rate| Load::Rate(Rate(rate));
    assert_eq!(compare(rate(10.0), rate(10.0)).outcome, Outcome::Pass);
    let other = compare(rate(10.0), rate(12.0));
    assert_eq!(other.outcome, Outcome::CannotTell);
    assert!(other.remarks.iter().any(|remark| remark.contains("one fixed --ramp")), "{:?}", other.remarks);
    let closed = compare(Load::Concurrency(4), Load::Concurrency(4));
    assert!(!closed.paired, "in a closed loop nobody knows beforehand when a request is sent");
}

#[test]
fn baselines_that_contradict_each_other_make_the_interval_wider() {
    let steps = [step(Load::Rate(Rate(10.0)))];
    let limits = ["ttft:mean:10%".parse().unwrap()];
    let judge = |levels: [f64; 3]| {
        let all: Vec<_> = levels.iter().zip(10..).map(|(level, seed)| requests(seed, *level, 0)).collect();
        let sides: Vec<Side> = all.iter().map(|requests| side(requests, &steps)).collect();
        compare(&side(&requests(1, 0.112, 0), &steps), &sides, &limits, &[]).pop().unwrap()
    };
    let alike = judge([0.1, 0.1, 0.1]);
    assert_eq!((alike.outcome, alike.remarks.len()), (Outcome::Fail, 0));
    let unlike = judge([0.09, 0.1, 0.11]);
    assert_eq!(unlike.outcome, Outcome::CannotTell);
    assert!(unlike.remarks[0].contains("the 3 baselines differ"), "{:?}", unlike.remarks);
}

#[allow(clippy::unnecessary_wraps, reason = "an analysis has it so")]
fn capacity(rate: f64, spread: f64, method: Method) -> Result<Capacity, NoCapacity> {
    Ok(Capacity {
        per_replica: Rate(rate),
        low: Rate(rate * (1.0 - spread)),
        high: Rate(rate * (1.0 + spread)),
        method,
        replicas: Replicas(1),
        limited_by: "ttft:p95:2s".parse().unwrap(),
        bracket: None,
    })
}

#[test]
fn a_capacity_is_compared_by_its_own_interval() {
    let steps = [step(Load::Rate(Rate(10.0)))];
    let judge = |run: Result<Capacity, NoCapacity>, baseline: Result<Capacity, NoCapacity>| {
        let of = |capacity| Side { capacity, ..side(&[], &steps) };
        let limits = ["capacity:10%".parse().unwrap()];
        super::compare(&of(&run), &[of(&baseline)], &limits, &[]).pop().unwrap()
    };
    let model = |rate, spread| capacity(rate, spread, Method::ServerModel);
    assert_eq!(judge(model(10.0, 0.02), model(10.0, 0.02)).outcome, Outcome::Pass);
    let fell = judge(model(9.0, 0.02), model(10.0, 0.02));
    assert_eq!(fell.outcome, Outcome::Fail);
    assert!((fell.change.unwrap().by + 0.1).abs() < 1e-9);
    assert_eq!(judge(model(9.5, 0.15), model(10.0, 0.15)).outcome, Outcome::CannotTell);
    let line = |rate, spread| capacity(rate, spread, Method::Interpolation);
    assert_eq!(judge(line(10.0, 0.02), line(10.0, 0.02)).outcome, Outcome::Pass);
    assert_eq!(judge(line(8.0, 0.02), line(10.0, 0.02)).outcome, Outcome::Fail);
    assert_eq!(judge(line(10.0, 0.1), line(10.0, 0.1)).outcome, Outcome::CannotTell);
    // The step of the run held 10 requests a second.
    assert_eq!(judge(NEVER, model(10.0, 0.01)).outcome, Outcome::Pass);
    assert_eq!(judge(NEVER, model(20.0, 0.01)).outcome, Outcome::CannotTell);
    let mut broken = steps.clone();
    broken[0].checks.iter_mut().for_each(|check| check.holds = false);
    let judge_broken = |baseline| {
        let side = |capacity, steps| Side { capacity, ..side(&[], steps) };
        let limits = ["capacity:10%".parse().unwrap()];
        let never = Err(NoCapacity::NeverMet);
        super::compare(&side(&never, &broken), &[side(&baseline, &steps)], &limits, &[])
            .pop()
            .unwrap()
            .outcome
    };
    // It broke at 10 requests a second.
    assert_eq!(judge_broken(model(20.0, 0.01)), Outcome::Fail);
    assert_eq!(
        judge_broken(model(9.0, 0.01)),
        Outcome::CannotTell,
        "both may be below the run's lowest step"
    );
    assert_eq!(judge(model(10.0, 0.01), Err(NoCapacity::TooFewSteps)).outcome, Outcome::CannotTell);
}
