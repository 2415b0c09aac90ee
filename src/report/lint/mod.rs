//! Findings of lint as text, JSON and SARIF: each format with types of its own.

mod json;
mod sarif;
mod text;

pub use json::json;
pub use sarif::sarif;
pub use text::text;

use crate::recommend::lint::{Finding, Linted, Severity};

/// How many findings are that bad.
fn count(linted: &Linted, severity: Severity) -> usize {
    linted.findings.iter().filter(|finding| finding.severity == severity).count()
}

/// Whether something does not do what it is there for.
pub fn has_errors(linted: &Linted) -> bool {
    count(linted, Severity::Error) > 0
}

/// The object and the field of a finding: `HorizontalPodAutoscaler default/x, spec.maxReplicas`.
fn subject(finding: &Finding) -> String {
    let parts = [finding.object.as_str(), finding.field.as_str()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
