//! The loopback API server answers as the recorded one did: status and bytes of every error, and the
//! stored form of what is written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_server;

use api_server::answer::recording;
use api_server::{ApiServer, CLUSTER, CONTEXT};
use calibrate::cluster::{ClusterError, kinds};
use serde_json::{Value, json};
use std::time::Duration;

/// Plays a recorded request.
async fn play(api: &ApiServer, request: &Value) -> (u16, String) {
    let method = request["method"].as_str().unwrap().parse().unwrap();
    let url = format!("http://{}{}", api.address(), request["path"].as_str().unwrap());
    let mut sent = reqwest::Client::new().request(method, url);
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        sent = sent.header(name, value.as_str().unwrap());
    }
    if let Some(kind) = request["contentType"].as_str() {
        sent = sent.header("content-type", kind);
    }
    sent = match &request["body"] {
        Value::Null => sent,
        Value::String(text) => sent.body(text.clone()),
        body => sent.body(body.to_string()),
    };
    let answer = sent.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// What a recorded answer was.
fn recorded(name: &str) -> (Value, u16, Value) {
    let mut recording = recording(name);
    let status = recording["response"]["status"].as_u64().unwrap() as u16;
    (recording["request"].take(), status, recording["response"]["body"].take())
}

/// A server in the state in which the recordings were made: the HPA of tool-a.
async fn prepared() -> ApiServer {
    let api = ApiServer::start();
    api.deployment("tgi-gemma-deployment", 2, &[]);
    let (request, status, _) = recorded("apply-create");
    assert_eq!(play(&api, &request).await.0, status);
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_the_recorded_bytes() {
    let api = prepared().await;
    let mut played = 0;
    for name in [
        "400-labelselector",
        "404-deployment",
        "404-hpa",
        "404-ns-create",
        "404-path",
        "404-delete",
        "405",
        "ctype-415",
        "post-409-alreadyexists",
        "put-409-conflict",
        "patch-stale-409",
        "apply-409-fieldconflict",
        "bad-avg-zero",
        "bad-avg-negative",
        "bad-avg-missing",
        "bad-ext-both",
        "bad-min-gt-max",
        "bad-policy-empty",
        "bad-window-3601",
        "quantity-dryrun-13",
    ] {
        let (request, status, body) = recorded(name);
        let (got, text) = play(&api, &request).await;
        let expected = body.as_str().map_or_else(|| format!("{body}\n"), str::to_owned);
        assert_eq!((got, text), (status, expected), "{name}");
        played += 1;
    }
    assert_eq!(played, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_rights_are_the_recorded_bytes() {
    let api = prepared().await;
    let cases = [
        ("403-hpa-list", "list autoscaling/horizontalpodautoscalers"),
        ("403-hpa-create", "create autoscaling/horizontalpodautoscalers"),
        ("403-hpa-patch", "patch autoscaling/horizontalpodautoscalers"),
        ("403-pods-list", "list pods"),
        ("403-deployment-get", "get apps/deployments"),
        ("403-cluster-hpa", "list autoscaling/horizontalpodautoscalers"),
    ];
    for (_, permission) in cases {
        api.deny(permission);
    }
    for (name, _) in cases {
        let (request, status, body) = recorded(name);
        assert_eq!(play(&api, &request).await, (status, format!("{body}\n")), "{name}");
    }
    for (name, allowed) in [
        ("ssar-viewer-hpa-create", false),
        ("ssar-viewer-pods-list", false),
        ("ssar-viewer-scale-patch", true),
    ] {
        let (request, status, _) = recorded(name);
        let (got, text) = play(&api, &request).await;
        let review: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((got, review["status"]["allowed"].as_bool()), (status, Some(allowed)), "{name}");
    }
    api.require_token("good", true);
    let (request, status, body) = recorded("401-badtoken");
    assert_eq!(play(&api, &request).await, (status, format!("{body}\n")));
}

/// An object without what differs from one server to the next.
fn plain(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
        metadata.shift_remove(field);
    }
    for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
        entry["time"] = Value::Null;
    }
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_stored_as_the_real_one_stores_it() {
    let api = prepared().await;
    for name in ["apply-create", "apply-same", "apply-force", "patch-merge-avg"] {
        let (request, status, body) = recorded(name);
        let (got, text) = play(&api, &request).await;
        let status = if name == "apply-create" { 200 } else { status };
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((got, plain(object)), (status, plain(body)), "{name}");
    }
    let fresh = ApiServer::start();
    for name in (0..27).map(|i| format!("quantity-dryrun-{i:02}")).chain(
        ["empty", "down60", "scaledown-empty", "scaleup-empty", "tolerance"]
            .map(|name| format!("behavior-default-{name}")),
    ) {
        let (request, status, body) = recorded(&name);
        let (got, text) = play(&fresh, &request).await;
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(got, status, "{name}: {text}");
        assert_eq!(object["spec"], body["spec"], "{name}");
    }
    assert!(fresh.find("horizontalpodautoscalers", "gemma-server").is_none(), "a dry run stores nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_server_drops_the_tolerance_and_an_adapter_that_is_down_says_so_in_plain_text() {
    let api = ApiServer::start();
    api.version(34);
    let body = recorded("behavior-default-tolerance").0;
    let (status, text) = play(&api, &body).await;
    assert_eq!(status, 201);
    assert!(!text.contains("tolerance"), "{text}");
    api.state().adapter_down = true;
    let mut recording = recording("adapter-down-custom");
    let (status, text) = play(&api, &recording["request"].take()).await;
    assert_eq!((status, text.as_str()), (503, recording["response"]["body"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_scaled_gets_pods_that_become_ready_and_watches_see_them() {
    let api = ApiServer::start();
    api.deployment("tgi", 1, &[]);
    let version = api.state().store.version;
    let url = format!(
        "http://{}/api/v1/namespaces/default/pods?watch=true&resourceVersion={version}&timeoutSeconds=2",
        api.address()
    );
    let watched = tokio::spawn(async move { reqwest::get(url).await.unwrap().text().await.unwrap() });
    api.scale("deployments", "tgi", 3);
    let lines = watched.await.unwrap();
    let kinds: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "ADDED").count(), 2, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| *kind == "MODIFIED").count(), 2, "{kinds:?}");
    assert_eq!(api.object("deployments", "tgi")["status"]["readyReplicas"], 3);
    let oldest = api.pod_names("deployments", "tgi")[0].clone();
    api.delete("pods", &oldest);
    api.wait(|| api.object("deployments", "tgi")["status"]["readyReplicas"] == 3);
    assert!(!api.pod_names("deployments", "tgi").contains(&oldest));
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_pods_are_reached_by_proxy_and_by_port_forward() {
    let preset = calibrate::simulator::Preset::by_name("demo").unwrap();
    let simulator =
        calibrate::simulator::serve(preset.config(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let api = ApiServer::start();
    api.deployment("tgi", 1, &[(8000, simulator.addr())]);
    let pod = api.pod_names("deployments", "tgi")[0].clone();
    let url = format!("http://{}/api/v1/namespaces/default/pods/{pod}:8000/proxy/info", api.address());
    let info = reqwest::get(url).await.unwrap().text().await.unwrap();
    assert!(info.contains("model_id"), "{info}");

    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(api.client(), "default");
    let mut forward = pods.portforward(&pod, &[8000]).await.unwrap();
    let stream = forward.take_stream(8000).unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/health").header("host", "x").body(String::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);

    let mut refused = pods.portforward(&pod, &[9]).await.unwrap();
    let said = refused.take_error(9).unwrap().await;
    assert!(said.unwrap().contains("connection refused"));
    let used = api.permissions();
    for permission in ["get pods/proxy", "get pods/portforward", "create pods/portforward"] {
        assert!(used.contains(permission), "{used:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_allowed_but_what_roles_grant() {
    let api = ApiServer::start();
    api.deployment("tgi", 1, &[]);
    let role = json!({
        "kind": "Role", "metadata": { "name": "calibrate", "namespace": "default" },
        "rules": [
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] },
            { "apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"], "resourceNames": ["tgi"] },
        ],
    });
    api.allow_only(&[role]);
    let status = |path: &str| {
        let url = format!("http://{}{path}", api.address());
        async move { reqwest::get(url).await.unwrap().status().as_u16() }
    };
    assert_eq!(status("/api/v1/namespaces/default/pods").await, 200);
    assert_eq!(status("/api/v1/namespaces/other/pods").await, 403);
    assert_eq!(status("/api/v1/namespaces/default/pods/x").await, 403);
    assert_eq!(status("/apis/apps/v1/namespaces/default/deployments/tgi").await, 200);
    assert_eq!(status("/apis/apps/v1/namespaces/default/deployments/other").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_is_done_or_not_as_wanted() {
    for applied in [false, true] {
        let api = ApiServer::start();
        api.hpa("gemma", "tgi", None);
        api.hang_at(1, applied);
        let url = format!(
            "http://{}/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/gemma",
            api.address()
        );
        let request = reqwest::Client::new().delete(url).send();
        let request = tokio::spawn(request);
        assert!(api.hung(Duration::from_secs(20)).await);
        request.abort();
        assert_eq!(api.find("horizontalpodautoscalers", "gemma").is_none(), applied);
    }
}

/// A cluster as the library connects to it, by this server's kubeconfig.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_cluster_say_verb_object_namespace_and_what_is_missing() {
    let api = prepared().await;
    let identity = calibrate::cluster::Identity {
        context: Some(CONTEXT.to_owned()),
        cluster: Some(CLUSTER.to_owned()),
        server: format!("http://{}", api.address()),
        namespace: "default".to_owned(),
    };
    let cluster = calibrate::cluster::Cluster::new(api.client(), identity);
    assert_eq!(cluster.version().await.unwrap(), "v1.36.2");
    let hpas = cluster.list(kinds::HPA, "default", "").await.unwrap();
    assert_eq!(hpas.len(), 1);
    let missing = cluster.get(kinds::DEPLOYMENT, "default", "nope").await.unwrap_err();
    assert!(missing.to_string().contains("deployments.apps \"nope\" not found (HTTP 404)"), "{missing}");
    assert!(cluster.find(kinds::DEPLOYMENT, "default", "nope").await.unwrap().is_none());
    api.without("keda.sh");
    assert!(cluster.list(kinds::SCALED_OBJECT, "default", "").await.unwrap().is_empty());
    api.deny("patch autoscaling/horizontalpodautoscalers");
    let asked = kinds::HPA.asked("patch", "default", Some("gemma-server"));
    assert!(!cluster.allows(&asked).await.unwrap());
    let refused = cluster.merge(kinds::HPA, "default", "gemma-server", &json!({})).await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("patch horizontalpodautoscalers.autoscaling 'gemma-server'"), "{text}");
    assert!(text.contains("it takes the verb patch on horizontalpodautoscalers"), "{text}");
    api.require_token("new", false);
    let expired = cluster.list(kinds::HPA, "default", "").await.unwrap_err();
    assert!(matches!(expired, ClusterError::Refused { status: 401, .. }), "{expired}");
    assert!(expired.to_string().contains("log in again"), "{expired}");
}
