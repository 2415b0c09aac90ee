//! Requests that change an object as a whole, and those for parts that are no objects of their own.

use super::client::{Cluster, Kind};
use super::error::{Asked, ClusterError};
use super::{MANAGER, kinds};
use http::Request;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use serde_json::Value;

/// How an apply is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyMode {
    /// The API server says what it would store, and stores nothing.
    pub dry_run: bool,
    /// Fields of other managers are taken over.
    pub force: bool,
}

impl Cluster {
    /// Server-side apply of an object, in which unknown fields are wrong. Gives what is then stored, or would be.
    ///
    /// # Errors
    /// It is not valid, must not be written, or has fields of somebody else.
    pub async fn apply(
        &self,
        kind: Kind,
        namespace: &str,
        object: &Value,
        mode: ApplyMode,
    ) -> Result<Value, ClusterError> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let mut parameters = PatchParams::apply(MANAGER).validation_strict();
        (parameters.dry_run, parameters.force) = (mode.dry_run, mode.force);
        let stored = self.api(kind, namespace).patch(name, &parameters, &Patch::Apply(object)).await;
        let stored =
            stored.map_err(|error| ClusterError::of(kind.asked("patch", namespace, Some(name)), &error))?;
        let mut stored = as_json(&stored);
        if mode.dry_run {
            without_former_metrics(object, &mut stored);
        }
        Ok(stored)
    }

    /// Puts an object in the place of the one that has its `resourceVersion`.
    ///
    /// # Errors
    /// It was changed since, or must not be.
    pub async fn replace(
        &self,
        kind: Kind,
        namespace: &str,
        object: &DynamicObject,
    ) -> Result<DynamicObject, ClusterError> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), dry_run: false };
        let stored = self.api(kind, namespace).replace(name, &parameters, object).await;
        stored.map_err(|error| ClusterError::of(kind.asked("update", namespace, Some(name)), &error))
    }

    /// The scale of a workload, as the HPA controller reads it; `None` where there is no such workload.
    ///
    /// # Errors
    /// It must not be read.
    pub async fn scale_of(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ClusterError> {
        let asked = kind.asked("get", namespace, Some(name));
        let asked = Asked { resource: format!("{}/scale", kind.plural), ..asked };
        let path = format!(
            "/apis/{}/{}/namespaces/{namespace}/{}/{name}/scale",
            kind.group, kind.version, kind.plural
        );
        match self.read(asked, &path).await {
            Err(error) if error.is_not_found() => Ok(None),
            scale => scale.map(Some),
        }
    }

    /// What is at a path of the API.
    ///
    /// # Errors
    /// It is not there or must not be read.
    pub async fn read(&self, asked: Asked, path: &str) -> Result<Value, ClusterError> {
        let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError);
        let answer = match request {
            Ok(request) => self.client().request::<Value>(request).await,
            Err(error) => Err(error),
        };
        answer.map_err(|error| ClusterError::of(asked, &error))
    }
}

/// Takes off what API servers before 1.27 append to an HPA's metrics in the answer to a dry run, and only
/// there: metrics that it has now (kubernetes/kubernetes issue 118293). An apply replaces the list as a whole.
fn without_former_metrics(applied: &Value, answer: &mut Value) {
    let metrics = "/spec/metrics";
    let applied = applied.pointer(metrics).and_then(Value::as_array);
    if let (Some(applied), Some(answered)) =
        (applied, answer.pointer_mut(metrics).and_then(Value::as_array_mut))
    {
        answered.truncate(applied.len());
    }
}

/// An object as the JSON that the API server sent.
pub fn as_json(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// The kind of what an HPA scales. `None`: one that serves no models.
pub fn scaled_kind(hpa: &Value) -> Option<Kind> {
    workload_kind(hpa.pointer("/spec/scaleTargetRef/kind").and_then(Value::as_str)?)
}

/// The kind of a workload by its name, like `Deployment`. `None`: one that serves no models.
pub fn workload_kind(name: &str) -> Option<Kind> {
    let known = [kinds::DEPLOYMENT, kinds::STATEFUL_SET, kinds::LEADER_WORKER_SET];
    known.into_iter().find(|kind| kind.kind == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_old_api_server_appends_in_a_dry_run_is_no_change() {
        let pods = |name: &str, target: &str| {
            json!({
                "type": "Pods",
                "pods": { "metric": { "name": name }, "target": { "type": "AverageValue", "averageValue": target } },
            })
        };
        let hpa = |metrics: &[Value]| json!({ "spec": { "maxReplicas": 5, "metrics": metrics } });
        // As Kubernetes 1.20.2 answered, to an HPA that had a=1 and b=2.
        let applied = hpa(&[pods("c", "3")]);
        let mut answer = hpa(&[pods("c", "3"), pods("a", "1"), json!({ "type": "" })]);
        without_former_metrics(&applied, &mut answer);
        assert_eq!(answer, applied);
        let mut dropped = hpa(&[]);
        without_former_metrics(&applied, &mut dropped);
        assert_eq!(dropped, hpa(&[]), "a metric that is not stored stays one");
    }
}
