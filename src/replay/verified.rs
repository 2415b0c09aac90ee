//! A prediction held against what happened: traffic that was really sent at an autoscaled deployment, beside
//! replays of the same traffic.
//!
//! Invariants: pure. What was not seen is `None`; every predicted figure carries its 90 % interval.

use super::candidate::Draw;
use super::conditions::Autoscaler;
use crate::units::Seconds;
use serde::Serialize;

/// One look at the autoscaler and what it scales.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Look {
    /// When, from the start of the load.
    pub time: Seconds,
    /// Replicas that the HPA asks for.
    pub wanted: Option<u32>,
    /// Replicas that there are.
    pub replicas: u32,
    /// Of these, those that are ready.
    pub ready: u32,
    /// The first metric as the HPA's status shows it.
    pub metric: Option<f64>,
    /// Why the HPA does not scale, where it does not.
    pub not_scaling: Option<String>,
}

/// When an autoscaler reacted, from the start of the load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Reaction {
    /// It first asked for more replicas than there were at the start.
    pub decided: Option<f64>,
    /// There were first more that served.
    pub served: Option<f64>,
}

/// What happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Seen {
    /// Requests that were due.
    pub requests: usize,
    /// Of these, those that broke a limit or failed.
    pub broken: usize,
    /// Requests that were due in each second.
    pub arrivals: Vec<u32>,
    /// Of these, those that broke a limit or failed.
    pub broken_in: Vec<u32>,
    /// Replicas that were ready in each second.
    pub ready: Vec<u32>,
    /// Replicas that were asked for in each second.
    pub wanted: Vec<u32>,
    /// When it reacted.
    pub reaction: Reaction,
    /// Seconds in which the HPA could not scale, and what it said.
    pub blind: (usize, Option<String>),
}

/// A mean with the interval that 90 % of the draws lie in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Band {
    /// Lower end.
    pub low: f64,
    /// Mean.
    pub mean: f64,
    /// Upper end.
    pub high: f64,
}

/// What was to be expected.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Predicted {
    /// How many draws.
    pub draws: usize,
    /// Share of requests that break a limit, 0 to 1.
    pub violations: Band,
    /// Replicas that serve in each second.
    pub ready: Vec<Band>,
    /// Replicas that are asked for in each second.
    pub wanted: Vec<Band>,
    /// When it decides to scale up; `None`: in most draws it never does.
    pub decided: Option<Band>,
    /// When one more serves.
    pub served: Option<Band>,
}

/// What happened beside what was to be expected.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verified {
    /// Whether no larger share of requests broke a limit than may.
    pub holds: bool,
    /// The share that may.
    pub goal: f64,
    /// The share that did.
    pub violations: f64,
    /// Whether that lies in the predicted interval.
    pub as_predicted: bool,
    /// Root of the mean square of the difference between replicas that served and those predicted.
    pub replicas_off: f64,
    /// Why it does not hold, the weightiest first; or what differs from the prediction.
    pub reasons: Vec<String>,
}

impl Band {
    /// The band of some values; `None` of none.
    fn of(values: impl Iterator<Item = f64>) -> Option<Band> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)? as f64;
        let at = |share: f64| sorted[(share * last).round() as usize];
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Some(Band { low: at(0.05), mean, high: at(0.95) })
    }

    fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

impl Predicted {
    /// Plays the draws.
    pub fn of(scaler: &Autoscaler, draws: &[Draw]) -> Predicted {
        let (mut violations, mut ready, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for draw in draws {
            let (mut serving, mut asked) = (Vec::new(), Vec::new());
            let outcome = draw.play(scaler, |tick| {
                serving.push(tick.serving as f64);
                asked.push(f64::from(tick.wanted));
            });
            violations.push(outcome.violations());
            ready.push(serving);
            wanted.push(asked);
        }
        Predicted {
            draws: draws.len(),
            violations: Band::of(violations.into_iter()).unwrap_or_default(),
            decided: rises(&wanted),
            served: rises(&ready),
            ready: bands(&ready),
            wanted: bands(&wanted),
        }
    }
}

/// The band of several lines in each second.
fn bands(lines: &[Vec<f64>]) -> Vec<Band> {
    let seconds = lines.iter().map(Vec::len).max().unwrap_or(0);
    let at = |second: usize| Band::of(lines.iter().filter_map(|line| line.get(second).copied()));
    (0..seconds).filter_map(at).collect()
}

/// When lines rise. `None`: most of them never do.
fn rises(lines: &[Vec<f64>]) -> Option<Band> {
    let times: Vec<f64> = lines.iter().filter_map(|line| rise(line)).collect();
    if 2 * times.len() > lines.len() { Band::of(times.into_iter()) } else { None }
}

/// The second in which a line first exceeds its start.
fn rise(line: &[f64]) -> Option<f64> {
    let start = *line.first()?;
    line.iter().position(|value| *value > start).map(|second| second as f64)
}

impl Seen {
    /// Requests, each by when it was due from the start of the load and whether it broke a limit, over
    /// `seconds`, and the looks at the autoscaler.
    pub fn of(requests: &[(Seconds, bool)], looks: &[Look], seconds: usize) -> Seen {
        let mut seen = Seen {
            arrivals: vec![0; seconds],
            broken_in: vec![0; seconds],
            ready: Vec::with_capacity(seconds),
            wanted: Vec::with_capacity(seconds),
            ..Seen::default()
        };
        for (due, broken) in requests {
            let second = (due.0.max(0.0) as usize).min(seconds.saturating_sub(1));
            seen.requests += 1;
            seen.broken += usize::from(*broken);
            if let (Some(arrivals), Some(broken_in)) =
                (seen.arrivals.get_mut(second), seen.broken_in.get_mut(second))
            {
                *arrivals += 1;
                *broken_in += u32::from(*broken);
            }
        }
        for second in 0..seconds {
            // What was seen last; before the first look, what it saw.
            let at = looks.partition_point(|look| look.time.0 <= second as f64 + 1.0).saturating_sub(1);
            let Some(look) = looks.get(at) else { break };
            seen.ready.push(look.ready);
            seen.wanted.push(look.wanted.unwrap_or(look.replicas));
            if let Some(reason) = &look.not_scaling {
                seen.blind = (seen.blind.0 + 1, Some(reason.clone()));
            }
        }
        let started = looks.first().map(|look| look.ready);
        let first =
            |exceeds: &dyn Fn(&Look) -> bool| looks.iter().find(|look| exceeds(look)).map(|look| look.time.0);
        seen.reaction = Reaction {
            decided: first(&|look| {
                look.wanted.zip(started).is_some_and(|(wanted, started)| wanted > started)
            }),
            served: first(&|look| started.is_some_and(|started| look.ready > started)),
        };
        seen
    }

    /// The share of requests that broke a limit.
    pub fn violations(&self) -> f64 {
        self.broken as f64 / self.requests.max(1) as f64
    }
}

/// A reaction may be this much later than the latest predicted one: looks come once a second, the controller
/// every 15 s.
const LATE: f64 = 5.0;
/// This part of what is broken is worth a reason.
const WORTH: f64 = 0.2;

impl Verified {
    /// Holds one against the other. `most` is the HPA's `maxReplicas`.
    pub fn of(seen: &Seen, predicted: &Predicted, goal: f64, most: u32) -> Verified {
        let violations = seen.violations();
        let squares = seen
            .ready
            .iter()
            .zip(&predicted.ready)
            .map(|(ready, band)| (f64::from(*ready) - band.mean).powi(2));
        let n = seen.ready.len().min(predicted.ready.len()).max(1) as f64;
        let holds = seen.requests > 0 && violations <= goal;
        let as_predicted = predicted.violations.holds(violations);
        let mut reasons = reasons(seen, predicted, most);
        if !holds && reasons.is_empty() {
            reasons.push(
                "nothing shows why: look at the latencies beside the replicas in timeline.csv".to_owned(),
            );
        }
        Verified {
            holds,
            goal,
            violations,
            as_predicted,
            replicas_off: (squares.sum::<f64>() / n).sqrt(),
            reasons,
        }
    }
}

/// What kept it from holding, or differs from the prediction.
fn reasons(seen: &Seen, predicted: &Predicted, most: u32) -> Vec<String> {
    let mut found = Vec::new();
    if let (seconds @ 1.., Some(reason)) = (seen.blind.0, &seen.blind.1) {
        found.push(format!("for {seconds} s the HPA could not scale: {reason}"));
    }
    let late = |what: &str, seen: Option<f64>, predicted: Option<Band>| match (seen, predicted) {
        (Some(seen), Some(band)) if seen > band.high + LATE => Some(format!(
            "{what} {seen:.0} s after the start, and was expected after {:.0} s ({:.0} s to {:.0} s)",
            band.mean, band.low, band.high
        )),
        (None, Some(band)) => Some(format!("{what} never, and was expected after {:.0} s", band.mean)),
        _ => None,
    };
    let decided = late("the HPA asked for more replicas", seen.reaction.decided, predicted.decided);
    let served = late("one more replica served", seen.reaction.served, predicted.served);
    found.extend(decided.into_iter().chain(served));
    // Of what is broken, where.
    let share = |of: &dyn Fn(usize) -> bool| {
        let broken = seen.broken_in.iter().enumerate().filter(|(second, _)| of(*second));
        broken.map(|(_, broken)| f64::from(*broken)).sum::<f64>() / seen.broken.max(1) as f64
    };
    let at_most = share(&|second| seen.wanted.get(second).is_some_and(|wanted| *wanted >= most));
    if seen.broken > 0 && at_most >= WORTH {
        found.push(format!(
            "{:.0} % of the violations fell in seconds in which the HPA was at its maxReplicas ({most})",
            at_most * 100.0
        ));
    }
    let enough = share(&|second| {
        let pair = seen.ready.get(second).zip(predicted.ready.get(second));
        pair.is_some_and(|(ready, band)| f64::from(*ready) >= band.mean.floor())
            && seen.wanted.get(second).is_some_and(|wanted| *wanted < most)
    });
    let more = seen.violations() > predicted.violations.high;
    if seen.broken > 0 && more && enough >= WORTH {
        found.push(format!(
            "{:.0} % of the violations fell in seconds with as many replicas as predicted: a replica carries less than \
             the run measured, or the load is not spread evenly",
            enough * 100.0
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(time: f64, wanted: u32, ready: u32) -> Look {
        Look {
            time: Seconds(time),
            wanted: Some(wanted),
            replicas: wanted,
            ready,
            metric: None,
            not_scaling: None,
        }
    }

    /// A hundred requests, two in each second.
    fn requests(broken: impl Fn(u32) -> bool) -> Vec<(Seconds, bool)> {
        (0..100).map(|i| (Seconds(f64::from(i) / 2.0), broken(i))).collect()
    }

    fn band(value: f64) -> Band {
        Band { low: value - 1.0, mean: value, high: value + 1.0 }
    }

    fn predicted(violations: f64) -> Predicted {
        Predicted {
            draws: 9,
            violations: Band { low: 0.0, mean: violations, high: violations },
            ready: vec![band(1.0); 60],
            wanted: vec![band(1.0); 60],
            decided: Some(band(10.0)),
            served: Some(band(20.0)),
        }
    }

    #[test]
    fn requests_and_looks_are_laid_out_by_the_second() {
        let requests = [(Seconds(0.2), false), (Seconds(1.5), true)];
        let looks = [look(0.0, 1, 1), look(1.5, 3, 1), look(2.5, 3, 2)];
        let seen = Seen::of(&requests, &looks, 4);
        assert_eq!((seen.requests, seen.broken), (2, 1));
        assert_eq!((seen.arrivals, seen.broken_in), (vec![1, 1, 0, 0], vec![0, 1, 0, 0]));
        assert_eq!((seen.ready, seen.wanted), (vec![1, 1, 2, 2], vec![1, 3, 3, 3]));
        assert_eq!(seen.reaction, Reaction { decided: Some(1.5), served: Some(2.5) });
    }

    #[test]
    fn a_target_that_holds_as_predicted_needs_no_reason() {
        let requests = requests(|_| false);
        let looks = [look(0.0, 1, 1), look(10.0, 2, 1), look(20.0, 2, 2)];
        let seen = Seen::of(&requests, &looks, 60);
        let verified = Verified::of(&seen, &predicted(0.01), 0.05, 5);
        assert!(verified.holds && verified.as_predicted, "{verified:?}");
        assert!(verified.reasons.is_empty(), "{verified:?}");
    }

    #[test]
    fn what_kept_it_from_holding_is_said() {
        let requests = requests(|i| i >= 60);
        let mut looks = vec![look(0.0, 1, 1), look(30.0, 5, 1), look(45.0, 5, 2)];
        looks[0].not_scaling = Some("FailedGetPodsMetric: no metrics".to_owned());
        let seen = Seen::of(&requests, &looks, 60);
        let verified = Verified::of(&seen, &predicted(0.01), 0.05, 5);
        assert!(!verified.holds && !verified.as_predicted);
        let said = verified.reasons.join("\n");
        for part in [
            "for 29 s the HPA could not scale: FailedGetPodsMetric",
            "the HPA asked for more replicas 30 s after the start, and was expected after 10 s (9 s to 11 s)",
            "one more replica served 45 s after the start",
            "at its maxReplicas (5)",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn replicas_that_carry_less_than_measured_are_told_from_too_few() {
        let requests = requests(|i| i % 5 == 0);
        let looks = [look(0.0, 1, 1), look(10.0, 2, 1), look(20.0, 2, 2)];
        let seen = Seen::of(&requests, &looks, 60);
        let verified = Verified::of(&seen, &predicted(0.01), 0.05, 5);
        assert!(
            verified.reasons.iter().any(|reason| reason.contains("a replica carries less")),
            "{verified:?}"
        );
    }
}
