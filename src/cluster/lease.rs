//! The lease by which calibrations of one target exclude each other. It also holds what was changed, so
//! that whoever finds it expired can put that back first.

use super::client::Cluster;
use super::error::ClusterError;
use super::hold::Change;
use super::kinds;
use super::target::Target;
use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The annotation of a lease that holds what was changed.
const CHANGES: &str = "calibrate/changes";
/// What leases are found by.
pub(super) const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "calibrate");

/// How long a lease lasts and how often it is renewed.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTimes {
    /// Without a renewal for so long it is expired. In whole seconds.
    pub duration: Duration,
    /// Time between renewals.
    pub renew: Duration,
}

impl Default for LeaseTimes {
    fn default() -> LeaseTimes {
        LeaseTimes { duration: Duration::from_secs(30), renew: Duration::from_secs(10) }
    }
}

/// Who holds a lease: the machine, the process on it, the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    host: String,
    process: u32,
    run: String,
}

impl Holder {
    /// This process, for a run.
    pub(super) fn this(run: &str) -> Holder {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // A process is known by its number only to those of the same namespace.
        let space = std::fs::read_link("/proc/self/ns/pid").ok();
        let space = space.as_ref().and_then(|link| link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']'));
        let host = match (host.trim(), space) {
            ("", _) | (_, None) => "unknown".to_owned(),
            (host, Some(space)) => format!("{host}.{space}"),
        };
        Holder { host: host.replace('/', "-"), process: std::process::id(), run: run.to_owned() }
    }

    fn parse(text: &str) -> Option<Holder> {
        let mut parts = text.splitn(3, '/');
        let host = parts.next()?.to_owned();
        let process = parts.next()?.parse().ok()?;
        Some(Holder { host, process, run: parts.next()?.to_owned() })
    }

    /// Whether it was a process of this machine that is there no more.
    fn is_dead(&self, seen_by: &Holder) -> bool {
        let id = i32::try_from(self.process).ok().and_then(rustix::process::Pid::from_raw);
        self.host == seen_by.host
            && self.host != "unknown"
            && id.is_some_and(|id| rustix::process::test_kill_process(id) == Err(rustix::io::Errno::SRCH))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.host, self.process, self.run)
    }
}

/// Why a lease is not had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The cluster does not give it.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What its last holder changed is not known.
    #[error(
        "{0} says what a calibration changed in its annotation {CHANGES}, which cannot be read: put it back by hand, and \
         delete the lease"
    )]
    Unreadable(String),
    /// Another has it.
    #[error(
        "{lease} is held by {holder}: another calibration of this target is going on; wait until it ends"
    )]
    Held {
        /// The lease.
        lease: String,
        /// Who holds it.
        holder: String,
    },
}

/// A lease that is held and renewed until it is released or dropped.
#[derive(Debug)]
pub(super) struct Lease {
    cluster: Cluster,
    namespace: String,
    name: String,
    holder: Holder,
    renewals: JoinHandle<()>,
    lost: watch::Receiver<Option<String>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewals.abort();
    }
}

/// A lease as it lies in the cluster.
struct Found {
    holder: String,
    version: String,
    expires: Option<Timestamp>,
    /// `Err`: they cannot be read.
    changes: Result<Vec<Change>, serde_json::Error>,
}

impl Found {
    fn of(object: &DynamicObject) -> Found {
        let spec = &object.data["spec"];
        let renewed = spec["renewTime"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let seconds = spec["leaseDurationSeconds"].as_i64().unwrap_or(0);
        let annotations = object.metadata.annotations.as_ref();
        let changes = annotations.and_then(|all| all.get(CHANGES)).map(|text| serde_json::from_str(text));
        Found {
            holder: spec["holderIdentity"].as_str().unwrap_or_default().to_owned(),
            version: object.metadata.resource_version.clone().unwrap_or_default(),
            expires: renewed.map(|renewed| renewed + jiff::SignedDuration::from_secs(seconds)),
            changes: changes.unwrap_or(Ok(Vec::new())),
        }
    }

    fn is_over(&self, me: &Holder) -> bool {
        let dead = Holder::parse(&self.holder).is_some_and(|holder| holder.is_dead(me));
        dead || self.expires.is_none_or(|expires| expires < Timestamp::now())
    }
}

/// The name of a target's lease.
pub fn lease_name(target: &Target) -> String {
    format!("calibrate-{}-{}", target.workload.kind().kind.to_ascii_lowercase(), target.name)
}

fn micro_time() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

impl Lease {
    /// Takes the lease `name`, also one that is expired; gives what its last holder left changed. With
    /// `patient` it waits for one that may be expired soon.
    ///
    /// # Errors
    /// Someone holds it, or leases must not be made.
    pub(super) async fn take(
        cluster: &Cluster,
        namespace: &str,
        name: &str,
        holder: Holder,
        times: LeaseTimes,
        patient: bool,
    ) -> Result<(Lease, Vec<Change>), LeaseError> {
        let left = loop {
            let Some(object) = cluster.find(kinds::LEASE, namespace, name).await? else {
                match cluster.create(kinds::LEASE, namespace, &new_lease(name, &holder, times)).await {
                    Ok(_) => break Vec::new(),
                    // Someone was first: look again.
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            let found = Found::of(&object);
            let lease = format!("Lease {namespace}/{name}");
            let held = || LeaseError::Held { lease: lease.clone(), holder: found.holder.clone() };
            wait_until_over(cluster, namespace, name, &found, &holder, times, patient)
                .await?
                .ok_or_else(held)?;
            let changes = found.changes.as_ref().map_err(|_| LeaseError::Unreadable(lease.clone()))?;
            let patch = json!({
                "metadata": { "resourceVersion": found.version },
                "spec": {
                    "holderIdentity": holder.to_string(), "acquireTime": micro_time(), "renewTime": micro_time(),
                    "leaseDurationSeconds": times.duration.as_secs().max(1),
                },
            });
            match cluster.merge(kinds::LEASE, namespace, name, &patch).await {
                Ok(_) => break changes.clone(),
                Err(error) if error.is_conflict() => return Err(held()),
                // It was given back in this moment.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        };
        let (tell, lost) = watch::channel(None);
        let renewals =
            renew(cluster.clone(), namespace.to_owned(), name.to_owned(), holder.clone(), times, tell);
        let lease = Lease {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            holder,
            renewals: tokio::spawn(renewals),
            lost,
        };
        Ok((lease, left))
    }

    /// Writes down what is going to be changed.
    ///
    /// # Errors
    /// The lease must not be changed.
    pub(super) async fn write_down(&self, changes: &[Change]) -> Result<(), ClusterError> {
        let text = serde_json::to_string(changes).unwrap_or_default();
        let annotation = if changes.is_empty() { Value::Null } else { text.into() };
        let patch = json!({ "metadata": { "annotations": { CHANGES: annotation } } });
        self.cluster.merge(kinds::LEASE, &self.namespace, &self.name, &patch).await.map(|_| ())
    }

    /// Says why the lease was lost, once it is.
    pub(super) fn lost(&self) -> watch::Receiver<Option<String>> {
        self.lost.clone()
    }

    /// Who has the lease now, where that is another.
    ///
    /// # Errors
    /// It must not be read.
    pub(super) async fn taken_by(&self) -> Result<Option<String>, ClusterError> {
        let object = self.cluster.find(kinds::LEASE, &self.namespace, &self.name).await?;
        let holder = object.map(|object| Found::of(&object).holder);
        Ok(holder.filter(|holder| *holder != self.holder.to_string()))
    }

    /// Gives the lease back: it is not there any more.
    ///
    /// # Errors
    /// It must not be taken away.
    pub(super) async fn release(self) -> Result<(), ClusterError> {
        self.renewals.abort();
        let mut tries = 0;
        loop {
            tries += 1;
            let Some(object) = self.cluster.find(kinds::LEASE, &self.namespace, &self.name).await? else {
                return Ok(());
            };
            let found = Found::of(&object);
            if found.holder != self.holder.to_string() {
                return Ok(());
            }
            // A renewal may still be on its way.
            match self.cluster.delete(kinds::LEASE, &self.namespace, &self.name, Some(&found.version)).await {
                Err(error) if error.is_conflict() && tries < 5 => {}
                gone => return gone.map(|_| ()),
            }
        }
    }
}

/// Waits until a lease is surely over. `None`: it is not. One that seems to be expired may be so by a wrong
/// clock alone, so it is watched for as long as its holder would need to renew it.
async fn wait_until_over(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    found: &Found,
    me: &Holder,
    times: LeaseTimes,
    patient: bool,
) -> Result<Option<()>, ClusterError> {
    if Holder::parse(&found.holder).is_some_and(|holder| holder.is_dead(me)) {
        return Ok(Some(()));
    }
    let over = found.is_over(me);
    if !over && !patient {
        return Ok(None);
    }
    let rest = found.expires.map_or(0.0, |expires| expires.duration_since(Timestamp::now()).as_secs_f64());
    let rest = Duration::from_secs_f64(rest.clamp(0.0, times.duration.as_secs_f64()));
    tokio::time::sleep(rest.max(times.renew + times.renew / 4)).await;
    let again = cluster.find(kinds::LEASE, namespace, name).await?;
    let same = again.is_none_or(|object| Found::of(&object).version == found.version);
    Ok(same.then_some(()))
}

fn new_lease(name: &str, holder: &Holder, times: LeaseTimes) -> DynamicObject {
    let now = micro_time();
    let data = json!({
        "spec": {
            "holderIdentity": holder.to_string(), "acquireTime": now, "renewTime": now,
            "leaseDurationSeconds": times.duration.as_secs().max(1), "leaseTransitions": 0,
        },
    });
    let mut object = kinds::LEASE.object(name);
    object.metadata.labels = Some([(LABEL.0.to_owned(), LABEL.1.to_owned())].into());
    object.data = data;
    object
}

/// Renews a lease until it is lost: another has it, or it could not be renewed for as long as it lasts.
async fn renew(
    cluster: Cluster,
    namespace: String,
    name: String,
    holder: Holder,
    times: LeaseTimes,
    lost: watch::Sender<Option<String>>,
) {
    let mut renewed_at = Timestamp::now();
    loop {
        tokio::time::sleep(times.renew).await;
        let patch = json!({ "spec": { "renewTime": micro_time() } });
        let renewed = cluster.merge(kinds::LEASE, &namespace, &name, &patch).await;
        let reason = match renewed {
            Ok(object) => match Found::of(&object).holder {
                mine if mine == holder.to_string() => {
                    renewed_at = Timestamp::now();
                    continue;
                }
                other => format!("the lease {namespace}/{name} was taken over by {other}"),
            },
            Err(error) if error.is_not_found() => format!("the lease {namespace}/{name} was taken away"),
            Err(error)
                if renewed_at.duration_until(Timestamp::now()).as_secs_f64()
                    > times.duration.as_secs_f64() =>
            {
                format!("the lease could not be renewed: {error}")
            }
            Err(error) => {
                tracing::warn!("the lease could not be renewed, trying again: {error}");
                continue;
            }
        };
        lost.send_replace(Some(reason));
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_read_as_they_are_written_and_dead_ones_are_known_on_their_own_machine() {
        let me = Holder::this("20261127-run");
        assert_eq!(Holder::parse(&me.to_string()), Some(me.clone()));
        assert!(!me.is_dead(&me));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = Holder { process: child.id(), ..me.clone() };
        child.wait().unwrap();
        assert!(gone.is_dead(&me));
        assert!(!Holder { host: "another".into(), ..gone }.is_dead(&me));
        assert_eq!(Holder::parse("kubectl"), None);
    }
}
