//! A capacity plan for people and machines: the section of the report, its pictures, the terminal, JSON.

use super::chart::{BLUE, Chart, Figure, GREY, Line, PURPLE, Style, VERMILION};
use super::{ReportError, ReportInput, json};
use crate::recommend::{Alternative, Between, PerMillion, Plan, Row};
use crate::units::Rate;
use askama::Template;
use serde_json::{Value, json};
use std::fmt::{Display, Write};

/// What `plan.json` says it is.
const FORMAT: &str = "calibrate/plan";
/// The version of its format.
const VERSION: u32 = 1;
/// Places of a line over the load.
const PLACES: u32 = 400;

/// The plan for machines. `None`: there is none.
pub fn plan_document(input: &ReportInput) -> Option<Value> {
    let mut document = json!({
        "format": FORMAT,
        "version": VERSION,
        "tool_version": input.facts.tool_version,
        "run_id": input.facts.run_id,
        "simulated": input.facts.simulated,
        "slo": input.analysis.slos,
    });
    let plan = serde_json::to_value(input.plan?).ok()?;
    document.as_object_mut()?.extend(plan.as_object()?.clone());
    Some(document)
}

/// The plan as a file.
pub(super) fn file(input: &ReportInput) -> Option<String> {
    plan_document(input).map(|document| json::pretty(&document))
}

/// Money: two decimals, or as many as two digits that count need.
fn money(amount: f64) -> String {
    let decimals = if amount >= 0.1 || amount <= 0.0 { 2 } else { (1.0 - amount.log10().floor()) as usize };
    format!("{amount:.*}", decimals.min(8))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A figure with its interval, where that says anything.
fn between<T: Copy>(figure: Between<T>, text: impl Fn(T) -> String) -> String {
    let [value, low, high] = [figure.value, figure.low, figure.high].map(text);
    if low == high { value } else { format!("{value} ({low} to {high})") }
}

fn count(figure: Between<u32>) -> String {
    between(figure, |n| n.to_string())
}

fn rate(rate: Rate) -> String {
    format!("{:.2}", rate.0)
}

fn joined<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn after_loss(row: &Row) -> String {
    row.used_one_lost.map_or_else(
        || "none left".to_owned(),
        // Barely too much is still too much.
        |used| if used > 1.0 { format!("{:.0} % ✗", (used * 100.0).ceil()) } else { percent(used) },
    )
}

/// What other limits change, against the run's own.
fn change(plan: &Plan, alternative: &Alternative) -> String {
    let share = alternative.capacity.map(|capacity| capacity.value.0 / plan.capacity.value.0 - 1.0);
    match share {
        _ if alternative.factor == 1.0 => "the run's own".to_owned(),
        Some(share) => format!("{:+.0} %", share * 100.0),
        None => "not known".to_owned(),
    }
}

fn alternative_capacity(alternative: &Alternative) -> String {
    alternative.capacity.map_or_else(|| "–".to_owned(), |capacity| between(capacity, rate))
}

/// One line on what the plan rests on.
fn basis(plan: &Plan) -> String {
    let gpus = if plan.gpus_per_replica == 1 { "GPU" } else { "GPUs" };
    let cost = plan.gpu_cost.map(|cost| format!(", {} for a GPU-hour", money(cost))).unwrap_or_default();
    let tokens = plan
        .tokens
        .map(|tokens| format!("; a request has {:.0} + {:.0} tokens", tokens.input, tokens.output))
        .unwrap_or_default();
    format!(
        "{} req/s per replica, {} {gpus} each{cost}{tokens}",
        between(plan.capacity, rate),
        plan.gpus_per_replica
    )
}

/// The plan for a person at a terminal. Writing to a string cannot fail.
pub fn plan_summary(input: &ReportInput) -> Option<String> {
    let plan = input.plan?;
    let mut out = String::from("\n");
    let _ = writeln!(out, "capacity plan at {}", joined(&input.analysis.slos));
    let _ = writeln!(out, "  {}\n", basis(plan));
    let _ = writeln!(
        out,
        "  {:>11}  {:<14} {:>5} {:>6} {:>10} {:>4} {:>8}  {}",
        "load",
        "replicas",
        "GPUs",
        "used",
        "one lost",
        "N+1",
        "by HPA",
        costs_head(plan)
    );
    for row in &plan.rows {
        let _ = writeln!(
            out,
            "  {:>11}  {:<14} {:>5} {:>6} {:>10} {:>4} {:>8}  {}",
            row.load.to_string(),
            count(row.replicas),
            row.gpus.value,
            percent(row.used),
            after_loss(row),
            row.spare.value,
            row.autoscaled.map_or_else(|| "–".to_owned(), |n| n.to_string()),
            costs(row)
        );
    }
    let _ = writeln!(out, "\n  other limits");
    for other in &plan.alternatives {
        let replicas = joined(other.replicas.iter().map(|replicas| replicas.value));
        let cost = other.per_million.map(|cost| format!("  {} per 1M output", money(cost.output.value)));
        let _ = writeln!(
            out,
            "  {:>5}x  {:<34} {:<22} {:<13} {replicas}{}",
            other.factor,
            joined(&other.slos),
            alternative_capacity(other),
            change(plan, other),
            cost.unwrap_or_default()
        );
    }
    let _ = writeln!(out, "\n  approximate:");
    for remark in &plan.approximate {
        let _ = writeln!(out, "  - {remark}");
    }
    Some(out)
}

fn costs_head(plan: &Plan) -> String {
    if plan.gpu_cost.is_none() {
        return String::new();
    }
    format!("{:>8} {:>8} {:>12} {:>12}", "cost/h", "N+1", "1M output", "1M in+out")
}

fn costs(row: &Row) -> String {
    let per_million =
        |of: fn(&PerMillion) -> f64| row.per_million.as_ref().map_or_else(String::new, |p| money(of(p)));
    let (Some(cost), Some(spare)) = (row.cost, row.cost_spare) else { return String::new() };
    format!(
        "{:>8} {:>8} {:>12} {:>12}",
        money(cost.value),
        money(spare.value),
        per_million(|p| p.output.value),
        per_million(|p| p.both.value)
    )
}

/// The pictures of a plan, with the names of their files.
pub(super) fn charts(plan: &Plan) -> Vec<(&'static str, Chart)> {
    let most = plan.rows.iter().map(|row| row.load.0).fold(0.0, f64::max) * 1.15;
    let loads = || (1..=PLACES).map(move |i| most * f64::from(i) / f64::from(PLACES));
    let needed = |load: f64, capacity: Rate| (load / capacity.0 - 1e-9).ceil().max(1.0);
    let steps = loads().map(|load| (load, Some(needed(load, plan.capacity.value)))).collect();
    let spread =
        loads().map(|load| (load, needed(load, plan.capacity.high), needed(load, plan.capacity.low)));
    let dots = |of: &dyn Fn(&Row) -> Option<f64>| plan.rows.iter().map(|row| (row.load.0, of(row))).collect();
    let by_hpa = dots(&|row| row.autoscaled.map(f64::from));
    let spare = dots(&|row| Some(f64::from(row.spare.value)));
    let chart = |title: &str, y_title: &str, lines| Chart {
        title: title.to_owned(),
        x_title: "load, requests/s in all",
        y_title: y_title.to_owned(),
        lines,
        ..Chart::default()
    };
    let mut charts = vec![(
        "plan-replicas",
        chart(
            "Replicas for a load",
            "replicas",
            vec![
                Line::new("carry it within the SLO", BLUE, Style::Line, steps).with_spread(spread.collect()),
                Line::new("with one to lose", PURPLE, Style::Dots, spare),
                Line::new("held by the recommended HPA", VERMILION, Style::Rings, by_hpa),
            ],
        ),
    )];
    if let Some((least, tokens)) = plan.per_million_at_capacity.zip(plan.tokens) {
        let each = plan.gpu_cost.unwrap_or(0.0) * f64::from(plan.gpus_per_replica);
        let at =
            |load: f64, capacity: Rate| needed(load, capacity) * each / (load * 3600.0 * tokens.output / 1e6);
        let cost = loads().map(|load| (load, Some(at(load, plan.capacity.value)))).collect();
        let spread = loads().map(|load| (load, at(load, plan.capacity.high), at(load, plan.capacity.low)));
        let floor = vec![(0.0, Some(least.output.value)), (most, Some(least.output.value))];
        let lines = vec![
            Line::new("every replica used to its capacity", GREY, Style::Line, floor),
            Line::new("whole replicas", BLUE, Style::Line, cost).with_spread(spread.collect()),
        ];
        let y_most = Some(least.output.value * 3.0);
        charts.push((
            "plan-cost",
            Chart { y_most, ..chart("Cost of a million output tokens", "per million tokens", lines) },
        ));
    }
    charts
}

#[derive(Template)]
#[template(path = "plan.html", config = "src/report/askama.toml")]
struct Section<'a> {
    slo: String,
    basis: String,
    costs: bool,
    per_million: Option<String>,
    rows: Vec<[String; 9]>,
    alternatives: Vec<[String; 5]>,
    loads: String,
    approximate: &'a [String],
    figures: &'a [Figure],
}

/// The section of `report.html`.
pub(super) fn section(input: &ReportInput, figures: &[Figure]) -> Result<Option<String>, ReportError> {
    let Some(plan) = input.plan else { return Ok(None) };
    let cost = |cost: Option<Between<f64>>| cost.map(|cost| between(cost, money)).unwrap_or_default();
    let per_million = |p: Option<PerMillion>, of: fn(&PerMillion) -> Between<f64>| {
        p.as_ref().map(|p| between(of(p), money)).unwrap_or_default()
    };
    let row = |row: &Row| {
        [
            row.load.to_string(),
            count(row.replicas),
            row.gpus.value.to_string(),
            format!("{} / {}", percent(row.used), after_loss(row)),
            row.spare.value.to_string(),
            row.autoscaled.map_or_else(|| "–".to_owned(), |n| n.to_string()),
            cost(row.cost),
            row.cost_spare.map(|cost| money(cost.value)).unwrap_or_default(),
            per_million(row.per_million, |p| p.output),
        ]
    };
    let alternative = |other: &Alternative| {
        [
            format!("{}x: {}", other.factor, joined(&other.slos)),
            alternative_capacity(other),
            change(plan, other),
            joined(other.replicas.iter().map(|replicas| replicas.value)),
            per_million(other.per_million, |p| p.output),
        ]
    };
    let section = Section {
        slo: joined(&input.analysis.slos),
        basis: basis(plan),
        costs: plan.gpu_cost.is_some(),
        per_million: plan.per_million_at_capacity.map(|p| {
            format!(
                "{} on input tokens, {} on output tokens, or {} on both",
                between(p.input, money),
                between(p.output, money),
                between(p.both, money)
            )
        }),
        rows: plan.rows.iter().map(row).collect(),
        alternatives: plan.alternatives.iter().map(alternative).collect(),
        loads: joined(plan.rows.iter().map(|row| row.load.0)),
        approximate: &plan.approximate,
        figures,
    };
    let text = section.render();
    text.map(Some).map_err(|error| ReportError::Render { what: "the plan", reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_amounts_keep_two_digits_that_count() {
        assert_eq!(
            [0.7, 14.0, 0.0412, 0.00099, 0.0].map(money),
            ["0.70", "14.00", "0.041", "0.00099", "0.00"]
        );
    }

    #[test]
    fn an_interval_of_one_value_is_not_repeated() {
        assert_eq!(count(Between { value: 3, low: 3, high: 3 }), "3");
        assert_eq!(count(Between { value: 3, low: 3, high: 4 }), "3 (3 to 4)");
    }
}
