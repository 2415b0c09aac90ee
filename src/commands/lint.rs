//! `calibrate lint`: what is wrong with autoscaling manifests.

use super::input::{read_text, shown};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::manifest::read_objects;
use crate::recommend::lint::{Context, Finding, Linted, Object, Rule, RunFacts, RunStep, lint as check};
use crate::report::lint::{has_errors, json, sarif, text};
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Arguments of `lint`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate lint hpa.yaml
      What is wrong with it: exit 3 if there are errors
  kustomize build overlays/prod | calibrate lint - --cluster-version 1.34
      Rendered manifests of a cluster; kinds other than HPA and ScaledObject are skipped
  calibrate lint hpa.yaml --run reports/20261124T101500Z-demo
      Also whether the target fits what was measured: too late, flap-prone, never down
  calibrate lint k8s/*.yaml --format sarif > lint.sarif
      For code hosts that show findings beside the lines of a change")]
pub struct LintArgs {
    /// Manifests, each with any number of documents; - is stdin
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// A recorded run of the server: its directory or its recommendation.json
    #[arg(long, value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// Version of Kubernetes, like 1.34 or v1.35.1-gke.1396000
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub cluster_version: Option<(u32, u32)>,
    /// GPUs of each replica; without it a workload among the files, or the run, says so
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub gpus_per_replica: Option<u32>,
    /// Tolerance of the HPA controller, as a fraction of 1, where an HPA has none of its own
    #[arg(long, value_name = "FRACTION", default_value_t = 0.1, value_parser = super::hpa::tolerance)]
    pub tolerance: f64,
    /// How to print the findings; --json is --format json
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub format: Option<Format>,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
    /// SARIF 2.1.0.
    Sarif,
}

/// Major and minor of a version.
fn version(text: &str) -> Result<(u32, u32), String> {
    let mut parts = text.trim_start_matches('v').split('.');
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err("expected a version like 1.34 or v1.35.1".to_owned()),
    }
}

/// Lints the files and prints what was found.
pub(super) fn lint(arguments: &LintArgs, console: Console) -> Result<Exit, Failure> {
    let run = arguments.run.as_deref().map(run_facts).transpose().or_exit(Exit::Usage)?;
    let mut objects = Vec::new();
    let mut unreadable = Vec::new();
    for path in &arguments.files {
        let file = shown(path);
        match read_objects(&read_text(path).or_exit(Exit::Usage)?) {
            Ok(nodes) => objects.extend(nodes.into_iter().map(|node| Object { file: file.clone(), node })),
            Err(error) => unreadable.push(Finding {
                rule: Rule::UnreadableYaml,
                severity: Rule::UnreadableYaml.severity(),
                file,
                place: error.place,
                object: String::new(),
                field: String::new(),
                reason: error.to_string(),
                fix: "mend the YAML; render templates first".to_owned(),
            }),
        }
    }
    let context = Context {
        tolerance: arguments.tolerance,
        gpus_per_replica: arguments.gpus_per_replica,
        version: arguments.cluster_version,
        run,
    };
    let mut linted = check(&objects, &context);
    linted.findings.splice(..0, unreadable);
    if linted.checked == 0 {
        console.warn("there is no HorizontalPodAutoscaler and no ScaledObject in what was given");
    }
    show(&linted, arguments.format, console);
    Ok(if has_errors(&linted) { Exit::Gate } else { Exit::Done })
}

fn show(linted: &Linted, format: Option<Format>, console: Console) {
    for skipped in &linted.skipped {
        console.note(&format!("{skipped} is neither a HorizontalPodAutoscaler nor a ScaledObject: skipped"));
    }
    match format {
        Some(Format::Sarif) => console.document(&sarif(linted)),
        Some(Format::Json) => console.document(&json(linted)),
        _ if console.wants_json() => console.document(&json(linted)),
        _ => console.line(&text(linted)),
    }
}

/// `recommendation.json`, as far as lint looks into it. What an older or a newer one lacks is unknown.
#[derive(Debug, Deserialize)]
struct Recorded {
    format: String,
    run_id: String,
    replicas: Option<u32>,
    #[serde(default)]
    targets: Vec<RecordedTarget>,
    #[serde(default)]
    steps: Vec<RecordedStep>,
}

#[derive(Debug, Deserialize)]
struct RecordedTarget {
    metric: String,
    at_capacity: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct RecordedStep {
    #[serde(default)]
    load: String,
    offered_rps: Option<f64>,
    achieved_rps: Option<f64>,
    queue_mean: Option<f64>,
    batch_mean: Option<f64>,
    gpu_mean_percent: Option<f64>,
}

/// What a run measured, from its `recommendation.json`.
fn run_facts(path: &Path) -> anyhow::Result<RunFacts> {
    let file = if path.is_dir() { path.join("recommendation.json") } else { path.to_owned() };
    let shown = file.display();
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("cannot read {shown}; 'calibrate report RUN' writes it into a run's directory")
    })?;
    let recorded: Recorded =
        serde_json::from_str(&text).with_context(|| format!("{shown} is no recommendation of a run"))?;
    if recorded.format != "calibrate/recommendation" {
        bail!("{shown} has the format '{}', and not 'calibrate/recommendation'", recorded.format);
    }
    let at_capacity = |metric: &str| {
        recorded.targets.iter().find(|target| target.metric == metric).and_then(|target| target.at_capacity)
    };
    let replicas = f64::from(recorded.replicas.unwrap_or(1).max(1));
    let step = |step: &RecordedStep| {
        // In a closed loop nothing is offered but what the server lets through.
        let rate = if step.load == "concurrency" { step.achieved_rps } else { step.offered_rps };
        Some(RunStep {
            load: rate.or(step.achieved_rps)? / replicas,
            queue: step.queue_mean,
            batch: step.batch_mean,
            gpu: step.gpu_mean_percent,
        })
    };
    Ok(RunFacts {
        steps: recorded.steps.iter().filter_map(step).collect(),
        queue_at_capacity: at_capacity("queue"),
        batch_at_capacity: at_capacity("batch"),
        gpu_at_capacity: at_capacity("dcgm").or_else(|| at_capacity("duty-cycle")),
        gpus_per_replica: gpus_of_run(&file),
        id: recorded.run_id,
    })
}

/// The GPUs of a replica, from the scenario in the `run.json` beside a file.
fn gpus_of_run(file: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(file.with_file_name("run.json")).ok()?;
    let run: serde_json::Value = serde_json::from_str(&text).ok()?;
    let gpus = run.pointer("/scenario/gpus-per-replica")?.as_u64()?;
    u32::try_from(gpus).ok().filter(|gpus| *gpus > 0)
}
