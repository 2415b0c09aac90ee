//! Whether requests in flight scatter as those of independent users do.
//!
//! A server whose rate is mu n / (K + n) under Poisson arrivals has negative-binomially many requests in
//! flight: their variance is e times their mean, with e = 1 + n / K. More than that shows bursts or replicas
//! that are loaded unevenly, less shows arrivals that are spread evenly.

use crate::analyze::Measured;
use crate::analyze::steps::{analyze_step, driven, mean_in_flight};
use crate::units::{Seconds, Slo};
use serde::Serialize;

/// The scatter of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Dispersion {
    /// Number of the step in the record.
    pub step: u32,
    /// Variance of the requests in flight over that of independent users.
    pub ratio: f64,
}

impl Dispersion {
    /// Ratios that chance and the fit leave open.
    pub const USUAL: std::ops::RangeInclusive<f64> = 0.6..=1.7;
}

/// A step tells its scatter where it is so many times as long as requests in flight remember.
const LEAST_LENGTHS: f64 = 15.0;

/// The scatter of the open-loop steps that are long enough to tell it. `half_saturation` is K.
pub(super) fn of_steps(measured: &Measured, slos: &[Slo], half_saturation: f64) -> Vec<Dispersion> {
    let replicas = f64::from(measured.replicas.0.max(1));
    let of = |mark| {
        let step = analyze_step((mark, None), measured, slos);
        let mean = step.in_flight;
        let elasticity = 1.0 + mean / replicas / half_saturation.max(1e-9);
        // Relaxation time of the number in flight.
        let memory = elasticity * step.e2e?.mean.0;
        let length = step.mark.hold().0;
        if !mark.load.is_open_loop() || mean < 2.0 || length < LEAST_LENGTHS * memory {
            return None;
        }
        let seconds = length.floor() as usize;
        let at = |i: usize| step.mark.hold_start + Seconds(i as f64);
        let counts: Vec<f64> =
            (0..seconds).map(|i| mean_in_flight(measured.requests, at(i), at(i + 1))).collect();
        let middle = super::mean(counts.iter().copied());
        let variance = super::mean(counts.iter().map(|n| (n - middle).powi(2)));
        // A stretch of this length misses the slow part of the scatter.
        let seen = 1.0 - 2.0 * memory / length;
        Some(Dispersion { step: mark.index, ratio: variance / seen / (elasticity * mean) })
    };
    driven(measured.events).into_iter().filter_map(|(mark, _)| of(mark)).collect()
}
