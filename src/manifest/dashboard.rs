//! What the dashboards show, whatever draws them.

use super::{ClusterNames, Set, series};
use crate::units::{Milli, Signal};

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Panel {
    pub title: String,
    pub unit: Unit,
    pub curves: Vec<Curve>,
    /// Horizontal lines, in the order of their values.
    pub lines: Vec<Line>,
}

/// What a chart's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Count,
    Percent,
    /// 0 to 1.
    Ratio,
    Seconds,
}

/// A curve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Curve {
    pub name: String,
    pub promql: String,
}

/// A horizontal line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub label: String,
    pub value: f64,
    /// Whether crossing it upwards makes the HPA scale up.
    pub fires: bool,
}

fn curve(name: &str, promql: String) -> Curve {
    Curve { name: name.to_owned(), promql }
}

fn line(label: String, value: f64) -> Line {
    Line { label, value, fires: false }
}

/// The title of both dashboards.
pub(super) fn title(names: &ClusterNames) -> String {
    format!("{} autoscaling ({}, namespace {})", names.deployment, names.server.title, names.namespace)
}

/// The charts: each signal with its target and tolerance band, latencies, replicas.
pub(super) fn panels(set: &Set) -> Vec<Panel> {
    let names = set.names;
    let signals = Signal::ALL.into_iter().filter_map(|signal| signal_panel(signal, set));
    signals.chain(latency_panel(names)).chain([replicas_panel(names)]).collect()
}

fn signal_panel(signal: Signal, set: &Set) -> Option<Panel> {
    let series = series::promql(signal, set.names).ok()?;
    let is_ratio = signal == Signal::Dcgm && set.names.gpu_metric.percent() != 1;
    let (per, each, unit) = match signal {
        // Engines of one replica are its own sum.
        Signal::Queue | Signal::Batch => ("replica", format!("sum by (pod) ({series})"), Unit::Count),
        Signal::DutyCycle | Signal::Dcgm => {
            ("GPU", series, if is_ratio { Unit::Ratio } else { Unit::Percent })
        }
    };
    Some(Panel {
        title: format!("{}, per {per}", capitalized(signal.title())),
        unit,
        curves: vec![curve("mean", format!("avg({each})")), curve("highest", format!("max({each})"))],
        lines: set.per_unit(signal).map(|target| band(target, set.tolerance())).unwrap_or_default(),
    })
}

/// The target, and the band around it in which the controller holds still.
fn band(target: Milli, tolerance: f64) -> Vec<Line> {
    // To milli-units, so that no binary fraction shows.
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let value = target.as_f64();
    let (low, high) = (round(value * (1.0 - tolerance)), round(value * (1.0 + tolerance)));
    vec![
        line(format!("below {low}: may scale down"), low),
        line(format!("HPA target {target}"), value),
        Line { label: format!("above {high}: scales up"), value: high, fires: true },
    ]
}

fn latency_panel(names: &ClusterNames) -> Option<Panel> {
    let curves = names.server.latencies.iter().map(|latency| {
        let buckets = series::of_pods(&format!("{}_bucket", latency.name), names);
        let promql = format!("histogram_quantile(0.95, sum by (le) (rate({buckets}[2m])))");
        curve(&format!("{}, p95", latency.title), promql)
    });
    let curves: Vec<Curve> = curves.collect();
    let title = "Latency by the server's own histograms".to_owned();
    (!curves.is_empty()).then_some(Panel { title, unit: Unit::Seconds, curves, lines: Vec::new() })
}

fn replicas_panel(names: &ClusterNames) -> Panel {
    let up = series::of_pods("up", names);
    Panel {
        title: "Replicas".to_owned(),
        unit: Unit::Count,
        curves: vec![
            curve("scraped", format!("count(count by (pod) ({up}))")),
            curve("answering", format!("count(count by (pod) ({up} == 1))")),
        ],
        lines: vec![
            line(format!("minReplicas {}", names.min_replicas), f64::from(names.min_replicas)),
            line(format!("maxReplicas {}", names.max_replicas), f64::from(names.max_replicas)),
        ],
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
