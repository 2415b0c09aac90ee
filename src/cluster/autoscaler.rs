//! Autoscalers on a target: what pauses each, and what puts it back.
//!
//! Each pause is one patch, which carries the original in an annotation: there is no moment in which one
//! is paused and does not say what it was. Putting back is one patch too, and takes the annotation away.

use super::client::{Cluster, Kind};
use super::error::ClusterError;
use super::kinds;
use super::owner::{Owner, owner};
use super::patch::difference;
use super::target::Target;
use kube::core::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The annotation that holds what an autoscaler was before it was paused.
pub const ORIGINAL: &str = "calibrate/original";
/// KEDA's own annotations that stop it.
const KEDA_PAUSED: &str = "autoscaling.keda.sh/paused";
const KEDA_PAUSED_AT: &str = "autoscaling.keda.sh/paused-replicas";

/// What scales a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoscalerKind {
    /// A HorizontalPodAutoscaler.
    Hpa,
    /// A ScaledObject of KEDA's.
    ScaledObject,
    /// A VerticalPodAutoscaler, which restarts pods.
    Vpa,
}

impl AutoscalerKind {
    /// All of them.
    pub const ALL: [AutoscalerKind; 3] =
        [AutoscalerKind::Hpa, AutoscalerKind::ScaledObject, AutoscalerKind::Vpa];

    /// Its kind.
    pub const fn kind(self) -> Kind {
        match self {
            AutoscalerKind::Hpa => kinds::HPA,
            AutoscalerKind::ScaledObject => kinds::SCALED_OBJECT,
            AutoscalerKind::Vpa => kinds::VPA,
        }
    }

    /// Where its object has what is changed to pause it.
    fn field(self) -> &'static [&'static str] {
        match self {
            AutoscalerKind::Hpa => &["spec", "behavior"],
            AutoscalerKind::ScaledObject => &["metadata", "annotations", KEDA_PAUSED],
            AutoscalerKind::Vpa => &["spec", "updatePolicy"],
        }
    }

    /// What is there while it is paused.
    fn paused(self, original: &Value) -> Value {
        let mut value = if original.is_object() { original.clone() } else { json!({}) };
        match self {
            AutoscalerKind::Hpa => {
                value["scaleUp"]["selectPolicy"] = "Disabled".into();
                value["scaleDown"]["selectPolicy"] = "Disabled".into();
            }
            AutoscalerKind::ScaledObject => value = "true".into(),
            AutoscalerKind::Vpa => value["updateMode"] = "Off".into(),
        }
        value
    }
}

/// An autoscaler that was found on a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Autoscaler {
    /// Of which kind it is.
    pub kind: AutoscalerKind,
    /// Its name.
    pub name: String,
    /// Fewest and most replicas that it leaves alone. It moves others back even while it is paused.
    pub bounds: Option<(u32, u32)>,
    /// What its object had before it was paused; null where it had nothing.
    pub original: Value,
    /// The tool that keeps its object, if one shows.
    pub owner: Option<Owner>,
}

impl Autoscaler {
    /// Its kind and name, for messages.
    pub fn what(&self) -> String {
        format!("{} {}", self.kind.kind().kind, self.name)
    }
}

/// The active autoscalers of a target. Those that an earlier calibration left paused count.
///
/// # Errors
/// They must not be read.
pub async fn find(cluster: &Cluster, target: &Target) -> Result<Vec<Autoscaler>, ClusterError> {
    let mut found = Vec::new();
    for kind in AutoscalerKind::ALL {
        for object in cluster.list(kind.kind(), &target.namespace, "").await? {
            let object = serde_json::to_value(&object).unwrap_or_default();
            if scales(kind, &object, target) && !driven_by_keda(&object) {
                found.extend(active(kind, &object));
            }
        }
    }
    Ok(found)
}

/// Whether an autoscaler's reference is to the target.
fn scales(kind: AutoscalerKind, object: &Value, target: &Target) -> bool {
    let reference = match kind {
        AutoscalerKind::Vpa => &object["spec"]["targetRef"],
        _ => &object["spec"]["scaleTargetRef"],
    };
    // KEDA takes a Deployment where no kind is named.
    let of = reference["kind"].as_str().unwrap_or("Deployment");
    of == target.workload.kind().kind && reference["name"] == target.name.as_str()
}

/// An HPA that KEDA made is KEDA's to change: it would put it back at once.
fn driven_by_keda(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.is_some_and(|owners| owners.iter().any(|owner| owner["kind"] == "ScaledObject"))
}

/// The autoscaler, unless it does nothing by its owner's wish.
fn active(kind: AutoscalerKind, object: &Value) -> Option<Autoscaler> {
    let annotations = &object["metadata"]["annotations"];
    let kept = annotations[ORIGINAL].as_str().and_then(|text| serde_json::from_str(text).ok());
    let current = at(object, kind.field());
    let idle = match kind {
        AutoscalerKind::Hpa => {
            let disabled = |direction: &str| current[direction]["selectPolicy"] == "Disabled";
            disabled("scaleUp") && disabled("scaleDown")
        }
        AutoscalerKind::ScaledObject => {
            let paused = annotations[KEDA_PAUSED].as_str().is_some_and(|paused| paused != "false");
            paused || !annotations[KEDA_PAUSED_AT].is_null()
        }
        AutoscalerKind::Vpa => {
            // With Initial it changes only pods that come anyway.
            matches!(current["updateMode"].as_str(), Some("Off" | "Initial"))
        }
    };
    if idle && kept.is_none() {
        return None;
    }
    let number = |field: &str, default: u64| object["spec"][field].as_u64().unwrap_or(default) as u32;
    let bounds = (kind == AutoscalerKind::Hpa)
        .then(|| (number("minReplicas", 1), number("maxReplicas", u64::from(u32::MAX))));
    let name = object["metadata"]["name"].as_str()?.to_owned();
    Some(Autoscaler { kind, name, bounds, original: kept.unwrap_or(current), owner: owner(object) })
}

fn at(object: &Value, path: &[&str]) -> Value {
    path.iter().try_fold(object, |value, key| value.get(key)).cloned().unwrap_or_default()
}

/// A patch that brings a field from one value to another and sets or removes the annotation, if the object
/// is still at its version.
fn patch(kind: AutoscalerKind, object: &Value, to: &Value, annotation: Option<&str>) -> Value {
    let from = at(object, kind.field());
    let mut patch = json!({
        "metadata": {
            "resourceVersion": object["metadata"]["resourceVersion"],
            "annotations": { ORIGINAL: annotation },
        },
    });
    if let Some(change) = difference(&from, to) {
        let mut slot = &mut patch;
        for key in kind.field() {
            slot = &mut slot[*key];
        }
        *slot = change;
    }
    patch
}

/// How often a change is tried again where someone else was first.
const TRIES: usize = 6;

/// Pauses an autoscaler.
///
/// # Errors
/// It is not there any more or must not be changed.
pub(super) async fn pause(
    cluster: &Cluster,
    namespace: &str,
    autoscaler: &Autoscaler,
) -> Result<(), ClusterError> {
    let kind = autoscaler.kind;
    change(cluster, namespace, kind, &autoscaler.name, |object| {
        // What it is by now is what is put back, unless it is paused already.
        let original = match object["metadata"]["annotations"][ORIGINAL].as_str() {
            Some(_) => autoscaler.original.clone(),
            None => at(object, kind.field()),
        };
        Some(patch(kind, object, &kind.paused(&original), Some(&original.to_string())))
    })
    .await
    .map(|_| ())
}

/// Puts an autoscaler back, if its annotation says that it is paused: to what that says, or to `original` where
/// somebody has made it unreadable. Gives whether it was.
///
/// # Errors
/// It must not be changed.
pub(super) async fn restore(
    cluster: &Cluster,
    namespace: &str,
    kind: AutoscalerKind,
    name: &str,
    original: Option<&Value>,
) -> Result<bool, ClusterError> {
    let restored = change(cluster, namespace, kind, name, |object| {
        let kept = object["metadata"]["annotations"][ORIGINAL].as_str()?;
        let original = serde_json::from_str(kept).ok().or_else(|| original.cloned())?;
        Some(patch(kind, object, &original, None))
    })
    .await;
    match restored {
        // Whoever took it away meant it.
        Err(error) if error.is_not_found() => Ok(false),
        restored => restored,
    }
}

/// Patches an object as it is now; again where someone else was first. Gives whether there was anything to
/// change.
async fn change(
    cluster: &Cluster,
    namespace: &str,
    kind: AutoscalerKind,
    name: &str,
    patch: impl Fn(&Value) -> Option<Value>,
) -> Result<bool, ClusterError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let object = cluster.get(kind.kind(), namespace, name).await?;
        let object = serde_json::to_value(&object).unwrap_or_default();
        let Some(patch) = patch(&object) else { return Ok(false) };
        match cluster.merge(kind.kind(), namespace, name, &patch).await {
            Err(error) if error.is_conflict() && tries < TRIES => {}
            changed => return changed.map(|_| true),
        }
    }
}

/// The autoscalers of a namespace that carry the annotation.
///
/// # Errors
/// They must not be read.
pub(super) async fn paused(
    cluster: &Cluster,
    namespace: &str,
) -> Result<Vec<(AutoscalerKind, String)>, ClusterError> {
    let mut found = Vec::new();
    for kind in AutoscalerKind::ALL {
        let objects = cluster.list(kind.kind(), namespace, "").await?;
        let marked = |object: &DynamicObject| {
            object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(ORIGINAL))
        };
        let names = objects.into_iter().filter(marked).filter_map(|object| object.metadata.name);
        found.extend(names.map(|name| (kind, name)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hpa(behavior: &Value) -> Value {
        json!({
            "metadata": { "name": "gemma", "resourceVersion": "7" },
            "spec": { "minReplicas": 2, "maxReplicas": 9, "behavior": behavior },
        })
    }

    #[test]
    fn what_does_nothing_by_its_owners_wish_is_not_active() {
        let off = json!({ "selectPolicy": "Disabled" });
        let idle = hpa(&json!({ "scaleUp": off, "scaleDown": off }));
        assert_eq!(active(AutoscalerKind::Hpa, &idle), None);
        let up = hpa(&json!({ "scaleUp": off }));
        let found = active(AutoscalerKind::Hpa, &up).unwrap();
        assert_eq!((found.bounds, found.original), (Some((2, 9)), json!({ "scaleUp": off })));
        let keda = |annotations: &Value| {
            let object = json!({ "metadata": { "name": "x", "annotations": annotations }, "spec": {} });
            active(AutoscalerKind::ScaledObject, &object).is_some()
        };
        assert!(keda(&json!({})) && keda(&json!({ KEDA_PAUSED: "false" })));
        assert!(!keda(&json!({ KEDA_PAUSED: "true" })) && !keda(&json!({ KEDA_PAUSED_AT: "1" })));
        let vpa = |mode: &Value| {
            let object =
                json!({ "metadata": { "name": "x" }, "spec": { "updatePolicy": { "updateMode": mode } } });
            active(AutoscalerKind::Vpa, &object).is_some()
        };
        assert!(vpa(&json!("Auto")) && vpa(&json!("Recreate")) && vpa(&Value::Null));
        assert!(!vpa(&json!("Off")) && !vpa(&json!("Initial")));
    }

    #[test]
    fn one_that_is_still_paused_is_active_with_what_it_was() {
        let off = json!({ "selectPolicy": "Disabled" });
        let mut object = hpa(&json!({ "scaleUp": off, "scaleDown": off }));
        object["metadata"]["annotations"] = json!({ ORIGINAL: "null" });
        assert_eq!(active(AutoscalerKind::Hpa, &object).unwrap().original, Value::Null);
    }

    #[test]
    fn a_pause_keeps_what_was_there_and_the_way_back_removes_what_it_added() {
        let original = json!({ "scaleDown": { "stabilizationWindowSeconds": 60, "selectPolicy": "Max" } });
        let object = hpa(&original);
        let paused = AutoscalerKind::Hpa.paused(&original);
        let there = patch(AutoscalerKind::Hpa, &object, &paused, Some(&original.to_string()));
        let behavior =
            json!({ "scaleUp": { "selectPolicy": "Disabled" }, "scaleDown": { "selectPolicy": "Disabled" } });
        assert_eq!(there["spec"]["behavior"], behavior);
        assert_eq!(there["metadata"]["resourceVersion"], "7");
        let back = patch(AutoscalerKind::Hpa, &hpa(&paused), &original, None);
        assert_eq!(
            back["spec"]["behavior"],
            json!({ "scaleDown": { "selectPolicy": "Max" }, "scaleUp": null })
        );
        assert_eq!(back["metadata"]["annotations"], json!({ ORIGINAL: null }));
    }
}
