//! SLOs against the requests of one step. A failed attempt is infinitely late; one that the end of
//! the run cut off is at least as late as it had become, and what that leaves open is said to be open.

use super::latency::nearest_rank_of;
use super::{LatencySummary, SloCheck};
use crate::measurement::{FailureKind, RequestOutcome};
use crate::units::{Limit, Seconds, Slo, SloMetric, Stat};

/// A mean, and a figure of ITL gaps, says nothing of requests that failed. With a larger share of
/// failures than this it does not hold.
const FAILED_MOST: f64 = 0.01;

/// What a request says about a latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Figure {
    Is(Seconds),
    /// Cut off: it would have been at least this.
    AtLeast(Seconds),
    /// It failed, or never gave what is timed.
    Infinite,
    /// It has no such latency: an answer of one token has no TPOT.
    Inapplicable,
    /// The server does not say what is needed to know it.
    Unknown,
}

/// What a request says about `metric`.
pub(super) fn figure(request: &RequestOutcome, metric: SloMetric) -> Figure {
    let value = match metric {
        SloMetric::Ttft => request.ttft(),
        SloMetric::Tpot => request.tpot(),
        SloMetric::E2e => request.e2e(),
        SloMetric::Ntpot => request.ntpot(),
        SloMetric::Itl | SloMetric::Error | SloMetric::Goodput => None,
    };
    let cut_off = request.error == Some(FailureKind::Stopped);
    let least_tokens = if metric == SloMetric::Ntpot { 1 } else { 2 };
    match (metric, value) {
        // A first token may have come before the request was cut off.
        (_, Some(value)) if request.is_ok() || (cut_off && metric == SloMetric::Ttft) => Figure::Is(value),
        (SloMetric::Ttft | SloMetric::E2e, _) if cut_off => {
            Figure::AtLeast(request.ended.map_or(Seconds::ZERO, |ended| ended - request.scheduled))
        }
        _ if cut_off => Figure::AtLeast(Seconds::ZERO),
        _ if !request.is_ok() => Figure::Infinite,
        (SloMetric::Tpot | SloMetric::Ntpot, _) => match request.output_tokens {
            Some(tokens) if tokens < least_tokens => Figure::Inapplicable,
            Some(_) => Figure::Infinite,
            None => Figure::Unknown,
        },
        // An answer that ended with its first, unprinted token.
        (SloMetric::Ttft, _) if request.output_tokens.is_some_and(|tokens| tokens < 2) => {
            Figure::Inapplicable
        }
        _ => Figure::Infinite,
    }
}

/// Judges one SLO. `gaps` summarizes the step's inter-token latencies.
pub(super) fn check(
    slo: Slo,
    attempts: &[&RequestOutcome],
    gaps: Option<&GapFigures>,
    all: &[Slo],
) -> SloCheck {
    let shares = |(low, high): (f64, f64)| {
        let bounds = [low, high].map(|share| within(share, slo.limit));
        SloCheck { slo, value: Some(low), holds: bounds[0] && bounds[1], undecided: bounds[0] != bounds[1] }
    };
    match (slo.metric, slo.stat) {
        (SloMetric::Error | SloMetric::Goodput, _) if attempts.is_empty() => known(slo, None),
        (SloMetric::Error, _) => shares(failed_shares(attempts)),
        (SloMetric::Goodput, _) => shares(good_shares(attempts, all)),
        (SloMetric::Itl, stat) => {
            let allowed =
                if let Stat::Percentile(percent) = stat { 1.0 - percent / 100.0 } else { FAILED_MOST };
            let (failed, at_most) = failed_shares(attempts);
            let gaps = gaps.filter(|_| failed <= allowed);
            let value = gaps.map(|gaps| match stat {
                Stat::Percentile(percent) => (gaps.at)(percent).0,
                _ => gaps.summary.mean.0,
            });
            let check = known(slo, value);
            // Those that were cut off may have had any gaps.
            let undecided = check.holds && at_most > allowed;
            SloCheck { holds: check.holds && !undecided, undecided, ..check }
        }
        (metric, stat) => check_latency(slo, stat, attempts.iter().map(|request| figure(request, metric))),
    }
}

fn known(slo: Slo, value: Option<f64>) -> SloCheck {
    SloCheck { slo, value, holds: value.is_some_and(|value| within(value, slo.limit)), undecided: false }
}

/// A percentile or mean of figures, once with those that were cut off at their least, and once
/// infinite: where the two verdicts differ, nobody can tell.
fn check_latency(slo: Slo, stat: Stat, figures: impl Iterator<Item = Figure>) -> SloCheck {
    let figures: Vec<Figure> = figures.filter(|figure| *figure != Figure::Inapplicable).collect();
    let count = |wanted: fn(&Figure) -> bool| figures.iter().filter(|figure| wanted(figure)).count();
    if count(|figure| *figure == Figure::Unknown) > 0 {
        return SloCheck { slo, value: None, holds: false, undecided: true };
    }
    let exact = || {
        figures.iter().filter_map(|figure| match figure {
            Figure::Is(value) => Some(value.0),
            _ => None,
        })
    };
    let at_least = figures.iter().filter_map(|figure| match figure {
        Figure::Is(value) | Figure::AtLeast(value) => Some(value.0),
        _ => None,
    });
    let value = |values: Vec<f64>| match stat {
        Stat::Percentile(percent) => nearest_rank_of(values, figures.len(), percent),
        _ => (figures.len() - values.len() <= (figures.len() as f64 * FAILED_MOST) as usize
            && !values.is_empty())
        .then(|| values.iter().sum::<f64>() / values.len() as f64),
    };
    let best = known(slo, value(at_least.collect()));
    let cut = count(|figure| matches!(figure, Figure::AtLeast(_))) > 0;
    // A mean with something infinite in it is infinite.
    let worst = match stat {
        _ if !cut => best,
        Stat::Percentile(_) => known(slo, value(exact().collect())),
        _ => known(slo, None),
    };
    let undecided = best.holds && !worst.holds;
    SloCheck { holds: best.holds && !undecided, undecided, ..best }
}

/// The inter-token latencies of a step.
pub(super) struct GapFigures<'a> {
    pub summary: LatencySummary,
    pub at: Box<dyn Fn(f64) -> Seconds + 'a>,
}

fn within(value: f64, limit: Limit) -> bool {
    match limit {
        Limit::AtMost(limit) => value <= limit.0,
        Limit::ShareAtMost(limit) => value <= limit,
        Limit::ShareAtLeast(limit) => value >= limit,
    }
}

/// Failures over attempts, at least and at most: a request that the end of the run cut off is no failure
/// of the server, and might have become one.
fn failed_shares(attempts: &[&RequestOutcome]) -> (f64, f64) {
    let n = attempts.len().max(1) as f64;
    let failed = attempts.iter().filter(|r| !r.is_ok()).count() as f64;
    let cut = attempts.iter().filter(|r| r.error == Some(FailureKind::Stopped)).count() as f64;
    ((failed - cut) / n, failed / n)
}

/// How many requests break a limit, of how many. `None` for limits on single gaps and means, and where the
/// server does not say what it needs.
pub(super) fn violations(slo: Slo, attempts: &[&RequestOutcome], all: &[Slo]) -> Option<(f64, f64)> {
    let n = attempts.len() as f64;
    match (slo.metric, slo.limit) {
        (SloMetric::Itl, _) => None,
        (SloMetric::Error, _) => Some((failed_shares(attempts).0 * n, n)),
        (SloMetric::Goodput, _) => Some(((1.0 - good_shares(attempts, all).0) * n, n)),
        (metric, Limit::AtMost(limit)) => {
            let figures = attempts.iter().map(|request| figure(request, metric));
            let figures: Vec<Figure> = figures.filter(|figure| *figure != Figure::Inapplicable).collect();
            let broken = figures.iter().filter(|figure| match figure {
                Figure::Is(value) | Figure::AtLeast(value) => *value > limit,
                _ => true,
            });
            let known = !figures.contains(&Figure::Unknown);
            known.then(|| (broken.count() as f64, figures.len() as f64))
        }
        _ => None,
    }
}

/// Requests within every latency limit over all attempts. A limit on ITL is a limit on single
/// gaps and not on requests, so it takes no part. `None` without attempts.
pub(super) fn goodput(attempts: &[&RequestOutcome], slos: &[Slo]) -> Option<f64> {
    (!attempts.is_empty()).then(|| good_shares(attempts, slos).0)
}

/// Whether a request surely broke a latency limit or failed. One that was cut off, or of which the server does
/// not say enough, did not surely.
pub fn breaks(request: &RequestOutcome, slos: &[Slo]) -> bool {
    good_shares(&[request], slos).1 == 0.0
}

/// The share of good requests, at least and at most.
fn good_shares(attempts: &[&RequestOutcome], slos: &[Slo]) -> (f64, f64) {
    let (mut good, mut open) = (0.0, 0.0);
    for request in attempts {
        let limits = slos.iter().filter_map(|slo| match (slo.metric, slo.limit) {
            (SloMetric::Itl, _) => None,
            (metric, Limit::AtMost(limit)) => Some((figure(request, metric), limit)),
            _ => None,
        });
        let (mut bad, mut unsure) = (request.error.is_some_and(|kind| kind != FailureKind::Stopped), false);
        unsure |= request.error == Some(FailureKind::Stopped);
        for (figure, limit) in limits {
            match figure {
                Figure::Is(value) | Figure::AtLeast(value) if value > limit => bad = true,
                Figure::Infinite => bad = true,
                Figure::AtLeast(_) | Figure::Unknown => unsure = true,
                Figure::Is(_) | Figure::Inapplicable => {}
            }
        }
        match (bad, unsure) {
            (true, _) => {}
            (false, true) => open += 1.0,
            (false, false) => good += 1.0,
        }
    }
    let n = attempts.len().max(1) as f64;
    (good / n, (good + open) / n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::Phase;

    fn request(ttft: f64, error: Option<FailureKind>) -> RequestOutcome {
        RequestOutcome {
            id: 0,
            step: 0,
            phase: Phase::Hold,
            scheduled: Seconds(0.0),
            sent: Some(Seconds(0.0)),
            first_token: Some(Seconds(ttft)),
            last_token: Some(Seconds(ttft + 1.0)),
            ended: Some(Seconds(ttft + 1.0)),
            input_tokens: Some(10),
            output_tokens: Some(11),
            chunks: 11,
            status: Some(200),
            error,
            replica: None,
        }
    }

    fn ok(ttft: f64) -> RequestOutcome {
        request(ttft, None)
    }

    fn failed() -> RequestOutcome {
        request(0.1, Some(FailureKind::StreamError))
    }

    /// Cut off by the end of the run after so many seconds, before its first token.
    fn cut(after: f64) -> RequestOutcome {
        RequestOutcome {
            first_token: None,
            last_token: None,
            ended: Some(Seconds(after)),
            output_tokens: None,
            ..request(0.0, Some(FailureKind::Stopped))
        }
    }

    fn judge(slo: &str, requests: &[RequestOutcome]) -> SloCheck {
        let slo: Slo = slo.parse().unwrap();
        let others: Slo = "ttft:p95:2s".parse().unwrap();
        check(slo, &requests.iter().collect::<Vec<_>>(), None, &[slo, others])
    }

    #[test]
    fn failures_break_a_percentile_once_they_reach_its_rank() {
        let mut requests = vec![ok(0.1); 95];
        requests.extend(vec![failed(); 5]);
        assert!(judge("ttft:p95:2s", &requests).holds);
        requests.push(failed());
        let check = judge("ttft:p95:2s", &requests);
        assert_eq!((check.value, check.holds, check.undecided), (None, false, false));
    }

    #[test]
    fn refusing_requests_does_not_improve_a_mean() {
        let mut requests = vec![request(0.1, Some(FailureKind::Overloaded)); 99];
        requests.push(ok(0.1));
        assert!(!judge("ttft:mean:2s", &requests).holds);
        let mut requests = vec![ok(0.1); 199];
        requests.push(failed());
        assert!(judge("ttft:mean:2s", &requests).holds, "half a percent is within what is allowed");
    }

    #[test]
    fn a_first_token_that_came_counts_although_the_run_cut_the_rest_off() {
        let mut requests = vec![ok(0.1); 90];
        requests.extend(vec![request(0.1, Some(FailureKind::Stopped)); 10]);
        assert!(judge("ttft:p95:2s", &requests).holds);
        let e2e = judge("e2e:p95:5s", &requests);
        assert_eq!((e2e.holds, e2e.undecided), (false, true), "they may have ended in time, or not");
        let errors = judge("error:rate:1%", &requests);
        assert_eq!(
            (errors.value, errors.holds, errors.undecided),
            (Some(0.0), false, true),
            "none failed yet"
        );
        assert!(judge("error:rate:10%", &requests).holds);
    }

    #[test]
    fn what_was_cut_off_after_the_limit_is_late_and_before_it_unknown() {
        let with = |more: RequestOutcome| [vec![ok(0.1); 9], vec![more]].concat();
        let late = judge("ttft:p95:2s", &with(cut(3.0)));
        assert_eq!((late.holds, late.undecided), (false, false));
        let open = judge("ttft:p95:2s", &with(cut(1.0)));
        assert_eq!((open.holds, open.undecided), (false, true));
        assert!(judge("ttft:p50:2s", &with(cut(1.0))).holds, "it does not reach the rank");
        let goodput = judge("goodput:rate:95%", &with(cut(1.0)));
        assert_eq!((goodput.value, goodput.undecided), (Some(0.9), true));
        assert!(judge("goodput:rate:80%", &with(cut(1.0))).holds);
    }

    #[test]
    fn a_mean_that_is_beyond_its_limit_already_fails_and_does_not_stay_open() {
        let mut requests = vec![ok(0.1); 199];
        requests.push(cut(1000.0));
        let check = judge("ttft:mean:2s", &requests);
        assert_eq!((check.holds, check.undecided), (false, false));
        requests[199] = cut(1.0);
        assert!(judge("ttft:mean:2s", &requests).undecided);
    }

    #[test]
    fn an_answer_without_tokens_is_not_good() {
        let empty = RequestOutcome { first_token: None, output_tokens: None, chunks: 0, ..ok(0.1) };
        let mut requests = vec![empty; 99];
        requests.push(ok(0.1));
        assert!(!judge("ttft:p95:2s", &requests).holds);
        assert_eq!(judge("goodput:rate:95%", &requests).value, Some(0.01));
    }

    #[test]
    fn tpot_needs_the_servers_count_and_two_tokens() {
        let tokens = |output_tokens| RequestOutcome { output_tokens, ..ok(0.1) };
        let unknown = judge("tpot:p95:1s", &vec![tokens(None); 20]);
        assert_eq!((unknown.value, unknown.holds, unknown.undecided), (None, false, true));
        let mixed = [vec![tokens(Some(1)); 19], vec![tokens(Some(11)); 1]].concat();
        assert_eq!(judge("tpot:p95:1s", &mixed).value, Some(0.1));
    }

    #[test]
    fn goodput_and_errors_count_over_all_attempts() {
        let requests = [ok(0.1), ok(3.0), failed(), ok(0.2)];
        assert_eq!(judge("goodput:rate:50%", &requests).value, Some(0.5));
        assert_eq!(judge("error:rate:20%", &requests).value, Some(0.25));
        assert!(!judge("error:rate:20%", &requests).holds);
    }

    #[test]
    fn nothing_measured_holds_nothing() {
        for slo in ["ttft:p95:2s", "tpot:mean:1s", "itl:p99:1s", "error:rate:1%", "goodput:rate:1%"] {
            assert!(!judge(slo, &[]).holds, "{slo}");
        }
    }
}
