//! Names and selectors of the user's cluster.

use super::server::{GpuMetric, Server};

/// What the manifests name. The defaults are those of Google's how-to page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNames {
    /// The Deployment, or other workload, that is scaled.
    pub deployment: String,
    /// Its API version and its kind.
    pub scaled: (String, String),
    /// The HPA; `None`: the two names of the page.
    pub hpa_name: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// Value of its pods' label `app`, or another label as `LABEL=VALUE`.
    pub app: String,
    /// The container that serves the model.
    pub container: String,
    /// Port of its `/metrics`: its name, its number, or both as `NAME:NUMBER`.
    pub metrics_port: String,
    /// The server, which decides what its series are called.
    pub server: Server,
    /// What the DCGM exporter's utilization is called, and its unit.
    pub gpu_metric: GpuMetric,
    /// The Google Cloud project.
    pub project: Option<String>,
    /// A Prometheus of one's own; `None`: Managed Service for Prometheus.
    pub prometheus: Option<String>,
    /// The namespace of the DCGM exporter.
    pub dcgm_namespace: String,
    /// The cluster's Kubernetes version, like `1.35` or `1.35.2-gke.100`.
    pub cluster_version: Option<String>,
    /// The GKE cluster.
    pub cluster: Option<String>,
    /// Its region or zone.
    pub location: Option<String>,
    /// `minReplicas`.
    pub min_replicas: u32,
    /// `maxReplicas`.
    pub max_replicas: u32,
    /// GPUs of each replica.
    pub gpus_per_replica: u32,
}

impl Default for ClusterNames {
    fn default() -> Self {
        ClusterNames {
            deployment: "tgi-gemma-deployment".to_owned(),
            scaled: ("apps/v1".to_owned(), "Deployment".to_owned()),
            hpa_name: None,
            namespace: "default".to_owned(),
            app: "gemma-server".to_owned(),
            container: "inference-server".to_owned(),
            metrics_port: Server::default().default_port(),
            server: Server::default(),
            gpu_metric: GpuMetric::GpuUtil,
            project: None,
            prometheus: None,
            dcgm_namespace: "gmp-public".to_owned(),
            cluster_version: None,
            cluster: None,
            location: None,
            min_replicas: 1,
            max_replicas: 5,
            gpus_per_replica: 1,
        }
    }
}

/// A name that Kubernetes would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} '{value}' is not {expected}")]
pub struct NamesError {
    /// The flag of `run`, which is also the field of the scenario's `cluster`, less its `hpa-`.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub expected: &'static str,
}

const SUBDOMAIN: &str = "a DNS subdomain: at most 253 lower-case letters, digits, '-' and '.'";
const LABEL: &str = "a DNS label: at most 63 lower-case letters, digits and '-'";

/// The first minor version of Kubernetes 1 in which an HPA's own tolerance is on by default.
const TOLERANT: u32 = 35;
/// The first version of GKE that has AutoscalingMetric, minor and patch.
const NATIVE: (u32, u32) = (35, 1);

impl ClusterNames {
    /// Whether Prometheus means Google's Managed Service.
    pub(super) fn is_managed(&self) -> bool {
        self.prometheus.is_none()
    }

    /// Whether an HPA of this cluster may have a tolerance of its own. Not where the version is unknown:
    /// older servers drop it without a word.
    pub fn has_tolerance(&self) -> bool {
        let version = self.cluster_version.as_deref().and_then(minor_version);
        version.is_some_and(|minor| minor >= TOLERANT)
    }

    /// Whether a cluster of this version may have AutoscalingMetric; one whose patch is not said may.
    pub(super) fn has_native_metrics(&self) -> bool {
        let Some(version) = self.cluster_version.as_deref() else { return true };
        let patch = version.split('.').nth(2).map(|rest| {
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or_default()
        });
        minor_version(version).is_some_and(|minor| (minor, patch.unwrap_or(u32::MAX)) >= NATIVE)
    }

    /// The label that its pods are found by.
    pub fn label(&self) -> (&str, &str) {
        self.app.split_once('=').unwrap_or(("app", &self.app))
    }

    /// The name of the metrics' port, where it is known by one.
    pub(super) fn port_name(&self) -> Option<&str> {
        let name = self.metrics_port.split(':').next().unwrap_or_default();
        (name.parse::<u16>().is_err()).then_some(name)
    }

    /// The number of the metrics' port, where it is known.
    pub(super) fn port_number(&self) -> Option<u16> {
        self.metrics_port.rsplit(':').next()?.parse().ok()
    }

    /// What is missing to tell this cluster's series from those of others, as a reason for leaving
    /// something out.
    pub(super) fn check_place(&self) -> Result<(), String> {
        let missing: Vec<&str> = [("--cluster-name", &self.cluster), ("--location", &self.location)]
            .into_iter()
            .filter_map(|(flag, value)| value.is_none().then_some(flag))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "the metric is a sum over every cluster of the project that has one like it: give {}",
            missing.join(" and ")
        ))
    }

    /// Checks everything that the API server would refuse.
    pub fn validate(&self) -> Result<(), NamesError> {
        let check = |ok: bool, field, value: &dyn ToString, expected| {
            if ok { Ok(()) } else { Err(NamesError { field, value: value.to_string(), expected }) }
        };
        check(is_dns(&self.deployment, 253, true), "hpa-deployment", &self.deployment, SUBDOMAIN)?;
        let hpa_name = self.hpa_name.as_deref().unwrap_or("x");
        check(is_dns(hpa_name, 253, true), "hpa-name", &hpa_name, SUBDOMAIN)?;
        check(is_dns(&self.namespace, 63, false), "namespace", &self.namespace, LABEL)?;
        check(is_dns(&self.container, 63, false), "container", &self.container, LABEL)?;
        check(is_dns(&self.dcgm_namespace, 63, false), "dcgm-namespace", &self.dcgm_namespace, LABEL)?;
        let (label, value) = self.label();
        check(
            is_label(label) && is_label_value(value),
            "app",
            &self.app,
            "a label value: at most 63 letters, digits, '-', '_' and '.', or LABEL=VALUE",
        )?;
        check(
            is_port(&self.metrics_port),
            "metrics-port",
            &self.metrics_port,
            "a port from 1 to 65535, a port's name, or NAME:NUMBER",
        )?;
        self.check_outside()?;
        for (field, name) in [("cluster-name", &self.cluster), ("location", &self.location)] {
            let name = name.as_deref().unwrap_or("x");
            check(is_dns(name, 63, false), field, &name, LABEL)?;
        }
        check(self.min_replicas >= 1, "min-replicas", &self.min_replicas, "at least 1")?;
        let bounds = "at least min-replicas and at most 2147483647";
        let max_ok = self.max_replicas >= self.min_replicas && i32::try_from(self.max_replicas).is_ok();
        check(max_ok, "max-replicas", &self.max_replicas, bounds)?;
        check(self.gpus_per_replica >= 1, "gpus-per-replica", &self.gpus_per_replica, "at least 1")
    }

    /// Checks what is outside of the cluster's objects.
    fn check_outside(&self) -> Result<(), NamesError> {
        let check = |value: &Option<String>, ok: fn(&str) -> bool, field, expected| match value {
            Some(value) if !ok(value) => Err(NamesError { field, value: value.clone(), expected }),
            _ => Ok(()),
        };
        let project =
            "a project's ID: 6 to 30 lower-case letters, digits and '-', a letter first, no '-' last";
        check(&self.project, is_project, "project", project)?;
        let version = "a Kubernetes version like 1.35 or 1.35.2-gke.100";
        check(&self.cluster_version, |v| minor_version(v).is_some(), "cluster-version", version)?;
        let address = "an address like http://prometheus.monitoring.svc:9090";
        check(&self.prometheus, is_address, "prometheus-address", address)
    }
}

/// The ID, not the name and not the number.
fn is_project(id: &str) -> bool {
    id.len() >= 6 && is_dns(id, 30, false) && id.starts_with(|c: char| c.is_ascii_lowercase())
}

/// The minor version of a Kubernetes 1.
fn minor_version(version: &str) -> Option<u32> {
    let version = version.strip_prefix('v').unwrap_or(version);
    let (minor, rest) = version
        .strip_prefix("1.")
        .map(|rest| rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())))?;
    let rest_ok = rest.is_empty() || (rest.starts_with('.') && rest.len() > 1);
    if rest_ok { minor.parse().ok() } else { None }
}

/// An http address of printable letters without a user's name, password and query, which may be secrets.
fn is_address(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        let host = rest.split('/').next().unwrap_or_default();
        !host.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\`$@?#".contains(&b))
    })
}

fn is_dns(name: &str, most: usize, dots: bool) -> bool {
    let labels: Vec<&str> = if dots { name.split('.').collect() } else { vec![name] };
    let label = |label: &&str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= most && labels.iter().all(label)
}

/// The key of a label: a name, or a DNS subdomain, '/' and a name.
fn is_label(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns(prefix, 253, true) && is_label_value(name),
        None => is_label_value(key),
    }
}

fn is_label_value(value: &str) -> bool {
    let ends_well = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && ends_well(bytes.first())
        && ends_well(bytes.last())
}

fn is_port(port: &str) -> bool {
    if let Some((name, number)) = port.split_once(':') {
        return !is_number(name) && is_port(name) && is_number(number) && is_port(number);
    }
    if is_number(port) {
        return port.parse::<u16>().is_ok_and(|port| port > 0);
    }
    // A name of at most 15 characters with at least one letter (IANA_SVC_NAME).
    is_dns(port, 15, false) && !port.contains("--") && port.bytes().any(|b| b.is_ascii_lowercase())
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}
