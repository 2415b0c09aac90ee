//! The four HPAs of Google's how-to page.

use super::ClusterNames;
use crate::units::{Milli, Signal};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, ExternalMetricSource, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
    MetricIdentifier, MetricSpec, MetricTarget, PodsMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

/// An HPA on one metric. `average_value` is the target of the manifest itself.
pub fn hpa(signal: Signal, average_value: Milli, names: &ClusterNames) -> HorizontalPodAutoscaler {
    let replicas = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    HorizontalPodAutoscaler {
        metadata: ObjectMeta {
            name: Some(names.hpa_name.clone().unwrap_or_else(|| hpa_name(signal).to_owned())),
            namespace: Some(names.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: names.deployment.clone(),
            },
            min_replicas: Some(replicas(names.min_replicas)),
            max_replicas: replicas(names.max_replicas),
            metrics: Some(vec![metric(signal, average_value, names)]),
            behavior: None,
        },
        status: None,
    }
}

/// The names of the page: one for both server metrics, one for both GPU metrics.
fn hpa_name(signal: Signal) -> &'static str {
    if signal.is_external() { "gemma-hpa" } else { "gemma-server" }
}

/// The metric's name as the Stackdriver adapter knows it.
fn metric_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Queue => "prometheus.googleapis.com|tgi_queue_size|gauge",
        Signal::Batch => "prometheus.googleapis.com|tgi_batch_current_size|gauge",
        Signal::DutyCycle => "kubernetes.io|container|accelerator|duty_cycle",
        // The relabelled name has lost its type.
        Signal::Dcgm => "prometheus.googleapis.com|dcgm_fi_dev_gpu_util|unknown",
    }
}

fn metric(signal: Signal, average_value: Milli, names: &ClusterNames) -> MetricSpec {
    let target = MetricTarget {
        type_: "AverageValue".to_owned(),
        average_value: Some(Quantity(average_value.to_string())),
        ..MetricTarget::default()
    };
    let metric = MetricIdentifier { name: metric_name(signal).to_owned(), selector: selector(signal, names) };
    if signal.is_external() {
        let external = Some(ExternalMetricSource { metric, target });
        MetricSpec { type_: "External".to_owned(), external, ..MetricSpec::default() }
    } else {
        let pods = Some(PodsMetricSource { metric, target });
        MetricSpec { type_: "Pods".to_owned(), pods, ..MetricSpec::default() }
    }
}

/// An External metric is whatever matches, in all clusters of the project; so it is held to this
/// cluster, location, namespace and container. The two metrics know these by other labels.
fn selector(signal: Signal, names: &ClusterNames) -> Option<LabelSelector> {
    let (cluster, container, namespace) = match signal {
        Signal::Queue | Signal::Batch => return None,
        Signal::DutyCycle => (
            "resource.labels.cluster_name",
            "resource.labels.container_name",
            "resource.labels.namespace_name",
        ),
        Signal::Dcgm => (
            "resource.labels.cluster",
            "metric.labels.exported_container",
            "metric.labels.exported_namespace",
        ),
    };
    let labels = [
        (cluster, names.cluster.as_ref()),
        ("resource.labels.location", names.location.as_ref()),
        (container, Some(&names.container)),
        (namespace, Some(&names.namespace)),
    ];
    let labels = labels.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.clone())));
    Some(LabelSelector { match_labels: Some(labels.collect::<BTreeMap<_, _>>()), match_expressions: None })
}
