//! TGI's HTTP: routes, headers, status codes, bodies.

use super::request::{ChatRequest, CompatRequest, CompletionsRequest, GenerateRequest, Prompt};
use super::shard::{Delivery, Shard};
use super::stream::{self, Answering, FINGERPRINT, Shape};
use super::{SimulatorConfig, gpu};
use crate::batching::Refused;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, HeaderName, HeaderValue, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use std::sync::Arc;

/// The version whose answers are imitated.
const VERSION: &str = "3.3.7";
const MAX_CLIENT_BATCH_SIZE: u32 = 4;

/// What every handler sees.
#[derive(Clone)]
struct App {
    config: Arc<SimulatorConfig>,
    model_id: Arc<str>,
    shard: Arc<Shard>,
}

/// The routes of the server.
pub(super) fn router(config: SimulatorConfig, shard: Arc<Shard>) -> Router {
    let app = App { model_id: config.model_id.as_str().into(), config: Arc::new(config), shard };
    Router::new()
        .route("/", get(health).post(compat))
        .route("/generate", post(generate))
        .route("/generate_stream", post(generate_stream))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/info", get(info))
        .route("/health", get(health))
        .route("/ping", get(health))
        .route("/metrics", get(metrics))
        .route("/gpu/metrics", get(gpu_metrics))
        .layer(axum::middleware::map_response(allow_any_origin))
        .with_state(app)
}

async fn allow_any_origin(mut response: Response) -> Response {
    let vary =
        HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers");
    response.headers_mut().insert(VARY, vary);
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

async fn health() -> StatusCode {
    StatusCode::OK
}

async fn info(State(app): State<App>) -> Response {
    let config = &app.config;
    json_body(
        StatusCode::OK,
        &json!({
            "model_id": config.model_id,
            "model_sha": null,
            "model_pipeline_tag": null,
            "max_concurrent_requests": config.model.max_concurrent_requests,
            "max_best_of": 2,
            "max_stop_sequences": 4,
            "max_input_tokens": config.max_total_tokens - 1,
            "max_total_tokens": config.max_total_tokens,
            "validation_workers": 2,
            "max_client_batch_size": MAX_CLIENT_BATCH_SIZE,
            "router": "text-generation-router",
            "version": VERSION,
            "sha": null,
            "docker_label": "calibrate-simulator",
        }),
    )
}

async fn models(State(app): State<App>) -> Response {
    let id = &app.config.model_id;
    let model = json!({ "id": id, "object": "model", "created": 0, "owned_by": id });
    json_body(StatusCode::OK, &json!({ "object": "list", "data": [model] }))
}

async fn metrics(State(app): State<App>) -> String {
    app.shard.metrics.render(app.shard.gauges())
}

async fn gpu_metrics(State(app): State<App>) -> String {
    gpu::exposition(app.shard.gpu_share(), &app.config.gpu_name, app.config.gpu_memory_mib)
}

async fn generate(State(app): State<App>, Json(request): Json<GenerateRequest>) -> Response {
    let details = request.parameters.details;
    let prompt =
        Prompt::plain(request.inputs, request.parameters.max_new_tokens, request.parameters.temperature);
    app.answer(prompt, Shape::Generate { details, prefix: String::new() }, false).await
}

async fn generate_stream(State(app): State<App>, Json(request): Json<GenerateRequest>) -> Response {
    let details = request.parameters.details;
    let prompt =
        Prompt::plain(request.inputs, request.parameters.max_new_tokens, request.parameters.temperature);
    app.answer(prompt, Shape::Generate { details, prefix: String::new() }, true).await
}

async fn compat(State(app): State<App>, Json(request): Json<CompatRequest>) -> Response {
    let parameters = request.parameters;
    let shape = Shape::Generate { details: parameters.details, prefix: request.inputs.clone() };
    let prompt = Prompt::plain(request.inputs, parameters.max_new_tokens, parameters.temperature);
    app.answer(prompt, shape, request.stream).await
}

async fn chat(State(app): State<App>, Json(request): Json<ChatRequest>) -> Response {
    app.shard.metrics.requested(1);
    let include_usage = request.stream_options.as_ref().is_some_and(|options| options.include_usage);
    app.answer(Prompt::chat(&request), Shape::Chat { include_usage }, request.stream).await
}

async fn completions(State(app): State<App>, Json(request): Json<CompletionsRequest>) -> Response {
    app.shard.metrics.requested(1);
    let prompt = Prompt::plain(request.prompt, request.max_tokens, request.temperature);
    app.answer(prompt, Shape::Completions, request.stream).await
}

/// Why a request is not served, in TGI's words.
struct Refusal {
    status: StatusCode,
    message: String,
    kind: &'static str,
}

impl App {
    async fn answer(&self, prompt: Prompt, shape: Shape, streaming: bool) -> Response {
        let letters = prompt.letters;
        let accepted = self.accept(prompt, shape.clone());
        if !streaming {
            return match accepted {
                Ok(answering) => whole(answering).await,
                Err(refusal) => refusal.into_response(),
            };
        }
        // A stream is HTTP 200 from its first moment, whatever becomes of it.
        let headers = compute_headers(&[
            ("x-compute-characters", letters.to_string()),
            ("x-accel-buffering", "no".to_owned()),
        ]);
        match accepted {
            Ok(answering) => sse(headers, stream::of_answer(answering)),
            Err(refusal) => {
                sse(headers, stream::of_events(stream::error_events(&shape, &refusal.message, refusal.kind)))
            }
        }
    }

    fn accept(&self, prompt: Prompt, shape: Shape) -> Result<Answering, Refusal> {
        let metrics = &self.shard.metrics;
        metrics.requested(1);
        let arrived = self.shard.now();
        if let Some(message) = prompt.problem(&self.config) {
            metrics.failed("validation");
            return Err(Refusal { status: StatusCode::UNPROCESSABLE_ENTITY, message, kind: "validation" });
        }
        let end_at = prompt.end_at();
        let output = end_at.unwrap_or(prompt.max_new_tokens);
        let ticket = self.shard.submit(prompt.input_tokens, prompt.max_new_tokens, output, prompt.fail_at());
        let ticket = ticket.map_err(|refused| match refused {
            Refused::Overloaded => {
                metrics.failed("overloaded");
                Refusal {
                    status: StatusCode::TOO_MANY_REQUESTS,
                    message: refused.to_string(),
                    kind: "overloaded",
                }
            }
            Refused::TooLarge => {
                metrics.failed("validation");
                let message = format!("Input validation error: {refused}");
                Refusal { status: StatusCode::UNPROCESSABLE_ENTITY, message, kind: "validation" }
            }
        })?;
        metrics.validated(prompt.input_tokens, prompt.max_new_tokens, self.shard.now() - arrived);
        Ok(Answering {
            shard: Arc::clone(&self.shard),
            ticket,
            shape,
            prompt,
            model_id: Arc::clone(&self.model_id),
            arrived,
            created: jiff::Timestamp::now().as_second(),
            ends_by_itself: end_at.is_some(),
            text: String::new(),
            tokens: 0,
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json_body(self.status, &json!({ "error": self.message, "error_type": self.kind }))
    }
}

fn json_body(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.to_string()).into_response()
}

fn sse(
    headers: HeaderMap,
    events: impl futures::Stream<Item = Result<axum::response::sse::Event, std::convert::Infallible>>
    + Send
    + 'static,
) -> Response {
    (headers, Sse::new(events).keep_alive(KeepAlive::default())).into_response()
}

fn compute_headers(more: &[(&'static str, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-compute-type", HeaderValue::from_static("gpu+optimized"));
    for (name, value) in more {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

/// The answer in one piece, once it is complete.
async fn whole(mut answering: Answering) -> Response {
    let mut tokens = Vec::new();
    while let Some(delivery) = answering.ticket.deliveries.recv().await {
        match delivery {
            Delivery::Failed(message) => {
                let message = format!("Request failed during generation: {message}");
                return Refusal { status: StatusCode::FAILED_DEPENDENCY, message, kind: "generation" }
                    .into_response();
            }
            Delivery::Token { serial, last, .. } => {
                let (id, text, special) = answering.take(serial, last);
                tokens.push(json!({ "id": id, "text": text, "logprob": -0.5, "special": special }));
                if last {
                    break;
                }
            }
        }
    }
    let headers = timing_headers(&answering);
    let body = whole_body(&answering, &tokens);
    (headers, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

fn timing_headers(answering: &Answering) -> HeaderMap {
    let times = answering.ticket.times();
    let total = answering.shard.now() - answering.arrived;
    answering.shard.metrics.succeeded(answering.tokens, total, times.queued, times.served);
    let whole_ms = |seconds: crate::units::Seconds| format!("{:.0}", seconds.as_millis().floor());
    let mut headers = compute_headers(&[
        ("x-compute-time", total.0.to_string()),
        ("x-compute-characters", answering.prompt.letters.to_string()),
        ("x-total-time", whole_ms(total)),
        ("x-validation-time", "0".to_owned()),
        ("x-queue-time", whole_ms(times.queued)),
        ("x-inference-time", whole_ms(times.served)),
        ("x-time-per-token", whole_ms(times.served / f64::from(answering.tokens.max(1)))),
        ("x-prompt-tokens", answering.prompt.input_tokens.to_string()),
        ("x-generated-tokens", answering.tokens.to_string()),
    ]);
    if answering.shape == Shape::Completions {
        headers.remove("x-compute-time");
    }
    headers
}

fn whole_body(answering: &Answering, tokens: &[serde_json::Value]) -> String {
    let reason = answering.finish_reason();
    let openai = |object: &str, choice: String| {
        format!(
            "{{\"object\":\"{object}\",\"id\":\"\",\"created\":{},\"model\":\"{}\",\
             \"system_fingerprint\":\"{FINGERPRINT}\",\"choices\":[{choice}],\"usage\":{}}}",
            answering.created,
            answering.model_id,
            answering.usage()
        )
    };
    let text = serde_json::Value::from(answering.text.as_str());
    match &answering.shape {
        Shape::Generate { details: false, prefix } => {
            json!({ "generated_text": format!("{prefix}{}", answering.text) }).to_string()
        }
        Shape::Generate { details: true, prefix } => {
            let text = serde_json::Value::from(format!("{prefix}{}", answering.text));
            let tokens = serde_json::Value::from(tokens.to_vec());
            format!(
                "{{\"generated_text\":{text},\"details\":{{\"finish_reason\":\"{reason}\",\"generated_tokens\":{},\
                 \"seed\":null,\"prefill\":[],\"tokens\":{tokens}}}}}",
                answering.tokens
            )
        }
        Shape::Chat { .. } => openai(
            "chat.completion",
            format!(
                "{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":{text}}},\"logprobs\":null,\
                 \"finish_reason\":\"{reason}\"}}"
            ),
        ),
        Shape::Completions => openai(
            "text_completion",
            format!("{{\"index\":0,\"text\":{text},\"logprobs\":null,\"finish_reason\":\"{reason}\"}}"),
        ),
    }
}
