//! HPAs: the four of Google's how-to page, and those that read the same metrics another way.

use super::autoscaling_metric::native_name;
use super::prometheus_adapter::{adapter_labels, adapter_name};
use super::{ClusterNames, series};
use crate::units::{Milli, Signal};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, ExternalMetricSource, HPAScalingPolicy, HPAScalingRules,
    HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricIdentifier,
    MetricSpec, MetricTarget, PodsMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

/// What brings a metric to the HPA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapter {
    /// Google's adapter for Cloud Monitoring, as on the how-to page.
    Stackdriver,
    /// prometheus-adapter, with our rules.
    Prometheus,
    /// GKE itself, by an AutoscalingMetric.
    Native,
}

/// An HPA on these metrics, each with the `averageValue` of the manifest itself. `tolerance` is what
/// the targets reckon with, as a fraction of 1.
///
/// # Errors
/// A metric that this server or adapter does not have: why.
pub fn hpa(
    targets: &[(Signal, Milli)],
    adapter: Adapter,
    tolerance: f64,
    names: &ClusterNames,
) -> Result<HorizontalPodAutoscaler, String> {
    let replicas = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let metrics = targets.iter().map(|(signal, value)| metric(*signal, *value, adapter, names));
    Ok(HorizontalPodAutoscaler {
        metadata: ObjectMeta {
            name: Some(names.hpa_name.clone().unwrap_or_else(|| hpa_name(targets).to_owned())),
            namespace: Some(names.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some(names.scaled.0.clone()),
                kind: names.scaled.1.clone(),
                name: names.deployment.clone(),
            },
            min_replicas: Some(replicas(names.min_replicas)),
            max_replicas: replicas(names.max_replicas),
            metrics: Some(metrics.collect::<Result<_, _>>()?),
            behavior: Some(behavior(names.has_tolerance().then_some(tolerance))),
        },
        status: None,
    })
}

/// The names of the page: one for the server's metrics, one for the GPU's.
fn hpa_name(targets: &[(Signal, Milli)]) -> &'static str {
    if targets.iter().all(|(signal, _)| signal.is_external()) { "gemma-hpa" } else { "gemma-server" }
}

/// The API server's defaults, written out. Without a `behavior` an older limit on scaling up holds,
/// and a tolerance alone would bring these in unseen.
pub(super) fn behavior(tolerance: Option<f64>) -> HorizontalPodAutoscalerBehavior {
    let policy = |type_: &str, value| HPAScalingPolicy { type_: type_.to_owned(), value, period_seconds: 15 };
    let rules = |window, policies| HPAScalingRules {
        stabilization_window_seconds: Some(window),
        policies: Some(policies),
        select_policy: Some("Max".to_owned()),
        tolerance: tolerance.map(fraction),
    };
    HorizontalPodAutoscalerBehavior {
        scale_up: Some(rules(0, vec![policy("Pods", 4), policy("Percent", 100)])),
        scale_down: Some(rules(300, vec![policy("Percent", 100)])),
    }
}

/// A fraction of 1 in milli-units, or in micro-units where those do not do.
pub(super) fn fraction(value: f64) -> Quantity {
    let micro = (value * 1e6).round() as i64;
    Quantity(if micro % 1000 == 0 { Milli(micro / 1000).to_string() } else { format!("{micro}u") })
}

fn metric(
    signal: Signal,
    average_value: Milli,
    adapter: Adapter,
    names: &ClusterNames,
) -> Result<MetricSpec, String> {
    let target = MetricTarget {
        type_: "AverageValue".to_owned(),
        average_value: Some(Quantity(average_value.to_string())),
        ..MetricTarget::default()
    };
    let (name, labels) = match adapter {
        Adapter::Stackdriver => (stackdriver_name(signal, names)?, stackdriver_labels(signal, names)?),
        Adapter::Prometheus => (adapter_name(signal, names)?, adapter_labels(signal, names)?),
        Adapter::Native => (native_name(signal, names)?, Vec::new()),
    };
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    let selector = LabelSelector { match_labels: Some(labels), match_expressions: None };
    let selector = Some(selector).filter(|s| s.match_labels.as_ref().is_some_and(|l| !l.is_empty()));
    let metric = MetricIdentifier { name, selector };
    Ok(if signal.is_external() {
        let external = Some(ExternalMetricSource { metric, target });
        MetricSpec { type_: "External".to_owned(), external, ..MetricSpec::default() }
    } else {
        let pods = Some(PodsMetricSource { metric, target });
        MetricSpec { type_: "Pods".to_owned(), pods, ..MetricSpec::default() }
    })
}

/// The signal that an HPA's metric of this name and these labels is, by whichever adapter. `None`: none that is
/// written here for this server.
pub fn signal_of(name: &str, labels: &BTreeMap<String, String>, names: &ClusterNames) -> Option<Signal> {
    let adapters = [Adapter::Stackdriver, Adapter::Prometheus, Adapter::Native];
    let is = |signal: Signal, adapter: Adapter| {
        let Ok(written) = metric(signal, Milli(1000), adapter, names) else { return false };
        let metric = written.pods.map(|pods| pods.metric);
        let Some(metric) = metric.or(written.external.map(|external| external.metric)) else { return false };
        let wanted = metric.selector.and_then(|selector| selector.match_labels).unwrap_or_default();
        metric.name == name
            && (signal.is_external() || wanted.iter().all(|(label, value)| labels.get(label) == Some(value)))
    };
    Signal::ALL.into_iter().find(|signal| adapters.into_iter().any(|adapter| is(*signal, adapter)))
}

/// The metric's name as the Stackdriver adapter knows it.
pub(super) fn stackdriver_name(signal: Signal, names: &ClusterNames) -> Result<String, String> {
    Ok(match signal {
        Signal::Queue | Signal::Batch => {
            format!("prometheus.googleapis.com|{}|gauge", series::gauge(signal, names)?.name)
        }
        Signal::DutyCycle => "kubernetes.io|container|accelerator|duty_cycle".to_owned(),
        // The relabelled name has lost its type.
        Signal::Dcgm => format!("prometheus.googleapis.com|{}|unknown", series::lower_case_dcgm(names)),
    })
}

/// A Pods metric is asked for by pod. An External metric is whatever matches, in all clusters of the
/// project; so it is held to this cluster, location, namespace and container, which the two metrics
/// know by other labels.
fn stackdriver_labels(signal: Signal, names: &ClusterNames) -> Result<series::Labels, String> {
    let (cluster, container, namespace) = match signal {
        Signal::Queue | Signal::Batch => {
            let labels = series::gauge(signal, names)?.labels.into_iter();
            return Ok(labels.map(|(key, value)| (format!("metric.labels.{key}"), value)).collect());
        }
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
    names.check_place()?;
    let labels = [
        (cluster, names.cluster.as_ref()),
        ("resource.labels.location", names.location.as_ref()),
        (container, Some(&names.container)),
        (namespace, Some(&names.namespace)),
    ];
    Ok(labels.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.clone()))).collect())
}
