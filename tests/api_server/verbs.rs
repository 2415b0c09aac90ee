//! One request after the other: faults first, then who asks, then what.

use super::answer::Answer;
use super::asked::Asked;
use super::store::{Change, Key, Wanted};
use super::{ApiState, Shared, USER, forward, pods};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const BODY_MOST: usize = 4 << 20;
const TEXT_404: &str = "404 page not found\n";
/// The API groups that are served.
const GROUPS: [&str; 13] = [
    "",
    "apps",
    "autoscaling",
    "autoscaling.gke.io",
    "autoscaling.k8s.io",
    "authorization.k8s.io",
    "coordination.k8s.io",
    "custom.metrics.k8s.io",
    "external.metrics.k8s.io",
    "keda.sh",
    "leaderworkerset.x-k8s.io",
    "monitoring.googleapis.com",
    "rbac.authorization.k8s.io",
];

type Answered = Result<Answer, Answer>;

pub async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (path, query) =
        (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let asked = Asked::new(request.method().as_str(), &path, &query);
    let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let (early, hang) = shared.state().first_look(&asked, token);
    if hang == Some(false) {
        std::future::pending::<()>().await;
    }
    let answer = match early {
        Some(answer) => answer.into_response(),
        None => dispatch(&shared, &asked, request).await,
    };
    if hang == Some(true) {
        shared.state().hung = true;
        std::future::pending::<()>().await;
    }
    answer
}

impl ApiState {
    fn serves(&self, asked: &Asked) -> bool {
        asked.resource.is_empty()
            || (GROUPS.contains(&asked.group.as_str()) && !self.absent.contains(&asked.group))
    }

    /// Logs the request; then what it gets without being looked at further, and whether it hangs, and if so
    /// whether after it was done.
    fn first_look(&mut self, asked: &Asked, token: Option<&str>) -> (Option<Answer>, Option<bool>) {
        self.log.push(asked.clone());
        if asked.full_resource() == "pods/portforward" {
            // Since 1.35 a websocket needs the right to create, too.
            self.log.push(Asked { verb: "create".to_owned(), ..asked.clone() });
        }
        let number = self.log.len() as u64;
        let hang = self.hang.filter(|hang| number >= hang.at);
        if let Some(hang) = hang {
            self.hang = None;
            if !hang.applied {
                self.hung = true;
            }
        }
        let bad_token = self.token.as_ref().is_some_and(|good| token != Some(&format!("Bearer {good}")));
        let early = self.fault(asked).or_else(|| {
            if bad_token {
                return Some(Answer::recorded("401-badtoken"));
            }
            (!self.rights.allow(asked)).then(|| Answer::forbidden(asked, USER))
        });
        (early, hang.map(|hang| hang.applied))
    }

    fn fault(&mut self, asked: &Asked) -> Option<Answer> {
        let fits = |mine: &str, theirs: &str| mine == "*" || mine == theirs;
        let resource = asked.full_resource();
        let fault = self.faults.iter_mut().find(|fault| {
            fault.times > 0 && fits(&fault.verb, &asked.verb) && fits(&fault.resource, &resource)
        })?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        fault.times -= 1;
        Some(fault.answer.clone())
    }
}

async fn dispatch(shared: &Arc<Shared>, asked: &Asked, request: Request) -> Response {
    match (asked.resource.as_str(), asked.subresource.as_deref()) {
        ("pods", Some("portforward")) => return forward::port_forward(shared, asked, request),
        ("pods", Some("proxy")) => {
            let method = request.method().clone();
            let body = to_bytes(request.into_body(), BODY_MOST).await.unwrap_or_default();
            return forward::proxy(shared, asked, method, body.to_vec()).await;
        }
        _ if asked.verb == "watch" => {
            return watch(shared, asked).unwrap_or_else(IntoResponse::into_response);
        }
        _ => {}
    }
    let kind =
        request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or("").to_owned();
    let method = request.method().clone();
    let body = to_bytes(request.into_body(), BODY_MOST).await.unwrap_or_default();
    let body = if body.is_empty() {
        Ok(Value::Null)
    } else {
        // Apply patches are YAML; clients send its subset JSON, or YAML.
        serde_json::from_slice(&body).or_else(|_| serde_saphyr::from_slice::<Value>(&body)).map_err(|_| ())
    };
    let answer = match body {
        Ok(body) => answer(shared, asked, method.as_str(), &kind, body).unwrap_or_else(|error| error),
        Err(()) => Answer::bad_request("the object provided is unrecognized (must be of type Status)"),
    };
    shared.tell();
    answer.into_response()
}

fn answer(shared: &Arc<Shared>, asked: &Asked, method: &str, kind: &str, body: Value) -> Answered {
    if !shared.state().serves(asked) {
        return Ok(Answer::text(404, TEXT_404));
    }
    if asked.resource.is_empty() {
        return Ok(discovery(&shared.state(), &asked.path));
    }
    match asked.group.as_str() {
        "authorization.k8s.io" => {
            return Ok(Answer::json(201, &shared.state().rights.review(body)));
        }
        "custom.metrics.k8s.io" => return Ok(custom_metrics(&shared.state(), asked)),
        "external.metrics.k8s.io" => return Ok(external_metrics(&shared.state(), asked)),
        _ => {}
    }
    if asked.subresource.as_deref() == Some("scale") {
        return scale(shared, asked, method, &body);
    }
    let mut state = shared.state();
    // One that is made is named by its body.
    let name = asked.name.clone().or_else(|| body["metadata"]["name"].as_str().map(str::to_owned));
    let answer = match method {
        "GET" if asked.name.is_some() => Answer::ok(&state.store.get(asked)?),
        "GET" => Answer::ok(&state.store.list(asked)?),
        "POST" if !kind.is_empty() && kind != "application/json" => Answer::recorded("ctype-415"),
        "POST" => Answer::json(201, &state.store.create(asked, body)?),
        "PUT" if asked.name.is_none() => Answer::recorded("405"),
        "PUT" => Answer::ok(&state.store.replace(asked, body)?),
        "PATCH" => match kind {
            "application/merge-patch+json" => Answer::ok(&state.store.merge(asked, &body)?),
            "application/apply-patch+yaml" => {
                if state.store.get(asked).is_err() {
                    // To apply what is not there takes the right to create it, too.
                    let create = Asked { verb: "create".to_owned(), ..asked.clone() };
                    let allowed = state.rights.allow(&create);
                    state.log.push(create.clone());
                    if !allowed {
                        return Err(Answer::forbidden(&create, USER));
                    }
                }
                let (object, new) = state.store.apply(asked, &body)?;
                Answer::json(if new { 201 } else { 200 }, &object)
            }
            _ => Answer::recorded("ctype-415"),
        },
        "DELETE" => Answer::ok(&state.store.delete(asked, &body)?),
        _ => Answer::recorded("405"),
    };
    drop(state);
    if !asked.dry_run() && method != "GET" {
        written(shared, asked, name);
    }
    Ok(answer)
}

/// What controllers do about it.
fn written(shared: &Arc<Shared>, asked: &Asked, name: Option<String>) {
    let Some(name) = name else { return };
    let (group, resource, namespace) = (asked.group.clone(), asked.resource.clone(), asked.namespace.clone());
    let key = Key { group, resource, namespace, name };
    if pods::OWNERS.contains(&key.resource.as_str()) {
        pods::follow(shared, key);
    } else if key.resource == "horizontalpodautoscalers" && asked.subresource.is_none() {
        control_hpa(shared, key);
    }
}

fn control_hpa(shared: &Arc<Shared>, key: Key) {
    let Some(after) = shared.state().hpa_controller.as_ref().map(|(after, _)| *after) else { return };
    let inner = Arc::clone(shared);
    shared.spawn(async move {
        tokio::time::sleep(after).await;
        {
            let mut state = inner.state();
            let Some(mut object) = state.store.objects.get(&key).cloned() else { return };
            let status = state.hpa_controller.as_mut().and_then(|(_, hook)| hook(&object));
            let Some(status) = status else { return };
            object["status"] = status;
            state.store.put(key, object);
        }
        inner.tell();
    });
}

fn discovery(state: &ApiState, path: &str) -> Answer {
    let name = match path.trim_end_matches('/') {
        "/version" => {
            let mut version = super::answer::recording("discovery-version")["response"]["body"].take();
            let minor = state.store.minor;
            version["minor"] = minor.to_string().into();
            version["gitVersion"] = format!("v1.{minor}.2").into();
            return Answer::ok(&version);
        }
        "/healthz" | "/readyz" | "/livez" => return Answer::text(200, "ok"),
        "/api" => "discovery-api",
        "/apis" => "discovery-apis",
        path if path.contains("metrics.k8s.io") && state.adapter_down => {
            return Answer::recorded("adapter-down-custom");
        }
        "/apis/custom.metrics.k8s.io" => "discovery-apis-custom",
        "/apis/custom.metrics.k8s.io/v1beta1" => "discovery-apis-custom-v1beta1",
        "/apis/custom.metrics.k8s.io/v1beta2" => "discovery-apis-custom-v1beta2",
        "/apis/external.metrics.k8s.io" => "discovery-apis-external",
        "/apis/external.metrics.k8s.io/v1beta1" => "discovery-apis-external-v1beta1",
        _ => return Answer::text(404, TEXT_404),
    };
    Answer::recorded(name)
}

fn custom_metrics(state: &ApiState, asked: &Asked) -> Answer {
    if state.adapter_down {
        return Answer::recorded("adapter-down-custom");
    }
    let metric = asked.subresource.clone().unwrap_or_default();
    let wanted = Wanted::new(&Asked {
        group: String::new(),
        resource: "pods".to_owned(),
        name: None,
        subresource: None,
        ..asked.clone()
    });
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(answer) => return answer,
    };
    let values = state.custom.get(&metric);
    let pods = state.store.objects.iter().filter(|(key, object)| wanted.takes(key, object));
    let items: Vec<Value> = pods
        .filter_map(|(key, _)| {
            let value = values?.get(&key.name)?;
            Some(json!({
                "describedObject": { "kind": "Pod", "namespace": key.namespace, "name": key.name, "apiVersion": "/__internal" },
                "timestamp": super::now(), "value": value,
                "metric": { "name": metric, "selector": null },
            }))
        })
        .collect();
    if values.is_none() {
        let message = format!("the server could not find the metric {metric} for pods");
        return Answer::status(404, "NotFound", &message, Value::Null);
    }
    Answer::ok(&json!({
        "kind": "MetricValueList", "apiVersion": asked.api_version(), "metadata": {}, "items": items,
    }))
}

fn external_metrics(state: &ApiState, asked: &Asked) -> Answer {
    if state.adapter_down {
        return Answer::recorded("adapter-down-custom");
    }
    let series = state.external.get(&asked.resource);
    let items: Vec<Value> = series
        .into_iter()
        .flatten()
        .map(|(labels, value)| {
            json!({
                "metricName": asked.resource, "metricLabels": labels, "timestamp": super::now(), "value": value,
            })
        })
        .collect();
    Answer::ok(&json!({
        "kind": "ExternalMetricValueList", "apiVersion": asked.api_version(), "metadata": {}, "items": items,
    }))
}

/// The scale subresource.
fn scale(shared: &Arc<Shared>, asked: &Asked, method: &str, body: &Value) -> Answered {
    let owner = Asked { subresource: None, ..asked.clone() };
    let shown = |object: &Value| {
        let labels = object["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
        let labels =
            labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
        json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"],
                "uid": object["metadata"]["uid"], "resourceVersion": object["metadata"]["resourceVersion"],
                "creationTimestamp": object["metadata"]["creationTimestamp"],
            },
            "spec": { "replicas": object["spec"]["replicas"] },
            "status": {
                "replicas": object["status"]["replicas"].as_u64().unwrap_or(0),
                "selector": labels.collect::<Vec<_>>().join(","),
            },
        })
    };
    let mut state = shared.state();
    let object = state.store.get(&owner)?;
    if method == "GET" {
        return Ok(Answer::ok(&shown(&object)));
    }
    let mut patch = json!({ "spec": { "replicas": body["spec"]["replicas"] } });
    if !body["metadata"]["resourceVersion"].is_null() {
        patch["metadata"] = json!({ "resourceVersion": body["metadata"]["resourceVersion"] });
    }
    let written_object = state.store.merge(&owner, &patch)?;
    drop(state);
    if !asked.dry_run() {
        written(shared, &owner, owner.name.clone());
    }
    Ok(Answer::ok(&shown(&written_object)))
}

/// A watch: what happened since the version that is named, then what happens.
fn watch(shared: &Arc<Shared>, asked: &Asked) -> Result<Response, Answer> {
    if !shared.state().serves(asked) {
        return Err(Answer::text(404, TEXT_404));
    }
    let wanted = Wanted::new(asked)?;
    let from = asked.query.get("resourceVersion").and_then(|version| version.parse::<u64>().ok());
    let seconds = asked.query.get("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(300);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut first: Vec<String> = Vec::new();
    let seen = {
        let state = shared.state();
        match from {
            Some(version) if version > 0 => version,
            _ => {
                let objects = state.store.objects.iter().filter(|(key, object)| wanted.takes(key, object));
                first.extend(objects.map(|(_, object)| line("ADDED", object)));
                state.store.version
            }
        }
    };
    let versions = shared.version.subscribe();
    let shared = Arc::clone(shared);
    let stream = futures::stream::unfold((first, seen, versions), move |(first, seen, mut versions)| {
        let (shared, wanted) = (Arc::clone(&shared), wanted.clone());
        async move {
            if !first.is_empty() {
                return Some((Ok::<_, std::io::Error>(first.concat()), (Vec::new(), seen, versions)));
            }
            loop {
                versions.borrow_and_update();
                let (lines, latest) = {
                    let state = shared.state();
                    let new = state.store.history.iter().filter(|change| change.version > seen);
                    let lines: Vec<String> = new
                        .filter(|change: &&Change| wanted.takes(&change.key, &change.object))
                        .map(|change| line(change.kind, &change.object))
                        .collect();
                    (lines, state.store.version)
                };
                if !lines.is_empty() {
                    return Some((Ok(lines.concat()), (Vec::new(), latest, versions)));
                }
                tokio::select! {
                    () = tokio::time::sleep_until(deadline) => return None,
                    changed = versions.changed() => changed.ok()?,
                }
            }
        }
    });
    let response = Response::builder().status(200).header("content-type", "application/json");
    Ok(response.body(Body::from_stream(stream)).expect("an answer"))
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}
