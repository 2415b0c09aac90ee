//! The state machine: queue, running batch, the forward under way.

use super::{Admission, ServerModel};
use crate::units::Seconds;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::VecDeque;

/// A request as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Its name, unique among those in flight.
    pub id: u64,
    /// Prompt tokens.
    pub input_tokens: u32,
    /// `max_new_tokens`: what is reserved.
    pub declared_output: u32,
    /// Tokens that it really generates: at least 1, at most as declared.
    pub output_tokens: u32,
}

/// Why a job was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many requests as allowed are in flight.
    #[error("Model is overloaded")]
    Overloaded,
    /// It could never be admitted: it needs more KV tokens than there are.
    #[error("the request needs more KV tokens than the server has")]
    TooLarge,
}

/// One token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Emission {
    /// When.
    pub time: Seconds,
    /// Of which job.
    pub id: u64,
    /// Its number, from 1.
    pub index: u32,
    /// Whether the job ends with it.
    pub last: bool,
}

/// Kinds of forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Prompts are read; each gives its first token.
    Prefill,
    /// Each running sequence gives a token.
    Decode,
}

/// Why requests joined a running batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinReason {
    /// They may at every step.
    Chunking,
    /// Enough of them waited.
    Backpressure,
    /// They had waited long enough.
    WaitExceeded,
}

/// Something that a router's metrics count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Observation {
    /// A forward ended.
    Forward {
        /// Its kind.
        kind: Forward,
        /// When it ended.
        ended: Seconds,
        /// Its length.
        took: Seconds,
    },
    /// Requests left the queue. No reason: they began a new batch.
    Joined {
        /// How many.
        requests: u32,
        /// Why they joined a running batch.
        reason: Option<JoinReason>,
    },
    /// A request ended.
    Finished {
        /// Which.
        id: u64,
        /// How long it had waited in the queue.
        queued: Seconds,
        /// How long it was served.
        served: Seconds,
    },
    /// A request whose client was gone was taken out of the queue.
    Dropped,
}

/// What an advance of the clock brought about. Reuse it to save allocations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// Tokens in the order of their times; of a server that tells only the ends, the first and the last
    /// of each job.
    pub emissions: Vec<Emission>,
    /// How many tokens there were.
    pub tokens: u64,
    /// What metrics count.
    pub observations: Vec<Observation>,
}

impl Output {
    /// Empties it.
    pub fn clear(&mut self) {
        self.emissions.clear();
        self.observations.clear();
        self.tokens = 0;
    }
}

/// The router's gauges as they stand. `None`: not written yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// `tgi_queue_size`: one more at each arrival; set to the true length after each attempt to form
    /// a batch, so stale during a forward.
    pub queue_size: Option<u32>,
    /// `tgi_batch_current_size`: sequences that are decoded; joiners are not in it during their prefill.
    pub batch_size: Option<u32>,
    /// `tgi_batch_current_max_tokens`: KV tokens that those reserve.
    pub batch_tokens: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Queued {
    job: Job,
    arrived: Seconds,
    cancelled: bool,
}

/// A sequence in the batch. Every round gives a token to each, so it has `rounds - began` of them, and
/// nobody has to count for each sequence.
#[derive(Debug, Clone, Copy)]
struct Running {
    id: u64,
    /// The round after which it has none yet.
    began: u64,
    /// The round that gives it its last.
    ends: u64,
    input_tokens: u32,
    reserved: u32,
    arrived: Seconds,
    batched: Seconds,
    cancelled: bool,
}

/// What the server is doing until `ends`.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    work: Work,
    started: Seconds,
    ends: Seconds,
}

#[derive(Debug, Clone, Copy)]
enum Work {
    /// The shard computes. `joined`: joiners came to a running batch, after which a decode follows.
    Forward { kind: Forward, joined: bool },
    /// The router hands out tokens and filters; what arrives meanwhile can still join next.
    Between { decode_next: bool },
}

/// A server.
#[derive(Debug, Clone)]
pub struct Server {
    model: ServerModel,
    now: Seconds,
    queue: VecDeque<Queued>,
    running: Vec<Running>,
    /// The last of `running`, as many, are being prefilled for the first time.
    joining: usize,
    /// Rounds of emission so far.
    rounds: u64,
    /// The next round that gives anybody the last token.
    next_end: u64,
    /// KV tokens of the running sequences.
    kv_tokens: u64,
    /// Whether only first and last tokens are told.
    only_ends: bool,
    /// Whether any running sequence was cancelled.
    any_cancelled: bool,
    reserved: u32,
    under_way: Option<UnderWay>,
    /// Decode steps since the last join, counted as the router does, from 1.
    waiting_tokens: u32,
    live: usize,
    gauges: Gauges,
    noise: ChaCha8Rng,
}

/// Noise never makes a forward shorter than this share of its length.
const SHORTEST: f64 = 0.2;

impl Server {
    /// An idle server.
    pub fn new(model: ServerModel) -> Server {
        Server::with_noise(model, 0)
    }

    /// An idle server whose noise, where its model has any, is drawn from `seed`.
    pub fn with_noise(model: ServerModel, seed: u64) -> Server {
        Server {
            model,
            noise: ChaCha8Rng::seed_from_u64(seed),
            now: Seconds::ZERO,
            queue: VecDeque::new(),
            running: Vec::new(),
            joining: 0,
            rounds: 0,
            next_end: u64::MAX,
            kv_tokens: 0,
            only_ends: false,
            any_cancelled: false,
            reserved: 0,
            under_way: None,
            waiting_tokens: 0,
            live: 0,
            gauges: Gauges::default(),
        }
    }

    /// The same server, telling only the first and the last token of each job: much faster.
    pub fn only_ends(mut self) -> Server {
        self.only_ends = true;
        self
    }

    /// Takes a job in at `now`, which must not lie before the last call's. An idle server starts on
    /// it at once. Forwards that ended before `now` must have been taken by [`Server::advance`].
    pub fn submit(&mut self, now: Seconds, job: Job, out: &mut Output) -> Result<(), Refused> {
        self.now = self.now.max(now);
        if self.live >= self.model.max_concurrent_requests as usize {
            return Err(Refused::Overloaded);
        }
        if ServerModel::reservation(job.input_tokens, job.declared_output) > self.model.usable_budget() {
            return Err(Refused::TooLarge);
        }
        self.live += 1;
        self.queue.push_back(Queued { job, arrived: self.now, cancelled: false });
        self.gauges.queue_size = Some(self.gauges.queue_size.unwrap_or(0) + 1);
        if self.under_way.is_none() {
            self.begin_batch(out);
        }
        Ok(())
    }

    /// The client of a job is gone. In the queue it stays until it is popped; in the batch it leaves
    /// with the next forward. A job that is not there is no matter.
    pub fn cancel(&mut self, id: u64) {
        let queued = self.queue.iter_mut().find(|q| q.job.id == id && !q.cancelled).map(|q| &mut q.cancelled);
        let running = self.running.iter_mut().find(|r| r.id == id && !r.cancelled).map(|r| &mut r.cancelled);
        self.any_cancelled |= running.is_some();
        if let Some(cancelled) = queued.or(running) {
            *cancelled = true;
            self.live -= 1;
        }
    }

    /// When the next thing happens. `None`: idle.
    pub fn next_event(&self) -> Option<Seconds> {
        self.under_way.map(|work| work.ends)
    }

    /// Moves the clock to `now`: ends every forward that is over by then, and starts what follows.
    pub fn advance(&mut self, now: Seconds, out: &mut Output) {
        while let Some(over) = self.under_way.take_if(|work| work.ends <= now) {
            self.now = over.ends;
            match over.work {
                Work::Forward { kind, joined } => {
                    self.end_forward(kind, joined, over.ends - over.started, out);
                }
                Work::Between { decode_next } => self.go_on(decode_next, out),
            }
        }
        self.now = self.now.max(now);
    }

    /// The gauges as a scrape would see them now.
    pub fn gauges(&self) -> Gauges {
        self.gauges
    }

    /// Requests in queue and batch whose clients are still there.
    pub fn in_flight(&self) -> usize {
        self.live
    }

    /// When the forward under way began, if one is.
    pub fn computing_since(&self) -> Option<Seconds> {
        self.under_way.filter(|work| matches!(work.work, Work::Forward { .. })).map(|work| work.started)
    }

    /// The shard failed: every request in the batch is lost. Their names.
    pub fn fail_batch(&mut self, out: &mut Output) -> Vec<u64> {
        let lost: Vec<u64> = self.running.iter().filter(|r| !r.cancelled).map(|r| r.id).collect();
        self.live -= lost.len();
        self.running.clear();
        (self.joining, self.reserved, self.under_way) = (0, 0, None);
        (self.next_end, self.kv_tokens, self.any_cancelled) = (u64::MAX, 0, false);
        self.set_batch_gauges(0);
        self.begin_batch(out);
        lost
    }

    /// The model it follows.
    pub fn model(&self) -> &ServerModel {
        &self.model
    }

    fn end_forward(&mut self, kind: Forward, joined: bool, took: Seconds, out: &mut Output) {
        out.observations.push(Observation::Forward { kind, ended: self.now, took });
        let first = match (kind, self.model.admission) {
            // Without chunking the running batch stands still while joiners are prefilled.
            (Forward::Prefill, Admission::WaitingServed { .. }) => self.running.len() - self.joining,
            _ => 0,
        };
        if first == 0 {
            self.rounds += 1;
        } else {
            for joiner in &mut self.running[first..] {
                (joiner.began, joiner.ends) = (joiner.began - 1, joiner.ends - 1);
                self.next_end = self.next_end.min(joiner.ends);
            }
        }
        self.emit(first, out);
        self.joining = 0;
        if self.model.overhead > Seconds::ZERO {
            self.start(Work::Between { decode_next: joined }, self.model.overhead);
        } else {
            self.go_on(joined, out);
        }
    }

    /// Gives a token to every running sequence from the `first` on, and filters those that ended.
    fn emit(&mut self, first: usize, out: &mut Output) {
        let (now, rounds) = (self.now, self.rounds);
        let live = (self.running.len() - first) as u64;
        self.kv_tokens += live;
        let nobody_ends = rounds < self.next_end && !self.any_cancelled;
        if self.only_ends && nobody_ends && self.joining == 0 {
            out.tokens += live;
            return;
        }
        for sequence in &self.running[first..] {
            if sequence.cancelled {
                continue;
            }
            out.tokens += 1;
            let index = (rounds - sequence.began) as u32;
            let last = rounds == sequence.ends;
            if !self.only_ends || index == 1 || last {
                out.emissions.push(Emission { time: now, id: sequence.id, index, last });
            }
            if last {
                out.observations.push(Observation::Finished {
                    id: sequence.id,
                    queued: sequence.batched - sequence.arrived,
                    served: now - sequence.batched,
                });
            }
        }
        if nobody_ends {
            return;
        }
        let (mut reserved, mut live, mut kv_tokens) = (self.reserved, self.live, self.kv_tokens);
        let mut next_end = u64::MAX;
        self.running.retain(|sequence| {
            let ended = rounds == sequence.ends;
            if ended || sequence.cancelled {
                reserved -= sequence.reserved;
                live -= usize::from(ended && !sequence.cancelled);
                kv_tokens -= u64::from(sequence.input_tokens) + (rounds - sequence.began);
                return false;
            }
            next_end = next_end.min(sequence.ends);
            true
        });
        (self.reserved, self.live, self.kv_tokens) = (reserved, live, kv_tokens);
        (self.next_end, self.any_cancelled) = (next_end, false);
    }

    /// The top of the router's loop: joins what may join, else decodes. After a join it decodes
    /// without looking at the queue.
    fn go_on(&mut self, decode_next: bool, out: &mut Output) {
        if self.running.is_empty() {
            self.set_batch_gauges(0);
            self.begin_batch(out);
            return;
        }
        if decode_next {
            self.decode();
            return;
        }
        self.set_batch_gauges(self.running.len() as u32);
        if !self.join(out) {
            self.decode();
        }
    }

    fn set_batch_gauges(&mut self, size: u32) {
        self.gauges.batch_size = Some(size);
        self.gauges.batch_tokens = Some(if size == 0 { 0 } else { self.reserved });
    }

    fn decode(&mut self) {
        self.waiting_tokens += 1;
        let length = self.model.decode(self.running.len(), self.kv_tokens);
        self.start_forward(Forward::Decode, false, length);
    }

    fn start_forward(&mut self, kind: Forward, joined: bool, mut length: Seconds) {
        let deviations = &self.model.deviations;
        if deviations.drift != Seconds::ZERO && self.now >= deviations.drift_after {
            length = length + deviations.drift;
        }
        if deviations.noise > 0.0 {
            let normal: f64 = StandardNormal.sample(&mut self.noise);
            length = length * (1.0 + deviations.noise * normal).max(SHORTEST);
        }
        self.start(Work::Forward { kind, joined }, length);
    }

    fn start(&mut self, work: Work, length: Seconds) {
        self.under_way = Some(UnderWay { work, started: self.now, ends: self.now + length });
    }

    fn begin_batch(&mut self, out: &mut Output) {
        let most = self.most_joiners(0);
        if let Some(tokens) = self.take(None, most, self.model.max_prefill_tokens, None, out) {
            self.waiting_tokens = 1;
            self.start_forward(Forward::Prefill, false, self.model.prefill(tokens, 0));
        }
    }

    /// Sequences that may still join beside `running` ones, where the batch size is limited.
    fn most_joiners(&self, running: u32) -> usize {
        match (self.model.admission, self.model.max_batch_size) {
            (Admission::WaitingServed { .. }, Some(most)) => most.saturating_sub(running) as usize,
            _ => usize::MAX,
        }
    }

    /// Starts the prefill of those that may join the running batch. Whether there are any.
    fn join(&mut self, out: &mut Output) -> bool {
        let running = self.running.len();
        let (least, prefill_budget, reason) = match self.model.admission {
            Admission::Chunking => {
                (None, self.model.max_prefill_tokens.saturating_sub(running as u32), JoinReason::Chunking)
            }
            Admission::WaitingServed { max_waiting_tokens, .. }
                if self.waiting_tokens >= max_waiting_tokens =>
            {
                (None, self.model.max_prefill_tokens, JoinReason::WaitExceeded)
            }
            Admission::WaitingServed { ratio, .. } => {
                let least = (running as f64 * ratio).floor() as usize;
                (Some(least), self.model.max_prefill_tokens, JoinReason::Backpressure)
            }
        };
        // With a budget of nothing the router does not even ask, and leaves its gauge as it is.
        if prefill_budget == 0 || self.reserved >= self.model.usable_budget() {
            return false;
        }
        let most = self.most_joiners(running as u32);
        let Some(tokens) = self.take(least, most, prefill_budget, Some(reason), out) else { return false };
        self.waiting_tokens = 1;
        self.start_forward(Forward::Prefill, true, self.model.prefill(tokens, running));
        true
    }

    /// Takes waiting requests, in order, as long as they fit; the first that does not ends it. Their
    /// prompt tokens, or `None` where fewer than `least` fit, in which case all stay.
    fn take(
        &mut self,
        least: Option<usize>,
        most: usize,
        prefill_budget: u32,
        reason: Option<JoinReason>,
        out: &mut Output,
    ) -> Option<u32> {
        let least = least.unwrap_or(1).max(1);
        let (mut requests, mut tokens, mut reserved) = (0, 0_u32, self.reserved);
        if self.queue.len() >= least {
            while requests < most {
                let Some(next) = self.queue.get(requests) else { break };
                if next.cancelled {
                    self.queue.remove(requests);
                    out.observations.push(Observation::Dropped);
                    continue;
                }
                let need = ServerModel::reservation(next.job.input_tokens, next.job.declared_output);
                // A prompt larger than the whole budget is prefilled alone.
                let too_long = requests > 0 && tokens + next.job.input_tokens > prefill_budget;
                if reserved + need > self.model.usable_budget() || too_long {
                    break;
                }
                (requests, tokens, reserved) =
                    (requests + 1, tokens + next.job.input_tokens, reserved + need);
            }
        }
        let taken = if requests >= least { requests } else { 0 };
        for queued in self.queue.drain(..taken) {
            let tokens = queued.job.output_tokens.clamp(1, queued.job.declared_output.max(1));
            let ends = self.rounds + u64::from(tokens);
            self.next_end = self.next_end.min(ends);
            self.kv_tokens += u64::from(queued.job.input_tokens);
            self.running.push(Running {
                id: queued.job.id,
                began: self.rounds,
                ends,
                input_tokens: queued.job.input_tokens,
                reserved: ServerModel::reservation(queued.job.input_tokens, queued.job.declared_output),
                arrived: queued.arrived,
                batched: self.now,
                cancelled: false,
            });
        }
        self.gauges.queue_size = Some(self.queue.len() as u32);
        if taken == 0 {
            return None;
        }
        self.joining = taken;
        self.reserved = reserved;
        out.observations.push(Observation::Joined { requests: taken as u32, reason });
        Some(tokens)
    }
}

#[cfg(test)]
mod tests;
