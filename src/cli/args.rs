//! The command line.

use crate::commands::apply::ApplyArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::help::{CompletionsArgs, ManArgs};
use crate::commands::hpa::HpaArgs;
use crate::commands::lint::LintArgs;
use crate::commands::manifests::ManifestsArgs;
use crate::commands::rollback::RollbackArgs;
use crate::commands::simulate::SimulateArgs;
use crate::commands::verify::VerifyArgs;
use crate::replay::TrafficSpec;
use crate::scenario::Settings;
use crate::units::{Seconds, Signal, Slo};
use clap::builder::styling::{AnsiColor, Styles};
use clap::error::{ContextKind, ContextValue};
use clap::{Args, ColorChoice, Parser, Subcommand};
use std::path::PathBuf;

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
  3    a gate failed: manifests have errors, or a target does not hold under traffic
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
    #[arg(long, value_name = "SPEC", conflicts_with_all = ["lag", "growth", "production_replicas"])]
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
    Signal::ALL
        .into_iter()
        .find(|signal| signal.slug() == text)
        .ok_or_else(|| format!("there are: {}", names().collect::<Vec<_>>().join(", ")))
}

/// Arguments of `report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate report reports/20261124T101500Z-demo
      Also for a run that was cut off: what was measured is analyzed")]
pub struct ReportArgs {
    /// Directory of the run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
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
      -d '{\"inputs\":\"Hello\",\"parameters\":{\"max_new_tokens\":8}}'")]
pub struct SimArgs {
    /// What to imitate
    #[arg(long, value_name = "PRESET", default_value = "demo")]
    pub preset: String,
    /// Port to listen on, on the loopback address; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
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
