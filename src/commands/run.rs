//! `calibrate run`: plan, drive, observe, record; then derive from the record what it tells.

pub(super) mod access;
pub(super) mod cluster;
pub(crate) mod limits;
mod live;
mod load;
mod resume;
mod safety;
mod setup;
mod signals;
mod view;

use super::derive;
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, Progress, RunArgs};
use crate::drive::{StepDriven, StopLevel};
use crate::measurement::Event;
use crate::plan::{Next, Plan, Step};
use crate::recommend::Demand;
use crate::record::{self, RunState};
use crate::scenario::Scenario;
use crate::units::{Replicas, Seconds};
pub(crate) use live::Live;

use anyhow::anyhow;
use resume::Earlier;
use setup::Setup;
pub(super) use setup::{reach, sources_of, start_server, unreached};
pub(super) use signals::listen;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use view::History;

/// How long requests in flight may take to end after a step: so long at least, and so many times
/// what one request takes alone.
const GRACE_LEAST: Seconds = Seconds(30.0);
const GRACE_LATENCIES: f64 = 6.0;
/// How long after the user's Ctrl-C.
const GRACE_INTERRUPTED: Seconds = Seconds(10.0);
/// A wait of more than this is told of.
const NOTICED: Duration = Duration::from_secs(5);
/// How often the live view is brought up to date.
const REFRESH: Duration = Duration::from_millis(250);

/// Runs a calibration.
pub(super) fn run(arguments: RunArgs, console: Console) -> Result<Exit, Failure> {
    let yes = arguments.yes;
    let (scenario, earlier) = match arguments.resume.clone() {
        Some(run) => resume::read(run, &arguments).map(|(scenario, earlier)| (scenario, Some(earlier)))?,
        None => (setup::scenario(arguments)?, None),
    };
    derive::names(&scenario.cluster, scenario.gpus_per_replica).validate().or_exit(Exit::Usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Failed)?;
    let (stop, stop_changes) = watch::channel(StopLevel::Run);
    let stop = Arc::new(stop);
    signals::listen(Arc::clone(&stop))?;
    let outcome = runtime.block_on(measure(scenario, earlier, yes, console, stop, stop_changes));
    // A stream that still hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    let (directory, ended) = outcome?;
    let derive = || derive::derive(&directory, &Demand::default());
    let derived = console.during("deriving what the record tells", derive).or_exit(Exit::Failed)?;
    derived.show(&directory, console);
    Ok(match ended {
        Ended::Interrupted => Exit::Interrupted,
        Ended::Failed(reason) => {
            console.warn(&format!("the run was cut off: {reason}"));
            Exit::Failed
        }
        Ended::Complete => derived.exit(),
    })
}

/// How the load came to its end.
pub(super) enum Ended {
    Complete,
    Interrupted,
    Failed(String),
}

/// Measures, on a workload in a cluster where the scenario names one: that is held still meanwhile, and left
/// as it was found whatever happens.
pub(super) async fn measure(
    scenario: Scenario,
    earlier: Option<Earlier>,
    yes: bool,
    console: Console,
    stop: Arc<watch::Sender<StopLevel>>,
    stop_changes: watch::Receiver<StopLevel>,
) -> Result<(PathBuf, Ended), Failure> {
    let directory = earlier.as_ref().map_or_else(|| cluster::directory(&scenario), |e| e.directory.clone());
    if earlier.is_none() {
        record::must_be_free(&directory).or_exit(Exit::Usage)?;
    }
    let found = cluster::Found::look(&scenario, directory, yes, console);
    let Some(found) = unless_interrupted(&stop_changes, found).await? else {
        return Box::pin(drive(scenario, None, earlier, console, stop, stop_changes)).await;
    };
    let held = found.hold().await?;
    let interrupts = stop_changes.clone();
    let work = async |held: &cluster::Held| {
        let reached = unless_interrupted(&interrupts, held.reach()).await?;
        let scenario = reached.scenario.clone();
        Box::pin(drive(scenario, Some(reached), earlier, console, stop, stop_changes)).await
    };
    match Box::pin(cluster::and_back(held, work, cluster::Held::release)).await {
        (measured, Ok(())) => measured,
        (Ok(_), Err(failure)) => Err(failure),
        (Err(first), Err(failure)) => {
            console.warn(&format!("{:#}", failure.error));
            Err(first)
        }
    }
}

/// Work that sends no load yet, and ends with the user's Ctrl-C.
async fn unless_interrupted<T>(
    stop: &watch::Receiver<StopLevel>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut stop = stop.clone();
    tokio::select! {
        done = work => done,
        _ = stop.wait_for(|level| *level != StopLevel::Run) => {
            Err(anyhow!("interrupted before the load began, so nothing was measured")).or_exit(Exit::Interrupted)
        }
    }
}

async fn drive(
    scenario: Scenario,
    reached: Option<cluster::Reached>,
    earlier: Option<Earlier>,
    console: Console,
    stop: Arc<watch::Sender<StopLevel>>,
    stop_changes: watch::Receiver<StopLevel>,
) -> Result<(PathBuf, Ended), Failure> {
    let mut interrupted = stop_changes.clone();
    let prepared = Setup::prepare(&scenario, earlier.as_ref(), console, stop_changes);
    let setup = unless_interrupted(&interrupted, prepared).await?;
    let watching = reached.as_ref().map(|reached| reached.watch(&setup.live, setup.clock));
    let trace = setup.schedule.trace.as_deref();
    let replicas = Replicas(scenario.replicas);
    let mut plan = Plan::new(&scenario.ramp, scenario.warm_up, setup.single_latency, replicas, trace);
    if let Some(earlier) = earlier {
        plan.resume(earlier.driven, earlier.next_step);
    }
    let mut driver = Driver {
        deadline: scenario.max_duration.map(|most| setup.clock.now() + most),
        progress: console.progress(),
        history: History::default(),
        why: None,
        plan,
        scenario: &scenario,
        setup: &setup,
        stop: &stop,
    };
    let ended = driver.drive_all().await;
    driver.progress.finish();
    drop(watching);
    let Setup { directory, engine, observer, recorder, live, .. } = setup;
    stop.send_replace(StopLevel::Abort);
    let stopped = engine.shutdown().await;
    let patience = match ended {
        Ended::Complete => observer.late_by(),
        Ended::Interrupted | Ended::Failed(_) => Duration::from_secs(5),
    };
    if patience > NOTICED {
        console.note(&format!(
            "waiting for what the load did to come through, {} at most; Ctrl-C does without",
            Seconds::from(patience)
        ));
    }
    interrupted.mark_unchanged();
    tokio::select! {
        () = observer.finish(patience) => {}
        _ = interrupted.changed() => {}
    }
    let (state, reason) = match &ended {
        Ended::Complete => (RunState::Complete, None),
        Ended::Interrupted => (RunState::Interrupted, Some("interrupted by the user".to_owned())),
        Ended::Failed(reason) => (RunState::Interrupted, Some(reason.clone())),
    };
    live.close();
    recorder.finish(state, reason).or_exit(Exit::Failed)?;
    if let Err(error) = stopped {
        console.warn(&format!("the record is complete, but {error}"));
    }
    Ok((directory, ended))
}

/// Drives the steps of the plan one after the other.
struct Driver<'a> {
    scenario: &'a Scenario,
    setup: &'a Setup,
    stop: &'a watch::Sender<StopLevel>,
    plan: Plan,
    deadline: Option<Seconds>,
    progress: Progress,
    history: History,
    /// Why the step that is driven was chosen.
    why: Option<String>,
}

impl Driver<'_> {
    /// Drives the plan to its end.
    async fn drive_all(&mut self) -> Ended {
        let live = Arc::clone(&self.setup.live);
        let mut current = None;
        loop {
            let step = match self.plan.next_step() {
                Next::Done(reason) => {
                    self.decide(reason);
                    break;
                }
                Next::Step(step, reason) => {
                    if let Some(reason) = reason {
                        self.decide(reason);
                    }
                    step
                }
            };
            if self.deadline.is_some_and(|deadline| self.setup.clock.now() + step.length > deadline) {
                self.decide("--max-duration leaves no time for another step".to_owned());
                break;
            }
            current = Some(step);
            let driven = self.drive_step(step).await;
            if driven.cut_short || live.fault().is_some() {
                break;
            }
            if self.plan.needs_results() {
                if !self.drain(&step, self.grace()).await {
                    // What is still in flight is late enough to be judged, and must not queue before
                    // the next step.
                    self.setup.engine.cut_off().await;
                }
                self.learn().await;
            }
        }
        self.setup.engine.close_loop();
        let interrupted = *self.stop.borrow() != StopLevel::Run;
        let late = self.deadline.is_some_and(|deadline| self.setup.clock.now() >= deadline);
        let grace = if interrupted || late { GRACE_INTERRUPTED } else { self.grace() };
        if let Some(step) = current {
            self.drain(&step, grace).await;
        }
        match live.fault() {
            Some(fault) => Ended::Failed(fault),
            None if interrupted => Ended::Interrupted,
            None => Ended::Complete,
        }
    }

    async fn drive_step(&mut self, step: Step) -> StepDriven {
        let work = self.setup.schedule.work(&step);
        self.watch(&step, self.setup.engine.drive(step, work)).await
    }

    fn grace(&self) -> Seconds {
        GRACE_LEAST.max(self.setup.single_latency * GRACE_LATENCIES)
    }

    /// Waits until nothing is in flight, or for so long. Whether nothing is.
    async fn drain(&mut self, step: &Step, grace: Seconds) -> bool {
        let deadline = self.setup.clock.now() + grace;
        self.watch(step, self.setup.engine.drain(deadline)).await
    }

    /// Waits for `work` with the live view going on, and stops the load once nothing answers any more.
    async fn watch<T>(&mut self, step: &Step, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(REFRESH);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {
                    let now = self.setup.clock.now();
                    let recorder_failed = self.setup.recorder.failed();
                    if let Some(problem) = recorder_failed {
                        self.setup.live.set_fault(format!("the record cannot be written: {problem}"));
                    }
                    if self.setup.live.fault().is_some() {
                        self.stop.send_replace(StopLevel::Abort);
                    }
                    let moment = self.setup.live.moment(step, now, self.setup.engine.in_flight());
                    self.history.keep(moment, now);
                    let done = self.setup.live.share_of_step(step, now);
                    let (prefix, done) = self.position(step, done, now);
                    let view = self.history.view(step, prefix, done, self.why.as_deref());
                    self.progress.show(&view);
                }
            }
        }
    }

    /// Where in the plan a step is: "step 2/7", share done.
    fn position(&self, step: &Step, done: f64, now: Seconds) -> (String, f64) {
        let number = step.place + 1;
        match (self.plan.planned_steps(), self.plan.planned_length()) {
            (Some(steps), Some(length)) => {
                let done = ((step.offset + step.length * done.min(1.0)).0 / length.0).clamp(0.0, 1.0);
                let left = (length * (1.0 - done)).max(Seconds::ZERO);
                (format!("step {number}/{steps} ETA {left:>6}"), done)
            }
            _ => (format!("step {number} at {:>6}", now.to_string()), done),
        }
    }

    fn decide(&mut self, reason: String) {
        self.progress.note(&format!("  {reason}"));
        self.why = Some(reason.clone());
        let time = self.setup.clock.now();
        self.setup.live.record_event(Event::Decision { time, reason });
    }

    /// Tells the plan how the last step came out.
    async fn learn(&mut self) {
        let (live, known) = (Arc::clone(&self.setup.live), self.setup.known.clone());
        let slos = self.scenario.slos.clone();
        let judged = tokio::task::spawn_blocking(move || live.judge_last_step(&slos, &known)).await;
        if let Ok(Some(result)) = judged {
            self.plan.learn(result);
        }
    }
}
