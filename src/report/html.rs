//! `report.html`: one file, no network, no script needed. The answer first, then why.

use super::plots::Plot;
use super::{ReportError, ReportInput, definitions::DEFINITIONS, words};
use crate::analyze::{GaugeSummary, SloCheck, StepAnalysis, Verdict};
use crate::recommend::Term;
use askama::Template;

#[derive(Template)]
#[template(path = "report.html", config = "src/report/askama.toml")]
struct Page<'a> {
    headline: String,
    found: bool,
    simulated: bool,
    cut_short: Option<String>,
    capacity: Option<Facts>,
    way_out: Option<&'static str>,
    prediction: Option<(String, String)>,
    validity: &'static str,
    validity_class: &'static str,
    checks: Vec<CheckRow>,
    targets: Vec<TargetCard>,
    rationale: &'a [String],
    advice: &'a [crate::recommend::Advice],
    warnings: Vec<String>,
    slos: Vec<String>,
    plots: &'a [Plot],
    steps: Vec<StepRow>,
    slo_columns: Vec<String>,
    definitions: [(&'static str, &'static str); DEFINITIONS.len()],
    manifests: Vec<&'a (String, String)>,
    simulation: Option<&'a str>,
    facts: &'a super::RunFacts,
    tolerance: String,
}

/// The capacity for the big figures.
struct Facts {
    value: String,
    interval: String,
    limited_by: String,
}

struct CheckRow {
    name: &'static str,
    class: &'static str,
    word: &'static str,
    detail: String,
}

struct TargetCard {
    title: &'static str,
    chosen: bool,
    at_capacity: String,
    value: String,
    fires: String,
    refused: Option<String>,
    terms: Vec<Term>,
    remarks: Vec<String>,
}

struct StepRow {
    load: String,
    holds: bool,
    cells: Vec<String>,
    failures: String,
}

/// The page.
pub(super) fn render(input: &ReportInput, plots: &[Plot]) -> Result<String, ReportError> {
    let page = page(input, plots);
    page.render().map_err(|error| ReportError::Render { what: "report.html", reason: error.to_string() })
}

fn page<'a>(input: &ReportInput<'a>, plots: &'a [Plot]) -> Page<'a> {
    let analysis = input.analysis;
    let recommendation = input.recommendation;
    let cut_short = (input.facts.state != "complete")
        .then(|| input.facts.reason.clone().unwrap_or_else(|| "it did not end by itself".to_owned()));
    let mut warnings = recommendation.map(|r| r.warnings.clone()).unwrap_or_default();
    warnings.extend(input.facts.remarks.iter().cloned());
    Page {
        headline: words::headline(input),
        found: words::recommended(input).is_some_and(|target| target.average_value.is_ok()),
        simulated: input.facts.simulated,
        cut_short,
        capacity: analysis.capacity.as_ref().ok().map(|capacity| Facts {
            value: capacity.per_replica.to_string(),
            interval: words::interval(capacity),
            limited_by: capacity.limited_by.to_string(),
        }),
        way_out: words::way_out(input),
        prediction: words::prediction(input).zip(words::forward_cost(input)),
        validity: words::validity(analysis.validity.verdict),
        validity_class: class(analysis.validity.verdict),
        checks: analysis.validity.checks.iter().map(check).collect(),
        targets: recommendation
            .map(|r| r.targets.iter().map(|t| card(t, r.recommended)).collect())
            .unwrap_or_default(),
        rationale: recommendation.map(|r| r.rationale.as_slice()).unwrap_or_default(),
        advice: recommendation.map(|r| r.advice.as_slice()).unwrap_or_default(),
        warnings,
        slos: analysis.slos.iter().map(ToString::to_string).collect(),
        plots,
        steps: by_load(&analysis.steps).into_iter().map(row).collect(),
        slo_columns: analysis.slos.iter().map(ToString::to_string).collect(),
        definitions: DEFINITIONS,
        manifests: input.manifests.iter().filter(|(name, _)| is_shown(name)).collect(),
        simulation: input.simulation,
        facts: input.facts,
        tolerance: recommendation.map(|r| r.assumptions.tolerance.to_string()).unwrap_or_default(),
    }
}

/// Whether the page holds a manifest: the HPAs and what scrapes their metrics. Dashboards, an adapter's
/// rules and setup steps are many times as long, and lie beside the page.
fn is_shown(file: &str) -> bool {
    file.starts_with("hpa-") || file.starts_with("podmonitoring-")
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "good",
        Verdict::Remark => "fair",
        Verdict::Invalid => "bad",
    }
}

fn check(check: &crate::analyze::ValidityCheck) -> CheckRow {
    let word = match check.verdict {
        Verdict::Valid => "ok",
        Verdict::Remark => "remark",
        Verdict::Invalid => "invalid",
    };
    CheckRow { name: check.name, class: class(check.verdict), word, detail: check.detail.clone() }
}

fn card(target: &crate::recommend::Target, recommended: Option<crate::units::Signal>) -> TargetCard {
    TargetCard {
        title: target.signal.title(),
        chosen: recommended == Some(target.signal) && target.average_value.is_ok(),
        at_capacity: words::value(target.signal, target.at_capacity),
        value: target.average_value.as_ref().map_or_else(|_| "none".to_owned(), ToString::to_string),
        fires: target
            .fires_at
            .map(|milli| format!("{} {}", milli.as_f64(), target.signal.unit()))
            .unwrap_or_default(),
        refused: target.average_value.as_ref().err().cloned(),
        terms: target.terms.clone(),
        remarks: target.remarks.clone(),
    }
}

/// The steps in the order of their load, which an adaptive search does not drive them in.
fn by_load(steps: &[StepAnalysis]) -> Vec<&StepAnalysis> {
    let mut steps: Vec<&StepAnalysis> = steps.iter().collect();
    steps.sort_by(|a, b| a.offered.0.total_cmp(&b.offered.0));
    steps
}

fn row(step: &StepAnalysis) -> StepRow {
    let load = step.mark.load.short();
    let gauge =
        |gauge: Option<GaugeSummary>| gauge.map_or_else(|| "–".to_owned(), |g| format!("{:.1}", g.mean));
    let mut cells = vec![
        format!("{:.2}", step.offered.0),
        format!("{:.2}", step.achieved.0),
        format!("{}/{}", step.succeeded, step.attempts),
        step.goodput.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0)),
        words::latency(step.ttft.map(|l| l.p50)),
        words::latency(step.ttft.map(|l| l.p95)),
        words::latency(step.tpot.map(|l| l.p50)),
        words::latency(step.tpot.map(|l| l.p95)),
        words::latency(step.e2e.map(|l| l.p95)),
        gauge(step.queue),
        gauge(step.batch),
        gauge(step.gpu),
    ];
    cells.extend(step.checks.iter().map(|check| {
        let mark = match check {
            SloCheck { undecided: true, .. } => " ?",
            SloCheck { holds: true, .. } => "",
            _ => " ✗",
        };
        format!("{}{mark}", words::figure(check.slo.metric, check.value))
    }));
    StepRow { load, holds: step.holds(), cells, failures: words::failures(step) }
}
