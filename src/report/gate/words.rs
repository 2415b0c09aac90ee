//! A check in words, the same in every output.

use super::{GateReport, GateRun};
use crate::analyze::gate::{Check, Decision, LeastCapacity, OnInconclusive, SloInStep};
use crate::analyze::regression::{Change, Comparison, LoadChange, Outcome};
use crate::report::words::{figure, interval};
use crate::units::{Compared, Seconds};
use std::fmt::Write;

/// Term and definition.
pub(super) const DEFINITIONS: [(&str, &str); 4] = [
    (
        "SLO",
        "the figure of all attempts in the measured part of a step, from the scheduled send time; failed ones are infinitely late",
    ),
    ("capacity", "passes where its whole interval reaches what is asked for, fails where none of it does"),
    (
        "regression",
        "fails if a regression is sure and one of the limit cannot be ruled out, passes if one of the limit is \
         ruled out, each with 95 % confidence; fails too if more than the limit is sure at one load alone; else nobody \
         can tell. Equal runs fail in at most 5 % of gates",
    ),
    (
        "change",
        "run over baseline at equal load, mean over the loads, with the bounds that it is judged by: a bootstrap \
         over blocks of time, and 1 % between runs or what several baselines show",
    ),
];

/// What was checked.
pub(super) fn title(check: &Check) -> String {
    match check {
        Check::Slo(check) => format!("{} at {}", check.slo, check.load),
        Check::Capacity(check) => format!("capacity of at least {} per replica", check.least),
        Check::Regression(comparison) => {
            let way = if comparison.limit.of.more_is_worse() { "rise" } else { "fall" };
            format!("{}: no {way} of {}", comparison.limit.of, share(comparison.limit.share))
        }
    }
}

/// What came out, with its numbers.
pub(super) fn detail(check: &Check) -> String {
    match check {
        Check::Slo(check) => slo(check),
        Check::Capacity(check) => capacity(check),
        Check::Regression(comparison) => regression(comparison),
    }
}

/// The outcome in one word.
pub(super) fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Fail => "fail",
        Outcome::CannotTell => "cannot-tell",
    }
}

fn slo(check: &SloInStep) -> String {
    let n = check.attempts;
    match (check.outcome, check.value) {
        (Outcome::CannotTell, None) if n == 0 => "unknown: no request was sent".to_owned(),
        (Outcome::CannotTell, None) => format!(
            "unknown of {n} requests; the server does not count tokens, or requests are missing or cut off"
        ),
        (outcome, value) => {
            let open = match outcome {
                Outcome::CannotTell => "; requests that are missing or cut off could turn it",
                _ => "",
            };
            format!("{} of {n} requests{open}", figure(check.slo.metric, value))
        }
    }
}

fn capacity(check: &LeastCapacity) -> String {
    match (&check.capacity, check.held) {
        (Ok(capacity), _) => format!("{} ({})", capacity.per_replica, interval(capacity)),
        (Err(reason), Some(held)) => format!("{reason}; the highest load that holds is {held} per replica"),
        (Err(reason), None) => reason.to_string(),
    }
}

fn regression(comparison: &Comparison) -> String {
    let Some(by) = comparison.change else { return comparison.remarks.join("; ") };
    let mut text = change(by);
    if comparison.requests > 0 {
        let loads = comparison.loads.len();
        let s = if loads == 1 { "" } else { "s" };
        // Writing to a string cannot fail.
        let _ = write!(text, " over {loads} load{s}, {} requests", comparison.requests);
    }
    match (comparison.outcome, comparison.detectable) {
        (Outcome::CannotTell, _) => text + "; " + &way_out(comparison),
        (_, Some(detectable)) => text + &format!("; {} is seen in 9 of 10 runs", share(detectable)),
        _ => text,
    }
}

/// How long a run would give an answer.
fn way_out(comparison: &Comparison) -> String {
    match comparison.length {
        Some(length) => format!(
            "to see {} in 9 of 10 runs, run again, {} long, and its baselines too",
            share(comparison.limit.share),
            minutes(length)
        ),
        None if comparison.detectable.is_none() => {
            "the capacity lies between two steps of the ramp: put steps closer around it".to_owned()
        }
        None => "no length of the run would tell: the runs differ too much among themselves, so give more --baseline, \
                 or a larger limit"
            .to_owned(),
    }
}

/// A relative change with its bounds.
pub(super) fn change(change: Change) -> String {
    format!("{} ({} to {})", signed(change.by), signed(change.low), signed(change.high))
}

/// The figures at one load.
pub(super) fn at_load(of: Compared, at: &LoadChange) -> [String; 4] {
    let value = |value: f64| match of {
        Compared::Latency(..) => Seconds(value).to_string(),
        Compared::Throughput => format!("{value:.0} tokens/s"),
        Compared::Goodput => format!("{:.1} %", value * 100.0),
        Compared::Capacity => format!("{value:.2} req/s"),
    };
    [at.load.to_string(), value(at.baseline), value(at.run), change(at.change)]
}

fn signed(share: f64) -> String {
    if share.is_finite() { format!("{:+.1} %", share * 100.0) } else { "unbounded".to_owned() }
}

fn share(share: f64) -> String {
    let percent = format!("{:.1}", share * 100.0);
    format!("{} %", percent.trim_end_matches(".0"))
}

/// Whole minutes, rounded up.
fn minutes(length: Seconds) -> String {
    let minutes = (length.0 / 60.0 - 1e-9).ceil().max(1.0);
    format!("{minutes} minute{}", if minutes == 1.0 { "" } else { "s" })
}

/// The verdict in one line.
pub(super) fn verdict(report: &GateReport) -> String {
    let count = |outcome| report.checks.iter().filter(|check| check.outcome() == outcome).count();
    let (failed, open, all) = (count(Outcome::Fail), count(Outcome::CannotTell), report.checks.len());
    match report.decision {
        Decision::Passed => format!("passed: {all} of {all} checks"),
        Decision::Failed => format!("failed: {failed} of {all} checks"),
        Decision::Invalid => {
            let of = std::iter::once(&report.run).chain(&report.baselines);
            let problems: Vec<String> =
                of.filter_map(|run| Some(format!("{}: {}", run.name(), run.problem.as_deref()?))).collect();
            format!("nothing is judged: {}", problems.join("; "))
        }
        Decision::Inconclusive if all == 0 => "nothing is judged: no step was driven to its end".to_owned(),
        Decision::Inconclusive => {
            let end = match report.on_inconclusive {
                OnInconclusive::Pass => "which counts as passed".to_owned(),
                OnInconclusive::Fail => "which counts as failed".to_owned(),
                OnInconclusive::Rerun => again(report),
            };
            format!("cannot tell in {open} of {all} checks: {end}")
        }
    }
}

/// What gives an answer to everything that is open.
fn again(report: &GateReport) -> String {
    let unknown = |check: &Check| match check {
        Check::Regression(comparison) => {
            comparison.outcome == Outcome::CannotTell && comparison.detectable.is_none()
        }
        _ => false,
    };
    if report.checks.iter().any(unknown) {
        return "what to do stands with the checks".to_owned();
    }
    let lengths = report.checks.iter().filter_map(|check| match check {
        Check::Regression(comparison) if comparison.outcome == Outcome::CannotTell => Some(comparison.length),
        _ => None,
    });
    let lengths: Vec<Option<Seconds>> = lengths.collect();
    match lengths.iter().copied().collect::<Option<Vec<Seconds>>>() {
        Some(known) if !known.is_empty() => {
            format!("run again, {} long", minutes(known.into_iter().fold(Seconds::ZERO, Seconds::max)))
        }
        None => "give more baselines, or larger limits".to_owned(),
        Some(_) => "run again, with longer steps around what is asked for".to_owned(),
    }
}

/// A run and what is to be known of it.
pub(super) fn run(run: &GateRun) -> String {
    let server = run.server.as_deref().unwrap_or("unknown server");
    let simulated = if run.simulated { ", simulated" } else { "" };
    match (&run.problem, run.measurement) {
        (Some(problem), _) => format!("{}: {problem}", run.name()),
        (None, measurement) => {
            format!("{} ({server}{simulated}; measurement {})", run.name(), measurement.unwrap_or("unknown"))
        }
    }
}
