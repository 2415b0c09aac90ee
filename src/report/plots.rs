//! The plots of a report.

use super::chart::{BLUE, Chart, GREEN, GREY, Limit, Line, ORANGE, PURPLE, VERMILION};
use super::{ReportError, ReportInput};
use crate::analyze::{StepAnalysis, TimelinePoint};
use crate::recommend::Target;
use crate::units::{Signal, SloMetric};

/// A plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// Its name, for its file.
    pub name: &'static str,
    /// What it shows, for those who cannot see it.
    pub title: &'static str,
    /// The picture, or a sentence where there is nothing to draw.
    pub svg: String,
}

/// All plots, in the order of the report.
pub(super) fn draw(input: &ReportInput) -> Result<Vec<Plot>, ReportError> {
    if input.analysis.steps.is_empty() && input.analysis.timeline.is_empty() {
        return Ok(Vec::new());
    }
    let charts = [
        ("latency", latency(input)),
        ("throughput", throughput(input)),
        ("batch", signal(input, Signal::Batch)),
        ("queue", signal(input, Signal::Queue)),
        ("gpu", signal(input, Signal::Dcgm)),
        ("timeline-requests", timeline_requests(input)),
        ("timeline-rate", timeline_rate(input)),
        ("timeline-gpu", timeline_gpu(input)),
    ];
    let draw = |(name, chart): (&'static str, Chart<'static>)| {
        let error = |reason| ReportError::Plot { plot: name, reason };
        Ok(Plot { name, title: chart.title, svg: chart.draw().map_err(error)? })
    };
    let visible = charts.into_iter().filter(|(_, chart)| {
        chart.lines.iter().any(|line| line.points.iter().any(|point| point.1.is_some()))
    });
    visible.map(draw).collect()
}

/// Steps in the order of their load, with their place on the x axis.
fn steps<'a>(input: &ReportInput<'a>) -> Vec<(f64, &'a StepAnalysis)> {
    let place = |step: &StepAnalysis| {
        let load = step.mark.load;
        if load.is_open_loop() { step.offered.0 } else { load.level() }
    };
    let mut steps: Vec<_> = input.analysis.steps.iter().map(|step| (place(step), step)).collect();
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    steps
}

fn is_closed_loop(input: &ReportInput) -> bool {
    input.analysis.steps.iter().any(|step| !step.mark.load.is_open_loop())
}

fn x_title(input: &ReportInput) -> &'static str {
    if is_closed_loop(input) { "requests in flight" } else { "offered rate, requests/s" }
}

/// The capacity and its interval, where the x axis is a rate.
fn mark(input: &ReportInput) -> Option<(f64, f64, f64)> {
    let capacity = input.analysis.capacity.as_ref().ok().filter(|_| !is_closed_loop(input))?;
    let total = f64::from(input.analysis.replicas.0);
    Some((capacity.low.0 * total, capacity.high.0 * total, capacity.per_replica.0 * total))
}

fn line(
    input: &ReportInput,
    label: &str,
    colour: plotters::style::RGBColor,
    of: impl Fn(&StepAnalysis) -> Option<f64>,
) -> Line {
    let points = steps(input).into_iter().map(|(x, step)| (x, of(step))).collect();
    Line { label: label.to_owned(), colour, points, marks: true }
}

fn over_load(
    input: &ReportInput,
    title: &'static str,
    y_title: &'static str,
    lines: Vec<Line>,
    limits: Vec<Limit>,
) -> Chart<'static> {
    Chart {
        title,
        x_title: x_title(input),
        y_title,
        lines,
        limits,
        mark: mark(input),
        shaded: Vec::new(),
        y_least: 0.0,
    }
}

/// Latencies span decades, so what lies above three times the largest TTFT limit is drawn at the edge.
fn latency(input: &ReportInput) -> Chart<'static> {
    let slos = input.analysis.slos.iter();
    let limits: Vec<Limit> = slos
        .filter(|slo| slo.metric == SloMetric::Ttft)
        .filter_map(|slo| Some((slo, slo.latency_limit()?)))
        .map(|(slo, limit)| Limit { label: slo.to_string(), colour: VERMILION, value: limit.0, band: None })
        .collect();
    let top = limits.iter().map(|limit| limit.value * 3.0).fold(0.0, f64::max);
    let shown = |value: f64| if top > 0.0 { value.min(top) } else { value };
    let lines = vec![
        line(input, "TTFT p95", BLUE, |s| s.ttft.map(|l| shown(l.p95.0))),
        line(input, "TTFT p50", ORANGE, |s| s.ttft.map(|l| shown(l.p50.0))),
        line(input, "TPOT p95 (per token)", PURPLE, |s| s.tpot.map(|l| shown(l.p95.0))),
    ];
    over_load(input, "Latency over load (cut at three times the limit)", "seconds", lines, limits)
}

fn throughput(input: &ReportInput) -> Chart<'static> {
    let lines = vec![
        line(input, "offered", GREY, |s| Some(s.offered.0)),
        line(input, "achieved", BLUE, |s| Some(s.achieved.0)),
        line(input, "good (within the SLO's limits)", GREEN, |s| s.goodput.map(|share| share * s.offered.0)),
    ];
    over_load(input, "Throughput over load", "requests/s", lines, Vec::new())
}

fn signal(input: &ReportInput, signal: Signal) -> Chart<'static> {
    let (title, y_title, colour): (_, _, _) = match signal {
        Signal::Queue => ("Queue size over load", "requests waiting", ORANGE),
        Signal::Batch => ("Batch size over load", "requests in the batch", BLUE),
        Signal::DutyCycle | Signal::Dcgm => ("GPU utilization over load", "percent", PURPLE),
    };
    let mean = line(input, "mean per replica", colour, |step| {
        let gauge = match signal {
            Signal::Queue => step.queue,
            Signal::Batch => step.batch,
            Signal::DutyCycle | Signal::Dcgm => step.gpu,
        };
        gauge.map(|g| g.mean)
    });
    let limits = target(input, signal).into_iter().collect();
    over_load(input, title, y_title, vec![mean], limits)
}

/// The target with the band in which the HPA does nothing.
fn target(input: &ReportInput, signal: Signal) -> Option<Limit> {
    let recommendation = input.recommendation?;
    let of_signal = |target: &&Target| target.signal == signal;
    let value = recommendation.targets.iter().find(of_signal)?.average_value.as_ref().ok()?.as_f64();
    let tolerance = recommendation.assumptions.tolerance;
    let band = Some((value * (1.0 - tolerance), value * (1.0 + tolerance)));
    Some(Limit { label: format!("target {value} and its tolerance"), colour: VERMILION, value, band })
}

fn over_time(
    input: &ReportInput,
    title: &'static str,
    y_title: &'static str,
    series: &[Series],
) -> Chart<'static> {
    let timeline = &input.analysis.timeline;
    let lines = series
        .iter()
        .map(|(label, colour, of)| Line {
            label: (*label).to_owned(),
            colour: *colour,
            points: timeline.iter().map(|point| (point.time.0, of(point))).collect(),
            marks: false,
        })
        .collect();
    // Every second step is shaded; without steps an empty stretch still says that x is time.
    let every_second =
        input.analysis.steps.iter().step_by(2).map(|step| (step.mark.start.0, step.mark.end.0));
    let shaded = std::iter::once((0.0, 0.0)).chain(every_second).collect();
    Chart {
        title,
        x_title: "seconds since the start",
        y_title,
        lines,
        limits: Vec::new(),
        mark: None,
        shaded,
        y_least: 0.0,
    }
}

type Series = (&'static str, plotters::style::RGBColor, fn(&TimelinePoint) -> Option<f64>);

fn timeline_requests(input: &ReportInput) -> Chart<'static> {
    let series: [Series; 3] = [
        ("in flight at the client", GREY, |p| Some(p.in_flight)),
        ("batch", BLUE, |p| p.batch),
        ("queue", ORANGE, |p| p.queue),
    ];
    over_time(input, "Requests over time", "requests", &series)
}

fn timeline_rate(input: &ReportInput) -> Chart<'static> {
    let series: [Series; 2] =
        [("arrivals", GREY, |p| Some(p.offered.0)), ("completions", BLUE, |p| Some(p.completed.0))];
    over_time(input, "Arrivals and completions over time", "requests/s", &series)
}

fn timeline_gpu(input: &ReportInput) -> Chart<'static> {
    let chart =
        over_time(input, "GPU utilization over time", "percent", &[("GPU utilization", PURPLE, |p| p.gpu)]);
    Chart { y_least: 100.0, ..chart }
}
