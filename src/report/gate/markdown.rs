//! For a job summary: GitHub Markdown.

use super::{GateReport, words};
use crate::analyze::gate::Check;
use crate::analyze::regression::Outcome;
use crate::report::markdown::cell;
use std::fmt::Write;

/// The section. Writing to a string cannot fail.
pub fn markdown(report: &GateReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "### calibrate gate {}\n", cell(&words::verdict(report)));
    let _ = writeln!(out, "Run {}", cell(&words::run(&report.run)));
    for baseline in &report.baselines {
        let _ = writeln!(out, "against {}", cell(&words::run(baseline)));
    }
    if !report.checks.is_empty() {
        let _ = writeln!(out, "\n| | check | result |\n|-|---|---|");
    }
    for check in &report.checks {
        let mark = match check.outcome() {
            Outcome::Pass => "✅",
            Outcome::Fail => "❌",
            Outcome::CannotTell => "❔",
        };
        let _ =
            writeln!(out, "| {mark} | {} | {} |", cell(&words::title(check)), cell(&words::detail(check)));
    }
    loads(&mut out, report);
    if !report.remarks.is_empty() {
        let _ = writeln!(out);
    }
    for remark in &report.remarks {
        let _ = writeln!(out, "- {}", cell(remark));
    }
    let _ = writeln!(out, "\n<details><summary>Definitions</summary>\n");
    for (term, meaning) in words::DEFINITIONS {
        let _ = writeln!(out, "- **{term}**: {meaning}");
    }
    let _ = writeln!(out, "\n</details>\n");
    out
}

fn loads(out: &mut String, report: &GateReport) {
    let compared = report.checks.iter().filter_map(|check| match check {
        Check::Regression(comparison) if !comparison.loads.is_empty() => Some(comparison),
        _ => None,
    });
    let mut begun = false;
    for comparison in compared {
        if !begun {
            let _ = writeln!(out, "\n| figure | load | baseline | run | change |\n|---|--:|--:|--:|---|");
            begun = true;
        }
        for at in &comparison.loads {
            let [load, baseline, run, change] = words::at_load(comparison.limit.of, at);
            let _ = writeln!(out, "| {} | {load} | {baseline} | {run} | {change} |", comparison.limit.of);
        }
    }
}
