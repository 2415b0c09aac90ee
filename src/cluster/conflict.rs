//! Server-side apply refused because a field belongs to somebody else: to whom, and which.

use kube::core::Status;
use std::collections::BTreeMap;

/// A field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Conflict {
    /// Who owns it: a field manager like `kubectl` or `argocd-controller`.
    pub manager: String,
    /// The field: `.spec.metrics`.
    pub field: String,
}

/// The reason of each cause.
const REASON: &str = "FieldManagerConflict";

/// The conflicts of an answer; none where it is refused for another reason.
pub(super) fn conflicts(status: &Status) -> Vec<Conflict> {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let of_fields = causes.iter().filter(|cause| cause.reason == REASON);
    of_fields.map(|cause| Conflict { manager: manager(&cause.message), field: cause.field.clone() }).collect()
}

/// `conflict with "kubectl-client-side-apply" using autoscaling/v2` without the words around it. A name
/// is quoted as Go does, so one with a quote or a backslash in it has more of them.
fn manager(message: &str) -> String {
    let quoted = message.find('"').map(|from| &message[from..]);
    let name = quoted.and_then(|text| serde_json::Deserializer::from_str(text).into_iter::<String>().next());
    name.and_then(Result::ok).unwrap_or_else(|| message.to_owned())
}

/// In one line: each owner with its fields.
pub fn in_words(conflicts: &[Conflict]) -> String {
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Conflict { manager, field } in conflicts {
        owners.entry(manager).or_default().push(field);
    }
    let owned = owners.iter().map(|(owner, fields)| format!("'{owner}' owns {}", fields.join(", ")));
    owned.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(causes: &serde_json::Value) -> Status {
        serde_json::from_value(json!({ "code": 409, "details": { "causes": causes } })).unwrap()
    }

    /// The answer in a recorded exchange.
    fn recorded(exchange: &str) -> Status {
        let exchange: serde_json::Value = serde_json::from_str(exchange).unwrap();
        serde_json::from_value(exchange["response"]["body"].clone()).unwrap()
    }

    #[test]
    fn owners_and_fields_are_told_from_the_recorded_answer() {
        let recorded = recorded(include_str!("../../tests/fixtures/kubernetes/apply-409-fieldconflict.json"));
        let found = conflicts(&recorded);
        assert_eq!(in_words(&found), "'tool-a' owns .spec.maxReplicas, .spec.metrics");
    }

    #[test]
    fn another_conflict_is_none_of_fields() {
        let recorded = recorded(include_str!("../../tests/fixtures/kubernetes/put-409-conflict.json"));
        assert_eq!(recorded.code, 409);
        assert_eq!(conflicts(&recorded), []);
    }

    #[test]
    fn a_manager_is_known_by_its_name_alone() {
        let causes = json!([
            { "reason": REASON, "message": "conflict with \"kubectl-client-side-apply\" using autoscaling/v2", "field": ".spec.minReplicas" },
            { "reason": REASON, "message": "conflict with \"a \\\"b\\\"\" with subresource \"scale\"", "field": ".spec.replicas" },
        ]);
        let found = conflicts(&status(&causes));
        assert_eq!(found[0].manager, "kubectl-client-side-apply");
        assert_eq!(found[1].manager, "a \"b\"");
        let unknown = json!([{ "reason": REASON, "message": "a conflict", "field": ".spec" }]);
        assert_eq!(
            conflicts(&status(&unknown))[0].manager,
            "a conflict",
            "what cannot be taken apart is shown whole"
        );
    }
}
