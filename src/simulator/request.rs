//! Requests as they come in: bodies, token counts, validation.

use super::SimulatorConfig;
use super::shard::FailAt;
use serde::Deserialize;

/// Tokens that the tokenizer puts around any prompt, and the chat template around a message.
const SPECIAL_TOKENS: u32 = 1;
const TEMPLATE_TOKENS: u32 = 6;
/// Letters that the chat template adds, which TGI counts in `x-compute-characters`.
const TEMPLATE_LETTERS: usize = 30;
/// What TGI generates where the request does not say.
const DEFAULT_MAX_NEW_TOKENS: u32 = 1024;

/// Body of `/generate` and `/generate_stream`.
#[derive(Debug, Deserialize)]
pub(super) struct GenerateRequest {
    pub inputs: String,
    #[serde(default)]
    pub parameters: Parameters,
}

/// Body of `/`: the same with a switch for streaming.
#[derive(Debug, Deserialize)]
pub(super) struct CompatRequest {
    pub inputs: String,
    #[serde(default)]
    pub parameters: Parameters,
    #[serde(default)]
    pub stream: bool,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Parameters {
    pub max_new_tokens: Option<u32>,
    #[serde(default)]
    pub details: bool,
    pub temperature: Option<f32>,
}

/// Body of `/v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct ChatRequest {
    pub messages: Vec<Message>,
    pub max_tokens: Option<u32>,
    #[serde(default)]
    pub stream: bool,
    pub stream_options: Option<StreamOptions>,
    pub temperature: Option<f32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Message {
    #[serde(default)]
    pub content: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

/// Body of `/v1/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct CompletionsRequest {
    pub prompt: String,
    pub max_tokens: Option<u32>,
    #[serde(default)]
    pub stream: bool,
    pub temperature: Option<f32>,
}

/// What all of them come down to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prompt {
    pub text: String,
    pub letters: usize,
    pub input_tokens: u32,
    pub max_new_tokens: u32,
    pub temperature: Option<f32>,
}

impl Prompt {
    pub(super) fn plain(text: String, max_new_tokens: Option<u32>, temperature: Option<f32>) -> Prompt {
        Prompt {
            letters: text.chars().count(),
            input_tokens: words(&text) + SPECIAL_TOKENS,
            max_new_tokens: max_new_tokens.unwrap_or(DEFAULT_MAX_NEW_TOKENS),
            text,
            temperature,
        }
    }

    pub(super) fn chat(request: &ChatRequest) -> Prompt {
        let text = request.messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join(" ");
        Prompt {
            letters: text.chars().count() + TEMPLATE_LETTERS,
            input_tokens: words(&text) + TEMPLATE_TOKENS,
            max_new_tokens: request.max_tokens.unwrap_or(DEFAULT_MAX_NEW_TOKENS),
            text,
            temperature: request.temperature,
        }
    }

    /// The message of TGI's validation error, if the prompt is not valid.
    pub(super) fn problem(&self, config: &SimulatorConfig) -> Option<String> {
        let total = config.max_total_tokens;
        let problem = if self.text.is_empty() {
            "`inputs` cannot be empty".to_owned()
        } else if self.temperature.is_some_and(|temperature| temperature <= 0.0) {
            "`temperature` must be strictly positive".to_owned()
        } else if self.max_new_tokens == 0 {
            "`max_new_tokens` must be strictly positive".to_owned()
        } else if self.input_tokens.saturating_add(self.max_new_tokens) > total {
            format!(
                "`inputs` tokens + `max_new_tokens` must be <= {total}. Given: {} `inputs` tokens and {} `max_new_tokens`",
                self.input_tokens, self.max_new_tokens
            )
        } else {
            return None;
        };
        Some(format!("Input validation error: {problem}"))
    }

    /// After how many tokens the answer ends by itself, if the prompt says so.
    pub(super) fn end_at(&self) -> Option<u32> {
        number_after(&self.text, "__EOS_AT_").filter(|at| *at <= self.max_new_tokens)
    }

    /// Before which token the shard fails, if the prompt says so.
    pub(super) fn fail_at(&self) -> FailAt {
        if self.text.contains("__FAIL_PREFILL__") {
            return Some(1);
        }
        number_after(&self.text, "__FAIL_DECODE_AT_")
    }
}

fn words(text: &str) -> u32 {
    text.split_whitespace().count() as u32
}

fn number_after(text: &str, mark: &str) -> Option<u32> {
    let (_, rest) = text.split_once(mark)?;
    rest.split_once("__")?.0.parse().ok().filter(|number| *number > 0)
}
