//! What a person reads in ten seconds at the end of a run.

use super::{ReportInput, words};
use crate::analyze::Verdict;
use crate::units::Signal;
use std::fmt::Write;

/// Most warnings that are shown; the report has all.
const WARNINGS: usize = 3;
/// The longest line.
const WIDTH: usize = 100;

/// The summary, with colours or without. Writing to a string cannot fail.
pub fn terminal_summary(input: &ReportInput, colour: bool) -> String {
    let paint =
        |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut out = String::from("\n");
    let found = words::recommended(input).is_some_and(|target| target.average_value.is_ok());
    let _ = writeln!(out, "{}", paint(if found { "1;32" } else { "1;33" }, &words::headline(input)));
    if input.facts.simulated {
        let _ =
            writeln!(out, "{}", paint("2", "measured on the embedded simulated server, not on a real one"));
    }
    match &input.analysis.capacity {
        Ok(capacity) => {
            let _ = writeln!(
                out,
                "SLO capacity  {} per replica\n              {}",
                capacity.per_replica,
                words::interval(capacity)
            );
            let _ = writeln!(out, "limited by    {}", capacity.limited_by);
        }
        Err(_) => {
            if let Some(way_out) = words::way_out(input) {
                let _ = writeln!(out, "what to do    {way_out}");
            }
        }
    }
    if let Some(prediction) = words::prediction(input) {
        let _ = writeln!(out, "predicted     {}", shorten(&prediction, WIDTH - 14));
    }
    let _ = writeln!(out, "measurement   {}", words::validity(input.analysis.validity.verdict));
    for check in input.analysis.validity.checks.iter().filter(|check| check.verdict == Verdict::Invalid) {
        let _ = writeln!(out, "  {}: {}", check.name, check.detail);
    }
    targets(&mut out, input, &paint);
    for warning in input.recommendation.iter().flat_map(|r| &r.warnings).take(WARNINGS) {
        let _ = writeln!(out, "{} {}", paint("33", "note:"), shorten(warning, WIDTH - 6));
    }
    out
}

fn targets(out: &mut String, input: &ReportInput, paint: &dyn Fn(&str, &str) -> String) {
    let Some(recommendation) = input.recommendation else { return };
    let _ = writeln!(
        out,
        "\n  {:<24} {:>16} {:>14} {:>15}",
        "metric", "at capacity", "averageValue", "scales up from"
    );
    for target in &recommendation.targets {
        let chosen = recommendation.recommended == Some(target.signal);
        let value = target.average_value.as_ref().map_or_else(|_| "none".to_owned(), ToString::to_string);
        let fires = target.fires_at.map(|milli| milli.to_string()).unwrap_or_default();
        let line = format!(
            "{} {:<24} {:>16} {value:>14} {fires:>15}",
            if chosen { "▸" } else { " " },
            target.signal.title(),
            short_value(target.signal, target.at_capacity),
        );
        let _ = writeln!(out, "{}", if chosen { paint("1", &line) } else { line });
    }
    let _ = writeln!(out);
}

fn short_value(signal: Signal, value: Option<f64>) -> String {
    value.map_or_else(
        || "unknown".to_owned(),
        |value| if signal.is_external() { format!("{value:.1} %") } else { format!("{value:.2}") },
    )
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most - 1).collect();
    format!("{kept}…")
}
