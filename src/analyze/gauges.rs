//! Gauges over a window: mean with an error that knows about autocorrelation.

use super::{GaugeSummary, Measured};
use crate::measurement::{Event, Sample, Series, Source};
use crate::units::Seconds;
use std::collections::BTreeMap;

/// A series between two times, over all replicas: mean per replica.
///
/// The standard error takes n (1 - r) / (1 + r) samples for independent, r being the
/// autocorrelation between one sample and the next of the same replica (an AR(1) process), since
/// neighboring samples of a queue tell nearly the same.
pub(super) fn summarize(
    samples: &[Sample],
    source: Source,
    series: Series,
    from: Seconds,
    to: Seconds,
) -> Option<GaugeSummary> {
    let inside = samples.iter().filter(|s| s.source == source && s.time >= from && s.time < to);
    let mut values: Vec<(u32, f64, f64)> =
        inside.filter_map(|s| Some((s.replica, s.time.0, s.get(series)?))).collect();
    if values.is_empty() {
        return None;
    }
    values.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let n = values.len() as f64;
    let mean = values.iter().map(|v| v.2).sum::<f64>() / n;
    let squares = values.iter().map(|v| (v.2 - mean).powi(2)).sum::<f64>();
    let std = if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
    let neighbors = values.windows(2).filter(|w| w[0].0 == w[1].0);
    let covariance: f64 = neighbors.map(|w| (w[0].2 - mean) * (w[1].2 - mean)).sum();
    let r = if squares > 0.0 { (covariance / squares).clamp(0.0, 0.99) } else { 0.0 };
    let independent = (n * (1.0 - r) / (1.0 + r)).max(1.0);
    Some(GaugeSummary {
        n: values.len() as u64,
        mean,
        std,
        standard_error: (values.len() > 1).then(|| std / independent.sqrt()),
        min: values.iter().map(|v| v.2).fold(f64::INFINITY, f64::min),
        max: values.iter().map(|v| v.2).fold(f64::NEG_INFINITY, f64::max),
    })
}

/// The source that is closest to the server of those that show a series.
pub(super) fn closest(samples: &[Sample], series: Series) -> Source {
    let shows = |source: &Source| samples.iter().any(|s| s.source == *source && s.get(series).is_some());
    Source::ALL.into_iter().find(shows).unwrap_or(Source::Server)
}

/// The source of the server's gauges: its own exposition, or what stands for it where that was not
/// scraped.
pub(super) fn of_server(samples: &[Sample]) -> Source {
    let scraped = samples.iter().any(|s| s.source == Source::Server && !s.is_empty());
    if scraped { Source::Server } else { closest(samples, Series::QueueSize) }
}

/// The samples of one replica's server within one session of the run, in the order of time. A run that
/// was resumed has several sessions, and what happened between them is not its own.
#[derive(Debug, Clone)]
pub(super) struct Track<'a> {
    pub replica: u32,
    /// The session, from 0, and its bounds.
    pub session: usize,
    pub from: Seconds,
    pub to: Seconds,
    pub samples: Vec<&'a Sample>,
}

/// The samples of all replicas and sessions.
pub(super) fn tracks<'a>(measured: &Measured<'a>) -> Vec<Track<'a>> {
    let resumed = measured.events.iter().filter_map(|event| match event {
        Event::Resumed { time } => Some(*time),
        _ => None,
    });
    let starts: Vec<Seconds> = [Seconds(f64::NEG_INFINITY)].into_iter().chain(resumed).collect();
    let mut found: BTreeMap<(usize, u32), Vec<&Sample>> = BTreeMap::new();
    let source = of_server(measured.samples);
    for sample in measured.samples.iter().filter(|s| s.source == source) {
        let session = starts.iter().rposition(|start| *start <= sample.time).unwrap_or(0);
        found.entry((session, sample.replica)).or_default().push(sample);
    }
    let track = |((session, replica), mut samples): ((usize, u32), Vec<&'a Sample>)| {
        samples.sort_by(|a, b| a.time.0.total_cmp(&b.time.0));
        let to = starts.get(session + 1).copied().unwrap_or(Seconds(f64::INFINITY));
        Track { replica, session, from: starts[session], to, samples }
    };
    found.into_iter().map(track).collect()
}

/// Mean number of requests at a replica over a stretch, by the server's own counters: those that it took in
/// less those that it finished or lost, reckoned from the session's first sample, when none is there yet. `None`
/// where not every replica counts them.
pub(super) fn in_flight_by_counters(measured: &Measured, from: Seconds, to: Seconds) -> Option<f64> {
    let present = |sample: &Sample| -> Option<f64> {
        let lost = |series| sample.get(series).unwrap_or(0.0);
        let ended = sample.get(Series::OutputRequests)?;
        let lost = lost(Series::FailedDropped) + lost(Series::FailedGeneration);
        Some(sample.get(Series::InputRequests)? - ended - lost)
    };
    let mean = |track: &Track| -> Option<f64> {
        let counted: Vec<(Seconds, f64)> =
            track.samples.iter().filter_map(|sample| Some((sample.time, present(sample)?))).collect();
        let (_, idle) = *counted.first()?;
        let inside: Vec<f64> =
            counted.iter().filter(|(time, _)| (from..to).contains(time)).map(|(_, n)| n - idle).collect();
        (!inside.is_empty()).then(|| inside.iter().sum::<f64>() / inside.len() as f64)
    };
    let tracks = tracks(measured);
    let here: Vec<f64> =
        tracks.iter().filter(|track| (track.from..track.to).contains(&from)).filter_map(mean).collect();
    (here.len() as u32 == measured.replicas.0).then(|| here.iter().sum::<f64>() / here.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_flight_are_those_taken_in_less_those_that_ended_on_every_replica() {
        let counted = |time: f64, replica: u32, taken: f64, ended: f64| {
            let mut sample = sample(time, replica, None);
            sample.set(Series::InputRequests, Some(taken));
            sample.set(Series::OutputRequests, Some(ended));
            sample
        };
        // Three of an earlier client are counted from before.
        let samples = [
            counted(0.0, 0, 10.0, 7.0),
            counted(1.0, 0, 15.0, 8.0),
            counted(2.0, 0, 16.0, 11.0),
            counted(0.0, 1, 0.0, 0.0),
            counted(1.0, 1, 2.0, 0.0),
        ];
        let gaps = BTreeMap::new();
        let measured = |samples, replicas| Measured {
            requests: &[],
            samples,
            events: &[],
            gaps: &gaps,
            replicas: crate::units::Replicas(replicas),
        };
        let mean = |measured: &Measured| in_flight_by_counters(measured, Seconds(0.5), Seconds(3.0));
        assert_eq!(mean(&measured(&samples[..3], 1)), Some(3.0), "4 and 2");
        assert_eq!(mean(&measured(&samples, 2)), Some(2.5), "3 and 2");
        assert_eq!(mean(&measured(&samples[..3], 2)), None, "the other replica does not count");
        assert_eq!(mean(&measured(&[sample(1.0, 0, Some(1.0))], 1)), None);
    }

    fn sample(time: f64, replica: u32, queue: Option<f64>) -> Sample {
        let mut sample = Sample::new(Seconds(time), Seconds(0.0), Source::Server, replica);
        sample.set(Series::QueueSize, queue);
        sample
    }

    fn queue(samples: &[Sample]) -> Option<GaugeSummary> {
        summarize(samples, Source::Server, Series::QueueSize, Seconds(0.0), Seconds(100.0))
    }

    #[test]
    fn the_mean_is_per_replica_and_leaves_out_absent_values() {
        let samples = [
            sample(1.0, 0, Some(2.0)),
            sample(1.0, 1, Some(4.0)),
            sample(2.0, 0, None),
            sample(200.0, 0, Some(9.0)),
        ];
        let summary = queue(&samples).unwrap();
        assert_eq!((summary.n, summary.mean, summary.min, summary.max), (2, 3.0, 2.0, 4.0));
        assert_eq!(queue(&samples[2..]), None);
    }

    #[test]
    fn where_the_server_was_not_scraped_the_next_source_stands_for_it() {
        let mut by_prometheus = Sample::new(Seconds(1.0), Seconds(0.0), Source::Prometheus, 0);
        by_prometheus.set(Series::QueueSize, Some(2.0));
        let both = [sample(1.0, 0, Some(1.0)), by_prometheus];
        assert_eq!(closest(&both, Series::QueueSize), Source::Server);
        assert_eq!(closest(&both[1..], Series::QueueSize), Source::Prometheus);
        assert_eq!(of_server(&both[1..]), Source::Prometheus);
        assert_eq!(of_server(&[]), Source::Server);
    }

    #[test]
    fn a_slow_gauge_has_a_larger_error_than_a_quick_one() {
        let slow: Vec<Sample> =
            (0..100).map(|i| sample(f64::from(i), 0, Some(f64::from(u8::from(i >= 50))))).collect();
        let quick: Vec<Sample> = (0..100).map(|i| sample(f64::from(i), 0, Some(f64::from(i % 2)))).collect();
        let (slow, quick) = (queue(&slow).unwrap(), queue(&quick).unwrap());
        assert_eq!(slow.mean, quick.mean);
        let error = |summary: GaugeSummary| summary.standard_error.unwrap();
        assert!(error(slow) > 4.0 * error(quick), "{slow:?} {quick:?}");
    }
}
