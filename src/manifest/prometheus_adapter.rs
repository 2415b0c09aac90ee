//! Rules for prometheus-adapter, as the ConfigMap that it (or its chart, by `rules.existing`) reads.

use super::{ClusterNames, ManifestError, series};
use crate::units::Signal;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The adapter's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterConfig {
    /// Metrics of pods.
    pub rules: Vec<AdapterRule>,
    /// External metrics.
    pub external_rules: Vec<AdapterRule>,
}

/// From series to a metric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterRule {
    /// Which series.
    pub series_query: String,
    /// Which labels name which objects.
    pub resources: AdapterResources,
    /// What the metric is called.
    pub name: AdapterName,
    /// How it is asked for.
    pub metrics_query: String,
}

/// Which labels name which objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterResources {
    /// By label.
    pub overrides: BTreeMap<String, AdapterResource>,
}

/// A kind of object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterResource {
    /// `pod`, `namespace`.
    pub resource: String,
}

/// What a metric is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterName {
    /// The series' name.
    pub matches: String,
    /// The metric's.
    #[serde(rename = "as")]
    pub as_: String,
}

fn rule(series: &str, labels: &[(String, String)], resources: &[(&str, &str)], name: String) -> AdapterRule {
    let own: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let present = resources.iter().map(|(label, _)| format!("{label}!=\"\""));
    let matchers: Vec<String> = own.iter().cloned().chain(present).collect();
    let asked = std::iter::once("<<.LabelMatchers>>".to_owned()).chain(own).collect::<Vec<_>>().join(",");
    let overrides = resources
        .iter()
        .map(|(label, kind)| ((*label).to_owned(), AdapterResource { resource: (*kind).to_owned() }));
    AdapterRule {
        series_query: format!("{series}{{{}}}", matchers.join(",")),
        resources: AdapterResources { overrides: overrides.collect() },
        name: AdapterName { matches: format!("^{series}$"), as_: name },
        metrics_query: format!("sum(<<.Series>>{{{asked}}}) by (<<.GroupBy>>)"),
    }
}

/// The rules for the server's gauges, by pod, and for DCGM's, as a sum.
pub fn adapter_config(names: &ClusterNames) -> AdapterConfig {
    let gauges = [Signal::Queue, Signal::Batch].into_iter().filter_map(|signal| {
        let gauge = series::gauge(signal, names).ok()?;
        let name = adapter_name(signal, names).ok()?;
        Some(rule(&gauge.name, &gauge.labels, &[("namespace", "namespace"), ("pod", "pod")], name))
    });
    let dcgm = rule(
        &series::dcgm(names),
        &[],
        &[("exported_namespace", "namespace")],
        series::lower_case_dcgm(names),
    );
    AdapterConfig { rules: gauges.collect(), external_rules: vec![dcgm] }
}

/// The ConfigMap that holds them.
pub(super) fn adapter_config_map(names: &ClusterNames) -> Result<ConfigMap, ManifestError> {
    let config = serde_saphyr::to_string(&adapter_config(names));
    let config = config.map_err(|error| ManifestError::Yaml(error.to_string()))?;
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some("adapter-config".to_owned()),
            namespace: Some("monitoring".to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("config.yaml".to_owned(), config)])),
        ..ConfigMap::default()
    })
}

/// The metric's name for an HPA: without colons, as usual there, and telling labelled series apart.
pub(super) fn adapter_name(signal: Signal, names: &ClusterNames) -> Result<String, String> {
    match signal {
        Signal::Queue | Signal::Batch => {
            let gauge = series::gauge(signal, names)?;
            let name = gauge.name.replace(':', "_");
            let values = gauge.labels.iter().map(|(_, value)| value.clone());
            Ok(std::iter::once(name).chain(values).collect::<Vec<_>>().join("_"))
        }
        Signal::Dcgm => Ok(series::lower_case_dcgm(names)),
        Signal::DutyCycle => Err("the duty cycle is in Cloud Monitoring only".to_owned()),
    }
}

/// The namespace is the HPA's own; the rest of an External metric's labels is asked for.
pub(super) fn adapter_labels(signal: Signal, names: &ClusterNames) -> Result<series::Labels, String> {
    if !signal.is_external() {
        return Ok(Vec::new());
    }
    let mut labels = vec![
        ("exported_container".to_owned(), names.container.clone()),
        ("exported_namespace".to_owned(), names.namespace.clone()),
    ];
    if names.is_managed() {
        names.check_place()?;
        let place = [("cluster", &names.cluster), ("location", &names.location)];
        labels.extend(place.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))));
    }
    Ok(labels)
}
