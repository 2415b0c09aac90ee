//! Metric sources: what a server and its GPUs say of themselves, directly and through what lies between
//! them and the HPA, on the run's clock.
//!
//! Invariants: an absent series stays absent; a question that failed is recorded as failed, with its
//! reason; a slow source never delays another; a sample says when its values were true and when they
//! were here; a token is in no message.

mod cloud_monitoring;
mod dcgm;
pub mod exposition;
mod feed;
mod google;
mod http;
mod metrics_api;
mod nvml;
mod profile;
mod prometheus;
mod replicas;
mod scrape;

pub use cloud_monitoring::{CloudMonitoring, Expected, TimeSeries};
pub use dcgm::{GpusOf, to_percent};
pub use feed::{Feed, Observer};
pub use google::{GoogleAccess, GoogleCredentials};
pub use http::{Problem, ProblemKind, api_client_builder, client_builder};
pub use metrics_api::{ApiMetric, MetricsApi};
pub use nvml::Nvml;
pub use profile::{Gauge, Profile, ProfileError, series_named};
pub use prometheus::{BY_REPLICA, Prometheus, Query};
pub use replicas::ReplicaNames;
pub use scrape::{Reading, Scrape, exposition_at};

use crate::measurement::{Event, Sample};

/// Where samples and events go. Must not block.
pub trait Sink: Send + Sync + 'static {
    /// A source gave this.
    fn sample(&self, sample: Sample);
    /// Something else happened.
    fn event(&self, event: Event);
}
