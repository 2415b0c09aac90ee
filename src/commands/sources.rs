//! The sources of metrics that a scenario names, made ready and tried.

mod labels;

use super::derive;
use super::run::access::Access;
use crate::cli::{Exit, Failure, OrExit};
use crate::measurement::{RunClock, Sample, Series, Source};
use crate::observe::{
    BY_REPLICA, CloudMonitoring, Expected, Feed, GoogleAccess, GoogleCredentials, GpusOf, MetricsApi, Nvml,
    Problem, ProblemKind, Profile, Prometheus, Query, Reading, ReplicaNames, Scrape, series_named,
};
use crate::scenario::Scenario;
use anyhow::{Context, anyhow};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What is asked of Prometheus unless the user says otherwise.
const BY_PROMETHEUS: [Series; 4] =
    [Series::QueueSize, Series::BatchSize, Series::BatchTokens, Series::KvUsage];
/// How long a series may take from its first appearance on the server to where it is asked for.
const PATIENCE: Duration = Duration::from_secs(40);
const BETWEEN_TRIES: Duration = Duration::from_secs(2);
/// How often a source may be too busy before it counts as failed.
const REFUSALS_MOST: u32 = 3;

/// What the sources of a scenario are made from.
pub(super) struct Sources<'a> {
    pub scenario: &'a Scenario,
    pub profile: Arc<Profile>,
    pub access: &'a Access,
    /// The target's address.
    pub own: reqwest::Url,
    /// Where its metrics are unless the user says otherwise.
    pub own_metrics: String,
    /// Where its GPU's metrics are, which only the simulated server shows itself.
    pub own_gpu: Option<String>,
}

/// A source as it is called on the command line.
pub(super) const fn flag(source: Source) -> &'static str {
    match source {
        Source::Server => "--metrics-url",
        Source::Gpu => "--gpu-metrics-url",
        Source::Nvml => "--nvml",
        Source::Prometheus => "--prometheus",
        Source::CloudMonitoring => "--cloud-monitoring",
        Source::CustomMetrics => "--custom-metric",
        Source::ExternalMetrics => "--external-metric",
    }
}

impl Sources<'_> {
    /// All sources of the scenario. Nothing is asked yet, but what is said of them is checked.
    pub(super) async fn feeds(&self) -> Result<Vec<Feed>, Failure> {
        self.candidates().await.into_iter().map(|(_, feed)| feed).collect()
    }

    /// Every source that the scenario names, or why it cannot be had.
    pub(super) async fn candidates(&self) -> Vec<(Source, Result<Feed, Failure>)> {
        let settings = &self.scenario.sources;
        let mut found: Vec<(Source, Result<Feed, Failure>)> =
            self.scrapes().into_iter().map(|feed| (feed.source(), Ok(feed))).collect();
        if settings.nvml == Some(true) {
            let nvml = Nvml::load(&self.gpus_here())
                .map_err(|problem| anyhow!("--nvml: {problem}"))
                .or_exit(Exit::Failed);
            found.push((Source::Nvml, nvml.map(Feed::Nvml)));
        }
        if settings.prometheus.is_some() {
            found.push((Source::Prometheus, self.prometheus()));
        }
        if let Some(project) = &settings.cloud_monitoring {
            let monitoring = self.cloud_monitoring(project);
            let monitoring = monitoring.map(|monitoring| Feed::CloudMonitoring(Box::new(monitoring)));
            found.push((Source::CloudMonitoring, monitoring));
        }
        if settings.custom_metric.is_some() {
            found.push((Source::CustomMetrics, self.custom_metrics().await));
        }
        if settings.external_metric.is_some() {
            found.push((Source::ExternalMetrics, self.external_metrics().await));
        }
        found
    }

    /// The GPUs of this machine that the server has, as far as anyone says.
    fn gpus_here(&self) -> Vec<String> {
        let visible = || {
            let named = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
            named.split(',').map(str::trim).filter(|gpu| !gpu.is_empty()).map(str::to_owned).collect()
        };
        self.scenario.sources.nvml_gpu.clone().unwrap_or_else(visible)
    }

    fn prometheus(&self) -> Result<Feed, Failure> {
        let settings = &self.scenario.sources;
        let (url, google) = settings
            .prometheus_url()
            .ok_or_else(|| anyhow!("--prometheus has no address"))
            .or_exit(Exit::Usage)?;
        let access = if google { Some(self.google()?) } else { None };
        let client = match &settings.prometheus_token {
            Some(place) => self.access.with_token(place, "--prometheus-token")?,
            None if google => self.access.google.clone(),
            None => self.access.other_metrics.clone(),
        };
        let (names, replicas) = (self.names(), self.scenario.replicas);
        Ok(Feed::Prometheus(Box::new(Prometheus::new(
            &url,
            client,
            access,
            self.queries()?,
            names,
            replicas,
        ))))
    }

    fn scrapes(&self) -> Vec<Feed> {
        let or_own = |given: &[String], own: Option<&String>| match given {
            [] => own.into_iter().cloned().collect(),
            given => given.to_vec(),
        };
        let scenario = self.scenario;
        let pod = |replica: usize| scenario.sources.pod.as_ref().and_then(|pods| pods.get(replica).cloned());
        let scrape = |url: String, reading: Reading, replica: usize| {
            let client = self.access.metrics(&url, &self.own);
            Feed::Scrape(Scrape::new(url, client, reading, replica as u32))
        };
        let servers = or_own(&scenario.metrics_urls, Some(&self.own_metrics)).into_iter().enumerate();
        let servers = servers.map(|(i, url)| scrape(url, Reading::Server(Arc::clone(&self.profile)), i));
        let of = |i: usize| GpusOf { pod: pod(i), namespace: scenario.cluster.namespace.clone() };
        let gpus = or_own(&scenario.gpu_metrics_urls, self.own_gpu.as_ref()).into_iter().enumerate();
        let gpus = gpus.map(|(i, url)| scrape(url, Reading::Dcgm(of(i)), i));
        servers.chain(gpus).collect()
    }

    /// Replicas by their pods, or by the addresses of their metrics.
    fn names(&self) -> ReplicaNames {
        let own = self.scenario.metrics_urls.is_empty().then_some(&self.own_metrics);
        let hosts = self.scenario.metrics_urls.iter().chain(own).filter_map(|url| {
            let url = reqwest::Url::parse(url).ok()?;
            Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
        });
        ReplicaNames::new(self.scenario.sources.pod.as_deref().unwrap_or_default(), hosts.collect())
    }

    fn queries(&self) -> Result<Vec<Query>, Failure> {
        let settings = &self.scenario.sources;
        let selector = &self.matchers();
        let mut queries: Vec<Query> = Vec::new();
        for (series, promql) in specs(settings.promql.as_deref(), "--promql")? {
            let promql = promql.ok_or_else(|| anyhow!("--promql: {} has no PromQL", series.column()));
            let promql = promql.or_exit(Exit::Usage)?.to_owned();
            queries.push(Query { series, promql, times: None, metric: None, needed: true });
        }
        for series in BY_PROMETHEUS {
            if queries.iter().any(|query| query.series == series) {
                continue;
            }
            if let Some(promql) = self.profile.promql(series, selector, BY_REPLICA) {
                let times = self.profile.promql_time(series, selector, BY_REPLICA);
                let metric = self.profile.metrics_of(series).next().map(str::to_owned);
                queries.push(Query { series, promql, times, metric, needed: false });
            }
        }
        Ok(queries)
    }

    /// The matchers of every query of ours.
    fn matchers(&self) -> String {
        let settings = &self.scenario.sources;
        let own = settings.prometheus_selector.as_deref().unwrap_or_default();
        if !settings.is_managed() {
            return own.to_owned();
        }
        let cluster = &self.scenario.cluster;
        let known = [
            ("cluster", cluster.cluster_name.as_ref()),
            ("location", cluster.location.as_ref()),
            ("namespace", cluster.namespace.as_ref()),
        ];
        labels::managed_matchers(own, &known)
    }

    fn expected(&self) -> Expected {
        Expected { replicas: self.scenario.replicas, gpus: self.scenario.gpus_per_replica }
    }

    fn google(&self) -> Result<GoogleAccess, Failure> {
        let settings = &self.scenario.sources;
        let from = match settings.google_credentials.as_deref() {
            None | Some("default") => GoogleCredentials::Default,
            Some("metadata") => GoogleCredentials::Metadata,
            Some(place) => GoogleCredentials::Json(key(Path::new(place.trim_start_matches("file:")))?),
        };
        GoogleAccess::new(from, settings.google_impersonate.as_deref())
            .map_err(|problem| anyhow!("{problem}"))
            .or_exit(Exit::Usage)
    }

    fn cloud_monitoring(&self, project: &str) -> Result<CloudMonitoring, Failure> {
        let settings = &self.scenario.sources;
        let names = derive::names(&self.scenario.cluster, self.scenario.gpus_per_replica);
        let mut specs = specs(settings.cloud_monitoring_metric.as_deref(), "--cloud-monitoring-metric")?;
        if specs.is_empty() {
            specs.push((Series::GpuUtil, None));
        }
        let filter = settings.cloud_monitoring_filter.as_deref();
        let metrics =
            specs.into_iter().map(|(series, spec)| labels::time_series(series, spec, filter, &names));
        let metrics = metrics.collect::<Result<Vec<_>, _>>().or_exit(Exit::Usage)?;
        Ok(CloudMonitoring::new(
            settings.endpoint(),
            project,
            self.access.google.clone(),
            self.google()?,
            metrics,
            self.names(),
            self.expected(),
        ))
    }

    async fn custom_metrics(&self) -> Result<Feed, Failure> {
        let names = derive::names(&self.scenario.cluster, self.scenario.gpus_per_replica);
        let specs = specs(self.scenario.sources.custom_metric.as_deref(), "--custom-metric")?;
        let metrics = specs
            .into_iter()
            .map(|(series, name)| labels::custom_metric(series, name, &self.profile, &names));
        let metrics = metrics.collect::<Result<Vec<_>, _>>().or_exit(Exit::Usage)?;
        let client = kubernetes().await?;
        let api = MetricsApi::custom(client, &names.namespace, metrics, self.names(), self.expected());
        Ok(Feed::MetricsApi(Box::new(api)))
    }

    async fn external_metrics(&self) -> Result<Feed, Failure> {
        let settings = &self.scenario.sources;
        let names = derive::names(&self.scenario.cluster, self.scenario.gpus_per_replica);
        let specs = specs(settings.external_metric.as_deref(), "--external-metric")?;
        let metrics = specs.into_iter().map(|(series, name)| {
            labels::external_metric(series, name, settings.external_selector.as_deref(), &names)
        });
        let metrics = metrics.collect::<Result<Vec<_>, _>>().or_exit(Exit::Usage)?;
        let client = kubernetes().await?;
        let api = MetricsApi::external(client, &names.namespace, metrics, self.expected());
        Ok(Feed::MetricsApi(Box::new(api)))
    }
}

/// The cluster that KUBECONFIG names, or that calibrate runs in. A failure is to be seen and not to be
/// tried over: the next question comes soon enough.
async fn kubernetes() -> Result<kube::Client, Failure> {
    const NONE: &str = "no access to a Kubernetes cluster; set KUBECONFIG, or run inside the cluster";
    let mut config = kube::Config::infer().await.context(NONE).or_exit(Exit::Failed)?;
    config.default_retry = false;
    kube::Client::try_from(config).context(NONE).or_exit(Exit::Failed)
}

/// `SERIES=REST` of every spec, or `SERIES` alone.
fn specs<'a>(given: Option<&'a [String]>, flag: &str) -> Result<Vec<(Series, Option<&'a str>)>, Failure> {
    let spec = |spec: &'a String| {
        let (column, rest) =
            spec.split_once('=').map_or((spec.as_str(), None), |(column, rest)| (column, Some(rest)));
        Ok((
            series_named(column.trim()).map_err(|problem| anyhow!("{flag}: {problem}"))?,
            rest.map(str::trim),
        ))
    };
    given.unwrap_or_default().iter().map(spec).collect::<anyhow::Result<_>>().or_exit(Exit::Usage)
}

/// The JSON of a key file, never shown.
fn key(path: &Path) -> Result<serde_json::Value, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--google-credentials: cannot read {shown}"))
        .or_exit(Exit::Usage)?;
    serde_json::from_str(&text)
        .map_err(|_| {
            anyhow!(
                "--google-credentials: {shown} is no JSON; it must be a key or credentials file of Google's"
            )
        })
        .or_exit(Exit::Usage)
}

/// Asks every source once, and the slow ones again until what the first requests caused has come
/// through, before any load is sent. Gives those that answer, and what the user should know: the
/// server's own metrics may be missing where nobody named their address and Prometheus has them.
pub(super) async fn check(
    feeds: Vec<Feed>,
    scenario: &Scenario,
    clock: RunClock,
) -> Result<(Vec<Feed>, Vec<String>), Failure> {
    let may_miss = server_may_miss(scenario);
    let (mut good, mut remarks) = (Vec::new(), Vec::from_iter(everywhere(scenario)));
    for mut feed in feeds {
        remarks.extend(other_gpus(&feed, scenario));
        match patiently(&mut feed, clock).await {
            Ok(_) => good.push(feed),
            Err(problem) if may_miss && feed.source() == Source::Server => {
                remarks.push(format!(
                    "{} cannot be scraped ({problem}), so the server's metrics are those of Prometheus: later, and \
                     without the counters that a second opinion is made from",
                    feed.what()
                ));
            }
            Err(problem) => return Err(failure(&feed, &problem)),
        }
    }
    Ok((good, remarks))
}

/// What to know of Managed Service for Prometheus where nothing tells the cluster's series from those of
/// the project's others.
pub(super) fn everywhere(scenario: &Scenario) -> Option<String> {
    let settings = &scenario.sources;
    let selector = settings.prometheus_selector.as_deref().unwrap_or_default();
    let named = scenario.cluster.cluster_name.is_some() || labels::has_matcher(selector, "cluster");
    (settings.is_managed() && !named).then(|| {
        "--prometheus gmp: holds the series of every cluster of the project, and none is named: add --cluster-name, or \
         a cluster to --prometheus-selector"
            .to_owned()
    })
}

/// Says so where NVML reads another number of GPUs than a replica has.
pub(super) fn other_gpus(feed: &Feed, scenario: &Scenario) -> Option<String> {
    let Feed::Nvml(nvml) = feed else { return None };
    let (read, own) = (nvml.count(), scenario.gpus_per_replica);
    (read != own as usize).then(|| {
        format!(
            "--nvml reads the mean over {read} GPUs of this machine, and a replica has {own}: name the server's with \
             --nvml-gpu, or say --gpus-per-replica"
        )
    })
}

/// Whether the server's own metrics may be missing: nobody named their address, and Prometheus has them.
pub(super) fn server_may_miss(scenario: &Scenario) -> bool {
    scenario.metrics_urls.is_empty() && scenario.sources.prometheus.is_some()
}

async fn patiently(feed: &mut Feed, clock: RunClock) -> Result<Vec<Sample>, Problem> {
    let deadline = clock.now() + PATIENCE.into();
    let mut refusals = 0;
    loop {
        let problem = match feed.check(clock).await {
            Ok(samples) => return Ok(samples),
            Err(problem) => problem,
        };
        let wait = problem.retry_after.unwrap_or(BETWEEN_TRIES);
        let again = match problem.kind {
            ProblemKind::Missing => comes_late(feed.source()),
            // Once is no reason to give up a run.
            ProblemKind::Throttled | ProblemKind::Failing => {
                refusals += 1;
                refusals < REFUSALS_MOST
            }
            _ => false,
        };
        if !again || clock.now() + wait.into() > deadline {
            return Err(problem);
        }
        tokio::time::sleep(wait).await;
    }
}

/// Whether a source shows a series only some time after its server does.
fn comes_late(source: Source) -> bool {
    matches!(source, Source::Prometheus | Source::CustomMetrics | Source::ExternalMetrics)
}

fn failure(feed: &Feed, problem: &Problem) -> Failure {
    let flag = flag(feed.source());
    let error = match feed {
        Feed::Scrape(scrape) => {
            anyhow!("cannot scrape {}: {problem}; name the right address with {flag}", scrape.url())
        }
        _ => anyhow!("{flag}: {}: {problem}", feed.what()),
    };
    let exit = match problem.kind {
        ProblemKind::Refused | ProblemKind::Ambiguous => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure { exit, error }
}
