//! Where metrics come from besides direct scrapes: the `sources` section of a scenario, and its flags.

use super::{ScenarioError, SecretSource};
use serde::{Deserialize, Serialize};

/// What stands for the query API of Google's Managed Service for Prometheus.
const MANAGED: &str = "gmp:";
/// Google's monitoring API.
const GOOGLE_ENDPOINT: &str = "https://monitoring.googleapis.com";

/// Declares [`SourceSettings`] with its layering, so that no field can be forgotten in it.
macro_rules! source_settings {
    ($($(#[$meta:meta])* $field:ident: $kind:ty,)+) => {
        /// Sources of metrics, each optional. A series is named by its column in `samples.csv`.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        #[command(next_help_heading = "Metrics by way of others")]
        pub struct SourceSettings {
            $($(#[$meta])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)+
        }

        impl SourceSettings {
            /// These settings, and `below` where they say nothing.
            pub fn over(self, below: SourceSettings) -> SourceSettings {
                SourceSettings { $($field: self.$field.or(below.$field),)+ }
            }
        }
    };
}

source_settings! {
    /// Address of a Prometheus server, or gmp:PROJECT for Google's Managed Service for Prometheus
    #[arg(long, value_name = "URL")]
    prometheus: String,
    /// Matchers that every PromQL query gets, like 'namespace="default",job="tgi"'
    #[arg(long, value_name = "MATCHERS", requires = "prometheus")]
    prometheus_selector: String,
    /// Bearer token for the Prometheus server: env:NAME or file:PATH
    #[arg(long, value_name = "PLACE", requires = "prometheus")]
    prometheus_token: SecretSource,
    /// PromQL of a series in place of the server profile's, SERIES=PROMQL, with one result per replica (repeatable)
    #[arg(long, value_name = "SPEC", action = clap::ArgAction::Append)]
    promql: Vec<String>,
    /// Google project whose Cloud Monitoring has the duty cycle of the accelerators
    #[arg(long, value_name = "PROJECT")]
    cloud_monitoring: String,
    /// Metric of Cloud Monitoring, SERIES=TYPE, or SERIES=TYPE AND CONDITIONS of its own (repeatable) [default: gpu_util=kubernetes.io/container/accelerator/duty_cycle]
    #[arg(long, value_name = "SPEC", action = clap::ArgAction::Append)]
    cloud_monitoring_metric: Vec<String>,
    /// Filter for Cloud Monitoring in place of the one from --cluster-name, --location, --namespace and --container
    #[arg(long, value_name = "FILTER")]
    cloud_monitoring_filter: String,
    /// Pods metric as an HPA sees it, SERIES or SERIES=NAME, like queue_size (repeatable); the cluster is that of KUBECONFIG
    #[arg(long, value_name = "SPEC", action = clap::ArgAction::Append)]
    custom_metric: Vec<String>,
    /// External metric as an HPA sees it, SERIES or SERIES=NAME, like gpu_util (repeatable)
    #[arg(long, value_name = "SPEC", action = clap::ArgAction::Append)]
    external_metric: Vec<String>,
    /// Label selector of the External metrics [default: the one of the GPU's HPA]
    #[arg(long, value_name = "SELECTOR")]
    external_selector: String,
    /// Name of a replica's pod, in the order of --metrics-url (repeatable); other pods are left out
    #[arg(long, value_name = "NAME", action = clap::ArgAction::Append)]
    pod: Vec<String>,
    /// Read the GPUs of this machine by NVIDIA's library, for a server that runs here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    nvml: bool,
    /// GPU of the server, by index or UUID (repeatable); the others of this machine are left out [default: those in CUDA_VISIBLE_DEVICES, else all]
    #[arg(long, value_name = "GPU", requires = "nvml", action = clap::ArgAction::Append)]
    nvml_gpu: Vec<String>,
    /// Where Google credentials come from: default, metadata or file:KEY.json [default: default]
    #[arg(long, value_name = "PLACE")]
    google_credentials: String,
    /// Service account to act as towards Google
    #[arg(long, value_name = "EMAIL")]
    google_impersonate: String,
    /// Address of Google's monitoring API, for private access [default: https://monitoring.googleapis.com]
    #[arg(long, value_name = "URL")]
    google_endpoint: String,
}

impl SourceSettings {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == SourceSettings::default()
    }

    /// The addresses among them.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, &String)> + Clone {
        let prometheus = self.prometheus.iter().filter(|url| !url.starts_with(MANAGED));
        let named = prometheus.map(|url| ("prometheus", url));
        named.chain(self.google_endpoint.iter().map(|url| ("google-endpoint", url)))
    }

    /// Google's monitoring API.
    pub fn endpoint(&self) -> &str {
        self.google_endpoint.as_deref().unwrap_or(GOOGLE_ENDPOINT)
    }

    /// The Prometheus server's address, and whether it wants a Google token.
    pub fn prometheus_url(&self) -> Option<(String, bool)> {
        let given = self.prometheus.as_deref()?;
        Some(match given.strip_prefix(MANAGED) {
            Some(project) => {
                let endpoint = self.endpoint().trim_end_matches('/');
                (format!("{endpoint}/v1/projects/{project}/location/global/prometheus"), true)
            }
            None => (given.to_owned(), false),
        })
    }

    /// Whether Prometheus is Google's Managed Service.
    pub fn is_managed(&self) -> bool {
        self.prometheus.as_deref().is_some_and(|given| given.starts_with(MANAGED))
    }

    /// Checks what can be checked without asking anyone.
    pub(super) fn check(&self) -> Result<(), ScenarioError> {
        let project_ok = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_:.".contains(c))
        };
        let managed = self.prometheus.as_deref().and_then(|given| given.strip_prefix(MANAGED));
        for (field, project) in
            [("prometheus", managed), ("cloud-monitoring", self.cloud_monitoring.as_deref())]
        {
            if project.is_some_and(|project| !project_ok(project)) {
                let remedy = "the project's id is like my-project-123, see gcloud projects list";
                return Err(ScenarioError::field(field, "names no Google project", remedy));
            }
        }
        let queries = self.promql.iter().flatten().map(|spec| ("promql", spec));
        let metrics =
            self.cloud_monitoring_metric.iter().flatten().map(|spec| ("cloud-monitoring-metric", spec));
        for (field, spec) in queries.chain(metrics) {
            if spec.split_once('=').is_none_or(|(series, rest)| series.is_empty() || rest.trim().is_empty()) {
                let remedy = "write SERIES=..., like queue_size=sum by (pod) (my_queue)";
                return Err(ScenarioError::field(field, format!("'{spec}' names no series"), remedy));
            }
        }
        if self.promql.is_some() && self.prometheus.is_none() {
            return Err(ScenarioError::field(
                "promql",
                "stands without prometheus",
                "name the server with --prometheus",
            ));
        }
        let place = self.google_credentials.as_deref().unwrap_or("default");
        if !matches!(place, "default" | "metadata") && place.strip_prefix("file:").is_none_or(str::is_empty) {
            // What was given may be a key itself, so it is not repeated.
            let remedy = "write default, metadata or file:KEY.json";
            return Err(ScenarioError::field("google-credentials", "is no place of credentials", remedy));
        }
        Ok(())
    }
}
