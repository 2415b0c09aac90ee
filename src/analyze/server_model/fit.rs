//! The cost of a forward, from the server's own counters.
//!
//! Between two scrapes, with `Nd`, `Sd` and `Np`, `Sp` the counts and seconds of decode and prefill
//! forwards, `Nj` the requests that joined, `T` the token events and `I` the prompt tokens that were
//! prefilled, a server whose forwards cost `a + b B` and `pb + pt I (+ b B)` satisfies
//!
//! * mean batch `B = (T - Nj) / (Nd + Np)` with chunking, where a prefill carries the running
//!   sequences along, and `(T - Nj) / Nd` without;
//! * `Sd = a Nd + b B Nd` and `Sp = pb Np + pt I + b B Np` (without the last term where there is no
//!   chunking).
//!
//! Checked on a real TGI 3.3.7 router: the identity for `T` is exact, and the costs meet those of its
//! shard.

use crate::batching::Admission;
use crate::units::Seconds;
use serde::Serialize;

/// What happened at one replica between two scrapes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// When its second scrape was begun.
    pub end: Seconds,
    /// Time between the scrapes.
    pub length: Seconds,
    /// Decode forwards, and the seconds in them.
    pub decodes: f64,
    /// Seconds in decode forwards.
    pub decode_seconds: f64,
    /// Prefill forwards.
    pub prefills: f64,
    /// Seconds in prefill forwards.
    pub prefill_seconds: f64,
    /// Requests that joined a batch.
    pub joins: f64,
    /// Token events.
    pub tokens: f64,
    /// Prompt tokens of requests whose first token came, by the client's count: those of all replicas.
    pub input_tokens: f64,
    /// Whether the batch was never seen empty.
    pub busy: bool,
    /// The batch gauge at both scrapes.
    pub ends: Option<(f64, f64)>,
}

/// What forwards cost, on a straight line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ForwardCost {
    /// Fixed part of a decode forward.
    pub decode_base: Seconds,
    /// What each sequence in the batch adds to it.
    pub decode_per_sequence: Seconds,
    /// Fixed part of a prefill forward.
    pub prefill_base: Seconds,
    /// What each prompt token adds to it.
    pub prefill_per_token: Seconds,
    /// What lies between two forwards.
    pub overhead: Seconds,
    /// Intervals that it rests on.
    pub n: usize,
}

/// Fewer intervals than this, or fewer forwards of a kind, tell nothing.
const LEAST_INTERVALS: usize = 20;
const LEAST_FORWARDS: f64 = 20.0;

impl Interval {
    /// Mean number of running sequences over the forwards. `None` without a forward.
    pub fn mean_batch(&self, chunking: bool) -> Option<f64> {
        let forwards = if chunking { self.decodes + self.prefills } else { self.decodes };
        (forwards > 0.0).then(|| (self.tokens - self.joins) / forwards)
    }
}

/// Fits the costs to intervals by weighted least squares. A round holds the intervals of replicas at the
/// same moment, which share their prompts: nobody knows which replica was given which, but all of them
/// together were given all. `None` where they do not determine the costs: too few, or all at one load.
pub fn fit<'a>(
    rounds: impl IntoIterator<Item = &'a [Interval]>,
    admission: &Admission,
) -> Option<ForwardCost> {
    let chunking = matches!(admission, Admission::Chunking);
    let mut normal = Normal::default();
    let (mut n, mut decodes, mut prefills) = (0, 0.0, 0.0);
    let rounds: Vec<&[Interval]> = rounds.into_iter().collect();
    for round in &rounds {
        // Of all replicas: what prefills carried along, their number, their tokens and their seconds.
        let (mut carried, mut count, mut tokens, mut seconds) = (0.0, 0.0, 0.0, 0.0);
        for interval in *round {
            tokens += interval.input_tokens / round.len() as f64;
            let Some(batch) = interval.mean_batch(chunking).filter(|batch| *batch >= 0.0) else { continue };
            n += 1;
            decodes += interval.decodes;
            // The scatter of a sum grows with the number of its terms.
            let row = [interval.decodes, batch * interval.decodes, 0.0, 0.0];
            normal.add(row, interval.decode_seconds, 1.0 / interval.decodes.max(1.0));
            carried += if chunking { batch * interval.prefills } else { 0.0 };
            count += interval.prefills;
            seconds += interval.prefill_seconds;
        }
        prefills += count;
        normal.add([0.0, carried, count, tokens], seconds, 1.0 / count.max(1.0));
    }
    if n < LEAST_INTERVALS || decodes < LEAST_FORWARDS || prefills < LEAST_FORWARDS {
        return None;
    }
    let mut found = normal.solve()?;
    if found[3] < 0.0 {
        // Prompts of nearly one length: what their tokens cost cannot be told from what a prefill costs.
        found = normal.without_last().solve()?;
    }
    let [decode_base, decode_per_sequence, prefill_base, prefill_per_token] = found.map(Seconds);
    let sane = decode_base.0 > 0.0 && decode_per_sequence.0 >= 0.0;
    sane.then_some(ForwardCost {
        decode_base,
        decode_per_sequence,
        prefill_base: prefill_base.max(Seconds::ZERO),
        prefill_per_token,
        overhead: overhead(&rounds),
        n,
    })
}

/// What lies between two forwards of a batch that is never empty. That a batch was there at both ends of an
/// interval does not show it, so only those count whose ends show at least half of the fullest such batch.
/// Without one it is taken for nothing.
fn overhead(rounds: &[&[Interval]]) -> Seconds {
    let least = |interval: &Interval| interval.ends.map_or(0.0, |(from, to)| from.min(to));
    let all = || rounds.iter().copied().flatten().filter(|interval| interval.busy);
    let fullest = all().map(least).fold(0.0, f64::max);
    let (mut idle, mut between) = (0.0, 0.0);
    for interval in all().filter(|interval| least(interval) >= fullest * 0.5) {
        idle += interval.length.0 - interval.decode_seconds - interval.prefill_seconds;
        between += interval.decodes + interval.prefills;
    }
    Seconds(if between > 0.0 { (idle / between).max(0.0) } else { 0.0 })
}

/// What a prefill costs with a cost of its own for each sequence that it carries along: base, per token, per
/// sequence. `None` where the rounds do not determine them.
pub(super) fn fit_prefill<'a>(rounds: impl IntoIterator<Item = &'a [Interval]>) -> Option<[Seconds; 3]> {
    let mut matrix = vec![vec![0.0; 4]; 3];
    for round in rounds {
        let sum = |of: &dyn Fn(&Interval) -> f64| round.iter().map(of).sum::<f64>();
        let count = sum(&|i| i.prefills);
        let carried = sum(&|i| i.mean_batch(true).unwrap_or(0.0) * i.prefills);
        let terms =
            [count, sum(&|i| i.input_tokens) / round.len() as f64, carried, sum(&|i| i.prefill_seconds)];
        for (row, a) in matrix.iter_mut().zip(terms) {
            row.iter_mut().zip(terms).for_each(|(cell, b)| *cell += a * b / count.max(1.0));
        }
    }
    let found = super::shape::eliminate(matrix)?;
    found.iter().all(|cost| *cost >= 0.0).then(|| [0, 1, 2].map(|i| Seconds(found[i])))
}

/// The normal equations of a weighted least-squares fit of four unknowns.
#[derive(Default, Clone, Copy)]
struct Normal {
    matrix: [[f64; 4]; 4],
    right: [f64; 4],
}

impl Normal {
    fn add(&mut self, row: [f64; 4], value: f64, weight: f64) {
        for (i, a) in row.iter().enumerate() {
            for (j, b) in row.iter().enumerate() {
                self.matrix[i][j] += weight * a * b;
            }
            self.right[i] += weight * a * value;
        }
    }

    /// The same with the last unknown held at nothing.
    fn without_last(mut self) -> Normal {
        for i in 0..3 {
            (self.matrix[i][3], self.matrix[3][i]) = (0.0, 0.0);
        }
        (self.matrix[3][3], self.right[3]) = (1.0, 0.0);
        self
    }

    /// Gaussian elimination with pivoting. `None` where the equations do not determine the unknowns.
    fn solve(mut self) -> Option<[f64; 4]> {
        // Unknowns differ by orders of magnitude, so each is measured in its own unit.
        let unit: [f64; 4] = std::array::from_fn(|i| self.matrix[i][i].sqrt());
        if unit.iter().any(|unit| !unit.is_finite() || *unit <= 0.0) {
            return None;
        }
        for i in 0..4 {
            for j in 0..4 {
                self.matrix[i][j] /= unit[i] * unit[j];
            }
            self.right[i] /= unit[i];
        }
        for column in 0..4 {
            let pivot = (column..4)
                .max_by(|a, b| self.matrix[*a][column].abs().total_cmp(&self.matrix[*b][column].abs()))?;
            self.matrix.swap(column, pivot);
            self.right.swap(column, pivot);
            let head = self.matrix[column];
            if head[column].abs() < 1e-9 {
                return None;
            }
            for row in column + 1..4 {
                let factor = self.matrix[row][column] / head[column];
                for (cell, above) in self.matrix[row].iter_mut().zip(head) {
                    *cell -= factor * above;
                }
                self.right[row] -= factor * self.right[column];
            }
        }
        let mut found = [0.0; 4];
        for row in (0..4).rev() {
            let known: f64 = (row + 1..4).map(|j| self.matrix[row][j] * found[j]).sum();
            found[row] = (self.right[row] - known) / self.matrix[row][row];
        }
        Some(std::array::from_fn(|i| found[i] / unit[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An interval of a server with the given costs.
    fn interval(
        cost: &ForwardCost,
        batch: f64,
        decodes: f64,
        prefills: f64,
        input: f64,
        chunking: bool,
    ) -> Interval {
        let carried = if chunking { prefills } else { 0.0 };
        let joins = prefills * 2.0;
        let decode_seconds = cost.decode_base.0 * decodes + cost.decode_per_sequence.0 * batch * decodes;
        let prefill_seconds = cost.prefill_base.0 * prefills
            + cost.prefill_per_token.0 * input
            + cost.decode_per_sequence.0 * batch * carried;
        let forwards = decodes + prefills;
        Interval {
            end: Seconds::ZERO,
            length: Seconds(decode_seconds + prefill_seconds + cost.overhead.0 * forwards),
            decodes,
            decode_seconds,
            prefills,
            prefill_seconds,
            joins,
            tokens: batch * (decodes + carried) + joins,
            input_tokens: input,
            busy: true,
            ends: None,
        }
    }

    proptest! {
        #[test]
        fn costs_are_recovered_exactly_from_exact_counters(
            a in 0.001..0.1_f64, b in 1e-5..2e-3_f64, pb in 0.001..0.1_f64, pt in 1e-6..1e-3_f64,
            gap in 0.0..1e-3_f64,
            chunking in any::<bool>(),
            loads in prop::collection::vec((1.0..60.0_f64, 5..50_u32, 1..9_u32, 50.0..3000.0_f64), 25..60),
        ) {
            let cost = ForwardCost {
                decode_base: Seconds(a), decode_per_sequence: Seconds(b), prefill_base: Seconds(pb),
                prefill_per_token: Seconds(pt), overhead: Seconds(gap), n: loads.len(),
            };
            let intervals: Vec<Interval> = loads
                .iter()
                .map(|(batch, decodes, prefills, input)| {
                    interval(&cost, *batch, f64::from(*decodes), f64::from(*prefills), *input, chunking)
                })
                .collect();
            let admission = if chunking {
                Admission::Chunking
            } else {
                Admission::WaitingServed { ratio: 0.3, max_waiting_tokens: 20 }
            };
            let found = fit(intervals.chunks(1), &admission).unwrap();
            let near = |x: Seconds, y: Seconds| (x.0 - y.0).abs() < 1e-6 * y.0.abs() + 1e-9;
            prop_assert!(near(found.decode_base, cost.decode_base), "{found:?}");
            prop_assert!(near(found.decode_per_sequence, cost.decode_per_sequence), "{found:?}");
            prop_assert!(near(found.prefill_base, cost.prefill_base), "{found:?}");
            prop_assert!(near(found.prefill_per_token, cost.prefill_per_token), "{found:?}");
            prop_assert!(near(found.overhead, cost.overhead), "{found:?}");
        }
    }

    #[test]
    fn one_load_alone_or_too_few_intervals_determine_nothing() {
        let cost = ForwardCost {
            decode_base: Seconds(0.02),
            decode_per_sequence: Seconds(0.0003),
            prefill_base: Seconds(0.02),
            prefill_per_token: Seconds(0.0001),
            overhead: Seconds::ZERO,
            n: 0,
        };
        let same = vec![interval(&cost, 5.0, 20.0, 4.0, 800.0, true); 50];
        assert_eq!(fit(same.chunks(1), &Admission::Chunking), None);
        let few: Vec<Interval> =
            (1..5).map(|i| interval(&cost, f64::from(i), 20.0, 4.0, 700.0 + f64::from(i), true)).collect();
        assert_eq!(fit(few.chunks(1), &Admission::Chunking), None);
        assert_eq!(fit([], &Admission::Chunking), None);
    }
}
