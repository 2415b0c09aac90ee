//! Drives steps: open loop on a schedule, closed loop at a level, over one pool of workers.

use super::heartbeat::heartbeat;
use super::pool::{Pool, Work};
use super::request::{Answer, Target};
use super::watchdog::Watchdog;
use super::{DriveError, PromptMaker, Sink, pacer};
use crate::measurement::{Event, FailureKind, Load, Phase, RequestOutcome, RunClock, StepMark};
use crate::plan::{PlannedRequest, RequestSampler, Step, StepWork};
use crate::units::Seconds;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

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
    /// Most requests in flight; workers are added as needed up to this.
    pub max_in_flight: u32,
    /// The number of the first request.
    pub first_id: u64,
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
    grower: JoinHandle<Pool>,
    heartbeat: JoinHandle<()>,
}

/// How often waiting loops look again.
const POLL: Duration = Duration::from_millis(5);
/// The longest that a worker waits for work before it lets goose look at its kill switch.
const IDLE_TURN: Duration = Duration::from_millis(500);
/// How long a closed-loop client waits after a failure, doubling with each in a row.
const RETRY_PAUSE_FIRST: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MOST: Duration = Duration::from_secs(1);
/// Workers at the start.
const WORKERS_AT_FIRST: usize = 128;

#[derive(Debug, Clone)]
struct Job {
    id: u64,
    step: u32,
    phase: Phase,
    scheduled: Seconds,
    request: PlannedRequest,
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
    max_in_flight: usize,
    /// Requests dispatched and not ended.
    outstanding: AtomicUsize,
    next_id: AtomicU64,
    workers_up: Arc<AtomicUsize>,
    /// Workers that were asked for.
    workers_wanted: AtomicUsize,
    /// Tells that more workers are wanted, or that there will be no more work.
    grow: Notify,
    late_starts: AtomicU64,
    watchdog: Watchdog,
    closed: Mutex<ClosedLoop>,
}

/// The state of the closed loop across its steps, so that a change of level neither drops nor
/// doubles clients.
#[derive(Default)]
struct ClosedLoop {
    step: Option<(StepMark, RequestSampler)>,
    level: u32,
    active: u32,
}

impl Engine {
    /// Starts the first workers and waits until they are up. Outcomes go to `sink`.
    ///
    /// # Errors
    /// Workers that cannot be started.
    pub async fn start(config: EngineConfig, sink: Arc<dyn Sink>) -> Result<Engine, DriveError> {
        let (sender, jobs) = async_channel::unbounded();
        let host = config.target.generate_url().to_string();
        let max_in_flight = (config.max_in_flight as usize).max(1);
        let at_first = max_in_flight.min(WORKERS_AT_FIRST);
        let watchdog = Watchdog::start(config.clock, config.target.timeout());
        let shared = Arc::new(Shared {
            target: config.target,
            prompts: config.prompts,
            clock: config.clock,
            sink,
            stop: config.stop,
            sender,
            jobs,
            max_in_flight,
            outstanding: AtomicUsize::new(0),
            next_id: AtomicU64::new(config.first_id),
            workers_up: Arc::default(),
            workers_wanted: AtomicUsize::new(at_first),
            grow: Notify::new(),
            late_starts: AtomicU64::new(0),
            watchdog,
            closed: Mutex::default(),
        });
        let mut pool = Pool::new(&host, work(&shared), Arc::clone(&shared.workers_up));
        pool.grow(at_first).await?;
        let grower = tokio::spawn(grow_as_wanted(pool, Arc::clone(&shared)));
        let in_flight = Arc::clone(&shared);
        let heartbeat = tokio::spawn(heartbeat(shared.clock, Arc::clone(&shared.sink), move || {
            in_flight.outstanding.load(Ordering::Relaxed)
        }));
        Ok(Engine { shared, grower, heartbeat })
    }

    /// Requests dispatched and not ended.
    pub fn in_flight(&self) -> usize {
        self.shared.outstanding.load(Ordering::Relaxed)
    }

    /// Drives a step and its work from now to its end.
    pub async fn drive(&self, step: Step, work: StepWork) -> StepDriven {
        let shared = &self.shared;
        if let Load::Concurrency(level) = step.load {
            shared.reserve(level).await;
        }
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
        let first_id = shared.next_id.load(Ordering::Relaxed);
        let paced = match (work, step.load) {
            (StepWork::Clients(requests), Load::Concurrency(level)) => {
                shared.set_level(planned, *requests, level);
                None
            }
            (StepWork::Clients(_), _) => None,
            (StepWork::Arrivals(arrivals), _) => Some(self.pace(planned, arrivals)),
        };
        let cut_short = !shared.run_until(planned.end).await;
        // Every arrival that was due is dispatched before the step counts as over.
        if let Some(paced) = paced {
            let _ = paced.await;
        }
        let mark = if cut_short { StepMark { end: shared.clock.now(), ..planned } } else { planned };
        shared.report_late_starts();
        let ids = Some((first_id, shared.next_id.load(Ordering::Relaxed)));
        shared.sink.event(Event::StepEnded { step: mark, ids });
        StepDriven { mark, cut_short }
    }

    /// Lets the clients of a closed loop end after their requests in flight.
    pub fn close_loop(&self) {
        let mut closed = self.shared.closed();
        closed.step = None;
        closed.level = 0;
    }

    /// Cuts off what is in flight and waits until it is.
    pub async fn cut_off(&self) {
        let patience = self.shared.clock.now() + Seconds(5.0);
        while self.in_flight() > 0 && self.shared.clock.now() < patience {
            // What waits for a worker begins only now, so once is not enough.
            self.shared.watchdog.cut_off();
            tokio::time::sleep(POLL).await;
        }
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
                shared.finish(&job, None);
            }
            if shared.is_aborted() {
                shared.watchdog.cut_off();
            }
            tokio::time::sleep(POLL).await;
        }
        self.heartbeat.abort();
        shared.report_late_starts();
        // With the channel closed this ends the grower, which hands the pool back.
        shared.grow.notify_one();
        match self.grower.await {
            Ok(pool) => pool.stop().await,
            Err(panicked) => Err(DriveError::Pool(panicked.to_string())),
        }
    }

    /// Dispatches arrivals when they are due; the receiver resolves after the last.
    fn pace(
        &self,
        step: StepMark,
        arrivals: Box<dyn Iterator<Item = (Seconds, PlannedRequest)> + Send>,
    ) -> oneshot::Receiver<()> {
        let shared = Arc::clone(&self.shared);
        let (done, paced) = oneshot::channel();
        std::thread::spawn(move || {
            let due = arrivals.map(|(offset, request)| (step.start + offset, request));
            let level = shared.stop.clone();
            let stopped = || *level.borrow() != StopLevel::Run;
            pacer::pace(shared.clock, due, stopped, |scheduled, request| {
                shared.dispatch(&step, scheduled, request, false);
            });
            drop(done);
        });
        paced
    }
}

/// Adds workers whenever more are wanted, until there is no more work.
async fn grow_as_wanted(mut pool: Pool, shared: Arc<Shared>) -> Pool {
    loop {
        shared.grow.notified().await;
        if shared.jobs.is_closed() {
            return pool;
        }
        let (up, wanted) =
            (shared.workers_up.load(Ordering::Acquire), shared.workers_wanted.load(Ordering::Acquire));
        if wanted > up
            && let Err(error) = pool.grow(wanted - up).await
        {
            shared.workers_wanted.store(up, Ordering::Release);
            let message = format!("no more workers could be added to {up}: {error}");
            shared.sink.event(Event::Remark { time: shared.clock.now(), message });
        }
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

    fn is_aborted(&self) -> bool {
        *self.stop.borrow() == StopLevel::Abort
    }

    /// Asks for as many workers as twice `needed`, up to the limit, once half of them are busy.
    fn want_workers(&self, needed: usize) {
        if needed * 2 <= self.workers_wanted.load(Ordering::Relaxed) {
            return;
        }
        let wanted = (needed * 2).min(self.max_in_flight);
        if self.workers_wanted.fetch_max(wanted, Ordering::AcqRel) < wanted {
            self.grow.notify_one();
        }
    }

    /// Waits until there are workers for `level` clients, as far as the limit allows.
    async fn reserve(&self, level: u32) {
        let needed = (level as usize).min(self.max_in_flight);
        if self.workers_up.load(Ordering::Acquire) >= needed {
            return;
        }
        // The clients of the step before must not go on under its name in the meantime.
        self.closed().step = None;
        self.want_workers(level as usize);
        let mut patience = 1000;
        while self.workers_up.load(Ordering::Acquire) < needed && patience > 0 {
            tokio::time::sleep(POLL).await;
            patience -= 1;
        }
    }

    fn job(&self, step: &StepMark, scheduled: Seconds, request: PlannedRequest, closed_loop: bool) -> Job {
        let phase = if scheduled < step.hold_start { Phase::WarmUp } else { Phase::Hold };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Job { id, step: step.index, phase, scheduled, request, closed_loop }
    }

    fn dispatch(&self, step: &StepMark, scheduled: Seconds, request: PlannedRequest, closed_loop: bool) {
        let job = self.job(step, scheduled, request, closed_loop);
        let busy = self.outstanding.fetch_add(1, Ordering::Relaxed);
        if busy >= self.workers_up.load(Ordering::Relaxed) {
            self.late_starts.fetch_add(1, Ordering::Relaxed);
        }
        self.want_workers(busy + 1);
        if let Err(error) = self.sender.try_send(job) {
            // The channel is closed: the run is over, and the request was never sent.
            self.finish(&error.into_inner(), None);
        }
    }

    fn report_late_starts(&self) {
        let late_starts = self.late_starts.swap(0, Ordering::Relaxed);
        if late_starts > 0 {
            self.sink.event(Event::PoolExhausted { time: self.clock.now(), late_starts });
        }
    }

    /// Brings the closed loop to `level` clients for `step`; surplus clients end after their request.
    fn set_level(&self, step: StepMark, mut requests: RequestSampler, level: u32) {
        let mut closed = self.closed();
        closed.level = level;
        let now = self.clock.now();
        while closed.active < level {
            closed.active += 1;
            self.dispatch(&step, now, requests.sample(), true);
        }
        closed.step = Some((step, requests));
    }

    /// The next request of a client of the closed loop that is free now, if it goes on.
    fn next_of_loop(&self) -> Option<Job> {
        let now = self.clock.now();
        let mut closed = self.closed();
        let goes_on = *self.stop.borrow() == StopLevel::Run && closed.active <= closed.level;
        if let Some((step, requests)) = closed.step.as_mut().filter(|_| goes_on) {
            let (step, request) = (*step, requests.sample());
            self.outstanding.fetch_add(1, Ordering::Relaxed);
            Some(self.job(&step, now, request, true))
        } else {
            closed.active = closed.active.saturating_sub(1);
            None
        }
    }

    /// Records how a request came out. `None`: it was never sent.
    fn finish(&self, job: &Job, answer: Option<Answer>) {
        let mut outcome = RequestOutcome {
            id: job.id,
            step: job.step,
            phase: job.phase,
            scheduled: job.scheduled,
            sent: None,
            first_token: None,
            last_token: None,
            ended: Some(self.clock.now()),
            input_tokens: job.request.input,
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
            outcome.ended = Some(answer.ended);
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
        let _landed = Landed(&self.outstanding);
        self.sink.request(outcome, gaps_us);
    }

    /// Handles one job to its end, and in closed loop those that follow it.
    async fn handle(&self, first: Job) {
        let mut next = Some(first);
        let mut pause = RETRY_PAUSE_FIRST;
        while let Some(job) = next {
            if self.is_aborted() {
                self.finish(&job, None);
                return;
            }
            let closed_loop = job.closed_loop;
            let ask = self.target.ask(self.clock, &self.prompts, job.id, &job.request, &self.watchdog);
            // A panic must not take the worker and the outcome with it.
            let answer =
                AssertUnwindSafe(ask).catch_unwind().await.unwrap_or_else(|panic| self.panicked(&*panic));
            let failed = answer.failure.is_some();
            self.finish(&job, Some(answer));
            if closed_loop && failed {
                self.rest(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE_MOST);
            } else {
                pause = RETRY_PAUSE_FIRST;
            }
            next = if closed_loop { self.next_of_loop() } else { None };
        }
    }

    /// What comes of a request in which calibrate itself failed.
    fn panicked(&self, panic: &(dyn std::any::Any + Send)) -> Answer {
        let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        let time = self.clock.now();
        let message = format!("calibrate failed in a request, which is a bug: {said}");
        self.sink.event(Event::Remark { time, message: message.clone() });
        Answer::failed(time, FailureKind::ClientFault, message)
    }

    /// A client whose request failed waits a little: one that is refused at once would otherwise do
    /// nothing but ask again.
    async fn rest(&self, pause: Duration) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|level| *level != StopLevel::Run) => {}
        }
    }
}

/// Counts a request as ended when this is dropped, also by a panic.
struct Landed<'a>(&'a AtomicUsize);

impl Drop for Landed<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What each worker does in one turn.
fn work(shared: &Arc<Shared>) -> Work {
    let shared = Arc::clone(shared);
    Arc::new(move || {
        let shared = Arc::clone(&shared);
        Box::pin(async move {
            tokio::select! {
                job = shared.jobs.recv() => match job {
                    Ok(job) => {
                        // A panic, told of where it happens, costs no worker.
                        let _ = AssertUnwindSafe(shared.handle(job)).catch_unwind().await;
                    }
                    // Closed: wait for the kill switch without spinning.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
                () = tokio::time::sleep(IDLE_TURN) => {}
            }
        })
    })
}
