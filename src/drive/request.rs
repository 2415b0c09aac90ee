//! One request: built, sent, timed and classified.

use super::decode::{Failure, Finished, StreamDecoder, StreamFormat, classify_status, read_whole};
use super::watchdog::{Watchdog, Watched};
use super::{DriveError, PromptMaker};
use crate::measurement::{FailureKind, RunClock};
use crate::plan::{Api, PlannedRequest};
use crate::units::Seconds;
use futures::future::{Abortable, Aborted};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most of an error body that is read.
const ERROR_BODY_MOST: usize = 64 * 1024;
/// Most of an answer that is not streamed.
const WHOLE_BODY_MOST: usize = 64 * 1024 * 1024;

/// What an HTTP client for load is made from; the caller adds certificates and headers. A redirect is an answer like any
/// other, since following it would measure two requests as one.
pub fn client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_gzip()
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("calibrate/", env!("CARGO_PKG_VERSION")))
}

/// How the server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wire {
    /// The API used.
    pub api: Api,
    /// Whether answers are streamed.
    pub stream: bool,
    /// Sent as `max_new_tokens` instead of the wanted output size.
    pub declared_output: Option<u32>,
    /// Longest wait for the next event of an answer. Comments that keep a connection alive are none.
    pub timeout: Seconds,
}

/// The server that load goes to, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Target {
    client: reqwest::Client,
    base: reqwest::Url,
    generate: reqwest::Url,
    wire: Wire,
    /// TGI takes any name for its one model.
    model: Arc<str>,
    extra: Arc<Map<String, Value>>,
    is_tgi: bool,
}

/// What came of one request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub sent: Seconds,
    pub first_token: Option<Seconds>,
    pub last_event: Option<Seconds>,
    pub ended: Seconds,
    pub input_tokens: Option<u32>,
    pub output_tokens: Option<u32>,
    pub chunks: u32,
    pub status: Option<u16>,
    pub gaps_us: Vec<u32>,
    pub failure: Option<Failure>,
}

impl Answer {
    fn begun(sent: Seconds) -> Answer {
        Answer {
            sent,
            first_token: None,
            last_event: None,
            ended: sent,
            input_tokens: None,
            output_tokens: None,
            chunks: 0,
            status: None,
            gaps_us: Vec::new(),
            failure: None,
        }
    }

    /// An answer that never came.
    pub(super) fn failed(time: Seconds, kind: FailureKind, message: String) -> Answer {
        Answer { failure: Some(Failure { kind, message }), ..Answer::begun(time) }
    }
}

impl Target {
    /// A target at `url`, spoken to with `client`.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(url: &str, wire: Wire, client: reqwest::Client) -> Result<Target, DriveError> {
        let error = |reason: String| DriveError::Address { url: url.to_owned(), reason };
        let mut base = reqwest::Url::parse(url).map_err(|reason| error(reason.to_string()))?;
        if base.cannot_be_a_base() || !base.has_host() {
            return Err(error("it names no host".to_owned()));
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let generate = below(
            &base,
            match (wire.api, wire.stream) {
                (Api::Generate, true) => "generate_stream",
                (Api::Generate, false) => "generate",
                (Api::Chat, _) => "v1/chat/completions",
                (Api::Completions, _) => "v1/completions",
            },
        );
        let extra = Arc::default();
        Ok(Target { client, base, generate, wire, model: "tgi".into(), extra, is_tgi: true })
    }

    /// The same target, which is not TGI: requests name `model` and carry `extra` fields, and what it
    /// serves is asked at `/v1/models`.
    pub fn openai(self, model: &str, extra: Map<String, Value>) -> Target {
        Target { model: model.into(), extra: extra.into(), is_tgi: false, ..self }
    }

    /// Whether it is TGI.
    pub(super) fn is_tgi(&self) -> bool {
        self.is_tgi
    }

    /// The address of a path below the target.
    pub fn url(&self, path: &str) -> reqwest::Url {
        below(&self.base, path)
    }

    /// Longest wait for the next event of an answer.
    pub(super) fn timeout(&self) -> Seconds {
        self.wire.timeout
    }

    /// The HTTP client; it shares its connections.
    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    fn format(&self) -> StreamFormat {
        match self.wire.api {
            Api::Generate => StreamFormat::Generate,
            Api::Chat => StreamFormat::Chat,
            Api::Completions => StreamFormat::Completions,
        }
    }

    /// Where generation requests go.
    pub(super) fn generate_url(&self) -> &reqwest::Url {
        &self.generate
    }

    fn body(&self, prompt: &str, output_tokens: u32) -> Vec<u8> {
        let declared = self.wire.declared_output.unwrap_or(output_tokens);
        let openai = |mut body: Value| {
            if self.wire.stream {
                body["stream"] = true.into();
                body["stream_options"] = json!({ "include_usage": true });
            }
            body
        };
        let model = &*self.model;
        let mut body = match self.wire.api {
            Api::Generate => {
                json!({ "inputs": prompt, "parameters": { "max_new_tokens": declared, "details": true } })
            }
            Api::Chat => openai(json!({
                "model": model,
                "messages": [{ "role": "user", "content": prompt }],
                "max_tokens": declared,
            })),
            Api::Completions => openai(json!({ "model": model, "prompt": prompt, "max_tokens": declared })),
        };
        for (field, value) in self.extra.iter() {
            body[field] = value.clone();
        }
        body.to_string().into_bytes()
    }

    /// Sends one request and follows its answer to the end, or until `watchdog` ends it.
    pub(super) async fn ask(
        &self,
        clock: RunClock,
        prompts: &PromptMaker,
        id: u64,
        wanted: &PlannedRequest,
        watchdog: &Watchdog,
    ) -> Answer {
        let body = match &wanted.prompt {
            Some(prompt) => self.body(prompt, wanted.output),
            None => self.body(&prompts.prompt(id, wanted.input.unwrap_or(1)), wanted.output),
        };
        let request = self
            .client
            .post(self.generate.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body);
        let (watched, registration) = watchdog.watch();
        let mut exchange = Exchange::begin(clock, self.format(), self.wire, wanted.output, watched);
        let failure = match Abortable::new(exchange.run(request), registration).await {
            Ok(failure) => failure,
            Err(Aborted) => Some(exchange.watched.verdict()),
        };
        exchange.end(failure)
    }
}

fn below(base: &reqwest::Url, path: &str) -> reqwest::Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path()));
    url
}

/// A request under way. It is its own struct so that what was seen survives being cut off.
struct Exchange {
    clock: RunClock,
    stream: bool,
    watched: Watched,
    answer: Answer,
    decoder: StreamDecoder,
    /// What an answer that was not streamed says.
    whole: Option<Finished>,
    last_token_event: Option<Seconds>,
    /// No answer has more gaps between tokens than this.
    gaps_most: usize,
}

/// An answer that is so many times and so many tokens longer than was asked for has no end.
const BEYOND_TIMES: usize = 16;
const BEYOND_TOKENS: usize = 16_384;
/// No event carries more tokens than this, whatever it says.
const EVENT_TOKENS_MOST: u32 = 64;
/// Gaps that room is made for at once; longer answers make more as they go.
const GAPS_AT_ONCE: u32 = 4096;

impl Exchange {
    fn begin(
        clock: RunClock,
        format: StreamFormat,
        wire: Wire,
        wanted_output: u32,
        watched: Watched,
    ) -> Exchange {
        let gaps = if wire.stream { wanted_output.min(GAPS_AT_ONCE) as usize } else { 0 };
        let now = clock.now();
        Exchange {
            clock,
            stream: wire.stream,
            watched,
            answer: Answer { gaps_us: Vec::with_capacity(gaps), ..Answer::begun(now) },
            decoder: StreamDecoder::new(format),
            whole: None,
            last_token_event: None,
            gaps_most: wire.declared_output.unwrap_or(0).max(wanted_output) as usize * BEYOND_TIMES
                + BEYOND_TOKENS,
        }
    }

    /// Sends the request and reads the answer. `None`: the body came to its end.
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
        if !self.stream {
            return self.take_whole(response).await;
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
            if self.decoder.is_beyond_reading() {
                return None;
            }
            if self.answer.gaps_us.len() > self.gaps_most {
                let message = "the answer goes on far beyond the tokens that were asked for".to_owned();
                return Some(Failure { kind: FailureKind::Malformed, message });
            }
        }
    }

    /// An answer in one piece. TGI tells the prompt's tokens in a header.
    async fn take_whole(&mut self, mut response: reqwest::Response) -> Option<Failure> {
        let prompt_tokens =
            response.headers().get("x-prompt-tokens").and_then(|v| v.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(bytes)) => body.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(error) => return Some(transport_failure(&error)),
            }
            if body.len() > WHOLE_BODY_MOST {
                let message = format!("the answer is larger than {} MiB", WHOLE_BODY_MOST / (1024 * 1024));
                return Some(Failure { kind: FailureKind::Malformed, message });
            }
        }
        self.answer.last_event = Some(self.clock.now());
        match read_whole(self.decoder.format(), &body) {
            Ok(finished) => {
                let input_tokens = finished.input_tokens.or(prompt_tokens);
                self.whole = Some(Finished { input_tokens, ..finished });
                None
            }
            Err(failure) => Some(failure),
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let now = self.clock.now();
        let (answer, last_token_event) = (&mut self.answer, &mut self.last_token_event);
        let any = self.decoder.feed(bytes, |event| {
            answer.chunks += 1;
            answer.first_token.get_or_insert(now);
            if let Some(before) = last_token_event.replace(now) {
                // The tokens of one event share the time since the one before.
                let gap = (now - before).0 * 1e6 / f64::from(event.tokens);
                let gap = gap.round().min(f64::from(u32::MAX)) as u32;
                answer.gaps_us.extend(std::iter::repeat_n(gap, event.tokens.min(EVENT_TOKENS_MOST) as usize));
            }
        });
        // A comment keeps the connection alive; only events move the end of the request.
        if any {
            answer.last_event = Some(now);
            self.watched.progressed(now);
        }
    }

    fn end(self, failure: Option<Failure>) -> Answer {
        let mut answer = Answer { ended: self.clock.now(), ..self.answer };
        // What happens to a connection after the last event does not harm the answer.
        let failure = failure.filter(|_| !self.decoder.is_complete());
        let said = match self.whole {
            Some(whole) => Ok(whole),
            None => self.decoder.finish(),
        };
        match said {
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
    let kind = if is_own_limit(error) {
        FailureKind::ClientLimit
    } else if error.is_connect() {
        FailureKind::Connect
    } else if error.is_timeout() {
        FailureKind::Timeout
    } else {
        FailureKind::Truncated
    };
    Failure { kind, message: root_cause(error) }
}

/// Whether this machine ran out of file descriptors (ENFILE, EMFILE) or local ports.
fn is_own_limit(error: &reqwest::Error) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|error| {
        error.kind() == std::io::ErrorKind::AddrNotAvailable || matches!(error.raw_os_error(), Some(23 | 24))
    })
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The innermost reason of an error: "connection refused" rather than "error sending request".
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}
