//! The run second by second, for plots.

use super::latency::{nearest_rank, sorted};
use super::steps::mean_in_flight;
use super::{Measured, TimelinePoint, gauges};
use crate::measurement::{Event, RequestOutcome, Series, Source};
use crate::units::{Rate, Seconds};

/// No run is drawn with more seconds than this; longer ones get wider bins.
const MOST_POINTS: f64 = 600.0;

/// Points from the start of the first step to the last thing recorded.
pub(super) fn build(measured: &Measured) -> Vec<TimelinePoint> {
    let first = measured.events.iter().find_map(|event| match event {
        Event::StepStarted { time, .. } => Some(*time),
        _ => None,
    });
    let ends = measured.requests.iter().map(|r| r.last_token.unwrap_or(r.scheduled));
    let end = ends.chain(measured.samples.iter().map(|s| s.time)).fold(Seconds::ZERO, Seconds::max);
    let Some(first) = first.filter(|first| *first < end) else { return Vec::new() };
    let bin = ((end - first).0 / MOST_POINTS).ceil().max(1.0);
    let bins = ((end - first).0 / bin).ceil() as usize;
    let sources = [Series::QueueSize, Series::BatchSize, Series::GpuUtil]
        .map(|series| (gauges::closest(measured.samples, series), series));
    (0..bins).map(|i| point(measured, sources, first + Seconds(bin * i as f64), Seconds(bin))).collect()
}

fn point(measured: &Measured, sources: [(Source, Series); 3], from: Seconds, bin: Seconds) -> TimelinePoint {
    let to = from + bin;
    let inside = |time: Seconds| time >= from && time < to;
    let scheduled: Vec<&RequestOutcome> = measured.requests.iter().filter(|r| inside(r.scheduled)).collect();
    let completed =
        measured.requests.iter().filter(|r| r.is_ok() && r.last_token.is_some_and(inside)).count();
    let ttft = sorted(scheduled.iter().filter(|r| r.is_ok()).filter_map(|r| r.ttft()));
    let [queue, batch, gpu] = sources.map(|(source, series)| {
        gauges::summarize(measured.samples, source, series, from, to).map(|gauge| gauge.mean)
    });
    TimelinePoint {
        time: from + bin / 2.0,
        offered: Rate(scheduled.len() as f64 / bin.0),
        completed: Rate(completed as f64 / bin.0),
        in_flight: mean_in_flight(measured.requests, from, to),
        queue,
        batch,
        gpu,
        ttft_p50: nearest_rank(&ttft, ttft.len(), 50.0).map(Seconds),
    }
}
