//! How far one decision may go: `minReplicas`, `maxReplicas` and the rate limits (horizontal.go).
//!
//! Invariant: integers wrap and doubles become integers as in the controller, which is compiled for amd64.

use super::replica_calculator::int32;
use crate::units::Seconds;
use serde::Deserialize;

/// The rules of both directions, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Behavior {
    /// On the way up.
    pub up: Rules,
    /// On the way down.
    pub down: Rules,
}

/// The rules of one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// How long recommendations count.
    pub window: Seconds,
    /// Which policy counts.
    pub select: SelectPolicy,
    /// The policies.
    pub policies: Vec<Policy>,
}

/// Which policy counts where several are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum SelectPolicy {
    /// The one that allows the largest change.
    #[default]
    Max,
    /// The one that allows the smallest change.
    Min,
    /// None: this direction is switched off.
    Disabled,
}

/// At most so much change per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// What `value` counts.
    #[serde(rename = "type")]
    pub kind: PolicyKind,
    /// Pods, or percent of the replicas at the period's start.
    pub value: i32,
    /// Length of the period, in seconds.
    pub period_seconds: u32,
}

/// What a policy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum PolicyKind {
    /// Pods.
    Pods,
    /// Percent of the replicas at the period's start.
    Percent,
}

impl Policy {
    /// So many pods per period.
    pub const fn pods(value: i32, period_seconds: u32) -> Policy {
        Policy { kind: PolicyKind::Pods, value, period_seconds }
    }

    /// So many percent per period.
    pub const fn percent(value: i32, period_seconds: u32) -> Policy {
        Policy { kind: PolicyKind::Percent, value, period_seconds }
    }
}

/// A change that the controller made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Pods added or removed.
    pub change: i32,
    /// When.
    pub at: Seconds,
    /// Older than every policy's period, so that its place may be taken.
    pub outdated: bool,
}

/// The changes in both directions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events {
    /// Scale-ups.
    pub up: Vec<Event>,
    /// Scale-downs.
    pub down: Vec<Event>,
}

impl Events {
    /// Remembers a change from `before` to `after`.
    pub fn store(&mut self, now: Seconds, behavior: &Behavior, before: i32, after: i32) {
        let up = after > before;
        let (events, rules) =
            if up { (&mut self.up, &behavior.up) } else { (&mut self.down, &behavior.down) };
        store(events, now, rules, after.wrapping_sub(before).wrapping_abs());
    }
}

/// Puts a change into the place of the last outdated event, or else behind all.
pub(super) fn store(events: &mut Vec<Event>, now: Seconds, rules: &Rules, change: i32) {
    let longest = rules.policies.iter().map(|policy| policy.period_seconds).max().unwrap_or(0);
    for event in &mut *events {
        event.outdated |= (now - event.at).0 > f64::from(longest);
    }
    let event = Event { change, at: now, outdated: false };
    match events.iter_mut().rev().find(|event| event.outdated) {
        Some(place) => *place = event,
        None => events.push(event),
    }
}

/// The sum of the changes that are younger than the period.
pub(super) fn change_within(period_seconds: u32, events: &[Event], now: Seconds) -> i32 {
    let young = events.iter().filter(|event| (now - event.at).0 < f64::from(period_seconds));
    young.map(|event| event.change).fold(0, i32::wrapping_add)
}

/// The most replicas that the policies allow now.
pub(super) fn up_limit(current: i32, events: &Events, rules: &Rules, now: Seconds) -> i32 {
    let limits = rules.policies.iter().map(|policy| {
        let start = period_start(current, events, policy, now);
        match policy.kind {
            PolicyKind::Pods => start.wrapping_add(policy.value),
            // Rounded up, since a small percentage of few replicas would never let them grow.
            PolicyKind::Percent => int32((f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil()),
        }
    });
    match rules.select {
        SelectPolicy::Disabled => current,
        SelectPolicy::Max => limits.max().unwrap_or(i32::MIN),
        SelectPolicy::Min => limits.min().unwrap_or(i32::MAX),
    }
}

/// The fewest replicas that the policies allow now.
pub(super) fn down_limit(current: i32, events: &Events, rules: &Rules, now: Seconds) -> i32 {
    let limits = rules.policies.iter().map(|policy| {
        let start = period_start(current, events, policy, now);
        match policy.kind {
            PolicyKind::Pods => start.wrapping_sub(policy.value),
            // Truncated in binary64: 90 % of 10 leaves 0, not 1.
            PolicyKind::Percent => int32(f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)),
        }
    });
    match rules.select {
        SelectPolicy::Disabled => current,
        SelectPolicy::Max => limits.min().unwrap_or(i32::MAX),
        SelectPolicy::Min => limits.max().unwrap_or(i32::MIN),
    }
}

fn period_start(current: i32, events: &Events, policy: &Policy, now: Seconds) -> i32 {
    let change = |events: &[Event]| change_within(policy.period_seconds, events, now);
    current.wrapping_sub(change(&events.up)).wrapping_add(change(&events.down))
}

/// `minReplicas` and `maxReplicas`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Fewest replicas.
    pub min: i32,
    /// Most replicas.
    pub max: i32,
}

/// The limit that holds where `behavior` is absent: per decision, up to `factor` times the replicas, or to
/// `least` where that is more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLimit {
    /// 2 in the controller.
    pub factor: f64,
    /// 4 in the controller.
    pub least: f64,
}

impl Default for StepLimit {
    fn default() -> Self {
        StepLimit { factor: 2.0, least: 4.0 }
    }
}

/// Replicas after the limits, and the reason of the condition ScalingLimited.
pub(super) type Limited = (i32, &'static str);

/// The limits where `behavior` is absent.
pub(super) fn limit_without_behavior(current: i32, desired: i32, range: Range, step: StepLimit) -> Limited {
    let most = int32((step.factor * f64::from(current)).max(step.least));
    let (max, reason) =
        if range.max > most { (most, "ScaleUpLimit") } else { (range.max, "TooManyReplicas") };
    if desired < range.min {
        (range.min, "TooFewReplicas")
    } else if desired > max {
        (max, reason)
    } else {
        (desired, "DesiredWithinRange")
    }
}

/// The limits where `behavior` is present.
pub(super) fn limit_by_behavior(
    current: i32,
    desired: i32,
    range: Range,
    behavior: &Behavior,
    events: &Events,
    now: Seconds,
) -> Limited {
    if desired > current {
        let limit = up_limit(current, events, &behavior.up, now).max(current);
        let (max, reason) =
            if range.max > limit { (limit, "ScaleUpLimit") } else { (range.max, "TooManyReplicas") };
        if desired > max {
            return (max, reason);
        }
    } else if desired < current {
        let limit = down_limit(current, events, &behavior.down, now).min(current);
        let (min, reason) =
            if range.min < limit { (limit, "ScaleDownLimit") } else { (range.min, "TooFewReplicas") };
        if desired < min {
            return (min, reason);
        }
    }
    (desired, "DesiredWithinRange")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_of_a_scale_down_is_truncated_in_binary64() {
        let limit = |current, percent| {
            let rules = Rules {
                window: Seconds::ZERO,
                select: SelectPolicy::Max,
                policies: vec![Policy::percent(percent, 60)],
            };
            down_limit(current, &Events::default(), &rules, Seconds::ZERO)
        };
        assert_eq!([limit(10, 90), limit(5, 80), limit(10, 80)], [0, 0, 1]);
    }

    #[test]
    fn a_disabled_direction_stays_where_it_is() {
        let rules = Rules {
            window: Seconds::ZERO,
            select: SelectPolicy::Disabled,
            policies: vec![Policy::pods(9, 15)],
        };
        assert_eq!(up_limit(3, &Events::default(), &rules, Seconds::ZERO), 3);
        assert_eq!(down_limit(3, &Events::default(), &rules, Seconds::ZERO), 3);
    }
}
