//! What controllers and kubelets would do: pods follow the scale of their owner, and become ready.

use super::store::Key;
use super::{ApiState, Shared};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long things take: really, and by the timestamps that the objects carry.
#[derive(Debug, Clone, Copy)]
pub struct PodTimes {
    /// From the scale to the pod.
    pub appear: Duration,
    /// From the pod to its readiness.
    pub ready: Duration,
    /// Seconds after the pod's creation, as its timestamps say.
    pub scheduled: i64,
    pub pulled: i64,
    pub started: i64,
    pub ready_at: i64,
}

impl Default for PodTimes {
    fn default() -> PodTimes {
        PodTimes {
            appear: Duration::from_millis(20),
            ready: Duration::from_millis(50),
            scheduled: 3,
            pulled: 40,
            started: 42,
            ready_at: 90,
        }
    }
}

pub const OWNERS: [&str; 3] = ["deployments", "statefulsets", "leaderworkersets"];

/// Brings the pods of an owner to its scale, after a while.
pub fn follow(shared: &Arc<Shared>, owner: Key) {
    let shared = Arc::clone(shared);
    let appear = shared.state().times.appear;
    shared.spawn({
        let shared = Arc::clone(&shared);
        async move {
            tokio::time::sleep(appear).await;
            let mut new = Vec::new();
            {
                let mut state = shared.state();
                while let Some(pod) = step(&mut state, &owner) {
                    new.push(pod);
                }
                status(&mut state, &owner);
            }
            shared.tell();
            for pod in new {
                become_ready(&shared, pod, owner.clone());
            }
        }
    });
}

/// Marks a pod as ready once its time has come.
pub fn become_ready(shared: &Arc<Shared>, pod: Key, owner: Key) {
    let ready = shared.state().times.ready;
    let inner = Arc::clone(shared);
    shared.spawn(async move {
        tokio::time::sleep(ready).await;
        {
            let mut state = inner.state();
            state.pod_is_ready(&pod);
            status(&mut state, &owner);
        }
        inner.tell();
    });
}

/// Makes one pod that is missing, or takes one away that is too many.
fn step(state: &mut ApiState, owner: &Key) -> Option<Key> {
    let object = state.store.objects.get(owner)?.clone();
    let wanted = object["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
    let mut pods = pods_of(state, &object, owner);
    while pods.len() > wanted {
        // The youngest goes.
        let gone = pods.pop()?;
        state.store.take(&gone);
    }
    if pods.len() == wanted {
        return None;
    }
    Some(state.new_pod(owner, &object, &pods))
}

/// The pods of an owner, the oldest first.
pub fn pods_of(state: &ApiState, owner: &Value, key: &Key) -> Vec<Key> {
    let uid = &owner["metadata"]["uid"];
    let mine = state.store.objects.iter().filter(|(pod, object)| {
        pod.resource == "pods"
            && pod.namespace == key.namespace
            && object["metadata"]["ownerReferences"][0]["uid"] == *uid
    });
    let mut pods: Vec<(u64, Key)> =
        mine.map(|(pod, object)| (object["x-number"].as_u64().unwrap_or(0), pod.clone())).collect();
    pods.sort();
    pods.into_iter().map(|(_, pod)| pod).collect()
}

fn status(state: &mut ApiState, owner: &Key) {
    let Some(mut object) = state.store.objects.get(owner).cloned() else { return };
    let pods = pods_of(state, &object, owner);
    let ready = pods.iter().filter(|pod| is_ready(&state.store.objects[*pod])).count();
    let before = object.clone();
    let status = &mut object["status"];
    for (field, value) in [
        ("replicas", pods.len()),
        ("updatedReplicas", pods.len()),
        ("readyReplicas", ready),
        ("availableReplicas", ready),
    ] {
        status[field] = value.into();
    }
    status["observedGeneration"] = before["metadata"]["generation"].clone();
    if object != before {
        state.store.put(owner.clone(), object);
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

fn condition(kind: &str, holds: bool, time: &str) -> Value {
    let status = if holds { "True" } else { "False" };
    json!({ "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": time })
}

impl ApiState {
    fn new_pod(&mut self, owner: &Key, object: &Value, existing: &[Key]) -> Key {
        self.pods_made += 1;
        let number = self.pods_made;
        let suffix = if owner.resource == "deployments" {
            format!("6bdbbc47f4-{number:05}")
        } else {
            let taken =
                |index: &usize| existing.iter().any(|pod| pod.name == format!("{}-{index}", owner.name));
            (0..=existing.len()).find(|index| !taken(index)).unwrap_or(0).to_string()
        };
        let name = format!("{}-{suffix}", owner.name);
        let key = Key {
            group: String::new(),
            resource: "pods".to_owned(),
            namespace: owner.namespace.clone(),
            name: name.clone(),
        };
        let template = match &object["spec"]["leaderWorkerTemplate"]["workerTemplate"] {
            Value::Null => &object["spec"]["template"],
            template => template,
        };
        let mut labels = template["metadata"]["labels"].clone();
        if owner.resource == "leaderworkersets" {
            labels["leaderworkerset.sigs.k8s.io/name"] = owner.name.clone().into();
            labels["leaderworkerset.sigs.k8s.io/worker-index"] = "0".into();
        }
        let mut spec = template["spec"].clone();
        spec["nodeName"] = "fake-gpu-node".into();
        let pod = json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": name, "namespace": owner.namespace, "labels": labels,
                "ownerReferences": [{
                    "apiVersion": object["apiVersion"], "kind": object["kind"], "name": owner.name,
                    "uid": object["metadata"]["uid"], "controller": true,
                }],
            },
            "spec": spec,
            "status": { "phase": "Pending", "conditions": [] },
            "x-number": number,
        });
        self.store.put(key.clone(), pod);
        key
    }

    /// Writes what the kubelet would once a pod serves.
    pub fn pod_is_ready(&mut self, key: &Key) {
        let Some(mut pod) = self.store.objects.get(key).cloned() else { return };
        let created: jiff::Timestamp =
            pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().parse().expect("a time");
        let after = |seconds: i64| (created + jiff::SignedDuration::from_secs(seconds)).to_string();
        let times = self.times;
        let container = pod["spec"]["containers"][0]["name"].clone();
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0);
        let ip = self.pod_backends.get(&key.name).or_else(|| self.pod_backends.get("*"));
        let ip =
            ip.and_then(|ports| ports.first()).map_or("10.244.0.7".to_owned(), |(_, a)| a.ip().to_string());
        pod["status"] = json!({
            "phase": "Running",
            "podIP": ip,
            "startTime": after(times.scheduled),
            "conditions": [
                condition("PodScheduled", true, &after(times.scheduled)),
                condition("Initialized", true, &after(times.scheduled)),
                condition("ContainersReady", true, &after(times.ready_at)),
                condition("Ready", true, &after(times.ready_at)),
            ],
            "containerStatuses": [{
                "name": container, "ready": true, "started": true, "restartCount": restarts,
                "image": pod["spec"]["containers"][0]["image"], "imageID": "",
                "state": { "running": { "startedAt": after(times.started) } }, "lastState": {},
            }],
        });
        let uid = pod["metadata"]["uid"].clone();
        self.store.put(key.clone(), pod);
        let event = Key {
            group: String::new(),
            resource: "events".to_owned(),
            namespace: key.namespace.clone(),
            name: format!("{}.pulled", key.name),
        };
        let pulled = json!({
            "kind": "Event", "apiVersion": "v1",
            "metadata": { "name": event.name, "namespace": key.namespace },
            "involvedObject": { "kind": "Pod", "namespace": key.namespace, "name": key.name, "uid": uid },
            "reason": "Pulled", "message": "Successfully pulled image \"tgi\" in 37s (37s including waiting)",
            "firstTimestamp": after(times.pulled), "lastTimestamp": after(times.pulled), "count": 1, "type": "Normal",
        });
        self.store.put(event, pulled);
    }

    /// A container that ends and is started again.
    pub fn pod_restarted(&mut self, key: &Key) {
        let Some(mut pod) = self.store.objects.get(key).cloned() else { return };
        let container = &mut pod["status"]["containerStatuses"][0];
        let restarts = container["restartCount"].as_u64().unwrap_or(0) + 1;
        container["restartCount"] = restarts.into();
        container["ready"] = false.into();
        let reason = json!({ "terminated": { "reason": "OOMKilled", "exitCode": 137 } });
        container["lastState"] = reason;
        for condition in pod["status"]["conditions"].as_array_mut().into_iter().flatten() {
            if condition["type"] == "Ready" || condition["type"] == "ContainersReady" {
                condition["status"] = "False".into();
            }
        }
        self.store.put(key.clone(), pod);
    }
}
