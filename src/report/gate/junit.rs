//! JUnit XML, as Jenkins, GitLab and the others read it: one suite, one case per check and per run.
//!
//! A check that cannot be told is skipped, failed, or an error, as `--on-inconclusive` says; a run that cannot be
//! used is an error.

use super::{GateReport, GateRun, words};
use crate::analyze::gate::{Check, Decision, OnInconclusive};
use crate::analyze::regression::Outcome;
use std::fmt::Write;

/// What came of a case besides success.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passed,
    Failure,
    Error,
    Skipped,
}

struct Case {
    class: &'static str,
    name: String,
    fate: Fate,
    message: String,
}

/// The document. Writing to a string cannot fail.
pub fn junit(report: &GateReport) -> String {
    let runs =
        std::iter::once(("run", &report.run)).chain(report.baselines.iter().map(|run| ("baseline", run)));
    let mut cases: Vec<Case> = runs.map(|(role, run)| of_run(role, run)).collect();
    cases.extend(report.checks.iter().map(|check| of_check(check, report.on_inconclusive)));
    if report.checks.is_empty() && report.decision == Decision::Inconclusive {
        let message = words::verdict(report);
        cases.push(Case { class: "calibrate.gate", name: "checks".to_owned(), fate: Fate::Error, message });
    }
    let count = |fate| cases.iter().filter(|case| case.fate == fate).count();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\"",
        cases.len(),
        count(Fate::Failure),
        count(Fate::Error)
    );
    let skipped = count(Fate::Skipped);
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(out, "<testsuites name=\"calibrate gate\" {counts} time=\"0\">");
    let _ = writeln!(
        out,
        "  <testsuite name=\"calibrate gate\" {counts} skipped=\"{skipped}\" time=\"0\" timestamp=\"{}\" \
         hostname=\"localhost\">",
        escaped(&timestamp(report.run.started.as_deref()))
    );
    for case in &cases {
        write_case(&mut out, case);
    }
    let remarks = report.remarks.iter().map(|remark| format!("note: {remark}"));
    let definitions = words::DEFINITIONS.iter().map(|(term, meaning)| format!("{term}: {meaning}"));
    let lines: Vec<String> = std::iter::once(format!("gate {}", words::verdict(report)))
        .chain(remarks)
        .chain(definitions)
        .collect();
    let _ = writeln!(out, "    <system-out>{}</system-out>", escaped(&lines.join("\n")));
    out + "  </testsuite>\n</testsuites>\n"
}

fn of_run(role: &str, run: &GateRun) -> Case {
    Case {
        class: "calibrate.measurement",
        name: format!("{role} {} can be used", run.name()),
        fate: if run.problem.is_some() { Fate::Error } else { Fate::Passed },
        message: words::run(run),
    }
}

fn of_check(check: &Check, on_inconclusive: OnInconclusive) -> Case {
    let fate = match (check.outcome(), on_inconclusive) {
        (Outcome::Pass, _) => Fate::Passed,
        (Outcome::Fail, _) | (Outcome::CannotTell, OnInconclusive::Fail) => Fate::Failure,
        (Outcome::CannotTell, OnInconclusive::Pass) => Fate::Skipped,
        (Outcome::CannotTell, OnInconclusive::Rerun) => Fate::Error,
    };
    let class = match check {
        Check::Slo(_) => "calibrate.slo",
        Check::Capacity(_) => "calibrate.capacity",
        Check::Regression(_) => "calibrate.regression",
    };
    Case { class, name: words::title(check), fate, message: words::detail(check) }
}

fn write_case(out: &mut String, case: &Case) {
    let (name, message) = (escaped(&case.name), escaped(&case.message));
    let _ = writeln!(out, "    <testcase classname=\"{}\" name=\"{name}\" time=\"0\">", case.class);
    let _ = match case.fate {
        Fate::Passed => writeln!(out, "      <system-out>{message}</system-out>"),
        Fate::Skipped => writeln!(out, "      <skipped message=\"cannot tell: {message}\"/>"),
        Fate::Failure => {
            writeln!(out, "      <failure type=\"failed\" message=\"{message}\">{message}</failure>")
        }
        Fate::Error => {
            writeln!(out, "      <error type=\"cannot-tell\" message=\"{message}\">{message}</error>")
        }
    };
    out.push_str("    </testcase>\n");
}

/// A time as the schema wants it: to the second, without a zone.
fn timestamp(time: Option<&str>) -> String {
    let time = time.unwrap_or("1970-01-01T00:00:00");
    time.split(['.', 'Z', '+']).next().unwrap_or(time).to_owned()
}

/// Text for an attribute or an element. What XML 1.0 cannot hold at all is left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' | '\r' => out.push(' '),
            '\u{fffe}' | '\u{ffff}' => {}
            letter if letter.is_control() && letter < '\u{20}' => {}
            letter => out.push(letter),
        }
    }
    out
}
