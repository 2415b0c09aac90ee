//! The target of one metric: its value at the SLO capacity, divided by 1 + tolerance, rounded down
//! to milli-units, and then checked against what the controller really does with it.

use super::{Target, Term};
use crate::analyze::{Analysis, Capacity, GaugeSummary, StepAnalysis};
use crate::hpa::{self, Generation, Source};
use crate::units::{Milli, Signal};

/// A metric whose elasticity (change in percent for one percent more load) is below this hardly
/// tells loads apart: tolerance alone covers a change of load by a third.
const LEAST_ELASTICITY: f64 = 0.3;
/// Where the metric at capacity is above this share of the most it was ever seen at, hardly any
/// room is left for it to rise above its target.
const NEAR_CEILING: f64 = 0.9;

/// The target of `signal`.
pub(super) fn derive(signal: Signal, analysis: &Analysis, capacity: &Capacity, tolerance: f64) -> Target {
    let at_capacity = analysis.surface.curve(signal).and_then(|curve| curve.at(capacity.per_replica));
    let nearest = nearest(capacity);
    let samples = nearest.iter().filter_map(|i| gauge(signal, &analysis.steps[*i])).map(|g| g.n).sum();
    let mut target = Target {
        signal,
        at_capacity,
        samples,
        average_value: Err(absent(signal)),
        fires_at: None,
        terms: Vec::new(),
        remarks: Vec::new(),
    };
    let Some(value) = at_capacity else { return target };
    target.terms = terms(signal, value, analysis, capacity, tolerance);
    target.remarks = remarks(signal, value, analysis, capacity, tolerance);
    target.average_value = round(signal, value, tolerance);
    if let Ok(average) = target.average_value {
        target.fires_at = hpa::first_average_that_scales_up(average, tolerance, Generation::Inclusive);
        target.terms.push(term("averageValue, rounded down to milli-units", average.to_string()));
        let fires_at = target.fires_at.map(|fires_at| format!("{} {}", fires_at.as_f64(), signal.unit()));
        target.terms.extend(fires_at.map(|fires_at| term("scales up from an average of", fires_at)));
    }
    target
}

/// The steps around the capacity.
fn nearest(capacity: &Capacity) -> Vec<usize> {
    capacity.bracket.iter().flat_map(|bracket| [bracket.lower_step, bracket.upper_step]).collect()
}

fn term(name: impl Into<String>, value: impl Into<String>) -> Term {
    Term { name: name.into(), value: value.into() }
}

fn absent(signal: Signal) -> String {
    match signal {
        Signal::Queue | Signal::Batch => {
            "the server showed no such metric in the steps around the capacity".to_owned()
        }
        Signal::DutyCycle | Signal::Dcgm => {
            "no GPU metric was observed; give the DCGM exporter's address with --gpu-metrics-url".to_owned()
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

/// The largest target in milli-units that makes every controller scale up at `value`.
fn round(signal: Signal, value: f64, tolerance: f64) -> Result<Milli, String> {
    let seen = Milli::floor(value).ok_or("the value at capacity is not a number")?;
    let mut target =
        Milli::floor(value / (1.0 + tolerance)).ok_or("the value at capacity is not a number")?;
    // At exactly target x (1 + tolerance) today's controllers hold still, so a target may need to
    // go one milli-unit lower to fire at the very capacity.
    while target.0 > 0 && !fires(signal, seen, target, tolerance) {
        target.0 -= 1;
    }
    if target.0 <= 0 {
        let reason =
            format!("its value at the capacity is {value:.3}: no target can tell that from an idle server");
        return Err(reason);
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

fn terms(signal: Signal, value: f64, analysis: &Analysis, capacity: &Capacity, tolerance: f64) -> Vec<Term> {
    let unit = signal.unit();
    let at = |index: usize| gauge(signal, &analysis.steps[index]);
    let side = |what: &str, index: usize, rate: String| {
        at(index).map(|g| {
            let figures = match g.standard_error {
                Some(error) => {
                    format!("{:.2} ± {error:.2} {unit} (mean ± standard error, n = {})", g.mean, g.n)
                }
                None => format!("{:.2} {unit} (n = {}, too few for an error)", g.mean, g.n),
            };
            term(format!("{what} ({rate})"), figures)
        })
    };
    let mut terms: Vec<Term> = Vec::new();
    if let Some(bracket) = capacity.bracket {
        terms.extend(side("at the last load that holds", bracket.lower_step, bracket.holds_at.to_string()));
        terms.extend(side("at the first load that fails", bracket.upper_step, bracket.fails_at.to_string()));
    }
    let share = format!("at the capacity ({})", capacity.per_replica);
    terms.push(term(share, format!("{value:.3} {unit}")));
    terms.push(term(
        "divided by 1 + tolerance",
        format!("{:.3} {unit} (tolerance {tolerance})", value / (1.0 + tolerance)),
    ));
    terms
}

fn remarks(
    signal: Signal,
    value: f64,
    analysis: &Analysis,
    capacity: &Capacity,
    tolerance: f64,
) -> Vec<String> {
    let mut remarks = Vec::new();
    let lowest = analysis
        .steps
        .iter()
        .filter(|step| step.attempts > 0)
        .min_by(|a, b| a.offered.0.total_cmp(&b.offered.0));
    let low = lowest.and_then(|step| Some((step.achieved.0.min(step.offered.0), gauge(signal, step)?.mean)));
    if let Some((rate, low)) = low.filter(|(rate, low)| *rate > 0.0 && *low > 0.0 && value > *low) {
        let total = capacity.per_replica.0 * f64::from(analysis.replicas.0);
        let elasticity = (value / low).ln() / (total / rate).ln();
        if total > rate && elasticity < LEAST_ELASTICITY {
            remarks.push(format!(
                "it saturates: from {rate:.2} to {total:.2} req/s it only goes from {low:.1} to {value:.1} {}",
                signal.unit()
            ));
        }
    }
    // Two replicas become one where the average is at most half the target.
    if low.is_some_and(|(_, low)| low > value / (1.0 + tolerance) / 2.0) {
        remarks.push(
            "even at the lowest measured load it is above half its target, so a second replica is \
             released only when nearly idle"
                .to_owned(),
        );
    }
    let ceiling =
        analysis.steps.iter().filter_map(|step| gauge(signal, step)).map(|g| g.mean).fold(0.0, f64::max);
    let bounded = signal != Signal::Queue && ceiling > 0.0 && value > NEAR_CEILING * ceiling;
    if bounded {
        remarks.push(format!(
            "at the capacity it is already at {:.0} % of the most it was seen at ({ceiling:.1} {}): overload hardly \
             raises it further, so each scale-up is small",
            100.0 * value / ceiling,
            signal.unit()
        ));
    }
    if signal == Signal::Queue {
        if value < 1.0 {
            remarks.push(format!(
                "less than one request waits at the capacity ({value:.2}): the SLO breaks before a queue forms, so the \
                 queue cannot hold it"
            ));
        }
        remarks.push(
            "scaling on the queue alone tends to a limit cycle: it stays near zero until the batch is full and then \
             grows without bound, so replicas swing between too few and too many"
                .to_owned(),
        );
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
