//! What a step asks of the server.

use super::Rate;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a step asks of the server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Open loop: arrivals at this rate, whether or not earlier ones were answered.
    Rate(Rate),
    /// Closed loop: this many requests in flight; the next is sent when one ends.
    Concurrency(u32),
    /// Open loop: a stretch of a continuous ramp, from one rate to another.
    Linear {
        /// The rate at its start.
        from: Rate,
        /// The rate at its end.
        to: Rate,
    },
    /// Open loop: a stretch of a replayed trace, with its mean rate.
    Trace(Rate),
}

impl Load {
    /// Whether arrivals follow a schedule, whatever the server does.
    pub fn is_open_loop(&self) -> bool {
        !matches!(self, Load::Concurrency(_))
    }

    /// How much is asked for, to put steps of one kind in order: the mean rate in requests per
    /// second, or the number of requests in flight.
    pub fn level(&self) -> f64 {
        match self {
            Load::Rate(rate) | Load::Trace(rate) => rate.0,
            Load::Concurrency(level) => f64::from(*level),
            Load::Linear { from, to } => f64::midpoint(from.0, to.0),
        }
    }

    /// The kind in one word, as in files.
    pub fn kind(&self) -> &'static str {
        match self {
            Load::Rate(_) => "rate",
            Load::Concurrency(_) => "concurrency",
            Load::Linear { .. } => "linear",
            Load::Trace(_) => "trace",
        }
    }

    /// The load in few letters, for tables: `4.00/s`, `16 in flight`.
    pub fn short(&self) -> String {
        match self {
            Load::Rate(rate) | Load::Trace(rate) => format!("{:.2}/s", rate.0),
            Load::Concurrency(level) => format!("{level} in flight"),
            Load::Linear { from, to } => format!("{:.2}\u{2192}{:.2}/s", from.0, to.0),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Rate(rate) => rate.fmt(f),
            Load::Concurrency(n) => write!(f, "{n} in flight"),
            Load::Linear { from, to } => write!(f, "{:.2} to {to}", from.0),
            Load::Trace(rate) => write!(f, "{rate} of the trace"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_keeps_its_form_in_files() {
        let text = |load: Load| serde_json::to_string(&load).unwrap();
        assert_eq!(text(Load::Rate(Rate(2.5))), r#"{"rate":2.5}"#);
        assert_eq!(text(Load::Concurrency(4)), r#"{"concurrency":4}"#);
        assert_eq!(
            text(Load::Linear { from: Rate(1.0), to: Rate(2.0) }),
            r#"{"linear":{"from":1.0,"to":2.0}}"#
        );
    }
}
