//! `calibrate hpa`: decisions of the HPA controller, explained.

mod explain;
pub(super) mod manifest;
mod replay;
mod series;

use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::hpa::{self, Evaluation, Flags, Generation, Outcome, Replay};
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use explain::ExplainArgs;
use replay::ReplayArgs;
use std::path::Path;

/// Arguments of `hpa`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate hpa explain --values 27,24,30 --target 20 --replicas 3
      One decision on a Pods metric, step by step
  calibrate hpa replay --series queue.csv --hpa hpa.yaml
      A recorded metric through the controller: replicas over time, and why")]
pub struct HpaArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: HpaCommand,
}

/// What `hpa` does.
#[derive(Debug, Subcommand)]
pub enum HpaCommand {
    /// Explain a scaling decision step by step: from flags, from an HPA, or from a file of cases
    Explain(Box<ExplainArgs>),
    /// Play a recorded metric through the controller, or decide a recorded run again sync by sync
    Replay(ReplayArgs),
}

/// What the controller's flags and its release decide.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Controller")]
pub struct ControllerArgs {
    /// Its flag --horizontal-pod-autoscaler-tolerance, as a fraction of 1
    #[arg(long, value_name = "FRACTION", default_value_t = 0.1, value_parser = tolerance)]
    pub tolerance: f64,
    /// How it tests a tolerance
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = GenerationArg::Inclusive)]
    pub generation: GenerationArg,
}

/// The generations of the tolerance test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GenerationArg {
    /// Today's: at exactly 1 + tolerance nothing happens
    Inclusive,
    /// The older: abs(1 - ratio) in binary64, so that exactly 1.1 scales up at a tolerance of 0.1
    Absolute,
}

impl ControllerArgs {
    fn flags(self) -> Flags {
        let generation = match self.generation {
            GenerationArg::Inclusive => Generation::Inclusive,
            GenerationArg::Absolute => Generation::Absolute,
        };
        Flags { tolerance: self.tolerance, generation }
    }
}

/// A tolerance: a finite fraction of at least 0.
pub(super) fn tolerance(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| "expected a fraction of at least 0, like 0.1 for 10 %".to_owned())
}

/// Explains or replays.
pub(super) fn hpa(arguments: &HpaArgs, console: Console) -> Result<Exit, Failure> {
    match &arguments.command {
        HpaCommand::Explain(arguments) => explain::explain(arguments, console),
        HpaCommand::Replay(arguments) => replay::replay(arguments, console),
    }
    .or_exit(Exit::Usage)?;
    Ok(Exit::Done)
}

/// Decides what a JSON file of cases, or of a recorded run, holds.
fn evaluate(path: &Path) -> anyhow::Result<Evaluation> {
    let file = super::input::shown(path);
    let text = super::input::read_text(path)?;
    let document = serde_json::from_str(&text).with_context(|| format!("{file} is not JSON"))?;
    hpa::evaluate(&document).with_context(|| format!("{file} cannot be explained"))
}

fn show(evaluation: &Evaluation, console: Console) -> anyhow::Result<()> {
    if console.wants_json() {
        console.document(&serde_json::to_value(evaluation)?);
        return Ok(());
    }
    match evaluation {
        Evaluation::Cases(outcomes) => outcomes.iter().for_each(|outcome| show_outcome(outcome, console)),
        Evaluation::Run(replay) => show_run(replay, console),
    }
    Ok(())
}

fn show_outcome(outcome: &Outcome, console: Console) {
    let replicas = outcome.replicas.map(|replicas| format!(": {replicas}"));
    console.line(&format!("{}{}", outcome.name, replicas.unwrap_or_default()));
    show_steps(outcome.reason.as_deref().unwrap_or_default().split("; "), console);
    if let Some(error) = &outcome.error {
        console.line(&format!("  error: {error}"));
    }
}

fn show_run(replay: &Replay, console: Console) {
    console.line(&replay.name);
    for (sync, (replicas, reason)) in replay.spec_replicas_after.iter().zip(&replay.reasons).enumerate() {
        console.line(&format!("sync {}: {replicas}", sync + 1));
        show_steps(reason.split("; "), console);
    }
}

fn show_steps<'a>(steps: impl Iterator<Item = &'a str>, console: Console) {
    steps.filter(|step| !step.is_empty()).for_each(|step| console.line(&format!("  {step}")));
}
