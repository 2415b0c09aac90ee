//! An HPA out of a file of manifests.

use crate::commands::input::{read_text, shown};
use crate::hpa::HpaSpec;
use crate::manifest::read_objects;
use crate::recommend::lint::{Finding, Node, Object, refused};
use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use std::path::Path;

/// An HPA that the controller can compute with.
pub(in crate::commands) struct HpaFile {
    /// Its name.
    pub(in crate::commands) name: String,
    /// Its spec.
    pub(in crate::commands) spec: HpaSpec,
    /// Documents of the file that were left out.
    pub(in crate::commands) remarks: Vec<String>,
}

const KIND: &str = "HorizontalPodAutoscaler";

/// What to do with a file of several HPAs, where one can be named.
pub(super) const BY_NAME: &str = "choose one with --hpa-name";

/// The HPA of that name in a file; without a name, the only one in it. `several` is what to do otherwise.
pub(in crate::commands) fn read_hpa(
    path: &Path,
    name: Option<&str>,
    several: &str,
) -> anyhow::Result<HpaFile> {
    let file = shown(path);
    let nodes = read_objects(&read_text(path)?).with_context(|| format!("cannot read {file}"))?;
    let text = |node: &Node, path: &str| node.at(path).and_then(Node::text).unwrap_or_default();
    let (found, others): (Vec<Node>, Vec<Node>) =
        nodes.into_iter().partition(|node| text(node, "kind") == KIND);
    if found.is_empty() {
        let kinds: Vec<String> = others.iter().map(|node| text(node, "kind")).collect();
        if kinds.iter().any(|kind| kind == "ScaledObject") {
            bail!(
                "{file} holds a ScaledObject and no {KIND}; KEDA makes one of it, which 'kubectl get hpa \
                 keda-hpa-NAME -o yaml' prints"
            );
        }
        let kinds = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
        bail!("{file} holds no {KIND}, but {kinds}");
    }
    let names: Vec<String> = found.iter().map(|node| text(node, "metadata.name")).collect();
    let index = match name {
        Some(name) => names
            .iter()
            .position(|known| known == name)
            .ok_or_else(|| anyhow!("{file} holds no {KIND} '{name}'; it holds {}", names.join(", ")))?,
        None if found.len() == 1 => 0,
        None => bail!("{file} holds several HPAs ({}); {several}", names.join(", ")),
    };
    let skipped = others.iter().map(|node| (node, text(node, "kind")));
    let remarks = skipped.map(|(node, kind)| format!("{file}:{}: {kind} skipped", node.place.line)).collect();
    let object = Object { file, node: found[index].clone() };
    Ok(HpaFile { name: names[index].clone(), spec: spec(&object)?, remarks })
}

/// The spec, once nothing in it would be refused by the API server, and every metric is modelled.
fn spec(object: &Object) -> anyhow::Result<HpaSpec> {
    let Object { file, node } = object;
    if let Some(Finding { place, reason, fix, .. }) = refused(object).first() {
        bail!("{file}:{}: {reason}; {fix} ('calibrate lint {file}' tells all that is wrong)", place.line);
    }
    let line = node.get("spec").unwrap_or(node).place.line;
    let value = node.get("spec").map(Node::value).unwrap_or_default();
    let spec =
        HpaSpec::deserialize(value).with_context(|| format!("{file}:{line}: the spec cannot be read"))?;
    if spec.metrics.is_empty() {
        bail!("{file}:{line}: without metrics the API server fills in CPU at 80 %, which is not modelled");
    }
    for (index, metric) in spec.metrics.iter().enumerate() {
        let at = node.at("spec.metrics").and_then(|metrics| metrics.items().get(index)).unwrap_or(node);
        metric.resolve().with_context(|| format!("{file}:{}: spec.metrics[{index}]", at.place.line))?;
    }
    Ok(spec)
}
