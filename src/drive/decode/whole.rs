//! An answer in one piece: a generation that was not streamed, or an error.

use super::event::{self, Meaning};
use super::stream::{Failure, Finished, StreamFormat};
use crate::measurement::FailureKind;
use serde::Deserialize;

#[derive(Deserialize)]
struct Answer {
    // TGI's own.
    generated_text: Option<String>,
    details: Option<Details>,
    // OpenAI's.
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    // Both.
    error: Option<serde_json::Value>,
    error_type: Option<String>,
}

#[derive(Deserialize)]
struct Details {
    generated_tokens: Option<u32>,
    input_length: Option<u32>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
}

/// Reads the body of an answer with status 200.
///
/// # Errors
/// An error that the body tells of, or a body that is no generation.
pub fn read_whole(format: StreamFormat, body: &[u8]) -> Result<Finished, Failure> {
    let malformed = |message: String| Failure { kind: FailureKind::Malformed, message };
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| malformed(format!("the answer is not the JSON that was expected: {error}")))?;
    if let Some(error) = answer.error {
        return Err(match event::failure(&error, answer.error_type.as_deref()) {
            Meaning::Error(kind, message) => Failure { kind, message },
            _ => malformed("an error that says nothing".to_owned()),
        });
    }
    match (format, answer.generated_text, answer.choices) {
        (StreamFormat::Generate, Some(_), _) => {
            let (output_tokens, input_tokens, finish_reason) =
                answer.details.map_or((None, None, None), |details| {
                    (details.generated_tokens, details.input_length, details.finish_reason)
                });
            Ok(Finished { output_tokens, input_tokens, finish_reason })
        }
        (StreamFormat::Chat | StreamFormat::Completions, _, Some(choices)) => {
            let (input_tokens, output_tokens) =
                answer.usage.map_or((None, None), |usage| (usage.prompt_tokens, usage.completion_tokens));
            let finish_reason = choices.into_iter().find_map(|choice| choice.finish_reason);
            Ok(Finished { output_tokens, input_tokens, finish_reason })
        }
        _ => Err(malformed("the answer carries no generation".to_owned())),
    }
}

/// The failure that an answer with another status than 200 is.
pub fn classify_status(status: u16, body: &[u8]) -> Failure {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|body| {
        let error = body.get("error")?;
        match event::failure(error, body.get("error_type").and_then(serde_json::Value::as_str)) {
            Meaning::Error(_, message) => Some(message),
            _ => None,
        }
    });
    let message = said.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(body);
        let text: String = text.trim().chars().take(300).collect();
        if text.is_empty() { "no explanation".to_owned() } else { text }
    });
    let kind = match status {
        429 => FailureKind::Overloaded,
        // TGI answers 424 when generation failed, and other servers 5xx.
        424 | 500..=599 => FailureKind::ServerError,
        300..=499 => FailureKind::ClientError,
        _ => FailureKind::Malformed,
    };
    Failure { kind, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_of_all_three_apis_are_read() {
        let finished = |output: Option<u32>, input, reason: &str| Finished {
            output_tokens: output,
            input_tokens: input,
            finish_reason: Some(reason.to_owned()),
        };
        let body = br#"{"generated_text":" a b","details":{"finish_reason":"length","generated_tokens":2,"seed":null,"prefill":[],"tokens":[]}}"#;
        assert_eq!(read_whole(StreamFormat::Generate, body), Ok(finished(Some(2), None, "length")));
        let usage = r#""usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}"#;
        let chat = format!(
            r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":"x"}},"finish_reason":"stop"}}],{usage}}}"#
        );
        assert_eq!(read_whole(StreamFormat::Chat, chat.as_bytes()), Ok(finished(Some(3), Some(7), "stop")));
        let text = format!(r#"{{"choices":[{{"index":0,"text":"x","finish_reason":"length"}}],{usage}}}"#);
        assert_eq!(
            read_whole(StreamFormat::Completions, text.as_bytes()),
            Ok(finished(Some(3), Some(7), "length"))
        );
    }

    #[test]
    fn what_is_no_generation_is_a_failure_of_its_kind() {
        let kind = |body: &str| read_whole(StreamFormat::Generate, body.as_bytes()).unwrap_err().kind;
        assert_eq!(
            kind(r#"{"error":"Model is overloaded","error_type":"overloaded"}"#),
            FailureKind::Overloaded
        );
        for body in ["", "{}", "[]", "nonsense", r#"{"choices":[]}"#, r#"{"generated_text":null}"#] {
            assert_eq!(kind(body), FailureKind::Malformed, "{body}");
        }
    }
}
