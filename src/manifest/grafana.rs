//! The same dashboard for Grafana, over any Prometheus data source.

use super::Set;
use super::dashboard::{Curve, Line, Panel, Unit, panels, title};
use serde_json::{Value, json};

/// Grafana's grid has 24 columns.
const ACROSS: usize = 2;
const WIDTH: usize = 24 / ACROSS;
const HEIGHT: usize = 8;
/// The version of the format.
const SCHEMA: u32 = 39;

/// The dashboard. Its data source is chosen on the board.
pub(super) fn dashboard(set: &Set) -> Value {
    let panels: Vec<Value> =
        panels(set).iter().enumerate().map(|(place, panel)| chart(place, panel)).collect();
    json!({
        "title": title(set.names),
        "schemaVersion": SCHEMA,
        "tags": ["calibrate", "autoscaling"],
        "editable": true,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "templating": { "list": [
            { "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus" },
        ] },
        "panels": panels,
    })
}

fn chart(place: usize, panel: &Panel) -> Value {
    let unit = match panel.unit {
        Unit::Count => "short",
        Unit::Percent => "percent",
        Unit::Ratio => "percentunit",
        Unit::Seconds => "s",
    };
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    let target = |(curve, letter): (&Curve, char)| {
        json!({
            "refId": letter.to_string(),
            "expr": curve.promql,
            "legendFormat": curve.name,
            "datasource": source,
        })
    };
    // The lines carry no text in Grafana, so it stands in the description.
    let labels: Vec<&str> = panel.lines.iter().map(|line| line.label.as_str()).collect();
    let style = if panel.lines.is_empty() { "off" } else { "line" };
    json!({
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": labels.join("; "),
        "datasource": source,
        "gridPos": {
            "x": place % ACROSS * WIDTH,
            "y": place / ACROSS * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "targets": panel.curves.iter().zip('A'..).map(target).collect::<Vec<_>>(),
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                "custom": { "thresholdsStyle": { "mode": style } },
                "thresholds": { "mode": "absolute", "steps": steps(&panel.lines) },
            },
            "overrides": [],
        },
    })
}

/// Grafana wants a first step without a value.
fn steps(lines: &[Line]) -> Vec<Value> {
    let first = json!({ "color": "green", "value": null });
    let step =
        |line: &Line| json!({ "color": if line.fires { "red" } else { "orange" }, "value": line.value });
    std::iter::once(first).chain(lines.iter().map(step)).collect()
}
