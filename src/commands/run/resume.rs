//! `run --resume RUN`: goes on with a run that ended early, at its first unfinished step.

use super::live;
use crate::analyze::{Measured, StepAnalysis, analyze_steps};
use crate::cli::{Exit, Failure, OrExit, RunArgs};
use crate::commands::derive;
use crate::measurement::{Event, FailureKind};
use crate::plan::StepResult;
use crate::record::{self, RecordedRun, Recorder, RunInfo, RunState};
use crate::scenario::{RampSpec, Scenario, Settings};
use crate::units::{Replicas, Seconds};
use anyhow::anyhow;
use std::path::PathBuf;

/// What an earlier session left.
pub(in crate::commands) struct Earlier {
    pub directory: PathBuf,
    pub info: RunInfo,
    /// The steps that were driven to their end and whose requests are all accounted for, in order.
    pub driven: Vec<StepResult>,
    /// The number of the next step in the record.
    pub next_step: u32,
    /// The number of the next request.
    pub next_id: u64,
    pub single_latency: Option<Seconds>,
    last_time: Seconds,
}

/// The scenario of a run that goes on, and what there is of it.
pub(super) fn read(directory: PathBuf, arguments: &RunArgs) -> Result<(Scenario, Earlier), Failure> {
    if arguments.scenario.is_some() || arguments.settings != Settings::default() {
        return Err(anyhow!("--resume takes everything from the run; leave the other flags of the load out"))
            .or_exit(Exit::Usage);
    }
    let run = record::read(&directory).or_exit(Exit::Usage)?;
    if run.info.state == RunState::Complete {
        return Err(anyhow!("{} is complete, so there is nothing to resume", directory.display()))
            .or_exit(Exit::Usage);
    }
    let settings = derive::recorded_settings(&run, &directory).or_exit(Exit::Usage)?;
    let scenario = settings.resolve().or_exit(Exit::Usage)?;
    let earlier = Earlier::of(directory, run, &scenario);
    Ok((scenario, earlier))
}

impl Earlier {
    fn of(directory: PathBuf, run: RecordedRun, scenario: &Scenario) -> Earlier {
        let measured = Measured {
            requests: &run.requests,
            samples: &run.samples,
            events: &run.events,
            gaps: &run.gaps,
            replicas: Replicas(scenario.replicas),
        };
        let steps = analyze_steps(&measured, &scenario.slos);
        // A step of which the end of the session cut something off is driven anew.
        let whole = |step: &&StepAnalysis| {
            step.is_judged() || (step.lost == 0 && !step.failures.contains_key(&FailureKind::Stopped))
        };
        // All that was measured speaks for each of the steps.
        let known = derive::known(run.info.target.info.as_ref(), scenario);
        let guide = match scenario.ramp {
            RampSpec::Adaptive => live::guide(&measured, &scenario.slos, &known),
            _ => None,
        };
        let driven = steps.iter().filter(whole).map(|step| live::step_result(step, guide));
        let begun = run.events.iter().filter_map(|event| match event {
            Event::StepStarted { index, .. } => Some(*index),
            _ => None,
        });
        let ended = run.requests.iter().filter_map(|request| request.ended.or(request.sent));
        let sampled = run.samples.iter().map(|sample| sample.time);
        Earlier {
            driven: driven.collect(),
            next_step: begun
                .chain(run.requests.iter().map(|request| request.step))
                .max()
                .map_or(0, |last| last + 1),
            next_id: run.requests.iter().map(|request| request.id).max().map_or(0, |last| last + 1),
            single_latency: run.info.target.single_latency,
            last_time: ended.chain(sampled).fold(Seconds::ZERO, Seconds::max),
            info: run.info,
            directory,
        }
    }

    /// The time of the run at `utc`: by the wall clock since its start, and after all that it recorded.
    pub(super) fn now(&self, utc: jiff::Timestamp) -> Seconds {
        let started: Option<jiff::Timestamp> = self.info.started_utc.parse().ok();
        let by_wall =
            started.map_or(Seconds::ZERO, |started| Seconds(utc.duration_since(started).as_secs_f64()));
        by_wall.max(self.last_time + Seconds(1.0))
    }

    /// Opens the record again.
    pub(super) fn record_again(&self) -> Result<Recorder, Failure> {
        Recorder::resume(&self.directory, self.info.clone()).or_exit(Exit::Failed)
    }
}
