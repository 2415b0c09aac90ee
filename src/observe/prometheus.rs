//! The HTTP API of Prometheus, which Google's Managed Service for Prometheus speaks too.
//!
//! Every few seconds each series' PromQL is evaluated over the time since the last question, together
//! with the times of the samples that it stands on, so that a sample counts once and at its own time.

use super::google::GoogleAccess;
use super::http::{self, Problem, ProblemKind};
use super::replicas::ReplicaNames;
use crate::measurement::{RunClock, Sample, Series, Source};
use crate::units::Seconds;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// Time between two questions.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// Resolution of an evaluation.
const STEP: f64 = 1.0;
/// What is newer than this, seconds, may still be on its way into the server's store.
const SETTLE: f64 = 2.0;
/// Most time that one question covers.
const SPAN_MOST: f64 = 300.0;
/// Clocks further apart than this make the order of things uncertain.
const APART_MOST: f64 = 2.0;
/// How many label sets a message shows.
const LABELS_SHOWN: usize = 3;

/// The labels that PromQL must keep, for they tell a replica, and whether two jobs scrape the same.
pub const BY_REPLICA: &str = "exported_pod, pod, instance, job";

/// One series and how it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// What the values are.
    pub series: Series,
    /// PromQL with one result for each replica.
    pub promql: String,
    /// PromQL for the times of its samples. `None`: the time of evaluation is taken.
    pub times: Option<String>,
    /// The metric, to say what there is where nothing is found.
    pub metric: Option<String>,
    /// Whether it must be there.
    pub needed: bool,
}

/// A Prometheus server.
#[derive(Debug)]
pub struct Prometheus {
    url: String,
    client: reqwest::Client,
    access: Option<GoogleAccess>,
    queries: Vec<Query>,
    names: ReplicaNames,
    replicas: u32,
    asked_until: Option<f64>,
    /// The newest sample of each series of a replica, in milliseconds.
    newest: HashMap<(u32, Series), u64>,
}

#[derive(Deserialize)]
struct Answer<T> {
    status: String,
    data: Option<T>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: serde_json::Value,
}

type Labels = BTreeMap<String, String>;

#[derive(Deserialize)]
struct Found {
    metric: Labels,
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

impl Prometheus {
    /// The server at `url` (without `/api/v1`), asked with `client`, and with a Google token where
    /// there is `access`. It is to know `replicas` of the pods or addresses in `names`.
    pub fn new(
        url: &str,
        client: reqwest::Client,
        access: Option<GoogleAccess>,
        queries: Vec<Query>,
        names: ReplicaNames,
        replicas: u32,
    ) -> Prometheus {
        Prometheus {
            url: url.trim_end_matches('/').to_owned(),
            client,
            access,
            queries,
            names,
            replicas,
            asked_until: None,
            newest: HashMap::new(),
        }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<T, Problem> {
        let mut request = self.client.get(format!("{}/api/v1/{path}", self.url)).query(parameters);
        if let Some(access) = &self.access {
            request = request.headers(access.headers().await?);
        }
        let answer: Answer<T> = http::json(request).await?;
        match answer.data {
            Some(data) if answer.status == "success" => Ok(data),
            _ => Err(Problem::new(ProblemKind::Refused, answer.error)),
        }
    }

    /// The results of PromQL now.
    async fn now(&self, promql: &str) -> Result<Vec<Found>, Problem> {
        let about =
            |problem: Problem| Problem { reason: format!("{} ({promql})", problem.reason), ..problem };
        let data: Data = self.ask("query", &[("query", promql.to_owned())]).await.map_err(about)?;
        match data.result_type.as_str() {
            "vector" => found(data.result).map_err(about),
            // A scalar has no labels: it is of the one replica.
            "scalar" => {
                let value: (f64, String) = serde_json::from_value(data.result)
                    .map_err(|error| Problem::new(ProblemKind::Malformed, error.to_string()))?;
                Ok(vec![Found { metric: Labels::new(), value: Some(value), values: Vec::new() }])
            }
            other => Err(about(Problem::new(
                ProblemKind::Refused,
                format!("the query gives a {other}, and a value for each replica is needed"),
            ))),
        }
    }

    /// The series that are stamped with the time of the question, since nothing says the time of their samples.
    pub(super) fn without_times(&self) -> impl Iterator<Item = Series> {
        self.queries.iter().filter(|query| query.times.is_none()).map(|query| query.series)
    }

    /// How far its clock is from this machine's, in seconds.
    async fn clock_offset(&self) -> Result<f64, Problem> {
        let before = RunClock::wall();
        let found = self.now("time()").await?;
        let middle = f64::midpoint(before, RunClock::wall());
        let said =
            found.first().and_then(|found| found.value.as_ref()).and_then(|value| value.1.parse().ok());
        let said: f64 = said.ok_or_else(|| Problem::new(ProblemKind::Malformed, "time() gives no number"))?;
        Ok(said - middle)
    }

    /// See [`super::Feed::check`].
    pub(super) async fn check(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let offset = self.clock_offset().await?;
        if offset.abs() > APART_MOST {
            let reason = format!(
                "its clock is {offset:+.1} s from this machine's, so its samples cannot be laid beside others; \
                 set both by NTP"
            );
            return Err(Problem::new(ProblemKind::ClocksApart, reason));
        }
        let (time, mut any) = (clock.now(), false);
        let mut samples: BTreeMap<u32, Sample> = BTreeMap::new();
        for query in self.queries.clone() {
            let found = self.now(&query.promql).await?;
            if found.is_empty() && query.needed {
                return Err(self.nothing_found(&query).await);
            }
            any |= !found.is_empty();
            let stamps = match &query.times {
                Some(times) if !found.is_empty() => self.now(times).await?,
                _ => Vec::new(),
            };
            let stamps = self.by_replica(&query, stamps)?;
            let arrived = clock.now();
            for (replica, (_, value)) in self.by_replica(&query, found)?.into_iter().filter_map(first) {
                let stamp = stamps.get(&replica).and_then(|stamps| stamps.first());
                let stamp = stamp.map(|(_, stamp)| clock.of_wall(*stamp));
                let sample = samples.entry(replica).or_insert_with(|| {
                    let sample =
                        Sample::new(stamp.unwrap_or(arrived), Seconds::ZERO, Source::Prometheus, replica);
                    sample.received(arrived - time, arrived)
                });
                // Several series are as old as the oldest of them.
                sample.time = stamp.map_or(sample.time, |stamp| sample.time.min(stamp));
                sample.set(query.series, Some(value));
            }
        }
        if let (false, Some(query)) = (any, self.queries.first().cloned()) {
            return Err(self.nothing_found(&query).await);
        }
        if samples.len() > self.replicas as usize {
            let reason = format!(
                "it shows {} replicas where {} are expected; narrow it with --prometheus-selector, name the pods \
                 with --pod, or give --replicas",
                samples.len(),
                self.replicas
            );
            return Err(Problem::new(ProblemKind::Ambiguous, reason));
        }
        Ok(samples.into_values().collect())
    }

    /// What was searched, and what there is instead.
    async fn nothing_found(&self, query: &Query) -> Problem {
        let mut reason = format!("no series is found by {}", query.promql);
        if let Some(metric) = &query.metric {
            let known: Result<Vec<Labels>, Problem> =
                self.ask("series", &[("match[]", metric.clone())]).await;
            let known = known.unwrap_or_default();
            let shown: Vec<String> = known.iter().take(LABELS_SHOWN).map(braces).collect();
            let there_is = if shown.is_empty() {
                format!("it has no series of {metric} at all, so nothing that it scrapes shows it")
            } else {
                format!("of {metric} it has {} series, like {}", known.len(), shown.join(" "))
            };
            reason = format!("{reason}; {there_is}");
        }
        Problem::new(ProblemKind::Missing, reason)
    }

    /// Results by replica; those of pods that do not count are left out.
    fn by_replica(
        &mut self,
        query: &Query,
        found: Vec<Found>,
    ) -> Result<BTreeMap<u32, Vec<(f64, f64)>>, Problem> {
        let (mut values, mut labels) = (BTreeMap::new(), BTreeMap::<u32, Labels>::new());
        for one in &found {
            self.number(&one.metric);
        }
        for one in found {
            let Some(replica) = self.number(&one.metric) else { continue };
            if let Some(other) = labels.insert(replica, one.metric.clone()) {
                let reason = format!(
                    "{} gives several series where one per replica is expected: {} and {}; take one of them \
                     with --prometheus-selector, like 'job=\"...\"'",
                    query.promql,
                    braces(&other),
                    braces(&one.metric)
                );
                return Err(Problem::new(ProblemKind::Ambiguous, reason));
            }
            let points = one.value.into_iter().chain(one.values);
            let points = points.filter_map(|(time, text)| Some((time, text.parse().ok()?)));
            values.insert(replica, points.collect());
        }
        Ok(values)
    }

    /// The replica that a series is of.
    fn number(&mut self, labels: &Labels) -> Option<u32> {
        let label = |name: &str| labels.get(name).map(String::as_str).filter(|value| !value.is_empty());
        match (label("exported_pod").or_else(|| label("pod")), label("instance")) {
            (None, None) => Some(0),
            (pod, address) => self.names.number(pod, address),
        }
    }

    async fn range(
        &mut self,
        query: &Query,
        promql: &str,
        from: f64,
        to: f64,
    ) -> Result<BTreeMap<u32, Vec<(f64, f64)>>, Problem> {
        let parameters = [
            ("query", promql.to_owned()),
            ("start", format!("{from:.3}")),
            ("end", format!("{to:.3}")),
            ("step", format!("{STEP}")),
        ];
        let data: Data = self.ask("query_range", &parameters).await?;
        self.by_replica(query, found(data.result)?)
    }

    pub(super) async fn poll(&mut self, clock: RunClock) -> Result<Vec<Sample>, Problem> {
        let (time, wall) = (clock.now(), RunClock::wall());
        let to = ((wall - SETTLE) / STEP).floor() * STEP;
        let from = self.asked_until.map_or(to, |until| (until + STEP).max(to - SPAN_MOST));
        if from > to {
            return Ok(Vec::new());
        }
        let mut rows: BTreeMap<(u32, u64), Sample> = BTreeMap::new();
        let mut newest = self.newest.clone();
        for query in self.queries.clone() {
            let times = match &query.times {
                Some(times) => self.range(&query, times, from, to).await?,
                None => BTreeMap::new(),
            };
            let values = self.range(&query, &query.promql, from, to).await?;
            for (replica, points) in values {
                for (evaluated, value) in points {
                    let stamps = times.get(&replica);
                    let stamp = stamps.and_then(|stamps| stamps.iter().find(|(at, _)| *at == evaluated));
                    let stamp = stamp.map_or(evaluated, |(_, stamp)| *stamp);
                    // Milliseconds are as fine as Prometheus keeps time.
                    let millis = (stamp * 1000.0).round() as u64;
                    let series = (replica, query.series);
                    if self.newest.get(&series).is_some_and(|before| millis <= *before) {
                        continue;
                    }
                    newest.entry(series).and_modify(|last| *last = millis.max(*last)).or_insert(millis);
                    let row = rows.entry((replica, millis)).or_insert_with(|| {
                        Sample::new(clock.of_wall(stamp), Seconds::ZERO, Source::Prometheus, replica)
                    });
                    row.set(query.series, Some(value));
                }
            }
        }
        (self.asked_until, self.newest) = (Some(to), newest);
        let arrived = clock.now();
        Ok(rows.into_values().map(|sample| sample.received(arrived - time, arrived)).collect())
    }
}

fn first((replica, values): (u32, Vec<(f64, f64)>)) -> Option<(u32, (f64, f64))> {
    Some((replica, *values.first()?))
}

fn found(result: serde_json::Value) -> Result<Vec<Found>, Problem> {
    serde_json::from_value(result).map_err(|error| {
        Problem::new(ProblemKind::Malformed, format!("the result is not what was expected: {error}"))
    })
}

fn braces(labels: &Labels) -> String {
    let shown: BTreeSet<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", shown.into_iter().collect::<Vec<_>>().join(","))
}
