//! Drives steps: open loop on a schedule, closed loop at a level, over one pool of workers.

use super::pool::{Pool, Work};
use super::request::{Answer, Target};
use super::{DriveError, PromptMaker, Sink, pacer};
use crate::measurement::{Event, FailureKind, Load, Phase, RequestOutcome, RunClock, StepMark};
use crate::plan::{RequestSize, SizeSampler, Step};
use crate::units::Seconds;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What is still allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopLevel {
    /// Everything.
    Run,
    /// No new requests; those in flight may end.
    NoNewRequests,
    /// Nothing: requests in flight are cut off.
    Abort,
}

/// What an engine needs.
pub struct EngineConfig {
    /// The server.
    pub target: Target,
    /// Its prompts.
    pub prompts: PromptMaker,
    /// The sizes of closed-loop requests, in the order they are sent.
    pub sizes: SizeSampler,
    /// Most requests in flight.
    pub max_in_flight: u32,
    /// The run's clock.
    pub clock: RunClock,
    /// Changes of what is allowed.
    pub stop: watch::Receiver<StopLevel>,
}

/// A step as it was driven.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepDriven {
    /// Its true boundaries.
    pub mark: StepMark,
    /// Whether it was stopped before its planned end.
    pub cut_short: bool,
}

/// The running engine.
pub struct Engine {
    shared: Arc<Shared>,
    pool: Pool,
}

/// How often waiting loops look again.
const POLL: Duration = Duration::from_millis(5);
/// The longest that a worker waits for work before it lets goose look at its kill switch.
const IDLE_TURN: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
struct Job {
    id: u64,
    step: u32,
    phase: Phase,
    scheduled: Seconds,
    size: RequestSize,
    closed_loop: bool,
}

struct Shared {
    target: Target,
    prompts: PromptMaker,
    clock: RunClock,
    sink: Arc<dyn Sink>,
    stop: watch::Receiver<StopLevel>,
    sender: async_channel::Sender<Job>,
    jobs: async_channel::Receiver<Job>,
    max_in_flight: u64,
    /// Requests dispatched and not ended.
    outstanding: AtomicU64,
    next_id: AtomicU64,
    workers_up: AtomicUsize,
    late_starts: AtomicU64,
    closed: Mutex<ClosedLoop>,
}

/// The state of the closed loop across its steps, so that a change of level neither drops nor
/// doubles clients.
struct ClosedLoop {
    sizes: SizeSampler,
    step: Option<StepMark>,
    level: u32,
    active: u32,
}

impl Engine {
    /// Starts the workers and waits until they are up. Outcomes go to `sink`.
    ///
    /// # Errors
    /// Workers that cannot be started.
    pub async fn start(config: EngineConfig, sink: Arc<dyn Sink>) -> Result<Engine, DriveError> {
        let (sender, jobs) = async_channel::unbounded();
        let host = config.target.generate_url().to_string();
        let shared = Arc::new(Shared {
            target: config.target,
            prompts: config.prompts,
            clock: config.clock,
            sink,
            stop: config.stop,
            sender,
            jobs,
            max_in_flight: u64::from(config.max_in_flight),
            outstanding: AtomicU64::new(0),
            next_id: AtomicU64::new(0),
            workers_up: AtomicUsize::new(0),
            late_starts: AtomicU64::new(0),
            closed: Mutex::new(ClosedLoop { sizes: config.sizes, step: None, level: 0, active: 0 }),
        });
        let workers = config.max_in_flight as usize;
        let pool = Pool::start(workers, &host, work(&shared))?;
        while shared.workers_up.load(Ordering::Relaxed) < workers {
            if pool.is_gone() {
                return Err(pool
                    .stop()
                    .await
                    .err()
                    .unwrap_or(DriveError::Pool("they ended at once".to_owned())));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Engine { shared, pool })
    }

    /// Requests dispatched and not ended.
    pub fn in_flight(&self) -> u64 {
        self.shared.outstanding.load(Ordering::Relaxed)
    }

    /// Drives a step from now to its end. `arrivals` are the times, from the start of the step, and
    /// sizes of an open-loop step; a closed-loop step draws its own.
    pub async fn drive(&self, step: Step, arrivals: Vec<(Seconds, RequestSize)>) -> StepDriven {
        let shared = &self.shared;
        let start = shared.clock.now();
        let planned = StepMark {
            index: step.index,
            load: step.load,
            start,
            hold_start: start + step.warm_up,
            end: start + step.length,
        };
        shared.sink.event(Event::StepStarted {
            time: start,
            index: planned.index,
            load: planned.load,
            hold_start: planned.hold_start,
            planned_end: planned.end,
        });
        match step.load {
            Load::Rate(_) => self.pace(planned, arrivals),
            Load::Concurrency(level) => shared.set_level(planned, level),
        }
        let cut_short = !shared.run_until(planned.end).await;
        let mark = if cut_short { StepMark { end: shared.clock.now(), ..planned } } else { planned };
        shared.report_late_starts();
        shared.sink.event(Event::StepEnded { step: mark });
        StepDriven { mark, cut_short }
    }

    /// Lets the clients of a closed loop end after their requests in flight.
    pub fn close_loop(&self) {
        let mut closed = self.shared.closed();
        closed.step = None;
        closed.level = 0;
    }

    /// Waits until nothing is in flight, at most until `deadline`. Whether nothing is.
    pub async fn drain(&self, deadline: Seconds) -> bool {
        while self.in_flight() > 0 {
            let aborted = *self.shared.stop.borrow() == StopLevel::Abort;
            if aborted || self.shared.clock.now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Ends the workers. Whatever is still in flight must have been told to stop before; what
    /// was dispatched and never picked up is recorded as stopped.
    ///
    /// # Errors
    /// Workers that did not end, or ended before they were told to.
    pub async fn shutdown(self) -> Result<(), DriveError> {
        let shared = &self.shared;
        shared.jobs.close();
        let patience = shared.clock.now() + Seconds(2.0);
        while self.in_flight() > 0 && shared.clock.now() < patience {
            while let Ok(job) = shared.jobs.try_recv() {
                shared.finish(job, None);
            }
            tokio::time::sleep(POLL).await;
        }
        self.pool.stop().await
    }

    fn pace(&self, step: StepMark, arrivals: Vec<(Seconds, RequestSize)>) {
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || {
            let due = arrivals.into_iter().map(|(offset, size)| (step.start + offset, size));
            let level = shared.stop.clone();
            let stopped = || *level.borrow() != StopLevel::Run;
            pacer::pace(shared.clock, due, stopped, |scheduled, size| {
                shared.dispatch(&step, scheduled, size, false);
            });
        });
    }
}

impl Shared {
    fn closed(&self) -> MutexGuard<'_, ClosedLoop> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `time`. Whether it came without a stop.
    async fn run_until(&self, time: Seconds) -> bool {
        let mut stop = self.stop.clone();
        let sleep = tokio::time::sleep(self.clock.until(time));
        tokio::select! {
            () = sleep => true,
            _ = stop.wait_for(|level| *level != StopLevel::Run) => false,
        }
    }

    /// Resolves once requests in flight must be cut off.
    async fn aborted(&self) {
        let mut stop = self.stop.clone();
        if stop.wait_for(|level| *level == StopLevel::Abort).await.is_err() {
            // The side that could order a stop is gone, so none will come.
            std::future::pending::<()>().await;
        }
    }

    fn job(&self, step: &StepMark, scheduled: Seconds, size: RequestSize, closed_loop: bool) -> Job {
        let phase = if scheduled < step.hold_start { Phase::WarmUp } else { Phase::Hold };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Job { id, step: step.index, phase, scheduled, size, closed_loop }
    }

    fn dispatch(&self, step: &StepMark, scheduled: Seconds, size: RequestSize, closed_loop: bool) {
        let job = self.job(step, scheduled, size, closed_loop);
        if self.outstanding.fetch_add(1, Ordering::Relaxed) >= self.max_in_flight {
            self.late_starts.fetch_add(1, Ordering::Relaxed);
        }
        if let Err(error) = self.sender.try_send(job) {
            // The channel is closed: the run is over, and the request was never sent.
            self.finish(error.into_inner(), None);
        }
    }

    fn report_late_starts(&self) {
        let late_starts = self.late_starts.swap(0, Ordering::Relaxed);
        if late_starts > 0 {
            self.sink.event(Event::PoolExhausted { time: self.clock.now(), late_starts });
        }
    }

    /// Brings the closed loop to `level` clients for `step`; surplus clients end after their request.
    fn set_level(&self, step: StepMark, level: u32) {
        let mut closed = self.closed();
        closed.step = Some(step);
        closed.level = level;
        let now = self.clock.now();
        while closed.active < level {
            closed.active += 1;
            let size = closed.sizes.sample();
            self.dispatch(&step, now, size, true);
        }
    }

    /// The next request of a client of the closed loop that is free now, if it goes on.
    fn next_of_loop(&self) -> Option<Job> {
        let now = self.clock.now();
        let mut closed = self.closed();
        let goes_on = *self.stop.borrow() == StopLevel::Run && closed.active <= closed.level;
        if let Some(step) = closed.step.filter(|_| goes_on) {
            let size = closed.sizes.sample();
            self.outstanding.fetch_add(1, Ordering::Relaxed);
            Some(self.job(&step, now, size, true))
        } else {
            closed.active = closed.active.saturating_sub(1);
            None
        }
    }

    /// Records how a request came out. `None`: it was never sent.
    fn finish(&self, job: Job, answer: Option<Answer>) {
        let mut outcome = RequestOutcome {
            id: job.id,
            step: job.step,
            phase: job.phase,
            scheduled: job.scheduled,
            sent: None,
            first_token: None,
            last_token: None,
            input_tokens: Some(job.size.input),
            output_tokens: None,
            chunks: 0,
            status: None,
            error: Some(FailureKind::Stopped),
            replica: None,
        };
        let mut gaps_us = Vec::new();
        if let Some(answer) = answer {
            outcome.sent = Some(answer.sent);
            outcome.first_token = answer.first_token;
            outcome.last_token = answer.last_event;
            outcome.input_tokens = answer.input_tokens.or(outcome.input_tokens);
            outcome.output_tokens = answer.output_tokens;
            outcome.chunks = answer.chunks;
            outcome.status = answer.status;
            outcome.error = answer.failure.as_ref().map(|failure| failure.kind);
            gaps_us = answer.gaps_us;
            if let Some(failure) = answer.failure {
                tracing::debug!(
                    id = job.id,
                    kind = failure.kind.word(),
                    message = failure.message,
                    "request failed"
                );
            }
        }
        self.sink.request(outcome, gaps_us);
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// Handles one job to its end, and in closed loop those that follow it.
    async fn handle(&self, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            let closed_loop = job.closed_loop;
            let ask = self.target.ask(self.clock, &self.prompts, job.id, job.size, self.aborted());
            // A panic must not take the worker and the outcome with it.
            let answer = AssertUnwindSafe(ask).catch_unwind().await.ok();
            self.finish(job, answer);
            next = if closed_loop { self.next_of_loop() } else { None };
        }
    }
}

/// What each worker does in one turn.
fn work(shared: &Arc<Shared>) -> Work {
    let shared = Arc::clone(shared);
    Arc::new(move || {
        let shared = Arc::clone(&shared);
        Box::pin(async move {
            if shared.workers_up.load(Ordering::Relaxed) < shared.max_in_flight as usize {
                shared.workers_up.fetch_add(1, Ordering::Relaxed);
            }
            tokio::select! {
                job = shared.jobs.recv() => match job {
                    Ok(job) => shared.handle(job).await,
                    // Closed: wait for the kill switch without spinning.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
                () = tokio::time::sleep(IDLE_TURN) => {}
            }
        })
    })
}
