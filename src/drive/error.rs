//! Why no load can be sent.

use crate::measurement::FailureKind;

/// An error before or beside the single requests, whose failures are outcomes and not errors.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The address is none.
    #[error("'{url}' is not an address that requests can be sent to: {reason}")]
    Address {
        /// What was given.
        url: String,
        /// Why it is none.
        reason: String,
    },
    /// Nothing answers.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// What was tried.
        url: String,
        /// What happened.
        reason: String,
    },
    /// Something answers, but not as TGI does.
    #[error(
        "{url} does not answer as a TGI server does: {reason}; if it is another server, say with --server which \
         (vllm, sglang, llamacpp, triton-trtllm, trtllm-serve, jetstream or a profile's file)"
    )]
    NotTgi {
        /// What was asked.
        url: String,
        /// What came instead.
        reason: String,
    },
    /// Something answers, but not as OpenAI's API does.
    #[error("{url} does not answer as OpenAI's API does: {reason}; is the server that --server names there?")]
    NotOpenAi {
        /// What was asked.
        url: String,
        /// What came instead.
        reason: String,
    },
    /// The server refuses a single request without load.
    #[error(
        "{url} refused a first request of {input_tokens} prompt and {output_tokens} output tokens: {reason}"
    )]
    Refused {
        /// What was asked.
        url: String,
        /// Prompt tokens wanted.
        input_tokens: u32,
        /// Output tokens wanted.
        output_tokens: u32,
        /// How it refused.
        kind: FailureKind,
        /// What it said.
        reason: String,
    },
    /// The file is no tokenizer.
    #[error("{path} is no tokenizer.json that can be used: {reason}; take the one of the served model")]
    Tokenizer {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The tokenizer is not the server's.
    #[error(
        "the tokenizer counts {counted} tokens where {url} counts {said}; take the tokenizer.json of the served model"
    )]
    OtherTokenizer {
        /// The server.
        url: String,
        /// What the tokenizer counts, more than in a shorter prompt.
        counted: u32,
        /// What the server counts, more than in the same shorter prompt.
        said: i64,
    },
    /// The worker pool could not be started.
    #[error("cannot start the load engine's workers: {0}")]
    Pool(String),
}
