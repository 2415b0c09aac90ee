//! SLOs against the requests of one step. A failed attempt is infinitely late.

use super::latency::{nearest_rank, sorted};
use super::{LatencySummary, SloCheck};
use crate::measurement::RequestOutcome;
use crate::units::{Limit, Seconds, Slo, SloMetric, Stat};

/// The latency of a request that a metric means. `None`: the request failed, or has none.
fn latency(request: &RequestOutcome, metric: SloMetric) -> Option<Seconds> {
    match metric {
        SloMetric::Ttft => request.ttft(),
        SloMetric::Tpot => request.tpot(),
        SloMetric::E2e => request.e2e(),
        SloMetric::Ntpot => request.ntpot(),
        SloMetric::Itl | SloMetric::Error | SloMetric::Goodput => None,
    }
    .filter(|_| request.is_ok())
}

/// Judges one SLO. `gaps` summarizes the step's inter-token latencies.
pub(super) fn check(
    slo: Slo,
    attempts: &[&RequestOutcome],
    gaps: Option<&GapFigures>,
    all: &[Slo],
) -> SloCheck {
    let value = match (slo.metric, slo.stat) {
        (SloMetric::Error, _) => failed_share(attempts),
        (SloMetric::Goodput, _) => goodput(attempts, all),
        (SloMetric::Itl, Stat::Percentile(percent)) => gaps.map(|gaps| (gaps.at)(percent).0),
        (SloMetric::Itl, _) => gaps.map(|gaps| gaps.summary.mean.0),
        (metric, Stat::Percentile(percent)) => {
            let values = sorted(attempts.iter().filter_map(|request| latency(request, metric)));
            let failed = attempts.iter().filter(|request| !request.is_ok()).count();
            nearest_rank(&values, values.len() + failed, percent)
        }
        (metric, _) => {
            let values: Vec<f64> = attempts.iter().filter_map(|r| latency(r, metric)).map(|s| s.0).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        }
    };
    SloCheck { slo, value, holds: value.is_some_and(|value| within(value, slo.limit)) }
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

fn failed_share(attempts: &[&RequestOutcome]) -> Option<f64> {
    let failed = attempts.iter().filter(|request| !request.is_ok()).count();
    (!attempts.is_empty()).then(|| failed as f64 / attempts.len() as f64)
}

/// Requests within every latency limit over all attempts. A limit on ITL is a limit on single
/// gaps and not on requests, so it takes no part; a request of one token has no TPOT to exceed.
pub(super) fn goodput(attempts: &[&RequestOutcome], slos: &[Slo]) -> Option<f64> {
    let good = |request: &&&RequestOutcome| {
        request.is_ok()
            && slos.iter().all(|slo| match slo.limit {
                Limit::AtMost(limit) => latency(request, slo.metric).is_none_or(|value| value <= limit),
                _ => true,
            })
    };
    (!attempts.is_empty()).then(|| attempts.iter().filter(good).count() as f64 / attempts.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::{FailureKind, Phase};

    fn request(ttft: f64, ok: bool) -> RequestOutcome {
        RequestOutcome {
            id: 0,
            step: 0,
            phase: Phase::Hold,
            scheduled: Seconds(0.0),
            sent: Some(Seconds(0.0)),
            first_token: Some(Seconds(ttft)),
            last_token: Some(Seconds(ttft + 1.0)),
            ended: None,
            input_tokens: Some(10),
            output_tokens: Some(11),
            chunks: 11,
            status: Some(200),
            error: (!ok).then_some(FailureKind::StreamError),
            replica: None,
        }
    }

    fn judge(slo: &str, requests: &[RequestOutcome]) -> SloCheck {
        let slo: Slo = slo.parse().unwrap();
        let others: Slo = "ttft:p95:2s".parse().unwrap();
        check(slo, &requests.iter().collect::<Vec<_>>(), None, &[slo, others])
    }

    #[test]
    fn failures_break_a_percentile_once_they_reach_its_rank() {
        let mut requests = vec![request(0.1, true); 95];
        requests.extend(vec![request(0.1, false); 5]);
        assert!(judge("ttft:p95:2s", &requests).holds);
        requests.push(request(0.1, false));
        let check = judge("ttft:p95:2s", &requests);
        assert_eq!((check.value, check.holds), (None, false));
    }

    #[test]
    fn goodput_and_errors_count_over_all_attempts() {
        let requests = [request(0.1, true), request(3.0, true), request(0.1, false), request(0.2, true)];
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
