//! A replica as a replay sees it: how fast it answers and what it shows, by the requests in flight.

use super::closed_loop::Servers;
use super::fluid::Fluid;
use super::table::Table;
use crate::units::{Rate, Replicas, Seconds, Signal};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// Places of the tables.
const PLACES: usize = 513;
/// The tables end at most here, in requests in flight; beyond, they are constant.
const MOST_IN_FLIGHT: f64 = 1024.0;
/// Seconds of load that a capacity is judged by.
const JUDGED: usize = 4 * 3600;
/// Steps of the search for a capacity: the rate halves its interval in each.
const HALVINGS: u32 = 14;

/// Where a plant comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The fitted server, played with discrete events.
    Model,
    /// The steps of the run alone: means at steady loads. What happens between and beyond them is
    /// approximate.
    Steps,
}

/// The curves that a plant is made of, by requests in flight, each in the order of these.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curves {
    /// Completions per second.
    pub drain: Vec<(f64, f64)>,
    /// Share of requests that break a limit, 0 to 1, by the mean in flight over [`Curves::window`].
    pub violations: Vec<(f64, f64)>,
    /// The batch gauge.
    pub batch: Vec<(f64, f64)>,
    /// The queue gauge.
    pub queue: Vec<(f64, f64)>,
    /// GPU utilization, percent. Empty: not known.
    pub gpu: Vec<(f64, f64)>,
    /// Standard deviations of these three gauges at one moment, in their order. Empty: none.
    pub scatter: [Vec<(f64, f64)>; 3],
    /// How long a request looks at the load: about as long as one takes.
    pub window: Seconds,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plant {
    basis: Basis,
    /// Completions per second.
    drain: Table,
    /// Share of those in flight that are still there a second later, without arrivals.
    stay: Table,
    /// What one arrival, spread over a second, leaves in flight at its end.
    gain: Table,
    violations: Table,
    batch: Table,
    queue: Table,
    gpu: Option<Table>,
    /// Standard deviations of the three gauges at one moment.
    scatter: [Table; 3],
    window: usize,
    limit: f64,
}

impl Plant {
    /// A plant of curves; more than `limit` in flight are refused (429).
    pub fn new(basis: Basis, curves: &Curves, limit: f64) -> Plant {
        let end = limit.clamp(1.0, MOST_IN_FLIGHT);
        let table = |points: &[(f64, f64)]| Table::through(points, end, PLACES);
        let gpu = (!curves.gpu.is_empty()).then(|| table(&curves.gpu));
        let rest = Plant {
            basis,
            drain: table(&curves.drain),
            stay: table(&[]),
            gain: table(&[]),
            violations: table(&curves.violations),
            batch: table(&curves.batch),
            queue: table(&curves.queue),
            gpu,
            scatter: [0, 1, 2].map(|which| table(&curves.scatter[which])),
            window: (curves.window.0.round() as usize).max(1),
            limit,
        };
        rest.moved()
    }

    /// With the tables of motion that belong to its drain.
    ///
    /// In a second with constant arrivals `a`, dx/dt = a - h x with h = drain(x)/x gives
    /// x e^-h + a (1 - e^-h)/h, which holds the steady state exactly.
    fn moved(mut self) -> Plant {
        let end = self.drain.end();
        let least = end / (PLACES - 1) as f64;
        let hazard = |x: f64| self.drain.at(x.max(least)) / x.max(least);
        let stay = Table::tabulate(end, PLACES, |x| (-hazard(x)).exp());
        let gain = Table::tabulate(end, PLACES, |x| {
            let h = hazard(x);
            if h > 1e-9 { -(-h).exp_m1() / h } else { 1.0 }
        });
        self.stay = stay;
        self.gain = gain;
        self
    }

    /// The same server at `speed` times the pace, near 1. What a request sees follows how long it stays,
    /// so that a slower server breaks limits with fewer in flight.
    pub fn at_speed(&self, speed: f64) -> Plant {
        let end = self.drain.end();
        let stays = |x: f64| x / self.drain.at(x).max(1e-12);
        let residence = Table::tabulate(end, PLACES, |x| stays(x.max(end / PLACES as f64)));
        let seen_as = |x: f64| residence.place_of(residence.at(x) / speed).unwrap_or(end);
        let violations = Table::tabulate(end, PLACES, |x| self.violations.at(seen_as(x)));
        let drain = Table::tabulate(end, PLACES, |x| self.drain.at(x) * speed);
        Plant { drain, violations, ..self.clone() }.moved()
    }

    /// Where it comes from.
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// Completions per second with so many in flight.
    pub fn drain(&self, in_flight: f64) -> Rate {
        Rate(self.drain.at(in_flight))
    }

    /// Share of requests that break a limit, with so many in flight over [`Plant::window`].
    pub fn violations(&self, in_flight: f64) -> f64 {
        self.violations.at(in_flight)
    }

    /// How long a request looks at the load.
    pub fn window(&self) -> Seconds {
        Seconds(self.window as f64)
    }

    /// Most requests in flight; more are refused.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// The gauge with so many in flight. `None`: not known.
    pub fn gauge(&self, signal: Signal, in_flight: f64) -> Option<f64> {
        match signal {
            Signal::Queue => Some(self.queue.at(in_flight)),
            Signal::Batch => Some(self.batch.at(in_flight)),
            Signal::DutyCycle | Signal::Dcgm => self.gpu.as_ref().map(|gpu| gpu.at(in_flight)),
        }
    }

    /// The gauge at one moment, where `normal` is drawn from a standard normal distribution.
    pub(super) fn momentary_gauge(&self, signal: Signal, in_flight: f64, normal: f64) -> Option<f64> {
        let mean = self.gauge(signal, in_flight)?;
        let which = match signal {
            Signal::Batch => 0,
            Signal::Queue => 1,
            Signal::DutyCycle | Signal::Dcgm => 2,
        };
        let deviation = self.scatter[which].at(in_flight);
        if mean > 2.0 * deviation {
            return Some(mean + deviation * normal);
        }
        // Mostly nothing, at times much: the two values with this mean and deviation of which one is 0.
        let much = if mean > 0.0 { mean + deviation * deviation / mean } else { 0.0 };
        let often = mean / much.max(f64::MIN_POSITIVE);
        Some(if standard_normal_below(normal) < often { much } else { 0.0 })
    }

    /// The most that a gauge ever shows. `None`: not known.
    pub fn most(&self, signal: Signal) -> Option<f64> {
        self.gauge(signal, self.drain.end())
    }

    /// Requests in flight at which the load is carried, without chance. The limit where it is not.
    pub fn level(&self, load: Rate) -> f64 {
        self.drain.place_of(load.0).unwrap_or(self.limit)
    }

    /// One second: what is in flight per replica after `arrivals` per replica, and what left.
    #[inline]
    pub(super) fn second(&self, in_flight: f64, arrivals: f64) -> (f64, f64, f64) {
        let stay = self.stay.at(in_flight);
        let after = in_flight * stay + arrivals * self.gain.at(in_flight);
        (after, (in_flight + arrivals - after).max(0.0), stay)
    }

    pub(super) fn window_seconds(&self) -> usize {
        self.window
    }

    /// The load in all that `replicas` carry with at most the share `goal` of requests breaking a limit:
    /// several share peaks, so that each carries somewhat more than one alone. Poisson arrivals.
    pub fn capacity(&self, replicas: Replicas, goal: f64) -> Rate {
        let n = f64::from(replicas.0.max(1));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let chance: Vec<[f64; 2]> =
            (0..JUDGED).map(|_| [StandardNormal.sample(&mut rng), StandardNormal.sample(&mut rng)]).collect();
        let most = n * self.drain.at(self.drain.end());
        let (mut low, mut high) = (0.0, most);
        for _ in 0..HALVINGS {
            let rate = f64::midpoint(low, high);
            let mut servers = Fluid::new(self, replicas.0.max(1) as usize, Rate(rate / n), JUDGED, 0);
            let mut total = 0.0;
            for (second, [arriving, leaving]) in chance.iter().enumerate() {
                let arrivals = (rate + rate.sqrt() * arriving).max(0.0);
                total += arrivals;
                servers.step(second, arrivals, *leaving);
            }
            let broken: f64 = servers.violations().iter().copied().map(f64::from).sum();
            if broken <= goal * total { low = rate } else { high = rate }
        }
        Rate(low)
    }
}

/// The share of a standard normal distribution below a value, by the logistic curve next to it (off by at
/// most 0.01).
fn standard_normal_below(value: f64) -> f64 {
    (1.0 + (-1.702 * value).exp()).recip()
}
