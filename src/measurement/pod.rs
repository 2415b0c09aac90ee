//! What happens to the pods of a target.

use crate::units::Seconds;
use serde::{Deserialize, Serialize};

/// How a pod changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodChange {
    /// It was not there before.
    Came,
    /// It is not there any more, or is being ended.
    Gone,
    /// A container of it ended and was started again.
    Restarted,
    /// It stopped being ready.
    NotReady,
    /// It became ready.
    Ready,
}

impl PodChange {
    /// The word for people.
    pub const fn word(self) -> &'static str {
        match self {
            PodChange::Came => "came",
            PodChange::Gone => "went",
            PodChange::Restarted => "restarted",
            PodChange::NotReady => "stopped being ready",
            PodChange::Ready => "became ready",
        }
    }
}

/// When a pod reached what, in seconds after it was created, by the cluster's clock; its first completion
/// by this machine's. `None`: not known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodStart {
    /// Its name.
    pub pod: String,
    /// When it was created, RFC 3339.
    pub created: String,
    /// A node was found for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Seconds>,
    /// Its image was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled: Option<Seconds>,
    /// The container that serves was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Seconds>,
    /// It was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Seconds>,
    /// It answered its first request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_completion: Option<Seconds>,
}
