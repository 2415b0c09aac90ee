//! Service-level objectives: `METRIC:STAT:LIMIT`.

use super::Seconds;
use super::parse::{ParseUnitError, nearest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// What a limit is set on. Latencies count from the scheduled send time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SloMetric {
    /// Time to first token.
    Ttft,
    /// Time per output token: (E2E - TTFT) / (output tokens - 1).
    Tpot,
    /// Inter-token latency: each gap between consecutive token events.
    Itl,
    /// End to end: to the last event.
    E2e,
    /// Normalized time per output token: E2E / output tokens.
    Ntpot,
    /// Failed attempts over all attempts.
    Error,
    /// Requests within every latency limit over all attempts.
    Goodput,
}

impl SloMetric {
    /// All, in the order they are documented.
    pub const ALL: [SloMetric; 7] = [
        SloMetric::Ttft,
        SloMetric::Tpot,
        SloMetric::Itl,
        SloMetric::E2e,
        SloMetric::Ntpot,
        SloMetric::Error,
        SloMetric::Goodput,
    ];

    /// The word used in flags and files.
    pub const fn word(self) -> &'static str {
        match self {
            SloMetric::Ttft => "ttft",
            SloMetric::Tpot => "tpot",
            SloMetric::Itl => "itl",
            SloMetric::E2e => "e2e",
            SloMetric::Ntpot => "ntpot",
            SloMetric::Error => "error",
            SloMetric::Goodput => "goodput",
        }
    }

    const fn is_latency(self) -> bool {
        !matches!(self, SloMetric::Error | SloMetric::Goodput)
    }
}

/// Which figure of a metric's distribution is limited.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stat {
    /// A percentile over all attempts, in percent, within (0, 100). A failed attempt counts as
    /// infinitely late.
    Percentile(f64),
    /// The mean over successful requests.
    Mean,
    /// A share of all attempts.
    Rate,
}

impl fmt::Display for Stat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stat::Percentile(p) => write!(f, "p{p}"),
            Stat::Mean => write!(f, "mean"),
            Stat::Rate => write!(f, "rate"),
        }
    }
}

/// The value that must not be exceeded, or for goodput not be fallen short of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// At most this long.
    AtMost(Seconds),
    /// At most this share of attempts, 0 to 1.
    ShareAtMost(f64),
    /// At least this share of attempts, 0 to 1.
    ShareAtLeast(f64),
}

/// One limit. Written and read as `ttft:p95:2s`, `error:rate:1%`, `goodput:rate:95%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slo {
    /// What is limited.
    pub metric: SloMetric,
    /// Which figure of it.
    pub stat: Stat,
    /// The limit.
    pub limit: Limit,
}

impl Slo {
    /// The latency limit, where this is one on a latency.
    pub const fn latency_limit(&self) -> Option<Seconds> {
        match self.limit {
            Limit::AtMost(limit) => Some(limit),
            _ => None,
        }
    }

    /// The same with a latency limit so many times as long. Shares stay as they are.
    pub fn scaled(self, factor: f64) -> Slo {
        match self.limit {
            Limit::AtMost(limit) => Slo { limit: Limit::AtMost(limit * factor), ..self },
            _ => self,
        }
    }
}

const FORM: &str = "METRIC:STAT:LIMIT, like ttft:p95:2s, tpot:mean:80ms, error:rate:1% or goodput:rate:95%";

impl FromStr for Slo {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |expected: String| ParseUnitError::new(text, "an SLO", expected);
        let parts: Vec<&str> = text.trim().split(':').collect();
        let [metric, stat, limit] = parts[..] else { return Err(error(FORM.to_owned())) };
        let words = SloMetric::ALL.map(SloMetric::word);
        let Some(metric) = SloMetric::ALL.into_iter().find(|m| m.word() == metric) else {
            let hint = nearest(metric, words).map(|w| format!(" (did you mean {w}?)")).unwrap_or_default();
            return Err(error(format!("one of {} before the first colon{hint}", words.join(", "))));
        };
        if metric.is_latency() {
            let limit: Seconds =
                limit.parse().map_err(|e: ParseUnitError| error(format!("as limit {}", e.expected)))?;
            if limit.0 <= 0.0 {
                return Err(error("a limit above 0".to_owned()));
            }
            let stat = Stat::of_latency(stat)
                .ok_or_else(|| error("p50 to p99.9 or mean as statistic".to_owned()))?;
            return Ok(Slo { metric, stat, limit: Limit::AtMost(limit) });
        }
        if stat != "rate" {
            return Err(error(format!("'rate' as statistic of {}", metric.word())));
        }
        let share = limit.strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok()).map(|n| n / 100.0);
        let share = share
            .filter(|s| (0.0..=1.0).contains(s))
            .ok_or_else(|| error("a limit from 0% to 100%".to_owned()))?;
        let limit = match metric {
            SloMetric::Error => Limit::ShareAtMost(share),
            _ => Limit::ShareAtLeast(share),
        };
        Ok(Slo { metric, stat: Stat::Rate, limit })
    }
}

impl Stat {
    /// A figure of a latency by its word: `p50` to `p99.9`, or `mean`.
    pub(super) fn of_latency(word: &str) -> Option<Stat> {
        if word == "mean" {
            return Some(Stat::Mean);
        }
        let percent: f64 = word.strip_prefix('p')?.parse().ok()?;
        (50.0..=99.9).contains(&percent).then_some(Stat::Percentile(percent))
    }
}

fn plain_duration(limit: Seconds) -> String {
    // Nine significant decimals are finer than any limit a person writes.
    let trim = |number: f64| format!("{number:.9}").trim_end_matches('0').trim_end_matches('.').to_owned();
    if limit.0 >= 1.0 { format!("{}s", trim(limit.0)) } else { format!("{}ms", trim(limit.0 * 1e3)) }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.metric.word(), self.stat)?;
        match self.limit {
            Limit::AtMost(limit) => f.write_str(&plain_duration(limit)),
            Limit::ShareAtMost(share) | Limit::ShareAtLeast(share) => {
                let percent = format!("{:.6}", share * 100.0);
                write!(f, "{}%", percent.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

impl Serialize for Slo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Slo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slos_read_and_print_the_same_text() {
        for text in ["ttft:p95:2s", "tpot:mean:80ms", "e2e:p99.9:1.5s", "error:rate:1%", "goodput:rate:95%"] {
            let slo: Slo = text.parse().unwrap();
            assert_eq!(slo.to_string(), text);
        }
    }

    #[test]
    fn wrong_slos_say_what_is_right() {
        let message = "tftt:p95:2s".parse::<Slo>().unwrap_err().to_string();
        assert!(message.contains("did you mean ttft?"), "{message}");
        for wrong in [
            "ttft",
            "ttft:p95:2",
            "ttft:p101:2s",
            "ttft:rate:2s",
            "error:p95:1%",
            "error:rate:120%",
            "ttft:p95:0s",
        ] {
            assert!(wrong.parse::<Slo>().is_err(), "{wrong}");
        }
    }
}
