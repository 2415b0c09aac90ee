//! The target of one metric: its value at the load at which the HPA must act, so that the SLO still holds
//! when the new replica serves; bounded by what the control loop and the metric itself allow; rounded down to
//! milli-units and checked against what the controller really does with it.

use super::{Assumptions, Gate, LagOrigin, Target, Term};
use crate::analyze::{Analysis, Capacity, Curve, GaugeSummary, Origin, StepAnalysis};
use crate::hpa::{self, Generation, Source};
use crate::units::{Milli, Rate, Signal};

/// Elasticities (percent that a metric rises for one percent more load) that a target can be set on. Below,
/// the tolerance alone covers a third of all loads; above, a hair of load moves the metric from nothing to
/// anything, and replicas swing.
const ELASTICITIES: std::ops::RangeInclusive<f64> = 0.3..=5.0;
/// Room that a bounded metric needs above the point at which the HPA acts, as a factor.
const HEADROOM: f64 = 1.1;
/// A curve that ends this much below a load still stands for it.
const NEARLY: f64 = 0.1;
/// The most that a utilization can show, percent.
const FULL: f64 = 100.0;

/// The target of `signal`.
pub(super) fn derive(
    signal: Signal,
    analysis: &Analysis,
    capacity: &Capacity,
    assumptions: &Assumptions,
) -> Target {
    let curve = analysis.surface.curve(signal);
    let at_capacity = curve.and_then(|curve| near(curve, capacity.per_replica));
    let mut target = Target {
        signal,
        at_capacity,
        samples: analysis.steps.iter().filter_map(|step| gauge(signal, step)).map(|g| g.n).sum(),
        average_value: Err(absent(signal)),
        fires_at: None,
        fires_at_load: None,
        terms: Vec::new(),
        gates: Vec::new(),
        remarks: Vec::new(),
    };
    let (Some(curve), Some(at_capacity)) = (curve, at_capacity) else { return target };
    let aim = Rate(capacity.low.0 / assumptions.growth_factor());
    let Some(at_aim) = near(curve, aim).or_else(|| curve.points().first().map(|point| point.1)) else {
        return target;
    };
    let bounded = bounded(signal, at_aim, analysis, assumptions.tolerance);
    let bound = bounded.iter().map(|bound| bound.0).fold(at_aim, f64::min);
    let value = if signal == Signal::Queue { bound.max(1.0) } else { bound };
    target.terms = terms(signal, curve, capacity, assumptions, (at_capacity, aim, at_aim), &bounded);
    target.terms.extend(last_terms(signal, bound, value, assumptions.tolerance));
    target.average_value = match signal {
        Signal::Queue if at_capacity < 1.0 => Err(format!(
            "less than one request waits at the capacity ({at_capacity:.2}): the SLO breaks before a queue forms, so \
             the queue cannot hold it"
        )),
        Signal::Batch if at_capacity < 1.0 => Err(format!(
            "less than one request is in the batch at the capacity ({at_capacity:.2}): the SLO hardly allows for one \
             request at a time, which no number of replicas mends"
        )),
        _ => round(signal, value, assumptions.tolerance),
    };
    if let Ok(average) = target.average_value {
        target.fires_at =
            hpa::first_average_that_scales_up(average, assumptions.tolerance, Generation::Inclusive);
        target.fires_at_load = target.fires_at.and_then(|fires_at| curve.load_at(fires_at.as_f64()));
        target.terms.push(term("averageValue, rounded down to milli-units", average.to_string()));
        target.terms.extend(target.fires_at.map(|fires_at| {
            let load = target.fires_at_load.map(|load| {
                format!(
                    ", which is at {load}, {:.0} % of the capacity",
                    100.0 * load.0 / capacity.per_replica.0
                )
            });
            let text = format!("{} {}{}", fires_at.as_f64(), signal.unit(), load.unwrap_or_default());
            term("scales up from an average of", text)
        }));
        target.gates = gates(signal, curve, analysis, capacity, average, assumptions.tolerance);
    }
    target.remarks = remarks(signal, curve, capacity, &target.gates);
    target
}

/// The curve at a load, or at its end where that lies only little below.
fn near(curve: &Curve, load: Rate) -> Option<f64> {
    let (_, last) = curve.range();
    let load = if load.0 > last.0 && load.0 * (1.0 - NEARLY) <= last.0 { last } else { load };
    curve.at(load)
}

fn term(name: impl Into<String>, value: impl Into<String>) -> Term {
    Term { name: name.into(), value: value.into() }
}

fn absent(signal: Signal) -> String {
    match signal {
        Signal::Queue | Signal::Batch => {
            "the server showed no such metric in steps that reach the capacity".to_owned()
        }
        Signal::DutyCycle | Signal::Dcgm => {
            "no GPU metric was observed near the capacity; give the DCGM exporter's address with --gpu-metrics-url"
                .to_owned()
        }
    }
}

/// The gauge of a step that a signal is derived from. The duty cycle is taken from DCGM's GPU
/// utilization: both are the share of time in which the GPU was busy, over other windows.
pub(super) fn gauge(signal: Signal, step: &StepAnalysis) -> Option<GaugeSummary> {
    match signal {
        Signal::Queue => step.queue,
        Signal::Batch => step.batch,
        Signal::DutyCycle | Signal::Dcgm => step.gpu,
    }
}

/// Bounds below which the value must stay, with what they are.
fn bounded(signal: Signal, at_aim: f64, analysis: &Analysis, tolerance: f64) -> Vec<(f64, Term)> {
    let mut bounds = Vec::new();
    let mut bound = |value: f64, name: &str, why: String| {
        let binds = if value < at_aim { "" } else { "; it does not bind" };
        bounds.push((value, term(name, format!("{why}{binds}"))));
    };
    if signal == Signal::Batch {
        if let Some(k) = analysis.surface.stability {
            let why = format!("{k:.2} requests: above it more replicas overshoot (elasticity above 2)");
            bound(k * (1.0 + tolerance), "stability bound K for averageValue", why);
        }
        if let Some(cap) = analysis.surface.batch_cap {
            let why = format!("{:.2} requests: the batch holds {cap:.1} at most", cap / HEADROOM);
            bound(cap / HEADROOM, "cap of the batch with room above", why);
        }
    }
    bounds
}

fn terms(
    signal: Signal,
    curve: &Curve,
    capacity: &Capacity,
    assumptions: &Assumptions,
    (at_capacity, aim, at_aim): (f64, Rate, f64),
    bounds: &[(f64, Term)],
) -> Vec<Term> {
    let unit = signal.unit();
    let origin = match curve.origin {
        Origin::Measured => "measured",
        Origin::Played => "by the fitted server",
    };
    let startup = match assumptions.startup_origin {
        origin @ (LagOrigin::Measured | LagOrigin::AtMost) => format!(" ({})", origin.word()),
        LagOrigin::Given | LagOrigin::Assumed => String::new(),
    };
    let mut terms = vec![
        term(
            format!("at the capacity ({})", capacity.per_replica),
            format!("{at_capacity:.3} {unit}, {origin}"),
        ),
        term("lower end of the capacity's interval", capacity.low.to_string()),
        term(
            "reaction time: lag + half a sync + start-up",
            format!(
                "{} ({}) + {} + {}{startup} = {}",
                assumptions.lag,
                assumptions.lag_origin.word(),
                Assumptions::HALF_SYNC,
                assumptions.startup,
                assumptions.reaction()
            ),
        ),
        term(
            "growth of the load in that time",
            format!(
                "factor {:.3}, at {:.0} % a minute",
                assumptions.growth_factor(),
                assumptions.growth * 100.0
            ),
        ),
        term(format!("at the load to act at ({aim})"), format!("{at_aim:.3} {unit}")),
    ];
    terms.extend(bounds.iter().map(|bound| bound.1.clone()));
    terms
}

/// What is done to a value within its bounds before it is rounded.
fn last_terms(signal: Signal, bound: f64, value: f64, tolerance: f64) -> impl Iterator<Item = Term> {
    let floor =
        (value > bound).then(|| term("not below one request", "which any request that waits would exceed"));
    let divided = format!("{:.3} {} (tolerance {tolerance})", value / (1.0 + tolerance), signal.unit());
    floor.into_iter().chain([term("divided by 1 + tolerance", divided)])
}

/// The largest target in milli-units that makes every controller scale up at `value`.
fn round(signal: Signal, value: f64, tolerance: f64) -> Result<Milli, String> {
    let seen = Milli::floor(value).ok_or("its value is not a number")?;
    let mut target = Milli::floor(value / (1.0 + tolerance)).ok_or("its value is not a number")?;
    // At exactly target x (1 + tolerance) today's controllers hold still, so a target may need to
    // go one milli-unit lower to fire at the very value.
    while target.0 > 0 && !fires(signal, seen, target, tolerance) {
        target.0 -= 1;
    }
    if target.0 <= 0 {
        return Err(format!("its value there is {value:.3}: no target can tell that from an idle server"));
    }
    Ok(target)
}

/// Whether both generations of the controller scale up from one replica at `value`.
fn fires(signal: Signal, value: Milli, target: Milli, tolerance: f64) -> bool {
    let source = if signal.is_external() { Source::External } else { Source::Pods };
    [Generation::Inclusive, Generation::Absolute]
        .into_iter()
        .all(|generation| hpa::scales_up(source, value, target, tolerance, generation))
}

/// What a metric must pass to be relied on.
fn gates(
    signal: Signal,
    curve: &Curve,
    analysis: &Analysis,
    capacity: &Capacity,
    average: Milli,
    tolerance: f64,
) -> Vec<Gate> {
    let mut gates = Vec::new();
    let mut gate = |name, passed, detail: String| gates.push(Gate { name, passed, detail });
    if let Some(elasticity) = elasticity(curve, capacity.per_replica) {
        let passed = ELASTICITIES.contains(&elasticity);
        let detail = match elasticity {
            e if e < *ELASTICITIES.start() => format!(
                "it saturates: one percent more load raises it by {e:.2} percent, so the tolerance alone covers a third \
                 of all loads"
            ),
            e if e > *ELASTICITIES.end() => format!(
                "one percent more load raises it by {e:.0} percent: it stays near zero until the batch is full and then \
                 grows without bound, so replicas swing between too few and too many (limit cycle)"
            ),
            e => format!("one percent more load raises it by {e:.1} percent"),
        };
        gate("elasticity", passed, detail);
    }
    let most = match signal {
        Signal::Batch => analysis.surface.batch_cap,
        Signal::DutyCycle | Signal::Dcgm => Some(FULL),
        Signal::Queue => None,
    };
    if let Some(most) = most {
        let acts = average.as_f64() * (1.0 + tolerance);
        let passed = acts * HEADROOM <= most * (1.0 + 1e-9);
        let word = if passed {
            "well below"
        } else if acts < most {
            "too close to"
        } else {
            "so it never scales up: not below"
        };
        gate("can fire", passed, format!("it acts at {acts:.2}, {word} the {most:.1} that it can reach"));
    }
    if let Some((load, least)) = curve.points().first().copied() {
        // Two replicas become one where the average is at most half the target.
        let passed = 2.0 * least <= average.as_f64();
        let detail = if passed {
            format!("at {} it is {least:.2}, so a second replica is released", Rate(load))
        } else {
            format!(
                "even at {} it is {least:.1}, above half its target, so a second replica is released only when nearly \
                 idle, if at all",
                Rate(load)
            )
        };
        gate("comes down", passed, detail);
    }
    gates
}

/// Elasticity at a load, or at the end of a curve that nearly reaches it.
fn elasticity(curve: &Curve, load: Rate) -> Option<f64> {
    let (_, last) = curve.range();
    curve.elasticity(if load.0 > last.0 { last } else { load })
}

fn remarks(signal: Signal, curve: &Curve, capacity: &Capacity, gates: &[Gate]) -> Vec<String> {
    let mut remarks: Vec<String> =
        gates.iter().filter(|gate| !gate.passed).map(|gate| gate.detail.clone()).collect();
    let (_, last) = curve.range();
    if last.0 < capacity.per_replica.0 {
        remarks.push(format!("it was measured only up to {last}, a little below the capacity"));
    }
    if signal == Signal::DutyCycle {
        remarks.push(
            "taken from DCGM's GPU utilization: the same quantity over another window (GKE: 10 s, sampled every 60 s)"
                .to_owned(),
        );
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_target_is_the_value_over_one_plus_tolerance_and_fires_at_the_value() {
        assert_eq!(round(Signal::Batch, 24.2, 0.1), Ok(Milli(21_999)), "22 would hold still at exactly 24.2");
        assert_eq!(round(Signal::Batch, 24.25, 0.1), Ok(Milli(22_045)));
        assert_eq!(round(Signal::Dcgm, 100.0, 0.1), Ok(Milli(90_909)));
        assert!(round(Signal::Queue, 0.0, 0.1).is_err());
        assert!(round(Signal::Queue, 0.0005, 0.1).is_err());
    }

    proptest! {
        #[test]
        fn every_target_fires_at_the_capacity_and_no_larger_one_by_much(value in 0.01_f64..500.0, tolerance in 0.0_f64..0.5) {
            let seen = Milli::floor(value).unwrap();
            for signal in Signal::ALL {
                if let Ok(target) = round(signal, value, tolerance) {
                    prop_assert!(fires(signal, seen, target, tolerance));
                    prop_assert!(!fires(signal, seen, Milli(target.0 + 3), tolerance));
                }
            }
        }
    }
}
