//! The workload in a cluster that is calibrated: the `workload` section of a scenario, and its flags.

use serde::{Deserialize, Serialize};

/// How load and scrapes reach the pods of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Port-forward through the API server; works from anywhere.
    PortForward,
    /// The pods' own addresses, from within the cluster's network.
    PodIp,
    /// The Service in front of them, from within the cluster, or by its load balancer.
    Service,
}

/// A workload and how it is treated; what is not given is found out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Cluster")]
pub struct WorkloadSettings {
    /// Calibrate this Deployment: NAMESPACE/NAME; or statefulset/NAMESPACE/NAME, leaderworkerset/NAMESPACE/NAME
    #[arg(id = "workload", long = "deployment", value_name = "NAME", conflicts_with_all = ["target", "preset", "metrics_url"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// Context of the kubeconfig [default: the current one, or the cluster that this runs in]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Port that serves, by its number or name [default: the only one of the container]
    #[arg(long, value_name = "PORT", requires = "workload")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// How load reaches the pods [default: port-forward; inside a cluster pod-ip]
    #[arg(long, value_enum, requires = "workload")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// Service to go by, with --via service [default: the only one that selects the pods]
    #[arg(long, value_name = "NAME", requires = "workload")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Pause what scales the workload for the time of the run, and put it back afterwards
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", requires = "workload")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_autoscaler: Option<bool>,
}

impl WorkloadSettings {
    /// These settings, and `below` where they say nothing.
    pub fn over(self, below: WorkloadSettings) -> WorkloadSettings {
        WorkloadSettings {
            deployment: self.deployment.or(below.deployment),
            context: self.context.or(below.context),
            port: self.port.or(below.port),
            via: self.via.or(below.via),
            service: self.service.or(below.service),
            pause_autoscaler: self.pause_autoscaler.or(below.pause_autoscaler),
        }
    }

    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == WorkloadSettings::default()
    }
}
