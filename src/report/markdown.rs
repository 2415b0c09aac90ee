//! `summary.md`: reads well in a job summary.

use super::{ReportInput, definitions::DEFINITIONS, words};
use crate::analyze::Verdict;
use std::fmt::Write;

/// The summary. Writing to a string cannot fail, so results of `writeln!` are dropped.
pub(super) fn render(input: &ReportInput) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "# {}\n", words::headline(input));
    notices(&mut out, input);
    if let Ok(capacity) = &input.analysis.capacity {
        let _ = writeln!(out, "**SLO capacity:** {}\n", cell(&words::capacity(capacity)));
    } else if let Some(way_out) = words::way_out(input) {
        let _ = writeln!(out, "**What to do:** {way_out}\n");
    }
    if let Some((prediction, cost)) = words::prediction(input).zip(words::forward_cost(input)) {
        let _ = writeln!(out, "**Predicted:** {prediction}. A forward costs: {cost}.\n");
    }
    targets(&mut out, input);
    steps(&mut out, input);
    validity(&mut out, input);
    let _ = writeln!(out, "## Definitions\n");
    for (term, definition) in DEFINITIONS {
        let _ = writeln!(out, "- **{term}**: {definition}");
    }
    let facts = input.facts;
    let _ = writeln!(
        out,
        "\nRun `{}`, begun {}, {} against {}. calibrate {}.",
        cell(&facts.run_id),
        cell(&facts.started),
        cell(&facts.state),
        cell(&facts.server),
        cell(&facts.tool_version)
    );
    out
}

fn notices(out: &mut String, input: &ReportInput) {
    if input.facts.simulated {
        let _ = writeln!(
            out,
            "> Measured on the embedded **simulated** server: these are not the figures of any real one.\n"
        );
    }
    if input.facts.state != "complete" {
        let reason = input.facts.reason.as_deref().unwrap_or("it did not end by itself");
        let _ = writeln!(out, "> The run was cut short: {}.\n", cell(reason));
    }
}

fn targets(out: &mut String, input: &ReportInput) {
    let Some(recommendation) = input.recommendation else { return };
    let _ =
        writeln!(out, "| metric | at capacity | averageValue | scales up from | |\n|---|--:|--:|--:|---|");
    for target in &recommendation.targets {
        let (value, note) = match &target.average_value {
            Ok(value) if recommendation.recommended == Some(target.signal) => {
                (format!("**{value}**"), "recommended".to_owned())
            }
            Ok(value) => (value.to_string(), target.remarks.first().cloned().unwrap_or_default()),
            Err(reason) => ("none".to_owned(), reason.clone()),
        };
        let fires = target.fires_at.map(|milli| milli.to_string()).unwrap_or_default();
        let at_capacity = words::value(target.signal, target.at_capacity);
        let _ = writeln!(
            out,
            "| {} | {at_capacity} | {value} | {fires} | {} |",
            target.signal.title(),
            cell(&note)
        );
    }
    let _ = writeln!(out);
    list(out, "Why", &recommendation.rationale);
    list(out, "Know before using it", &recommendation.warnings);
}

fn list(out: &mut String, title: &str, items: &[String]) {
    if !items.is_empty() {
        let _ = writeln!(out, "**{title}**\n");
        for item in items {
            let _ = writeln!(out, "- {}", cell(item));
        }
        let _ = writeln!(out);
    }
}

fn steps(out: &mut String, input: &ReportInput) {
    let _ = writeln!(out, "## Steps\n");
    let _ = writeln!(
        out,
        "| load | offered | achieved | ok / all | TTFT p50 | TTFT p95 | TPOT p95 | queue | batch | GPU % | SLO |"
    );
    let _ = writeln!(out, "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|");
    for step in &input.analysis.steps {
        let load = step.mark.load.short();
        let gauge = |g: Option<crate::analyze::GaugeSummary>| {
            g.map_or_else(|| "–".to_owned(), |g| format!("{:.1}", g.mean))
        };
        let _ = writeln!(
            out,
            "| {load} | {:.2} | {:.2} | {} / {} | {} | {} | {} | {} | {} | {} | {} |",
            step.offered.0,
            step.achieved.0,
            step.succeeded,
            step.attempts,
            words::latency(step.ttft.map(|l| l.p50)),
            words::latency(step.ttft.map(|l| l.p95)),
            words::latency(step.tpot.map(|l| l.p95)),
            gauge(step.queue),
            gauge(step.batch),
            gauge(step.gpu),
            words::holds(step, ["holds", "**fails**", "not judged"])
        );
    }
    let _ = writeln!(out);
}

fn validity(out: &mut String, input: &ReportInput) {
    let validity = &input.analysis.validity;
    let _ = writeln!(out, "## Measurement: {}\n", words::validity(validity.verdict));
    for check in &validity.checks {
        let mark = match check.verdict {
            Verdict::Valid => "ok",
            Verdict::Remark => "remark",
            Verdict::Invalid => "**invalid**",
        };
        let _ = writeln!(out, "- {}: {mark}; {}", check.name, cell(&check.detail));
    }
    let _ = writeln!(out);
}

/// Text that can break neither a table nor the page.
pub(super) fn cell(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => out.push(' '),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '|' | '`' | '[' | ']' | '\\' => out.extend(['\\', letter]),
            other => out.push(other),
        }
    }
    out
}
