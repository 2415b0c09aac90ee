//! How an HPA stands, read from its status: does it scale, does it wait, can it not?

use super::metric::HpaMetric;
use serde_json::Value;

/// How an HPA stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It computes a number of replicas from its metrics: what it says.
    Active(String),
    /// The controller has not looked yet, or a metric is not there yet: what it says.
    Waiting(String),
    /// It cannot scale until somebody changes something: what it says.
    Stuck(String),
}

/// Reasons that no time mends.
const FINAL: [&str; 6] = [
    "AmbiguousSelector",
    "FailedGetScale",
    "InvalidMetricSourceType",
    "InvalidSelector",
    "MissingSelector",
    "ScalingDisabled",
];

/// A condition of an HPA.
struct Condition<'a> {
    holds: bool,
    reason: &'a str,
    message: &'a str,
}

fn condition<'a>(hpa: &'a Value, kind: &str) -> Option<Condition<'a>> {
    let conditions = hpa.pointer("/status/conditions")?.as_array()?;
    let found =
        conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))?;
    let text = |field: &str| found.get(field).and_then(Value::as_str).unwrap_or_default();
    Some(Condition { holds: text("status") == "True", reason: text("reason"), message: text("message") })
}

/// How `hpa` stands by its own status.
pub fn standing(hpa: &Value) -> Standing {
    for kind in ["AbleToScale", "ScalingActive"] {
        match condition(hpa, kind) {
            Some(Condition { holds: false, reason, message }) => {
                let text = format!("{reason}: {message}");
                return if FINAL.contains(&reason) { Standing::Stuck(text) } else { Standing::Waiting(text) };
            }
            None => {
                return Standing::Waiting(
                    "the controller has not looked at it yet, which it does every 15 s".to_owned(),
                );
            }
            Some(_) => {}
        }
    }
    if !has_read_a_metric(hpa) {
        return Standing::Waiting("the controller has not looked at it since it was changed".to_owned());
    }
    let message = condition(hpa, "ScalingActive").map(|condition| condition.message).unwrap_or_default();
    Standing::Active(message.to_owned())
}

/// Whether the status is of a metric that the spec has now: conditions outlive a change of the spec.
fn has_read_a_metric(hpa: &Value) -> bool {
    let wanted = HpaMetric::of(hpa);
    let current = hpa.pointer("/status/currentMetrics").and_then(Value::as_array);
    let name = |metric: &Value| {
        let source = metric.get("pods").or_else(|| metric.get("external"))?;
        source.pointer("/metric/name")?.as_str().map(str::to_owned)
    };
    let mut current = current.into_iter().flatten().filter_map(name);
    wanted.is_empty() || current.any(|name| wanted.iter().any(|metric| metric.name == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(exchange: &str) -> Value {
        let exchange: Value = serde_json::from_str(exchange).unwrap();
        exchange["response"]["body"].clone()
    }

    #[test]
    fn an_hpa_that_was_just_made_waits_for_the_controller() {
        let hpa = recorded(include_str!("../../tests/fixtures/kubernetes/apply-create.json"));
        assert!(matches!(standing(&hpa), Standing::Waiting(text) if text.contains("not looked")));
    }

    #[test]
    fn one_that_found_its_metric_is_active() {
        let hpa = recorded(include_str!("../../tests/fixtures/kubernetes/hpa-get-with-status.json"));
        assert!(matches!(standing(&hpa), Standing::Active(text) if text.contains("successfully calculate")));
    }

    #[test]
    fn conditions_of_another_metric_are_from_before_a_change() {
        let mut hpa = recorded(include_str!("../../tests/fixtures/kubernetes/hpa-get-with-status.json"));
        hpa["spec"]["metrics"][0]["pods"]["metric"]["name"] = "another".into();
        assert!(matches!(standing(&hpa), Standing::Waiting(text) if text.contains("since it was changed")));
    }

    #[test]
    fn a_metric_that_fails_may_come_and_an_ambiguous_selector_may_not() {
        let mut hpa = recorded(include_str!("../../tests/fixtures/kubernetes/adapter-down-hpa.json"));
        let Standing::Waiting(text) = standing(&hpa) else { panic!("{:?}", standing(&hpa)) };
        assert!(
            text.starts_with("FailedGetPodsMetric: ") && text.contains("no known available metric"),
            "{text}"
        );
        hpa["status"]["conditions"][1]["reason"] = "AmbiguousSelector".into();
        assert!(matches!(standing(&hpa), Standing::Stuck(_)));
    }
}
