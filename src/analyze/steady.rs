//! Steady state of a step: from when on it is measured, and whether requests in flight stayed level.

use super::Steadiness;
use super::steps::{in_flight_at, mean_in_flight};
use crate::measurement::{RequestOutcome, StepIndex, StepMark};
use crate::units::{Load, Seconds};
use std::collections::BTreeMap;

/// Below this many requests nothing is said about a steady state.
const LEAST_REQUESTS: usize = 10;
/// Length of a batch mean for MSER-5, the fewest of them that it is tried on, and the most, above which they
/// are made longer.
const BATCH: f64 = 5.0;
const LEAST_BATCHES: usize = 10;
const MOST_BATCHES: f64 = 500.0;
/// Relaxation times that a step is given to settle.
const RELAXATIONS: f64 = 3.0;
/// Batch means that the slope is taken over.
const MEANS: usize = 10;
/// 99 % quantile of Student's t for the slope of so many means.
const STUDENT: f64 = 2.896;
/// CUSUM of the batch means against their first half: allowance and decision limit, standard deviations.
const ALLOWANCE: f64 = 0.5;
const DECISION: f64 = 5.0;
/// Fewer requests in flight, at the start and at the end together, show no trend.
const LEAST_FOR_TREND: f64 = 20.0;
/// Growth below this share of the arrivals is no matter.
const LEAST_SHARE: f64 = 0.05;
/// Completions below this share of the arrivals do not keep up.
const KEEPS_UP: f64 = 0.98;

/// From when on a step is measured: after its warm-up; after the start-up that MSER-5 (White 1997) finds in the
/// number of requests in flight; and, in an open loop, after three relaxation times. The latter two are never
/// more than half of the step. A stretch of a continuous ramp has no start-up.
pub(super) fn settled(requests: &[RequestOutcome], mark: &StepMark) -> Seconds {
    if mark.hold_start <= mark.start {
        return mark.hold_start;
    }
    let length = mark.end - mark.start;
    let open = matches!(mark.load, Load::Rate(_));
    let relaxed = if open { relaxation(requests, mark.index) * RELAXATIONS } else { Seconds::ZERO };
    let start_up = mser(requests, mark).max(relaxed.min(length * 0.5));
    mark.hold_start.max(mark.start + start_up)
}

fn mser(requests: &[RequestOutcome], mark: &StepMark) -> Seconds {
    let length = (mark.end - mark.start).0;
    let batch = BATCH.max(length / MOST_BATCHES);
    let batches = (length / batch).floor() as usize;
    if batches < LEAST_BATCHES {
        return Seconds::ZERO;
    }
    let means = means(requests, mark.start, Seconds(batch), batches);
    let spread = |from: usize| {
        let rest = &means[from..];
        let mean = rest.iter().sum::<f64>() / rest.len() as f64;
        rest.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (rest.len() as f64).powi(2)
    };
    let cut = (0..=batches / 2).min_by(|a, b| spread(*a).total_cmp(&spread(*b))).unwrap_or(0);
    Seconds(batch * cut as f64)
}

/// How long a server that batches continuously takes to forget: e x W, where W is how long a request stays
/// and e, the elasticity of the batch, is W over its value without load, because both grow as (K + B) / K. The
/// latter is taken from the step in which requests stay the shortest.
fn relaxation(requests: &[RequestOutcome], step: StepIndex) -> Seconds {
    let mut stays: BTreeMap<StepIndex, (f64, usize)> = BTreeMap::new();
    for (step, stay) in requests.iter().filter_map(|request| Some((request.step, request.e2e()?))) {
        let (sum, n) = stays.entry(step).or_default();
        (*sum, *n) = (*sum + stay.0, *n + 1);
    }
    let mean = |(sum, n): &(f64, usize)| (*n >= LEAST_REQUESTS).then(|| sum / *n as f64);
    let alone = stays.values().filter_map(mean).fold(f64::INFINITY, f64::min);
    let stay = stays.get(&step).and_then(mean);
    stay.map_or(Seconds::ZERO, |stay| Seconds(stay * stay / alone))
}

fn means(requests: &[RequestOutcome], from: Seconds, length: Seconds, n: usize) -> Vec<f64> {
    let at = |i: usize| from + length * i as f64;
    (0..n).map(|i| mean_in_flight(requests, at(i), at(i + 1))).collect()
}

/// Whether requests in flight stayed level over the measured part. They grew where the count at the end is
/// above that at the start by more than chance (three standard deviations of a difference of two Poisson
/// counts), or where it is so by half as much, their trend is significant at 99 % or a CUSUM leaves its band,
/// and completions did not keep up with arrivals; and in any case by more than 5 % of what arrived.
pub(super) fn steadiness(requests: &[RequestOutcome], mark: &StepMark, attempts: usize) -> Steadiness {
    if attempts < LEAST_REQUESTS {
        return Steadiness::Unknown;
    }
    let (before, after) = (in_flight_at(requests, mark.hold_start), in_flight_at(requests, mark.end));
    let by = after - before;
    let chance = (before + after).max(1.0).sqrt();
    let means = means(requests, mark.hold_start, mark.hold() / MEANS as f64, MEANS);
    let behind = attempts as f64 - by < attempts as f64 * KEEPS_UP;
    let trend = before + after >= LEAST_FOR_TREND && (rises(&means) || leaves_band(&means));
    let grew = by > 3.0 * chance || (by > 1.5 * chance && behind && trend);
    if grew && by > LEAST_SHARE * attempts as f64 { Steadiness::Growing { by } } else { Steadiness::Steady }
}

/// Whether a straight line through the means rises beyond chance.
fn rises(means: &[f64]) -> bool {
    let n = means.len() as f64;
    let (middle, mean) = ((n - 1.0) / 2.0, means.iter().sum::<f64>() / n);
    let at = |i: usize| i as f64 - middle;
    let spread: f64 = (0..means.len()).map(|i| at(i).powi(2)).sum();
    let slope = means.iter().enumerate().map(|(i, value)| at(i) * (value - mean)).sum::<f64>() / spread;
    let rest: f64 = means.iter().enumerate().map(|(i, value)| (value - mean - slope * at(i)).powi(2)).sum();
    slope > STUDENT * (rest / (n - 2.0) / spread).sqrt()
}

/// Whether the second half runs away upwards from the first.
fn leaves_band(means: &[f64]) -> bool {
    let half = &means[..means.len() / 2];
    let mean = half.iter().sum::<f64>() / half.len() as f64;
    let variance = half.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (half.len() - 1) as f64;
    let deviation = variance.sqrt().max(1e-9);
    let mut sum = 0.0_f64;
    means[means.len() / 2..].iter().any(|value| {
        sum = (sum + (value - mean) / deviation - ALLOWANCE).max(0.0);
        sum > DECISION
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::Phase;
    use crate::units::Rate;

    #[test]
    fn a_loaded_step_settles_for_three_relaxation_times_and_at_most_for_half_of_it() {
        let request = |step: StepIndex, start: f64, stay: f64| RequestOutcome {
            id: 0,
            step,
            phase: Phase::Hold,
            scheduled: Seconds(start),
            sent: Some(Seconds(start)),
            first_token: Some(Seconds(start)),
            last_token: Some(Seconds(start + stay)),
            ended: None,
            input_tokens: Some(1),
            output_tokens: Some(2),
            chunks: 2,
            status: Some(200),
            error: None,
            replica: None,
        };
        let mut requests: Vec<_> = (0..100).map(|i| request(0, f64::from(i), 2.0)).collect();
        requests.extend((0..100).map(|i| request(1, 100.0 + f64::from(i), 4.0)));
        requests.extend((0..100).map(|i| request(2, 200.0 + f64::from(i), 8.0)));
        let mark = |index: StepIndex, load| StepMark {
            index,
            load,
            start: Seconds(f64::from(index) * 100.0),
            hold_start: Seconds(f64::from(index) * 100.0 + 5.0),
            end: Seconds(f64::from(index + 1) * 100.0),
        };
        let cut = |index, load| (settled(&requests, &mark(index, load)) - mark(index, load).start).0;
        let open = Load::Rate(Rate(1.0));
        assert_eq!([0, 1, 2].map(|index| cut(index, open)), [6.0, 24.0, 50.0], "3 W W / W(alone)");
        assert_eq!(cut(1, Load::Concurrency(4)), 5.0, "a closed loop forgets within its warm-up");
    }

    #[test]
    fn a_trend_beyond_chance_rises_and_noise_does_not() {
        let noise = [5.0, 6.1, 4.8, 5.5, 5.9, 4.7, 5.2, 6.0, 5.1, 5.4];
        assert!(!rises(&noise) && !leaves_band(&noise));
        let trend: Vec<f64> = noise.iter().zip(0..).map(|(value, i)| value + f64::from(i)).collect();
        assert!(rises(&trend) && leaves_band(&trend));
    }
}
