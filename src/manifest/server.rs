//! What a server calls its series, as far as manifests name them.

/// A server as manifests know it. What they name of it must be fit for PromQL, YAML and a shell, which
/// whoever makes one has to see to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// For names of files: lower-case letters, digits and `-`.
    pub slug: String,
    /// For people.
    pub title: String,
    /// The gauge of its queue. `Err`: why none can be scaled on.
    pub queue: Result<Gauge, String>,
    /// The gauge of its batch. `Err`: why none can be scaled on.
    pub batch: Result<Gauge, String>,
    /// Its latency histograms in seconds.
    pub latencies: Vec<Latency>,
    /// Where they are shown: `/metrics`.
    pub path: String,
    /// The port that it listens on where nothing else is said.
    pub port: u16,
}

/// A gauge: its name, and the labels that tell it from others of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gauge {
    /// Its name.
    pub name: String,
    /// Labels and their values.
    pub labels: Vec<(String, String)>,
}

/// A latency histogram in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// What it is the time of.
    pub title: String,
    /// Its name.
    pub name: String,
}

/// What the port of the metrics is called where it has no other name.
const PORT_NAME: &str = "metrics";

impl Server {
    /// The port of its metrics where nothing else is said, by name, so that its series get a container label.
    pub fn default_port(&self) -> String {
        format!("{PORT_NAME}:{}", self.port)
    }
}

/// The server of Google's how-to page: TGI.
impl Default for Server {
    fn default() -> Server {
        let gauge = |name: &str| Ok(Gauge { name: name.to_owned(), labels: Vec::new() });
        let latencies = [
            ("in the queue", "tgi_request_queue_duration"),
            ("time between tokens", "tgi_request_mean_time_per_token_duration"),
            ("end to end", "tgi_request_duration"),
        ];
        let latency =
            |(title, name): (&str, &str)| Latency { title: title.to_owned(), name: name.to_owned() };
        Server {
            slug: "tgi".to_owned(),
            title: "TGI".to_owned(),
            queue: gauge("tgi_queue_size"),
            batch: gauge("tgi_batch_current_size"),
            latencies: latencies.map(latency).into(),
            path: "/metrics".to_owned(),
            port: 8000,
        }
    }
}

/// The metric of the DCGM exporter that stands for GPU utilization.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum GpuMetric {
    /// DCGM_FI_DEV_GPU_UTIL, 0 to 100.
    #[default]
    GpuUtil,
    /// DCGM_FI_PROF_GR_ENGINE_ACTIVE, 0 to 1, where the former is not exported.
    EngineActive,
}

impl GpuMetric {
    /// Its name as the exporter shows it.
    pub(super) const fn exported(self) -> &'static str {
        match self {
            GpuMetric::GpuUtil => "DCGM_FI_DEV_GPU_UTIL",
            GpuMetric::EngineActive => "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        }
    }

    /// How many percent are one of its units.
    pub(super) const fn percent(self) -> i64 {
        match self {
            GpuMetric::GpuUtil => 1,
            GpuMetric::EngineActive => 100,
        }
    }
}
