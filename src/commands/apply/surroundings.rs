//! What surrounds an HPA that is to be applied: what it scales, who else does, whose it is, whether its
//! metrics are there. Everything is only looked at.

use super::Target;
use crate::cli::console::Console;
use crate::cluster::{self, HpaMetric, Owner, Seen, as_json, kinds};
use crate::commands::cluster_target::not_paused;
use anyhow::{anyhow, bail};
use serde_json::Value;

/// An HPA in the cluster.
pub(super) struct Surroundings {
    /// The HPA of that name, as it is.
    pub(super) live: Option<Value>,
    /// Who keeps it, if it is a tool.
    pub(super) owner: Option<Owner>,
}

/// Looks at everything around `object`.
pub(super) async fn look(
    target: &Target,
    object: &Value,
    allow_missing_metric: bool,
    console: Console,
) -> anyhow::Result<Surroundings> {
    let live = target.live().await?;
    not_paused(live.as_ref())?;
    let scaled = text(object, "/spec/scaleTargetRef/name");
    let kind = text(object, "/spec/scaleTargetRef/kind");
    let hpas = target.cluster.list(kinds::HPA, &target.namespace, "").await?;
    let hpas: Vec<Value> = hpas.iter().map(as_json).collect();
    if let Some(other) = rival(&hpas, &target.name, kind, scaled) {
        bail!(
            "the HPA '{other}' scales the {kind} '{scaled}' too, and of two neither would (AmbiguousSelector); delete it \
             with 'kubectl delete hpa {other} -n {}', or give this one its name with --hpa-name",
            target.namespace
        );
    }
    let pods = pods_of(target, object, kind, scaled).await?;
    for metric in HpaMetric::of(object) {
        let seen = metric.look(&target.cluster, &target.namespace, &pods).await;
        see(&metric, seen, allow_missing_metric, console)?;
    }
    let owner = live.as_ref().and_then(cluster::owner);
    Ok(Surroundings { live, owner })
}

/// Another HPA on the same workload.
fn rival<'a>(hpas: &'a [Value], name: &str, kind: &str, scaled: &str) -> Option<&'a str> {
    let others = hpas.iter().filter(|hpa| text(hpa, "/metadata/name") != name);
    let mut same = others.filter(|hpa| {
        text(hpa, "/spec/scaleTargetRef/name") == scaled && text(hpa, "/spec/scaleTargetRef/kind") == kind
    });
    same.next().map(|hpa| text(hpa, "/metadata/name"))
}

/// The selector of the pods that the HPA would scale, as the controller finds it.
async fn pods_of(target: &Target, object: &Value, kind: &str, scaled: &str) -> anyhow::Result<String> {
    let Some(workload) = cluster::scaled_kind(object) else {
        bail!("calibrate does not know how to read a {kind}, which the HPA scales");
    };
    let Some(scale) = target.cluster.scale_of(workload, &target.namespace, scaled).await? else {
        bail!(
            "there is no {kind} '{scaled}' in the namespace {}, so the HPA would have nothing to scale; give its name \
             with --hpa-deployment and --namespace when the run is made, or is this the wrong context?",
            target.namespace
        );
    };
    Ok(text(&scale, "/status/selector").to_owned())
}

/// Says what the API has of a metric. One that no API answers for keeps the HPA from ever scaling.
fn see(metric: &HpaMetric, seen: Seen, allow_missing: bool, console: Console) -> anyhow::Result<()> {
    let name = &metric.name;
    match seen {
        Seen::Values(count, first) => {
            let of = if metric.external { "series" } else { "pods" };
            console.note(&format!("metric    {name} is there: {count} {of}, the first with {first}"));
        }
        Seen::Nothing => console.warn(&format!(
            "the metrics API answers and has no value of {name}: a server shows some of its metrics only once it has \
             served a request; until then the HPA does not scale"
        )),
        Seen::No(refusal) if refusal.status() == Some(403) => console.warn(&format!(
            "whether the HPA will see {name} could not be looked up: {refusal}"
        )),
        Seen::No(refusal) if allow_missing => {
            console.warn(&format!("the HPA will not see {name} and so will not scale: {refusal}"));
        }
        Seen::No(refusal) => {
            return Err(anyhow!(refusal).context(format!(
                "the HPA would not see {name} and so never scale; --allow-missing-metric applies it all the same"
            )));
        }
    }
    Ok(())
}

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
