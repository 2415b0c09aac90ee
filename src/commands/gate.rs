//! `calibrate gate`: a verdict on a run for CI.

mod comparable;
mod runs;

use crate::analyze::gate::{
    Check, Decision, OnInconclusive, capacity, decide, default_regressions, demand, slos,
};
use crate::analyze::regression::compare;
use crate::cli::console::Console;
use crate::cli::{Exit, Failure, OrExit};
use crate::report::gate::{GateReport, json, junit, markdown, text};
use crate::scenario::RampSpec;
use crate::units::{Compared, MaxRegression, Rate, Slo, SloMetric};
use anyhow::Context;
use clap::Args;
use runs::{Loaded, Need};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments of `gate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Checks:
  --slo METRIC:STAT:LIMIT        in every step of a fixed ramp, or up to --min-capacity; without it, the run's own
  --min-capacity RATE            the load within the SLO, per replica, with its interval
  --max-regression ttft:p95:10%  at equal load; ttft, tpot, itl, e2e, ntpot with p50 to p99.9 or mean
  --max-regression capacity:5%   also goodput and throughput; without it, the mean of each latency of the SLO by 10%

A regression fails if it is sure and one of the limit cannot be ruled out, passes if one of the limit is ruled
out, each with 95 % confidence; else nobody can tell. Runs with the same seed and ramp are compared request by
request; several baselines also show how runs differ.

Exit codes: 0 all checks pass; 3 a check fails; 4 a run is missing, interrupted, invalid or not to be compared,
or nobody can tell and --on-inconclusive is rerun.

Examples:
  calibrate gate reports/ci --slo ttft:p95:500ms --min-capacity 12rps
      What this run must hold by itself
  calibrate gate reports/ci --baseline reports/main --max-regression ttft:p95:10% --max-regression capacity:5%
      Not worse than another run, by more than chance
  calibrate gate reports/ci --baseline reports/main-1 reports/main-2 reports/main-3 --junit gate.xml --summary gate.md
      Against several runs, with JUnit XML and a Markdown summary for the job")]
pub struct GateArgs {
    /// Directory of the run to check
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Runs to compare with (repeatable)
    #[arg(long, value_name = "RUN", num_args = 1.., action = clap::ArgAction::Append)]
    pub baseline: Vec<PathBuf>,
    /// A limit instead of the run's own, METRIC:STAT:LIMIT (repeatable)
    #[arg(long, value_name = "SLO", action = clap::ArgAction::Append)]
    pub slo: Vec<Slo>,
    /// The regression that must not slip through, METRIC:STAT:LIMIT, like ttft:p95:10% or capacity:5% (repeatable)
    #[arg(long, value_name = "LIMIT", action = clap::ArgAction::Append)]
    pub max_regression: Vec<MaxRegression>,
    /// Least load within the SLO, requests per second and replica
    #[arg(long, value_name = "RATE")]
    pub min_capacity: Option<Rate>,
    /// What checks that cannot be told count as
    #[arg(long, value_name = "AS", value_enum, default_value = "rerun")]
    pub on_inconclusive: OnInconclusive,
    /// JUnit XML to write
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// File to append a Markdown summary to, like "$GITHUB_STEP_SUMMARY"
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
}

/// Checks the run and says what came out.
pub(super) fn gate(arguments: &GateArgs, console: Console) -> Result<Exit, Failure> {
    let report = judge(arguments);
    let exit = exit(report.decision, report.on_inconclusive);
    if let Some(path) = &arguments.junit {
        let wrote = std::fs::write(path, junit(&report));
        wrote.with_context(|| cannot("write JUnit XML to", path, "--junit")).or_exit(Exit::Usage)?;
    }
    if let Some(path) = &arguments.summary {
        append(path, &markdown(&report)).or_exit(Exit::Usage)?;
    }
    if console.wants_json() {
        console.document(&json(&report));
    } else {
        console.line(&text(&report, console.colour_on_stdout()));
    }
    Ok(exit)
}

/// The exit code of a decision.
fn exit(decision: Decision, on_inconclusive: OnInconclusive) -> Exit {
    match (decision, on_inconclusive) {
        (Decision::Passed, _) | (Decision::Inconclusive, OnInconclusive::Pass) => Exit::Done,
        (Decision::Failed, _) | (Decision::Inconclusive, OnInconclusive::Fail) => Exit::Gate,
        (Decision::Invalid, _) | (Decision::Inconclusive, OnInconclusive::Rerun) => Exit::Invalid,
    }
}

fn judge(arguments: &GateArgs) -> GateReport {
    let own = runs::slos_of(&arguments.run, &arguments.slo);
    let limits = match (&*arguments.max_regression, &own) {
        ([], Some(slos)) => default_regressions(slos),
        (given, _) => given.to_vec(),
    };
    let of = |wanted: fn(&Compared) -> bool| limits.iter().any(|limit| wanted(&limit.of));
    let compared = of(|of| *of == Compared::Capacity) && !arguments.baseline.is_empty();
    let need = Need {
        slos: own.unwrap_or_default(),
        capacity: arguments.min_capacity.is_some() || compared,
        gaps: of(|of| matches!(of, Compared::Latency(SloMetric::Itl, _))),
    };
    let mut run = Loaded::read(&arguments.run, &need);
    let mut baselines: Vec<Loaded> =
        arguments.baseline.iter().map(|directory| Loaded::read(directory, &need)).collect();
    let mut remarks = Vec::new();
    if baselines.is_empty() && !arguments.max_regression.is_empty() {
        remarks.push("there is no --baseline, so regressions are not looked for".to_owned());
    }
    runs::refuse_twins(&mut baselines);
    for baseline in &mut baselines {
        remarks.extend(runs::compare_scenarios(&run, baseline, !arguments.slo.is_empty()));
    }
    run.refuse_unless_judged();
    let usable = run.is_usable() && baselines.iter().all(Loaded::is_usable);
    let checks = if usable { checks(arguments, &run, &baselines, &limits) } else { Vec::new() };
    remarks.extend(checks.iter().flat_map(remarks_of).cloned());
    let mut seen = Vec::new();
    remarks.retain(|remark| {
        !seen.contains(remark) && {
            seen.push(remark.clone());
            true
        }
    });
    let decision = if usable { decide(&checks) } else { Decision::Invalid };
    GateReport {
        exit_code: exit(decision, arguments.on_inconclusive) as u8,
        run: run.facts,
        baselines: baselines.into_iter().map(|baseline| baseline.facts).collect(),
        checks,
        remarks,
        decision,
        on_inconclusive: arguments.on_inconclusive,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn remarks_of(check: &Check) -> &[String] {
    match check {
        // Without a change the remarks are the result itself.
        Check::Regression(comparison) if comparison.change.is_some() => &comparison.remarks,
        _ => &[],
    }
}

fn checks(arguments: &GateArgs, run: &Loaded, baselines: &[Loaded], limits: &[MaxRegression]) -> Vec<Check> {
    let Some(judged) = &run.judged else { return Vec::new() };
    let searches = matches!(judged.scenario.ramp, RampSpec::Adaptive);
    let analysis = &judged.analysis;
    let mut checks = slos(analysis, demand(arguments.min_capacity, searches, analysis));
    checks.extend(arguments.min_capacity.map(|least| capacity(analysis, least)));
    let others: Vec<_> = baselines.iter().filter_map(Loaded::side).collect();
    if let (Some(side), false) = (run.side(), others.is_empty()) {
        let compared = compare(&side, &others, limits, &analysis.slos);
        checks.extend(compared.into_iter().map(Check::Regression));
    }
    checks
}

fn append(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let wrote = file.and_then(|mut file| file.write_all(text.as_bytes()));
    wrote.with_context(|| cannot("append the summary to", path, "--summary"))
}

fn cannot(what: &str, path: &Path, flag: &str) -> String {
    format!("cannot {what} {}; give {flag} a file in a directory that is there", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_ends_as_it_is_wanted_to_and_nothing_else_does() {
        use OnInconclusive::{Fail, Pass, Rerun};
        let codes = |decision| [Pass, Fail, Rerun].map(|policy| exit(decision, policy) as u8);
        assert_eq!(codes(Decision::Passed), [0, 0, 0]);
        assert_eq!(codes(Decision::Failed), [3, 3, 3]);
        assert_eq!(codes(Decision::Inconclusive), [0, 3, 4]);
        assert_eq!(codes(Decision::Invalid), [4, 4, 4]);
    }
}
