//! Whether the server stayed the same: every forward of a real one can become a millisecond longer from
//! one minute to the next, which moves its capacity by more than all sampling errors together.

use super::Interval;
use crate::batching::ServerModel;
use crate::measurement::StepMark;
use crate::units::Seconds;
use serde::Serialize;

/// How steady a server was.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Drift {
    /// For each step, how far its mean decode time lies from the common fit, as a share of it.
    pub steps: Vec<f64>,
    /// For each step, how far its prefills lie from the common fit, as a share of it. They hang on the host
    /// more than decodes do: on an H100 under PyTorch, prefills of equal work took 14 % less to 45 % more from
    /// step to step, while decodes kept to 0.7 % (`tests/gpu/engine.py`).
    pub prefills: Vec<f64>,
    /// Root mean square of those, weighted by the number of prefills, less what chance within steps explains.
    pub prefill_scatter: f64,
    /// Moments from which on every forward took longer or shorter, in order. What was measured before is
    /// brought to the level after the last.
    pub changes: Vec<Change>,
}

/// A lasting change.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// When.
    pub at: Seconds,
    /// By how much each forward is longer since.
    pub shift: Seconds,
    /// The same as a share of the mean decode time.
    pub share: f64,
}

/// Changes are looked for so often.
const MOST_CHANGES: usize = 3;
/// A change is at least this share of a decode, and so many times its standard error: the moment is
/// searched, so that chance has many tries.
const LEAST_SHARE: f64 = 0.012;
const LEAST_SIGMAS: f64 = 8.0;
/// Intervals are compared within so many classes of equal batch.
const CLASSES: usize = 12;
/// No change is looked for within so many intervals of either end.
const MARGIN: usize = 15;

impl Drift {
    /// The largest deviation of a step, and of any change from `time` on.
    pub fn since(&self, time: Seconds) -> f64 {
        let changes = self.changes.iter().filter(|change| change.at >= time).map(|change| change.share.abs());
        self.steps.iter().map(|share| share.abs()).chain(changes).fold(0.0, f64::max)
    }

    /// The largest deviation of a step or change.
    pub fn most(&self) -> f64 {
        self.since(Seconds(f64::NEG_INFINITY))
    }

    /// Root mean square of the steps' deviations.
    pub fn scatter(&self) -> f64 {
        super::mean(self.steps.iter().map(|share| share * share)).sqrt()
    }
}

/// Finds lasting changes in intervals that are in the order of time, and brings all to the last level.
pub(super) fn level(intervals: &mut [Interval], chunking: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < MOST_CHANGES {
        let Some(change) = find(intervals, chunking) else { break };
        for interval in intervals.iter_mut().filter(|interval| interval.end < change.at) {
            interval.decode_seconds += change.shift.0 * interval.decodes;
            interval.prefill_seconds += change.shift.0 * interval.prefills;
            interval.length = interval.length + change.shift * (interval.decodes + interval.prefills);
        }
        changes.push(change);
    }
    changes.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
    changes
}

/// One interval as the search for changes sees it.
struct Point {
    end: Seconds,
    batch: f64,
    weight: f64,
    /// Mean decode time less what the straight line says.
    rest: f64,
    class: usize,
}

/// The clearest change: mean decode times before and after, compared at equal batches.
fn find(intervals: &[Interval], chunking: bool) -> Option<Change> {
    let points = points(intervals, chunking)?;
    let mut total = [(0.0, 0.0, 0.0); CLASSES];
    for point in &points {
        let sums = &mut total[point.class];
        sums.0 += point.weight;
        sums.1 += point.weight * point.rest;
        sums.2 += point.weight * point.rest * point.rest;
    }
    let within: f64 = total.iter().filter(|t| t.0 > 0.0).map(|t| t.2 - t.1 * t.1 / t.0).sum();
    let mut before = [(0.0, 0.0); CLASSES];
    let mut best: Option<(f64, usize, f64)> = None;
    for (i, point) in points.iter().enumerate() {
        if (MARGIN..points.len().saturating_sub(MARGIN)).contains(&i) && point.end > points[i - 1].end {
            // Least squares of a level per class and one step: overlap of before and after in each class.
            let (mut cross, mut overlap) = (0.0, 0.0);
            for (b, t) in before.iter().zip(&total) {
                let (after, n) = (t.0 - b.0, t.0);
                if b.0 > 0.0 && after > 0.0 {
                    overlap += b.0 * after / n;
                    cross += b.0 * after / n * ((t.1 - b.1) / after - b.1 / b.0);
                }
            }
            if overlap > 0.0 {
                let shift = cross / overlap;
                let left = (within - cross * shift) / (points.len() - CLASSES - 1) as f64;
                let sigmas = (shift * shift * overlap / left.max(1e-30)).sqrt();
                if best.is_none_or(|best| sigmas > best.0) {
                    best = Some((sigmas, i, shift));
                }
            }
        }
        before[point.class].0 += point.weight;
        before[point.class].1 += point.weight * point.rest;
    }
    let (sigmas, at, shift) = best?;
    let decode = mean_decode(intervals);
    let clear = sigmas >= LEAST_SIGMAS && (shift / decode).abs() >= LEAST_SHARE;
    clear.then(|| Change { at: points[at].end, shift: Seconds(shift), share: shift / decode })
}

fn mean_decode(intervals: &[Interval]) -> f64 {
    let seconds: f64 = intervals.iter().map(|i| i.decode_seconds).sum();
    seconds / intervals.iter().map(|i| i.decodes).sum::<f64>().max(1.0)
}

fn points(intervals: &[Interval], chunking: bool) -> Option<Vec<Point>> {
    let seen = |interval: &Interval| {
        let batch = interval.mean_batch(chunking).filter(|batch| *batch > 0.0 && interval.decodes > 0.0)?;
        let rest = interval.decode_seconds / interval.decodes;
        Some(Point { end: interval.end, batch, weight: interval.decodes, rest, class: 0 })
    };
    let mut points: Vec<Point> = intervals.iter().filter_map(seen).collect();
    if points.len() < 4 * MARGIN {
        return None;
    }
    let n: f64 = points.iter().map(|p| p.weight).sum();
    let mean = |of: &dyn Fn(&Point) -> f64| points.iter().map(|p| p.weight * of(p)).sum::<f64>() / n;
    let (batch, length) = (mean(&|p| p.batch), mean(&|p| p.rest));
    let spread = mean(&|p| (p.batch - batch).powi(2));
    let slope = if spread > 0.0 { mean(&|p| (p.batch - batch) * (p.rest - length)) / spread } else { 0.0 };
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| points[*a].batch.total_cmp(&points[*b].batch));
    let size = points.len().div_ceil(CLASSES);
    for (place, i) in order.into_iter().enumerate() {
        points[i].class = place / size;
        points[i].rest -= slope * points[i].batch;
    }
    Some(points)
}

/// How far the mean decode time of each step lies from what the fitted server takes for its batches.
pub(super) fn of_steps(
    intervals: &[Interval],
    marks: &[StepMark],
    model: &ServerModel,
    chunking: bool,
) -> Vec<f64> {
    let of_step = |mark: &StepMark| {
        let inside = intervals.iter().filter(|interval| (mark.start.0..mark.end.0).contains(&interval.end.0));
        let (mut seen, mut fitted) = (0.0, 0.0);
        for interval in inside {
            let batch = interval.mean_batch(chunking).unwrap_or(0.0);
            seen += interval.decode_seconds;
            fitted += interval.decodes * model.mean_decode(batch).0;
        }
        if fitted > 0.0 { seen / fitted - 1.0 } else { 0.0 }
    };
    marks.iter().map(of_step).collect()
}

/// The same for prefills, and how far they scatter beyond chance. Which prompts a replica was given is known of
/// all replicas together only.
pub(super) fn of_prefills(
    rounds: &[Vec<Interval>],
    marks: &[StepMark],
    model: &ServerModel,
    chunking: bool,
) -> (Vec<f64>, f64) {
    let per_sequence = model.prefill_per_sequence.unwrap_or(model.decode_per_sequence).0;
    let carried = |i: &Interval| if chunking { i.mean_batch(true).unwrap_or(0.0) * i.prefills } else { 0.0 };
    // Prefills, their seconds, and what the fitted server takes for them.
    let of_round = |round: &Vec<Interval>| {
        let sum = |of: &dyn Fn(&Interval) -> f64| round.iter().map(of).sum::<f64>();
        let (count, tokens) = (sum(&|i| i.prefills), sum(&|i| i.input_tokens) / round.len() as f64);
        let fitted =
            count * model.prefill_base.0 + tokens * model.prefill_per_token.0 + sum(&carried) * per_sequence;
        (count, sum(&|i| i.prefill_seconds), fitted)
    };
    let (mut shares, mut weight, mut squares) = (Vec::new(), 0.0, 0.0);
    for mark in marks {
        let inside = |round: &&Vec<Interval>| (mark.start.0..mark.end.0).contains(&round[0].end.0);
        let seen: Vec<(f64, f64, f64)> = rounds.iter().filter(inside).map(of_round).collect();
        let sum = |of: fn(&(f64, f64, f64)) -> f64| seen.iter().map(of).sum::<f64>();
        let (count, fitted, n) = (sum(|s| s.0), sum(|s| s.2), seen.len() as f64);
        if fitted <= 0.0 || n < 2.0 {
            shares.push(0.0);
            continue;
        }
        let share = sum(|s| s.1) / fitted - 1.0;
        let rest: f64 = seen.iter().map(|s| (s.1 - (1.0 + share) * s.2).powi(2)).sum();
        let chance = rest * n / (n - 1.0) / (fitted * fitted);
        shares.push(share);
        weight += count;
        squares += count * (share * share - chance);
    }
    (shares, if weight > 0.0 { (squares / weight).max(0.0).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minute at low, high, low and high load; from `from` on each forward takes `shift` longer.
    fn intervals(from: f64, shift: f64) -> Vec<Interval> {
        (0..240)
            .map(|i| {
                let time = f64::from(i);
                let high = (i / 60) % 2 == 1;
                // Loads wander, so that some batches are seen in every minute.
                let batch = if high { 12.0 } else { 6.0 } + 5.0 * (time * 0.7).sin();
                let later = if time >= from { shift } else { 0.0 };
                let wiggle = 1.0 + 0.004 * (time * 12.9898).sin();
                let decode = (0.018 + 0.000_35 * batch + 0.000_01 * batch * batch + later) * wiggle;
                Interval {
                    end: Seconds(time),
                    length: Seconds(1.0),
                    decodes: 30.0,
                    decode_seconds: 30.0 * decode,
                    prefills: 3.0,
                    prefill_seconds: 3.0 * (0.05 + later),
                    joins: 3.0,
                    tokens: batch * 33.0 + 3.0,
                    input_tokens: 600.0,
                    busy: true,
                    ends: None,
                }
            })
            .collect()
    }

    /// Steps of a minute each, whose prefills take so many times as long as the fitted server's.
    fn prefills(factors: [f64; 4]) -> (Vec<f64>, f64) {
        use crate::batching::{Admission, Deviations};
        use crate::units::{Load, Rate};
        let model = ServerModel {
            prefill_base: Seconds(0.02),
            prefill_per_token: Seconds(0.000_15),
            decode_base: Seconds(0.018),
            decode_per_sequence: Seconds(0.000_35),
            overhead: Seconds::ZERO,
            token_budget: u32::MAX,
            max_prefill_tokens: 4096,
            max_concurrent_requests: 128,
            max_batch_size: None,
            admission: Admission::Chunking,
            prefill_per_sequence: None,
            decode_table: None,
            deviations: Deviations::default(),
        };
        let rounds: Vec<Vec<Interval>> = intervals(1e9, 0.0)
            .into_iter()
            .enumerate()
            .map(|(i, mut interval)| {
                let batch = interval.mean_batch(true).unwrap();
                let fitted = interval.prefills * (0.02 + 0.000_35 * batch) + 0.000_15 * interval.input_tokens;
                let wiggle = 1.0 + 0.1 * (i as f64 * 12.9898).sin();
                interval.prefill_seconds = fitted * factors[i / 60] * wiggle;
                vec![interval]
            })
            .collect();
        let marks: Vec<StepMark> = (0..4)
            .map(|i| StepMark {
                index: i,
                load: Load::Rate(Rate(1.0)),
                start: Seconds(f64::from(i) * 60.0),
                hold_start: Seconds(f64::from(i) * 60.0),
                end: Seconds(f64::from(i + 1) * 60.0),
            })
            .collect();
        of_prefills(&rounds, &marks, &model, true)
    }

    #[test]
    fn prefills_that_take_longer_in_some_steps_scatter_and_noise_within_steps_does_not() {
        let (steps, scatter) = prefills([1.0; 4]);
        assert!(steps.iter().all(|step| step.abs() < 0.03) && scatter < 0.01, "{steps:?} {scatter}");
        let (steps, scatter) = prefills([0.8, 1.2, 0.8, 1.2]);
        assert!((steps[0] + 0.2).abs() < 0.03 && (steps[1] - 0.2).abs() < 0.03, "{steps:?}");
        assert!((scatter - 0.2).abs() < 0.02, "{scatter}");
    }

    #[test]
    fn a_steady_server_has_no_change_although_its_load_changes() {
        assert_eq!(level(&mut intervals(1e9, 0.0), true), []);
    }

    #[test]
    fn a_millisecond_more_per_forward_is_found_when_it_came_and_taken_out() {
        for from in [50.0, 120.0, 170.0] {
            let mut drifting = intervals(from, 0.001);
            let changes = level(&mut drifting, true);
            assert_eq!(changes.len(), 1, "{changes:?}");
            assert!((changes[0].at.0 - from).abs() <= 3.0, "{from}: {changes:?}");
            assert!((changes[0].shift.0 - 0.001).abs() < 0.000_1, "{changes:?}");
            let wanted: f64 = intervals(0.0, 0.001).iter().map(|i| i.decode_seconds).sum();
            let levelled: f64 = drifting.iter().map(|i| i.decode_seconds).sum();
            assert!((levelled / wanted - 1.0).abs() < 0.003, "{levelled} for {wanted}");
        }
    }
}
