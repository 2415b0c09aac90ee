//! Everything a run needs before its first request: the scenario, the server, the record, the
//! scrapers, the workers. Whatever is wrong is found here, before any load is sent.

use super::live::Live;
use super::safety;
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit, RunArgs};
use crate::drive::{self, DriveError, Engine, EngineConfig, Probe, StopLevel, Target, probe};
use crate::measurement::{FailureKind, RunClock, Source};
use crate::observe::{self, Observer, Scraped};
use crate::plan::{RequestSize, SizeSampler, read_dataset};
use crate::record::{HostFacts, Recorder, RunInfo, RunState, TargetFacts};
use crate::scenario::{Scenario, Settings, read_settings};
use crate::simulator;
use crate::units::Replicas;
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
    pub probe: Probe,
    pub sizes: SizeSampler,
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
    if settings.target.is_none() {
        let mut demo = read_settings(Path::new("scenarios/demo.yaml"), DEMO).or_exit(Exit::Usage)?;
        if settings.dataset.is_some() {
            (demo.input_tokens, demo.output_tokens) = (None, None);
        }
        settings = settings.over(demo);
    }
    settings.resolve().or_exit(Exit::Usage)
}

impl Setup {
    pub(super) async fn prepare(
        scenario: &Scenario,
        console: Console,
        stop: watch::Receiver<StopLevel>,
    ) -> Result<Setup, Failure> {
        let mut sizes = sizes(scenario)?;
        let (simulator, url) = start_server(scenario, console).await?;
        let target = Target::new(&url, scenario.api, scenario.timeout, scenario.max_new_tokens)
            .or_exit(Exit::Usage)?;
        safety::check(&target.url(""), scenario.i_own_this_target).await?;
        let typical = typical(&mut sizes);
        console.note(
            "three single requests first: does it answer, how does it count tokens, how long does one take",
        );
        let probe = probe(&target, RunClock::start(), scenario.seed, typical).await;
        let probe = probe.map_err(|error| Failure { exit: exit_of(&error), error: error.into() })?;
        for remark in &probe.remarks {
            console.warn(remark);
        }
        let (clock, started) = (RunClock::start(), jiff::Timestamp::now());
        let scraped = scrape_targets(scenario, &target, simulator.is_some());
        check_metrics(&scraped, clock).await?;
        let directory = directory(scenario, started);
        let info = run_info(scenario, &probe, &url, simulator.is_some(), &scraped, started, &directory);
        let recorder = Recorder::create(&directory, info).or_exit(Exit::Usage)?;
        console.note(&format!("recording to {}", directory.display()));
        let live = Arc::new(Live::new(recorder.handle(), Replicas(scenario.replicas)));
        let (prompts, max_in_flight) = (probe.prompts, scenario.max_concurrency);
        let config = EngineConfig { target, prompts, sizes: sizes.clone(), max_in_flight, clock, stop };
        match start(config, &scraped, &live).await {
            Ok((engine, observer)) => Ok(Setup {
                directory,
                clock,
                probe,
                sizes,
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

/// A request that the server finds wrong is bad input; a server that cannot serve it has failed.
fn exit_of(error: &DriveError) -> Exit {
    match error {
        DriveError::NotTgi { .. }
        | DriveError::Address { .. }
        | DriveError::Refused { kind: FailureKind::ClientError | FailureKind::Malformed, .. } => Exit::Usage,
        DriveError::Refused { .. } | DriveError::Unreachable { .. } | DriveError::Pool(_) => Exit::Failed,
    }
}

/// Starts the scrapers and the workers.
async fn start(
    config: EngineConfig,
    scraped: &[observe::Target],
    live: &Arc<Live>,
) -> Result<(Engine, Observer), Failure> {
    let sink: Arc<dyn observe::Sink> = Arc::clone(live) as Arc<dyn observe::Sink>;
    let observer = Observer::start(scraped, config.clock, &sink).or_exit(Exit::Failed)?;
    let engine =
        Engine::start(config, Arc::clone(live) as Arc<dyn drive::Sink>).await.or_exit(Exit::Failed)?;
    Ok((engine, observer))
}

fn sizes(scenario: &Scenario) -> Result<SizeSampler, Failure> {
    let Some(path) = &scenario.dataset else {
        return Ok(SizeSampler::from_specs(scenario.input_tokens, scenario.output_tokens, scenario.seed));
    };
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read the dataset {}", path.display()))
        .or_exit(Exit::Usage)?;
    let rows = read_dataset(path, &bytes).or_exit(Exit::Usage)?;
    SizeSampler::from_dataset(rows, scenario.seed)
        .ok_or_else(|| anyhow!("the dataset {} holds no requests", path.display()))
        .or_exit(Exit::Usage)
}

/// The mean of many sizes, as the size of the request whose latency alone is measured.
fn typical(sizes: &mut SizeSampler) -> RequestSize {
    const DRAWS: u64 = 1000;
    let mut draws = sizes.clone();
    let (mut input, mut output) = (0, 0);
    for _ in 0..DRAWS {
        let size = draws.sample();
        input += u64::from(size.input);
        output += u64::from(size.output);
    }
    RequestSize { input: (input / DRAWS).max(1) as u32, output: (output / DRAWS).max(1) as u32 }
}

async fn start_server(
    scenario: &Scenario,
    console: Console,
) -> Result<(Option<simulator::Running>, String), Failure> {
    if let Some(url) = &scenario.target {
        return Ok((None, url.clone()));
    }
    let running = crate::commands::sim::start(&scenario.preset, 0).await?;
    let url = format!("http://{}", running.addr());
    console.note(&format!(
        "no --target, so this is the embedded simulated server '{}' at {url}",
        scenario.preset
    ));
    Ok((Some(running), url))
}

fn scrape_targets(scenario: &Scenario, target: &Target, simulated: bool) -> Vec<observe::Target> {
    let or_own = |given: &[String], path: &str, own: bool| match given {
        [] if own => vec![target.url(path).to_string()],
        given => given.to_vec(),
    };
    let number = |urls: Vec<String>, source: Source| {
        urls.into_iter().zip(0..).map(move |(url, replica)| observe::Target { url, source, replica })
    };
    let server = or_own(&scenario.metrics_urls, "metrics", true);
    let gpu = or_own(&scenario.gpu_metrics_urls, "gpu/metrics", simulated);
    number(server, Source::Server).chain(number(gpu, Source::Gpu)).collect()
}

/// Scrapes every source once. The probe's requests have gone before, so a TGI shows its metrics.
async fn check_metrics(targets: &[observe::Target], clock: RunClock) -> Result<(), Failure> {
    for target in targets {
        let problem = match observe::scrape_once(target, clock).await.or_exit(Exit::Failed)? {
            Scraped::Failed(reason) => reason,
            Scraped::Sample(sample) if sample.is_empty() && target.source == Source::Gpu => {
                "there is no DCGM metric in it".to_owned()
            }
            Scraped::Sample(_) => continue,
        };
        let flag = match target.source {
            Source::Server => "--metrics-url",
            Source::Gpu => "--gpu-metrics-url",
        };
        return Err(anyhow!("cannot scrape {}: {problem}; name the right address with {flag}", target.url))
            .or_exit(Exit::Failed);
    }
    Ok(())
}

fn directory(scenario: &Scenario, started: jiff::Timestamp) -> PathBuf {
    scenario.out.clone().unwrap_or_else(|| {
        let name = format!("{}-{}", started.strftime("%Y%m%dT%H%M%SZ"), scenario.name);
        Path::new("reports").join(name)
    })
}

fn run_info(
    scenario: &Scenario,
    probe: &Probe,
    url: &str,
    simulated: bool,
    scraped: &[observe::Target],
    started: jiff::Timestamp,
    directory: &Path,
) -> RunInfo {
    let run_id = directory
        .file_name()
        .map_or_else(|| scenario.name.clone(), |name| name.to_string_lossy().into_owned());
    let of = |source| scraped.iter().filter(move |t| t.source == source).map(|t| t.url.clone()).collect();
    RunInfo::new(
        run_id,
        scenario.name.clone(),
        started.to_string(),
        effective(&scenario.settings),
        std::env::args().collect(),
        TargetFacts {
            url: url.to_owned(),
            simulated,
            info: Some(probe.info.clone()),
            replicas: scenario.replicas,
            metrics_urls: of(Source::Server),
            gpu_metrics_urls: of(Source::Gpu),
        },
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
