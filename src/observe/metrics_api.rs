//! The metrics APIs of Kubernetes: the very values that an HPA sees, whatever lies behind them.

use super::cloud_monitoring::Expected;
use super::http::{Problem, ProblemKind, kind_of};
use super::replicas::ReplicaNames;
use crate::measurement::{RunClock, Sample, Series, Source};
use crate::units::Seconds;
use kube::Client;
use kube_quantity::ParsedQuantity;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Time between two questions. The controller asks every 15 s; asking oftener shows when a value changes.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The versions of the custom metrics API, as the controller prefers them.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

/// A metric as an HPA names it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiMetric {
    /// What its values are.
    pub series: Series,
    /// Its name, like `prometheus.googleapis.com|tgi_queue_size|gauge`.
    pub name: String,
    /// Label selector: of the pods for a Pods metric, of the series for an External one. May be empty.
    pub selector: String,
    /// Label selector of the series of a Pods metric. May be empty.
    pub of_series: String,
    /// A Pods metric that the value is divided by.
    pub per: Option<String>,
    /// What the value is multiplied with.
    pub scale: f64,
}

impl ApiMetric {
    /// A metric whose value is taken as it is.
    pub fn new(series: Series, name: impl Into<String>, selector: impl Into<String>) -> ApiMetric {
        let (name, selector) = (name.into(), selector.into());
        ApiMetric { series, name, selector, of_series: String::new(), per: None, scale: 1.0 }
    }

    /// The one that it is divided by, as a metric of its own.
    fn divisor(&self) -> Option<ApiMetric> {
        Some(ApiMetric::new(self.series, self.per.clone()?, self.selector.clone()))
    }
}

/// One of the two APIs.
#[derive(Clone)]
pub struct MetricsApi {
    client: Client,
    /// Pods metrics have one value for each pod, External ones a sum.
    external: bool,
    namespace: String,
    metrics: Vec<ApiMetric>,
    names: ReplicaNames,
    expected: Expected,
    version: usize,
}

impl std::fmt::Debug for MetricsApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what())
    }
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    described_object: Option<Described>,
    timestamp: Option<jiff::Timestamp>,
    value: String,
}

#[derive(Deserialize)]
struct Described {
    name: String,
}

impl MetricsApi {
    /// `custom.metrics.k8s.io`: Pods metrics of the pods in `namespace` that each selector takes.
    pub fn custom(
        client: Client,
        namespace: &str,
        metrics: Vec<ApiMetric>,
        names: ReplicaNames,
        expected: Expected,
    ) -> MetricsApi {
        MetricsApi {
            client,
            external: false,
            namespace: namespace.to_owned(),
            metrics,
            names,
            expected,
            version: 0,
        }
    }

    /// `external.metrics.k8s.io`: the sum that the HPA divides by the number of replicas, here for one
    /// replica, and what is a share of each GPU for one GPU.
    pub fn external(
        client: Client,
        namespace: &str,
        metrics: Vec<ApiMetric>,
        expected: Expected,
    ) -> MetricsApi {
        let names = ReplicaNames::default();
        MetricsApi {
            client,
            external: true,
            namespace: namespace.to_owned(),
            metrics,
            names,
            expected,
            version: 0,
        }
    }

    /// What its samples are called.
    pub(super) fn source(&self) -> Source {
        if self.external { Source::ExternalMetrics } else { Source::CustomMetrics }
    }

    /// Why the age of its values cannot be told, where it cannot.
    pub(super) fn hides_age(&self) -> Option<&'static str> {
        let custom = "adapters stamp Pods metrics with the time of the question";
        (!self.external).then_some(custom)
    }

    fn group(&self) -> &'static str {
        if self.external { "external.metrics.k8s.io" } else { "custom.metrics.k8s.io" }
    }

    pub(super) fn what(&self) -> String {
        let names: Vec<&str> = self.metrics.iter().map(|metric| metric.name.as_str()).collect();
        format!("{} ({})", self.group(), names.join(", "))
    }

    fn path(&self, metric: &ApiMetric) -> String {
        let (namespace, name) = (encoded(&self.namespace), encoded(&metric.name));
        let mut path = if self.external {
            format!("/apis/{}/v1beta1/namespaces/{namespace}/{name}", self.group())
        } else {
            let version = CUSTOM_VERSIONS[self.version];
            format!("/apis/{}/{version}/namespaces/{namespace}/pods/*/{name}", self.group())
        };
        let selectors = [("labelSelector", &metric.selector), ("metricLabelSelector", &metric.of_series)];
        for (name, selector) in selectors.into_iter().filter(|(_, selector)| !selector.is_empty()) {
            let joint = if path.contains('?') { '&' } else { '?' };
            // Writing to a string cannot fail.
            let _ = write!(path, "{joint}{name}={}", encoded(selector));
        }
        path
    }

    async fn list(&mut self, metric: &ApiMetric) -> Result<Vec<Item>, Problem> {
        loop {
            let request = http::Request::get(self.path(metric)).body(Vec::new());
            let request = request.map_err(|error| Problem::new(ProblemKind::Refused, error.to_string()))?;
            let answer = tokio::time::timeout(TIMEOUT, self.client.request::<List>(request)).await;
            let late = || {
                Problem::new(ProblemKind::Unreachable, format!("no answer within {} s", TIMEOUT.as_secs()))
            };
            match answer.map_err(|_| late())? {
                Ok(list) => return Ok(list.items),
                // An older adapter may serve only the older version.
                Err(kube::Error::Api(status))
                    if status.code == 404 && !self.external && self.version + 1 < CUSTOM_VERSIONS.len() =>
                {
                    self.version += 1;
                }
                Err(error) => {
                    self.version = 0;
                    return Err(self.problem(metric, &error));
                }
            }
        }
    }

    fn problem(&self, metric: &ApiMetric, error: &kube::Error) -> Problem {
        let (kind, said) = match error {
            kube::Error::Api(status) => (kind_of(status.code), status.message.clone()),
            other => (ProblemKind::Unreachable, super::http::root_cause(other)),
        };
        let mend = match kind {
            ProblemKind::NotFound => {
                "; is the metrics adapter installed and does it know the metric (kubectl get --raw /apis)?"
            }
            ProblemKind::Forbidden => "; the user needs the verbs get and list on this API group",
            ProblemKind::Failing => {
                "; the adapter behind the API is down: look at its APIService and its log"
            }
            _ => "",
        };
        Problem::new(kind, format!("{} of {}: {said}{mend}", metric.name, self.group()))
    }

    /// The values of a metric by replica, and the time that the oldest of them is said to be of.
    async fn values(
        &mut self,
        metric: &ApiMetric,
    ) -> Result<(BTreeMap<u32, f64>, Option<jiff::Timestamp>), Problem> {
        let items = self.list(metric).await?;
        let mut values: BTreeMap<u32, f64> = BTreeMap::new();
        for item in &items {
            let value = quantity(&item.value).ok_or_else(|| {
                let reason = format!("{} has the value '{}', which is no quantity", metric.name, item.value);
                Problem::new(ProblemKind::Malformed, reason)
            })?;
            if self.external {
                *values.entry(0).or_default() += value / self.expected.divisor(metric.series);
                continue;
            }
            let pod = item.described_object.as_ref().map(|object| object.name.as_str());
            if let Some(replica) = self.names.number(pod, None) {
                values.insert(replica, value);
            }
        }
        Ok((values, items.iter().filter_map(|item| item.timestamp).min()))
    }

    pub(super) async fn poll(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let time = clock.now();
        let mut samples: BTreeMap<u32, Sample> = BTreeMap::new();
        let source = self.source();
        for metric in self.metrics.clone() {
            let (mut values, stamp) = self.values(&metric).await?;
            if let Some(divisor) = metric.divisor() {
                let (per, _) = self.values(&divisor).await?;
                values.retain(|replica, _| per.contains_key(replica));
                for (replica, value) in &mut values {
                    *value /= per[replica];
                }
                values.retain(|_, value| value.is_finite());
            }
            let stamp = stamp.map_or(time, |stamp| clock.of_wall(stamp.as_microsecond() as f64 / 1e6));
            for (replica, value) in values {
                let sample = samples
                    .entry(replica)
                    .or_insert_with(|| Sample::new(stamp, Seconds::ZERO, source, replica));
                sample.set(metric.series, Some(value * metric.scale));
            }
        }
        if samples.is_empty() {
            let reason =
                format!("{} answers, and has no value: the HPA would see a missing metric", self.what());
            return Err(Problem::new(ProblemKind::Missing, reason));
        }
        let arrived = clock.now();
        Ok(samples.into_values().map(|sample| sample.received(arrived - time, arrived)).collect())
    }

    /// See [`super::Feed::check`].
    pub(super) async fn check(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let samples = self.poll(clock).await?;
        let shown = |metric: &&ApiMetric| samples.iter().any(|sample| sample.get(metric.series).is_some());
        match self.metrics.iter().find(|metric| !shown(metric)) {
            None => Ok(samples),
            Some(metric) => {
                let (group, name) = (self.group(), &metric.name);
                let reason = format!(
                    "{name} of {group} answers, and has no value: the HPA would see a missing metric"
                );
                Err(Problem::new(ProblemKind::Missing, reason))
            }
        }
    }
}

/// The number that a quantity like `61500m` or `4` stands for.
fn quantity(text: &str) -> Option<f64> {
    ParsedQuantity::try_from(text).ok()?.to_bytes_f64()
}

/// Text as a part of a path or a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_numbers() {
        let expected = [("4", 4.0), ("61500m", 61.5), ("0", 0.0), ("1k", 1000.0), ("2Ki", 2048.0)];
        for (text, value) in expected {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        assert_eq!(quantity("many"), None);
        assert_eq!(encoded("a|b/c=d,e"), "a%7Cb%2Fc%3Dd%2Ce");
    }
}
