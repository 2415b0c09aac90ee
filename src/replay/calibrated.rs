//! A plant from a server: its fitted model played with discrete events, or the steps of a run alone.

use super::closed_loop::Servers;
use super::discrete::{Discrete, Request, Requests};
use super::plant::{Basis, Curves, Plant};
use super::table::Table;
use crate::analyze::{Curve, Surface, isotonic};
use crate::batching::{Output, Server, ServerModel};
use crate::units::{Rate, Seconds, Signal};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson};

/// Replicas that share the load while the limits and gauges are learned.
const REPLICAS: usize = 4;
/// Requests that are played for it.
const PLAYED: f64 = 24_000.0;
/// From this to that share of the most that the servers complete.
const SWEEP: (f64, f64) = (0.03, 1.25);
/// A closed loop is judged over so many rounds of its clients, or so many requests where that is more.
const ROUNDS: (f64, f64) = (6.0, 200.0);
/// Rounds before that, in which lengths settle.
const SETTLING: f64 = 3.0;
/// A level of requests in flight that completes less than this above the one before is the last one.
const GROWTH: f64 = 1.002;
/// Bins of requests in flight, each so wide as a share of its place, and at least one request.
const BIN: f64 = 0.04;
/// Places of the curves that deviations are taken from.
const PLACES: usize = 513;
/// Over so long requests look at the load, where only means at steady loads are known.
const STEADY_WINDOW: Seconds = Seconds(60.0);

/// Why there is no plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlant {
    /// No sizes of requests.
    #[error("no request of the run succeeded with known sizes, so none can be played")]
    NoSizes,
    /// Nothing to judge by.
    #[error("no limit on TTFT, TPOT, NTPOT or E2E to count violations by")]
    NoLimit,
    /// The server refuses or never ends.
    #[error("the fitted server completes no requests of these sizes")]
    NoCompletions,
    /// The run lacks what its steps would have to show.
    #[error(
        "the run shows neither the server's counters nor batch and queue at two loads or more, so a replica cannot be modelled; measure with --metrics-url"
    )]
    TooLittle,
}

/// Plays a server and learns how it drains, what it shows and when it breaks the limits.
///
/// # Errors
/// What is missing for it.
pub fn of_model(model: &ServerModel, requests: &Requests) -> Result<Plant, NoPlant> {
    if requests.sizes.is_empty() {
        return Err(NoPlant::NoSizes);
    }
    if !requests.can_be_judged() {
        return Err(NoPlant::NoLimit);
    }
    let drain = drain(model, requests);
    let most = drain.last().map_or(0.0, |point| point.1);
    if !(most.is_finite() && most > 0.0) {
        return Err(NoPlant::NoCompletions);
    }
    let shown = Shown::sweep(model, requests, &drain);
    let curves = shown.curves(drain);
    Ok(Plant::new(Basis::Model, &curves, f64::from(model.max_concurrent_requests)))
}

/// Completions per second by requests in flight, each kept up in a closed loop. Tokens are counted, which
/// scatter far less than the requests that they belong to.
fn drain(model: &ServerModel, requests: &Requests) -> Vec<(f64, f64)> {
    let tokens = requests.sizes.iter().map(|size| f64::from(size.1.max(1))).sum::<f64>();
    let per_request = tokens / requests.sizes.len() as f64;
    let mut points = vec![(0.0, 0.0)];
    let mut clients = 1_u32;
    loop {
        let rate = tokens_per_second(model, requests, clients) / per_request;
        let before = points.last().map_or(0.0, |point: &(f64, f64)| point.1);
        points.push((f64::from(clients), rate.max(before)));
        // A plateau ends it, but not the small one of padded batches or of the first joiners.
        let plateau = rate < before * GROWTH && clients >= 16;
        if plateau || clients >= model.max_concurrent_requests.min(1024) {
            return points;
        }
        clients = (clients + (clients / 4).max(1)).min(model.max_concurrent_requests);
    }
}

fn tokens_per_second(model: &ServerModel, requests: &Requests, clients: u32) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(clients));
    let mut server = Server::with_noise(model.clone(), 1);
    let mut out = Output::default();
    let mut id = 0;
    let mut send = |server: &mut Server, now: Seconds, out: &mut Output| {
        id += 1;
        server.submit(now, requests.draw(id, &mut rng), out).is_ok()
    };
    for _ in 0..clients {
        send(&mut server, Seconds::ZERO, &mut out);
    }
    let settled = SETTLING * f64::from(clients);
    let enough = settled + (ROUNDS.0 * f64::from(clients)).max(ROUNDS.1);
    let (mut ended, mut tokens, mut from) = (0.0, 0.0, None);
    let mut now = Seconds::ZERO;
    while let Some(next) = server.next_event().filter(|_| ended < enough) {
        now = next;
        out.emissions.clear();
        out.observations.clear();
        server.advance(now, &mut out);
        let over = out.emissions.iter().filter(|emission| emission.last).count();
        if from.is_some() {
            tokens += out.emissions.len() as f64;
        }
        ended += over as f64;
        for _ in 0..over {
            send(&mut server, now, &mut out);
        }
        if from.is_none() && ended >= settled {
            from = Some(now);
        }
    }
    from.map_or(0.0, |from| tokens / (now - from).0)
}

/// What servers showed while their load rose, by requests in flight per replica.
#[derive(Default)]
struct Shown {
    /// In flight, batch, queue, GPU utilization at the end of each second on each replica.
    seconds: Vec<[f64; 4]>,
    /// Mean in flight while a request was there, and whether it broke a limit.
    judged: Vec<(f64, bool)>,
    window: f64,
}

impl Shown {
    fn sweep(model: &ServerModel, requests: &Requests, drain: &[(f64, f64)]) -> Shown {
        let most = drain.last().map_or(0.0, |point| point.1) * REPLICAS as f64;
        let length = PLAYED / (most * f64::midpoint(SWEEP.0, SWEEP.1));
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut servers = Discrete::new(model, requests, REPLICAS, 7);
        let mut levels: Vec<[f64; REPLICAS]> = Vec::new();
        let mut shown = Shown::default();
        let mut gauges = [(); 3].map(|()| Vec::new());
        for second in 0..length.ceil() as usize {
            let share = second as f64 / length;
            let rate = most * (SWEEP.0 + (SWEEP.1 - SWEEP.0) * share);
            let arrivals = Poisson::new(rate).map_or(0.0, |poisson| poisson.sample(&mut rng));
            servers.step(second, arrivals, 0.0);
            for (signal, gauges) in [Signal::Batch, Signal::Queue, Signal::Dcgm].into_iter().zip(&mut gauges)
            {
                gauges.clear();
                servers.gauges(signal, gauges);
            }
            let mut level = [0.0; REPLICAS];
            for (replica, in_flight) in servers.levels().enumerate() {
                level[replica] = in_flight as f64;
                let gauge = |which: usize| gauges[which][replica].unwrap_or(0.0);
                shown.seconds.push([in_flight as f64, gauge(0), gauge(1), gauge(2)]);
            }
            levels.push(level);
        }
        let judged = servers.judged();
        let stays: Vec<f64> = judged.iter().filter_map(|(request, _)| request.stayed()).collect();
        shown.judge(&judged, &levels, stays.iter().sum::<f64>() / stays.len().max(1) as f64);
        // What counts is how long a request stays where the limits begin to break.
        let broken = binned(shown.judged.iter().map(as_share));
        if let Some((in_flight, _)) = broken.iter().find(|(_, share)| *share >= 0.5) {
            let stays = in_flight / Table::through(drain, *in_flight, 2).at(*in_flight);
            shown.judge(&judged, &levels, stays);
        }
        shown
    }

    /// Puts the requests beside the mean in flight on their replica over `window` seconds from their arrival.
    fn judge(&mut self, judged: &[(Request, bool)], levels: &[[f64; REPLICAS]], window: f64) {
        self.window = window.round().max(1.0);
        let window = self.window as usize;
        self.judged.clear();
        for (request, breaks) in judged {
            let from = request.arrived as usize;
            let Some(while_there) = levels.get(from..from + window) else { continue };
            let sum: f64 = while_there.iter().map(|level| level[request.replica as usize]).sum();
            self.judged.push((sum / window as f64, *breaks));
        }
    }

    fn curves(&self, drain: Vec<(f64, f64)>) -> Curves {
        let gauge = |which: usize| {
            let mut points = binned(self.seconds.iter().map(|second| (second[0], second[which])));
            points.insert(0, (0.0, 0.0));
            points
        };
        let gauges = [gauge(1), gauge(2), gauge(3)];
        let end = self.seconds.iter().map(|second| second[0]).fold(1.0, f64::max);
        let scatter = [0, 1, 2].map(|which| {
            let mean = Table::through(&gauges[which], end, PLACES);
            let off = |second: &[f64; 4]| (second[0], (second[which + 1] - mean.at(second[0])).powi(2));
            let variances = means(self.seconds.iter().map(off));
            variances.into_iter().map(|(_, x, variance)| (x, variance.sqrt())).collect()
        });
        let [batch, queue, gpu] = gauges;
        let violations = binned(self.judged.iter().map(as_share));
        Curves { drain, violations, batch, queue, gpu, scatter, window: Seconds(self.window) }
    }
}

fn as_share((in_flight, breaks): &(f64, bool)) -> (f64, f64) {
    (*in_flight, if *breaks { 1.0 } else { 0.0 })
}

/// Bins of places: how many are in each, their mean place, the mean of what belongs to them.
fn means(pairs: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64, f64)> {
    let mut bins: Vec<(f64, f64, f64)> = Vec::new();
    // Bins grow with their place: of width one up to 25 in flight, a 25th of the place beyond.
    let bin = |x: f64| if x < 1.0 / BIN { x } else { (1.0 + (x * BIN).ln()) / BIN };
    for (x, figure) in pairs {
        let place = bin(x) as usize;
        if bins.len() <= place {
            bins.resize(place + 1, (0.0, 0.0, 0.0));
        }
        let into = &mut bins[place];
        *into = (into.0 + 1.0, into.1 + x, into.2 + figure);
    }
    bins.retain(|bin| bin.0 > 0.0);
    bins.into_iter().map(|(n, places, figures)| (n, places / n, figures / n)).collect()
}

/// Means by bins, never falling (isotonic regression, weighted by what is in them).
fn binned(pairs: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let bins = means(pairs);
    let weighted: Vec<(f64, f64)> = bins.iter().map(|(n, _, figure)| (*figure, *n)).collect();
    bins.iter().zip(isotonic(&weighted)).map(|((_, place, _), figure)| (*place, figure)).collect()
}

/// A plant of what the steps of a run show, without any model: the load carried at each mean of queue and
/// batch, and the violations there. More than `limit` in flight are refused.
///
/// # Errors
/// The surface lacks the curves for it.
pub fn of_surface(surface: &Surface, limit: f64) -> Result<Plant, NoPlant> {
    let (Some(batch), Some(violations)) = (&surface.batch, &surface.violations) else {
        return Err(NoPlant::TooLittle);
    };
    let at = |curve: Option<&Curve>, load: f64| curve.and_then(|curve| curve.at(Rate(load)));
    let mut points: Vec<[f64; 6]> = batch
        .points()
        .iter()
        .filter_map(|(load, batch)| {
            let queue = at(surface.queue.as_ref(), *load).unwrap_or(0.0);
            let gpu = at(surface.gpu.as_ref(), *load).unwrap_or(f64::NAN);
            Some([batch + queue, *load, at(Some(violations), *load)?, *batch, queue, gpu])
        })
        .collect();
    points.retain(|point| point[0] > 0.0);
    points.dedup_by(|b, a| b[0] <= a[0]);
    if points.len() < 2 {
        return Err(NoPlant::TooLittle);
    }
    let curve = |which: usize, from_zero: bool| -> Vec<(f64, f64)> {
        let zero = from_zero.then_some((0.0, 0.0));
        zero.into_iter().chain(points.iter().map(|point| (point[0], point[which]))).collect()
    };
    let mut gpu = curve(5, true);
    if gpu.iter().any(|point| point.1.is_nan()) {
        gpu.clear();
    }
    let curves = Curves {
        drain: curve(1, true),
        violations: curve(2, false),
        batch: curve(3, true),
        queue: curve(4, true),
        gpu,
        scatter: Default::default(),
        window: STEADY_WINDOW,
    };
    Ok(Plant::new(Basis::Steps, &curves, limit))
}
