//! Whether the HPA will see its metrics: asked of the metrics APIs just as the controller asks.

use super::client::Cluster;
use super::error::{Asked, ClusterError};
use serde_json::Value;
use std::fmt::Write;

/// A metric of an HPA, as the controller asks for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HpaMetric {
    /// Its name: `prometheus.googleapis.com|tgi_queue_size|gauge`.
    pub name: String,
    /// Of an External metric: one sum. Otherwise of Pods: a value of each.
    pub external: bool,
    /// Label selector of the series; may be empty.
    pub selector: String,
}

/// What the API has of a metric.
#[derive(Debug)]
pub enum Seen {
    /// Values: of so many pods or series, the first of them.
    Values(usize, String),
    /// It answers, and has none: the server has perhaps not served anything yet.
    Nothing,
    /// It does not answer, or not to this user.
    No(ClusterError),
}

/// The API groups of Pods and of External metrics.
pub(super) const CUSTOM: &str = "custom.metrics.k8s.io";
/// See [`CUSTOM`].
pub(super) const EXTERNAL: &str = "external.metrics.k8s.io";
/// The versions of the custom metrics API, as the controller prefers them.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

impl HpaMetric {
    /// The Pods and External metrics of an HPA. Others need no adapter.
    pub fn of(hpa: &Value) -> Vec<HpaMetric> {
        let metrics = hpa.pointer("/spec/metrics").and_then(Value::as_array);
        let metric = |metric: &Value| {
            let external = match metric.get("type")?.as_str()? {
                "Pods" => false,
                "External" => true,
                _ => return None,
            };
            let source = metric.get(if external { "external" } else { "pods" })?.get("metric")?;
            let name = source.get("name")?.as_str()?.to_owned();
            let selector = source.get("selector").map(selector).unwrap_or_default();
            Some(HpaMetric { name, external, selector })
        };
        metrics.into_iter().flatten().filter_map(metric).collect()
    }

    /// What RBAC calls the resource that it is read by.
    pub fn resource(&self) -> (&'static str, String) {
        if self.external {
            (EXTERNAL, self.name.to_lowercase())
        } else {
            (CUSTOM, format!("pods/{}", self.name))
        }
    }

    /// The verb that it is read with: an External metric is a list of series.
    pub fn verb(&self) -> &'static str {
        if self.external { "list" } else { "get" }
    }

    /// Asks for its values, of the pods that `pods` selects.
    pub async fn look(&self, cluster: &Cluster, namespace: &str, pods: &str) -> Seen {
        let versions: &[&str] = if self.external { &["v1beta1"] } else { &CUSTOM_VERSIONS };
        let mut refused = None;
        for version in versions {
            let (group, resource) = self.resource();
            let asked = Asked {
                verb: self.verb(),
                group: group.to_owned(),
                resource,
                namespace: Some(namespace.to_owned()),
                name: None,
            };
            match cluster.read(asked, &self.path(version, namespace, pods)).await {
                Ok(list) => return seen(&list),
                // An older adapter serves only the older version. The first answer says more than the last.
                Err(error) if error.is_not_found() => refused = refused.or(Some(error)),
                Err(error) => return Seen::No(error),
            }
        }
        refused.map_or(Seen::Nothing, Seen::No)
    }

    fn path(&self, version: &str, namespace: &str, pods: &str) -> String {
        let (name, selector) = (encoded(&self.name), encoded(&self.selector));
        if self.external {
            // As the controller's client writes it.
            let name = encoded(&self.name.to_lowercase());
            return format!(
                "/apis/{EXTERNAL}/{version}/namespaces/{namespace}/{name}?labelSelector={selector}"
            );
        }
        format!(
            "/apis/{CUSTOM}/{version}/namespaces/{namespace}/pods/*/{name}?labelSelector={}&metricLabelSelector={selector}",
            encoded(pods)
        )
    }
}

/// Text as a part of a path or a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn seen(list: &Value) -> Seen {
    let items = list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    match items {
        [] => Seen::Nothing,
        [first, ..] => {
            let value = first.get("value").and_then(Value::as_str).unwrap_or("?");
            Seen::Values(items.len(), value.to_owned())
        }
    }
}

/// A label selector of an object as it is written in a query.
pub(super) fn selector(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    let expressions = expressions.filter_map(|expression| {
        let (key, operator) = (expression.get("key")?.as_str()?, expression.get("operator")?.as_str()?);
        let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
        let values = values.filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        Some(match operator {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        })
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_are_written_as_kubectl_takes_them() {
        let text = selector(&json!({
            "matchLabels": { "app": "x" },
            "matchExpressions": [
                { "key": "tier", "operator": "In", "values": ["a", "b"] },
                { "key": "old", "operator": "DoesNotExist" },
                { "key": "new", "operator": "Exists" },
            ],
        }));
        assert_eq!(text, "app=x,tier in (a,b),!old,new");
        assert_eq!(selector(&json!({})), "");
    }

    #[test]
    fn metrics_are_named_as_the_controller_and_as_rbac_name_them() {
        let labels = json!({ "matchLabels": { "resource.labels.location": "us" } });
        let hpa = json!({ "spec": { "metrics": [
            { "type": "Pods", "pods": { "metric": { "name": "a|b" } } },
            { "type": "External", "external": { "metric": { "name": "C|d", "selector": labels } } },
            { "type": "Resource", "resource": { "name": "cpu" } },
        ] } });
        let found = HpaMetric::of(&hpa);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].resource(), (CUSTOM, "pods/a|b".to_owned()));
        assert_eq!((found[1].resource(), found[1].verb()), ((EXTERNAL, "c|d".to_owned()), "list"));
        assert_eq!(found[1].selector, "resource.labels.location=us");
    }

    #[test]
    fn selectors_are_written_as_a_query_has_them() {
        let all = json!({
            "matchLabels": { "app": "gemma" },
            "matchExpressions": [
                { "key": "tier", "operator": "In", "values": ["a", "b"] },
                { "key": "old", "operator": "DoesNotExist" },
                { "key": "gpu", "operator": "Exists" },
            ],
        });
        assert_eq!(selector(&all), "app=gemma,tier in (a,b),!old,gpu");
    }
}
