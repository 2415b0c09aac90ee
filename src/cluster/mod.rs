//! Everything that speaks to the Kubernetes API, through a client that is given in.
//!
//! [`client`]: which cluster, and the few requests that are made of it; [`error`]: what the API server says,
//! with the permission that is missing and what to do.
//!
//! Invariants: nothing is changed here but what a caller names; every error says which verb on which
//! object in which namespace failed; no token is in any message; nothing is asked for that the table of
//! `permissions` does not hold.

mod applied;
mod client;
mod compare;
mod conflict;
mod diff;
mod error;
mod forward;
mod metric;
mod owner;
pub mod pods;
mod permissions;
mod rbac;
mod standing;
mod target;
mod words;
mod write;

pub use applied::{Applied, Changed, FORMAT as APPLIED, Undo, VERSION as APPLIED_VERSION};
pub use client::{Cluster, Identity, Kind, connect};
pub use compare::{Difference, differences, without_tolerance};
pub use conflict::{Conflict, conflicts, in_words};
pub use diff::{unified, without_noise};
pub use error::{Asked, ClusterError};
pub use forward::{Forwarder, Way};
pub use metric::{HpaMetric, Seen, selector};
pub use owner::{Owner, owner};
pub use permissions::{Rule, Task, denied, rules};
pub use rbac::{SERVICE_ACCOUNT, rbac_files};
pub use standing::{Standing, limited, standing};
pub use target::{Choice, Port, Target, TargetError, TargetName, Workload, waiting};
pub use write::{ApplyMode, as_json, scaled_kind};

/// Who changes fields, in managed fields.
pub const MANAGER: &str = "calibrate";

/// The kinds of objects that are asked for.
pub mod kinds {
    use super::Kind;

    /// Deployments.
    pub const DEPLOYMENT: Kind = Kind::new("apps", "v1", "Deployment", "deployments");
    /// StatefulSets.
    pub const STATEFUL_SET: Kind = Kind::new("apps", "v1", "StatefulSet", "statefulsets");
    /// LeaderWorkerSets, where they are installed.
    pub const LEADER_WORKER_SET: Kind =
        Kind::new("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet", "leaderworkersets");
    /// Pods.
    pub const POD: Kind = Kind::new("", "v1", "Pod", "pods");
    /// Services.
    pub const SERVICE: Kind = Kind::new("", "v1", "Service", "services");
    /// Events.
    pub const EVENT: Kind = Kind::new("", "v1", "Event", "events");
    /// HorizontalPodAutoscalers.
    pub const HPA: Kind =
        Kind::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers");
    /// KEDA's ScaledObjects, where they are installed.
    pub const SCALED_OBJECT: Kind = Kind::new("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects");
    /// VerticalPodAutoscalers, where they are installed.
    pub const VPA: Kind =
        Kind::new("autoscaling.k8s.io", "v1", "VerticalPodAutoscaler", "verticalpodautoscalers");
    /// Leases.
    pub const LEASE: Kind = Kind::new("coordination.k8s.io", "v1", "Lease", "leases");
}
