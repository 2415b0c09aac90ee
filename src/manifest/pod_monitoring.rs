//! PodMonitoring of Managed Service for Prometheus (monitoring.googleapis.com/v1).

use super::ClusterNames;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Time between two scrapes, as on Google's how-to page.
const INTERVAL: &str = "15s";
/// The label by which the DCGM exporter's pods are found.
const EXPORTER: (&str, &str) = ("app.kubernetes.io/name", "nvidia-dcgm-exporter");

/// A PodMonitoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodMonitoring {
    /// `monitoring.googleapis.com/v1`.
    pub api_version: String,
    /// `PodMonitoring`.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What is scraped.
    pub spec: PodMonitoringSpec,
}

/// What a PodMonitoring scrapes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodMonitoringSpec {
    /// Which pods.
    pub selector: LabelSelector,
    /// Which ports of them; 1 to 10.
    pub endpoints: Vec<Endpoint>,
}

/// A port that is scraped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Its name or number.
    pub port: IntOrString,
    /// Where it shows them; `None`: `/metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Time between two scrapes.
    pub interval: String,
    /// What is done to the series.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metric_relabeling: Vec<RelabelRule>,
}

/// A rule on a series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelabelRule {
    /// `keep` or `replace`.
    pub action: String,
    /// The labels that are looked at.
    pub source_labels: Vec<String>,
    /// What they must match.
    pub regex: String,
    /// The label that is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_label: Option<String>,
    /// What it is set to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
}

fn pod_monitoring(metadata: ObjectMeta, label: (&str, &str), endpoint: Endpoint) -> PodMonitoring {
    let labels = BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]);
    PodMonitoring {
        api_version: "monitoring.googleapis.com/v1".to_owned(),
        kind: "PodMonitoring".to_owned(),
        metadata,
        spec: PodMonitoringSpec {
            selector: LabelSelector { match_labels: Some(labels), match_expressions: None },
            endpoints: vec![endpoint],
        },
    }
}

/// Scrapes the model server, at its port's name if that is known: only so do series get a container label.
pub fn pod_monitoring_server(names: &ClusterNames) -> PodMonitoring {
    let metadata = ObjectMeta {
        name: Some("gemma-pod-monitoring".to_owned()),
        namespace: Some(names.namespace.clone()),
        ..ObjectMeta::default()
    };
    let number = names.port_number().map_or(0, i32::from);
    let port =
        names.port_name().map_or(IntOrString::Int(number), |name| IntOrString::String(name.to_owned()));
    let path = &names.server.path;
    let endpoint = Endpoint {
        port,
        path: (path != "/metrics").then(|| path.clone()),
        interval: INTERVAL.to_owned(),
        metric_relabeling: Vec::new(),
    };
    pod_monitoring(metadata, names.label(), endpoint)
}

/// Scrapes GPU utilization. The page's `keep` has no regex and so keeps, and bills, everything;
/// this one keeps the one metric that is meant.
pub fn pod_monitoring_dcgm(names: &ClusterNames) -> PodMonitoring {
    let metric = names.gpu_metric.exported();
    let labels = [EXPORTER, ("app.kubernetes.io/part-of", "google-cloud-managed-prometheus")];
    let metadata = ObjectMeta {
        name: Some("nvidia-dcgm-exporter-for-hpa".to_owned()),
        namespace: Some(names.dcgm_namespace.clone()),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
        ..ObjectMeta::default()
    };
    let rule = |action: &str, target: Option<&str>, replacement: Option<String>| RelabelRule {
        action: action.to_owned(),
        source_labels: vec!["__name__".to_owned()],
        regex: metric.to_owned(),
        target_label: target.map(str::to_owned),
        replacement,
    };
    let relabeling =
        vec![rule("keep", None, None), rule("replace", Some("__name__"), Some(metric.to_ascii_lowercase()))];
    let endpoint = Endpoint {
        port: IntOrString::String("metrics".to_owned()),
        path: None,
        interval: INTERVAL.to_owned(),
        metric_relabeling: relabeling,
    };
    pod_monitoring(metadata, EXPORTER, endpoint)
}
