//! Objects to begin with: what a test does not say is as it was recorded.

use super::answer::recording;
use super::{ApiServer, pods};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The container that serves, and its label.
pub const CONTAINER: &str = "inference-server";
pub const APP: &str = "gemma-server";

impl ApiServer {
    /// A Deployment as it was recorded, with so many ready pods, and what is behind their ports.
    pub fn deployment(&self, name: &str, replicas: u32, ports: &[(u16, SocketAddr)]) -> Value {
        let mut object = recording("deployment-get")["response"]["body"].take();
        object["metadata"]["name"] = name.into();
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.shift_remove("managedFields");
        object["spec"]["replicas"] = replicas.into();
        if let Some((first, _)) = ports.first() {
            object["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] =
                (*first).into();
        }
        self.workload("apps", "deployments", object, ports)
    }

    /// A StatefulSet or another owner of pods from its whole object.
    pub fn workload(&self, group: &str, resource: &str, object: Value, ports: &[(u16, SocketAddr)]) -> Value {
        if !ports.is_empty() {
            self.serve_pod("*", ports);
        }
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let wanted = object["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
        self.put(group, resource, Some("default"), object);
        self.change(resource, &name, |_| {});
        self.wait(|| {
            let ready = self.object(resource, &name)["status"]["readyReplicas"].as_u64();
            self.pod_names(resource, &name).len() == wanted && ready == Some(wanted as u64)
        });
        self.object(resource, &name)
    }

    /// A StatefulSet with the Deployment's template.
    pub fn statefulset(&self, name: &str, replicas: u32, ports: &[(u16, SocketAddr)]) -> Value {
        let template = recording("deployment-get")["response"]["body"]["spec"]["template"].take();
        let object = json!({
            "kind": "StatefulSet", "apiVersion": "apps/v1",
            "metadata": { "name": name, "namespace": "default", "generation": 1 },
            "spec": {
                "replicas": replicas, "serviceName": name,
                "selector": { "matchLabels": { "app": APP } }, "template": template,
            },
            "status": {},
        });
        self.workload("apps", "statefulsets", object, ports)
    }

    /// An HPA on a Deployment, as `kubectl apply` made it.
    pub fn hpa(&self, name: &str, deployment: &str, behavior: Option<Value>) -> Value {
        let mut object = recording("hpa-get-with-status")["response"]["body"].take();
        object["metadata"]["name"] = name.into();
        object["spec"]["scaleTargetRef"]["name"] = deployment.into();
        if let Some(behavior) = behavior {
            object["spec"]["behavior"] = behavior;
        }
        super::admission::admit(&mut object, 36);
        self.put("autoscaling", "horizontalpodautoscalers", Some("default"), object)
    }

    /// A ScaledObject on a Deployment.
    pub fn scaled_object(&self, name: &str, deployment: &str) -> Value {
        let object = json!({
            "kind": "ScaledObject", "apiVersion": "keda.sh/v1alpha1",
            "metadata": { "name": name, "namespace": "default", "generation": 1 },
            "spec": {
                "scaleTargetRef": { "name": deployment }, "minReplicaCount": 1, "maxReplicaCount": 5,
                "triggers": [{ "type": "prometheus", "metadata": { "query": "sum(tgi_queue_size)", "threshold": "4" } }],
            },
        });
        self.put("keda.sh", "scaledobjects", Some("default"), object)
    }

    /// A VerticalPodAutoscaler on a Deployment.
    pub fn vpa(&self, name: &str, deployment: &str, mode: &str) -> Value {
        let object = json!({
            "kind": "VerticalPodAutoscaler", "apiVersion": "autoscaling.k8s.io/v1",
            "metadata": { "name": name, "namespace": "default", "generation": 1 },
            "spec": {
                "targetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": deployment },
                "updatePolicy": { "updateMode": mode },
            },
        });
        self.put("autoscaling.k8s.io", "verticalpodautoscalers", Some("default"), object)
    }

    /// A Service on the pods.
    pub fn service(&self, name: &str, ports: Value) -> Value {
        let object = json!({
            "kind": "Service", "apiVersion": "v1",
            "metadata": { "name": name, "namespace": "default" },
            "spec": { "type": "ClusterIP", "clusterIP": "10.96.0.7", "selector": { "app": APP }, "ports": ports },
            "status": { "loadBalancer": {} },
        });
        self.put("", "services", Some("default"), object)
    }

    /// Waits until something holds; panics after a time that no sound machine needs.
    pub fn wait(&self, holds: impl Fn() -> bool) {
        for _ in 0..5000 {
            if holds() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(4));
        }
        let owners: Vec<_> = self.state().store.objects.keys().cloned().collect();
        panic!("what was waited for never came; there are {owners:?} and {:?}", pods::OWNERS);
    }
}
