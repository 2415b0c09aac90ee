//! The response surface: how each metric of a replica follows its load.

use super::Measured;
use super::gauges::in_flight_by_counters;
use super::server_model::Prediction;
use super::types::StepAnalysis;
use crate::units::{Rate, Signal};
use serde::Serialize;

/// Loads this far below and above a load, as a share of it, give the elasticity there.
const NEIGHBORHOOD: f64 = 0.1;

/// Where a curve comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Means over the measured parts of the steps.
    Measured,
    /// The fitted server played at each load.
    Played,
}

/// A figure of one replica against its load: never falling, straight between its points, unknown
/// outside of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// Where it comes from.
    pub origin: Origin,
    /// Requests per second and replica, and the figure there; in the order of the loads.
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// A curve through `points`. Where they fall with rising load, which only noise makes them do,
    /// neighbors are pooled (isotonic regression, "pool adjacent violators"). `None` below two loads.
    pub fn new(origin: Origin, points: impl IntoIterator<Item = (f64, f64)>) -> Option<Curve> {
        let mut points: Vec<(f64, f64)> =
            points.into_iter().filter(|(load, figure)| load.is_finite() && figure.is_finite()).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let figures = isotonic(&points.iter().map(|point| (point.1, 1.0)).collect::<Vec<_>>());
        let mut points: Vec<(f64, f64)> =
            points.iter().zip(figures).map(|(point, figure)| (point.0, figure)).collect();
        points.dedup_by(|b, a| a.0 == b.0);
        (points.len() >= 2).then_some(Curve { origin, points })
    }

    /// The points.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// The lowest and the highest load.
    pub fn range(&self) -> (Rate, Rate) {
        let ends = self.points.first().zip(self.points.last());
        ends.map_or((Rate(0.0), Rate(0.0)), |(first, last)| (Rate(first.0), Rate(last.0)))
    }

    /// The figure at a load. `None` outside the range.
    pub fn at(&self, load: Rate) -> Option<f64> {
        let above = self.points.partition_point(|point| point.0 < load.0);
        let high = self.points.get(above)?;
        if high.0 == load.0 {
            return Some(high.1);
        }
        let low = self.points.get(above.checked_sub(1)?)?;
        Some(low.1 + (high.1 - low.1) * (load.0 - low.0) / (high.0 - low.0))
    }

    /// The lowest load at which the figure reaches a value. `None` outside the range.
    pub fn load_at(&self, value: f64) -> Option<Rate> {
        let above = self.points.partition_point(|point| point.1 < value);
        let high = self.points.get(above)?;
        if high.1 == value {
            return Some(Rate(high.0));
        }
        let low = self.points.get(above.checked_sub(1)?)?;
        Some(Rate(low.0 + (high.0 - low.0) * (value - low.1) / (high.1 - low.1)))
    }

    /// The elasticity at a load: percent that the figure rises for one percent more load. `None` outside
    /// the range, or where the figure is zero.
    pub fn elasticity(&self, load: Rate) -> Option<f64> {
        self.at(load)?;
        let (first, last) = self.range();
        let (low, high) =
            ((load.0 * (1.0 - NEIGHBORHOOD)).max(first.0), (load.0 * (1.0 + NEIGHBORHOOD)).min(last.0));
        let (below, above) = (self.at(Rate(low))?, self.at(Rate(high))?);
        let rise = (above / below).ln() / (high / low).ln();
        rise.is_finite().then_some(rise)
    }
}

/// Isotonic regression of `(value, weight)` by pooling adjacent violators: the never-falling sequence
/// with the least weighted squares.
pub(crate) fn isotonic(values: &[(f64, f64)]) -> Vec<f64> {
    let mut blocks: Vec<(f64, f64, usize)> = Vec::with_capacity(values.len());
    for (value, weight) in values {
        let mut block = (*value, *weight, 1);
        while let Some(last) = blocks.pop_if(|last| last.0 > block.0) {
            let weight = last.1 + block.1;
            block = ((last.0 * last.1 + block.0 * block.1) / weight, weight, last.2 + block.2);
        }
        blocks.push(block);
    }
    blocks.into_iter().flat_map(|(value, _, n)| std::iter::repeat_n(value, n)).collect()
}

/// How the metrics of a replica follow its load. Gauges are as the server shows them, since those are
/// what an HPA sees.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Surface {
    /// Queue size.
    pub queue: Option<Curve>,
    /// Batch size.
    pub batch: Option<Curve>,
    /// GPU utilization, percent.
    pub gpu: Option<Curve>,
    /// Requests in flight, counted by the server where it does, else by the client: with those that no gauge
    /// shows during their prefill.
    pub in_flight: Option<Curve>,
    /// Reserved KV tokens as a share of the budget, 0 to 1.
    pub kv: Option<Curve>,
    /// Share of requests that break a limit, 0 to 1.
    pub violations: Option<Curve>,
    /// The largest batch that requests like the measured ones fit into, where a limit is known.
    pub batch_cap: Option<f64>,
    /// Half-saturation concurrency K: the batch at which its elasticity reaches 2, above which the HPA's
    /// own reaction overshoots. `None`: not known.
    pub stability: Option<f64>,
}

impl Surface {
    /// The curve that an HPA on `signal` sees. The duty cycle is taken from DCGM's GPU utilization: both
    /// are the share of time in which the GPU was busy, over other windows.
    pub fn curve(&self, signal: Signal) -> Option<&Curve> {
        match signal {
            Signal::Queue => self.queue.as_ref(),
            Signal::Batch => self.batch.as_ref(),
            Signal::DutyCycle | Signal::Dcgm => self.gpu.as_ref(),
        }
    }
}

/// The surface: as played where the fitted server gives the capacity, else as the steps show it. The
/// utilization of the GPU is always measured.
pub(super) fn surface(steps: &[StepAnalysis], measured: &Measured, played: Option<&Prediction>) -> Surface {
    let replicas = measured.replicas;
    let in_flight = |step: &StepAnalysis| {
        let by_counters = in_flight_by_counters(measured, step.mark.hold_start, step.mark.end);
        by_counters.unwrap_or(step.in_flight / f64::from(replicas.0.max(1)))
    };
    let curve = |figure: &dyn Fn(&StepAnalysis) -> Option<f64>| {
        let points = steps
            .iter()
            .filter(|step| step.attempts > 0)
            .filter_map(|step| Some((step.carried(replicas).0, figure(step)?)));
        Curve::new(Origin::Measured, points)
    };
    let measured = Surface {
        queue: curve(&|step| Some(step.queue?.mean)),
        batch: curve(&|step| Some(step.batch?.mean)),
        gpu: curve(&|step| Some(step.gpu?.mean)),
        in_flight: curve(&|step| Some(in_flight(step))),
        kv: None,
        violations: curve(&|step| Some(1.0 - step.goodput?)),
        batch_cap: None,
        stability: None,
    };
    let Some(played) = played else { return measured };
    let curves = played.curves.clone();
    Surface {
        queue: curves.queue,
        batch: curves.batch,
        in_flight: curves.in_flight,
        kv: curves.kv,
        violations: curves.violations,
        batch_cap: Some(played.batch_cap),
        stability: Some(played.half_saturation),
        gpu: measured.gpu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curve(points: &[(f64, f64)]) -> Curve {
        Curve::new(Origin::Measured, points.iter().copied()).unwrap()
    }

    #[test]
    fn a_curve_is_straight_between_its_points_and_unknown_outside() {
        let curve = curve(&[(1.0, 2.0), (3.0, 6.0), (4.0, 20.0)]);
        assert_eq!(curve.at(Rate(2.0)), Some(4.0));
        assert_eq!(curve.at(Rate(4.0)), Some(20.0));
        assert_eq!((curve.at(Rate(0.9)), curve.at(Rate(4.1))), (None, None));
        assert_eq!(curve.load_at(13.0), Some(Rate(3.5)));
        assert_eq!((curve.load_at(1.0), curve.load_at(21.0)), (None, None));
    }

    #[test]
    fn the_elasticity_of_a_power_law_is_its_exponent() {
        let points = (1..200).map(|i| f64::from(i) * 0.1).map(|load| (load, load.powf(1.7)));
        let curve = Curve::new(Origin::Played, points).unwrap();
        assert!((curve.elasticity(Rate(10.0)).unwrap() - 1.7).abs() < 0.01);
        assert_eq!(curve.elasticity(Rate(30.0)), None);
    }

    proptest! {
        #[test]
        fn more_load_never_lowers_a_curve(points in prop::collection::vec((0.1..50.0_f64, 0.0..100.0_f64), 2..20), probes in prop::collection::vec(0.1..50.0_f64, 2..20)) {
            let Some(curve) = Curve::new(Origin::Measured, points) else { return Ok(()) };
            let mut probes = probes;
            probes.sort_by(f64::total_cmp);
            let figures: Vec<f64> = probes.iter().filter_map(|load| curve.at(Rate(*load))).collect();
            prop_assert!(figures.is_sorted_by(|a, b| *b >= *a - 1e-9), "{figures:?}");
        }

        #[test]
        fn isotonic_regression_keeps_the_mean(values in prop::collection::vec((-10.0..10.0_f64, 0.1..5.0_f64), 1..30)) {
            let smooth = isotonic(&values);
            let mean = |of: &dyn Fn(usize) -> f64| (0..values.len()).map(|i| of(i) * values[i].1).sum::<f64>();
            prop_assert!((mean(&|i| values[i].0) - mean(&|i| smooth[i])).abs() < 1e-6);
            prop_assert!(smooth.is_sorted_by(|a, b| a <= &(b + 1e-12)));
        }
    }
}
