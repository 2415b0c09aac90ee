//! The one object in a cluster that a command is about, and the question before it is changed.

use super::run::cluster::connect;
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::cluster::{self, ApplyMode, Cluster, ClusterError, Task, as_json, kinds};
use anyhow::{anyhow, bail};
use clap::Args;
use serde_json::Value;
use std::fmt;

/// Which cluster, and whether to ask.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Context of the kubeconfig [default: the current one, or the cluster that this runs in]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Write without asking, as it takes where nobody can be asked
    #[arg(short, long)]
    pub yes: bool,
}

/// An HPA by its place.
pub(super) struct Target {
    pub(super) cluster: Cluster,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the HPA '{}' in the namespace {} ({})", self.name, self.namespace, self.cluster.identity())
    }
}

impl Target {
    /// The place of an HPA, named to the user before anything else happens.
    pub(super) async fn of(
        hpa: &Value,
        arguments: &ClusterArgs,
        console: Console,
    ) -> Result<Target, Failure> {
        let cluster = context_of(arguments.context.as_deref(), console).await?;
        let text = |pointer: &str, otherwise: &str| {
            hpa.pointer(pointer).and_then(Value::as_str).unwrap_or(otherwise).to_owned()
        };
        let (namespace, name) = (text("/metadata/namespace", "default"), text("/metadata/name", ""));
        console.note(&format!("object    HorizontalPodAutoscaler {namespace}/{name}"));
        Ok(Target { cluster, namespace, name })
    }

    /// The HPA, if it is there.
    pub(super) async fn live(&self) -> Result<Option<Value>, ClusterError> {
        let found = self.cluster.find(kinds::HPA, &self.namespace, &self.name).await?;
        Ok(found.as_ref().map(as_json))
    }

    /// Server-side apply.
    pub(super) async fn apply(&self, object: &Value, mode: ApplyMode) -> Result<Value, ClusterError> {
        self.cluster.apply(kinds::HPA, &self.namespace, object, mode).await
    }

    /// Goes on only after a yes.
    pub(super) fn confirm(&self, question: &str, yes: bool, console: Console) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        match console.confirm(question) {
            Some(true) => Ok(()),
            Some(false) => {
                Err(anyhow!("nothing was written, since you did not say yes")).or_exit(Exit::Interrupted)
            }
            None => Err(anyhow!(
                "nothing was written: nobody can be asked, since stdin is no terminal; add --yes to change {self}"
            ))
            .or_exit(Exit::Usage),
        }
    }
}

/// The cluster of a context, named to the user before anything else happens.
pub(super) async fn context_of(context: Option<&str>, console: Console) -> Result<Cluster, Failure> {
    let cluster = connect(context).await?;
    console.note(&format!("cluster   {}", cluster.identity()));
    Ok(cluster)
}

/// An HPA that a calibration has paused is left to it: it puts back what was there before, over whatever is
/// written meanwhile.
pub(super) fn not_paused(hpa: Option<&Value>) -> anyhow::Result<()> {
    let annotations = hpa.and_then(|hpa| hpa.pointer("/metadata/annotations"));
    if annotations.is_some_and(|annotations| annotations.get(cluster::ORIGINAL).is_some()) {
        bail!(
            "a calibration has paused the HPA and will put it back; wait until it ends, or run 'calibrate doctor \
             --restore' if it was killed"
        );
    }
    Ok(())
}

/// Whether this user may do all that the task takes, before any of it is done.
pub(super) async fn permitted(target: &Target, task: Task, hpa: &Value) -> Result<(), Failure> {
    let Target { cluster, namespace, .. } = target;
    let workload = cluster::scaled_kind(hpa).unwrap_or(kinds::DEPLOYMENT);
    // That a metric cannot be looked at keeps nobody from applying an HPA on it.
    let rules = cluster::rules(task, workload, &[]);
    let denied = cluster::denied(cluster, namespace, &rules).await.or_exit(Exit::Failed)?;
    if denied.is_empty() {
        return Ok(());
    }
    let lacking: Vec<String> = denied.iter().map(|rule| format!("{rule} ({})", rule.why)).collect();
    Err(anyhow!(
        "this user may not do what '{}' takes in the namespace {namespace}: {}; the Role in rbac-{}.yaml, which \
         'calibrate manifests --rbac' writes, grants it",
        task.command(),
        lacking.join("; "),
        task.slug()
    ))
    .or_exit(Exit::Failed)
}
