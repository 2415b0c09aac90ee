//! The advice of Google's how-to page beside our targets: a queue of 3 to 5 requests and upwards, a batch
//! slightly below its maximum.

use super::{Advice, Assumptions};
use crate::analyze::{Analysis, Capacity};
use crate::replay::SLIGHTLY_BELOW;
use crate::units::Signal;

/// Queue targets that the page names.
const QUEUES: [f64; 2] = [3.0, 5.0];

/// What the page's targets would do with this server.
pub(super) fn of(analysis: &Analysis, capacity: &Capacity, assumptions: &Assumptions) -> Vec<Advice> {
    let most = analysis.surface.batch_cap.or_else(|| {
        let curve = analysis.surface.batch.as_ref()?;
        curve.points().last().map(|point| point.1)
    });
    let queues = QUEUES.map(|value| (Signal::Queue, value));
    let batch = most.map(|most| (Signal::Batch, most * SLIGHTLY_BELOW));
    queues
        .into_iter()
        .chain(batch)
        .map(|(signal, value)| advice(signal, value, analysis, capacity, assumptions))
        .collect()
}

fn advice(
    signal: Signal,
    value: f64,
    analysis: &Analysis,
    capacity: &Capacity,
    assumptions: &Assumptions,
) -> Advice {
    let load =
        analysis.surface.curve(signal).and_then(|curve| curve.load_at(value * (1.0 + assumptions.tolerance)));
    let violations = load.and_then(|load| analysis.surface.violations.as_ref()?.at(load));
    let says = match (load, violations) {
        (Some(load), Some(violations)) if load.0 > capacity.per_replica.0 => format!(
            "acts at {load}, beyond the capacity, where {:.0} % of the requests break a limit",
            violations * 100.0
        ),
        (Some(load), _) => format!(
            "acts at {load}, {:.0} % of the capacity: {}",
            100.0 * load.0 / capacity.per_replica.0,
            if load.0 * assumptions.growth_factor() > capacity.low.0 {
                "too late for a load that grows while a replica starts"
            } else {
                "in time"
            }
        ),
        (None, _) => "is not reached at any load that was measured or played".to_owned(),
    };
    Advice { signal, value, load, violations, says }
}
