//! What the readers of the files would check.

use super::*;
use k8s_openapi::api::core::v1::ConfigMap;
use std::collections::BTreeSet;

/// Reads a file as what its name says, and checks what its reader would.
pub(super) fn reads_back(file: &ManifestFile) {
    let ManifestFile { name, text } = file;
    for placeholder in ["$HPA", "<", "TODO", "PROJECT", "CLUSTER", "NAMESPACE"] {
        let text = text.replace("<<.", "").replace("<<<", "");
        assert!(!text.contains(placeholder), "{name} holds {placeholder}:\n{text}");
    }
    if name.starts_with("hpa-") {
        assert!(would_be_accepted(&parse(text)), "{text}");
    } else if name.starts_with("podmonitoring-") {
        let object: PodMonitoring = serde_saphyr::from_str(text).unwrap();
        assert_eq!(object.spec.endpoints.len(), 1);
    } else if name == "autoscaling-metric.yaml" {
        let object: AutoscalingMetric = serde_saphyr::from_str(text).unwrap();
        assert!(object.spec.metrics[0].pod.containers[0].metrics.len() <= 20, "the limit of a cluster");
    } else if name == "prometheus-adapter.yaml" {
        let object: ConfigMap = serde_saphyr::from_str(text).unwrap();
        let config: AdapterConfig = serde_saphyr::from_str(&object.data.unwrap()["config.yaml"]).unwrap();
        assert!(
            config
                .rules
                .iter()
                .chain(&config.external_rules)
                .all(|rule| { rule.metrics_query.starts_with("sum(<<.Series>>{<<.LabelMatchers>>") })
        );
    } else if name == "keda-scaledobject.yaml" {
        is_keda(text);
    } else if name == "dashboard.json" {
        is_dashboard(&serde_json::from_str(text).unwrap());
    } else if name == "grafana-dashboard.json" {
        is_grafana(&serde_json::from_str(text).unwrap());
    } else {
        assert_eq!(name, "setup.sh");
    }
}

fn is_keda(text: &str) {
    let mut documents = text.split("\n---\n");
    let scaled: ScaledObject = serde_saphyr::from_str(documents.next().unwrap()).unwrap();
    let trigger = &scaled.spec.triggers[0];
    assert!(scaled.spec.min_replica_count >= 1);
    assert_eq!(trigger.metadata["ignoreNullValues"], "false");
    assert!(
        trigger.metadata["query"].starts_with("sum("),
        "an average would be divided by the replicas again"
    );
    assert!(trigger.metadata["threshold"].parse::<f64>().unwrap() > 0.0);
    let authentication = documents.next().map(serde_saphyr::from_str::<TriggerAuthentication>);
    let named = authentication.map(|object| object.unwrap().metadata.name.unwrap());
    assert_eq!(trigger.authentication_ref.as_ref().map(|reference| reference.name.clone()), named);
}

/// All keys of an object and those below it.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, below)| {
            found.insert(key.clone());
            keys(below, found);
        }),
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

/// The fields that Cloud Monitoring knows of what we use.
const DASHBOARD_FIELDS: [&str; 23] = [
    "displayName",
    "mosaicLayout",
    "columns",
    "tiles",
    "xPos",
    "yPos",
    "width",
    "height",
    "widget",
    "title",
    "xyChart",
    "dataSets",
    "yAxis",
    "scale",
    "thresholds",
    "value",
    "label",
    "targetAxis",
    "plotType",
    "legendTemplate",
    "timeSeriesQuery",
    "prometheusQuery",
    "unitOverride",
];

fn is_dashboard(document: &Value) {
    let mut found = BTreeSet::new();
    keys(document, &mut found);
    let unknown: Vec<_> = found.iter().filter(|key| !DASHBOARD_FIELDS.contains(&key.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let tiles = document["mosaicLayout"]["tiles"].as_array().unwrap();
    let edge = |tile: &Value, at: &str, size: &str| tile[at].as_u64().unwrap() + tile[size].as_u64().unwrap();
    for (index, tile) in tiles.iter().enumerate() {
        assert!(edge(tile, "xPos", "width") <= 48);
        let apart = |other: &Value| tile["xPos"] != other["xPos"] || tile["yPos"] != other["yPos"];
        assert!(tiles[..index].iter().all(apart), "tiles lie on each other");
    }
}

fn is_grafana(document: &Value) {
    let panels = document["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array().unwrap();
        assert!(steps[0]["value"].is_null(), "Grafana wants a first step without a value");
        let values: Vec<f64> = steps[1..].iter().map(|step| step["value"].as_f64().unwrap()).collect();
        assert!(values.is_sorted(), "{values:?}");
        assert!(
            panel["targets"]
                .as_array()
                .unwrap()
                .iter()
                .all(|target| !target["expr"].as_str().unwrap().is_empty())
        );
    }
}

/// What the API server checks of an HPA.
pub(super) fn would_be_accepted(hpa: &HorizontalPodAutoscaler) -> bool {
    let spec = &hpa.spec;
    let scaled = &spec.scale_target_ref;
    let behavior = spec.behavior.as_ref().unwrap();
    let rules = [behavior.scale_up.as_ref().unwrap(), behavior.scale_down.as_ref().unwrap()];
    let rules_ok = rules.iter().all(|rules| {
        let policies = rules.policies.as_ref().unwrap();
        rules.stabilization_window_seconds.is_some_and(|window| (0..=3600).contains(&window))
            && !policies.is_empty()
            && policies.iter().all(|policy| {
                policy.value >= 1
                    && (1..=1800).contains(&policy.period_seconds)
                    && ["Pods", "Percent"].contains(&policy.type_.as_str())
            })
    });
    let metrics = spec.metrics.as_ref().unwrap();
    spec.min_replicas.unwrap() >= 1
        && (scaled.kind.as_str(), scaled.api_version.as_deref()) == ("Deployment", Some("apps/v1"))
        && !scaled.name.is_empty()
        && spec.max_replicas >= spec.min_replicas.unwrap()
        && rules_ok
        && !metrics.is_empty()
        && metrics.iter().all(metric_would_be_accepted)
}

fn metric_would_be_accepted(metric: &k8s_openapi::api::autoscaling::v2::MetricSpec) -> bool {
    let one_source = u8::from(metric.pods.is_some()) + u8::from(metric.external.is_some()) == 1;
    let source = metric
        .pods
        .as_ref()
        .map(|m| (&m.metric, &m.target))
        .or(metric.external.as_ref().map(|m| (&m.metric, &m.target)));
    let (identifier, target) = source.unwrap();
    let quantity: i64 =
        target.average_value.as_ref().unwrap().0.trim_end_matches(['m', 'k', 'M']).parse().unwrap();
    let type_fits = (metric.type_ == "Pods") == metric.pods.is_some();
    let lower_case = metric.external.is_none() || identifier.name == identifier.name.to_lowercase();
    one_source
        && type_fits
        && lower_case
        && target.type_ == "AverageValue"
        && target.value.is_none()
        && quantity > 0
        && !identifier.name.contains(['/', '%'])
}
