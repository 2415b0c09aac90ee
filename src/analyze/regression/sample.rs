//! What one step of a run says of a figure, in blocks of time that can be drawn again.

use super::{Refusal, Side};
use crate::analyze::StepAnalysis;
use crate::analyze::slo::{Figure, figure, goodput};
use crate::measurement::RequestOutcome;
use crate::units::{Compared, Seconds, Slo, SloMetric, Stat};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// With a larger share of failures than this a mean says nothing, as for an SLO.
const FAILED_MOST: f64 = 0.01;
/// Requests that share what chance did to them lie within so many stays at the server.
const STAYS: f64 = 4.0;
/// The fewest and the most blocks of a step.
const BLOCKS: (f64, f64) = (10.0, 40.0);

/// The part of a step that is compared, from the start of the step on, and its blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub from: Seconds,
    pub to: Seconds,
    pub blocks: usize,
}

impl Window {
    /// The part that all of `steps` measured, in blocks of some mean stays.
    pub(super) fn of(steps: &[&StepAnalysis]) -> Window {
        let from = steps.iter().map(|s| s.mark.hold_start - s.mark.start).fold(Seconds::ZERO, Seconds::max);
        let to = steps.iter().map(|s| s.mark.end - s.mark.start).fold(Seconds(f64::MAX), Seconds::min);
        let stays = steps.iter().filter_map(|step| Some(step.e2e?.mean.0));
        let stay = stays.fold(0.0, f64::max).max(1e-3);
        let blocks = ((to - from).0 / (STAYS * stay)).clamp(BLOCKS.0, BLOCKS.1) as usize;
        Window { from, to, blocks }
    }

    fn block(&self, offset: Seconds) -> Option<usize> {
        let share = (offset - self.from).0 / (self.to - self.from).0;
        (0.0..1.0).contains(&share).then(|| (share * self.blocks as f64) as usize)
    }

    fn length_of_block(&self) -> f64 {
        (self.to - self.from).0 / self.blocks as f64
    }
}

/// Values with their weights and blocks, ascending.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    values: Vec<(f64, f64, usize)>,
    stat: Stat,
}

impl Sample {
    /// The sample of one figure over the window of a step.
    pub(super) fn of(
        side: &Side,
        step: &StepAnalysis,
        window: &Window,
        of: Compared,
        slos: &[Slo],
    ) -> Result<Sample, Refusal> {
        let start = step.mark.start;
        let mut requests = side.requests.iter().filter(|request| request.step == step.mark.index);
        let mut values = Vec::new();
        let stat = match of {
            Compared::Latency(SloMetric::Itl, stat) => {
                for interval in side.gaps.iter().filter(|interval| interval.step == step.mark.index) {
                    let middle = Seconds(f64::midpoint(interval.from.0, interval.to.0)) - start;
                    // Requests of the step end until after it.
                    let Some(block) = window.block(middle.min(window.to - Seconds(1e-6))) else { continue };
                    values.extend(interval.gaps.iter().map(|(gap, n)| (gap.0, *n as f64, block)));
                }
                stat
            }
            Compared::Latency(metric, stat) => {
                for request in requests {
                    let Some(block) = window.block(request.scheduled - start) else { continue };
                    match figure(request, metric) {
                        Figure::Is(value) => values.push((value.0, 1.0, block)),
                        Figure::AtLeast(_) | Figure::Infinite => values.push((f64::INFINITY, 1.0, block)),
                        Figure::Inapplicable => {}
                        Figure::Unknown => return Err(Refusal::NotSaid(metric)),
                    }
                }
                stat
            }
            Compared::Goodput => {
                for request in requests {
                    let Some(block) = window.block(request.scheduled - start) else { continue };
                    values.push((goodput(&[request], slos).unwrap_or(0.0), 1.0, block));
                }
                Stat::Mean
            }
            Compared::Throughput => {
                values = throughput(&mut requests, start, window);
                Stat::Mean
            }
            Compared::Capacity => return Err(Refusal::NotPerLoad),
        };
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        if values.is_empty() { Err(Refusal::Empty(of)) } else { Ok(Sample { values, stat }) }
    }

    /// The figure with each block taken so many times. Infinite where failures reach its rank.
    pub(super) fn figure(&self, times: &[u32]) -> f64 {
        let weight = |(_, weight, block): &(f64, f64, usize)| weight * f64::from(times[*block]);
        let total: f64 = self.values.iter().map(weight).sum();
        if let Stat::Percentile(percent) = self.stat {
            let rank = percent / 100.0 * total - 1e-9;
            let mut below = 0.0;
            for value in &self.values {
                below += weight(value);
                if below >= rank && below > 0.0 {
                    return value.0;
                }
            }
            return f64::INFINITY;
        }
        let finite = self.values.iter().filter(|value| value.0.is_finite());
        let (n, sum) = finite.fold((0.0, 0.0), |(n, sum), value| {
            (n + weight(value), sum + weight(value) * value.0)
        });
        if total - n > FAILED_MOST * total || n == 0.0 { f64::INFINITY } else { sum / n }
    }
}

/// Output tokens per second of what ended in each block.
fn throughput<'a>(
    requests: &mut dyn Iterator<Item = &'a RequestOutcome>,
    start: Seconds,
    window: &Window,
) -> Vec<(f64, f64, usize)> {
    let mut tokens = vec![0.0; window.blocks];
    for request in requests.filter(|request| request.is_ok()) {
        let block = request.last_token.and_then(|end| window.block(end - start));
        if let (Some(block), Some(n)) = (block, request.output_tokens) {
            tokens[block] += f64::from(n);
        }
    }
    let length = window.length_of_block();
    tokens.into_iter().enumerate().map(|(block, tokens)| (tokens / length, 1.0, block)).collect()
}

/// How often each of `blocks` blocks comes when as many are drawn with replacement.
pub(super) fn draw(rng: &mut ChaCha8Rng, blocks: usize) -> Vec<u32> {
    let mut times = vec![0; blocks];
    for _ in 0..blocks {
        times[rng.random_range(0..blocks)] += 1;
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[(f64, usize)], stat: Stat) -> Sample {
        let mut values: Vec<_> = values.iter().map(|(value, block)| (*value, 1.0, *block)).collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        Sample { values, stat }
    }

    #[test]
    fn a_block_that_is_drawn_twice_counts_twice() {
        let values = [(1.0, 0), (2.0, 0), (9.0, 1)];
        let mean = sample(&values, Stat::Mean);
        assert_eq!((mean.figure(&[1, 1]), mean.figure(&[0, 2]), mean.figure(&[2, 0])), (4.0, 9.0, 1.5));
        let median = sample(&values, Stat::Percentile(50.0));
        assert_eq!((median.figure(&[1, 1]), median.figure(&[1, 3]), median.figure(&[2, 0])), (2.0, 9.0, 1.0));
    }

    #[test]
    fn failures_are_infinitely_late_as_for_an_slo() {
        let values: Vec<_> = (0..99).map(|i| (f64::from(i), 0)).chain([(f64::INFINITY, 1)]).collect();
        assert_eq!(sample(&values, Stat::Percentile(95.0)).figure(&[1, 1]), 94.0);
        assert_eq!(sample(&values, Stat::Percentile(99.5)).figure(&[1, 1]), f64::INFINITY);
        assert_eq!(sample(&values, Stat::Mean).figure(&[1, 1]), 49.0);
        assert_eq!(sample(&values, Stat::Mean).figure(&[1, 2]), f64::INFINITY);
    }
}
