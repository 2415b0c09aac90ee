//! What was measured, as plain values: request outcomes, metric samples, step boundaries, events.
//!
//! Invariants: no I/O. The only clock is [`RunClock`], which the edges carry. Every time is in seconds since the origin of the run,
//! on the client's monotonic clock. An absent value is `None`, never 0.

mod clock;
mod outcome;
mod pod;
mod sample;

pub use clock::RunClock;
pub use outcome::{FailureKind, Phase, RequestOutcome};
pub use pod::{PodChange, PodStart};
pub use sample::{Sample, Series, Source};

pub use crate::units::Load;
use crate::units::Seconds;
use serde::{Deserialize, Serialize};

/// The number of a step of the load plan, from 0.
pub type StepIndex = u32;

/// A step as it was driven. `start..hold_start` is warm-up, `hold_start..end` is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMark {
    /// Its number.
    pub index: StepIndex,
    /// Its load.
    pub load: Load,
    /// When its first request could be scheduled.
    pub start: Seconds,
    /// When its warm-up was over.
    pub hold_start: Seconds,
    /// When it ended.
    pub end: Seconds,
}

impl StepMark {
    /// The length of the measured part.
    pub fn hold(&self) -> Seconds {
        self.end - self.hold_start
    }
}

/// Something that happened during a run, one line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A step began.
    StepStarted {
        /// When.
        time: Seconds,
        /// Which.
        index: StepIndex,
        /// Its load.
        load: Load,
        /// When its measured part begins.
        hold_start: Seconds,
        /// When it is to end.
        planned_end: Seconds,
    },
    /// A step ended.
    StepEnded {
        /// The step with its true boundaries.
        step: StepMark,
        /// The numbers of the requests dispatched in it, from the first up to and without the second; each
        /// has a row sooner or later, unless the run is killed. `None`: not recorded.
        #[serde(default)]
        ids: Option<(u64, u64)>,
    },
    /// A scrape gave no sample.
    ScrapeFailed {
        /// When it was begun.
        time: Seconds,
        /// What was asked.
        source: Source,
        /// Of which replica.
        replica: u32,
        /// Why.
        reason: String,
    },
    /// The plan chose what to do next, or to stop.
    Decision {
        /// When.
        time: Seconds,
        /// What and why.
        reason: String,
    },
    /// Arrivals found no idle worker, so they start late.
    PoolExhausted {
        /// When.
        time: Seconds,
        /// How many arrivals since the last such event.
        late_starts: u64,
    },
    /// How well the client was over the last second.
    Heartbeat {
        /// When.
        time: Seconds,
        /// Mean number of requests dispatched and not ended, sampled a hundred times.
        in_flight: f64,
        /// How late the runtime woke, 99th percentile of a hundred.
        lag_p99: Seconds,
        /// The latest.
        lag_max: Seconds,
        /// Share of this machine's processors in use by the whole process, 0 to 1.
        cpu: f64,
        /// Wall clock minus run clock; it changes when the wall clock is set.
        wall_offset: Seconds,
    },
    /// A pod of the target is not what it was.
    PodChanged {
        /// When it was seen.
        time: Seconds,
        /// Its name.
        pod: String,
        /// How.
        change: PodChange,
    },
    /// How long a pod of the target took to start.
    PodStarted {
        /// When that was known.
        time: Seconds,
        /// How long.
        start: PodStart,
    },
    /// A run that had ended early went on.
    Resumed {
        /// When.
        time: Seconds,
    },
    /// Anything else worth keeping.
    Remark {
        /// When.
        time: Seconds,
        /// What.
        message: String,
    },
}
