//! Cases of the functions behind `behavior`, and of a whole sync, each with the past it starts from.

use super::behavior::{
    Behavior, Event, Events, Range, Rules, StepLimit, change_within, down_limit, limit_by_behavior,
    limit_without_behavior, store, up_limit,
};
use super::cases::{EventAfter, Outcome};
use super::controller::{
    Controller, DOWNSCALE_STABILIZATION, Recommendation, Recommendations, Settings, limit_step,
};
use super::spec::{BehaviorSpec, RulesSpec};
use crate::units::Seconds;
use serde::Deserialize;

/// The moment of every case: ages count back from it.
const NOW: Seconds = Seconds::ZERO;

/// A case, by the function of the controller that it is about.
#[derive(Debug, Deserialize)]
#[serde(tag = "function", rename_all = "camelCase")]
pub(super) enum BehaviorCase {
    ConvertDesiredReplicasWithBehaviorRate(RateCase),
    ConvertDesiredReplicasWithRules(StepCase),
    CalculateScaleUpLimitWithScalingRules(LimitCase),
    CalculateScaleDownLimitWithBehaviors(LimitCase),
    StabilizeRecommendation(WindowCase),
    StabilizeRecommendationWithBehaviors(WindowsCase),
    StoreScaleEvent(StoreCase),
    Controller(Box<ControllerCase>),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PastEvent {
    replica_change: i32,
    age_seconds: f64,
    #[serde(default)]
    outdated: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PastRecommendation {
    replicas: i32,
    age_seconds: f64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RateCase {
    min_replicas: Option<i32>,
    max_replicas: i32,
    current_replicas: i32,
    desired_replicas: i32,
    scale_up: Option<RulesSpec>,
    scale_down: Option<RulesSpec>,
    #[serde(default)]
    scale_up_events: Vec<PastEvent>,
    #[serde(default)]
    scale_down_events: Vec<PastEvent>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StepCase {
    min_replicas: Option<i32>,
    max_replicas: i32,
    current_replicas: i32,
    desired_replicas: i32,
    scale_up_limit_factor_in_test: Option<f64>,
    scale_up_limit_minimum: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LimitCase {
    current_replicas: i32,
    rules: Option<RulesSpec>,
    #[serde(default)]
    scale_up_events: Vec<PastEvent>,
    #[serde(default)]
    scale_down_events: Vec<PastEvent>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WindowCase {
    downscale_stabilisation_seconds: Option<f64>,
    #[serde(default)]
    recommendations: Vec<PastRecommendation>,
    desired_replicas: i32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WindowsCase {
    #[serde(default)]
    recommendations: Vec<PastRecommendation>,
    current_replicas: i32,
    desired_replicas: i32,
    scale_up_stabilization_window_seconds: f64,
    scale_down_stabilization_window_seconds: f64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoreCase {
    replica_change: i32,
    #[serde(default)]
    previous_events: Vec<PastEvent>,
    rules: Option<RulesSpec>,
}

/// A whole sync. Where the case does not say what the metrics propose, they are taken to be at their target
/// if it gives `statusReplicas`, and else to press against the limit that it is about: the lower one if its
/// name speaks of a minimum, else the upper one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ControllerCase {
    test: Option<String>,
    behavior: Option<BehaviorSpec>,
    scale_up: Option<RulesSpec>,
    scale_down: Option<RulesSpec>,
    downscale_stabilisation_seconds: Option<f64>,
    scale_up_limit_factor_in_test: Option<f64>,
    scale_up_limit_minimum: Option<f64>,
    min_replicas: Option<i32>,
    max_replicas: Option<i32>,
    spec_replicas: i32,
    status_replicas: Option<i32>,
    proposed_replicas: Option<i32>,
    metrics: Option<Vec<String>>,
    recommendations: Option<Vec<PastRecommendation>>,
    #[serde(default)]
    scale_up_events: Vec<PastEvent>,
    #[serde(default)]
    scale_down_events: Vec<PastEvent>,
}

impl BehaviorCase {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            BehaviorCase::ConvertDesiredReplicasWithBehaviorRate(case) => case.outcome(),
            BehaviorCase::ConvertDesiredReplicasWithRules(case) => case.outcome(),
            BehaviorCase::CalculateScaleUpLimitWithScalingRules(case) => case.outcome(true),
            BehaviorCase::CalculateScaleDownLimitWithBehaviors(case) => case.outcome(false),
            BehaviorCase::StabilizeRecommendation(case) => case.outcome(),
            BehaviorCase::StabilizeRecommendationWithBehaviors(case) => case.outcome(),
            BehaviorCase::StoreScaleEvent(case) => case.outcome(),
            BehaviorCase::Controller(case) => case.outcome(),
        }
    }
}

fn decided(replicas: i32, reason: String) -> Outcome {
    Outcome { replicas: Some(replicas), reason: Some(reason), ..Outcome::default() }
}

fn limited(desired: i32, (replicas, condition): (i32, &'static str)) -> Outcome {
    let reason = limit_step(desired, (replicas, condition));
    Outcome { conditions: vec![condition], ..decided(replicas, reason) }
}

fn events(past: &[PastEvent]) -> Vec<Event> {
    let event = |past: &PastEvent| Event {
        change: past.replica_change,
        at: Seconds(-past.age_seconds),
        outdated: past.outdated,
    };
    past.iter().map(event).collect()
}

fn both(up: &[PastEvent], down: &[PastEvent]) -> Events {
    Events { up: events(up), down: events(down) }
}

fn recommendations(past: &[PastRecommendation]) -> Recommendations {
    let recommendation = |past: &PastRecommendation| Recommendation {
        replicas: past.replicas,
        at: Seconds(-past.age_seconds),
    };
    Recommendations(past.iter().map(recommendation).collect())
}

fn stabilized(proposal: i32, stable: i32, log: &Recommendations) -> Outcome {
    let reason = format!("proposed {proposal}, with the recommendations of the window {stable}");
    let after = log.0.iter().map(|recommendation| recommendation.replicas).collect();
    Outcome { recommendations_after: Some(after), ..decided(stable, reason) }
}

fn rules(given: Option<&RulesSpec>, up: bool) -> Rules {
    let given = given.cloned().unwrap_or_default();
    if up { given.complete_up() } else { given.complete_down(DOWNSCALE_STABILIZATION) }
}

fn step_limit(factor: Option<f64>, least: Option<f64>) -> StepLimit {
    let default = StepLimit::default();
    StepLimit { factor: factor.unwrap_or(default.factor), least: least.unwrap_or(default.least) }
}

impl RateCase {
    fn outcome(&self) -> Outcome {
        let range = Range { min: self.min_replicas.unwrap_or(1), max: self.max_replicas };
        let behavior = Behavior {
            up: rules(self.scale_up.as_ref(), true),
            down: rules(self.scale_down.as_ref(), false),
        };
        let events = both(&self.scale_up_events, &self.scale_down_events);
        let desired = self.desired_replicas;
        limited(desired, limit_by_behavior(self.current_replicas, desired, range, &behavior, &events, NOW))
    }
}

impl StepCase {
    fn outcome(&self) -> Outcome {
        let range = Range { min: self.min_replicas.unwrap_or(1), max: self.max_replicas };
        let step = step_limit(self.scale_up_limit_factor_in_test, self.scale_up_limit_minimum);
        let desired = self.desired_replicas;
        limited(desired, limit_without_behavior(self.current_replicas, desired, range, step))
    }
}

impl LimitCase {
    fn outcome(&self, up: bool) -> Outcome {
        let events = both(&self.scale_up_events, &self.scale_down_events);
        let rules = rules(self.rules.as_ref(), up);
        let current = self.current_replicas;
        let (limit, word) = if up {
            (up_limit(current, &events, &rules, NOW), "up")
        } else {
            (down_limit(current, &events, &rules, NOW), "down")
        };
        decided(limit, format!("from {current} the policies let replicas go {word} to {limit}"))
    }
}

impl WindowCase {
    fn outcome(&self) -> Outcome {
        let mut log = recommendations(&self.recommendations);
        let window = self.downscale_stabilisation_seconds.map_or(DOWNSCALE_STABILIZATION, Seconds);
        let stable = log.stabilize(NOW, self.desired_replicas, window);
        stabilized(self.desired_replicas, stable, &log)
    }
}

impl WindowsCase {
    fn outcome(&self) -> Outcome {
        let mut log = recommendations(&self.recommendations);
        let up = Seconds(self.scale_up_stabilization_window_seconds);
        let down = Seconds(self.scale_down_stabilization_window_seconds);
        let stable = log.stabilize_between(NOW, self.current_replicas, self.desired_replicas, up, down);
        stabilized(self.desired_replicas, stable, &log)
    }
}

impl StoreCase {
    /// Without rules there is no `behavior`, and nothing is stored.
    fn outcome(&self) -> Outcome {
        let mut past = events(&self.previous_events);
        let recent = change_within(60, &past, NOW);
        if let Some(given) = &self.rules {
            store(&mut past, NOW, &rules(Some(given), true), self.replica_change);
        }
        let after = |event: &Event| EventAfter { replica_change: event.change, outdated: event.outdated };
        let reason = format!("{recent} within the last 60 s; {} events remembered afterwards", past.len());
        Outcome {
            reason: Some(reason),
            events_after: Some(past.iter().map(after).collect()),
            change_within_last_60s: Some(recent),
            ..Outcome::default()
        }
    }
}

impl ControllerCase {
    fn outcome(&self) -> Outcome {
        let proposals = match self.proposals() {
            Ok(proposals) => proposals,
            Err(error) => return Outcome { error: Some(error), ..Outcome::default() },
        };
        let mut controller = Controller {
            recommendations: self.recommendations.as_deref().map(recommendations),
            events: both(&self.scale_up_events, &self.scale_down_events),
            step_limit: step_limit(self.scale_up_limit_factor_in_test, self.scale_up_limit_minimum),
            ..Controller::default()
        };
        if let Some(seconds) = self.downscale_stabilisation_seconds {
            controller.downscale_stabilization = Seconds(seconds);
        }
        let range = Range { min: self.min_replicas.unwrap_or(1), max: self.max_replicas.unwrap_or(i32::MAX) };
        let behavior = self.behavior().map(|behavior| behavior.complete(controller.downscale_stabilization));
        let settings = Settings { range, behavior, can_wake: false };
        let mut decision = controller.sync(NOW, self.spec_replicas, &settings, &proposals);
        decision.steps.splice(..0, self.assumption().map(str::to_owned));
        Outcome {
            conditions: decision.conditions,
            error: decision.error,
            ..decided(decision.replicas, decision.steps.join("; "))
        }
    }

    fn behavior(&self) -> Option<BehaviorSpec> {
        let rules = BehaviorSpec { scale_up: self.scale_up.clone(), scale_down: self.scale_down.clone() };
        let bare = (rules.scale_up.is_some() || rules.scale_down.is_some()).then_some(rules);
        self.behavior.clone().or(bare)
    }

    /// What is taken for granted where the case does not say what the metrics propose.
    fn assumption(&self) -> Option<&'static str> {
        let told = self.metrics.is_some() || self.proposed_replicas.is_some();
        let assumed = match self.status_replicas {
            Some(_) => "no proposal is given, so the metrics are taken to be at their target",
            None if self.is_about_the_minimum() => {
                "no proposal is given, so the metrics of a case about the minimum are taken to ask for nothing"
            }
            None => "no proposal is given, so the metrics are taken to ask for as much as they get",
        };
        (!told).then_some(assumed)
    }

    fn is_about_the_minimum(&self) -> bool {
        self.test.as_ref().is_some_and(|name| name.contains("Min"))
    }

    fn proposals(&self) -> Result<Vec<Result<i32, String>>, String> {
        if let Some(metrics) = &self.metrics {
            return metrics.iter().map(|metric| read_metric(metric)).collect();
        }
        let held = self.status_replicas.map(|_| self.spec_replicas);
        let pressed = if self.is_about_the_minimum() { 0 } else { i32::MAX };
        Ok(vec![Ok(self.proposed_replicas.or(held).unwrap_or(pressed))])
    }
}

/// A metric in words: `valid -> 4`, `valid -> below 5`, `valid -> above 5`; any other word is one that fails.
fn read_metric(text: &str) -> Result<Result<i32, String>, String> {
    if !text.trim_start().starts_with("valid") {
        return Ok(Err(format!("a metric is {text}")));
    }
    let proposal = text.split_once("->").map(|(_, proposal)| proposal.trim());
    let number = |text: &str| text.trim().parse::<i32>().ok();
    let replicas = proposal.and_then(|proposal| {
        let below = proposal.strip_prefix("below").and_then(number).map(|limit| limit.saturating_sub(1));
        let above = proposal.strip_prefix("above").and_then(number).map(|limit| limit.saturating_add(1));
        below.or(above).or_else(|| number(proposal))
    });
    replicas.map(Ok).ok_or_else(|| format!("'{text}' is no metric; expected 'valid -> 4' or 'invalid'"))
}
