//! The verdict in words, the same in every output.

use super::ReportInput;
use crate::analyze::{Capacity, Method, StepAnalysis, Verdict};
use crate::recommend::Target;
use crate::units::{Seconds, Signal, SloMetric};

/// The answer in one line.
pub(super) fn headline(input: &ReportInput) -> String {
    match (&input.analysis.capacity, recommended(input)) {
        (Ok(_), Some(target)) => match &target.average_value {
            Ok(value) => format!("Scale on {} with averageValue {value}", target.signal.title()),
            Err(reason) => format!("Nothing is recommended: {reason}"),
        },
        (Ok(_), None) => "Nothing is recommended: no metric can carry a target".to_owned(),
        (Err(reason), _) => format!("Nothing is recommended: {reason}"),
    }
}

/// The target of the recommended metric.
pub(super) fn recommended<'a>(input: &ReportInput<'a>) -> Option<&'a Target> {
    let recommendation = input.recommendation?;
    let signal = recommendation.recommended?;
    recommendation.targets.iter().find(|target| target.signal == signal)
}

/// The capacity with its bounds.
pub(super) fn capacity(capacity: &Capacity) -> String {
    format!(
        "{} per replica ({}); first limit reached: {}",
        capacity.per_replica,
        interval(capacity),
        capacity.limited_by
    )
}

/// The interval of the capacity, and what it means.
pub(super) fn interval(capacity: &Capacity) -> String {
    let meaning = match capacity.method {
        Method::ServerModel => "90 % interval, by the server's counters",
        Method::Logistic => "90 % interval, by client latencies",
        Method::Interpolation => "measured: holds at the one, fails at the other",
    };
    format!("{} to {}, {meaning}", capacity.low, capacity.high)
}

/// The capacity by the server's own counters, in one line.
pub(super) fn prediction(input: &ReportInput) -> Option<String> {
    let prediction = input.analysis.prediction.as_ref().ok()?;
    let limit = match prediction.token_budget {
        Some(tokens) => format!("about {tokens} KV tokens"),
        None => "no KV limit seen".to_owned(),
    };
    let changed = match prediction.drift.changes.len() {
        0 if prediction.drift.most() > DRIFT => ", which is not calm",
        0 => "",
        _ => "; it changed during the run",
    };
    Some(format!(
        "{} per replica by its own counters ({} scrapes, {limit}; decode times of the steps within {:.1} % \
         of the fit{changed})",
        prediction.capacity,
        prediction.cost.n,
        prediction.drift.most() * 100.0
    ))
}

/// What a forward costs, in one line.
pub(super) fn forward_cost(input: &ReportInput) -> Option<String> {
    let cost = input.analysis.prediction.as_ref().ok()?.cost;
    let ms = |time: Seconds| time.0 * 1e3;
    Some(format!(
        "decode {:.2} ms + {:.3} ms a sequence, prefill {:.2} ms + {:.4} ms a token, {:.2} ms between forwards",
        ms(cost.decode_base),
        ms(cost.decode_per_sequence),
        ms(cost.prefill_base),
        ms(cost.prefill_per_token),
        ms(cost.overhead)
    ))
}

/// Above this a step lies apart from the others; below half a percent is calm.
const DRIFT: f64 = 0.007;

/// Whether a step holds, fails, or is not judged, in the given words.
pub(super) fn holds(step: &StepAnalysis, [holds, fails, unknown]: [&'static str; 3]) -> &'static str {
    match (step.is_judged(), step.holds()) {
        (false, _) => unknown,
        (true, true) => holds,
        (true, false) => fails,
    }
}

/// What to do where nothing is recommended.
pub(super) fn way_out(input: &ReportInput) -> Option<&'static str> {
    use crate::analyze::NoCapacity;
    Some(match input.analysis.capacity.as_ref().err()? {
        NoCapacity::NeverReached => "raise the load: a higher --ramp, or --ramp=adaptive",
        NoCapacity::NeverMet => {
            "start the ramp lower, or loosen the SLO: not even a nearly idle server keeps it"
        }
        NoCapacity::TooFewSteps => "drive at least two steps to their end",
        NoCapacity::NoLoadOrEveryLoad => {
            "loosen the SLO, or tighten it: the fitted server keeps it at every load that it can be given, or at none"
        }
        NoCapacity::NoSteadyState => {
            "start the ramp lower or hold its steps longer: the server fell behind in every one of them"
        }
        NoCapacity::Invalid => "mend what the validity checks name, and measure again",
    })
}

/// The verdict on the measurement.
pub(super) fn validity(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Remark => "valid, with remarks",
        Verdict::Invalid => "INVALID",
    }
}

/// A value of a signal with its unit.
pub(super) fn value(signal: Signal, value: Option<f64>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.2} {}", signal.unit()))
}

/// A latency, or what stands for none.
pub(super) fn latency(value: Option<Seconds>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

/// The figure of an SLO check.
pub(super) fn figure(metric: SloMetric, value: Option<f64>) -> String {
    match (metric, value) {
        (_, None) => "∞".to_owned(),
        (SloMetric::Error | SloMetric::Goodput, Some(share)) => format!("{:.1} %", share * 100.0),
        (_, Some(seconds)) => Seconds(seconds).to_string(),
    }
}

/// The failures of a step: "overloaded 3, timeout 1".
pub(super) fn failures(step: &StepAnalysis) -> String {
    let kinds: Vec<String> =
        step.failures.iter().map(|(kind, count)| format!("{} {count}", kind.word())).collect();
    kinds.join(", ")
}
