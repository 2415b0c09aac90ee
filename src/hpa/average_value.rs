//! A decision on an AverageValue target (replica_calculator.go of Kubernetes 1.36).

use crate::units::{Milli, Replicas};

/// How the controller tests whether a ratio is within tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Today's: `1 - tolerance <= ratio <= 1 + tolerance`, both ends included.
    Inclusive,
    /// The older: `abs(1 - ratio) <= tolerance`. In binary64 `abs(1 - 1.1)` is above 0.1, so it
    /// scales up at exactly 1.1.
    Absolute,
}

/// What the controller proposes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Usage over target.
    pub ratio: f64,
    /// Whether the ratio is within tolerance, so that nothing changes.
    pub in_band: bool,
    /// The replicas it proposes.
    pub replicas: Replicas,
}

/// Largest number of replicas that the controller can name.
const MOST: f64 = i32::MAX as f64;

/// The proposal for `total`, the sum of the metric over all pods (Pods) or series (External), on
/// `replicas` replicas that all are ready and sampled.
///
/// Pods: the average is truncated to whole milli-units, and the proposal is ceil(ratio x pods).
/// External: the ratio is total / (target x replicas), and the proposal ceil(total / target).
pub fn decide(
    external: bool,
    total: Milli,
    target: Milli,
    replicas: u32,
    tolerance: f64,
    generation: Generation,
) -> Decision {
    let count = f64::from(replicas);
    let (ratio, proposal) = if external {
        let ratio = total.0 as f64 / (target.0 as f64 * count);
        (ratio, (total.0 as f64 / target.0 as f64).ceil())
    } else {
        let average = total.0.checked_div(i64::from(replicas)).unwrap_or(0);
        let ratio = average as f64 / target.0 as f64;
        (ratio, (ratio * count).ceil())
    };
    let in_band = match generation {
        Generation::Inclusive => 1.0 - tolerance <= ratio && ratio <= 1.0 + tolerance,
        Generation::Absolute => (1.0 - ratio).abs() <= tolerance,
    };
    let proposed = if in_band { replicas } else { proposal.clamp(0.0, MOST) as u32 };
    Decision { ratio, in_band, replicas: Replicas(proposed) }
}

/// Whether the controller scales up from `replicas` replicas that each show `average`.
pub fn scales_up(
    external: bool,
    average: Milli,
    target: Milli,
    replicas: u32,
    tolerance: f64,
    generation: Generation,
) -> bool {
    let total = Milli(average.0.saturating_mul(i64::from(replicas)));
    decide(external, total, target, replicas, tolerance, generation).replicas > Replicas(replicas)
}

/// The smallest average, in whole milli-units, at which the controller scales up from one replica.
pub fn first_average_that_scales_up(target: Milli, tolerance: f64, generation: Generation) -> Milli {
    let fires = |average: i64| scales_up(false, Milli(average), target, 1, tolerance, generation);
    // The edge lies within a milli-unit of target x (1 + tolerance); the decision itself finds it.
    let mut average = ((target.0 as f64 * (1.0 + tolerance)).floor() as i64).saturating_sub(2).max(0);
    while !fires(average) {
        average += 1;
    }
    Milli(average)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Generation::{Absolute, Inclusive};

    /// The table of worked integers for a tolerance of 0.1: target, first average that scales up.
    #[test]
    fn the_first_average_that_scales_up_is_just_above_the_band() {
        for (target, first) in [(3000, 3301), (4000, 4401), (5000, 5501), (10_000, 11_001), (30_000, 33_001)]
        {
            assert_eq!(first_average_that_scales_up(Milli(target), 0.1, Inclusive), Milli(first));
        }
        assert_eq!(
            first_average_that_scales_up(Milli(20_000), 0.1, Absolute),
            Milli(22_000),
            "at exactly 1.1"
        );
    }

    /// Cases of Kubernetes' own documentation and tests, and runs of a real controller.
    #[test]
    fn decisions_agree_with_the_controller() {
        // External, sum and target in milli, replicas, proposal.
        let external = [
            (200_000, 35_000, 6, 6),
            (200_000, 35_000, 4, 6),
            (180_000, 60_000, 1, 3),
            (150_000, 60_000, 3, 3),
        ];
        for (total, target, replicas, proposal) in external {
            let decision = decide(true, Milli(total), Milli(target), replicas, 0.1, Inclusive);
            assert_eq!(decision.replicas, Replicas(proposal), "{total} {target} {replicas}");
        }
        let at = |ratio_milli: i64, generation| {
            decide(false, Milli(60 * ratio_milli * 20), Milli(60_000), 20, 0.1, generation).replicas
        };
        let measured = [(1090, 20), (1100, 20), (910, 20), (900, 20), (1110, 23), (890, 18)];
        for (ratio, proposal) in measured {
            assert_eq!(at(ratio, Inclusive), Replicas(proposal), "ratio {ratio}");
        }
        assert!(at(1100, Absolute) > Replicas(20), "older controllers scale up at exactly 1.1");
    }

    #[test]
    fn float_order_matters_as_in_the_controller() {
        let decision = decide(false, Milli(29_000 * 7), Milli(7000), 7, 0.1, Inclusive);
        assert_eq!(decision.replicas, Replicas(30), "exact arithmetic would give 29");
    }

    #[test]
    fn a_bounded_signal_cannot_pass_a_target_of_91() {
        let at_full = |target| scales_up(true, Milli(100_000), Milli(target), 3, 0.1, Inclusive);
        assert!(at_full(90_000) && at_full(90_909));
        assert!(!at_full(90_910) && !at_full(91_000));
    }
}
