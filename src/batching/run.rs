//! Servers played through without waiting: open loop from given arrivals, closed loop by clients.

use super::{Forward, Job, JoinReason, Observation, Output, Server, ServerModel};
use crate::units::{Replicas, Seconds};

/// How a request came out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Completed {
    /// Its job's name.
    pub id: u64,
    /// When it arrived.
    pub arrived: Seconds,
    /// When its first token came. `None`: refused.
    pub first_token: Option<Seconds>,
    /// When its last token came. `None`: refused, or not over when the run was.
    pub finished: Option<Seconds>,
    /// Its output tokens, once it is over.
    pub output_tokens: u32,
}

/// What a router's counters say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counters {
    /// Decode forwards.
    pub decodes: u64,
    /// Seconds in them.
    pub decode_seconds: f64,
    /// Prefill forwards.
    pub prefills: u64,
    /// Seconds in them.
    pub prefill_seconds: f64,
    /// Requests that left the queue.
    pub joined: u64,
    /// Joins of a running batch at any step.
    pub joined_chunking: u64,
    /// Joins of a running batch because enough waited.
    pub joined_backpressure: u64,
    /// Joins of a running batch because some had waited long enough.
    pub joined_wait_exceeded: u64,
    /// Tokens.
    pub tokens: u64,
    /// Requests that ended.
    pub finished: u64,
}

impl Counters {
    fn count(&mut self, out: &Output) {
        self.tokens += out.tokens;
        for observation in &out.observations {
            match observation {
                Observation::Forward { kind: Forward::Decode, took, .. } => {
                    self.decodes += 1;
                    self.decode_seconds += took.0;
                }
                Observation::Forward { kind: Forward::Prefill, took, .. } => {
                    self.prefills += 1;
                    self.prefill_seconds += took.0;
                }
                Observation::Joined { requests, reason } => {
                    self.joined += u64::from(*requests);
                    match reason {
                        Some(JoinReason::Chunking) => self.joined_chunking += 1,
                        Some(JoinReason::Backpressure) => self.joined_backpressure += 1,
                        Some(JoinReason::WaitExceeded) => self.joined_wait_exceeded += 1,
                        None => {}
                    }
                }
                Observation::Finished { .. } => self.finished += 1,
                Observation::Dropped => {}
            }
        }
    }
}

/// Equal replicas behind a balancer that gives each request to the one with the fewest in flight.
#[derive(Debug, Clone)]
pub struct Pool {
    servers: Vec<Server>,
    counters: Vec<Counters>,
    out: Output,
    /// Where the search for the fewest begins, so that equals take turns.
    turn: usize,
    results: Vec<Completed>,
    /// Which of them were accepted and have not ended.
    in_flight: Vec<bool>,
}

impl Pool {
    /// Idle replicas, at least one. Noise, where the model has any, is drawn from `seed`.
    pub fn new(model: &ServerModel, replicas: Replicas, seed: u64) -> Pool {
        let n = u64::from(replicas.0.max(1));
        let server = |replica| {
            Server::with_noise(model.clone(), seed.wrapping_mul(n).wrapping_add(replica)).only_ends()
        };
        Pool {
            servers: (0..n).map(server).collect(),
            counters: vec![Counters::default(); n as usize],
            out: Output::default(),
            turn: 0,
            results: Vec::new(),
            in_flight: Vec::new(),
        }
    }

    /// The replicas.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// What each of them has counted.
    pub fn counters(&self) -> &[Counters] {
        &self.counters
    }

    /// The requests so far, in the order of arrival.
    pub fn results(&self) -> &[Completed] {
        &self.results
    }

    /// Whether each of them was accepted and has not ended.
    pub fn in_flight(&self) -> &[bool] {
        &self.in_flight
    }

    /// Moves every replica to `time`; how many requests ended on the way.
    pub fn advance(&mut self, time: Seconds) -> usize {
        (0..self.servers.len()).map(|replica| self.advance_one(replica, time)).sum()
    }

    /// Hands a job to the replica with the fewest in flight, at a time to which all have moved.
    pub fn submit(&mut self, time: Seconds, job: Job) {
        let n = self.servers.len();
        let in_turn = (0..n).map(|i| (self.turn + i) % n);
        let chosen = in_turn.min_by_key(|replica| self.servers[*replica].in_flight()).unwrap_or(0);
        self.turn = (chosen + 1) % n;
        self.out.clear();
        // Servers know a request by its place in the results.
        let at_server = Job { id: self.results.len() as u64, ..job };
        self.in_flight.push(self.servers[chosen].submit(time, at_server, &mut self.out).is_ok());
        self.counters[chosen].count(&self.out);
        let result =
            Completed { id: job.id, arrived: time, first_token: None, finished: None, output_tokens: 0 };
        self.results.push(result);
    }

    /// When the next thing happens at any of them. `None`: all are idle.
    pub fn next_event(&self) -> Option<Seconds> {
        self.servers.iter().filter_map(Server::next_event).min_by(|a, b| a.0.total_cmp(&b.0))
    }

    fn advance_one(&mut self, replica: usize, time: Seconds) -> usize {
        let server = &mut self.servers[replica];
        if server.next_event().is_some_and(|event| event > time) {
            return 0;
        }
        self.out.clear();
        server.advance(time, &mut self.out);
        self.counters[replica].count(&self.out);
        let mut ended = 0;
        for emission in &self.out.emissions {
            let at = emission.id as usize;
            let Some(result) = self.results.get_mut(at) else { continue };
            result.first_token.get_or_insert(emission.time);
            if emission.last {
                result.finished = Some(emission.time);
                result.output_tokens = emission.index;
                self.in_flight[at] = false;
                ended += 1;
            }
        }
        ended
    }
}

/// Plays arrivals, which must be in the order of their times, at equal replicas until all have ended.
/// The results are in the order of arrival.
pub fn run_open(
    model: &ServerModel,
    replicas: Replicas,
    arrivals: impl IntoIterator<Item = (Seconds, Job)>,
) -> Vec<Completed> {
    let mut pool = Pool::new(model, replicas, 0);
    for (time, job) in arrivals {
        pool.advance(time);
        pool.submit(time, job);
    }
    pool.advance(Seconds(f64::INFINITY));
    pool.results
}

/// Plays `clients` clients of one server that each send their next job as soon as the last one ended,
/// until `until`. A refused client gives up.
pub fn run_closed(
    model: &ServerModel,
    clients: u32,
    mut next: impl FnMut() -> Job,
    until: Seconds,
) -> Vec<Completed> {
    let mut pool = Pool::new(model, Replicas(1), 0);
    for _ in 0..clients {
        pool.submit(Seconds::ZERO, next());
    }
    while let Some(time) = pool.next_event().filter(|time| *time <= until) {
        let ended = pool.advance(time);
        for _ in 0..ended {
            pool.submit(time, next());
        }
    }
    pool.results
}
