//! Recorded samples as intervals between scrapes, and what they say of the server's limits.

use super::Interval;
use crate::batching::Admission;
use crate::measurement::{RequestOutcome, Sample, Series};

/// A budget was reached where, of the samples within this share of the most that was reserved, so many
/// show more waiting requests than may wait for another reason, and one of them several more: a single one
/// may only be about to join.
const NEAR_BUDGET: f64 = 0.97;
const SHARE_WAITING: f64 = 0.5;
const BLOCKED: f64 = 2.0;
/// With chunking requests wait for the forward that is going on, so that at any moment up to as many wait as
/// then join together. A budget makes them wait for longer: so many times as many, at those moments on average or at
/// the fullest of them.
const BEYOND_JOINERS: f64 = 1.5;
/// A forward counts when it ends, so an interval may hold seconds of one that began before it: so many.
const LONGEST_FORWARD: f64 = 60.0;
/// What TGI's launcher sets where the user sets nothing.
const WAITING_SERVED_RATIO: f64 = 0.3;
const MAX_WAITING_TOKENS: u32 = 20;

/// The intervals between the samples of one replica, which must be in the order of time. `requests`
/// are those that it served. Intervals without the counters, or over which one fell, are left out.
pub fn intervals(samples: &[&Sample], requests: &[&RequestOutcome]) -> Vec<Interval> {
    let mut firsts: Vec<(f64, f64)> =
        requests.iter().filter_map(|r| Some((r.first_token?.0, f64::from(r.input_tokens?)))).collect();
    firsts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let between = |pair: &[&Sample]| {
        let rise = |series| {
            let (before, after) = (pair[0].get(series)?, pair[1].get(series)?);
            (before >= 0.0 && after >= before).then_some(after - before)
        };
        let busy = pair.iter().all(|sample| sample.get(Series::BatchSize).is_some_and(|batch| batch > 0.0));
        // A scrape tells of the moment at which it was answered.
        let time = |sample: &Sample| sample.time.0 + sample.took.0 / 2.0;
        let (from, to) = (time(pair[0]), time(pair[1]));
        let range =
            firsts.partition_point(|first| first.0 < from)..firsts.partition_point(|first| first.0 < to);
        let spent = rise(Series::DecodeSeconds)? + rise(Series::PrefillSeconds)?;
        if spent > to - from + LONGEST_FORWARD {
            return None;
        }
        Some(Interval {
            end: pair[1].time,
            length: pair[1].time - pair[0].time,
            decodes: rise(Series::DecodeCount)?,
            decode_seconds: rise(Series::DecodeSeconds)?,
            prefills: rise(Series::PrefillCount)?,
            prefill_seconds: rise(Series::PrefillSeconds)?,
            joins: rise(Series::JoinedRequests)?,
            tokens: rise(Series::TokenEvents)?,
            input_tokens: firsts[range].iter().map(|first| first.1).sum(),
            busy,
            ends: pair[0].get(Series::BatchSize).zip(pair[1].get(Series::BatchSize)),
        })
    };
    samples.windows(2).filter_map(between).collect()
}

/// When waiting requests join, by the reasons that the server counts. `None`: nothing ever joined.
pub fn admission(samples: &[&Sample]) -> Option<Admission> {
    let last = |series| samples.iter().rev().find_map(|sample| sample.get(series)).unwrap_or(0.0);
    let by_share = last(Series::ConcatBackpressure) + last(Series::ConcatWaitExceeded);
    match (last(Series::ConcatChunking), by_share) {
        (0.0, 0.0) => None,
        (chunking, by_share) if chunking >= by_share => Some(Admission::Chunking),
        _ => Some(Admission::WaitingServed {
            ratio: WAITING_SERVED_RATIO,
            max_waiting_tokens: MAX_WAITING_TOKENS,
        }),
    }
}

/// KV tokens that requests can reserve, where others waited at the most that was ever reserved. TGI 3
/// does not export its budget. What was missing for the one that waited is anything from nothing to its
/// reservation, so of `K` such moments the fullest lies below the budget by a `K + 1`-th of
/// `mean_reservation`, more or less.
pub fn token_budget(samples: &[&Sample], admission: &Admission, mean_reservation: f64) -> Option<u32> {
    // Without chunking requests also wait until enough of them do.
    let (ratio, chunking) = match admission {
        Admission::Chunking => (0.0, true),
        Admission::WaitingServed { ratio, .. } => (*ratio, false),
    };
    let gauge = |(i, s): (usize, &&Sample)| {
        let others = ratio * s.get(Series::BatchSize).unwrap_or(0.0);
        let queue = (s.get(Series::QueueSize)? - others.ceil()).max(0.0);
        Some((i, s.get(Series::BatchTokens)?, queue))
    };
    let gauges: Vec<(usize, f64, f64)> = samples.iter().enumerate().filter_map(gauge).collect();
    let most = gauges.iter().map(|(_, tokens, _)| *tokens).fold(0.0, f64::max);
    let near = || gauges.iter().filter(|(_, tokens, _)| *tokens > most * NEAR_BUDGET);
    let waiting = near().filter(|(_, _, queue)| *queue >= 1.0).count();
    let blocked = near().any(|(_, _, queue)| *queue >= BLOCKED);
    let joiners = if chunking { joiners(samples, near().map(|(i, _, _)| *i)) } else { 0.0 };
    let on_average = super::mean(near().map(|(_, _, queue)| *queue));
    let at_the_fullest = near().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0.0, |(_, _, queue)| *queue);
    let reached = blocked
        && waiting as f64 >= near().count() as f64 * SHARE_WAITING
        && on_average.max(at_the_fullest) >= BEYOND_JOINERS * joiners;
    (most > 0.0 && reached).then(|| (most + mean_reservation / (waiting + 1) as f64) as u32)
}

/// Requests that joined with each prefill before the given samples.
fn joiners(samples: &[&Sample], at: impl Iterator<Item = usize>) -> f64 {
    let (mut joined, mut prefills) = (0.0, 0.0);
    for pair in at.filter_map(|i| samples.get(i.checked_sub(1)?..=i)) {
        let rise = |series| Some((pair[1].get(series)? - pair[0].get(series)?).max(0.0));
        joined += rise(Series::JoinedRequests).unwrap_or(0.0);
        prefills += rise(Series::PrefillCount).unwrap_or(0.0);
    }
    if prefills > 0.0 { joined / prefills } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::Source;
    use crate::units::Seconds;

    fn budget(gauges: &[(f64, f64)]) -> Option<u32> {
        budget_with(gauges, Admission::Chunking)
    }

    fn budget_with(gauges: &[(f64, f64)], admission: Admission) -> Option<u32> {
        let sample = |(tokens, queue): &(f64, f64)| {
            let mut sample = Sample::new(Seconds(0.0), Seconds(0.0), Source::Server, 0);
            sample.set(Series::BatchTokens, Some(*tokens));
            sample.set(Series::BatchSize, Some(20.0));
            sample.set(Series::QueueSize, Some(*queue));
            sample
        };
        let samples: Vec<Sample> = gauges.iter().map(sample).collect();
        token_budget(&samples.iter().collect::<Vec<_>>(), &admission, 100.0)
    }

    /// As seen on an H100 at 96 clients, 128 sequences and 100,000 tokens being allowed: joiners come in lumps.
    #[test]
    fn those_that_wait_for_the_next_forward_show_no_budget() {
        let sample = |(tokens, queue, joined, prefills): (f64, f64, f64, f64)| {
            let mut sample = Sample::new(Seconds(0.0), Seconds(0.0), Source::Server, 0);
            for (series, value) in [
                (Series::BatchTokens, tokens),
                (Series::QueueSize, queue),
                (Series::JoinedRequests, joined),
                (Series::PrefillCount, prefills),
            ] {
                sample.set(series, Some(value));
            }
            sample
        };
        let seen = |queues: [f64; 3]| {
            let rows = [(35_000.0, 0.0, 0.0, 0.0), (37_750.0, queues[0], 29.0, 16.0)];
            let rest = [(37_590.0, queues[1], 58.0, 32.0), (37_418.0, queues[2], 87.0, 48.0)];
            let samples: Vec<Sample> = rows.into_iter().chain(rest).map(sample).collect();
            token_budget(&samples.iter().collect::<Vec<_>>(), &Admission::Chunking, 370.0)
        };
        assert_eq!(seen([1.0, 5.0, 0.0]), None);
        assert!(seen([4.0, 5.0, 3.0]).is_some());
    }

    #[test]
    fn a_budget_shows_where_others_wait_at_the_most_that_was_reserved() {
        let full = [(9_900.0, 4.0), (9_950.0, 7.0), (10_000.0, 2.0), (9_990.0, 1.0), (5_000.0, 0.0)];
        assert_eq!(budget(&full), Some(10_020));
        let once = [(9_000.0, 1.0), (6_000.0, 1.0), (5_000.0, 0.0)];
        assert_eq!(budget(&once), None, "a peak that a join was seen at");
        let free = [(9_900.0, 0.0), (9_950.0, 0.0), (10_000.0, 0.0), (9_990.0, 1.0), (9_980.0, 0.0)];
        assert_eq!(budget(&free), None, "a plateau without a queue is the load's");
        assert_eq!(budget(&[]), None);
        let waiting = Admission::WaitingServed { ratio: 0.3, max_waiting_tokens: 20 };
        assert_eq!(budget_with(&full, waiting), None, "up to six of them may wait for more to come");
        let more = full.map(|(tokens, queue)| (tokens, queue + 6.0));
        assert_eq!(budget_with(&more, waiting), Some(10_020));
    }
}
