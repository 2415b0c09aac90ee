//! Recommendation to typed Kubernetes objects to YAML.
//!
//! Invariants: pure. Objects are built typed and rendered by a library, never by pasting text; the
//! header of each file says how its number came about. A metric without a target gets no HPA.

mod hpa;
mod names;
mod pod_monitoring;
mod yaml;

pub use hpa::hpa;
pub use names::{ClusterNames, NamesError};
pub use pod_monitoring::{PodMonitoring, pod_monitoring_dcgm, pod_monitoring_tgi};
pub use yaml::{ManifestError, to_yaml};

use crate::recommend::{Recommendation, Target};
use crate::units::{Milli, Signal};

/// A manifest as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its name: `hpa-queue.yaml`, `podmonitoring-tgi.yaml`.
    pub name: String,
    /// Its YAML.
    pub yaml: String,
}

/// What the External metric of a GPU HPA is summed over where no cluster or location is named.
const UNSELECTIVE: &str = "WARNING: without --cluster-name and --location this External metric is summed over every \
    cluster of the project that has such series";

/// All manifests of a recommendation. `provenance` says, in lines, where the numbers come from.
///
/// # Errors
/// Names that Kubernetes would refuse.
pub fn render_all(
    recommendation: &Recommendation,
    names: &ClusterNames,
    provenance: &[String],
) -> Result<Vec<ManifestFile>, ManifestError> {
    names.validate()?;
    let mut files = Vec::new();
    for target in &recommendation.targets {
        if let Ok(average) = target.average_value {
            let value = per_replica(target.signal, average, names);
            let header = hpa_header(target, recommendation.recommended, average, names, provenance);
            let name = format!("hpa-{}.yaml", target.signal.slug());
            files.push(ManifestFile { name, yaml: to_yaml(&hpa(target.signal, value, names), &header)? });
        }
    }
    let mut tgi = vec!["Scrapes TGI's metrics into Managed Service for Prometheus.".to_owned()];
    if names.metrics_port.parse::<u16>().is_ok() {
        tgi.push(
            "The port is given by number, so series get no container label; give it by name for one."
                .to_owned(),
        );
    }
    let dcgm = [
        "Scrapes GPU utilization from the DCGM exporter; the name is lower-cased, since the HPA finds no other.",
    ];
    files.push(ManifestFile {
        name: "podmonitoring-tgi.yaml".to_owned(),
        yaml: to_yaml(&pod_monitoring_tgi(names), &tgi)?,
    });
    files.push(ManifestFile {
        name: "podmonitoring-dcgm.yaml".to_owned(),
        yaml: to_yaml(&pod_monitoring_dcgm(), &dcgm.map(str::to_owned))?,
    });
    Ok(files)
}

/// What goes into the manifest: GPU series are summed over the GPUs of a replica, but divided by
/// replicas, so their target is for all GPUs of a replica together.
fn per_replica(signal: Signal, average: Milli, names: &ClusterNames) -> Milli {
    if signal.is_external() {
        Milli(average.0.saturating_mul(i64::from(names.gpus_per_replica)))
    } else {
        average
    }
}

fn hpa_header(
    target: &Target,
    recommended: Option<Signal>,
    average: Milli,
    names: &ClusterNames,
    provenance: &[String],
) -> Vec<String> {
    let signal = target.signal;
    let mut lines = vec![format!("Scales {} on {}.", names.deployment, signal.title())];
    lines.push(if recommended == Some(signal) {
        "This is the recommended one. Apply only one of the HPAs: two on one Deployment block each other."
            .to_owned()
    } else {
        "This is not the recommended one. Apply only one of the HPAs: two on one Deployment block each other."
            .to_owned()
    });
    lines.extend(provenance.iter().cloned());
    lines.extend(target.terms.iter().map(|term| format!("{}: {}", term.name, term.value)));
    if signal.is_external() && names.gpus_per_replica > 1 {
        let value = per_replica(signal, average, names);
        lines.push(format!(
            "times {} GPUs of a replica, whose series are summed: {value}",
            names.gpus_per_replica
        ));
    }
    lines.extend(target.remarks.iter().map(|remark| format!("Note: {remark}")));
    if signal.is_external() && !names.is_selective() {
        lines.push(UNSELECTIVE.to_owned());
    }
    lines
}

/// Warnings about manifests that a reader should see without opening them.
pub fn warnings(recommendation: &Recommendation, names: &ClusterNames) -> Vec<String> {
    let external = recommendation.targets.iter().any(|t| t.signal.is_external() && t.average_value.is_ok());
    let unselective = external && !names.is_selective();
    unselective
        .then(|| {
            "the GPU HPAs select no cluster and location, so they sum over the whole project; name yours with \
             --cluster-name and --location"
                .to_owned()
        })
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests;
