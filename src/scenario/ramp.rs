//! `--ramp`: how the load rises.

use crate::units::{ParseUnitError, Rate, Seconds, nearest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// More steps than this in one ramp are taken for a typing error.
const MAX_STEPS: usize = 1000;

/// The shape of the load over a run.
#[derive(Debug, Clone, PartialEq)]
pub enum RampSpec {
    /// Doubles the rate until the SLO breaks, then refines between the last step that held and the
    /// first that did not.
    Adaptive,
    /// Open loop: these arrival rates, each for `hold`.
    Rate {
        /// The rates in the order of the steps.
        rates: Vec<Rate>,
        /// The length of each step, warm-up included.
        hold: Seconds,
    },
    /// Closed loop: these numbers of requests in flight, each for `hold`.
    Concurrency {
        /// Requests in flight in the order of the steps.
        levels: Vec<u32>,
        /// The length of each step, warm-up included.
        hold: Seconds,
    },
    /// Open loop: the rate changes continuously.
    Linear {
        /// The rate at the start.
        from: Rate,
        /// The rate at the end.
        to: Rate,
        /// How long it takes.
        length: Seconds,
    },
    /// Open loop: arrivals and sizes of a recorded trace.
    Trace {
        /// The trace.
        path: PathBuf,
        /// How many times faster than recorded.
        speed: f64,
    },
}

const KINDS: [&str; 4] = ["rate", "concurrency", "linear", "trace"];

const FORMS: &str = "adaptive, rate:FROM..TO:STEPSxHOLD (rate:1..20:10x30s), rate:1,2,4x30s, \
                     concurrency:1,2,4,8x20s, linear:FROM..TO@DURATION (linear:1..20@5m) or \
                     trace:FILE[*SPEED] (trace:azure.csv*2)";

impl FromStr for RampSpec {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |expected: &str| ParseUnitError::new(text, "a ramp", expected);
        let trimmed = text.trim();
        if trimmed == "adaptive" {
            return Ok(RampSpec::Adaptive);
        }
        let Some((kind, rest)) = trimmed.split_once(':') else {
            let hint = nearest(trimmed, ["adaptive"]).map(|w| format!(" (did you mean {w}?)"));
            return Err(error(&format!("{FORMS}{}", hint.unwrap_or_default())));
        };
        match kind {
            "linear" => return parse_linear(rest).map_err(|expected| error(&expected)),
            "trace" => return parse_trace(rest).map_err(|expected| error(&expected)),
            "rate" | "concurrency" => {}
            _ => {
                let hint = nearest(kind, KINDS).map(|w| format!(" (did you mean {w}:?)"));
                return Err(error(&format!("{FORMS}{}", hint.unwrap_or_default())));
            }
        }
        let (levels, hold) = rest.rsplit_once('x').ok_or_else(|| error("xHOLD at the end, like x30s"))?;
        let hold: Seconds =
            hold.parse().map_err(|e: ParseUnitError| error(&format!("as hold {}", e.expected)))?;
        if hold.0 < 1.0 {
            return Err(error("a hold of at least 1s"));
        }
        let levels = parse_levels(levels).map_err(|expected| error(&expected))?;
        if kind == "rate" {
            return Ok(RampSpec::Rate { rates: levels.into_iter().map(Rate).collect(), hold });
        }
        let whole = levels.iter().all(|level| level.fract() == 0.0 && *level <= f64::from(u32::MAX));
        if !whole {
            return Err(error("whole numbers of requests in flight"));
        }
        Ok(RampSpec::Concurrency { levels: levels.into_iter().map(|level| level as u32).collect(), hold })
    }
}

/// A number above 0.
fn number(word: &str) -> Result<f64, String> {
    let word = word.trim();
    let found = word.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    found.ok_or_else(|| format!("numbers above 0 (not '{word}')"))
}

/// `1..20@5m`.
fn parse_linear(text: &str) -> Result<RampSpec, String> {
    let (range, length) = text.rsplit_once('@').ok_or("@DURATION at the end, like linear:1..20@5m")?;
    let (from, to) = range.split_once("..").ok_or("FROM..TO before the @, like linear:1..20@5m")?;
    let (from, to) = (Rate(number(from)?), Rate(number(to)?));
    let length: Seconds =
        length.parse().map_err(|e: ParseUnitError| format!("as duration {}", e.expected))?;
    if length.0 < 2.0 {
        return Err("a duration of at least 2s".to_owned());
    }
    Ok(RampSpec::Linear { from, to, length })
}

/// `FILE` or `FILE*SPEED`.
fn parse_trace(text: &str) -> Result<RampSpec, String> {
    let (path, speed) = match text.rsplit_once('*') {
        Some((path, speed)) => (path, number(speed)?),
        None => (text, 1.0),
    };
    if path.trim().is_empty() {
        return Err("the name of a file, like trace:azure.csv*2".to_owned());
    }
    Ok(RampSpec::Trace { path: PathBuf::from(path.trim()), speed })
}

/// `1,2,4` or `1..20:10` as numbers above 0.
fn parse_levels(text: &str) -> Result<Vec<f64>, String> {
    let Some((range, steps)) = text.split_once(':') else {
        if text.contains("..") {
            return Err("the number of steps after the range, like 1..20:10x30s".to_owned());
        }
        return text.split(',').map(number).collect();
    };
    let (from, to) =
        range.split_once("..").ok_or("FROM..TO before the number of steps, like 1..20:10x30s")?;
    let (from, to) = (number(from)?, number(to)?);
    let steps: usize =
        steps.trim().parse().ok().filter(|n| *n > 0).ok_or("a number of steps of at least 1")?;
    if steps > MAX_STEPS {
        return Err(format!("at most {MAX_STEPS} steps"));
    }
    if steps == 1 {
        return Ok(vec![from]);
    }
    let stride = (to - from) / (steps - 1) as f64;
    // Rounded to a thousandth, so that 1..6:4 prints as people write it.
    Ok((0..steps).map(|i| ((from + stride * i as f64) * 1000.0).round() / 1000.0).collect())
}

impl fmt::Display for RampSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |levels: &mut dyn Iterator<Item = String>| levels.collect::<Vec<_>>().join(",");
        match self {
            RampSpec::Adaptive => f.write_str("adaptive"),
            RampSpec::Rate { rates, hold } => {
                write!(f, "rate:{}x{}s", join(&mut rates.iter().map(|r| r.0.to_string())), hold.0)
            }
            RampSpec::Concurrency { levels, hold } => {
                write!(f, "concurrency:{}x{}s", join(&mut levels.iter().map(u32::to_string)), hold.0)
            }
            RampSpec::Linear { from, to, length } => {
                write!(f, "linear:{}..{}@{}s", from.0, to.0, length.0)
            }
            RampSpec::Trace { path, speed } => write!(f, "trace:{}*{speed}", path.display()),
        }
    }
}

impl Serialize for RampSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RampSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_spread_evenly_over_its_steps() {
        let ramp: RampSpec = "rate:1..6:4x6s".parse().unwrap();
        let rates = [1.0, 2.667, 4.333, 6.0].map(Rate).to_vec();
        assert_eq!(ramp, RampSpec::Rate { rates, hold: Seconds(6.0) });
        assert_eq!(ramp.to_string(), "rate:1,2.667,4.333,6x6s");
        assert_eq!(ramp.to_string().parse(), Ok(ramp));
    }

    #[test]
    fn lists_and_closed_loops_are_read() {
        let ramp: RampSpec = "concurrency:1,2,4x20s".parse().unwrap();
        assert_eq!(ramp, RampSpec::Concurrency { levels: vec![1, 2, 4], hold: Seconds(20.0) });
        assert_eq!("adaptive".parse(), Ok(RampSpec::Adaptive));
    }

    #[test]
    fn continuous_ramps_and_traces_are_read_and_print_the_same() {
        let linear: RampSpec = "linear:1..20@5m".parse().unwrap();
        assert_eq!(linear, RampSpec::Linear { from: Rate(1.0), to: Rate(20.0), length: Seconds(300.0) });
        let trace: RampSpec = "trace:a*b.csv*0.5".parse().unwrap();
        assert_eq!(trace, RampSpec::Trace { path: "a*b.csv".into(), speed: 0.5 });
        let plain: RampSpec = "trace:dir/azure.csv".parse().unwrap();
        assert_eq!(plain, RampSpec::Trace { path: "dir/azure.csv".into(), speed: 1.0 });
        for ramp in [linear, trace, plain] {
            assert_eq!(ramp.to_string().parse(), Ok(ramp));
        }
    }

    #[test]
    fn wrong_ramps_are_refused_with_the_right_form() {
        let wrong = [
            "",
            "rate",
            "rate:",
            "rate:1..6",
            "rate:1..6:4",
            "rate:1..6:4x6",
            "rate:1..6:0x6s",
            "rate:0,1x6s",
            "rate:-1x6s",
            "rate:1,,2x6s",
            "rate:1..6x6s",
            "concurrency:1.5x6s",
            "rate:1..6:99999x6s",
            "rate:1x10ms",
            "rate:NaNx6s",
            "linear:1..2",
            "linear:1..2@60",
            "linear:1..2@1s",
            "linear:0..2@60s",
            "linear:1@60s",
            "trace:",
            "trace:*2",
            "trace:x.csv*0",
            "trace:x.csv*fast",
        ];
        for text in wrong {
            assert!(text.parse::<RampSpec>().is_err(), "{text}");
        }
        let message = "raet:1..6:4x6s".parse::<RampSpec>().unwrap_err().to_string();
        assert!(message.contains("did you mean rate:?"), "{message}");
    }
}
