//! Names and selectors of the user's cluster.

/// What the manifests name. The defaults are those of Google's how-to page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNames {
    /// The Deployment that is scaled.
    pub deployment: String,
    /// The HPA; `None`: the two names of the page.
    pub hpa_name: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// Value of its pods' label `app`.
    pub app: String,
    /// The container that serves the model.
    pub container: String,
    /// Port of its `/metrics`, by name or number.
    pub metrics_port: String,
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
            hpa_name: None,
            namespace: "default".to_owned(),
            app: "gemma-server".to_owned(),
            container: "inference-server".to_owned(),
            metrics_port: "8000".to_owned(),
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

impl ClusterNames {
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
        check(
            is_label_value(&self.app),
            "app",
            &self.app,
            "a label value: at most 63 letters, digits, '-', '_' and '.'",
        )?;
        check(
            is_port(&self.metrics_port),
            "metrics-port",
            &self.metrics_port,
            "a port from 1 to 65535 or a port's name",
        )?;
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

fn is_label_value(value: &str) -> bool {
    let ends_well = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && ends_well(bytes.first())
        && ends_well(bytes.last())
}

fn is_port(port: &str) -> bool {
    if port.bytes().all(|b| b.is_ascii_digit()) {
        return port.parse::<u16>().is_ok_and(|port| port > 0);
    }
    // A name of at most 15 characters with at least one letter (IANA_SVC_NAME).
    is_dns(port, 15, false) && !port.contains("--") && port.bytes().any(|b| b.is_ascii_lowercase())
}
