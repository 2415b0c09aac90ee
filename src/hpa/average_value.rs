//! What an AverageValue target does on one replica: where it begins to scale up.

use super::replica_calculator::{Phase, Pod, Source, Target, Workload, propose};
use super::tolerance::{Generation, Tolerances};
use crate::units::Milli;

/// Targets from here on, and averages above, are no whole numbers in binary64 any more.
const MOST: i64 = 1 << 52;

/// Whether the controller scales up from one replica that shows `average`.
pub fn scales_up(
    source: Source,
    average: Milli,
    target: Milli,
    tolerance: f64,
    generation: Generation,
) -> bool {
    let pod = Pod { phase: Phase::Running, ready: true, deleted: false };
    let workload = Workload { spec_replicas: 1, status_replicas: 1, pods: vec![pod] };
    let tolerances = Tolerances::both(tolerance, generation);
    propose(source, Target::AverageValue(target), &workload, &[Some(average)], tolerances)
        .is_ok_and(|proposal| proposal.replicas > 1)
}

/// The smallest average, in whole milli-units, at which the controller scales up from one replica.
/// `None` where the target is not above 0, the tolerance is not finite, or nothing below 2^52 scales up.
pub fn first_average_that_scales_up(target: Milli, tolerance: f64, generation: Generation) -> Option<Milli> {
    let fires = |average: i64| scales_up(Source::Pods, Milli(average), target, tolerance, generation);
    // Far enough, and not so far that the proposal leaves 32 bits.
    let most = target.0.saturating_mul(1 << 30).min(MOST);
    if target.0 <= 0 || !tolerance.is_finite() || !fires(most) {
        return None;
    }
    // The ratio rises with the average, so the edge is crossed once.
    let (mut below, mut at) = (0, most);
    while at - below > 1 {
        let middle = below + (at - below) / 2;
        if fires(middle) {
            at = middle;
        } else {
            below = middle;
        }
    }
    Some(Milli(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Generation::{Absolute, Inclusive};

    /// The table of worked integers for a tolerance of 0.1: target, first average that scales up.
    #[test]
    fn the_first_average_that_scales_up_is_just_above_the_band() {
        let first = |target, tolerance, generation| {
            first_average_that_scales_up(Milli(target), tolerance, generation).map(|average| average.0)
        };
        for (target, average) in
            [(3000, 3301), (4000, 4401), (5000, 5501), (10_000, 11_001), (30_000, 33_001)]
        {
            assert_eq!(first(target, 0.1, Inclusive), Some(average));
        }
        assert_eq!(first(20_000, 0.1, Absolute), Some(22_000), "at exactly 1.1");
        for (target, tolerance) in
            [(-1000, 0.1), (0, 0.1), (1000, f64::INFINITY), (1000, f64::NAN), (i64::MAX, 0.1)]
        {
            assert_eq!(first(target, tolerance, Inclusive), None, "{target} {tolerance}");
        }
    }

    #[test]
    fn the_edge_is_where_ten_times_the_average_passes_eleven_times_the_target() {
        for target in 1..=20_000 {
            let first = first_average_that_scales_up(Milli(target), 0.1, Inclusive);
            assert_eq!(first, Some(Milli(11 * target / 10 + 1)));
        }
    }

    #[test]
    fn a_bounded_signal_cannot_pass_a_target_of_91() {
        let at_full = |target| scales_up(Source::External, Milli(100_000), Milli(target), 0.1, Inclusive);
        assert!(at_full(90_000) && at_full(90_909));
        assert!(!at_full(90_910) && !at_full(91_000));
    }
}
