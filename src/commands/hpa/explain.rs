//! `calibrate hpa explain`: one decision from flags, or the decisions of a file of cases.

use super::manifest::{BY_NAME, read_hpa};
use super::{ControllerArgs, evaluate, show};
use crate::cli::console::Console;
use crate::hpa::{
    BehaviorSpec, Controller, Evaluation, Event, Events, HpaSpec, MetricName, MetricSpec, Outcome, Phase,
    Pod, Quantity, Reading, Recommendation, Recommendations, RulesSpec, Source, SourceSpec, TargetSpec,
    Workload,
};
use crate::units::{Milli, Seconds};
use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

/// Arguments of `hpa explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate hpa explain --values 27,24,30 --target 20 --replicas 3
      A Pods metric: three pods, each with its value
  calibrate hpa explain --values 27,24 --pending 2 --target 20 --replicas 4 --max 10
      Two more pods are still starting
  calibrate hpa explain --metric-type external --sum 66 --target 20 --replicas 3 --generation absolute
      At exactly 1.1 an older controller scales up, and today's does not
  calibrate hpa explain --hpa hpa.yaml --values 12,12,12 --replicas 3 --recommended 5@120s
      With target, limits and behavior of a manifest, and what was recommended two minutes ago
  calibrate hpa explain --from tests/conformance/hpa_cases.json
      Every case of a file")]
pub struct ExplainArgs {
    /// JSON file of cases, or of a recorded run, instead of all other flags; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hpa", "target", "values", "sum", "replicas", "min", "max", "tolerance_up", "tolerance_down", "recommended", "scaled", "new"])]
    pub from: Option<PathBuf>,
    /// Take metrics, limits and behavior from this HPA manifest; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["metric_type", "target", "target_type", "tolerance_up", "tolerance_down"], help_heading = "HPA")]
    pub hpa: Option<PathBuf>,
    /// Which HPA of the file
    #[arg(long, value_name = "NAME", requires = "hpa", help_heading = "HPA")]
    pub hpa_name: Option<String>,
    /// Where the metric comes from
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = MetricType::Pods, help_heading = "HPA")]
    pub metric_type: MetricType,
    /// The target, a quantity like 20, 0.5 or 4545m
    #[arg(long, value_name = "QUANTITY", required_unless_present_any = ["from", "hpa"], value_parser = positive, help_heading = "HPA")]
    pub target: Option<Quantity>,
    /// Whether the target is per replica
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = TargetType::AverageValue, help_heading = "HPA")]
    pub target_type: TargetType,
    /// minReplicas [default: 1, or the HPA's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), help_heading = "HPA")]
    pub min: Option<i32>,
    /// maxReplicas [default: no limit, or the HPA's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), help_heading = "HPA")]
    pub max: Option<i32>,
    /// behavior.scaleUp.tolerance, which brings the other defaults of behavior with it
    #[arg(long, value_name = "QUANTITY", help_heading = "HPA")]
    pub tolerance_up: Option<Quantity>,
    /// behavior.scaleDown.tolerance, which brings the other defaults of behavior with it
    #[arg(long, value_name = "QUANTITY", help_heading = "HPA")]
    pub tolerance_down: Option<Quantity>,
    /// One value per pod or series; 'none' is a pod without one, 'failed' a metric that cannot be read (repeatable: one list per metric of the HPA)
    #[arg(long, value_name = "LIST", required_unless_present_any = ["from", "sum"], allow_hyphen_values = true, help_heading = "Now")]
    pub values: Vec<String>,
    /// The value of an External or Object metric, summed over its series
    #[arg(
        long,
        value_name = "QUANTITY",
        conflicts_with = "values",
        allow_hyphen_values = true,
        help_heading = "Now"
    )]
    pub sum: Option<String>,
    /// spec.replicas of the workload
    #[arg(long, value_name = "N", required_unless_present = "from", value_parser = clap::value_parser!(i32).range(0..=100_000), help_heading = "Now")]
    pub replicas: Option<i32>,
    /// status.replicas: the pods that exist, where they are not as many as asked for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=100_000), help_heading = "Now")]
    pub status_replicas: Option<i32>,
    /// Pods that are still Pending
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Now")]
    pub pending: u16,
    /// Running pods that are not Ready; only a Value target minds
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Now")]
    pub unready: u16,
    /// Running pods without a value, beside the 'none' in --values
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Now")]
    pub missing: u16,
    /// A recommendation of the past, like 5@120s: 5 replicas, 120 s ago (repeatable)
    #[arg(long, value_name = "N@AGE", help_heading = "Before")]
    pub recommended: Vec<Past>,
    /// A scaling of the past, like +2@30s or -1@50s (repeatable)
    #[arg(long, value_name = "CHANGE@AGE", allow_hyphen_values = true, help_heading = "Before")]
    pub scaled: Vec<Past>,
    /// The controller sees this HPA for the first time
    #[arg(long, conflicts_with = "recommended", help_heading = "Before")]
    pub new: bool,
    /// The controller's flags.
    #[command(flatten)]
    pub controller: ControllerArgs,
}

/// Where a metric comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MetricType {
    /// One value per pod
    Pods,
    /// Series from outside the cluster, summed
    External,
    /// One value of another object
    Object,
}

/// What a target is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TargetType {
    /// The metric per replica
    AverageValue,
    /// The metric as a whole
    Value,
}

/// A number that was, and how long ago.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Past {
    number: i32,
    age: Seconds,
}

impl FromStr for Past {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('@').and_then(|(number, age)| {
            Some(Past { number: number.trim().parse().ok()?, age: age.trim().parse().ok()? })
        });
        parsed.ok_or_else(|| "expected a number and an age, like 5@120s".to_owned())
    }
}

fn positive(text: &str) -> Result<Quantity, String> {
    let quantity: Quantity =
        text.parse().map_err(|error: crate::hpa::ParseQuantityError| error.to_string())?;
    let positive = quantity.milli().0 > 0;
    positive.then_some(quantity).ok_or_else(|| "the API server takes only targets above 0".to_owned())
}

/// Explains.
pub(super) fn explain(arguments: &ExplainArgs, console: Console) -> anyhow::Result<()> {
    if let Some(path) = &arguments.from {
        return show(&evaluate(path)?, console);
    }
    let (name, spec) = arguments.hpa(console)?;
    let replicas = arguments.replicas.unwrap_or(1);
    let readings = arguments.readings(&spec, replicas, console)?;
    let mut controller = Controller { events: arguments.events(), ..Controller::default() };
    // From 0 it only wakes what it put to sleep itself, which is what a decision at 0 is asked about.
    controller.scaled_to_zero = replicas == 0 && spec.can_wake();
    if !arguments.new {
        let past = |past: &Past| Recommendation { replicas: past.number, at: Seconds(-past.age.0) };
        controller.recommendations = Some(Recommendations(arguments.recommended.iter().map(past).collect()));
    }
    let flags = arguments.controller.flags();
    let synced = controller.sync_metrics(Seconds::ZERO, replicas, &spec, flags, &readings);
    let decision = synced.decision;
    if decision.replicas < replicas && arguments.recommended.is_empty() && !arguments.new {
        console.note(
            "nothing is known of earlier recommendations: one for more, within the stabilization window, would hold \
             this back (--recommended N@AGE), as a controller does that sees the HPA for the first time (--new)",
        );
    }
    let usage = match synced.proposals.as_slice() {
        [Ok(proposal)] if decision.read_metrics => Some(proposal.usage.0),
        _ => None,
    };
    let outcome = Outcome {
        name,
        replicas: Some(decision.replicas),
        usage_milli: usage,
        reason: Some(decision.steps.join("; ")),
        error: decision.error,
        conditions: decision.conditions,
        ..Outcome::default()
    };
    show(&Evaluation::Cases(vec![outcome]), console)
}

impl ExplainArgs {
    /// Name and spec of the HPA: from its file, or from flags.
    fn hpa(&self, console: Console) -> anyhow::Result<(String, HpaSpec)> {
        let (name, mut spec) = match &self.hpa {
            Some(path) => {
                let file = read_hpa(path, self.hpa_name.as_deref(), BY_NAME)?;
                for remark in &file.remarks {
                    console.note(remark);
                }
                (file.name, file.spec)
            }
            None => ("decision".to_owned(), self.spec()),
        };
        spec.min_replicas = self.min.or(spec.min_replicas);
        spec.max_replicas = self.max.unwrap_or(spec.max_replicas);
        let least = spec.min_replicas.unwrap_or(1);
        if spec.max_replicas < least {
            bail!("--max {} is below the {least} of --min or minReplicas", spec.max_replicas);
        }
        Ok((name, spec))
    }

    /// The spec that the flags describe.
    fn spec(&self) -> HpaSpec {
        let whole = self.target_type == TargetType::Value;
        let target = TargetSpec {
            kind: if whole { "Value" } else { "AverageValue" }.to_owned(),
            value: self.target.filter(|_| whole),
            average_value: self.target.filter(|_| !whole),
        };
        let source = SourceSpec {
            metric: MetricName { name: "the metric".to_owned(), ..MetricName::default() },
            target,
        };
        let of = |kind| (self.metric_type == kind).then(|| source.clone());
        let kind = match self.metric_type {
            MetricType::Pods => "Pods",
            MetricType::External => "External",
            MetricType::Object => "Object",
        };
        let metric = MetricSpec {
            kind: kind.to_owned(),
            pods: of(MetricType::Pods),
            object: of(MetricType::Object),
            external: of(MetricType::External),
        };
        let rules =
            |tolerance: Option<Quantity>| tolerance.map(|_| RulesSpec { tolerance, ..RulesSpec::default() });
        let behavior =
            BehaviorSpec { scale_up: rules(self.tolerance_up), scale_down: rules(self.tolerance_down) };
        let any = self.tolerance_up.or(self.tolerance_down).is_some();
        HpaSpec {
            min_replicas: None,
            max_replicas: i32::MAX,
            metrics: vec![metric],
            behavior: any.then_some(behavior),
        }
    }

    /// One reading per metric.
    fn readings(
        &self,
        spec: &HpaSpec,
        replicas: i32,
        console: Console,
    ) -> anyhow::Result<Vec<Result<Reading, String>>> {
        let lists: Vec<&str> = match &self.sum {
            Some(sum) => vec![sum],
            None => self.values.iter().map(String::as_str).collect(),
        };
        if lists.len() != spec.metrics.len() {
            let (given, wanted) = (lists.len(), spec.metrics.len());
            bail!(
                "the HPA has {wanted} metrics, and values are given for {given}; give --values once for each"
            );
        }
        let mut readings = Vec::new();
        for (metric, list) in spec.metrics.iter().zip(lists) {
            let (source, name, target) = metric.resolve()?;
            if source == Source::Pods && self.sum.is_some() {
                bail!("--sum is for External and Object metrics; a Pods metric has one of --values per pod");
            }
            if source == Source::Pods && matches!(target, crate::hpa::Target::Value(_)) {
                bail!("a Pods metric has only targets of type average-value");
            }
            if list.trim() == "failed" {
                readings.push(Err(format!("{name} could not be read")));
                continue;
            }
            let samples = list.split(',').map(sample).collect::<anyhow::Result<Vec<_>>>()?;
            readings.push(Ok(self.reading(source, samples, replicas, console)));
        }
        Ok(readings)
    }

    /// Samples with the pods that they belong to.
    fn reading(
        &self,
        source: Source,
        samples: Vec<Option<Milli>>,
        replicas: i32,
        console: Console,
    ) -> Reading {
        let asked = usize::try_from(replicas).unwrap_or(0);
        let (pending, unready) = (usize::from(self.pending), usize::from(self.unready));
        let listed = if source == Source::Pods { samples.len() } else { 0 };
        let told = listed + usize::from(self.missing) + pending;
        let running = if source == Source::Pods || told > 0 {
            listed + usize::from(self.missing) + asked.saturating_sub(told)
        } else {
            asked
        };
        if source == Source::Pods && told < asked {
            console.note(&format!(
                "{told} of {asked} pods are told of: the others are taken for running without a value (--pending, \
                 --missing)"
            ));
        }
        let pod = |index: usize| Pod {
            phase: if index < running { Phase::Running } else { Phase::Pending },
            ready: index + unready < running,
            deleted: false,
        };
        let pods: Vec<Pod> = (0..running + pending).map(pod).collect();
        let status = self.status_replicas.unwrap_or(replicas);
        Reading { samples, workload: Workload { spec_replicas: replicas, status_replicas: status, pods } }
    }

    fn events(&self) -> Events {
        let of = |up: bool| {
            let past = self.scaled.iter().filter(|past| (past.number > 0) == up);
            let event = |past: &Past| Event {
                change: past.number.saturating_abs(),
                at: Seconds(-past.age.0),
                outdated: false,
            };
            past.map(event).collect()
        };
        Events { up: of(true), down: of(false) }
    }
}

fn sample(text: &str) -> anyhow::Result<Option<Milli>> {
    match text.trim() {
        "none" | "" => Ok(None),
        text => {
            let quantity: Quantity = text.parse().map_err(|error| anyhow!("--values: {error}, or 'none'"))?;
            Ok(Some(quantity.milli()))
        }
    }
}
