//! The scheduler's rules, and its laws over random work.

use super::*;
use crate::batching::Deviations;
use proptest::prelude::*;

pub(super) fn model(admission: Admission) -> ServerModel {
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

const WAITING: Admission = Admission::WaitingServed { ratio: 0.3, max_waiting_tokens: 20 };

fn job(id: u64, input: u32, declared: u32, output: u32) -> Job {
    Job { id, input_tokens: input, declared_output: declared, output_tokens: output }
}

fn drain(server: &mut Server, out: &mut Output) {
    while let Some(time) = server.next_event() {
        server.advance(time, out);
    }
}

#[test]
fn a_lone_request_costs_its_prefill_and_a_decode_for_each_further_token() {
    let (mut server, mut out) = (Server::new(model(WAITING)), Output::default());
    server.submit(Seconds(1.0), job(7, 200, 100, 100), &mut out).unwrap();
    drain(&mut server, &mut out);
    assert_eq!(out.emissions.len(), 100);
    let times = [out.emissions[0].time.0, out.emissions[99].time.0];
    let expected = [1.0 + 0.020 + 200.0 * 0.000_15, 1.0 + 0.05 + 99.0 * 0.018_35];
    for (time, expected) in times.iter().zip(expected) {
        assert!((time - expected).abs() < 1e-9, "{time} {expected}");
    }
    let computed: f64 = out
        .observations
        .iter()
        .map(|o| if let Observation::Forward { took, .. } = o { took.0 } else { 0.0 })
        .sum();
    assert!((computed - (0.05 + 99.0 * 0.018_35)).abs() < 1e-9);
}

#[test]
fn gauges_are_absent_until_written_and_lag_as_the_routers_do() {
    let (mut server, mut out) = (Server::new(model(WAITING)), Output::default());
    assert_eq!(server.gauges(), Gauges::default());
    server.submit(Seconds(0.0), job(1, 200, 10, 10), &mut out).unwrap();
    assert_eq!(server.gauges(), Gauges { queue_size: Some(0), batch_size: None, batch_tokens: None });
    server.submit(Seconds(0.01), job(2, 200, 10, 10), &mut out).unwrap();
    assert_eq!(server.gauges().queue_size, Some(1), "it waits while the first is prefilled");
    server.advance(Seconds(0.05), &mut out);
    assert_eq!(server.gauges().batch_size, Some(1), "the joiner is not seen during its prefill");
    assert_eq!(server.gauges().queue_size, Some(0));
    server.advance(Seconds(0.125), &mut out);
    assert_eq!(server.gauges().batch_size, Some(2));
    assert_eq!(server.gauges().batch_tokens, Some(2 * 209));
    drain(&mut server, &mut out);
    assert_eq!(server.gauges().batch_size, Some(0));
}

#[test]
fn a_request_that_does_not_fit_blocks_those_behind_it() {
    let (mut server, mut out) = (Server::new(model(Admission::Chunking)), Output::default());
    server.submit(Seconds(0.0), job(1, 10_000, 1000, 50), &mut out).unwrap();
    server.submit(Seconds(0.0), job(2, 8000, 1000, 5), &mut out).unwrap();
    server.submit(Seconds(0.0), job(3, 10, 10, 5), &mut out).unwrap();
    drain(&mut server, &mut out);
    let first = |id| out.emissions.iter().position(|e| e.id == id).unwrap();
    let last_of_1 = out.emissions.iter().rposition(|e| e.id == 1).unwrap();
    assert!(first(2) > last_of_1 && first(3) > last_of_1);
}

#[test]
fn requests_beyond_the_limit_are_refused_and_room_comes_back() {
    let (mut server, mut out) = (Server::new(model(WAITING)), Output::default());
    for id in 0..128 {
        server.submit(Seconds(0.0), job(id, 10, 10, 2), &mut out).unwrap();
    }
    assert_eq!(server.submit(Seconds(0.0), job(128, 10, 10, 2), &mut out), Err(Refused::Overloaded));
    server.cancel(100);
    assert_eq!(server.in_flight(), 127);
    server.submit(Seconds(0.0), job(129, 10, 10, 2), &mut out).unwrap();
    drain(&mut server, &mut out);
    assert_eq!(server.in_flight(), 0);
    assert_eq!(server.submit(Seconds(9.0), job(130, 16_000, 1000, 2), &mut out), Err(Refused::TooLarge));
}

#[test]
fn a_client_that_left_the_queue_stays_in_the_gauge_until_it_is_popped() {
    let (mut server, mut out) = (Server::new(model(WAITING)), Output::default());
    server.submit(Seconds(0.0), job(1, 10, 10, 10), &mut out).unwrap();
    server.submit(Seconds(0.0), job(2, 10, 10, 10), &mut out).unwrap();
    server.cancel(2);
    server.cancel(2);
    assert_eq!((server.gauges().queue_size, server.in_flight()), (Some(1), 1));
    drain(&mut server, &mut out);
    assert_eq!(server.gauges().queue_size, Some(0));
    assert!(out.observations.contains(&Observation::Dropped));
    assert!(out.emissions.iter().all(|e| e.id == 1));
}

#[test]
fn a_failing_shard_loses_its_batch_and_serves_those_that_waited() {
    let (mut server, mut out) = (Server::new(model(WAITING)), Output::default());
    for id in 0..3 {
        server.submit(Seconds(0.0), job(id, 10, 10, 10), &mut out).unwrap();
    }
    server.cancel(0);
    assert_eq!(server.fail_batch(&mut out), [] as [u64; 0], "only the one whose client is gone was in it");
    assert_eq!(server.in_flight(), 2);
    assert_eq!(server.fail_batch(&mut out), [1, 2]);
    assert_eq!((server.in_flight(), server.next_event()), (0, None));
}

#[test]
fn without_chunking_a_batch_waits_for_enough_joiners_or_long_enough() {
    let (mut server, mut out) = (Server::new(model(WAITING)), Output::default());
    for id in 0..10 {
        server.submit(Seconds(0.0), job(id, 10, 100, 100), &mut out).unwrap();
    }
    drain_until_joined(&mut server, &mut out, 2);
    // Ten run (one, then nine): one more is below 0.3 x 10 and must wait for 20 steps.
    server.submit(server.next_event().unwrap(), job(99, 10, 10, 10), &mut out).unwrap();
    drain_until_joined(&mut server, &mut out, 3);
    let reasons: Vec<_> = joins(&out).collect();
    assert_eq!(reasons, [None, Some(JoinReason::Backpressure), Some(JoinReason::WaitExceeded)]);
}

fn joins(out: &Output) -> impl Iterator<Item = Option<JoinReason>> {
    out.observations.iter().filter_map(|o| match o {
        Observation::Joined { reason, .. } => Some(*reason),
        _ => None,
    })
}

fn drain_until_joined(server: &mut Server, out: &mut Output, count: usize) {
    while joins(out).count() < count {
        let time = server.next_event().expect("not idle before the join");
        server.advance(time, out);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_batch_limit_is_the_budget_over_the_reservation(budget in 2_000_u32..60_000, input in 1_u32..500, declared in 1_u32..500) {
        let model = ServerModel { token_budget: budget, max_concurrent_requests: 10_000, max_prefill_tokens: 1_000_000, ..model(Admission::Chunking) };
        let expected = (budget - 1) / (input + declared - 1);
        prop_assert_eq!(model.batch_limit(input, declared), expected);
        let (mut server, mut out) = (Server::new(model), Output::default());
        for id in 0..u64::from(expected) + 5 {
            server.submit(Seconds(0.0), job(id, input, declared, declared), &mut out).unwrap();
        }
        let mut most = 0;
        while let Some(time) = server.next_event() {
            server.advance(time, &mut out);
            most = most.max(server.running.len() as u32);
        }
        // Counted in the batch, not in its gauge, which never sees those that end within two forwards.
        prop_assert_eq!(most, expected);
    }

    #[test]
    fn every_job_ends_once_with_all_its_tokens_in_order(
        jobs in proptest::collection::vec((0.0_f64..0.05, 1_u32..600, 1_u32..80, 1_u32..80), 1..60),
        chunking in any::<bool>(),
        cancel in any::<u64>(),
    ) {
        let admission = if chunking { Admission::Chunking } else { WAITING };
        let (mut server, mut out) = (Server::new(model(admission)), Output::default());
        let (mut time, mut accepted) = (0.0, Vec::new());
        let cancelled = cancel % jobs.len() as u64;
        for (id, (gap, input, declared, output)) in (0_u64..).zip(jobs) {
            time += gap;
            server.advance(Seconds(time), &mut out);
            let job = job(id, input, declared, output.min(declared));
            if server.submit(Seconds(time), job, &mut out).is_ok() {
                accepted.push(job);
            }
            if id == cancelled {
                server.cancel(id);
            }
            prop_assert!(server.reserved <= server.model.usable_budget());
        }
        drain(&mut server, &mut out);
        prop_assert!(out.emissions.windows(2).all(|w| w[0].time <= w[1].time));
        for job in accepted {
            let tokens: Vec<&Emission> = out.emissions.iter().filter(|e| e.id == job.id).collect();
            if job.id == cancelled {
                continue;
            }
            prop_assert_eq!(tokens.len(), job.output_tokens as usize);
            prop_assert!(tokens.iter().zip(1..).all(|(token, index)| token.index == index));
            prop_assert!(tokens.iter().filter(|token| token.last).count() == 1 && tokens[tokens.len() - 1].last);
        }
        prop_assert_eq!((server.in_flight(), server.reserved, server.queue.len()), (0, 0, 0));
    }
}
