//! `calibrate apply`: the HPA of a run into the cluster, by way of everything that can be known before
//! anything is changed.

mod chosen;
mod surroundings;
mod watch;

use super::cluster_target::{ClusterArgs, Target, not_paused, permitted};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::cluster::{self, Applied, ApplyMode, ClusterError, Owner, Task};
use crate::manifest::to_yaml;
use crate::record;
use crate::units::{Seconds, Signal};
use anyhow::{Context, anyhow};
use chosen::Chosen;
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use surroundings::Surroundings;

/// Arguments of `apply`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "switches that the user sets one by one")]
#[command(after_help = "\
Examples:
  calibrate apply reports/20261124T101500Z-demo --dry-run
      What would change, by the API server's own word; nothing is written
  calibrate apply reports/20261124T101500Z-demo
      Shows the change, asks, applies the recommended HPA and waits until it scales
  calibrate apply reports/20261124T101500Z-demo --metric queue --yes --context gke_my-project_us-central1_my-cluster
      Another metric's HPA, without asking, into a named context")]
pub struct ApplyArgs {
    /// Directory of the run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Apply the HPA on this metric instead of the recommended one: queue, batch, duty-cycle or dcgm
    #[arg(long, value_name = "METRIC", value_parser = crate::cli::signal)]
    pub metric: Option<Signal>,
    /// Stop before anything is written
    #[arg(long)]
    pub dry_run: bool,
    /// Take over fields that another manager owns
    #[arg(long)]
    pub force_conflicts: bool,
    /// How long to wait until the HPA scales; 0s does not wait
    #[arg(long, value_name = "TIME", default_value = "2m")]
    pub wait: Seconds,
    /// Apply even where no metrics API answers for the metric
    #[arg(long)]
    pub allow_missing_metric: bool,
    /// Apply even what was measured on the embedded simulated server
    #[arg(long)]
    pub allow_simulated: bool,
    /// Which cluster, and whether to ask.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Where an HPA is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The HPA of a run: the one that was applied, else that of the recommended manifest; or another by its name.
pub(super) fn named_hpa(run: &Path, name: Option<&str>) -> Result<Place, Failure> {
    let applied = super::applied_files::newest(run).or_exit(Exit::Usage)?;
    let place = if let Some((_, applied)) = applied {
        Place { namespace: applied.namespace, name: applied.name }
    } else {
        let object = chosen::chosen(run, None)?.object;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Place {
            namespace: text("/metadata/namespace").unwrap_or_else(|| "default".to_owned()),
            name: text("/metadata/name").unwrap_or_default(),
        }
    };
    Ok(match name {
        Some(name) => Place { name: name.to_owned(), ..place },
        None => place,
    })
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    diff: String,
    record: Option<PathBuf>,
    dropped: Vec<String>,
    standing: Option<String>,
    exit: Option<Exit>,
}

/// Applies the HPA of a run.
pub(super) fn apply(arguments: &ApplyArgs, console: Console) -> Result<Exit, Failure> {
    let chosen = chosen::chosen(&arguments.run, arguments.metric)?;
    if chosen.simulated && !arguments.allow_simulated {
        return Err(anyhow!(
            "the number of {} was measured on the embedded simulated server, so it says nothing of a real one; measure \
             yours with 'calibrate run --ramp --target URL', or try the way with --allow-simulated",
            chosen.file
        ))
        .or_exit(Exit::Usage);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Failed)?;
    runtime.block_on(async {
        let target = Target::of(&chosen.object, &arguments.cluster, console).await?;
        let outcome = carry_out(arguments, &chosen, &target, console).await?;
        let exit = outcome.exit.unwrap_or(Exit::Done);
        if console.wants_json() {
            console.document(&document(arguments, &chosen, &target, &outcome, exit));
        }
        Ok(exit)
    })
}

fn document(arguments: &ApplyArgs, chosen: &Chosen, target: &Target, outcome: &Outcome, exit: Exit) -> Value {
    json!({
        "context": target.cluster.identity().context,
        "server": target.cluster.identity().server,
        "namespace": target.namespace,
        "name": target.name,
        "manifest": chosen.file,
        "dry_run": arguments.dry_run,
        "diff": outcome.diff,
        "written": outcome.record.is_some(),
        "record": outcome.record.as_ref().map(|path| path.display().to_string()),
        "dropped": outcome.dropped,
        "standing": outcome.standing,
        "exit_code": exit as u8,
    })
}

async fn carry_out(
    arguments: &ApplyArgs,
    chosen: &Chosen,
    target: &Target,
    console: Console,
) -> Result<Outcome, Failure> {
    permitted(target, Task::Apply, &chosen.object).await?;
    let around = surroundings::look(target, &chosen.object, arguments.allow_missing_metric, console);
    let Surroundings { live, owner } = around.await.or_exit(Exit::Failed)?;
    let tried = try_out(arguments, &chosen.object, live.as_ref(), target, console).await?;
    let mut outcome = Outcome { diff: tried.diff, dropped: tried.dropped, ..Outcome::default() };
    if outcome.diff.is_empty() {
        console.summary(&format!("the HPA '{}' is as {} wants it already", target.name, chosen.file));
    } else {
        console.diff(&outcome.diff);
        for dropped in &outcome.dropped {
            console.warn(dropped);
        }
        if let Some(owner) = owner {
            let refusal = offer_patch(&arguments.run, &tried.object, &owner, target);
            return Err(refusal.or_exit(Exit::Failed)?).or_exit(Exit::Failed);
        }
        if arguments.dry_run {
            console.summary("nothing was written (--dry-run)");
            return Ok(outcome);
        }
        target.confirm(&format!("Apply {} to {target}?", chosen.file), arguments.cluster.yes, console)?;
        let live = unchanged(live, target).await?;
        let (path, dropped) = write(arguments, chosen, &tried.object, live, target).await?;
        console.summary(&format!(
            "applied   {} to {target}; 'calibrate rollback {}' puts back what was there",
            chosen.file,
            arguments.run.display()
        ));
        for dropped in dropped.iter().filter(|text| !outcome.dropped.contains(text)) {
            console.warn(dropped);
        }
        outcome.dropped = dropped;
        outcome.record = Some(path);
    }
    if !arguments.dry_run && arguments.wait > Seconds::ZERO {
        let (standing, exit) = watch::watch(target, arguments.wait, console).await.or_exit(Exit::Failed)?;
        (outcome.standing, outcome.exit) = (Some(standing), Some(exit));
    }
    Ok(outcome)
}

/// What is there now, if it is what the question was about: it is what a rollback puts back.
async fn unchanged(seen: Option<Value>, target: &Target) -> Result<Option<Value>, Failure> {
    let now = target.live().await.or_exit(Exit::Failed)?;
    not_paused(now.as_ref()).or_exit(Exit::Failed)?;
    if now.as_ref().map(cluster::without_noise) == seen.as_ref().map(cluster::without_noise) {
        return Ok(now);
    }
    Err(anyhow!("{target} was changed by somebody meanwhile, so nothing was written; run the command again"))
        .or_exit(Exit::Failed)
}

/// What the API server would make of it.
struct Tried {
    /// What is applied: without what this API server does not know.
    object: Value,
    diff: String,
    dropped: Vec<String>,
}

/// The server-side dry run.
async fn try_out(
    arguments: &ApplyArgs,
    object: &Value,
    live: Option<&Value>,
    target: &Target,
    console: Console,
) -> Result<Tried, Failure> {
    let mode = ApplyMode { dry_run: true, force: arguments.force_conflicts };
    let mut object = object.clone();
    let mut answer = target.apply(&object, mode).await;
    let mut dropped = Vec::new();
    if let Err(refusal) = &answer
        && refusal.to_string().contains(".tolerance: field not declared in schema")
    {
        dropped.extend(cluster::without_tolerance(&mut object));
        answer = target.apply(&object, mode).await;
    }
    let answer = match answer {
        Ok(answer) => answer,
        Err(refusal) => return Err(not_applied(refusal)),
    };
    if arguments.force_conflicts
        && let Some(taken) = taken(&object, mode, target).await
    {
        console.warn(&format!("with --force-conflicts, fields are taken over: {taken}"));
    }
    dropped.extend(said_of_dropped(&object, &answer));
    let diff = cluster::unified(live, Some(&answer));
    Ok(Tried { object, diff, dropped })
}

/// What a forced apply takes from others: what an unforced one would be refused for.
async fn taken(object: &Value, mode: ApplyMode, target: &Target) -> Option<String> {
    let refusal = target.apply(object, ApplyMode { force: false, ..mode }).await.err()?;
    (!refusal.conflicts().is_empty()).then(|| cluster::in_words(refusal.conflicts()))
}

fn not_applied(refusal: ClusterError) -> Failure {
    let exit = if matches!(refusal.status(), Some(400 | 422)) { Exit::Usage } else { Exit::Failed };
    Failure { exit, error: anyhow!(refusal).context("the API server would not take it; nothing was written") }
}

/// Fields that are not stored as they were written, in words.
fn said_of_dropped(written: &Value, stored: &Value) -> Vec<String> {
    let differences = cluster::differences(written, stored);
    let said = differences.iter().map(|difference| {
        if difference.is_dropped_tolerance() {
            format!(
                "{difference}: this cluster's HPAs have no tolerance of their own (Kubernetes before 1.35), so the \
                 controller's counts, 0.1 unless it was told another; a target that reckons with another one misses its mark"
            )
        } else {
            difference.to_string()
        }
    });
    said.collect()
}

/// An object that a tool keeps is changed at its source: the change as a file, and why.
fn offer_patch(run: &Path, object: &Value, owner: &Owner, target: &Target) -> anyhow::Result<anyhow::Error> {
    let Owner { tool, name, sign, place } = owner;
    let of = if name.is_empty() { String::new() } else { format!(" ({name})") };
    let header = [
        format!("Change of the HPA '{}' in the namespace {}, for {place}.", target.name, target.namespace),
        format!("{tool}{of} keeps this object, and would put back what is changed in the cluster."),
    ];
    let path = run.join("applied").join(format!("patch-{}.yaml", target.name));
    record::write_file(&path, to_yaml(object, &header)?.as_bytes())?;
    Ok(anyhow!(
        "the HPA '{}' belongs to {tool}{of}, by its {sign}, which would put back what is changed here: nothing was \
         written; the change is in {}, for {place}",
        target.name,
        path.display()
    ))
}

/// Writes: first the record of what was there, then the object. Gives the record, and what of the object
/// was not stored.
async fn write(
    arguments: &ApplyArgs,
    chosen: &Chosen,
    object: &Value,
    before: Option<Value>,
    target: &Target,
) -> Result<(PathBuf, Vec<String>), Failure> {
    let time = jiff::Timestamp::now();
    let mut applied = Applied {
        format: cluster::APPLIED.to_owned(),
        version: cluster::APPLIED_VERSION,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        time: time.to_string(),
        server: target.cluster.identity().server.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        manifest: chosen.file.clone(),
        written: object.clone(),
        before,
        after: None,
        rolled_back: None,
    };
    let path = super::applied_files::path(&arguments.run, time, &target.name);
    super::applied_files::write(&path, &applied).or_exit(Exit::Failed)?;
    let mode = ApplyMode { dry_run: false, force: arguments.force_conflicts };
    if let Err(refusal) = target.apply(object, mode).await {
        if refusal.status().is_some_and(|status| status < 500) {
            // Nothing was changed, so there is nothing to put back.
            let _ = std::fs::remove_file(&path);
            return Err(not_applied(refusal));
        }
        let context = format!(
            "whether it was applied is not known; 'calibrate rollback {}' looks",
            arguments.run.display()
        );
        return Err(anyhow!(refusal).context(context)).or_exit(Exit::Failed);
    }
    let stored = target.live().await.or_exit(Exit::Failed)?;
    let stored =
        stored.context("it was applied, and is gone already: somebody deletes it").or_exit(Exit::Failed)?;
    let dropped = said_of_dropped(object, &stored);
    applied.after = Some(stored);
    super::applied_files::write(&path, &applied).or_exit(Exit::Failed)?;
    Ok((path, dropped))
}
