//! What an answer of the API server that is no success means, and what to do about it.

use super::conflict::{Conflict, in_words};
use super::error::Asked;
use kube::core::Status;

/// Why the API server did not do what was asked, and what to do about it; the hint may be empty.
pub(super) fn words(asked: &Asked, status: &Status, conflicts: &[Conflict]) -> (String, String) {
    let said = one_line(&status.message);
    match status.code {
        401 => (
            "the API server does not accept the credentials".to_owned(),
            "they have expired or are for another cluster: log in again, on GKE with gcloud container clusters \
             get-credentials"
                .to_owned(),
        ),
        403 => (who(&said), lacking(asked)),
        404 => not_found(asked, status, said),
        409 if !conflicts.is_empty() => (
            in_words(conflicts),
            "settle it with the owner, or take the fields over with --force-conflicts".to_owned(),
        ),
        409 if status.is_already_exists() => (said, "somebody else made it first: run the command again".to_owned()),
        409 => (said, "somebody else changed it at the same time: run the command again".to_owned()),
        410 => (said, "what was seen is too old to go on from: run the command again".to_owned()),
        422 => (said, invalid(status)),
        429 => (said, match status.details.as_ref().map_or(0, |details| details.retry_after_seconds) {
            0 => "the API server is busy: wait and try again".to_owned(),
            seconds => format!("the API server is busy: try again in {seconds} s"),
        }),
        503 if is_metrics(asked) => (
            said,
            format!(
                "the adapter behind the API group {} is down: look at its APIService (kubectl get apiservices) and at \
                 the adapter's log",
                asked.group
            ),
        ),
        503 => (said, "the API server, or what serves this API group, is starting or overloaded: try again".to_owned()),
        500.. => (said, "look at the log of the API server".to_owned()),
        _ => (said, String::new()),
    }
}

fn is_metrics(asked: &Asked) -> bool {
    asked.group.ends_with(".metrics.k8s.io")
}

/// A message in one line of a length that can be read; an error page of a proxy is long.
fn one_line(message: &str) -> String {
    const MOST: usize = 400;
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "it says nothing".to_owned() } else { line.chars().take(MOST).collect() }
}

/// Who may not.
fn who(said: &str) -> String {
    let user = said.split_once("User \"").and_then(|(_, rest)| rest.split_once('"')).map(|(user, _)| user);
    match user {
        Some("system:anonymous") => "nobody is logged in: no credentials were sent".to_owned(),
        Some(user) => format!("the user {user} may not"),
        None => said.to_owned(),
    }
}

/// The permission that is missing.
fn lacking(Asked { verb, group, resource, .. }: &Asked) -> String {
    let group =
        if group.is_empty() { "the core API group".to_owned() } else { format!("the API group {group}") };
    format!(
        "it takes the verb {verb} on {resource} of {group}, which the Role that calibrate manifests --rbac writes grants"
    )
}

/// The object, its namespace, or the whole API.
fn not_found(asked: &Asked, status: &Status, said: String) -> (String, String) {
    let kind = status.details.as_ref().map(|details| details.kind.as_str()).unwrap_or_default();
    match (kind, &asked.name) {
        ("namespaces", _) if asked.resource != "namespaces" => {
            let namespace = asked.namespace.as_deref().unwrap_or_default();
            (format!("there is no namespace {namespace}"), "is this the right context?".to_owned())
        }
        ("", _) if is_metrics(asked) => {
            let hint =
                "is a metrics adapter installed, and does it know the metric (kubectl get apiservices)?";
            (said, hint.to_owned())
        }
        ("", _) => {
            let group = if asked.group.is_empty() { "core" } else { &asked.group };
            (
                said,
                format!(
                    "this version of the API group {group} is not in this cluster: a CRD may not be installed"
                ),
            )
        }
        (_, Some(_)) => (said, "look at the name and at the namespace".to_owned()),
        (_, None) => (said, "look at the namespace".to_owned()),
    }
}

/// Every field that was found wrong.
fn invalid(status: &Status) -> String {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
    match fields.as_slice() {
        [] => String::new(),
        fields => format!("mend {}", fields.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::ClusterError;
    use super::*;
    use serde_json::{Value, json};

    fn asked(verb: &'static str, (group, resource): (&str, &str), name: Option<&str>) -> Asked {
        Asked {
            verb,
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: Some("default".to_owned()),
            name: name.map(str::to_owned),
        }
    }

    fn hpa(verb: &'static str, name: Option<&str>) -> Asked {
        asked(verb, ("autoscaling", "horizontalpodautoscalers"), name)
    }

    /// What is said of a recorded answer, made of it as the client does.
    fn said(asked: Asked, exchange: &str) -> String {
        let exchange: Value = serde_json::from_str(exchange).unwrap();
        let (code, body) = (&exchange["response"]["status"], &exchange["response"]["body"]);
        let code = u16::try_from(code.as_u64().unwrap()).unwrap();
        let status = match body {
            Value::String(text) => Status::failure(text.trim(), "Failed to parse error data").with_code(code),
            body => serde_json::from_value(body.clone()).unwrap(),
        };
        assert_eq!(status.code, code);
        ClusterError::of(asked, &kube::Error::Api(Box::new(status))).to_string()
    }

    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!("../../tests/fixtures/kubernetes/", $name, ".json"))
        };
    }

    #[test]
    fn who_may_not_is_told_what_it_takes() {
        let text = said(hpa("patch", Some("gemma-server")), recorded!("403-hpa-patch"));
        assert_eq!(
            text,
            "cannot patch horizontalpodautoscalers.autoscaling 'gemma-server' in the namespace default: the user jane \
             may not (HTTP 403); it takes the verb patch on horizontalpodautoscalers of the API group autoscaling, \
             which the Role that calibrate manifests --rbac writes grants"
        );
        let text = said(asked("list", ("", "pods"), None), recorded!("403-pods-list"));
        assert!(text.contains("cannot list pods in the namespace default: the user jane may not"), "{text}");
        assert!(text.contains("the verb list on pods of the core API group"), "{text}");
        let metric = asked("get", ("custom.metrics.k8s.io", "pods/x"), Some("*"));
        let text = said(metric, recorded!("403-custom-metrics"));
        assert!(text.contains("the verb get on pods/x of the API group custom.metrics.k8s.io"), "{text}");
        let deployment = asked("get", ("apps", "deployments"), Some("tgi-gemma-deployment"));
        let text = said(deployment, recorded!("403-deployment-get"));
        assert!(text.contains("the verb get on deployments of the API group apps"), "{text}");
        let text = said(hpa("create", None), recorded!("403-hpa-create"));
        assert!(text.contains("the verb create on horizontalpodautoscalers"), "{text}");
    }

    #[test]
    fn credentials_that_are_not_accepted_or_not_there_are_told_from_rights_that_lack() {
        let text = said(hpa("list", None), recorded!("401-badtoken"));
        assert!(text.contains("does not accept the credentials (HTTP 401); they have expired"), "{text}");
        let text = said(hpa("list", None), recorded!("403-anonymous"));
        assert!(text.contains("nobody is logged in"), "{text}");
    }

    #[test]
    fn an_object_a_namespace_and_an_api_that_are_not_there_are_told_apart() {
        let text = said(hpa("get", Some("nope")), recorded!("404-hpa"));
        assert!(
            text.contains("autoscalers.autoscaling \"nope\" not found (HTTP 404); look at the name"),
            "{text}"
        );
        let nowhere = Asked { namespace: Some("nope".to_owned()), ..hpa("create", None) };
        assert!(said(nowhere, recorded!("404-ns-create")).contains("there is no namespace nope"));
        let text = said(asked("list", ("keda.sh", "scaledobjects"), None), recorded!("404-path"));
        assert!(
            text.contains("404 page not found (HTTP 404); this version of the API group keda.sh is not"),
            "{text}"
        );
        let text = said(asked("get", ("custom.metrics.k8s.io", "pods/x"), None), recorded!("404-path"));
        assert!(text.contains("is a metrics adapter installed"), "{text}");
    }

    #[test]
    fn what_is_wrong_with_an_object_is_said_field_by_field() {
        let text = said(hpa("patch", Some("gemma-server")), recorded!("bad-min0"));
        assert!(
            text.contains("spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"),
            "{text}"
        );
        assert!(text.ends_with("(HTTP 422); mend spec.minReplicas, spec.metrics"), "{text}");
        let text = said(hpa("patch", Some("gemma-server")), recorded!("patch-json-test-fail-422"));
        assert!(text.ends_with("rejected our request due to an error in our request (HTTP 422)"), "{text}");
    }

    #[test]
    fn conflicts_are_of_owners_of_versions_or_of_names() {
        let text = said(hpa("patch", Some("x")), recorded!("apply-409-fieldconflict"));
        assert!(
            text.contains("'tool-a' owns .spec.maxReplicas, .spec.metrics (HTTP 409); settle it"),
            "{text}"
        );
        let text = said(hpa("update", Some("x")), recorded!("put-409-conflict"));
        assert!(text.ends_with("somebody else changed it at the same time: run the command again"), "{text}");
        let text = said(hpa("create", Some("x")), recorded!("post-409-alreadyexists"));
        assert!(text.contains("somebody else made it first"), "{text}");
    }

    #[test]
    fn an_adapter_that_is_down_answers_in_plain_text() {
        let metric = asked("get", ("custom.metrics.k8s.io", "pods/x"), Some("*"));
        let text = said(metric, recorded!("adapter-down-custom"));
        assert!(
            text.contains("service unavailable (HTTP 503); the adapter behind the API group custom.m"),
            "{text}"
        );
    }

    #[test]
    fn what_is_over_soon_says_when_to_try_again() {
        let said = |code: u16, details: Value| {
            let status: Status =
                serde_json::from_value(json!({ "code": code, "message": "said", "details": details }))
                    .unwrap();
            ClusterError::of(hpa("list", None), &kube::Error::Api(Box::new(status))).to_string()
        };
        let text = said(429, json!({ "retryAfterSeconds": 7 }));
        assert!(text.ends_with("said (HTTP 429); the API server is busy: try again in 7 s"), "{text}");
        assert!(said(410, json!({})).contains("(HTTP 410); what was seen is too old"));
        assert!(said(503, json!({})).contains("(HTTP 503); the API server, or what serves"));
    }

    #[test]
    fn a_page_of_a_proxy_is_said_in_one_line() {
        let status = Status::failure("<html>\n <h1>Bad   Gateway</h1>", "x").with_code(502);
        let text = ClusterError::of(hpa("list", None), &kube::Error::Api(Box::new(status))).to_string();
        assert!(text.contains("<html> <h1>Bad Gateway</h1> (HTTP 502)"), "{text}");
    }
}
