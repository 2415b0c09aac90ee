//! A few requests before the load: is this TGI, does it answer, how does it count tokens, how long
//! does one request take alone?

use super::request::{Answer, Target, root_cause};
use super::watchdog::Watchdog;
use super::{DriveError, PromptMaker};
use crate::measurement::RunClock;
use crate::plan::{PlannedRequest, RequestSize};
use crate::units::Seconds;
use std::time::Duration;

/// Longest wait for `/info`.
const INFO_TIMEOUT: Duration = Duration::from_secs(10);
/// Words of the two prompts that the token ratio is learned from.
const SHORT_WORDS: u32 = 8;
const LONG_WORDS: u32 = 64;

/// What is known of a server before load.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// The body of `/info`, or of `/v1/models` where the server is not TGI.
    pub info: serde_json::Value,
    /// End-to-end latency of one request of the wanted size, alone.
    pub single_latency: Seconds,
    /// How prompts are made for this server.
    pub prompts: PromptMaker,
    /// What the reader should know.
    pub remarks: Vec<String>,
}

/// Asks what the server is, then sends three single requests, the last of them of size `typical`. `raw` makes
/// prompts as long as nothing is known of the server; `exact` says that it is of
/// a tokenizer that must be the server's.
///
/// # Errors
/// A server that is not there, that is not TGI, or that refuses a single request.
pub async fn probe(
    target: &Target,
    clock: RunClock,
    raw: PromptMaker,
    exact: bool,
    typical: RequestSize,
) -> Result<Probe, DriveError> {
    let info = info(target).await?;
    let mut remarks = Vec::new();
    let mut counts = Vec::new();
    for (id, words) in [SHORT_WORDS, LONG_WORDS].into_iter().enumerate() {
        let id = PROBE_IDS + id as u64;
        let prompt = Some(raw.text(id, words).into());
        let wanted = PlannedRequest { prompt, input: Some(words), output: 1 };
        let answer = single(target, clock, &raw, id, &wanted).await?;
        counts.push((words, answer.input_tokens));
    }
    let calibrated = match counts[..] {
        [(short, Some(a)), (long, Some(b))] => raw.calibrated((short, a), (long, b)),
        _ => None,
    };
    if let (true, Some(calibrated)) = (exact, &calibrated)
        && !calibrated.is_exact()
    {
        let url = target.url("").to_string();
        let said = |i: usize| i64::from(counts[i].1.unwrap_or_default());
        return Err(DriveError::OtherTokenizer {
            url,
            counted: LONG_WORDS - SHORT_WORDS,
            said: said(1) - said(0),
        });
    }
    if calibrated.is_none() && !exact {
        let remark = "the server does not say how many tokens a prompt has: one token a word is assumed, \
                      so prompts may be longer or shorter than asked for";
        remarks.push(remark.to_owned());
    }
    let prompts = calibrated.unwrap_or(raw);
    let before = clock.now();
    let answer = single(target, clock, &prompts, PROBE_IDS + 2, &typical.into()).await?;
    if answer.output_tokens.is_none() {
        remarks.push("the server does not say how many tokens it generated: TPOT is not known".to_owned());
    }
    Ok(Probe { info, single_latency: clock.now() - before, prompts, remarks })
}

/// Ids of probes, far from those of a run, so that their prompts are others.
const PROBE_IDS: u64 = 1 << 60;

async fn single(
    target: &Target,
    clock: RunClock,
    prompts: &PromptMaker,
    id: u64,
    wanted: &PlannedRequest,
) -> Result<Answer, DriveError> {
    let watchdog = Watchdog::start(clock, target.timeout());
    let answer = target.ask(clock, prompts, id, wanted, &watchdog).await;
    match &answer.failure {
        None => Ok(answer),
        Some(failure) => Err(DriveError::Refused {
            url: target.generate_url().to_string(),
            input_tokens: wanted.input.unwrap_or_default(),
            output_tokens: wanted.output,
            kind: failure.kind,
            reason: match answer.status {
                Some(status) if status != 200 => format!("HTTP {status}, {}", failure.message),
                _ => failure.message.clone(),
            },
        }),
    }
}

/// What the server says of itself: `/info`, or `/v1/models` where it is not TGI.
///
/// # Errors
/// A server that is not there, or is of another kind.
pub async fn info(target: &Target) -> Result<serde_json::Value, DriveError> {
    if !target.is_tgi() {
        return Ok(models(target).await?.1);
    }
    let (url, info) = document(target, "info", |url, reason| DriveError::NotTgi { url, reason }).await?;
    if info.get("model_id").and_then(serde_json::Value::as_str).is_none() {
        return Err(DriveError::NotTgi { url, reason: "the answer has no model_id".to_owned() });
    }
    Ok(info)
}

/// The name of the first model that a server of OpenAI's API serves, and all that it says of its models.
///
/// # Errors
/// A server that is not there or lists no model.
pub async fn models(target: &Target) -> Result<(String, serde_json::Value), DriveError> {
    let not_openai = |url, reason| DriveError::NotOpenAi { url, reason };
    let (url, models) = document(target, "v1/models", not_openai).await?;
    match models.pointer("/data/0/id").and_then(serde_json::Value::as_str) {
        Some(model) => Ok((model.to_owned(), models)),
        None => Err(not_openai(url, "the answer lists no model".to_owned())),
    }
}

/// The JSON at a path of the target, with its address; `other` makes the error of an answer that is none.
async fn document(
    target: &Target,
    path: &str,
    other: impl Fn(String, String) -> DriveError,
) -> Result<(String, serde_json::Value), DriveError> {
    let url = target.url(path).to_string();
    let unreachable =
        |error: reqwest::Error| DriveError::Unreachable { url: url.clone(), reason: root_cause(&error) };
    let response = target.client().get(&url).timeout(INFO_TIMEOUT).send().await.map_err(unreachable)?;
    let status = response.status();
    let body = response.bytes().await.map_err(unreachable)?;
    if !status.is_success() {
        return Err(other(url, format!("HTTP {status}")));
    }
    match serde_json::from_slice(&body) {
        Ok(json) => Ok((url, json)),
        Err(_) => Err(other(url, "the answer is not JSON".to_owned())),
    }
}
