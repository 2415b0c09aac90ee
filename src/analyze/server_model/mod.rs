//! The server as its own counters show it: what its forwards cost, and from that, played through the
//! room `batching`, the load at which the SLO breaks. A second opinion on the capacity that the
//! steps show, from other data and by another way.

mod fit;
mod intervals;
mod predict;

pub use fit::{ForwardCost, Interval, fit};
pub use intervals::{admission, intervals, token_budget};
pub use predict::{Workload, capacity, judge_load};

use super::{Measured, steps};
use crate::batching::{Admission, Deviations, ServerModel};
use crate::measurement::{RequestOutcome, Sample};
use crate::units::{Rate, Replicas, Slo, SloMetric};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};
use serde::Serialize;

/// What is known of a server from elsewhere than its counters.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// `max_new_tokens` as the requests declared it; `None`: the output tokens that they wanted.
    pub declared_output: Option<u32>,
    /// Requests in queue and batch together (`max_concurrent_requests`).
    pub max_concurrent_requests: u32,
    /// Prompt tokens in one prefill (`max_batch_prefill_tokens`).
    pub max_prefill_tokens: u32,
    /// Prompt and output tokens of many requests as they are drawn. Empty: not known.
    pub planned: Vec<(u32, u32)>,
    /// Replicas that will share the load in production.
    pub production: Replicas,
}

impl Default for Known {
    /// TGI's defaults, one replica, and nothing of the requests.
    fn default() -> Known {
        Known {
            declared_output: None,
            max_concurrent_requests: 128,
            max_prefill_tokens: 4096,
            planned: Vec::new(),
            production: Replicas(1),
        }
    }
}

/// The load that one replica alone carries, by its own counters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prediction {
    /// Requests per second at which the first SLO breaks.
    pub capacity: Rate,
    /// The same without a limit of KV tokens, since that limit is known only roughly.
    pub without_limit: Rate,
    /// What forwards cost.
    pub cost: ForwardCost,
    /// Whether requests join a running batch at every step.
    pub chunking: bool,
    /// KV tokens that requests can reserve. `None`: that limit was never seen, so the capacity is one
    /// without it.
    pub token_budget: Option<u32>,
    /// How far the mean decode time of a step lies from the fit, at most, as a share: a server that
    /// changes during the run.
    pub drift: f64,
}

/// Why there is no prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum NoPrediction {
    /// No counters of forwards.
    #[error("the server shows no counters of its forwards")]
    NoCounters,
    /// Too few scrapes, or all at one load.
    #[error("too few scrapes, or all at one load, to tell what a forward costs")]
    NotDetermined,
    /// No latency limit that can be played.
    #[error("no limit on TTFT, TPOT, NTPOT or E2E to predict by")]
    NoLimit,
    /// The limits are not met at any load, or at every load tried.
    #[error("the fitted server breaks the SLO at no load, or at every load")]
    NotEnclosed,
}

/// Fewer intervals than this are not fitted.
const LEAST_INTERVALS: usize = 40;
/// Requests that are played at each rate.
const PLAYED: usize = 20_000;
/// Of these, not judged.
const WARM_UP: usize = 200;
/// Largest factor between the rate measured and the rates tried.
const REACH: f64 = 64.0;

/// Fits the server to a run and predicts its capacity. The same run gives the same prediction. Limits
/// on ITL take no part, since single gaps are not played.
///
/// # Errors
/// What is missing for it.
pub fn predict(measured: &Measured, slos: &[Slo], known: &Known) -> Result<Prediction, NoPrediction> {
    let playable = |slo: &&Slo| !matches!(slo.metric, SloMetric::Itl);
    let slos: Vec<Slo> = slos.iter().filter(playable).copied().collect();
    if !slos.iter().any(|slo| slo.latency_limit().is_some()) {
        return Err(NoPrediction::NoLimit);
    }
    let tracks = super::gauges::tracks(measured);
    let all: Vec<Interval> = tracks.iter().flat_map(|track| intervals_of(&track.samples, measured)).collect();
    let samples: Vec<&Sample> = tracks.iter().flat_map(|track| &track.samples).copied().collect();
    let admission = admission(&samples).ok_or(NoPrediction::NoCounters)?;
    if all.len() < LEAST_INTERVALS {
        return Err(NoPrediction::NotDetermined);
    }
    let cost = fit(&all, &admission).ok_or(NoPrediction::NotDetermined)?;
    let model = ServerModel {
        prefill_base: cost.prefill_base,
        prefill_per_token: cost.prefill_per_token,
        decode_base: cost.decode_base,
        decode_per_sequence: cost.decode_per_sequence,
        overhead: cost.overhead,
        token_budget: u32::MAX,
        max_prefill_tokens: known.max_prefill_tokens,
        max_concurrent_requests: known.max_concurrent_requests,
        max_batch_size: None,
        admission,
        prefill_per_sequence: None,
        decode_table: None,
        deviations: Deviations::default(),
    };
    let workload = workload(measured.requests, known.declared_output).ok_or(NoPrediction::NotDetermined)?;
    let reservation = |(input, output): &(u32, u32)| {
        f64::from(ServerModel::reservation(*input, known.declared_output.unwrap_or(*output)))
    };
    let token_budget = token_budget(&samples, mean(workload.sizes.iter().map(reservation)));
    let chunking = matches!(admission, Admission::Chunking);
    let without_limit = enclose(&model, &workload, &slos).ok_or(NoPrediction::NotEnclosed)?;
    let capacity = match token_budget {
        None => without_limit,
        Some(token_budget) => enclose(&ServerModel { token_budget, ..model.clone() }, &workload, &slos)
            .ok_or(NoPrediction::NotEnclosed)?,
    };
    Ok(Prediction {
        capacity,
        without_limit,
        cost,
        chunking,
        token_budget,
        drift: drift(&all, measured, &cost, chunking),
    })
}

/// The intervals of one replica. Which replica served a request is not known, so with several each is
/// taken to prefill its share of the prompts.
fn intervals_of(samples: &[&Sample], measured: &Measured) -> Vec<Interval> {
    let requests: Vec<&RequestOutcome> = measured.requests.iter().filter(|r| r.is_ok()).collect();
    let mut found = intervals(samples, &requests);
    if measured.replicas.0 > 1 {
        let mean_input = mean(requests.iter().filter_map(|r| r.input_tokens).map(f64::from));
        for interval in &mut found {
            interval.input_tokens = interval.joins * mean_input;
        }
    }
    found
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0.0, 0.0), |(n, sum), value| (n + 1.0, sum + value));
    if n > 0.0 { sum / n } else { 0.0 }
}

/// Poisson arrivals of requests drawn from those that were measured.
fn workload(requests: &[RequestOutcome], declared_output: Option<u32>) -> Option<Workload> {
    let size = |r: &RequestOutcome| Some((r.input_tokens?, r.output_tokens?.max(1)));
    let sizes: Vec<(u32, u32)> = requests.iter().filter(|r| r.is_ok()).filter_map(size).collect();
    if sizes.is_empty() {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut time = 0.0;
    let mut arrivals = Vec::with_capacity(PLAYED);
    let mut drawn = Vec::with_capacity(PLAYED);
    for _ in 0..PLAYED {
        time += <Exp1 as Distribution<f64>>::sample(&Exp1, &mut rng);
        arrivals.push(time);
        drawn.push(sizes[rng.random_range(0..sizes.len())]);
    }
    Some(Workload { arrivals, sizes: drawn, declared_output, warm_up: WARM_UP })
}

/// Doubles or halves a rate until the capacity is enclosed, then finds it.
fn enclose(model: &ServerModel, workload: &Workload, slos: &[Slo]) -> Option<Rate> {
    let holds = |rate| judge_load(model, workload, Rate(rate), slos).iter().all(|check| check.holds);
    // A request alone takes about this long; a batch of them carries several times its inverse.
    let (_, output) = workload.sizes[0];
    let start = 1.0 / (model.prefill_base.0 + model.decode_base.0 * f64::from(output)).max(1e-6);
    let mut rate = start;
    if holds(rate) {
        while rate < start * REACH {
            if !holds(rate * 2.0) {
                return capacity(model, workload, slos, (Rate(rate), Rate(rate * 2.0)));
            }
            rate *= 2.0;
        }
    } else {
        while rate > start / REACH {
            if holds(rate / 2.0) {
                return capacity(model, workload, slos, (Rate(rate / 2.0), Rate(rate)));
            }
            rate /= 2.0;
        }
    }
    None
}

/// How far each step's mean decode time lies from what the fit says for its batches.
fn drift(all: &[Interval], measured: &Measured, cost: &ForwardCost, chunking: bool) -> f64 {
    let of_step = |mark: crate::measurement::StepMark| {
        let inside = all.iter().filter(|interval| (mark.start.0..mark.end.0).contains(&interval.end.0));
        let (mut seen, mut fitted) = (0.0, 0.0);
        for interval in inside {
            let batch = interval.mean_batch(chunking).unwrap_or(0.0);
            seen += interval.decode_seconds;
            fitted += interval.decodes * (cost.decode_base.0 + cost.decode_per_sequence.0 * batch);
        }
        if fitted > 0.0 { (seen / fitted - 1.0).abs() } else { 0.0 }
    };
    steps::driven(measured.events).into_iter().map(|(mark, _)| of_step(mark)).fold(0.0, f64::max)
}
