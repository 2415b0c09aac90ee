//! `calibrate bench-client`: is this machine strong enough to be the client?
//!
//! Everything is measured here and now, in processes of their own: a server that streams, the client
//! as `run` uses it, and a bare hyper client beside it as the floor, taking turns so that the noise
//! of the machine hits both alike.

mod client;
mod floor;
mod server;

use super::run::limits;
use crate::cli::console::Console;
use crate::cli::{BenchArgs, BenchRole, Exit, Failure, OrExit};
use crate::units::Seconds;
use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// What one measuring process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    port: u16,
    streams: u32,
    tokens: u32,
    ttft_us: u64,
    gap_us: u64,
    length: Seconds,
    /// Poisson arrivals a second instead of streams that follow each other.
    rate: Option<f64>,
    /// Whether times are compared with the server's.
    exactness: bool,
}

/// What it cost the whole process, and how exact it was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Cost {
    cpu_seconds: f64,
    /// By how much the process grew.
    memory_bytes: u64,
    events: u64,
    requests: u64,
    failed: u64,
    /// How late the runtime woke, 99th percentile of the worst second.
    lag: Seconds,
    /// Median and 99th percentile, where compared.
    ttft_error_ms: [Option<f64>; 2],
    itl_error_ms: [Option<f64>; 2],
    schedule_error_ms: [Option<f64>; 2],
}

impl Cost {
    fn per_event_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.events.max(1) as f64
    }

    fn per_request_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.requests.max(1) as f64
    }
}

/// Processor time of this process, all threads.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The largest this process has been in memory, bytes; 0 where the system does not say.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Runs the bench, or one of its processes.
pub(super) fn bench(arguments: &BenchArgs, console: Console) -> Result<Exit, Failure> {
    match &arguments.role {
        None => orchestrate(arguments, console),
        Some(role) => play(*role, arguments.task.as_deref()).or_exit(Exit::Failed),
    }
}

/// A child process: does its task and prints the cost.
fn play(role: BenchRole, task: Option<&str>) -> anyhow::Result<Exit> {
    limits::most_in_flight(1, limits::DIRECT);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let task = || -> anyhow::Result<Task> { Ok(serde_json::from_str(task.unwrap_or_default())?) };
    let cost = match role {
        BenchRole::Server => {
            runtime.block_on(server::serve())?;
            return Ok(Exit::Done);
        }
        BenchRole::Floor => runtime.block_on(floor::measure(&task()?))?,
        BenchRole::Client => runtime.block_on(client::measure(&task()?))?,
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&cost)?)?;
    Ok(Exit::Done)
}

/// The bench server's process; ends with its standard input.
struct ServerProcess {
    child: Child,
    port: u16,
}

impl ServerProcess {
    fn start() -> anyhow::Result<ServerProcess> {
        let mut child = process(BenchRole::Server).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("the bench server has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let port = line.trim().parse().map_err(|_| anyhow!("the bench server did not start"))?;
        Ok(ServerProcess { child, port })
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn process(role: BenchRole) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "calibrate".into()));
    command.args(["bench-client", "--role", role.word()]);
    command
}

fn measure(role: BenchRole, task: &Task) -> anyhow::Result<Cost> {
    let output =
        process(role).arg("--task").arg(serde_json::to_string(task)?).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(anyhow!("the {} of the bench failed", role.word()));
    }
    serde_json::from_slice(&output.stdout).context("a process of the bench did not say what it measured")
}

/// Rounds of client and floor in turn.
const ROUNDS: usize = 3;

/// Client and floor on the same work.
struct Pair {
    client: Cost,
    floor: Cost,
}

/// Client and floor on the same work in turn; the median of each by CPU per event.
fn beside(task: &Task) -> anyhow::Result<Pair> {
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (role, costs) in [BenchRole::Floor, BenchRole::Client].into_iter().zip(&mut costs) {
            costs.push(measure(role, task)?);
        }
    }
    let [floor, client] = costs.map(|mut costs| {
        costs.sort_by(|a, b| a.per_event_us().total_cmp(&b.per_event_us()));
        costs.swap_remove(ROUNDS / 2)
    });
    Ok(Pair { client, floor })
}

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
struct Findings {
    format: &'static str,
    version: u32,
    cpus: usize,
    streams: u32,
    /// Microseconds of processor time of the whole process for each token event, streams that pace.
    client_us_per_event: f64,
    floor_us_per_event: f64,
    ratio: f64,
    /// The same for streams that come as fast as they are taken.
    burst_client_us_per_event: f64,
    burst_floor_us_per_event: f64,
    burst_ratio: f64,
    /// The same for each request of one token.
    client_us_per_request: f64,
    floor_us_per_request: f64,
    memory_streams: u32,
    client_bytes_per_stream: u64,
    floor_bytes_per_stream: u64,
    client_errors: u64,
    ttft_error_ms_p50: Option<f64>,
    ttft_error_ms_p99: Option<f64>,
    itl_error_ms_p50: Option<f64>,
    itl_error_ms_p99: Option<f64>,
    schedule_error_ms_p50: Option<f64>,
    schedule_error_ms_p99: Option<f64>,
    /// The largest load at which the client stayed exact, with the server on the same machine.
    trusted_events_per_second: f64,
    trusted_requests_per_second: f64,
    /// Whether the ladder ended with the largest load that is tried, not with this machine's limit.
    trusted_is_a_lower_bound: bool,
}

/// A client is trusted while its TTFT error stays below this, 99th percentile.
const TRUSTED_TTFT_MS: f64 = 10.0;
/// And its runtime wakes no later than this, 99th percentile of the worst second.
const TRUSTED_LAG: Seconds = Seconds(0.020);
/// Token events a second that the ladder tries.
const LADDER: [f64; 4] = [25_000.0, 50_000.0, 100_000.0, 200_000.0];
/// Share of the processors that a client may take before it is its own bottleneck.
const TRUSTED_SHARE: f64 = 0.7;

fn orchestrate(arguments: &BenchArgs, console: Console) -> Result<Exit, Failure> {
    let findings = find(arguments, console).or_exit(Exit::Failed)?;
    if console.wants_json() {
        console.document(&serde_json::to_value(&findings).or_exit(Exit::Failed)?);
    }
    console.summary(&table(&findings));
    Ok(Exit::Done)
}

/// What all the measurements gave; pairs are client and floor.
struct Costs {
    paced: Pair,
    burst: Pair,
    short: Pair,
    many: Pair,
    exact: Cost,
    arrivals: Cost,
    trusted: f64,
    trusted_is_a_lower_bound: bool,
}

fn measure_all(streams: u32, memory_streams: u32, console: Console) -> anyhow::Result<Costs> {
    let server = ServerProcess::start()?;
    let paced = Task {
        port: server.port,
        streams,
        tokens: 64,
        ttft_us: 100_000,
        gap_us: 20_000,
        length: Seconds(2.6),
        rate: None,
        exactness: false,
    };
    let burst =
        Task { streams: 64, tokens: 4000, ttft_us: 0, gap_us: 0, length: Seconds(0.7), ..paced.clone() };
    let poisson =
        Task { rate: Some(200.0), tokens: 5, length: Seconds(3.0), exactness: true, ..paced.clone() };
    let many = Task {
        streams: memory_streams,
        tokens: 4,
        ttft_us: 500_000,
        gap_us: 400_000,
        length: Seconds(0.5),
        ..paced.clone()
    };
    let say = |what: &str| console.note(what);
    say(&format!("{streams} streams of a token every 20 ms, client and floor in turn"));
    let paced_costs = beside(&paced)?;
    say("64 streams as fast as they are taken");
    let burst_costs = beside(&burst)?;
    say("requests of one token");
    let short = beside(&Task { tokens: 1, ..burst })?;
    say(&format!("{streams} streams against the server's own stamps"));
    let exact = measure(BenchRole::Client, &Task { exactness: true, ..paced.clone() })?;
    say("200 Poisson arrivals a second");
    let arrivals = measure(BenchRole::Client, &poisson)?;
    say(&format!("{memory_streams} streams for the memory of each"));
    let many = Pair { floor: measure(BenchRole::Floor, &many)?, client: measure(BenchRole::Client, &many)? };
    say("rising loads, until the client is no longer exact");
    let (trusted, trusted_is_a_lower_bound) = ladder(&paced)?;
    let (paced, burst) = (paced_costs, burst_costs);
    Ok(Costs { paced, burst, short, many, exact, arrivals, trusted, trusted_is_a_lower_bound })
}

fn find(arguments: &BenchArgs, console: Console) -> anyhow::Result<Findings> {
    let (memory_streams, remark) = limits::most_in_flight(arguments.memory_streams, limits::DIRECT);
    if let Some(remark) = remark {
        console.warn(&remark);
    }
    let costs = measure_all(arguments.streams, memory_streams, console)?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let Costs { paced, burst, short, many, exact, arrivals, .. } = &costs;
    let clients = [&paced.client, &burst.client, &short.client, &many.client, exact, arrivals];
    let per_stream = |cost: &Cost| cost.memory_bytes / u64::from(memory_streams.max(1));
    Ok(Findings {
        format: "calibrate/bench-client",
        version: 1,
        cpus,
        streams: arguments.streams,
        client_us_per_event: paced.client.per_event_us(),
        floor_us_per_event: paced.floor.per_event_us(),
        ratio: paced.client.per_event_us() / paced.floor.per_event_us(),
        burst_client_us_per_event: burst.client.per_event_us(),
        burst_floor_us_per_event: burst.floor.per_event_us(),
        burst_ratio: burst.client.per_event_us() / burst.floor.per_event_us(),
        client_us_per_request: short.client.per_request_us(),
        floor_us_per_request: short.floor.per_request_us(),
        memory_streams,
        client_bytes_per_stream: per_stream(&many.client),
        floor_bytes_per_stream: per_stream(&many.floor),
        client_errors: clients.iter().map(|cost| cost.failed).sum(),
        ttft_error_ms_p50: exact.ttft_error_ms[0],
        ttft_error_ms_p99: exact.ttft_error_ms[1],
        itl_error_ms_p50: exact.itl_error_ms[0],
        itl_error_ms_p99: exact.itl_error_ms[1],
        schedule_error_ms_p50: arrivals.schedule_error_ms[0],
        schedule_error_ms_p99: arrivals.schedule_error_ms[1],
        trusted_events_per_second: costs.trusted,
        trusted_requests_per_second: TRUSTED_SHARE * cpus as f64 * 1e6 / short.client.per_request_us(),
        trusted_is_a_lower_bound: costs.trusted_is_a_lower_bound,
    })
}

/// The largest load at which the client is still exact, and whether nothing larger was tried.
fn ladder(paced: &Task) -> anyhow::Result<(f64, bool)> {
    let mut trusted = 0.0;
    for events in LADDER {
        // Poisson arrivals, since streams in lockstep would bring all their tokens at once.
        let rate = events / f64::from(paced.tokens);
        let step = Task {
            streams: 20_000,
            rate: Some(rate),
            length: Seconds(3.0),
            exactness: true,
            ..paced.clone()
        };
        let cost = measure(BenchRole::Client, &step)?;
        let exact = cost.ttft_error_ms[1].is_some_and(|error| error < TRUSTED_TTFT_MS);
        if cost.failed > 0 || !exact || cost.lag > TRUSTED_LAG {
            return Ok((trusted, false));
        }
        trusted = events;
    }
    Ok((trusted, true))
}

fn table(f: &Findings) -> String {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2} ms"));
    let us = |value: f64| format!("{value:.2} us");
    let kb = |value: u64| format!("{:.1} kB", value as f64 / 1000.0);
    let row = |name: &str, client: String, floor: String, ratio: Option<f64>| {
        let ratio = ratio.map(|ratio| format!("{ratio:.2} x")).unwrap_or_default();
        format!("  {name:<44}{client:>12}{floor:>12}{ratio:>9}")
    };
    let cost = |name: &str, client, floor| row(name, us(client), us(floor), Some(client / floor));
    let exact = |name: &str, p50, p99| format!("  {name:<44}{:>12}{:>12}", ms(p50), ms(p99));
    let least = if f.trusted_is_a_lower_bound { "at least " } else { "" };
    [
        row("", "client".to_owned(), "bare hyper".to_owned(), None),
        cost(
            &format!("CPU per token event, {} paced streams", f.streams),
            f.client_us_per_event,
            f.floor_us_per_event,
        ),
        cost(
            "CPU per token event, 64 streams in a burst",
            f.burst_client_us_per_event,
            f.burst_floor_us_per_event,
        ),
        cost("CPU per request of one token", f.client_us_per_request, f.floor_us_per_request),
        row(
            &format!("memory per open stream, {} streams", f.memory_streams),
            kb(f.client_bytes_per_stream),
            kb(f.floor_bytes_per_stream),
            None,
        ),
        format!("  {:<44}{:>12}{:>12}", "", "p50", "p99"),
        exact("TTFT error against the server's stamps", f.ttft_error_ms_p50, f.ttft_error_ms_p99),
        exact("ITL error, absolute", f.itl_error_ms_p50, f.itl_error_ms_p99),
        exact("Poisson schedule error, 200 requests/s", f.schedule_error_ms_p50, f.schedule_error_ms_p99),
        format!("  client errors in all of this: {}\n", f.client_errors),
        format!(
            "this machine can be trusted with {least}{:.0} token events/s and {:.0} requests/s on {} processors, \
             the server on the same machine included",
            f.trusted_events_per_second, f.trusted_requests_per_second, f.cpus
        ),
    ]
    .join("\n")
}
