//! What can go wrong with a cluster, in words that say on what and what to do.

use super::conflict::{self, Conflict};
use super::words::words;
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
    #[error("cannot {asked}: {said} (HTTP {status}){}", if .hint.is_empty() { String::new() } else { format!("; {hint}") })]
    Refused {
        /// What was asked.
        asked: Box<Asked>,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        said: String,
        /// What to do; may be empty.
        hint: String,
        /// Fields that belong to somebody else.
        conflicts: Vec<Conflict>,
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
        let conflicts = conflict::conflicts(status);
        let (said, hint) = words(&asked, status, &conflicts);
        ClusterError::Refused { asked, status: status.code, said, hint, conflicts }
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

    /// Fields that belong to somebody else, where that is why.
    pub fn conflicts(&self) -> &[Conflict] {
        match self {
            ClusterError::Refused { conflicts, .. } => conflicts,
            _ => &[],
        }
    }

    /// Whether someone else was first.
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }
}

/// The innermost reason of an error.
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error).to_string()
}
