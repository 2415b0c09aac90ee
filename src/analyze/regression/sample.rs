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
/// What chance did to a request is forgotten after about so many relaxation times of the server.
const RELAXATIONS: f64 = 4.0;
/// The fewest and the most blocks of a step.
const BLOCKS: (f64, f64) = (5.0, 40.0);
/// Times at which requests in flight are counted.
const COUNTED: usize = 400;

/// The part of a step that is compared, from the start of the step on, and its blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub from: Seconds,
    pub to: Seconds,
    pub blocks: usize,
}

impl Window {
    /// The part that all of `steps` measured, in blocks of some relaxation times of the slowest.
    pub(super) fn of(steps: &[(&Side, &StepAnalysis)]) -> Window {
        let marks = || steps.iter().map(|(_, step)| step.mark);
        let from = marks().map(|mark| mark.hold_start - mark.start).fold(Seconds::ZERO, Seconds::max);
        let to = marks().map(|mark| mark.end - mark.start).fold(Seconds(f64::MAX), Seconds::min);
        let window = Window { from, to, blocks: 1 };
        let slowest = steps.iter().map(|(side, step)| relaxation(side, step, &window)).fold(0.0, f64::max);
        let blocks = (to - from).0 / (RELAXATIONS * slowest.max(1e-3));
        Window { blocks: blocks.clamp(BLOCKS.0, BLOCKS.1) as usize, ..window }
    }

    fn block(&self, offset: Seconds) -> Option<usize> {
        let share = (offset - self.from).0 / (self.to - self.from).0;
        (0.0..1.0).contains(&share).then_some((share * self.blocks as f64) as usize)
    }

    fn length_of_block(&self) -> f64 {
        (self.to - self.from).0 / self.blocks as f64
    }
}

/// How long a server takes to forget, seconds: the mean stay of a request times the dispersion of requests in flight,
/// which is 1 where they do not disturb each other and grows without bound towards saturation.
fn relaxation(side: &Side, step: &StepAnalysis, window: &Window) -> f64 {
    let start = step.mark.start;
    let span = |request: &&RequestOutcome| Some((request.scheduled - start, request.ended? - start));
    let requests = side.requests.iter().filter(|request| request.step == step.mark.index);
    let spans: Vec<(Seconds, Seconds)> = requests.filter_map(|request| span(&request)).collect();
    let at = |i: usize| window.from + (window.to - window.from) * ((i as f64 + 0.5) / COUNTED as f64);
    let count = |time: Seconds| spans.iter().filter(|(from, to)| *from <= time && time < *to).count() as f64;
    let counts: Vec<f64> = (0..COUNTED).map(|i| count(at(i))).collect();
    let mean = counts.iter().sum::<f64>() / COUNTED as f64;
    let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / COUNTED as f64;
    let stay = step.e2e.map_or(0.0, |e2e| e2e.mean.0);
    if mean > 0.0 { stay * (variance / mean).max(1.0) } else { stay }
}

/// Values with their weights and blocks, ascending.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    values: Vec<(f64, f64, usize)>,
    blocks: Vec<Block>,
    stat: Stat,
}

/// What a block comes to.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    weight: f64,
    finite: f64,
    sum: f64,
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
        let begin = step.mark.start;
        let mut requests = side.requests.iter().filter(|request| request.step == step.mark.index);
        let mut values = Vec::new();
        let stat = match of {
            Compared::Latency(SloMetric::Itl, stat) => {
                for interval in side.gaps.iter().filter(|interval| interval.step == step.mark.index) {
                    let middle = Seconds(f64::midpoint(interval.from.0, interval.to.0)) - begin;
                    // Requests of the step end until after it.
                    let Some(block) = window.block(middle.min(window.to - Seconds(1e-6))) else { continue };
                    values.extend(interval.gaps.iter().map(|(gap, n)| (gap.0, *n as f64, block)));
                }
                stat
            }
            Compared::Latency(metric, stat) => {
                for request in requests {
                    let Some(block) = window.block(request.scheduled - begin) else { continue };
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
                    let Some(block) = window.block(request.scheduled - begin) else { continue };
                    values.push((goodput(&[request], slos).unwrap_or(0.0), 1.0, block));
                }
                Stat::Mean
            }
            Compared::Throughput => {
                values = throughput(&mut requests, begin, window);
                Stat::Mean
            }
            Compared::Capacity => return Err(Refusal::NotPerLoad),
        };
        if values.is_empty() { Err(Refusal::Empty(of)) } else { Ok(Sample::new(values, window.blocks, stat)) }
    }

    fn new(mut values: Vec<(f64, f64, usize)>, n: usize, stat: Stat) -> Sample {
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut blocks = vec![Block::default(); n];
        for (value, weight, block) in &values {
            let block = &mut blocks[*block];
            block.weight += weight;
            if value.is_finite() {
                block.finite += weight;
                block.sum += weight * value;
            }
        }
        Sample { values, blocks, stat }
    }

    /// The figure with each block taken so many times. Infinite where failures reach its rank.
    pub(super) fn figure(&self, times: &[u32]) -> f64 {
        let total = |of: fn(&Block) -> f64| -> f64 {
            self.blocks.iter().zip(times).map(|(block, times)| of(block) * f64::from(*times)).sum()
        };
        let weight = total(|block| block.weight);
        if let Stat::Percentile(percent) = self.stat {
            let rank = percent / 100.0 * weight - 1e-9;
            let mut below = 0.0;
            for (value, weight, block) in &self.values {
                below += weight * f64::from(times[*block]);
                if below >= rank && below > 0.0 {
                    return *value;
                }
            }
            return f64::INFINITY;
        }
        let finite = total(|block| block.finite);
        if weight - finite > FAILED_MOST * weight || finite == 0.0 {
            f64::INFINITY
        } else {
            total(|block| block.sum) / finite
        }
    }
}

/// Output tokens per second of what ended in each block.
fn throughput(
    requests: &mut dyn Iterator<Item = &RequestOutcome>,
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
        Sample::new(values.iter().map(|(value, block)| (*value, 1.0, *block)).collect(), 2, stat)
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
