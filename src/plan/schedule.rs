//! What is sent in each step, and when.

use super::{
    ArrivalTimes, PlannedRequest, RequestSampler, RequestSize, RequestSource, Spacing, Step, Trace, stream,
};
use crate::units::{Load, Seconds};
use std::sync::Arc;

/// The work of one step.
pub enum StepWork {
    /// Open loop: arrivals with their times from the start of the step, in order.
    Arrivals(Box<dyn Iterator<Item = (Seconds, PlannedRequest)> + Send>),
    /// Closed loop: requests in the order in which clients become free.
    Clients(Box<RequestSampler>),
}

/// The work of every step. A step has its own random numbers, so that its work does not depend on
/// which steps were driven before it: a run that is resumed sends what it would have sent.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Seed of everything random.
    pub seed: u64,
    /// How arrivals are spread.
    pub spacing: Spacing,
    /// Where requests come from, where no trace brings them.
    pub requests: RequestSource,
    /// The trace that is replayed, at the speed it is replayed with.
    pub trace: Option<Arc<Trace>>,
}

impl Schedule {
    /// The work of `step`.
    pub fn work(&self, step: &Step) -> StepWork {
        let mut requests = self.requests.sampler(self.seed, step.place);
        match step.load {
            Load::Concurrency(_) => StepWork::Clients(Box::new(requests)),
            Load::Trace(_) => StepWork::Arrivals(Box::new(self.of_trace(step))),
            Load::Rate(_) | Load::Linear { .. } => {
                let rng = stream(self.seed, &format!("arrivals of step {}", step.place));
                let times = ArrivalTimes::new(step.load, step.length, self.spacing, rng);
                StepWork::Arrivals(Box::new(times.map(move |time| (time, requests.sample()))))
            }
        }
    }

    fn of_trace(&self, step: &Step) -> impl Iterator<Item = (Seconds, PlannedRequest)> + Send + use<> {
        let (trace, from, to) = (self.trace.clone(), step.offset, step.offset + step.length);
        let mut next = trace.as_ref().map_or(0, |trace| trace.arrivals.partition_point(|a| a.offset < from));
        std::iter::from_fn(move || {
            let arrival = trace.as_ref()?.arrivals.get(next).filter(|arrival| arrival.offset < to)?;
            next += 1;
            Some((arrival.offset - from, arrival.size.into()))
        })
    }

    /// The mean of many requests, as the size of the one whose latency alone is measured.
    pub fn typical(&self) -> RequestSize {
        const DRAWS: u64 = 1000;
        let mut sampler = self.requests.sampler(self.seed, u32::MAX);
        let sizes: Vec<(u64, u64)> = match &self.trace {
            Some(trace) => {
                trace.arrivals.iter().map(|a| (a.size.input.into(), a.size.output.into())).collect()
            }
            None => (0..DRAWS)
                .map(|_| sampler.sample())
                .map(|request| {
                    (request.input.unwrap_or_else(|| guess(&request)).into(), request.output.into())
                })
                .collect(),
        };
        let n = sizes.len().max(1) as u64;
        let mean = |of: fn(&(u64, u64)) -> u64| (sizes.iter().map(of).sum::<u64>() / n).max(1) as u32;
        RequestSize { input: mean(|size| size.0), output: mean(|size| size.1) }
    }
}

/// About how many tokens a prompt has that nobody has counted: one for each word and a third.
fn guess(request: &PlannedRequest) -> u32 {
    let words = request.prompt.as_ref().map_or(1, |prompt| prompt.split_whitespace().count());
    (words as f64 * 4.0 / 3.0).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::TraceArrival;
    use crate::scenario::SizeSpec;
    use crate::units::Rate;

    fn schedule(trace: Option<Trace>) -> Schedule {
        let requests = RequestSource::Specs(SizeSpec::Fixed(3), SizeSpec::Uniform(1, 100));
        Schedule { seed: 7, spacing: Spacing::Poisson, requests, trace: trace.map(Arc::new) }
    }

    fn step(place: u32, load: Load) -> Step {
        let offset = Seconds(10.0 * f64::from(place));
        Step { index: place + 5, place, load, offset, warm_up: Seconds::ZERO, length: Seconds(10.0) }
    }

    fn arrivals(schedule: &Schedule, step: &Step) -> Vec<(f64, u32)> {
        match schedule.work(step) {
            StepWork::Arrivals(arrivals) => {
                arrivals.map(|(time, request)| (time.0, request.output)).collect()
            }
            StepWork::Clients(_) => panic!("an open loop"),
        }
    }

    #[test]
    fn the_work_of_a_step_depends_on_its_place_and_the_seed_alone() {
        let load = Load::Rate(Rate(5.0));
        let one = arrivals(&schedule(None), &step(3, load));
        assert_eq!(one, arrivals(&schedule(None), &Step { index: 99, ..step(3, load) }));
        assert_ne!(one, arrivals(&schedule(None), &step(4, load)));
    }

    #[test]
    fn a_trace_is_replayed_stretch_by_stretch_without_loss() {
        let arrival =
            |offset, output| TraceArrival { offset: Seconds(offset), size: RequestSize { input: 1, output } };
        let trace = Trace {
            arrivals: vec![arrival(0.0, 1), arrival(9.999, 2), arrival(10.0, 3), arrival(25.0, 4)],
            remarks: Vec::new(),
        };
        let schedule = schedule(Some(trace));
        let replayed: Vec<_> =
            (0..3).map(|place| arrivals(&schedule, &step(place, Load::Trace(Rate(1.0))))).collect();
        assert_eq!(replayed, [vec![(0.0, 1), (9.999, 2)], vec![(0.0, 3)], vec![(5.0, 4)]]);
    }
}
