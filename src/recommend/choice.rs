//! Which metric to scale on, and what to know before doing so.

use super::Target;
use crate::analyze::server_model::{Dispersion, Prediction};
use crate::analyze::{Analysis, Capacity, Method, Steadiness, Verdict};
use crate::units::{Rate, Signal};

/// The order in which metrics are preferred where nothing speaks against them. Batch size rises
/// with load all the way; the queue only once the batch is full; GPU utilization hardly at all.
const PREFERENCE: [Signal; 4] = [Signal::Batch, Signal::Queue, Signal::Dcgm, Signal::DutyCycle];

/// The metric to scale on, and why it and not the others.
pub(super) fn choose(targets: &[Target]) -> (Option<Signal>, Vec<String>) {
    let of = |signal: Signal| targets.iter().find(|target| target.signal == signal);
    let has_target = |signal: &Signal| of(*signal).is_some_and(|target| target.average_value.is_ok());
    let passes = |signal: &Signal| of(*signal).is_some_and(|t| t.gates.iter().all(|gate| gate.passed));
    let order = || PREFERENCE.into_iter().filter(has_target);
    let Some(chosen) = order().find(passes).or_else(|| order().next()) else {
        return (
            None,
            vec!["no metric has a value at the capacity that a target could be set on".to_owned()],
        );
    };
    let mut rationale = vec![reason_for(chosen, of(chosen))];
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

fn reason_for(signal: Signal, target: Option<&Target>) -> String {
    let gates = || target.into_iter().flat_map(|target| &target.gates);
    if let Some(failed) = gates().find(|gate| !gate.passed) {
        return format!("{}, for want of a better one: {}", signal.title(), failed.detail);
    }
    let reason = match signal {
        Signal::Batch => "it rises with the load all the way to the capacity",
        Signal::Queue => "the batch size gives no target, and a queue at least shows that the batch is full",
        Signal::DutyCycle | Signal::Dcgm => "neither of the server's own metrics gives a target",
    };
    let elasticity = gates().find(|gate| gate.name == "elasticity").map(|gate| format!(": {}", gate.detail));
    format!("{}, because {reason}{}", signal.title(), elasticity.unwrap_or_default())
}

/// Steps further apart than this factor leave the capacity open to more than a straight line can tell.
const WIDE: f64 = 1.5;
/// Loads from this share of the capacity on count as having reached it.
const REACHED: f64 = 0.9;
/// Prefills that scatter from step to step by more than this, as a share of them, are said to be unsteady.
const UNSTEADY_PREFILLS: f64 = 0.05;

/// Warnings about the whole recommendation.
pub(super) fn warnings(analysis: &Analysis, capacity: &Capacity, recommended: Option<Signal>) -> Vec<String> {
    let mut warnings = about_capacity(analysis, capacity);
    if recommended == Some(Signal::Queue) {
        warnings.push(
            "the only usable metric is the queue: expect replicas to swing; limit scale-down".to_owned(),
        );
    }
    if analysis.production != capacity.replicas {
        warnings.push(format!(
            "reckoned for {}, as measured, and not for {}: only a fitted server tells what sharing changes; with more \
             replicas each carries somewhat more",
            capacity.replicas, analysis.production
        ));
    } else if capacity.replicas.0 == 1 {
        warnings.push(
            "reckoned for one replica: several share peaks better, so each then carries somewhat more; say how many with \
             --production-replicas"
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

/// What the method leaves open.
fn about_capacity(analysis: &Analysis, capacity: &Capacity) -> Vec<String> {
    let mut warnings = Vec::new();
    let apart = capacity.high.0 / capacity.low.0;
    let missing = analysis.prediction.as_ref().err().map(ToString::to_string);
    match capacity.method {
        Method::ServerModel => {}
        Method::Logistic => warnings.push(format!(
            "the capacity comes from client latencies alone ({}): the interval is some {:.0} % wide, where the server's own \
             counters would give a few percent",
            missing.unwrap_or_else(|| "the fitted server contradicts them".to_owned()),
            100.0 * (apart - 1.0)
        )),
        Method::Interpolation => {
            warnings.push(format!(
                "the capacity lies somewhere from {} to {} per replica, on a straight line between two steps ({}); more and \
                 longer steps near it narrow that",
                capacity.low,
                capacity.high,
                missing.unwrap_or_else(|| "the fitted server contradicts what clients saw".to_owned())
            ));
            if apart > WIDE {
                warnings.insert(
                    0,
                    format!(
                        "the last step that holds and the first that fails are a factor of {apart:.1} apart: drive steps \
                         between them"
                    ),
                );
            }
        }
    }
    warnings.extend(analysis.prediction.iter().flat_map(|p| about_server(p, analysis, capacity)));
    warnings
}

/// What the fitted server leaves open.
fn about_server(prediction: &Prediction, analysis: &Analysis, capacity: &Capacity) -> Vec<String> {
    let mut warnings = Vec::new();
    for change in &prediction.drift.changes {
        warnings.push(format!(
            "the server changed at {}: each forward takes {:+.2} ms since ({:+.1} %); the capacity is that of its later \
             state, and its interval allows for another change",
            change.at,
            change.shift.0 * 1e3,
            change.share * 100.0
        ));
    }
    let prefills = prediction.drift.prefill_scatter;
    if prefills >= UNSTEADY_PREFILLS {
        warnings.push(format!(
            "prefills of equal work took {:.0} % longer or shorter from step to step, which no load explains: a busy host or \
             other work on the GPU; the interval allows for it, and more steps on another day would tell how much there is",
            prefills * 100.0
        ));
    }
    if let Some(odd) = prediction.dispersion.iter().find(|step| !Dispersion::USUAL.contains(&step.ratio)) {
        warnings.push(format!(
            "in step {} requests in flight scattered {:.1} times as much as those of independent users: arrivals come in \
             bursts or evenly, or the replicas are not loaded alike",
            odd.step, odd.ratio
        ));
    }
    let loads = || analysis.steps.iter().map(|step| step.carried(analysis.replicas).0);
    let (lowest, highest) = (loads().fold(f64::INFINITY, f64::min), loads().fold(0.0, f64::max));
    if capacity.per_replica.0 < lowest {
        warnings.push(format!(
            "the lowest load that was driven is {}, so the capacity below it is extrapolated from the fitted server",
            Rate(lowest)
        ));
    }
    if capacity.method == Method::ServerModel && highest < capacity.per_replica.0 * REACHED {
        warnings.push(format!(
            "the highest load that was driven is {}, so the capacity is extrapolated from the fitted server",
            Rate(highest)
        ));
    }
    if capacity.method == Method::ServerModel && prediction.token_budget.is_none() {
        warnings.push(
            "no KV limit was seen: should one bind below this load, requests wait earlier than predicted"
                .to_owned(),
        );
    }
    warnings
}
