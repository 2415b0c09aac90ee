//! Google's Cloud Monitoring, where GKE puts the duty cycle of its accelerators once a minute.

use super::google::GoogleAccess;
use super::http::{self, Problem, ProblemKind};
use super::replicas::ReplicaNames;
use crate::measurement::{RunClock, Sample, Series, Source};
use crate::units::Seconds;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time between two questions. GKE's system metrics come once a minute; asking oftener tells when.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// How far back a question looks, seconds: points come late and in any order.
const WINDOW: f64 = 300.0;
/// Series of one page.
const PAGE: &str = "1000";
/// No answer has more pages than this.
const PAGES_MOST: usize = 100;
/// Points that lie further in the future than this, seconds, are of another clock.
const FUTURE_MOST: f64 = 5.0;

/// A metric of Cloud Monitoring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeSeries {
    /// What its values are.
    pub series: Series,
    /// Its type, like `kubernetes.io/container/accelerator/duty_cycle`.
    pub metric: String,
    /// Further conditions, like `resource.labels.cluster_name="c"`.
    pub filter: String,
}

impl TimeSeries {
    fn whole_filter(&self) -> String {
        let metric = format!("metric.type={:?}", self.metric);
        if self.filter.is_empty() { metric } else { format!("{metric} AND {}", self.filter) }
    }
}

/// The Cloud Monitoring of one project.
#[derive(Debug)]
pub struct CloudMonitoring {
    endpoint: String,
    project: String,
    client: reqwest::Client,
    access: GoogleAccess,
    metrics: Vec<TimeSeries>,
    names: ReplicaNames,
    replicas: u32,
    newest: BTreeMap<(u32, usize), i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    time_series: Vec<Found>,
    #[serde(default)]
    next_page_token: String,
    #[serde(default)]
    execution_errors: Vec<Status>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Found {
    resource: Labelled,
    #[serde(default)]
    metric: Labelled,
    #[serde(default)]
    points: Vec<Point>,
}

#[derive(Default, Deserialize)]
struct Labelled {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Point {
    interval: Interval,
    value: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Interval {
    end_time: jiff::Timestamp,
}

/// A value by its type. 64-bit numbers come as text, since JSON would round them.
#[derive(Deserialize)]
enum Value {
    #[serde(rename = "int64Value")]
    Int64(String),
    #[serde(rename = "doubleValue")]
    Double(f64),
    #[serde(rename = "boolValue")]
    Bool(bool),
    #[serde(untagged)]
    Other(serde::de::IgnoredAny),
}

impl Value {
    fn number(&self) -> Option<f64> {
        match self {
            Value::Int64(text) => text.parse().ok(),
            Value::Double(value) => Some(*value),
            Value::Bool(value) => Some(f64::from(u8::from(*value))),
            Value::Other(_) => None,
        }
    }
}

/// What one question gave: values of each metric by replica and end of their period, in microseconds.
#[derive(Default)]
struct Read {
    values: BTreeMap<(u32, i64), Vec<(usize, f64)>>,
    partial: Option<String>,
}

impl CloudMonitoring {
    /// The metrics of a `project`, asked at `endpoint` with `client` and a token of `access`.
    pub fn new(
        endpoint: &str,
        project: &str,
        client: reqwest::Client,
        access: GoogleAccess,
        metrics: Vec<TimeSeries>,
        names: ReplicaNames,
        replicas: u32,
    ) -> CloudMonitoring {
        CloudMonitoring {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            project: project.to_owned(),
            client,
            access,
            metrics,
            names,
            replicas,
            newest: BTreeMap::new(),
        }
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.project
    }

    async fn page(&self, metric: &TimeSeries, token: &str) -> Result<Page, Problem> {
        let now = RunClock::wall();
        let time = |unix: f64| {
            let time = jiff::Timestamp::from_microsecond((unix * 1e6) as i64);
            time.map(|time| time.to_string()).unwrap_or_default()
        };
        let parameters = [
            ("filter", metric.whole_filter()),
            ("interval.startTime", time(now - WINDOW)),
            ("interval.endTime", time(now)),
            ("view", "FULL".to_owned()),
            ("pageSize", PAGE.to_owned()),
            ("pageToken", token.to_owned()),
        ];
        let parameters = parameters.iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>();
        let url = format!("{}/v3/projects/{}/timeSeries", self.endpoint, self.project);
        let request = self.client.get(url).query(&parameters).headers(self.access.headers().await?);
        http::json(request).await.map_err(|problem: Problem| {
            let mend = match problem.kind {
                ProblemKind::Forbidden => "; the account needs roles/monitoring.viewer on the project",
                ProblemKind::NotFound => "; is that the project's id?",
                _ => "",
            };
            Problem { reason: format!("{}{mend}", problem.reason), ..problem }
        })
    }

    /// All points of the last minutes. Those of a page that came in part count, and are told of.
    async fn read(&mut self) -> Result<Read, Problem> {
        let mut read = Read::default();
        for (index, metric) in self.metrics.clone().iter().enumerate() {
            let mut token = String::new();
            for _ in 0..PAGES_MOST {
                let page = self.page(metric, &token).await?;
                for found in &page.time_series {
                    self.take(index, found, &mut read);
                }
                if let Some(error) = page.execution_errors.first() {
                    read.partial = Some(format!("the answer is not whole: {}", error.message));
                }
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
            }
        }
        Ok(read)
    }

    fn take(&mut self, index: usize, found: &Found, read: &mut Read) {
        let label = |labelled: &Labelled, name: &str| labelled.labels.get(name).cloned();
        let pod = label(&found.resource, "pod_name")
            .or_else(|| label(&found.metric, "pod"))
            .or_else(|| label(&found.resource, "pod"));
        let address = label(&found.resource, "instance");
        let replica = match (&pod, &address) {
            (None, None) => Some(0),
            _ => self.names.number(pod.as_deref(), address.as_deref()),
        };
        let Some(replica) = replica else { return };
        for point in &found.points {
            if let Some(value) = point.value.number() {
                let end = point.interval.end_time.as_microsecond();
                read.values.entry((replica, end)).or_default().push((index, value));
            }
        }
    }

    /// Values that are new since the last question. A replica has a series for each GPU: a share is
    /// averaged over them, anything else is added up.
    pub(super) async fn poll(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let time = clock.now();
        let read = self.read().await?;
        let arrived = clock.now();
        let mut samples = Vec::new();
        for ((replica, end), values) in read.values {
            let at = clock.of_wall(end as f64 / 1e6);
            let sample = Sample::new(at, Seconds::ZERO, Source::CloudMonitoring, replica);
            let mut sample = sample.received(arrived - time, arrived);
            for (index, metric) in self.metrics.iter().enumerate() {
                let newest = self.newest.entry((replica, index)).or_insert(i64::MIN);
                let of =
                    values.iter().filter(|(i, _)| *i == index).map(|(_, value)| *value).collect::<Vec<_>>();
                if of.is_empty() || end <= *newest {
                    continue;
                }
                *newest = end;
                let sum = of.iter().sum::<f64>();
                let share = matches!(
                    metric.series,
                    Series::GpuUtil | Series::GpuEngineActive | Series::GpuSmActive | Series::KvUsage
                );
                sample.set(metric.series, Some(if share { sum / of.len() as f64 } else { sum }));
            }
            if !sample.is_empty() {
                samples.push(sample);
            }
        }
        match read.partial {
            Some(partial) if samples.is_empty() => Err(Problem::new(ProblemKind::Failing, partial)),
            Some(partial) => {
                tracing::warn!("Cloud Monitoring: {partial}; what came of it counts");
                Ok(samples)
            }
            None => Ok(samples),
        }
    }

    /// See [`super::Feed::check`].
    pub(super) async fn check(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let samples = self.poll(clock).await?;
        let (now, wanted) =
            (clock.now(), self.metrics.first().map(TimeSeries::whole_filter).unwrap_or_default());
        if samples.is_empty() {
            let reason = format!(
                "no point of the last {WINDOW} s is found by {wanted}; check cluster, namespace and container, \
                 and that the metric is collected (time-shared GPUs have none)"
            );
            return Err(Problem::new(ProblemKind::Missing, reason));
        }
        if let Some(future) =
            samples.iter().map(|sample| (sample.time - now).0).find(|ahead| *ahead > FUTURE_MOST)
        {
            let reason =
                format!("its newest point lies {future:.0} s in the future: set this machine's clock by NTP");
            return Err(Problem::new(ProblemKind::ClocksApart, reason));
        }
        let mut replicas: Vec<u32> = samples.iter().map(|sample| sample.replica).collect();
        replicas.sort_unstable();
        replicas.dedup();
        if replicas.len() > self.replicas as usize {
            let reason = format!(
                "it shows {} pods where {} are expected; add conditions with --cloud-monitoring-filter, or name the \
                 pods with --pod",
                replicas.len(),
                self.replicas
            );
            return Err(Problem::new(ProblemKind::Ambiguous, reason));
        }
        Ok(samples)
    }
}
