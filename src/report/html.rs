//! `report.html`: one file, no network, no script needed. The answer first, then why.

use super::chart::Figure;
use super::plots::{Group, Named};
use super::{ReportError, ReportInput, definitions::DEFINITIONS, plan, words};
use crate::analyze::{GaugeSummary, SloCheck, StepAnalysis, ValidityCheck, Verdict};
use crate::recommend::{Gate, Target, Term};
use crate::units::Signal;
use askama::Template;

/// What every page has in its head and at its end.
pub(super) const STYLE: &str = include_str!("templates/page.css");
pub(super) const SCRIPT: &str = include_str!("templates/page.js");

#[derive(Template)]
#[template(path = "report.html", config = "src/report/askama.toml")]
struct Page<'a> {
    style: &'static str,
    script: &'static str,
    headline: String,
    found: bool,
    simulated: bool,
    cut_short: Option<String>,
    capacity: Option<Facts>,
    way_out: Option<&'static str>,
    prediction: Option<(String, String)>,
    shares: Vec<(&'static str, String)>,
    validity: &'static str,
    validity_class: &'static str,
    objections: Vec<CheckRow>,
    passed: Vec<CheckRow>,
    targets: Vec<TargetRow>,
    rationale: &'a [String],
    advice: &'a [crate::recommend::Advice],
    warnings: Vec<String>,
    slos: Vec<String>,
    limits: Vec<Figure>,
    signals: Vec<Figure>,
    server: Vec<Figure>,
    time: Vec<Figure>,
    steps: Vec<StepRow>,
    definitions: [(&'static str, &'static str); DEFINITIONS.len()],
    manifests: Vec<&'a (String, String)>,
    simulation: Option<&'a str>,
    plan: Option<String>,
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

struct TargetRow {
    title: &'static str,
    chosen: bool,
    at_capacity: String,
    value: String,
    fires: String,
    fires_at: String,
    note: String,
    terms: Vec<Term>,
    gates: Vec<Gate>,
    remarks: Vec<String>,
}

struct StepRow {
    load: String,
    level: f64,
    verdict: &'static str,
    class: &'static str,
    cells: Vec<String>,
    failures: String,
}

/// The page.
pub(super) fn render(input: &ReportInput, charts: &[Named]) -> Result<String, ReportError> {
    let page = page(input, charts)?;
    page.render().map_err(|error| ReportError::Render { what: "report.html", reason: error.to_string() })
}

fn page<'a>(input: &ReportInput<'a>, charts: &[Named]) -> Result<Page<'a>, ReportError> {
    let analysis = input.analysis;
    let recommendation = input.recommendation;
    let cut_short = (input.facts.state != "complete")
        .then(|| input.facts.reason.clone().unwrap_or_else(|| "it did not end by itself".to_owned()));
    let mut warnings = recommendation.map(|r| r.warnings.clone()).unwrap_or_default();
    warnings.extend(input.facts.remarks.iter().cloned());
    let group = |group: Group| figures(charts.iter().filter(|named| named.group == group));
    let (passed, objections) =
        analysis.validity.checks.iter().map(check).partition(|check| check.class == "good");
    Ok(Page {
        style: STYLE,
        script: SCRIPT,
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
        shares: shares(input),
        validity: words::validity(analysis.validity.verdict),
        validity_class: class(analysis.validity.verdict),
        objections,
        passed,
        targets: recommendation
            .map(|r| r.targets.iter().map(|t| target(input, t, r.recommended)).collect())
            .unwrap_or_default(),
        rationale: recommendation.map(|r| r.rationale.as_slice()).unwrap_or_default(),
        advice: recommendation.map(|r| r.advice.as_slice()).unwrap_or_default(),
        warnings,
        slos: analysis.slos.iter().map(ToString::to_string).collect(),
        limits: group(Group::Limits)?,
        signals: group(Group::Signals)?,
        server: group(Group::Server)?,
        time: group(Group::Time)?,
        steps: by_load(&analysis.steps).into_iter().map(row).collect(),
        definitions: DEFINITIONS,
        manifests: input.manifests.iter().filter(|(name, _)| is_shown(name)).collect(),
        simulation: input.simulation,
        plan: plan::section(input, &group(Group::Plan)?)?,
        facts: input.facts,
        tolerance: recommendation.map_or_else(|| "0.1".to_owned(), |r| r.assumptions.tolerance.to_string()),
    })
}

/// Charts as the page shows them.
pub(super) fn figures<'a>(charts: impl Iterator<Item = &'a Named>) -> Result<Vec<Figure>, ReportError> {
    let figure =
        |named: &Named| named.chart.figure().map_err(|reason| ReportError::Plot { plot: named.name, reason });
    charts.map(figure).collect()
}

/// What the capacity's interval is made of, as 90 % intervals.
fn shares(input: &ReportInput) -> Vec<(&'static str, String)> {
    let Ok(prediction) = &input.analysis.prediction else { return Vec::new() };
    let percent = |share: f64| format!("± {:.1} %", share * 164.5);
    let uncertainty = &prediction.uncertainty;
    let mut rows: Vec<_> = uncertainty.shares.iter().map(|s| (s.name, percent(s.share))).collect();
    rows.push(("together, less their overlap", percent(uncertainty.total)));
    rows
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

fn check(check: &ValidityCheck) -> CheckRow {
    let word = match check.verdict {
        Verdict::Valid => "ok",
        Verdict::Remark => "remark",
        Verdict::Invalid => "invalid",
    };
    CheckRow { name: check.name, class: class(check.verdict), word, detail: check.detail.clone() }
}

fn target(input: &ReportInput, target: &Target, recommended: Option<Signal>) -> TargetRow {
    let chosen = recommended == Some(target.signal) && target.average_value.is_ok();
    let capacity = input.analysis.capacity.as_ref().ok();
    let share = |load: crate::units::Rate| {
        capacity.map(|c| format!("{load} ({:.0}\u{a0}%)", load.0 / c.per_replica.0 * 100.0))
    };
    let note = match &target.average_value {
        _ if chosen => "recommended".to_owned(),
        Err(reason) => reason.clone(),
        Ok(_) => target.remarks.first().cloned().unwrap_or_else(|| "possible".to_owned()),
    };
    TargetRow {
        title: target.signal.title(),
        chosen,
        at_capacity: words::value(target.signal, target.at_capacity),
        value: target.average_value.as_ref().map_or_else(|_| "none".to_owned(), ToString::to_string),
        fires: target
            .fires_at
            .map(|m| format!("{} {}", m.as_f64(), target.signal.unit()))
            .unwrap_or_default(),
        fires_at: target.fires_at_load.and_then(share).unwrap_or_default(),
        note,
        terms: target.terms.clone(),
        gates: target.gates.clone(),
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
    let gauge =
        |gauge: Option<GaugeSummary>| gauge.map_or_else(|| "–".to_owned(), |g| format!("{:.1}", g.mean));
    let mut cells = vec![
        format!("{:.2}", step.offered.0),
        format!("{:.2}", step.achieved.0),
        format!("{}/{}", step.succeeded, step.attempts),
        step.goodput.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0)),
    ];
    cells.extend(step.checks.iter().map(|check| {
        let mark = match check {
            SloCheck { undecided: true, .. } => " ?",
            SloCheck { holds: true, .. } => "",
            _ => " ✗",
        };
        if check.value.is_none() && (check.undecided || step.attempts == 0) {
            return "unknown".to_owned();
        }
        format!("{}{mark}", words::figure(check.slo.metric, check.value))
    }));
    cells.extend([
        words::latency(step.ttft.map(|l| l.p50)),
        words::latency(step.tpot.map(|l| l.p50)),
        words::latency(step.e2e.map(|l| l.p95)),
        gauge(step.queue),
        gauge(step.batch),
        gauge(step.gpu),
    ]);
    StepRow {
        load: step.mark.load.short(),
        level: step.mark.load.level(),
        verdict: words::holds(step, ["holds", "fails", "not judged"]),
        class: words::holds(step, ["good", "bad", "dim"]),
        cells,
        failures: words::failures(step),
    }
}
