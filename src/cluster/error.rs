//! What can go wrong with a cluster, in words that say on what and what to do.

use std::fmt;

/// What was asked of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// As in a Role: get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    /// API group; empty for the core.
    pub group: String,
    /// The plural, with its subresource as in `pods/portforward`.
    pub resource: String,
    /// The namespace; `None`: of the whole cluster.
    pub namespace: Option<String>,
    /// The object; `None`: all or a new one.
    pub name: Option<String>,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, " '{name}'")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in the namespace {namespace}"),
            None => write!(f, " of the cluster"),
        }
    }
}

/// Why the cluster did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no way to any cluster.
    #[error("no access to a Kubernetes cluster ({0}); set KUBECONFIG, or run inside the cluster")]
    NoConfig(String),
    /// The kubeconfig has no such context.
    #[error("the kubeconfig has no context '{wanted}', it has {}; choose one with --context", listed(.known))]
    NoContext {
        /// The one that was named.
        wanted: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The kubeconfig names no context to begin with.
    #[error("the kubeconfig has no current context, it has {}; choose one with --context", listed(.0))]
    NoCurrentContext(Vec<String>),
    /// The API server refused.
    #[error("cannot {asked}: {said} (HTTP {status}); {hint}")]
    Refused {
        /// What was asked.
        asked: Box<Asked>,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        said: String,
        /// What to do.
        hint: String,
    },
    /// The API server did not answer, or not in a way that is understood.
    #[error("cannot {asked}: {said}; look whether the API server can be reached (kubectl cluster-info)")]
    NoAnswer {
        /// What was asked.
        asked: Box<Asked>,
        /// What happened.
        said: String,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl ClusterError {
    /// What an error of kube's means for what was asked.
    pub fn of(asked: Asked, error: &kube::Error) -> ClusterError {
        let asked = Box::new(asked);
        let kube::Error::Api(status) = error else {
            return ClusterError::NoAnswer { asked, said: root_cause(error) };
        };
        let hint = hint(&asked, status.code, &status.reason);
        let said = said(&status.message);
        ClusterError::Refused { asked, status: status.code, said, hint }
    }

    /// The HTTP status, where there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            ClusterError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether it may go well when it is tried again.
    pub fn may_pass(&self) -> bool {
        match self {
            ClusterError::NoAnswer { .. } => true,
            ClusterError::Refused { status, .. } => *status == 409 || *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// Whether someone else was first.
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }
}

/// A message in one line of a length that can be read; an error page of a proxy is long.
fn said(message: &str) -> String {
    const MOST: usize = 400;
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "it says nothing".to_owned() } else { line.chars().take(MOST).collect() }
}

/// What to do about a status.
fn hint(asked: &Asked, status: u16, reason: &str) -> String {
    let Asked { verb, group, resource, .. } = asked;
    match (status, reason) {
        (401, _) => "the credentials are expired or unknown; log in again, on GKE with gcloud container \
                     clusters get-credentials"
            .to_owned(),
        (403, _) => format!(
            "the user needs the verb {verb} on {resource} of the API group \"{group}\"; calibrate manifests \
             --rbac writes the Roles"
        ),
        (404, "NotFound") => match &asked.name {
            Some(_) => "look at the name and at the namespace".to_owned(),
            None => "look at the namespace".to_owned(),
        },
        (404, _) => format!("the API group \"{group}\" is not installed in this cluster"),
        (409, "AlreadyExists") => "it is there already".to_owned(),
        (409, _) => "someone else changed it at the same time; try again".to_owned(),
        (410, _) => "what was seen is too old to go on from; try again".to_owned(),
        (422, _) => "the object is not valid for this cluster's version".to_owned(),
        (429, _) => "the API server is busy; wait and try again".to_owned(),
        (503, _) => format!(
            "what serves the API group \"{group}\" is down; look at its APIService (kubectl get apiservices)"
        ),
        _ => "look at the log of the API server".to_owned(),
    }
}

/// The innermost reason of an error.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, reason: &str, message: &str) -> String {
        let asked = Asked {
            verb: "patch",
            group: "autoscaling".to_owned(),
            resource: "horizontalpodautoscalers".to_owned(),
            namespace: Some("default".to_owned()),
            name: Some("gemma".to_owned()),
        };
        let status = kube::core::Status::failure(message, reason).with_code(status);
        ClusterError::of(asked, &kube::Error::Api(Box::new(status))).to_string()
    }

    #[test]
    fn an_error_names_verb_object_namespace_and_what_is_missing() {
        let text = refused(403, "Forbidden", "horizontalpodautoscalers is forbidden");
        for part in [
            "cannot patch horizontalpodautoscalers.autoscaling 'gemma' in the namespace default",
            "is forbidden (HTTP 403)",
            "the verb patch on horizontalpodautoscalers of the API group \"autoscaling\"",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(refused(401, "Unauthorized", "Unauthorized").contains("log in again"));
    }

    #[test]
    fn plain_text_bodies_are_said_in_one_line() {
        let text = refused(503, "Failed to parse error data", "service unavailable\n  now\n");
        assert!(text.contains("service unavailable now (HTTP 503)"), "{text}");
        let text = refused(404, "Failed to parse error data", "404 page not found");
        assert!(text.contains("\"autoscaling\" is not installed"), "{text}");
    }
}
