//! `calibrate simulate`: traffic through a measured replica and the HPA, candidates beside each other.

pub(super) mod hpa_file;
pub(super) mod replica;
pub(super) mod traffic_file;

use super::derive;
use crate::cli::console::{Console, Progress};
use crate::cli::{Exit, Failure, LoopArgs, OrExit};
use crate::hpa::{Generation, Range, Tolerances};
use crate::recommend::{Assumptions, Recommendation};
use crate::record::{self, RecordedRun};
use crate::replay::{
    Autoscaler, Candidate, Capacities, Conditions, Draw, Optimum, Outcome, Pipeline, Played, Search, StartUp,
    Traffic, TrafficSpec, World, googles_advice, held_out, optimize,
};
use crate::report::{self, Check, Simulation};
use crate::scenario::{Scenario, Settings};
use crate::units::{Milli, ParseUnitError, Seconds, Signal, Slo, Stat};
use anyhow::anyhow;
use clap::Args;
use rayon::prelude::*;
use replica::Replica;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

/// Arguments of `simulate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Traffic:
  constant:RATE[@LENGTH]               the same rate all the time
  diurnal:LOW..HIGH[@LENGTH]           a wave, once: diurnal:8..36@4h
  ramp:RATE..RATE[..RATE][@LENGTH]     straight from each rate to the next: ramp:10..40..10@2h
  spike:BASE..PEAK[,PEAK][@LENGTH]     peaks that rise within a minute and stay a sixteenth of the length
  bursts:MEAN[,sd=0.35][,memory=180s][@LENGTH]   a rate that wanders, another way for each seed
  trace:FILE[*SPEED]                   Azure, BurstGPT or Mooncake trace, SPEED times faster
  rates:FILE                           CSV with the columns time (seconds) and rate (requests/s)
  A LENGTH is like 90m or 4h; without it, 2h. --scale multiplies the rates of any of them.

Examples:
  calibrate simulate reports/20261124T101500Z-demo --traffic diurnal:8..36@4h --max-replicas 16
      The run's targets and Google's advice under a day's load
  calibrate simulate reports/20261124T101500Z-demo --traffic trace:azure.csv --scale 4 --hpa hpa.yaml
      An HPA as it stands, under four times the load of a trace
  calibrate simulate reports/20261124T101500Z-demo --traffic spike:12..30@2h --optimize --max-replicas 16
      The cheapest target and behavior that hold the SLO")]
pub struct SimulateArgs {
    /// Directory of the run that measured the server
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The load over time, see below
    #[arg(long, value_name = "SPEC", help_heading = "Traffic")]
    pub traffic: TrafficSpec,
    /// Multiplies the rates of the traffic
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, help_heading = "Traffic")]
    pub scale: f64,
    /// Number of times that arrivals, pace and start-up are drawn
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=1000), help_heading = "Traffic")]
    pub seeds: u64,
    /// HPA manifest to play as it stands (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Candidates")]
    pub hpa: Vec<PathBuf>,
    /// Target to play, METRIC=VALUE per replica (per GPU): batch=22, queue=4, dcgm=80 (repeatable)
    #[arg(long, value_name = "METRIC=VALUE", help_heading = "Candidates")]
    pub target: Vec<TargetSpec>,
    /// Search the cheapest target and behavior that hold the SLO
    #[arg(long, help_heading = "Candidates")]
    pub optimize: bool,
    /// Metric to search a target of: queue, batch, duty-cycle or dcgm
    #[arg(long, value_name = "METRIC", default_value = "batch", value_parser = signal, help_heading = "Candidates")]
    pub metric: Signal,
    /// Whether nothing is written.
    #[arg(skip)]
    pub only_show: bool,
    /// What surrounds the server.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What surrounds the server in the cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// minReplicas of the candidates [default: the run's own, else 1]
    #[arg(long, value_name = "N")]
    pub min_replicas: Option<u32>,
    /// maxReplicas of the candidates [default: the run's own, else 5]
    #[arg(long, value_name = "N")]
    pub max_replicas: Option<u32>,
    /// Mean time from a pod's creation until it serves [default: the run's own, 120s]
    #[arg(long, value_name = "TIME")]
    pub startup: Option<Seconds>,
    /// Its standard deviation, as a fraction of the mean
    #[arg(long, value_name = "FRACTION", default_value_t = 0.1)]
    pub startup_spread: f64,
    /// Time between two scrapes of a replica
    #[arg(long, value_name = "TIME", default_value = "15s")]
    pub scrape: Seconds,
    /// Time from a scrape until the HPA can read it; nobody publishes it
    #[arg(long, value_name = "TIME", default_value = "15s")]
    pub lag: Seconds,
    /// Kubernetes version; from 1.35 on an HPA may have a tolerance of its own, which --optimize then searches too
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub cluster_version: Option<(u32, u32)>,
    /// Tolerance of the HPA controller, as a fraction of 1 [default: the run's own]
    #[arg(long, value_name = "FRACTION")]
    pub tolerance: Option<f64>,
    /// A limit instead of the run's own, METRIC:STAT:LIMIT (repeatable)
    #[arg(long, value_name = "SLO", action = clap::ArgAction::Append)]
    pub slo: Vec<Slo>,
    /// Percent of requests that may break a limit [default: by the SLO's percentile, else 5]
    #[arg(long, value_name = "PERCENT")]
    pub goal: Option<f64>,
}

/// `METRIC=VALUE`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TargetSpec {
    signal: Signal,
    value: Milli,
}

impl FromStr for TargetSpec {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error =
            || ParseUnitError::new(text, "a target", "METRIC=VALUE, like batch=22, queue=4 or dcgm=80");
        let (metric, value) = text.split_once('=').ok_or_else(error)?;
        let value = value.trim().parse::<f64>().ok().and_then(Milli::floor).filter(|value| value.0 > 0);
        Ok(TargetSpec { signal: signal(metric.trim())?, value: value.ok_or_else(error)? })
    }
}

fn signal(text: &str) -> Result<Signal, ParseUnitError> {
    let found = Signal::ALL.into_iter().find(|signal| signal.slug() == text);
    found.ok_or_else(|| ParseUnitError::new(text, "a metric", "queue, batch, duty-cycle or dcgm"))
}

/// `1.35`, also with a `v` before and a patch level behind.
fn version(text: &str) -> Result<(u32, u32), ParseUnitError> {
    let mut numbers = text.trim_start_matches('v').split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(ParseUnitError::new(text, "a Kubernetes version", "MAJOR.MINOR, like 1.35")),
    }
}

/// From this version on the field `tolerance` is there by default.
const OWN_TOLERANCE: (u32, u32) = (1, 35);
/// Targets on the grid of a search.
const TARGETS: usize = 40;
/// Share of requests that may break a limit, where the SLO names no percentile.
const GOAL: f64 = 0.05;
/// More requests than this are not played with discrete events: that would take minutes.
const MOST_DISCRETE: f64 = 1_200_000.0;
/// Draws that are checked, where so many are not too long.
const CHECKED: u64 = 5;

impl ClusterArgs {
    fn check(&self, scale: f64) -> anyhow::Result<()> {
        let within = |flag: &str, value: f64, from: f64, to: f64| {
            if (from..=to).contains(&value) {
                Ok(())
            } else {
                Err(anyhow!("--{flag} {value} is not from {from} to {to}"))
            }
        };
        within("scale", scale, 1e-6, 1e6)?;
        within("startup (seconds)", self.startup.unwrap_or_default().0, 0.0, 7200.0)?;
        within("startup-spread", self.startup_spread, 0.0, 2.0)?;
        within("scrape (seconds)", self.scrape.0, 1.0, 300.0)?;
        within("lag (seconds)", self.lag.0, 0.0, 3600.0)?;
        within("goal (percent)", self.goal.unwrap_or(5.0), 0.01, 99.0)?;
        within("tolerance", self.tolerance.unwrap_or(0.1), 0.0, 10.0)
    }

    fn conditions(&self, scenario: &Scenario) -> Conditions {
        Conditions {
            pipeline: Pipeline { scrape: self.scrape, ingest: self.lag, ..Pipeline::default() },
            start_up: StartUp {
                mean: self.startup.or(scenario.startup).unwrap_or(Assumptions::STARTUP),
                spread: self.startup_spread,
                ..StartUp::default()
            },
            gpus_per_replica: scenario.gpus_per_replica,
            ..Conditions::default()
        }
    }

    fn range(&self, scenario: &Scenario) -> anyhow::Result<Range> {
        let names = derive::names(&scenario.cluster, scenario.gpus_per_replica);
        let min = self.min_replicas.unwrap_or(names.min_replicas);
        let max = self.max_replicas.unwrap_or(names.max_replicas.max(min));
        if min < 1 || max < min || max > 1000 {
            return Err(anyhow!(
                "--min-replicas {min} and --max-replicas {max}: 1 <= min <= max <= 1000 is needed"
            ));
        }
        Ok(Range { min: min.cast_signed(), max: max.cast_signed() })
    }

    fn own_tolerance(&self) -> bool {
        self.cluster_version.is_some_and(|version| version >= OWN_TOLERANCE)
    }
}

/// `recommend --traffic`: the search with the defaults, and nothing written.
pub(super) fn recommend(
    run: PathBuf,
    traffic: TrafficSpec,
    slo: Vec<Slo>,
    metric: Option<Signal>,
    other: LoopArgs,
    console: Console,
) -> Result<Exit, Failure> {
    let Conditions { pipeline, start_up, .. } = Conditions::default();
    let cluster = ClusterArgs {
        min_replicas: None,
        max_replicas: None,
        startup: other.startup,
        startup_spread: start_up.spread,
        scrape: pipeline.scrape,
        lag: pipeline.ingest,
        cluster_version: None,
        tolerance: other.tolerance,
        slo,
        goal: None,
    };
    let arguments = SimulateArgs {
        run,
        traffic,
        scale: 1.0,
        seeds: 20,
        hpa: Vec::new(),
        target: Vec::new(),
        optimize: true,
        metric: metric.unwrap_or(Signal::Batch),
        only_show: true,
        cluster,
    };
    simulate(&arguments, console)
}

/// Everything that candidates are played in.
struct Stage {
    replica: Replica,
    traffic: Traffic,
    conditions: Conditions,
    capacities: Capacities,
    range: Range,
    tolerance: f64,
    goal: f64,
    remarks: Vec<String>,
}

impl Stage {
    fn world(&self) -> World<'_> {
        World {
            plant: &self.replica.plant,
            uncertainty: self.replica.uncertainty,
            capacities: &self.capacities,
            traffic: &self.traffic,
            conditions: self.conditions,
        }
    }

    fn candidate(&self, origin: &str, signal: Signal, value: Milli) -> Candidate {
        let gpus = if signal.is_external() { i64::from(self.conditions.gpus_per_replica) } else { 1 };
        let target = Milli(value.0.saturating_mul(gpus));
        let tolerances = Tolerances::both(self.tolerance, Generation::Inclusive);
        let scaler = Autoscaler::average_value(signal, target, self.range, None, tolerances);
        Candidate { name: format!("{}={}", signal.slug(), value.as_f64()), origin: origin.to_owned(), scaler }
    }
}

/// Plays the candidates and shows what they come to.
pub(super) fn simulate(arguments: &SimulateArgs, console: Console) -> Result<Exit, Failure> {
    arguments.cluster.check(arguments.scale).or_exit(Exit::Usage)?;
    let (traffic, remarks) = traffic_file::read(&arguments.traffic).or_exit(Exit::Usage)?;
    let traffic = traffic.scaled(arguments.scale).or_exit(Exit::Usage)?;
    let run = record::read(&arguments.run).or_exit(Exit::Usage)?;
    let scenario = scenario(arguments, &run).or_exit(Exit::Usage)?;
    let range = arguments.cluster.range(&scenario).or_exit(Exit::Usage)?;
    let mut candidates = manifests(arguments, scenario.tolerance, console).or_exit(Exit::Usage)?;
    let derived = derive::from_run(&run, &scenario, None).or_exit(Exit::Usage)?;
    let startup = Some(derive::startup(&scenario, &run.events).0);
    let scenario = Scenario { startup, ..scenario };
    let replica = replica::of_run(&run, &scenario, &derived.analysis).or_exit(Exit::Invalid)?;
    let stage = stage(arguments, &scenario, replica, (traffic, remarks), range);
    candidates.extend(targets(arguments, &stage, derived.recommendation.as_ref()).or_exit(Exit::Usage)?);
    let optimum = arguments.optimize.then(|| search(arguments, &stage, console)).transpose()?;
    candidates.splice(0..0, optimum.iter().filter_map(|(candidate, _)| candidate.clone()));
    let draws = draws(&stage, arguments.seeds);
    let played = play(&stage, candidates, &draws, console);
    let simulation = Simulation {
        traffic_name: arguments.traffic.to_string(),
        scale: arguments.scale,
        traffic: &stage.traffic,
        conditions: &stage.conditions,
        range: stage.range,
        plant: &stage.replica.plant,
        capacities: &stage.capacities,
        uncertainty: stage.replica.uncertainty,
        goal: stage.goal,
        needed: draws.first().map(|draw| draw.schedule().needed.clone()).unwrap_or_default(),
        check: check(&stage, &played),
        optimum: optimum.map(|(_, optimum)| optimum),
        played,
        simulated: run.info.target.simulated,
        remarks: stage.remarks.clone(),
    };
    if !arguments.only_show {
        write(&simulation, &arguments.run, console)?;
    }
    show(&simulation, &arguments.run, console);
    let none = simulation.optimum.as_ref().is_some_and(|optimum| optimum.best.is_none());
    Ok(if none { Exit::Invalid } else { Exit::Done })
}

/// The run's scenario, with what the flags say instead.
fn scenario(arguments: &SimulateArgs, run: &RecordedRun) -> anyhow::Result<Scenario> {
    let slo = &arguments.cluster.slo;
    let other = Settings {
        slo: (!slo.is_empty()).then(|| slo.clone()),
        tolerance: arguments.cluster.tolerance,
        ..Settings::default()
    };
    Ok(other.over(derive::recorded_settings(run, &arguments.run)?).resolve()?)
}

fn stage(
    arguments: &SimulateArgs,
    scenario: &Scenario,
    replica: Replica,
    (traffic, mut remarks): (Traffic, Vec<String>),
    range: Range,
) -> Stage {
    let goal = arguments.cluster.goal.map_or_else(|| goal(&scenario.slos), |percent| percent / 100.0);
    let capacities = Capacities::of(&replica.plant, goal, range);
    let (peak, most) = (traffic.peak(), capacities.total(range.max.max(1).cast_unsigned() as usize));
    if peak.0 > most.0 {
        remarks.push(format!(
            "the load rises to {peak}, but maxReplicas ({}) carry only {most} within the goal: raise --max-replicas",
            range.max
        ));
    }
    remarks.extend(replica.remarks.iter().cloned());
    let conditions = arguments.cluster.conditions(scenario);
    Stage { replica, traffic, conditions, capacities, range, tolerance: scenario.tolerance, goal, remarks }
}

/// The smallest share that a percentile of the SLO leaves.
pub(super) fn goal(slos: &[Slo]) -> f64 {
    let left = slos.iter().filter_map(|slo| match slo.stat {
        Stat::Percentile(percent) => Some(1.0 - percent / 100.0),
        Stat::Mean | Stat::Rate => None,
    });
    left.fold(None, |least: Option<f64>, share| Some(least.map_or(share, |least| least.min(share))))
        .unwrap_or(GOAL)
}

/// The manifests that are played as they stand.
fn manifests(arguments: &SimulateArgs, tolerance: f64, console: Console) -> anyhow::Result<Vec<Candidate>> {
    let read = |path: &PathBuf| hpa_file::read(path, tolerance, |remark| console.note(&remark));
    arguments.hpa.iter().map(read).collect()
}

/// The other candidates: given targets, the run's own, Google's advice.
fn targets(
    arguments: &SimulateArgs,
    stage: &Stage,
    recommendation: Option<&Recommendation>,
) -> anyhow::Result<Vec<Candidate>> {
    let known = |signal: Signal| stage.replica.plant.most(signal).is_some();
    let mut found = Vec::new();
    for target in &arguments.target {
        if !known(target.signal) {
            return Err(anyhow!("--target {}: the run shows nothing of this metric", target.signal.slug()));
        }
        found.push(stage.candidate("given", target.signal, target.value));
    }
    let chosen = recommendation.and_then(|recommendation| recommendation.recommended);
    let mut derived: Vec<_> = recommendation.iter().flat_map(|all| &all.targets).collect();
    derived.sort_by_key(|target| chosen != Some(target.signal));
    for target in derived {
        if let (Ok(value), true) = (&target.average_value, known(target.signal)) {
            let chosen = chosen == Some(target.signal);
            let origin = if chosen { "recommended by the run" } else { "derived by the run" };
            found.push(stage.candidate(origin, target.signal, *value));
        }
    }
    let advice = googles_advice(&stage.world());
    found.extend(advice.into_iter().filter_map(|(signal, value)| {
        Some(stage.candidate("Google's advice", signal, Milli::floor((value * 10.0).round() / 10.0)?))
    }));
    Ok(found)
}

/// Draws that no search has seen, the first of them with the plant and the start-up just as they are.
fn draws(stage: &Stage, seeds: u64) -> Vec<Draw> {
    let world = stage.world();
    let draw = |index| match index {
        0 => world.plain(held_out(0)),
        index => world.draw(held_out(index)),
    };
    (0..seeds).into_par_iter().map(draw).collect()
}

fn play(stage: &Stage, candidates: Vec<Candidate>, draws: &[Draw], console: Console) -> Vec<Played> {
    let all = candidates.len() as f64;
    let progress = Mutex::new((console.progress(), 0.0));
    let world = stage.world();
    let played = candidates.into_par_iter().map(|candidate| {
        let played = world.show(candidate, draws);
        tell(&progress, |(progress, done)| {
            *done += 1.0;
            progress.update("play", *done / all, &played.candidate.name);
        });
        played
    });
    let played = played.collect();
    finish(progress);
    played
}

fn tell<T>(shared: &Mutex<T>, what: impl FnOnce(&mut T)) {
    if let Ok(mut held) = shared.lock() {
        what(&mut held);
    }
}

fn finish(progress: Mutex<(Progress, f64)>) {
    if let Ok((progress, _)) = progress.into_inner() {
        progress.finish();
    }
}

/// The search, and its best as a candidate.
fn search(
    arguments: &SimulateArgs,
    stage: &Stage,
    console: Console,
) -> Result<(Option<Candidate>, Optimum), Failure> {
    if stage.replica.plant.most(arguments.metric).is_none() {
        let error = anyhow!("--metric {}: the run shows nothing of this metric", arguments.metric.slug());
        return Err(Failure { exit: Exit::Usage, error });
    }
    let search = Search {
        world: stage.world(),
        signal: arguments.metric,
        range: stage.range,
        tolerance: stage.tolerance,
        own_tolerance: arguments.cluster.own_tolerance(),
        tune: true,
        goal: stage.goal,
        seeds: arguments.seeds,
        targets: TARGETS,
    };
    let progress = Mutex::new((console.progress(), 0.0));
    let optimum = optimize(&search, &|done| {
        tell(&progress, |(progress, _)| progress.update("search", done, "targets and behaviors"));
    });
    finish(progress);
    let best = optimum.best.map(|best| search.candidate(best.target, best.tuning));
    Ok((best, optimum))
}

/// The first candidate again with discrete-event servers, in the same draws. `None`: no model, or too long.
fn check(stage: &Stage, played: &[Played]) -> Option<Check> {
    let first = played.first()?;
    let (model, requests) = stage.replica.model.as_ref()?;
    let arrivals = stage.traffic.mean().0 * stage.traffic.length().0;
    if arrivals > MOST_DISCRETE {
        return None;
    }
    let draws = ((MOST_DISCRETE / arrivals.max(1.0)) as u64).clamp(1, CHECKED);
    let scaler = &first.candidate.scaler;
    let outcomes: Vec<_> = (0..draws)
        .into_par_iter()
        .map(|index| {
            let draw = stage.world().plain(held_out(index));
            (draw.play(scaler, |_| {}), draw.play_discrete(scaler, model, requests))
        })
        .collect();
    let n = outcomes.len() as f64;
    let hours = |seconds: f64| seconds / 3600.0 * f64::from(stage.conditions.gpus_per_replica);
    let mean = |figure: &dyn Fn(&Outcome) -> f64| {
        let sums = outcomes.iter().map(|(replayed, discrete)| (figure(replayed), figure(discrete)));
        let (replayed, discrete) = sums.fold((0.0, 0.0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        (replayed / n, discrete / n)
    };
    Some(Check {
        draws,
        violations: mean(&Outcome::violations),
        gpu_hours: mean(&|outcome| hours(outcome.replica_seconds)),
    })
}

/// Writes the files and renders the report again.
fn write(simulation: &Simulation, directory: &Path, console: Console) -> Result<(), Failure> {
    for file in report::render_simulation(simulation).or_exit(Exit::Failed)? {
        record::write_file(&directory.join(&file.path), file.contents.as_bytes()).or_exit(Exit::Failed)?;
    }
    derive::derive(directory).or_exit(Exit::Failed)?;
    for file in ["simulation.json", "report.html"] {
        console.note(&format!("{file:<15} {}", directory.join(file).display()));
    }
    Ok(())
}

fn show(simulation: &Simulation, directory: &Path, console: Console) {
    console.summary(&report::simulation_summary(simulation, console.colour()));
    if console.wants_json() {
        let mut document = report::simulation_document(simulation);
        if let Some(fields) = document.as_object_mut() {
            fields.insert("run_directory".to_owned(), directory.display().to_string().into());
        }
        console.document(&document);
    }
}
