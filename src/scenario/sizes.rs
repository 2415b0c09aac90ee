//! Request sizes: `fixed:200`, `uniform:50-400`, `lognormal:mean=256,sd=180`.

use crate::units::{ParseUnitError, nearest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// How many tokens a prompt or an answer has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SizeSpec {
    /// Always this many.
    Fixed(u32),
    /// Any number from the first to the second, both included, equally likely.
    Uniform(u32, u32),
    /// Lognormal with this mean and standard deviation *of the tokens* (not of their logarithm).
    Lognormal {
        /// Mean, tokens.
        mean: f64,
        /// Standard deviation, tokens.
        sd: f64,
    },
}

/// The largest number of tokens a size may name.
const MAX_TOKENS: u32 = 10_000_000;

impl SizeSpec {
    /// The mean, tokens.
    pub fn mean(&self) -> f64 {
        match self {
            SizeSpec::Fixed(tokens) => f64::from(*tokens),
            SizeSpec::Uniform(low, high) => f64::midpoint(f64::from(*low), f64::from(*high)),
            SizeSpec::Lognormal { mean, .. } => *mean,
        }
    }
}

const FORMS: &str = "fixed:200, uniform:50-400 or lognormal:mean=256,sd=180";

impl FromStr for SizeSpec {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |expected: &str| ParseUnitError::new(text, "a request size", expected);
        let whole = |word: &str| {
            let tokens = word.trim().parse::<u32>().ok().filter(|n| (1..=MAX_TOKENS).contains(n));
            tokens.ok_or_else(|| error("a whole number of tokens of at least 1"))
        };
        let Some((kind, rest)) = text.trim().split_once(':') else {
            return whole(text).map(SizeSpec::Fixed).map_err(|_| error(FORMS));
        };
        match kind {
            "fixed" => whole(rest).map(SizeSpec::Fixed),
            "uniform" => {
                let (low, high) =
                    rest.split_once('-').ok_or_else(|| error("LOW-HIGH, like uniform:50-400"))?;
                let (low, high) = (whole(low)?, whole(high)?);
                if low > high {
                    return Err(error("the smaller number first"));
                }
                Ok(SizeSpec::Uniform(low, high))
            }
            "lognormal" => {
                let form = || error("mean and sd in tokens, like lognormal:mean=256,sd=180");
                let (mut mean, mut sd) = (None, None);
                for part in rest.split(',') {
                    let (key, value) = part.split_once('=').ok_or_else(form)?;
                    let value: f64 = value.trim().parse().map_err(|_| form())?;
                    let slot = match key.trim() {
                        "mean" => &mut mean,
                        "sd" => &mut sd,
                        _ => return Err(form()),
                    };
                    *slot = Some(value);
                }
                let (mean, sd) = (mean.ok_or_else(form)?, sd.ok_or_else(form)?);
                let sane = (1.0..=f64::from(MAX_TOKENS)).contains(&mean) && sd.is_finite() && sd >= 0.0;
                if !sane {
                    return Err(error("a mean of at least 1 and an sd of at least 0"));
                }
                Ok(SizeSpec::Lognormal { mean, sd })
            }
            _ => {
                let hint = nearest(kind, ["fixed", "uniform", "lognormal"]);
                let hint = hint.map(|w| format!(" (did you mean {w}:?)")).unwrap_or_default();
                Err(error(&format!("{FORMS}{hint}")))
            }
        }
    }
}

impl fmt::Display for SizeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SizeSpec::Fixed(tokens) => write!(f, "fixed:{tokens}"),
            SizeSpec::Uniform(low, high) => write!(f, "uniform:{low}-{high}"),
            SizeSpec::Lognormal { mean, sd } => write!(f, "lognormal:mean={mean},sd={sd}"),
        }
    }
}

impl Serialize for SizeSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SizeSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print_the_same_text() {
        for text in ["fixed:200", "uniform:50-400", "lognormal:mean=256,sd=180"] {
            assert_eq!(text.parse::<SizeSpec>().unwrap().to_string(), text);
        }
        assert_eq!("200".parse(), Ok(SizeSpec::Fixed(200)));
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let wrong = [
            "",
            "fixed:0",
            "fixed:1.5",
            "uniform:400-50",
            "uniform:5",
            "lognormal:mean=0,sd=1",
            "lognormal:mean=5",
            "lognormal:mean=5,sd=-1",
            "lognormal:5,1",
            "normal:5",
            "fixed:99999999999",
        ];
        for text in wrong {
            assert!(text.parse::<SizeSpec>().is_err(), "{text}");
        }
        assert!(
            "unifrom:1-2".parse::<SizeSpec>().unwrap_err().to_string().contains("did you mean uniform:?")
        );
    }
}
