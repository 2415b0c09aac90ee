//! The closed loop: arrivals, replicas, their metrics on the way, the controller, replicas again.
//!
//! Invariants: one second at a time; the same inputs give the same outcome. Replicas are told apart only by
//! their age: the youngest are removed first, those that are still starting before all others.

use super::conditions::{Autoscaler, Conditions};
use super::traffic::Path;
use crate::hpa::{self, Controller, Phase, Pod, Source, Workload};
use crate::units::{Milli, Seconds, Signal};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;
use std::collections::VecDeque;

/// Replicas that serve. They stand in the order of their age, the oldest first.
pub(super) trait Servers {
    /// One more.
    fn add(&mut self);
    /// So many of the youngest get no more requests, and go when they have nothing left to do.
    fn drain(&mut self, youngest: usize);
    /// One second passes. `noise` is standard normal.
    fn step(&mut self, second: usize, arrivals: f64, noise: f64);
    /// What each replica shows.
    fn gauges(&mut self, signal: Signal, gauges: &mut Vec<Option<f64>>);
    /// How many are about to go.
    fn draining(&self) -> usize;
    /// Requests in flight in all.
    fn in_flight(&self) -> f64;
    /// Of the arrivals of each second, how many broke a limit or were refused.
    fn violations(self) -> Vec<f32>;
}

/// One second of a replay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Tick {
    /// Arrivals.
    pub arrivals: f64,
    /// Replicas that serve.
    pub serving: usize,
    /// Replicas that start.
    pub starting: usize,
    /// Replicas that the HPA asks for.
    pub wanted: i32,
    /// Requests in flight in all.
    pub in_flight: f64,
    /// The first metric per replica, as the HPA's status shows it.
    pub metric: Option<f64>,
}

/// What a replay comes to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Requests.
    pub arrivals: f64,
    /// Of these, those that broke a limit or were refused, by the second of their arrival.
    pub broken: Vec<f32>,
    /// Seconds of all replicas, from their creation until they are gone.
    pub replica_seconds: f64,
    /// Changes of the number of replicas by the controller.
    pub changes: u32,
    /// Of these, the ones against the direction of the one before.
    pub turns: u32,
}

impl Outcome {
    /// Share of requests that broke a limit or were refused, 0 to 1.
    pub fn violations(&self) -> f64 {
        self.broken.iter().map(|broken| f64::from(*broken)).sum::<f64>() / self.arrivals.max(1.0)
    }

    /// Changes per hour.
    pub fn changes_per_hour(&self) -> f64 {
        f64::from(self.changes) * 3600.0 / (self.broken.len().max(1) as f64)
    }
}

/// A replica on its way.
#[derive(Debug, Clone, Copy)]
struct Starting {
    id: u32,
    runs_at: f64,
    serves_at: f64,
}

/// The values of one scrape, oldest replica first.
#[derive(Debug, Clone, Default)]
struct Scrape {
    at: f64,
    values: Vec<(u32, Option<Milli>)>,
}

/// One metric on its way to the controller.
struct Channel {
    signal: Signal,
    period: f64,
    next: f64,
    under_way: VecDeque<Scrape>,
    /// The newest that can be asked for.
    visible: Scrape,
    /// Last values of replicas that are gone, and when they were taken.
    ghosts: Vec<(f64, Milli)>,
}

impl Channel {
    /// The newest scrape that has arrived becomes visible; what it lacks has become a ghost.
    fn arrive(&mut self, now: f64, ingest: f64, window: f64) {
        while self.under_way.front().is_some_and(|scrape| scrape.at + ingest <= now) {
            let Some(newer) = self.under_way.pop_front() else { break };
            let same = newer.values.iter().zip(&self.visible.values).take_while(|(a, b)| a.0 == b.0).count();
            let at = self.visible.at;
            let gone = self.visible.values[same..].iter().filter_map(|(_, value)| Some((at, (*value)?)));
            self.ghosts.extend(gone);
            self.visible = newer;
        }
        self.ghosts.retain(|(at, _)| now - at <= window);
    }
}

/// The controller and what it knows.
struct Scaling<'a> {
    scaler: &'a Autoscaler,
    conditions: &'a Conditions,
    controller: Controller,
    channels: Vec<Channel>,
    workload: Workload,
    samples: Vec<Option<Milli>>,
    gauges: Vec<Option<f64>>,
    proposals: Vec<Result<i32, String>>,
    metric: Option<f64>,
}

impl<'a> Scaling<'a> {
    fn new(scaler: &'a Autoscaler, conditions: &'a Conditions, rng: &mut ChaCha8Rng) -> Scaling<'a> {
        let mut channel = |signal| {
            let period = conditions.pipeline.period(signal).0;
            Channel {
                signal,
                period,
                next: rng.random::<f64>() * period,
                under_way: VecDeque::new(),
                visible: Scrape::default(),
                ghosts: Vec::new(),
            }
        };
        Scaling {
            scaler,
            conditions,
            controller: Controller::default(),
            channels: scaler.metrics.iter().map(|metric| channel(metric.signal)).collect(),
            workload: Workload { spec_replicas: 0, status_replicas: 0, pods: Vec::new() },
            samples: Vec::new(),
            gauges: Vec::new(),
            proposals: Vec::new(),
            metric: None,
        }
    }

    fn scrape(&mut self, now: f64, servers: &mut impl Servers, serving: &[u32]) {
        for channel in self.channels.iter_mut().filter(|channel| channel.next <= now) {
            channel.next += channel.period;
            self.gauges.clear();
            servers.gauges(channel.signal, &mut self.gauges);
            // The adapter's conversion: towards zero, in milli-units.
            let milli = |gauge: Option<f64>| gauge.map(|gauge| Milli((gauge * 1000.0) as i64));
            let values = serving.iter().zip(&self.gauges).map(|(id, gauge)| (*id, milli(*gauge))).collect();
            channel.under_way.push_back(Scrape { at: now, values });
        }
    }

    /// How many replicas there are to be.
    fn sync(&mut self, now: f64, serving: &[u32], starting: &[Starting]) -> i32 {
        let pipeline = self.conditions.pipeline;
        let current = count(serving, starting);
        self.workload.spec_replicas = current;
        self.workload.status_replicas = current;
        self.workload.pods.clear();
        let running = Pod { phase: Phase::Running, ready: true, deleted: false };
        self.workload.pods.resize(serving.len(), running);
        self.workload.pods.extend(starting.iter().map(|pod| {
            let phase = if pod.runs_at <= now { Phase::Running } else { Phase::Pending };
            Pod { phase, ready: false, deleted: false }
        }));
        self.proposals.clear();
        for (metric, channel) in self.scaler.metrics.iter().zip(&mut self.channels) {
            channel.arrive(now, pipeline.ingest.0, pipeline.window.0);
            self.samples.clear();
            let fresh = now - channel.visible.at <= pipeline.window.0;
            let visible: &[_] = if fresh { &channel.visible.values } else { &[] };
            if metric.source == Source::Pods {
                let of = |(place, id): (usize, &u32)| {
                    visible.get(place).filter(|(scraped, _)| scraped == id).and_then(|(_, value)| *value)
                };
                self.samples.extend(serving.iter().enumerate().map(of));
                self.samples.resize(self.workload.pods.len(), None);
            } else {
                let gpus = if metric.signal.is_external() { self.conditions.gpus_per_replica } else { 1 };
                let series = visible.iter().filter_map(|(_, value)| *value);
                let series = series.chain(channel.ghosts.iter().map(|(_, value)| *value));
                self.samples.extend(series.map(|value| Some(Milli(value.0 * i64::from(gpus)))));
            }
            let tolerances = self.scaler.tolerances;
            let proposal =
                hpa::propose_tersely(metric.source, metric.target, &self.workload, &self.samples, tolerances);
            if self.proposals.is_empty() {
                self.metric = proposal.as_ref().ok().map(|proposal| proposal.usage.as_f64());
            }
            self.proposals.push(proposal.map(|found| found.replicas).map_err(|reason| reason.to_string()));
        }
        self.controller.sync(Seconds(now), current, &self.scaler.settings, &self.proposals).replicas
    }
}

/// What a replay starts with and goes by.
pub(super) struct Setting<'a> {
    /// The arrivals.
    pub(super) path: &'a Path,
    /// The HPA.
    pub(super) scaler: &'a Autoscaler,
    /// What surrounds the servers.
    pub(super) conditions: &'a Conditions,
    /// Replicas that serve at the start.
    pub(super) replicas: usize,
    /// Seed of start-up times and phases.
    pub(super) seed: u64,
}

/// Plays the closed loop through; `record` gets every second.
pub(super) fn play<S: Servers>(mut servers: S, setting: &Setting, mut record: impl FnMut(Tick)) -> Outcome {
    let Setting { path, scaler, conditions, replicas, seed } = *setting;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut scaling = Scaling::new(scaler, conditions, &mut rng);
    let mut next_sync = rng.random::<f64>() * conditions.sync.0;
    let mut serving: Vec<u32> = (0..replicas as u32).collect();
    let mut starting: Vec<Starting> = Vec::new();
    let mut next_id = replicas as u32;
    let mut outcome = Outcome::default();
    let mut direction = 0;
    for (second, (arrivals, noise)) in path.arrivals.iter().zip(&path.noise).enumerate() {
        if !starting.is_empty() {
            starting.retain(|pod| {
                let ready = pod.serves_at <= second as f64;
                if ready {
                    serving.push(pod.id);
                    servers.add();
                }
                !ready
            });
        }
        servers.step(second, *arrivals, *noise);
        outcome.arrivals += arrivals;
        outcome.replica_seconds += (serving.len() + starting.len() + servers.draining()) as f64;
        let now = (second + 1) as f64;
        scaling.scrape(now, &mut servers, &serving);
        if next_sync <= now {
            next_sync += conditions.sync.0;
            let current = count(&serving, &starting);
            let change = scaling.sync(now, &serving, &starting) - current;
            if change != 0 {
                outcome.changes += 1;
                outcome.turns += u32::from(change.signum() == -direction);
                direction = change.signum();
            }
            for _ in 0..change {
                starting.push(start(next_id, now, conditions, &mut rng));
                next_id += 1;
            }
            let fewer = change.min(0).unsigned_abs() as usize;
            let not_started = fewer.min(starting.len());
            starting.truncate(starting.len() - not_started);
            serving.truncate(serving.len().saturating_sub(fewer - not_started));
            servers.drain(fewer - not_started);
        }
        record(Tick {
            arrivals: *arrivals,
            serving: serving.len(),
            starting: starting.len(),
            wanted: count(&serving, &starting),
            in_flight: servers.in_flight(),
            metric: scaling.metric,
        });
    }
    outcome.broken = servers.violations();
    outcome
}

/// Replicas that the HPA has asked for.
fn count(serving: &[u32], starting: &[Starting]) -> i32 {
    i32::try_from(serving.len() + starting.len()).unwrap_or(i32::MAX)
}

fn start(id: u32, now: f64, conditions: &Conditions, rng: &mut ChaCha8Rng) -> Starting {
    let start_up = conditions.start_up;
    let variance = (1.0 + start_up.spread * start_up.spread).ln();
    let normal: f64 = StandardNormal.sample(rng);
    let takes = start_up.mean.0 * (variance.sqrt() * normal - variance / 2.0).exp();
    Starting { id, runs_at: now + takes * start_up.pending, serves_at: now + takes }
}
