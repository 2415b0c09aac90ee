//! `calibrate hpa replay`: a recorded metric, or a recorded run, through the controller.

use super::manifest::{BY_NAME, read_hpa};
use super::series::{SeriesFile, read_series};
use super::{ControllerArgs, evaluate, show, show_steps};
use crate::cli::console::Console;
use crate::commands::input::shown;
use crate::hpa::{Evaluation, SeriesSettings, SeriesSync};
use crate::units::Seconds;
use anyhow::{Context, bail};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Arguments of `hpa replay`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate hpa replay --series queue.csv --hpa hpa.yaml
      queue.csv holds time,value: the sum over all pods or series, at any interval
  calibrate hpa replay --series pods.csv --hpa hpa.yaml --replicas 2 --all
      pods.csv holds time,pod-a,pod-b: a pod exists from its first value to its last
  calibrate hpa replay --series both.csv --hpa hpa.yaml --json
      Of an HPA with two metrics: time,tgi_queue_size,tgi_batch_current_size
  calibrate hpa replay --from tests/conformance/controller_runs/series-pods-step.json --json
      A recorded run of a controller, decided again sync by sync

The load is as it was recorded: replicas that the model adds do not change it. A total is spread evenly over
the replicas of a Pods metric. Times are seconds, or dates like 2026-11-25T10:00:00Z.")]
pub struct ReplayArgs {
    /// JSON file of a recorded run of a controller; - is stdin
    #[arg(long, value_name = "FILE", required_unless_present = "series", conflicts_with = "series")]
    pub from: Option<PathBuf>,
    /// CSV file of a recorded metric; - is stdin
    #[arg(long, value_name = "CSV", requires = "hpa")]
    pub series: Option<PathBuf>,
    /// Manifest of the HPA; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub hpa: Option<PathBuf>,
    /// Which HPA of the file
    #[arg(long, value_name = "NAME", requires = "hpa")]
    pub hpa_name: Option<String>,
    /// Replicas in the beginning [default: the HPA's minReplicas, at least 1]
    #[arg(long, value_name = "N", conflicts_with = "from", value_parser = clap::value_parser!(i32).range(0..=100_000))]
    pub replicas: Option<i32>,
    /// How old the newest row may be to be still read, as the adapter looks back
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = length, conflicts_with = "from")]
    pub look_back: Seconds,
    /// Print every sync, also those that change nothing
    #[arg(long, conflicts_with = "from")]
    pub all: bool,
    /// Time between two syncs: --horizontal-pod-autoscaler-sync-period
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = length, conflicts_with = "from", help_heading = "Controller")]
    pub sync_period: Seconds,
    /// From the first row to the first sync [default: one period, as for a new HPA]
    #[arg(long, value_name = "DURATION", conflicts_with = "from", help_heading = "Controller")]
    pub first_sync: Option<Seconds>,
    /// The controller's flags.
    #[command(flatten)]
    pub controller: ControllerArgs,
}

fn length(text: &str) -> Result<Seconds, String> {
    let length: Seconds = text.parse().map_err(|error: crate::units::ParseUnitError| error.to_string())?;
    (length.0 >= 0.001).then_some(length).ok_or_else(|| "expected at least 1ms".to_owned())
}

/// A series, played: the replicas after each sync, and each sync.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Played {
    name: String,
    spec_replicas_after: Vec<i32>,
    syncs: Vec<PlayedSync>,
    remarks: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlayedSync {
    /// As in the file: seconds or a date.
    time: serde_json::Value,
    replicas_before: i32,
    replicas: i32,
    /// Per metric: what the HPA's status would show; `null` where it failed.
    usage_milli: Vec<Option<i64>>,
    conditions: Vec<&'static str>,
    reason: String,
    error: Option<String>,
}

/// Replays.
pub(super) fn replay(arguments: &ReplayArgs, console: Console) -> anyhow::Result<()> {
    match (&arguments.from, &arguments.series, &arguments.hpa) {
        (_, Some(series), Some(hpa)) => arguments.play(series, hpa, console),
        (Some(from), ..) => {
            let evaluation = evaluate(from)?;
            if matches!(evaluation, Evaluation::Cases(_)) {
                let file = shown(from);
                bail!("{file} holds cases, not a recorded run; explain them with 'calibrate hpa explain'");
            }
            show(&evaluation, console)
        }
        _ => bail!("--series needs the manifest of the HPA; name it with --hpa"),
    }
}

impl ReplayArgs {
    fn play(&self, series: &Path, hpa: &Path, console: Console) -> anyhow::Result<()> {
        if series == hpa {
            bail!("--series and --hpa are both {}; only one of them can be read from there", shown(hpa));
        }
        let hpa = read_hpa(hpa, self.hpa_name.as_deref(), BY_NAME)?;
        let SeriesFile { series: rows, start, remarks } = read_series(series, &hpa.spec)?;
        let settings = SeriesSettings {
            replicas: self.replicas.unwrap_or(hpa.spec.min_replicas.unwrap_or(1).max(1)),
            period: self.sync_period,
            first_sync: self.first_sync.unwrap_or(self.sync_period),
            look_back: self.look_back,
            flags: self.controller.flags(),
        };
        let played = rows.replay(&hpa.spec, settings).with_context(|| {
            format!("{} cannot be played; cut it, or take a longer --sync-period", shown(series))
        })?;
        let remarks: Vec<String> = hpa.remarks.into_iter().chain(remarks).collect();
        if !console.wants_json() {
            for remark in &remarks {
                console.note(remark);
            }
            self.tell(&played.syncs, start, console);
            return Ok(());
        }
        let document = Played {
            name: hpa.name,
            spec_replicas_after: played.syncs.iter().map(|sync| sync.synced.decision.replicas).collect(),
            syncs: played.syncs.into_iter().map(|sync| played_sync(sync, start)).collect(),
            remarks,
        };
        console.document(&serde_json::to_value(document)?);
        Ok(())
    }

    /// The timeline: every change with its steps; what changes nothing in one line.
    fn tell(&self, syncs: &[SeriesSync], start: Option<Timestamp>, console: Console) {
        let same = |a: &SeriesSync, b: &SeriesSync| {
            let (a, b) = (&a.synced.decision, &b.synced.decision);
            a.replicas == b.replicas && a.conditions == b.conditions && a.error.is_some() == b.error.is_some()
        };
        let changes = |sync: &SeriesSync| sync.before != sync.synced.decision.replicas;
        let alike = |a: &SeriesSync, b: &SeriesSync| !self.all && !changes(a) && !changes(b) && same(a, b);
        for group in syncs.chunk_by(alike) {
            let [first, .., last] = group else {
                for sync in group {
                    tell_sync(sync, start, console);
                }
                continue;
            };
            let replicas = first.synced.decision.replicas;
            let (from, to) = (shown_time(first.time, start), shown_time(last.time, start));
            console.line(&format!("{from} to {to}: {replicas} stay, in {} syncs; the first:", group.len()));
            show_steps(first.synced.decision.steps.iter().map(String::as_str), console);
        }
        let moves = syncs.iter().filter(|sync| changes(sync)).count();
        let replicas = syncs.iter().map(|sync| sync.synced.decision.replicas);
        let (least, most) = (replicas.clone().min().unwrap_or(0), replicas.max().unwrap_or(0));
        console.line(&format!("{} syncs, {moves} changes, from {least} to {most} replicas", syncs.len()));
    }
}

fn tell_sync(sync: &SeriesSync, start: Option<Timestamp>, console: Console) {
    let (time, after) = (shown_time(sync.time, start), sync.synced.decision.replicas);
    let change =
        if sync.before == after { format!("{after} stay") } else { format!("{} to {after}", sync.before) };
    console.line(&format!("{time}: {change}"));
    show_steps(sync.synced.decision.steps.iter().map(String::as_str), console);
}

fn played_sync(sync: SeriesSync, start: Option<Timestamp>) -> PlayedSync {
    let time = match start {
        None => sync.time.0.into(),
        Some(_) => shown_time(sync.time, start).into(),
    };
    let usage = sync.synced.proposals.iter().map(|proposal| proposal.as_ref().ok().map(|p| p.usage.0));
    PlayedSync {
        time,
        replicas_before: sync.before,
        usage_milli: usage.collect(),
        replicas: sync.synced.decision.replicas,
        conditions: sync.synced.decision.conditions,
        reason: sync.synced.decision.steps.join("; "),
        error: sync.synced.decision.error,
    }
}

/// A time as the file has it.
fn shown_time(time: Seconds, start: Option<Timestamp>) -> String {
    let date =
        start.and_then(|start| start.checked_add(SignedDuration::try_from_secs_f64(time.0).ok()?).ok());
    date.map_or_else(|| format!("{} s", (time.0 * 1000.0).round() / 1000.0), |date| date.to_string())
}
