//! What is sent, read from the files that the scenario names.

use crate::cli::{Exit, Failure, OrExit};
use crate::drive::{PromptMaker, Tokenizer};
use crate::plan::{
    RequestSource, Schedule, Spacing, Trace, TraceArrival, read_dataset, read_trace, requests_of,
};
use crate::scenario::{RampSpec, Scenario};
use anyhow::{Context, anyhow};
use std::path::Path;
use std::sync::Arc;

/// The load of a run.
pub(super) struct Load {
    pub schedule: Schedule,
    pub prompts: PromptMaker,
    /// Whether prompts are made by a tokenizer.
    pub exact: bool,
    /// What had to be assumed or left out.
    pub remarks: Vec<String>,
}

/// Reads tokenizer, dataset and trace. Whatever is wrong with them stops the run before it starts.
pub(super) fn prepare(scenario: &Scenario) -> Result<Load, Failure> {
    let mut remarks = Vec::new();
    let tokenizer = match &scenario.tokenizer {
        Some(path) => Some(Tokenizer::read(path, &read(path, "tokenizer")?).or_exit(Exit::Usage)?),
        None => None,
    };
    // Prompts of another run may still be in the server's prefix cache, so each run has its own.
    let prompt_seed = scenario.seed ^ jiff::Timestamp::now().as_nanosecond() as u64;
    let prompts = match &tokenizer {
        None => PromptMaker::uncalibrated(prompt_seed, scenario.shared_prefix),
        Some(tokenizer) => PromptMaker::exact(prompt_seed, scenario.shared_prefix, tokenizer)
            .ok_or_else(|| anyhow!("--tokenizer: too few common words are one token each, so no exact prompts can be made; leave it out"))
            .or_exit(Exit::Usage)?,
    };
    let requests = match &scenario.dataset {
        None => RequestSource::Specs(scenario.input_tokens, scenario.output_tokens),
        Some(path) => {
            let dataset = read_dataset(path, &read(path, "dataset")?).or_exit(Exit::Usage)?;
            let count = tokenizer.as_ref().map(|tokenizer| |text: &str| tokenizer.count(text));
            let (requests, assumed) =
                requests_of(&dataset.rows, count.as_ref().map(|count| count as &dyn Fn(&str) -> u32));
            remarks.extend(dataset.remarks.into_iter().chain(assumed));
            RequestSource::Rows(requests.into())
        }
    };
    let trace = match &scenario.ramp {
        RampSpec::Trace { path, speed } => {
            let trace = read_trace(path, &read(path, "trace")?).or_exit(Exit::Usage)?;
            remarks.extend(trace.remarks.iter().cloned());
            Some(Arc::new(faster(trace, *speed)))
        }
        _ => None,
    };
    let spacing = Spacing::new(scenario.arrivals, scenario.burstiness);
    let schedule = Schedule { seed: scenario.seed, spacing, requests, trace };
    Ok(Load { schedule, prompts, exact: tokenizer.is_some(), remarks })
}

fn faster(trace: Trace, speed: f64) -> Trace {
    let arrivals = trace.arrivals.into_iter();
    let scaled = arrivals.map(|arrival| TraceArrival { offset: arrival.offset / speed, ..arrival });
    Trace { arrivals: scaled.collect(), ..trace }
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .with_context(|| format!("cannot read the {what} {}", path.display()))
        .or_exit(Exit::Usage)
}
