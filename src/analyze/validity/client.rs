//! Was the client on time, and not its own bottleneck?

use super::super::steps::attempts;
use super::super::{Measured, StepAnalysis, ValidityCheck, Verdict};
use super::{check, graded, not_recorded, worse};
use crate::measurement::{Event, FailureKind};
use crate::units::{Seconds, Slo, SloMetric};

/// A client that is later than this, 99th percentile, is remarked on.
const LATE_REMARK: Seconds = Seconds(0.020);
/// Later than this, or than a tenth of the TTFT limit where that is less, it was the bottleneck.
const LATE_INVALID: Seconds = Seconds(0.100);
/// Share of arrivals that found no idle worker: above it the client was the bottleneck.
const EXHAUSTED_INVALID: f64 = 0.01;
/// Requests sent in a step against those scheduled in it.
const SENDING_REMARK: f64 = 0.02;
const SENDING_INVALID: f64 = 0.05;
/// Steps with fewer arrivals say nothing of the rate of sending.
const SENDING_LEAST: usize = 50;
/// Shorter steps are judged together with the others.
const SECONDS_TO_JUDGE: usize = 10;
/// Share of this machine's processors that the client takes.
const PROCESSOR_REMARK: f64 = 0.70;
const PROCESSOR_INVALID: f64 = 0.95;
/// Share of requests that failed for want of ports or files here.
const OWN_LIMITS_INVALID: f64 = 0.01;
/// A change of the wall clock against the monotonic one within a second.
const CLOCK_STEP: Seconds = Seconds(0.050);
/// Heartbeats further apart than this have a pause between them.
const PAUSE: Seconds = Seconds(5.0);

/// How late a client may be: a tenth of the TTFT limit, within bounds.
fn late_invalid(slos: &[Slo]) -> Seconds {
    let limits = slos.iter().filter(|slo| slo.metric == SloMetric::Ttft).filter_map(Slo::latency_limit);
    limits.map(|limit| limit * 0.1).fold(LATE_INVALID, Seconds::min).max(LATE_REMARK)
}

pub(super) fn schedule_delay(steps: &[StepAnalysis], slos: &[Slo]) -> ValidityCheck {
    let invalid = late_invalid(slos);
    let open_loop = steps.iter().filter(|step| step.mark.load.is_open_loop());
    let delays = open_loop.filter_map(|step| step.schedule_delay).map(|delay| delay.p99);
    let worst = delays.fold(Seconds::ZERO, Seconds::max);
    check(
        "schedule delay",
        graded(worst.0, LATE_REMARK.0, invalid.0),
        format!("p99 of sent - scheduled at most {worst} in any step; {invalid} is the most allowed"),
    )
}

/// The step that was going on at a time, or had just ended.
fn step_at(steps: &[StepAnalysis], time: Seconds) -> Option<&StepAnalysis> {
    steps.iter().rev().find(|step| step.mark.start <= time)
}

pub(super) fn worker_pool(measured: &Measured, steps: &[StepAnalysis]) -> ValidityCheck {
    let mut late = 0;
    let mut worst = 0.0_f64;
    for event in measured.events {
        if let Event::PoolExhausted { time, late_starts } = event {
            late += late_starts;
            let attempts = step_at(steps, *time).map_or(measured.requests.len(), |step| step.attempts);
            worst = worst.max(*late_starts as f64 / attempts.max(1) as f64);
        }
    }
    let verdict = match late {
        0 => Verdict::Valid,
        _ => graded(worst, 0.0, EXHAUSTED_INVALID),
    };
    let hint = if late > 0 {
        format!(", {:.1} % in the worst step; raise --max-concurrency", worst * 100.0)
    } else {
        String::new()
    };
    check("idle workers", verdict, format!("{late} of {} arrivals found none{hint}", measured.requests.len()))
}

pub(super) fn sending_rate(measured: &Measured, steps: &[StepAnalysis]) -> ValidityCheck {
    let mut worst = None;
    for step in steps.iter().filter(|step| step.mark.load.is_open_loop()) {
        let mark = step.mark;
        let within = |time: Seconds| time >= mark.hold_start && time < mark.end;
        let sent = measured.requests.iter().filter(|r| r.sent.is_some_and(within)).count();
        let scheduled = attempts(&mark, measured).len();
        if scheduled < SENDING_LEAST {
            continue;
        }
        let short = 1.0 - sent as f64 / scheduled as f64;
        worst = worse(worst, (short.abs(), (sent, scheduled)));
    }
    let Some((difference, (sent, scheduled))) = worst else {
        let detail = format!("no open-loop step has {SENDING_LEAST} arrivals to tell by");
        return check("rate of sending", Verdict::Valid, detail);
    };
    check(
        "rate of sending",
        graded(difference, SENDING_REMARK, SENDING_INVALID),
        format!(
            "in the worst step {sent} were sent of {scheduled} scheduled in it ({:.1} % apart; {:.0} % is the most allowed)",
            difference * 100.0,
            SENDING_INVALID * 100.0
        ),
    )
}

/// Whether the run recorded how its client was.
fn has_heartbeats(measured: &Measured) -> bool {
    measured.events.iter().any(|event| matches!(event, Event::Heartbeat { .. }))
}

/// A figure of every heartbeat in the measured part of a step.
fn in_step(measured: &Measured, step: &StepAnalysis, of: fn(&Event) -> Option<(Seconds, f64)>) -> Vec<f64> {
    let inside = |time: &Seconds| *time > step.mark.hold_start && *time <= step.mark.end + Seconds(0.5);
    measured.events.iter().filter_map(of).filter(|(time, _)| inside(time)).map(|(_, value)| value).collect()
}

/// A check that no step could be judged by.
fn unseen(name: &'static str, measured: &Measured) -> ValidityCheck {
    if has_heartbeats(measured) {
        return check(name, Verdict::Valid, "no step to judge it by".to_owned());
    }
    not_recorded(name)
}

pub(super) fn runtime_lag(measured: &Measured, steps: &[StepAnalysis], slos: &[Slo]) -> ValidityCheck {
    let lag = |event: &Event| match event {
        Event::Heartbeat { time, lag_p99, .. } => Some((*time, lag_p99.0)),
        _ => None,
    };
    let mut worst = None;
    let mut every = Vec::new();
    // One bad second in ten is a hiccup; more are the machine.
    let mut ninth = |mut lags: Vec<f64>| {
        lags.sort_by(f64::total_cmp);
        if let Some(ninth) = lags.get((lags.len() * 9).div_ceil(10).saturating_sub(1)) {
            worst = worse(worst, (*ninth, lags[lags.len() - 1]));
        }
    };
    for step in steps {
        let lags = in_step(measured, step, lag);
        every.extend(&lags);
        if lags.len() >= SECONDS_TO_JUDGE {
            ninth(lags);
        }
    }
    ninth(every);
    let Some((lag, most)) = worst else { return unseen("runtime lag", measured) };
    let invalid = late_invalid(slos);
    check(
        "runtime lag",
        graded(lag, LATE_REMARK.0, invalid.0),
        format!(
            "the client woke at most {} late (p99 of a second, 9 seconds of 10; worst second {}); {invalid} is the most allowed",
            Seconds(lag),
            Seconds(most)
        ),
    )
}

pub(super) fn processor(measured: &Measured, steps: &[StepAnalysis]) -> ValidityCheck {
    let cpu = |event: &Event| match event {
        Event::Heartbeat { time, cpu, .. } => Some((*time, *cpu)),
        _ => None,
    };
    let mut worst = None;
    for step in steps {
        let shares = in_step(measured, step, cpu);
        if !shares.is_empty() {
            worst = worse(worst, (shares.iter().sum::<f64>() / shares.len() as f64, ()));
        }
    }
    let Some((share, ())) = worst else { return unseen("client processor", measured) };
    check(
        "client processor",
        graded(share, PROCESSOR_REMARK, PROCESSOR_INVALID),
        format!("at most {:.0} % of this machine's processors over a step", share * 100.0),
    )
}

pub(super) fn own_limits(measured: &Measured) -> ValidityCheck {
    let count = |kind| measured.requests.iter().filter(|request| request.error == Some(kind)).count();
    let (limits, faults) = (count(FailureKind::ClientLimit), count(FailureKind::ClientFault));
    let share = (limits + faults) as f64 / measured.requests.len().max(1) as f64;
    let detail = match (limits, faults) {
        (0, 0) => "no request failed for want of local ports or files".to_owned(),
        (_, 0) => format!(
            "{limits} requests failed for want of local ports or files; raise ulimit -n or lower --max-concurrency"
        ),
        _ => format!(
            "{faults} requests failed by a bug of calibrate, {limits} for want of local ports or files"
        ),
    };
    check("client limits", graded(share, 0.0, OWN_LIMITS_INVALID), detail)
}

pub(super) fn wall_clock(measured: &Measured) -> ValidityCheck {
    if !has_heartbeats(measured) {
        return not_recorded("wall clock");
    }
    let (mut last, mut step) = (None, 0.0_f64);
    for event in measured.events {
        match event {
            Event::Heartbeat { time, wall_offset, .. } => {
                let before = last.replace((*time, *wall_offset));
                if let Some((_, offset)) = before.filter(|(before, _)| *time - *before < PAUSE) {
                    step = step.max((*wall_offset - offset).0.abs());
                }
            }
            // The clock of a session that goes on is anchored anew.
            Event::Resumed { .. } => last = None,
            _ => {}
        }
    }
    let (verdict, detail) = if step > CLOCK_STEP.0 {
        (
            Verdict::Remark,
            format!(
                "it was set by {} during the run; all times here are monotonic, those of other sources are not",
                Seconds(step)
            ),
        )
    } else {
        (
            Verdict::Valid,
            format!("moved against the monotonic clock by at most {} in a second", Seconds(step)),
        )
    };
    check("wall clock", verdict, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::capacity::tests::step;
    use crate::units::Replicas;
    use std::collections::BTreeMap;

    fn beat(second: u32, lag: f64, cpu: f64, offset: f64) -> Event {
        Event::Heartbeat {
            time: Seconds(f64::from(second)),
            in_flight: 0.0,
            lag_p99: Seconds(lag),
            lag_max: Seconds(lag),
            cpu,
            wall_offset: Seconds(offset),
        }
    }

    fn on(events: &[Event], judge: impl Fn(&Measured, &[StepAnalysis]) -> ValidityCheck) -> Verdict {
        let gaps = BTreeMap::new();
        let measured = Measured { requests: &[], samples: &[], events, gaps: &gaps, replicas: Replicas(1) };
        judge(&measured, &[step(0, 1.0, Some(0.1), 1.0)]).verdict
    }

    #[test]
    fn a_runtime_that_wakes_late_is_not_believed() {
        let slos: Vec<Slo> = vec!["ttft:p95:2s".parse().unwrap()];
        let verdict = |late_seconds: u32, lag: f64| {
            let events: Vec<Event> =
                (4..14).map(|s| beat(s, if s < 4 + late_seconds { lag } else { 0.001 }, 0.1, 0.0)).collect();
            on(&events, |measured, steps| runtime_lag(measured, steps, &slos))
        };
        assert_eq!(verdict(0, 0.0), Verdict::Valid);
        assert_eq!(verdict(1, 0.5), Verdict::Valid, "one bad second in ten is a hiccup");
        assert_eq!(verdict(5, 0.05), Verdict::Remark);
        assert_eq!(verdict(5, 0.5), Verdict::Invalid);
        assert_eq!(on(&[], |measured, steps| runtime_lag(measured, steps, &slos)), Verdict::Remark);
    }

    #[test]
    fn a_client_that_takes_the_whole_machine_is_not_believed() {
        for (cpu, expected) in [(0.3, Verdict::Valid), (0.8, Verdict::Remark), (0.99, Verdict::Invalid)] {
            let events: Vec<Event> = (4..14).map(|s| beat(s, 0.0, cpu, 0.0)).collect();
            assert_eq!(on(&events, processor), expected);
        }
    }

    #[test]
    fn a_wall_clock_that_was_set_is_remarked_on_but_not_a_pause_of_the_run() {
        let clock = |events: &[Event]| on(events, |measured, _| wall_clock(measured));
        assert_eq!(clock(&[beat(1, 0.0, 0.0, 100.0), beat(2, 0.0, 0.0, 100.001)]), Verdict::Valid);
        assert_eq!(clock(&[beat(1, 0.0, 0.0, 100.0), beat(2, 0.0, 0.0, 98.0)]), Verdict::Remark);
        assert_eq!(clock(&[beat(1, 0.0, 0.0, 100.0), beat(60, 0.0, 0.0, 98.0)]), Verdict::Valid);
        let resumed = Event::Resumed { time: Seconds(1.5) };
        assert_eq!(clock(&[beat(1, 0.0, 0.0, 100.0), resumed, beat(2, 0.0, 0.0, 98.0)]), Verdict::Valid);
    }

    #[test]
    fn a_tight_ttft_limit_asks_for_a_punctual_client() {
        let limit = |slo: &str| late_invalid(&[slo.parse().unwrap()]);
        assert_eq!(limit("ttft:p95:10s"), Seconds(0.1));
        assert_eq!(limit("ttft:p95:500ms"), Seconds(0.05));
        assert_eq!(limit("ttft:p95:50ms"), Seconds(0.02));
        assert_eq!(limit("e2e:p95:10ms"), Seconds(0.1));
    }
}
