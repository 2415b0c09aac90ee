//! One question over HTTP and its answer, with whatever goes wrong named by its kind.

use crate::measurement::RunClock;
use serde::de::DeserializeOwned;
use std::fmt;
use std::time::Duration;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body that is read.
const BODY_MOST: usize = 64 * 1024 * 1024;
/// Most of an error's body that is shown.
const SHOWN_MOST: usize = 300;
/// Longest wait that a server may ask for.
const RETRY_MOST: Duration = Duration::from_secs(300);

/// What an HTTP client for metrics is made from; the caller adds certificates and headers.
pub fn client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_gzip().no_proxy().timeout(TIMEOUT)
}

/// The same for APIs on the internet, which may lie behind a proxy that the environment names.
pub fn api_client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_gzip().timeout(TIMEOUT)
}

/// Why a source gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// Nothing answers.
    Unreachable,
    /// It does not know who asks.
    Unauthorized,
    /// It knows, and refuses.
    Forbidden,
    /// It has no such thing.
    NotFound,
    /// It was asked too often.
    Throttled,
    /// It failed itself.
    Failing,
    /// It says that the question is wrong.
    Refused,
    /// Its answer is not what was expected.
    Malformed,
    /// It answers, and has nothing of what was asked for, or not what is needed.
    Missing,
    /// It has more of what was asked for than one can be told from another.
    Ambiguous,
    /// Its clock is not this machine's.
    ClocksApart,
}

/// Why a source gave nothing, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Of which kind it is.
    pub kind: ProblemKind,
    /// What happened.
    pub reason: String,
    /// How long the source asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// A problem of a kind.
    pub fn new(kind: ProblemKind, reason: impl Into<String>) -> Problem {
        Problem { kind, reason: reason.into(), retry_after: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Sends a request and reads the body of a good answer as text.
pub(super) async fn text(request: reqwest::RequestBuilder) -> Result<String, Problem> {
    let (status, retry_after, body) = exchange(request).await?;
    if !status.is_success() {
        let reason = match shown(&body) {
            said if said.is_empty() => format!("HTTP {status}"),
            said => format!("HTTP {status}: {said}"),
        };
        return Err(Problem { retry_after, ..Problem::new(kind_of(status.as_u16()), reason) });
    }
    let not_text = |_| Problem::new(ProblemKind::Malformed, "the answer is not UTF-8 text");
    String::from_utf8(body).map_err(not_text)
}

/// Sends a request and reads the body of a good answer as JSON.
pub(super) async fn json<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, Problem> {
    let body = text(request).await?;
    serde_json::from_str(&body).map_err(|error| {
        let begin: String = body.chars().take(80).collect();
        Problem::new(
            ProblemKind::Malformed,
            format!("the answer is not what was expected ({error}): {begin}"),
        )
    })
}

async fn exchange(
    request: reqwest::RequestBuilder,
) -> Result<(reqwest::StatusCode, Option<Duration>, Vec<u8>), Problem> {
    let unreachable = |error: reqwest::Error| Problem::new(ProblemKind::Unreachable, root_cause(&error));
    let mut response = request.send().await.map_err(unreachable)?;
    let retry_after = response.headers().get(reqwest::header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| wait(value.to_str().ok()?, RunClock::wall()));
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&bytes);
        if body.len() > BODY_MOST {
            let reason = format!("the answer is larger than {} MiB", BODY_MOST / (1024 * 1024));
            return Err(Problem::new(ProblemKind::Malformed, reason));
        }
    }
    Ok((response.status(), retry_after, body))
}

/// How long Retry-After asks to wait: seconds, or a date, of which `now` is so many seconds since 1970.
fn wait(value: &str, now: f64) -> Option<Duration> {
    let seconds = value.trim().parse::<u64>().map(|seconds| seconds as f64).ok();
    let until = || Some(jiff::fmt::rfc2822::parse(value.trim()).ok()?.timestamp().as_second() as f64 - now);
    let seconds = seconds.or_else(until)?;
    Some(Duration::from_secs_f64(seconds.max(0.0)).min(RETRY_MOST))
}

/// What kind of problem a status is.
pub(super) fn kind_of(status: u16) -> ProblemKind {
    match status {
        401 => ProblemKind::Unauthorized,
        403 => ProblemKind::Forbidden,
        404 => ProblemKind::NotFound,
        429 => ProblemKind::Throttled,
        500..=599 => ProblemKind::Failing,
        _ => ProblemKind::Refused,
    }
}

/// What the body of an error says: the message of Google's, Prometheus' and Kubernetes' JSON errors, or
/// its beginning.
fn shown(body: &[u8]) -> String {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|body| {
        // Google wraps the errors of some methods in a list.
        let body = body.get(0).cloned().unwrap_or(body);
        let error = body.get("error");
        let message = error.and_then(|error| error.get("message")).or(error).or(body.get("message"));
        message?.as_str().map(str::to_owned)
    });
    let text = said.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_MOST).collect()
}

/// The innermost reason of an error: "connection refused" rather than "error sending request".
pub(super) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_until_a_date() {
        // 21 October 2015, 07:28:00 UTC is 1445412480.
        let asked = |value: &str| wait(value, 1_445_412_450.0).map(|wait| wait.as_secs());
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), Some(30));
        assert_eq!(asked("Wed, 21 Oct 2015 07:27:00 GMT"), Some(0));
        assert_eq!(asked("86400"), Some(RETRY_MOST.as_secs()));
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn an_error_says_what_its_server_said() {
        for (body, said) in [
            (
                r#"{"error":{"code":403,"message":"Permission denied","status":"PERMISSION_DENIED"}}"#,
                "Permission denied",
            ),
            (r#"[{"error":{"code":400,"message":"bad filter"}}]"#, "bad filter"),
            (
                r#"{"status":"error","errorType":"bad_data","error":"1:5: parse error: x"}"#,
                "1:5: parse error: x",
            ),
            (r#"{"kind":"Status","message":"pods is forbidden","code":403}"#, "pods is forbidden"),
            ("<html>\n  gateway  down</html>", "<html> gateway down</html>"),
            ("", ""),
        ] {
            assert_eq!(shown(body.as_bytes()), said);
        }
    }
}
