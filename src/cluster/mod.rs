//! Everything that speaks to the Kubernetes API, through a client that is given in.
//!
//! [`client`]: which cluster, and the few requests that are made of it; [`error`]: what the API server says,
//! with the permission that is missing and what to do; [`target`]: the workload that is calibrated, and
//! [`pods`] its pods; [`forward`]: the way to their ports; [`hold`]: keeps it still for a calibration, by a
//! [`lease`] and by pausing what scales it ([`autoscaler`]), and puts everything back; [`permissions`]: the
//! one table of what each command may do, from which [`rbac`] writes Roles; [`compare`], [`diff`], [`owner`],
//! [`conflict`], [`metric`], [`standing`] and [`applied`]: what an apply has to know before, and a rollback after.
//!
//! Invariants: nothing is changed here but what a caller names; every error says which verb on which
//! object in which namespace failed; no token is in any message.

mod applied;
mod autoscaler;
mod client;
mod compare;
mod conflict;
mod diff;
mod error;
mod forward;
mod hold;
mod lease;
mod metric;
mod owner;
mod patch;
mod permissions;
pub mod pods;
mod rbac;
mod service;
mod standing;
mod target;
mod words;
mod write;

pub use applied::{Applied, Changed, FORMAT as APPLIED, Undo, VERSION as APPLIED_VERSION};
pub use autoscaler::{Autoscaler, AutoscalerKind, ORIGINAL, find as autoscalers};
pub use client::{Cluster, Identity, Kind, connect};
pub use compare::{Difference, differences, without_tolerance};
pub use conflict::{Conflict, in_words};
pub use diff::{unified, without_noise};
pub use error::{Asked, ClusterError};
pub use forward::{Forwarder, Way};
pub use hold::{Change, Hold, HoldError, Journal, Restored, Wish, plan, restore_all};
pub use lease::{LeaseError, LeaseTimes, lease_name};
pub use metric::{HpaMetric, Seen};
pub use owner::{Owner, owner};
pub use permissions::{Rule, Task, denied, rules};
pub use rbac::{SERVICE_ACCOUNT, rbac_files};
pub use service::service_url;
pub use standing::{Standing, standing};
pub use target::{Choice, Port, Target, TargetError, TargetName, Workload, waiting};
pub use write::{ApplyMode, as_json, scaled_kind, workload_kind};

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
