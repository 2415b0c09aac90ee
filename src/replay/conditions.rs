//! What surrounds the servers: how metrics travel, how long a replica takes to start, what scales.

use crate::hpa::{Settings, Source, Target, Tolerances};
use crate::units::{Seconds, Signal};
use serde::Serialize;

/// The way of a metric from a replica to the controller.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pipeline {
    /// Time between two scrapes of a replica.
    pub scrape: Seconds,
    /// From a scrape until its values can be asked for. Nobody publishes this.
    pub ingest: Seconds,
    /// How far back the adapter looks for the last value; as long, a replica that is gone still counts
    /// in a sum (External).
    pub window: Seconds,
}

impl Default for Pipeline {
    /// 15 s scrapes as on Google's how-to page, 15 s of ingestion (assumed), the adapter's 5 minutes.
    fn default() -> Pipeline {
        Pipeline { scrape: Seconds(15.0), ingest: Seconds(15.0), window: Seconds(300.0) }
    }
}

/// GKE samples the duty cycle this often, whatever is scraped.
const DUTY_CYCLE_PERIOD: Seconds = Seconds(60.0);

impl Pipeline {
    /// A pipeline whose values are `lag` old on average when they are read: half a scrape interval, and the
    /// rest until they can be asked for.
    pub fn with_lag(scrape: Seconds, lag: Seconds) -> Pipeline {
        Pipeline { scrape, ingest: (lag - scrape * 0.5).max(Seconds::ZERO), ..Pipeline::default() }
    }

    /// Mean age of a value when it is read.
    pub fn lag(&self) -> Seconds {
        self.scrape * 0.5 + self.ingest
    }

    /// Time between two samples of a signal.
    pub fn period(&self, signal: Signal) -> Seconds {
        if signal == Signal::DutyCycle { self.scrape.max(DUTY_CYCLE_PERIOD) } else { self.scrape }
    }
}

/// How long a new replica takes until it serves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StartUp {
    /// Mean.
    pub mean: Seconds,
    /// Standard deviation over mean, from one start to the next (log-normal).
    pub spread: f64,
    /// The part of it in which the pod is Pending: no node yet. Then it runs, but loads.
    pub pending: f64,
}

impl Default for StartUp {
    /// Two minutes, a tenth of spread, half of it without a node: assumptions, to be measured.
    fn default() -> StartUp {
        StartUp { mean: Seconds(120.0), spread: 0.1, pending: 0.5 }
    }
}

/// What surrounds the servers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Conditions {
    /// The way of metrics.
    pub pipeline: Pipeline,
    /// The start of a replica.
    pub start_up: StartUp,
    /// GPUs of each replica: as many series has a GPU metric, and as many GPU-hours an hour.
    pub gpus_per_replica: u32,
    /// Time between two decisions of the controller.
    pub sync: Seconds,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            pipeline: Pipeline::default(),
            start_up: StartUp::default(),
            gpus_per_replica: 1,
            sync: Seconds(15.0),
        }
    }
}

/// A metric that an HPA scales on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaledMetric {
    /// What it measures.
    pub signal: Signal,
    /// How the controller gets it.
    pub source: Source,
    /// What it is held against.
    pub target: Target,
}

/// An HPA as a replay needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Autoscaler {
    /// At least one.
    pub metrics: Vec<ScaledMetric>,
    /// Limits and behavior.
    pub settings: Settings,
    /// The band in which nothing happens.
    pub tolerances: Tolerances,
}
