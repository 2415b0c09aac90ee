//! What an analysis says.

use super::server_model::{NoPrediction, Prediction};
use super::surface::Surface;
use crate::measurement::{FailureKind, StepMark};
use crate::units::{Rate, Replicas, Seconds, Slo};
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything derived from one recorded run.
#[derive(Debug, Clone, Serialize)]
pub struct Analysis {
    /// The limits that the steps were judged by.
    pub slos: Vec<Slo>,
    /// The number of replicas that shared the load.
    pub replicas: Replicas,
    /// The number that shares it in production.
    pub production: Replicas,
    /// The steps in the order they were driven.
    pub steps: Vec<StepAnalysis>,
    /// Whether the measurement can be believed.
    pub validity: Validity,
    /// How late an HPA sees what the server shows, for each way that was read beside the direct scrape.
    pub lags: Vec<super::lag::Lag>,
    /// The server by its own counters, or why there is none.
    pub prediction: Result<Prediction, NoPrediction>,
    /// The load that the SLO allows, or why it is not known.
    pub capacity: Result<Capacity, NoCapacity>,
    /// How the metrics of a replica follow its load.
    pub surface: Surface,
    /// The whole run second by second, for plots.
    pub timeline: Vec<TimelinePoint>,
}

/// One step, judged over its measured part: requests scheduled in it, samples taken in it.
#[derive(Debug, Clone, Serialize)]
pub struct StepAnalysis {
    /// Its load and boundaries.
    pub mark: StepMark,
    /// Requests scheduled in the measured part.
    pub attempts: usize,
    /// Requests of the whole step that were dispatched and whose outcome is not in the record: the run
    /// was killed before they ended.
    pub lost: usize,
    /// Of the attempts, the successful ones.
    pub succeeded: usize,
    /// Of these, the failed ones by kind.
    pub failures: BTreeMap<FailureKind, usize>,
    /// Arrivals scheduled in the measured part over its length.
    pub offered: Rate,
    /// Successful completions inside the measured part (whenever scheduled) over its length.
    pub achieved: Rate,
    /// Output tokens per second of those completions, by the server's count.
    pub output_tokens_per_second: f64,
    /// Mean number of requests in flight at the client during the measured part.
    pub in_flight: f64,
    /// Time to first token of successful requests.
    pub ttft: Option<LatencySummary>,
    /// Time per output token of successful requests.
    pub tpot: Option<LatencySummary>,
    /// Single gaps between token events.
    pub itl: Option<LatencySummary>,
    /// End-to-end latency of successful requests.
    pub e2e: Option<LatencySummary>,
    /// E2E over output tokens of successful requests.
    pub ntpot: Option<LatencySummary>,
    /// `sent - scheduled` of all sent requests.
    pub schedule_delay: Option<LatencySummary>,
    /// Requests within every latency limit over all attempts, 0 to 1. `None`: no attempts.
    pub goodput: Option<f64>,
    /// Queue size per replica.
    pub queue: Option<GaugeSummary>,
    /// Batch size per replica.
    pub batch: Option<GaugeSummary>,
    /// GPU utilization per replica, percent.
    pub gpu: Option<GaugeSummary>,
    /// Each SLO and its figure in this step.
    pub checks: Vec<SloCheck>,
    /// Whether the step reached a steady state.
    pub steady: Steadiness,
}

impl StepAnalysis {
    /// The load that the step put on each of `replicas`: what arrived in the measured part of an open loop.
    /// In a closed loop arrivals follow completions, so it is what was completed.
    pub fn carried(&self, replicas: Replicas) -> Rate {
        let total = if self.mark.load.is_open_loop() { self.offered } else { self.achieved };
        Rate(total.0 / f64::from(replicas.0.max(1)))
    }

    /// Whether every SLO holds in this step. A step that cannot be judged does not hold.
    pub fn holds(&self) -> bool {
        self.is_judged() && self.checks.iter().all(|check| check.holds)
    }

    /// Whether there is a verdict on this step: it has attempts, the outcomes of all of them, and
    /// either a limit that surely broke or no limit that is open.
    pub fn is_judged(&self) -> bool {
        let broke = self.checks.iter().any(|check| !check.holds && !check.undecided);
        self.attempts > 0 && self.lost == 0 && (broke || self.checks.iter().all(|check| !check.undecided))
    }
}

/// Whether in-flight requests stayed level during a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Steadiness {
    /// Completions kept up with arrivals.
    Steady,
    /// In-flight requests grew: the step is past what the server sustains.
    Growing {
        /// Requests in flight at the end of the measured part less those at its start.
        by: f64,
    },
    /// Too few requests to say.
    Unknown,
}

/// One SLO in one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SloCheck {
    /// The limit.
    pub slo: Slo,
    /// The figure, in seconds or as a share from 0 to 1. `None`: infinitely late, since too many
    /// attempts failed, or nothing to compute it from.
    pub value: Option<f64>,
    /// Whether the limit is kept.
    pub holds: bool,
    /// Whether nobody can tell: requests that the end of the run cut off could turn the verdict, or the
    /// server does not say what the figure needs.
    pub undecided: bool,
}

/// A distribution of latencies, exact over its n values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencySummary {
    /// How many values.
    pub n: u64,
    /// Mean.
    pub mean: Seconds,
    /// Median.
    pub p50: Seconds,
    /// 90th percentile.
    pub p90: Seconds,
    /// 95th percentile.
    pub p95: Seconds,
    /// 99th percentile.
    pub p99: Seconds,
    /// Largest.
    pub max: Seconds,
}

/// A gauge over the measured part of a step: per replica, mean over time and replicas.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GaugeSummary {
    /// How many samples.
    pub n: u64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of single samples.
    pub std: f64,
    /// Standard error of the mean, with n reduced for autocorrelation. `None` below two samples.
    pub standard_error: Option<f64>,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

/// The load within the SLO, per replica.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capacity {
    /// Requests per second and replica at which the first SLO is reached.
    pub per_replica: Rate,
    /// Lower end of the interval.
    pub low: Rate,
    /// Upper end of the interval.
    pub high: Rate,
    /// How it was found, which is also what the interval means.
    pub method: Method,
    /// Replicas that share the load: several share peaks, so that each carries somewhat more.
    pub replicas: Replicas,
    /// The SLO that breaks first.
    pub limited_by: Slo,
    /// The two measured loads around the limit, where the ramp enclosed it.
    pub bracket: Option<Bracket>,
}

/// Ways to a capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The server as its own counters show it, played at the production replica count. 90 % interval.
    ServerModel,
    /// A logistic fit over all requests of all steps. 90 % interval.
    Logistic,
    /// A straight line between the last step that holds and the first that fails; these two are the
    /// interval.
    Interpolation,
}

/// The last measured load that holds and the first that fails, per replica.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bracket {
    /// The largest measured load that holds, below any that fails.
    pub holds_at: Rate,
    /// The smallest measured load above it that fails.
    pub fails_at: Rate,
    /// Index into `steps` of the step that holds.
    pub lower_step: usize,
    /// Index into `steps` of the step that fails.
    pub upper_step: usize,
}

/// Why no capacity is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum NoCapacity {
    /// Every step held.
    #[error("the ramp never reached the limit: every step holds the SLO")]
    NeverReached,
    /// No step held.
    #[error("the SLO was never met: it fails even at the lowest load")]
    NeverMet,
    /// Fewer than two measured steps.
    #[error("too few measured steps to find where the SLO breaks")]
    TooFewSteps,
    /// The fitted server keeps the SLO at every load that can be tried, or at none.
    #[error("the SLO is met at every load that the server can be given, or at none")]
    NoLoadOrEveryLoad,
    /// No step reached a steady state.
    #[error("no step reached a steady state: requests in flight kept growing in all of them")]
    NoSteadyState,
    /// The measurement is invalid.
    #[error("the measurement is invalid, so nothing is derived from it")]
    Invalid,
}

/// Whether a measurement can be believed, with the figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Validity {
    /// The verdict over all checks: the worst of them.
    pub verdict: Verdict,
    /// The single checks.
    pub checks: Vec<ValidityCheck>,
}

/// A verdict on a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing against it.
    Valid,
    /// Usable, but the remark must be known.
    Remark,
    /// Not usable.
    Invalid,
}

/// One aspect of validity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValidityCheck {
    /// What was checked.
    pub name: &'static str,
    /// Its verdict.
    pub verdict: Verdict,
    /// The figures, in words.
    pub detail: String,
}

/// One second of the run; means over that second, per replica where the server is meant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TimelinePoint {
    /// The middle of the second.
    pub time: Seconds,
    /// Arrivals scheduled in it.
    pub offered: Rate,
    /// Successful completions in it.
    pub completed: Rate,
    /// Requests in flight at the client.
    pub in_flight: f64,
    /// Queue size per replica.
    pub queue: Option<f64>,
    /// Batch size per replica.
    pub batch: Option<f64>,
    /// GPU utilization per replica, percent.
    pub gpu: Option<f64>,
    /// Median TTFT of the requests scheduled in it that succeeded.
    pub ttft_p50: Option<Seconds>,
}
