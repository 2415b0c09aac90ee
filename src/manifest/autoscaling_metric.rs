//! GKE's own way to the HPA: an AutoscalingMetric (autoscaling.gke.io/v1beta1, preview), which needs
//! neither adapter nor Managed Service for Prometheus.

use super::{ClusterNames, series};
use crate::units::Signal;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An AutoscalingMetric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoscalingMetric {
    /// `autoscaling.gke.io/v1beta1`.
    pub api_version: String,
    /// `AutoscalingMetric`.
    pub kind: String,
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is read.
    pub spec: AutoscalingMetricSpec,
}

/// What an AutoscalingMetric reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoscalingMetricSpec {
    /// One entry for each kind of pod.
    pub metrics: Vec<PodMetrics>,
}

/// Metrics of pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodMetrics {
    /// Which.
    pub pod: PodSource,
}

/// Pods and their endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSource {
    /// Which pods.
    pub selector: LabelSelector,
    /// Where they show which gauges.
    pub containers: Vec<ContainerSource>,
}

/// An endpoint and its gauges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerSource {
    /// Where.
    pub endpoint: MetricsEndpoint,
    /// What.
    pub metrics: Vec<GaugeMetric>,
}

/// Where metrics are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsEndpoint {
    /// Its number.
    pub port: u16,
    /// `/metrics`.
    pub path: String,
}

/// One gauge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GaugeMetric {
    /// The gauge.
    pub gauge: NamedGauge,
}

/// A gauge by both of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedGauge {
    /// The HPA's name for it.
    pub name: String,
    /// The server's.
    pub prometheus_metric_name: String,
}

/// The object's name, which is part of the metric's.
const NAME: &str = "gemma-autoscaling-metric";

/// Every gauge of the server that an HPA can scale on.
///
/// # Errors
/// Why there can be none.
pub fn autoscaling_metric(names: &ClusterNames) -> Result<AutoscalingMetric, String> {
    let gauges: Vec<GaugeMetric> = [Signal::Queue, Signal::Batch]
        .into_iter()
        .filter_map(|signal| {
            native_name(signal, names).ok()?;
            let prometheus_metric_name = series::gauge(signal, names).ok()?.name;
            Some(GaugeMetric { gauge: NamedGauge { name: signal.slug().to_owned(), prometheus_metric_name } })
        })
        .collect();
    if gauges.is_empty() {
        return Err(native_name(Signal::Queue, names).err().unwrap_or_default());
    }
    let port = names.port_number().ok_or_else(|| {
        format!("it needs the port's number: write --metrics-port {}:NUMBER", names.metrics_port)
    })?;
    let (label, value) = names.label();
    let app = BTreeMap::from([(label.to_owned(), value.to_owned())]);
    Ok(AutoscalingMetric {
        api_version: "autoscaling.gke.io/v1beta1".to_owned(),
        kind: "AutoscalingMetric".to_owned(),
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(names.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: AutoscalingMetricSpec {
            metrics: vec![PodMetrics {
                pod: PodSource {
                    selector: LabelSelector { match_labels: Some(app), match_expressions: None },
                    containers: vec![ContainerSource {
                        endpoint: MetricsEndpoint { port, path: names.server.path.clone() },
                        metrics: gauges,
                    }],
                },
            }],
        },
    })
}

/// The metric's name for an HPA.
pub(super) fn native_name(signal: Signal, names: &ClusterNames) -> Result<String, String> {
    if let Some(version) = names.cluster_version.as_ref().filter(|_| !names.has_native_metrics()) {
        return Err(format!("it needs GKE 1.35.1 or later, and --cluster-version is {version}"));
    }
    if series::gauge(signal, names)?.labels.is_empty() {
        return Ok(format!("autoscaling.gke.io|{NAME}|{}", signal.slug()));
    }
    let server = &names.server.title;
    Err(format!("it tells series apart by name only, and {server} tells them apart by a label"))
}
