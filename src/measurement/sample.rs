//! One scrape of one source: gauges and counters as they stood at one moment.

use crate::units::Seconds;
use serde::{Deserialize, Serialize};

/// Where a sample came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The server's own `/metrics`.
    Server,
    /// A DCGM exporter.
    Gpu,
    /// NVIDIA's library on this machine.
    Nvml,
    /// A Prometheus server, or Google's Managed Service for Prometheus.
    Prometheus,
    /// Google's Cloud Monitoring.
    CloudMonitoring,
    /// `custom.metrics.k8s.io`: what an HPA sees of a Pods metric.
    CustomMetrics,
    /// `external.metrics.k8s.io`: what an HPA sees of an External metric.
    ExternalMetrics,
}

impl Source {
    /// All, those closest to the server first.
    pub const ALL: [Source; 7] = [
        Source::Server,
        Source::Gpu,
        Source::Nvml,
        Source::Prometheus,
        Source::CloudMonitoring,
        Source::CustomMetrics,
        Source::ExternalMetrics,
    ];

    /// The word used in files.
    pub const fn word(self) -> &'static str {
        match self {
            Source::Server => "server",
            Source::Gpu => "gpu",
            Source::Nvml => "nvml",
            Source::Prometheus => "prometheus",
            Source::CloudMonitoring => "cloud-monitoring",
            Source::CustomMetrics => "custom-metrics",
            Source::ExternalMetrics => "external-metrics",
        }
    }
}

macro_rules! series {
    ($($(#[doc = $doc:literal])+ $variant:ident = $column:literal,)+) => {
        /// A time series that calibrate records: one column of `samples.csv`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Series {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Series {
            /// All, in the order of the columns.
            pub const ALL: &'static [Series] = &[$(Series::$variant,)+];

            /// The name of its column.
            pub const fn column(self) -> &'static str {
                match self { $(Series::$variant => $column,)+ }
            }

            /// The series of a column.
            pub fn named(column: &str) -> Option<Series> {
                Series::ALL.iter().copied().find(|series| series.column() == column)
            }
        }
    };
}

series! {
    /// Requests that wait for a place in the batch (gauge).
    QueueSize = "queue_size",
    /// Requests that are being decoded (gauge).
    BatchSize = "batch_size",
    /// KV tokens reserved by the running batch (gauge).
    BatchTokens = "batch_tokens",
    /// Share of the KV cache in use, 0 to 1 (gauge).
    KvUsage = "kv_usage",
    /// GPU utilization in percent, mean over the replica's GPUs (gauge).
    GpuUtil = "gpu_util",
    /// Share of time in which the GPU's engines were active, percent, mean over the replica's GPUs (gauge).
    GpuEngineActive = "gpu_engine_active",
    /// Share of cycles in which the GPU's multiprocessors had work, percent, mean over them (gauge).
    GpuSmActive = "gpu_sm_active",
    /// GPU memory in use, MiB, sum over the replica's GPUs (gauge).
    GpuMemory = "gpu_memory_mib",
    /// Decode forwards (counter).
    DecodeCount = "decode_count",
    /// Seconds spent in decode forwards (counter).
    DecodeSeconds = "decode_seconds",
    /// Prefill forwards (counter).
    PrefillCount = "prefill_count",
    /// Seconds spent in prefill forwards (counter).
    PrefillSeconds = "prefill_seconds",
    /// Requests that joined a batch (counter).
    JoinedRequests = "joined_requests",
    /// Prefill batches formed (counter).
    JoinBatches = "join_batches",
    /// Token events emitted (counter): count of `tgi_request_skipped_tokens`.
    TokenEvents = "token_events",
    /// Prompt tokens of validated requests (counter).
    InputTokens = "input_tokens",
    /// Validated requests (counter).
    InputRequests = "input_requests",
    /// Output tokens of ended requests (counter).
    OutputTokens = "output_tokens",
    /// Ended requests (counter).
    OutputRequests = "output_requests",
    /// Seconds that ended requests had spent in the queue (counter).
    QueueSeconds = "queue_seconds",
    /// Ended requests counted by the queue time (counter).
    QueueRequests = "queue_requests",
    /// Seconds to the first token by the server's own clock, over ended requests (counter).
    TtftSeconds = "ttft_seconds",
    /// Requests counted by that time (counter).
    TtftRequests = "ttft_requests",
    /// Seconds that ended requests took by the server's own clock (counter).
    E2eSeconds = "e2e_seconds",
    /// Requests counted by that time (counter).
    E2eRequests = "e2e_requests",
    /// Successful requests (counter).
    Successes = "successes",
    /// Requests refused for overload (counter).
    FailedOverloaded = "failed_overloaded",
    /// Requests whose client had gone (counter).
    FailedDropped = "failed_dropped",
    /// Requests that failed in generation (counter).
    FailedGeneration = "failed_generation",
    /// Joins because the server takes prompts in chunks (counter).
    ConcatChunking = "concat_chunking",
    /// Joins because enough requests waited (counter).
    ConcatBackpressure = "concat_backpressure",
    /// Joins because the queue had waited long enough (counter).
    ConcatWaitExceeded = "concat_wait_exceeded",
}

/// One scrape. A series that the source did not show is absent, never 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When the values were true: when the scrape was begun, or what the source says of its sample.
    pub time: Seconds,
    /// How long it took to ask and to read the answer.
    pub took: Seconds,
    /// When it was here. Later than `time` by what lies between the server and its reader.
    pub arrived: Seconds,
    /// What was asked.
    pub source: Source,
    /// The replica, from 0 in the order of the metrics addresses.
    pub replica: u32,
    values: [Option<f64>; Series::ALL.len()],
}

impl Sample {
    /// A sample in which every series is absent, here as soon as it was asked for.
    pub fn new(time: Seconds, took: Seconds, source: Source, replica: u32) -> Self {
        Sample { time, took, arrived: time + took, source, replica, values: [None; Series::ALL.len()] }
    }

    /// The same sample, which was here at `arrived`, after a question of so long.
    pub fn received(self, took: Seconds, arrived: Seconds) -> Self {
        Sample { took, arrived, ..self }
    }

    /// The value of a series, if the source showed it.
    pub fn get(&self, series: Series) -> Option<f64> {
        self.values[series as usize]
    }

    /// Sets a series. A value that is not finite counts as absent.
    pub fn set(&mut self, series: Series, value: Option<f64>) {
        self.values[series as usize] = value.filter(|v| v.is_finite());
    }

    /// Whether any series is present.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_series_is_not_zero() {
        let mut sample = Sample::new(Seconds(1.0), Seconds(0.01), Source::Server, 0);
        assert!(sample.is_empty());
        sample.set(Series::QueueSize, Some(0.0));
        sample.set(Series::BatchSize, Some(f64::NAN));
        assert_eq!(sample.get(Series::QueueSize), Some(0.0));
        assert_eq!(sample.get(Series::BatchSize), None);
    }

    #[test]
    fn columns_have_distinct_names() {
        let mut names: Vec<_> = Series::ALL.iter().map(|s| s.column()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Series::ALL.len());
    }
}
