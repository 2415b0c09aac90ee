//! Do independent counts of the same requests agree?

use super::super::{Measured, StepAnalysis, ValidityCheck, Verdict};
use super::{check, graded, not_recorded, worse};
use crate::analyze::gauges::{Track, in_flight_by_counters, tracks};
use crate::measurement::{Event, Sample, Series};
use crate::units::Seconds;

/// In-flight by count against throughput times latency.
const LITTLE_REMARK: f64 = 0.03;
const LITTLE_INVALID: f64 = 0.10;
/// Below this many requests in flight chance alone is larger.
const LITTLE_LEAST: f64 = 2.0;
/// Length that heartbeats must cover to compare by.
const LITTLE_SECONDS: f64 = 3.0;
/// Queue and batch by the gauges over the client's requests in flight. Above 1 someone else is there
/// too. Below: during a prefill a request is in neither gauge.
const GAUGES_MORE_REMARK: f64 = 1.15;
const GAUGES_MORE_INVALID: f64 = 1.5;
const GAUGES_LESS_REMARK: f64 = 0.5;
/// Fewer samples of the gauges in a step say nothing of their mean.
const GAUGES_LEAST: u64 = 5;
/// Completions by the server's count against the client's.
const COMPLETIONS_REMARK: f64 = 0.02;
const COMPLETIONS_INVALID: f64 = 0.20;
/// Completions that a scrape and the client may see on different sides of a second.
const COMPLETIONS_SLACK: f64 = 5.0;

/// Little's law: the mean number in flight, counted a hundred times a second, is the throughput
/// times the mean latency, which is the time that recorded requests spent in the window over its
/// length. Where the two differ, requests are missing from the record or counted twice.
pub(super) fn little(measured: &Measured, steps: &[StepAnalysis]) -> ValidityCheck {
    let beats: Vec<(f64, f64)> = measured
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Heartbeat { time, in_flight, .. } => Some((time.0, *in_flight)),
            _ => None,
        })
        .collect();
    if beats.is_empty() {
        return not_recorded("Little's law");
    }
    let mut worst = None;
    for step in steps.iter().filter(|step| step.lost == 0) {
        // Each beat tells of the second before it.
        let spans = beats.windows(2).filter(|w| {
            w[0].0 >= step.mark.hold_start.0 && w[1].0 <= step.mark.end.0 && w[1].0 - w[0].0 < 2.0
        });
        let (mut counted, mut spent, mut length) = (0.0, 0.0, 0.0);
        for span in spans {
            let (from, to) = (span[0].0, span[1].0);
            counted += span[1].1 * (to - from);
            spent += presence(measured, from, to);
            length += to - from;
        }
        if length >= LITTLE_SECONDS && counted / length >= LITTLE_LEAST {
            let difference = (counted / spent - 1.0).abs();
            worst = worse(worst, (difference, (counted / length, spent / length, step.achieved, step.e2e)));
        }
    }
    let Some((difference, (counted, by_law, rate, e2e))) = worst else {
        let detail = format!(
            "no step is long and loaded enough to tell by ({LITTLE_LEAST} in flight for {LITTLE_SECONDS} s)"
        );
        return check("Little's law", Verdict::Valid, detail);
    };
    let latency = e2e.map_or_else(|| "-".to_owned(), |e2e| e2e.mean.to_string());
    check(
        "Little's law",
        graded(difference, LITTLE_REMARK, LITTLE_INVALID),
        format!(
            "in the worst step {counted:.2} in flight by count, {by_law:.2} by throughput x latency \
             ({:.1} % apart; completions {rate}, mean E2E {latency})",
            difference * 100.0
        ),
    )
}

/// Time that requests spent between two moments, from their schedule to their end.
fn presence(measured: &Measured, from: f64, to: f64) -> f64 {
    let spent = |request: &crate::measurement::RequestOutcome| {
        let end = request.ended.or(request.last_token).map_or(request.scheduled.0, |end| end.0);
        (end.min(to) - request.scheduled.0.max(from)).max(0.0)
    };
    measured.requests.iter().map(spent).sum()
}

/// The gauges see only what is queued or decoded, so they show less than the client has in flight; where they
/// show more, that is someone else's. For the other side those in between are added: by the server's own count of
/// what it took in and what ended, else by how often and how long requests join.
pub(super) fn gauges_against_client(measured: &Measured, steps: &[StepAnalysis]) -> ValidityCheck {
    let (mut more, mut less) = (None, None);
    for step in steps.iter().filter(|step| step.in_flight >= LITTLE_LEAST) {
        let (Some(queue), Some(batch)) = (step.queue, step.batch) else { continue };
        if queue.n.min(batch.n) < GAUGES_LEAST {
            continue;
        }
        let shown = (queue.mean + batch.mean) * f64::from(measured.replicas.0);
        more = worse(more, (shown / step.in_flight, (shown, step.in_flight)));
        let counted = in_flight_by_counters(measured, step.mark.hold_start, step.mark.end);
        let counted = counted.map(|each| each * f64::from(measured.replicas.0));
        let all = counted.unwrap_or_else(|| shown + joining(measured, step));
        less = worse(less, (-all / step.in_flight, (all, step.in_flight)));
    }
    let name = "gauges against the client";
    let (Some((ratio, high)), Some((negative, low))) = (more, less) else {
        return check(
            name,
            Verdict::Valid,
            format!(
                "no step with {GAUGES_LEAST} samples of the gauges has {LITTLE_LEAST} requests in flight"
            ),
        );
    };
    let words = |of: &str, (shown, flying): (f64, f64)| {
        format!("{of} {shown:.1}, in flight at the client {flying:.1}")
    };
    let gauges = "queue + batch";
    let all = "at the server, with those that neither gauge shows,";
    let verdict = graded(ratio, GAUGES_MORE_REMARK, GAUGES_MORE_INVALID);
    if verdict != Verdict::Valid {
        return check(name, verdict, format!("{}: the server has other clients too", words(gauges, high)));
    }
    if -negative < GAUGES_LESS_REMARK {
        let detail = format!(
            "{}: some of the load went elsewhere, or to replicas that are not scraped",
            words(all, low)
        );
        return check(name, Verdict::Remark, detail);
    }
    check(name, Verdict::Valid, format!("{} in the step where they differ most", words(all, low)))
}

/// Requests that neither gauge shows: a TGI router counts one into its batch only after the prefill and the
/// decode that it joins by. So many a second join, for so long, as a recorded router shows. 0 where the server
/// counts no forwards.
fn joining(measured: &Measured, step: &StepAnalysis) -> f64 {
    let held = step.mark.hold_start..step.mark.end;
    let of = |track: &Track| -> Option<f64> {
        let samples: Vec<&Sample> =
            track.samples.iter().copied().filter(|sample| held.contains(&sample.time)).collect();
        let length = samples.last()?.time - samples.first()?.time;
        let risen = |series| rise(&samples, series).filter(|risen| *risen > 0.0);
        let prefill = risen(Series::PrefillSeconds)? / risen(Series::PrefillCount)?;
        let decode = risen(Series::DecodeSeconds)? / risen(Series::DecodeCount)?;
        (length.0 > 0.0).then_some(risen(Series::JoinedRequests)? / length.0 * (prefill + decode))
    };
    tracks(measured).iter().filter_map(of).sum()
}

/// How much a counter rose over a run on one replica; a fall is a restart, after which it began at 0.
pub(super) fn rise(samples: &[&Sample], series: Series) -> Option<f64> {
    let values: Vec<f64> = samples.iter().filter_map(|sample| sample.get(series)).collect();
    let steps = values.windows(2).map(|w| if w[1] >= w[0] { w[1] - w[0] } else { w[1] });
    (!values.is_empty()).then(|| steps.sum())
}

pub(super) fn completions(measured: &Measured) -> ValidityCheck {
    let name = "completions by the server's count";
    let tracks = tracks(measured);
    let (mut server, mut client) = (0.0, 0_usize);
    for session in tracks.chunk_by(|a, b| a.session == b.session) {
        if (session.len() as u32) < measured.replicas.0 {
            let detail = "not comparable, since not all replicas are scraped";
            return check(name, Verdict::Valid, detail.to_owned());
        }
        let Some((counted, from, to)) = counted(session) else {
            return check(name, Verdict::Valid, "the server does not count them".to_owned());
        };
        server += counted;
        let inside = |time: Seconds| (from..=to).contains(&time.0);
        client += measured.requests.iter().filter(|r| r.is_ok() && r.last_token.is_some_and(inside)).count();
    }
    let apart = ((server - client as f64).abs() - COMPLETIONS_SLACK).max(0.0) / (client.max(1) as f64);
    let why = if server > client as f64 {
        "the server has other clients too"
    } else {
        "some of the load went elsewhere"
    };
    let verdict = graded(apart, COMPLETIONS_REMARK, COMPLETIONS_INVALID);
    let hint = if verdict == Verdict::Valid { String::new() } else { format!(": {why}") };
    check(name, verdict, format!("{server:.0} by the server, {client} by the client in the same time{hint}"))
}

/// What all replicas of a session counted, and from when to when.
fn counted(session: &[Track]) -> Option<(f64, f64, f64)> {
    let (mut counted, mut from, mut to) = (0.0, f64::INFINITY, f64::NEG_INFINITY);
    for track in session {
        let counting = || track.samples.iter().filter(|sample| sample.get(Series::Successes).is_some());
        counted += rise(&track.samples, Series::Successes)?;
        from = from.min(counting().next()?.time.0);
        to = to.max(counting().next_back()?.time.0);
    }
    Some((counted, from, to))
}

/// A chunk of an OpenAI stream may hold several tokens, and then its gap is not one token's.
pub(super) fn tokens_per_chunk(measured: &Measured) -> ValidityCheck {
    let counted = measured.requests.iter().filter(|r| r.is_ok() && r.chunks > 0);
    let (mut streams, mut packed, mut unknown) = (0_usize, 0_usize, 0_usize);
    for request in counted {
        streams += 1;
        match request.output_tokens {
            None => unknown += 1,
            // An end-of-sequence token may come without text.
            Some(tokens) if tokens > request.chunks + 1 => packed += 1,
            Some(_) => {}
        }
    }
    let (verdict, detail) = match (packed, unknown) {
        (0, 0) => (Verdict::Valid, format!("one in each of {streams} streams")),
        (0, _) => (
            Verdict::Remark,
            format!(
                "the server gave no token count for {unknown} of {streams} streams: their TPOT is unknown"
            ),
        ),
        _ => (
            Verdict::Remark,
            format!(
                "{packed} of {streams} streams held several in one chunk: ITL there is between chunks, TPOT by the server's count"
            ),
        ),
    };
    check("tokens per chunk", verdict, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::GaugeSummary;
    use crate::analyze::capacity::tests::step;
    use crate::measurement::Source;
    use crate::measurement::{Phase, RequestOutcome};
    use crate::units::Replicas;
    use std::collections::BTreeMap;

    fn request(id: u64, scheduled: f64, latency: f64) -> RequestOutcome {
        RequestOutcome {
            id,
            step: 0,
            phase: Phase::Hold,
            scheduled: Seconds(scheduled),
            sent: Some(Seconds(scheduled)),
            first_token: Some(Seconds(scheduled)),
            last_token: Some(Seconds(scheduled + latency)),
            ended: Some(Seconds(scheduled + latency)),
            input_tokens: Some(1),
            output_tokens: Some(5),
            chunks: 5,
            status: Some(200),
            error: None,
            replica: None,
        }
    }

    fn on<T>(
        requests: &[RequestOutcome],
        samples: &[Sample],
        events: &[Event],
        judge: impl Fn(&Measured) -> T,
    ) -> T {
        let gaps = BTreeMap::new();
        judge(&Measured { requests, samples, events, gaps: &gaps, replicas: Replicas(1) })
    }

    fn beats(in_flight: f64) -> Vec<Event> {
        let beat = |second: u32| Event::Heartbeat {
            time: Seconds(f64::from(second)),
            in_flight,
            lag_p99: Seconds::ZERO,
            lag_max: Seconds::ZERO,
            cpu: 0.0,
            wall_offset: Seconds::ZERO,
        };
        (0..=14).map(beat).collect()
    }

    #[test]
    fn littles_law_holds_for_a_whole_record_and_not_for_one_with_holes() {
        // Four a second for two seconds each: eight in flight.
        let requests: Vec<_> = (0..60).map(|i| request(i, i as f64 * 0.25, 2.0)).collect();
        let steps = [step(0, 4.0, Some(0.1), 1.0)];
        let judge =
            |requests: &[RequestOutcome]| on(requests, &[], &beats(8.0), |m| little(m, &steps).verdict);
        assert_eq!(judge(&requests), Verdict::Valid);
        let some: Vec<_> = requests.iter().filter(|r| r.id % 20 != 0).cloned().collect();
        assert_eq!(judge(&some), Verdict::Remark);
        let few: Vec<_> = requests.iter().filter(|r| r.id % 4 != 0).cloned().collect();
        assert_eq!(judge(&few), Verdict::Invalid);
        assert_eq!(on(&requests, &[], &[], |m| little(m, &steps).verdict), Verdict::Remark, "not recorded");
    }

    #[test]
    fn gauges_that_show_more_than_the_client_sent_show_someone_else() {
        let verdict = |shown: f64| {
            let gauge = |mean| {
                Some(GaugeSummary { n: 9, mean, std: 0.0, standard_error: Some(0.0), min: 0.0, max: mean })
            };
            let mut one = step(0, 4.0, Some(0.1), 1.0);
            (one.in_flight, one.queue, one.batch) = (10.0, gauge(1.0), gauge(shown - 1.0));
            on(&[], &[], &[], |m| gauges_against_client(m, std::slice::from_ref(&one)).verdict)
        };
        assert_eq!(verdict(9.0), Verdict::Valid);
        assert_eq!(verdict(12.0), Verdict::Remark);
        assert_eq!(verdict(20.0), Verdict::Invalid);
        assert_eq!(verdict(3.0), Verdict::Remark, "long prefills");
    }

    fn counter(second: u32, successes: f64) -> Sample {
        let mut sample = Sample::new(Seconds(f64::from(second)), Seconds::ZERO, Source::Server, 0);
        sample.set(Series::Successes, Some(successes));
        sample
    }

    #[test]
    fn a_server_that_completes_other_requests_than_ours_is_not_believed() {
        let requests: Vec<_> = (0..400).map(|i| request(i, i as f64 * 0.025, 0.0)).collect();
        let verdict = |end: f64| {
            let samples = [counter(0, 1000.0), counter(5, 1000.0 + end / 2.0), counter(10, 1000.0 + end)];
            on(&requests, &samples, &[], |m| completions(m).verdict)
        };
        assert_eq!(verdict(402.0), Verdict::Valid);
        assert_eq!(verdict(440.0), Verdict::Remark);
        assert_eq!(verdict(800.0), Verdict::Invalid);
        assert_eq!(verdict(100.0), Verdict::Invalid, "the load went elsewhere");
    }

    #[test]
    fn a_counter_that_fell_began_again_at_zero() {
        let samples = [counter(0, 100.0), counter(1, 110.0), counter(2, 4.0), counter(3, 9.0)];
        assert_eq!(rise(&samples.iter().collect::<Vec<_>>(), Series::Successes), Some(19.0));
        assert_eq!(rise(&[], Series::Successes), None);
    }

    #[test]
    fn chunks_with_several_tokens_are_told_of() {
        let verdict = |output_tokens, chunks| {
            let one = RequestOutcome { output_tokens, chunks, ..request(0, 0.0, 1.0) };
            on(&[one], &[], &[], |m| tokens_per_chunk(m).verdict)
        };
        assert_eq!(verdict(Some(5), 5), Verdict::Valid);
        assert_eq!(verdict(Some(6), 5), Verdict::Valid, "the end-of-sequence token has no text");
        assert_eq!(verdict(Some(10), 5), Verdict::Remark);
        assert_eq!(verdict(None, 5), Verdict::Remark);
    }
}
