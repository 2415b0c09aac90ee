//! TGI's own metrics, names unchanged from 0.9 to 3.3.

use super::exposition::Exposition;
use crate::measurement::{Sample, Series, Source};
use crate::units::Seconds;

/// Series that are one metric without labels that matter.
const PLAIN: &[(Series, &str)] = &[
    (Series::QueueSize, "tgi_queue_size"),
    (Series::BatchSize, "tgi_batch_current_size"),
    (Series::BatchTokens, "tgi_batch_current_max_tokens"),
    (Series::JoinedRequests, "tgi_batch_next_size_sum"),
    (Series::JoinBatches, "tgi_batch_next_size_count"),
    (Series::TokenEvents, "tgi_request_skipped_tokens_count"),
    (Series::InputTokens, "tgi_request_input_length_sum"),
    (Series::InputRequests, "tgi_request_input_length_count"),
    (Series::OutputTokens, "tgi_request_generated_tokens_sum"),
    (Series::OutputRequests, "tgi_request_generated_tokens_count"),
    (Series::QueueSeconds, "tgi_request_queue_duration_sum"),
    (Series::QueueRequests, "tgi_request_queue_duration_count"),
    (Series::Successes, "tgi_request_success"),
];

/// Series that are one label value of a metric.
const LABELLED: &[(Series, &str, &str, &str)] = &[
    (Series::DecodeCount, "tgi_batch_inference_duration_count", "method", "decode"),
    (Series::DecodeSeconds, "tgi_batch_inference_duration_sum", "method", "decode"),
    (Series::PrefillCount, "tgi_batch_inference_duration_count", "method", "prefill"),
    (Series::PrefillSeconds, "tgi_batch_inference_duration_sum", "method", "prefill"),
    (Series::FailedOverloaded, "tgi_request_failure", "err", "overloaded"),
    (Series::FailedDropped, "tgi_request_failure", "err", "dropped"),
    (Series::FailedGeneration, "tgi_request_failure", "err", "generation"),
    (Series::ConcatChunking, "tgi_batch_concat", "reason", "chunking"),
    (Series::ConcatBackpressure, "tgi_batch_concat", "reason", "backpressure"),
    (Series::ConcatWaitExceeded, "tgi_batch_concat", "reason", "wait_exceeded"),
];

/// What a scrape of TGI says. What it does not show stays absent: a cold TGI shows nothing at all.
pub fn sample(exposition: &Exposition, time: Seconds, took: Seconds, replica: u32) -> Sample {
    let mut sample = Sample::new(time, took, Source::Server, replica);
    for (series, name) in PLAIN {
        sample.set(*series, exposition.value(name));
    }
    for (series, name, label, value) in LABELLED {
        sample.set(*series, exposition.labelled(name, label, value));
    }
    // Set by 2.4 and later in principle, shown by none that was measured.
    if let (Some(used), Some(budget)) =
        (sample.get(Series::BatchTokens), exposition.value("tgi_batch_max_total_tokens"))
    {
        sample.set(Series::KvUsage, Some(used / budget));
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::exposition::parse;

    fn read(text: &str) -> Sample {
        sample(&parse(text).unwrap(), Seconds(1.0), Seconds(0.01), 0)
    }

    const V3: &str = include_str!("../../tests/fixtures/exposition/tgi-3.3.7.txt");
    const V2: &str = include_str!("../../tests/fixtures/exposition/tgi-2.0.4.txt");

    #[test]
    fn the_recorded_body_of_a_real_router_is_read() {
        let sample = read(V3);
        let expected = [
            (Series::QueueSize, 0.0),
            (Series::BatchSize, 0.0),
            (Series::DecodeCount, 6240.0),
            (Series::DecodeSeconds, 154.596_141_376_000_1),
            (Series::PrefillCount, 130.0),
            (Series::JoinedRequests, 931.0),
            (Series::TokenEvents, 93_100.0),
            (Series::InputTokens, 186_200.0),
            (Series::Successes, 931.0),
            (Series::ConcatBackpressure, 64.0),
            (Series::ConcatWaitExceeded, 12.0),
        ];
        for (series, value) in expected {
            assert_eq!(sample.get(series), Some(value), "{series:?}");
        }
        for series in [Series::ConcatChunking, Series::KvUsage, Series::FailedOverloaded, Series::GpuUtil] {
            assert_eq!(sample.get(series), None, "{series:?}");
        }
    }

    #[test]
    fn version_2_without_help_lines_is_read_too() {
        let sample = read(V2);
        assert!(sample.get(Series::QueueSize).is_some() && sample.get(Series::TokenEvents).is_some());
    }

    #[test]
    fn a_cold_server_shows_nothing_and_not_zeros() {
        assert!(read("").is_empty());
    }
}
