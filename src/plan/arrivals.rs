//! When the requests of an open-loop step are due.

use crate::scenario::Arrivals;
use crate::units::{Load, Seconds};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma};

/// How arrivals are spread around their rate.
#[derive(Debug, Clone, Copy)]
pub enum Spacing {
    /// Independent exponential gaps, so the number of arrivals varies.
    Poisson,
    /// Equal gaps, the first arrival half a gap after the start, so that steps join without a double gap.
    Constant,
    /// Gamma-distributed gaps of unit mean. Shape 1 is Poisson; the variance of a gap is its mean
    /// squared over the shape.
    Gamma {
        /// Of a gap between two arrivals.
        gap: Gamma<f64>,
        /// Of the gap that a random moment falls into, which is longer.
        around: Gamma<f64>,
    },
}

impl Spacing {
    /// What a scenario asks for. A shape that no gamma distribution has counts as Poisson.
    pub fn new(arrivals: Arrivals, burstiness: Option<f64>) -> Spacing {
        match (burstiness, arrivals) {
            (Some(shape), _) => {
                let gap = Gamma::new(shape, 1.0 / shape);
                let around = Gamma::new(shape + 1.0, 1.0 / shape);
                gap.and_then(|gap| Ok(Spacing::Gamma { gap, around: around? })).unwrap_or(Spacing::Poisson)
            }
            (None, Arrivals::Poisson) => Spacing::Poisson,
            (None, Arrivals::Constant) => Spacing::Constant,
        }
    }
}

/// Arrival times from 0 (included) to the length of a step (excluded), in order.
///
/// Gaps are drawn at unit rate and stretched by the inverse of the rate's integral (time rescaling),
/// which makes a Poisson process of a changing rate exact.
#[derive(Debug, Clone)]
pub struct ArrivalTimes {
    from: f64,
    to: f64,
    length: f64,
    spacing: Spacing,
    rng: ChaCha8Rng,
    /// Integral of the rate up to the last arrival.
    expected: f64,
    begun: bool,
}

impl ArrivalTimes {
    /// The arrivals of `load`. A load without a rate has none.
    pub fn new(load: Load, length: Seconds, spacing: Spacing, rng: ChaCha8Rng) -> ArrivalTimes {
        let (from, to) = match load {
            Load::Rate(rate) => (rate.0, rate.0),
            Load::Linear { from, to } => (from.0, to.0),
            Load::Concurrency(_) | Load::Trace(_) => (0.0, 0.0),
        };
        ArrivalTimes { from, to, length: length.0, spacing, rng, expected: 0.0, begun: false }
    }

    fn gap(&mut self) -> f64 {
        match self.spacing {
            Spacing::Poisson => Exp1.sample(&mut self.rng),
            Spacing::Constant if self.begun => 1.0,
            Spacing::Constant => 0.5,
            Spacing::Gamma { gap, .. } if self.begun => gap.sample(&mut self.rng),
            // A step begins at a random moment of the process, so that its mean rate is the wanted one.
            Spacing::Gamma { around, .. } => around.sample(&mut self.rng) * self.rng.random::<f64>(),
        }
    }
}

impl Iterator for ArrivalTimes {
    type Item = Seconds;

    fn next(&mut self) -> Option<Seconds> {
        self.expected += self.gap();
        self.begun = true;
        // from t + (to - from) t^2 / (2 length) = expected, solved so that equal rates are no special case.
        let curvature = 2.0 * (self.to - self.from) / self.length;
        let root = (self.from * self.from + curvature * self.expected).sqrt();
        let time = 2.0 * self.expected / (self.from + root);
        (time < self.length).then_some(Seconds(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::stream;
    use crate::units::Rate;

    fn times(load: Load, length: f64, spacing: Spacing) -> Vec<f64> {
        ArrivalTimes::new(load, Seconds(length), spacing, stream(1, "arrivals")).map(|t| t.0).collect()
    }

    /// Mean of the gaps and their squared coefficient of variation.
    fn gaps(times: &[f64]) -> (f64, f64) {
        let gaps: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance / (mean * mean))
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let times = times(Load::Rate(Rate(50.0)), 2000.0, Spacing::Poisson);
        let (mean, variation) = gaps(&times);
        assert!((mean * 50.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((variation - 1.0).abs() < 0.05, "{variation}");
    }

    #[test]
    fn burstiness_is_the_shape_of_the_gaps() {
        for shape in [0.25, 1.0, 8.0] {
            let spacing = Spacing::new(Arrivals::Poisson, Some(shape));
            let (mean, variation) = gaps(&times(Load::Rate(Rate(50.0)), 4000.0, spacing));
            assert!((mean * 50.0 - 1.0).abs() < 0.03, "{shape}: {mean}");
            assert!((variation * shape - 1.0).abs() < 0.08, "{shape}: {variation}");
        }
    }

    #[test]
    fn short_steps_have_the_rate_however_bursty_they_are() {
        for shape in [0.05, 0.3, 5.0] {
            let spacing = Spacing::new(Arrivals::Poisson, Some(shape));
            let count = |seed| {
                let rng = stream(seed, "arrivals");
                ArrivalTimes::new(Load::Rate(Rate(5.5)), Seconds(10.0), spacing, rng).count() as f64
            };
            let mean = (0..4000).map(count).sum::<f64>() / 4000.0;
            assert!((mean / 55.0 - 1.0).abs() < 0.04, "{shape}: {mean}");
        }
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_within_the_step() {
        let times = times(Load::Rate(Rate(4.0)), 2.0, Spacing::Constant);
        assert_eq!((times.len(), times[0]), (8, 0.125));
        assert!(times.windows(2).all(|w| (w[1] - w[0] - 0.25).abs() < 1e-12));
    }

    #[test]
    fn a_linear_ramp_has_the_rate_of_each_moment_up_and_down() {
        for (from, to) in [(10.0, 90.0), (90.0, 10.0)] {
            let load = Load::Linear { from: Rate(from), to: Rate(to) };
            let times = times(load, 1000.0, Spacing::Poisson);
            for quarter in 0..4 {
                let (start, end) = (f64::from(quarter) * 250.0, f64::from(quarter + 1) * 250.0);
                let counted = times.iter().filter(|t| (start..end).contains(*t)).count() as f64 / 250.0;
                let expected = from + (to - from) * (start + 125.0) / 1000.0;
                assert!((counted / expected - 1.0).abs() < 0.05, "{from}: {counted} for {expected}");
            }
            assert!(
                times.windows(2).all(|w| w[0] <= w[1]) && times.iter().all(|t| (0.0..1000.0).contains(t))
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals_and_another_seed_others() {
        let draw = |seed| {
            let rng = stream(seed, "arrivals");
            ArrivalTimes::new(Load::Rate(Rate(5.0)), Seconds(60.0), Spacing::Poisson, rng).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn a_rate_of_nothing_has_no_arrivals() {
        for load in [Load::Rate(Rate(0.0)), Load::Concurrency(5), Load::Rate(Rate(f64::NAN))] {
            assert!(times(load, 10.0, Spacing::Poisson).is_empty());
        }
    }
}
