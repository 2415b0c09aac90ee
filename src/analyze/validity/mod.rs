//! Whether the measurement can be believed.
//!
//! [`client`]: was the client on time, and not its own bottleneck? [`sources`]: were the metrics there,
//! fresh, and of the servers that the load went to? [`counts`]: do independent counts of the same
//! requests agree? [`others`]: what do the sources besides the direct scrape say? Here: do the steps tell one story?

mod client;
mod counts;
mod others;
mod sources;

use super::{Measured, Steadiness, StepAnalysis, Validity, ValidityCheck, Verdict};
use crate::measurement::{FailureKind, RequestOutcome};
use crate::units::Slo;

/// Fewer requests than this in a step make its percentiles doubtful.
const FEW_REQUESTS: usize = 20;
/// Steps from this share of the highest load on may decide.
const DECISIVE: f64 = 0.5;

/// Mean length of some steps against that of the others, as a share, and the standard errors that chance may
/// make of it.
const LENGTHS_REMARK: f64 = 0.05;
const LENGTHS_INVALID: f64 = 0.10;
const LENGTHS_SIGMAS: f64 = 4.0;
/// Fewer requests tell nothing of a mean length.
const LENGTHS_LEAST: f64 = 10.0;

/// All checks and the worst of their verdicts.
pub(super) fn judge(measured: &Measured, steps: &[StepAnalysis], slos: &[Slo]) -> Validity {
    let mut checks = vec![
        client::schedule_delay(steps, slos),
        client::worker_pool(measured, steps),
        client::sending_rate(measured, steps),
        client::runtime_lag(measured, steps, slos),
        client::processor(measured, steps),
        client::own_limits(measured),
        client::wall_clock(measured),
        counts::little(measured, steps),
        counts::gauges_against_client(measured, steps),
        counts::completions(measured),
        counts::tokens_per_chunk(measured),
        lengths(measured, steps),
        sources::scrapes(measured),
        sources::gaps(measured, steps),
        sources::staleness(measured),
        sources::restarts(measured),
        cut_requests(measured, steps),
        lost_outcomes(steps),
        step_sizes(steps),
        order_of_steps(steps),
        steady_states(steps),
    ];
    checks.extend(sources::pods(measured, steps));
    checks.extend(others::all(measured, steps));
    let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Valid);
    Validity { verdict, checks }
}

/// The checks of the client alone, for a load whose replicas come and go.
pub(super) fn judge_client(measured: &Measured, steps: &[StepAnalysis], slos: &[Slo]) -> Validity {
    let checks = vec![
        client::schedule_delay(steps, slos),
        client::worker_pool(measured, steps),
        client::sending_rate(measured, steps),
        client::runtime_lag(measured, steps, slos),
        client::processor(measured, steps),
        client::own_limits(measured),
        client::wall_clock(measured),
    ];
    let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Valid);
    Validity { verdict, checks }
}

fn check(name: &'static str, verdict: Verdict, detail: String) -> ValidityCheck {
    ValidityCheck { name, verdict, detail }
}

/// The verdict on a figure that gets worse as it rises.
fn graded(value: f64, remark: f64, invalid: f64) -> Verdict {
    match value {
        value if value > invalid => Verdict::Invalid,
        value if value > remark => Verdict::Remark,
        _ => Verdict::Valid,
    }
}

/// A check of what this run did not record.
fn not_recorded(name: &'static str) -> ValidityCheck {
    check(
        name,
        Verdict::Remark,
        "not recorded by the calibrate that made this run, so not checked".to_owned(),
    )
}

/// The larger of two figures with what they belong to; a figure that is no number loses.
fn worse<T>(a: Option<(f64, T)>, b: (f64, T)) -> Option<(f64, T)> {
    match a {
        Some(a) if a.0 >= b.0 || b.0.is_nan() => Some(a),
        _ if b.0.is_nan() => None,
        _ => Some(b),
    }
}

/// Prompts or answers that become longer or shorter move the capacity with them.
fn lengths(measured: &Measured, steps: &[StepAnalysis]) -> ValidityCheck {
    let most = [
        ("output", changed(measured, steps, |request| request.output_tokens)),
        ("prompt", changed(measured, steps, |request| request.input_tokens)),
    ];
    let (what, most) = if most[1].1 > most[0].1 { most[1] } else { most[0] };
    let detail = if most == 0.0 {
        "prompts and answers are as long on average in every step, up to chance".to_owned()
    } else {
        format!(
            "the mean {what} length of some steps lies {:.0} % from that of the others; above {:.0} % calibrate each \
             length on its own",
            most * 100.0,
            LENGTHS_INVALID * 100.0
        )
    };
    check("lengths of requests", graded(most, LENGTHS_REMARK, LENGTHS_INVALID), detail)
}

/// By which share the mean length of a step differs from that of all others, or that of all steps up to one
/// from that of all after it: the most that is beyond chance.
fn changed(measured: &Measured, steps: &[StepAnalysis], of: fn(&RequestOutcome) -> Option<u32>) -> f64 {
    let tokens = |step: &StepAnalysis| -> Vec<f64> {
        let mine = measured.requests.iter().filter(|r| r.is_ok() && r.step == step.mark.index);
        mine.filter_map(of).map(f64::from).collect()
    };
    // Number, sum and sum of squares of each step.
    let sums: Vec<[f64; 3]> = steps
        .iter()
        .map(|step| {
            tokens(step).iter().fold([0.0; 3], |[n, sum, squares], v| [n + 1.0, sum + v, squares + v * v])
        })
        .collect();
    let add = |a: [f64; 3], b: &[f64; 3]| [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
    let all = sums.iter().fold([0.0; 3], add);
    let apart = |part: [f64; 3]| {
        let rest = [all[0] - part[0], all[1] - part[1], all[2] - part[2]];
        let mean = |[n, sum, _]: [f64; 3]| sum / n;
        let variance = (all[2] / all[0] - mean(all).powi(2)).max(0.0);
        let off = (mean(part) - mean(rest)).abs();
        let chance = LENGTHS_SIGMAS * (variance / part[0] + variance / rest[0]).sqrt();
        let smaller = part[0].min(rest[0]);
        if smaller >= LENGTHS_LEAST && off > chance { off / mean(all).max(f64::MIN_POSITIVE) } else { 0.0 }
    };
    let up_to = sums.iter().scan([0.0; 3], |sum, step| {
        *sum = add(*sum, step);
        Some(*sum)
    });
    sums.iter().copied().chain(up_to).map(apart).fold(0.0, f64::max)
}

fn cut_requests(measured: &Measured, steps: &[StepAnalysis]) -> ValidityCheck {
    let cut = measured.requests.iter().filter(|r| r.error == Some(FailureKind::Stopped)).count();
    let open = steps.iter().filter(|step| step.lost == 0 && step.attempts > 0 && !step.is_judged()).count();
    let detail = match (cut, open) {
        (0, 0) => "none".to_owned(),
        (_, 0) => format!("{cut} had not ended when they had to; no verdict depends on them"),
        _ => format!(
            "{cut} had not ended when they had to, or lack a token count; {open} steps cannot be judged for it"
        ),
    };
    check("requests cut off", if cut + open == 0 { Verdict::Valid } else { Verdict::Remark }, detail)
}

fn lost_outcomes(steps: &[StepAnalysis]) -> ValidityCheck {
    let lost: usize = steps.iter().map(|step| step.lost).sum();
    let spoiled = steps.iter().filter(|step| step.lost > 0).count();
    let (verdict, detail) = match lost {
        0 => (Verdict::Valid, "every request that was dispatched has its outcome in the record".to_owned()),
        _ => (
            Verdict::Remark,
            format!(
                "the run was killed before {lost} requests had ended; {spoiled} steps are not judged for it"
            ),
        ),
    };
    check("outcomes in the record", verdict, detail)
}

/// Steps far below the highest load hold anyway, so their percentiles decide nothing.
fn step_sizes(steps: &[StepAnalysis]) -> ValidityCheck {
    let highest = steps.iter().map(|step| step.offered.0).fold(0.0, f64::max);
    let decisive = steps.iter().filter(|step| step.offered.0 >= highest * DECISIVE);
    let fewest = decisive.map(|step| step.attempts).min().unwrap_or(0);
    let verdict = if fewest >= FEW_REQUESTS { Verdict::Valid } else { Verdict::Remark };
    let detail = format!(
        "{fewest} in the smallest step of those from half of the highest load on; below {FEW_REQUESTS} a 95th percentile is the largest value or nearly so"
    );
    check("requests per step", verdict, detail)
}

/// A step that holds above one that fails contradicts it; the lower one is believed.
fn order_of_steps(steps: &[StepAnalysis]) -> ValidityCheck {
    let mut ordered: Vec<&StepAnalysis> = steps.iter().filter(|step| step.is_judged()).collect();
    ordered.sort_by(|a, b| a.offered.0.total_cmp(&b.offered.0));
    let first_failing = ordered.iter().position(|step| !step.holds());
    let above = first_failing.map_or(0, |first| ordered[first..].iter().filter(|step| step.holds()).count());
    let (verdict, detail) = match above {
        0 => (Verdict::Valid, "no step holds above one that fails".to_owned()),
        n => (
            Verdict::Remark,
            format!("{n} hold above one that fails: the steps are too short for this noise"),
        ),
    };
    check("agreement of the steps", verdict, detail)
}

fn steady_states(steps: &[StepAnalysis]) -> ValidityCheck {
    let growing =
        steps.iter().filter(|step| step.holds() && matches!(step.steady, Steadiness::Growing { .. })).count();
    let (verdict, detail) = match growing {
        0 => (Verdict::Valid, "in no step that holds did requests in flight grow".to_owned()),
        n => (
            Verdict::Remark,
            format!(
                "in {n} that hold, requests in flight grew: they are past what lasts, so hold the steps longer"
            ),
        ),
    };
    check("steady state", verdict, detail)
}

#[cfg(test)]
mod tests {
    use super::super::capacity::tests::step;
    use super::*;
    use crate::analyze::LatencySummary;
    use crate::measurement::{Event, Sample, Series, Source};
    use crate::units::{Replicas, Seconds};
    use std::collections::BTreeMap;

    fn heartbeats() -> Vec<Event> {
        let beat = |second: u32| Event::Heartbeat {
            time: Seconds(f64::from(second)),
            in_flight: 0.0,
            lag_p99: Seconds(0.001),
            lag_max: Seconds(0.002),
            cpu: 0.1,
            wall_offset: Seconds(1e9),
        };
        (1..=14).map(beat).collect()
    }

    fn judged(more: &[Event], delay: f64, with_metrics: bool) -> Validity {
        let sample = |second: u32| {
            let mut sample = Sample::new(Seconds(f64::from(second)), Seconds(0.0), Source::Server, 0);
            sample.set(Series::BatchSize, Some(0.0));
            sample.set(Series::QueueSize, Some(0.0));
            sample
        };
        let samples: Vec<Sample> = if with_metrics { (0..14).map(sample).collect() } else { Vec::new() };
        let gaps = BTreeMap::new();
        let events = [heartbeats(), more.to_vec()].concat();
        let measured = Measured {
            requests: &[],
            samples: &samples,
            events: &events,
            gaps: &gaps,
            replicas: Replicas(1),
        };
        let mut one = step(0, 1.0, Some(0.1), 1.0);
        one.in_flight = 0.0;
        let at = Seconds(delay);
        one.schedule_delay = Some(LatencySummary {
            n: 1,
            mean: at,
            p50: at,
            p90: at,
            p95: at,
            p95_interval: None,
            p99: at,
            max: at,
        });
        judge(&measured, &[one], &["ttft:p95:2s".parse().unwrap()])
    }

    #[test]
    fn a_client_on_time_with_metrics_is_valid() {
        let validity = judged(&[], 0.001, true);
        assert_eq!(validity.verdict, Verdict::Valid, "{validity:?}");
    }

    #[test]
    fn a_late_client_is_first_remarked_on_and_then_refused() {
        assert_eq!(judged(&[], 0.05, true).verdict, Verdict::Remark);
        assert_eq!(judged(&[], 0.25, true).verdict, Verdict::Invalid);
    }

    #[test]
    fn missing_metrics_and_an_exhausted_pool_are_invalid() {
        assert_eq!(judged(&[], 0.001, false).verdict, Verdict::Invalid);
        let exhausted = Event::PoolExhausted { time: Seconds(1.0), late_starts: 5 };
        assert_eq!(judged(&[exhausted], 0.001, true).verdict, Verdict::Invalid);
    }

    #[test]
    fn a_figure_that_is_no_number_is_never_the_worst() {
        assert_eq!(worse(None, (f64::NAN, 1)), None);
        assert_eq!(worse(Some((1.0, 1)), (f64::NAN, 2)), Some((1.0, 1)));
        assert_eq!(worse(Some((1.0, 1)), (2.0, 2)), Some((2.0, 2)));
    }
}
