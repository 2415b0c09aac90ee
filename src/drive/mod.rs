//! The load engine: sends requests when they are due and records how each came out.
//!
//! Invariants: every request that was scheduled yields exactly one outcome, whatever happens to it.
//! Latency counts from the scheduled send time, and a late start is recorded, never hidden. goose
//! supplies the workers and is known to [`pool`] alone; pacing, requests, timing and decoding are
//! ours, because goose measures to the response headers and rounds.

pub mod decode;
mod engine;
mod error;
mod heartbeat;
mod pacer;
mod pool;
mod probe;
mod prompt;
mod request;
mod tokenizer;
mod watchdog;

pub use engine::{Engine, EngineConfig, StepDriven, StopLevel};
pub use error::DriveError;
pub use probe::{Probe, info, models, probe};
pub use prompt::PromptMaker;
pub use request::{Target, Wire, client_builder};
pub use tokenizer::Tokenizer;

use crate::measurement::{Event, RequestOutcome};

/// Where outcomes and events go. Called from the workers, so it must not block.
pub trait Sink: Send + Sync + 'static {
    /// A request ended. `gaps_us` holds the gaps between its token events, in microseconds.
    fn request(&self, outcome: RequestOutcome, gaps_us: Vec<u32>);
    /// Something else happened.
    fn event(&self, event: Event);
}
