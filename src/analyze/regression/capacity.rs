//! The capacity against that of the baselines, each with the interval of its own run.

use super::{Change, Comparison, Side, Spread, cannot_tell, outcome};
use crate::analyze::{Capacity, Method, NoCapacity, StepAnalysis};
use crate::units::MaxRegression;

/// Standard deviations on either side of a 90 % interval.
const NINETY_PERCENT: f64 = 1.645;
/// Degrees of freedom of an interval that many scrapes or requests made.
const MANY: usize = 60;

pub(super) fn compare(run: &Side, baselines: &[Side], limit: MaxRegression, error: f64) -> Comparison {
    let mut known = Vec::new();
    for side in baselines {
        match side.capacity {
            Ok(capacity) => known.push(capacity),
            Err(reason) => return cannot_tell(limit, vec![format!("a baseline has no capacity: {reason}")]),
        }
    }
    match run.capacity {
        Ok(capacity) if capacity.replicas != known[0].replicas => {
            cannot_tell(limit, vec!["the capacities are for different numbers of replicas".to_owned()])
        }
        Ok(capacity) if known.iter().chain([&capacity]).all(|c| c.method != Method::Interpolation) => {
            by_intervals(capacity, &known, limit, error)
        }
        Ok(capacity) => by_bounds((capacity.low.0, capacity.high.0), Some(capacity), &known, limit),
        Err(NoCapacity::NeverReached) => {
            let mut comparison = by_bounds((highest(run), f64::INFINITY), None, &known, limit);
            comparison
                .remarks
                .push("every step of the run holds the SLO: its capacity is above the highest".to_owned());
            comparison
        }
        Err(NoCapacity::NeverMet) => {
            let mut comparison = by_bounds((0.0, lowest_broken(run)), None, &known, limit);
            comparison
                .remarks
                .push("no step of the run holds the SLO: its capacity is below the lowest".to_owned());
            comparison
        }
        Err(reason) => cannot_tell(limit, vec![format!("the run has no capacity: {reason}")]),
    }
}

fn highest(run: &Side) -> f64 {
    let carried = |step: &StepAnalysis| step.carried(run.replicas).0;
    run.steps.iter().filter(|step| step.holds()).map(carried).fold(0.0, f64::max)
}

fn lowest_broken(run: &Side) -> f64 {
    let broken = run.steps.iter().filter(|step| step.is_judged() && !step.holds());
    broken.map(|step| step.carried(run.replicas).0).fold(f64::INFINITY, f64::min)
}

fn by_intervals(run: &Capacity, known: &[&Capacity], limit: MaxRegression, error: f64) -> Comparison {
    let variance = |c: &Capacity| ((c.high.0 / c.low.0).ln() / (2.0 * NINETY_PERCENT)).powi(2);
    let n = known.len() as f64;
    let levels: Vec<f64> = known.iter().map(|c| c.per_replica.0.ln()).collect();
    let within = (variance(run) + known.iter().map(|c| variance(c)).sum::<f64>() / (n * n)).sqrt();
    let spread = Spread::of(within, &levels, MANY);
    let worse = levels.iter().sum::<f64>() / n - run.per_replica.0.ln();
    let judged = spread.judge(worse, limit, error);
    Comparison {
        outcome: judged.outcome,
        change: Some(judged.change),
        detectable: Some(judged.detectable),
        longer: judged.longer,
        ..cannot_tell(limit, spread.remarks())
    }
}

/// Where the intervals are bounds and no distribution: the worst and the best that they allow.
fn by_bounds(
    run: (f64, f64),
    middle: Option<&Capacity>,
    known: &[&Capacity],
    limit: MaxRegression,
) -> Comparison {
    let low = known.iter().map(|c| c.low.0).fold(f64::INFINITY, f64::min);
    let high = known.iter().map(|c| c.high.0).fold(0.0, f64::max);
    let (least, most) = ((low / run.1).ln(), (high / run.0).ln());
    let mean = known.iter().map(|c| c.per_replica.0.ln()).sum::<f64>() / known.len() as f64;
    let worse = middle.map_or(f64::NEG_INFINITY, |c| mean - c.per_replica.0.ln());
    Comparison {
        outcome: outcome(least, most, -(-limit.share).ln_1p()),
        change: middle.map(|_| Change::of(limit.of, worse, least, most)),
        ..cannot_tell(limit, Vec::new())
    }
}
