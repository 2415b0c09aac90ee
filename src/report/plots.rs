//! The charts of a report.
//!
//! Over the load, dots are what the steps showed, with 90 % intervals; a line is the fitted server played at each
//! load, and its band what it would be at either end of the capacity's interval.

use super::chart::{BLUE, Chart, GREEN, GREY, Limit, Line, Mark, ORANGE, PURPLE, Style, VERMILION};
use super::{ReportInput, plan};
use crate::analyze::{Capacity, Curve, GaugeSummary, LatencySummary, Method, StepAnalysis, TimelinePoint};
use crate::recommend::Target;
use crate::units::{Rate, Signal, Slo, SloMetric, Stat};
use plotters::style::RGBColor;

/// Where a chart belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// What the limits are set on.
    Limits,
    /// What an HPA sees.
    Signals,
    /// What the server does and costs.
    Server,
    /// The run as it went.
    Time,
    /// A capacity plan.
    Plan,
}

/// A chart with the name of its file.
pub(super) struct Named {
    pub name: &'static str,
    pub group: Group,
    pub chart: Chart,
}

/// Standard deviations on either side of a 90 % interval.
const NINETY_PERCENT: f64 = 1.645;
/// Places of a line over the load.
const PLACES: u32 = 90;
/// A latency that lies above so many times its limit is not drawn.
const ABOVE_LIMIT: f64 = 2.5;
/// Nor are more violations than this, percent.
const VIOLATIONS: f64 = 40.0;
/// Dots of the forward's cost, each of equally many intervals between scrapes.
const FORWARD_DOTS: usize = 14;

/// All charts that have something to show, in the order of the report.
pub(super) fn charts(input: &ReportInput) -> Vec<Named> {
    if input.analysis.steps.is_empty() && input.analysis.timeline.is_empty() {
        return Vec::new();
    }
    let mut charts = Vec::new();
    let mut add = |group, name, chart: Chart| {
        if !chart.is_empty() {
            charts.push(Named { name, group, chart });
        }
    };
    for (metric, name) in [
        (SloMetric::Ttft, "ttft"),
        (SloMetric::Tpot, "tpot"),
        (SloMetric::E2e, "e2e"),
        (SloMetric::Itl, "itl"),
        (SloMetric::Ntpot, "ntpot"),
    ] {
        let limited = input.analysis.slos.iter().any(|slo| slo.metric == metric);
        if limited || matches!(metric, SloMetric::Ttft | SloMetric::Tpot | SloMetric::E2e) {
            add(Group::Limits, name, latency(input, metric));
        }
    }
    add(Group::Limits, "violations", violations(input));
    add(Group::Signals, "batch", signal(input, Signal::Batch));
    add(Group::Signals, "queue", signal(input, Signal::Queue));
    add(Group::Signals, "gpu", signal(input, Signal::Dcgm));
    add(Group::Server, "throughput", throughput(input));
    add(Group::Server, "decode", decode(input));
    for (name, chart) in timeline(input) {
        add(Group::Time, name, chart);
    }
    for (name, chart) in input.plan.map(plan::charts).unwrap_or_default() {
        add(Group::Plan, name, chart);
    }
    charts
}

/// Steps with the load that each put on a replica, in the order of that.
fn steps<'a>(input: &ReportInput<'a>) -> Vec<(f64, &'a StepAnalysis)> {
    let replicas = input.analysis.replicas;
    let mut steps: Vec<_> =
        input.analysis.steps.iter().map(|step| (step.carried(replicas).0, step)).collect();
    steps.retain(|step| step.0.is_finite());
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    steps
}

/// The capacity, where it comes from the fitted server, so that its curves belong to it.
fn played<'a>(input: &ReportInput<'a>) -> Option<&'a Capacity> {
    input.analysis.capacity.as_ref().ok().filter(|capacity| capacity.method == Method::ServerModel)
}

/// The highest load of interest: what was driven, and the capacity with its interval.
fn most(input: &ReportInput) -> f64 {
    let driven = steps(input).last().map_or(0.0, |step| step.0);
    let capacity = input.analysis.capacity.as_ref().map_or(0.0, |capacity| capacity.high.0);
    driven.max(capacity) * 1.04
}

fn over_load(
    input: &ReportInput,
    title: &str,
    y_title: impl Into<String>,
    lines: Vec<Line>,
    limits: Vec<Limit>,
) -> Chart {
    let capacity = input.analysis.capacity.as_ref().ok().map(|capacity| Mark {
        label: format!("capacity {:.2}", capacity.per_replica.0),
        from: capacity.low.0,
        to: capacity.high.0,
        at: capacity.per_replica.0,
        colour: GREEN,
    });
    Chart {
        title: title.to_owned(),
        x_title: "load, requests/s per replica",
        y_title: y_title.into(),
        lines,
        limits,
        marks: capacity.into_iter().collect(),
        ..Chart::default()
    }
}

/// A curve of the fitted server, with the band that the capacity's interval makes of it: a server of another
/// capacity shows at a load what this one shows at the same share of its capacity.
fn curve(input: &ReportInput, label: &str, colour: RGBColor, curve: &Curve, scale: f64) -> Option<Line> {
    let capacity = played(input)?;
    let at = |load: f64| curve.at(Rate(load)).map(|value| value * scale);
    let (first, most) = (curve.range().0.0, most(input));
    let loads = (0..=PLACES).map(|i| first + (most - first) * f64::from(i) / f64::from(PLACES));
    let share = |end: Rate| capacity.per_replica.0 / end.0;
    let band = |load: f64| {
        Some((load, at(load * share(capacity.high)).or_else(|| at(first))?, at(load * share(capacity.low))?))
    };
    let points = loads.clone().map(|load| (load, at(load))).collect();
    Some(Line::new(label, colour, Style::Line, points).with_spread(loads.filter_map(band).collect()))
}

/// What the steps showed: dots, with a thin line through them where nothing else shows the way.
fn dots(
    input: &ReportInput,
    label: &str,
    colour: RGBColor,
    of: impl Fn(&StepAnalysis) -> Option<f64>,
) -> Line {
    let style = if played(input).is_some() { Style::Dots } else { Style::Dotted };
    let points = steps(input).into_iter().map(|(x, step)| (x, of(step))).collect();
    Line::new(label, colour, style, points)
}

fn summary(step: &StepAnalysis, metric: SloMetric) -> Option<LatencySummary> {
    match metric {
        SloMetric::Ttft => step.ttft,
        SloMetric::Tpot => step.tpot,
        SloMetric::E2e => step.e2e,
        SloMetric::Itl => step.itl,
        SloMetric::Ntpot => step.ntpot,
        SloMetric::Error | SloMetric::Goodput => None,
    }
}

/// A latency over the load: its percentiles, its limits, and how it reaches them.
fn latency(input: &ReportInput, metric: SloMetric) -> Chart {
    let title = match metric {
        SloMetric::Ttft => "Time to first token (TTFT)",
        SloMetric::Tpot => "Time per output token (TPOT)",
        SloMetric::Itl => "Time between tokens (ITL)",
        SloMetric::Ntpot => "End to end per output token (NTPOT)",
        _ => "End to end (E2E)",
    };
    let slos: Vec<&Slo> = input.analysis.slos.iter().filter(|slo| slo.metric == metric).collect();
    let limit = slos.iter().filter_map(|slo| slo.latency_limit()).map(|limit| limit.0).fold(0.0, f64::max);
    let worst =
        steps(input).iter().filter_map(|(_, step)| Some(summary(step, metric)?.p95.0)).fold(0.0, f64::max);
    let in_ms = if limit > 0.0 { limit < 1.0 } else { worst < 1.0 };
    let (scale, unit) = if in_ms { (1e3, "ms") } else { (1.0, "seconds") };
    let mut lines = Vec::new();
    for slo in &slos {
        lines.extend(limited(input, slo, scale));
    }
    let is_limited = |percent: f64| slos.iter().any(|slo| slo.stat == Stat::Percentile(percent));
    let of = |percentile: fn(&LatencySummary) -> f64| {
        move |step: &StepAnalysis| summary(step, metric).as_ref().map(percentile).map(|value| value * scale)
    };
    if !is_limited(99.0) {
        lines.push(dots(input, "p99", PURPLE, of(|l| l.p99.0)));
    }
    if !is_limited(95.0) {
        let bars = steps(input).into_iter().filter_map(|(x, step)| bar(x, summary(step, metric)?, scale));
        lines.push(dots(input, "p95", BLUE, of(|l| l.p95.0)).with_spread(bars.collect()));
    }
    if !is_limited(50.0) {
        lines.push(dots(input, "p50", ORANGE, of(|l| l.p50.0)));
    }
    let limits = slos.iter().filter_map(|slo| {
        let value = slo.latency_limit()?;
        Some(Limit { label: format!("limit {slo}"), colour: VERMILION, value: value.0 * scale, band: None })
    });
    let limits = limits.collect();
    let y_most = (limit > 0.0).then_some(limit * scale * ABOVE_LIMIT);
    Chart { y_most, ..over_load(input, title, unit, lines, limits) }
}

/// The colour of a statistic.
fn colour(stat: Stat) -> RGBColor {
    match stat {
        Stat::Percentile(percent) if percent <= 50.0 => ORANGE,
        Stat::Percentile(percent) if percent >= 99.0 => PURPLE,
        _ => BLUE,
    }
}

fn bar(x: f64, latency: LatencySummary, scale: f64) -> Option<(f64, f64, f64)> {
    latency.p95_interval.map(|(low, high)| (x, low.0 * scale, high.0 * scale))
}

/// The figure that a limit is set on: what the steps showed, the fitted server at the very arrivals of each, and
/// the fitted server at each load.
fn limited(input: &ReportInput, slo: &Slo, scale: f64) -> Vec<Line> {
    let (stat, colour) = (slo.stat, colour(slo.stat));
    let prediction = input.analysis.prediction.as_ref().ok().filter(|_| played(input).is_some());
    let figures = prediction.iter().flat_map(|prediction| &prediction.curves.figures);
    let line = figures
        .filter(|figure| figure.0 == *slo)
        .find_map(|(_, figure)| curve(input, &format!("{stat}, fitted server"), colour, figure, scale));
    let rings =
        prediction.iter().flat_map(|prediction| &prediction.agreement).filter(|step| step.nearest == *slo);
    let rings: Vec<_> =
        rings.map(|step| (step.load.0, step.figure_played.map(|figure| figure * scale))).collect();
    let measured = |step: &StepAnalysis| {
        let check = step.checks.iter().find(|check| check.slo == *slo)?;
        let known = check.value.is_some() || !check.undecided;
        (step.attempts > 0 && known).then(|| check.value.unwrap_or(f64::INFINITY) * scale)
    };
    let bars = steps(input).into_iter().filter_map(|(x, step)| bar(x, summary(step, slo.metric)?, scale));
    let bars = if stat == Stat::Percentile(95.0) { bars.collect() } else { Vec::new() };
    let dots = dots(input, &format!("{stat}, measured"), colour, measured).with_spread(bars);
    let rings =
        Line::new(format!("{stat}, fitted server at the step's own arrivals"), GREY, Style::Rings, rings);
    line.into_iter().chain([rings, dots]).collect()
}

/// The share of requests that break a limit.
fn violations(input: &ReportInput) -> Chart {
    let surface = input.analysis.surface.violations.as_ref();
    let line = surface.and_then(|violations| curve(input, "fitted server", BLUE, violations, 100.0));
    let measured = dots(input, "measured", BLUE, |step| step.goodput.map(|share| (1.0 - share) * 100.0));
    let allowed = input.analysis.slos.iter().filter_map(|slo| match slo.stat {
        Stat::Percentile(percent) => Some(100.0 - percent),
        _ => None,
    });
    let limits = allowed.reduce(f64::min).map(|allowed| Limit {
        label: format!("{allowed:.3} % is what one percentile allows").replace(".000", ""),
        colour: VERMILION,
        value: allowed,
        band: None,
    });
    let lines = line.into_iter().chain([measured]).collect();
    let chart =
        over_load(input, "Requests that break a limit", "percent", lines, limits.into_iter().collect());
    Chart { y_least: 10.0, y_most: Some(VIOLATIONS), ..chart }
}

fn throughput(input: &ReportInput) -> Chart {
    let replicas = f64::from(input.analysis.replicas.0.max(1));
    let lines = vec![
        dots(input, "achieved", BLUE, |s| Some(s.achieved.0 / replicas)),
        dots(input, "within every limit", GREEN, |s| s.goodput.map(|share| share * s.offered.0 / replicas)),
    ];
    let mut chart = over_load(input, "Throughput", "requests/s per replica", lines, Vec::new());
    let most = most(input);
    let ends = vec![(0.0, Some(0.0)), (most, Some(most))];
    if most > 0.0 && !chart.is_empty() {
        chart.lines.insert(0, Line::new("as offered", GREY, Style::Line, ends));
    }
    chart
}

fn signal(input: &ReportInput, signal: Signal) -> Chart {
    let (title, y_title, colour): (_, _, _) = match signal {
        Signal::Queue => ("Queue size per replica", "requests waiting", ORANGE),
        Signal::Batch => ("Batch size per replica", "requests in the batch", BLUE),
        Signal::DutyCycle | Signal::Dcgm => ("GPU utilization per replica", "percent", PURPLE),
    };
    let gauge = |step: &StepAnalysis| match signal {
        Signal::Queue => step.queue,
        Signal::Batch => step.batch,
        Signal::DutyCycle | Signal::Dcgm => step.gpu,
    };
    let bar = |x: f64, gauge: GaugeSummary| {
        let half = gauge.standard_error? * NINETY_PERCENT;
        Some((x, (gauge.mean - half).max(0.0), gauge.mean + half))
    };
    let bars = steps(input).into_iter().filter_map(|(x, step)| bar(x, gauge(step)?)).collect();
    let measured =
        dots(input, "mean, measured", colour, |step| gauge(step).map(|g| g.mean)).with_spread(bars);
    let curves =
        input.analysis.surface.curve(signal).filter(|curve| curve.origin == crate::analyze::Origin::Played);
    let line = curves.and_then(|shown| curve(input, "mean, fitted server", colour, shown, 1.0));
    let mut lines: Vec<Line> = line.into_iter().chain([measured]).collect();
    let target = target(input, signal);
    if let Some((fires, load)) = target.and_then(|target| target.fires_at.zip(target.fires_at_load)) {
        let label = format!("scales up from {}, at {load}", fires.as_f64());
        lines.push(Line::new(label, VERMILION, Style::Dots, vec![(load.0, Some(fires.as_f64()))]));
    }
    let limits = target.and_then(|target| band(input, target)).into_iter().collect();
    let y_least = if signal.is_external() { 100.0 } else { 0.0 };
    Chart { y_least, ..over_load(input, title, y_title, lines, limits) }
}

fn target<'a>(input: &ReportInput<'a>, signal: Signal) -> Option<&'a Target> {
    input.recommendation?.targets.iter().find(|target| target.signal == signal)
}

/// The target with the band in which the HPA does nothing.
fn band(input: &ReportInput, target: &Target) -> Option<Limit> {
    let tolerance = input.recommendation?.assumptions.tolerance;
    let value = target.average_value.as_ref().ok()?.as_f64();
    let band = Some((value * (1.0 - tolerance), value * (1.0 + tolerance)));
    Some(Limit {
        label: format!("target {value} ± {} %", (tolerance * 1000.0).round() / 10.0),
        colour: VERMILION,
        value,
        band,
    })
}

/// How long a decode takes by its batch.
fn decode(input: &ReportInput) -> Chart {
    let Ok(prediction) = &input.analysis.prediction else { return Chart::default() };
    let mut seen = prediction.decodes.clone();
    seen.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut points, mut bars) = (Vec::new(), Vec::new());
    for part in seen.chunks(seen.len().div_ceil(FORWARD_DOTS).max(1)) {
        let n = part.len() as f64;
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| part.iter().map(of).sum::<f64>() / n;
        let (batch, length) = (mean(&|seen| seen.0), mean(&|seen| seen.1 * 1e3));
        // A mean over different batches lies where the line does, so what is left scatters around that.
        let off = |seen: &(f64, f64)| (seen.1 - prediction.model.mean_decode(seen.0).0) * 1e3;
        let shift = mean(&off);
        let deviation = (mean(&|seen| (off(seen) - shift).powi(2)) / n).sqrt();
        points.push((batch, Some(length)));
        bars.push((batch, length - NINETY_PERCENT * deviation, length + NINETY_PERCENT * deviation));
    }
    let at_capacity = input
        .analysis
        .capacity
        .as_ref()
        .ok()
        .and_then(|capacity| input.analysis.surface.batch.as_ref()?.at(capacity.per_replica));
    let last = seen.last().map_or(0.0, |seen| seen.0).max(at_capacity.unwrap_or(0.0) * 1.1);
    let fitted = (0..=PLACES).map(|i| last * f64::from(i) / f64::from(PLACES));
    let fitted = fitted.map(|batch| (batch, Some(prediction.model.mean_decode(batch).0 * 1e3))).collect();
    let mark = at_capacity.map(|at| Mark {
        label: "batch at the capacity".to_owned(),
        from: at,
        to: at,
        at,
        colour: GREEN,
    });
    let lines = if points.is_empty() {
        Vec::new()
    } else {
        vec![
            Line::new("fitted", ORANGE, Style::Line, fitted),
            Line::new("from the server's counters", BLUE, Style::Dots, points).with_spread(bars),
        ]
    };
    Chart {
        title: "Length of a decode step".to_owned(),
        x_title: "sequences in the batch",
        y_title: "ms".to_owned(),
        lines,
        marks: mark.into_iter().collect(),
        ..Chart::default()
    }
}

type Series = (&'static str, RGBColor, fn(&TimelinePoint) -> Option<f64>);

/// The run as it went: panels one above the other, over the same seconds.
fn timeline(input: &ReportInput) -> Vec<(&'static str, Chart)> {
    let rate: &[Series] =
        &[("arrivals", GREY, |p| Some(p.offered.0)), ("completions", BLUE, |p| Some(p.completed.0))];
    let requests: &[Series] =
        &[("in flight at the client", GREY, |p| Some(p.in_flight)), ("batch", BLUE, |p| p.batch)];
    let queue: &[Series] = &[("queue", ORANGE, |p| p.queue)];
    let ttft: &[Series] = &[("median TTFT", GREEN, |p| p.ttft_p50.map(|ttft| ttft.0 * 1e3))];
    let gpu: &[Series] = &[("GPU utilization", PURPLE, |p| p.gpu)];
    let panels = [
        ("timeline-rate", "Arrivals and completions", "requests/s", rate, 0.0),
        ("timeline-requests", "In flight, and the batch per replica", "requests", requests, 0.0),
        ("timeline-queue", "Queue per replica", "requests", queue, 1.0),
        ("timeline-ttft", "Time to first token", "ms", ttft, 0.0),
        ("timeline-gpu", "GPU utilization per replica", "percent", gpu, 100.0),
    ];
    let marks = || input.analysis.steps.iter().map(|step| step.mark);
    let heads: Vec<(f64, String)> = marks().map(|mark| (mark.start.0, mark.load.short())).collect();
    let shaded: Vec<(f64, f64)> = marks().step_by(2).map(|mark| (mark.start.0, mark.end.0)).collect();
    let chart = |(name, title, y_title, series, y_least): (_, &str, &str, &[Series], f64)| {
        let line = |(label, colour, of): &Series| {
            let points = input.analysis.timeline.iter().map(|point| (point.time.0, of(point))).collect();
            Line::new(*label, *colour, Style::Line, points)
        };
        let chart = Chart {
            title: title.to_owned(),
            x_title: "seconds since the start",
            y_title: y_title.to_owned(),
            lines: series.iter().map(line).collect(),
            heads: heads.clone(),
            shaded: shaded.clone(),
            x_from_first: true,
            y_least,
            wide: true,
            ..Chart::default()
        };
        (name, chart)
    };
    panels.into_iter().map(chart).collect()
}
