//! What people and machines read: HTML, plots, Markdown, CSV, JSON, the terminal.
//!
//! Invariants: pure, and the same for the same input. Machine formats have types of their own and a
//! version. Whatever a user or a server wrote is escaped. A figure that is not known is shown as
//! unknown, never as 0.

mod benchmark;
mod chart;
mod compare;
mod definitions;
pub mod gate;
mod html;
mod json;
pub mod lint;
mod markdown;
mod plan;
mod plots;
mod prometheus;
mod replay;
mod steps;
mod terminal;
mod words;

pub use compare::{
    Apart, AtLoad, Beside, Compared, Comparison, MOST_COMPARED, compare, comparison_document,
    comparison_summary, render_comparison,
};
pub use json::document;
pub use plan::{plan_document, plan_summary};
pub use replay::{Check, SIMULATION, Simulation, render_simulation, simulation_document, simulation_summary};
pub use terminal::terminal_summary;

use crate::analyze::Analysis;
use crate::recommend::{Plan, Recommendation};
use crate::units::Seconds;

/// Everything that a report is made from.
#[derive(Debug, Clone, Copy)]
pub struct ReportInput<'a> {
    /// The analysis.
    pub analysis: &'a Analysis,
    /// The recommendation; `None`: nothing is recommended.
    pub recommendation: Option<&'a Recommendation>,
    /// What the run was.
    pub facts: &'a RunFacts,
    /// The manifests by file name.
    pub manifests: &'a [(String, String)],
    /// The section that `simulate` left: what comes of the targets under traffic.
    pub simulation: Option<&'a str>,
    /// What loads would need.
    pub plan: Option<&'a Plan>,
}

/// What a run was, in words.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFacts {
    /// Its name, as its directory's.
    pub run_id: String,
    /// The calibrate that measured.
    pub tool_version: String,
    /// When it began, UTC, RFC 3339.
    pub started: String,
    /// `complete`, `interrupted` or `running`.
    pub state: String,
    /// Why it was interrupted.
    pub reason: Option<String>,
    /// The server's address.
    pub target: String,
    /// What the server calls itself.
    pub server: String,
    /// Whether it was the embedded simulator.
    pub simulated: bool,
    /// The effective scenario.
    pub scenario_yaml: String,
    /// The command line.
    pub command: String,
    /// What the reader of the record passed over, and other remarks.
    pub remarks: Vec<String>,
    /// What was sent.
    pub load: LoadFacts,
}

/// What was sent, as other tools describe it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadFacts {
    /// Kind of the server: the name of its profile.
    pub server_kind: String,
    /// Prompt tokens.
    pub input: TokenCount,
    /// Output tokens that were asked for, or that came where a dataset did not say.
    pub output: TokenCount,
    /// Whether requests were drawn from a dataset or a trace.
    pub sampled: bool,
    /// Tokens at the start of every prompt that were the same in all.
    pub shared_prefix: u32,
    /// From the origin of the run to the last thing that was measured.
    pub length: Seconds,
}

/// How many tokens requests have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenCount {
    /// `fixed`, `uniform` or `other`.
    pub distribution: &'static str,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, where it is known.
    pub deviation: Option<f64>,
    /// The fewest and the most, where they are bounded.
    pub bounds: Option<(u32, u32)>,
}

/// A file of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedFile {
    /// Its path inside the run directory.
    pub path: String,
    /// Its contents.
    pub contents: String,
}

/// Why a report cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A plot could not be drawn.
    #[error("cannot draw the plot {plot}: {reason}")]
    Plot {
        /// Which.
        plot: &'static str,
        /// Why.
        reason: String,
    },
    /// Text could not be rendered.
    #[error("cannot render {what}: {reason}")]
    Render {
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// All files of the report.
pub fn render(input: &ReportInput) -> Result<Vec<RenderedFile>, ReportError> {
    let charts = plots::charts(input);
    let file = |path: &str, contents: String| RenderedFile { path: path.to_owned(), contents };
    let mut files = vec![
        file("report.html", html::render(input, &charts)?),
        file("summary.md", markdown::render(input)),
        file("steps.csv", steps::render(input)?),
        file("recommendation.json", json::pretty(&json::document(input))),
        file("benchmark-report.json", json::pretty(&benchmark::document(input))),
        file("calibrate.prom", prometheus::render(input)),
    ];
    let stages = benchmark::stages(input).into_iter();
    files.extend(stages.map(|(name, stage)| file(&name, json::pretty(&stage))));
    files.extend(plan::file(input).map(|plan| file("plan.json", plan)));
    for named in &charts {
        let error = |reason| ReportError::Plot { plot: named.name, reason };
        files.push(file(&format!("plots/{}.svg", named.name), named.chart.file().map_err(error)?));
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
