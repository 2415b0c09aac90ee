//! What a change comes to, as people read it: a unified diff of two objects without the noise that the
//! API server adds to every one.

use serde_json::{Map, Value};
use similar::TextDiff;

/// Metadata that says nothing of what was asked for.
const NOISE: [&str; 7] =
    ["creationTimestamp", "generation", "managedFields", "namespace", "resourceVersion", "selfLink", "uid"];
/// kubectl's copy of what it applied last, in one long line.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Lines around each change.
const CONTEXT: usize = 3;

/// The unified diff from one object to another, `None` for one that is not there. Empty: there is none.
pub fn unified(before: Option<&Value>, after: Option<&Value>) -> String {
    let text = |object: Option<&Value>| object.map(readable).unwrap_or_default();
    let (before, after) = (text(before), text(after));
    let diff = TextDiff::from_lines(&before, &after);
    let diff = diff.unified_diff().context_radius(CONTEXT).header("before", "after").to_string();
    diff.trim_end().to_owned()
}

/// An object as YAML with its fields in order of their names.
fn readable(object: &Value) -> String {
    serde_saphyr::to_string(&sorted(&without_noise(object))).unwrap_or_else(|_| format!("{object:#}"))
}

/// An object without its status and without what the API server adds to its metadata.
pub fn without_noise(object: &Value) -> Value {
    let mut object = object.clone();
    let Some(fields) = object.as_object_mut() else { return object };
    fields.shift_remove("status");
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !NOISE.contains(&name.as_str()));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.shift_remove(LAST_APPLIED);
        }
        metadata.retain(|_, value| value.as_object().is_none_or(|fields| !fields.is_empty()));
    }
    object
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            let fields = names.into_iter().map(|name| (name.clone(), sorted(&fields[name])));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hpa(target: &str, version: &str) -> Value {
        json!({
            "kind": "HorizontalPodAutoscaler",
            "metadata": {
                "name": "gemma-server", "uid": "1", "resourceVersion": version,
                "managedFields": [{ "manager": version }],
                "annotations": { LAST_APPLIED: version },
            },
            "spec": { "metrics": [{ "type": "Pods", "pods": { "target": { "averageValue": target } } }], "maxReplicas": 5 },
            "status": { "desiredReplicas": version },
        })
    }

    #[test]
    fn only_what_was_asked_for_is_compared() {
        assert_eq!(unified(Some(&hpa("4", "1")), Some(&hpa("4", "2"))), "");
        let diff = unified(Some(&hpa("4", "1")), Some(&hpa("3600m", "2")));
        let changed: Vec<&str> = diff.lines().filter(|line| line.starts_with(['+', '-'])).collect();
        assert_eq!(changed.len(), 4, "{diff}");
        assert!(changed[2].contains("averageValue: ") && changed[2].contains('4'), "{diff}");
        assert!(changed[3].contains("averageValue: 3600m"), "{diff}");
        assert!(!diff.contains("managedFields") && !diff.contains("annotations"), "{diff}");
    }

    #[test]
    fn the_order_of_fields_is_no_change() {
        let one = json!({ "spec": { "a": 1, "b": 2 } });
        let other: Value = serde_json::from_str(r#"{"spec":{"b":2,"a":1}}"#).unwrap();
        assert_eq!(unified(Some(&one), Some(&other)), "");
    }

    #[test]
    fn an_object_that_is_not_there_is_added_or_removed_as_a_whole() {
        let added = unified(None, Some(&hpa("4", "1")));
        assert!(added.lines().skip(3).all(|line| line.starts_with('+')), "{added}");
        let removed = unified(Some(&hpa("4", "1")), None);
        assert!(removed.lines().skip(3).all(|line| line.starts_with('-')), "{removed}");
    }
}
