//! Metric sources: what a server and its GPUs say of themselves, once a second, on the run's clock.
//!
//! Invariants: an absent series stays absent; a scrape that failed is recorded as failed, with its
//! reason; a slow scrape of one source never delays another.

pub mod dcgm;
pub mod exposition;
mod scrape;
pub mod tgi;

pub use scrape::{Observer, Scraped, Target, client_builder, scrape};

use crate::measurement::{Event, Sample};

/// Where samples and events go. Must not block.
pub trait Sink: Send + Sync + 'static {
    /// A scrape gave this.
    fn sample(&self, sample: Sample);
    /// Something else happened.
    fn event(&self, event: Event);
}
