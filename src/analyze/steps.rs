//! One step: its requests, its gauges, its SLOs.

use super::latency::{sorted, summarize, summarize_histogram};
use super::slo::{GapFigures, check, goodput};
use super::{Measured, Steadiness, StepAnalysis, gauges, steady};
use crate::measurement::{Event, Phase, RequestOutcome, Series, StepMark};
use crate::units::{Rate, Seconds, Slo};
use std::collections::BTreeMap;

/// The steps that were driven to their planned end, in order, with the requests dispatched in each. A step that was cut short is not
/// judged: what cut it may have spoiled it.
pub(super) fn driven(events: &[Event]) -> Vec<(StepMark, Option<(u64, u64)>)> {
    let planned: BTreeMap<u32, Seconds> = events
        .iter()
        .filter_map(|event| match event {
            Event::StepStarted { index, planned_end, .. } => Some((*index, *planned_end)),
            _ => None,
        })
        .collect();
    let ended = events.iter().filter_map(|event| match event {
        Event::StepEnded { step, ids } => Some((*step, *ids)),
        _ => None,
    });
    ended
        .filter(|(step, _)| {
            step.hold().0 > 0.0 && planned.get(&step.index).is_none_or(|end| step.end >= *end)
        })
        .collect()
}

/// The requests of the measured part of a step.
pub(super) fn attempts<'a>(mark: &StepMark, measured: &Measured<'a>) -> Vec<&'a RequestOutcome> {
    // A closed loop goes on for a moment after the end of its step.
    let belongs = |r: &&RequestOutcome| {
        r.step == mark.index && r.phase == Phase::Hold && (mark.hold_start..mark.end).contains(&r.scheduled)
    };
    measured.requests.iter().filter(belongs).collect()
}

/// Analyzes the measured part of a step.
pub(super) fn analyze_step(
    (mark, ids): (StepMark, Option<(u64, u64)>),
    measured: &Measured,
    slos: &[Slo],
) -> StepAnalysis {
    let lost = ids.map_or(0, |(from, to)| {
        let rows = measured.requests.iter().filter(|r| (from..to).contains(&r.id)).count();
        (to.saturating_sub(from) as usize).saturating_sub(rows)
    });
    let mark = StepMark { hold_start: steady::settled(measured.requests, &mark), ..mark };
    let attempts = attempts(&mark, measured);
    let ok: Vec<&RequestOutcome> = attempts.iter().copied().filter(|r| r.is_ok()).collect();
    let mut failures = BTreeMap::new();
    for kind in attempts.iter().filter_map(|request| request.error) {
        *failures.entry(kind).or_insert(0) += 1;
    }
    let inside = |time: Seconds| time >= mark.hold_start && time < mark.end;
    let completed: Vec<&RequestOutcome> =
        measured.requests.iter().filter(|r| r.is_ok() && r.last_token.is_some_and(inside)).collect();
    let hold = mark.hold().0;
    let gauge = |series| {
        let source = gauges::closest(measured.samples, series);
        gauges::summarize(measured.samples, source, series, mark.hold_start, mark.end)
    };
    let histogram = measured.gaps.get(&mark.index).filter(|histogram| !histogram.is_empty());
    let itl = histogram.and_then(summarize_histogram);
    let gap_figures = histogram.zip(itl).map(|(histogram, summary)| GapFigures {
        summary,
        at: Box::new(|percent| Seconds(histogram.value_at_percentile(percent) as f64 / 1e6)),
    });
    let over = |latency: fn(&RequestOutcome) -> Option<Seconds>| {
        summarize(&sorted(ok.iter().filter_map(|r| latency(r))))
    };
    StepAnalysis {
        mark,
        attempts: attempts.len(),
        lost,
        succeeded: ok.len(),
        failures,
        offered: Rate(attempts.len() as f64 / hold),
        achieved: Rate(completed.len() as f64 / hold),
        output_tokens_per_second: completed
            .iter()
            .filter_map(|r| r.output_tokens)
            .map(f64::from)
            // An empty sum is -0.
            .fold(0.0, |sum, tokens| sum + tokens)
            / hold,
        in_flight: mean_in_flight(measured.requests, mark.hold_start, mark.end),
        ttft: over(RequestOutcome::ttft),
        tpot: over(RequestOutcome::tpot),
        itl,
        e2e: over(RequestOutcome::e2e),
        ntpot: over(RequestOutcome::ntpot),
        schedule_delay: summarize(&sorted(attempts.iter().filter_map(|r| r.schedule_delay()))),
        goodput: goodput(&attempts, slos),
        queue: gauge(Series::QueueSize),
        batch: gauge(Series::BatchSize),
        gpu: gauge(Series::GpuUtil),
        checks: slos.iter().map(|slo| check(*slo, &attempts, gap_figures.as_ref(), slos)).collect(),
        steady: steady::steadiness(measured.requests, &mark, attempts.len()),
    }
}

/// From when to when a request was at the server, as far as known.
fn span(request: &RequestOutcome) -> Option<(f64, f64)> {
    let sent = request.sent?.0;
    // What is known best: the end of the attempt. A request that never ended was there until the
    // record ends.
    let end = match (request.ended.or(request.last_token), request.error) {
        (Some(end), _) => end.0,
        (None, Some(crate::measurement::FailureKind::Stopped)) => f64::INFINITY,
        (None, _) => sent,
    };
    Some((sent, end))
}

/// Mean number of requests in flight between two times: the sum of their overlaps over the length.
pub(super) fn mean_in_flight(requests: &[RequestOutcome], from: Seconds, to: Seconds) -> f64 {
    let overlap = |(start, end): (f64, f64)| (end.min(to.0) - start.max(from.0)).max(0.0);
    requests.iter().filter_map(span).map(overlap).sum::<f64>() / (to - from).0
}

pub(super) fn in_flight_at(requests: &[RequestOutcome], time: Seconds) -> f64 {
    requests.iter().filter_map(span).filter(|(start, end)| *start <= time.0 && time.0 < *end).count() as f64
}

/// Whether no step that was judged reached a steady state.
pub(super) fn all_growing(steps: &[StepAnalysis]) -> bool {
    let mut judged = steps.iter().filter(|step| step.is_judged()).peekable();
    judged.peek().is_some() && judged.all(|step| matches!(step.steady, Steadiness::Growing { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::{FailureKind, Load};
    use crate::units::Replicas;

    fn request(id: u64, scheduled: f64, latency: f64) -> RequestOutcome {
        RequestOutcome {
            id,
            step: 0,
            phase: if scheduled < 2.0 { Phase::WarmUp } else { Phase::Hold },
            scheduled: Seconds(scheduled),
            sent: Some(Seconds(scheduled)),
            first_token: Some(Seconds(scheduled + latency / 2.0)),
            last_token: Some(Seconds(scheduled + latency)),
            ended: None,
            input_tokens: Some(10),
            output_tokens: Some(10),
            chunks: 10,
            status: Some(200),
            error: None,
            replica: None,
        }
    }

    fn mark() -> StepMark {
        let load = Load::Rate(Rate(2.0));
        StepMark { index: 0, load, start: Seconds(0.0), hold_start: Seconds(2.0), end: Seconds(12.0) }
    }

    fn analyze(requests: &[RequestOutcome]) -> StepAnalysis {
        let gaps = BTreeMap::new();
        let measured = Measured { requests, samples: &[], events: &[], gaps: &gaps, replicas: Replicas(1) };
        analyze_step((mark(), None), &measured, &["ttft:p95:2s".parse().unwrap()])
    }

    #[test]
    fn rates_count_what_lies_in_the_measured_part() {
        let requests: Vec<_> = (0..24).map(|i| request(i, i as f64 * 0.5, 0.5)).collect();
        let step = analyze(&requests);
        assert_eq!((step.attempts, step.offered, step.achieved), (20, Rate(2.0), Rate(2.0)));
        assert!((step.in_flight - 1.0).abs() < 1e-9, "Little: 2/s x 0.5 s, not {}", step.in_flight);
        assert_eq!(step.steady, Steadiness::Steady);
        assert_eq!(step.output_tokens_per_second, 20.0);
        assert!(step.holds());
    }

    #[test]
    fn a_server_that_falls_behind_is_growing() {
        let requests: Vec<_> = (0..48).map(|i| request(i, i as f64 * 0.25, 1.0 + i as f64)).collect();
        assert!(matches!(analyze(&requests).steady, Steadiness::Growing { by } if by > 10.0));
    }

    #[test]
    fn failures_are_counted_by_kind_and_not_among_latencies() {
        let mut requests: Vec<_> = (4..24).map(|i| request(i, i as f64 * 0.5, 0.5)).collect();
        requests[3].error = Some(FailureKind::Overloaded);
        requests[4].error = Some(FailureKind::Truncated);
        let step = analyze(&requests);
        assert_eq!((step.attempts, step.succeeded), (20, 18));
        assert_eq!(
            step.failures,
            BTreeMap::from([(FailureKind::Overloaded, 1), (FailureKind::Truncated, 1)])
        );
        assert_eq!(step.ttft.unwrap().n, 18);
        assert!(!step.holds(), "one in ten failed, so the 95th percentile is infinite");
    }

    #[test]
    fn a_step_whose_outcomes_are_not_all_there_is_not_judged() {
        let requests: Vec<_> = (0..24).map(|i| request(i, i as f64 * 0.5, 1.0)).collect();
        let gaps = BTreeMap::new();
        let measured =
            Measured { requests: &requests, samples: &[], events: &[], gaps: &gaps, replicas: Replicas(1) };
        let slos = ["ttft:p95:2s".parse().unwrap()];
        let step = |to| analyze_step((mark(), Some((0, to))), &measured, &slos);
        assert_eq!((step(24).lost, step(24).is_judged(), step(24).holds()), (0, true, true));
        assert_eq!((step(30).lost, step(30).is_judged(), step(30).holds()), (6, false, false));
    }

    #[test]
    fn a_step_that_was_cut_short_is_not_judged() {
        let started = |index: u32, start: f64| Event::StepStarted {
            time: Seconds(start),
            index,
            load: mark().load,
            hold_start: Seconds(start + 2.0),
            planned_end: Seconds(start + 12.0),
        };
        let cut = StepMark {
            index: 1,
            end: Seconds(20.0),
            start: Seconds(12.0),
            hold_start: Seconds(14.0),
            ..mark()
        };
        let ended = |step| Event::StepEnded { step, ids: Some((0, 7)) };
        let events = [started(0, 0.0), ended(mark()), started(1, 12.0)];
        assert_eq!(driven(&events), [(mark(), Some((0, 7)))]);
        assert_eq!(driven(&[&events[..], &[ended(cut)]].concat()), [(mark(), Some((0, 7)))]);
    }
}
