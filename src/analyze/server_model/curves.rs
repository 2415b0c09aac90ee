//! The fitted server played at many loads: how its gauges and figures follow them.

use super::super::{Curve, Origin};
use super::play::{Played, Workload, play};
use super::{Fitted, Known};
use crate::units::{Rate, Slo};

/// Requests that each point of the curves is played with.
const PLAYED_FOR_CURVES: usize = 8_000;
/// Loads of the curves, as shares of the capacity.
const CURVE_SHARES: [f64; 15] =
    [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.15, 1.3];
/// The fitted server played at many loads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curves {
    /// Batch gauge.
    pub batch: Option<Curve>,
    /// Queue gauge.
    pub queue: Option<Curve>,
    /// Requests in flight, counted.
    pub in_flight: Option<Curve>,
    /// Share of requests that break a limit, 0 to 1.
    pub violations: Option<Curve>,
    /// Reserved KV tokens as a share of the budget, 0 to 1, where one is known.
    pub kv: Option<Curve>,
    /// The figure of each limit, in seconds or as a share.
    pub figures: Vec<(Slo, Curve)>,
}

/// The fitted server played from nearly no load to well above its capacity.
pub(super) fn of(
    fitted: &Fitted,
    sizes: &[(u32, u32)],
    slos: &[Slo],
    capacity: Rate,
    known: &Known,
) -> Curves {
    let workload = Workload::poisson(sizes, PLAYED_FOR_CURVES, known, 2);
    let played: Vec<(f64, Played)> = CURVE_SHARES
        .iter()
        .map(|share| capacity.0 * share)
        .map(|load| (load, play(&fitted.model, &workload, Rate(load), slos)))
        .collect();
    let curve = |of: &dyn Fn(&Played) -> f64| {
        Curve::new(Origin::Played, played.iter().map(|(load, played)| (*load, of(played))))
    };
    let budget = fitted.token_budget.map(f64::from);
    Curves {
        batch: curve(&|played| played.batch),
        queue: curve(&|played| played.queue),
        in_flight: curve(&|played| played.in_flight),
        violations: curve(&|played| played.violations),
        kv: budget.and_then(|budget| curve(&|played| played.batch_tokens / budget)),
        figures: (0..slos.len()).filter_map(|i| Some((slos[i], figure(&played, i)?))).collect(),
    }
}

/// The figure of the limit in place `i`, as far as it is finite.
fn figure(played: &[(f64, Played)], i: usize) -> Option<Curve> {
    let points = played.iter().filter_map(|(load, played)| Some((*load, played.checks.get(i)?.value?)));
    Curve::new(Origin::Played, points)
}
