//! A fitted server played under load: latencies, gauges, and the load at which the SLO breaks.

use super::super::types::SloCheck;
use super::super::{Measured, slo};
use crate::batching::{Completed, Job, Pool, Server, ServerModel};
use crate::measurement::{FailureKind, Phase, RequestOutcome, StepMark};
use crate::units::{Limit, Rate, Replicas, Seconds, Slo};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

/// What servers are played with. Arrivals and sizes are the same at every rate, only stretched, so that
/// a comparison of two rates, or of two servers, is not led astray by chance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workload {
    /// Arrival times at a rate of one a second in all, in order.
    pub arrivals: Vec<f64>,
    /// Prompt tokens and output tokens of each arrival.
    pub sizes: Vec<(u32, u32)>,
    /// `max_new_tokens` as declared; `None`: the output tokens.
    pub declared_output: Option<u32>,
    /// Arrivals at the start that are played but not judged.
    pub warm_up: usize,
    /// Replicas that share them.
    pub replicas: Replicas,
}

/// How a load came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Played {
    /// The limits, judged as those of a measured step are.
    pub checks: Vec<SloCheck>,
    /// Share of requests that break a latency limit or fail.
    pub violations: f64,
    /// Mean of the batch gauge per replica.
    pub batch: f64,
    /// Mean of the queue gauge per replica.
    pub queue: f64,
    /// Mean number of requests in flight per replica: counted, so with those that no gauge shows.
    pub in_flight: f64,
    /// Mean of the reserved KV tokens per replica.
    pub batch_tokens: f64,
}

/// How long before a step its replay begins, so that it meets the load that the step met.
const LEAD: Seconds = Seconds(120.0);
/// Share of the arrivals that only warm up, and how often the gauges are read over the whole.
const WARM_UP_SHARE: f64 = 0.02;
const READINGS: f64 = 4000.0;
/// The precision of the search, as a share of the capacity.
const PRECISION: f64 = 5e-4;
/// The margin of a limit that is missed without end.
const HOPELESS: f64 = 3.0;

impl Workload {
    /// `n` Poisson arrivals of requests drawn evenly from `sizes`, at least one.
    ///
    /// Their mean rate is exactly one a second and their sizes have the mean of `sizes`: the chance that
    /// a real stretch of this length has more load than another is taken out, since it is what makes
    /// short measurements so noisy (standard error of a load: sqrt((1 + CV^2) / n)).
    pub fn poisson(sizes: &[(u32, u32)], n: usize, known: &super::Known, seed: u64) -> Workload {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut time = 0.0;
        let mut arrivals: Vec<f64> = (0..n)
            .map(|_| {
                time += <Exp1 as Distribution<f64>>::sample(&Exp1, &mut rng);
                time
            })
            .collect();
        for arrival in &mut arrivals {
            *arrival *= n as f64 / time;
        }
        let mut sorted = sizes.to_vec();
        sorted.sort_unstable_by_key(|(input, output)| (*output, *input));
        let from: f64 = rng.random();
        let evenly = |i: usize| sorted[((i as f64 + from) / n as f64 * sorted.len() as f64) as usize];
        let mut sizes: Vec<(u32, u32)> = (0..n).map(evenly).collect();
        sizes.shuffle(&mut rng);
        Workload {
            arrivals,
            sizes,
            declared_output: known.declared_output,
            warm_up: (n as f64 * WARM_UP_SHARE) as usize,
            replicas: known.production,
        }
    }

    /// The very arrivals of a measured step, after those that came shortly before it. Requests of unknown
    /// size are taken for mean ones. To be played at a total rate of one. `None` without any.
    pub fn replay(measured: &Measured, mark: &StepMark, known: &super::Known) -> Option<Workload> {
        let from = mark.start - LEAD;
        let inside = |r: &&RequestOutcome| (from.0..mark.end.0).contains(&r.scheduled.0);
        let mut requests: Vec<&RequestOutcome> = measured.requests.iter().filter(inside).collect();
        requests.sort_by(|a, b| a.scheduled.0.total_cmp(&b.scheduled.0));
        let begin = requests.first()?.scheduled;
        let of = |size: fn(&RequestOutcome) -> Option<u32>| {
            super::mean(requests.iter().filter_map(|r| size(r)).map(f64::from)).round().max(1.0) as u32
        };
        let (input, output) = (of(|r| r.input_tokens), of(|r| r.output_tokens));
        Some(Workload {
            arrivals: requests.iter().map(|r| (r.scheduled - begin).0).collect(),
            sizes: requests
                .iter()
                .map(|r| (r.input_tokens.unwrap_or(input), r.output_tokens.unwrap_or(output).max(1)))
                .collect(),
            declared_output: known.declared_output,
            warm_up: requests.partition_point(|r| r.scheduled < mark.hold_start),
            replicas: measured.replicas,
        })
    }

    fn jobs(&self, rate: f64) -> impl Iterator<Item = (Seconds, Job)> {
        (0..).zip(self.arrivals.iter().zip(&self.sizes)).map(move |(id, (time, (input, output)))| {
            let declared_output = self.declared_output.unwrap_or(*output);
            let job = Job { id, input_tokens: *input, declared_output, output_tokens: *output };
            (Seconds(time / rate), job)
        })
    }
}

/// Plays the workload at `rate` per replica.
pub fn play(model: &ServerModel, workload: &Workload, rate: Rate, slos: &[Slo]) -> Played {
    let replicas = workload.replicas.0.max(1);
    let total = rate.0 * f64::from(replicas);
    let end = workload.arrivals.last().copied().unwrap_or(0.0) / total;
    let mut pool = Pool::new(model, workload.replicas, 0);
    let mut read = Readings::default();
    let mut next_reading = end * WARM_UP_SHARE;
    for (time, job) in workload.jobs(total) {
        while next_reading <= time.0 {
            pool.advance(Seconds(next_reading));
            pool.servers().iter().for_each(|server| read.add(server));
            next_reading += end / READINGS;
        }
        pool.advance(time);
        pool.submit(time, job);
    }
    pool.advance(Seconds(f64::INFINITY));
    let outcomes: Vec<RequestOutcome> = pool.results().iter().skip(workload.warm_up).map(outcome).collect();
    let attempts: Vec<&RequestOutcome> = outcomes.iter().collect();
    let mean = |sum: u64| sum as f64 / read.n.max(1) as f64;
    Played {
        checks: slos.iter().map(|limit| slo::check(*limit, &attempts, None, slos)).collect(),
        violations: 1.0 - slo::goodput(&attempts, slos).unwrap_or(1.0),
        batch: mean(read.batch),
        queue: mean(read.queue),
        in_flight: mean(read.in_flight),
        batch_tokens: mean(read.batch_tokens),
    }
}

/// Sums over readings of gauges.
#[derive(Default)]
struct Readings {
    n: u64,
    batch: u64,
    queue: u64,
    in_flight: u64,
    batch_tokens: u64,
}

impl Readings {
    fn add(&mut self, server: &Server) {
        let gauges = server.gauges();
        self.n += 1;
        self.batch += u64::from(gauges.batch_size.unwrap_or(0));
        self.queue += u64::from(gauges.queue_size.unwrap_or(0));
        self.in_flight += server.in_flight() as u64;
        self.batch_tokens += u64::from(gauges.batch_tokens.unwrap_or(0));
    }
}

/// The largest rate per replica at which every SLO holds, searched from a first guess. `None` where
/// none or any holds within a factor of `reach` around the guess.
pub fn capacity(
    model: &ServerModel,
    workload: &Workload,
    slos: &[Slo],
    guess: Rate,
    reach: f64,
) -> Option<Rate> {
    let margin = |rate: f64| margin_at(model, workload, Rate(rate), slos);
    let (mut low, mut high) = enclose(&margin, guess.0, reach)?;
    // Illinois: a secant whose end that stays is believed half as much each time.
    let mut kept = 0;
    while high.0 / low.0 - 1.0 > PRECISION {
        let secant = (low.0 * high.1 - high.0 * low.1) / (high.1 - low.1);
        let inner = (high.0 - low.0) * 0.02;
        let rate = secant.clamp(low.0 + inner, high.0 - inner);
        let found = (rate, margin(rate));
        if found.1 <= 0.0 {
            low = found;
            high.1 *= if kept > 0 { 0.5 } else { 1.0 };
            kept = 1;
        } else {
            high = found;
            low.1 *= if kept < 0 { 0.5 } else { 1.0 };
            kept = -1;
        }
    }
    Some(Rate(f64::midpoint(low.0, high.0)))
}

/// The margin of the limit that is closest to being broken, or broken furthest.
pub(super) fn margin_at(model: &ServerModel, workload: &Workload, rate: Rate, slos: &[Slo]) -> f64 {
    let checks = play(model, workload, rate, slos).checks;
    checks.iter().map(margin).fold(f64::NEG_INFINITY, f64::max)
}

/// Two rates, with their margins, of which the first holds and the second does not: steps away from
/// the guess that grow until the sign changes.
fn enclose(margin: &dyn Fn(f64) -> f64, guess: f64, reach: f64) -> Option<((f64, f64), (f64, f64))> {
    let first = (guess, margin(guess));
    let holds = first.1 <= 0.0;
    let (mut near, mut step) = (first, 1.06);
    while (1.0 / reach..=reach).contains(&(near.0 / guess)) {
        let rate = if holds { near.0 * step } else { near.0 / step };
        let far = (rate, margin(rate));
        if (far.1 <= 0.0) != holds {
            return Some(if holds { (near, far) } else { (far, near) });
        }
        near = far;
        step = (step * step).min(2.0);
    }
    None
}

/// How far a figure is beyond its limit: above 0 where the limit is broken, and growing with it.
pub(super) fn margin(check: &SloCheck) -> f64 {
    let beyond = |value: f64| match check.slo.limit {
        Limit::AtMost(limit) => (value / limit.0).ln(),
        Limit::ShareAtMost(limit) => value / limit - 1.0,
        Limit::ShareAtLeast(limit) => (1.0 - value) / (1.0 - limit) - 1.0,
    };
    let found = check.value.map_or(HOPELESS, beyond).clamp(-HOPELESS, HOPELESS);
    // A share of exactly its limit holds, and so does a limit of nothing at all.
    if check.holds { found.min(0.0) } else { found.max(f64::MIN_POSITIVE) }
}

/// A played request as a measured one.
fn outcome(completed: &Completed) -> RequestOutcome {
    let refused = completed.finished.is_none();
    RequestOutcome {
        id: completed.id,
        step: 0,
        phase: Phase::Hold,
        scheduled: completed.arrived,
        sent: Some(completed.arrived),
        first_token: completed.first_token,
        last_token: completed.finished,
        ended: completed.finished,
        input_tokens: None,
        output_tokens: Some(completed.output_tokens),
        chunks: completed.output_tokens,
        status: None,
        error: refused.then_some(FailureKind::Overloaded),
        replica: None,
    }
}
