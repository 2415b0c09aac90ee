//! The server as its own counters show it: what its forwards cost, and from that, played through the
//! room `batching`, the load at which the SLO breaks. A few minutes of counters tell the capacity more
//! exactly than an hour of client latencies, since the means of counters hardly scatter.

mod curves;
mod dispersion;
mod drift;
mod fit;
mod intervals;
mod other_limits;
mod play;
mod shape;
mod uncertainty;

pub use curves::Curves;
pub use dispersion::Dispersion;
pub use drift::{Change, Drift};
pub use fit::{ForwardCost, Interval, fit};
pub use intervals::{admission, intervals, token_budget};
pub use other_limits::capacity_under;
pub use play::{Played, Workload, capacity, play};
pub use shape::{StepTime, step_time};
pub use uncertainty::{Share, Uncertainty};

use super::gauges::Track;
use super::{Measured, gauges, steps};
use crate::batching::{Admission, Deviations, ServerModel};
use crate::measurement::{RequestOutcome, Sample, Series, StepMark};
use crate::units::{Rate, Replicas, Seconds, Slo, SloMetric};
use serde::Serialize;
use std::collections::BTreeSet;

impl Fitted {
    /// Mean batch and mean seconds of a decode between each two scrapes.
    fn decodes(&self) -> Vec<(f64, f64)> {
        let chunking = matches!(self.model.admission, Admission::Chunking);
        let of = |interval: &Interval| {
            let batch = interval.mean_batch(chunking).filter(|batch| *batch > 0.0)?;
            (interval.decodes > 0.0).then(|| (batch, interval.decode_seconds / interval.decodes))
        };
        self.rounds.iter().flatten().filter_map(of).collect()
    }
}

/// What is known of a server from elsewhere than its counters.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// `max_new_tokens` as the requests declared it; `None`: the output tokens that they wanted.
    pub declared_output: Option<u32>,
    /// Requests in queue and batch together (`max_concurrent_requests`).
    pub max_concurrent_requests: u32,
    /// Prompt tokens in one prefill (`max_batch_prefill_tokens`).
    pub max_prefill_tokens: u32,
    /// KV tokens that may be reserved (`max_batch_total_tokens`). `None`: it does not say.
    pub token_budget: Option<u32>,
    /// Prompt and output tokens of many requests as they are drawn. Empty: not known, and those that were
    /// measured stand for them.
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
            token_budget: None,
            planned: Vec::new(),
            production: Replicas(1),
        }
    }
}

/// The server as the counters of a run show it; nothing is played yet.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// A server of the fitted costs and limits.
    pub model: ServerModel,
    /// Its costs on a straight line.
    pub cost: ForwardCost,
    /// KV tokens that requests can reserve: as the server says, or as seen. `None`: that limit was never
    /// reached.
    pub token_budget: Option<u32>,
    /// The most KV tokens that were seen reserved, and a mean request's more: a limit that was not reached
    /// may lie as low as this.
    least_budget: Option<u32>,
    /// How steady the server was.
    pub drift: Drift,
    /// What the costs rest on, brought to the level that the server had last, in rounds.
    rounds: Vec<Vec<Interval>>,
}

/// The load that each replica carries within the SLO, by the server's own counters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Requests per second and replica at which the first SLO breaks, with `production` replicas.
    pub capacity: Rate,
    /// Lower end of its 90 % interval.
    pub low: Rate,
    /// Upper end of its 90 % interval.
    pub high: Rate,
    /// What the interval is made of.
    pub uncertainty: Uncertainty,
    /// Replicas that share the load.
    pub production: Replicas,
    /// The SLO that breaks first.
    pub limited_by: Slo,
    /// What forwards cost, on a straight line.
    pub cost: ForwardCost,
    /// Whether requests join a running batch at every step.
    pub chunking: bool,
    /// KV tokens that requests can reserve. `None`: that limit was never seen, so the capacity is one
    /// without it.
    pub token_budget: Option<u32>,
    /// How steady the server was.
    pub drift: Drift,
    /// The largest batch that requests like these fit into: by the KV limit where one is known, else by the
    /// number of requests that the server takes.
    pub batch_cap: f64,
    /// Asymptotic rate of a replica, 1 / (p' + (L - 1) b), and half-saturation concurrency
    /// K = (L - 1) a / (p' + (L - 1) b), of the closed form with L output tokens.
    pub asymptote: Rate,
    /// K, requests.
    pub half_saturation: f64,
    /// How the measured steps come out when their arrivals are played through the fitted server.
    pub agreement: Vec<Agreement>,
    /// Whether requests in flight scatter as those of independent users, in the steps long enough to tell.
    pub dispersion: Vec<Dispersion>,
    /// Curves of the fitted server against the load of a replica.
    #[serde(skip)]
    pub curves: Curves,
    /// Mean batch and mean seconds of a decode between each two scrapes.
    #[serde(skip)]
    pub decodes: Vec<(f64, f64)>,
    /// The fitted server.
    #[serde(skip)]
    pub model: ServerModel,
    /// What it was played with.
    #[serde(skip)]
    pub workload: Workload,
}

/// A measured step beside the same arrivals played through the fitted server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Number of the step in the record.
    pub step: u32,
    /// Requests per second and replica.
    pub load: Rate,
    /// Requests judged.
    pub n: usize,
    /// Share of them that broke a limit, 0 to 1.
    pub measured: f64,
    /// The same of the played ones.
    pub played: f64,
    /// The limit that the played figures are closest to.
    pub nearest: Slo,
    /// Its figure as played, in seconds. `None`: infinitely late.
    pub figure_played: Option<f64>,
    /// Of the figure closest to its limit: measured over played, less one. `None`: not both are known.
    pub figure_off: Option<f64>,
}

/// A prediction as far as a search needs it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Requests per second and replica at which the first SLO breaks.
    pub capacity: Rate,
    /// How far the steps lie from one common server, as a share of the length of a decode; a change of the
    /// server during the last step counts too.
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
    /// Only what clients saw was wanted.
    #[error("the server's counters were not asked")]
    NotAsked,
}

/// Fewer intervals than this are not fitted.
const LEAST_INTERVALS: usize = 20;
/// Requests that are played at each rate: to find where to look, while a search goes on, and for the result, which
/// chance in the arrivals still moves by 0.3 to 0.4 % (standard error of the servers of `calibrate study`).
const PLAYED_ROUGHLY: usize = 2_000;
const PLAYED_IN_SEARCH: usize = 10_000;
const PLAYED: usize = 160_000;
/// What a figure without end on one side alone counts as: twice the other.
const ENDLESS: f64 = 1.0;
/// Largest factor between the first guess of the capacity and the rates tried.
const REACH: f64 = 256.0;

/// The limits that can be played: single gaps between tokens are not.
fn playable(slos: &[Slo]) -> Result<Vec<Slo>, NoPrediction> {
    let slos: Vec<Slo> = slos.iter().filter(|slo| !matches!(slo.metric, SloMetric::Itl)).copied().collect();
    if slos.iter().any(|slo| slo.latency_limit().is_some()) { Ok(slos) } else { Err(NoPrediction::NoLimit) }
}

/// Fits a server to the counters of a run.
///
/// # Errors
/// What is missing for it.
pub fn fit_server(measured: &Measured, known: &Known) -> Result<Fitted, NoPrediction> {
    let tracks = gauges::tracks(measured);
    let samples: Vec<&Sample> = tracks.iter().flat_map(|track| &track.samples).copied().collect();
    let admission = admission(&samples).ok_or(NoPrediction::NoCounters)?;
    let chunking = matches!(admission, Admission::Chunking);
    let (mut all, scraped) = intervals_of(&tracks, measured);
    if all.len() < LEAST_INTERVALS {
        return Err(NoPrediction::NotDetermined);
    }
    let changes = drift::level(&mut all, chunking);
    let rounds = rounds(&all, scraped);
    let reservation = |(input, output): (u32, u32)| {
        f64::from(ServerModel::reservation(input, known.declared_output.unwrap_or(output)))
    };
    let mean_reservation = mean(sizes(measured, known).into_iter().map(reservation));
    let token_budget = known.token_budget.or_else(|| token_budget(&samples, &admission, mean_reservation));
    let slices: Vec<&[Interval]> = rounds.iter().map(Vec::as_slice).collect();
    let (model, cost) =
        fit_model(&slices, admission, known, token_budget).ok_or(NoPrediction::NotDetermined)?;
    let marks: Vec<StepMark> = steps::driven(measured.events).into_iter().map(|(mark, _)| mark).collect();
    let (prefills, prefill_scatter) = drift::of_prefills(&rounds, &marks, &model, chunking);
    let steps = drift::of_steps(&all, &marks, &model, chunking);
    let drift = Drift { steps, prefills, prefill_scatter, changes };
    let most = samples.iter().filter_map(|s| s.get(Series::BatchTokens)).reduce(f64::max);
    let least_budget = most.map(|most| most as u32);
    Ok(Fitted { model, cost, token_budget, least_budget, drift, rounds })
}

/// The server whose forwards cost what the rounds say, and those costs on a straight line. `None` where they
/// do not determine them.
pub fn fit_model(
    rounds: &[&[Interval]],
    admission: Admission,
    known: &Known,
    token_budget: Option<u32>,
) -> Option<(ServerModel, ForwardCost)> {
    let chunking = matches!(admission, Admission::Chunking);
    let cost = fit(rounds.iter().copied(), &admission)?;
    let step = step_time(rounds.iter().copied().flatten(), chunking, &cost);
    let mut model = model_of(&cost, admission, known, token_budget);
    if let Some(StepTime { table, straight }) = step {
        model.decode_table = Some(table);
        // Off a straight line a sequence carried along by a prefill costs something else than in a decode.
        if let Some([base, token, sequence]) =
            (chunking && !straight).then(|| fit::fit_prefill(rounds.iter().copied())).flatten()
        {
            (model.prefill_base, model.prefill_per_token) = (base, token);
            model.prefill_per_sequence = Some(sequence);
        }
    }
    Some((model, cost))
}

fn model_of(
    cost: &ForwardCost,
    admission: Admission,
    known: &Known,
    token_budget: Option<u32>,
) -> ServerModel {
    ServerModel {
        prefill_base: cost.prefill_base,
        prefill_per_token: cost.prefill_per_token,
        decode_base: cost.decode_base,
        decode_per_sequence: cost.decode_per_sequence,
        overhead: cost.overhead,
        token_budget: token_budget.unwrap_or(u32::MAX),
        max_prefill_tokens: known.max_prefill_tokens,
        max_concurrent_requests: known.max_concurrent_requests,
        max_batch_size: None,
        admission,
        prefill_per_sequence: None,
        decode_table: None,
        deviations: Deviations::default(),
    }
}

/// The capacity as well as a search needs it.
///
/// # Errors
/// What is missing for it.
pub fn estimate(measured: &Measured, slos: &[Slo], known: &Known) -> Result<Estimate, NoPrediction> {
    let slos = playable(slos)?;
    let fitted = fit_server(measured, known)?;
    let sizes = sizes(measured, known);
    let stages = [PLAYED_ROUGHLY, PLAYED_IN_SEARCH];
    let (capacity, _) = closer_and_closer(&fitted.model, &sizes, &slos, known, &stages)?;
    let last = steps::driven(measured.events).last().map_or(Seconds::ZERO, |(mark, _)| mark.start);
    Ok(Estimate { capacity, drift: fitted.drift.since(last) })
}

/// The capacity by plays of ever more requests, each search beginning where the last one ended; and what the last
/// one was played with.
fn closer_and_closer(
    model: &ServerModel,
    sizes: &[(u32, u32)],
    slos: &[Slo],
    known: &Known,
    stages: &[usize],
) -> Result<(Rate, Workload), NoPrediction> {
    let (mut found, mut reach, mut workload) = (first_guess(model, sizes), REACH, Workload::default());
    for requests in stages {
        workload = Workload::poisson(sizes, *requests, known, 1);
        found = capacity(model, &workload, slos, found, reach).ok_or(NoPrediction::NotEnclosed)?;
        reach = 2.0;
    }
    Ok((found, workload))
}

/// Fits the server to a run and predicts its capacity, with an interval. The same run gives the same
/// prediction. Limits on ITL take no part, since single gaps are not played.
///
/// # Errors
/// What is missing for it.
pub fn predict(measured: &Measured, slos: &[Slo], known: &Known) -> Result<Prediction, NoPrediction> {
    let slos = playable(slos)?;
    let fitted = fit_server(measured, known)?;
    let sizes = sizes(measured, known);
    let stages = [PLAYED_ROUGHLY, PLAYED_IN_SEARCH, PLAYED];
    let (found, workload) = closer_and_closer(&fitted.model, &sizes, &slos, known, &stages)?;
    let at = play(&fitted.model, &workload, found, &slos);
    let limited_by = at
        .checks
        .iter()
        .max_by(|a, b| play::margin(a).total_cmp(&play::margin(b)))
        .map_or(slos[0], |check| check.slo);
    let agreement = agreement(&fitted, measured, &slos, known);
    let uncertainty = uncertainty::of(&fitted, &sizes, &slos, found, known, &agreement);
    let (low, high) = uncertainty.interval(found);
    let (asymptote, half_saturation) = closed_form(&fitted, &sizes);
    Ok(Prediction {
        capacity: found,
        low,
        high,
        uncertainty,
        production: known.production,
        limited_by,
        cost: fitted.cost,
        chunking: matches!(fitted.model.admission, Admission::Chunking),
        token_budget: fitted.token_budget,
        batch_cap: batch_cap(&fitted.model, &sizes, known),
        asymptote,
        half_saturation,
        agreement,
        dispersion: dispersion::of_steps(measured, &slos, half_saturation),
        curves: curves::of(&fitted, &sizes, &slos, found, known),
        decodes: fitted.decodes(),
        drift: fitted.drift,
        model: fitted.model,
        workload,
    })
}

/// The measured open-loop steps, and what their very arrivals do to the fitted server: chance is the same
/// on both sides, so what differs is the model.
fn agreement(fitted: &Fitted, measured: &Measured, slos: &[Slo], known: &Known) -> Vec<Agreement> {
    let driven = steps::driven(measured.events);
    let of_step = |mark: StepMark| {
        let step = steps::analyze_step((mark, None), measured, slos);
        if !mark.load.is_open_loop() || !step.is_judged() {
            return None;
        }
        let workload = Workload::replay(measured, &step.mark, known)?;
        let played = play(&fitted.model, &workload, Rate(1.0 / f64::from(measured.replicas.0.max(1))), slos);
        let nearest = played
            .checks
            .iter()
            .zip(&step.checks)
            .filter(|(played, _)| played.slo.latency_limit().is_some())
            .max_by(|a, b| play::margin(a.0).total_cmp(&play::margin(b.0)))?;
        Some(Agreement {
            step: mark.index,
            load: step.carried(measured.replicas),
            n: step.attempts,
            measured: 1.0 - step.goodput?,
            played: played.violations,
            nearest: nearest.0.slo,
            figure_played: nearest.0.value,
            figure_off: match (nearest.1.value, nearest.0.value) {
                (Some(measured), Some(played)) => Some(measured / played - 1.0),
                // Without end: so many requests failed.
                (None, Some(_)) => Some(ENDLESS),
                (Some(_), None) => Some(-ENDLESS / (1.0 + ENDLESS)),
                (None, None) => None,
            },
        })
    };
    driven.into_iter().filter_map(|(mark, _)| of_step(mark)).collect()
}

/// Prompt and output tokens of the requests: as they are drawn, else as they were measured.
fn sizes(measured: &Measured, known: &Known) -> Vec<(u32, u32)> {
    let size = |r: &RequestOutcome| Some((r.input_tokens?, r.output_tokens?.max(1)));
    let seen: Vec<(u32, u32)> = measured.requests.iter().filter(|r| r.is_ok()).filter_map(size).collect();
    let agree = |of: fn(&(u32, u32)) -> f64| {
        let (planned, found) = (mean(known.planned.iter().map(of)), mean(seen.iter().map(of)));
        let deviation = mean(seen.iter().map(|size| (of(size) - found).powi(2))).sqrt();
        (found - planned).abs() <= 3.0 * deviation / (seen.len() as f64).sqrt() + 0.5
    };
    // Servers count tokens of their own, and answers may end before their declared length.
    let as_planned = agree(|size| f64::from(size.0)) && agree(|size| f64::from(size.1));
    if as_planned && !known.planned.is_empty() || seen.is_empty() { known.planned.clone() } else { seen }
}

/// A request alone takes about so long; a batch of them carries several times its inverse.
fn first_guess(model: &ServerModel, sizes: &[(u32, u32)]) -> Rate {
    let output = mean(sizes.iter().map(|(_, output)| f64::from(*output)));
    Rate(3.0 / (model.prefill_base.0 + model.decode_base.0 * output).max(1e-6))
}

/// The largest batch that requests of these sizes fit into, on average.
fn batch_cap(model: &ServerModel, sizes: &[(u32, u32)], known: &Known) -> f64 {
    let reserved = sizes.iter().map(|(input, output)| {
        f64::from(ServerModel::reservation(*input, known.declared_output.unwrap_or(*output)))
    });
    // Those that are in the batch for longer weigh more.
    let weights = sizes.iter().map(|(_, output)| f64::from(*output));
    let (mut sum, mut weight) = (0.0, 0.0);
    for (reserved, output) in reserved.zip(weights) {
        sum += reserved * output;
        weight += output;
    }
    let by_budget =
        (model.token_budget < u32::MAX && sum > 0.0).then(|| f64::from(model.usable_budget()) * weight / sum);
    let by_requests = f64::from(model.max_concurrent_requests);
    by_budget.map_or(by_requests, |by_budget| by_budget.min(by_requests))
}

/// Asymptotic rate and half-saturation concurrency by the closed form with measured joins per prefill.
fn closed_form(fitted: &Fitted, sizes: &[(u32, u32)]) -> (Rate, f64) {
    let sum = |of: fn(&Interval) -> f64| fitted.rounds.iter().flatten().map(of).sum::<f64>();
    let joins = (sum(|i| i.joins) / sum(|i| i.prefills).max(1.0)).max(1.0);
    let input = mean(sizes.iter().map(|(input, _)| f64::from(*input)));
    let output = mean(sizes.iter().map(|(_, output)| f64::from(*output)));
    let cost = &fitted.cost;
    let gap = cost.overhead.0;
    let (decode, prefill) = (cost.decode_base.0 + gap, cost.prefill_base.0 + gap);
    // With chunking a prefill stands in for a decode of those that it carries along.
    let carried = if matches!(fitted.model.admission, Admission::Chunking) { decode } else { 0.0 };
    let per_request = (prefill - carried) / joins + cost.prefill_per_token.0 * input;
    let rate = 1.0 / (per_request + (output - 1.0) * cost.decode_per_sequence.0).max(1e-9);
    (Rate(rate), (output - 1.0) * decode * rate)
}

/// The intervals of all replicas in the order of time, and how many replicas were scraped. Where not all
/// were, each is taken to prefill prompts of mean length.
fn intervals_of(tracks: &[Track], measured: &Measured) -> (Vec<Interval>, usize) {
    let requests: Vec<&RequestOutcome> = measured.requests.iter().filter(|r| r.is_ok()).collect();
    let scraped = tracks.iter().map(|track| track.replica).collect::<BTreeSet<_>>().len();
    let mut all: Vec<Interval> =
        tracks.iter().flat_map(|track| intervals(&track.samples, &requests)).collect();
    all.sort_by(|a, b| a.end.0.total_cmp(&b.end.0));
    if scraped == measured.replicas.0 as usize {
        return (all, scraped);
    }
    let mean_input = mean(requests.iter().filter_map(|r| r.input_tokens).map(f64::from));
    for interval in &mut all {
        interval.input_tokens = interval.joins * mean_input;
    }
    (all, 1)
}

/// Intervals of so many replicas that end at the same moment, give or take half their length, together. One
/// whose companions are missing is left out.
fn rounds(all: &[Interval], replicas: usize) -> Vec<Vec<Interval>> {
    let mut rounds: Vec<Vec<Interval>> = Vec::with_capacity(all.len() / replicas.max(1));
    for interval in all {
        match rounds.last_mut() {
            Some(round)
                if round.len() < replicas && (interval.end - round[0].end).0 < round[0].length.0 / 2.0 =>
            {
                round.push(*interval);
            }
            _ => rounds.push(vec![*interval]),
        }
    }
    rounds.retain(|round| round.len() == replicas);
    rounds
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0.0, 0.0), |(n, sum), value| (n + 1.0, sum + value));
    if n > 0.0 { sum / n } else { 0.0 }
}
