//! How much worse a run may be than another: `METRIC:STAT:LIMIT` for latencies, `METRIC:LIMIT` for the rest.

use super::parse::{ParseUnitError, nearest};
use super::{SloMetric, Stat};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// What is compared between runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Compared {
    /// A figure of a latency at equal load; more is worse.
    Latency(SloMetric, Stat),
    /// Requests within every latency limit over all attempts, at equal load; less is worse.
    Goodput,
    /// Output tokens per second at equal load; less is worse.
    Throughput,
    /// The load that a replica carries within the SLO; less is worse.
    Capacity,
}

impl Compared {
    /// Whether a larger value is the worse one.
    pub const fn more_is_worse(self) -> bool {
        matches!(self, Compared::Latency(..))
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compared::Latency(metric, stat) => write!(f, "{}:{stat}", metric.word()),
            Compared::Goodput => f.write_str("goodput"),
            Compared::Throughput => f.write_str("throughput"),
            Compared::Capacity => f.write_str("capacity"),
        }
    }
}

/// The regression that must not slip through. Written and read as `ttft:p95:10%`, `capacity:5%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaxRegression {
    /// What is compared.
    pub of: Compared,
    /// The regression as a share of the baseline, above 0.
    pub share: f64,
}

const FORM: &str = "METRIC:STAT:LIMIT, like ttft:p95:10% or tpot:mean:5%, or METRIC:LIMIT, like capacity:5%";
const LATENCIES: [SloMetric; 5] =
    [SloMetric::Ttft, SloMetric::Tpot, SloMetric::Itl, SloMetric::E2e, SloMetric::Ntpot];

impl FromStr for MaxRegression {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |expected: String| ParseUnitError::new(text, "a regression limit", expected);
        let parts: Vec<&str> = text.trim().split(':').collect();
        let (metric, stat, limit) = match parts[..] {
            [metric, limit] => (metric, None, limit),
            [metric, stat, limit] => (metric, Some(stat), limit),
            _ => return Err(error(FORM.to_owned())),
        };
        let latency = LATENCIES.into_iter().find(|known| known.word() == metric);
        let of = match (metric, latency, stat) {
            (_, Some(latency), Some(stat)) => Compared::Latency(
                latency,
                Stat::of_latency(stat)
                    .ok_or_else(|| error("p50 to p99.9 or mean as statistic".to_owned()))?,
            ),
            (_, Some(_), None) => {
                return Err(error(format!("a statistic after the metric, like {metric}:p95:10%")));
            }
            ("goodput", None, None) => Compared::Goodput,
            ("throughput", None, None) => Compared::Throughput,
            ("capacity", None, None) => Compared::Capacity,
            ("goodput" | "throughput" | "capacity", None, Some(_)) => {
                return Err(error(format!("no statistic for {metric}, like {metric}:10%")));
            }
            _ => return Err(error(unknown(metric))),
        };
        let share = limit.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        let most = if of.more_is_worse() { 1000.0 } else { 99.0 };
        let share = share.filter(|percent| (0.1..=most).contains(percent));
        let share = share.ok_or_else(|| error(format!("a limit from 0.1% to {most}%, like 10%")))?;
        Ok(MaxRegression { of, share: share / 100.0 })
    }
}

fn unknown(metric: &str) -> String {
    let words: Vec<&str> =
        LATENCIES.map(SloMetric::word).into_iter().chain(["goodput", "throughput", "capacity"]).collect();
    let hint = nearest(metric, words.iter().copied());
    let hint = hint.map(|word| format!(" (did you mean {word}?)")).unwrap_or_default();
    format!("one of {} before the first colon{hint}", words.join(", "))
}

impl fmt::Display for MaxRegression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = format!("{:.6}", self.share * 100.0);
        write!(f, "{}:{}%", self.of, percent.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for MaxRegression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_and_print_the_same_text() {
        for text in ["ttft:p95:10%", "tpot:mean:2.5%", "itl:p99.9:100%", "capacity:5%", "goodput:1%"] {
            assert_eq!(text.parse::<MaxRegression>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_limits_say_what_is_right() {
        for (wrong, right) in [
            ("tftt:p95:10%", "did you mean ttft?"),
            ("ttft:p95:10", "0.1% to 1000%"),
            ("ttft:p95:0%", "0.1% to 1000%"),
            ("ttft:10%", "ttft:p95:10%"),
            ("ttft:p20:10%", "p50 to p99.9"),
            ("capacity:p95:10%", "capacity:10%"),
            ("capacity:120%", "0.1% to 99%"),
            ("error:rate:1%", "one of ttft"),
            ("ttft", "METRIC:STAT:LIMIT"),
        ] {
            let message = wrong.parse::<MaxRegression>().unwrap_err().to_string();
            assert!(message.contains(right), "{wrong}: {message}");
        }
    }
}
