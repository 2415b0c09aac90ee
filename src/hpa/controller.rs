//! One HPA over time: proposals, stabilization, limits, and what is remembered between syncs (horizontal.go).
//!
//! Invariant: time only enters as the `now` of each sync, and everything remembered is in `Controller`.

use super::behavior::{Behavior, Events, Range, StepLimit, limit_by_behavior, limit_without_behavior};
use super::spec::HpaSpec;
use crate::units::Seconds;

/// The controller's flag --horizontal-pod-autoscaler-tolerance.
pub const TOLERANCE: f64 = 0.1;
/// The controller's flag --horizontal-pod-autoscaler-downscale-stabilization.
pub const DOWNSCALE_STABILIZATION: Seconds = Seconds(300.0);

/// A proposal that was made, before stabilization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recommendation {
    /// What was proposed.
    pub replicas: i32,
    /// When.
    pub at: Seconds,
}

/// The recommendations of the past; the places of old ones are used again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recommendations(pub Vec<Recommendation>);

impl Recommendations {
    /// Without `behavior`: the largest of this proposal and those not older than `window`.
    pub fn stabilize(&mut self, now: Seconds, proposal: i32, window: Seconds) -> i32 {
        let old = |recommendation: &Recommendation| (now - recommendation.at).0 > window.0;
        let recent = self.0.iter().filter(|recommendation| !old(recommendation));
        let most = recent.map(|recommendation| recommendation.replicas).fold(proposal, i32::max);
        self.record(Recommendation { replicas: proposal, at: now }, old);
        most
    }

    /// With `behavior`: `current`, moved only as far as every recommendation within the window of its
    /// direction agrees.
    pub fn stabilize_between(
        &mut self,
        now: Seconds,
        current: i32,
        proposal: i32,
        up_window: Seconds,
        down_window: Seconds,
    ) -> i32 {
        let age = |recommendation: &Recommendation| (now - recommendation.at).0;
        let within = |window: Seconds| {
            let young = self.0.iter().filter(move |recommendation| age(recommendation) < window.0);
            young.map(|recommendation| recommendation.replicas)
        };
        let up = within(up_window).fold(proposal, i32::min);
        let down = within(down_window).fold(proposal, i32::max);
        let longest = up_window.max(down_window);
        self.record(Recommendation { replicas: proposal, at: now }, |old| age(old) > longest.0);
        current.max(up).min(down)
    }

    fn record(&mut self, new: Recommendation, old: impl Fn(&Recommendation) -> bool) {
        match self.0.iter_mut().rev().find(|place| old(place)) {
            Some(place) => *place = new,
            None => self.0.push(new),
        }
    }
}

/// What the controller remembers of one HPA.
#[derive(Debug, Clone, PartialEq)]
pub struct Controller {
    /// Proposals of the past. `None` before the first sync.
    pub recommendations: Option<Recommendations>,
    /// Changes of the past.
    pub events: Events,
    /// Whether it was the controller that scaled to zero, so that it may scale up again.
    pub scaled_to_zero: bool,
    /// How long proposals count on the way down, where the HPA does not say.
    pub downscale_stabilization: Seconds,
    /// How far one decision may go where `behavior` is absent.
    pub step_limit: StepLimit,
}

impl Default for Controller {
    fn default() -> Self {
        Controller {
            recommendations: None,
            events: Events::default(),
            scaled_to_zero: false,
            downscale_stabilization: DOWNSCALE_STABILIZATION,
            step_limit: StepLimit::default(),
        }
    }
}

/// What one sync did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Replicas afterwards.
    pub replicas: i32,
    /// The reasons of the HPA's conditions, in the order they were set.
    pub conditions: Vec<&'static str>,
    /// How it came about.
    pub steps: Vec<String>,
    /// The first metric that failed.
    pub error: Option<String>,
    /// Whether the metrics were read at all: not outside of the limits, nor at 0 replicas.
    pub read_metrics: bool,
}

impl Decision {
    fn note(&mut self, condition: &'static str, step: String) {
        self.conditions.push(condition);
        self.steps.push(step);
    }
}

/// The settings of an HPA that a sync decides by.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Fewest and most replicas.
    pub range: Range,
    /// How fast, where the HPA says so.
    pub behavior: Option<Behavior>,
    /// Whether a metric is there that can be read without any pod.
    pub can_wake: bool,
}

impl Settings {
    /// Of an HPA; `downscale_stabilization` is the controller's flag.
    pub fn of(spec: &HpaSpec, downscale_stabilization: Seconds) -> Settings {
        Settings {
            range: Range { min: spec.min_replicas.unwrap_or(1), max: spec.max_replicas },
            behavior: spec.behavior.as_ref().map(|behavior| behavior.complete(downscale_stabilization)),
            can_wake: spec.can_wake(),
        }
    }
}

impl Controller {
    /// One sync at `now`, with `current` replicas asked for and what each metric proposes.
    pub fn sync(
        &mut self,
        now: Seconds,
        current: i32,
        settings: &Settings,
        proposals: &[Result<i32, String>],
    ) -> Decision {
        let first = || Recommendations(vec![Recommendation { replicas: current, at: now }]);
        self.recommendations.get_or_insert_with(first);
        let Range { min, max } = settings.range;
        let mut decision = Decision { replicas: current, ..Decision::default() };
        let awake = self.scaled_to_zero && (min != 0 || settings.can_wake);
        if current == 0 && !awake {
            decision.note("ScalingDisabled", "0 replicas are asked for: scaling is disabled".to_owned());
            return decision;
        }
        if current > max {
            decision.replicas = max;
            decision.note(
                "TooManyReplicas",
                format!("{current} are above maxReplicas: {max}, no metric is read"),
            );
        } else if current < min {
            decision.replicas = min;
            decision
                .note("TooFewReplicas", format!("{current} are below minReplicas: {min}, no metric is read"));
        } else {
            decision.read_metrics = true;
            if let Some(proposal) = combine(proposals, current, &mut decision) {
                self.normalize(now, current, proposal, settings, &mut decision);
            }
        }
        self.remember(now, current, settings, &mut decision);
        decision
    }

    /// Stabilizes and limits a proposal.
    fn normalize(
        &mut self,
        now: Seconds,
        current: i32,
        proposal: i32,
        settings: &Settings,
        decision: &mut Decision,
    ) {
        let recommendations = self.recommendations.get_or_insert_default();
        let stable = match &settings.behavior {
            None => recommendations.stabilize(now, proposal, self.downscale_stabilization),
            Some(Behavior { up, down }) => {
                recommendations.stabilize_between(now, current, proposal, up.window, down.window)
            }
        };
        if stable == proposal {
            decision.conditions.push("ReadyForNewScale");
        } else {
            let up = settings.behavior.is_some() && proposal >= current;
            let condition = if up { "ScaleUpStabilized" } else { "ScaleDownStabilized" };
            decision.note(condition, format!("stabilized by earlier recommendations: {stable}"));
        }
        let (limited, condition) = match &settings.behavior {
            None => limit_without_behavior(current, stable, settings.range, self.step_limit),
            Some(behavior) => limit_by_behavior(current, stable, settings.range, behavior, &self.events, now),
        };
        decision.note(condition, limit_step(stable, (limited, condition)));
        decision.replicas = limited;
    }

    /// Remembers what was changed.
    fn remember(&mut self, now: Seconds, current: i32, settings: &Settings, decision: &mut Decision) {
        if decision.replicas == current {
            return;
        }
        decision.steps.push(format!("replicas go from {current} to {}", decision.replicas));
        if let Some(behavior) = &settings.behavior {
            self.events.store(now, behavior, current, decision.replicas);
        }
        self.scaled_to_zero = decision.replicas == 0 && settings.range.min == 0 && settings.can_wake;
    }
}

/// The step that a limit is, in words.
pub(super) fn limit_step(desired: i32, (limited, condition): (i32, &str)) -> String {
    if desired == limited {
        format!("{desired} is within the limits ({condition})")
    } else {
        format!("{condition}: {limited} instead of {desired}")
    }
}

/// The largest proposal, never below 0. `None` where all failed, or some failed and the others would scale
/// down.
fn combine(proposals: &[Result<i32, String>], current: i32, decision: &mut Decision) -> Option<i32> {
    let valid: Vec<i32> = proposals.iter().filter_map(|proposal| proposal.as_ref().ok().copied()).collect();
    let failed = proposals.len() - valid.len();
    decision.error = proposals.iter().find_map(|proposal| proposal.as_ref().err().cloned());
    let Some(most) = valid.iter().copied().max() else {
        decision.note("FailedComputeMetricsReplicas", format!("no metric gives a proposal: {current} stay"));
        return None;
    };
    if failed > 0 && most < current {
        let step = format!(
            "with failed metrics ({failed}) nothing goes down from {current}, although {most} are proposed"
        );
        decision.note("FailedComputeMetricsReplicas", step);
        return None;
    }
    let most = most.max(0);
    decision.conditions.push("ValidMetricFound");
    if proposals.len() > 1 {
        decision
            .steps
            .push(format!("the largest proposal is {most} (metrics: {}, failed: {failed})", proposals.len()));
    }
    Some(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpa::spec::{BehaviorSpec, RulesSpec};

    fn settings(min: i32, max: i32) -> Settings {
        let down = RulesSpec { stabilization_window_seconds: Some(0), ..RulesSpec::default() };
        let behavior = BehaviorSpec { scale_up: None, scale_down: Some(down) };
        let behavior = behavior.complete(DOWNSCALE_STABILIZATION);
        Settings { range: Range { min, max }, behavior: Some(behavior), can_wake: true }
    }

    #[test]
    fn a_failing_metric_blocks_only_the_way_down() {
        let with_failure = |proposal| {
            let proposals = [Err("down".to_owned()), Ok(proposal)];
            Controller::default().sync(Seconds::ZERO, 5, &settings(1, 10), &proposals)
        };
        assert_eq!(with_failure(3).replicas, 5);
        assert_eq!(with_failure(7).replicas, 7);
        assert_eq!(with_failure(7).error.as_deref(), Some("down"), "it is still told");
        let alone = Controller::default().sync(Seconds::ZERO, 5, &settings(1, 10), &[Ok(3)]);
        assert_eq!(alone.replicas, 3);
    }

    #[test]
    fn only_what_the_controller_itself_scaled_to_zero_wakes_again() {
        let mut controller = Controller::default();
        let woken =
            |controller: &mut Controller, at| controller.sync(Seconds(at), 0, &settings(0, 5), &[Ok(2)]);
        assert_eq!(woken(&mut controller, 0.0).conditions, ["ScalingDisabled"]);
        assert_eq!(controller.sync(Seconds(15.0), 2, &settings(0, 5), &[Ok(0)]).replicas, 0);
        assert_eq!(woken(&mut controller, 30.0).replicas, 2);
    }

    #[test]
    fn a_negative_proposal_is_none() {
        let decision = Controller::default().sync(Seconds::ZERO, 3, &settings(1, 5), &[Ok(-3)]);
        assert_eq!(decision.replicas, 1);
    }
}
