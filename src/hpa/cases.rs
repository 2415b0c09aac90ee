//! Decisions written down as cases: of the replica calculator, of the functions behind `behavior`, of the
//! controller, and recorded runs.
//!
//! What a case expects is never read. A case that cannot be read gives an outcome with an error, so that the
//! outcomes stay in the order of the cases.

use super::behavior_cases::BehaviorCase;
use super::recording::{Recording, Replay, replay};
use super::replica_calculator::{Phase, Pod, Source, Target, Workload, propose};
use super::tolerance::{Generation, Tolerances};
use crate::units::Milli;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Pods that a case may have; no cluster holds more.
const MOST_PODS: usize = 1_000_000;

/// What a document of cases or a recorded run gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Evaluation {
    /// One outcome per case, in their order.
    Cases(Vec<Outcome>),
    /// A recorded run, decided again.
    Run(Replay),
}

/// The decision on one case. What does not apply is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Name of the case.
    pub name: String,
    /// The replicas or the limit.
    pub replicas: Option<i32>,
    /// The usage that the HPA's status would show, in milli-units.
    pub usage_milli: Option<i64>,
    /// How it came about, step by step.
    pub reason: Option<String>,
    /// Why there is no decision.
    pub error: Option<String>,
    /// The reasons of the HPA's conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<&'static str>,
    /// The recommendations that are remembered afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommendations_after: Option<Vec<i32>>,
    /// The scale events that are remembered afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_after: Option<Vec<EventAfter>>,
    /// The change within the last minute, before this one.
    #[serde(skip_serializing_if = "Option::is_none", rename = "changeWithinLast60s")]
    pub change_within_last_60s: Option<i32>,
}

/// A scale event that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventAfter {
    /// Pods added or removed.
    pub replica_change: i32,
    /// Whether its place may be taken.
    pub outdated: bool,
}

/// A document that holds neither cases nor a recorded run.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// Not a case by its fields.
    #[error("neither a case (with 'kind' or 'function'), a list of cases, nor a recorded run (with 'syncs')")]
    Unknown,
    /// A recorded run that lacks something.
    #[error("not a recorded run of a controller: {0}")]
    Run(serde_json::Error),
}

/// Decides a case, a list of cases, an object whose `cases` is such a list, or a recorded run.
pub fn evaluate(document: &Value) -> Result<Evaluation, CaseError> {
    if document.get("syncs").is_some() {
        let recording = Recording::deserialize(document).map_err(CaseError::Run)?;
        return Ok(Evaluation::Run(replay(&recording)));
    }
    let list = document.get("cases").unwrap_or(document).as_array();
    match list {
        Some(cases) => Ok(Evaluation::Cases(cases.iter().map(outcome).collect())),
        None if is_case(document) => Ok(Evaluation::Cases(vec![outcome(document)])),
        None => Err(CaseError::Unknown),
    }
}

fn is_case(case: &Value) -> bool {
    case.get("kind").is_some() || case.get("function").is_some()
}

fn outcome(case: &Value) -> Outcome {
    let name = case.get("name").or_else(|| case.get("test")).and_then(Value::as_str).unwrap_or_default();
    let decided = if case.get("function").is_some() {
        BehaviorCase::deserialize(case).map(|case| case.outcome())
    } else {
        CalculatorCase::deserialize(case).map(|case| case.outcome())
    };
    let outcome =
        decided.unwrap_or_else(|error| Outcome::failed(format!("the case cannot be read: {error}")));
    Outcome { name: name.to_owned(), ..outcome }
}

impl Outcome {
    fn failed(error: String) -> Outcome {
        Outcome { error: Some(error), ..Outcome::default() }
    }
}

/// A metric, pods and a target.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CalculatorCase {
    kind: Kind,
    current_replicas: i32,
    status_replicas: Option<i32>,
    target_milli: i64,
    metric_levels_milli: Option<Vec<Option<i64>>>,
    #[serde(default)]
    pod_phase: Vec<Option<Phase>>,
    #[serde(default)]
    pod_readiness: Vec<Option<Readiness>>,
    #[serde(default)]
    pod_deleted: Vec<bool>,
    pod_count: Option<usize>,
    tolerance: Option<ToleranceFields>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Kind {
    #[serde(rename = "Pods/AverageValue")]
    Pods,
    #[serde(rename = "Object/Value")]
    ObjectValue,
    #[serde(rename = "Object/AverageValue")]
    ObjectAverageValue,
    #[serde(rename = "External/Value")]
    ExternalValue,
    #[serde(rename = "External/AverageValue")]
    ExternalAverageValue,
}

/// The status of a Ready condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Readiness {
    True,
    False,
    Unknown,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToleranceFields {
    scale_up: f64,
    scale_down: f64,
}

impl Kind {
    fn source_and_target(self, target: Milli) -> (Source, Target) {
        match self {
            Kind::Pods => (Source::Pods, Target::AverageValue(target)),
            Kind::ObjectValue => (Source::Object, Target::Value(target)),
            Kind::ObjectAverageValue => (Source::Object, Target::AverageValue(target)),
            Kind::ExternalValue => (Source::External, Target::Value(target)),
            Kind::ExternalAverageValue => (Source::External, Target::AverageValue(target)),
        }
    }
}

impl CalculatorCase {
    fn outcome(&self) -> Outcome {
        let (source, target) = self.kind.source_and_target(Milli(self.target_milli));
        let levels = self.metric_levels_milli.as_deref().unwrap_or_default();
        let samples: Vec<Option<Milli>> = levels.iter().map(|level| level.map(Milli)).collect();
        let reporting = if source == Source::Pods { levels.len() } else { 0 };
        let current = usize::try_from(self.current_replicas).unwrap_or(0);
        let count = self.pod_count.unwrap_or(current.max(self.pod_phase.len()).max(reporting));
        if count > MOST_PODS {
            return Outcome::failed(format!("{count} pods are too many; at most {MOST_PODS} are modelled"));
        }
        let pod = |index: usize| Pod {
            phase: self.pod_phase.get(index).copied().flatten().unwrap_or_default(),
            ready: self
                .pod_readiness
                .get(index)
                .copied()
                .flatten()
                .is_none_or(|ready| ready == Readiness::True),
            deleted: self.pod_deleted.get(index).copied().unwrap_or_default(),
        };
        let workload = Workload {
            spec_replicas: self.current_replicas,
            status_replicas: self.status_replicas.unwrap_or(self.current_replicas),
            pods: (0..count).map(pod).collect(),
        };
        let tolerances = self.tolerance.map_or_else(Tolerances::default, |fields| Tolerances {
            up: fields.scale_up,
            down: fields.scale_down,
            generation: Generation::Inclusive,
        });
        match propose(source, target, &workload, &samples, tolerances) {
            Ok(proposal) => Outcome {
                replicas: Some(proposal.replicas),
                usage_milli: Some(proposal.usage.0),
                reason: Some(proposal.steps.join("; ")),
                ..Outcome::default()
            },
            Err(error) => Outcome::failed(error.to_string()),
        }
    }
}
