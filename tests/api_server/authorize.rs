//! Who may do what.

use super::asked::Asked;
use serde_json::{Value, json};

/// What the one user of this server may do.
#[derive(Debug, Default)]
pub struct Rights {
    /// Verb, group and resource that are forbidden.
    pub denied: Vec<[String; 3]>,
    /// Where set, nothing is allowed but this: rules of Roles with their namespaces, `None` everywhere.
    pub only: Option<Vec<(Option<String>, Value)>>,
}

impl Rights {
    pub fn allow(&self, asked: &Asked) -> bool {
        if asked.resource.is_empty() || asked.resource.starts_with("selfsubject") {
            return true;
        }
        let resource = asked.full_resource();
        let denied = self
            .denied
            .iter()
            .any(|[verb, group, denied]| *verb == asked.verb && *group == asked.group && *denied == resource);
        let granted = self.only.as_ref().is_none_or(|rules| {
            rules.iter().any(|(namespace, rule)| {
                (namespace.is_none() || *namespace == asked.namespace) && grants(rule, asked, &resource)
            })
        });
        granted && !denied
    }

    /// The answer to a SelfSubjectAccessReview.
    pub fn review(&self, mut review: Value) -> Value {
        let of = |name: &str| {
            let value = review["spec"]["resourceAttributes"][name].as_str();
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let asked = Asked {
            verb: of("verb").unwrap_or_default(),
            group: of("group").unwrap_or_default(),
            resource: of("resource").unwrap_or_default(),
            subresource: of("subresource"),
            namespace: of("namespace"),
            name: of("name"),
            ..Asked::default()
        };
        let allowed = self.allow(&asked);
        review["kind"] = "SelfSubjectAccessReview".into();
        review["apiVersion"] = "authorization.k8s.io/v1".into();
        review["status"] = json!({ "allowed": allowed });
        review
    }
}

fn grants(rule: &Value, asked: &Asked, resource: &str) -> bool {
    let holds = |list: &str, wanted: &str| {
        rule[list].as_array().is_some_and(|all| all.iter().any(|one| one == "*" || one == wanted))
    };
    let named = rule["resourceNames"].as_array().is_none_or(|names| {
        names.is_empty() || asked.name.as_ref().is_some_and(|name| names.iter().any(|one| one == name))
    });
    let any_sub = asked.subresource.as_ref().is_some_and(|sub| holds("resources", &format!("*/{sub}")));
    let all_below = holds("resources", &format!("{}/*", asked.resource)) && asked.subresource.is_some();
    holds("apiGroups", &asked.group)
        && holds("verbs", &asked.verb)
        && (holds("resources", resource) || any_sub || all_below)
        && named
}
