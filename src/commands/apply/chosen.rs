//! The HPA of a run that is to be applied.

use crate::cli::{Exit, Failure, OrExit};
use crate::commands::input::{read_text, shown};
use crate::manifest::read_objects;
use crate::recommend::lint::{Finding, Node, Object, refused};
use crate::units::Signal;
use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// An HPA as it is to be applied.
pub(super) struct Chosen {
    /// Its file in the run directory.
    pub(super) file: String,
    /// The object.
    pub(super) object: Value,
    /// Whether its number was measured on the embedded simulated server.
    pub(super) simulated: bool,
}

/// What matters here of `recommendation.json`.
#[derive(Deserialize)]
struct Recommended {
    version: u32,
    simulated: bool,
    metric: Option<String>,
    reason: Option<String>,
    targets: Vec<TargetOf>,
}

#[derive(Deserialize)]
struct TargetOf {
    metric: String,
    refused: Option<String>,
}

/// The version of `recommendation.json` that is read.
const VERSION: u32 = 1;

/// The HPA on the metric that the run recommends, or on `metric`, as its file stands: what somebody changed
/// in it is applied too.
pub(super) fn chosen(run: &Path, metric: Option<Signal>) -> Result<Chosen, Failure> {
    let recommended = read(run).or_exit(Exit::Usage)?;
    let shown = run.display();
    let Some(slug) = metric.map(|metric| metric.slug().to_owned()).or_else(|| recommended.metric.clone())
    else {
        let reason = recommended.reason.unwrap_or_else(|| "no metric has a target".to_owned());
        return Err(anyhow!("the run {shown} recommends nothing to apply: {reason}")).or_exit(Exit::Invalid);
    };
    let file = format!("hpa-{slug}.yaml");
    let path = run.join(&file);
    if !path.exists() {
        let target = recommended.targets.iter().find(|target| target.metric == slug);
        return Err(match target.and_then(|target| target.refused.as_ref()) {
            Some(refused) => anyhow!("there is no {file}, since {slug} has no target: {refused}"),
            None => anyhow!(
                "there is no {file}: it was left out for want of names; 'calibrate manifests --run {shown} --out {shown}' \
                 with --cluster-name and --location writes it, or says what else it needs"
            ),
        })
        .or_exit(Exit::Usage);
    }
    let object = object(&path).or_exit(Exit::Usage)?;
    Ok(Chosen { file, object, simulated: recommended.simulated })
}

fn read(run: &Path) -> anyhow::Result<Recommended> {
    let path = run.join("recommendation.json");
    let hint = || format!("'calibrate report {}' writes it", run.display());
    let text = read_text(&path).with_context(hint)?;
    let found: Recommended = serde_json::from_str(&text)
        .with_context(|| format!("{} is no recommendation of a run", path.display()))
        .with_context(hint)?;
    if found.version != VERSION {
        bail!(
            "{} has version {}, and this calibrate reads {VERSION}; {}",
            path.display(),
            found.version,
            hint()
        );
    }
    Ok(found)
}

/// The one HPA in a file, once nothing in it would be refused.
fn object(path: &Path) -> anyhow::Result<Value> {
    let file = shown(path);
    let nodes = read_objects(&read_text(path)?).with_context(|| format!("cannot read {file}"))?;
    let [node] = nodes.as_slice() else { bail!("{file} holds {} objects, not one HPA", nodes.len()) };
    let kind = node.get("kind").and_then(Node::text).unwrap_or_default();
    if kind != "HorizontalPodAutoscaler" {
        bail!("{file} holds a {kind}, not an HPA");
    }
    let object = Object { file: file.clone(), node: node.clone() };
    if let Some(Finding { place, reason, fix, .. }) = refused(&object).first() {
        bail!("{file}:{}: {reason}; {fix}", place.line);
    }
    Ok(node.value())
}
