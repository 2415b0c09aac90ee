//! The adaptive search: which load tells most, given all that is known so far.
//!
//! Where the server's own counters let its capacity be predicted, the search goes by that: a low load,
//! a medium one, then two close to the predicted capacity, until predictions agree; and last a longer
//! step that shows what clients get there. Without such counters it doubles the rate until the SLO
//! breaks and refines between the last rate that held and the first that failed, which takes more time
//! for less precision.

use super::{Guide, StepResult};
use crate::units::{Rate, Replicas, Seconds};

/// What the search wants next: a rate, for how long, and why. The error says why it ended.
pub(super) type Wanted = Result<(Rate, Seconds, String), String>;

/// The state of a search is what was driven so far; this is what it starts from.
#[derive(Debug, Clone)]
pub(super) struct Search {
    single_latency: Seconds,
    first: f64,
}

/// Largest factor between two neighboring rates of a refinement.
const FINE: f64 = 1.2;
/// No more steps than this: 2^20 times the first rate is no LLM server.
const MOST_STEPS: usize = 26;
/// The lowest rate tried, as a share of the first.
const LEAST_SHARE: f64 = 1.0 / 64.0;

/// Shares of the predicted capacity: near it, close to it, and low again to tell load from drift.
const NEAR: f64 = 0.8;
const CLOSE: f64 = 0.97;
const LOW: f64 = 0.25;
/// The second load, as a multiple of the first.
const MEDIUM: f64 = 3.0;
/// A prediction is not followed further than this factor beyond the highest rate that was driven.
const LEAP: f64 = 4.0;
/// Predictions that differ by less than this agree.
const AGREE: f64 = 0.015;
/// Above this share the steps do not belong to one common server.
const DRIFT: f64 = 0.007;
/// Most steps near the capacity, besides the last.
const MOST_NEAR: usize = 4;

impl Search {
    pub(super) fn new(single_latency: Seconds, replicas: Replicas) -> Search {
        let latency = if single_latency.0 > 0.0 { single_latency.0 } else { 1.0 };
        // One request at a time gives 1/latency; batching gives several times that.
        let raw = (f64::from(replicas.0.max(1)) / latency).clamp(0.02, 100.0);
        let scale = 10_f64.powf(raw.log10().floor());
        let first = (raw / scale).round() * scale;
        Search { single_latency, first }
    }

    pub(super) fn next(&self, driven: &[StepResult]) -> Wanted {
        if driven.len() >= MOST_STEPS {
            return Err(format!("stopped after {MOST_STEPS} steps without finding the limit"));
        }
        match driven {
            [] => Ok((
                Rate(self.first),
                self.window(),
                "first step: about one request at a time, to see what the server shows".to_owned(),
            )),
            [first] if first.holds => {
                let most = first.guide.map_or(f64::INFINITY, |guide| guide.capacity.0 * NEAR);
                let rate = round((first.rate.0 * MEDIUM).min(most).max(first.rate.0 * 1.2));
                Ok((Rate(rate), self.window(), "a medium load, to see what the batch costs".to_owned()))
            }
            [.., last] => match last.guide {
                Some(guide) => self.guided(driven, guide),
                None => self.bracket(driven),
            },
        }
    }

    /// Whether the step after these is the longer one that shows what clients get.
    pub(super) fn verifies(&self, driven: &[StepResult]) -> bool {
        driven.last().is_some_and(|last| last.guide.is_some())
            && matches!(self.next(driven), Ok((_, length, _)) if length.0 >= self.verification().0 * 0.99)
    }

    /// The length of a step that the server's counters are read in.
    fn window(&self) -> Seconds {
        Seconds((self.single_latency.0 * 18.0).clamp(12.0, 45.0).round())
    }

    /// The length of the last step, in which clients' latencies are judged.
    fn verification(&self) -> Seconds {
        self.window() * 5.0
    }

    /// What a step needs to fill the server: three times as long as a request takes, at least.
    pub(super) fn warm_up(&self, length: Seconds) -> Seconds {
        (self.single_latency * 3.0).max(length * 0.3).min(Seconds(30.0))
    }

    fn guided(&self, driven: &[StepResult], guide: Guide) -> Wanted {
        let capacity = guide.capacity.0;
        let share = |step: &StepResult| step.rate.0 / capacity;
        let highest = driven.iter().map(|step| step.rate.0).fold(0.0, f64::max);
        let near = driven.iter().filter(|step| share(step) >= NEAR * 0.9).count();
        let close = driven.iter().any(|step| share(step) >= CLOSE * 0.95);
        let to = |share: f64, length: Seconds, why: String| {
            let rate = round((capacity * share).min(highest * LEAP));
            Ok((Rate(rate), length, format!("its counters predict {}: {why}", guide.capacity)))
        };
        if driven.iter().any(|step| step.length.0 >= self.verification().0 * 0.99) {
            return Err(format!("the SLO breaks at about {}, by the server's counters", guide.capacity));
        }
        if near == 0 {
            return to(NEAR, self.window(), "a step near it".to_owned());
        }
        let first_near = driven.iter().position(|step| share(step) >= NEAR * 0.9).unwrap_or(0);
        if !driven[first_near..].iter().any(|step| share(step) <= LOW * 1.6) {
            let why = "a low load again, to tell what the load does from what time does".to_owned();
            return to(LOW, self.window() * 0.5, why);
        }
        if !close {
            return to(CLOSE, self.window(), "a step close to it".to_owned());
        }
        let before = driven.iter().rev().nth(1).and_then(|step| step.guide);
        let moved = before.map_or(f64::INFINITY, |before| (capacity / before.capacity.0 - 1.0).abs());
        let calm = guide.drift <= DRIFT;
        if near < MOST_NEAR && (moved > AGREE || !calm) {
            let why = if calm {
                format!("{:.1} % from the last prediction, so once more", moved * 100.0)
            } else {
                "the steps do not fit one server, so it changes; once more".to_owned()
            };
            return to(CLOSE, self.window(), why);
        }
        to(CLOSE, self.verification(), "a longer step there shows what clients get".to_owned())
    }

    /// Doubles the rate until a step fails, halves it if the first fails, then rises from the last rate that
    /// held to the first that failed in small steps.
    fn bracket(&self, driven: &[StepResult]) -> Wanted {
        let held = driven.iter().filter(|step| step.holds).map(|step| step.rate.0);
        let failed = driven.iter().filter(|step| !step.holds).map(|step| step.rate.0).min_by(f64::total_cmp);
        let lower = held.filter(|rate| failed.is_none_or(|failed| *rate < failed)).max_by(f64::total_cmp);
        match (lower, failed) {
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
            (Some(lower), Some(upper)) => self.refine(driven, lower, upper),
            (None, None) => Err("no step was driven".to_owned()),
        }
    }

    fn refine(&self, driven: &[StepResult], lower: f64, upper: f64) -> Wanted {
        // Where doubling or halving first had one rate that held below one that failed.
        let first = (1..=driven.len()).find_map(|n| {
            let part = &driven[..n];
            let low = part.iter().filter(|step| step.holds).map(|step| step.rate.0).max_by(f64::total_cmp)?;
            let high =
                part.iter().filter(|step| !step.holds).map(|step| step.rate.0).min_by(f64::total_cmp)?;
            (low < high).then_some((low, high, n))
        });
        let (low, high, n) = first.unwrap_or((lower, upper, driven.len()));
        let tried = driven.len() - n;
        let parts = ((high / low).ln() / FINE.ln()).ceil().max(2.0);
        let last_held = driven.last().is_some_and(|step| step.holds);
        if tried > 0 && (!last_held || tried + 1 >= parts as usize) {
            return Err(format!("the SLO breaks between {} and {}", Rate(lower), Rate(upper)));
        }
        let rate = round(low * (high / low).powf((tried + 1) as f64 / parts));
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

/// A rate as people write it.
fn round(rate: f64) -> f64 {
    (rate * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the search against a server of this capacity, whose counters predict it up to an error that
    /// shrinks with each step, and that drifts in the given steps.
    fn play(capacity: f64, error: f64, drifting: &[usize]) -> (Vec<StepResult>, String) {
        let search = Search::new(Seconds(3.0), Replicas(2));
        let mut driven = Vec::new();
        loop {
            match search.next(&driven) {
                Err(reason) => return (driven, reason),
                Ok((rate, length, _)) => {
                    let n = driven.len();
                    let off = error / (1.0 + n as f64 * n as f64);
                    let drift = if drifting.contains(&n) { 0.03 } else { 0.001 };
                    let guide = (n > 0).then_some(Guide { capacity: Rate(capacity * (1.0 + off)), drift });
                    driven.push(StepResult { rate, length, holds: rate.0 < capacity, guide });
                }
            }
        }
    }

    #[test]
    fn a_guided_search_ends_with_a_longer_step_just_below_the_capacity() {
        for capacity in [2.0, 8.2, 40.0] {
            let (driven, reason) = play(capacity, 0.1, &[]);
            let last = driven.last().unwrap();
            assert!((last.rate.0 / capacity - CLOSE).abs() < 0.02, "{capacity}: {driven:?}");
            assert!(last.length.0 > 4.0 * driven[0].length.0);
            assert!(reason.contains("by the server's counters"), "{reason}");
            assert!(driven.len() <= 8, "{capacity}: {} steps", driven.len());
            let low_again = driven[2..].iter().any(|step| step.rate.0 < capacity * 0.4);
            assert!(low_again, "low and high loads take turns: {driven:?}");
        }
    }

    #[test]
    fn a_search_measures_again_where_the_server_changes_but_not_for_ever() {
        let calm = play(8.2, 0.0, &[]).0.len();
        let (once, _) = play(8.2, 0.0, &[4]);
        assert_eq!(once.len(), calm + 1);
        let (always, _) = play(8.2, 0.0, &(0..30).collect::<Vec<_>>());
        assert!(always.len() <= calm + MOST_NEAR, "{}", always.len());
    }
}
