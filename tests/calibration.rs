//! The server model fitted to recorded windows of a real TGI router, and the capacity it predicts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::analyze::Measured;
use calibrate::analyze::server_model::{
    Interval, Known, Workload, admission, capacity, fit_model, intervals, play, predict, token_budget,
};
use calibrate::batching::{Admission, ServerModel};
use calibrate::measurement::{Phase, RequestOutcome, Sample, Series, Source};
use calibrate::plan::RequestSource;
use calibrate::simulator::Preset;
use calibrate::units::{Rate, Replicas, Seconds, Slo};
use std::collections::HashMap;
use std::path::Path;

struct Window {
    samples: Vec<Sample>,
    requests: Vec<RequestOutcome>,
    /// Scheduled times and sizes.
    sent: Vec<(f64, u32, u32)>,
    from: f64,
    to: f64,
}

const SERIES: &[(Series, &str)] = &[
    (Series::QueueSize, "tgi_queue_size"),
    (Series::BatchSize, "tgi_batch_current_size"),
    (Series::BatchTokens, "tgi_batch_current_max_tokens"),
    (Series::PrefillSeconds, "tgi_batch_inference_duration_sum{method=\"prefill\"}"),
    (Series::PrefillCount, "tgi_batch_inference_duration_count{method=\"prefill\"}"),
    (Series::DecodeSeconds, "tgi_batch_inference_duration_sum{method=\"decode\"}"),
    (Series::DecodeCount, "tgi_batch_inference_duration_count{method=\"decode\"}"),
    (Series::JoinedRequests, "tgi_batch_next_size_sum"),
    (Series::TokenEvents, "tgi_request_skipped_tokens_count"),
    (Series::ConcatChunking, "tgi_batch_concat{reason=\"chunking\"}"),
    (Series::ConcatBackpressure, "tgi_batch_concat{reason=\"backpressure\"}"),
    (Series::ConcatWaitExceeded, "tgi_batch_concat{reason=\"wait_exceeded\"}"),
];

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/windows").join(name)
}

fn window(name: &str) -> Window {
    let text = std::fs::read_to_string(path(&format!("{name}.req.csv"))).unwrap();
    let (comment, table) = text.split_once('\n').unwrap();
    let given = |key: &str| -> f64 {
        let (_, rest) = comment.split_once(&format!("{key}=")).unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (from, to) = (given("t_start"), given("t_end"));
    let mut requests = Vec::new();
    let mut sent = Vec::new();
    for (id, row) in (0..).zip(csv::Reader::from_reader(table.as_bytes()).records()) {
        let row = row.unwrap();
        let number = |column: usize| -> f64 { row[column].parse().unwrap() };
        let scheduled = number(0);
        sent.push((scheduled, number(4) as u32, number(5) as u32));
        requests.push(RequestOutcome {
            id,
            step: 0,
            phase: if scheduled < from { Phase::WarmUp } else { Phase::Hold },
            scheduled: Seconds(scheduled),
            sent: Some(Seconds(scheduled + number(1))),
            first_token: Some(Seconds(scheduled + number(2))),
            last_token: Some(Seconds(scheduled + number(3))),
            ended: None,
            input_tokens: Some(number(4) as u32),
            output_tokens: Some(number(6) as u32),
            chunks: 0,
            status: None,
            error: None,
            replica: None,
        });
    }
    let mut reader = csv::Reader::from_path(path(&format!("{name}.met.csv"))).unwrap();
    let header: HashMap<String, usize> =
        reader.headers().unwrap().iter().map(str::to_owned).zip(0..).collect();
    let mut samples = Vec::new();
    for row in reader.records() {
        let row = row.unwrap();
        let number = |name: &str| row[header[name]].parse::<f64>().ok();
        let (begun, ended) = (number("t_send").unwrap(), number("t_recv").unwrap());
        let mut sample = Sample::new(Seconds(begun), Seconds(ended - begun), Source::Server, 0);
        for (series, name) in SERIES {
            sample.set(*series, number(name));
        }
        samples.push(sample);
    }
    Window { samples, requests, sent, from, to }
}

impl Window {
    /// The intervals of the measured part.
    fn intervals(&self) -> Vec<Interval> {
        let samples: Vec<&Sample> =
            self.samples.iter().filter(|s| (self.from..self.to).contains(&s.time.0)).collect();
        intervals(&samples, &self.requests.iter().collect::<Vec<_>>())
    }

    fn samples(&self) -> Vec<&Sample> {
        self.samples.iter().collect()
    }
}

/// The four guided windows, fitted together.
fn guided() -> (Vec<Window>, ServerModel) {
    let windows: Vec<Window> = ["h1", "h2", "h3", "h4"].map(window).into();
    let admission = admission(&windows[3].samples()).unwrap();
    assert_eq!(admission, Admission::Chunking);
    let all: Vec<Interval> = windows.iter().flat_map(Window::intervals).collect();
    let samples: Vec<&Sample> = windows.iter().flat_map(Window::samples).collect();
    let rounds: Vec<&[Interval]> = all.chunks(1).collect();
    let (model, _) =
        fit_model(&rounds, admission, &known(), token_budget(&samples, &admission, 399.0)).unwrap();
    (windows, model)
}

fn known() -> Known {
    Known { declared_output: Some(200), ..Known::default() }
}

/// The limits of the recording: both for 95 % of the requests.
fn slos() -> Vec<Slo> {
    ["ttft:p95:2s", "tpot:p95:45ms", "goodput:rate:95%"].map(|slo| slo.parse().unwrap()).into()
}

#[test]
fn the_costs_of_a_real_routers_forwards_are_found_from_its_metrics() {
    let (_, model) = guided();
    // The shard simulated prefill 20 ms + 0.15 ms a token, decode 18 ms + 0.35 ms a sequence, and ran
    // about a millisecond over it.
    let near = |found: Seconds, true_: f64, within: f64| {
        assert!((found.0 / true_ - 1.0).abs() < within, "{found} for {true_}: {model:?}");
    };
    near(model.decode_base, 0.0190, 0.06);
    near(model.decode_per_sequence, 0.000_35, 0.10);
    near(model.prefill_base, 0.0210, 0.15);
    near(model.prefill_per_token, 0.000_15, 0.15);
    assert!((0.000_05..0.000_4).contains(&model.overhead.0), "{model:?}");
}

#[test]
fn the_capacity_of_a_real_router_is_predicted_from_four_minutes_of_its_metrics() {
    let (windows, model) = guided();
    let sizes: Vec<(u32, u32)> = windows
        .iter()
        .flat_map(|window| window.sent.iter().map(|(_, input, output)| (*input, *output)))
        .collect();
    let workload = Workload::poisson(&sizes, 40_000, &known(), 1);
    let found = capacity(&model, &workload, &slos(), Rate(5.0), 8.0).unwrap();
    assert!((found.0 / 6.93 - 1.0).abs() < 0.01, "{found} for a truth of 6.93 req/s: {model:?}");
}

#[test]
fn measured_violations_are_reproduced_by_replaying_their_arrivals() {
    let (_, model) = guided();
    for name in ["u65", "u68"] {
        let window = window(name);
        let begin = window.sent[0].0;
        let warm_up = window.sent.iter().filter(|(time, ..)| *time < window.from).count();
        let judged = window.sent.iter().filter(|(time, ..)| *time < window.to);
        let workload = Workload {
            arrivals: judged.clone().map(|(time, ..)| time - begin).collect(),
            sizes: judged.map(|(_, input, output)| (*input, *output)).collect(),
            declared_output: Some(200),
            warm_up,
            replicas: Replicas(1),
        };
        let predicted = play(&model, &workload, Rate(1.0), &slos()).checks[2].value.unwrap();
        let measured: Vec<&RequestOutcome> =
            window.requests.iter().filter(|r| (window.from..window.to).contains(&r.scheduled.0)).collect();
        let good =
            |r: &&&RequestOutcome| r.ttft().unwrap().0 <= 2.0 && r.tpot().is_none_or(|tpot| tpot.0 <= 0.045);
        let measured = measured.iter().filter(good).count() as f64 / measured.len() as f64;
        assert!((predicted - measured).abs() < 0.02, "{name}: {predicted} for {measured}");
    }
}

/// Held against what the shard itself wrote down of each forward: its end, its kind, what it emitted.
#[test]
fn the_identity_of_tokens_and_forwards_is_exact() {
    for (name, chunking) in [("h2", true), ("nochunk", false)] {
        let window = window(name);
        let inside: Vec<&Sample> =
            window.samples.iter().filter(|s| (window.from..window.to).contains(&s.time.0)).collect();
        let intervals = intervals(&inside, &window.requests.iter().collect::<Vec<_>>());
        let sum = |of: fn(&Interval) -> f64| intervals.iter().map(of).sum::<f64>();
        let moment = |sample: &Sample| sample.time.0 + sample.took.0 / 2.0;
        let (from, to) = (moment(inside[0]), moment(inside[inside.len() - 1]));
        let (mut decodes, mut prefills, mut emitted, mut batches) = (0.0, 0.0, 0.0, 0.0);
        for row in csv::Reader::from_path(path(&format!("{name}.fwd.csv"))).unwrap().records() {
            let row = row.unwrap();
            let number = |column: usize| row[column].parse::<f64>().unwrap();
            if !(from..to).contains(&number(0)) {
                continue;
            }
            emitted += number(4);
            if &row[1] == "decode" {
                decodes += 1.0;
                batches += number(2);
            } else {
                prefills += 1.0;
            }
        }
        // A scrape falls within a forward, so one at each end may be on either side.
        assert!((sum(|i| i.decodes) - decodes).abs() <= 2.0, "{name}");
        assert!((sum(|i| i.prefills) - prefills).abs() <= 2.0, "{name}");
        let one_forward = 60.0;
        assert!((sum(|i| i.tokens) - emitted).abs() <= 2.0 * one_forward, "{name}");
        let forwards = if chunking { sum(|i| i.decodes) + sum(|i| i.prefills) } else { sum(|i| i.decodes) };
        let by_counters = (sum(|i| i.tokens) - sum(|i| i.joins)) / forwards;
        let of_decodes = batches / decodes;
        assert!((by_counters / of_decodes - 1.0).abs() < 0.01, "{name}: {by_counters} for {of_decodes}");
        let naive = sum(|i| i.tokens) / sum(|i| i.decodes);
        assert!(!chunking || naive / of_decodes > 1.05, "{name}: tokens over decodes alone would be {naive}");
    }
}

/// The committed sample is a run against the embedded server, whose truth is known.
#[test]
fn the_prediction_from_a_recorded_run_encloses_the_truth_of_its_server() {
    let run = calibrate::record::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/sample")).unwrap();
    let slos: Vec<Slo> = ["ttft:p95:1s", "tpot:p95:50ms"].map(|slo| slo.parse().unwrap()).into();
    let measured = Measured {
        requests: &run.requests,
        samples: &run.samples,
        events: &run.events,
        gaps: &run.gaps,
        replicas: Replicas(1),
    };
    let known = Known { max_prefill_tokens: 2048, ..Known::default() };
    let prediction = predict(&measured, &slos, &known).unwrap();
    let truth = Preset::by_name("demo").unwrap().config().model;
    let cost = prediction.cost;
    for (found, true_, within) in [
        (cost.decode_base, truth.decode_base, 0.01),
        (cost.decode_per_sequence, truth.decode_per_sequence, 0.01),
        // In real time, on a shared machine, a forward takes a little longer than it should: 0.09 ms here.
        (cost.prefill_base, truth.prefill_base, 0.02),
        (cost.prefill_per_token, truth.prefill_per_token, 0.01),
    ] {
        assert!((found.0 / true_.0 - 1.0).abs() < within, "{found} for {true_}: {cost:?}");
    }
    assert!(prediction.high.0 / prediction.low.0 < 1.15, "{} to {}", prediction.low, prediction.high);
    let sizes = RequestSource::Specs(
        "lognormal:mean=128,sd=64".parse().unwrap(),
        "lognormal:mean=48,sd=24".parse().unwrap(),
    );
    let mut sampler = sizes.sampler(5, 0);
    let sizes: Vec<(u32, u32)> =
        (0..100_000).map(|_| sampler.sample()).map(|r| (r.input.unwrap(), r.output)).collect();
    let workload = Workload::poisson(&sizes, 100_000, &known, 7);
    let truth = capacity(&truth, &workload, &slos, prediction.capacity, 2.0).unwrap();
    assert!(
        (prediction.low.0..=prediction.high.0).contains(&truth.0),
        "{} ({} to {}) for {truth}: {:?}",
        prediction.capacity,
        prediction.low,
        prediction.high,
        prediction.uncertainty
    );
}
