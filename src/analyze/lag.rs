//! How far what an HPA sees runs behind what the server shows.
//!
//! The value that an API gave at a moment is laid beside what the server itself had shown so many
//! seconds before; the delay at which the two follow each other best is the lag. Its interval comes
//! from a bootstrap over blocks of neighboring points, since neighbors tell nearly the same.

use crate::measurement::{Sample, Series, Source};
use crate::units::Seconds;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Longest lag that is looked for, seconds, and the steps that it is looked for in.
const MOST: f64 = 120.0;
const STEP: f64 = 0.5;
/// Fewer points, or a looser likeness, tell no lag.
const POINTS_LEAST: usize = 10;
const CORRELATION_LEAST: f64 = 0.5;
/// A direct scrape older than this says nothing of a moment, seconds.
const STALE: f64 = 5.0;
/// More points than this make it slower and not better.
const POINTS_MOST: usize = 1000;
/// Resamples of the bootstrap, and the part of them that the interval holds.
const RESAMPLES: usize = 100;
const OUTSIDE: f64 = 0.025;
/// What differs by less than this part of its size differs by rounding.
const ROUNDING: f64 = 1e-12;

/// The lag of one series by way of one source, behind the direct scrape of the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lag {
    /// By way of what.
    pub source: Source,
    /// Which series, by its column.
    pub series: &'static str,
    /// Age of a value when it can be read there.
    #[serde(flatten)]
    pub age: Age,
}

/// An age with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Age {
    /// The delay at which the two series are most alike.
    pub lag: Seconds,
    /// Ends of its 95 % interval.
    pub low: Seconds,
    /// See `low`.
    pub high: Seconds,
    /// The correlation at that delay.
    pub correlation: f64,
    /// Points that it stands on.
    pub n: usize,
}

/// A series as time and value.
pub type Points = Vec<(f64, f64)>;

/// By way of what an HPA sees.
pub(super) const SEEN_BY_HPA: [Source; 2] = [Source::CustomMetrics, Source::ExternalMetrics];

/// The lags of everything that was read both directly and as an HPA reads it.
pub fn lags(samples: &[Sample]) -> Vec<Lag> {
    let mut found = Vec::new();
    for source in SEEN_BY_HPA {
        for series in [Series::QueueSize, Series::BatchSize, Series::KvUsage, Series::GpuUtil] {
            let pairs = pairs(samples, source, series);
            if let Some(age) = age(&pairs) {
                found.push(Lag { source, series: series.column(), age });
            }
        }
    }
    found
}

/// For each replica: what was shown directly, and what was read by way of `source` when it came. An
/// External metric has no replicas, so it is compared with the mean over them.
pub(super) fn pairs(samples: &[Sample], source: Source, series: Series) -> Vec<(Points, Points)> {
    let exporter = samples.iter().any(|sample| sample.source == Source::Gpu);
    let direct = match series {
        Series::GpuUtil if exporter => Source::Gpu,
        Series::GpuUtil => Source::Nvml,
        _ => Source::Server,
    };
    let of = |wanted: Source, replica: u32| -> Points {
        let mine = samples.iter().filter(|s| s.source == wanted && s.replica == replica);
        let time = |s: &Sample| if wanted == direct { s.time.0 } else { s.arrived.0 };
        let mut points: Points = mine.filter_map(|s| Some((time(s), s.get(series)?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let replicas: BTreeSet<u32> = samples.iter().filter(|s| s.source == direct).map(|s| s.replica).collect();
    if source == Source::ExternalMetrics {
        let all: Vec<Points> = replicas.iter().map(|replica| of(direct, *replica)).collect();
        return vec![(mean(&all), of(source, 0))];
    }
    let pairs = replicas.into_iter().map(|replica| (of(direct, replica), of(source, replica)));
    pairs.filter(|(direct, other)| !direct.is_empty() && !other.is_empty()).collect()
}

/// The mean of several series at the times of the first.
fn mean(all: &[Points]) -> Points {
    let Some(first) = all.first() else { return Points::new() };
    let at = |time: f64| {
        let values: Option<Vec<f64>> = all.iter().map(|points| value_at(points, time)).collect();
        values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    first.iter().filter_map(|(time, _)| Some((*time, at(*time)?))).collect()
}

/// What a gauge last showed at a time.
pub(super) fn value_at(points: &[(f64, f64)], time: f64) -> Option<f64> {
    let after = points.partition_point(|(at, _)| *at <= time);
    let (at, value) = *points.get(after.checked_sub(1)?)?;
    (time - at <= STALE).then_some(value)
}

/// The age at which `seen` follows `direct` best, pooled over replicas. `None`: too few points, a load
/// too even to tell, series that do not follow each other, or a lag longer than is looked for.
pub fn age(pairs: &[(Points, Points)]) -> Option<Age> {
    let begin = pairs.iter().filter_map(|(direct, _)| Some(direct.first()?.0)).fold(f64::INFINITY, f64::min);
    let end = pairs.iter().filter_map(|(_, seen)| Some(seen.last()?.0)).fold(f64::NEG_INFINITY, f64::max);
    // Every delay is judged by the same points, so the longest one must leave enough of them.
    let most = MOST.min((end - begin) / 2.0);
    if most.is_nan() || most < STEP {
        return None;
    }
    let delays: Vec<f64> = (0..=(most / STEP) as usize).map(|i| i as f64 * STEP).collect();
    let mut table: Vec<Row> = Vec::new();
    for (direct, seen) in pairs {
        let rows = seen.iter().filter_map(|(arrived, value)| {
            let before: Option<Vec<f64>> = delays.iter().map(|d| value_at(direct, arrived - d)).collect();
            Some((*value, before?))
        });
        table.extend(centred(rows.collect()));
    }
    let every = table.len().div_ceil(POINTS_MOST).max(1);
    let table: Vec<Row> = table.into_iter().step_by(every).collect();
    if table.len() < POINTS_LEAST {
        return None;
    }
    let every: Vec<usize> = (0..table.len()).collect();
    let (best, correlation) = best_delay(&table, &every)?;
    if correlation < CORRELATION_LEAST {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(table.len() as u64);
    let block = (table.len() as f64).sqrt().ceil() as usize;
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let blocks =
                (0..table.len().div_ceil(block)).map(|_| random.random_range(0..=table.len() - block));
            let rows: Vec<usize> = blocks.flat_map(|start| start..start + block).take(table.len()).collect();
            best_delay(&table, &rows).map(|(delay, _)| delays[delay])
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = resampled.len().checked_sub(1)?;
        Some(resampled[(share * last as f64).round() as usize])
    };
    let lag = delays[best];
    let high = at(1.0 - OUTSIDE)?.max(lag);
    // Where the interval reaches the end of the search, the lag may lie beyond it.
    if high >= *delays.last()? {
        return None;
    }
    Some(Age {
        lag: Seconds(lag),
        low: Seconds(at(OUTSIDE)?.min(lag)),
        high: Seconds(high),
        correlation,
        n: table.len(),
    })
}

/// What was seen at a moment, and what was shown before it by each delay.
type Row = (f64, Vec<f64>);

/// The rows of one replica as deviations from its own means: that replicas stand at different levels
/// tells no lag. What does not move deviates by nothing.
fn centred(mut rows: Vec<Row>) -> Vec<Row> {
    let delays = rows.first().map_or(0, |(_, before)| before.len());
    centre(rows.iter_mut().map(|row| &mut row.0).collect());
    for delay in 0..delays {
        centre(rows.iter_mut().map(|row| &mut row.1[delay]).collect());
    }
    rows
}

fn centre(values: Vec<&mut f64>) {
    let mean = values.iter().map(|value| **value).sum::<f64>() / values.len() as f64;
    let largest = values.iter().map(|value| value.abs()).fold(0.0, f64::max);
    for value in values {
        let deviation = *value - mean;
        *value = if deviation.abs() <= ROUNDING * largest { 0.0 } else { deviation };
    }
}

/// The delay of the highest correlation over some rows, with it. Where several are as high, as for a
/// gauge that stands still in between, the middle one; where they go on to the last, the last.
fn best_delay(table: &[Row], rows: &[usize]) -> Option<(usize, f64)> {
    let delays = table.first()?.1.len();
    let all: Vec<f64> = (0..delays).map(|delay| correlation(table, rows, delay)).collect();
    let highest = all.iter().copied().filter(|r| r.is_finite()).fold(f64::NEG_INFINITY, f64::max);
    let tied: Vec<usize> = (0..delays).filter(|i| all[*i] >= highest - 1e-9).collect();
    let open = tied.last().is_some_and(|last| last + 1 == delays);
    let place = if open { tied.len().checked_sub(1)? } else { tied.len() / 2 };
    Some((*tied.get(place)?, highest))
}

fn correlation(table: &[Row], rows: &[usize], delay: usize) -> f64 {
    let n = rows.len() as f64;
    let cells = || rows.iter().map(|row| (table[*row].1[delay], table[*row].0));
    let (x, y) = cells().fold((0.0, 0.0), |(x, y), cell| (x + cell.0 / n, y + cell.1 / n));
    let (mut vx, mut vy, mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (before, seen) in cells() {
        vx += (before - x).powi(2);
        vy += (seen - y).powi(2);
        xy += (before - x) * (seen - y);
        xx += before * before;
        yy += seen * seen;
    }
    let still = vx <= ROUNDING * xx || vy <= ROUNDING * yy;
    if still { f64::NAN } else { xy / (vx * vy).sqrt() }
}

/// Points of each series by source, and the replicas that they are of.
pub(super) fn by_source(samples: &[Sample]) -> BTreeMap<Source, (usize, BTreeSet<u32>)> {
    let mut found: BTreeMap<Source, (usize, BTreeSet<u32>)> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| !sample.is_empty()) {
        let entry = found.entry(sample.source).or_default();
        entry.0 += 1;
        entry.1.insert(sample.replica);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gauge that wanders: the same for the same seed.
    fn wandering(seconds: usize, seed: u64) -> Points {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut level = 10.0_f64;
        (0..seconds)
            .map(|second| {
                level = (level + random.random_range(-2.0..2.0)).clamp(0.0, 40.0);
                (second as f64, level)
            })
            .collect()
    }

    /// What a pipeline shows of it: sampled every `every` seconds, readable `delay` later, read every 5.
    fn through(direct: &Points, every: f64, delay: f64, noise: f64) -> Points {
        let mut random = ChaCha8Rng::seed_from_u64(99);
        let end = direct.last().unwrap().0;
        let read = (1..).map(|i| f64::from(i) * 5.0).take_while(|time| *time < end);
        read.filter_map(|time| {
            let sampled = ((time - delay) / every).floor() * every;
            Some((time, value_at(direct, sampled)? + random.random_range(-1.0..=1.0) * noise))
        })
        .collect()
    }

    #[test]
    fn a_known_delay_is_found_within_its_interval() {
        let direct = wandering(600, 1);
        for delay in [0.0, 7.0, 30.0, 75.0] {
            let age = age(&[(direct.clone(), through(&direct, 1.0, delay, 0.5))]).unwrap();
            assert!((age.lag.0 - delay).abs() <= 1.5, "{delay}: {age:?}");
            assert!(age.low.0 <= delay + 1.0 && age.high.0 >= delay - 1.0, "{delay}: {age:?}");
            assert!(age.correlation > 0.9 && age.n > 80, "{age:?}");
        }
    }

    #[test]
    fn a_pipeline_that_samples_seldom_is_late_by_half_its_period_besides() {
        let direct = wandering(1200, 2);
        let age = age(&[(direct.clone(), through(&direct, 30.0, 20.0, 0.0))]).unwrap();
        assert!((age.lag.0 - 35.0).abs() <= 6.0, "{age:?}");
        assert!(age.high.0 - age.low.0 > 1.0, "seldom samples leave it open: {age:?}");
    }

    #[test]
    fn a_load_too_even_or_too_short_or_unrelated_tells_no_lag() {
        let direct = wandering(600, 3);
        let even: Points = (0..600).map(|s| (f64::from(s), 4.0)).collect();
        assert_eq!(age(&[(even.clone(), through(&even, 1.0, 7.0, 0.0))]), None);
        let short: Points = direct[..30].to_vec();
        assert_eq!(age(&[(short.clone(), through(&short, 1.0, 3.0, 0.0))]), None);
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let noise = (1..120).map(|i| (f64::from(i) * 5.0, random.random_range(0.0..1.0))).collect();
        assert_eq!(age(&[(direct, noise)]), None);
        assert_eq!(age(&[]), None);
    }

    #[test]
    fn replicas_that_stand_still_at_different_levels_tell_no_lag() {
        let still = |level: f64| {
            let direct: Points = (0..600).map(|s| (f64::from(s), level)).collect();
            (direct.clone(), through(&direct, 1.0, 7.0, 0.0))
        };
        assert_eq!(age(&[still(2.0), still(8.0)]), None);
        // A replica that moves tells it, whatever stands still beside it.
        let direct = wandering(600, 7);
        let found = age(&[still(2.0), (direct.clone(), through(&direct, 1.0, 30.0, 0.0)), still(800.0)]);
        let found = found.unwrap();
        assert!((found.lag.0 - 30.0).abs() <= 1.5, "{found:?}");
    }

    #[test]
    fn a_level_that_is_no_binary_fraction_tells_no_lag() {
        for level in [4.3, 0.1, 1e9 / 3.0, 87.7] {
            let even: Points = (0..600).map(|s| (f64::from(s), level)).collect();
            assert_eq!(age(&[(even.clone(), through(&even, 1.0, 7.0, 0.0))]), None, "{level}");
        }
    }

    #[test]
    fn a_lag_beyond_what_is_looked_for_is_not_told_as_the_end_of_the_search() {
        for seed in [1, 2, 3] {
            let direct = wandering(1200, seed);
            assert_eq!(age(&[(direct.clone(), through(&direct, 1.0, 150.0, 0.0))]), None, "{seed}");
            // A short run looks less far.
            let short: Points = direct[..120].to_vec();
            let found = age(&[(short.clone(), through(&short, 1.0, 70.0, 0.0))]);
            assert!(found.is_none_or(|age| age.lag.0 < 50.0), "{seed}: {found:?}");
        }
        // What rises all the time is alike at every delay.
        let rising: Points = (0..600).map(|s| (f64::from(s), f64::from(s))).collect();
        assert_eq!(age(&[(rising.clone(), through(&rising, 1.0, 20.0, 0.0))]), None);
    }

    #[test]
    fn the_lag_of_an_api_is_told_by_arrival_and_of_external_metrics_by_the_mean() {
        let (a, b) = (wandering(400, 5), wandering(400, 6));
        let mut samples = Vec::new();
        let mut push = |source, replica, time: f64, arrived: f64, value| {
            let mut sample = Sample::new(Seconds(time), Seconds(0.0), source, replica);
            sample.set(Series::QueueSize, Some(value));
            samples.push(sample.received(Seconds(0.0), Seconds(arrived)));
        };
        for (replica, points) in [(0, &a), (1, &b)] {
            for (time, value) in points {
                push(Source::Server, replica, *time, *time, *value);
            }
            for (arrived, value) in through(points, 1.0, 10.0, 0.0) {
                // An adapter may say that the value is of now.
                push(Source::CustomMetrics, replica, arrived, arrived, value);
            }
        }
        let both: Points = a.iter().zip(&b).map(|(a, b)| (a.0, f64::midpoint(a.1, b.1))).collect();
        for (arrived, value) in through(&both, 1.0, 20.0, 0.0) {
            push(Source::ExternalMetrics, 0, arrived, arrived, value);
        }
        let found = lags(&samples);
        let told: Vec<_> = found.iter().map(|lag| (lag.source, lag.series, lag.age.lag.0.round())).collect();
        assert_eq!(told.len(), 2, "{found:?}");
        for (found, expected) in
            told.iter().zip([(Source::CustomMetrics, 10.0), (Source::ExternalMetrics, 20.0)])
        {
            assert!(found.0 == expected.0 && (found.2 - expected.1).abs() <= 1.0, "{told:?}");
        }
    }
}
