//! Text to units, with errors that say what would have been right.

use super::{Rate, Seconds};
use std::str::FromStr;

/// Why a text is not the value it should be; `expected` shows a right one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {what}; expected {expected}")]
pub struct ParseUnitError {
    /// What was given.
    pub text: String,
    /// What it should have been, with its article: "a duration".
    pub what: &'static str,
    /// The right form, with an example.
    pub expected: String,
}

impl ParseUnitError {
    /// An error about `text`.
    pub fn new(text: &str, what: &'static str, expected: impl Into<String>) -> Self {
        ParseUnitError { text: text.to_owned(), what, expected: expected.into() }
    }
}

/// The candidate that `word` was probably meant to be, if one is near enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

impl FromStr for Seconds {
    type Err = ParseUnitError;

    /// A duration with its unit: `80ms`, `2s`, `1m30s`, `1.5h`. A bare number is refused,
    /// since nobody can tell whether seconds or milliseconds were meant.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error =
            || ParseUnitError::new(text, "a duration", "a number with a unit, like 80ms, 2s or 1m30s");
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(error());
        }
        let mut total = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let number: f64 = rest[..digits].parse().map_err(|_| error())?;
            rest = &rest[digits..];
            let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let scale = match &rest[..end] {
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3600.0,
                _ => return Err(error()),
            };
            total += number * scale;
            rest = &rest[end..];
        }
        Ok(Seconds(total))
    }
}

impl FromStr for Rate {
    type Err = ParseUnitError;

    /// Requests per second: `3.2`, `3.2/s`, `3.2rps`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.trim().trim_end_matches("rps").trim_end_matches("/s").trim();
        match number.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Rate(rate)),
            _ => Err(ParseUnitError::new(text, "a rate", "requests per second above 0, like 3.2")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("2s".parse(), Ok(Seconds(2.0)));
        assert_eq!("80ms".parse(), Ok(Seconds(0.08)));
        assert_eq!("1m30s".parse(), Ok(Seconds(90.0)));
        for wrong in ["", "2", "s", "2 parsecs", "-1s", "1..2s", "NaN"] {
            assert!(wrong.parse::<Seconds>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nearest_finds_a_typo_and_not_a_stranger() {
        assert_eq!(nearest("tftt", ["ttft", "tpot", "e2e"]), Some("ttft"));
        assert_eq!(nearest("banana", ["ttft", "tpot", "e2e"]), None);
    }
}
