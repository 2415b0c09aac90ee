//! The command line.

use crate::commands::apply::ApplyArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::gate::GateArgs;
use crate::commands::help::{CompletionsArgs, ManArgs};
use crate::commands::hpa::HpaArgs;
use crate::commands::lint::LintArgs;
use crate::commands::manifests::ManifestsArgs;
use crate::commands::rollback::RollbackArgs;
use crate::commands::simulate::SimulateArgs;
use crate::commands::verify::VerifyArgs;
use crate::replay::TrafficSpec;
use crate::scenario::Settings;
use crate::units::{ParseUnitError, Rate, Seconds, Signal, Slo, nearest};
use clap::builder::styling::{AnsiColor, Styles};
use clap::error::{ContextKind, ContextValue};
use clap::{Args, ColorChoice, Parser, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Finds the metric value at which an LLM server must scale, and writes the tuned Kubernetes HPA.
#[derive(Debug, Parser)]
#[command(name = "calibrate", version, styles = STYLES, propagate_version = true, after_help = "\
Exit codes:
  0    done
  1    failed: target unreachable, server died, disk full
  2    bad usage or input
  3    a gate failed: manifests have errors, a run fails its checks, a target does not hold under traffic
  4    the measurement is invalid or gives no answer: nothing is recommended
  130  interrupted; what was measured is analyzed and kept")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// One machine-readable JSON document on stdout and nothing else there
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Only warnings and results
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
    /// More about what is being done (-vv for every failed request)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
    /// Colours on the terminal
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    pub color: ColorChoice,
}

/// Flags whose value, given wrongly, may be a secret.
const SECRET_FLAGS: [&str; 4] = ["--bearer-token", "--header", "--prometheus-token", "--google-credentials"];

impl Cli {
    /// The command line of this process. A wrong one, `--help` and `--version` end the process here.
    pub fn from_command_line() -> Cli {
        Cli::try_parse().unwrap_or_else(|error| without_secrets(error).exit())
    }
}

/// An error that does not repeat what was given where a secret belongs.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let about = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    if SECRET_FLAGS.iter().any(|flag| about.starts_with(flag)) {
        error.insert(ContextKind::InvalidValue, ContextValue::String("(not shown)".to_owned()));
    }
    error
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ramp load against a server, find what its SLO allows, and write the HPA targets
    Run(Box<RunArgs>),
    /// Derive the targets again from a recorded run, also under another SLO or tolerance
    Recommend(RecommendArgs),
    /// Derive and render everything again from a recorded run
    Report(ReportArgs),
    /// Replay traffic through the measured replica and the HPA: candidates beside each other, the best target
    Simulate(Box<SimulateArgs>),
    /// Check a run in CI: its SLOs, its capacity, and whether it is worse than other runs
    Gate(Box<GateArgs>),
    /// Look whether the server and every source of its metrics is there, fresh and plausible
    Doctor(Box<DoctorArgs>),
    /// Explain what the HPA controller decides, and why
    Hpa(HpaArgs),
    /// Find what is wrong with HPA and ScaledObject manifests, before or after a run
    Lint(LintArgs),
    /// Write the manifests, dashboards and setup steps for a cluster, with or without a run
    Manifests(Box<ManifestsArgs>),
    /// Apply the HPA of a run to its cluster: dry run, diff, server-side apply, until it scales
    Apply(ApplyArgs),
    /// Put back what was there before an apply
    Rollback(RollbackArgs),
    /// Send traffic at the autoscaled deployment and hold what happens against the prediction
    Verify(Box<VerifyArgs>),
    /// Measure what the load client costs on this machine and how exact it is
    BenchClient(BenchArgs),
    /// Serve the simulated TGI server on a port, for any client
    Sim(SimArgs),
    /// How far a calibration can be trusted: many simulated ones against known truth
    Study(StudyArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the man page, or write one for each command
    Man(ManArgs),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate run --ramp
      The whole thing in about two and a half minutes against the embedded simulated server
  calibrate run --ramp --target http://localhost:8080 --slo ttft:p95:2s --slo tpot:p95:80ms
      A real server, with an adaptive search for its limit
  calibrate run --ramp --deployment default/tgi-gemma-deployment --slo ttft:p95:2s --pause-autoscaler
      A Deployment in the cluster of the kubeconfig; its HPA is paused for the time of the run
  calibrate run --ramp=rate:1..20:10x30s --target http://localhost:8080 --slo ttft:p95:2s
      Ten steps of 30 seconds from 1 to 20 requests per second
  calibrate run --ramp=trace:azure.csv*2 --target http://localhost:8080 --slo ttft:p95:2s
      A recorded trace, twice as fast
  calibrate run --resume reports/20261124T101500Z-run
      What is left of a run that was killed or interrupted
  calibrate run --scenario scenarios/gke-tgi-gemma.yaml --target http://10.0.0.7:8000
      Everything from a file, the address from a flag")]
pub struct RunArgs {
    /// Scenario file; flags win over it
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub scenario: Option<PathBuf>,
    /// Go on with a run that ended early, at its first unfinished step
    #[arg(long, value_name = "RUN", conflicts_with = "scenario", help_heading = "Run")]
    pub resume: Option<PathBuf>,
    /// Change objects of the cluster without asking
    #[arg(long, help_heading = "Cluster")]
    pub yes: bool,
    /// The flags that are also fields of the scenario file.
    #[command(flatten)]
    pub settings: Settings,
}

/// Arguments of `recommend`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate recommend reports/20261124T101500Z-demo --slo ttft:p99:1s --slo tpot:p95:80ms
      What the same measurement says under other limits; nothing is written
  calibrate recommend reports/20261124T101500Z-demo --startup 4m --growth 0.2 --production-replicas 8
      For slower replicas, load that grows faster, and eight replicas that share it
  calibrate recommend reports/monday reports/tuesday --tolerance 0.05 --json
      Two runs of one deployment together, for a controller with another tolerance")]
pub struct RecommendArgs {
    /// Directory of the run; several of one deployment are taken together
    #[arg(value_name = "RUN", required = true, num_args = 1..)]
    pub run: Vec<PathBuf>,
    /// A limit instead of the run's own, METRIC:STAT:LIMIT (repeatable)
    #[arg(long, value_name = "SLO", action = clap::ArgAction::Append)]
    pub slo: Vec<Slo>,
    /// Recommend this metric, whatever speaks against it
    #[arg(long, value_name = "METRIC", value_parser = signal)]
    pub metric: Option<Signal>,
    /// Load over time: the cheapest target that holds under it, as `simulate --optimize` finds it with its defaults
    #[arg(long, value_name = "SPEC", conflicts_with_all = ["growth", "production_replicas"])]
    pub traffic: Option<TrafficSpec>,
    /// What is assumed of the control loop, instead of what the run assumed.
    #[command(flatten)]
    pub other: LoopArgs,
}

/// What is assumed of the control loop around the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Args)]
pub struct LoopArgs {
    /// Tolerance of the HPA controller, as a fraction of 1
    #[arg(long, value_name = "FRACTION")]
    pub tolerance: Option<f64>,
    /// Delay of the metric on its way to the HPA, like 30s
    #[arg(long, value_name = "TIME")]
    pub lag: Option<Seconds>,
    /// Time from the decision to scale up until the new replica serves, like 2m
    #[arg(long, value_name = "TIME")]
    pub startup: Option<Seconds>,
    /// Growth of the load that must be survived, as a fraction per minute
    #[arg(long, value_name = "FRACTION")]
    pub growth: Option<f64>,
    /// Replicas that share the load in production
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub production_replicas: Option<u32>,
}

/// A metric by its name.
pub(crate) fn signal(text: &str) -> Result<Signal, String> {
    let names = || Signal::ALL.into_iter().map(Signal::slug);
    let hint = || nearest(text, names()).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
    Signal::ALL
        .into_iter()
        .find(|signal| signal.slug() == text)
        .ok_or_else(|| format!("expected one of {}{}", names().collect::<Vec<_>>().join(", "), hint()))
}

/// Arguments of `report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate report reports/20261124T101500Z-demo
      Also for a run that was cut off: what was measured is analyzed
  calibrate report reports/20261124T101500Z-demo --plan 10,50,200rps --gpu-cost 0.70
      What these loads need in replicas, GPUs and money, and what another SLO would cost
  calibrate report reports/l4 reports/a100 --compare --out reports/l4-a100
      Two runs beside each other: what differs, and what their intervals let nobody tell apart")]
pub struct ReportArgs {
    /// Directory of the run; several with --compare
    #[arg(value_name = "RUN", required = true, num_args = 1..)]
    pub run: Vec<PathBuf>,
    /// Loads to plan for, on all replicas together, like 10,50,200rps [default: some round ones]
    #[arg(long, value_name = "LOADS", help_heading = "Capacity planning")]
    pub plan: Option<Loads>,
    /// What a GPU costs for an hour, in any currency
    #[arg(long, value_name = "COST", value_parser = cost, help_heading = "Capacity planning")]
    pub gpu_cost: Option<f64>,
    /// Compare the runs with the first of them
    #[arg(long, conflicts_with_all = ["plan", "gpu_cost"], help_heading = "Comparison")]
    pub compare: bool,
    /// Judge all of them by these limits, METRIC:STAT:LIMIT (repeatable)
    #[arg(long, value_name = "SLO", requires = "compare", action = clap::ArgAction::Append, help_heading = "Comparison")]
    pub slo: Vec<Slo>,
    /// Directory for comparison.html and comparison.json [default: that of the first run]
    #[arg(long, value_name = "DIR", requires = "compare", help_heading = "Comparison")]
    pub out: Option<PathBuf>,
}

/// Loads in requests per second.
#[derive(Debug, Clone, PartialEq)]
pub struct Loads(pub Vec<Rate>);

/// More rows than this nobody reads.
const MOST_LOADS: usize = 12;

impl FromStr for Loads {
    type Err = ParseUnitError;

    /// `10,50,200`, `10, 50, 200 rps`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || {
            ParseUnitError::new(
                text,
                "a list of loads",
                "one to twelve rates in requests/s, like 10,50,200rps",
            )
        };
        let loads = text.split(',').map(str::parse).collect::<Result<Vec<Rate>, _>>().map_err(|_| error())?;
        if loads.len() > MOST_LOADS { Err(error()) } else { Ok(Loads(loads)) }
    }
}

/// A cost above nothing.
fn cost(text: &str) -> Result<f64, ParseUnitError> {
    let found = text.parse().ok().filter(|cost: &f64| cost.is_finite() && *cost > 0.0);
    found.ok_or_else(|| ParseUnitError::new(text, "a cost", "a number above 0, like 0.70"))
}

/// Arguments of `bench-client`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate bench-client
      Cost and exactness of the client beside a bare hyper client, in under a minute
  calibrate bench-client --memory-streams 10000 --json
      With ten thousand open streams, as one JSON document")]
pub struct BenchArgs {
    /// Streams at once, for cost and exactness
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub streams: u32,
    /// Streams at once, for the memory of each
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub memory_streams: u32,
    /// Which process of the bench this is
    #[arg(long, value_enum, hide = true)]
    pub role: Option<BenchRole>,
    /// What that process is to do
    #[arg(long, hide = true)]
    pub task: Option<String>,
}

/// The processes of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchRole {
    /// Streams tokens.
    Server,
    /// Takes them with bare hyper.
    Floor,
    /// Takes them as `run` does.
    Client,
}

impl BenchRole {
    /// Its name on the command line.
    pub fn word(self) -> &'static str {
        match self {
            BenchRole::Server => "server",
            BenchRole::Floor => "floor",
            BenchRole::Client => "client",
        }
    }
}

/// Arguments of `sim`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate sim --list
      What can be imitated
  calibrate sim --preset gemma-2b-l4-like --port 8080
  curl localhost:8080/generate_stream -H 'content-type: application/json' \\
      -d '{\"inputs\":\"Hello\",\"parameters\":{\"max_new_tokens\":8}}'
  calibrate sim --host 0.0.0.0 --port 8000
      In a pod: a cluster without GPUs, to try calibrate in")]
pub struct SimArgs {
    /// What to imitate
    #[arg(long, value_name = "PRESET", default_value = "demo")]
    pub preset: String,
    /// Port to listen on; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Address to listen on; 0.0.0.0 for all, as in a pod
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// List the presets and stop
    #[arg(long)]
    pub list: bool,
}

/// Arguments of `study`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate study --quick
      Twelve servers that are like the model or unlike it, in under a minute
  calibrate study --seeds 34 --json
      The table of the README
  calibrate study --server-model server.yaml --production-replicas 8
      A server like yours: its costs, its sizes, its limits; `calibrate study --example` prints such a file")]
pub struct StudyArgs {
    /// Few calibrations of each server
    #[arg(long)]
    pub quick: bool,
    /// Calibrations of each server [default: 20, with --quick 3]
    #[arg(long, value_name = "N", conflicts_with = "quick", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub seeds: Option<u64>,
    /// A server instead of those that are built in
    #[arg(long, value_name = "FILE")]
    pub server_model: Option<PathBuf>,
    /// Replicas to predict for, besides those that are measured
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub production_replicas: u32,
    /// Print a server as --server-model reads it, and stop
    #[arg(long)]
    pub example: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_every_flag_a_help_text() {
        for command in Cli::command().get_subcommands() {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Examples:"), "{} has no examples", command.get_name());
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{} {} has no help", command.get_name(), argument.get_id());
                assert!(
                    !help.ends_with('.'),
                    "{} {}: no trailing period",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn every_example_is_a_command_line_that_calibrate_takes() {
        let mut examples = 0;
        for command in Cli::command().get_subcommands() {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // One that goes on in the next line is one command line.
            let after = after.replace("\\\n", " ");
            let lines = after.lines().filter_map(|line| line.trim_start().strip_prefix("calibrate "));
            for example in lines {
                let words = example.split_whitespace().take_while(|word| *word != ">");
                let parsed = Cli::try_parse_from(std::iter::once("calibrate").chain(words));
                assert!(parsed.is_ok(), "calibrate {example}: {}", parsed.unwrap_err());
                assert!(example.starts_with(command.get_name()), "{example} is no example of its command");
                examples += 1;
            }
        }
        assert!(examples > 20, "{examples}");
    }

    #[test]
    fn loads_are_rates_with_or_without_a_unit() {
        let loads =
            |text: &str| text.parse::<Loads>().map(|loads| loads.0.iter().map(|load| load.0).collect());
        assert_eq!(loads("10, 50,200 rps"), Ok(vec![10.0, 50.0, 200.0]));
        assert_eq!(loads("3.5/s"), Ok(vec![3.5]));
        for wrong in ["", "10,", "10;20", "-3", "0", "ten", "1,2,3,4,5,6,7,8,9,10,11,12,13"] {
            assert!(wrong.parse::<Loads>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ramp_alone_is_the_adaptive_search() {
        let parse = |words: &[&str]| match Cli::try_parse_from(words).unwrap().command {
            Command::Run(run) => run.settings.ramp.map(|ramp| ramp.to_string()),
            _ => None,
        };
        assert_eq!(parse(&["calibrate", "run", "--ramp"]).as_deref(), Some("adaptive"));
        assert_eq!(parse(&["calibrate", "run", "--ramp=rate:1,2x5s"]).as_deref(), Some("rate:1,2x5s"));
        assert_eq!(parse(&["calibrate", "run"]), None);
        assert!(Cli::try_parse_from(["calibrate", "run", "--ramp", "rate:1,2x5s"]).is_err(), "= is required");
    }
}
