//! The runs of a gate: read, analyzed, and refused where they cannot be used.

use super::comparable::{Comparability, compare};
use crate::analyze::regression::Side;
use crate::analyze::{Analysis, Measured, Verdict, analyze, analyze_clients};
use crate::commands::derive::{known, recorded_settings, to_the_second};
use crate::measurement::GapInterval;
use crate::record::{self, RecordedRun, RunState};
use crate::report::gate::GateRun;
use crate::scenario::Scenario;
use crate::units::{Replicas, Slo};
use std::collections::BTreeSet;
use std::path::Path;

/// What the checks need of every run.
pub(super) struct Need {
    /// What they are judged by.
    pub slos: Vec<Slo>,
    /// Whether the capacity counts, so that the server's counters are looked at.
    pub capacity: bool,
    /// Whether gaps between tokens count.
    pub gaps: bool,
}

/// A run as far as it could be read.
pub(super) struct Loaded {
    pub facts: GateRun,
    pub judged: Option<Judged>,
}

/// A run that was read.
pub(super) struct Judged {
    pub run: RecordedRun,
    pub scenario: Scenario,
    pub analysis: Analysis,
    gaps: Vec<GapInterval>,
}

/// The limits to judge by: those given, else the run's own. `None`: it cannot be read.
pub(super) fn slos_of(directory: &Path, given: &[Slo]) -> Option<Vec<Slo>> {
    if !given.is_empty() {
        return Some(given.to_vec());
    }
    let run = record::read(directory).ok()?;
    Some(recorded_settings(&run, directory).ok()?.resolve().ok()?.slos)
}

/// The same run again tells nothing new, and would make the baselines look as if they agreed.
pub(super) fn refuse_twins(baselines: &mut [Loaded]) {
    let mut seen = BTreeSet::new();
    for baseline in baselines {
        let Some(judged) = &baseline.judged else { continue };
        let info = &judged.run.info;
        if !seen.insert((info.run_id.clone(), info.started_utc.clone())) {
            baseline.facts.problem.get_or_insert("it is named twice".to_owned());
        }
    }
}

impl Loaded {
    pub(super) fn read(directory: &Path, need: &Need) -> Loaded {
        let mut facts = GateRun {
            directory: directory.display().to_string(),
            id: None,
            started: None,
            server: None,
            simulated: false,
            measurement: None,
            problem: None,
        };
        match Judged::read(directory, need) {
            Ok(judged) => {
                let info = &judged.run.info;
                facts.id = Some(info.run_id.clone());
                facts.started = Some(to_the_second(&info.started_utc));
                facts.server = Some(info.server());
                facts.simulated = info.target.simulated;
                facts.measurement = Some(measurement(judged.analysis.validity.verdict));
                facts.problem = judged.problem();
                Loaded { facts, judged: Some(judged) }
            }
            Err(error) => {
                facts.problem = Some(format!("{error:#}"));
                Loaded { facts, judged: None }
            }
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.facts.problem.is_none() && self.judged.is_some()
    }

    /// A run of which no step can be judged has nothing to check.
    pub(super) fn refuse_unless_judged(&mut self) {
        let steps = self.judged.as_ref().map_or(0, |judged| judged.analysis.steps.len());
        if self.facts.problem.is_none() && steps == 0 {
            self.facts.problem = Some("no step was driven to its end: measure again".to_owned());
        }
    }

    /// What is compared of it.
    pub(super) fn side(&self) -> Option<Side<'_>> {
        let judged = self.judged.as_ref()?;
        Some(Side {
            requests: &judged.run.requests,
            steps: &judged.analysis.steps,
            gaps: &judged.gaps,
            replicas: judged.analysis.replicas,
            capacity: &judged.analysis.capacity,
        })
    }
}

fn measurement(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Remark => "valid, with remarks",
        Verdict::Invalid => "invalid",
    }
}

impl Judged {
    fn read(directory: &Path, need: &Need) -> anyhow::Result<Judged> {
        let run = record::read(directory)?;
        let scenario = recorded_settings(&run, directory)?.resolve()?;
        let measured = Measured {
            requests: &run.requests,
            samples: &run.samples,
            events: &run.events,
            gaps: &run.gaps,
            replicas: Replicas(scenario.replicas),
        };
        let analysis = if need.capacity {
            analyze(&measured, &need.slos, &known(run.info.target.info.as_ref(), &scenario))
        } else {
            analyze_clients(&measured, &need.slos)
        };
        let gaps = if need.gaps { record::read_gap_intervals(directory)? } else { Vec::new() };
        Ok(Judged { run, scenario, analysis, gaps })
    }

    /// Why it cannot be used.
    fn problem(&self) -> Option<String> {
        let info = &self.run.info;
        match info.state {
            RunState::Complete => {}
            RunState::Interrupted => {
                let reason = info.reason.as_deref().unwrap_or("stopped");
                return Some(format!(
                    "it was interrupted ({reason}); finish it with 'calibrate run --resume', or measure again"
                ));
            }
            RunState::Running => {
                return Some(
                    "it is still going on, or was killed; finish it with 'calibrate run --resume', or measure again"
                        .to_owned(),
                );
            }
        }
        let validity = &self.analysis.validity;
        let invalid = validity.checks.iter().filter(|check| check.verdict == Verdict::Invalid);
        let why: Vec<String> = invalid.map(|check| format!("{}: {}", check.name, check.detail)).collect();
        (validity.verdict == Verdict::Invalid)
            .then(|| format!("its measurement is invalid ({}); mend that, and measure again", why.join("; ")))
    }
}

/// Holds a baseline against the run: refuses it where they cannot be compared, and gives the remarks that a
/// comparison needs. `given`: the limits are given, and not the run's own.
pub(super) fn compare_scenarios(run: &Loaded, baseline: &mut Loaded, given: bool) -> Vec<String> {
    let (Some(one), Some(two)) = (&run.judged, &baseline.judged) else { return Vec::new() };
    let name = two.run.info.run_id.clone();
    match compare((&one.run.info, &one.scenario), (&two.run.info, &two.scenario), given) {
        Comparability::Refused(reason) => {
            baseline.facts.problem.get_or_insert(reason);
            Vec::new()
        }
        Comparability::With(remarks) => {
            remarks.into_iter().map(|remark| format!("baseline {name}: {remark}")).collect()
        }
    }
}
