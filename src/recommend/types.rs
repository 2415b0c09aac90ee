//! What a recommendation says.

use crate::units::{Milli, Rate, Seconds, Signal};
use serde::Serialize;

/// What the control loop around the server is assumed to be like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Assumptions {
    /// HPA tolerance, as a fraction of 1.
    pub tolerance: f64,
    /// Delay of the metric on its way to the HPA.
    pub lag: Seconds,
    /// Where that delay is from.
    pub lag_origin: LagOrigin,
    /// From the decision to scale up until the new replica serves.
    pub startup: Seconds,
    /// Where that time is from.
    pub startup_origin: LagOrigin,
    /// Growth of the load to survive, as a fraction per minute.
    pub growth: f64,
}

/// Where the delay of a metric, or the start-up time of a replica, is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LagOrigin {
    /// The user said it.
    Given,
    /// The metrics APIs were read beside the server and ran behind it by so much, or pods were seen to start.
    Measured,
    /// Of pods that were there before the run: when they last became ready, which is too late where they had lost
    /// their readiness.
    AtMost,
    /// Nobody knows: half of a scrape interval of 15 s, and 15 s until the value can be asked for.
    Assumed,
}

impl LagOrigin {
    /// The word for people.
    pub const fn word(self) -> &'static str {
        match self {
            LagOrigin::Given => "given",
            LagOrigin::Measured => "measured",
            LagOrigin::AtMost => "at most, of pods that were there before",
            LagOrigin::Assumed => "assumed",
        }
    }
}

impl Assumptions {
    /// What is assumed where nobody says and nothing was measured.
    pub const LAG: Seconds = Seconds(22.5);

    /// The same for a replica's start: a node that is there, an image that is not, a model of a few GiB.
    pub const STARTUP: Seconds = Seconds(120.0);

    /// Half of the controller's sync period of 15 s: how long a metric waits for it on average.
    pub const HALF_SYNC: Seconds = Seconds(7.5);

    /// From a rise of the load until a new replica serves.
    pub fn reaction(&self) -> Seconds {
        self.lag + Self::HALF_SYNC + self.startup
    }

    /// How much the load grows in that time, at least 1.
    pub fn growth_factor(&self) -> f64 {
        1.0 + self.growth * self.reaction().0 / 60.0
    }
}

/// The targets for all metrics, and which of them to use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// What was reckoned with.
    pub assumptions: Assumptions,
    /// One per metric of the seed page, in the order of `Signal::ALL`.
    pub targets: Vec<Target>,
    /// The metric to scale on. `None`: none of them can carry a target.
    pub recommended: Option<Signal>,
    /// Why that one and not the others, in sentences.
    pub rationale: Vec<String>,
    /// What the targets of Google's how-to page would do.
    pub advice: Vec<Advice>,
    /// What the reader must know before using any of it.
    pub warnings: Vec<String>,
}

impl Recommendation {
    /// Recommends a metric that the user wants, where it has a target; what speaks against it stays said.
    pub fn prefer(&mut self, signal: Signal) {
        let target = self.targets.iter().find(|target| target.signal == signal);
        match target.map(|target| &target.average_value) {
            Some(Ok(_)) if self.recommended != Some(signal) => {
                self.rationale.insert(0, format!("{}, because you asked for it", signal.title()));
                self.recommended = Some(signal);
            }
            Some(Err(reason)) => {
                self.rationale
                    .insert(0, format!("{} was asked for and has no target: {reason}", signal.title()));
                self.recommended = None;
            }
            _ => {}
        }
    }
}

/// The target for one metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// The metric.
    pub signal: Signal,
    /// Its value per replica at the SLO capacity, in its unit. `None`: never seen.
    pub at_capacity: Option<f64>,
    /// How many samples that value rests on.
    pub samples: u64,
    /// The `averageValue`, or why there is none.
    pub average_value: Result<Milli, String>,
    /// The smallest average that makes the controller scale up from one replica, where there is a target.
    pub fires_at: Option<Milli>,
    /// The load of a replica at which it shows that average, where its curve tells.
    pub fires_at_load: Option<Rate>,
    /// How the number came about, in order.
    pub terms: Vec<Term>,
    /// What a metric must pass to be relied on.
    pub gates: Vec<Gate>,
    /// What speaks against relying on this metric.
    pub remarks: Vec<String>,
}

/// A condition on a metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    /// What is asked.
    pub name: &'static str,
    /// Whether it is met.
    pub passed: bool,
    /// The figures, in words.
    pub detail: String,
}

/// A target of somebody else's advice on this server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// The metric.
    pub signal: Signal,
    /// The `averageValue`.
    pub value: f64,
    /// The load of a replica at which it scales up. `None`: at none that is known.
    pub load: Option<Rate>,
    /// Share of requests that break a limit there, 0 to 1.
    pub violations: Option<f64>,
    /// What it would do, in words.
    pub says: String,
}

/// One step of a derivation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Term {
    /// What it is: "queue size at capacity".
    pub name: String,
    /// Its value with unit: "12.3 requests".
    pub value: String,
}
