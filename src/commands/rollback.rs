//! `calibrate rollback`: puts back what was there before an apply, if nobody else has changed it since.

use super::applied_files;
use super::cluster_target::{ClusterArgs, Target, not_paused, permitted};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::cluster::{self, Applied, ClusterError, Task, Undo, kinds};
use anyhow::{Context, anyhow};
use clap::Args;
use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Arguments of `rollback`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate rollback reports/20261124T101500Z-demo
      Shows what would change, asks, and puts back what was there before the last apply of this run
  calibrate rollback reports/20261124T101500Z-demo --yes --force
      Without asking, and whatever somebody else has changed since")]
pub struct RollbackArgs {
    /// Directory of the run that was applied
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Stop before anything is written
    #[arg(long)]
    pub dry_run: bool,
    /// Put it back even where somebody has changed or deleted it since
    #[arg(long)]
    pub force: bool,
    /// Which cluster, and whether to ask.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Puts back what was there before the newest apply that was not rolled back.
pub(super) fn rollback(arguments: &RollbackArgs, console: Console) -> Result<Exit, Failure> {
    let run = arguments.run.display();
    let newest = applied_files::newest(&arguments.run).or_exit(Exit::Usage)?;
    let (path, applied) = newest
        .with_context(|| {
            format!("{run} holds no apply that was not rolled back, so there is nothing to put back")
        })
        .or_exit(Exit::Usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Failed)?;
    runtime.block_on(put_back(arguments, &path, applied, console))
}

async fn put_back(
    arguments: &RollbackArgs,
    path: &Path,
    mut applied: Applied,
    console: Console,
) -> Result<Exit, Failure> {
    let target = Target::of(&applied.written, &arguments.cluster, console).await?;
    let identity = target.cluster.identity();
    if identity.server != applied.server {
        return Err(anyhow!(
            "it was applied to the cluster at {}, and this context is for {}; choose the right one with --context",
            applied.server,
            identity.server
        ))
        .or_exit(Exit::Usage);
    }
    permitted(&target, Task::Rollback, &applied.written).await?;
    let now = target.live().await.or_exit(Exit::Failed)?;
    not_paused(now.as_ref()).or_exit(Exit::Failed)?;
    let undo = undo(arguments, &applied, now.as_ref(), console).or_exit(Exit::Failed)?;
    let diff = match undo {
        Undo::Nothing => String::new(),
        _ => cluster::unified(now.as_ref(), applied.before.as_ref()),
    };
    console.diff(&diff);
    let written = undo != Undo::Nothing && !arguments.dry_run;
    if written {
        target.confirm(&format!("Put this back in {target}?"), arguments.cluster.yes, console)?;
        carry_out(undo.clone(), arguments, &applied, &target, console).await.or_exit(Exit::Failed)?;
    }
    if arguments.dry_run {
        console.summary("nothing was written (--dry-run)");
    } else {
        applied.rolled_back = Some(jiff::Timestamp::now().to_string());
        applied_files::write(path, &applied).or_exit(Exit::Failed)?;
        console.summary(&said(&undo, &target));
    }
    if console.wants_json() {
        console.document(&json!({
            "context": identity.context, "server": identity.server,
            "namespace": target.namespace, "name": target.name,
            "dry_run": arguments.dry_run, "diff": diff, "written": written,
            "record": path.display().to_string(), "exit_code": Exit::Done as u8,
        }));
    }
    Ok(Exit::Done)
}

fn said(undo: &Undo, target: &Target) -> String {
    match undo {
        Undo::Nothing => format!("{target} is as it was before already"),
        Undo::Delete(_) => format!("deleted   {target}, which was not there before"),
        Undo::Replace(_) => format!("restored  {target}"),
        Undo::Create(_) => format!("made      {target} again"),
    }
}

/// How to put it back, unless somebody else has changed it since.
fn undo(
    arguments: &RollbackArgs,
    applied: &Applied,
    now: Option<&Value>,
    console: Console,
) -> anyhow::Result<Undo> {
    applied.undo(now, arguments.force).map_err(|changed| {
        console.diff(&cluster::unified(applied.after.as_ref(), now));
        anyhow!("{changed}, so nothing was put back; add --force to undo that too")
    })
}

/// The controller writes the status every 15 s: so often somebody may come between.
const TRIES: u32 = 5;

/// Does it, and looks whether what is there is what was there.
async fn carry_out(
    mut undo: Undo,
    arguments: &RollbackArgs,
    applied: &Applied,
    target: &Target,
    console: Console,
) -> anyhow::Result<()> {
    let Target { cluster, namespace, name } = target;
    let mut tries = 1;
    loop {
        let done = match &undo {
            Undo::Nothing => return Ok(()),
            Undo::Delete(version) => {
                cluster.delete(kinds::HPA, namespace, name, Some(version)).await.map(drop)
            }
            Undo::Create(object) => {
                cluster.create(kinds::HPA, namespace, &DynamicObject::deserialize(object)?).await.map(drop)
            }
            Undo::Replace(object) => replace(object, applied, target).await?,
        };
        match done {
            Ok(()) => break,
            // Mostly it is only its status that was written meanwhile.
            Err(error) if error.is_conflict() && tries < TRIES => {
                tries += 1;
                let now = target.live().await?;
                undo = self::undo(arguments, applied, now.as_ref(), console)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    check(applied, target.live().await?.as_ref())
}

/// Puts it in place, and then who owned which field: by being written back, fields became calibrate's, and
/// the next apply of their former owner would be in conflict with it.
async fn replace(
    object: &Value,
    applied: &Applied,
    target: &Target,
) -> anyhow::Result<Result<(), ClusterError>> {
    let Target { cluster, namespace, .. } = target;
    let object = DynamicObject::deserialize(object)?;
    let mut stored = match cluster.replace(kinds::HPA, namespace, &object).await {
        Ok(stored) => stored,
        Err(error) => return Ok(Err(error)),
    };
    let managed = applied.before.as_ref().and_then(|before| before.pointer("/metadata/managedFields"));
    let Some(managed) = managed else { return Ok(Ok(())) };
    for _ in 1..TRIES {
        stored.metadata.managed_fields = Some(Vec::deserialize(managed)?);
        match cluster.replace(kinds::HPA, namespace, &stored).await {
            // Its spec is back; only the owners are not.
            Err(error) if error.is_conflict() => {
                stored = cluster.get(kinds::HPA, namespace, &target.name).await?;
            }
            done => return Ok(done.map(drop)),
        }
    }
    Err(anyhow!("its spec was put back, but not who owns which field: somebody changes it all the time"))
}

/// Whether what is there has the very spec that was there before.
fn check(applied: &Applied, now: Option<&Value>) -> anyhow::Result<()> {
    let spec = |object: Option<&Value>| object.and_then(|object| object.get("spec")).cloned();
    if spec(applied.before.as_ref()) == spec(now) {
        return Ok(());
    }
    Err(anyhow!(
        "it was put back, and the API server holds something else:\n{}",
        cluster::unified(applied.before.as_ref(), now)
    ))
}
