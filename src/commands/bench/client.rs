//! The client as `run` uses it: engine, live state, recorder and all.

use super::server::monotonic_nanos;
use super::{Cost, Task, cpu_seconds, memory};
use crate::commands::run::Live;
use crate::drive::{Engine, EngineConfig, PromptMaker, Sink, StopLevel, Target, Wire, client_builder};
use crate::measurement::{Event, Load, RequestOutcome, RunClock};
use crate::plan::{Api, RequestSource, Schedule, Spacing, Step};
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
    kept: Option<Mutex<Vec<(RequestOutcome, Vec<u32>)>>>,
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
    let directory = tempfile_directory()?;
    let clock = RunClock::start();
    let recorder = Recorder::create(&directory, info())?;
    let live = Arc::new(Live::new(recorder.handle(), Replicas(1)));
    let counter = Arc::new(Counter {
        live: Arc::clone(&live),
        events: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        worst_lag: Mutex::default(),
        kept: task.exactness.then(Mutex::default),
    });
    let url = format!("http://127.0.0.1:{}/{}/{}", task.port, task.ttft_us, task.gap_us);
    let wire = Wire { api: Api::Generate, stream: true, declared_output: None, timeout: Seconds(60.0) };
    let target = Target::new(&url, wire, client_builder().build()?)?;
    let prompts = PromptMaker::uncalibrated(SEED, 0);
    let (stop, changes) = watch::channel(StopLevel::Run);
    let config = EngineConfig {
        target,
        prompts: prompts.clone(),
        max_in_flight: task.streams,
        first_id: 0,
        clock,
        stop: changes,
    };
    let memory_before = memory();
    let engine = Engine::start(config, Arc::clone(&counter) as Arc<dyn Sink>).await?;
    let before = cpu_seconds();
    let load = task.rate.map_or(Load::Concurrency(task.streams), |rate| Load::Rate(Rate(rate)));
    let step =
        Step { index: 0, place: 0, load, offset: Seconds::ZERO, warm_up: Seconds::ZERO, length: task.length };
    let schedule = Schedule {
        seed: SEED,
        spacing: Spacing::new(Arrivals::Poisson, None),
        requests: RequestSource::Specs(SizeSpec::Fixed(INPUT_TOKENS), SizeSpec::Fixed(task.tokens)),
        trace: None,
    };
    engine.drive(step, schedule.work(&step)).await;
    engine.close_loop();
    let drained = engine.drain(clock.now() + Seconds(60.0)).await;
    let cost = Cost {
        cpu_seconds: cpu_seconds() - before,
        memory_bytes: memory().saturating_sub(memory_before),
        events: counter.events.load(Ordering::Relaxed),
        requests: counter.requests.load(Ordering::Relaxed),
        failed: counter.failed.load(Ordering::Relaxed) + u64::from(!drained),
        lag: *counter.worst_lag.lock().unwrap_or_else(PoisonError::into_inner),
        ..Cost::default()
    };
    stop.send_replace(StopLevel::Abort);
    engine.shutdown().await?;
    live.close();
    recorder.finish(RunState::Complete, None)?;
    let cleaned = std::fs::remove_dir_all(&directory);
    let cost = match &counter.kept {
        Some(kept) => {
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            compare(cost, &kept, &stamps(task.port).await?, &prompts, clock)
        }
        None => cost,
    };
    cleaned.with_context(|| format!("cannot remove {}", directory.display()))?;
    Ok(cost)
}

/// When the server sent each event of each prompt.
async fn stamps(port: u16) -> anyhow::Result<HashMap<String, Vec<u64>>> {
    let url = format!("http://127.0.0.1:{port}/stamps");
    let body = client_builder().build()?.get(url).send().await?.bytes().await?;
    serde_json::from_slice(&body)
        .map_err(|error| anyhow!("the bench server's stamps cannot be read: {error}"))
}

fn compare(
    cost: Cost,
    kept: &[(RequestOutcome, Vec<u32>)],
    stamps: &HashMap<String, Vec<u64>>,
    prompts: &PromptMaker,
    clock: RunClock,
) -> Cost {
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
        let at = |share: f64| values.get((values.len() as f64 * share) as usize).copied();
        [at(0.50), at(0.99)]
    };
    Cost { ttft_error_ms: at(ttft), itl_error_ms: at(itl), schedule_error_ms: at(schedule), ..cost }
}

fn tempfile_directory() -> anyhow::Result<std::path::PathBuf> {
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
            info: None,
            single_latency: None,
            replicas: 1,
            metrics_urls: Vec::new(),
            gpu_metrics_urls: Vec::new(),
        },
        HostFacts { os: String::new(), arch: String::new(), cpus: 0 },
    )
}
