//! Exact percentiles of latencies.

use super::LatencySummary;
use crate::units::Seconds;
use hdrhistogram::Histogram;

/// The value at `percent` by nearest rank: the smallest value that at least `percent` of `total`
/// values do not exceed. `sorted` may hold fewer than `total` values; those missing count as
/// infinitely late, and where the rank falls on one of them there is no value.
pub(super) fn nearest_rank(sorted: &[f64], total: usize, percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * total as f64 - 1e-9).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
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
        p99: at(99.0)?,
        max: Seconds(*sorted.last()?),
    })
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
    fn nothing_has_no_summary() {
        assert_eq!(summarize(&[]), None);
        assert_eq!(nearest_rank(&[], 0, 95.0), None);
    }
}
