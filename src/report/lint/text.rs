//! For people: one paragraph per finding, and how many there are.

use super::{count, subject};
use crate::recommend::lint::{Linted, Severity};
use std::fmt::Write;

/// The findings, and a last line that counts them.
pub fn text(linted: &Linted) -> String {
    let mut text = String::new();
    for finding in &linted.findings {
        let place = finding.place;
        let place = if place.line == 0 { String::new() } else { format!(":{}:{}", place.line, place.column) };
        let (severity, rule) = (finding.severity, finding.rule.id());
        let _ = writeln!(text, "{severity}[{rule}] {}{place}: {}", finding.file, finding.reason);
        let subject = subject(finding);
        if !subject.is_empty() {
            let _ = writeln!(text, "  in:  {subject}");
        }
        let _ = writeln!(text, "  fix: {}\n", finding.fix);
    }
    let some = |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    let _ = write!(
        text,
        "{}, {}, {} in {}",
        some(count(linted, Severity::Error), "error"),
        some(count(linted, Severity::Warning), "warning"),
        some(count(linted, Severity::Note), "note"),
        some(linted.checked, "autoscaler"),
    );
    text
}
