//! Which load comes next: a fixed list of steps, or an adaptive search for the SLO's limit.

use super::Trace;
use crate::scenario::RampSpec;
use crate::units::{Load, Rate, Seconds};

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
    /// Whether every SLO held.
    pub holds: bool,
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
    /// adaptive search takes its first rate and the length of its steps from it. `trace` is the
    /// trace of a `trace:` ramp, at the speed of its replay.
    pub fn new(
        ramp: &RampSpec,
        warm_up: Option<Seconds>,
        single_latency: Seconds,
        trace: Option<&Trace>,
    ) -> Plan {
        let kind = match ramp {
            RampSpec::Adaptive => Kind::Adaptive(Search::new(single_latency)),
            RampSpec::Rate { rates, hold } => {
                Kind::Fixed(rates.iter().map(|rate| (Load::Rate(*rate), *hold)).collect())
            }
            RampSpec::Concurrency { levels, hold } => {
                Kind::Fixed(levels.iter().map(|level| (Load::Concurrency(*level), *hold)).collect())
            }
            RampSpec::Linear { from, to, length } => Kind::Continuous(stretches(*from, *to, *length)),
            RampSpec::Trace { .. } => Kind::Continuous(trace.map(stretches_of_trace).unwrap_or_default()),
        };
        Plan { warm_up, index: 0, place: 0, resumed: false, kind }
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

    /// Goes on after steps that were driven to their end in an earlier session, with their results in
    /// order. The next step is recorded as number `next_index`. Gives the result to go on from.
    pub fn resume(&mut self, driven: &[StepResult], next_index: u32) -> Option<StepResult> {
        let mut last = None;
        for result in driven {
            self.next(last);
            last = Some(*result);
        }
        self.index = next_index;
        self.resumed = self.place > 0;
        last
    }

    /// The next step, given how the last one came out (`None` before the first).
    pub fn next(&mut self, last: Option<StepResult>) -> Next {
        let place = self.place as usize;
        let (load, length, reason) = match &mut self.kind {
            Kind::Fixed(steps) | Kind::Continuous(steps) => match steps.get(place) {
                Some((load, length)) => (*load, *length, None),
                None => return Next::Done("every step of the ramp was driven".to_owned()),
            },
            Kind::Adaptive(search) => match search.next(last) {
                Ok((rate, length, reason)) => (Load::Rate(rate), length, Some(reason)),
                Err(reason) => return Next::Done(reason),
            },
        };
        let before = self.fixed().into_iter().flat_map(|steps| &steps[..place]);
        let offset = before.map(|(_, length)| *length).sum();
        let warm_up = match &self.kind {
            Kind::Continuous(_) if place > 0 && !self.resumed => Seconds::ZERO,
            Kind::Continuous(_) if !self.resumed => self.warm_up.unwrap_or(Seconds::ZERO),
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

/// Doubles the rate until a step fails, halves it if the first fails, then refines the octave
/// between the last rate that held and the first that failed by rising through its fifths.
#[derive(Debug, Clone)]
struct Search {
    single_latency: Seconds,
    first: f64,
    lower: Option<f64>,
    upper: Option<f64>,
    refining: Option<(f64, f64, u32)>,
    steps: u32,
}

/// Interior points of the octave that are tried.
const REFINEMENTS: u32 = 4;
/// No more steps than this: 2^20 times the first rate is no LLM server.
const MOST_STEPS: u32 = 26;
/// The lowest rate tried, as a share of the first.
const LEAST_SHARE: f64 = 1.0 / 64.0;

impl Search {
    fn new(single_latency: Seconds) -> Search {
        let latency = if single_latency.0 > 0.0 { single_latency.0 } else { 1.0 };
        // One request at a time gives 1/latency; batching gives several times that.
        let raw = (1.0 / latency).clamp(0.02, 100.0);
        let scale = 10_f64.powf(raw.log10().floor());
        let first = (raw / scale).round() * scale;
        Search { single_latency, first, lower: None, upper: None, refining: None, steps: 0 }
    }

    fn next(&mut self, last: Option<StepResult>) -> Result<(Rate, Seconds, String), String> {
        if let Some(last) = last {
            let side = if last.holds { &mut self.lower } else { &mut self.upper };
            *side = Some(last.rate.0);
        }
        self.steps += 1;
        if self.steps > MOST_STEPS {
            return Err(format!("stopped after {MOST_STEPS} steps without finding the limit"));
        }
        match (self.lower, self.upper) {
            (None, None) => Ok((
                Rate(self.first),
                self.length(self.first, 1.0),
                "first step: about one request at a time".to_owned(),
            )),
            (Some(lower), None) => {
                let rate = lower * 2.0;
                Ok((Rate(rate), self.length(rate, 1.0), format!("{} holds the SLO: doubling", Rate(lower))))
            }
            (None, Some(upper)) => {
                let rate = upper / 2.0;
                if rate < self.first * LEAST_SHARE {
                    return Err(format!("the SLO fails even at {}", Rate(upper)));
                }
                Ok((Rate(rate), self.length(rate, 1.0), format!("{} fails the SLO: halving", Rate(upper))))
            }
            (Some(lower), Some(upper)) => self.refine(lower, upper, last.is_some_and(|last| last.holds)),
        }
    }

    fn refine(&mut self, lower: f64, upper: f64, last_held: bool) -> Result<(Rate, Seconds, String), String> {
        let (low, high, tried) = match self.refining {
            None => (lower, upper, 0),
            Some((_, _, tried)) if !last_held || tried == REFINEMENTS => {
                return Err(format!("the SLO breaks between {} and {}", Rate(lower), Rate(upper)));
            }
            Some(state) => state,
        };
        self.refining = Some((low, high, tried + 1));
        let rate = low + (high - low) * f64::from(tried + 1) / f64::from(REFINEMENTS + 1);
        let rate = (rate * 1000.0).round() / 1000.0;
        let reason = format!("the limit lies between {} and {}: refining", Rate(lower), Rate(upper));
        Ok((Rate(rate), self.length(rate, 2.0), reason))
    }

    /// Long against one request and with enough requests for a percentile, times `weight`.
    fn length(&self, rate: f64, weight: f64) -> Seconds {
        let by_latency = self.single_latency.0 * 6.0;
        let by_count = 40.0 / rate;
        Seconds((by_latency.max(by_count).clamp(8.0, 120.0) * weight).round())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the plan against a server whose SLO holds below `limit`.
    fn play(ramp: &RampSpec, latency: f64, limit: f64) -> (Vec<(f64, bool)>, String) {
        let mut plan = Plan::new(ramp, None, Seconds(latency), None);
        let (mut last, mut steps) = (None, Vec::new());
        loop {
            match plan.next(last) {
                Next::Done(reason) => return (steps, reason),
                Next::Step(step, _) => {
                    let Load::Rate(rate) = step.load else { panic!("a rate") };
                    let holds = rate.0 < limit;
                    steps.push((rate.0, holds));
                    last = Some(StepResult { rate, holds });
                }
            }
        }
    }

    #[test]
    fn a_fixed_ramp_gives_its_steps_whatever_comes_out() {
        let (steps, reason) = play(&"rate:1,2,4x10s".parse().unwrap(), 1.0, 1.5);
        assert_eq!(steps, [(1.0, true), (2.0, false), (4.0, false)]);
        assert!(reason.contains("every step"));
    }

    #[test]
    fn the_search_brackets_any_limit_within_a_fifth_of_an_octave() {
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
        std::iter::from_fn(|| match plan.next(None) {
            Next::Step(step, _) => Some(step),
            Next::Done(_) => None,
        })
        .collect()
    }

    #[test]
    fn a_continuous_ramp_joins_its_stretches_without_a_jump() {
        let steps = steps_of(Plan::new(&"linear:1..7@60s".parse().unwrap(), None, Seconds(1.0), None));
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
        let steps = steps_of(Plan::new(&spec, None, Seconds(1.0), Some(&trace)));
        assert_eq!(steps.iter().map(|s| s.length.0.round()).collect::<Vec<_>>(), [30.0, 30.0, 40.0]);
        assert_eq!(steps[0].load, Load::Trace(Rate(1.0)));
        let single = Trace { arrivals: trace.arrivals[..1].to_vec(), remarks: Vec::new() };
        assert_eq!(steps_of(Plan::new(&spec, None, Seconds(1.0), Some(&single))).len(), 1);
    }

    #[test]
    fn a_resumed_plan_goes_on_where_it_was_left() {
        for text in ["rate:1,2,4,8x10s", "linear:1..7@60s", "adaptive"] {
            let ramp: RampSpec = text.parse().unwrap();
            let plan = || Plan::new(&ramp, None, Seconds(0.5), None);
            let results = [(2.0, true), (4.0, true), (8.0, false)];
            let results = results.map(|(rate, holds)| StepResult { rate: Rate(rate), holds });
            let mut whole = plan();
            let mut last = None;
            for result in results {
                whole.next(last);
                last = Some(result);
            }
            let mut resumed = plan();
            let from = resumed.resume(&results, 7);
            match (whole.next(last), resumed.next(from)) {
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
            None,
        )
        .next(None)
        {
            Next::Step(step, _) => step.warm_up.0,
            Next::Done(_) => f64::NAN,
        };
        assert_eq!(step(None), 3.0);
        assert_eq!(step(Some(2.0)), 2.0);
        assert_eq!(step(Some(20.0)), 5.0);
    }
}
