//! Replicas as discrete-event servers: what the diffusion is checked against, and calibrated by.

use super::closed_loop::Servers;
use crate::batching::{Forward, Job, Observation, Output, Server, ServerModel};
use crate::units::{Seconds, Signal, Slo, SloMetric};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What requests look like, and what they are judged by.
#[derive(Debug, Clone, PartialEq)]
pub struct Requests {
    /// Prompt and output tokens of many requests; one is drawn for each arrival.
    pub sizes: Vec<(u32, u32)>,
    /// `max_new_tokens` as declared; `None`: the output tokens.
    pub declared_output: Option<u32>,
    /// The limits. Those on ITL take no part, since single gaps are not kept.
    pub slos: Vec<Slo>,
}

impl Requests {
    /// A job of a drawn size.
    pub(super) fn draw(&self, id: u64, rng: &mut ChaCha8Rng) -> Job {
        let (input, output) = match self.sizes.len() {
            0 => (1, 1),
            n => self.sizes[rng.random_range(0..n)],
        };
        let output = output.max(1);
        let declared_output = self.declared_output.unwrap_or(output).max(output);
        Job { id, input_tokens: input, declared_output, output_tokens: output }
    }

    /// Whether there is a limit that a played request can break.
    pub fn can_be_judged(&self) -> bool {
        self.slos.iter().any(|slo| slo.latency_limit().is_some() && slo.metric != SloMetric::Itl)
    }

    fn breaks(&self, request: &Request) -> bool {
        let (Some(first), Some(last)) = (request.first, request.last) else { return true };
        let tokens = f64::from(request.tokens);
        self.slos.iter().filter_map(|slo| Some((slo.metric, slo.latency_limit()?.0))).any(
            |(metric, limit)| match metric {
                SloMetric::Ttft => first - request.arrived > limit,
                SloMetric::Tpot => tokens > 1.0 && (last - first) / (tokens - 1.0) > limit,
                SloMetric::E2e => last - request.arrived > limit,
                SloMetric::Ntpot => (last - request.arrived) / tokens > limit,
                SloMetric::Itl | SloMetric::Error | SloMetric::Goodput => false,
            },
        )
    }
}

/// A request and what became of it; times in seconds. Neither first nor last: refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) arrived: f64,
    /// Which replica took it, counted from the first.
    pub(super) replica: u32,
    first: Option<f64>,
    last: Option<f64>,
    tokens: u32,
}

impl Request {
    /// How long it was there. `None`: refused.
    pub(super) fn stayed(&self) -> Option<f64> {
        Some(self.last? - self.arrived)
    }
}

struct Replica {
    number: u32,
    server: Server,
    /// Seconds of forwards that have ended, and what all came to a second ago.
    ended: f64,
    busy_before: f64,
    /// Share of the last second in which a forward ran.
    busy: f64,
}

impl Replica {
    fn advance(&mut self, now: f64, out: &mut Output, requests: &mut [Request]) {
        if self.server.next_event().is_none_or(|event| event.0 > now) {
            return;
        }
        out.emissions.clear();
        out.observations.clear();
        self.server.advance(Seconds(now), out);
        for emission in out.emissions.iter().filter(|emission| emission.index == 1 || emission.last) {
            let Some(request) = requests.get_mut(emission.id as usize) else { continue };
            request.first.get_or_insert(emission.time.0);
            if emission.last {
                request.last = Some(emission.time.0);
                request.tokens = emission.index;
            }
        }
        self.ended += busy_seconds(out);
    }

    /// The second is over.
    fn close(&mut self, now: f64) {
        let under_way = self.server.computing_since().map_or(0.0, |since| now - since.0);
        let total = self.ended + under_way;
        self.busy = (total - self.busy_before).clamp(0.0, 1.0);
        self.busy_before = total;
    }
}

fn busy_seconds(out: &Output) -> f64 {
    let forward = |observation: &Observation| match observation {
        Observation::Forward { kind: Forward::Decode | Forward::Prefill, took, .. } => Some(took.0),
        _ => None,
    };
    out.observations.iter().filter_map(forward).sum()
}

/// Servers behind a balancer that gives each request to the one with the fewest in flight.
pub(super) struct Discrete<'a> {
    model: &'a ServerModel,
    kind: &'a Requests,
    serving: Vec<Replica>,
    draining: Vec<Replica>,
    requests: Vec<Request>,
    /// Where the search for the fewest begins, so that equals take turns.
    turn: usize,
    added: u32,
    now: f64,
    seconds: usize,
    rng: ChaCha8Rng,
    out: Output,
}

impl<'a> Discrete<'a> {
    pub(super) fn new(
        model: &'a ServerModel,
        kind: &'a Requests,
        replicas: usize,
        seed: u64,
    ) -> Discrete<'a> {
        let mut servers = Discrete {
            model,
            kind,
            serving: Vec::new(),
            draining: Vec::new(),
            requests: Vec::new(),
            turn: 0,
            added: 0,
            now: 0.0,
            seconds: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            out: Output::default(),
        };
        (0..replicas).for_each(|_| servers.add());
        servers
    }

    /// Requests in flight on each serving replica.
    pub(super) fn levels(&self) -> impl Iterator<Item = usize> {
        self.serving.iter().map(|replica| replica.server.in_flight())
    }

    /// The requests so far, and whether each breaks a limit. All are played to their end.
    pub(super) fn judged(mut self) -> Vec<(Request, bool)> {
        for replica in self.serving.iter_mut().chain(&mut self.draining) {
            replica.advance(f64::INFINITY, &mut self.out, &mut self.requests);
        }
        let kind = self.kind;
        self.requests.into_iter().map(|request| (request, kind.breaks(&request))).collect()
    }

    fn advance(&mut self, now: f64) {
        self.now = now;
        for replica in self.serving.iter_mut().chain(&mut self.draining) {
            replica.advance(now, &mut self.out, &mut self.requests);
        }
    }

    fn submit(&mut self) {
        let n = self.serving.len();
        let fewest = (0..n).map(|i| (self.turn + i) % n);
        let chosen = fewest.min_by_key(|i| self.serving[*i].server.in_flight());
        let id = self.requests.len() as u64;
        let job = self.kind.draw(id, &mut self.rng);
        let number = chosen.map_or(u32::MAX, |i| self.serving[i].number);
        let request = Request { arrived: self.now, replica: number, first: None, last: None, tokens: 0 };
        self.requests.push(request);
        let Some(chosen) = chosen else { return };
        self.turn = (chosen + 1) % n;
        self.out.emissions.clear();
        self.out.observations.clear();
        // One that is refused stays without tokens, which is how it is told.
        let _ = self.serving[chosen].server.submit(Seconds(self.now), job, &mut self.out);
    }
}

impl Servers for Discrete<'_> {
    fn add(&mut self) {
        let mut server = Server::with_noise(self.model.clone(), u64::from(self.added));
        server.advance(Seconds(self.now), &mut self.out);
        self.serving.push(Replica { number: self.added, server, ended: 0.0, busy_before: 0.0, busy: 0.0 });
        self.added += 1;
    }

    fn drain(&mut self, youngest: usize) {
        let left = self.serving.len().saturating_sub(youngest);
        self.draining.extend(self.serving.drain(left..));
    }

    fn step(&mut self, second: usize, arrivals: f64, _noise: f64) {
        self.seconds = second + 1;
        let mut times: Vec<f64> =
            (0..arrivals as u64).map(|_| second as f64 + self.rng.random::<f64>()).collect();
        times.sort_by(f64::total_cmp);
        for time in times {
            self.advance(time);
            self.submit();
        }
        let end = (second + 1) as f64;
        self.advance(end);
        self.serving.iter_mut().for_each(|replica| replica.close(end));
        self.draining.retain(|replica| replica.server.in_flight() > 0);
    }

    fn gauges(&mut self, signal: Signal, gauges: &mut Vec<Option<f64>>) {
        gauges.extend(self.serving.iter().map(|replica| {
            let shown = replica.server.gauges();
            match signal {
                Signal::Queue => shown.queue_size.map(f64::from),
                Signal::Batch => shown.batch_size.map(f64::from),
                Signal::DutyCycle | Signal::Dcgm => Some(replica.busy * 100.0),
            }
        }));
    }

    fn draining(&self) -> usize {
        self.draining.len()
    }

    fn in_flight(&self) -> f64 {
        self.serving.iter().chain(&self.draining).map(|replica| replica.server.in_flight() as f64).sum()
    }

    fn violations(self) -> Vec<f32> {
        let mut broken = vec![0.0; self.seconds];
        for (request, breaks) in self.judged() {
            if let Some(second) = broken.get_mut(request.arrived as usize).filter(|_| breaks) {
                *second += 1.0;
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_judged_by_every_latency_limit_and_refused_ones_break() {
        let kind = |slo: &str| Requests {
            sizes: vec![(1, 1)],
            declared_output: None,
            slos: vec![slo.parse().unwrap()],
        };
        let request = Request { arrived: 1.0, replica: 0, first: Some(2.0), last: Some(4.0), tokens: 11 };
        for (slo, breaks) in [
            ("ttft:p95:0.9s", true),
            ("ttft:p95:1s", false),
            ("tpot:p95:199ms", true),
            ("tpot:p95:200ms", false),
            ("e2e:mean:2.9s", true),
            ("e2e:p99:3s", false),
            ("ntpot:p95:272ms", true),
            ("ntpot:p95:273ms", false),
            ("error:rate:1%", false),
        ] {
            assert_eq!(kind(slo).breaks(&request), breaks, "{slo}");
        }
        assert!(kind("ttft:p95:1s").breaks(&Request { first: None, ..request }));
        assert!(!kind("error:rate:1%").can_be_judged() && kind("e2e:p95:3s").can_be_judged());
    }
}
