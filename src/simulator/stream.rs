//! Deliveries of the shard to the events of each API.

use super::request::Prompt;
use super::shard::{Delivery, Shard, Ticket};
use crate::units::Seconds;
use axum::response::sse::Event;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

/// What TGI calls itself in OpenAI answers.
pub(super) const FINGERPRINT: &str = "3.3.7-simulated";

/// The shape of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// TGI's own; `prefix` comes before the generated text, as `/` returns it.
    Generate { details: bool, prefix: String },
    /// OpenAI chat.
    Chat { include_usage: bool },
    /// OpenAI completions.
    Completions,
}

/// A request that is being answered.
pub(super) struct Answering {
    pub shard: Arc<Shard>,
    pub ticket: Ticket,
    pub shape: Shape,
    pub prompt: Prompt,
    pub model_id: Arc<str>,
    pub arrived: Seconds,
    pub created: i64,
    /// Whether the last token is the end-of-sequence token.
    pub ends_by_itself: bool,
    /// The generated text so far, without the end-of-sequence token.
    pub text: String,
    pub tokens: u32,
}

impl Answering {
    /// The finish reason in the words of the API.
    pub(super) fn finish_reason(&self) -> &'static str {
        match (self.ends_by_itself, &self.shape) {
            (false, _) => "length",
            (true, Shape::Generate { .. }) => "eos_token",
            (true, _) => "stop",
        }
    }

    /// Takes a token in: its id, its text, whether it is special.
    pub(super) fn take(&mut self, serial: u64, last: bool) -> (u64, String, bool) {
        self.tokens += 1;
        if last && self.ends_by_itself {
            return (2, "</s>".to_owned(), true);
        }
        let text = format!(" tok{serial}");
        self.text.push_str(&text);
        (serial + 4, text, false)
    }

    /// Counts a good end.
    pub(super) fn succeeded(&self) {
        let times = self.ticket.times();
        let total = self.shard.now() - self.arrived;
        self.shard.metrics.succeeded(self.tokens, total, times.queued, times.served);
    }

    /// The events of one delivery.
    fn events(&mut self, delivery: Delivery) -> Vec<String> {
        match delivery {
            Delivery::Failed(message) => error_events(
                &self.shape,
                &format!("Request failed during generation: {message}"),
                "generation",
            ),
            Delivery::Token { index, serial, last } => {
                let (id, text, special) = self.take(serial, last);
                if last {
                    self.succeeded();
                }
                match &self.shape {
                    Shape::Generate { details, prefix } => {
                        vec![self.generate_event(
                            index,
                            id,
                            &text,
                            special,
                            last.then_some((*details, prefix)),
                        )]
                    }
                    Shape::Chat { include_usage } => self.chat_events(&text, special, last, *include_usage),
                    Shape::Completions => self.completions_events(&text, special, last),
                }
            }
        }
    }

    fn generate_event(
        &self,
        index: u32,
        id: u64,
        text: &str,
        special: bool,
        end: Option<(bool, &String)>,
    ) -> String {
        let token = format!(
            "{{\"index\":{index},\"token\":{{\"id\":{id},\"text\":\"{text}\",\"logprob\":-0.5,\"special\":{special}}}"
        );
        let Some((details, prefix)) = end else {
            return format!("{token},\"generated_text\":null,\"details\":null}}");
        };
        let whole = serde_json::Value::from(format!("{prefix}{}", self.text));
        let details = if details {
            format!(
                "{{\"finish_reason\":\"{}\",\"generated_tokens\":{},\"seed\":null,\"input_length\":{}}}",
                self.finish_reason(),
                self.tokens,
                self.prompt.input_tokens
            )
        } else {
            "null".to_owned()
        };
        format!("{token},\"generated_text\":{whole},\"details\":{details}}}")
    }

    fn chat_events(&self, text: &str, special: bool, last: bool, include_usage: bool) -> Vec<String> {
        let chunk = |choices: &str, usage: &str| {
            format!(
                "{{\"object\":\"chat.completion.chunk\",\"id\":\"\",\"created\":{},\"model\":\"{}\",\
                 \"system_fingerprint\":\"{FINGERPRINT}\",\"choices\":[{choices}],\"usage\":{usage}}}",
                self.created, self.model_id
            )
        };
        let content = if special { "" } else { text };
        let reason = if last { format!("\"{}\"", self.finish_reason()) } else { "null".to_owned() };
        let choice = format!(
            "{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"{content}\"}},\"logprobs\":null,\
             \"finish_reason\":{reason}}}"
        );
        let mut events = vec![chunk(&choice, "null")];
        if last {
            if include_usage {
                events.push(chunk("", &self.usage()));
            }
            events.push("[DONE]".to_owned());
        }
        events
    }

    fn completions_events(&self, text: &str, special: bool, last: bool) -> Vec<String> {
        let text = if special { "" } else { text };
        let head = format!("{{\"object\":\"text_completion\",\"id\":\"\",\"created\":{}", self.created);
        let names = format!("\"model\":\"{}\",\"system_fingerprint\":\"{FINGERPRINT}\"", self.model_id);
        let choice = |reason: &str| {
            format!(
                "\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":\"{reason}\"}}]"
            )
        };
        if !last {
            return vec![format!("{head},{},{names}}}", choice(""))];
        }
        let end = format!("{head},{names},{},\"usage\":{}}}", choice(self.finish_reason()), self.usage());
        vec![end, "[DONE]".to_owned()]
    }

    /// OpenAI's usage object.
    pub(super) fn usage(&self) -> String {
        let (input, output) = (self.prompt.input_tokens, self.tokens);
        let total = input + output;
        format!("{{\"prompt_tokens\":{input},\"completion_tokens\":{output},\"total_tokens\":{total}}}")
    }
}

/// The events that tell of an error: TGI's own shape, or OpenAI's, in which the code is always 422.
pub(super) fn error_events(shape: &Shape, message: &str, kind: &str) -> Vec<String> {
    let message = serde_json::Value::from(message);
    match shape {
        Shape::Generate { .. } => vec![format!("{{\"error\":{message},\"error_type\":\"{kind}\"}}")],
        Shape::Chat { .. } | Shape::Completions => {
            vec![
                format!("{{\"error\":{{\"message\":{message},\"http_status_code\":422}}}}"),
                "[DONE]".to_owned(),
            ]
        }
    }
}

/// A stream of given events.
pub(super) fn of_events(
    events: Vec<String>,
) -> impl futures::Stream<Item = Result<Event, Infallible>> + Send {
    futures::stream::iter(events.into_iter().map(|data| Ok(Event::default().data(data))))
}

/// The stream of an answer as it comes out of the shard.
pub(super) fn of_answer(
    answering: Answering,
) -> impl futures::Stream<Item = Result<Event, Infallible>> + Send {
    let state = (answering, VecDeque::new());
    futures::stream::unfold(state, |(mut answering, mut ready)| async move {
        if ready.is_empty() {
            let delivery = answering.ticket.deliveries.recv().await?;
            ready.extend(answering.events(delivery));
        }
        let data: String = ready.pop_front()?;
        Some((Ok(Event::default().data(data)), (answering, ready)))
    })
}
