//! For machines, versioned.

use super::count;
use crate::recommend::lint::{Finding, Linted, Severity};
use serde::Serialize;

const FORMAT: &str = "calibrate/lint";
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    errors: usize,
    warnings: usize,
    notes: usize,
    /// HPAs and ScaledObjects that were looked at.
    checked: usize,
    findings: Vec<FindingJson<'a>>,
    /// Objects of other kinds.
    skipped: &'a [String],
}

#[derive(Serialize)]
struct FindingJson<'a> {
    rule: &'static str,
    severity: String,
    file: &'a str,
    /// From 1; `null` where the place is not known.
    line: Option<u64>,
    column: Option<u64>,
    object: Option<&'a str>,
    field: Option<&'a str>,
    reason: &'a str,
    fix: &'a str,
}

/// The document.
pub fn json(linted: &Linted) -> serde_json::Value {
    let document = Document {
        format: FORMAT,
        version: VERSION,
        errors: count(linted, Severity::Error),
        warnings: count(linted, Severity::Warning),
        notes: count(linted, Severity::Note),
        checked: linted.checked,
        findings: linted.findings.iter().map(finding).collect(),
        skipped: &linted.skipped,
    };
    serde_json::to_value(document).unwrap_or_default()
}

fn finding(finding: &Finding) -> FindingJson<'_> {
    let known = |number: u64| (number > 0).then_some(number);
    let some = |text: &'_ str| !text.is_empty();
    FindingJson {
        rule: finding.rule.id(),
        severity: finding.severity.to_string(),
        file: &finding.file,
        line: known(finding.place.line),
        column: known(finding.place.column),
        object: Some(finding.object.as_str()).filter(|text| some(text)),
        field: Some(finding.field.as_str()).filter(|text| some(text)),
        reason: &finding.reason,
        fix: &finding.fix,
    }
}
