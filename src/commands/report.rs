//! `calibrate report`: everything that a run derives from its record, once more; or runs beside each other.

use super::derive::{self, Derived};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, ReportArgs};
use crate::recommend::Demand;
use crate::record;
use crate::report::{self, Compared, MOST_COMPARED};
use crate::scenario::Settings;
use anyhow::{Context, anyhow};
use rayon::prelude::*;
use std::path::Path;

/// Reads the record, analyzes it, and writes the derived files again.
pub(super) fn report(arguments: &ReportArgs, console: Console) -> Result<Exit, Failure> {
    if arguments.compare {
        return compare(arguments, console);
    }
    let [run] = arguments.run.as_slice() else {
        return Err(anyhow!("{} runs are named; --compare puts them beside each other", arguments.run.len()))
            .or_exit(Exit::Usage);
    };
    let demand = Demand {
        loads: arguments.plan.as_ref().map(|loads| loads.0.clone()).unwrap_or_default(),
        gpu_cost: arguments.gpu_cost,
        gpus_per_replica: 1,
        max_replicas: None,
    };
    let derive = || derive::derive(run, &demand);
    let derived = console.during("deriving what the record tells", derive).or_exit(Exit::Usage)?;
    derived.show(run, console);
    if arguments.plan.is_some() || arguments.gpu_cost.is_some() {
        match report::plan_summary(&derived.input()) {
            Some(summary) => console.summary(summary.trim_end()),
            None => console.warn("nothing can be planned without a capacity"),
        }
    }
    Ok(derived.exit())
}

/// Puts runs beside each other.
fn compare(arguments: &ReportArgs, console: Console) -> Result<Exit, Failure> {
    let runs = &arguments.run;
    if !(2..=MOST_COMPARED).contains(&runs.len()) {
        return Err(anyhow!("--compare takes 2 to {MOST_COMPARED} runs, not {}", runs.len()))
            .or_exit(Exit::Usage);
    }
    let read = |directory: &std::path::PathBuf| {
        let slo = (!arguments.slo.is_empty()).then(|| arguments.slo.clone());
        let derived =
            derive::read(std::slice::from_ref(directory), Settings { slo, ..Settings::default() }, None)?;
        Ok((derived, derive::fields(directory)?))
    };
    let all = || runs.par_iter().map(read).collect::<anyhow::Result<Vec<_>>>();
    let read = console.during("deriving what the records tell", all).or_exit(Exit::Usage)?;
    let names = names(runs);
    let compared: Vec<Compared> = read
        .iter()
        .zip(names)
        .map(|((derived, (gpus_per_replica, fields)), name)| Compared {
            name,
            input: Derived::input(derived),
            gpus_per_replica: *gpus_per_replica,
            fields: fields.clone(),
        })
        .collect();
    let comparison = report::compare(&compared);
    let out = arguments.out.as_deref().unwrap_or(&runs[0]);
    for file in report::render_comparison(&compared, &comparison).or_exit(Exit::Failed)? {
        write(out, &file).or_exit(Exit::Failed)?;
    }
    console.summary(report::comparison_summary(&comparison).trim_end());
    console.summary(&format!("\ncomparison    {}", out.join("comparison.html").display()));
    if console.wants_json() {
        console.document(&report::comparison_document(&comparison));
    }
    Ok(Exit::Done)
}

fn write(out: &Path, file: &report::RenderedFile) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    record::write_file(&out.join(&file.path), file.contents.as_bytes())?;
    Ok(())
}

/// The last part of each path, or all of it where two are the same.
fn names(runs: &[std::path::PathBuf]) -> Vec<String> {
    let short = |path: &std::path::PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let unique = |name: &String| runs.iter().filter(|run| short(run).as_ref() == Some(name)).count() == 1;
    runs.iter().map(|run| short(run).filter(unique).unwrap_or_else(|| run.display().to_string())).collect()
}
