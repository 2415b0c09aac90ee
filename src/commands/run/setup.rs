//! Everything a run needs before its first request: the scenario, the server, the record, the
//! scrapers, the workers. Whatever is wrong is found here, before any load is sent.

use super::access::Access;
use super::live::Live;
use super::resume::Earlier;
use super::{limits, load, safety};
use crate::analyze::Known;
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, RunArgs};
use crate::commands::derive;
use crate::commands::server;
use crate::commands::sources::{self, Sources};
use crate::drive::{
    self, DriveError, Engine, EngineConfig, Probe, PromptMaker, StopLevel, Target, Wire, probe,
};
use crate::measurement::{Event, FailureKind, RunClock, Source};
use crate::observe::{self, Feed, Observer, Profile};
use crate::plan::Schedule;
use crate::record::{HostFacts, Recorder, RunInfo, RunState, TargetFacts};
use crate::scenario::{Api, RampSpec, Scenario, Settings, Via, read_settings};
use crate::simulator;
use crate::units::{Replicas, Seconds};
use anyhow::{Context, anyhow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// The scenario of `run --ramp` without anything else: the embedded server.
const DEMO: &str = include_str!("../../../scenarios/demo.yaml");

/// A run that is ready to start.
pub(super) struct Setup {
    pub directory: PathBuf,
    pub clock: RunClock,
    /// End-to-end latency of one request alone.
    pub single_latency: Seconds,
    pub schedule: Schedule,
    /// What is known of server and load besides the metrics.
    pub known: Known,
    pub engine: Engine,
    pub observer: Observer,
    pub recorder: Recorder,
    pub live: Arc<Live>,
    _simulator: Option<simulator::Running>,
}

/// The scenario that flags and file make. Without a target it is laid over the demo.
pub(super) fn scenario(arguments: RunArgs) -> Result<Scenario, Failure> {
    let mut settings = arguments.settings;
    if let Some(path) = &arguments.scenario {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the scenario {}", path.display()))
            .or_exit(Exit::Usage)?;
        settings = settings.over(read_settings(path, &text).or_exit(Exit::Usage)?);
    }
    if settings.target.is_none() && settings.workload.deployment.is_none() {
        let mut demo = read_settings(Path::new("scenarios/demo.yaml"), DEMO).or_exit(Exit::Usage)?;
        let traced = matches!(settings.ramp, Some(RampSpec::Trace { .. }));
        if settings.dataset.is_some() || traced {
            (demo.input_tokens, demo.output_tokens) = (None, None);
        }
        settings = settings.over(demo);
    }
    settings.resolve().or_exit(Exit::Usage)
}

impl Setup {
    pub(super) async fn prepare(
        scenario: &Scenario,
        earlier: Option<&Earlier>,
        console: Console,
        stop: watch::Receiver<StopLevel>,
    ) -> Result<Setup, Failure> {
        let access = Access::prepare(scenario)?;
        let load::Load { schedule, prompts, exact, remarks } = load::prepare(scenario)?;
        for remark in &remarks {
            console.warn(remark);
        }
        let (max_in_flight, remark) = limits::most_in_flight(scenario.max_concurrency, files_each(scenario));
        if let Some(remark) = remark {
            console.warn(&remark);
        }
        check_level(&scenario.ramp, max_in_flight)?;
        let (simulator, url) = start_server(scenario, console).await?;
        let (target, profile) = reach(scenario, &url, &access, simulator.is_some(), console).await?;
        let probe = look_at(&target, prompts, exact, &schedule, console).await?;
        let started = jiff::Timestamp::now();
        let clock = earlier.map_or_else(RunClock::start, |earlier| RunClock::resume(earlier.now(started)));
        let made = sources_of(scenario, &target, &access, &profile, simulator.is_some());
        let (feeds, remarks) = sources::check(made.feeds().await?, scenario, clock).await?;
        for remark in &remarks {
            console.warn(remark);
        }
        let (directory, recorder) = if let Some(earlier) = earlier {
            (earlier.directory.clone(), earlier.record_again()?)
        } else {
            let directory = directory(scenario, started);
            let facts = target_facts(scenario, &probe, &url, simulator.is_some(), &profile, &feeds);
            let info = run_info(scenario, facts, started, &directory);
            let recorder = Recorder::create(&directory, info).or_exit(Exit::Usage)?;
            (directory, recorder)
        };
        console.note(&format!("recording to {}", directory.display()));
        let live = Arc::new(Live::new(recorder.handle(), Replicas(scenario.replicas)));
        if earlier.is_some() {
            live.record_event(Event::Resumed { time: clock.now() });
        }
        let first_id = earlier.map_or(0, |earlier| earlier.next_id);
        let config = EngineConfig { target, prompts: probe.prompts, max_in_flight, first_id, clock, stop };
        match start(config, feeds, &live).await {
            Ok((engine, observer)) => Ok(Setup {
                directory,
                clock,
                single_latency: earlier.and_then(|e| e.single_latency).unwrap_or(probe.single_latency),
                schedule,
                known: derive::known(Some(&probe.info), scenario),
                engine,
                observer,
                recorder,
                live,
                _simulator: simulator,
            }),
            Err(failure) => {
                live.close();
                recorder
                    .finish(RunState::Interrupted, Some(failure.error.to_string()))
                    .or_exit(Exit::Failed)?;
                Err(failure)
            }
        }
    }
}

/// Files of a connection, by the way that load takes.
fn files_each(scenario: &Scenario) -> u64 {
    let workload = &scenario.workload;
    let forwarded = workload.deployment.is_some() && workload.via != Some(Via::Service);
    if forwarded { limits::FORWARDED } else { limits::DIRECT }
}

/// A closed loop must have a worker for each of its clients, or it is not the level it is called.
fn check_level(ramp: &RampSpec, most: u32) -> Result<(), Failure> {
    let RampSpec::Concurrency { levels, .. } = ramp else { return Ok(()) };
    match levels.iter().find(|level| **level > most) {
        Some(level) => {
            Err(anyhow!("--ramp asks for {level} requests in flight, and this machine allows {most}"))
                .or_exit(Exit::Usage)
        }
        None => Ok(()),
    }
}

/// The server, and what kind it is.
pub(in crate::commands) async fn reach(
    scenario: &Scenario,
    url: &str,
    access: &Access,
    simulated: bool,
    console: Console,
) -> Result<(Target, Arc<Profile>), Failure> {
    let as_any = Target::new(url, wire(scenario, Api::Generate), access.load.clone()).or_exit(Exit::Usage)?;
    safety::check(&as_any.url(""), scenario.i_own_this_target).await?;
    let (profile, remark) = server::profile(scenario, &as_any, access, simulated).await?;
    if let Some(remark) = remark {
        console.warn(&remark);
    }
    let api = server::api(scenario, &profile)?;
    let target = Target::new(url, wire(scenario, api), access.load.clone()).or_exit(Exit::Usage)?;
    let target = server::spoken_to(target, scenario, &profile, api).await?;
    if !simulated {
        console.note(&format!("the server is read as {}: {}", profile.name, profile.description));
    }
    Ok((target, Arc::new(profile)))
}

/// The server as its sources are made for it, where it cannot be reached.
pub(in crate::commands) fn unreached(
    scenario: &Scenario,
    url: &str,
    access: &Access,
) -> Result<(Target, Arc<Profile>), Failure> {
    let profile = if scenario.server == "auto" { "tgi" } else { &scenario.server };
    let target = Target::new(url, wire(scenario, Api::Generate), access.load.clone()).or_exit(Exit::Usage)?;
    Ok((target, Arc::new(server::named(profile)?)))
}

pub(in crate::commands) fn sources_of<'a>(
    scenario: &'a Scenario,
    target: &Target,
    access: &'a Access,
    profile: &Arc<Profile>,
    simulated: bool,
) -> Sources<'a> {
    let own = target.url("");
    let metrics = server::metrics_of(target, profile);
    let own_gpu = simulated.then(|| target.url("gpu/metrics").to_string());
    let profile = Arc::clone(profile);
    Sources { scenario, profile, access, own, own_metrics: metrics.to_string(), own_gpu }
}

fn wire(scenario: &Scenario, api: Api) -> Wire {
    Wire { api, stream: scenario.stream, declared_output: scenario.max_new_tokens, timeout: scenario.timeout }
}

/// Sends the first few requests, one by one.
async fn look_at(
    target: &Target,
    prompts: PromptMaker,
    exact: bool,
    schedule: &Schedule,
    console: Console,
) -> Result<Probe, Failure> {
    console.note(
        "three single requests first: does it answer, how does it count tokens, how long does one take",
    );
    let probe = probe(target, RunClock::start(), prompts, exact, schedule.typical()).await;
    let probe = probe.map_err(|error| Failure { exit: exit_of(&error), error: error.into() })?;
    for remark in &probe.remarks {
        console.warn(remark);
    }
    Ok(probe)
}

/// A request that the server finds wrong is bad input; a server that cannot serve it has failed.
fn exit_of(error: &DriveError) -> Exit {
    match error {
        DriveError::NotTgi { .. }
        | DriveError::NotOpenAi { .. }
        | DriveError::Address { .. }
        | DriveError::Tokenizer { .. }
        | DriveError::OtherTokenizer { .. }
        | DriveError::Refused { kind: FailureKind::ClientError | FailureKind::Malformed, .. } => Exit::Usage,
        DriveError::Refused { .. } | DriveError::Unreachable { .. } | DriveError::Pool(_) => Exit::Failed,
    }
}

/// Starts the scrapers and the workers.
async fn start(
    config: EngineConfig,
    feeds: Vec<Feed>,
    live: &Arc<Live>,
) -> Result<(Engine, Observer), Failure> {
    let sink: Arc<dyn observe::Sink> = Arc::clone(live) as Arc<dyn observe::Sink>;
    let observer = Observer::start(feeds, config.clock, &sink);
    let engine =
        Engine::start(config, Arc::clone(live) as Arc<dyn drive::Sink>).await.or_exit(Exit::Failed)?;
    Ok((engine, observer))
}

pub(in crate::commands) async fn start_server(
    scenario: &Scenario,
    console: Console,
) -> Result<(Option<simulator::Running>, String), Failure> {
    if let Some(url) = &scenario.target {
        return Ok((None, url.clone()));
    }
    let running = crate::commands::sim::embedded(&scenario.preset).await?;
    let url = format!("http://{}", running.addr());
    console.note(&format!(
        "no --target, so this is the embedded simulated server '{}' at {url}",
        scenario.preset
    ));
    Ok((Some(running), url))
}

pub(super) fn directory(scenario: &Scenario, started: jiff::Timestamp) -> PathBuf {
    scenario.out.clone().unwrap_or_else(|| {
        let name = format!("{}-{}", started.strftime("%Y%m%dT%H%M%SZ"), scenario.name);
        Path::new("reports").join(name)
    })
}

fn target_facts(
    scenario: &Scenario,
    probe: &Probe,
    url: &str,
    simulated: bool,
    profile: &Profile,
    feeds: &[Feed],
) -> TargetFacts {
    let of = |wanted: Source| {
        feeds
            .iter()
            .filter_map(|feed| match feed {
                Feed::Scrape(scrape) if scrape.source() == wanted => Some(scrape.url().to_owned()),
                _ => None,
            })
            .collect()
    };
    let others = feeds.iter().filter(|feed| !matches!(feed, Feed::Scrape(_)));
    TargetFacts {
        url: url.to_owned(),
        simulated,
        kind: Some(profile.name.clone()),
        profile: profile.own_text(),
        info: Some(probe.info.clone()),
        single_latency: Some(probe.single_latency),
        replicas: scenario.replicas,
        metrics_urls: of(Source::Server),
        gpu_metrics_urls: of(Source::Gpu),
        sources: others.map(Feed::what).collect(),
    }
}

fn run_info(scenario: &Scenario, target: TargetFacts, started: jiff::Timestamp, directory: &Path) -> RunInfo {
    let run_id = directory
        .file_name()
        .map_or_else(|| scenario.name.clone(), |name| name.to_string_lossy().into_owned());
    RunInfo::new(
        run_id,
        scenario.name.clone(),
        started.to_string(),
        effective(&scenario.settings),
        std::env::args().collect(),
        target,
        HostFacts {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        },
    )
}

fn effective(settings: &Settings) -> serde_json::Value {
    serde_json::to_value(settings).unwrap_or_default()
}
