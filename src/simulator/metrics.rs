//! TGI's metrics, by the library that TGI itself uses for them. A metric exists from its first touch on.

use crate::batching::{Forward, Gauges, JoinReason, Observation};
use crate::units::Seconds;
use metrics::{
    counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// The metrics of one server.
pub(super) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

/// Upper bounds of all `_duration` histograms: 0.0001 x 1.5^k, k from 1 to 35, multiplied up one by
/// one as TGI does, so that the last binary digits agree.
fn duration_buckets() -> Vec<f64> {
    std::iter::successors(Some(0.0001 * 1.5), |bound| Some(bound * 1.5)).take(35).collect()
}

/// A hundred equal steps up to `most`.
fn linear_buckets(most: u32) -> Vec<f64> {
    (1..=100).map(|step| f64::from(most) / 100.0 * f64::from(step)).collect()
}

impl Metrics {
    /// The bounds of the token histograms follow the server's limits.
    pub(super) fn new(max_input_tokens: u32, max_total_tokens: u32) -> Result<Metrics, BuildError> {
        let full = |name: &str| Matcher::Full(name.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("duration".to_owned()), &duration_buckets())?
            .set_buckets_for_metric(full("tgi_request_input_length"), &linear_buckets(max_input_tokens))?
            .set_buckets_for_metric(full("tgi_request_generated_tokens"), &linear_buckets(max_total_tokens))?
            .set_buckets_for_metric(full("tgi_request_max_new_tokens"), &linear_buckets(max_total_tokens))?
            .set_buckets_for_metric(
                full("tgi_batch_next_size"),
                &(1..=1024).map(f64::from).collect::<Vec<_>>(),
            )?
            .build_recorder();
        let handle = recorder.handle();
        let metrics = Metrics { recorder, handle };
        metrics.with(describe);
        Ok(metrics)
    }

    fn with<T>(&self, work: impl FnOnce() -> T) -> T {
        with_local_recorder(&self.recorder, work)
    }

    /// The exposition. The gauges are as the router last set them.
    pub(super) fn render(&self, gauges: Gauges) -> String {
        self.with(|| {
            if let Some(queue) = gauges.queue_size {
                gauge!("tgi_queue_size").set(f64::from(queue));
            }
            if let (Some(size), Some(tokens)) = (gauges.batch_size, gauges.batch_tokens) {
                gauge!("tgi_batch_current_size").set(f64::from(size));
                gauge!("tgi_batch_current_max_tokens").set(f64::from(tokens));
            }
        });
        self.handle.render()
    }

    /// Folds what was recorded into its histograms. Without scrapes it would pile up.
    pub(super) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// A request came in. Requests to the OpenAI endpoints count twice in TGI.
    pub(super) fn requested(&self, times: u64) {
        self.with(|| counter!("tgi_request_count").increment(times));
    }

    /// A request passed validation.
    pub(super) fn validated(&self, input_tokens: u32, max_new_tokens: u32, took: Seconds) {
        self.with(|| {
            histogram!("tgi_request_validation_duration").record(took.0);
            histogram!("tgi_request_input_length").record(f64::from(input_tokens));
            histogram!("tgi_request_max_new_tokens").record(f64::from(max_new_tokens));
        });
    }

    /// A request failed: `overloaded`, `validation`, `generation`, `dropped`.
    pub(super) fn failed(&self, why: &'static str) {
        self.with(|| counter!("tgi_request_failure", "err" => why).increment(1));
    }

    /// A token was emitted. The histogram counts speculated tokens, of which there are none.
    pub(super) fn emitted(&self) {
        self.with(|| histogram!("tgi_request_skipped_tokens").record(0.0));
    }

    /// A request ended well.
    pub(super) fn succeeded(&self, tokens: u32, total: Seconds, queued: Seconds, served: Seconds) {
        self.with(|| {
            counter!("tgi_request_success").increment(1);
            histogram!("tgi_request_duration").record(total.0);
            histogram!("tgi_request_queue_duration").record(queued.0);
            histogram!("tgi_request_inference_duration").record(served.0);
            histogram!("tgi_request_mean_time_per_token_duration")
                .record(served.0 / f64::from(tokens.max(1)));
            histogram!("tgi_request_generated_tokens").record(f64::from(tokens));
        });
    }

    /// Something that the scheduler did.
    pub(super) fn observe(&self, observation: &Observation) {
        self.with(|| match *observation {
            Observation::Forward { kind, took, .. } => forward(kind, took),
            Observation::Joined { requests, reason } => {
                histogram!("tgi_batch_next_size").record(f64::from(requests));
                if let Some(reason) = reason {
                    let reason = match reason {
                        JoinReason::Chunking => "chunking",
                        JoinReason::Backpressure => "backpressure",
                        JoinReason::WaitExceeded => "wait_exceeded",
                    };
                    counter!("tgi_batch_concat", "reason" => reason).increment(1);
                    histogram!("tgi_batch_concat_duration", "method" => "decode").record(0.0);
                }
            }
            Observation::Dropped => counter!("tgi_request_failure", "err" => "dropped").increment(1),
            // Counted where the answer ends, with the whole request's duration.
            Observation::Finished { .. } => {}
        });
    }
}

/// A forward: the shard's part is all of it, since nothing lies between router and shard here.
fn forward(kind: Forward, took: Seconds) {
    let method = match kind {
        Forward::Prefill => "prefill",
        Forward::Decode => "decode",
    };
    counter!("tgi_batch_inference_count", "method" => method).increment(1);
    counter!("tgi_batch_inference_success", "method" => method).increment(1);
    histogram!("tgi_batch_inference_duration", "method" => method).record(took.0);
    histogram!("tgi_batch_forward_duration", "method" => method).record(took.0);
    histogram!("tgi_batch_decode_duration", "method" => method).record(0.0);
    histogram!("tgi_batch_filter_duration", "method" => method).record(0.0);
}

fn describe() {
    describe_counter!("tgi_request_count", "Total number of requests");
    describe_counter!("tgi_request_success", "Number of successful requests");
    describe_counter!("tgi_request_failure", "Number of failed requests");
    describe_counter!("tgi_batch_inference_count", "Inference calls per method (prefill or decode)");
    describe_counter!(
        "tgi_batch_inference_success",
        "Number of successful inference calls per method (prefill or decode)"
    );
    describe_gauge!("tgi_queue_size", "Current queue size");
    describe_gauge!("tgi_batch_current_size", "Current batch size");
    describe_gauge!("tgi_batch_current_max_tokens", "Maximum tokens for the current batch");
    describe_histogram!("tgi_request_duration", "Request duration");
    describe_histogram!("tgi_request_queue_duration", "Request queue duration");
    describe_histogram!("tgi_request_inference_duration", "Request inference duration");
    describe_histogram!("tgi_request_validation_duration", "Request validation duration");
    describe_histogram!("tgi_request_mean_time_per_token_duration", "Mean time per token per request");
    describe_histogram!("tgi_request_generated_tokens", "Generated tokens per request");
    describe_histogram!("tgi_request_input_length", "Input token length per request");
    describe_histogram!("tgi_request_max_new_tokens", "Maximum new tokens per request");
    describe_histogram!("tgi_request_skipped_tokens", "Speculated tokens per request");
    describe_histogram!("tgi_batch_next_size", "Batch size of the next batch");
    describe_histogram!("tgi_batch_inference_duration", "Batch inference duration");
    describe_histogram!(
        "tgi_batch_forward_duration",
        "Batch forward duration per method (prefill or decode)"
    );
    describe_histogram!(
        "tgi_batch_decode_duration",
        "Time spent decoding a batch per method (prefill or decode)"
    );
    describe_histogram!(
        "tgi_batch_filter_duration",
        "Time spent filtering batches and sending generated tokens per method (prefill or decode)"
    );
}
