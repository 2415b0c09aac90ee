//! Units of measure and the small values every room shares.
//!
//! Invariants: no I/O, no clocks, no imports from other rooms. A number that
//! leaves this crate carries its unit in its `Display`.

mod load;
mod parse;
mod regression;
mod slo;

pub use load::Load;
pub use parse::{ParseUnitError, nearest};
pub use regression::{Compared, MaxRegression};
pub use slo::{Limit, Slo, SloMetric, Stat};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Div, Mul, Sub};
use std::time::Duration;

/// A length of time, or a point in time counted from the origin of a run, in seconds.
///
/// May be negative only as a difference of two points.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl Seconds {
    /// Zero seconds; the origin of a run.
    pub const ZERO: Seconds = Seconds(0.0);

    /// From milliseconds.
    pub const fn from_millis(ms: f64) -> Seconds {
        Seconds(ms / 1000.0)
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> f64 {
        self.0 * 1000.0
    }

    /// As a std duration; negative and not-a-number become zero.
    pub fn to_duration(self) -> Duration {
        Duration::try_from_secs_f64(self.0).unwrap_or(Duration::ZERO)
    }

    /// The larger of two.
    pub fn max(self, other: Seconds) -> Seconds {
        Seconds(self.0.max(other.0))
    }

    /// The smaller of two.
    pub fn min(self, other: Seconds) -> Seconds {
        Seconds(self.0.min(other.0))
    }
}

impl From<Duration> for Seconds {
    fn from(value: Duration) -> Self {
        Seconds(value.as_secs_f64())
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.abs();
        if !self.0.is_finite() {
            write!(f, "{} s", self.0)
        } else if magnitude >= 99.95 {
            write!(f, "{:.0} s", self.0)
        } else if magnitude >= 9.995 {
            write!(f, "{:.1} s", self.0)
        } else if magnitude >= 0.9995 {
            write!(f, "{:.2} s", self.0)
        } else if magnitude >= 0.01 {
            write!(f, "{:.0} ms", self.0 * 1e3)
        } else if magnitude >= 0.001 {
            write!(f, "{:.1} ms", self.0 * 1e3)
        } else if magnitude == 0.0 {
            write!(f, "0 s")
        } else {
            write!(f, "{:.2} ms", self.0 * 1e3)
        }
    }
}

impl Add for Seconds {
    type Output = Seconds;
    fn add(self, rhs: Seconds) -> Seconds {
        Seconds(self.0 + rhs.0)
    }
}
impl Sub for Seconds {
    type Output = Seconds;
    fn sub(self, rhs: Seconds) -> Seconds {
        Seconds(self.0 - rhs.0)
    }
}
impl Mul<f64> for Seconds {
    type Output = Seconds;
    fn mul(self, rhs: f64) -> Seconds {
        Seconds(self.0 * rhs)
    }
}
impl Div<f64> for Seconds {
    type Output = Seconds;
    fn div(self, rhs: f64) -> Seconds {
        Seconds(self.0 / rhs)
    }
}
impl Sum for Seconds {
    fn sum<I: Iterator<Item = Seconds>>(iter: I) -> Self {
        Seconds(iter.map(|s| s.0).sum())
    }
}

/// Requests per second: offered, achieved or sustainable.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(pub f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0.abs() >= 99.95 { 0 } else { 2 };
        write!(f, "{:.*} req/s", digits, self.0)
    }
}

/// A Kubernetes quantity in milli-units, as the HPA controller computes with it.
///
/// `Display` prints the canonical form that the API server stores: `4545m`, `5`, `2k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Milli(pub i64);

impl Milli {
    /// The largest milli quantity not above `value`. `None` where `value` is not finite or out of range.
    ///
    /// A value within one part in 10^12 below a whole milli counts as that milli, so
    /// that `4.4 / 1.1` gives `4000m` and not `3999m`.
    pub fn floor(value: f64) -> Option<Milli> {
        let milli = value * 1000.0;
        let nearest = milli.round();
        let whole = if (milli - nearest).abs() <= nearest.abs() * 1e-12 { nearest } else { milli.floor() };
        (whole.abs() < 9.0e15).then_some(Milli(whole as i64))
    }

    /// In whole units.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 || self.0 % 1000 != 0 {
            return if self.0 == 0 { write!(f, "0") } else { write!(f, "{}m", self.0) };
        }
        let (mut units, mut suffix) = (self.0 / 1000, 0);
        while units % 1000 == 0 {
            units /= 1000;
            suffix += 1;
        }
        write!(f, "{units}{}", ["", "k", "M", "G", "T", "P", "E"][suffix])
    }
}

/// A number of replicas of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Replicas(pub u32);

impl Default for Replicas {
    /// One.
    fn default() -> Replicas {
        Replicas(1)
    }
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "replica" } else { "replicas" })
    }
}

/// A metric that an HPA of the seed page can scale on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// `tgi_queue_size`: requests that wait for a place in the batch, per replica.
    Queue,
    /// `tgi_batch_current_size`: requests that are being decoded, per replica.
    Batch,
    /// `kubernetes.io/container/accelerator/duty_cycle`: GPU busy time, percent, per GPU.
    DutyCycle,
    /// `DCGM_FI_DEV_GPU_UTIL`: GPU busy time as DCGM reports it, percent, per GPU.
    Dcgm,
}

impl Signal {
    /// All four, in the order of the seed page.
    pub const ALL: [Signal; 4] = [Signal::Queue, Signal::Batch, Signal::DutyCycle, Signal::Dcgm];

    /// The name for files, flags and JSON: `queue`, `batch`, `duty-cycle`, `dcgm`.
    pub const fn slug(self) -> &'static str {
        match self {
            Signal::Queue => "queue",
            Signal::Batch => "batch",
            Signal::DutyCycle => "duty-cycle",
            Signal::Dcgm => "dcgm",
        }
    }

    /// The name for people.
    pub const fn title(self) -> &'static str {
        match self {
            Signal::Queue => "queue size",
            Signal::Batch => "batch size",
            Signal::DutyCycle => "GPU duty cycle (GKE)",
            Signal::Dcgm => "GPU utilization (DCGM)",
        }
    }

    /// The unit of its values.
    pub const fn unit(self) -> &'static str {
        match self {
            Signal::Queue | Signal::Batch => "requests",
            Signal::DutyCycle | Signal::Dcgm => "%",
        }
    }

    /// The largest value this signal can take whatever the load, where its definition bounds it.
    pub const fn upper_bound(self) -> Option<f64> {
        match self {
            Signal::Queue | Signal::Batch => None,
            Signal::DutyCycle | Signal::Dcgm => Some(100.0),
        }
    }

    /// Whether an HPA reads it as an External metric (summed over all series) rather than per pod.
    pub const fn is_external(self) -> bool {
        matches!(self, Signal::DutyCycle | Signal::Dcgm)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milli_prints_as_the_api_server_stores_it() {
        let cases =
            [(4545, "4545m"), (5000, "5"), (500, "500m"), (2_000_000, "2k"), (0, "0"), (1_500_000, "1500")];
        for (milli, text) in cases {
            assert_eq!(Milli(milli).to_string(), text);
        }
    }

    #[test]
    fn milli_floor_rounds_down_but_keeps_whole_results_of_binary_division() {
        assert_eq!(Milli::floor(4.4 / 1.1), Some(Milli(4000)));
        assert_eq!(Milli::floor(4.5459), Some(Milli(4545)));
        assert_eq!(Milli::floor(f64::INFINITY), None);
    }

    #[test]
    fn seconds_print_with_three_figures() {
        let cases = [(0.0453, "45 ms"), (2.0, "2.00 s"), (0.0012, "1.2 ms"), (123.4, "123 s"), (0.0, "0 s")];
        for (seconds, text) in cases {
            assert_eq!(Seconds(seconds).to_string(), text);
        }
    }
}
