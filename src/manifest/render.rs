//! The whole set of files for a recommendation.

use super::{
    Adapter, ClusterNames, GpuMetric, LeftOut, ManifestError, ManifestFile, Manifests, Provenance,
    autoscaling_metric, cloud_monitoring, grafana, hpa, keda, pod_monitoring, prometheus_adapter, setup,
    to_yaml,
};
use crate::hpa::TOLERANCE;
use crate::recommend::{Recommendation, Target};
use crate::units::{Milli, Signal};
use serde_json::Value;

/// The files that hold a target or name one that does, and so must not outlive it.
pub const OF_TARGETS: [&str; 11] = [
    "hpa-queue.yaml",
    "hpa-batch.yaml",
    "hpa-duty-cycle.yaml",
    "hpa-dcgm.yaml",
    COMBINED,
    KEDA,
    PROMETHEUS_HPA,
    NATIVE_HPA,
    DASHBOARD,
    GRAFANA,
    SETUP,
];
const COMBINED: &str = "hpa-combined.yaml";
const KEDA: &str = "keda-scaledobject.yaml";
const PROMETHEUS_HPA: &str = "hpa-prometheus-adapter.yaml";
const NATIVE_HPA: &str = "hpa-autoscaling-metric.yaml";
const DASHBOARD: &str = "dashboard.json";
const GRAFANA: &str = "grafana-dashboard.json";
const SETUP: &str = "setup.sh";

/// What the files are made from.
pub(super) struct Set<'a> {
    pub recommendation: &'a Recommendation,
    pub names: &'a ClusterNames,
    pub provenance: &'a Provenance,
}

/// All files of a recommendation.
///
/// # Errors
/// Names that Kubernetes would refuse.
pub fn render_all(
    recommendation: &Recommendation,
    names: &ClusterNames,
    provenance: &Provenance,
) -> Result<Manifests, ManifestError> {
    names.validate()?;
    let set = Set { recommendation, names, provenance };
    let mut all = Manifests::default();
    for signal in Signal::ALL {
        all.add(&hpa_file(signal), set.page_hpa(signal))?;
    }
    all.add(COMBINED, set.combined())?;
    let server = format!("podmonitoring-{}.yaml", names.server.slug);
    all.add(&server, set.pod_monitoring_server())?;
    all.add("podmonitoring-dcgm.yaml", set.pod_monitoring_dcgm())?;
    all.add("autoscaling-metric.yaml", set.autoscaling_metric())?;
    all.add(NATIVE_HPA, set.other_hpa(Adapter::Native))?;
    all.add("prometheus-adapter.yaml", set.prometheus_adapter())?;
    all.add(PROMETHEUS_HPA, set.other_hpa(Adapter::Prometheus))?;
    all.add(KEDA, set.keda())?;
    all.add(DASHBOARD, json(&cloud_monitoring::dashboard(&set)))?;
    all.add(GRAFANA, json(&grafana::dashboard(&set)))?;
    let chosen = recommendation.recommended.map(hpa_file);
    let chosen = chosen.filter(|name| all.files.iter().any(|file| file.name == *name));
    all.add(SETUP, setup::shell_file(&set, chosen.as_deref()).map_err(ManifestError::LeftOut))?;
    Ok(all)
}

fn hpa_file(signal: Signal) -> String {
    format!("hpa-{}.yaml", signal.slug())
}

fn json(document: &Value) -> Result<String, ManifestError> {
    let text = serde_json::to_string_pretty(document);
    text.map(|text| text + "\n").map_err(|error| ManifestError::Yaml(error.to_string()))
}

impl Manifests {
    fn add(&mut self, name: &str, text: Result<String, ManifestError>) -> Result<(), ManifestError> {
        let name = name.to_owned();
        match text {
            Ok(text) => self.files.push(ManifestFile { name, text }),
            Err(ManifestError::LeftOut(reason)) => self.left_out.push(LeftOut { name, reason }),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Set<'_> {
    pub(super) fn tolerance(&self) -> f64 {
        self.recommendation.assumptions.tolerance
    }

    /// The target of a signal, if it has one.
    fn target(&self, signal: Signal) -> Result<(&Target, Milli), ManifestError> {
        let target = self.recommendation.targets.iter().find(|target| target.signal == signal);
        let target = target.ok_or_else(|| ManifestError::LeftOut("it has no target".to_owned()))?;
        match &target.average_value {
            Ok(average) => Ok((target, *average)),
            Err(reason) => Err(ManifestError::LeftOut(format!("{signal} has no target: {reason}"))),
        }
    }

    /// The target in the unit of its series, for one replica or one GPU.
    pub(super) fn per_unit(&self, signal: Signal) -> Option<Milli> {
        let (_, average) = self.target(signal).ok()?;
        Some(in_unit(signal, average, self.names))
    }

    /// What goes into a manifest: GPU series are summed over the GPUs of a replica, but divided by
    /// replicas, so their target is for all GPUs of a replica together.
    fn per_replica(&self, signal: Signal) -> Result<Milli, ManifestError> {
        let (_, average) = self.target(signal)?;
        let gpus = if signal.is_external() { i64::from(self.names.gpus_per_replica) } else { 1 };
        let value = in_unit(signal, Milli(average.0.saturating_mul(gpus)), self.names);
        if value.0 > 0 {
            return Ok(value);
        }
        Err(ManifestError::LeftOut(format!("{average} is less than a thousandth in the unit of its series")))
    }

    /// One of the four HPAs of the page.
    fn page_hpa(&self, signal: Signal) -> Result<String, ManifestError> {
        let targets = [(signal, self.per_replica(signal)?)];
        let hpa = self.hpa(&targets, Adapter::Stackdriver)?;
        let mut header = vec![format!("Scales {} on {signal}.", self.names.deployment)];
        header.push(self.rank(self.target(signal)?.0));
        header.extend(self.about(&targets)?);
        to_yaml(&hpa, &header)
    }

    fn hpa(
        &self,
        targets: &[(Signal, Milli)],
        adapter: Adapter,
    ) -> Result<k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler, ManifestError> {
        hpa(targets, adapter, self.tolerance(), self.names).map_err(ManifestError::LeftOut)
    }

    /// Which of several to apply. Targets given by hand are nobody's recommendation.
    fn rank(&self, target: &Target) -> String {
        let rank = match self.recommendation.recommended {
            Some(signal) if target.at_capacity.is_some() => {
                let rank = if signal == target.signal { "the" } else { "not the" };
                format!("This is {rank} recommended one. ")
            }
            _ => String::new(),
        };
        format!("{rank}Apply only one of the HPAs: a second one on the Deployment replaces it or stops both.")
    }

    /// One HPA on several metrics, which takes the largest of what each proposes.
    fn combined(&self) -> Result<String, ManifestError> {
        let mut targets = Vec::new();
        let mut header = vec![format!(
            "Scales {} on several metrics at once: the HPA takes the largest of what each proposes.",
            self.names.deployment
        )];
        for signal in Signal::ALL {
            match self.may_combine(signal) {
                Ok(value) => targets.push((signal, value)),
                Err(ManifestError::LeftOut(reason)) => header.push(format!("Without {signal}: {reason}")),
                Err(error) => return Err(error),
            }
        }
        if targets.len() < 2 {
            return Err(ManifestError::LeftOut(format!(
                "it needs two targets that bear each other and has {}: {}",
                targets.len(),
                header[1..].join("; ")
            )));
        }
        let hpa = self.hpa(&targets, Adapter::Stackdriver)?;
        header.push("Apply only one of the HPAs: this one takes the place of the others.".to_owned());
        header.push(
            "While one of the metrics is missing, it scales up by the others and never down.".to_owned(),
        );
        header.extend(self.about(&targets)?);
        to_yaml(&hpa, &header)
    }

    /// The largest proposal wins, so a metric that is too high at rest keeps the others from scaling
    /// down: a GPU that reads full at a fraction of the load, a queue of less than one request.
    fn may_combine(&self, signal: Signal) -> Result<Milli, ManifestError> {
        let (target, average) = self.target(signal)?;
        let value = self.per_replica(signal)?;
        self.hpa(&[(signal, value)], Adapter::Stackdriver)?;
        let against = match signal {
            Signal::Queue if average < Milli(1000) => {
                Some("its target is below one request, which any request that waits exceeds".to_owned())
            }
            Signal::DutyCycle | Signal::Dcgm => target.remarks.first().cloned(),
            Signal::Queue | Signal::Batch => None,
        };
        against.map_or(Ok(value), |reason| Err(ManifestError::LeftOut(reason)))
    }

    /// Where the numbers come from, and what to know about them.
    fn about(&self, targets: &[(Signal, Milli)]) -> Result<Vec<String>, ManifestError> {
        let mut lines = self.provenance.lines.clone();
        for (signal, value) in targets {
            let (target, _) = self.target(*signal)?;
            let prefix = if targets.len() > 1 { format!("{signal}: ") } else { String::new() };
            lines.extend(target.terms.iter().map(|term| format!("{prefix}{}: {}", term.name, term.value)));
            lines.extend(self.other_unit(*signal, *value).map(|line| format!("{prefix}{line}")));
            lines.extend(target.remarks.iter().map(|remark| format!("Note: {prefix}{remark}")));
            lines.extend(self.other_counter(*signal).map(|line| format!("Note: {prefix}{line}")));
        }
        lines.extend(tolerance_warning(self.tolerance(), self.names));
        Ok(lines)
    }

    /// Says so where the written value is not the target.
    fn other_unit(&self, signal: Signal, value: Milli) -> Option<String> {
        let (_, average) = self.target(signal).ok()?;
        let names = self.names;
        let gpus = (names.gpus_per_replica > 1).then(|| {
            format!("for the {} GPUs of a replica, whose series are summed", names.gpus_per_replica)
        });
        let ratio = (in_unit(signal, average, names) != average)
            .then(|| format!("as {} counts, from 0 to 1", names.gpu_metric.exported()));
        let reasons: Vec<String> = gpus.into_iter().chain(ratio).collect();
        (value != average).then(|| format!("written below, {}: averageValue {value}", reasons.join(" and ")))
    }

    /// Says so where GKE's duty cycle was measured by another counter than DCGM's GPU utilization.
    fn other_counter(&self, signal: Signal) -> Option<String> {
        let metric = self.names.gpu_metric;
        (signal == Signal::DutyCycle && metric != GpuMetric::GpuUtil).then(|| {
            format!("its target is for {}, a similar quantity of another counter", metric.exported())
        })
    }

    fn pod_monitoring_server(&self) -> Result<String, ManifestError> {
        let server = &self.names.server.title;
        let mut header = vec![format!("Scrapes {server}'s metrics into Managed Service for Prometheus.")];
        header.push(match (self.names.port_name(), self.names.port_number()) {
            (None, _) => "The port is given by number, so series get no container label; give it by name for one, and its \
                 number, as --metrics-port metrics:8000: setup.sh then names the Deployment's port."
                .to_owned(),
            (Some(name), Some(_)) => format!(
                "The port is given by name, so that series get a container label. The Deployment must call its port \
                 '{name}' too: setup.sh sees to it."
            ),
            (Some(name), None) => {
                format!("The port is given by name: the Deployment must call its port '{name}' too.")
            }
        });
        to_yaml(&pod_monitoring::pod_monitoring_server(self.names), &header)
    }

    fn pod_monitoring_dcgm(&self) -> Result<String, ManifestError> {
        let header = [
            "Scrapes GPU utilization from the DCGM exporter; the name is lower-cased, since the HPA finds no other.",
            "It selects pods of its own namespace only, which must be the one that the exporter runs in: --dcgm-namespace.",
        ];
        to_yaml(&pod_monitoring::pod_monitoring_dcgm(self.names), &header.map(str::to_owned))
    }

    fn autoscaling_metric(&self) -> Result<String, ManifestError> {
        let object = autoscaling_metric::autoscaling_metric(self.names).map_err(ManifestError::LeftOut)?;
        let header = [
            "Shows the server's gauges to the HPA without adapter and without Managed Service for Prometheus.",
            "Preview: GKE 1.35.1-gke.1396000 or later, Rapid channel, performance HPA profile; at most 20 metrics of a \
             cluster.",
        ];
        to_yaml(&object, &header.map(str::to_owned))
    }

    /// The recommended metric if this adapter has it, else one of the server's own.
    fn signal_for(&self, adapter: Adapter) -> Result<(Signal, Milli), ManifestError> {
        let chosen = self.recommendation.recommended;
        let mut reason = None;
        for signal in chosen.into_iter().chain([Signal::Batch, Signal::Queue]) {
            let found = self.per_replica(signal).and_then(|value| {
                self.hpa(&[(signal, value)], adapter)?;
                Ok((signal, value))
            });
            match found {
                Ok(found) => return Ok(found),
                Err(error) => reason = reason.or(Some(error)),
            }
        }
        Err(reason.unwrap_or_else(|| ManifestError::LeftOut("no metric has a target".to_owned())))
    }

    /// An HPA that reads its metric another way than the page's.
    fn other_hpa(&self, adapter: Adapter) -> Result<String, ManifestError> {
        let target = self.signal_for(adapter)?;
        let hpa = self.hpa(&[target], adapter)?;
        let (way, file) = match adapter {
            Adapter::Native => ("GKE's own metrics", "autoscaling-metric.yaml"),
            _ => ("prometheus-adapter", "prometheus-adapter.yaml"),
        };
        let mut header =
            vec![format!("Scales {} on {} by {way}: apply {file} first.", self.names.deployment, target.0)];
        header.push("It takes the place of the other HPAs: apply only one.".to_owned());
        header.extend(self.about(&[target])?);
        to_yaml(&hpa, &header)
    }

    fn prometheus_adapter(&self) -> Result<String, ManifestError> {
        let object = prometheus_adapter::adapter_config_map(self.names)?;
        let header = [
            "Rules for prometheus-adapter, in place of the Stackdriver adapter, which answers for the same API.",
            "Its chart takes them with rules.existing=adapter-config, in the namespace that it is installed in.",
        ];
        to_yaml(&object, &header.map(str::to_owned))
    }

    fn keda(&self) -> Result<String, ManifestError> {
        let chosen = self.recommendation.recommended;
        let signal = chosen.ok_or_else(|| ManifestError::LeftOut("no metric has a target".to_owned()))?;
        let value = self.per_replica(signal)?;
        let scaled = keda::scaled_object(signal, value, self.tolerance(), self.names);
        let scaled = scaled.map_err(ManifestError::LeftOut)?;
        let mut header = vec![
            format!("Scales {} on {signal} by KEDA, in place of an HPA.", self.names.deployment),
            "The query sums over the replicas and the threshold is per replica; missing data are an error and not zero."
                .to_owned(),
        ];
        header.extend(self.about(&[(signal, value)])?);
        let mut text = to_yaml(&scaled, &header)?;
        if let Some(authentication) = keda::trigger_authentication(self.names) {
            text.push_str("---\n");
            text.push_str(&to_yaml(&authentication, &[])?);
        }
        Ok(text)
    }
}

/// A target, which is in percent for GPUs, in the unit of its series.
pub(super) fn in_unit(signal: Signal, value: Milli, names: &ClusterNames) -> Milli {
    let percent = if signal == Signal::Dcgm { names.gpu_metric.percent() } else { 1 };
    Milli(value.0 / percent)
}

/// A target that reckons with another tolerance than the controller has misses its mark.
pub(super) fn tolerance_warning(tolerance: f64, names: &ClusterNames) -> Option<String> {
    (tolerance != TOLERANCE && !names.has_tolerance()).then(|| {
        format!(
            "the targets reckon with a tolerance of {tolerance}, and controllers have {TOLERANCE} unless told \
             otherwise: by --horizontal-pod-autoscaler-tolerance, or by behavior.scaleUp.tolerance in the HPA, which \
             --cluster-version 1.35 or later writes"
        )
    })
}

/// Warnings about manifests that a reader should see without opening them.
pub fn warnings(recommendation: &Recommendation, names: &ClusterNames) -> Vec<String> {
    let external = recommendation.targets.iter().any(|t| t.signal.is_external() && t.average_value.is_ok());
    let several = external && names.gpus_per_replica > 1;
    let gpus = several.then(|| {
        format!(
            "the GPU targets are per GPU; their HPAs carry {} times that, since the series of a replica's GPUs are summed",
            names.gpus_per_replica
        )
    });
    let unselective = names.check_place().err().filter(|_| external);
    let unselective = unselective.map(|reason| format!("the HPAs on GPU metrics are left out: {reason}"));
    let tolerance = tolerance_warning(recommendation.assumptions.tolerance, names);
    unselective.into_iter().chain(gpus).chain(tolerance).collect()
}
