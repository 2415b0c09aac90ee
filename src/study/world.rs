//! A deployment in simulated time: replicas, balancer, client and scraper, recording what a run records.

use crate::analyze::Measured;
use crate::batching::{Completed, Counters, Gauges, Job, Pool, ServerModel};
use crate::measurement::{
    Event, FailureKind, Phase, RequestOutcome, Sample, Series, Source, StepIndex, StepMark,
};
use crate::plan::{PlannedRequest, Schedule, Step, StepWork};
use crate::units::{Replicas, Seconds};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// How often every replica is scraped.
const SCRAPE_EVERY: f64 = 1.0;
/// The longest that a step's last requests are waited for.
const GRACE: f64 = 60.0;

/// A deployment under load.
pub(super) struct World {
    pool: Pool,
    replicas: Replicas,
    declared_output: Option<u32>,
    now: f64,
    next_scrape: f64,
    sent: Vec<Sent>,
    samples: Vec<Sample>,
    events: Vec<Event>,
}

/// What the client knows of a request, in the order of sending.
struct Sent {
    step: StepIndex,
    phase: Phase,
    input_tokens: u32,
}

impl World {
    /// Idle replicas. Their noise is drawn from `seed`.
    pub(super) fn new(
        model: &ServerModel,
        replicas: Replicas,
        declared_output: Option<u32>,
        seed: u64,
    ) -> World {
        World {
            pool: Pool::new(model, replicas, seed),
            replicas,
            declared_output,
            now: 0.0,
            next_scrape: 0.0,
            sent: Vec::new(),
            samples: Vec::new(),
            events: Vec::new(),
        }
    }

    /// How long it has been under load or draining.
    pub(super) fn now(&self) -> Seconds {
        Seconds(self.now)
    }

    /// Drives a step of an open loop, and waits until its requests have ended.
    pub(super) fn drive(&mut self, step: Step, schedule: &Schedule) {
        let start = self.now;
        let mark = StepMark {
            index: step.index,
            load: step.load,
            start: Seconds(start),
            hold_start: Seconds(start) + step.warm_up,
            end: Seconds(start) + step.length,
        };
        self.events.push(Event::StepStarted {
            time: mark.start,
            index: mark.index,
            load: mark.load,
            hold_start: mark.hold_start,
            planned_end: mark.end,
        });
        let first = self.sent.len() as u64;
        if let StepWork::Arrivals(arrivals) = schedule.work(&step) {
            for (offset, request) in arrivals {
                self.send(&mark, mark.start + offset, &request);
            }
        }
        self.advance(mark.end.0);
        self.events.push(Event::StepEnded { step: mark, ids: Some((first, self.sent.len() as u64)) });
        while self.pool.next_event().is_some() && self.now < mark.end.0 + GRACE {
            self.advance(self.now + SCRAPE_EVERY);
        }
    }

    fn send(&mut self, mark: &StepMark, time: Seconds, request: &PlannedRequest) {
        self.advance(time.0);
        let input_tokens = request.input.unwrap_or(1);
        let id = self.sent.len() as u64;
        let phase = if time < mark.hold_start { Phase::WarmUp } else { Phase::Hold };
        self.sent.push(Sent { step: mark.index, phase, input_tokens });
        let declared_output = self.declared_output.unwrap_or(request.output);
        let output_tokens = request.output.min(declared_output);
        self.pool.submit(time, Job { id, input_tokens, declared_output, output_tokens });
    }

    fn advance(&mut self, time: f64) {
        while self.next_scrape <= time {
            self.pool.advance(Seconds(self.next_scrape));
            self.scrape();
            self.next_scrape += SCRAPE_EVERY;
        }
        self.pool.advance(Seconds(time));
        self.now = self.now.max(time);
    }

    fn scrape(&mut self) {
        let time = Seconds(self.next_scrape);
        let replicas = (0..self.replicas.0).zip(self.pool.servers().iter().zip(self.pool.counters()));
        for (replica, (server, counters)) in replicas {
            self.samples.push(sample(time, replica, &server.gauges(), counters));
        }
    }

    /// All that was measured, with the outcomes of [`World::outcomes`].
    pub(super) fn measured<'a>(
        &'a self,
        requests: &'a [RequestOutcome],
        gaps: &'a BTreeMap<StepIndex, Histogram<u64>>,
    ) -> Measured<'a> {
        Measured { requests, samples: &self.samples, events: &self.events, gaps, replicas: self.replicas }
    }

    /// What came of every request so far.
    pub(super) fn outcomes(&self) -> Vec<RequestOutcome> {
        let outcome = |((completed, in_flight), sent): ((&Completed, &bool), &Sent)| RequestOutcome {
            id: completed.id,
            step: sent.step,
            phase: sent.phase,
            scheduled: completed.arrived,
            sent: Some(completed.arrived),
            first_token: completed.first_token,
            last_token: completed.finished,
            ended: completed.finished.or(Some(self.now())),
            input_tokens: Some(sent.input_tokens),
            output_tokens: completed.finished.map(|_| completed.output_tokens),
            chunks: completed.output_tokens,
            status: None,
            error: match completed.finished {
                Some(_) => None,
                None if *in_flight => Some(FailureKind::Stopped),
                None => Some(FailureKind::Overloaded),
            },
            replica: None,
        };
        let requests = self.pool.results().iter().zip(self.pool.in_flight());
        requests.zip(&self.sent).map(outcome).collect()
    }
}

/// A scrape as the room `observe` would make it of a TGI.
fn sample(time: Seconds, replica: u32, gauges: &Gauges, counters: &Counters) -> Sample {
    let mut sample = Sample::new(time, Seconds::ZERO, Source::Server, replica);
    let count = |count: u64| Some(count as f64);
    for (series, value) in [
        (Series::QueueSize, gauges.queue_size.map(f64::from)),
        (Series::BatchSize, gauges.batch_size.map(f64::from)),
        (Series::BatchTokens, gauges.batch_tokens.map(f64::from)),
        (Series::DecodeCount, count(counters.decodes)),
        (Series::DecodeSeconds, Some(counters.decode_seconds)),
        (Series::PrefillCount, count(counters.prefills)),
        (Series::PrefillSeconds, Some(counters.prefill_seconds)),
        (Series::JoinedRequests, count(counters.joined)),
        (Series::TokenEvents, count(counters.tokens)),
        (Series::OutputRequests, count(counters.finished)),
        (Series::Successes, count(counters.finished)),
        (Series::ConcatChunking, count(counters.joined_chunking)),
        (Series::ConcatBackpressure, count(counters.joined_backpressure)),
        (Series::ConcatWaitExceeded, count(counters.joined_wait_exceeded)),
    ] {
        sample.set(series, value);
    }
    sample
}
