//! A whole answer, from its first byte to its end.

use super::event::{self, EndPart, Meaning};
use super::sse::{EVENT_MOST, Framer};
use crate::measurement::FailureKind;

/// Which shape the events of a stream have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFormat {
    /// TGI's `/generate_stream`.
    Generate,
    /// OpenAI's `/v1/chat/completions`.
    Chat,
    /// OpenAI's `/v1/completions`.
    Completions,
}

/// An event that carried at least one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenEvent {
    /// How many, at least 1. An event of `/generate_stream` carries exactly one. A chunk of an OpenAI
    /// stream counts as one, unless the server sends its running count of tokens with each chunk.
    pub tokens: u32,
}

/// A stream that came to its proper end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finished {
    /// Output tokens by the server's count, where it gives one.
    pub output_tokens: Option<u32>,
    /// Prompt tokens by the server's count, where it gives one.
    pub input_tokens: Option<u32>,
    /// Why generation ended: `length`, `stop`, `eos_token`.
    pub finish_reason: Option<String>,
}

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// What the server said, or what was wrong.
    pub message: String,
}

/// Decodes one stream.
#[derive(Debug)]
pub struct StreamDecoder {
    format: StreamFormat,
    framer: Framer,
    /// Whether any event carried a token.
    saw_token: bool,
    /// Whether every event so far is of a server that marks no chunk as the last.
    unmarked: bool,
    ended: bool,
    finished: Finished,
    failure: Option<Failure>,
}

impl StreamDecoder {
    /// A decoder for a stream that has not begun.
    pub fn new(format: StreamFormat) -> Self {
        let framer = Framer::default();
        StreamDecoder {
            format,
            framer,
            saw_token: false,
            unmarked: true,
            ended: false,
            finished: Finished::default(),
            failure: None,
        }
    }

    /// Feeds bytes of the body and calls `on_token` for each event with a token that they complete.
    /// Whether they complete any event; comments that keep the connection alive are none.
    pub fn feed(&mut self, bytes: &[u8], mut on_token: impl FnMut(TokenEvent)) -> bool {
        let (format, ended, finished, failure) =
            (self.format, &mut self.ended, &mut self.finished, &mut self.failure);
        let (saw_token, unmarked) = (&mut self.saw_token, &mut self.unmarked);
        let mut on_token = |event| {
            *saw_token = true;
            on_token(event);
        };
        let mut any = false;
        self.framer.feed(bytes, |data| {
            any = true;
            *unmarked &= event::is_unmarked(data);
            match event::read(format, data) {
                Meaning::Token => on_token(TokenEvent { tokens: 1 }),
                Meaning::Nothing | Meaning::Done => {}
                Meaning::End(part) => {
                    if part.has_token {
                        let before = finished.output_tokens.filter(|_| !part.is_last);
                        let counted =
                            before.zip(part.output_tokens).map(|(old, new)| new.saturating_sub(old));
                        on_token(TokenEvent { tokens: counted.unwrap_or(1).max(1) });
                    }
                    *ended |= part.is_last;
                    finished.add(part);
                }
                Meaning::Error(kind, message) => {
                    failure.get_or_insert(Failure { kind, message });
                }
                Meaning::Malformed(message) => {
                    failure.get_or_insert(Failure { kind: FailureKind::Malformed, message });
                }
            }
        });
        any
    }

    /// Which shape the events have.
    pub fn format(&self) -> StreamFormat {
        self.format
    }

    /// Whether there is no use in reading on.
    pub fn is_beyond_reading(&self) -> bool {
        self.framer.is_too_large()
    }

    /// Whether the last event of a generation has come, so that nothing that follows matters.
    pub fn is_complete(&self) -> bool {
        self.ended && self.failure.is_none()
    }

    /// What the stream was, now that its body is over.
    ///
    /// # Errors
    /// The error that the server sent in it, or that it ended before its last event.
    pub fn finish(self) -> Result<Finished, Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.framer.is_too_large() {
            let message = format!("an event is larger than {} MiB", EVENT_MOST / (1024 * 1024));
            return Err(Failure { kind: FailureKind::Malformed, message });
        }
        // TGI 2.0 marks no chunk of a completions stream as the last. Its body then ends properly
        // all the same; one that breaks off is an error of the connection.
        let unmarked = self.format == StreamFormat::Completions && self.unmarked && self.saw_token;
        if self.ended || unmarked {
            return Ok(self.finished);
        }
        let message = "the stream ended before its last event".to_owned();
        Err(Failure { kind: FailureKind::Truncated, message })
    }
}

impl Finished {
    fn add(&mut self, part: EndPart) {
        self.input_tokens = part.input_tokens.or(self.input_tokens);
        self.output_tokens = part.output_tokens.or(self.output_tokens);
        if part.finish_reason.is_some() {
            self.finish_reason = part.finish_reason;
        }
    }
}

#[cfg(test)]
mod tests;
