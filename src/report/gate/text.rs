//! For people: one line per check, and the verdict.

use super::{GateReport, words};
use crate::analyze::gate::Decision;
use crate::analyze::regression::Outcome;
use std::fmt::Write;

/// The checks, with colours or without. Writing to a string cannot fail.
pub fn text(report: &GateReport, colour: bool) -> String {
    let paint =
        |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut out = String::new();
    let _ = writeln!(out, "run       {}", words::run(&report.run));
    for baseline in &report.baselines {
        let _ = writeln!(out, "baseline  {}", words::run(baseline));
    }
    let titles: Vec<String> = report.checks.iter().map(words::title).collect();
    let width = titles.iter().map(|title| title.chars().count()).max().unwrap_or(0);
    let _ = writeln!(out);
    for (check, title) in report.checks.iter().zip(&titles) {
        let mark = match check.outcome() {
            Outcome::Pass => paint("32", "✓"),
            Outcome::Fail => paint("31;1", "✗"),
            Outcome::CannotTell => paint("33;1", "?"),
        };
        let _ = writeln!(out, "{mark} {title:<width$}  {}", words::detail(check));
    }
    for remark in &report.remarks {
        let _ = writeln!(out, "{} {remark}", paint("33", "note:"));
    }
    let _ = writeln!(out);
    for (term, meaning) in words::DEFINITIONS {
        let _ = writeln!(out, "{}", paint("2", &format!("{term}: {meaning}")));
    }
    let code = if report.decision == Decision::Passed { "32;1" } else { "31;1" };
    let _ = write!(out, "{}", paint(code, &format!("gate {}", words::verdict(report))));
    out
}
