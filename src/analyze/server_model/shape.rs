//! How long a decode takes by the size of its batch, without assuming a straight line.
//!
//! Servers that replay CUDA graphs pad a batch to the next captured size, so that their step time is a
//! staircase; attention and kernels bend it. The counters give only means over the seconds between two
//! scrapes, over which a sharp step is blurred: so terms of known shape are fitted to the way that the batch
//! took in that time, and what they leave is smoothed over classes of batch.

use super::super::surface::isotonic;
use super::{ForwardCost, Interval};
use crate::units::Seconds;

/// Batch sizes for which TGI captures CUDA graphs where its user names none; larger ones are not padded.
const GRAPH_SIZES: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
/// Terms of a step time: a constant, the batch, the padded batch, the square of the batch.
const TERMS: usize = 4;
/// The combinations that are tried, as bits of the terms; the constant is in all.
const COMBINATIONS: [u8; 6] = [0b0011, 0b0101, 0b0111, 0b1011, 0b1101, 0b1111];
/// A combination must be better than the straight line by this much (Bayesian information criterion), since
/// neighboring intervals are not independent.
const CLEARLY: f64 = 20.0;
/// Points on the way of the batch between two scrapes.
const WAY: u32 = 12;
/// Intervals in a class of what is left, and most classes.
const LEAST_IN_CLASS: usize = 12;
const MOST_CLASSES: usize = 12;
const LEAST_INTERVALS: usize = 3 * LEAST_IN_CLASS;

/// What one interval says.
struct Seen {
    batch: f64,
    /// Means of the terms over the interval.
    terms: [f64; TERMS],
    length: f64,
    weight: f64,
}

/// How long decodes take.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTime {
    /// By the number of sequences, from 0 to twice the most seen.
    pub table: Vec<Seconds>,
    /// Whether a straight line tells as much.
    pub straight: bool,
}

/// The length of a decode by its number of sequences. Beyond the batches that were seen it follows the terms
/// that were fitted to those. `None` where the intervals are too few.
pub fn step_time<'a>(
    intervals: impl IntoIterator<Item = &'a Interval>,
    chunking: bool,
    cost: &ForwardCost,
) -> Option<StepTime> {
    let mut seen: Vec<Seen> = intervals.into_iter().filter_map(|interval| seen(interval, chunking)).collect();
    if seen.len() < LEAST_INTERVALS {
        return None;
    }
    let line = [cost.decode_base.0, cost.decode_per_sequence.0, 0.0, 0.0];
    let best = best(&seen);
    let terms = best.unwrap_or(line);
    seen.sort_by(|a, b| a.batch.total_cmp(&b.batch));
    let left = left(&seen, &terms);
    let most = (2.0 * seen.last().map_or(0.0, |seen| seen.batch)).ceil() as u32;
    let lengths: Vec<(f64, f64)> = (0..=most)
        .map(f64::from)
        .map(|batch| (dot(&terms, &at(batch)) + between(&left, batch), 1.0))
        .collect();
    let table = isotonic(&lengths).into_iter().map(|length| Seconds(length.max(0.0))).collect();
    Some(StepTime { table, straight: best.is_none() })
}

fn padded(batch: f64) -> f64 {
    GRAPH_SIZES.into_iter().find(|size| *size >= batch).unwrap_or(batch)
}

fn at(batch: f64) -> [f64; TERMS] {
    [1.0, batch, padded(batch), batch * batch]
}

fn dot(a: &[f64; TERMS], b: &[f64; TERMS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn seen(interval: &Interval, chunking: bool) -> Option<Seen> {
    let batch = interval.mean_batch(chunking).filter(|batch| *batch > 0.0 && interval.decodes > 0.0)?;
    // From the first reading of the gauge by way of a middle to the second, with the mean that is known.
    let (from, to) = interval.ends.unwrap_or((batch, batch));
    let middle = 2.0 * batch - f64::midpoint(from, to);
    let mut terms = [0.0; TERMS];
    for i in 0..WAY {
        let part = (f64::from(i) + 0.5) / f64::from(WAY) * 2.0;
        let way =
            if part < 1.0 { from + (middle - from) * part } else { middle + (to - middle) * (part - 1.0) };
        let (low, share) = (way.max(1.0).floor(), way.max(1.0).fract());
        for ((term, low), high) in terms.iter_mut().zip(at(low)).zip(at(low + 1.0)) {
            *term += (low * (1.0 - share) + high * share) / f64::from(WAY);
        }
    }
    let length = interval.decode_seconds / interval.decodes;
    Some(Seen { batch, terms, length, weight: interval.decodes })
}

/// The terms that tell the lengths best, none of them negative. `None` where a straight line does as well.
fn best(seen: &[Seen]) -> Option<[f64; TERMS]> {
    let mut found: Option<(f64, [f64; TERMS])> = None;
    let mut straight = f64::INFINITY;
    for combination in COMBINATIONS {
        let Some((terms, rest)) = solve(seen, combination) else { continue };
        let n = seen.len() as f64;
        let criterion = n * (rest / n).max(1e-24).ln() + f64::from(combination.count_ones()) * n.ln();
        if combination == COMBINATIONS[0] {
            straight = criterion;
        }
        if found.is_none_or(|found| criterion < found.0) {
            found = Some((criterion, terms));
        }
    }
    found.filter(|found| found.0 < straight - CLEARLY).map(|found| found.1)
}

/// Least squares of the terms in `combination`, relative to the lengths, and what they leave.
fn solve(seen: &[Seen], combination: u8) -> Option<([f64; TERMS], f64)> {
    let used: Vec<usize> = (0..TERMS).filter(|term| combination & (1 << term) != 0).collect();
    let k = used.len();
    let mut matrix = vec![vec![0.0; k + 1]; k];
    let mean = seen.iter().map(|s| s.weight).sum::<f64>() / seen.len() as f64;
    for s in seen {
        let weight = s.weight / mean / (s.length * s.length);
        for (row, a) in matrix.iter_mut().zip(&used) {
            for (cell, b) in row.iter_mut().zip(&used) {
                *cell += weight * s.terms[*a] * s.terms[*b];
            }
            row[k] += weight * s.terms[*a] * s.length;
        }
    }
    let solved = eliminate(matrix)?;
    let mut terms = [0.0; TERMS];
    for (term, value) in used.iter().zip(solved) {
        terms[*term] = value;
    }
    if terms.iter().any(|term| *term < 0.0) {
        return None;
    }
    let rest = |s: &Seen| s.weight / mean * (dot(&terms, &s.terms) / s.length - 1.0).powi(2);
    Some((terms, seen.iter().map(rest).sum()))
}

/// Gaussian elimination of an augmented symmetric matrix. `None` where it is singular.
pub(super) fn eliminate(mut matrix: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let k = matrix.len();
    for column in 0..k {
        let head = matrix[column].clone();
        let scale = head[column];
        if scale.is_nan() || scale <= 1e-12 {
            return None;
        }
        for (row, cells) in matrix.iter_mut().enumerate() {
            if row != column {
                let factor = cells[column] / scale;
                cells.iter_mut().zip(&head).for_each(|(cell, above)| *cell -= factor * above);
            }
        }
    }
    Some(matrix.iter().enumerate().map(|(row, cells)| cells[k] / cells[row]).collect())
}

/// What the terms leave, by classes of equal batch that are in the order of it: mean batch and mean rest,
/// drawn towards nothing as far as chance could have made it.
fn left(seen: &[Seen], terms: &[f64; TERMS]) -> Vec<(f64, f64)> {
    let size = LEAST_IN_CLASS.max(seen.len().div_ceil(MOST_CLASSES));
    let class = |class: &[Seen]| {
        let weight: f64 = class.iter().map(|s| s.weight).sum();
        let mean = |of: &dyn Fn(&Seen) -> f64| class.iter().map(|s| s.weight * of(s)).sum::<f64>() / weight;
        let rest = |s: &Seen| s.length - dot(terms, &s.terms);
        let level = mean(&rest);
        let chance = mean(&|s| (rest(s) - level).powi(2)) / class.len() as f64;
        let believed = if level == 0.0 { 0.0 } else { (1.0 - chance / (level * level)).max(0.0) };
        (mean(&|s| s.batch), level * believed)
    };
    seen.chunks(size).filter(|chunk| chunk.len() >= LEAST_IN_CLASS).map(class).collect()
}

/// The value at `batch` on straight lines between points, and of the nearest point outside of them.
fn between(points: &[(f64, f64)], batch: f64) -> f64 {
    let above = points.partition_point(|point| point.0 < batch);
    match (above.checked_sub(1).map(|below| points[below]), points.get(above)) {
        (Some(low), Some(high)) => low.1 + (high.1 - low.1) * (batch - low.0) / (high.0 - low.0).max(1e-9),
        (Some(end), None) => end.1,
        (None, Some(end)) => end.1,
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Intervals of a server whose decodes take `length`, with batches that wander from 1 to 30.
    fn intervals(length: impl Fn(f64) -> f64) -> Vec<Interval> {
        let wander = |t: f64| (15.5 + 14.0 * (t * 0.11).sin() + 0.9 * (t * 2.3).cos()).round();
        (0..300)
            .map(|i| {
                let batches: Vec<f64> = (0..40).map(|k| wander(f64::from(i) + f64::from(k) / 40.0)).collect();
                Interval {
                    end: Seconds(f64::from(i)),
                    length: Seconds(1.0),
                    decodes: 40.0,
                    decode_seconds: batches.iter().map(|b| length(*b)).sum(),
                    prefills: 0.0,
                    prefill_seconds: 0.0,
                    joins: 0.0,
                    tokens: batches.iter().sum(),
                    input_tokens: 0.0,
                    busy: true,
                    ends: Some((wander(f64::from(i)), wander(f64::from(i + 1)))),
                }
            })
            .collect()
    }

    fn cost() -> ForwardCost {
        ForwardCost {
            decode_base: Seconds(0.018),
            decode_per_sequence: Seconds(0.000_5),
            prefill_base: Seconds(0.02),
            prefill_per_token: Seconds(0.0001),
            overhead: Seconds::ZERO,
            n: 300,
        }
    }

    #[test]
    fn a_straight_line_is_found_as_one() {
        let found = step_time(&intervals(|b| 0.018 + 0.000_5 * b), true, &cost()).unwrap();
        let table = found.table;
        assert!(found.straight);
        for batch in [1_u8, 8, 17, 30] {
            let true_ = 0.018 + 0.000_5 * f64::from(batch);
            assert!((table[usize::from(batch)].0 / true_ - 1.0).abs() < 0.005, "{batch}: {table:?}");
        }
    }

    #[test]
    fn the_staircase_of_cuda_graphs_keeps_its_steps() {
        let length = |b: f64| 0.018 + 0.000_35 * padded(b) + 2e-6 * b * b;
        let found = step_time(&intervals(length), true, &cost()).unwrap();
        let table = found.table;
        assert!(!found.straight);
        for batch in [5_u8, 8, 9, 16, 17, 25, 31] {
            let true_ = length(f64::from(batch));
            let found = table[usize::from(batch)].0;
            assert!((found / true_ - 1.0).abs() < 0.015, "{batch}: {found} for {true_}");
        }
    }
}
