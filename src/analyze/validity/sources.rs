//! Were the metrics there, fresh, and of one and the same server?

use super::super::gauges::{of_server, tracks};
use super::super::{Measured, StepAnalysis, ValidityCheck, Verdict};
use super::{check, graded, worse};
use crate::measurement::{Event, Sample, Series, Source};
use crate::units::Seconds;
use std::collections::BTreeSet;

/// Share of scrapes that failed: above it the gauges are not known.
const FAILED_INVALID: f64 = 0.2;
/// Longest time without a sample within a step, in seconds and as a share of its measured part.
const GAP_REMARK: f64 = 5.0;
const GAP_INVALID: f64 = 0.5;
/// A gap below this is a single scrape that was missed.
const GAP_LEAST: f64 = 3.5;
/// Counters that stand still for longer than this while requests end are out of date.
const STALE: f64 = 10.0;
/// Completions that show that a counter should have moved.
const STALE_COMPLETIONS: usize = 5;
/// A server does not restart so often; several behind one address look as if it did.
const SEVERAL_FALLS: usize = 3;
/// Share of the run with counters out of date.
const STALE_INVALID: f64 = 0.5;

pub(super) fn scrapes(measured: &Measured) -> ValidityCheck {
    let by = of_server(measured.samples);
    let of_server = |source: &Source| *source == by;
    let good = measured.samples.iter().filter(|s| of_server(&s.source) && !s.is_empty()).count();
    let shows = |s: &Sample| s.get(Series::BatchSize).is_some() || s.get(Series::QueueSize).is_some();
    let gauges_seen = measured.samples.iter().any(shows);
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
        _ if good == 0 || !gauges_seen || share > FAILED_INVALID => Verdict::Invalid,
        0 if unseen == 0 => Verdict::Valid,
        _ => Verdict::Remark,
    };
    let detail = match (good, gauges_seen) {
        (0, _) => format!("none of {failed} scrapes of the server's metrics gave any"),
        (_, false) => format!("{good} scrapes, but none shows a queue or a batch size"),
        _ if unseen > 0 => format!(
            "{good} good, {failed} failed; {unseen} of {} are not scraped and taken to be like the others",
            measured.replicas
        ),
        _ => format!("{good} good, {failed} failed"),
    };
    check("metric scrapes", verdict, detail)
}

pub(super) fn gaps(measured: &Measured, steps: &[StepAnalysis]) -> ValidityCheck {
    let mut worst = None;
    let mut slowest = 0.0_f64;
    for track in tracks(measured) {
        for step in steps.iter().filter(|step| (track.from..track.to).contains(&step.mark.start)) {
            let (from, to) = (step.mark.hold_start.0, step.mark.end.0);
            let samples = track.samples.iter().map(|s| (s.time.0, s.took.0));
            let inside = samples.filter(|s| (from..to).contains(&s.0));
            let mut last = from;
            for (time, took) in inside.chain([(to, 0.0)]) {
                worst = worse(worst, (time - last, step.mark.hold().0));
                slowest = slowest.max(took);
                last = time;
            }
        }
    }
    let Some((gap, hold)) = worst else {
        return check("gaps between samples", Verdict::Valid, "no samples within a step".to_owned());
    };
    let verdict = if gap > hold * GAP_INVALID && gap > GAP_LEAST {
        Verdict::Invalid
    } else {
        graded(gap, GAP_REMARK, f64::INFINITY)
    };
    check(
        "gaps between samples",
        verdict,
        format!(
            "at most {} without one within a step; the slowest scrape took {}",
            Seconds(gap),
            Seconds(slowest)
        ),
    )
}

/// Counters that move whenever a server works, of which each server has some.
const PROGRESS: [Series; 6] = [
    Series::Successes,
    Series::OutputRequests,
    Series::InputRequests,
    Series::TokenEvents,
    Series::DecodeCount,
    Series::PrefillCount,
];

/// What a sample shows of them. `None`: none at all.
fn progress(sample: &Sample) -> Option<[Option<f64>; PROGRESS.len()]> {
    let shown = PROGRESS.map(|series| sample.get(series));
    shown.iter().any(Option::is_some).then_some(shown)
}

/// Whether a counter is lower than it was.
fn fell(before: &[Option<f64>], after: &[Option<f64>]) -> bool {
    before.iter().zip(after).any(|(before, after)| before.zip(*after).is_some_and(|(b, a)| a < b))
}

pub(super) fn staleness(measured: &Measured) -> ValidityCheck {
    let name = "freshness of the metrics";
    let one_to_one = measured.replicas.0 == 1;
    let mut ends: Vec<f64> =
        measured.requests.iter().filter(|r| r.is_ok()).filter_map(|r| r.last_token).map(|t| t.0).collect();
    ends.sort_by(f64::total_cmp);
    let (mut stale, mut longest, mut whole) = (0.0, 0.0_f64, 0.0_f64);
    for track in tracks(measured) {
        let seen: Vec<(f64, _)> =
            track.samples.iter().filter_map(|s| Some((s.time.0, progress(s)?))).collect();
        whole += seen.first().zip(seen.last()).map_or(0.0, |(first, last)| last.0 - first.0);
        for still in seen.chunk_by(|a, b| a.1 == b.1) {
            let (from, to) = (still[0].0, still[still.len() - 1].0);
            let ended = ends.partition_point(|end| *end < to) - ends.partition_point(|end| *end < from);
            // With several replicas the completions may be another's.
            if to - from > STALE && ended >= STALE_COMPLETIONS && one_to_one {
                stale += to - from;
                longest = longest.max(to - from);
            }
        }
    }
    if stale == 0.0 {
        return check(
            name,
            Verdict::Valid,
            format!("no counter stood still for {STALE} s while requests ended"),
        );
    }
    let share = stale / whole.max(1.0);
    let detail = format!(
        "counters stood still for up to {} while requests ended ({:.0} % of the time): cached metrics, or another server's",
        Seconds(longest),
        share * 100.0
    );
    check(name, graded(share, 0.0, STALE_INVALID), detail)
}

/// Replicas that restarted (a counter fell) or vanished for a while.
pub(super) fn restarts(measured: &Measured) -> ValidityCheck {
    let (mut restarted, mut vanished, mut falls) = (BTreeSet::new(), BTreeSet::new(), 0);
    for track in tracks(measured) {
        let counts: Vec<_> = track.samples.iter().filter_map(|sample| progress(sample)).collect();
        let fallen = counts.windows(2).filter(|pair| fell(&pair[0], &pair[1])).count();
        // A metric that was there and is gone: a new process that has served nothing yet.
        let shown: Vec<bool> = track.samples.iter().map(|sample| !sample.is_empty()).collect();
        if fallen > 0 || shown.windows(2).any(|w| w[0] && !w[1]) {
            restarted.insert(track.replica);
        }
        falls = falls.max(fallen);
    }
    for event in measured.events {
        if let Event::ScrapeFailed { time, source: Source::Server, replica, .. } = event {
            let around = measured.events.iter().filter(|other| {
                matches!(other, Event::ScrapeFailed { time: t, source: Source::Server, replica: r, .. }
                    if r == replica && (t.0 - time.0).abs() < GAP_REMARK)
            });
            if around.count() >= 3 {
                vanished.insert(*replica);
            }
        }
    }
    let (verdict, detail) = match (restarted.len(), vanished.len()) {
        (0, 0) => (Verdict::Valid, format!("{}, none restarted or vanished", measured.replicas)),
        (0, n) => (
            Verdict::Remark,
            format!("{n} could not be scraped for a while: its count of replicas may have changed"),
        ),
        _ if falls >= SEVERAL_FALLS => (
            Verdict::Invalid,
            format!(
                "counters at one address fell {falls} times: several servers answer there in turn; give each its \
                 own --metrics-url"
            ),
        ),
        (n, _) => (
            Verdict::Invalid,
            format!("{n} restarted during the run, so the load was shared by fewer for a while"),
        ),
    };
    check("replicas", verdict, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::capacity::tests::step;
    use crate::measurement::{Phase, RequestOutcome};
    use crate::units::Replicas;
    use std::collections::BTreeMap;

    fn sample(second: u32, successes: Option<f64>) -> Sample {
        let mut sample = Sample::new(Seconds(f64::from(second)), Seconds(0.01), Source::Server, 0);
        sample.set(Series::Successes, successes);
        sample
    }

    fn on(samples: &[Sample], events: &[Event], judge: impl Fn(&Measured) -> ValidityCheck) -> Verdict {
        let gaps = BTreeMap::new();
        let requests: Vec<RequestOutcome> = (0..60)
            .map(|i| RequestOutcome {
                id: i,
                step: 0,
                phase: Phase::Hold,
                scheduled: Seconds(i as f64 * 0.5),
                sent: None,
                first_token: None,
                last_token: Some(Seconds(i as f64 * 0.5)),
                ended: None,
                input_tokens: None,
                output_tokens: None,
                chunks: 0,
                status: None,
                error: None,
                replica: None,
            })
            .collect();
        judge(&Measured { requests: &requests, samples, events, gaps: &gaps, replicas: Replicas(1) }).verdict
    }

    #[test]
    fn a_hole_in_the_samples_is_measured_against_its_step() {
        let steps = [step(0, 4.0, Some(0.1), 1.0)];
        let judge = |seconds: &[u32]| {
            let samples: Vec<Sample> = seconds.iter().map(|s| sample(*s, Some(1.0))).collect();
            on(&samples, &[], |m| gaps(m, &steps))
        };
        assert_eq!(judge(&(0..14).collect::<Vec<_>>()), Verdict::Valid);
        assert_eq!(judge(&[3, 4, 9, 10, 11, 12]), Verdict::Valid);
        assert_eq!(judge(&[3, 4, 11, 12]), Verdict::Invalid, "7 of 10 seconds");
    }

    #[test]
    fn counters_that_stand_still_while_requests_end_are_out_of_date() {
        let counters = |of: fn(u32) -> f64| (0..30).map(|s| sample(s, Some(of(s)))).collect::<Vec<_>>();
        assert_eq!(on(&counters(f64::from), &[], staleness), Verdict::Valid);
        assert_eq!(on(&counters(|_| 7.0), &[], staleness), Verdict::Invalid);
        assert_eq!(on(&counters(|s| f64::from(s.max(12))), &[], staleness), Verdict::Remark);
    }

    #[test]
    fn a_counter_that_falls_or_vanishes_is_a_restart() {
        let judge = |values: &[Option<f64>]| {
            let samples: Vec<Sample> =
                (0..).zip(values).map(|(second, value)| sample(second, *value)).collect();
            on(&samples, &[], restarts)
        };
        assert_eq!(judge(&[None, Some(1.0), Some(2.0)]), Verdict::Valid, "a cold server shows nothing");
        assert_eq!(judge(&[Some(5.0), Some(6.0), Some(1.0)]), Verdict::Invalid);
        assert_eq!(judge(&[Some(5.0), Some(6.0), None, Some(1.0)]), Verdict::Invalid);
    }

    #[test]
    fn a_replica_that_cannot_be_scraped_for_a_while_is_remarked_on() {
        let failed = |second: u32| Event::ScrapeFailed {
            time: Seconds(f64::from(second)),
            source: Source::Server,
            replica: 0,
            reason: String::new(),
        };
        let samples = [sample(0, Some(1.0)), sample(20, Some(2.0))];
        assert_eq!(on(&samples, &[failed(5), failed(6), failed(7)], restarts), Verdict::Remark);
        assert_eq!(on(&samples, &[failed(5), failed(16)], restarts), Verdict::Valid);
    }
}
