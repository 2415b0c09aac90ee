//! Recommendation to typed Kubernetes objects to YAML.
//!
//! Invariants: pure. Objects are built typed and rendered by a library, never by pasting text; the
//! header of each file says how its number came about. A metric without a target gets no HPA.

mod hpa;
mod names;
mod pod_monitoring;
mod read;
mod yaml;

pub use hpa::hpa;
pub use names::{ClusterNames, NamesError};
pub use pod_monitoring::{PodMonitoring, pod_monitoring_dcgm, pod_monitoring_tgi};
pub use read::{UnreadableYaml, read_objects};
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

/// The tolerance of a controller that is not told another.
const DEFAULT_TOLERANCE: f64 = 0.1;

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
            let header = hpa_header(target, recommendation, average, names, provenance);
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
        "It selects pods of its own namespace only: apply it to the one that the exporter runs in.",
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
    recommendation: &Recommendation,
    average: Milli,
    names: &ClusterNames,
    provenance: &[String],
) -> Vec<String> {
    let signal = target.signal;
    let mut lines = vec![format!("Scales {} on {}.", names.deployment, signal.title())];
    if let Some(warning) = unselective(names).filter(|_| signal.is_external()) {
        lines.push(format!("WARNING: {warning}"));
    }
    let rank = if recommendation.recommended == Some(signal) { "the" } else { "not the" };
    lines.push(format!(
        "This is {rank} recommended one. Apply only one of the HPAs: a second one on the Deployment replaces it or \
         stops both."
    ));
    lines.extend(provenance.iter().cloned());
    lines.extend(target.terms.iter().map(|term| format!("{}: {}", term.name, term.value)));
    if signal.is_external() && names.gpus_per_replica > 1 {
        let value = per_replica(signal, average, names);
        lines.push(format!(
            "written below, for the {} GPUs of a replica, whose series are summed: averageValue {value}",
            names.gpus_per_replica
        ));
    }
    lines.extend(target.remarks.iter().map(|remark| format!("Note: {remark}")));
    lines.extend(tolerance_warning(recommendation));
    lines
}

/// What an External metric of these names is summed over beyond the wanted cluster.
fn unselective(names: &ClusterNames) -> Option<&'static str> {
    match (&names.cluster, &names.location) {
        (Some(_), Some(_)) => None,
        (Some(_), None) => Some("without --location the GPU metric is summed over all clusters of that name"),
        (None, Some(_)) => {
            Some("without --cluster-name the GPU metric is summed over all clusters of the location")
        }
        (None, None) => Some(
            "without --cluster-name and --location the GPU metric is summed over all clusters of the project",
        ),
    }
}

/// A target that reckons with another tolerance than the controller has misses its mark.
fn tolerance_warning(recommendation: &Recommendation) -> Option<String> {
    let tolerance = recommendation.tolerance;
    (tolerance != DEFAULT_TOLERANCE).then(|| {
        format!(
            "the targets reckon with a tolerance of {tolerance}, and controllers have {DEFAULT_TOLERANCE} unless told \
             otherwise: by --horizontal-pod-autoscaler-tolerance, or by behavior.scaleUp.tolerance in the HPA"
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
    let unselective = unselective(names).filter(|_| external).map(str::to_owned);
    unselective.into_iter().chain(gpus).chain(tolerance_warning(recommendation)).collect()
}

#[cfg(test)]
mod tests;
