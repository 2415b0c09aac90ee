//! Whether a run is worse than its baselines, by more than chance and by how much at least and at most.
//!
//! Steps are matched by their load. A figure's change is the mean over the loads of the logarithm of its ratio,
//! each weighted by its requests. Its scatter comes from a bootstrap over blocks of time, since neighbors share
//! what chance did to them; where the runs sent the same requests at the same times, all of them are drawn
//! together, so that what is common to them cancels. To that comes how runs of one server differ: what is
//! assumed, or what several baselines show where that is more.
//!
//! A regression limit is the regression that must not slip through. With the bounds of one-sided 95 %
//! intervals: **fail** if a regression is sure and one of the limit cannot be ruled out; **pass** if one of the
//! limit is ruled out; **cannot tell** if neither. So equal runs fail in at most 5 % of comparisons, and a
//! regression of the limit passes in at most 5 %. With several checks the first 5 % are shared by all of them.

mod capacity;
mod matching;
mod quantiles;
mod sample;

use super::{Capacity, NoCapacity, StepAnalysis};
use crate::measurement::{GapInterval, Load, RequestOutcome};
use crate::units::{Compared, MaxRegression, Replicas, Seconds, Slo, SloMetric};
use matching::Matched;
use quantiles::{chi_squared, normal, student};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sample::{Sample, draw};

/// The standard deviation by which runs of one server are assumed to differ beyond their own noise, as a share.
pub const RUN_TO_RUN: f64 = 0.01;
/// Equal runs fail at most so often, all checks together, and a regression of the limit passes at most so often.
pub const ERROR: f64 = 0.05;
/// How often a regression is to be seen, where a length is asked for.
const POWER: f64 = 0.9;
const REPLICATES: usize = 300;
/// Draws in which failures reach the rank of a percentile, beyond which its scatter is unknown.
const INFINITE_MOST: f64 = 0.05;

/// What is compared of one run.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Request attempts in any order.
    pub requests: &'a [RequestOutcome],
    /// The steps as analyzed.
    pub steps: &'a [StepAnalysis],
    /// Inter-token gaps over time; may be empty where no check needs them.
    pub gaps: &'a [GapInterval],
    /// Replicas that shared the load.
    pub replicas: Replicas,
    /// The load within the SLO.
    pub capacity: &'a Result<Capacity, NoCapacity>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It holds.
    Pass,
    /// Neither can be said with what was measured.
    CannotTell,
    /// It does not hold.
    Fail,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What was to be compared.
    pub limit: MaxRegression,
    /// How it came out.
    pub outcome: Outcome,
    /// The relative change of the figure, all loads together.
    pub change: Option<Change>,
    /// The same for each load.
    pub loads: Vec<LoadChange>,
    /// Requests of the run that were compared.
    pub requests: usize,
    /// Whether all runs sent the same requests at the same times.
    pub paired: bool,
    /// How many times as long the measured parts would have to be to see a regression of the limit in nine of
    /// ten runs. `None`: no length would do, or it is not known.
    pub longer: Option<f64>,
    /// The length of the whole run with measured parts so much longer.
    pub length: Option<Seconds>,
    /// The smallest regression that is seen in nine of ten runs, as a share.
    pub detectable: Option<f64>,
    /// What else must be known: why nothing can be said, or what the interval carries.
    pub remarks: Vec<String>,
}

/// A relative change with the bounds that it is judged by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Run over baseline, less 1.
    pub by: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// A change at one load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadChange {
    /// The load.
    pub load: Load,
    /// The figure in the baselines, their geometric mean: seconds, a share, tokens per second.
    pub baseline: f64,
    /// The figure in the run.
    pub run: f64,
    /// The change.
    pub change: Change,
}

/// Why a figure cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
enum Refusal {
    #[error("the server does not say its output tokens, which {} needs", .0.word())]
    NotSaid(SloMetric),
    #[error("there is nothing to compute {0} from")]
    Empty(Compared),
    #[error("the capacity is compared as a whole")]
    NotPerLoad,
}

/// Compares a run with its baselines. Goodput is judged by `slos`.
pub fn compare(run: &Side, baselines: &[Side], limits: &[MaxRegression], slos: &[Slo]) -> Vec<Comparison> {
    let (matched, remarks) = matching::matched(run, baselines);
    let error = ERROR / limits.len().max(1) as f64;
    let one = |limit: &MaxRegression| match limit.of {
        Compared::Capacity => capacity::compare(run, baselines, *limit, error),
        _ if matched.is_empty() => cannot_tell(*limit, remarks.clone()),
        _ => {
            let mut comparison = at_loads(run, baselines, *limit, &matched, slos, error)
                .unwrap_or_else(|reason| cannot_tell(*limit, vec![reason.to_string()]));
            comparison.remarks.extend(remarks.iter().cloned());
            comparison
        }
    };
    let with_length = |comparison: Comparison| Comparison {
        length: comparison.longer.map(|longer| run_length(run.steps, longer)),
        ..comparison
    };
    limits.iter().map(one).map(with_length).collect()
}

fn cannot_tell(limit: MaxRegression, remarks: Vec<String>) -> Comparison {
    Comparison {
        limit,
        outcome: Outcome::CannotTell,
        change: None,
        loads: Vec::new(),
        requests: 0,
        paired: false,
        longer: None,
        length: None,
        detectable: None,
        remarks,
    }
}

/// The samples of one load: the run's and those of the baselines.
struct AtLoad<'a> {
    matched: &'a Matched<'a>,
    run: Sample,
    baselines: Vec<Sample>,
    weight: f64,
}

impl AtLoad<'_> {
    /// By how much the run is worse, as a logarithm, with these blocks of the run and of each baseline.
    fn worse(&self, of: Compared, run: &[u32], baselines: &[Vec<u32>]) -> f64 {
        let base = self.baselines.iter().zip(baselines).map(|(sample, times)| sample.figure(times).ln());
        let change = self.run.figure(run).ln() - base.sum::<f64>() / baselines.len() as f64;
        if of.more_is_worse() { change } else { -change }
    }

    fn blocks(&self) -> usize {
        self.matched.window.blocks
    }

    fn once(&self) -> Vec<u32> {
        vec![1; self.blocks()]
    }

    /// With every block once.
    fn as_measured(&self, of: Compared) -> f64 {
        self.worse(of, &self.once(), &vec![self.once(); self.baselines.len()])
    }

    fn shown(&self, change: Change) -> LoadChange {
        let base: f64 = self.baselines.iter().map(|sample| sample.figure(&self.once()).ln()).sum();
        LoadChange {
            load: self.matched.run.mark.load,
            baseline: (base / self.baselines.len() as f64).exp(),
            run: self.run.figure(&self.once()),
            change,
        }
    }

    fn redrawn(&self, of: Compared, rng: &mut ChaCha8Rng) -> f64 {
        let run = draw(rng, self.blocks());
        let other =
            |rng: &mut ChaCha8Rng| if self.matched.paired { run.clone() } else { draw(rng, self.blocks()) };
        let baselines: Vec<Vec<u32>> = self.baselines.iter().map(|_| other(rng)).collect();
        self.worse(of, &run, &baselines)
    }
}

fn at_loads(
    run: &Side,
    baselines: &[Side],
    limit: MaxRegression,
    matched: &[Matched],
    slos: &[Slo],
    error: f64,
) -> Result<Comparison, Refusal> {
    let mut loads = Vec::new();
    for matched in matched {
        let sample = |side: &Side, step| Sample::of(side, step, &matched.window, limit.of, slos);
        let others = baselines.iter().zip(&matched.baselines);
        let at = AtLoad {
            matched,
            run: sample(run, matched.run)?,
            baselines: others.map(|(side, step)| sample(side, step)).collect::<Result<_, _>>()?,
            weight: matched.requests as f64,
        };
        loads.push(at);
    }
    let total: f64 = loads.iter().map(|at| at.weight).sum();
    for at in &mut loads {
        at.weight /= total;
    }
    Ok(judge(&loads, limit, error))
}

/// Scatter of the loads' changes and of their mean, by redrawing blocks. `None`: unknown.
fn scatter(loads: &[AtLoad], of: Compared) -> Option<(Vec<f64>, f64)> {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut sums = vec![(0.0, 0.0); loads.len() + 1];
    let mut n = 0.0;
    for _ in 0..REPLICATES {
        let mut changes: Vec<f64> = loads.iter().map(|at| at.redrawn(of, &mut rng)).collect();
        changes.push(loads.iter().zip(&changes).map(|(at, change)| at.weight * change).sum());
        if changes.iter().all(|change| change.is_finite()) {
            n += 1.0;
            for (sum, change) in sums.iter_mut().zip(changes) {
                *sum = (sum.0 + change, sum.1 + change * change);
            }
        }
    }
    if n < REPLICATES as f64 * (1.0 - INFINITE_MOST) {
        return None;
    }
    // So few blocks scatter less than what they stand for.
    let few = |blocks: f64| blocks / (blocks - 1.0);
    let blocks = loads.iter().map(AtLoad::blocks).min().unwrap_or(2) as f64;
    let variance =
        |(sum, squares): &(f64, f64)| ((squares - sum * sum / n) / (n - 1.0)).max(0.0) * few(blocks);
    let mut deviations: Vec<f64> = sums.iter().map(|sums| variance(sums).sqrt()).collect();
    let mean = deviations.pop()?;
    Some((deviations, mean))
}

fn judge(loads: &[AtLoad], limit: MaxRegression, error: f64) -> Comparison {
    let of = limit.of;
    let requests = loads.iter().map(|at| at.matched.requests).sum();
    let paired = loads.iter().all(|at| at.matched.paired);
    let nothing = |(outcome, reason): (Outcome, &str)| Comparison {
        outcome,
        requests,
        paired,
        ..cannot_tell(limit, vec![reason.to_owned()])
    };
    if let Some(failures) = failures(loads, of.more_is_worse()) {
        return nothing(failures);
    }
    let Some((deviations, within)) = scatter(loads, of) else {
        let reason = "failures lie so near the figure's rank that its scatter is unknown";
        return nothing((Outcome::CannotTell, reason));
    };
    let changes: Vec<f64> = loads.iter().map(|at| at.as_measured(of)).collect();
    let mean: f64 = loads.iter().zip(&changes).map(|(at, change)| at.weight * change).sum();
    let df: usize = loads.iter().map(|at| at.blocks() - 1).sum();
    let spread = Spread::of(within, &pooled(loads), df);
    let judged = spread.judge(mean, limit, error);
    let (mut shown, mut beyond) = (Vec::new(), Vec::new());
    for (at, (change, deviation)) in loads.iter().zip(changes.iter().zip(&deviations)) {
        let spread = Spread { within: *deviation, ..spread.clone() };
        let (low, high) = spread.bounds(*change, error / loads.len() as f64, ERROR);
        shown.push(at.shown(Change::of(of, *change, low, high)));
        if low > judged.limit && judged.outcome != Outcome::Fail {
            beyond.push(at.matched.run.mark.load.to_string());
        }
    }
    Comparison {
        limit,
        outcome: if beyond.is_empty() { judged.outcome } else { Outcome::Fail },
        change: Some(judged.change),
        loads: shown,
        requests,
        paired,
        longer: judged.longer,
        length: None,
        detectable: Some(judged.detectable),
        remarks: spread.remarks().into_iter().chain(of_loads(limit, &beyond)).collect(),
    }
}

/// What is said of loads at which more than the limit is sure, whatever the mean over all loads is.
fn of_loads(limit: MaxRegression, beyond: &[String]) -> Option<String> {
    let loads = beyond.join(" and at ");
    (!beyond.is_empty()).then(|| format!("{}: beyond the limit for sure at {loads} alone", limit.of))
}

/// What is said where failures leave a figure infinite, or at nothing.
fn failures(loads: &[AtLoad], more_is_worse: bool) -> Option<(Outcome, &'static str)> {
    let of = |sample: &Sample, at: &AtLoad| sample.figure(&at.once());
    if more_is_worse && loads.iter().any(|at| of(&at.run, at) == 0.0) {
        return Some((Outcome::CannotTell, "the run's figure is 0, of which there is no ratio"));
    }
    let broken = |sample: &Sample, at: &AtLoad| {
        let figure = sample.figure(&at.once());
        !figure.is_finite() || figure <= 0.0
    };
    if loads.iter().any(|at| at.baselines.iter().any(|sample| broken(sample, at))) {
        let reason = "a baseline has no finite figure, or 0: too many of its requests failed or broke limits";
        return Some((Outcome::CannotTell, reason));
    }
    let reason = "the run has no finite figure, or 0, and the baselines have one: too many of its requests failed \
                  or broke limits";
    loads.iter().any(|at| broken(&at.run, at)).then_some((Outcome::Fail, reason))
}

/// Each baseline's own level: the mean logarithm of its figure over the loads.
fn pooled(loads: &[AtLoad]) -> Vec<f64> {
    let n = loads.first().map_or(0, |at| at.baselines.len());
    let level = |i: usize| {
        let of = |at: &AtLoad| at.weight * at.baselines[i].figure(&at.once()).ln();
        loads.iter().map(of).sum()
    };
    (0..n).map(level).collect()
}

/// How far a change may lie from the truth.
#[derive(Debug, Clone)]
struct Spread {
    /// One standard deviation of the change from what happened within the runs.
    within: f64,
    /// One standard deviation of a single run beyond that.
    between: f64,
    /// What the baselines show among themselves, where it is more than what is expected of them.
    seen: Option<f64>,
    baselines: usize,
    df: usize,
}

/// A judged change.
struct Judged {
    outcome: Outcome,
    change: Change,
    limit: f64,
    longer: Option<f64>,
    detectable: f64,
}

impl Spread {
    /// `levels` are the baselines' own, as logarithms; `within` is the scatter of the run against their mean.
    fn of(within: f64, levels: &[f64], df: usize) -> Spread {
        let baselines = levels.len();
        let spread = Spread { within, between: RUN_TO_RUN, seen: None, baselines, df };
        if baselines < 2 {
            return spread;
        }
        let mean = levels.iter().sum::<f64>() / baselines as f64;
        let freedom = baselines - 1;
        let seen = levels.iter().map(|level| (level - mean).powi(2)).sum::<f64>() / freedom as f64;
        let noise = within.powi(2) / spread.runs();
        let expected = noise + RUN_TO_RUN.powi(2);
        if seen * freedom as f64 <= expected * chi_squared(1.0 - ERROR, freedom) {
            return spread;
        }
        let between = (seen - noise).max(RUN_TO_RUN.powi(2)).sqrt();
        Spread { between, seen: Some(seen.sqrt()), df: freedom, ..spread }
    }

    /// The variance of the difference between one run and the mean of the baselines, in variances of a run.
    fn runs(&self) -> f64 {
        1.0 + 1.0 / self.baselines.max(1) as f64
    }

    fn deviation(&self) -> f64 {
        (self.within.powi(2) + self.between.powi(2) * self.runs()).sqrt()
    }

    /// Bounds that lie too high, and too low, with these probabilities at most.
    fn bounds(&self, change: f64, low: f64, high: f64) -> (f64, f64) {
        let deviation = self.deviation();
        (change - student(1.0 - low, self.df) * deviation, change + student(1.0 - high, self.df) * deviation)
    }

    fn judge(&self, change: f64, limit: MaxRegression, error: f64) -> Judged {
        let (low, high) = self.bounds(change, error, ERROR);
        let most = if limit.of.more_is_worse() { limit.share.ln_1p() } else { -(-limit.share).ln_1p() };
        let seen_from = student(1.0 - error, self.df) + normal(POWER);
        let wanted = (most / seen_from).powi(2) - self.between.powi(2) * self.runs();
        Judged {
            outcome: outcome(low, high, most),
            change: Change::of(limit.of, change, low, high),
            limit: most,
            longer: (wanted > 0.0).then(|| self.within.powi(2) / wanted),
            detectable: Change::of(limit.of, seen_from * self.deviation(), 0.0, 0.0).by.abs(),
        }
    }

    fn remarks(&self) -> Vec<String> {
        let seen = self.seen.map(|seen| {
            format!(
                "the {} baselines differ by {:.1} % among themselves (standard deviation), more than their own \
                 noise explains: the interval carries that",
                self.baselines,
                seen * 100.0
            )
        });
        seen.into_iter().collect()
    }
}

/// The verdict on a change between two bounds, both as logarithms, where more is worse.
fn outcome(low: f64, high: f64, limit: f64) -> Outcome {
    match (high < limit, low > 0.0) {
        (true, _) => Outcome::Pass,
        (false, true) => Outcome::Fail,
        (false, false) => Outcome::CannotTell,
    }
}

impl Change {
    /// From logarithms where more is worse.
    fn of(of: Compared, worse: f64, low: f64, high: f64) -> Change {
        if of.more_is_worse() {
            Change { by: worse.exp_m1(), low: low.exp_m1(), high: high.exp_m1() }
        } else {
            Change { by: (-worse).exp_m1(), low: (-high).exp_m1(), high: (-low).exp_m1() }
        }
    }
}

/// The length of a whole run whose measured parts are `longer` times as long.
fn run_length(steps: &[StepAnalysis], longer: f64) -> Seconds {
    let of =
        |step: &StepAnalysis| (step.mark.hold_start - step.mark.start) + step.mark.hold() * longer.max(1.0);
    steps.iter().map(of).sum()
}

#[cfg(test)]
mod tests;
