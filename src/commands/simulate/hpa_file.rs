//! An HPA manifest as a candidate.

use crate::hpa::{BadMetric, HpaSpec, Settings, Source, Target};
use crate::replay::{Autoscaler, Candidate, ScaledMetric};
use crate::units::{Seconds, Signal};
use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The controller's flag --horizontal-pod-autoscaler-downscale-stabilization.
const DOWN_WINDOW: Seconds = Seconds(300.0);

/// Parts of metric names, and what they measure.
const NAMES: [(&str, Signal); 6] = [
    ("queue_size", Signal::Queue),
    ("num_requests_waiting", Signal::Queue),
    ("batch_current_size", Signal::Batch),
    ("num_requests_running", Signal::Batch),
    ("duty_cycle", Signal::DutyCycle),
    ("gpu_util", Signal::Dcgm),
];

/// The only HPA in a file. Documents of other kinds are passed over with a remark.
pub(super) fn read(path: &Path, tolerance: f64, mut remark: impl FnMut(String)) -> anyhow::Result<Candidate> {
    let file = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("{file} is not YAML"))?;
    let field = |document: &Value, name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut found = Vec::new();
    for (number, document) in (1..).zip(documents) {
        match field(&document, "kind").as_deref() {
            Some("HorizontalPodAutoscaler") => found.push((number, document)),
            other => {
                let kind = other.unwrap_or("no object");
                remark(format!("{file}: document {number} is {kind} and passed over: only HPAs are played"));
            }
        }
    }
    let (number, document) = match found.as_slice() {
        [one] => one,
        [] => bail!("{file} holds no HorizontalPodAutoscaler"),
        several => {
            bail!("{file} holds {} HPAs; give one file each, since they are played one by one", several.len())
        }
    };
    match field(document, "apiVersion").as_deref() {
        Some("autoscaling/v2") => {}
        other => bail!(
            "{file}: document {number} has apiVersion {}; write it as autoscaling/v2, the only one that is played",
            other.unwrap_or("none")
        ),
    }
    let spec = document.get("spec").cloned().unwrap_or_default();
    let spec: HpaSpec =
        serde_json::from_value(spec).with_context(|| format!("{file}: document {number}: spec"))?;
    let scaler = scaler(&spec, tolerance).with_context(|| format!("{file}: document {number}"))?;
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("HPA").to_owned();
    Ok(Candidate { name, origin: file.to_string(), scaler })
}

fn scaler(spec: &HpaSpec, tolerance: f64) -> anyhow::Result<Autoscaler> {
    let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    if min < 1 || max < min || max > 1000 {
        bail!("minReplicas {min} and maxReplicas {max}: 1 <= min <= max <= 1000 is needed to play it");
    }
    if spec.metrics.is_empty() {
        bail!("no metrics: Kubernetes fills in CPU at 80 %, which is not modelled");
    }
    let metric = |metric: &crate::hpa::MetricSpec| -> anyhow::Result<ScaledMetric> {
        let (source, name, target) = metric.resolve().map_err(|error: BadMetric| anyhow!(error))?;
        let lower = name.to_lowercase();
        let signal = NAMES.iter().find(|(part, _)| lower.contains(part)).map(|(_, signal)| *signal);
        let signal = signal.ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(part, _)| *part).collect();
            anyhow!("the metric {name} is none that is replayed; known are names with {}", known.join(", "))
        })?;
        let (Target::Value(value) | Target::AverageValue(value)) = target;
        if value.0 <= 0 {
            bail!("the target of {name} is {value}; it must be above 0");
        }
        if source == Source::Object {
            bail!(
                "{name} is an Object metric, which a replay of replicas does not show; use Pods or External"
            );
        }
        Ok(ScaledMetric { signal, source, target })
    };
    Ok(Autoscaler {
        metrics: spec.metrics.iter().map(metric).collect::<Result<_, _>>()?,
        settings: Settings::of(spec, DOWN_WINDOW),
        tolerances: spec.tolerances(tolerance),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Milli;
    use std::io::Write;

    const HPA: &str = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: gemma-server}\nspec:\n  minReplicas: 1\n  maxReplicas: 5\n  metrics:\n  - type: Pods\n    pods:\n      metric: {name: prometheus.googleapis.com|tgi_queue_size|gauge}\n      target: {type: AverageValue, averageValue: 4500m}\n";

    fn from(text: &str) -> (anyhow::Result<Candidate>, Vec<String>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut remarks = Vec::new();
        let found = read(file.path(), 0.1, |remark| remarks.push(remark));
        (found, remarks)
    }

    #[test]
    fn the_one_hpa_of_a_file_is_played_and_other_kinds_are_passed_over() {
        let (found, remarks) = from(&format!("kind: Service\n---\n{HPA}"));
        let found = found.unwrap();
        assert_eq!(found.name, "gemma-server");
        let expected = ScaledMetric {
            signal: Signal::Queue,
            source: Source::Pods,
            target: Target::AverageValue(Milli(4500)),
        };
        assert_eq!(found.scaler.metrics, [expected]);
        assert!(found.scaler.settings.behavior.is_none());
        assert!(remarks.len() == 1 && remarks[0].contains("document 1 is Service"), "{remarks:?}");
    }

    #[test]
    fn what_cannot_be_played_is_refused_with_the_reason() {
        for (text, says) in [
            (
                HPA.replace("autoscaling/v2", "autoscaling/v2beta2"),
                "has apiVersion autoscaling/v2beta2; write it as",
            ),
            (HPA.replace("autoscaling/v2", "autoscaling/v1"), "autoscaling/v1"),
            ("kind: Service\n".to_owned(), "holds no HorizontalPodAutoscaler"),
            (format!("{HPA}---\n{HPA}"), "holds 2 HPAs"),
            (HPA.replace("tgi_queue_size", "something"), "none that is replayed"),
            (HPA.replace("4500m", "0"), "must be above 0"),
            (HPA.replace("4500m", "-1"), "must be above 0"),
            (HPA.replace("4500m", "$HPA_AVERAGEVALUE_TARGET"), "is not a quantity"),
            (HPA.replace("Pods", "Resource"), "not modelled"),
            (HPA.replace("maxReplicas: 5", "maxReplicas: 0"), "1 <= min <= max"),
            (HPA.replace("  maxReplicas: 5\n", ""), "maxReplicas"),
            ("a: [".to_owned(), "is not YAML"),
        ] {
            let error = format!("{:#}", from(&text).0.unwrap_err());
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
