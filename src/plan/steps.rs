//! Which load comes next: a fixed list of steps, or an adaptive search for the SLO's limit.

use super::Trace;
use super::search::Search;
use crate::scenario::RampSpec;
use crate::units::{Load, Rate, Replicas, Seconds};

/// One step to drive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Its number in the record, from 0.
    pub index: u32,
    /// Its place in the plan, from 0. Only in a resumed run, where a step that was cut off is driven
    /// anew under another number, does it differ from `index`.
    pub place: u32,
    /// Its load.
    pub load: Load,
    /// How far into the plan it starts.
    pub offset: Seconds,
    /// How much of its start is not measured.
    pub warm_up: Seconds,
    /// Its whole length.
    pub length: Seconds,
}

/// How a driven step came out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepResult {
    /// The rate it offered.
    pub rate: Rate,
    /// Its length.
    pub length: Seconds,
    /// Whether every SLO held.
    pub holds: bool,
    /// What all steps so far say of the capacity, where the server shows enough of itself.
    pub guide: Option<Guide>,
}

/// The capacity by the server's own counters, for a search to go by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guide {
    /// Requests per second, all replicas together, at which the first SLO breaks.
    pub capacity: Rate,
    /// How far the steps lie from one common server, as a share of the length of a decode.
    pub drift: f64,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Drive this step. The text says why, where there was a choice.
    Step(Step, Option<String>),
    /// Nothing more; the text says why.
    Done(String),
}

/// The source of steps.
#[derive(Debug, Clone)]
pub struct Plan {
    warm_up: Option<Seconds>,
    index: u32,
    place: u32,
    /// Whether the next step meets a server without load in the middle of a plan.
    resumed: bool,
    kind: Kind,
    /// How the steps so far came out, where the next one depends on it.
    driven: Vec<StepResult>,
}

#[derive(Debug, Clone)]
enum Kind {
    /// These loads and lengths, one after the other.
    Fixed(Vec<(Load, Seconds)>),
    /// The same, but the load changes smoothly, so that only the start of the whole needs a warm-up.
    Continuous(Vec<(Load, Seconds)>),
    Adaptive(Search),
}

/// Share of a step that is warm-up where the user names none, and the most it may be.
const WARM_UP_SHARE: f64 = 0.3;
const WARM_UP_MOST: Seconds = Seconds(30.0);
/// A continuous ramp is judged in stretches of about this length.
const LINEAR_STRETCH: Seconds = Seconds(10.0);
/// A trace is judged in stretches of this length.
const TRACE_STRETCH: Seconds = Seconds(30.0);

impl Plan {
    /// A plan for `ramp`. `single_latency` is the end-to-end latency of one request alone; the
    /// adaptive search takes its first rate for `replicas` and the length of its steps from it. `trace` is
    /// the trace of a `trace:` ramp, at the speed of its replay.
    pub fn new(
        ramp: &RampSpec,
        warm_up: Option<Seconds>,
        single_latency: Seconds,
        replicas: Replicas,
        trace: Option<&Trace>,
    ) -> Plan {
        let kind = match ramp {
            RampSpec::Adaptive => Kind::Adaptive(Search::new(single_latency, replicas)),
            RampSpec::Rate { rates, hold } => {
                Kind::Fixed(rates.iter().map(|rate| (Load::Rate(*rate), *hold)).collect())
            }
            RampSpec::Concurrency { levels, hold } => {
                Kind::Fixed(levels.iter().map(|level| (Load::Concurrency(*level), *hold)).collect())
            }
            RampSpec::Linear { from, to, length } => Kind::Continuous(stretches(*from, *to, *length)),
            RampSpec::Trace { .. } => Kind::Continuous(trace.map(stretches_of_trace).unwrap_or_default()),
        };
        Plan { warm_up, index: 0, place: 0, resumed: false, kind, driven: Vec::new() }
    }

    /// Whether the next step depends on how the last one came out, so that its requests must have
    /// ended first.
    pub fn needs_results(&self) -> bool {
        matches!(self.kind, Kind::Adaptive(_))
    }

    fn fixed(&self) -> Option<&[(Load, Seconds)]> {
        match &self.kind {
            Kind::Fixed(steps) | Kind::Continuous(steps) => Some(steps),
            Kind::Adaptive(_) => None,
        }
    }

    /// The length of all steps together, where it is known beforehand.
    pub fn planned_length(&self) -> Option<Seconds> {
        Some(self.fixed()?.iter().map(|(_, length)| *length).sum())
    }

    /// The number of steps, where it is known beforehand.
    pub fn planned_steps(&self) -> Option<usize> {
        self.fixed().map(<[_]>::len)
    }

    /// Whether the step that was given last is the longer one at the end of a search, which shows what
    /// clients get at the load that the search arrived at.
    pub fn verifies(&self) -> bool {
        matches!(&self.kind, Kind::Adaptive(search) if search.verifies(&self.driven))
    }

    /// Goes on after steps that were driven to their end in an earlier session, with their results in
    /// order. The next step is recorded as number `next_index`.
    pub fn resume(&mut self, driven: Vec<StepResult>, next_index: u32) {
        self.place = driven.len() as u32;
        self.driven = driven;
        self.index = next_index;
        self.resumed = self.place > 0;
    }

    /// Takes in how the last step came out.
    pub fn learn(&mut self, result: StepResult) {
        self.driven.push(result);
    }

    /// The next step.
    pub fn next_step(&mut self) -> Next {
        let place = self.place as usize;
        let (load, length, reason) = match &mut self.kind {
            Kind::Fixed(steps) | Kind::Continuous(steps) => match steps.get(place) {
                Some((load, length)) => (*load, *length, None),
                None => return Next::Done("every step of the ramp was driven".to_owned()),
            },
            Kind::Adaptive(search) => match search.next(&self.driven) {
                Ok((rate, length, reason)) => (Load::Rate(rate), length, Some(reason)),
                Err(reason) => return Next::Done(reason),
            },
        };
        let before = self.fixed().into_iter().flat_map(|steps| &steps[..place]);
        let offset = before.map(|(_, length)| *length).sum();
        let warm_up = match &self.kind {
            Kind::Continuous(_) if place > 0 && !self.resumed => Seconds::ZERO,
            Kind::Continuous(_) if !self.resumed => self.warm_up.unwrap_or(Seconds::ZERO),
            Kind::Adaptive(search) => self.warm_up.unwrap_or(search.warm_up(length)),
            _ => self.warm_up.unwrap_or((length * WARM_UP_SHARE).min(WARM_UP_MOST)),
        };
        // Half a step is the least that must stay to be measured.
        let warm_up = warm_up.min(length * 0.5);
        let step = Step { index: self.index, place: self.place, load, offset, warm_up, length };
        self.index += 1;
        self.place += 1;
        self.resumed = false;
        Next::Step(step, reason)
    }
}

/// A continuous ramp in stretches of equal length, at least two.
fn stretches(from: Rate, to: Rate, length: Seconds) -> Vec<(Load, Seconds)> {
    let n = (length.0 / LINEAR_STRETCH.0).round().clamp(2.0, 1000.0);
    let at = |i: f64| Rate(from.0 + (to.0 - from.0) * i / n);
    (0..n as u32)
        .map(f64::from)
        .map(|i| (Load::Linear { from: at(i), to: at(i + 1.0) }, length / n))
        .collect()
}

/// A trace in stretches of equal length; what is left at the end joins the last where it is short.
fn stretches_of_trace(trace: &Trace) -> Vec<(Load, Seconds)> {
    let Some(last) = trace.arrivals.last().map(|arrival| arrival.offset.0) else { return Vec::new() };
    // The end lies past the last arrival by a mean gap, at least a second in all.
    let total = (last + last / trace.arrivals.len() as f64).max(1.0) + 1e-6;
    let n = (total / TRACE_STRETCH.0).round().max(1.0) as usize;
    let start = |i: usize| if i == n { total } else { TRACE_STRETCH.0 * i as f64 };
    let upto = |time: f64| trace.arrivals.partition_point(|arrival| arrival.offset.0 < time);
    (0..n)
        .map(|i| (start(i), start(i + 1)))
        .map(|(from, to)| {
            let rate = (upto(to) - upto(from)) as f64 / (to - from);
            (Load::Trace(Rate(rate)), Seconds(to - from))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the plan against a server whose SLO holds below `limit`.
    fn play(ramp: &RampSpec, latency: f64, limit: f64) -> (Vec<(f64, bool)>, String) {
        let mut plan = Plan::new(ramp, None, Seconds(latency), Replicas(1), None);
        let mut steps = Vec::new();
        loop {
            match plan.next_step() {
                Next::Done(reason) => return (steps, reason),
                Next::Step(step, _) => {
                    let Load::Rate(rate) = step.load else { panic!("a rate") };
                    let holds = rate.0 < limit;
                    steps.push((rate.0, holds));
                    plan.learn(result(rate.0, holds));
                }
            }
        }
    }

    fn result(rate: f64, holds: bool) -> StepResult {
        StepResult { rate: Rate(rate), length: Seconds(10.0), holds, guide: None }
    }

    #[test]
    fn a_fixed_ramp_gives_its_steps_whatever_comes_out() {
        let (steps, reason) = play(&"rate:1,2,4x10s".parse().unwrap(), 1.0, 1.5);
        assert_eq!(steps, [(1.0, true), (2.0, false), (4.0, false)]);
        assert!(reason.contains("every step"));
    }

    #[test]
    fn without_counters_the_search_brackets_any_limit_within_a_fifth() {
        for limit in [0.04, 0.4, 1.0001, 2.9, 14.7, 399.0] {
            let (steps, reason) = play(&RampSpec::Adaptive, 0.5, limit);
            let held = steps.iter().filter(|s| s.1).map(|s| s.0).fold(0.0, f64::max);
            let failed = steps.iter().filter(|s| !s.1).map(|s| s.0).fold(f64::INFINITY, f64::min);
            assert!(held < limit && limit <= failed, "{limit}: {steps:?}");
            assert!(failed / held < 1.21, "{limit}: {held}..{failed} {reason}");
            assert!(steps.len() < 20, "{limit}: {steps:?}");
        }
    }

    #[test]
    fn a_server_that_never_holds_or_never_breaks_ends_the_search() {
        assert!(play(&RampSpec::Adaptive, 0.5, 0.0).1.contains("fails even at"));
        assert!(play(&RampSpec::Adaptive, 0.5, f64::INFINITY).1.contains("without finding"));
    }

    fn steps_of(mut plan: Plan) -> Vec<Step> {
        std::iter::from_fn(|| match plan.next_step() {
            Next::Step(step, _) => Some(step),
            Next::Done(_) => None,
        })
        .collect()
    }

    #[test]
    fn a_continuous_ramp_joins_its_stretches_without_a_jump() {
        let steps =
            steps_of(Plan::new(&"linear:1..7@60s".parse().unwrap(), None, Seconds(1.0), Replicas(1), None));
        assert_eq!(steps.len(), 6);
        assert_eq!(steps[0].load, Load::Linear { from: Rate(1.0), to: Rate(2.0) });
        assert_eq!(steps[5].load, Load::Linear { from: Rate(6.0), to: Rate(7.0) });
        assert!(steps.iter().all(|step| step.warm_up == Seconds::ZERO && step.length == Seconds(10.0)));
        assert_eq!(steps[3].offset, Seconds(30.0));
    }

    #[test]
    fn a_trace_is_cut_into_stretches_that_hold_all_of_it() {
        let size = crate::plan::RequestSize { input: 1, output: 1 };
        let arrivals = (0..100).map(|i| crate::plan::TraceArrival { offset: Seconds(f64::from(i)), size });
        let trace = Trace { arrivals: arrivals.collect(), remarks: Vec::new() };
        let spec = RampSpec::Trace { path: "x".into(), speed: 1.0 };
        let steps = steps_of(Plan::new(&spec, None, Seconds(1.0), Replicas(1), Some(&trace)));
        assert_eq!(steps.iter().map(|s| s.length.0.round()).collect::<Vec<_>>(), [30.0, 30.0, 40.0]);
        assert_eq!(steps[0].load, Load::Trace(Rate(1.0)));
        let single = Trace { arrivals: trace.arrivals[..1].to_vec(), remarks: Vec::new() };
        assert_eq!(steps_of(Plan::new(&spec, None, Seconds(1.0), Replicas(1), Some(&single))).len(), 1);
    }

    #[test]
    fn a_resumed_plan_goes_on_where_it_was_left() {
        for text in ["rate:1,2,4,8x10s", "linear:1..7@60s", "adaptive"] {
            let ramp: RampSpec = text.parse().unwrap();
            let plan = || Plan::new(&ramp, None, Seconds(0.5), Replicas(1), None);
            let results = [(2.0, true), (4.0, true), (8.0, false)].map(|(rate, holds)| result(rate, holds));
            let mut whole = plan();
            for step in results {
                whole.next_step();
                whole.learn(step);
            }
            let mut resumed = plan();
            resumed.resume(results.to_vec(), 7);
            match (whole.next_step(), resumed.next_step()) {
                (Next::Step(a, _), Next::Step(b, _)) => {
                    assert_eq!((a.load, a.place, a.length, a.offset), (b.load, b.place, b.length, b.offset));
                    assert_eq!((a.index, b.index), (3, 7), "{text}");
                    assert!(b.warm_up.0 > 0.0, "{text}: the server is empty again");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn warm_up_leaves_at_least_half_of_a_step() {
        let step = |warm_up: Option<f64>| match Plan::new(
            &"rate:1x10s".parse().unwrap(),
            warm_up.map(Seconds),
            Seconds(1.0),
            Replicas(1),
            None,
        )
        .next_step()
        {
            Next::Step(step, _) => step.warm_up.0,
            Next::Done(_) => f64::NAN,
        };
        assert_eq!(step(None), 3.0);
        assert_eq!(step(Some(2.0)), 2.0);
        assert_eq!(step(Some(20.0)), 5.0);
    }
}
