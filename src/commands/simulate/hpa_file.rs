//! An HPA manifest as a candidate.

use crate::commands::hpa::manifest::read_hpa;
use crate::commands::input::shown;
use crate::hpa::{BadMetric, DOWNSCALE_STABILIZATION, HpaSpec, Settings, Source, Target};
use crate::manifest::{self, ClusterNames};
use crate::observe::to_percent;
use crate::replay::{Autoscaler, Candidate, ScaledMetric};
use crate::units::{Milli, Signal};
use anyhow::{Context, anyhow, bail};
use std::path::Path;

/// Parts of metric names, and what they measure, for HPAs that name metrics otherwise than calibrate writes them
/// for the run's server.
const NAMES: [(&str, Signal); 12] = [
    ("queue_size", Signal::Queue),
    ("num_requests_waiting", Signal::Queue),
    ("num_queue_reqs", Signal::Queue),
    ("requests_deferred", Signal::Queue),
    ("backlog_size", Signal::Queue),
    ("batch_current_size", Signal::Batch),
    ("num_requests_running", Signal::Batch),
    ("num_running_reqs", Signal::Batch),
    ("requests_processing", Signal::Batch),
    ("duty_cycle", Signal::DutyCycle),
    ("gpu_util", Signal::Dcgm),
    ("gr_engine_active", Signal::Dcgm),
];

/// The only HPA in a file. Documents of other kinds are passed over with a remark.
pub(super) fn read(
    path: &Path,
    tolerance: f64,
    names: Option<&ClusterNames>,
    remark: impl FnMut(String),
) -> anyhow::Result<Candidate> {
    let file = read_hpa(path, None, "give each a file of its own, since they are played one by one")?;
    file.remarks.into_iter().for_each(remark);
    let scaler = scaler(&file.spec, tolerance, names).with_context(|| shown(path))?;
    let name = if file.name.is_empty() { "HPA".to_owned() } else { file.name };
    Ok(Candidate { name, origin: shown(path), scaler })
}

/// An HPA as it is played. `names` are those that calibrate would write for the run's server.
pub(in crate::commands) fn scaler(
    spec: &HpaSpec,
    tolerance: f64,
    names: Option<&ClusterNames>,
) -> anyhow::Result<Autoscaler> {
    let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    if min < 1 || max < min || max > 1000 {
        bail!("minReplicas {min} and maxReplicas {max}: 1 <= min <= max <= 1000 is needed to play it");
    }
    let metric = |metric: &crate::hpa::MetricSpec| -> anyhow::Result<ScaledMetric> {
        let (source, name, target) = metric.resolve().map_err(|error: BadMetric| anyhow!(error))?;
        let labels = metric.metric().and_then(|metric| metric.selector.clone()).unwrap_or_default();
        let written = names.and_then(|names| manifest::signal_of(name, &labels.match_labels, names));
        let lower = name.to_lowercase();
        let known = || NAMES.iter().find(|(part, _)| lower.contains(part)).map(|(_, signal)| *signal);
        let signal = written.or_else(known).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(part, _)| *part).collect();
            anyhow!("the metric {name} is none that is replayed; known are names with {}", known.join(", "))
        })?;
        if source == Source::Object {
            bail!(
                "{name} is an Object metric, which a replay of replicas does not show; use Pods or External"
            );
        }
        let percent = |value: Milli| Milli((value.0 as f64 * to_percent(name)) as i64);
        let target = match target {
            Target::Value(value) => Target::Value(percent(value)),
            Target::AverageValue(value) => Target::AverageValue(percent(value)),
        };
        Ok(ScaledMetric { signal, source, target })
    };
    Ok(Autoscaler {
        metrics: spec.metrics.iter().map(metric).collect::<Result<_, _>>()?,
        settings: Settings::of(spec, DOWNSCALE_STABILIZATION),
        tolerances: spec.tolerances(tolerance),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::derive;
    use crate::manifest::{Adapter, GpuMetric};
    use std::io::Write;

    const HPA: &str = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: gemma-server}\nspec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: gemma}\n  minReplicas: 1\n  maxReplicas: 5\n  metrics:\n  - type: Pods\n    pods:\n      metric: {name: prometheus.googleapis.com|tgi_queue_size|gauge}\n      target: {type: AverageValue, averageValue: 4500m}\n";

    fn from(text: &str) -> (anyhow::Result<Candidate>, Vec<String>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut remarks = Vec::new();
        let found = read(file.path(), 0.1, None, |remark| remarks.push(remark));
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
        assert!(remarks.len() == 1 && remarks[0].contains(":1: Service skipped"), "{remarks:?}");
    }

    #[test]
    fn every_hpa_that_is_written_for_a_server_can_be_played_for_it() {
        let place = crate::scenario::ClusterSettings {
            cluster_name: Some("c".to_owned()),
            location: Some("l".to_owned()),
            ..crate::scenario::ClusterSettings::default()
        };
        let mut played = 0;
        for profile in crate::observe::Profile::names() {
            let server = derive::server(Some(profile), None).unwrap();
            let plain = derive::names_for(server, &place, 1);
            let engines = ClusterNames { gpu_metric: GpuMetric::EngineActive, ..plain.clone() };
            for (names, signal) in [&plain, &engines].into_iter().flat_map(|n| Signal::ALL.map(|s| (n, s))) {
                for adapter in [Adapter::Stackdriver, Adapter::Prometheus, Adapter::Native] {
                    let Ok(hpa) = manifest::hpa(&[(signal, Milli(500))], adapter, 0.1, names) else {
                        continue;
                    };
                    let spec = serde_json::to_value(hpa).unwrap()["spec"].clone();
                    let spec: HpaSpec = serde_json::from_value(spec).unwrap();
                    let metric = scaler(&spec, 0.1, Some(names)).unwrap().metrics[0];
                    assert_eq!(metric.signal, signal, "{profile} {adapter:?}: {spec:?}");
                    let ratio = signal == Signal::Dcgm && names.gpu_metric == GpuMetric::EngineActive;
                    let milli = if ratio { 50_000 } else { 500 };
                    assert_eq!(metric.target, Target::AverageValue(Milli(milli)), "{profile} {adapter:?}");
                    played += 1;
                }
            }
        }
        assert!(played > 60, "{played}");
    }

    #[test]
    fn what_cannot_be_played_is_refused_with_the_reason() {
        for (text, says) in [
            (HPA.replace("autoscaling/v2", "autoscaling/v2beta2"), "is gone since Kubernetes 1.26"),
            (HPA.replace("autoscaling/v2", "autoscaling/v1"), "write it as autoscaling/v2"),
            ("kind: Service\n".to_owned(), "holds no HorizontalPodAutoscaler, but Service"),
            (
                format!("{HPA}---\n{HPA}"),
                "several HPAs (gemma-server, gemma-server); give each a file of its own",
            ),
            (HPA.replace("tgi_queue_size", "something"), "none that is replayed"),
            (HPA.replace("4500m", "0"), "is not above 0"),
            (HPA.replace("4500m", "-1"), "is not above 0"),
            (HPA.replace("4500m", "$HPA_AVERAGEVALUE_TARGET"), "is still to be replaced"),
            (HPA.replace("Pods", "Resource"), "Resource"),
            (HPA.replace("maxReplicas: 5", "maxReplicas: 0"), "maxReplicas"),
            (HPA.replace("maxReplicas: 5", "maxReplicas: 2000"), "1 <= min <= max <= 1000"),
            (HPA.replace("  maxReplicas: 5\n", ""), "maxReplicas"),
            ("a: [".to_owned(), "not YAML"),
        ] {
            let error = format!("{:#}", from(&text).0.unwrap_err());
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
