//! `calibrate verify`: traffic at the autoscaled deployment, held against what `simulate` predicts for it.

mod report;
mod traffic;
mod watch;

use super::apply::named_hpa;
use super::cluster_target::{context_of, not_paused};
use super::run::{self, Ended};
use super::simulate::{hpa_file, replica};
use super::{derive, simulate};
use crate::analyze::{self, Measured, Validity, Verdict, breaks};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::cluster::{self, Cluster, Forwarder, Target, TargetName, Way, kinds};
use crate::drive::StopLevel;
use crate::hpa::HpaSpec;
use crate::measurement::Event;
use crate::record::{self, RecordedRun};
use crate::replay::{
    Autoscaler, Capacities, Conditions, Look, Pipeline, Predicted, Seen, StartUp, TrafficSpec, Verified,
    World, held_out,
};
use crate::scenario::{RampSpec, Scenario, Settings, SourceSettings, WorkloadSettings};
use crate::units::{Replicas, Seconds};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::channel;
use traffic::Load;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Traffic is as for `calibrate simulate`: constant:RATE@LENGTH, diurnal:LOW..HIGH@LENGTH, ramp:, spike:, bursts:, trace:, rates:

Examples:
  calibrate verify reports/20261124T101500Z-demo --traffic diurnal:8..36@2h
      At the Deployment of the HPA that was applied, through the API server, or straight to its pods from inside
  calibrate verify reports/20261124T101500Z-demo --traffic spike:12..30@1h --target http://10.0.0.7:8000 --startup 3m
      Through a Service or gateway, with what is known of a replica's start-up")]
pub struct VerifyArgs {
    /// Directory of the run that measured the server
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The load over time
    #[arg(long, value_name = "SPEC", help_heading = "Traffic")]
    pub traffic: TrafficSpec,
    /// Multiplies the rates of the traffic
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, help_heading = "Traffic")]
    pub scale: f64,
    /// Drive only so much of the traffic
    #[arg(long, value_name = "TIME", help_heading = "Traffic")]
    pub max_duration: Option<Seconds>,
    /// Seed of the arrivals
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Traffic")]
    pub seed: u64,
    /// Where the load goes [default: the ready pods of the HPA's Deployment]
    #[arg(long, value_name = "URL", help_heading = "Target")]
    pub target: Option<String>,
    /// Port of the pods, by name or number, where they have several [default: the run's own]
    #[arg(long, value_name = "PORT", help_heading = "Target")]
    pub port: Option<String>,
    /// Allow load to a public address: it is mine
    #[arg(long, help_heading = "Target")]
    pub i_own_this_target: bool,
    /// Name of the HPA [default: the one that was applied, else that of the recommended manifest]
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub hpa: Option<String>,
    /// Context of the kubeconfig [default: the current one, or the cluster that this runs in]
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// Mean time from a pod's creation until it serves [default: the run's own]
    #[arg(long, value_name = "TIME", help_heading = "Prediction")]
    pub startup: Option<Seconds>,
    /// Time between two scrapes of a replica
    #[arg(long, value_name = "TIME", default_value = "15s", help_heading = "Prediction")]
    pub scrape: Seconds,
    /// Age of a value when the HPA reads it, half a scrape interval included [default: the run's own, else 22.5s]
    #[arg(long, value_name = "TIME", help_heading = "Prediction")]
    pub lag: Option<Seconds>,
    /// Percent of requests that may break a limit [default: by the SLO's percentile, else 5]
    #[arg(long, value_name = "PERCENT", help_heading = "Prediction")]
    pub goal: Option<f64>,
    /// Number of times that the prediction is drawn
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u64).range(2..=1000), help_heading = "Prediction")]
    pub seeds: u64,
    /// Directory of the verification [default: RUN/verify/<UTC time>]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub out: Option<PathBuf>,
}

/// A verification as it came out.
struct Outcome<'a> {
    arguments: &'a VerifyArgs,
    directory: PathBuf,
    seen: Seen,
    predicted: Predicted,
    verified: Verified,
    most: u32,
    validity: Validity,
    remarks: Vec<String>,
}

/// Verifies an autoscaled deployment.
pub(super) fn verify(arguments: &VerifyArgs, console: Console) -> Result<Exit, Failure> {
    let run = record::read(&arguments.run).or_exit(Exit::Usage)?;
    let settings = derive::recorded_settings(&run, &arguments.run).or_exit(Exit::Usage)?;
    let scenario = settings.clone().resolve().or_exit(Exit::Usage)?;
    let load = traffic::load(arguments, &run).or_exit(Exit::Usage)?;
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let directory = arguments.out.clone().unwrap_or_else(|| arguments.run.join("verify").join(&time));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Failed)?;
    let driven = runtime.block_on(drive(arguments, (&run, &scenario), settings, &load, &directory, console));
    runtime.shutdown_timeout(Duration::from_secs(1));
    let driven = driven?;
    let outcome = judge(arguments, &run, &scenario, &load, &driven, directory).or_exit(Exit::Failed)?;
    let exit = outcome.exit(&driven.ended);
    outcome.write(&load).or_exit(Exit::Failed)?;
    outcome.show(exit, console);
    if let Ended::Failed(reason) = &driven.ended {
        console.warn(&format!("the load was cut off: {reason}"));
    }
    Ok(exit)
}

/// What happened while the load went on.
struct Driven {
    ended: Ended,
    /// The HPA before the load.
    hpa: Value,
    looks: Vec<watch::Timed>,
}

/// Sends the load, and looks at the autoscaler meanwhile.
async fn drive(
    arguments: &VerifyArgs,
    (run, calibrated): (&RecordedRun, &Scenario),
    settings: Settings,
    load: &Load,
    directory: &Path,
    console: Console,
) -> Result<Driven, Failure> {
    let place = named_hpa(&arguments.run, arguments.hpa.as_deref())?;
    let cluster = context_of(arguments.context.as_deref(), console).await?;
    let hpa = hpa(&cluster, &place).await.or_exit(Exit::Usage)?;
    // One that cannot be played is refused before any load.
    scaler(&hpa, run, calibrated).or_exit(Exit::Usage)?;
    let workload = workload(&hpa, &place.namespace).or_exit(Exit::Usage)?;
    let choice = cluster::Choice {
        container: settings.cluster.container.as_deref(),
        port: arguments.port.as_deref().or(settings.workload.port.as_deref()),
    };
    let target = Target::read(&cluster, &workload, &choice).await.or_exit(Exit::Failed)?;
    let ready = target.ready_pods(&cluster).await.or_exit(Exit::Failed)?;
    console.note(&format!(
        "verifying {} with {} ready pods, scaled by the HPA '{}'",
        target.what(),
        ready.len(),
        place.name
    ));
    let forwarder = if arguments.target.is_none() {
        let way = if cluster.identity().context.is_none() { Way::Direct } else { Way::PortForward };
        let forwarder = Forwarder::start(&cluster, &target.namespace, way, &ready, target.port.number).await;
        Some(forwarder.context("no local port for the way to the pods").or_exit(Exit::Failed)?)
    } else {
        None
    };
    let url = arguments.target.clone().or_else(|| forwarder.as_ref().map(Forwarder::url));
    let arrivals = directory.with_extension("arrivals.jsonl");
    record::write_file(&arrivals, load.trace.as_bytes()).or_exit(Exit::Failed)?;
    let scenario = scenario(arguments, settings, url, arrivals, directory).or_exit(Exit::Usage)?;
    let (stop, changes) = channel(StopLevel::Run);
    let stop = Arc::new(stop);
    run::listen(Arc::clone(&stop))?;
    let watcher = watch::Watcher { cluster, target, place, forwarder, directory: directory.to_owned() };
    let watcher = watcher.start();
    let measured = Box::pin(run::measure(scenario, None, false, console, stop, changes)).await;
    let looks = watcher.finish().await;
    let (_, ended) = measured?;
    Ok(Driven { ended, hpa, looks })
}

/// The HPA that is verified.
async fn hpa(cluster: &Cluster, place: &super::apply::Place) -> anyhow::Result<Value> {
    let found = cluster.find(kinds::HPA, &place.namespace, &place.name).await?;
    let found = found.with_context(|| {
        format!(
            "there is no HPA '{}' in the namespace {}; 'calibrate apply' makes it, or name another with --hpa",
            place.name, place.namespace
        )
    })?;
    let found = cluster::as_json(&found);
    not_paused(Some(&found))?;
    Ok(found)
}

/// What the HPA scales.
fn workload(hpa: &Value, namespace: &str) -> anyhow::Result<TargetName> {
    let text = |pointer: &str| hpa.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("/spec/scaleTargetRef/kind"), text("/spec/scaleTargetRef/name"));
    Ok(format!("{}/{namespace}/{name}", kind.to_lowercase()).parse::<TargetName>()?)
}

/// The scenario of the load: the run's own server and limits, with the traffic's arrivals. The metrics of
/// single replicas are left out, since replicas come and go.
fn scenario(
    arguments: &VerifyArgs,
    settings: Settings,
    target: Option<String>,
    arrivals: PathBuf,
    directory: &Path,
) -> anyhow::Result<Scenario> {
    let settings = Settings {
        name: Some("verify".to_owned()),
        ramp: Some(RampSpec::Trace { path: arrivals, speed: 1.0 }),
        target,
        preset: None,
        input_tokens: None,
        output_tokens: None,
        dataset: None,
        arrivals: None,
        burstiness: None,
        warm_up: Some(Seconds::ZERO),
        max_duration: None,
        metrics_url: None,
        gpu_metrics_url: None,
        replicas: None,
        sources: SourceSettings::default(),
        workload: WorkloadSettings::default(),
        i_own_this_target: Some(arguments.i_own_this_target),
        out: Some(directory.to_owned()),
        ..settings
    };
    // A connection that lives on stays with its replica, and new ones would get nothing.
    Ok(Scenario { fresh_connections: true, ..settings.resolve()? })
}

/// What came of it beside what was to be expected.
fn judge<'a>(
    arguments: &'a VerifyArgs,
    run: &RecordedRun,
    scenario: &Scenario,
    load: &Load,
    driven: &Driven,
    directory: PathBuf,
) -> anyhow::Result<Outcome<'a>> {
    let verification = record::read(&directory)?;
    let seconds = load.length.0.ceil() as usize;
    let (start, looks) = on_one_clock(&verification, &driven.looks)?;
    let due = verification
        .requests
        .iter()
        .map(|request| (request.scheduled - start, breaks(request, &scenario.slos)));
    let seen = Seen::of(&due.collect::<Vec<_>>(), &looks, seconds);
    let goal = arguments.goal.map_or_else(|| simulate::goal(&scenario.slos), |percent| percent / 100.0);
    let started_with = looks.first().map_or(1, |look| look.ready) as usize;
    let (predicted, most, remarks) =
        predict(arguments, run, scenario, load, &driven.hpa, (started_with, goal))?;
    let verified = Verified::of(&seen, &predicted, goal, most);
    let validity = client_validity(&verification, scenario);
    Ok(Outcome { arguments, directory, seen, predicted, verified, most, validity, remarks })
}

/// The start of the load on the run's clock, and the looks from it on.
fn on_one_clock(verification: &RecordedRun, looks: &[watch::Timed]) -> anyhow::Result<(Seconds, Vec<Look>)> {
    let start = verification.events.iter().find_map(|event| match event {
        Event::StepStarted { time, .. } => Some(*time),
        _ => None,
    });
    let start = start.context("no load was sent")?;
    let origin: jiff::Timestamp = verification.info.started_utc.parse().context("run.json has no time")?;
    let looks = looks.iter().map(|timed| Look {
        time: Seconds((timed.at.duration_since(origin).as_secs_f64() - start.0).max(0.0)),
        ..timed.look.clone()
    });
    // The last look before the load is what it began with.
    let looks: Vec<Look> = looks.collect();
    let before = looks.iter().rposition(|look| look.time == Seconds::ZERO).unwrap_or(0);
    Ok((start, looks[before.min(looks.len().saturating_sub(1))..].to_vec()))
}

/// The HPA as it is played.
fn scaler(hpa: &Value, run: &RecordedRun, scenario: &Scenario) -> anyhow::Result<Autoscaler> {
    let spec = hpa.get("spec").cloned().unwrap_or_default();
    let spec = HpaSpec::deserialize(spec).context("the HPA's spec cannot be read")?;
    hpa_file::scaler(&spec, scenario.tolerance, derive::names_of(run, scenario).ok().as_ref())
}

/// What `simulate` says of the same traffic, from the replicas that there were; and the HPA's `maxReplicas`.
fn predict(
    arguments: &VerifyArgs,
    run: &RecordedRun,
    scenario: &Scenario,
    load: &Load,
    hpa: &Value,
    (started_with, goal): (usize, f64),
) -> anyhow::Result<(Predicted, u32, Vec<String>)> {
    let scaler = scaler(hpa, run, scenario)?;
    let derived = derive::from_run(run, scenario, None)?;
    let replica = replica::of_run(run, scenario, &derived.analysis)?;
    let capacities = Capacities::of(&replica.plant, goal, scaler.settings.range);
    let assumptions = derive::assumptions(scenario, &derived.analysis, &run.events);
    let conditions = Conditions {
        pipeline: Pipeline::with_lag(arguments.scrape, arguments.lag.unwrap_or(assumptions.lag)),
        start_up: StartUp { mean: arguments.startup.unwrap_or(assumptions.startup), ..StartUp::default() },
        gpus_per_replica: scenario.gpus_per_replica,
        ..Conditions::default()
    };
    let world = World {
        plant: &replica.plant,
        uncertainty: replica.uncertainty,
        capacities: &capacities,
        traffic: &load.traffic,
        conditions,
    };
    let draws: Vec<_> =
        (0..arguments.seeds).map(|index| world.draw(held_out(index)).starting_with(started_with)).collect();
    let most = scaler.settings.range.max.max(1).cast_unsigned();
    let mut remarks = load.remarks.clone();
    remarks.extend(replica.remarks);
    Ok((Predicted::of(&scaler, &draws), most, remarks))
}

/// Whether the client itself was on time. What else a calibration is judged by does not hold for replicas
/// that come and go.
fn client_validity(verification: &RecordedRun, scenario: &Scenario) -> Validity {
    let measured = Measured {
        requests: &verification.requests,
        samples: &verification.samples,
        events: &verification.events,
        gaps: &verification.gaps,
        replicas: Replicas(1),
    };
    analyze::client_validity(&measured, &scenario.slos)
}

impl Outcome<'_> {
    fn exit(&self, ended: &Ended) -> Exit {
        match ended {
            Ended::Failed(_) => Exit::Failed,
            Ended::Interrupted => Exit::Interrupted,
            Ended::Complete if self.seen.requests == 0 => Exit::Invalid,
            Ended::Complete if self.validity.verdict == Verdict::Invalid => Exit::Invalid,
            Ended::Complete if self.verified.holds => Exit::Done,
            Ended::Complete => Exit::Gate,
        }
    }
}

/// Checks the figures that are given.
fn check(arguments: &VerifyArgs) -> anyhow::Result<()> {
    let within = |flag: &str, value: f64, from: f64, to: f64| {
        if (from..=to).contains(&value) {
            Ok(())
        } else {
            Err(anyhow!("--{flag} {value} is not from {from} to {to}"))
        }
    };
    within("scale", arguments.scale, 1e-6, 1e6)?;
    within("scrape (seconds)", arguments.scrape.0, 0.1, 300.0)?;
    within("lag (seconds)", arguments.lag.unwrap_or(arguments.scrape).0, arguments.scrape.0 / 2.0, 3600.0)?;
    within("startup (seconds)", arguments.startup.unwrap_or_default().0, 0.0, 7200.0)?;
    within("goal (percent)", arguments.goal.unwrap_or(5.0), 0.01, 99.0)?;
    if arguments.max_duration.is_some_and(|most| most < Seconds(5.0)) {
        bail!("--max-duration leaves less than 5s to see anything in");
    }
    Ok(())
}
