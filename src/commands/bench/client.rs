//! The client as `run` uses it: engine, live state, recorder and all.

use super::server::monotonic_nanos;
use super::{Cost, Task, cpu_seconds, memory};
use crate::commands::run::Live;
use crate::drive::{Engine, EngineConfig, PromptMaker, Sink, StopLevel, Target, Wire, client_builder};
use crate::measurement::{Event, Load, RequestOutcome, RunClock};
use crate::plan::{Api, RequestSource, Schedule, Spacing, Step, StepWork};
use crate::record::{HostFacts, Recorder, RunInfo, RunState, TargetFacts};
use crate::scenario::{Arrivals, SizeSpec};
use crate::units::{Rate, Replicas, Seconds};
use anyhow::{Context, anyhow};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

const SEED: u64 = 1;
const INPUT_TOKENS: u32 = 32;

/// Passes everything on as in a run, and counts it.
struct Counter {
    live: Arc<Live>,
    events: AtomicU64,
    requests: AtomicU64,
    failed: AtomicU64,
    worst_lag: Mutex<Seconds>,
    /// Outcomes with the gaps between their tokens, where they are to be compared.
    kept: Option<Mutex<Vec<Kept>>>,
}

/// An outcome and the gaps between its tokens, microseconds.
type Kept = (RequestOutcome, Vec<u32>);

impl Counter {
    fn new(live: Arc<Live>, keeps: bool) -> Counter {
        Counter {
            live,
            events: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            worst_lag: Mutex::default(),
            kept: keeps.then(Mutex::default),
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            events: self.events.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            lag: *self.worst_lag.lock().unwrap_or_else(PoisonError::into_inner),
            ..Cost::default()
        }
    }

    fn kept(&self) -> Option<Vec<Kept>> {
        Some(std::mem::take(&mut *self.kept.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Sink for Counter {
    fn request(&self, outcome: RequestOutcome, gaps_us: Vec<u32>) {
        self.events.fetch_add(u64::from(outcome.chunks), Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(!outcome.is_ok()), Ordering::Relaxed);
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push((outcome.clone(), gaps_us.clone()));
        }
        self.live.request(outcome, gaps_us);
    }

    fn event(&self, event: Event) {
        if let Event::Heartbeat { lag_p99, .. } = event {
            let mut worst = self.worst_lag.lock().unwrap_or_else(PoisonError::into_inner);
            *worst = worst.max(lag_p99);
        }
        Sink::event(&*self.live, event);
    }
}

/// Drives one step, and says what it cost and how exact it was.
pub(super) async fn measure(task: &Task) -> anyhow::Result<Cost> {
    let directory = scratch_directory()?;
    let clock = RunClock::start();
    let recorder = Recorder::create(&directory, info())?;
    let live = Arc::new(Live::new(recorder.handle(), Replicas(1)));
    let counter = Arc::new(Counter::new(Arc::clone(&live), task.exactness));
    let prompts = PromptMaker::uncalibrated(SEED, 0);
    let cost = drive(task, clock, &prompts, &counter).await?;
    live.close();
    recorder.finish(RunState::Complete, None)?;
    std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    let Some(kept) = counter.kept() else { return Ok(cost) };
    let errors = compare(&kept, &stamps(task.port).await?, &prompts, clock);
    Ok(Cost {
        ttft_error_ms: errors.ttft,
        itl_error_ms: errors.itl,
        schedule_error_ms: errors.schedule,
        ..cost
    })
}

async fn drive(
    task: &Task,
    clock: RunClock,
    prompts: &PromptMaker,
    counter: &Arc<Counter>,
) -> anyhow::Result<Cost> {
    let url = format!("http://127.0.0.1:{}/{}/{}", task.port, task.ttft_us, task.gap_us);
    let wire = Wire { api: Api::Generate, stream: true, declared_output: None, timeout: Seconds(60.0) };
    let target = Target::new(&url, wire, client_builder().build()?)?;
    let (stopper, stop) = watch::channel(StopLevel::Run);
    let (prompts, max_in_flight) = (prompts.clone(), task.streams);
    let config = EngineConfig { target, prompts, max_in_flight, first_id: 0, clock, stop };
    let memory_before = memory();
    let engine = Engine::start(config, Arc::clone(counter) as Arc<dyn Sink>).await?;
    let before = cpu_seconds();
    let (one, its_work) = work(task);
    engine.drive(one, its_work).await;
    engine.close_loop();
    let drained = engine.drain(clock.now() + Seconds(60.0)).await;
    let (cpu, memory) = (cpu_seconds() - before, memory().saturating_sub(memory_before));
    stopper.send_replace(StopLevel::Abort);
    engine.shutdown().await?;
    let cost = counter.cost();
    Ok(Cost { cpu_seconds: cpu, memory_bytes: memory, failed: cost.failed + u64::from(!drained), ..cost })
}

/// The one step of a task.
fn work(task: &Task) -> (Step, StepWork) {
    let load = task.rate.map_or(Load::Concurrency(task.streams), |rate| Load::Rate(Rate(rate)));
    let (zero, length) = (Seconds::ZERO, task.length);
    let step = Step { index: 0, place: 0, load, offset: zero, warm_up: zero, length };
    let schedule = Schedule {
        seed: SEED,
        spacing: Spacing::new(Arrivals::Poisson, None),
        requests: RequestSource::Specs(SizeSpec::Fixed(INPUT_TOKENS), SizeSpec::Fixed(task.tokens)),
        trace: None,
    };
    (step, schedule.work(&step))
}

/// When the server sent each event of each prompt.
async fn stamps(port: u16) -> anyhow::Result<HashMap<String, Vec<u64>>> {
    let url = format!("http://127.0.0.1:{port}/stamps");
    let body = client_builder().build()?.get(url).send().await?.bytes().await?;
    serde_json::from_slice(&body)
        .map_err(|error| anyhow!("the bench server's stamps cannot be read: {error}"))
}

/// How far the client's times are from the server's.
struct Errors {
    ttft: [Option<f64>; 2],
    itl: [Option<f64>; 2],
    schedule: [Option<f64>; 2],
}

fn compare(
    kept: &[Kept],
    stamps: &HashMap<String, Vec<u64>>,
    prompts: &PromptMaker,
    clock: RunClock,
) -> Errors {
    // Both clocks are the system's monotonic one; the nearest of a few readings gives their distance.
    let offset =
        (0..100).map(|_| monotonic_nanos() as f64 / 1e9 - clock.now().0).fold(f64::INFINITY, f64::min);
    let (mut ttft, mut itl, mut schedule) = (Vec::new(), Vec::new(), Vec::new());
    for (outcome, gaps) in kept {
        schedule.extend(outcome.schedule_delay().map(|delay| delay.0 * 1e3));
        let Some(sent) = stamps.get(&prompts.prompt(outcome.id, INPUT_TOKENS)) else { continue };
        if let (Some(seen), Some(first)) = (outcome.first_token, sent.first()) {
            ttft.push((seen.0 + offset - *first as f64 / 1e9) * 1e3);
        }
        let true_gaps = sent.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e6);
        itl.extend(gaps.iter().zip(true_gaps).map(|(gap, truth)| (f64::from(*gap) / 1e3 - truth).abs()));
    }
    let at = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        [0.50, 0.99].map(|share| values.get((values.len() as f64 * share) as usize).copied())
    };
    Errors { ttft: at(ttft), itl: at(itl), schedule: at(schedule) }
}

fn scratch_directory() -> anyhow::Result<std::path::PathBuf> {
    let name = format!("calibrate-bench-{}-{}", std::process::id(), monotonic_nanos());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

fn info() -> RunInfo {
    RunInfo::new(
        "bench".to_owned(),
        "bench".to_owned(),
        jiff::Timestamp::now().to_string(),
        serde_json::Value::Null,
        Vec::new(),
        TargetFacts {
            url: String::new(),
            simulated: true,
            kind: None,
            profile: None,
            info: None,
            single_latency: None,
            replicas: 1,
            metrics_urls: Vec::new(),
            gpu_metrics_urls: Vec::new(),
            sources: Vec::new(),
        },
        HostFacts { os: String::new(), arch: String::new(), cpus: 0 },
    )
}
