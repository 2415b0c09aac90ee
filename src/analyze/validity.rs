//! Whether the measurement can be believed: the client on time, the metrics there, the steps in order.

use super::{Measured, Steadiness, StepAnalysis, Validity, ValidityCheck, Verdict};
use crate::measurement::{Event, FailureKind, Series, Source};
use crate::units::{Seconds, Slo, SloMetric};
use std::collections::BTreeSet;

/// Schedule delay, 99th percentile: above this it is remarked on.
const DELAY_REMARK: Seconds = Seconds(0.020);
/// Above this, or above a tenth of the TTFT limit, the client was the bottleneck.
const DELAY_INVALID: Seconds = Seconds(0.100);
/// Share of arrivals that found no idle worker: above it the client was the bottleneck.
const LATE_INVALID: f64 = 0.01;
/// Share of scrapes that failed: above it the gauges are not known.
const SCRAPE_INVALID: f64 = 0.2;
/// Fewer requests than this in a step make its percentiles doubtful.
const FEW_REQUESTS: usize = 20;

/// All checks and the worst of their verdicts.
pub(super) fn judge(measured: &Measured, steps: &[StepAnalysis], slos: &[Slo]) -> Validity {
    let checks = vec![
        schedule_delay(steps, slos),
        worker_pool(measured),
        scrapes(measured),
        cut_requests(measured),
        step_sizes(steps),
        order_of_steps(steps),
        steady_states(steps),
    ];
    let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Valid);
    Validity { verdict, checks }
}

fn check(name: &'static str, verdict: Verdict, detail: String) -> ValidityCheck {
    ValidityCheck { name, verdict, detail }
}

fn schedule_delay(steps: &[StepAnalysis], slos: &[Slo]) -> ValidityCheck {
    let limits = slos.iter().filter(|slo| slo.metric == SloMetric::Ttft).filter_map(Slo::latency_limit);
    let invalid = limits.map(|limit| limit * 0.1).fold(DELAY_INVALID, Seconds::max);
    let open_loop = steps.iter().filter(|step| step.mark.load.is_open_loop());
    let worst = open_loop
        .filter_map(|step| step.schedule_delay)
        .map(|delay| delay.p99)
        .fold(Seconds::ZERO, Seconds::max);
    let verdict = match worst {
        worst if worst > invalid => Verdict::Invalid,
        worst if worst > DELAY_REMARK => Verdict::Remark,
        _ => Verdict::Valid,
    };
    check(
        "schedule delay",
        verdict,
        format!("p99 of sent - scheduled at most {worst} in any step; {invalid} is the most allowed"),
    )
}

fn worker_pool(measured: &Measured) -> ValidityCheck {
    let late: u64 = measured
        .events
        .iter()
        .map(|event| match event {
            Event::PoolExhausted { late_starts, .. } => *late_starts,
            _ => 0,
        })
        .sum();
    let share = late as f64 / measured.requests.len().max(1) as f64;
    let verdict = match late {
        0 => Verdict::Valid,
        _ if share > LATE_INVALID => Verdict::Invalid,
        _ => Verdict::Remark,
    };
    let hint = if late > 0 { "; raise --max-concurrency" } else { "" };
    check("idle workers", verdict, format!("{late} of {} arrivals found none{hint}", measured.requests.len()))
}

fn scrapes(measured: &Measured) -> ValidityCheck {
    let of_server = |source: &Source| *source == Source::Server;
    let good = measured.samples.iter().filter(|s| of_server(&s.source) && !s.is_empty()).count();
    let batch_seen = measured.samples.iter().any(|s| s.get(Series::BatchSize).is_some());
    let failed = measured
        .events
        .iter()
        .filter(|e| matches!(e, Event::ScrapeFailed { source, .. } if of_server(source)))
        .count();
    let share = failed as f64 / (good + failed).max(1) as f64;
    let scraped: BTreeSet<u32> =
        measured.samples.iter().filter(|s| of_server(&s.source)).map(|s| s.replica).collect();
    let unseen = measured.replicas.0.saturating_sub(scraped.len() as u32);
    let verdict = match failed {
        _ if good == 0 || !batch_seen || share > SCRAPE_INVALID => Verdict::Invalid,
        0 if unseen == 0 => Verdict::Valid,
        _ => Verdict::Remark,
    };
    let detail = match (good, batch_seen) {
        (0, _) => format!("none of {failed} scrapes of the server's metrics gave any"),
        (_, false) => format!("{good} scrapes, but none shows tgi_batch_current_size"),
        _ if unseen > 0 => format!(
            "{good} good, {failed} failed; {unseen} of {} are not scraped and taken to be like the others",
            measured.replicas
        ),
        _ => format!("{good} good, {failed} failed"),
    };
    check("metric scrapes", verdict, detail)
}

fn cut_requests(measured: &Measured) -> ValidityCheck {
    let cut = measured.requests.iter().filter(|r| r.error == Some(FailureKind::Stopped)).count();
    let verdict = if cut == 0 { Verdict::Valid } else { Verdict::Remark };
    check("requests cut off", verdict, format!("{cut} had not ended when the run did; they count as failed"))
}

fn step_sizes(steps: &[StepAnalysis]) -> ValidityCheck {
    let fewest = steps.iter().map(|step| step.attempts).min().unwrap_or(0);
    let verdict = if fewest >= FEW_REQUESTS { Verdict::Valid } else { Verdict::Remark };
    let detail = format!(
        "{fewest} in the smallest step; below {FEW_REQUESTS} a 95th percentile is the largest value or nearly so"
    );
    check("requests per step", verdict, detail)
}

/// A step that holds above one that fails contradicts it; the lower one is believed.
fn order_of_steps(steps: &[StepAnalysis]) -> ValidityCheck {
    let mut ordered: Vec<&StepAnalysis> = steps.iter().filter(|step| step.attempts > 0).collect();
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
    use crate::measurement::Sample;
    use crate::units::Replicas;
    use std::collections::BTreeMap;

    fn judged(events: &[Event], delay: f64, with_metrics: bool) -> Verdict {
        let mut sample = Sample::new(Seconds(1.0), Seconds(0.0), Source::Server, 0);
        sample.set(Series::BatchSize, Some(1.0));
        let samples = if with_metrics { vec![sample] } else { Vec::new() };
        let gaps = BTreeMap::new();
        let measured =
            Measured { requests: &[], samples: &samples, events, gaps: &gaps, replicas: Replicas(1) };
        let mut one = step(0, 1.0, Some(0.1), 1.0);
        let at = Seconds(delay);
        one.schedule_delay =
            Some(LatencySummary { n: 1, mean: at, p50: at, p90: at, p95: at, p99: at, max: at });
        judge(&measured, &[one], &["ttft:p95:2s".parse().unwrap()]).verdict
    }

    #[test]
    fn a_client_on_time_with_metrics_is_valid() {
        assert_eq!(judged(&[], 0.001, true), Verdict::Valid);
    }

    #[test]
    fn a_late_client_is_first_remarked_on_and_then_refused() {
        assert_eq!(judged(&[], 0.05, true), Verdict::Remark);
        assert_eq!(judged(&[], 0.25, true), Verdict::Invalid);
    }

    #[test]
    fn missing_metrics_and_an_exhausted_pool_are_invalid() {
        assert_eq!(judged(&[], 0.001, false), Verdict::Invalid);
        let exhausted = Event::PoolExhausted { time: Seconds(1.0), late_starts: 5 };
        assert_eq!(judged(&[exhausted], 0.001, true), Verdict::Invalid);
    }
}
