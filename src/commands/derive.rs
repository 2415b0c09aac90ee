//! From a recorded run to everything that is derived from it. `run` ends with this and `report`
//! repeats it, so that both say the same.

use crate::analyze::{Analysis, Known, Measured, analyze};
use crate::cli::Exit;
use crate::cli::console::Console;
use crate::cluster::TargetName;
use crate::manifest::{self, ClusterNames, Gauge, GpuMetric, Latency, LeftOut, Provenance, Server};
use crate::measurement::{Event, PodStart, RequestOutcome, Sample, Series, Source};
use crate::observe::Profile;
use crate::plan::RequestSource;
use crate::recommend::{Assumptions, Demand, LagOrigin, Plan, Recommendation, plan, recommend};
use crate::record::{self, RecordedRun, RunState};
use crate::report::{self, LoadFacts, ReportInput, RunFacts, TokenCount};
use crate::scenario::{ClusterSettings, RampSpec, Scenario, Settings, SizeSpec};
use crate::units::{Replicas, Seconds, Signal};
use anyhow::{Context, anyhow};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a record tells.
pub(super) struct Derived {
    pub(super) analysis: Analysis,
    pub(super) recommendation: Option<Recommendation>,
    facts: RunFacts,
    manifests: Vec<(String, String)>,
    left_out: Vec<LeftOut>,
    /// The names in the manifests, or why there are none.
    names: Result<ClusterNames, String>,
    /// What `simulate` left in the directory.
    simulation: Option<String>,
    /// What loads would need.
    plan: Option<Plan>,
}

/// The manifests as files by name, what is left out of them, and what to know.
pub(super) struct ManifestSet<'a> {
    pub(super) files: &'a [(String, String)],
    pub(super) left_out: &'a [LeftOut],
    pub(super) warnings: &'a [String],
}

/// Reads the run in `directory`, analyzes it, plans for `demand` and writes the derived files into the directory.
pub(super) fn derive(directory: &Path, demand: &Demand) -> anyhow::Result<Derived> {
    let run = record::read(directory)?;
    let scenario = recorded_settings(&run, directory)?.resolve()?;
    let mut derived = from_run(&run, &scenario, None)?;
    derived.simulation = simulation(directory);
    let demand = Demand {
        gpus_per_replica: scenario.gpus_per_replica,
        max_replicas: Some(scenario.cluster.max_replicas.unwrap_or(ClusterNames::default().max_replicas)),
        ..demand.clone()
    };
    let known = known(run.info.target.info.as_ref(), &scenario);
    let recommendation = derived.recommendation.as_ref();
    derived.plan = plan(&derived.analysis, &measured(&run, &scenario), &known, recommendation, &demand);
    derived.write(directory)?;
    Ok(derived)
}

/// What `simulate` left in a directory.
fn simulation(directory: &Path) -> Option<String> {
    std::fs::read_to_string(directory.join(report::SIMULATION)).ok()
}

/// A run as something to be compared: its GPUs, and scenario and server field by field.
pub(super) fn fields(directory: &Path) -> anyhow::Result<(u32, BTreeMap<String, String>)> {
    let run = record::read(directory)?;
    let scenario = recorded_settings(&run, directory)?.resolve()?;
    let mut fields = BTreeMap::new();
    let server = run.info.target.info.clone().unwrap_or_default();
    for part in [serde_json::to_value(&scenario.settings)?, server] {
        for (name, value) in part.as_object().into_iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            fields.insert(name.replace('_', "-"), text);
        }
    }
    Ok((scenario.gpus_per_replica, fields))
}

/// Reads runs and analyzes them together, with what `other` says instead of the first one's scenario, and
/// `metric` for the one to recommend.
pub(super) fn read(
    directories: &[PathBuf],
    other: Settings,
    metric: Option<Signal>,
) -> anyhow::Result<Derived> {
    let (directory, more) = directories.split_first().context("no run directory is named")?;
    let first = record::read(directory)?;
    let scenario = other.over(recorded_settings(&first, directory)?).resolve()?;
    let mut others = Vec::new();
    for directory in more {
        let run = record::read(directory)?;
        if std::iter::once(&first)
            .chain(&others)
            .any(|other: &RecordedRun| other.info.run_id == run.info.run_id)
        {
            return Err(anyhow!(
                "{} is named twice: the same run again tells nothing new",
                directory.display()
            ));
        }
        same_deployment(&first, &run, directory, &scenario)?;
        others.push(run);
    }
    let run = record::together(first, others);
    let derived = from_run(&run, &scenario, metric)?;
    Ok(Derived { simulation: simulation(directory), ..derived })
}

/// Runs can only be taken together where server, replicas and requests are the same.
fn same_deployment(
    first: &RecordedRun,
    other: &RecordedRun,
    directory: &Path,
    scenario: &Scenario,
) -> anyhow::Result<()> {
    let settings = recorded_settings(other, directory)?.resolve()?;
    let differs = if first.info.server() != other.info.server() {
        Some(("server", first.info.server(), other.info.server()))
    } else if settings.replicas != scenario.replicas {
        Some(("number of replicas", scenario.replicas.to_string(), settings.replicas.to_string()))
    } else if (settings.input_tokens, settings.output_tokens, &settings.dataset, settings.max_new_tokens)
        != (scenario.input_tokens, scenario.output_tokens, &scenario.dataset, scenario.max_new_tokens)
    {
        let sizes = |s: &Scenario| format!("{} and {}", s.input_tokens, s.output_tokens);
        Some(("requests", sizes(scenario), sizes(&settings)))
    } else {
        None
    };
    match differs {
        None => Ok(()),
        Some((what, one, two)) => Err(anyhow!(
            "{} cannot be taken together with {}: the {what} differ ({two} for {one}); recommend from each on its own",
            directory.display(),
            first.info.run_id
        )),
    }
}

/// The scenario that a run was made with.
pub(super) fn recorded_settings(run: &RecordedRun, directory: &Path) -> anyhow::Result<Settings> {
    serde_json::from_value(run.info.scenario.clone())
        .with_context(|| format!("the scenario in {}/run.json cannot be used", directory.display()))
}

pub(super) fn from_run(
    run: &RecordedRun,
    scenario: &Scenario,
    metric: Option<Signal>,
) -> anyhow::Result<Derived> {
    let analysis =
        analyze(&measured(run, scenario), &scenario.slos, &known(run.info.target.info.as_ref(), scenario));
    let mut recommendation = analysis
        .capacity
        .as_ref()
        .ok()
        .map(|capacity| recommend(&analysis, capacity, assumptions(scenario, &analysis, &run.events)));
    let (mut manifests, mut left_out) = (Vec::new(), Vec::new());
    let names = names_of(run, scenario);
    if let Some(recommendation) = &mut recommendation {
        if let Some(metric) = metric {
            recommendation.prefer(metric);
        }
        match &names {
            Ok(names) => {
                recommendation.warnings.extend(manifest::warnings(recommendation, names));
                let all = manifest::render_all(recommendation, names, &provenance(run, &analysis))?;
                manifests = all.files.into_iter().map(|file| (file.name, file.text)).collect();
                left_out = all.left_out;
            }
            Err(reason) => recommendation.warnings.push(reason.clone()),
        }
    }
    Ok(Derived {
        facts: facts(run, scenario),
        analysis,
        recommendation,
        manifests,
        left_out,
        names,
        simulation: None,
        plan: None,
    })
}

/// The names in the cluster for the server that was measured. `Err`: why no manifests are written.
pub(super) fn names_of(run: &RecordedRun, scenario: &Scenario) -> Result<ClusterNames, String> {
    let target = &run.info.target;
    let server = server(target.kind.as_deref(), target.profile.as_deref())?;
    let names = names_for(server, &scenario.cluster, scenario.gpus_per_replica);
    let scaled = scaled(scenario).unwrap_or_else(|| names.scaled.clone());
    Ok(ClusterNames { gpu_metric: gpu_metric(&run.samples), scaled, ..names })
}

/// What a record holds, for the analysis.
fn measured<'a>(run: &'a RecordedRun, scenario: &Scenario) -> Measured<'a> {
    Measured {
        requests: &run.requests,
        samples: &run.samples,
        events: &run.events,
        gaps: &run.gaps,
        replicas: Replicas(scenario.replicas),
    }
}

/// API version and kind of the workload that was calibrated, where it was one in a cluster.
fn scaled(scenario: &Scenario) -> Option<(String, String)> {
    let name: TargetName = scenario.workload.deployment.as_ref()?.parse().ok()?;
    let kind = name.workload.kind();
    Some((kind.api_version(), kind.kind.to_owned()))
}

/// The control loop as the scenario describes it.
pub(super) fn assumptions(scenario: &Scenario, analysis: &Analysis, events: &[Event]) -> Assumptions {
    let (startup, startup_origin) = startup(scenario, events);
    let measured = analysis.lags.iter().map(|lag| lag.age.lag).max_by(|a, b| a.0.total_cmp(&b.0));
    let (lag, lag_origin) = match (scenario.lag, measured) {
        (Some(given), _) => (given, LagOrigin::Given),
        (None, Some(measured)) => (measured, LagOrigin::Measured),
        (None, None) => (Assumptions::LAG, LagOrigin::Assumed),
    };
    Assumptions {
        tolerance: scenario.tolerance,
        lag,
        lag_origin,
        startup,
        startup_origin,
        growth: scenario.growth,
    }
}

/// How long a replica takes to start: as given, else that of the slowest pod that came for the run, else as the pods
/// tell that were there before, else assumed.
pub(super) fn startup(scenario: &Scenario, events: &[Event]) -> (Seconds, LagOrigin) {
    let starts = events.iter().filter_map(|event| match event {
        Event::PodStarted { start, .. } => Some(start),
        _ => None,
    });
    let starts: Vec<&PodStart> = starts.collect();
    let served = starts.iter().filter_map(|start| start.first_completion);
    match (scenario.startup, served.max_by(|a, b| a.0.total_cmp(&b.0)), of_old_pods(&starts)) {
        (Some(given), ..) => (given, LagOrigin::Given),
        (None, Some(served), _) => (served, LagOrigin::Measured),
        (None, None, Some(ready)) => (ready, LagOrigin::AtMost),
        (None, None, None) => (Assumptions::STARTUP, LagOrigin::Assumed),
    }
}

/// The start-up of pods that were ready when they were first seen. Their conditions tell when they last became so:
/// a restarted kubelet or a failed probe makes that later than it was. Nodes and images come when they come, but from
/// its container's start a server takes as long as the others: what the fastest took is least wrong.
fn of_old_pods(starts: &[&PodStart]) -> Option<Seconds> {
    let times = starts.iter().filter_map(|start| {
        let begun = start.started.unwrap_or(Seconds::ZERO).0;
        Some((begun, start.ready?.0 - begun))
    });
    let (begun, warm): (Vec<f64>, Vec<f64>) = times.filter(|(_, warm)| *warm >= 0.0).unzip();
    let whole = begun.into_iter().reduce(f64::max)? + warm.into_iter().reduce(f64::min)?;
    (whole <= LONGEST_START).then_some(Seconds(whole))
}

/// Seconds after which a pod is believed to have become ready anew rather than for the first time.
const LONGEST_START: f64 = 3600.0;

/// Requests that are drawn to know how large they are on average.
const DRAWN: usize = 20_000;

/// What is known of server and load from elsewhere than the metrics. `info` is the answer of `/info`.
pub(super) fn known(info: Option<&serde_json::Value>, scenario: &Scenario) -> Known {
    let said = |field: &str| u32::try_from(info?.get(field)?.as_u64()?).ok();
    let default = Known::default();
    // Datasets and traces may not be there any more when a run is looked at again.
    let drawn = scenario.dataset.is_none() && !matches!(scenario.ramp, RampSpec::Trace { .. });
    let source = RequestSource::Specs(scenario.input_tokens, scenario.output_tokens);
    let mut sampler = source.sampler(scenario.seed, u32::MAX);
    let drawn = (0..if drawn { DRAWN } else { 0 }).map(|_| sampler.sample());
    Known {
        declared_output: scenario.max_new_tokens,
        max_concurrent_requests: said("max_concurrent_requests").unwrap_or(default.max_concurrent_requests),
        max_prefill_tokens: said("max_batch_prefill_tokens").unwrap_or(default.max_prefill_tokens),
        token_budget: said("max_batch_total_tokens"),
        planned: drawn.filter_map(|request| Some((request.input?, request.output.max(1)))).collect(),
        production: Replicas(scenario.production_replicas),
    }
}

/// The server as manifests know it, by the name of its profile, or by the profile itself where that is the
/// user's own; runs that name none are of TGI. `Err`: why none are written.
pub(super) fn server(kind: Option<&str>, own: Option<&str>) -> Result<Server, String> {
    let profile = match (kind, own) {
        (_, Some(text)) => Profile::parse("the recorded profile", text),
        (Some(kind), None) => Profile::built_in(kind),
        (None, None) => return Ok(Server::default()),
    };
    profile.map(|profile| server_of(&profile)).map_err(|error| format!("no manifests are written: {error}"))
}

/// The server of a profile as manifests know it.
pub(super) fn server_of(profile: &Profile) -> Server {
    let slug = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let latency = |(title, name): &(String, String)| Latency { title: title.clone(), name: name.clone() };
    Server {
        slug: profile.name.chars().map(slug).collect(),
        title: profile.title.clone(),
        queue: gauge(profile, Series::QueueSize),
        batch: gauge(profile, Series::BatchSize),
        latencies: profile.latencies.iter().map(latency).collect(),
        path: format!("/{}", profile.metrics_path),
        port: profile.metrics_port.unwrap_or(profile.port),
    }
}

/// The gauge that an HPA can scale on: a sum over the series of one metric, as it is.
fn gauge(profile: &Profile, series: Series) -> Result<Gauge, String> {
    let (title, column) = (&profile.title, series.column());
    let gauge = profile.gauges(series).next();
    let gauge = gauge.ok_or_else(|| format!("{title} shows no {}", column.replace('_', " ")))?;
    let several = gauge.labels.values().any(|value| value.contains('|'));
    if !gauge.as_it_is || several {
        return Err(format!(
            "{title}'s {column} is reckoned from {}, which an HPA cannot do; record it by a rule, and name that",
            gauge.metric
        ));
    }
    let labels = gauge.labels.iter().map(|(label, value)| (label.clone(), value.clone()));
    Ok(Gauge { name: gauge.metric.to_owned(), labels: labels.collect() })
}

/// The DCGM metric that the recorded GPU utilization was taken from: engine activity, where it is all
/// that the exporter shows, is recorded as both.
fn gpu_metric(samples: &[Sample]) -> GpuMetric {
    let by_exporter = samples.iter().filter(|sample| sample.source == Source::Gpu);
    let mut seen = by_exporter.filter(|sample| sample.get(Series::GpuUtil).is_some()).peekable();
    let any = seen.peek().is_some();
    let stands_in =
        any && seen.all(|sample| sample.get(Series::GpuEngineActive) == sample.get(Series::GpuUtil));
    if stands_in { GpuMetric::EngineActive } else { GpuMetric::GpuUtil }
}

/// The names of the manifests for a server.
pub(super) fn names_for(server: Server, given: &ClusterSettings, gpus_per_replica: u32) -> ClusterNames {
    let names = names(given, gpus_per_replica);
    let metrics_port = given.metrics_port.clone().unwrap_or_else(|| server.default_port());
    ClusterNames { metrics_port, server, ..names }
}

/// The names in the cluster: as given, else as on Google's how-to page.
pub(super) fn names(given: &ClusterSettings, gpus_per_replica: u32) -> ClusterNames {
    let page = ClusterNames::default();
    let given = given.clone();
    ClusterNames {
        deployment: given.deployment.unwrap_or(page.deployment),
        scaled: page.scaled,
        hpa_name: given.hpa_name,
        namespace: given.namespace.unwrap_or(page.namespace),
        app: given.app.unwrap_or(page.app),
        container: given.container.unwrap_or(page.container),
        metrics_port: given.metrics_port.unwrap_or(page.metrics_port),
        server: page.server,
        gpu_metric: page.gpu_metric,
        project: given.project,
        prometheus: given.prometheus_address,
        dcgm_namespace: given.dcgm_namespace.unwrap_or(page.dcgm_namespace),
        cluster_version: given.cluster_version,
        cluster: given.cluster_name,
        location: given.location,
        min_replicas: given.min_replicas.unwrap_or(page.min_replicas),
        max_replicas: given.max_replicas.unwrap_or(page.max_replicas),
        gpus_per_replica,
    }
}

/// Where the numbers of a manifest come from.
pub(super) fn provenance(run: &RecordedRun, analysis: &Analysis) -> Provenance {
    let info = &run.info;
    let slos: Vec<String> = analysis.slos.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        format!("calibrate {}, run {}, {}", info.tool_version, info.run_id, info.server()),
        format!("SLO: {}", slos.join(", ")),
    ];
    if let Ok(capacity) = &analysis.capacity {
        lines.push(format!(
            "SLO capacity: {} per replica, {} to {}",
            capacity.per_replica, capacity.low, capacity.high
        ));
    }
    if info.state != RunState::Complete {
        lines.push(format!(
            "The run was cut short ({}): what it measured until then is all there is",
            info.reason.as_deref().unwrap_or("it was killed")
        ));
    }
    if info.target.simulated {
        lines.push("Measured on the embedded SIMULATED server: not for a real cluster".to_owned());
    }
    Provenance { lines, simulated: info.target.simulated }
}

fn facts(run: &RecordedRun, scenario: &Scenario) -> RunFacts {
    let info = &run.info;
    let state = match info.state {
        RunState::Running => "running",
        RunState::Complete => "complete",
        RunState::Interrupted => "interrupted",
    };
    RunFacts {
        run_id: info.run_id.clone(),
        tool_version: info.tool_version.clone(),
        started: to_the_second(&info.started_utc),
        state: state.to_owned(),
        reason: info.reason.clone(),
        target: info.target.url.clone(),
        server: info.server(),
        simulated: info.target.simulated,
        scenario_yaml: serde_saphyr::to_string(&scenario.settings).unwrap_or_default(),
        command: info.command.join(" "),
        remarks: run.remarks.clone(),
        load: load_facts(run, scenario),
    }
}

fn load_facts(run: &RecordedRun, scenario: &Scenario) -> LoadFacts {
    let sampled = scenario.dataset.is_some() || matches!(scenario.ramp, RampSpec::Trace { .. });
    let count = |spec: SizeSpec, seen: fn(&RequestOutcome) -> Option<u32>| {
        let other = TokenCount { distribution: "other", mean: spec.mean(), deviation: None, bounds: None };
        match spec {
            _ if sampled => {
                let tokens: Vec<f64> = run.requests.iter().filter_map(seen).map(f64::from).collect();
                TokenCount { mean: tokens.iter().sum::<f64>() / tokens.len().max(1) as f64, ..other }
            }
            SizeSpec::Fixed(_) => TokenCount { distribution: "fixed", ..other },
            SizeSpec::Uniform(low, high) => {
                TokenCount { distribution: "uniform", bounds: Some((low, high)), ..other }
            }
            SizeSpec::Lognormal { sd, .. } => TokenCount { deviation: Some(sd), ..other },
        }
    };
    let ends = run.requests.iter().filter_map(|request| request.ended.or(request.last_token));
    LoadFacts {
        server_kind: run.info.target.kind.clone().unwrap_or_else(|| "tgi".to_owned()),
        input: count(scenario.input_tokens, |request| request.input_tokens),
        output: count(scenario.output_tokens, |request| request.output_tokens),
        sampled,
        shared_prefix: scenario.shared_prefix,
        length: ends.chain(run.samples.iter().map(|sample| sample.time)).fold(Seconds::ZERO, Seconds::max),
    }
}

/// An RFC 3339 time in UTC without fractions of a second.
pub(super) fn to_the_second(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(whole, _)| format!("{whole}Z"))
}

/// Removes a file that need not be there.
pub(super) fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Derived {
    pub(super) fn input(&self) -> ReportInput<'_> {
        ReportInput {
            analysis: &self.analysis,
            recommendation: self.recommendation.as_ref(),
            facts: &self.facts,
            manifests: &self.manifests,
            simulation: self.simulation.as_deref(),
            plan: self.plan.as_ref(),
        }
    }

    fn write(&self, directory: &Path) -> anyhow::Result<()> {
        for file in report::render(&self.input())? {
            record::write_file(&directory.join(&file.path), file.contents.as_bytes())?;
        }
        // What an earlier derivation wrote must not outlive the target it was made from.
        let plan = ("plan.json", self.plan.is_some());
        let written = |name: &str| self.manifests.iter().any(|(written, _)| written == name);
        let targets = manifest::OF_TARGETS.iter().map(|name| (*name, written(name)));
        for (name, written) in targets.chain([plan]) {
            if !written {
                remove(&directory.join(name))?;
            }
        }
        for (name, yaml) in &self.manifests {
            record::write_file(&directory.join(name), yaml.as_bytes())?;
        }
        Ok(())
    }

    /// Shows the result and where its files are.
    pub(super) fn show(&self, directory: &Path, console: Console) {
        console.summary(&report::terminal_summary(&self.input(), console.colour()));
        console.summary(&format!("report        {}", directory.join("report.html").display()));
        for (name, _) in self.manifests.iter().filter(|(name, _)| self.is_recommended(name)) {
            console.summary(&format!("manifest      {}", directory.join(name).display()));
        }
        self.show_document(directory, console);
    }

    /// Shows the result alone: a summary for people, a document for machines.
    pub(super) fn show_result(&self, directory: &Path, console: Console) {
        console.summary(&report::terminal_summary(&self.input(), console.colour()));
        self.show_document(directory, console);
    }

    /// The names in the manifests.
    pub(super) fn names(&self) -> anyhow::Result<ClusterNames> {
        self.names.clone().map_err(anyhow::Error::msg)
    }

    /// The manifests; `None` where nothing is recommended.
    pub(super) fn manifests(&self) -> Option<ManifestSet<'_>> {
        let warnings = &self.recommendation.as_ref()?.warnings;
        Some(ManifestSet { files: &self.manifests, left_out: &self.left_out, warnings })
    }

    fn show_document(&self, directory: &Path, console: Console) {
        if console.wants_json() {
            let mut document = report::document(&self.input());
            if let Some(fields) = document.as_object_mut() {
                if let Some(plan) = report::plan_document(&self.input()) {
                    fields.insert("plan".to_owned(), plan);
                }
                fields.insert("run_directory".to_owned(), directory.display().to_string().into());
                fields.insert("exit_code".to_owned(), (self.exit() as u8).into());
            }
            console.document(&document);
        }
    }

    fn is_recommended(&self, file: &str) -> bool {
        let chosen = self.recommendation.as_ref().and_then(|r| r.recommended);
        chosen.is_some_and(|signal| file == format!("hpa-{}.yaml", signal.slug()))
    }

    /// The exit code that the result deserves.
    pub(super) fn exit(&self) -> Exit {
        let found = self.recommendation.as_ref().is_some_and(|r| r.recommended.is_some());
        if found { Exit::Done } else { Exit::Invalid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gpu_metric_is_the_one_that_the_utilization_was_taken_from() {
        let sample = |engine: Option<f64>| {
            let mut sample = Sample::new(Seconds(1.0), Seconds(0.0), Source::Gpu, 0);
            sample.set(Series::GpuUtil, Some(50.0));
            sample.set(Series::GpuEngineActive, engine);
            sample
        };
        let empty = Sample::new(Seconds(1.0), Seconds(0.0), Source::Server, 0);
        assert_eq!(gpu_metric(&[]), GpuMetric::GpuUtil);
        assert_eq!(gpu_metric(&[empty.clone(), sample(Some(50.0))]), GpuMetric::EngineActive);
        assert_eq!(gpu_metric(&[sample(None)]), GpuMetric::GpuUtil);
        // Both are shown, and agree once by chance.
        assert_eq!(gpu_metric(&[sample(Some(50.0)), sample(Some(30.0))]), GpuMetric::GpuUtil);
        // Cloud Monitoring has a utilization of its own, whatever the exporter shows.
        let mut duty_cycle = Sample::new(Seconds(1.0), Seconds(0.0), Source::CloudMonitoring, 0);
        duty_cycle.set(Series::GpuUtil, Some(60.0));
        assert_eq!(gpu_metric(&[sample(Some(50.0)), duty_cycle]), GpuMetric::EngineActive);
    }

    #[test]
    fn a_start_that_was_given_wins_over_one_that_was_measured_and_that_over_the_assumed() {
        let scenario = |startup: Option<f64>| {
            let slo = Some(vec!["ttft:p95:2s".parse().unwrap()]);
            let startup = startup.map(Seconds);
            Settings { slo, startup, ..Settings::default() }.resolve().unwrap()
        };
        let pod = |started: f64, ready: f64, first_completion: Option<f64>| Event::PodStarted {
            time: Seconds(0.0),
            start: PodStart {
                pod: "a".to_owned(),
                created: "2026-11-27T21:00:00Z".to_owned(),
                scheduled: None,
                pulled: None,
                started: Some(Seconds(started)),
                ready: Some(Seconds(ready)),
                first_completion: first_completion.map(Seconds),
            },
        };
        let of = |given, events: &[Event]| {
            let (time, origin) = startup(&scenario(given), events);
            (time.0, origin)
        };
        assert_eq!(of(None, &[]), (120.0, LagOrigin::Assumed));
        // The latest container, and the fastest server; one was ready anew long after its start.
        let old = [pod(10.0, 40.0, None), pod(50.0, 90.0, None), pod(2.0, 1902.0, None)];
        assert_eq!(of(None, &old), (80.0, LagOrigin::AtMost));
        assert_eq!(of(None, &old[2..]), (1902.0, LagOrigin::AtMost));
        assert_eq!(of(None, &[pod(2.0, 90_000.0, None)]), (120.0, LagOrigin::Assumed));
        // What was seen to serve tells more.
        let new = [old.to_vec(), vec![pod(1.0, 60.0, Some(63.5)), pod(1.0, 50.0, Some(51.0))]].concat();
        assert_eq!(of(None, &new), (63.5, LagOrigin::Measured));
        assert_eq!(of(Some(30.0), &new), (30.0, LagOrigin::Given));
    }

    #[test]
    fn manifests_are_for_the_kind_of_server_that_was_measured() {
        let tgi = server_of(&Profile::built_in("tgi").unwrap());
        assert_eq!(Server::default(), tgi, "the page's server is TGI");
        assert_eq!(server(None, None), Ok(tgi));
        for profile in Profile::names() {
            let server = server(Some(profile), None).unwrap();
            assert_eq!(server.slug, profile);
            assert!(server.queue.is_ok() && (server.batch.is_ok() || profile == "jetstream"));
        }
        assert!(server(Some("my-server"), None).unwrap_err().contains("'my-server'"));
    }

    #[test]
    fn manifests_scale_on_the_very_series_that_were_measured() {
        let of = |name: &str| server(Some(name), None).unwrap();
        let triton = of("triton-trtllm");
        let scheduled = vec![("request_type".to_owned(), "scheduled".to_owned())];
        assert_eq!(triton.batch.unwrap().labels, scheduled);
        assert_eq!((triton.port, of("trtllm-serve").path.as_str()), (8002, "/prometheus/metrics"));
        assert_eq!(of("vllm").queue.unwrap().name, "vllm:num_requests_waiting");
    }

    #[test]
    fn a_profile_of_ones_own_says_what_its_manifests_name() {
        let text = "version: 1\nname: My Server\ndescription: x\napis: [chat]\nrecognized-by: []\nport: 9000\n\
                    latencies: [{title: first token, metric: my_ttft}]\nseries:\n  \
                    queue_size: [{metric: my_queue, labels: {kind: waiting}}]\n  batch_size: [{metric: b, scale: 2}]\n";
        let server = server(Some("My Server"), Some(text)).unwrap();
        assert_eq!(
            (server.slug.as_str(), server.title.as_str(), server.port),
            ("my-server", "My Server", 9000)
        );
        let queue = server.queue.unwrap();
        assert_eq!((queue.name.as_str(), queue.labels[0].1.as_str()), ("my_queue", "waiting"));
        assert!(server.batch.unwrap_err().contains("reckoned from b"));
        assert_eq!(server.latencies[0].name, "my_ttft");
    }
}
