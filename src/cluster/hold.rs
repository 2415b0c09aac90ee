//! Holds a target still for a calibration: the lease, autoscalers paused, replicas set. And lets go of it,
//! as it was found.
//!
//! What is going to be changed is written down before it is, in the lease and where the caller wants it;
//! an autoscaler's pause carries its original too. Invariant: the lease is taken away only after everything
//! was put back, so that what remains can be found by it.

use super::autoscaler::{self, Autoscaler, AutoscalerKind};
use super::client::Cluster;
use super::error::ClusterError;
use super::kinds;
use super::lease::{self, Holder, LABEL, Lease, LeaseError, LeaseTimes, lease_name};
use super::target::{Target, Workload};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::time::Duration;
use tokio::sync::watch;

/// Something that is changed for a calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// An autoscaler is paused.
    Paused {
        /// Of which kind it is.
        kind: AutoscalerKind,
        /// Its name.
        name: String,
        /// What its object had; null where it had nothing.
        original: Value,
    },
    /// Replicas are set.
    Scaled {
        /// What owns the pods.
        workload: Workload,
        /// Its name.
        name: String,
        /// As it was.
        from: u32,
        /// As it is set.
        to: u32,
    },
}

/// What is written down before anything is changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// The version of this format.
    pub version: u32,
    /// The cluster, as its kubeconfig calls it.
    pub cluster: String,
    /// The namespace of everything below.
    pub namespace: String,
    /// The lease.
    pub lease: String,
    /// What is changed.
    pub changes: Vec<Change>,
    /// Whether it was put back.
    pub restored: bool,
}

/// What a calibration wants of its target.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The run.
    pub run: &'a str,
    /// Whether autoscalers may be paused.
    pub pause: bool,
    /// Replicas; `None`: as they are.
    pub replicas: Option<u32>,
    /// The lease's times.
    pub times: LeaseTimes,
}

/// Why a target cannot be held still.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The cluster does not do it.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The lease is not had.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Something scales it.
    #[error(
        "{what} is scaled by {}, which would change the number of replicas under the load; add --pause-autoscaler to \
         pause it for the run", listed(.by)
    )]
    Autoscaled {
        /// The target.
        what: String,
        /// What scales it.
        by: Vec<Autoscaler>,
    },
    /// An HPA moves replicas into its bounds even while it is paused.
    #[error(
        "{by} allows {min} to {max} replicas and would undo {wanted} even while it is paused; choose --replicas within"
    )]
    Bounds {
        /// The HPA.
        by: String,
        /// Its minReplicas.
        min: u32,
        /// Its maxReplicas.
        max: u32,
        /// What is wanted.
        wanted: u32,
    },
    /// What would be changed cannot be written down.
    #[error(
        "nothing was changed, since what is there cannot be written down: {0}; make room, or choose another --out"
    )]
    NotWritten(#[source] io::Error),
    /// Not everything is as it was.
    #[error("{what} is not as it was: {error}; mend it with calibrate doctor --restore")]
    NotRestored {
        /// The target or its namespace.
        what: String,
        /// What failed.
        error: ClusterError,
    },
}

fn listed(autoscalers: &[Autoscaler]) -> String {
    autoscalers.iter().map(Autoscaler::what).collect::<Vec<_>>().join(" and ")
}

/// What a wish means for a target: nothing is changed yet.
///
/// # Errors
/// Something scales it and may not be paused, or would undo the replicas.
pub async fn plan(cluster: &Cluster, target: &Target, wish: &Wish<'_>) -> Result<Vec<Change>, HoldError> {
    let active = autoscaler::find(cluster, target).await?;
    if !active.is_empty() && !wish.pause {
        return Err(HoldError::Autoscaled { what: target.what(), by: active });
    }
    let wanted = wish.replicas.unwrap_or(target.replicas);
    for one in &active {
        if let Some((min, max)) = one.bounds.filter(|(min, max)| !(*min..=*max).contains(&wanted)) {
            return Err(HoldError::Bounds { by: one.what(), min, max, wanted });
        }
    }
    let paused = active.into_iter().map(|one| {
        let Autoscaler { kind, name, original, .. } = one;
        Change::Paused { kind, name, original }
    });
    let scaled = (wanted != target.replicas).then(|| Change::Scaled {
        workload: target.workload,
        name: target.name.clone(),
        from: target.replicas,
        to: wanted,
    });
    Ok(paused.chain(scaled).collect())
}

/// A target that is held still.
#[derive(Debug)]
pub struct Hold {
    cluster: Cluster,
    namespace: String,
    what: String,
    lease: Lease,
    changes: Vec<Change>,
}

impl Hold {
    /// Takes the lease of a target and holds it still. `write` gets what is going to be changed before it is.
    ///
    /// # Errors
    /// As [`plan`]; another calibration is going on; the cluster refuses. What was changed until then is put
    /// back.
    pub async fn take(
        cluster: &Cluster,
        target: &Target,
        wish: &Wish<'_>,
        write: impl Fn(&Journal) -> io::Result<()>,
    ) -> Result<Hold, HoldError> {
        let (namespace, name) = (target.namespace.clone(), lease_name(target));
        let holder = Holder::this(wish.run);
        let (lease, left) = Lease::take(cluster, &namespace, &name, holder, wish.times, false).await?;
        let mut hold =
            Hold { cluster: cluster.clone(), namespace, what: target.what(), lease, changes: left };
        let taken = async {
            if !hold.changes.is_empty() {
                // Whoever had the lease before was killed: first everything as it was.
                hold.undo().await?;
                hold.lease.write_down(&[]).await?;
            }
            // It may have been scaled just now.
            let object = cluster.get(target.workload.kind(), &target.namespace, &target.name).await?;
            let replicas = object.data["spec"]["replicas"].as_u64().unwrap_or(1) as u32;
            let changes = plan(cluster, &Target { replicas, ..target.clone() }, wish).await?;
            write(&hold.journal(&name, &changes, false)).map_err(HoldError::NotWritten)?;
            if !changes.is_empty() {
                hold.lease.write_down(&changes).await?;
            }
            hold.changes = changes;
            hold.make().await
        };
        match taken.await {
            Ok(()) => Ok(hold),
            Err(error) => {
                hold.release().await?;
                Err(error)
            }
        }
    }

    fn journal(&self, lease: &str, changes: &[Change], restored: bool) -> Journal {
        Journal {
            version: 1,
            cluster: self.cluster.identity().to_string(),
            namespace: self.namespace.clone(),
            lease: lease.to_owned(),
            changes: changes.to_vec(),
            restored,
        }
    }

    /// Makes the changes that are written down.
    async fn make(&self) -> Result<(), HoldError> {
        for change in &self.changes {
            match change {
                Change::Paused { kind, name, original } => {
                    let one = Autoscaler {
                        kind: *kind,
                        name: name.clone(),
                        bounds: None,
                        original: original.clone(),
                        owner: None,
                    };
                    autoscaler::pause(&self.cluster, &self.namespace, &one).await?;
                }
                Change::Scaled { workload, name, to, .. } => {
                    self.cluster.scale(workload.kind(), &self.namespace, name, *to).await?;
                }
            }
        }
        Ok(())
    }

    /// What was changed.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Says why the lease was lost, once it is.
    pub fn lost(&self) -> watch::Receiver<Option<String>> {
        self.lease.lost()
    }

    /// Puts everything back.
    async fn undo(&self) -> Result<(), HoldError> {
        undo(&self.cluster, &self.namespace, &self.changes)
            .await
            .map_err(|error| HoldError::NotRestored { what: self.what.clone(), error })
    }

    /// Puts everything back as it was and gives the lease back.
    ///
    /// # Errors
    /// Something could not be put back; the lease is kept then, and says what.
    pub async fn release(self) -> Result<(), HoldError> {
        let not_restored = |error| HoldError::NotRestored { what: self.what.clone(), error };
        if let Some(other) = persistently(|| self.lease.taken_by()).await.map_err(not_restored)? {
            // It has put back what was changed here, and what is changed now is its own.
            tracing::warn!("{} is held by {other} now, and left to it", self.what);
            return Ok(());
        }
        self.undo().await?;
        persistently(|| self.lease.write_down(&[])).await.map_err(not_restored)?;
        let what = self.what.clone();
        self.lease.release().await.map_err(|error| HoldError::NotRestored { what, error })
    }
}

/// How long to wait before a failed way back is tried again.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];

/// Does something that must be done, also where the API server is away for a moment.
async fn persistently<T, F>(work: impl Fn() -> F) -> Result<T, ClusterError>
where
    F: Future<Output = Result<T, ClusterError>>,
{
    for wait in AGAIN {
        match work().await {
            Err(error) if error.may_pass() => tokio::time::sleep(wait).await,
            done => return done,
        }
    }
    work().await
}

/// Puts changes back, the last one first; what was not made, or was put back already, is left alone.
async fn undo(cluster: &Cluster, namespace: &str, changes: &[Change]) -> Result<(), ClusterError> {
    let mut first_error = None;
    for change in changes.iter().rev() {
        let undone = persistently(|| undo_one(cluster, namespace, change)).await;
        if let Err(error) = undone {
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}

async fn undo_one(cluster: &Cluster, namespace: &str, change: &Change) -> Result<(), ClusterError> {
    match change {
        Change::Paused { kind, name, original } => {
            autoscaler::restore(cluster, namespace, *kind, name, Some(original)).await?;
        }
        Change::Scaled { workload, name, from, to } => {
            let Some(object) = cluster.find(workload.kind(), namespace, name).await? else { return Ok(()) };
            // Someone else's scale is someone else's wish.
            if object.data["spec"]["replicas"].as_u64() == Some(u64::from(*to)) {
                cluster.scale(workload.kind(), namespace, name, *from).await?;
            }
        }
    }
    Ok(())
}

/// What `restore_all` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// What a calibration left changed is as it was.
    Lease {
        /// The lease.
        name: String,
        /// How many changes it spoke of.
        changes: usize,
    },
    /// A calibration is going on.
    Busy {
        /// The lease.
        name: String,
        /// Who holds it.
        holder: String,
    },
    /// An autoscaler without a lease was put back by its annotation.
    Autoscaler(String),
}

/// Puts back everything in a namespace that calibrations left changed, except those that are going on.
///
/// # Errors
/// Something must not be read or changed.
pub async fn restore_all(
    cluster: &Cluster,
    namespace: &str,
    times: LeaseTimes,
) -> Result<Vec<Restored>, HoldError> {
    let mut done = Vec::new();
    let selector = format!("{}={}", LABEL.0, LABEL.1);
    let (mut busy, mut first_error) = (false, None);
    for object in cluster.list(kinds::LEASE, namespace, &selector).await? {
        let Some(name) = object.metadata.name else { continue };
        let holder = Holder::this("restore");
        match Lease::take(cluster, namespace, &name, holder, times, true).await {
            Ok((lease, changes)) => {
                let count = changes.len();
                let what = format!("the namespace {namespace}");
                let hold =
                    Hold { cluster: cluster.clone(), namespace: namespace.to_owned(), what, lease, changes };
                match hold.release().await {
                    Ok(()) => done.push(Restored::Lease { name, changes: count }),
                    Err(error) => first_error = first_error.or(Some(error)),
                }
            }
            Err(lease::LeaseError::Held { holder, .. }) => {
                busy = true;
                done.push(Restored::Busy { name, holder });
            }
            Err(error) => first_error = first_error.or(Some(error.into())),
        }
    }
    if let Some(error) = first_error {
        return Err(error);
    }
    if busy {
        // What is paused is then someone's on purpose.
        return Ok(done);
    }
    for (kind, name) in autoscaler::paused(cluster, namespace).await? {
        if autoscaler::restore(cluster, namespace, kind, &name, None).await? {
            done.push(Restored::Autoscaler(format!("{} {name}", kind.kind().kind)));
        }
    }
    Ok(done)
}
