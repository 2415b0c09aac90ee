//! The parts of an autoscaling/v2 HorizontalPodAutoscaler that the controller decides by, and the API's
//! defaults for what is left out.

use super::behavior::{Behavior, Policy, Rules, SelectPolicy};
use super::quantity::Quantity;
use super::replica_calculator::{Source, Target};
use super::tolerance::{Generation, Tolerances};
use crate::units::Seconds;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `spec` of an HPA.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HpaSpec {
    /// Fewest replicas; 1 where absent.
    pub min_replicas: Option<i32>,
    /// Most replicas.
    pub max_replicas: i32,
    /// What to scale on.
    #[serde(default)]
    pub metrics: Vec<MetricSpec>,
    /// How fast to scale. Absent is not the same as empty.
    pub behavior: Option<BehaviorSpec>,
}

/// One metric of the spec. Exactly the source that `kind` names is there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricSpec {
    /// `Pods`, `Object`, `External`, or another that this model does not know.
    #[serde(rename = "type")]
    pub kind: String,
    /// For `Pods`.
    pub pods: Option<SourceSpec>,
    /// For `Object`.
    pub object: Option<SourceSpec>,
    /// For `External`.
    pub external: Option<SourceSpec>,
}

/// A metric and what it is held against.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SourceSpec {
    /// Which metric.
    pub metric: MetricName,
    /// Its target.
    pub target: TargetSpec,
}

/// The name of a metric, and which of its series are meant. The controller reckons the same with any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct MetricName {
    /// The name.
    pub name: String,
    /// Which series.
    #[serde(default)]
    pub selector: Option<Selector>,
}

/// A selector of series, as far as it names labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels and their values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// A target as it is written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetSpec {
    /// `Value` or `AverageValue`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// For the metric as a whole.
    pub value: Option<Quantity>,
    /// Per replica.
    pub average_value: Option<Quantity>,
}

/// `behavior` as it is written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BehaviorSpec {
    /// On the way up.
    pub scale_up: Option<RulesSpec>,
    /// On the way down.
    pub scale_down: Option<RulesSpec>,
}

/// The rules of one direction as they are written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RulesSpec {
    /// Seconds of recommendations to look back on.
    pub stabilization_window_seconds: Option<u32>,
    /// Which policy counts.
    pub select_policy: Option<SelectPolicy>,
    /// The policies; where given they replace the default list.
    pub policies: Option<Vec<Policy>>,
    /// Tolerance of this direction, as a fraction of one.
    pub tolerance: Option<Quantity>,
}

/// A metric that the controller cannot compute with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMetric {
    /// CPU, memory and the like.
    #[error("metrics of type '{0}' are not modelled; Pods, Object and External are")]
    NotModelled(String),
    /// The type names a source that is not there, or its target lacks the value.
    #[error("the {0} metric lacks its source or its target")]
    Incomplete(String),
}

impl MetricSpec {
    /// The metric that is meant, where the type's source is there.
    pub fn metric(&self) -> Option<&MetricName> {
        let given = match self.kind.as_str() {
            "Pods" => &self.pods,
            "Object" => &self.object,
            "External" => &self.external,
            _ => &None,
        };
        given.as_ref().map(|given| &given.metric)
    }

    /// The source, the name and the target that the controller takes.
    pub fn resolve(&self) -> Result<(Source, &str, Target), BadMetric> {
        let (source, given) = match self.kind.as_str() {
            "Pods" => (Source::Pods, &self.pods),
            "Object" => (Source::Object, &self.object),
            "External" => (Source::External, &self.external),
            other => return Err(BadMetric::NotModelled(other.to_owned())),
        };
        let incomplete = || BadMetric::Incomplete(self.kind.clone());
        let given = given.as_ref().ok_or_else(incomplete)?;
        let value = given.target.value.map(|quantity| Target::Value(quantity.milli()));
        let average = given.target.average_value.map(|quantity| Target::AverageValue(quantity.milli()));
        let target = match source {
            Source::External => average.or(value),
            Source::Object if given.target.kind == "Value" => value,
            Source::Object if given.target.kind != "AverageValue" => None,
            Source::Pods | Source::Object => average,
        };
        Ok((source, &given.metric.name, target.ok_or_else(incomplete)?))
    }
}

impl HpaSpec {
    /// Whether a metric is there that can be read without any pod, which scaling from zero needs.
    pub fn can_wake(&self) -> bool {
        self.metrics.iter().any(|metric| ["Object", "External"].contains(&metric.kind.as_str()))
    }

    /// The tolerances: the fields of `behavior`, else the controller's flag.
    pub fn tolerances(&self, flag: f64) -> Tolerances {
        let of = |rules: fn(&BehaviorSpec) -> Option<&RulesSpec>| {
            let quantity = self.behavior.as_ref().and_then(rules).and_then(|rules| rules.tolerance);
            quantity.map_or(flag, Quantity::approximate)
        };
        Tolerances {
            up: of(|behavior| behavior.scale_up.as_ref()),
            down: of(|behavior| behavior.scale_down.as_ref()),
            generation: Generation::Inclusive,
        }
    }
}

impl BehaviorSpec {
    /// With the API's defaults; `down_window` is the controller's flag.
    pub fn complete(&self, down_window: Seconds) -> Behavior {
        let up = self.scale_up.clone().unwrap_or_default();
        let down = self.scale_down.clone().unwrap_or_default();
        Behavior { up: up.complete_up(), down: down.complete_down(down_window) }
    }
}

impl RulesSpec {
    /// As rules for the way up: 4 pods or 100 % per 15 s, whichever is more, at once.
    pub fn complete_up(&self) -> Rules {
        self.complete(Seconds::ZERO, &[Policy::pods(4, 15), Policy::percent(100, 15)])
    }

    /// As rules for the way down: 100 % per 15 s, after the controller's window.
    pub fn complete_down(&self, window: Seconds) -> Rules {
        self.complete(window, &[Policy::percent(100, 15)])
    }

    fn complete(&self, window: Seconds, policies: &[Policy]) -> Rules {
        Rules {
            window: self.stabilization_window_seconds.map_or(window, |seconds| Seconds(f64::from(seconds))),
            select: self.select_policy.unwrap_or_default(),
            policies: self.policies.clone().unwrap_or_else(|| policies.to_vec()),
        }
    }
}
