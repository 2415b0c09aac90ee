//! Recorded samples as intervals between scrapes, and what they say of the server's limits.

use super::Interval;
use crate::batching::Admission;
use crate::measurement::{RequestOutcome, Sample, Series};

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
            (after >= before).then_some(after - before)
        };
        let busy = pair.iter().all(|sample| sample.get(Series::BatchSize).is_some_and(|batch| batch > 0.0));
        // A scrape tells of the moment at which it was answered.
        let time = |sample: &Sample| sample.time.0 + sample.took.0 / 2.0;
        let (from, to) = (time(pair[0]), time(pair[1]));
        let range =
            firsts.partition_point(|first| first.0 < from)..firsts.partition_point(|first| first.0 < to);
        Some(Interval {
            length: pair[1].time - pair[0].time,
            decodes: rise(Series::DecodeCount)?,
            decode_seconds: rise(Series::DecodeSeconds)?,
            prefills: rise(Series::PrefillCount)?,
            prefill_seconds: rise(Series::PrefillSeconds)?,
            joins: rise(Series::JoinedRequests)?,
            tokens: rise(Series::TokenEvents)?,
            input_tokens: firsts[range].iter().map(|first| first.1).sum(),
            busy,
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

/// KV tokens that requests can reserve: the most that was reserved while others waited. TGI 3 does
/// not export its budget, and only then it was surely reached, but for less than one request.
pub fn token_budget(samples: &[&Sample]) -> Option<u32> {
    let waiting =
        samples.iter().filter(|sample| sample.get(Series::QueueSize).is_some_and(|queue| queue >= 1.0));
    let most = waiting.filter_map(|sample| sample.get(Series::BatchTokens)).fold(0.0, f64::max);
    (most > 0.0).then_some(most as u32)
}
