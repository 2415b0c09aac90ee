//! A dashboard of Cloud Monitoring, for `gcloud monitoring dashboards create --config-from-file`.

use super::Set;
use super::dashboard::{Curve, Line, Panel, Unit, panels, title};
use serde_json::{Value, json};

/// Charts side by side on a board of 48 columns.
const ACROSS: usize = 2;
const WIDTH: usize = 48 / ACROSS;
const HEIGHT: usize = 16;

/// The dashboard.
pub(super) fn dashboard(set: &Set) -> Value {
    let tiles: Vec<Value> = panels(set).iter().enumerate().map(|(place, panel)| tile(place, panel)).collect();
    json!({ "displayName": title(set.names), "mosaicLayout": { "columns": 48, "tiles": tiles } })
}

fn tile(place: usize, panel: &Panel) -> Value {
    let unit = match panel.unit {
        Unit::Count | Unit::Ratio => "1",
        Unit::Percent => "%",
        Unit::Seconds => "s",
    };
    let data_set = |curve: &Curve| {
        json!({
            "plotType": "LINE",
            "targetAxis": "Y1",
            "legendTemplate": curve.name,
            "timeSeriesQuery": { "prometheusQuery": curve.promql, "unitOverride": unit },
        })
    };
    let threshold = |line: &Line| json!({ "label": line.label, "value": line.value, "targetAxis": "Y1" });
    json!({
        "xPos": place % ACROSS * WIDTH,
        "yPos": place / ACROSS * HEIGHT,
        "width": WIDTH,
        "height": HEIGHT,
        "widget": {
            "title": panel.title,
            "xyChart": {
                "dataSets": panel.curves.iter().map(data_set).collect::<Vec<_>>(),
                "thresholds": panel.lines.iter().map(threshold).collect::<Vec<_>>(),
                "yAxis": { "scale": "LINEAR" },
            },
        },
    })
}
