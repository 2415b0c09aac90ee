//! `calibrate simulate`: traffic through a measured replica and the HPA, candidates beside each other.

mod args;
pub(super) mod hpa_file;
pub(super) mod replica;
pub(super) mod traffic_file;

pub use args::SimulateArgs;

use super::derive;
use crate::analyze::{Analysis, Verdict};
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, LoopArgs, OrExit, Progress};
use crate::hpa::{Generation, Range, Tolerances};
use crate::manifest::{self, ClusterNames, ManifestError, ManifestFile, Optimized, Provenance};
use crate::recommend::{Demand, Recommendation};
use crate::record::{self, RecordedRun};
use crate::replay::{
    Autoscaler, Candidate, Capacities, Conditions, Draw, Optimum, Outcome, Played, Search, Traffic,
    TrafficSpec, Tried, World, googles_advice, held_out, optimize,
};
use crate::report::{self, Check, Simulation};
use crate::scenario::{Scenario, Settings};
use crate::units::{Limit, Milli, Signal, Slo, Stat};
use anyhow::anyhow;
use args::ClusterArgs;
use rayon::prelude::*;
use replica::Replica;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Targets on the grid of a search.
const TARGETS: usize = 40;
/// Share of requests that may break a limit, where the SLO names no percentile.
const GOAL: f64 = 0.05;
/// More requests than this are not played with discrete events: that would take minutes.
const MOST_DISCRETE: f64 = 1_200_000.0;
/// Draws that are checked, where so many are not too long.
const CHECKED: u64 = 5;

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
        lag: other.lag,
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
    /// Whether the cluster lets an HPA have a tolerance of its own.
    own_tolerance: bool,
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
    let mut candidates = manifests(arguments, &run, &scenario, console).or_exit(Exit::Usage)?;
    let derive = || derive::from_run(&run, &scenario, None);
    let derived = console.during("fitting a replica to the record", derive).or_exit(Exit::Usage)?;
    valid(&derived.analysis).or_exit(Exit::Invalid)?;
    let learn = || replica::of_run(&run, &scenario, &derived.analysis);
    let replica =
        console.during("playing the replica to learn how it drains", learn).or_exit(Exit::Invalid)?;
    let assumptions = derive::assumptions(&scenario, &derived.analysis, &run.events);
    let conditions = arguments.cluster.conditions(&assumptions, &scenario);
    let stage = stage(arguments, &scenario, replica, (traffic, remarks), range, conditions);
    candidates.extend(targets(arguments, &stage, derived.recommendation.as_ref()).or_exit(Exit::Usage)?);
    let optimum = arguments.optimize.then(|| search(arguments, &stage, console)).transpose()?;
    let best = optimum.as_ref().and_then(|(_, optimum)| optimum.best.map(|best| (best, optimum)));
    let manifest = best.map(|(best, optimum)| {
        let provenance = derive::provenance(&run, &derived.analysis);
        manifest(&stage, derive::names_of(&run, &scenario), &provenance, &best, optimum)
    });
    candidates.splice(0..0, optimum.iter().filter_map(|(candidate, _)| candidate.clone()));
    if stage.capacities.total(1).0 <= 0.0 {
        return Err(anyhow!(
            "the replayed replica keeps the SLO at no load; allow for more: --slo or --goal"
        ))
        .or_exit(Exit::Invalid);
    }
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
        check: console.during("checking the first with discrete events", || check(&stage, &played)),
        optimum: optimum.map(|(_, optimum)| optimum),
        played,
        simulated: run.info.target.simulated,
        remarks: stage.remarks.clone(),
    };
    if !arguments.only_show {
        write(&simulation, manifest, &arguments.run, console)?;
    }
    show(&simulation, &arguments.run, console);
    let none = simulation.optimum.as_ref().is_some_and(|optimum| optimum.best.is_none());
    Ok(if none { Exit::Invalid } else { Exit::Done })
}

/// A run that nothing is recommended from is not played either.
fn valid(analysis: &Analysis) -> anyhow::Result<()> {
    let failed = analysis.validity.checks.iter().filter(|check| check.verdict == Verdict::Invalid);
    let reasons: Vec<String> = failed.map(|check| format!("{}: {}", check.name, check.detail)).collect();
    if reasons.is_empty() {
        return Ok(());
    }
    Err(anyhow!("the run is not valid, so it is not played: {}; run it again", reasons.join("; ")))
}

/// The run's scenario, with what the flags say instead.
fn scenario(arguments: &SimulateArgs, run: &RecordedRun) -> anyhow::Result<Scenario> {
    let slo = &arguments.cluster.slo;
    let other = Settings {
        slo: (!slo.is_empty()).then(|| slo.clone()),
        tolerance: arguments.cluster.tolerance,
        cluster: arguments.cluster.settings(),
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
    conditions: Conditions,
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
    let tolerance = scenario.tolerance;
    let own_tolerance = derive::names(&scenario.cluster, scenario.gpus_per_replica).has_tolerance();
    Stage { replica, traffic, conditions, capacities, range, tolerance, own_tolerance, goal, remarks }
}

/// The smallest share that a percentile of the SLO leaves.
pub(super) fn goal(slos: &[Slo]) -> f64 {
    let left = slos.iter().filter_map(|slo| match (slo.stat, slo.limit) {
        (Stat::Percentile(percent), _) => Some(1.0 - percent / 100.0),
        (_, Limit::ShareAtLeast(share)) => Some(1.0 - share),
        (_, Limit::ShareAtMost(share)) => Some(share),
        (Stat::Mean | Stat::Rate, _) => None,
    });
    left.fold(None, |least: Option<f64>, share| Some(least.map_or(share, |least| least.min(share))))
        .unwrap_or(GOAL)
}

/// The manifests that are played as they stand.
fn manifests(
    arguments: &SimulateArgs,
    run: &RecordedRun,
    scenario: &Scenario,
    console: Console,
) -> anyhow::Result<Vec<Candidate>> {
    let names = derive::names_of(run, scenario).ok();
    let read = |path: &PathBuf| {
        hpa_file::read(path, scenario.tolerance, names.as_ref(), |remark| console.note(&remark))
    };
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
        own_tolerance: stage.own_tolerance,
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

/// The best as an HPA. `Err`: why there is none.
fn manifest(
    stage: &Stage,
    names: Result<ClusterNames, String>,
    provenance: &Provenance,
    best: &Tried,
    optimum: &Optimum,
) -> Result<ManifestFile, ManifestError> {
    let replicas = |number: i32| u32::try_from(number).unwrap_or(1);
    let (min_replicas, max_replicas) = (replicas(stage.range.min), replicas(stage.range.max));
    let names = ClusterNames { min_replicas, max_replicas, ..names.map_err(ManifestError::LeftOut)? };
    let behavior = best.tuning.behavior();
    let found = Optimized {
        signal: optimum.signal,
        average_value: best.target,
        behavior: behavior.as_ref(),
        tolerance: stage.tolerance,
        reasons: &optimum.reasons,
    };
    manifest::optimized(&found, &names, provenance)
}

/// Writes the files and renders the report again.
fn write(
    simulation: &Simulation,
    manifest: Option<Result<ManifestFile, ManifestError>>,
    directory: &Path,
    console: Console,
) -> Result<(), Failure> {
    for file in report::render_simulation(simulation).or_exit(Exit::Failed)? {
        record::write_file(&directory.join(&file.path), file.contents.as_bytes()).or_exit(Exit::Failed)?;
    }
    let mut files = vec![report::SIMULATION, "report.html"];
    match manifest {
        Some(Ok(file)) => {
            let path = directory.join(&file.name);
            record::write_file(&path, file.text.as_bytes()).or_exit(Exit::Failed)?;
            files.push(manifest::OPTIMIZED);
        }
        // That of an earlier simulation is not what this one says.
        nothing => {
            derive::remove(&directory.join(manifest::OPTIMIZED)).or_exit(Exit::Failed)?;
            if let Some(Err(reason)) = nothing {
                console.note(&format!("{} is left out: {reason}", manifest::OPTIMIZED));
            }
        }
    }
    derive::derive(directory, &Demand::default()).or_exit(Exit::Failed)?;
    for file in files {
        console.note(&format!("{file:<18} {}", directory.join(file).display()));
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
