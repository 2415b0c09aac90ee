//! Which metric to scale on, and what to know before doing so.

use super::Target;
use crate::analyze::{Analysis, Capacity, Steadiness, Verdict};
use crate::units::Signal;

/// The order in which metrics are preferred where nothing speaks against them. Batch size rises
/// with load all the way; the queue only once the batch is full; GPU utilization hardly at all.
const PREFERENCE: [Signal; 4] = [Signal::Batch, Signal::Queue, Signal::Dcgm, Signal::DutyCycle];

/// The metric to scale on, and why it and not the others.
pub(super) fn choose(targets: &[Target]) -> (Option<Signal>, Vec<String>) {
    let of = |signal: Signal| targets.iter().find(|target| target.signal == signal);
    let chosen = PREFERENCE.into_iter().find(|signal| of(*signal).is_some_and(|t| t.average_value.is_ok()));
    let Some(chosen) = chosen else {
        return (
            None,
            vec!["no metric has a value at the capacity that a target could be set on".to_owned()],
        );
    };
    let mut rationale = vec![reason_for(chosen)];
    for signal in PREFERENCE.into_iter().filter(|signal| *signal != chosen) {
        let Some(target) = of(signal) else { continue };
        let reason = match (&target.average_value, target.remarks.first()) {
            (Err(reason), _) => reason.clone(),
            (Ok(_), Some(remark)) => remark.clone(),
            (Ok(_), None) => format!("{} follows the load more directly", chosen.title()),
        };
        rationale.push(format!("not {}: {reason}", signal.title()));
    }
    (Some(chosen), rationale)
}

fn reason_for(signal: Signal) -> String {
    let reason = match signal {
        Signal::Batch => "it rises with the load all the way to the capacity",
        Signal::Queue => "the batch size gives no target, and a queue at least shows that the batch is full",
        Signal::DutyCycle | Signal::Dcgm => "neither of the server's own metrics gives a target",
    };
    format!("{}, because {reason}", signal.title())
}

/// Steps further apart than this factor leave the capacity open to more than a straight line can tell.
const WIDE: f64 = 1.5;

/// Warnings about the whole recommendation.
pub(super) fn warnings(analysis: &Analysis, capacity: &Capacity, recommended: Option<Signal>) -> Vec<String> {
    let mut warnings = vec![format!(
        "the capacity lies somewhere from {} to {} per replica: it is interpolated between two steps, without \
         allowance for growth of the load while a new replica starts",
        capacity.low, capacity.high
    )];
    let apart = capacity.high.0 / capacity.low.0;
    if apart > WIDE {
        warnings.insert(
            0,
            format!("the last step that holds and the first that fails are a factor of {apart:.1} apart: drive steps between them"),
        );
    }
    if recommended == Some(Signal::Queue) {
        warnings.push(
            "the only usable metric is the queue: expect replicas to swing; limit scale-down".to_owned(),
        );
    }
    if analysis.replicas.0 == 1 {
        warnings.push(
            "measured on one replica: several share peaks better, so each then carries somewhat more"
                .to_owned(),
        );
    }
    let mut at_limit =
        capacity.bracket.iter().flat_map(|b| [b.lower_step, b.upper_step]).map(|i| &analysis.steps[i]);
    if at_limit.any(|step| step.holds() && matches!(step.steady, Steadiness::Growing { .. })) {
        warnings.push(
            "requests in flight were still growing in the last step that holds: hold steps longer".to_owned(),
        );
    }
    for check in analysis.validity.checks.iter().filter(|check| check.verdict == Verdict::Remark) {
        warnings.push(format!("{}: {}", check.name, check.detail));
    }
    warnings
}
