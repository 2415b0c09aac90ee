//! A KEDA ScaledObject (keda.sh/v1alpha1) in place of an HPA.

use super::{ClusterNames, hpa, series};
use crate::units::{Milli, Signal};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An object of KEDA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KedaObject<S> {
    /// `keda.sh/v1alpha1`.
    pub api_version: String,
    /// `ScaledObject` or `TriggerAuthentication`.
    pub kind: String,
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What it says.
    pub spec: S,
}

/// What is scaled, and on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaledObjectSpec {
    /// The Deployment.
    pub scale_target_ref: ScaleTargetRef,
    /// At least 1: a server that is not there shows no queue.
    pub min_replica_count: u32,
    /// The most.
    pub max_replica_count: u32,
    /// What the HPA that KEDA makes is given.
    pub advanced: Advanced,
    /// The metrics.
    pub triggers: Vec<Trigger>,
}

/// The Deployment that is scaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaleTargetRef {
    /// Its API version, where it is no Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Its kind, where it is no Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
}

/// Less usual settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Advanced {
    /// Of the HPA.
    pub horizontal_pod_autoscaler_config: HpaConfig,
}

/// Settings of the HPA that KEDA makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HpaConfig {
    /// As in an HPA.
    pub behavior: HorizontalPodAutoscalerBehavior,
}

/// A metric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trigger {
    /// `prometheus`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `AverageValue`: the sum is divided by the replicas.
    pub metric_type: String,
    /// Address, query, threshold, all of them text.
    pub metadata: BTreeMap<String, String>,
    /// How KEDA shows who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_ref: Option<AuthenticationRef>,
}

/// A TriggerAuthentication by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthenticationRef {
    /// Its name.
    pub name: String,
}

/// How KEDA shows who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TriggerAuthenticationSpec {
    /// By the pod's own identity.
    pub pod_identity: PodIdentity,
}

/// Whose identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodIdentity {
    /// `gcp`.
    pub provider: String,
}

/// A ScaledObject.
pub type ScaledObject = KedaObject<ScaledObjectSpec>;
/// A TriggerAuthentication.
pub type TriggerAuthentication = KedaObject<TriggerAuthenticationSpec>;

/// The name of the TriggerAuthentication.
const IDENTITY: &str = "keda-google-identity";

fn object<S>(kind: &str, name: &str, names: &ClusterNames, spec: S) -> KedaObject<S> {
    KedaObject {
        api_version: "keda.sh/v1alpha1".to_owned(),
        kind: kind.to_owned(),
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(names.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec,
    }
}

/// Where KEDA asks.
fn address(names: &ClusterNames) -> Result<String, String> {
    match (&names.prometheus, &names.project) {
        (Some(address), _) => Ok(address.clone()),
        (None, Some(project)) => {
            names.check_place()?;
            Ok(format!("https://monitoring.googleapis.com/v1/projects/{project}/location/global/prometheus"))
        }
        (None, None) => {
            Err("it asks Prometheus: give --project for Google's, or --prometheus-address for your own"
                .to_owned())
        }
    }
}

/// Scales on the sum of a signal's series. `average_value` is per replica, as an HPA would have it.
///
/// # Errors
/// Why there can be none.
pub fn scaled_object(
    signal: Signal,
    average_value: Milli,
    tolerance: f64,
    names: &ClusterNames,
) -> Result<ScaledObject, String> {
    let metadata = [
        ("serverAddress", address(names)?),
        ("query", format!("sum({})", series::promql(signal, names)?)),
        ("threshold", average_value.as_f64().to_string()),
        // Otherwise missing data count as zero, and scale down.
        ("ignoreNullValues", "false".to_owned()),
    ];
    let trigger = Trigger {
        type_: "prometheus".to_owned(),
        metric_type: "AverageValue".to_owned(),
        metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        authentication_ref: names.is_managed().then(|| AuthenticationRef { name: IDENTITY.to_owned() }),
    };
    let behavior = hpa::behavior(names.has_tolerance().then_some(tolerance));
    let (api_version, kind) = names.scaled.clone();
    let other = kind != "Deployment";
    let spec = ScaledObjectSpec {
        scale_target_ref: ScaleTargetRef {
            api_version: other.then_some(api_version),
            kind: other.then_some(kind),
            name: names.deployment.clone(),
        },
        min_replica_count: names.min_replicas,
        max_replica_count: names.max_replicas,
        advanced: Advanced { horizontal_pod_autoscaler_config: HpaConfig { behavior } },
        triggers: vec![trigger],
    };
    let name = names.hpa_name.as_deref().unwrap_or("gemma-server");
    Ok(object("ScaledObject", name, names, spec))
}

/// KEDA's identity before Google. `None`: a Prometheus of one's own asks for none.
pub fn trigger_authentication(names: &ClusterNames) -> Option<TriggerAuthentication> {
    let pod_identity = PodIdentity { provider: "gcp".to_owned() };
    names
        .is_managed()
        .then(|| object("TriggerAuthentication", IDENTITY, names, TriggerAuthenticationSpec { pod_identity }))
}
