//! The smallest RFC 7386 merge patch from one value to another.

use serde_json::{Map, Value};

/// What brings `from` to `to`; null stands for an absent value. `None`: they are the same.
pub(super) fn difference(from: &Value, to: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (from, to) else {
        return (from != to).then(|| to.clone());
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        if let Some(change) = difference(old.get(key).unwrap_or(&Value::Null), value) {
            patch.insert(key.clone(), change);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// RFC 7386, as the API server reads it.
    fn merged(target: &Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut map = target.as_object().cloned().unwrap_or_default();
        for (key, value) in patch {
            if value.is_null() {
                map.remove(key);
            } else {
                let old = map.get(key).cloned().unwrap_or_default();
                map.insert(key.clone(), merged(&old, value));
            }
        }
        Value::Object(map)
    }

    fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..9).prop_map(Value::from),
            prop::collection::vec(0..3, 0..3).prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
        .prop_map(|value| json!({ "top": value }))
    }

    proptest! {
        #[test]
        fn a_difference_applied_gives_the_other_value(from in object(), to in object()) {
            let got = difference(&from, &to).map_or_else(|| from.clone(), |patch| merged(&from, &patch));
            prop_assert_eq!(got, to);
        }
    }

    #[test]
    fn what_is_the_same_is_left_out() {
        let from = json!({ "a": 1, "b": { "c": 2, "d": 3 } });
        assert_eq!(
            difference(&from, &json!({ "a": 1, "b": { "c": 4 } })),
            Some(json!({ "b": { "d": null, "c": 4 } }))
        );
        assert_eq!(difference(&from, &from), None);
    }
}
