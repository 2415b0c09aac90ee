//! What a metric is, told by its name, and how far it can rise.

/// What a metric measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measures {
    /// Requests that wait.
    Queue,
    /// Requests in the batch.
    Batch,
    /// GPU utilization, in percent, one series per GPU.
    GpuPercent,
    /// A share of something, from 0 to 1.
    Ratio,
    /// GPU memory in use.
    GpuMemory,
    /// Something else.
    Unknown,
}

/// TGI's `max_concurrent_requests` where it is not set: no queue or batch is larger.
pub(super) const TGI_MOST_CONCURRENT: f64 = 128.0;

/// Names, or parts of names, of the servers' and exporters' metrics. The first that matches counts.
const KNOWN: [(&str, Measures); 32] = [
    ("gr_engine_active", Measures::Ratio),
    ("sm_active", Measures::Ratio),
    ("sm_occupancy", Measures::Ratio),
    ("tensor_active", Measures::Ratio),
    ("dram_active", Measures::Ratio),
    ("kv_cache_usage", Measures::Ratio),
    ("gpu_cache_usage_perc", Measures::Ratio),
    ("kv_cache_utilization", Measures::Ratio),
    ("kv_cache_block_type=\"fraction\"", Measures::Ratio),
    ("sglang:token_usage", Measures::Ratio),
    ("slots_used_percentage", Measures::Ratio),
    ("duty_cycle", Measures::GpuPercent),
    ("dcgm_fi_dev_gpu_util", Measures::GpuPercent),
    ("fb_used", Measures::GpuMemory),
    ("accelerator|memory_used", Measures::GpuMemory),
    ("accelerator_memory_used", Measures::GpuMemory),
    ("tgi_queue_size", Measures::Queue),
    ("num_requests_waiting", Measures::Queue),
    ("num_queue_reqs", Measures::Queue),
    ("requests_deferred", Measures::Queue),
    ("average_queue_size", Measures::Queue),
    ("flow_control_queue_size", Measures::Queue),
    ("pending_request_count", Measures::Queue),
    ("backlog_size", Measures::Queue),
    ("request_type=\"waiting\"", Measures::Queue),
    ("tgi_batch_current_size", Measures::Batch),
    ("num_requests_running", Measures::Batch),
    ("num_running_reqs", Measures::Batch),
    ("requests_processing", Measures::Batch),
    ("n_busy_slots", Measures::Batch),
    ("request_type=\"active\"", Measures::Batch),
    ("request_type=\"scheduled\"", Measures::Batch),
];

impl Measures {
    /// Of a metric's name or a query.
    pub(super) fn of(text: &str) -> Measures {
        let text = text.to_lowercase();
        let known = KNOWN.into_iter().find(|(part, _)| text.contains(part));
        known.map_or(Measures::Unknown, |(_, measures)| measures)
    }

    /// The most that one series can show, by definition.
    pub(super) fn bound(self) -> Option<f64> {
        match self {
            Measures::GpuPercent => Some(100.0),
            Measures::Ratio => Some(1.0),
            Measures::Queue | Measures::Batch | Measures::GpuMemory | Measures::Unknown => None,
        }
    }

    /// Its name for people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Measures::Queue => "queue size",
            Measures::Batch => "batch size",
            Measures::GpuPercent => "GPU utilization",
            Measures::Ratio => "the ratio",
            Measures::GpuMemory => "GPU memory",
            Measures::Unknown => "the metric",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_known_in_the_spelling_of_each_adapter() {
        for (name, measures) in [
            ("prometheus.googleapis.com|tgi_queue_size|gauge", Measures::Queue),
            ("prometheus.googleapis.com|vllm:num_requests_running|gauge", Measures::Batch),
            ("kubernetes.io|container|accelerator|duty_cycle", Measures::GpuPercent),
            ("sum(dcgm_fi_dev_gpu_util{namespace=\"x\"})", Measures::GpuPercent),
            ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", Measures::Ratio),
            ("vllm:kv_cache_usage_perc", Measures::Ratio),
            ("kubernetes.io|container|accelerator|memory_used", Measures::GpuMemory),
            ("orders_per_second", Measures::Unknown),
        ] {
            assert_eq!(Measures::of(name), measures, "{name}");
        }
    }
}
