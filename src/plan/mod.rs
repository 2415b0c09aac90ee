//! The load plan: steps, arrival times, request sizes, and the next step of an adaptive search.
//!
//! Invariants: pure. The same scenario and seed give the same steps, arrivals and sizes. A trace is
//! read from text that the caller brings; nothing here opens a file or looks at a clock.

mod arrivals;
mod dataset;
mod json_lines;
mod requests;
mod schedule;
mod search;
mod source;
mod steps;
mod trace;

pub use crate::scenario::Api;
pub use arrivals::{ArrivalTimes, Spacing};
pub use dataset::{Dataset, DatasetRow, read_dataset};
pub use requests::{PlannedRequest, RequestSampler, RequestSize, RequestSource, requests_of};
pub use schedule::{Schedule, StepWork};
pub use source::{DatasetError, Place};
pub use steps::{Guide, Next, Plan, Step, StepResult};
pub use trace::{Trace, TraceArrival, read_trace};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A random stream of its own for each purpose, so that a change of one does not move the others.
pub fn stream(seed: u64, purpose: &str) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // FNV-1a of the purpose picks the stream of the generator.
    let hash = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    rng.set_stream(hash);
    rng
}
