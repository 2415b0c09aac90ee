//! Recommendation to typed Kubernetes objects to YAML, and what goes with them: dashboards, steps.
//!
//! Invariants: pure. Objects are built typed and rendered by a library, never by pasting text; the
//! header of each file says how its number came about. No file holds a placeholder: one that lacks a
//! number or a name is left out, with the reason.

mod autoscaling_metric;
mod cloud_monitoring;
mod dashboard;
mod grafana;
mod hpa;
mod job;
mod keda;
mod names;
mod optimized;
mod pod_monitoring;
mod prometheus_adapter;
mod read;
mod render;
mod series;
mod server;
mod setup;
mod yaml;

pub use autoscaling_metric::{AutoscalingMetric, autoscaling_metric};
pub use hpa::{Adapter, hpa, signal_of};
pub use job::job;
pub use keda::{ScaledObject, TriggerAuthentication, scaled_object, trigger_authentication};
pub use names::{ClusterNames, NamesError};
pub use optimized::{OPTIMIZED, Optimized, optimized};
pub use pod_monitoring::{PodMonitoring, pod_monitoring_dcgm, pod_monitoring_server};
pub use prometheus_adapter::{AdapterConfig, adapter_config};
pub use read::{UnreadableYaml, read_objects};
pub use render::{OF_TARGETS, render_all, warnings};
pub use server::{Gauge, GpuMetric, Latency, Server};
pub use yaml::{ManifestError, to_yaml};

use render::Set;

/// A manifest as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its name: `hpa-queue.yaml`, `podmonitoring-tgi.yaml`.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// Where the numbers come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// In lines, for the header of each file.
    pub lines: Vec<String>,
    /// Whether they were measured on a simulated server, and so are not for a real cluster.
    pub simulated: bool,
}

/// A file that is not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Everything that can be written for a recommendation, and what cannot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifests {
    /// The files.
    pub files: Vec<ManifestFile>,
    /// What is left out.
    pub left_out: Vec<LeftOut>,
}

#[cfg(test)]
mod tests;
