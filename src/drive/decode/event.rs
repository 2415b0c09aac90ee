//! One event's data: what it means in each stream format.

use super::stream::StreamFormat;
use crate::measurement::FailureKind;
use memchr::memmem::Finder;
use serde::Deserialize;
use std::sync::LazyLock;

/// What an event means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Meaning {
    /// A token in the middle of the stream.
    Token,
    /// An event without a token: a role chunk, an empty text.
    Nothing,
    /// The final event, or part of the end.
    End(EndPart),
    /// The server says that the request failed.
    Error(FailureKind, String),
    /// `[DONE]`.
    Done,
    /// Not what this format looks like.
    Malformed(String),
}

/// What an ending event says. A stream can have several: a last token, then usage.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct EndPart {
    pub has_token: bool,
    /// Whether generation is over with this.
    pub is_last: bool,
    pub input_tokens: Option<u32>,
    pub output_tokens: Option<u32>,
    pub finish_reason: Option<String>,
}

/// Reads the data of one event.
pub(super) fn read(format: StreamFormat, data: &[u8]) -> Meaning {
    if data == b"[DONE]" {
        return Meaning::Done;
    }
    if is_ordinary(format, data) {
        return Meaning::Token;
    }
    let parsed: Result<Event, _> = serde_json::from_slice(data);
    match parsed {
        Ok(event) => event.meaning(format),
        Err(error) => Meaning::Malformed(format!("an event is not the JSON that was expected: {error}")),
    }
}

/// Whether an event is of TGI 2.0's completions streams, which mark no chunk as the last. They alone
/// begin with an empty id.
pub(super) fn is_unmarked(data: &[u8]) -> bool {
    data.starts_with(b"{\"id\":\"\",\"object\":\"text_completion\"")
}

/// Whether an event is surely an ordinary token, told without parsing: it begins and ends as the
/// server writes such events, its text is not empty, and nothing in it can be an end or an error.
fn is_ordinary(format: StreamFormat, data: &[u8]) -> bool {
    match format {
        StreamFormat::Generate => {
            data.ends_with(b",\"generated_text\":null,\"details\":null}")
                && after_numbers(data, [b"{\"index\":", b",\"token\":{\"id\":"])
                    .and_then(|rest| rest.strip_prefix(b",\"text\":\""))
                    .is_some_and(|text| text.first() != Some(&b'"'))
        }
        StreamFormat::Chat => {
            data.starts_with(b"{\"object\":\"chat.completion.chunk\"")
                && data.ends_with(b"\"finish_reason\":null}],\"usage\":null}")
                && CONTENT
                    .find(data)
                    .is_some_and(|at| data.get(at + CONTENT.needle().len()).is_some_and(|byte| *byte != b'"'))
        }
        StreamFormat::Completions => false,
    }
}

static CONTENT: LazyLock<Finder> = LazyLock::new(|| Finder::new(b"\"content\":\""));

/// What follows marks that stand one after the other, each with a number behind it.
fn after_numbers<'a>(data: &'a [u8], marks: [&[u8]; 2]) -> Option<&'a [u8]> {
    marks.into_iter().try_fold(data, |rest, mark| {
        let rest = rest.strip_prefix(mark)?;
        Some(&rest[rest.iter().position(|byte| !byte.is_ascii_digit())?..])
    })
}

#[derive(Deserialize)]
struct Event {
    // TGI's own stream.
    token: Option<Token>,
    generated_text: Option<String>,
    details: Option<Details>,
    // OpenAI's streams.
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    // Both, in three shapes.
    error: Option<serde_json::Value>,
    error_type: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    text: String,
}

#[derive(Deserialize)]
struct Details {
    generated_tokens: Option<u32>,
    input_length: Option<u32>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
}

impl Event {
    fn meaning(self, format: StreamFormat) -> Meaning {
        if let Some(error) = self.error {
            return failure(&error, self.error_type.as_deref());
        }
        match format {
            StreamFormat::Generate => match self.token {
                Some(token) => generate(&token, self.generated_text.is_some(), self.details),
                None => Meaning::Malformed("an event carries neither a token nor an error".to_owned()),
            },
            StreamFormat::Chat | StreamFormat::Completions => match self.choices {
                Some(choices) => openai(&choices, self.usage),
                None => Meaning::Malformed("an event carries neither choices nor an error".to_owned()),
            },
        }
    }
}

fn generate(token: &Token, is_last: bool, details: Option<Details>) -> Meaning {
    // The end-of-sequence token is an event of its own and may have no text; it counts as a token.
    let has_token = !token.text.is_empty() || is_last;
    match (is_last, has_token) {
        (false, true) => Meaning::Token,
        (false, false) => Meaning::Nothing,
        (true, has_token) => {
            let (output_tokens, input_tokens, finish_reason) = details
                .map_or((None, None, None), |details| {
                    (details.generated_tokens, details.input_length, details.finish_reason)
                });
            Meaning::End(EndPart { has_token, is_last, input_tokens, output_tokens, finish_reason })
        }
    }
}

fn openai(choices: &[Choice], usage: Option<Usage>) -> Meaning {
    let text = |choice: &Choice| {
        let content = choice.delta.as_ref().and_then(|delta| delta.content.as_deref());
        content.or(choice.text.as_deref()).is_some_and(|text| !text.is_empty())
    };
    let has_token = choices.iter().any(text);
    // /v1/completions sends an empty finish_reason until the last chunk.
    let finish_reason =
        choices.iter().find_map(|choice| choice.finish_reason.clone().filter(|r| !r.is_empty()));
    if finish_reason.is_none() && usage.is_none() {
        return if has_token { Meaning::Token } else { Meaning::Nothing };
    }
    let (input_tokens, output_tokens) =
        usage.map_or((None, None), |usage| (usage.prompt_tokens, usage.completion_tokens));
    Meaning::End(EndPart {
        has_token,
        is_last: finish_reason.is_some(),
        input_tokens,
        output_tokens,
        finish_reason,
    })
}

/// The failure in an `error` field: a string beside `error_type`, or an object with a message.
pub(super) fn failure(error: &serde_json::Value, error_type: Option<&str>) -> Meaning {
    let message = match error {
        serde_json::Value::String(message) => message.clone(),
        other => {
            other.get("message").and_then(|m| m.as_str()).map_or_else(|| other.to_string(), str::to_owned)
        }
    };
    let kind = match error_type {
        Some("overloaded") => FailureKind::Overloaded,
        Some("validation" | "template_error" | "tool_error") => FailureKind::ClientError,
        _ if message.contains("overloaded") => FailureKind::Overloaded,
        _ if message.contains("validation error") => FailureKind::ClientError,
        _ => FailureKind::StreamError,
    };
    Meaning::Error(kind, message)
}
