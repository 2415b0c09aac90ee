//! Loopback servers that answer as others document that they do.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use calibrate::measurement::RunClock;
use calibrate::observe::exposition;
use calibrate::simulator::{Preset, Running, serve};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

/// The runtime of all doubles.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    &RUNTIME
}

/// What a double answers.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(body: &Value) -> Reply {
        Reply {
            status: 200,
            headers: vec![("content-type", "application/json".into())],
            body: body.to_string(),
        }
    }

    pub(crate) fn status(status: u16, body: &str) -> Reply {
        Reply { status, headers: Vec::new(), body: body.to_owned() }
    }

    pub(crate) fn text(body: String) -> Reply {
        Reply { status: 200, headers: Vec::new(), body }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Reply {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// A server whose answers a closure makes from path and query, headers and body.
pub(crate) struct Double {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    /// Tokens that it gave out.
    pub(crate) tokens: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
    _running: Option<Running>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Double {
    pub(crate) fn serve(answer: impl Fn(&str, &HeaderMap, &str) -> Reply + Send + Sync + 'static) -> Double {
        let asked = Arc::<Mutex<Vec<(String, String)>>>::default();
        let noted = Arc::clone(&asked);
        let answer = Arc::new(answer);
        let app = axum::Router::new().fallback(move |request: Request| {
            let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
            async move {
                let path = request.uri().path_and_query().unwrap().to_string();
                let headers = request.headers().clone();
                let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let body = String::from_utf8_lossy(&body).into_owned();
                if !body.is_empty() {
                    noted.lock().unwrap().push((path.clone(), body.clone()));
                }
                let reply = answer(&path, &headers, &body);
                let mut response = Response::builder().status(reply.status);
                for (name, value) in reply.headers {
                    response = response.header(name, value);
                }
                response.body(Body::from(reply.body)).unwrap()
            }
        });
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = runtime().spawn(async move { axum::serve(listener, app).await.unwrap() });
        Double { url, asked, tokens: Arc::default(), task, _running: None }
    }

    /// Paths and bodies of what was sent to it.
    pub(crate) fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }
}

/// The simulated TGI.
pub(crate) fn tgi() -> Double {
    let config = Preset::by_name("demo").unwrap().config();
    let running = runtime().block_on(serve(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).unwrap();
    let url = format!("http://{}", running.addr());
    let task = runtime().spawn(async {});
    Double { url, asked: Arc::default(), tokens: Arc::default(), task, _running: Some(running) }
}

/// Sends a server the request before which it shows nothing.
pub(crate) fn touch(url: &str) {
    let url = format!("{url}/generate");
    let body = json!({"inputs": "a b c", "parameters": {"max_new_tokens": 3}});
    let answer = runtime().block_on(async { reqwest::Client::new().post(url).json(&body).send().await });
    assert!(answer.unwrap().status().is_success());
}

/// vLLM as far as calibrate sees it: two engines, five tokens to every answer.
pub(crate) fn vllm() -> Double {
    Double::serve(|path, _, body| match path {
        "/metrics" => Reply::text(
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
             # TYPE vllm:num_requests_running gauge\n\
             vllm:num_requests_running{engine=\"0\",model_name=\"org/model\"} 2.0\n\
             vllm:num_requests_running{engine=\"1\",model_name=\"org/model\"} 3.0\n\
             vllm:num_requests_waiting{engine=\"0\",model_name=\"org/model\"} 1.0\n\
             vllm:num_requests_waiting{engine=\"1\",model_name=\"org/model\"} 2.0\n\
             vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"org/model\"} 0.25\n\
             vllm:kv_cache_usage_perc{engine=\"1\",model_name=\"org/model\"} 0.75\n"
                .to_owned(),
        ),
        "/v1/models" => {
            Reply::json(&json!({"object": "list", "data": [{"id": "org/model", "object": "model"}]}))
        }
        "/v1/chat/completions" | "/v1/completions" => completion(path, body),
        _ => Reply { status: 404, ..Reply::json(&json!({"detail": "Not Found"})) },
    })
}

/// The same without `/metrics`.
pub(crate) fn vllm_without_metrics() -> Double {
    Double::serve(|path, _, body| match path {
        "/v1/models" => {
            Reply::json(&json!({"object": "list", "data": [{"id": "org/model", "object": "model"}]}))
        }
        "/v1/chat/completions" => completion(path, body),
        _ => Reply { status: 404, ..Reply::json(&json!({"detail": "Not Found"})) },
    })
}

fn completion(path: &str, body: &str) -> Reply {
    let body: Value = serde_json::from_str(body).unwrap();
    let words = body.to_string().split(' ').count();
    let event = |choices: Value, usage: Value| {
        format!(
            "data: {}\n\n",
            json!({"id": "c", "object": "chunk", "created": 1, "model": "org/model", "choices": choices, "usage": usage})
        )
    };
    let tokens = body["max_tokens"].as_u64().unwrap();
    let mut text = event(
        json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]),
        Value::Null,
    );
    for i in 1..=tokens {
        let reason = if i == tokens { json!("length") } else { Value::Null };
        let choice = match path {
            "/v1/completions" => json!({"index": 0, "text": " a", "finish_reason": reason}),
            _ => json!({"index": 0, "delta": {"content": " a"}, "finish_reason": reason}),
        };
        text += &event(json!([choice]), Value::Null);
    }
    text +=
        &event(json!([]), json!({"prompt_tokens": words, "completion_tokens": tokens, "total_tokens": 0}));
    text += "data: [DONE]\n\n";
    Reply::text(text).header("content-type", "text/event-stream; charset=utf-8")
}

/// The value of a metric that a server shows now.
async fn shown(url: &str, metric: &str) -> Option<f64> {
    let text = reqwest::get(url).await.ok()?.text().await.ok()?;
    exposition::parse(&text).ok()?.value(metric)
}

/// What a server shows, second by second, as an agent between it and an API collects it.
fn collected(url: String, metric: &'static str) -> Arc<Mutex<VecDeque<(f64, f64)>>> {
    let kept = Arc::<Mutex<VecDeque<(f64, f64)>>>::default();
    let inside = Arc::clone(&kept);
    runtime().spawn(async move {
        loop {
            if let Some(value) = shown(&url, metric).await {
                inside.lock().unwrap().push_front((RunClock::wall(), value));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    kept
}

/// Google: a metadata server whose tokens last half a minute, and a Cloud Monitoring that collects the
/// GPU of `server`.
pub(crate) fn google(server: &str) -> Double {
    let kept = collected(format!("{server}/gpu/metrics"), "DCGM_FI_DEV_GPU_UTIL");
    let tokens = Arc::<AtomicUsize>::default();
    let given = Arc::clone(&tokens);
    let mut double = Double::serve(move |path, headers, _| {
        if path.starts_with("/computeMetadata/v1/instance/service-accounts/default/token") {
            if headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
                return Reply::status(403, "Missing Metadata-Flavor:Google header.");
            }
            let number = given.fetch_add(1, Ordering::SeqCst);
            return Reply::json(
                &json!({"access_token": format!("tokenverysecret{number}"), "expires_in": 30, "token_type": "Bearer"}),
            );
        }
        if !path.starts_with("/v3/projects/my-project/timeSeries") {
            return Reply::status(404, "not found");
        }
        // Of all tokens only the last two still hold.
        let newest = given.load(Ordering::SeqCst);
        let holds = (newest.saturating_sub(2)..newest)
            .any(|i| headers["authorization"] == format!("Bearer tokenverysecret{i}"));
        if !holds {
            return Reply {
                status: 401,
                ..Reply::json(
                    &json!({"error": {"code": 401, "message": "token expired", "status": "UNAUTHENTICATED"}}),
                )
            };
        }
        let time = |unix: f64| jiff::Timestamp::from_microsecond((unix * 1e6) as i64).unwrap().to_string();
        let points: Vec<Value> = kept
            .lock()
            .unwrap()
            .iter()
            .map(|(at, value)| {
                json!({"interval": {"startTime": time(*at), "endTime": time(*at)}, "value": {"int64Value": format!("{value:.0}")}})
            })
            .collect();
        let labels = json!({"pod_name": "tgi-0", "cluster_name": "c", "namespace_name": "default", "container_name": "inference-server"});
        Reply::json(&json!({"timeSeries": [{
            "metric": {"type": "kubernetes.io/container/accelerator/duty_cycle", "labels": {"make": "nvidia"}},
            "resource": {"type": "k8s_container", "labels": labels},
            "metricKind": "GAUGE", "valueType": "INT64", "points": points,
        }]}))
    });
    double.tokens = tokens;
    double
}

/// A cluster whose metrics adapters show what `server` and its GPU show.
pub(crate) fn kubernetes(server: &str) -> Double {
    let metrics = format!("{server}/metrics");
    let queue = collected(metrics.clone(), "tgi_queue_size");
    let batch = collected(metrics, "tgi_batch_current_size");
    let gpu = collected(format!("{server}/gpu/metrics"), "DCGM_FI_DEV_GPU_UTIL");
    Double::serve(move |path, _, _| {
        let custom =
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/prometheus.googleapis.com%7C";
        let last = |kept: &Arc<Mutex<VecDeque<(f64, f64)>>>| kept.lock().unwrap().front().copied();
        let stamp = |at: f64| jiff::Timestamp::from_second(at as i64).unwrap().to_string();
        if let Some(name) = path.strip_prefix(custom) {
            assert!(name.ends_with("%7Cgauge?labelSelector=app%3Dgemma-server"), "{name}");
            let kept = if name.starts_with("tgi_queue_size") { &queue } else { &batch };
            let items: Vec<Value> = last(kept)
                .iter()
                .map(|(at, value)| {
                    json!({"describedObject": {"kind": "Pod", "namespace": "default", "name": "tgi-0", "apiVersion": "/v1"},
                           "timestamp": stamp(*at), "value": format!("{}m", value * 1000.0), "metric": {"name": "x", "selector": null}})
                })
                .collect();
            return Reply::json(
                &json!({"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "metadata": {}, "items": items}),
            );
        }
        let external = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/kubernetes.io%7Ccontainer%7Caccelerator%7Cduty_cycle";
        if path.starts_with(external) {
            assert!(path.contains("resource.labels.cluster_name%3Dc"), "{path}");
            let items: Vec<Value> = last(&gpu)
                .iter()
                .map(|(at, value)| json!({"metricName": "x", "metricLabels": {}, "timestamp": stamp(*at), "value": format!("{value:.0}")}))
                .collect();
            return Reply::json(
                &json!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {}, "items": items}),
            );
        }
        Reply {
            status: 404,
            ..Reply::json(
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "the server could not find the requested resource"}),
            )
        }
    })
}

/// A kubeconfig for a cluster at `url`.
pub(crate) fn kubeconfig(directory: &Path, url: &str) -> PathBuf {
    let path = directory.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- {{name: c, cluster: {{server: '{url}'}}}}\n\
         users:\n- {{name: u, user: {{}}}}\ncontexts:\n- {{name: c, context: {{cluster: c, user: u}}}}\n"
    );
    fs::write(&path, text).unwrap();
    path
}
