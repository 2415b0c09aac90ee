//! `calibrate study`: many simulated calibrations against known truth.

use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, StudyArgs};
use crate::study::{self, Calibration, Deployment, Family, Row, Summary};
use crate::units::{Rate, Replicas};
use anyhow::{Context, anyhow};
use rayon::prelude::*;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Calibrations of each server where the user names no number.
const SEEDS: u64 = 20;
const SEEDS_QUICK: u64 = 3;
/// Requests that the truth is played with.
const PLAYED_FOR_TRUTH: usize = 600_000;
const PLAYED_FOR_QUICK_TRUTH: usize = 150_000;

/// One server of the study.
struct Case {
    server: String,
    family: Family,
    deployment: Deployment,
    production: Replicas,
}

/// Runs the study and shows its table.
pub(super) fn study(arguments: &StudyArgs, console: Console) -> Result<Exit, Failure> {
    let deployments = match &arguments.server_model {
        Some(path) => vec![("server".to_owned(), read(path)?)],
        None => {
            study::built_in().into_iter().map(|(name, deployment)| (name.to_owned(), deployment)).collect()
        }
    };
    if arguments.example {
        let example = deployments.first().map(|(_, deployment)| serde_saphyr::to_string(deployment));
        console.line(example.transpose().or_exit(Exit::Failed)?.unwrap_or_default().trim_end());
        return Ok(Exit::Done);
    }
    let seeds = arguments.seeds.unwrap_or(if arguments.quick { SEEDS_QUICK } else { SEEDS });
    let cases = cases(&deployments, Replicas(arguments.production_replicas));
    let work: Vec<(usize, u64)> =
        (0..cases.len()).flat_map(|case| (1..=seeds).map(move |seed| (case, seed))).collect();
    let played = if arguments.quick { PLAYED_FOR_QUICK_TRUTH } else { PLAYED_FOR_TRUTH };
    let done = AtomicUsize::new(0);
    let outcome = std::thread::scope(|scope| {
        let watch = scope.spawn(|| show_progress(console, &done, work.len()));
        let outcome = calibrate_all(&cases, &work, played, &done);
        done.store(usize::MAX, Ordering::Relaxed);
        let _ = watch.join();
        outcome
    });
    let (rows, pooled) = outcome?;
    let pooling = deployments.first().map(|(_, d)| (d.replicas.0, arguments.production_replicas, pooled));
    let summary = study::summarize(rows, pooling.filter(|(_, _, rows)| !rows.is_empty()));
    if console.wants_json() {
        console.document(&serde_json::to_value(&summary).or_exit(Exit::Failed)?);
    } else {
        console.line(&table(&summary));
    }
    Ok(Exit::Done)
}

fn read(path: &Path) -> Result<Deployment, Failure> {
    let text = std::fs::read_to_string(path)
        .with_context(|| {
            format!("cannot read the server model {}; look at its path and permissions", path.display())
        })
        .or_exit(Exit::Usage)?;
    let deployment: Deployment = serde_saphyr::from_str(&text)
        .with_context(|| {
            format!("{}; `calibrate study --example` prints what it should look like", path.display())
        })
        .or_exit(Exit::Usage)?;
    deployment.check().with_context(|| path.display().to_string()).or_exit(Exit::Usage)?;
    Ok(deployment)
}

/// Every variant of every deployment as it is measured, and the first family at another number of replicas.
fn cases(deployments: &[(String, Deployment)], production: Replicas) -> Vec<Case> {
    let mut cases = Vec::new();
    for (server, deployment) in deployments {
        for (family, deployment) in study::variants(deployment) {
            let replicas = deployment.replicas;
            if family == Family::Model && production != replicas {
                let deployment = deployment.clone();
                cases.push(Case { server: server.clone(), family, deployment, production });
            }
            cases.push(Case { server: server.clone(), family, deployment, production: replicas });
        }
    }
    cases
}

/// The rows of the study, and those at another number of replicas.
fn calibrate_all(
    cases: &[Case],
    work: &[(usize, u64)],
    played: usize,
    done: &AtomicUsize,
) -> Result<(Vec<Row>, Vec<Row>), Failure> {
    let truths: Vec<Option<Rate>> =
        cases.par_iter().map(|case| study::truth(&case.deployment, case.production, played)).collect();
    if let Some((case, _)) = cases.iter().zip(&truths).find(|(_, truth)| truth.is_none()) {
        return Err(anyhow!(
            "'{}' keeps its SLO at no load, or at every load, so there is no capacity to find; change its limits",
            case.server
        ))
        .or_exit(Exit::Invalid);
    }
    let calibrations: Vec<Calibration> = work
        .par_iter()
        .map(|(case, seed)| {
            let found = study::calibrate(&cases[*case].deployment, cases[*case].production, *seed);
            done.fetch_add(1, Ordering::Relaxed);
            found
        })
        .collect();
    let (mut rows, mut pooled) = (Vec::new(), Vec::new());
    for (i, (case, truth)) in cases.iter().zip(truths).enumerate() {
        let mine: Vec<Calibration> =
            work.iter().zip(&calibrations).filter(|((at, _), _)| *at == i).map(|(_, c)| c.clone()).collect();
        let row = study::row(&case.server, case.family, truth.unwrap_or_default(), &mine);
        let side = if case.production == case.deployment.replicas { &mut rows } else { &mut pooled };
        side.push(row);
    }
    Ok((rows, pooled))
}

fn show_progress(console: Console, done: &AtomicUsize, all: usize) {
    let mut progress = console.progress();
    loop {
        let now = done.load(Ordering::Relaxed);
        if now == usize::MAX {
            return progress.finish();
        }
        let share = now as f64 / all.max(1) as f64;
        progress.update("study", share, &format!("{now} of {all} calibrations"));
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// The table for people.
fn table(summary: &Summary) -> String {
    let mut lines = vec![format!(
        "{:<12} {:<9} {:>3}  {:>12}  {:>6} {:>6}  {:>8} {:>9}  {:>12}  {:>6}",
        "server", "family", "n", "truth", "error", "bias", "coverage", "interval", "GPU-minutes", "drift"
    )];
    for row in &summary.rows {
        lines.push(format!(
            "{:<12} {:<9} {:>3}  {:>12}  {:>4.2} % {:>+4.2} %  {:>6.0} % {:>+6.1} %  {:>5.1} / {:>4.1}  {:>4.0} %",
            row.server,
            format!("{:?}", row.family).to_lowercase(),
            row.n,
            row.truth.to_string(),
            row.rmse_percent,
            row.bias_percent,
            row.interval_coverage_percent,
            row.interval_half_width_percent,
            row.gpu_minutes,
            row.gpu_minutes_verified,
            row.drift_noticed_percent,
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "capacity error (RMSE) {:.2} % where the server is as the model has it, {:.2} % where it is not; 90 % intervals \
         hold the truth in {:.0} %, which they would in 90 % at {:.2} times their width",
        summary.capacity_rmse_percent,
        summary.capacity_rmse_percent_mismatch,
        summary.interval_coverage_percent,
        summary.interval_width_needed
    ));
    if let (Some(rmse), Some((from, to))) = (summary.pooling_rmse_percent, summary.pooling_replicas) {
        lines.push(format!("measured on {from} replicas, predicted for {to}: error {rmse:.2} %"));
    }
    lines.push(format!(
        "GPU-minutes {:.1}, with the longer last step {:.1}; a server that changed was noticed in {:.0} %, a steady one \
         said to change in {:.0} %",
        summary.gpu_minutes,
        summary.gpu_minutes_verified,
        summary.drift_noticed_percent,
        summary.drift_false_alarm_percent
    ));
    lines.join("\n")
}
