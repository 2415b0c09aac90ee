//! Many calibrations in a few figures.

use super::{Calibration, Family};
use crate::analyze::server_model::Prediction;
use crate::units::Rate;
use serde::Serialize;

/// The calibrations of one server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Which limit breaks first.
    pub server: String,
    /// How it differs from the model.
    pub family: Family,
    /// True capacity, requests per second and replica.
    pub truth: Rate,
    /// Calibrations.
    pub n: usize,
    /// Of these, those that found no capacity.
    pub failed: usize,
    /// Root mean square error of the capacity, percent.
    pub rmse_percent: f64,
    /// The same before the last step, in percent.
    pub rmse_before_verification_percent: f64,
    /// Mean error, percent.
    pub bias_percent: f64,
    /// 90 % intervals that hold the truth, percent.
    pub interval_coverage_percent: f64,
    /// Mean half width of the intervals, percent of the capacity.
    pub interval_half_width_percent: f64,
    /// How far the truth lies from each capacity, in half widths of its interval on that side.
    #[serde(skip)]
    pub reaches: Vec<f64>,
    /// Mean GPU-minutes before the last step.
    pub gpu_minutes: f64,
    /// Mean GPU-minutes in all.
    pub gpu_minutes_verified: f64,
    /// Calibrations that noticed a change of the server, percent.
    pub drift_noticed_percent: f64,
}

/// A whole study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Calibrations in all.
    pub calibrations: usize,
    /// Root mean square error where the server is as the model has it, percent.
    pub capacity_rmse_percent: f64,
    /// The same where it is not.
    pub capacity_rmse_percent_mismatch: f64,
    /// 90 % intervals that hold the truth, percent, all servers that do not drift.
    pub interval_coverage_percent: f64,
    /// How many times as wide the intervals of those would have to be to hold the truth in just 90 %.
    pub interval_width_needed: f64,
    /// Mean GPU-minutes before the step that verifies.
    pub gpu_minutes: f64,
    /// Mean GPU-minutes with it.
    pub gpu_minutes_verified: f64,
    /// Drifting servers whose change was noticed, percent.
    pub drift_noticed_percent: f64,
    /// Steady servers of which a change was said, percent.
    pub drift_false_alarm_percent: f64,
    /// Root mean square error of the capacity at another number of replicas than was measured, percent.
    pub pooling_rmse_percent: Option<f64>,
    /// Replicas measured and replicas predicted for in that.
    pub pooling_replicas: Option<(u32, u32)>,
    /// The single servers.
    pub rows: Vec<Row>,
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0.0, 0.0), |(n, sum), value| (n + 1.0, sum + value));
    if n > 0.0 { sum / n } else { f64::NAN }
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    mean(values.map(|value| value * value)).sqrt()
}

fn reach(prediction: &Prediction, truth: Rate) -> f64 {
    let end = if truth > prediction.capacity { prediction.high } else { prediction.low };
    let distance = |rate: Rate| (rate.0 / prediction.capacity.0).ln().abs();
    distance(truth) / distance(end).max(f64::MIN_POSITIVE)
}

/// The value that nine tenths of them do not exceed.
fn ninth_tenth(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * 0.9).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The figures of one server's calibrations.
pub fn row(server: &str, family: Family, truth: Rate, calibrations: &[Calibration]) -> Row {
    let found: Vec<_> = calibrations.iter().filter_map(|c| c.prediction.as_ref()).collect();
    let error = |capacity: Rate| (capacity.0 / truth.0 - 1.0) * 100.0;
    let share = |n: usize| 100.0 * n as f64 / found.len().max(1) as f64;
    Row {
        server: server.to_owned(),
        family,
        truth,
        n: calibrations.len(),
        failed: calibrations.len() - found.len(),
        rmse_percent: rms(found.iter().map(|p| error(p.capacity))),
        rmse_before_verification_percent: rms(calibrations
            .iter()
            .filter_map(|c| c.before_verification)
            .map(error)),
        bias_percent: mean(found.iter().map(|p| error(p.capacity))),
        interval_coverage_percent: share(
            found.iter().filter(|p| (p.low.0..=p.high.0).contains(&truth.0)).count(),
        ),
        interval_half_width_percent: mean(
            found.iter().map(|p| 100.0 * (p.high.0 - p.low.0) / 2.0 / p.capacity.0),
        ),
        reaches: found.iter().map(|p| reach(p, truth)).collect(),
        gpu_minutes: mean(calibrations.iter().map(|c| c.gpu_minutes)),
        gpu_minutes_verified: mean(calibrations.iter().map(|c| c.gpu_minutes_verified)),
        drift_noticed_percent: share(found.iter().filter(|p| !p.drift.changes.is_empty()).count()),
    }
}

/// The figures of the study over its rows. `pooling`: replicas measured, replicas predicted for, and the
/// rows of that.
pub fn summarize(rows: Vec<Row>, pooling: Option<(u32, u32, Vec<Row>)>) -> Summary {
    let of = |wanted: &'static dyn Fn(Family) -> bool| rows.iter().filter(|row| wanted(row.family));
    let over = |wanted: &'static dyn Fn(Family) -> bool, figure: fn(&Row) -> f64| {
        let (mut sum, mut n) = (0.0, 0.0);
        for row in of(wanted).filter(|row| row.n > row.failed) {
            let weight = (row.n - row.failed) as f64;
            sum += weight * figure(row);
            n += weight;
        }
        if n > 0.0 { sum / n } else { f64::NAN }
    };
    let pooled_rms = |wanted| over(wanted, |row| row.rmse_percent.powi(2)).sqrt();
    Summary {
        calibrations: rows.iter().map(|row| row.n).sum(),
        capacity_rmse_percent: pooled_rms(&|family| family == Family::Model),
        capacity_rmse_percent_mismatch: pooled_rms(&|family| family != Family::Model),
        interval_coverage_percent: over(&|family| family != Family::Drifting, |row| {
            row.interval_coverage_percent
        }),
        interval_width_needed: ninth_tenth(
            of(&|family| family != Family::Drifting).flat_map(|row| row.reaches.iter().copied()).collect(),
        ),
        gpu_minutes: over(&|_| true, |row| row.gpu_minutes),
        gpu_minutes_verified: over(&|_| true, |row| row.gpu_minutes_verified),
        drift_noticed_percent: over(&|family| family == Family::Drifting, |row| row.drift_noticed_percent),
        drift_false_alarm_percent: over(&|family| family != Family::Drifting, |row| {
            row.drift_noticed_percent
        }),
        pooling_rmse_percent: pooling
            .as_ref()
            .map(|(_, _, rows)| rms(rows.iter().map(|row| row.rmse_percent))),
        pooling_replicas: pooling.map(|(from, to, _)| (from, to)),
        rows,
    }
}
