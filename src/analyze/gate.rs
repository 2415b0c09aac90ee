//! Checks of one run for CI: its SLOs, its capacity, and its regressions. Each has three outcomes.
//!
//! An SLO is judged by the figure that this run's clients got, in each step of at most the load that is asked
//! for. A capacity is judged by its interval, a regression by the comparison in [`super::regression`].

use super::regression::{Comparison, Outcome};
use super::{Analysis, Capacity, NoCapacity, StepAnalysis};
use crate::measurement::Load;
use crate::units::{Compared, MaxRegression, Rate, Replicas, Slo, Stat};

/// Loads are compared with this slack, as a share: arrivals are random.
const SLACK: f64 = 0.02;

/// One check.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// A limit in one step.
    Slo(SloInStep),
    /// The least capacity.
    Capacity(LeastCapacity),
    /// The regression against baselines.
    Regression(Comparison),
}

impl Check {
    /// How it came out.
    pub fn outcome(&self) -> Outcome {
        match self {
            Check::Slo(check) => check.outcome,
            Check::Capacity(check) => check.outcome,
            Check::Regression(comparison) => comparison.outcome,
        }
    }
}

/// What all checks together come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Every check passed.
    Passed,
    /// At least one failed.
    Failed,
    /// None failed, and at least one cannot be told.
    Inconclusive,
    /// A run cannot be used, so nothing was checked.
    Invalid,
}

/// What is done with checks that cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnInconclusive {
    /// They count as passed: exit 0.
    Pass,
    /// They count as failed: exit 3.
    Fail,
    /// They count as no answer, and it is said how long a run would give one: exit 4.
    Rerun,
}

/// What the checks come to.
pub fn decide(checks: &[Check]) -> Decision {
    match checks.iter().map(Check::outcome).max() {
        None | Some(Outcome::CannotTell) => Decision::Inconclusive,
        Some(Outcome::Fail) => Decision::Failed,
        Some(Outcome::Pass) => Decision::Passed,
    }
}

/// An SLO in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SloInStep {
    /// The limit.
    pub slo: Slo,
    /// The step's load.
    pub load: Load,
    /// Attempts that it is judged by.
    pub attempts: usize,
    /// The figure: seconds, or a share from 0 to 1. `None`: infinitely late, or unknown.
    pub value: Option<f64>,
    /// How it came out.
    pub outcome: Outcome,
}

/// A capacity that must be there.
#[derive(Debug, Clone, PartialEq)]
pub struct LeastCapacity {
    /// The least, requests per second and replica.
    pub least: Rate,
    /// What was found, or why nothing was.
    pub capacity: Result<Capacity, NoCapacity>,
    /// The highest load that was driven and held the SLO, per replica.
    pub held: Option<Rate>,
    /// How it came out.
    pub outcome: Outcome,
}

/// Which steps must hold the SLO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Demand {
    /// Every step that was driven.
    EveryStep,
    /// Steps up to this load per replica.
    UpTo(Rate),
}

/// The SLO of every step that must hold it.
pub fn slos(analysis: &Analysis, demand: Demand) -> Vec<Check> {
    let asked = |step: &&StepAnalysis| match demand {
        Demand::EveryStep => true,
        Demand::UpTo(most) => asked_for(step, analysis.replicas).0 <= most.0 * (1.0 + SLACK),
    };
    let steps: Vec<&StepAnalysis> = analysis.steps.iter().filter(asked).collect();
    let of_slo = |slo: &Slo| {
        let found: Vec<Check> = steps.iter().filter_map(|step| in_step(step, slo)).map(Check::Slo).collect();
        found
    };
    analysis.slos.iter().flat_map(of_slo).collect()
}

/// The load of a step as it was asked for: by chance a few more may arrive, and it is the same step.
fn asked_for(step: &StepAnalysis, replicas: Replicas) -> Rate {
    match step.mark.load {
        Load::Rate(rate) => Rate(rate.0 / f64::from(replicas.0.max(1))),
        _ => step.carried(replicas),
    }
}

fn in_step(step: &StepAnalysis, slo: &Slo) -> Option<SloInStep> {
    let check = step.checks.iter().find(|check| check.slo == *slo)?;
    let outcome = match (check.holds, check.undecided || step.attempts == 0 || step.lost > 0) {
        (_, true) => Outcome::CannotTell,
        (true, false) => Outcome::Pass,
        (false, false) => Outcome::Fail,
    };
    Some(SloInStep { slo: *slo, load: step.mark.load, attempts: step.attempts, value: check.value, outcome })
}

/// Whether a replica carries at least so much within the SLO.
pub fn capacity(analysis: &Analysis, least: Rate) -> Check {
    let carried = |step: &StepAnalysis| step.carried(analysis.replicas);
    let loads =
        |holds: bool| analysis.steps.iter().filter(move |step| step.is_judged() && step.holds() == holds);
    let held = loads(true).map(carried).max_by(|a, b| a.0.total_cmp(&b.0));
    let broke = loads(false).map(carried).min_by(|a, b| a.0.total_cmp(&b.0));
    let outcome = match &analysis.capacity {
        Ok(capacity) if capacity.low.0 >= least.0 => Outcome::Pass,
        Ok(capacity) if capacity.high.0 < least.0 => Outcome::Fail,
        Err(NoCapacity::NeverReached) if held.is_some_and(|held| held.0 >= least.0) => Outcome::Pass,
        Err(NoCapacity::NeverMet) if broke.is_some_and(|broke| broke.0 <= least.0) => Outcome::Fail,
        _ => Outcome::CannotTell,
    };
    Check::Capacity(LeastCapacity { least, capacity: analysis.capacity.clone(), held, outcome })
}

/// What to compare where nothing is named: every latency that the SLO limits, in its mean, by a tenth. The SLO holds
/// the percentiles; a mean tells as much with a fraction of the requests.
pub fn default_regressions(slos: &[Slo]) -> Vec<MaxRegression> {
    let mut limits: Vec<MaxRegression> = Vec::new();
    for metric in slos.iter().filter(|slo| slo.latency_limit().is_some()).map(|slo| slo.metric) {
        let limit = MaxRegression { of: Compared::Latency(metric, Stat::Mean), share: 0.1 };
        if !limits.contains(&limit) {
            limits.push(limit);
        }
    }
    limits
}

/// The load per replica up to which an SLO must hold where nobody says it: all of a fixed ramp; of a search,
/// which goes beyond its limit on purpose, what is surely within the capacity that it found.
pub fn demand(least: Option<Rate>, searches: bool, analysis: &Analysis) -> Demand {
    match (least, &analysis.capacity) {
        (Some(least), _) => Demand::UpTo(least),
        (None, Ok(capacity)) if searches => Demand::UpTo(capacity.low),
        _ => Demand::EveryStep,
    }
}

#[cfg(test)]
mod tests {
    use super::super::capacity::tests::step;
    use super::super::{Method, Surface, Validity, Verdict, server_model::NoPrediction};
    use super::*;
    use crate::units::Replicas;

    fn analysis(capacity: Result<Capacity, NoCapacity>) -> Analysis {
        Analysis {
            slos: vec!["ttft:p95:2s".parse().unwrap()],
            replicas: Replicas(1),
            production: Replicas(1),
            steps: vec![
                step(0, 2.0, Some(0.5), 4.0),
                step(1, 6.0, Some(1.0), 9.0),
                step(2, 9.0, Some(5.0), 30.0),
            ],
            validity: Validity { verdict: Verdict::Valid, checks: Vec::new() },
            lags: Vec::new(),
            prediction: Err(NoPrediction::NotEnclosed),
            capacity,
            surface: Surface::default(),
            timeline: Vec::new(),
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "an analysis has it so")]
    fn found(low: f64, high: f64) -> Result<Capacity, NoCapacity> {
        Ok(Capacity {
            per_replica: Rate(f64::midpoint(low, high)),
            low: Rate(low),
            high: Rate(high),
            method: Method::ServerModel,
            replicas: Replicas(1),
            limited_by: "ttft:p95:2s".parse().unwrap(),
            bracket: None,
        })
    }

    #[test]
    fn a_capacity_is_judged_by_its_interval() {
        let outcome = |capacity, least| super::capacity(&analysis(capacity), Rate(least)).outcome();
        assert_eq!(outcome(found(7.0, 8.0), 6.9), Outcome::Pass);
        assert_eq!(outcome(found(7.0, 8.0), 8.1), Outcome::Fail);
        assert_eq!(outcome(found(7.0, 8.0), 7.5), Outcome::CannotTell);
        assert_eq!(outcome(Err(NoCapacity::NeverReached), 6.0), Outcome::Pass);
        assert_eq!(outcome(Err(NoCapacity::NeverReached), 6.1), Outcome::CannotTell);
        assert_eq!(outcome(Err(NoCapacity::NeverMet), 9.0), Outcome::Fail);
        assert_eq!(outcome(Err(NoCapacity::NeverMet), 8.9), Outcome::CannotTell);
        assert_eq!(outcome(Err(NoCapacity::TooFewSteps), 1.0), Outcome::CannotTell);
    }

    #[test]
    fn an_slo_must_hold_up_to_the_load_that_is_asked_for() {
        let all = slos(&analysis(found(7.0, 8.0)), Demand::EveryStep);
        let outcomes: Vec<Outcome> = all.iter().map(Check::outcome).collect();
        assert_eq!(outcomes, [Outcome::Pass, Outcome::Pass, Outcome::Fail]);
        let some = slos(&analysis(found(7.0, 8.0)), Demand::UpTo(Rate(6.0)));
        assert_eq!(some.len(), 2);
        assert!(some.iter().all(|check| check.outcome() == Outcome::Pass));
    }

    #[test]
    fn a_search_must_hold_what_is_surely_within_its_capacity() {
        let analysis = analysis(found(7.0, 8.0));
        assert_eq!(demand(None, true, &analysis), Demand::UpTo(Rate(7.0)));
        assert_eq!(demand(None, false, &analysis), Demand::EveryStep);
        assert_eq!(demand(Some(Rate(3.0)), true, &analysis), Demand::UpTo(Rate(3.0)));
    }

    #[test]
    fn every_latency_of_the_slo_is_compared_once_where_nothing_is_named() {
        let slos: Vec<Slo> = ["ttft:p95:2s", "ttft:p99:3s", "error:rate:1%", "tpot:mean:80ms"]
            .map(|slo| slo.parse().unwrap())
            .to_vec();
        let limits: Vec<String> = default_regressions(&slos).iter().map(ToString::to_string).collect();
        assert_eq!(limits, ["ttft:mean:10%", "tpot:mean:10%"]);
    }
}
