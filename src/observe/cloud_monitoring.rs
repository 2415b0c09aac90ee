//! Google's Cloud Monitoring, where GKE puts the duty cycle of its accelerators once a minute.

use super::dcgm::to_percent;
use super::google::GoogleAccess;
use super::http::{self, Problem, ProblemKind};
use super::replicas::ReplicaNames;
use crate::measurement::{RunClock, Sample, Series, Source};
use crate::units::Seconds;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time between two questions. GKE's system metrics come once a minute; asking oftener tells when.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// How long after the load its last minute may come: a minute until it is sampled, and as long again
/// on its way.
pub(super) const LATE_BY: Duration = Duration::from_secs(120);
/// How far back a question looks, seconds: points come late and in any order.
const WINDOW: f64 = 300.0;
/// Series of one page.
const PAGE: &str = "1000";
/// No answer has more pages than this.
const PAGES_MOST: usize = 100;
/// How long the points of some GPUs of a replica wait for those of the others, seconds.
const WAIT_MOST: f64 = 120.0;
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

/// How many there are of what has series of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Replicas.
    pub replicas: u32,
    /// GPUs of each.
    pub gpus: u32,
}

impl Expected {
    /// What a sum over the series of all replicas is divided by.
    pub(super) fn divisor(self, series: Series) -> f64 {
        let gpus = if of_each_gpu(series) { self.gpus.max(1) } else { 1 };
        f64::from(self.replicas.max(1)) * f64::from(gpus)
    }
}

/// Whether a series is a share of each GPU, so that those of a replica are averaged.
fn of_each_gpu(series: Series) -> bool {
    matches!(series, Series::GpuUtil | Series::GpuEngineActive | Series::GpuSmActive)
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
    expected: Expected,
    /// What was given already: replica, metric and end of the period.
    given: BTreeSet<(u32, usize, i64)>,
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

/// The points of a replica's series of one metric, each by the end of its period in microseconds.
type OfReplica = Vec<BTreeMap<i64, f64>>;

/// What one question gave, by replica and metric.
#[derive(Default)]
struct Read {
    series: BTreeMap<(u32, usize), OfReplica>,
    partial: Option<String>,
}

impl Read {
    /// The values of a replica's series at the end of each period.
    fn periods(&self) -> impl Iterator<Item = (u32, usize, i64, Vec<f64>)> {
        self.series.iter().flat_map(|((replica, index), of_replica)| {
            let ends: BTreeSet<i64> = of_replica.iter().flat_map(|points| points.keys().copied()).collect();
            ends.into_iter().map(|end| {
                let values = of_replica.iter().filter_map(|points| points.get(&end).copied());
                (*replica, *index, end, values.collect())
            })
        })
    }
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
        expected: Expected,
    ) -> CloudMonitoring {
        CloudMonitoring {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            project: project.to_owned(),
            client,
            access,
            metrics,
            names,
            expected,
            given: BTreeSet::new(),
        }
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// One page. `now` is the same for all pages of a question, or a page's token is of another one.
    async fn page(&self, metric: &TimeSeries, now: f64, token: &str) -> Result<Page, Problem> {
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
            let (now, mut token, mut found) = (RunClock::wall(), String::new(), Vec::new());
            for page in 1.. {
                let answer = self.page(metric, now, &token).await?;
                found.extend(answer.time_series);
                if let Some(error) = answer.execution_errors.first() {
                    read.partial = Some(format!("the answer is not whole: {}", error.message));
                }
                token = answer.next_page_token;
                if token.is_empty() {
                    break;
                }
                if page == PAGES_MOST {
                    read.partial = Some(format!(
                        "the answer has more than {PAGES_MOST} pages of {PAGE} series; narrow it with \
                         --cloud-monitoring-filter"
                    ));
                    break;
                }
            }
            for series in &found {
                self.number(series);
            }
            for series in &found {
                let Some(replica) = self.number(series) else { continue };
                let points = series.points.iter().filter_map(|point| {
                    Some((point.interval.end_time.as_microsecond(), point.value.number()?))
                });
                read.series.entry((replica, index)).or_default().push(points.collect());
            }
        }
        Ok(read)
    }

    /// The replica that a series is of. What a Prometheus collected of a GPU names its pod beside the
    /// exporter's.
    fn number(&mut self, found: &Found) -> Option<u32> {
        let label = |labelled: &Labelled, name: &str| labelled.labels.get(name).cloned();
        let pod = label(&found.resource, "pod_name")
            .or_else(|| label(&found.metric, "exported_pod"))
            .or_else(|| label(&found.metric, "pod"))
            .or_else(|| label(&found.resource, "pod"));
        let address = label(&found.resource, "instance");
        match (&pod, &address) {
            (None, None) => Some(0),
            _ => self.names.number(pod.as_deref(), address.as_deref()),
        }
    }

    /// Values that are new since the last question. A replica has a series for each GPU: a share is
    /// averaged over them, anything else is added up. A period counts once all of them have it, or
    /// when those that lack it have had time enough.
    pub(super) async fn poll(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let (time, wall) = (clock.now(), RunClock::wall());
        let read = self.read().await?;
        self.samples(clock, time, wall, read)
    }

    fn samples(
        &mut self,
        clock: RunClock,
        time: Seconds,
        wall: f64,
        read: Read,
    ) -> Result<Vec<Sample>, Problem> {
        let arrived = clock.now();
        let mut samples: BTreeMap<(u32, i64), Sample> = BTreeMap::new();
        for (replica, index, end, values) in read.periods() {
            let waited = wall - end as f64 / 1e6;
            let whole = values.len() == read.series[&(replica, index)].len();
            if !(whole || waited > WAIT_MOST) || !self.given.insert((replica, index, end)) {
                continue;
            }
            let sample = samples.entry((replica, end)).or_insert_with(|| {
                let at = clock.of_wall(end as f64 / 1e6);
                let sample = Sample::new(at, Seconds::ZERO, Source::CloudMonitoring, replica);
                sample.received(arrived - time, arrived)
            });
            let TimeSeries { series, metric, .. } = &self.metrics[index];
            let series = *series;
            let sum = values.iter().sum::<f64>() * to_percent(metric);
            let share = of_each_gpu(series) || series == Series::KvUsage;
            sample.set(series, Some(if share { sum / values.len() as f64 } else { sum }));
        }
        // What no question looks back to any more need not be remembered.
        self.given.retain(|(_, _, end)| wall - *end as f64 / 1e6 < 2.0 * WINDOW);
        let samples: Vec<Sample> = samples.into_values().collect();
        match read.partial {
            Some(partial) if samples.is_empty() => Err(Problem::new(ProblemKind::Failing, partial)),
            Some(partial) => {
                tracing::warn!("Cloud Monitoring: {partial}; what came of it counts");
                Ok(samples)
            }
            None => Ok(samples),
        }
    }

    /// Whether each replica has a series of a GPU's metric for each of its GPUs.
    fn gpus(&self, read: &Read) -> Result<(), Problem> {
        let wrong = read.series.iter().find(|((_, index), of_replica)| {
            of_each_gpu(self.metrics[*index].series) && of_replica.len() != self.expected.gpus as usize
        });
        let Some(((replica, index), of_replica)) = wrong else { return Ok(()) };
        let more = of_replica.len() > self.expected.gpus as usize;
        let kind = if more { ProblemKind::Ambiguous } else { ProblemKind::Missing };
        let reason = format!(
            "replica {replica} has {} series of {} where {} GPUs of a replica are expected; say how many there are \
             with --gpus-per-replica, or narrow it with --cloud-monitoring-filter",
            of_replica.len(),
            self.metrics[*index].metric,
            self.expected.gpus
        );
        Err(Problem::new(kind, reason))
    }

    /// See [`super::Feed::check`].
    pub(super) async fn check(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let (time, wall) = (clock.now(), RunClock::wall());
        let read = self.read().await?;
        let gpus = self.gpus(&read);
        let absent = (0..self.metrics.len()).find(|index| !read.series.keys().any(|(_, i)| i == index));
        let samples = self.samples(clock, time, wall, read)?;
        let now = clock.now();
        if let Some(absent) = absent {
            let reason = format!(
                "no point of the last {WINDOW} s is found by {}; check cluster, namespace and container, \
                 and that the metric is collected (time-shared GPUs have none)",
                self.metrics[absent].whole_filter()
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
        if replicas.len() > self.expected.replicas as usize {
            let reason = format!(
                "it shows {} pods where {} are expected; add conditions with --cloud-monitoring-filter, or name the \
                 pods with --pod",
                replicas.len(),
                self.expected.replicas
            );
            return Err(Problem::new(ProblemKind::Ambiguous, reason));
        }
        gpus.map(|()| samples)
    }
}
