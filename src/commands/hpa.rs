//! `calibrate hpa`: decisions of the HPA controller, explained.

use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::hpa::{self, Evaluation, Outcome, Replay};
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use std::fs;
use std::path::{Path, PathBuf};

/// Arguments of `hpa`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate hpa explain --from tests/conformance/hpa_cases.json
      Every case of the file, step by step
  calibrate hpa replay --from tests/conformance/controller_runs/series-pods-step.json --json
      A recorded run of a controller, decided again sync by sync")]
pub struct HpaArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: HpaCommand,
}

/// What `hpa` does.
#[derive(Debug, Subcommand)]
pub enum HpaCommand {
    /// Explain scaling decisions: one case, a list of cases, or a recorded run
    Explain(FromFile),
    /// Decide a recorded run of a controller again, sync by sync
    Replay(FromFile),
}

/// Where the input is.
#[derive(Debug, Args)]
pub struct FromFile {
    /// JSON file of cases or of a recorded run
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
}

/// Explains what the file holds.
pub(super) fn hpa(arguments: &HpaArgs, console: Console) -> Result<Exit, Failure> {
    let evaluation = match &arguments.command {
        HpaCommand::Explain(input) => read(&input.from),
        HpaCommand::Replay(input) => read(&input.from).and_then(|evaluation| match evaluation {
            Evaluation::Run(_) => Ok(evaluation),
            Evaluation::Cases(_) => {
                let file = input.from.display();
                Err(anyhow!(
                    "{file} holds cases, not a recorded run; explain them with 'calibrate hpa explain'"
                ))
            }
        }),
    }
    .or_exit(Exit::Usage)?;
    if console.wants_json() {
        console.document(&serde_json::to_value(&evaluation).or_exit(Exit::Failed)?);
    } else {
        match &evaluation {
            Evaluation::Cases(outcomes) => outcomes.iter().for_each(|outcome| explain(outcome, console)),
            Evaluation::Run(replay) => tell(replay, console),
        }
    }
    Ok(Exit::Done)
}

fn read(path: &Path) -> anyhow::Result<Evaluation> {
    let file = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    let document = serde_json::from_str(&text).with_context(|| format!("{file} is not JSON"))?;
    hpa::evaluate(&document).with_context(|| format!("{file} cannot be explained"))
}

fn explain(outcome: &Outcome, console: Console) {
    let replicas = outcome.replicas.map(|replicas| format!(": {replicas}"));
    console.line(&format!("{}{}", outcome.name, replicas.unwrap_or_default()));
    steps(outcome.reason.as_deref().unwrap_or_default(), console);
    if let Some(error) = &outcome.error {
        console.line(&format!("  error: {error}"));
    }
}

fn tell(replay: &Replay, console: Console) {
    console.line(&replay.name);
    for (sync, (replicas, reason)) in replay.spec_replicas_after.iter().zip(&replay.reasons).enumerate() {
        console.line(&format!("sync {}: {replicas}", sync + 1));
        steps(reason, console);
    }
}

fn steps(reason: &str, console: Console) {
    reason.split("; ").filter(|step| !step.is_empty()).for_each(|step| console.line(&format!("  {step}")));
}
