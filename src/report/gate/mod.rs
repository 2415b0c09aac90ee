//! What a gate found: for people, for a job summary, for machines, as JUnit XML.

mod json;
mod junit;
mod markdown;
mod text;
mod words;

pub use json::json;
pub use junit::junit;
pub use markdown::markdown;
pub use text::text;

use crate::analyze::gate::{Check, Decision, OnInconclusive};

/// Everything that a gate says.
#[derive(Debug, Clone)]
pub struct GateReport {
    /// The run that is checked.
    pub run: GateRun,
    /// The runs that it is compared with.
    pub baselines: Vec<GateRun>,
    /// The checks, in the order of the flags.
    pub checks: Vec<Check>,
    /// What else must be known: how runs differ, steps that are not compared.
    pub remarks: Vec<String>,
    /// What the checks come to.
    pub decision: Decision,
    /// What is done with those that cannot be told.
    pub on_inconclusive: OnInconclusive,
    /// The exit code.
    pub exit_code: u8,
    /// The calibrate that judged.
    pub tool_version: String,
}

/// A run of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateRun {
    /// Its directory, as it was given.
    pub directory: String,
    /// Its name. `None`: it cannot be read.
    pub id: Option<String>,
    /// When it began, UTC, RFC 3339.
    pub started: Option<String>,
    /// What its server calls itself.
    pub server: Option<String>,
    /// Whether that was the embedded simulator.
    pub simulated: bool,
    /// The verdict on its measurement.
    pub measurement: Option<&'static str>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

impl GateRun {
    fn name(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.directory)
    }
}

#[cfg(test)]
mod tests;
