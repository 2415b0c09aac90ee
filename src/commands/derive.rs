//! From a recorded run to everything that is derived from it. `run` ends with this and `report`
//! repeats it, so that both say the same.

use crate::analyze::{Analysis, Known, Measured, analyze};
use crate::cli::Exit;
use crate::cli::console::Console;
use crate::manifest::{self, ClusterNames};
use crate::recommend::{Recommendation, recommend};
use crate::record::{self, RecordedRun, RunState};
use crate::report::{self, ReportInput, RunFacts};
use crate::scenario::{ClusterSettings, Scenario, Settings};
use crate::units::{Replicas, Signal};
use anyhow::Context;
use std::path::Path;

/// What a record tells.
pub(super) struct Derived {
    pub(super) analysis: Analysis,
    pub(super) recommendation: Option<Recommendation>,
    facts: RunFacts,
    manifests: Vec<(String, String)>,
    /// What `simulate` left in the directory.
    simulation: Option<String>,
}

/// Reads the run in `directory`, analyzes it and writes the derived files into it.
pub(super) fn derive(directory: &Path) -> anyhow::Result<Derived> {
    let derived = read(directory, Settings::default())?;
    derived.write(directory)?;
    Ok(derived)
}

/// Reads the run in `directory` and analyzes it, with what `other` says instead of its scenario.
pub(super) fn read(directory: &Path, other: Settings) -> anyhow::Result<Derived> {
    let run = record::read(directory)?;
    let settings = recorded_settings(&run, directory)?;
    let derived = from_run(&run, &other.over(settings).resolve()?)?;
    Ok(Derived { simulation: std::fs::read_to_string(directory.join(report::SIMULATION)).ok(), ..derived })
}

/// The scenario that a run was made with.
pub(super) fn recorded_settings(run: &RecordedRun, directory: &Path) -> anyhow::Result<Settings> {
    serde_json::from_value(run.info.scenario.clone())
        .with_context(|| format!("the scenario in {}/run.json cannot be used", directory.display()))
}

pub(super) fn from_run(run: &RecordedRun, scenario: &Scenario) -> anyhow::Result<Derived> {
    let measured = Measured {
        requests: &run.requests,
        samples: &run.samples,
        events: &run.events,
        gaps: &run.gaps,
        replicas: Replicas(scenario.replicas),
    };
    let analysis = analyze(&measured, &scenario.slos, &known(run, scenario));
    let mut recommendation =
        analysis.capacity.as_ref().ok().map(|capacity| recommend(&analysis, capacity, scenario.tolerance));
    let mut manifests = Vec::new();
    if let Some(recommendation) = &mut recommendation {
        let names = names(&scenario.cluster, scenario.gpus_per_replica);
        recommendation.warnings.extend(manifest::warnings(recommendation, &names));
        let files = manifest::render_all(recommendation, &names, &provenance(run, &analysis))?;
        manifests = files.into_iter().map(|file| (file.name, file.yaml)).collect();
    }
    Ok(Derived { facts: facts(run, scenario), analysis, recommendation, manifests, simulation: None })
}

/// What is known of the server from elsewhere than its metrics.
pub(super) fn known(run: &RecordedRun, scenario: &Scenario) -> Known {
    let said = |field: &str| {
        let number = run.info.target.info.as_ref()?.get(field)?.as_u64()?;
        u32::try_from(number).ok()
    };
    let default = Known::default();
    Known {
        declared_output: scenario.max_new_tokens,
        max_concurrent_requests: said("max_concurrent_requests").unwrap_or(default.max_concurrent_requests),
        max_prefill_tokens: said("max_batch_prefill_tokens").unwrap_or(default.max_prefill_tokens),
        planned: Vec::new(),
        production: Replicas(scenario.replicas),
    }
}

/// The names of the manifests: as given, else as on Google's how-to page.
pub(super) fn names(given: &ClusterSettings, gpus_per_replica: u32) -> ClusterNames {
    let page = ClusterNames::default();
    let given = given.clone();
    ClusterNames {
        deployment: given.deployment.unwrap_or(page.deployment),
        hpa_name: given.hpa_name,
        namespace: given.namespace.unwrap_or(page.namespace),
        app: given.app.unwrap_or(page.app),
        container: given.container.unwrap_or(page.container),
        metrics_port: given.metrics_port.unwrap_or(page.metrics_port),
        cluster: given.cluster_name,
        location: given.location,
        min_replicas: given.min_replicas.unwrap_or(page.min_replicas),
        max_replicas: given.max_replicas.unwrap_or(page.max_replicas),
        gpus_per_replica,
    }
}

/// Where the numbers of a manifest come from.
fn provenance(run: &RecordedRun, analysis: &Analysis) -> Vec<String> {
    let info = &run.info;
    let slos: Vec<String> = analysis.slos.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        format!("calibrate {}, run {}, {}", info.tool_version, info.run_id, info.server()),
        format!("SLO: {}", slos.join(", ")),
    ];
    if let Ok(capacity) = &analysis.capacity {
        lines.push(format!(
            "SLO capacity: {} per replica, measured between {} and {}",
            capacity.per_replica, capacity.low, capacity.high
        ));
    }
    if info.state != RunState::Complete {
        lines.push(format!(
            "The run was cut short ({}): what it measured until then is all there is",
            info.reason.as_deref().unwrap_or("it was killed")
        ));
    }
    if info.target.simulated {
        lines.push("Measured on the embedded SIMULATED server: not for a real cluster".to_owned());
    }
    lines
}

fn facts(run: &RecordedRun, scenario: &Scenario) -> RunFacts {
    let info = &run.info;
    let state = match info.state {
        RunState::Running => "running",
        RunState::Complete => "complete",
        RunState::Interrupted => "interrupted",
    };
    RunFacts {
        run_id: info.run_id.clone(),
        tool_version: info.tool_version.clone(),
        started: to_the_second(&info.started_utc),
        state: state.to_owned(),
        reason: info.reason.clone(),
        target: info.target.url.clone(),
        server: info.server(),
        simulated: info.target.simulated,
        scenario_yaml: serde_saphyr::to_string(&scenario.settings).unwrap_or_default(),
        command: info.command.join(" "),
        remarks: run.remarks.clone(),
    }
}

/// An RFC 3339 time in UTC without fractions of a second.
fn to_the_second(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(whole, _)| format!("{whole}Z"))
}

impl Derived {
    fn input(&self) -> ReportInput<'_> {
        ReportInput {
            analysis: &self.analysis,
            recommendation: self.recommendation.as_ref(),
            facts: &self.facts,
            manifests: &self.manifests,
            simulation: self.simulation.as_deref(),
        }
    }

    fn write(&self, directory: &Path) -> anyhow::Result<()> {
        for file in report::render(&self.input())? {
            record::write_file(&directory.join(&file.path), file.contents.as_bytes())?;
        }
        // An HPA of an earlier derivation must not outlive the target it was made from.
        for name in Signal::ALL.map(|signal| format!("hpa-{}.yaml", signal.slug())) {
            if !self.manifests.iter().any(|(written, _)| *written == name) {
                let path = directory.join(name);
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                    }
                    _ => {}
                }
            }
        }
        for (name, yaml) in &self.manifests {
            record::write_file(&directory.join(name), yaml.as_bytes())?;
        }
        Ok(())
    }

    /// Shows the result and where its files are.
    pub(super) fn show(&self, directory: &Path, console: Console) {
        console.summary(&report::terminal_summary(&self.input(), console.colour()));
        console.summary(&format!("report        {}", directory.join("report.html").display()));
        for (name, _) in self.manifests.iter().filter(|(name, _)| self.is_recommended(name)) {
            console.summary(&format!("manifest      {}", directory.join(name).display()));
        }
        self.show_document(directory, console);
    }

    /// Shows the result alone: a summary for people, a document for machines.
    pub(super) fn show_result(&self, directory: &Path, console: Console) {
        console.summary(&report::terminal_summary(&self.input(), console.colour()));
        self.show_document(directory, console);
    }

    fn show_document(&self, directory: &Path, console: Console) {
        if console.wants_json() {
            let mut document = report::document(&self.input());
            if let Some(fields) = document.as_object_mut() {
                fields.insert("run_directory".to_owned(), directory.display().to_string().into());
                fields.insert("exit_code".to_owned(), (self.exit() as u8).into());
            }
            console.document(&document);
        }
    }

    fn is_recommended(&self, file: &str) -> bool {
        let chosen = self.recommendation.as_ref().and_then(|r| r.recommended);
        chosen.is_some_and(|signal| file == format!("hpa-{}.yaml", signal.slug()))
    }

    /// The exit code that the result deserves.
    pub(super) fn exit(&self) -> Exit {
        let found = self.recommendation.as_ref().is_some_and(|r| r.recommended.is_some());
        if found { Exit::Done } else { Exit::Invalid }
    }
}
