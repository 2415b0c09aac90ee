//! The server model against its closed form and against a recorded run of a real router.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use calibrate::batching::{
    Admission, Completed, Deviations, Job, Output, Server, ServerModel, run_closed, run_open,
};
use calibrate::units::{Replicas, Seconds};
use std::collections::{HashMap, VecDeque};

/// The simulated shard that the recordings were made with.
fn shard(admission: Admission) -> ServerModel {
    ServerModel {
        prefill_base: Seconds(0.020),
        prefill_per_token: Seconds(0.000_15),
        decode_base: Seconds(0.018),
        decode_per_sequence: Seconds(0.000_35),
        overhead: Seconds::ZERO,
        token_budget: 16_384,
        max_prefill_tokens: 4096,
        max_concurrent_requests: 128,
        max_batch_size: None,
        admission,
        prefill_per_sequence: None,
        decode_table: None,
        deviations: Deviations::default(),
    }
}

const ROUTER: Admission = Admission::WaitingServed { ratio: 0.3, max_waiting_tokens: 20 };

fn jobs(input: u32, output: u32) -> impl FnMut() -> Job {
    let mut id = 0;
    move || {
        id += 1;
        Job { id, input_tokens: input, declared_output: output, output_tokens: output }
    }
}

/// Completions per second after the first `skip` seconds, and mean latency.
fn throughput(done: &[Completed], skip: f64, until: f64) -> (f64, f64) {
    let ended: Vec<(f64, f64)> = done
        .iter()
        .filter_map(|c| Some((c.arrived.0, c.finished?.0)))
        .filter(|(_, end)| *end > skip)
        .collect();
    let latency = ended.iter().map(|(from, to)| to - from).sum::<f64>() / ended.len() as f64;
    (ended.len() as f64 / (until - skip), latency)
}

/// Each request costs its own prefill of p and L - 1 further decode steps, each shared by the batch:
/// X = C / (L (a + b C) + C p). It holds where joiners do not wait for one another, so with
/// chunking, whose prefill also carries the running sequences along.
#[test]
fn a_closed_loop_of_fixed_lengths_follows_its_closed_form() {
    let (input, output, until) = (200, 400, 4000.0);
    for clients in [1_u32, 2, 4, 8, 16] {
        let model = shard(Admission::Chunking);
        let done = run_closed(&model, clients, jobs(input, output), Seconds(until));
        let (measured, latency) = throughput(&done, 100.0, until);
        let (c, l) = (f64::from(clients), f64::from(output));
        let prefill = model.prefill_base.0 + model.prefill_per_token.0 * f64::from(input);
        let step = model.decode_base.0 + model.decode_per_sequence.0 * c;
        let expected = c / (l * step + c * prefill);
        assert!(
            (measured / expected - 1.0).abs() < 0.03,
            "{clients} clients: {measured} instead of {expected}"
        );
        assert!(
            (measured * latency / c - 1.0).abs() < 0.01,
            "Little's law: {measured} x {latency} is not {c}"
        );
    }
}

#[test]
fn a_closed_loop_beyond_the_token_budget_is_served_at_the_batch_limit() {
    let (input, output, until) = (200, 100, 2000.0);
    let model = shard(Admission::Chunking);
    let limit = model.batch_limit(input, output);
    assert_eq!(limit, 16_383 / 299);
    let rate = |clients| {
        throughput(&run_closed(&model, clients, jobs(input, output), Seconds(until)), 100.0, until).0
    };
    let (at_limit, beyond) = (rate(limit), rate(2 * limit));
    assert!((beyond / at_limit - 1.0).abs() < 0.05, "{beyond} at twice the limit, {at_limit} at it");
}

/// A table of the recording, as numbers by column.
fn table(text: &str) -> Vec<HashMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().collect::<Result<_, _>>().expect("a sound fixture")
}

fn number(row: &HashMap<String, String>, column: &str) -> f64 {
    row[column].parse().expect("a number")
}

/// A straight line through the measured lengths of one kind of forward, weighted by how many there were.
fn fit(rows: &[HashMap<String, String>], kind: &str) -> (f64, f64) {
    let points: Vec<(f64, f64, f64)> = rows
        .iter()
        .filter(|row| row["kind"] == kind)
        .map(|row| (number(row, "size"), number(row, "measured_ms") / 1e3, number(row, "n")))
        .collect();
    let weight: f64 = points.iter().map(|p| p.2).sum();
    let mean = |of: fn(&(f64, f64, f64)) -> f64| points.iter().map(|p| of(p) * p.2).sum::<f64>() / weight;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let slope = points.iter().map(|p| p.2 * (p.0 - x) * (p.1 - y)).sum::<f64>()
        / points.iter().map(|p| p.2 * (p.0 - x).powi(2)).sum::<f64>();
    (y - slope * x, slope)
}

/// What one concurrency level gives.
#[derive(Debug)]
struct Level {
    requests_per_second: f64,
    ttft_p50_ms: f64,
    /// Batch and queue gauges at the times of the samples.
    gauges: Vec<(f64, f64)>,
}

/// Plays a level as recorded: all clients start at once and send new requests for 20 seconds, each
/// `think` seconds (from, to, spread evenly) after its last token; those in flight may end.
fn level(model: &ServerModel, clients: u32, samples: &[f64], think: (f64, f64)) -> Level {
    let (mut server, mut out) = (Server::new(model.clone()), Output::default());
    let mut next = jobs(200, 100);
    let mut arrived = HashMap::new();
    let mut due: VecDeque<f64> = (0..clients).map(|_| 0.0).collect();
    let (mut ttft, mut ended) = (Vec::new(), 0_u32);
    let (mut gauges, mut left) = (Vec::new(), samples.iter().copied().peekable());
    loop {
        let arrival = due.front().copied().unwrap_or(f64::INFINITY);
        let time = arrival.min(server.next_event().map_or(f64::INFINITY, |time| time.0));
        while left.next_if(|at| *at < time).is_some() {
            let now = server.gauges();
            gauges.push((f64::from(now.batch_size.unwrap_or(0)), f64::from(now.queue_size.unwrap_or(0))));
        }
        if time.is_infinite() {
            break;
        }
        out.emissions.clear();
        server.advance(Seconds(time), &mut out);
        for emission in &out.emissions {
            if emission.index == 1 {
                ttft.push((emission.time.0 - arrived[&emission.id]) * 1e3);
            }
            if emission.last && emission.time.0 < 20.0 {
                ended += 1;
                due.push_back(emission.time.0 + think.0 + (think.1 - think.0) * f64::from(ended % 8) / 7.0);
            }
        }
        if arrival <= time {
            due.pop_front();
            let job = next();
            arrived.insert(job.id, arrival);
            server.submit(Seconds(arrival), job, &mut out).expect("at most 128 in flight");
        }
    }
    ttft.sort_by(f64::total_cmp);
    Level { requests_per_second: f64::from(ended) / 20.0, ttft_p50_ms: ttft[ttft.len() / 2], gauges }
}

/// The ramp of a real router 3.3.7, closed loop, without chunking. Its machine slowed it: a decode
/// step took 19.3 ms instead of 18.35 alone and 40.1 instead of 36.9 at batch 54, so the model gets
/// the difference, as measured between forwards, as the router's overhead at that batch size.
///
/// Two figures of the recording hang on its timing to the millisecond:
/// * With 64 clients the median TTFT lies on the edge between two groups of joiners. Which group the
///   clients of a finished wave join depends on whether their next requests come before or after the
///   router looks at its queue again: if all do, it is 1104 ms with 10.1 waiting on average, if some
///   do not, 1325 ms with 12.7. Recorded are 1036 ms and 12.4: the recorded forwards show both cases
///   (20 joiners where 10 had waited, and 10). TTFT is held to the first, the gauges to the second.
/// * With 16 clients all 18 samples, one a second, missed the half second of every three in which the
///   next wave is prefilled, so the recorded 16.0 is the batch while it decodes.
#[test]
fn the_recorded_ramp_of_a_real_router_is_reproduced() {
    let forwards = table(include_str!("fixtures/batching/ramp_forwards.csv"));
    let recorded = table(include_str!("fixtures/batching/ramp_summary.csv"));
    let samples = table(include_str!("fixtures/batching/ramp_samples.csv"));
    let (decode_base, decode_per_sequence) = fit(&forwards, "decode");
    for row in &recorded {
        let clients = number(row, "conc") as u32;
        let batch = clients.min(54) as usize;
        let model = shard(ROUTER);
        let measured = decode_base + decode_per_sequence * batch as f64;
        let modelled = model.decode_base.0 + model.decode_per_sequence.0 * batch as f64;
        let model = ServerModel { overhead: Seconds(measured - modelled), ..model };
        let times: Vec<f64> =
            samples.iter().filter(|s| s["conc"] == row["conc"]).map(|s| number(s, "time_s")).collect();
        let got = level(&model, clients, &times, (0.001, 0.004));
        let quick = level(&model, clients, &times, (0.0005, 0.002));
        let ttft = if clients == 64 { quick.ttft_p50_ms } else { got.ttft_p50_ms };
        let near = |what: &str, got: f64, want: f64, slack: f64| {
            assert!(
                (got - want).abs() <= 0.1 * want + slack,
                "{clients} clients: {what} {got:.2}, recorded {want:.2}"
            );
        };
        near("requests per second", got.requests_per_second, number(row, "req_per_s"), 0.0);
        near("TTFT p50", ttft, number(row, "ttft_p50_ms"), 0.0);
        let decoding: Vec<&(f64, f64)> = got.gauges.iter().filter(|g| clients != 16 || g.0 > 1.0).collect();
        let mean =
            |of: fn(&(f64, f64)) -> f64| decoding.iter().map(|g| of(g)).sum::<f64>() / decoding.len() as f64;
        near("batch size", mean(|g| g.0), number(row, "batch_mean"), 0.0);
        // A quarter of a request: one sample in 18 that falls into a prefill or beside it.
        near("queue size", mean(|g| g.1), number(row, "queue_mean"), if clients < 64 { 0.25 } else { 0.0 });
    }
}

/// Mean TPOT and median TTFT in milliseconds, from (TTFT, E2E, output tokens).
fn tpot_and_ttft(requests: impl Iterator<Item = (f64, f64, f64)>) -> (f64, f64) {
    let (mut ttft, mut tpot) = (Vec::new(), Vec::new());
    for (first, end, tokens) in requests {
        ttft.push(first * 1e3);
        if tokens > 1.0 {
            tpot.push((end - first) / (tokens - 1.0) * 1e3);
        }
    }
    ttft.sort_by(f64::total_cmp);
    (tpot.iter().sum::<f64>() / tpot.len() as f64, ttft[ttft.len() / 2])
}

/// Recorded and simulated mean TPOT and median TTFT of the requests sent in the first `length`
/// seconds; those before it warm the server up. Every request declared 200 output tokens.
fn window(text: &str, length: f64, overhead_ms: f64, admission: Admission) -> [(f64, f64); 2] {
    let mut rows = table(text);
    rows.sort_by(|a, b| number(a, "sent_s").total_cmp(&number(b, "sent_s")));
    let arrivals = rows.iter().zip(0_u64..).map(|(row, id)| {
        let (input_tokens, output_tokens) = (number(row, "n_in") as u32, number(row, "n_out") as u32);
        (Seconds(number(row, "sent_s") + 60.0), Job { id, input_tokens, declared_output: 200, output_tokens })
    });
    let model = ServerModel { overhead: Seconds::from_millis(overhead_ms), ..shard(admission) };
    let played = run_open(&model, Replicas(1), arrivals);
    let inside =
        || rows.iter().zip(&played).filter(|(row, _)| (0.0..length).contains(&number(row, "sent_s")));
    let recorded =
        inside().map(|(row, _)| (number(row, "ttft_s"), number(row, "e2e_s"), number(row, "n_out")));
    let simulated = inside().map(|(_, played)| {
        // One that was never served makes the means not a number, which no bound below lets pass.
        let since = |time: Option<Seconds>| time.map_or(f64::NAN, |time| time.0 - played.arrived.0);
        (since(played.first_token), since(played.finished), f64::from(played.output_tokens))
    });
    [tpot_and_ttft(recorded), tpot_and_ttft(simulated)]
}

/// The arrivals and sizes of two open-loop windows of a real router 3.3.7 at 4.8 requests a second,
/// played through the model. The overhead of a forward is the server's own, not fitted to the
/// latencies: (wall - modelled forwards) / forwards of each window, (60 - 56.975) s / 2050 with
/// chunking and (50 - 47.557) s / 1816 without. Most of it lies in the shard, whose forwards took
/// about 1.3 ms longer than modelled; only 0.12 ms lie between them.
///
/// Mean TPOT comes out 0.2 % and 0.1 % below the recorded one. The median TTFT hangs on the phase of
/// single forwards, and moves by some per cent with 0.1 ms of overhead; the recorded one also holds
/// the way through HTTP and tokenization, so it is held to 10 %.
#[test]
fn the_recorded_windows_of_a_real_router_are_reproduced() {
    let windows = [
        (include_str!("fixtures/batching/window_h2.csv"), 60.0, 1.476, Admission::Chunking),
        (include_str!("fixtures/batching/window_nochunk.csv"), 50.0, 1.345, ROUTER),
    ];
    for (text, length, overhead, admission) in windows {
        let [recorded, got] = window(text, length, overhead, admission);
        let said = format!("{admission:?}: TPOT and TTFT {got:.2?}, recorded {recorded:.2?}");
        assert!((got.0 / recorded.0 - 1.0).abs() < 0.01, "{said}");
        assert!((got.1 / recorded.1 - 1.0).abs() < 0.10, "{said}");
    }
}

/// The recordings tell the regimes apart: the right TTFT is no accident of a lenient bound.
#[test]
fn a_recorded_window_is_not_reproduced_under_another_admission() {
    let chunked = include_str!("fixtures/batching/window_h2.csv");
    let unchunked = include_str!("fixtures/batching/window_nochunk.csv");
    let old_ratio = Admission::WaitingServed { ratio: 1.2, max_waiting_tokens: 20 };
    for (text, length, overhead, wrong) in [
        (chunked, 60.0, 1.476, ROUTER),
        (unchunked, 50.0, 1.345, Admission::Chunking),
        (unchunked, 50.0, 1.345, old_ratio),
    ] {
        let [recorded, got] = window(text, length, overhead, wrong);
        assert!(
            (got.1 / recorded.1 - 1.0).abs() > 0.4,
            "{wrong:?}: TTFT {:.1}, recorded {:.1}",
            got.1,
            recorded.1
        );
    }
}
