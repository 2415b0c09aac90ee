//! A comparison as a page: tables, and the runs' curves over each other.

use super::super::chart::{BLUE, Chart, Figure, GREEN, Line, Mark, ORANGE, PURPLE, Style, VERMILION};
use super::super::html::{SCRIPT, STYLE};
use super::super::{RenderedFile, ReportError, json};
use super::{Beside, Compared, Comparison, comparison_document, p95, text};
use crate::analyze::Curve;
use crate::units::{Signal, Slo, SloMetric};
use askama::Template;
use plotters::style::RGBColor;

/// As many runs as there are colours that can be told apart.
pub const MOST_COMPARED: usize = 5;
const COLOURS: [RGBColor; MOST_COMPARED] = [BLUE, VERMILION, GREEN, PURPLE, ORANGE];

#[derive(Template)]
#[template(path = "compare.html", config = "src/report/askama.toml")]
struct Page<'a> {
    style: &'static str,
    script: &'static str,
    headline: String,
    names: Vec<&'a str>,
    rows: Vec<(&'static str, Vec<String>)>,
    latencies: Vec<(String, String, Vec<String>)>,
    figures: Vec<Figure>,
    differs: &'a [(String, Vec<String>)],
    remarks: &'a [String],
}

/// The files of a comparison.
///
/// # Errors
/// A picture that cannot be drawn.
pub fn render_comparison(
    runs: &[Compared],
    comparison: &Comparison,
) -> Result<Vec<RenderedFile>, ReportError> {
    let error = |reason| ReportError::Plot { plot: "comparison", reason };
    let figures =
        charts(runs).into_iter().filter(|chart| !chart.is_empty()).map(|chart| chart.figure().map_err(error));
    let figures = figures.collect::<Result<Vec<Figure>, _>>()?;
    let all = |of: &dyn Fn(&Beside) -> String| comparison.runs.iter().map(of).collect::<Vec<_>>();
    let mut rows = vec![
        ("server", all(&|run| run.server.clone())),
        ("SLO", all(&|run| run.slo.join(", "))),
        ("measurement", all(&|run| super::super::words::validity(run.validity).to_owned())),
        ("req/s per replica", all(&text::capacity)),
        ("beside the first", all(&text::difference)),
        ("recommended", all(&text::target)),
    ];
    for signal in Signal::ALL {
        let value = |run: &Beside| {
            let target = run.targets.iter().find(|target| target.0 == signal);
            target.map_or_else(|| "none".to_owned(), |target| target.1.clone())
        };
        rows.push((signal.title(), all(&value)));
    }
    rows.push(("GPU-minutes", all(&|run| format!("{:.1}", run.gpu_minutes))));
    let latencies = comparison.latencies.iter().map(|row| {
        let values = row.values.iter().zip(&row.told_apart);
        let texts = values
            .map(|(value, told_apart)| text::latency(*value, *told_apart).trim_end().to_owned())
            .collect();
        (format!("{} p95", row.metric.to_uppercase()), row.load.to_string(), texts)
    });
    let page = Page {
        style: STYLE,
        script: SCRIPT,
        headline: headline(comparison),
        names: comparison.runs.iter().map(|run| run.name.as_str()).collect(),
        rows,
        latencies: latencies.collect(),
        figures,
        differs: &comparison.differs,
        remarks: &comparison.remarks,
    };
    let html = page
        .render()
        .map_err(|error| ReportError::Render { what: "comparison.html", reason: error.to_string() })?;
    Ok(vec![
        RenderedFile { path: "comparison.html".to_owned(), contents: html },
        RenderedFile {
            path: "comparison.json".to_owned(),
            contents: json::pretty(&comparison_document(comparison)),
        },
    ])
}

/// What the comparison comes to, in one line.
fn headline(comparison: &Comparison) -> String {
    let others: Vec<&Beside> = comparison.runs.iter().skip(1).collect();
    let apart: Vec<&&Beside> = others.iter().filter(|run| run.told_apart == Some(true)).collect();
    match (apart.as_slice(), others.as_slice()) {
        _ if others.iter().any(|run| run.told_apart.is_none()) => {
            "Not every run has a capacity to compare".to_owned()
        }
        ([], _) => "The capacities cannot be told apart".to_owned(),
        ([one], [_]) => format!(
            "{} carries {:+.0} % beside {}",
            one.name,
            one.ratio.map_or(0.0, |ratio| (ratio.value - 1.0) * 100.0),
            comparison.runs[0].name
        ),
        (apart, others) => format!(
            "{} of {} runs carry another load than {}",
            apart.len(),
            others.len(),
            comparison.runs[0].name
        ),
    }
}

fn charts(runs: &[Compared]) -> Vec<Chart> {
    let mark = |(run, colour): (&Compared, RGBColor)| {
        let capacity = run.input.analysis.capacity.as_ref().ok()?;
        let (from, to, at) = (capacity.low.0, capacity.high.0, capacity.per_replica.0);
        Some(Mark { label: String::new(), from, to, at, colour })
    };
    let marks: Vec<Mark> = runs.iter().zip(COLOURS).filter_map(mark).collect();
    let latency = |metric: SloMetric, title: &str| {
        let line = |(run, colour): (&Compared, RGBColor)| {
            let curve = p95(run, metric, &|latency| Some(latency.p95.0));
            let points = curve.iter().flat_map(Curve::points).map(|(x, y)| (*x, Some(y * 1e3)));
            Line::new(run.name.clone(), colour, Style::Dotted, points.collect())
        };
        let limits = runs.iter().flat_map(|run| &run.input.analysis.slos).filter(|slo| slo.metric == metric);
        let limit = limits.filter_map(Slo::latency_limit).map(|limit| limit.0 * 1e3).reduce(f64::max);
        // Beyond the limits curves rise without end.
        let y_most = limit.map(|limit| limit * 2.5);
        Chart { y_most, ..chart(title, "ms", runs.iter().zip(COLOURS).map(line).collect(), &marks) }
    };
    let surface = |signal: Signal, title: &str, unit: &str| {
        let line = |(run, colour): (&Compared, RGBColor)| {
            let curve = run.input.analysis.surface.curve(signal);
            let points = curve.iter().flat_map(|curve| curve.points()).map(|(x, y)| (*x, Some(*y)));
            Line::new(run.name.clone(), colour, Style::Line, points.collect())
        };
        chart(title, unit, runs.iter().zip(COLOURS).map(line).collect(), &marks)
    };
    vec![
        latency(SloMetric::Ttft, "Time to first token, p95"),
        latency(SloMetric::Tpot, "Time per output token, p95"),
        surface(Signal::Batch, "Batch size per replica", "requests"),
        surface(Signal::Queue, "Queue size per replica", "requests"),
    ]
}

fn chart(title: &str, y_title: &str, lines: Vec<Line>, marks: &[Mark]) -> Chart {
    Chart {
        title: title.to_owned(),
        x_title: "load, requests/s per replica",
        y_title: y_title.to_owned(),
        lines,
        marks: marks.to_vec(),
        ..Chart::default()
    }
}
