//! `calibrate manifests`: everything that the cluster is given, for targets from a run, from the
//! command line, or for none yet.

use super::derive::{self, ManifestSet};
use super::server;
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::cluster::{self, HpaMetric};
use crate::hpa::{Generation, Quantity, TOLERANCE, first_average_that_scales_up};
use crate::manifest::{
    self, ClusterNames, GpuMetric, LeftOut, ManifestFile, Provenance, Server, read_objects,
};
use crate::observe::Profile;
use crate::recommend::{Assumptions, LagOrigin, Recommendation, Target, Term};
use crate::record;
use crate::scenario::{ClusterSettings, Settings, read_settings};
use crate::units::{Milli, Seconds, Signal, nearest};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use serde_json::json;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The limits of the Job, to begin with.
const JOB_SLOS: [&str; 2] = ["ttft:p95:2s", "tpot:p95:100ms"];

/// Arguments of `manifests`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate manifests --out k8s --project my-project --cluster my-cluster --location us-central1
      What needs no number: PodMonitoring, dashboards, adapter rules, setup steps
  calibrate manifests --out k8s --project my-project --cluster my-cluster --location us-central1 --target batch=17106m --target queue=3
      With HPAs on these targets; the first is the one that KEDA and the setup steps use
  calibrate manifests --out k8s --run reports/20261124T101500Z-demo --cluster-version 1.35
      With the targets of a run, for a cluster whose HPAs have their own tolerance
  calibrate manifests --out k8s --rbac --job --image my-registry/calibrate:0.1.0
      Roles with the least that each command needs, and a Job that calibrates from inside the cluster
  calibrate manifests --out k8s --server vllm --metrics-port metrics:8000 --target batch=40
      For vLLM, its port scraped by name")]
pub struct ManifestsArgs {
    /// Directory to write them into
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A target per replica, queue=3 or batch=17106m, or per GPU in percent, duty-cycle=80 or dcgm=80 (repeatable)
    #[arg(long = "target", value_name = "METRIC=VALUE", action = clap::ArgAction::Append)]
    pub targets: Vec<GivenTarget>,
    /// Take targets and names from this recorded run; flags win over its names
    #[arg(long, value_name = "RUN", conflicts_with_all = ["targets", "server", "gpu_metric", "scenario"])]
    pub run: Option<PathBuf>,
    /// Take names from this scenario file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Server, which decides what its metrics are called: one that is known, or a profile of your own as a YAML file [default: tgi]
    #[arg(long, value_parser = ServerName, value_name = "SERVER")]
    pub server: Option<String>,
    /// Metric of the DCGM exporter that stands for GPU utilization [default: gpu-util]
    #[arg(long, value_enum, value_name = "METRIC")]
    pub gpu_metric: Option<GpuMetric>,
    /// GPUs of each replica [default: 1]
    #[arg(long, value_name = "N")]
    pub gpus_per_replica: Option<u32>,
    /// HPA tolerance that the targets reckon with, as a fraction of 1 [default: 0.1]
    #[arg(long, value_name = "FRACTION")]
    pub tolerance: Option<f64>,
    /// Write a Role for each command that speaks to the cluster, with the least that it needs
    #[arg(long)]
    pub rbac: bool,
    /// Write a Job that calibrates from inside the cluster; it is made suspended
    #[arg(long)]
    pub job: bool,
    /// Image of the Job, as the Dockerfile makes it
    #[arg(long, value_name = "IMAGE", default_value = concat!("calibrate:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// Names in the cluster.
    #[command(flatten)]
    pub cluster: ClusterSettings,
}

/// Any text, of which the names of the known servers are completed.
#[derive(Clone)]
struct ServerName;

impl TypedValueParser for ServerName {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Profile::names().map(PossibleValue::new)))
    }
}

/// A target as given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenTarget {
    /// The metric.
    pub signal: Signal,
    /// Its `averageValue` per replica, or per GPU.
    pub value: Milli,
}

impl FromStr for GivenTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) =
            text.split_once('=').ok_or_else(|| format!("'{text}' is not METRIC=VALUE, like batch=17106m"))?;
        let signal = Signal::ALL.into_iter().find(|signal| signal.slug() == name);
        let known = Signal::ALL.map(Signal::slug);
        let hint = || nearest(name, known).map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
        let signal = signal.ok_or_else(|| format!("'{name}' is none of {}{}", known.join(", "), hint()))?;
        let quantity: Quantity = value.parse().map_err(|error| format!("{error}"))?;
        let value = quantity.milli();
        if value.0 <= 0 {
            return Err(format!("the target of {name} must be above 0"));
        }
        Ok(GivenTarget { signal, value })
    }
}

/// Writes the manifests.
pub(super) fn manifests(arguments: ManifestsArgs, console: Console) -> Result<Exit, Failure> {
    let out = arguments.out.clone();
    let (rbac, job, image) = (arguments.rbac, arguments.job, arguments.image.clone());
    if let Some(run) = arguments.run.clone() {
        let other = Settings {
            cluster: arguments.cluster,
            gpus_per_replica: arguments.gpus_per_replica,
            tolerance: arguments.tolerance,
            ..Settings::default()
        };
        let derived = derive::read(std::slice::from_ref(&run), other, None).or_exit(Exit::Usage)?;
        let Some(set) = derived.manifests() else {
            let run = run.display();
            return Err(anyhow!(
                "the run {run} gives no target ('calibrate report {run}' says why); without --run the manifests that \
                 need no number are written"
            ))
            .or_exit(Exit::Invalid);
        };
        let names = derived.names().or_exit(Exit::Usage)?;
        let mut files = set.files.to_vec();
        files.extend(in_cluster(&names, &files, rbac, job.then_some(&image)).or_exit(Exit::Usage)?);
        return write(&out, &ManifestSet { files: &files, ..set }, console);
    }
    let (recommendation, names) = from_flags(arguments).or_exit(Exit::Usage)?;
    let version = env!("CARGO_PKG_VERSION");
    let given = format!(
        "calibrate {version}; the targets were given on its command line, not derived from a measurement"
    );
    let provenance = Provenance { lines: vec![given], simulated: false };
    let all = manifest::render_all(&recommendation, &names, &provenance).or_exit(Exit::Usage)?;
    let mut files: Vec<_> = all.files.into_iter().map(|file| (file.name, file.text)).collect();
    files.extend(in_cluster(&names, &files, rbac, job.then_some(&image)).or_exit(Exit::Usage)?);
    let warnings = manifest::warnings(&recommendation, &names);
    write(&out, &ManifestSet { files: &files, left_out: &all.left_out, warnings: &warnings }, console)
}

/// What a calibrate inside the cluster, or one that speaks to it, is given.
fn in_cluster(
    names: &ClusterNames,
    files: &[(String, String)],
    rbac: bool,
    image: Option<&String>,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut more = Vec::new();
    if rbac {
        // Those that `calibrate apply` takes.
        let applied = Signal::ALL.map(|signal| format!("hpa-{}.yaml", signal.slug()));
        let hpas = files.iter().filter(|(name, _)| applied.contains(name));
        let mut metrics = Vec::new();
        for (_, text) in hpas {
            metrics.extend(read_objects(text)?.iter().flat_map(|node| HpaMetric::of(&node.value())));
        }
        metrics.sort();
        metrics.dedup_by_key(|metric| metric.resource());
        let workload = cluster::workload_kind(&names.scaled.1).unwrap_or(cluster::kinds::DEPLOYMENT);
        more.extend(cluster::rbac_files(&names.namespace, workload, &metrics)?);
    }
    if let Some(image) = image {
        let text = manifest::job(names, image, cluster::SERVICE_ACCOUNT, &JOB_SLOS.map(str::to_owned))?;
        more.push(ManifestFile { name: "job.yaml".to_owned(), text });
    }
    Ok(more.into_iter().map(|file| (file.name, file.text)).collect())
}

/// The targets and names of the command line, and of the scenario below them.
fn from_flags(arguments: ManifestsArgs) -> anyhow::Result<(Recommendation, ClusterNames)> {
    let below = match &arguments.scenario {
        Some(path) => {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read the scenario {}", path.display()))?;
            read_settings(path, &text)?
        }
        None => Settings::default(),
    };
    let tolerance = arguments.tolerance.or(below.tolerance).unwrap_or(TOLERANCE);
    if !(0.0..1.0).contains(&tolerance) {
        bail!("tolerance must be at least 0 and below 1; 10 % is written 0.1");
    }
    let cluster = arguments.cluster.over(below.cluster);
    let gpus = arguments.gpus_per_replica.or(below.gpus_per_replica).unwrap_or(1);
    let server = match arguments.server.as_deref().or(below.server.as_deref()) {
        None | Some("auto") => Server::default(),
        Some(kind) => derive::server_of(&server::named(kind).map_err(|failure| failure.error)?),
    };
    let mut names = derive::names_for(server, &cluster, gpus);
    names.gpu_metric = arguments.gpu_metric.unwrap_or_default();
    Ok((recommendation(&arguments.targets, tolerance)?, names))
}

/// Given targets as if a run had recommended them, the first above the others.
fn recommendation(given: &[GivenTarget], tolerance: f64) -> anyhow::Result<Recommendation> {
    let mut targets = Vec::new();
    for signal in Signal::ALL {
        let mut values = given.iter().filter(|target| target.signal == signal).map(|target| target.value);
        let value = values.next();
        if values.next().is_some() {
            bail!("--target {} is given twice", signal.slug());
        }
        targets.push(target(signal, value, tolerance)?);
    }
    let recommended = given.first().map(|target| target.signal);
    // Given targets stand as they are: nothing but the tolerance was reckoned with.
    let assumptions = Assumptions {
        tolerance,
        lag: Seconds::ZERO,
        lag_origin: LagOrigin::Given,
        startup: Seconds::ZERO,
        startup_origin: LagOrigin::Given,
        growth: 0.0,
    };
    Ok(Recommendation {
        assumptions,
        targets,
        recommended,
        rationale: Vec::new(),
        advice: Vec::new(),
        warnings: Vec::new(),
    })
}

fn target(signal: Signal, value: Option<Milli>, tolerance: f64) -> anyhow::Result<Target> {
    let slug = signal.slug();
    let average_value = value
        .ok_or_else(|| format!("give one with --target {slug}=VALUE, or a run that found one with --run"));
    let fires_at =
        value.and_then(|value| first_average_that_scales_up(value, tolerance, Generation::Inclusive));
    if let (Some(value), Some(most), Some(fires_at)) = (value, signal.upper_bound(), fires_at)
        && fires_at.as_f64() > most
    {
        bail!(
            "--target {slug}={value} never scales up: with tolerance {tolerance} it takes an average of {}, and {signal} \
             ends at {most}; give at most {}",
            fires_at.as_f64(),
            (most / (1.0 + tolerance)).floor()
        );
    }
    let terms = value.map(|value| Term {
        name: "averageValue, as given".to_owned(),
        value: format!("{value} {}", signal.unit()),
    });
    Ok(Target {
        signal,
        at_capacity: None,
        samples: 0,
        average_value,
        fires_at,
        fires_at_load: None,
        terms: terms.into_iter().collect(),
        gates: Vec::new(),
        remarks: Vec::new(),
    })
}

fn write(out: &Path, written: &ManifestSet, console: Console) -> Result<Exit, Failure> {
    let shown = out.display();
    fs::create_dir_all(out)
        .with_context(|| format!("cannot make the directory {shown}"))
        .or_exit(Exit::Usage)?;
    for (name, text) in written.files {
        record::write_file(&out.join(name), text.as_bytes()).or_exit(Exit::Failed)?;
        console.note(&format!("wrote     {}", out.join(name).display()));
    }
    for LeftOut { name, reason } in written.left_out {
        console.summary(&format!("left out  {name}: {reason}"));
        if out.join(name).exists() {
            console.warn(&format!("{} is from an earlier call", out.join(name).display()));
        }
    }
    for warning in written.warnings {
        console.warn(warning);
    }
    if console.wants_json() {
        let names: Vec<&str> = written.files.iter().map(|(name, _)| name.as_str()).collect();
        let left_out: Vec<_> =
            written.left_out.iter().map(|left| json!({ "file": left.name, "reason": left.reason })).collect();
        console.document(&json!({
            "directory": shown.to_string(),
            "files": names,
            "left_out": left_out,
            "warnings": written.warnings,
            "exit_code": Exit::Done as u8,
        }));
    }
    Ok(Exit::Done)
}
