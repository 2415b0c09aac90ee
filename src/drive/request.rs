//! One streaming request: built, sent, timed and classified.

use super::decode::{Failure, StreamDecoder, StreamFormat, classify_status};
use super::{DriveError, PromptMaker};
use crate::measurement::{FailureKind, RunClock};
use crate::plan::{Api, RequestSize};
use crate::units::Seconds;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;
use std::future::Future;
use std::time::Duration;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most of an error body that is read.
const ERROR_BODY_MOST: usize = 64 * 1024;

/// The server that load goes to, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Target {
    client: reqwest::Client,
    base: reqwest::Url,
    api: Api,
    declared_output: Option<u32>,
}

/// What came of one request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub sent: Seconds,
    pub first_token: Option<Seconds>,
    pub last_event: Option<Seconds>,
    pub input_tokens: Option<u32>,
    pub output_tokens: Option<u32>,
    pub chunks: u32,
    pub status: Option<u16>,
    pub gaps_us: Vec<u32>,
    pub failure: Option<Failure>,
}

impl Target {
    /// A target at `url`. `timeout` limits the wait for each next byte, never the whole stream.
    /// `declared_output` is sent as `max_new_tokens` instead of the wanted output size.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(
        url: &str,
        api: Api,
        timeout: Seconds,
        declared_output: Option<u32>,
    ) -> Result<Target, DriveError> {
        let address = |reason: String| DriveError::Address { url: url.to_owned(), reason };
        let mut base = reqwest::Url::parse(url).map_err(|error| address(error.to_string()))?;
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let client = reqwest::Client::builder()
            .no_gzip()
            .http1_only()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(timeout.to_duration())
            .user_agent(concat!("calibrate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| address(error.to_string()))?;
        Ok(Target { client, base, api, declared_output })
    }

    /// The address of a path below the target.
    pub fn url(&self, path: &str) -> reqwest::Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url
    }

    /// The HTTP client; it shares its connections.
    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    fn format(&self) -> StreamFormat {
        match self.api {
            Api::Generate => StreamFormat::Generate,
            Api::Chat => StreamFormat::Chat,
            Api::Completions => StreamFormat::Completions,
        }
    }

    /// Where generation requests go.
    pub(super) fn generate_url(&self) -> reqwest::Url {
        self.url(match self.api {
            Api::Generate => "generate_stream",
            Api::Chat => "v1/chat/completions",
            Api::Completions => "v1/completions",
        })
    }

    fn body(&self, prompt: &str, output_tokens: u32) -> Vec<u8> {
        let declared = self.declared_output.unwrap_or(output_tokens);
        let body = match self.api {
            Api::Generate => {
                json!({ "inputs": prompt, "parameters": { "max_new_tokens": declared, "details": true } })
            }
            Api::Chat => json!({
                "model": "tgi",
                "messages": [{ "role": "user", "content": prompt }],
                "max_tokens": declared,
                "stream": true,
                "stream_options": { "include_usage": true },
            }),
            Api::Completions => json!({
                "model": "tgi",
                "prompt": prompt,
                "max_tokens": declared,
                "stream": true,
                "stream_options": { "include_usage": true },
            }),
        };
        body.to_string().into_bytes()
    }

    /// Sends one request and follows its stream to the end, or until `aborted` resolves.
    pub(super) async fn ask(
        &self,
        clock: RunClock,
        prompts: &PromptMaker,
        id: u64,
        size: RequestSize,
        aborted: impl Future<Output = ()>,
    ) -> Answer {
        let request = self
            .client
            .post(self.generate_url())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(self.body(&prompts.prompt(id, size.input), size.output));
        let mut exchange = Exchange::begin(clock, self.format());
        tokio::select! {
            failure = exchange.run(request) => exchange.end(failure),
            () = aborted => exchange.end(Some(stopped())),
        }
    }
}

fn stopped() -> Failure {
    Failure { kind: FailureKind::Stopped, message: "the run ended before the request did".to_owned() }
}

/// A request under way. It is its own struct so that what was seen survives being cut off.
struct Exchange {
    clock: RunClock,
    answer: Answer,
    decoder: StreamDecoder,
    last_token_event: Option<Seconds>,
}

impl Exchange {
    fn begin(clock: RunClock, format: StreamFormat) -> Exchange {
        let answer = Answer {
            sent: clock.now(),
            first_token: None,
            last_event: None,
            input_tokens: None,
            output_tokens: None,
            chunks: 0,
            status: None,
            gaps_us: Vec::new(),
            failure: None,
        };
        Exchange { clock, answer, decoder: StreamDecoder::new(format), last_token_event: None }
    }

    /// Sends the request and reads the stream. `None`: the body came to its end.
    async fn run(&mut self, request: reqwest::RequestBuilder) -> Option<Failure> {
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Some(transport_failure(&error)),
        };
        let status = response.status().as_u16();
        self.answer.status = Some(status);
        if status != 200 {
            let body = read_error_body(response).await;
            self.answer.last_event = Some(self.clock.now());
            return Some(classify_status(status, &body));
        }
        let content_type =
            response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !content_type.starts_with("text/event-stream") {
            let message = format!("the answer is '{content_type}' and not an event stream");
            return Some(Failure { kind: FailureKind::Malformed, message });
        }
        loop {
            match response.chunk().await {
                Ok(Some(bytes)) => self.take(&bytes),
                Ok(None) => return None,
                Err(error) => return Some(transport_failure(&error)),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let now = self.clock.now();
        let (answer, last_token_event) = (&mut self.answer, &mut self.last_token_event);
        self.decoder.feed(bytes, |_event| {
            answer.chunks += 1;
            answer.first_token.get_or_insert(now);
            if let Some(before) = last_token_event.replace(now) {
                answer.gaps_us.push(((now - before).0 * 1e6).round().min(f64::from(u32::MAX)) as u32);
            }
        });
        // A comment keeps the connection alive; only events move the end of the request.
        if self.decoder.saw_event() {
            answer.last_event = Some(now);
        }
    }

    fn end(self, failure: Option<Failure>) -> Answer {
        let mut answer = self.answer;
        match self.decoder.finish() {
            Ok(finished) => {
                answer.input_tokens = finished.input_tokens;
                answer.output_tokens = finished.output_tokens;
                answer.failure = failure;
            }
            // What the server said in the stream explains more than how the connection ended, but
            // a stream that was cut is first of all what cut it.
            Err(said) => {
                answer.failure = Some(match failure {
                    Some(cut) if said.kind == FailureKind::Truncated => cut,
                    _ => said,
                });
            }
        }
        answer
    }
}

async fn read_error_body(mut response: reqwest::Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(bytes)) = response.chunk().await {
        body.extend_from_slice(&bytes);
        if body.len() > ERROR_BODY_MOST {
            break;
        }
    }
    body
}

/// The failure kind of an error of the HTTP client.
fn transport_failure(error: &reqwest::Error) -> Failure {
    let kind = if error.is_connect() {
        FailureKind::Connect
    } else if error.is_timeout() {
        FailureKind::Timeout
    } else {
        FailureKind::Truncated
    };
    Failure { kind, message: root_cause(error) }
}

/// The innermost reason of an error: "connection refused" rather than "error sending request".
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error).to_string()
}
