//! What each server calls its series.

/// A server whose series are known by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Server {
    /// Text Generation Inference, 0.9 to 3.3.
    #[default]
    Tgi,
    /// vLLM.
    Vllm,
    /// SGLang, with --enable-metrics.
    Sglang,
    /// TensorRT-LLM's own server.
    TrtllmServe,
    /// Triton with the TensorRT-LLM backend.
    TritonTrtllm,
    /// llama.cpp's server, with --metrics.
    Llamacpp,
    /// JetStream.
    Jetstream,
}

/// A gauge: its name, and the label that tells it from others of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gauge {
    pub name: &'static str,
    pub label: Option<(&'static str, &'static str)>,
}

/// A latency histogram in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    pub title: &'static str,
    pub name: &'static str,
}

/// The series of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerSeries {
    pub queue: Gauge,
    /// `None`: the server shows none.
    pub batch: Option<Gauge>,
    pub latencies: &'static [Latency],
    /// Where they are shown.
    pub path: &'static str,
    /// The port that the server listens on where nothing else is said.
    pub port: &'static str,
}

const fn gauge(name: &'static str) -> Gauge {
    Gauge { name, label: None }
}

const fn latency(title: &'static str, name: &'static str) -> Latency {
    Latency { title, name }
}

const TTFT: &str = "time to first token";
const ITL: &str = "time between tokens";
const E2E: &str = "end to end";
const METRICS: &str = "/metrics";
/// The port of Google's how-to page.
const PAGE_PORT: &str = "8000";

const TGI: ServerSeries = ServerSeries {
    queue: gauge("tgi_queue_size"),
    batch: Some(gauge("tgi_batch_current_size")),
    latencies: &[
        latency("in the queue", "tgi_request_queue_duration"),
        latency(ITL, "tgi_request_mean_time_per_token_duration"),
        latency(E2E, "tgi_request_duration"),
    ],
    path: METRICS,
    port: PAGE_PORT,
};

const VLLM: ServerSeries = ServerSeries {
    queue: gauge("vllm:num_requests_waiting"),
    batch: Some(gauge("vllm:num_requests_running")),
    latencies: &[
        latency(TTFT, "vllm:time_to_first_token_seconds"),
        latency(ITL, "vllm:inter_token_latency_seconds"),
        latency(E2E, "vllm:e2e_request_latency_seconds"),
    ],
    path: METRICS,
    port: PAGE_PORT,
};

const SGLANG: ServerSeries = ServerSeries {
    queue: gauge("sglang:num_queue_reqs"),
    batch: Some(gauge("sglang:num_running_reqs")),
    latencies: &[
        latency(TTFT, "sglang:time_to_first_token_seconds"),
        latency(ITL, "sglang:inter_token_latency_seconds"),
        latency(E2E, "sglang:e2e_request_latency_seconds"),
    ],
    path: METRICS,
    port: "30000",
};

const TRTLLM_SERVE: ServerSeries = ServerSeries {
    queue: gauge("trtllm_num_requests_waiting"),
    batch: Some(gauge("trtllm_num_requests_running")),
    latencies: &[
        latency(TTFT, "trtllm_time_to_first_token_seconds"),
        latency(ITL, "trtllm_time_per_output_token_seconds"),
        latency(E2E, "trtllm_e2e_request_latency_seconds"),
    ],
    path: "/prometheus/metrics",
    port: PAGE_PORT,
};

const TRITON: ServerSeries = ServerSeries {
    queue: Gauge { name: "nv_trt_llm_request_metrics", label: Some(("request_type", "waiting")) },
    batch: Some(Gauge { name: "nv_trt_llm_request_metrics", label: Some(("request_type", "active")) }),
    latencies: &[],
    path: METRICS,
    port: "8002",
};

const LLAMACPP: ServerSeries = ServerSeries {
    queue: gauge("llamacpp:requests_deferred"),
    batch: Some(gauge("llamacpp:requests_processing")),
    latencies: &[],
    path: METRICS,
    port: "8080",
};

const JETSTREAM: ServerSeries = ServerSeries {
    queue: gauge("jetstream_prefill_backlog_size"),
    batch: None,
    latencies: &[
        latency(TTFT, "jetstream_time_to_first_token"),
        latency(ITL, "jetstream_time_per_output_token"),
        latency(E2E, "jetstream_time_per_request"),
    ],
    path: METRICS,
    port: PAGE_PORT,
};

impl Server {
    /// The name for flags and files.
    pub const fn slug(self) -> &'static str {
        match self {
            Server::Tgi => "tgi",
            Server::Vllm => "vllm",
            Server::Sglang => "sglang",
            Server::TrtllmServe => "trtllm-serve",
            Server::TritonTrtllm => "triton-trtllm",
            Server::Llamacpp => "llamacpp",
            Server::Jetstream => "jetstream",
        }
    }

    /// The name for people.
    pub const fn title(self) -> &'static str {
        match self {
            Server::Tgi => "TGI",
            Server::Vllm => "vLLM",
            Server::Sglang => "SGLang",
            Server::TrtllmServe => "trtllm-serve",
            Server::TritonTrtllm => "Triton",
            Server::Llamacpp => "llama.cpp",
            Server::Jetstream => "JetStream",
        }
    }

    pub(super) const fn series(self) -> &'static ServerSeries {
        match self {
            Server::Tgi => &TGI,
            Server::Vllm => &VLLM,
            Server::Sglang => &SGLANG,
            Server::TrtllmServe => &TRTLLM_SERVE,
            Server::TritonTrtllm => &TRITON,
            Server::Llamacpp => &LLAMACPP,
            Server::Jetstream => &JETSTREAM,
        }
    }

    /// The port of its metrics where nothing else is said: Google's how-to page's 8000, or the server's own.
    pub const fn default_port(self) -> &'static str {
        self.series().port
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
