//! What the manifests name: the `cluster` section of a scenario, and its flags.

use serde::{Deserialize, Serialize};

/// Names in the user's cluster, each optional; what is not given is as on Google's how-to page.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Names for the manifests")]
pub struct ClusterSettings {
    /// Deployment that the HPA scales [default: tgi-gemma-deployment]
    #[arg(long = "hpa-deployment", value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// Name of the HPA [default: gemma-server for TGI metrics, gemma-hpa for GPU metrics]
    #[arg(long = "hpa-name", value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hpa_name: Option<String>,
    /// Namespace of the Deployment and its pods [default: default]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Value of the pods' label `app`, or another label as LABEL=VALUE [default: gemma-server]
    #[arg(long, value_name = "LABEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Container that serves the model [default: inference-server]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Port of /metrics: number, name, or NAME:NUMBER [default: metrics:8000]
    #[arg(long = "metrics-port", value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_port: Option<String>,
    /// Google Cloud project, for the setup steps and for KEDA
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Kubernetes version of the cluster: from 1.35 an HPA has its own tolerance
    #[arg(long = "cluster-version", value_name = "VERSION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_version: Option<String>,
    /// A Prometheus of your own, for KEDA and the dashboards [default: Google's Managed Service]
    #[arg(long = "prometheus-address", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus_address: Option<String>,
    /// Namespace of the DCGM exporter [default: gmp-public]
    #[arg(long = "dcgm-namespace", value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dcgm_namespace: Option<String>,
    /// GKE cluster, for the selectors of External metrics
    #[arg(long = "cluster-name", visible_alias = "cluster", value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// Region or zone of the cluster, for the selectors of External metrics
    #[arg(long, value_name = "LOCATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// minReplicas of the HPA [default: 1]
    #[arg(long = "min-replicas", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// maxReplicas of the HPA [default: 5]
    #[arg(long = "max-replicas", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u32>,
}

impl ClusterSettings {
    /// These settings, and `below` where they say nothing.
    pub fn over(self, below: ClusterSettings) -> ClusterSettings {
        ClusterSettings {
            deployment: self.deployment.or(below.deployment),
            hpa_name: self.hpa_name.or(below.hpa_name),
            namespace: self.namespace.or(below.namespace),
            app: self.app.or(below.app),
            container: self.container.or(below.container),
            metrics_port: self.metrics_port.or(below.metrics_port),
            project: self.project.or(below.project),
            cluster_version: self.cluster_version.or(below.cluster_version),
            prometheus_address: self.prometheus_address.or(below.prometheus_address),
            dcgm_namespace: self.dcgm_namespace.or(below.dcgm_namespace),
            cluster_name: self.cluster_name.or(below.cluster_name),
            location: self.location.or(below.location),
            min_replicas: self.min_replicas.or(below.min_replicas),
            max_replicas: self.max_replicas.or(below.max_replicas),
        }
    }
}
