//! `run.json`: what a run is, and how far it came.

use crate::units::Seconds;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the directory says it is.
pub const FORMAT: &str = "calibrate/run";
/// The version of the whole directory's format.
pub const VERSION: u32 = 1;

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It is going on, or was killed.
    Running,
    /// It ended as planned.
    Complete,
    /// It was stopped before its end.
    Interrupted,
}

/// The contents of `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The calibrate that wrote it.
    pub tool_version: String,
    /// The run's own name, as its directory's.
    pub run_id: String,
    /// The scenario's name.
    pub name: String,
    /// How far it came.
    pub state: RunState,
    /// Why it was interrupted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The origin of all times in UTC (RFC 3339). From it on they count on a monotonic clock.
    pub started_utc: String,
    /// The effective scenario: flags, file and defaults.
    pub scenario: serde_json::Value,
    /// The command line.
    pub command: Vec<String>,
    /// The server.
    pub target: TargetFacts,
    /// The machine that sent the load.
    pub host: HostFacts,
    /// Rows that each file held when the run ended, so that a reader sees what was lost since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, usize>,
}

/// The server as it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetFacts {
    /// Its address.
    pub url: String,
    /// Whether it was the embedded simulator.
    pub simulated: bool,
    /// Its kind: the name of its profile. `None`: TGI, in runs that know no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its profile itself, where that is the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The body of its `/info`, or of its `/v1/models` where it is not TGI.
    pub info: Option<serde_json::Value>,
    /// End-to-end latency of one request alone, before the load, seconds.
    #[serde(default)]
    pub single_latency: Option<Seconds>,
    /// Replicas that shared the load.
    pub replicas: u32,
    /// Where its metrics were scraped.
    pub metrics_urls: Vec<String>,
    /// Where its GPU metrics were scraped.
    pub gpu_metrics_urls: Vec<String>,
    /// By way of what else its metrics were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
}

/// The machine that sent the load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
    /// Processors; 0: unknown.
    pub cpus: usize,
}

impl RunInfo {
    /// A run that begins.
    pub fn new(
        run_id: String,
        name: String,
        started_utc: String,
        scenario: serde_json::Value,
        command: Vec<String>,
        target: TargetFacts,
        host: HostFacts,
    ) -> RunInfo {
        RunInfo {
            format: FORMAT.to_owned(),
            version: VERSION,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            run_id,
            name,
            state: RunState::Running,
            reason: None,
            started_utc,
            scenario,
            command,
            target,
            host,
            rows: BTreeMap::new(),
        }
    }

    /// What the server calls itself: model and version.
    pub fn server(&self) -> String {
        if let Some(kind) = self.target.kind.as_deref().filter(|kind| *kind != "tgi") {
            let model = self.target.info.as_ref().and_then(|info| info.pointer("/data/0/id")?.as_str());
            return [Some(kind), model].into_iter().flatten().collect::<Vec<_>>().join(", ");
        }
        let field = |name: &str| self.target.info.as_ref()?.get(name)?.as_str().map(str::to_owned);
        let version = field("version").map(|version| format!("TGI {version}"));
        let parts: Vec<String> = [version, field("model_id")].into_iter().flatten().collect();
        if parts.is_empty() { "unknown server".to_owned() } else { parts.join(", ") }
    }
}
