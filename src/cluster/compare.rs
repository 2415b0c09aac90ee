//! An object as it was written beside the object as it is stored: by value and not by text, since the
//! API server writes quantities in its own form, fills in defaults, and drops fields that it does not
//! know without a word.

use kube_quantity::ParsedQuantity;
use serde_json::Value;
use std::fmt;

/// Fields of an HPA that hold quantities.
const QUANTITIES: [&str; 3] = ["averageValue", "tolerance", "value"];

/// A field that is not stored as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Where: `spec.behavior.scaleUp.tolerance`.
    pub path: String,
    /// As written.
    pub written: Value,
    /// As stored. `None`: the field was dropped.
    pub stored: Option<Value>,
}

impl Difference {
    /// Whether it is an HPA's own tolerance that an older API server dropped.
    pub fn is_dropped_tolerance(&self) -> bool {
        self.stored.is_none() && self.path.ends_with(".tolerance")
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { path, written, stored } = self;
        match stored {
            None => write!(f, "{path}: {written} was dropped"),
            Some(stored) => write!(f, "{path}: {written} is stored as {stored}"),
        }
    }
}

/// What of `written` is not in `stored` with the same value. What is stored besides is no difference.
pub fn differences(written: &Value, stored: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", "", written, Some(stored), &mut found);
    found
}

/// Takes an HPA's own tolerances out of it, for an API server that refuses them. Gives what to say of it.
pub fn without_tolerance(hpa: &mut Value) -> Vec<String> {
    let mut taken = Vec::new();
    for direction in ["scaleUp", "scaleDown"] {
        let rules = hpa.pointer_mut(&format!("/spec/behavior/{direction}")).and_then(Value::as_object_mut);
        if let Some(tolerance) = rules.and_then(|rules| rules.shift_remove("tolerance")) {
            taken.push(format!(
                "spec.behavior.{direction}.tolerance: {tolerance} was left out, since this API server does not know it \
                 (Kubernetes before 1.33); the controller's counts, 0.1 unless it was told another"
            ));
        }
    }
    taken
}

fn compare(path: &str, name: &str, written: &Value, stored: Option<&Value>, found: &mut Vec<Difference>) {
    match (written, stored) {
        (Value::Object(fields), Some(Value::Object(kept))) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&path, name, value, kept.get(name), found);
            }
        }
        (Value::Array(items), Some(Value::Array(kept))) if items.len() == kept.len() => {
            for (index, (item, kept)) in items.iter().zip(kept).enumerate() {
                compare(&format!("{path}[{index}]"), name, item, Some(kept), found);
            }
        }
        // Nothing was written.
        (Value::Null, _) => {}
        (written, Some(stored)) if written == stored => {}
        (written, Some(stored)) if QUANTITIES.contains(&name) && same_quantity(written, stored) => {}
        (written, stored) => found.push(Difference {
            path: path.to_owned(),
            written: written.clone(),
            stored: stored.cloned(),
        }),
    }
}

fn same_quantity(one: &Value, other: &Value) -> bool {
    match (quantity(one), quantity(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

fn quantity(value: &Value) -> Option<ParsedQuantity> {
    match value {
        Value::String(text) => ParsedQuantity::try_from(text.as_str()).ok(),
        Value::Number(number) => ParsedQuantity::try_from(number.to_string()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_compared_by_their_value() {
        for (written, stored) in [
            ("3.6", "3600m"),
            ("4.0", "4"),
            ("1000m", "1"),
            ("3.6001", "3600100u"),
            ("1e3", "1e3"),
            ("2000", "2k"),
            ("0.05", "50m"),
            ("6223m", "6223m"),
        ] {
            let object = |text: &str| json!({ "target": { "averageValue": text } });
            assert_eq!(differences(&object(written), &object(stored)), [], "{written} {stored}");
        }
        let number = json!({ "value": 3.6 });
        assert_eq!(differences(&number, &json!({ "value": "3600m" })), []);
        let apart = differences(&number, &json!({ "value": "3601m" }));
        assert_eq!(apart.len(), 1);
        assert_eq!(apart[0].to_string(), "value: 3.6 is stored as \"3601m\"");
    }

    #[test]
    fn only_quantities_may_be_written_differently() {
        let named = |text: &str| json!({ "metric": { "name": text } });
        assert_eq!(differences(&named("1000m"), &named("1")).len(), 1);
    }

    #[test]
    fn defaults_that_were_filled_in_are_no_difference_and_dropped_fields_are() {
        let written =
            json!({ "spec": { "maxReplicas": 5, "behavior": { "scaleUp": { "tolerance": "50m" } } } });
        let stored = json!({ "spec": { "maxReplicas": 5, "minReplicas": 1, "behavior": { "scaleUp": { "selectPolicy": "Max" } } } });
        let found = differences(&written, &stored);
        assert_eq!(found.len(), 1);
        assert!(found[0].is_dropped_tolerance());
        assert_eq!(found[0].to_string(), "spec.behavior.scaleUp.tolerance: \"50m\" was dropped");
    }

    #[test]
    fn a_list_of_another_length_is_one_difference() {
        let found = differences(&json!({ "metrics": [1, 2] }), &json!({ "metrics": [1] }));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "metrics");
    }
}
