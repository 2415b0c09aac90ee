//! The pods of a target: which are ready, what changed, how long they took to start.

use super::client::Cluster;
use super::error::ClusterError;
use super::kinds;
use super::target::Target;
use crate::measurement::{Event, PodChange, PodStart, RunClock};
use crate::observe::Sink;
use crate::units::Seconds;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Time between two looks at the pods.
const EVERY: Duration = Duration::from_secs(1);

/// A pod as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Tells it from another of the same name.
    pub uid: String,
    /// Its address.
    pub ip: Option<String>,
    /// Whether requests may go to it.
    pub ready: bool,
    /// Whether it is being ended.
    pub ending: bool,
    /// How often a container of it was started again.
    pub restarts: i32,
    /// Why it is not ready.
    pub why_not: Option<String>,
    created: Option<Timestamp>,
    scheduled: Option<Timestamp>,
    started: Option<Timestamp>,
    became_ready: Option<Timestamp>,
}

/// Whether a pod is one of those that carry load, or will. A controller leaves failed ones behind, with the
/// labels of the others, and makes new ones in their place.
fn counts(pod: &core::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Failed" | "Succeeded"))
}

/// The pods that a selector takes, the oldest first, without those that have ended.
///
/// # Errors
/// They must not be read.
pub async fn list(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Vec<Pod>, ClusterError> {
    let objects = cluster.list(kinds::POD, namespace, selector).await?;
    let pods = objects.into_iter().filter_map(|object| object.try_parse::<core::Pod>().ok());
    let mut pods: Vec<Pod> = pods.filter(counts).map(Pod::from).collect();
    pods.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.name.cmp(&b.name)));
    Ok(pods)
}

impl From<core::Pod> for Pod {
    fn from(pod: core::Pod) -> Pod {
        let (metadata, status) = (pod.metadata, pod.status.unwrap_or_default());
        let conditions = status.conditions.unwrap_or_default();
        let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        let since = |kind: &str| {
            let condition = condition(kind).filter(|condition| condition.status == "True")?;
            condition.last_transition_time.as_ref().map(|time| time.0)
        };
        let containers = status.container_statuses.unwrap_or_default();
        let running = containers.iter().filter_map(|container| container.state.as_ref()?.running.as_ref());
        let waiting = containers.iter().find_map(|container| container.state.as_ref()?.waiting.as_ref());
        let ready = condition("Ready").is_some_and(|condition| condition.status == "True");
        let unscheduled = condition("PodScheduled").filter(|condition| condition.status != "True");
        let why_not = match (unscheduled, waiting) {
            _ if ready => None,
            (Some(condition), _) => condition.message.clone(),
            (None, Some(waiting)) => waiting.reason.clone().or_else(|| waiting.message.clone()),
            (None, None) => status.phase.clone(),
        };
        Pod {
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            ip: status.pod_ip,
            ready: ready && metadata.deletion_timestamp.is_none(),
            ending: metadata.deletion_timestamp.is_some(),
            restarts: containers.iter().map(|container| container.restart_count).sum(),
            why_not,
            created: metadata.creation_timestamp.map(|time| time.0),
            scheduled: since("PodScheduled"),
            started: running.filter_map(|running| Some(running.started_at.as_ref()?.0)).max(),
            became_ready: since("Ready"),
        }
    }
}

impl Pod {
    /// How long it took to start, as the cluster says. `None` once it was restarted: its times are then not
    /// those of its start.
    pub fn start(&self, pulled: Option<Timestamp>) -> Option<PodStart> {
        let created = self.created.filter(|_| self.restarts == 0)?;
        let after = |time: Option<Timestamp>| {
            let seconds = time?.duration_since(created).as_secs_f64();
            (seconds >= 0.0).then_some(Seconds(seconds))
        };
        Some(PodStart {
            pod: self.name.clone(),
            created: created.to_string(),
            scheduled: after(self.scheduled),
            pulled: after(pulled),
            started: after(self.started),
            ready: after(self.became_ready),
            first_completion: None,
        })
    }
}

/// When the last image of a pod was there, by its events; they are kept for an hour or so.
///
/// # Errors
/// Events must not be read.
pub async fn pulled(
    cluster: &Cluster,
    namespace: &str,
    pod: &Pod,
) -> Result<Option<Timestamp>, ClusterError> {
    let events = cluster.list(kinds::EVENT, namespace, "").await?;
    let events = events.into_iter().filter_map(|object| object.try_parse::<core::Event>().ok());
    let mine = events.filter(|event| {
        event.involved_object.uid.as_ref() == Some(&pod.uid) && event.reason.as_deref() == Some("Pulled")
    });
    Ok(mine.filter_map(|event| event.last_timestamp.or(event.first_timestamp)).map(|time| time.0).max())
}

/// What changed from one look at the pods to the next.
pub fn changes(before: &[Pod], after: &[Pod]) -> Vec<(String, PodChange)> {
    fn by_uid(pods: &[Pod]) -> BTreeMap<&str, &Pod> {
        pods.iter().filter(|pod| !pod.ending).map(|pod| (pod.uid.as_str(), pod)).collect()
    }
    let (old, new) = (by_uid(before), by_uid(after));
    let mut found = Vec::new();
    for (uid, pod) in &old {
        let change = match new.get(uid) {
            None => Some(PodChange::Gone),
            Some(now) if now.restarts > pod.restarts => Some(PodChange::Restarted),
            Some(now) if pod.ready && !now.ready => Some(PodChange::NotReady),
            Some(now) if !pod.ready && now.ready => Some(PodChange::Ready),
            Some(_) => None,
        };
        found.extend(change.map(|change| (pod.name.clone(), change)));
    }
    let came = new.iter().filter(|(uid, _)| !old.contains_key(*uid));
    found.extend(came.map(|(_, pod)| (pod.name.clone(), PodChange::Came)));
    found
}

/// Looks at the pods of a target again and again, and tells `sink` what changed since `before`, and
/// `not_any_more` the names of those that no request should go to. Ends when it is dropped.
pub async fn watch(
    cluster: Cluster,
    target: Target,
    mut before: Vec<Pod>,
    clock: RunClock,
    sink: Arc<dyn Sink>,
    not_any_more: impl Fn(&str) + Send,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        // What cannot be seen now is seen the next time.
        let Ok(after) = target.pods(&cluster).await else { continue };
        for (pod, change) in changes(&before, &after) {
            if change == PodChange::Gone {
                not_any_more(&pod);
            }
            sink.event(Event::PodChanged { time: clock.now(), pod, change });
        }
        before = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_have_ended_are_left_out() {
        let pod = |phase: &str| {
            serde_json::from_value(serde_json::json!({ "status": { "phase": phase } })).unwrap()
        };
        let phases = ["Pending", "Running", "Unknown", "Failed", "Succeeded"];
        assert_eq!(phases.map(|phase| counts(&pod(phase))), [true, true, true, false, false]);
        assert!(counts(&core::Pod::default()));
    }

    fn pod(name: &str, ready: bool, restarts: i32) -> Pod {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).ok();
        Pod {
            name: name.to_owned(),
            uid: format!("uid of {name}"),
            ip: None,
            ready,
            ending: false,
            restarts,
            why_not: None,
            created: at(0),
            scheduled: at(3),
            started: at(42),
            became_ready: at(90),
        }
    }

    #[test]
    fn pods_that_come_go_restart_or_stop_to_be_ready_are_changes() {
        let before = [pod("a", true, 0), pod("b", true, 0), pod("c", true, 0), pod("d", false, 0)];
        let ending = Pod { ending: true, ..pod("e", true, 0) };
        let after = [pod("b", false, 1), pod("c", false, 0), pod("d", true, 0), pod("f", false, 0), ending];
        let expected = [
            ("a", PodChange::Gone),
            ("b", PodChange::Restarted),
            ("c", PodChange::NotReady),
            ("d", PodChange::Ready),
            ("f", PodChange::Came),
        ];
        assert_eq!(changes(&before, &after), expected.map(|(name, change)| (name.to_owned(), change)));
        assert_eq!(changes(&after, &after), []);
        let twin = Pod { uid: "another".into(), ..pod("a", true, 0) };
        let replaced = [("a".to_owned(), PodChange::Gone), ("a".to_owned(), PodChange::Came)];
        assert_eq!(changes(&[pod("a", true, 0)], &[twin]), replaced);
    }

    #[test]
    fn a_start_is_counted_from_the_creation_and_unknown_after_a_restart() {
        let start = pod("a", true, 0).start(Timestamp::from_second(1_000_040).ok()).unwrap();
        let times = [start.scheduled, start.pulled, start.started, start.ready];
        assert_eq!(times, [3.0, 40.0, 42.0, 90.0].map(|seconds| Some(Seconds(seconds))));
        assert_eq!(pod("a", true, 1).start(None), None);
    }
}
