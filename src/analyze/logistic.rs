//! SLO capacity from client latencies alone: a logistic curve of violations over the logarithm of the load,
//! fitted to all requests of all steps together.
//!
//! Counts are pooled, never rates averaged: the mean of logarithms of short steps is optimistic. Violations
//! come in bursts, so the interval is widened by the dispersion that the steps show (quasi-binomial), with the
//! quantiles of Student's t for the few degrees of freedom that steps leave.

use super::slo;
use super::types::StepAnalysis;
use super::{Measured, steps};
use crate::units::{Limit, Slo, Stat};

/// The load at which one SLO is reached, with a 90 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Crossing {
    pub slo: Slo,
    pub load: f64,
    pub low: f64,
    pub high: f64,
}

/// Steps further than this factor from the bracket say nothing of the curve near the limit.
const REACH: f64 = 3.0;
const MOST_ROUNDS: usize = 60;
/// 95 % quantiles of Student's t with 1, 2, ... degrees of freedom; beyond, about the last.
const STUDENT: [f64; 10] = [6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812];

/// Violations of a step: logarithm of its load, violations, requests.
type Count = (f64, f64, f64);

/// The first SLO to be reached. `around`: the last load that holds and the first that fails. `None` where
/// steps and requests do not determine a curve.
pub(super) fn first_crossing(
    analyzed: &[StepAnalysis],
    measured: &Measured,
    slos: &[Slo],
    around: (f64, f64),
) -> Option<Crossing> {
    let near = |step: &&StepAnalysis| {
        step.is_judged() && (around.0 / REACH..=around.1 * REACH).contains(&step.carried(measured.replicas).0)
    };
    let near: Vec<&StepAnalysis> = analyzed.iter().filter(near).collect();
    let crossings = slos.iter().filter_map(|slo| {
        let counts: Option<Vec<Count>> = near
            .iter()
            .map(|step| {
                let attempts = steps::attempts(&step.mark, measured);
                let (broken, n) = slo::violations(*slo, &attempts, slos)?;
                Some((step.carried(measured.replicas).0.ln(), broken, n))
            })
            .collect();
        crossing(*slo, &counts?, allowed(slo)?)
    });
    crossings.min_by(|a, b| a.load.total_cmp(&b.load))
}

/// The share of requests that may break a limit.
fn allowed(slo: &Slo) -> Option<f64> {
    match (slo.stat, slo.limit) {
        (Stat::Percentile(percent), Limit::AtMost(_)) => Some(1.0 - percent / 100.0),
        (_, Limit::ShareAtMost(share)) => Some(share),
        (_, Limit::ShareAtLeast(share)) => Some(1.0 - share),
        _ => None,
    }
    .filter(|share| (1e-6..1.0).contains(share))
}

fn crossing(slo: Slo, counts: &[Count], allowed: f64) -> Option<Crossing> {
    let counts: Vec<Count> = counts.iter().copied().filter(|(_, _, n)| *n > 0.0).collect();
    let between = counts.iter().filter(|(_, broken, n)| *broken > 0.0 && broken < n).count();
    if counts.len() < 3 || between == 0 {
        return None;
    }
    let center = counts.iter().map(|c| c.0 * c.2).sum::<f64>() / counts.iter().map(|c| c.2).sum::<f64>();
    let (level, slope, covariance) = fit(&counts, center)?;
    let free = counts.len() - 2;
    let chi: f64 = counts
        .iter()
        .map(|(load, broken, n)| {
            let p = probability(level, slope, load - center);
            (broken - n * p).powi(2) / (n * p * (1.0 - p)).max(1e-9)
        })
        .sum();
    let dispersion = (chi / free as f64).max(1.0);
    let at = ((allowed / (1.0 - allowed)).ln() - level) / slope;
    let [a, ab, b] = covariance;
    let variance = dispersion * (a + 2.0 * at * ab + at * at * b) / (slope * slope);
    let half = STUDENT[(free - 1).min(STUDENT.len() - 1)] * variance.max(0.0).sqrt();
    let load = |at: f64| (at + center).exp();
    (half.is_finite() && half < 2.0).then(|| Crossing {
        slo,
        load: load(at),
        low: load(at - half),
        high: load(at + half),
    })
}

fn probability(level: f64, slope: f64, x: f64) -> f64 {
    1.0 / (1.0 + (-(level + slope * x)).exp())
}

/// Maximum likelihood by Newton's method: level, slope and their covariance. `None` where it does not end, or
/// the curve does not rise.
fn fit(counts: &[Count], center: f64) -> Option<(f64, f64, [f64; 3])> {
    let (mut level, mut slope) = (0.0, 1.0);
    for _ in 0..MOST_ROUNDS {
        let (mut gradient, mut a, mut ab, mut b) = ([0.0; 2], 0.0, 0.0, 0.0);
        for (load, broken, n) in counts {
            let x = load - center;
            let p = probability(level, slope, x);
            let weight = (n * p * (1.0 - p)).max(1e-12);
            gradient[0] += broken - n * p;
            gradient[1] += (broken - n * p) * x;
            (a, ab, b) = (a + weight, ab + weight * x, b + weight * x * x);
        }
        let determinant = a * b - ab * ab;
        if determinant.is_nan() || determinant <= 1e-12 {
            return None;
        }
        let covariance = [b / determinant, -ab / determinant, a / determinant];
        let step = [
            covariance[0] * gradient[0] + covariance[1] * gradient[1],
            covariance[1] * gradient[0] + covariance[2] * gradient[1],
        ];
        // A step too far throws the weights to nothing.
        let shorten = (3.0 / step[0].hypot(step[1])).min(1.0);
        (level, slope) = (level + step[0] * shorten, slope + step[1] * shorten);
        if step[0].abs() + step[1].abs() < 1e-9 {
            return (slope > 0.0 && slope < 1e3).then_some((level, slope, covariance));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logistic_curve_is_found_again_and_its_crossing_lies_in_the_interval() {
        let slo: Slo = "ttft:p95:2s".parse().unwrap();
        let (level, slope) = (-1.0, 9.0);
        let counts: Vec<Count> = [1.0, 2.0, 3.0, 3.5, 4.0, 5.0]
            .map(|load: f64| {
                let n = 2000.0;
                (load.ln(), (n * probability(level, slope, load.ln() - 1.2)).round(), n)
            })
            .into();
        let found = crossing(slo, &counts, 0.05).unwrap();
        let truth = (((0.05_f64 / 0.95).ln() - level) / slope + 1.2).exp();
        assert!((found.load / truth - 1.0).abs() < 0.01, "{found:?} for {truth}");
        assert!(found.low < truth && truth < found.high && found.high / found.low < 1.1, "{found:?}");
    }

    #[test]
    fn steps_that_all_hold_or_all_fail_determine_no_curve() {
        let slo: Slo = "ttft:p95:2s".parse().unwrap();
        let all = |broken: f64| [(0.0, broken, 100.0), (0.5, broken, 100.0), (1.0, broken, 100.0)];
        assert_eq!(crossing(slo, &all(0.0), 0.05), None);
        assert_eq!(crossing(slo, &all(100.0), 0.05), None);
        let falling = [(0.0, 60.0, 100.0), (0.5, 30.0, 100.0), (1.0, 10.0, 100.0)];
        assert_eq!(crossing(slo, &falling, 0.05), None);
    }
}
