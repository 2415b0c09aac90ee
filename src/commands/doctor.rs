//! `calibrate doctor`: are the server and all sources of its metrics there, before any load is sent?

mod on_cluster;

use super::run::access::Access;
use super::run::{reach, sources_of, unreached};
use super::sources::{everywhere, flag, other_gpus, server_may_miss};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::measurement::{RunClock, Sample, Series, Source};
use crate::observe::{Feed, ProblemKind};
use crate::scenario::{Scenario, Settings, read_settings};
use crate::units::Seconds;
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Values older than this are not what an HPA should act on. Cloud Monitoring's come once a minute.
const OLD: Seconds = Seconds(60.0);
const OLD_CLOUD: Seconds = Seconds(240.0);
/// A value that came through an adapter is not as young as this.
const OF_NOW: Seconds = Seconds(2.0);
/// Sources that differ by more than this part of the larger value, and by more than `APART_LEAST`, do
/// not agree; of a share from 0 to 1 by more than `APART_LEAST_SHARE`.
const APART_SHARE: f64 = 0.25;
const APART_LEAST: f64 = 2.0;
const APART_LEAST_SHARE: f64 = 0.02;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  calibrate doctor --target http://localhost:8080 --gpu-metrics-url http://localhost:9400/metrics
      The server and its GPU's exporter
  calibrate doctor --target http://localhost:8080 --prometheus gmp:my-project --cluster-name my-cluster \\
      --cloud-monitoring my-project --custom-metric queue_size --external-metric gpu_util
      And everything between them and the HPA on GKE
  calibrate doctor --restore
      Put back what a killed calibration left paused or scaled
  calibrate doctor --scenario scenarios/gke-tgi-gemma.yaml
      All that a scenario names")]
pub struct DoctorArgs {
    /// Scenario file; flags win over it
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    scenario: Option<PathBuf>,
    /// Put back what killed calibrations left changed in the namespace, and look at nothing else
    #[arg(long, help_heading = "Cluster")]
    restore: bool,
    /// The flags of `run`; those of the load do not matter here.
    #[command(flatten)]
    settings: Settings,
}

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    Remark,
    Failed,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    what: String,
    state: State,
    detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// Looks at everything and says what it found.
pub(super) fn doctor(arguments: DoctorArgs, console: Console) -> Result<Exit, Failure> {
    let restore = arguments.restore;
    let scenario = scenario(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Failed)?;
    let findings = if restore {
        runtime.block_on(on_cluster::restore(&scenario, console))?
    } else {
        runtime.block_on(examine(&scenario, console))?
    };
    let failed = findings.iter().filter(|finding| finding.state == State::Failed).count();
    let exit = if failed == 0 { Exit::Done } else { Exit::Failed };
    if console.wants_json() {
        console.document(&serde_json::json!({ "checks": findings, "exit_code": exit as u8 }));
    }
    for finding in &findings {
        let mark = match finding.state {
            State::Ok => "ok     ",
            State::Remark => "remark ",
            State::Failed => "FAILED ",
        };
        console.summary(&format!("{mark} {:<34} {}", finding.what, finding.detail));
        if let Some(mend) = &finding.mend {
            console.summary(&format!("{:>43} {mend}", "->"));
        }
    }
    console.summary(&match failed {
        0 if restore && findings.iter().any(|finding| finding.state == State::Remark) => {
            format!(
                "{} looked at; what belongs to a calibration that is going on is left to it",
                findings.len()
            )
        }
        0 if restore => format!("{} looked at, nothing is left changed", findings.len()),
        0 => format!("{} checks, nothing stands in the way of a run", findings.len()),
        n => format!("{n} of {} checks failed", findings.len()),
    });
    Ok(exit)
}

fn scenario(arguments: DoctorArgs) -> Result<Scenario, Failure> {
    let mut settings = arguments.settings;
    if let Some(path) = &arguments.scenario {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the scenario {}", path.display()))
            .or_exit(Exit::Usage)?;
        settings = settings.over(read_settings(path, &text).or_exit(Exit::Usage)?);
    }
    // No limit is judged here.
    if settings.slo.is_none() {
        settings.slo = "ttft:p95:2s".parse().ok().map(|slo| vec![slo]);
    }
    settings.resolve().or_exit(Exit::Usage)
}

async fn examine(scenario: &Scenario, console: Console) -> Result<Vec<Finding>, Failure> {
    if let Some(name) = &scenario.workload.deployment {
        return on_cluster::examine(scenario, name, console).await;
    }
    let access = Access::prepare(scenario)?;
    let (simulator, url) = super::run::start_server(scenario, console).await?;
    let simulated = simulator.is_some();
    let mut findings = Vec::new();
    let (target, profile) = match reach(scenario, &url, &access, simulated, console).await {
        Ok(reached) => {
            findings.push(server(&reached.0).await);
            reached
        }
        Err(failure) if failure.exit == Exit::Usage => return Err(failure),
        // The sources can be looked at all the same.
        Err(failure) => {
            findings.push(failed("server", &failure.error, "start it, or mend --target"));
            unreached(scenario, &url, &access)?
        }
    };
    let clock = RunClock::start();
    let made = sources_of(scenario, &target, &access, &profile, simulated);
    findings.extend(everywhere(scenario).map(|detail| Finding {
        what: flag(Source::Prometheus).to_owned(),
        state: State::Remark,
        detail,
        mend: Some("name the cluster with --cluster-name".to_owned()),
    }));
    let mut seen: Vec<Sample> = Vec::new();
    for (source, feed) in made.candidates().await {
        match feed {
            Ok(mut feed) => {
                let samples = look(&mut feed, clock, scenario, &mut findings).await;
                seen.extend(samples);
            }
            Err(failure) => {
                findings.push(failed(flag(source), &failure.error, mend_unmade(source)));
            }
        }
    }
    findings.extend(agreement(&seen));
    Ok(findings)
}

fn failed(what: &str, error: &anyhow::Error, mend: &str) -> Finding {
    let detail = format!("{error:#}");
    Finding { what: what.to_owned(), state: State::Failed, detail, mend: Some(mend.to_owned()) }
}

/// What the server says that it is.
async fn server(target: &crate::drive::Target) -> Finding {
    let what = "server".to_owned();
    match crate::drive::info(target).await {
        Ok(info) => {
            let model = info.get("model_id").or_else(|| info.pointer("/data/0/id"));
            let model = model.and_then(serde_json::Value::as_str).unwrap_or("a model");
            Finding {
                what,
                state: State::Ok,
                detail: format!("{} serves {model}", target.url("")),
                mend: None,
            }
        }
        Err(error) => failed("server", &error.into(), "start it, or mend --target"),
    }
}

/// Looks at one source: there, authorized, fresh, whole, plausible.
async fn look(
    feed: &mut Feed,
    clock: RunClock,
    scenario: &Scenario,
    findings: &mut Vec<Finding>,
) -> Vec<Sample> {
    let what = format!("{} ({})", flag(feed.source()), feed.what());
    let mut push = |state, detail: String, mend: Option<String>| {
        findings.push(Finding { what: what.clone(), state, detail, mend });
    };
    let samples = match feed.check(clock).await {
        Ok(samples) => samples,
        Err(problem) => {
            let missed = feed.source() == Source::Server && server_may_miss(scenario);
            let state = if missed { State::Remark } else { State::Failed };
            push(state, problem.to_string(), Some(mend(feed.source(), problem.kind).to_owned()));
            return Vec::new();
        }
    };
    if samples.iter().all(Sample::is_empty) {
        let detail = "answers, and shows none of the known series yet".to_owned();
        let mend =
            "a TGI shows them from its first request on: send it one, else name its kind with --server";
        push(State::Remark, detail, Some(mend.to_owned()));
        return samples;
    }
    push(State::Ok, shown(&samples), None);
    let now = clock.now();
    let oldest = newest_of_each(&samples).map(|sample| now - sample.time).fold(Seconds::ZERO, Seconds::max);
    if oldest > if feed.source() == Source::CloudMonitoring { OLD_CLOUD } else { OLD } {
        let mend = "look whether the collector still scrapes the pod, and whether the clocks agree";
        push(State::Failed, format!("its newest value is {oldest} old"), Some(mend.to_owned()));
    }
    if let Some(detail) = other_gpus(feed, scenario) {
        push(State::Remark, detail, None);
    }
    let of_now = feed.source() == Source::ExternalMetrics && oldest < OF_NOW;
    let of_now = of_now.then(|| "the adapter stamps them with the time of the question".to_owned());
    if let Some(why) = feed.hides_age().or(of_now) {
        let mend = "a run under load measures it, beside the direct scrape, as the lag of what an HPA sees";
        push(State::Remark, format!("how old its values are is not known: {why}"), Some(mend.to_owned()));
    }
    if let Some(detail) = missing(feed.source(), &samples, scenario.replicas) {
        let mend = "look at the selector, at the pods' labels and ports, and at --pod and --replicas";
        push(State::Failed, detail, Some(mend.to_owned()));
    }
    if let Some((detail, mend)) = samples.iter().find_map(implausible) {
        push(State::Failed, detail, Some(mend.to_owned()));
    }
    samples
}

/// The newest sample of each replica.
fn newest_of_each(samples: &[Sample]) -> impl Iterator<Item = &Sample> {
    let replicas: BTreeSet<u32> = samples.iter().map(|sample| sample.replica).collect();
    replicas.into_iter().filter_map(|replica| {
        let mine = samples.iter().filter(move |sample| sample.replica == replica);
        mine.max_by(|a, b| a.time.0.total_cmp(&b.time.0))
    })
}

/// The values of each replica in a line.
fn shown(samples: &[Sample]) -> String {
    const SHOWN: [Series; 5] =
        [Series::QueueSize, Series::BatchSize, Series::KvUsage, Series::GpuUtil, Series::GpuMemory];
    let one = |sample: &Sample| {
        let values = SHOWN.iter().filter_map(|s| Some(format!("{} {}", s.column(), sample.get(*s)?)));
        format!("replica {}: {}", sample.replica, values.collect::<Vec<_>>().join(", "))
    };
    newest_of_each(samples).map(one).collect::<Vec<_>>().join("; ")
}

/// What a source that speaks for all replicas lacks of some: each series that it shows of any replica
/// it must show of all.
fn missing(source: Source, samples: &[Sample], replicas: u32) -> Option<String> {
    let all = matches!(source, Source::Prometheus | Source::CloudMonitoring | Source::CustomMetrics);
    let lacking: Vec<String> = Series::ALL
        .iter()
        .filter(|_| all)
        .filter_map(|series| {
            let with = samples.iter().filter(|sample| sample.get(*series).is_some());
            let with: BTreeSet<u32> = with.map(|sample| sample.replica).collect();
            let lacks = replicas.saturating_sub(with.len() as u32);
            let column = series.column();
            (!with.is_empty() && lacks > 0).then(|| format!("{lacks} of {replicas} replicas lack {column}"))
        })
        .collect();
    (!lacking.is_empty()).then(|| format!("it is not whole: {}", lacking.join(", ")))
}

/// A value that cannot be of the unit that it is read as.
fn implausible(sample: &Sample) -> Option<(String, &'static str)> {
    let within = |series: Series, least: f64, most: f64| {
        let value = sample.get(series)?;
        (!(least..=most).contains(&value))
            .then(|| format!("{} is {value}, outside of {least} to {most}", series.column()))
    };
    // A little over the end is rounding.
    let percent = "utilization is read in percent; for a ratio from 0 to 1 multiply by 100 in --promql";
    let ratio = "this is read as a share from 0 to 1; for percent divide by 100, by scale in the profile or in --promql";
    [Series::GpuUtil, Series::GpuEngineActive, Series::GpuSmActive]
        .into_iter()
        .find_map(|series| Some((within(series, 0.0, 101.0)?, percent)))
        .or_else(|| Some((within(Series::KvUsage, 0.0, 1.01)?, ratio)))
        .or_else(|| {
            let count = "this is read as a number of requests; look at the metric's name";
            let most = f64::from(u32::MAX);
            let series = [Series::QueueSize, Series::BatchSize].into_iter();
            series.into_iter().find_map(|series| Some((within(series, 0.0, most)?, count)))
        })
}

/// What to do about a problem of a source.
const fn mend(source: Source, kind: ProblemKind) -> &'static str {
    match (kind, source) {
        (ProblemKind::Unreachable, _) => "look at the address, at port forwards and at firewalls",
        (ProblemKind::Unauthorized, Source::Prometheus | Source::CloudMonitoring) => {
            "give credentials with --google-credentials, or a token with --prometheus-token"
        }
        (ProblemKind::Unauthorized, _) => "give a token that the server takes",
        (ProblemKind::Forbidden, Source::Prometheus | Source::CloudMonitoring) => {
            "grant roles/monitoring.viewer to the account"
        }
        (ProblemKind::Forbidden, _) => "grant get and list on the API group to the user of the kubeconfig",
        (ProblemKind::NotFound, Source::CustomMetrics | Source::ExternalMetrics) => {
            "install the metrics adapter, and look for the metric in kubectl get --raw /apis/custom.metrics.k8s.io/v1beta2"
        }
        (ProblemKind::NotFound, _) => "look at the path of the address",
        (ProblemKind::Throttled, _) => "wait, or raise the quota",
        (ProblemKind::Failing, _) => "look at the log of what answers there",
        (ProblemKind::Refused, _) => "mend the query or the filter",
        (ProblemKind::Malformed, _) => "look what answers at that address",
        (ProblemKind::Missing, Source::Gpu) => {
            "enable the counters in the exporter, or name the pod with --pod"
        }
        (ProblemKind::Missing, Source::Nvml) => "leave --nvml out, or run beside the GPU",
        (ProblemKind::Missing, _) => {
            "send the server a request, look whether its metrics are collected, and mend names and selectors"
        }
        (ProblemKind::Ambiguous, _) => "name the one that is meant: by selector, --pod or --replicas",
        (ProblemKind::ClocksApart, _) => "set the clocks by NTP",
    }
}

/// What to do where a source cannot even be asked.
const fn mend_unmade(source: Source) -> &'static str {
    match source {
        Source::Nvml => mend(source, ProblemKind::Missing),
        Source::CustomMetrics | Source::ExternalMetrics => {
            "mend the name or the selector, or point KUBECONFIG at a cluster that answers (kubectl get --raw /apis)"
        }
        Source::Prometheus | Source::CloudMonitoring => {
            "mend what it names: the credentials by --google-credentials or gcloud auth application-default login, \
             the names by --project, --cluster-name and --location"
        }
        Source::Server | Source::Gpu => mend(source, ProblemKind::Unreachable),
    }
}

/// Do the adapters show what the exporters show? To be asked of a server without load, or the lag
/// between the two is in it too.
fn agreement(seen: &[Sample]) -> Vec<Finding> {
    let others =
        [Source::Prometheus, Source::CloudMonitoring, Source::CustomMetrics, Source::ExternalMetrics];
    let mut findings = Vec::new();
    let mean = |source: Source, series: Series| {
        let mine: Vec<Sample> = seen.iter().filter(|sample| sample.source == source).cloned().collect();
        let values: Vec<f64> = newest_of_each(&mine).filter_map(|sample| sample.get(series)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    for source in others {
        for series in [Series::QueueSize, Series::BatchSize, Series::KvUsage, Series::GpuUtil] {
            let direct = if series == Series::GpuUtil { Source::Gpu } else { Source::Server };
            let (Some(direct), Some(other)) = (mean(direct, series), mean(source, series)) else { continue };
            let apart = (direct - other).abs();
            let least = if series == Series::KvUsage { APART_LEAST_SHARE } else { APART_LEAST };
            let agrees = apart <= (APART_SHARE * direct.abs().max(other.abs())).max(least);
            findings.push(Finding {
                what: format!("{} and the direct scrape", source.word()),
                state: if agrees { State::Ok } else { State::Failed },
                detail: format!("{} is {other} there and {direct} here, per replica", series.column()),
                mend: (!agrees).then(|| {
                    "ask again without load; else the selector takes other series too, or the units differ".to_owned()
                }),
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(source: Source, series: Series, value: f64) -> Sample {
        let mut sample = Sample::new(Seconds(0.0), Seconds(0.0), source, 0);
        sample.set(series, Some(value));
        sample
    }

    #[test]
    fn a_value_outside_of_its_unit_is_told_with_the_mend() {
        let of = |series, value| implausible(&sample(Source::Prometheus, series, value));
        assert!(of(Series::GpuUtil, 100.0).is_none() && of(Series::KvUsage, 0.5).is_none());
        assert!(of(Series::GpuUtil, 9500.0).unwrap().0.contains("gpu_util is 9500"));
        assert!(of(Series::KvUsage, 55.0).unwrap().1.contains("share from 0 to 1"));
        assert!(of(Series::QueueSize, -1.0).is_some());
    }

    #[test]
    fn a_share_of_the_kv_cache_agrees_within_a_share() {
        let state = |here: f64, there: f64| {
            let here = sample(Source::Server, Series::KvUsage, here);
            agreement(&[here, sample(Source::Prometheus, Series::KvUsage, there)])[0].state
        };
        assert_eq!((state(0.5, 0.55), state(0.01, 0.02)), (State::Ok, State::Ok));
        assert_eq!((state(0.9, 0.1), state(0.5, 1.0)), (State::Failed, State::Failed));
    }

    #[test]
    fn a_series_that_some_replicas_lack_is_not_whole() {
        let mut a = sample(Source::Prometheus, Series::QueueSize, 1.0);
        a.set(Series::BatchSize, Some(2.0));
        let mut b = sample(Source::Prometheus, Series::QueueSize, 1.0);
        b.replica = 1;
        let of = |samples: &[Sample], replicas| missing(Source::Prometheus, samples, replicas);
        assert_eq!(
            of(&[a.clone(), b.clone()], 2).unwrap(),
            "it is not whole: 1 of 2 replicas lack batch_size"
        );
        assert!(of(&[a.clone(), b], 3).unwrap().contains("1 of 3 replicas lack queue_size, 2 of 3"));
        assert_eq!(of(std::slice::from_ref(&a), 1), None);
        assert_eq!(missing(Source::ExternalMetrics, &[a], 2), None, "a sum has no replicas");
    }

    #[test]
    fn an_adapter_that_sums_foreign_series_does_not_agree() {
        let here = sample(Source::Server, Series::QueueSize, 4.0);
        let state = |there: f64| {
            agreement(&[here.clone(), sample(Source::CustomMetrics, Series::QueueSize, there)])[0].state
        };
        assert_eq!((state(4.0), state(5.5), state(12.0)), (State::Ok, State::Ok, State::Failed));
        assert!(agreement(&[here]).is_empty(), "nothing to compare with");
    }
}
