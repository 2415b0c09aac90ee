//! The HPA of a run that is to be applied.

use crate::cli::{Exit, Failure, OrExit};
use crate::commands::derive;
use crate::commands::input::{read_text, shown};
use crate::manifest::read_objects;
use crate::record;
use crate::recommend::lint::{Finding, Node, Object, refused};
use crate::scenario::Settings;
use crate::units::Signal;
use anyhow::{Context, anyhow, bail};
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

/// The HPA on the metric that the run recommends, or on `metric`, as its file stands: what somebody changed
/// in it is applied too.
pub(super) fn chosen(run: &Path, metric: Option<Signal>) -> Result<Chosen, Failure> {
    let derived = derive::read(&[run.to_owned()], Settings::default(), metric).or_exit(Exit::Usage)?;
    let simulated = record::read(run).or_exit(Exit::Usage)?.info.target.simulated;
    let signal = derived.recommendation.as_ref().and_then(|recommendation| recommendation.recommended);
    let Some(signal) = signal else {
        let what = metric.map_or("a target".to_owned(), |metric| format!("a target on {metric}"));
        return Err(anyhow!(
            "the run {0} does not recommend {what}, so there is nothing to apply; 'calibrate report {0}' says why",
            run.display()
        ))
        .or_exit(Exit::Invalid);
    };
    let file = format!("hpa-{}.yaml", signal.slug());
    let left_out = derived.manifests().and_then(|set| set.left_out.iter().find(|left| left.name == file));
    if let Some(left) = left_out {
        return Err(anyhow!("there is no {file}: {}", left.reason)).or_exit(Exit::Usage);
    }
    let object = object(&run.join(&file)).or_exit(Exit::Usage)?;
    Ok(Chosen { file, object, simulated })
}

/// The one HPA in a file, once nothing in it would be refused.
fn object(path: &Path) -> anyhow::Result<Value> {
    let file = shown(path);
    let text = read_text(path)
        .with_context(|| format!("'calibrate report {}' writes it", shown(path.parent().unwrap_or(path))))?;
    let nodes = read_objects(&text).with_context(|| format!("cannot read {file}"))?;
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
