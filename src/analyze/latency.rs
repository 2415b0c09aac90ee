//! Exact percentiles of latencies.

use super::LatencySummary;
use crate::units::Seconds;
use hdrhistogram::Histogram;

/// The value at `percent` by nearest rank: the smallest value that at least `percent` of `total`
/// values do not exceed. `sorted` may hold fewer than `total` values; those missing count as
/// infinitely late, and where the rank falls on one of them there is no value.
pub(super) fn nearest_rank(sorted: &[f64], total: usize, percent: f64) -> Option<f64> {
    sorted.get(place(total, percent)).copied()
}

/// The same of values in any order.
pub(super) fn nearest_rank_of(mut values: Vec<f64>, total: usize, percent: f64) -> Option<f64> {
    let place = place(total, percent);
    (place < values.len()).then(|| *values.select_nth_unstable_by(place, f64::total_cmp).1)
}

/// The place of a nearest rank, from 0.
fn place(total: usize, percent: f64) -> usize {
    (percent / 100.0 * total as f64 - 1e-9).ceil().max(1.0) as usize - 1
}

/// Sorts values ascending.
pub(super) fn sorted(values: impl Iterator<Item = Seconds>) -> Vec<f64> {
    let mut values: Vec<f64> = values.map(|seconds| seconds.0).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The summary of sorted values. `None` without any.
pub(super) fn summarize(sorted: &[f64]) -> Option<LatencySummary> {
    let at = |percent| nearest_rank(sorted, sorted.len(), percent).map(Seconds);
    Some(LatencySummary {
        n: sorted.len() as u64,
        mean: Seconds(sorted.iter().sum::<f64>() / sorted.len() as f64),
        p50: at(50.0)?,
        p90: at(90.0)?,
        p95: at(95.0)?,
        p95_interval: interval(sorted, 0.95),
        p99: at(99.0)?,
        max: Seconds(*sorted.last()?),
    })
}

/// The 90 % interval of a quantile by order statistics, whatever the distribution: the number of values below
/// the true one is binomial. `None` where so few values lie beyond it that it has no upper end.
fn interval(sorted: &[f64], share: f64) -> Option<(Seconds, Seconds)> {
    let (n, z) = (sorted.len() as f64, 1.645);
    let half = z * (n * share * (1.0 - share)).sqrt();
    let (low, high) = ((n * share - half).ceil(), (n * share + half).floor() + 1.0);
    let at = |rank: f64| sorted.get((rank as usize).checked_sub(1)?).copied().map(Seconds);
    at(low).zip(at(high))
}

/// The summary of a histogram of microseconds. `None` where it is empty.
pub(super) fn summarize_histogram(histogram: &Histogram<u64>) -> Option<LatencySummary> {
    let at = |percent| Seconds(histogram.value_at_percentile(percent) as f64 / 1e6);
    (!histogram.is_empty()).then(|| LatencySummary {
        n: histogram.len(),
        mean: Seconds(histogram.mean() / 1e6),
        p50: at(50.0),
        p90: at(90.0),
        p95: at(95.0),
        p95_interval: None,
        p99: at(99.0),
        max: Seconds(histogram.max() as f64 / 1e6),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        let at = |percent| nearest_rank(&values, 20, percent);
        assert_eq!((at(50.0), at(95.0), at(99.0), at(0.1)), (Some(10.0), Some(19.0), Some(20.0), Some(1.0)));
    }

    #[test]
    fn values_that_are_missing_count_as_infinitely_late() {
        let values: Vec<f64> = (1..=95).map(f64::from).collect();
        assert_eq!(nearest_rank(&values, 100, 95.0), Some(95.0));
        assert_eq!(nearest_rank(&values, 101, 95.0), None);
    }

    #[test]
    fn the_interval_of_a_percentile_holds_it_in_nine_of_ten_samples() {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let holds = (0..2000).filter(|_| {
            let mut values: Vec<f64> = (0..200).map(|_| rng.random()).collect();
            values.sort_by(f64::total_cmp);
            interval(&values, 0.95).is_some_and(|(low, high)| (low.0..=high.0).contains(&0.95))
        });
        let share = holds.count() as f64 / 2000.0;
        assert!((0.89..0.96).contains(&share), "{share}");
    }

    #[test]
    fn few_values_say_nothing_of_how_high_a_percentile_may_lie() {
        let values: Vec<f64> = (1..=50).map(f64::from).collect();
        assert_eq!(interval(&values, 0.95), None);
        assert_eq!(interval(&[], 0.95), None);
    }

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(summarize(&[]), None);
        assert_eq!(nearest_rank(&[], 0, 95.0), None);
    }
}
