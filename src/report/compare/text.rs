//! A comparison at a terminal and for machines.

use super::{Apart, Comparison};
use crate::recommend::Between;
use crate::units::Seconds;
use serde_json::{Value, json};
use std::fmt::Write;

const FORMAT: &str = "calibrate/comparison";
const VERSION: u32 = 1;

/// The comparison for machines.
pub fn comparison_document(comparison: &Comparison) -> Value {
    let mut document = json!({ "format": FORMAT, "version": VERSION });
    if let (Some(fields), Ok(Value::Object(more))) =
        (document.as_object_mut(), serde_json::to_value(comparison))
    {
        fields.extend(more);
    }
    document
}

/// A capacity with its interval, or why there is none.
pub(super) fn capacity(run: &super::Beside) -> String {
    run.capacity.map_or_else(
        || run.no_capacity.clone().unwrap_or_default(),
        |c| format!("{:.2} ({:.2} to {:.2})", c.value.0, c.low.0, c.high.0),
    )
}

/// How a run's capacity lies beside that of the first.
pub(super) fn difference(run: &super::Beside) -> String {
    let percent = |ratio: f64| format!("{:+.0} %", (ratio - 1.0) * 100.0);
    match (run.told_apart, run.ratio) {
        (Some(true), Some(ratio)) => {
            format!("{} ({} to {})", percent(ratio.value), percent(ratio.low), percent(ratio.high))
        }
        (Some(false), Some(ratio)) => {
            format!("within the intervals ({} to {})", percent(ratio.low), percent(ratio.high))
        }
        _ => String::new(),
    }
}

/// A latency of a run, beside that of the first.
pub(super) fn latency(value: Option<Between<f64>>, told_apart: Apart) -> String {
    let mark = match told_apart {
        Apart::No => " ≈",
        Apart::Unknown => " ?",
        Apart::Yes | Apart::First => "",
    };
    value.map_or_else(|| "–".to_owned(), |value| format!("{}{mark}", Seconds(value.value)))
}

/// The recommended target.
pub(super) fn target(run: &super::Beside) -> String {
    let chosen = run.targets.iter().find(|target| Some(target.0) == run.metric);
    chosen.map_or_else(|| "none".to_owned(), |(signal, value)| format!("{} {value}", signal.slug()))
}

/// The comparison for a person at a terminal. Writing to a string cannot fail.
pub fn comparison_summary(comparison: &Comparison) -> String {
    let mut out = String::from("\n");
    let width = comparison.runs.iter().map(|run| run.name.chars().count()).max().unwrap_or(0).clamp(8, 32);
    let name = |name: &str| name.chars().take(width).collect::<String>();
    let _ = writeln!(
        out,
        "  {:<width$}  {:<24} {:<38} {:<16} {:>11}",
        "run", "req/s per replica", "beside the first", "target", "GPU-minutes"
    );
    for run in &comparison.runs {
        let _ = writeln!(
            out,
            "  {:<width$}  {:<24} {:<38} {:<16} {:>11.1}",
            name(&run.name),
            capacity(run),
            difference(run),
            target(run),
            run.gpu_minutes
        );
    }
    if !comparison.latencies.is_empty() {
        let _ = write!(out, "\n  {:<10} {:>12}", "p95 of", "at");
        for run in &comparison.runs {
            let _ = write!(out, "  {:>width$}", name(&run.name));
        }
        let _ = writeln!(out);
    }
    for row in &comparison.latencies {
        let _ = write!(out, "  {:<10} {:>12}", row.metric, row.load.to_string());
        for (value, told_apart) in row.values.iter().zip(&row.told_apart) {
            let text = latency(*value, *told_apart);
            // Marks stand behind the column.
            let mark = text.chars().count() - text.trim_end_matches([' ', '≈', '?']).chars().count();
            let _ = write!(out, "  {text:>0$}", width + mark);
            let _ = write!(out, "{:1$}", "", 2 - mark.min(2));
        }
        out.truncate(out.trim_end().len());
        let _ = writeln!(out);
    }
    let _ = writeln!(
        out,
        "\n  ≈: the intervals do not tell it from the first; ?: too few requests to tell, or the first was not driven there"
    );
    for (field, values) in &comparison.differs {
        let _ = writeln!(out, "  differs: {field}: {}", values.join(" | "));
    }
    for remark in &comparison.remarks {
        let _ = writeln!(out, "  note: {remark}");
    }
    out
}
