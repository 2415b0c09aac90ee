//! Candidates for an HPA, played and compared.

use super::clairvoyant::{Capacities, Schedule};
use super::closed_loop::{Outcome, Servers, Setting, Tick, play};
use super::conditions::{Autoscaler, Conditions, ScaledMetric};
use super::discrete::{Discrete, Requests};
use super::fluid::Fluid;
use super::plant::Plant;
use super::steadiness::{Steadiness, steadiness};
use super::traffic::{Path, Traffic};
use crate::batching::ServerModel;
use crate::hpa::{BehaviorSpec, DOWNSCALE_STABILIZATION, Range, Settings, Source, Target, Tolerances};
use crate::units::{Milli, Rate, Seconds, Signal};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

/// An HPA with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// For people: "batch=22".
    pub name: String,
    /// Where it comes from: "recommended", "Google's advice", a file.
    pub origin: String,
    /// The HPA.
    pub scaler: Autoscaler,
}

/// Start-up times differ by so much, as a share, from one day to another: what their mean is drawn with.
const START_UP_DRIFT: f64 = 0.1;
/// 90 % of a normal distribution lie below so many standard deviations above its mean.
pub(super) const UPPER: f64 = 1.2816;
/// So long a load stays the same while its replicas are watched.
const WATCHED: Seconds = Seconds(3.0 * 3600.0);

impl Autoscaler {
    /// One AverageValue target, as the four HPAs of Google's page have it: Pods for the server's own
    /// metrics, External for GPU metrics, where the target is for all GPUs of a replica together.
    pub fn average_value(
        signal: Signal,
        target: Milli,
        range: Range,
        behavior: Option<&BehaviorSpec>,
        tolerances: Tolerances,
    ) -> Autoscaler {
        let source = if signal.is_external() { Source::External } else { Source::Pods };
        let behavior = behavior.map(|behavior| behavior.complete(DOWNSCALE_STABILIZATION));
        Autoscaler {
            metrics: vec![ScaledMetric { signal, source, target: Target::AverageValue(target) }],
            settings: Settings { range, behavior, can_wake: signal.is_external() },
            tolerances,
        }
    }
}

/// One throw of the dice: arrivals, the server's pace, the start-up time.
#[derive(Debug, Clone)]
pub struct Draw {
    path: Path,
    plant: Plant,
    conditions: Conditions,
    schedule: Schedule,
    replicas: usize,
    seed: u64,
}

/// What draws are made from.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// One replica.
    pub plant: &'a Plant,
    /// Standard deviation of its capacity, as a share of it: how well the capacity is known.
    pub uncertainty: f64,
    /// What each number of replicas carries.
    pub capacities: &'a Capacities,
    /// The load.
    pub traffic: &'a Traffic,
    /// Metrics and starts.
    pub conditions: Conditions,
}

impl World<'_> {
    /// Seed 0 of everything known: the plant and the start-up as they are; arrivals of the seed.
    pub fn plain(&self, seed: u64) -> Draw {
        self.draw_at(seed, 1.0, 1.0)
    }

    /// Arrivals, pace and start-up of a seed.
    pub fn draw(&self, seed: u64) -> Draw {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        let mut around_one = |spread: f64| -> f64 {
            let normal: f64 = StandardNormal.sample(&mut rng);
            (1.0 + spread * normal.clamp(-2.5, 2.5)).max(0.2)
        };
        let pace = around_one(self.uncertainty);
        let start_up = around_one(START_UP_DRIFT);
        self.draw_at(seed, pace, start_up)
    }

    fn draw_at(&self, seed: u64, pace: f64, start_up: f64) -> Draw {
        let path = self.traffic.draw(seed);
        let schedule = self.capacities.schedule(&path.rates, self.conditions.start_up.mean);
        let mut conditions = self.conditions;
        conditions.start_up.mean = conditions.start_up.mean * start_up;
        let plant = if pace == 1.0 { self.plant.clone() } else { self.plant.at_speed(pace) };
        let replicas = schedule.needed.first().copied().unwrap_or(1);
        Draw { path, plant, conditions, schedule, replicas, seed }
    }
}

impl Draw {
    /// Replicas that serve at the start: what the load then needs, as far as the HPA may have them.
    fn replicas(&self, range: Range) -> usize {
        self.replicas.clamp(range.min.max(1) as usize, range.max.max(range.min).max(1) as usize)
    }

    /// The same with so many replicas that serve at the start, instead of those that the load needs.
    pub fn starting_with(self, replicas: usize) -> Draw {
        Draw { replicas, ..self }
    }

    fn setting<'a>(&'a self, scaler: &'a Autoscaler) -> Setting<'a> {
        let Draw { path, conditions, seed, .. } = self;
        Setting { path, scaler, conditions, replicas: self.replicas(scaler.settings.range), seed: *seed }
    }

    fn fluid(&self, replicas: usize) -> Fluid<'_> {
        let load = self.path.rates.first().copied().unwrap_or(0.0) / replicas.max(1) as f64;
        Fluid::new(&self.plant, replicas, Rate(load), self.path.arrivals.len(), self.seed)
    }

    /// Plays a candidate through; `record` gets every second.
    pub fn play(&self, scaler: &Autoscaler, record: impl FnMut(Tick)) -> Outcome {
        let setting = self.setting(scaler);
        play(self.fluid(setting.replicas), &setting, record)
    }

    /// The same with discrete-event servers, which begin idle.
    pub fn play_discrete(&self, scaler: &Autoscaler, model: &ServerModel, requests: &Requests) -> Outcome {
        let setting = self.setting(scaler);
        let servers = Discrete::new(model, requests, setting.replicas, self.seed);
        play(servers, &setting, |_| {})
    }

    /// Share of requests that break a limit where a clairvoyant has replicas ready just in time, 0 to 1.
    pub fn clairvoyant_violations(&self) -> f64 {
        let mut servers = self.fluid(self.replicas);
        let mut serving = self.replicas;
        let seconds = self.path.arrivals.iter().zip(&self.path.noise).zip(&self.schedule.needed);
        for (second, ((arrivals, noise), needed)) in seconds.enumerate() {
            (serving..*needed).for_each(|_| servers.add());
            servers.drain(serving.saturating_sub(*needed));
            serving = *needed;
            servers.step(second, *arrivals, *noise);
        }
        let broken: f64 = servers.violations().iter().copied().map(f64::from).sum();
        broken / self.path.arrivals.iter().sum::<f64>().max(1.0)
    }

    /// What a clairvoyant would run.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }
}

/// A candidate over many draws.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// How many draws.
    pub draws: usize,
    /// Mean share of requests that break a limit, 0 to 1.
    pub violations: f64,
    /// Its standard deviation from draw to draw.
    pub violations_sd: f64,
    /// Upper bound of the mean with 90 % confidence: 1.28 standard errors above it.
    pub violations_upper: f64,
    /// Nine of ten draws stay below this share: mean + 1.28 standard deviations.
    pub violations_bad_day: f64,
    /// Mean GPU-hours.
    pub gpu_hours: f64,
    /// Mean of the cost over that of a clairvoyant with the same traffic and start-up.
    pub cost: f64,
    /// Mean changes of the number of replicas per hour.
    pub changes_per_hour: f64,
}

impl Score {
    /// Plays a candidate in every draw.
    pub fn of(scaler: &Autoscaler, draws: &[Draw]) -> Score {
        let n = draws.len().max(1) as f64;
        let outcomes: Vec<(Outcome, &Draw)> =
            draws.iter().map(|draw| (draw.play(scaler, |_| {}), draw)).collect();
        let mean = |figure: &dyn Fn(&(Outcome, &Draw)) -> f64| outcomes.iter().map(figure).sum::<f64>() / n;
        let violations = mean(&|(outcome, _)| outcome.violations());
        let squares = mean(&|(outcome, _)| (outcome.violations() - violations).powi(2));
        let violations_sd = (squares * n / (n - 1.0).max(1.0)).sqrt();
        Score {
            draws: draws.len(),
            violations,
            violations_sd,
            violations_upper: violations + UPPER * violations_sd / n.sqrt(),
            violations_bad_day: violations + UPPER * violations_sd,
            gpu_hours: mean(&|(outcome, draw)| {
                outcome.replica_seconds / 3600.0 * f64::from(draw.conditions.gpus_per_replica)
            }),
            cost: mean(&|(outcome, draw)| outcome.replica_seconds / draw.schedule.replica_seconds.max(1.0)),
            changes_per_hour: mean(&|(outcome, _)| outcome.changes_per_hour()),
        }
    }
}

/// A candidate with everything that is said about it.
#[derive(Debug, Clone)]
pub struct Played {
    /// The candidate.
    pub candidate: Candidate,
    /// Over all draws.
    pub score: Score,
    /// The first draw, second by second.
    pub ticks: Vec<Tick>,
    /// Of the arrivals of each second, how many broke a limit.
    pub broken: Vec<f32>,
    /// What it does while nothing changes.
    pub steadiness: Steadiness,
}

impl World<'_> {
    /// Plays a candidate in every draw, in the first with a record, and at a constant load.
    pub fn show(&self, candidate: Candidate, draws: &[Draw]) -> Played {
        let mut ticks = Vec::with_capacity(self.traffic.length().0 as usize);
        let outcome = draws
            .first()
            .map(|draw| draw.play(&candidate.scaler, |tick| ticks.push(tick)))
            .unwrap_or_default();
        Played {
            score: Score::of(&candidate.scaler, draws),
            steadiness: self.watch(&candidate.scaler),
            ticks,
            broken: outcome.broken,
            candidate,
        }
    }

    /// What a candidate does for hours at a load that stays the same: at the traffic's median and at its
    /// 90th percentile, the less steady of the two.
    pub fn watch(&self, scaler: &Autoscaler) -> Steadiness {
        let at = |share: f64| {
            let traffic = self.traffic.leveled(share, WATCHED);
            let draw = World { traffic: &traffic, ..*self }.plain(1);
            let mut wanted = Vec::with_capacity(WATCHED.0 as usize);
            draw.play(scaler, |tick| wanted.push(tick.wanted));
            steadiness(&wanted)
        };
        let (median, high) = (at(0.5), at(0.9));
        if high.unrest() > median.unrest() { high } else { median }
    }
}

/// A seed that is independent of those of a search.
pub fn held_out(index: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(index.wrapping_add(0x0e1d_0000));
    rng.random()
}
