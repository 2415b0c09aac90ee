//! When the requests of an open-loop step are due.

use crate::scenario::Arrivals;
use crate::units::{Rate, Seconds};
use rand::Rng;
use rand_distr::{Distribution, Exp1};

/// Arrival times from 0 (included) to `length` (excluded) at `rate`, in order.
///
/// Poisson: independent exponential gaps, so the number of arrivals varies. Constant: equal gaps,
/// the first arrival half a gap after the start, so that steps join without a double gap.
pub fn arrival_times(rate: Rate, length: Seconds, arrivals: Arrivals, rng: &mut impl Rng) -> Vec<Seconds> {
    let gap = 1.0 / rate.0;
    if !gap.is_finite() || gap <= 0.0 {
        return Vec::new();
    }
    let mut next_gap = || match arrivals {
        Arrivals::Poisson => <Exp1 as Distribution<f64>>::sample(&Exp1, rng) * gap,
        Arrivals::Constant => gap,
    };
    let mut time = match arrivals {
        Arrivals::Poisson => next_gap(),
        Arrivals::Constant => gap / 2.0,
    };
    let mut times = Vec::with_capacity((length.0 * rate.0).max(0.0) as usize + 16);
    while time < length.0 {
        times.push(Seconds(time));
        time += next_gap();
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::stream;

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let times = arrival_times(Rate(50.0), Seconds(2000.0), Arrivals::Poisson, &mut stream(1, "arrivals"));
        let n = times.len() as f64;
        // Five standard deviations of a Poisson count of 100,000.
        assert!((n - 100_000.0).abs() < 5.0 * 100_000_f64.sqrt(), "{n}");
        let gaps: Vec<f64> = times.windows(2).map(|w| w[1].0 - w[0].0).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let cv = variance.sqrt() / mean;
        assert!((cv - 1.0).abs() < 0.02, "{cv}");
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_within_the_step() {
        let times = arrival_times(Rate(4.0), Seconds(2.0), Arrivals::Constant, &mut stream(1, "arrivals"));
        assert_eq!(times.len(), 8);
        assert_eq!(times[0], Seconds(0.125));
        assert!(times.windows(2).all(|w| (w[1].0 - w[0].0 - 0.25).abs() < 1e-12));
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals_and_another_seed_others() {
        let draw =
            |seed| arrival_times(Rate(5.0), Seconds(60.0), Arrivals::Poisson, &mut stream(seed, "arrivals"));
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
