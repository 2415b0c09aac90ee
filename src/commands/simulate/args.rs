//! The arguments of `simulate`, and what they make of the run's own scenario.

use crate::commands::derive;
use crate::hpa::Range;
use crate::recommend::Assumptions;
use crate::replay::{Conditions, Pipeline, StartUp, TrafficSpec};
use crate::scenario::{ClusterSettings, Scenario};
use crate::units::{Milli, ParseUnitError, Seconds, Signal, Slo};
use anyhow::anyhow;
use clap::Args;
use std::path::PathBuf;
use std::str::FromStr;

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
    /// Age of a value when the HPA reads it, half a scrape interval included [default: the run's own, else 22.5s]
    #[arg(long, value_name = "TIME")]
    pub lag: Option<Seconds>,
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
    pub(super) signal: Signal,
    pub(super) value: Milli,
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

impl ClusterArgs {
    pub(super) fn check(&self, scale: f64) -> anyhow::Result<()> {
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
        within("lag (seconds)", self.lag.unwrap_or(self.scrape).0, self.scrape.0 / 2.0, 3600.0)?;
        within("goal (percent)", self.goal.unwrap_or(5.0), 0.01, 99.0)?;
        within("tolerance", self.tolerance.unwrap_or(0.1), 0.0, 10.0)
    }

    /// `run` is what the run itself reckons with.
    pub(super) fn conditions(&self, run: &Assumptions, scenario: &Scenario) -> Conditions {
        let lag = self.lag.unwrap_or(run.lag);
        Conditions {
            pipeline: Pipeline::with_lag(self.scrape, lag),
            start_up: StartUp {
                mean: self.startup.unwrap_or(run.startup),
                spread: self.startup_spread,
                ..StartUp::default()
            },
            gpus_per_replica: scenario.gpus_per_replica,
            ..Conditions::default()
        }
    }

    pub(super) fn range(&self, scenario: &Scenario) -> anyhow::Result<Range> {
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

    /// What the flags say instead of the run's own cluster.
    pub(super) fn settings(&self) -> ClusterSettings {
        let version = self.cluster_version.map(|(major, minor)| format!("{major}.{minor}"));
        ClusterSettings { cluster_version: version, ..ClusterSettings::default() }
    }
}
